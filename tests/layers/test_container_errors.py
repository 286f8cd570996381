"""Misuse of containers: the right kind of error, which names the container, what it got and what it expected."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer, RecurrentUnit
from minirnn.errors import ArgumentError, DtypeError, MinirnnError, ShapeError
from minirnn.layers import Dense, Input, Lambda, SimpleRNN
from minirnn.models import Model
from tests.reference.cells import Array


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape) + len(shape)).normal(size=shape)


class Step:
    """The tensors of a step: x (2) and u (3) change, c (4) stays, h (5) is fed back; y (6) is read off."""

    def __init__(self) -> None:
        self.x, self.u, self.c, self.h = (
            Input((2,), name="x"),
            Input((3,), name="u"),
            Input((4,)),
            Input((5,), name="h"),
        )
        read = mr.layers.Concatenate()([self.x, self.u, self.c])
        self.out, self.new_h = RecurrentUnit(SimpleRNN(5))(read, states=self.h)
        self.y = Dense(6)(self.out)

    def groups(self, **changes: Any) -> dict[str, Any]:
        groups: dict[str, Any] = {
            "sequence_inputs": [self.x, self.u],
            "constant_inputs": [self.c],
            "state_inputs": [self.h],
            "state_outputs": [self.new_h],
            "sequence_outputs": [self.y],
        }
        return groups | changes

    def container(self, **changes: Any) -> RecurrentContainer:
        return RecurrentContainer(**self.groups(**changes), name="mine")


def raises(error: type[MinirnnError], *parts: str) -> Any:
    """pytest.raises for a message that begins with the container's name and has these parts in order."""
    return pytest.raises(error, match=r"(?s)^RecurrentContainer 'mine': .*" + ".*".join(parts))


# Construction -------------------------------------------------------------------------------------
def test_numbers_of_states() -> None:
    s = Step()
    for changes, got in (
        ({"state_outputs": []}, r"got: \[\]"),
        ({"state_inputs": []}, r"got: \['\(None, 5\) float64'\]\s+expected: \[\]"),
        ({"state_outputs": [s.new_h, s.new_h]}, "got: .*, .*expected: "),
        ({"state_outputs": []} | {"constant_outputs": s.y}, r"got: \[\].*fix: give state_outputs"),
    ):
        with raises(ArgumentError, "state_outputs must match state_inputs", got):
            s.container(**changes)


def test_states_of_another_shape_or_dtype() -> None:
    s = Step()
    with raises(ArgumentError, "state_outputs must match", r"got: \['\(None, 6\)", r"expected: \['\(None, 5\)"):
        s.container(state_outputs=s.y)
    with raises(ArgumentError, "state_outputs must match", "int32", "float64"):
        s.container(state_outputs=mr.ops.cast(s.new_h, "int32"))


def test_one_tensor_in_two_input_lists() -> None:
    s = Step()
    message = "An input tensor cannot be in multiple lists at the same time."
    with raises(ArgumentError, message, "got: sequence_inputs"):
        s.container(constant_inputs=[s.c, s.x])
    with raises(ArgumentError, message):
        s.container(sequence_inputs=[s.x, s.u, s.x])
    with raises(ArgumentError, message):
        s.container(constant_inputs=s.h)


def test_output_length() -> None:
    s = Step()
    with raises(ArgumentError, 'The "output_length" argument can only be specified if there are no sequence inputs.'):
        s.container(output_length=5)
    with raises(ArgumentError, "If there are no sequence inputs, the output_length must be specified."):
        s.container(sequence_inputs=[], constant_inputs=[s.x, s.u, s.c])
    for length in (-1, 2.0, "5", True, [3]):
        with raises(ArgumentError, "output_length", "got: ", "expected: a number of steps"):
            s.container(sequence_inputs=[], constant_inputs=[s.x, s.u, s.c], output_length=length)
    container = s.container()
    with raises(ArgumentError, 'The "output_length" argument can only'):
        container([draw(3, 4, 2), draw(3, 4, 3)], constants=draw(3, 4), output_length=4)
    container = s.container(sequence_inputs=[], constant_inputs=[s.x, s.u, s.c], output_length=2)
    with raises(ArgumentError, "output_length", "got: -1"):
        container(constants=[draw(3, 2), draw(3, 3), draw(3, 4)], output_length=-1)


def test_nothing_to_read_or_to_return() -> None:
    s = Step()
    with raises(ArgumentError, "it needs at least one input tensor"):
        RecurrentContainer(sequence_outputs=s.y, name="mine")
    with raises(ArgumentError, "it needs at least one output tensor"):
        RecurrentContainer(sequence_inputs=s.x, name="mine")
    with raises(ArgumentError, "nothing to return", "return_states=True"):
        s.container(sequence_outputs=[])
    with pytest.raises(ArgumentError, match="^RecurrentContainer: it needs at least one input"):
        RecurrentContainer()


def test_things_that_are_no_symbolic_tensors() -> None:
    s = Step()
    for wrong in (draw(3, 2), mr.Tensor(draw(3, 2)), "x", 3, Dense(4), [[s.x]]):
        with raises(ArgumentError, "sequence_inputs", "got: ", "expected: symbolic tensors"):
            s.container(sequence_inputs=wrong)
    with raises(ShapeError, "sequence_outputs, ", r"got: \(None,\)", r"expected: \(batch, features"):
        s.container(sequence_outputs=mr.ops.sum(s.y, axis=1))
    with raises(ShapeError, "constant_outputs, ", "does not have the batch", r"got: \(6, None\)"):
        s.container(constant_outputs=mr.ops.transpose(s.y))


def test_an_input_that_no_list_has() -> None:
    s = Step()
    with raises(ArgumentError, "depends on the Input 'u'", "got: ", "fix: "):
        s.container(sequence_inputs=s.x)


def test_mixed_dtypes() -> None:
    s = Step()
    with raises(DtypeError, "mixes dtypes", "got: .*float64.*float32"):
        s.container(sequence_outputs=mr.ops.cast(s.y, "float32"))
    with raises(DtypeError, "dtype", "got: float32", "expected: float64"):
        s.container(dtype="float32")


def test_options() -> None:
    s = Step()
    for checkpoint in (0, -1, 1.5, True, "2"):
        with raises(ArgumentError, "checkpoint", "got: ", "expected: "):
            s.container(checkpoint=checkpoint)
    with pytest.raises(ArgumentError, match="(?s)RecurrentContainer takes no argument.*got: time_major"):
        s.container(time_major=True)


def test_unroll_needs_a_known_number_of_steps() -> None:
    s = Step()
    container = s.container(unroll=True)
    with raises(ShapeError, "Cannot unroll a RNN if the time dimension is undefined.", "time=None"):
        container([Input((None, 2)), Input((None, 3))], constants=Input((4,)))
    found = container([Input((7, 2)), Input((7, 3))], constants=Input((4,)))
    assert found.shape == (None, 7, 6)


# Calls --------------------------------------------------------------------------------------------
X, U, C, H = draw(3, 7, 2), draw(3, 7, 3), draw(3, 4), draw(3, 5)


def checked_call(error: type[MinirnnError], *parts: str) -> Callable[..., None]:
    """A call that has to fail, of a stateful container that must not change, and the same symbolically."""

    def call(*sequences: Any, constants: Any = C, **options: Any) -> None:
        container = Step().container(stateful=True)
        container([X, U], constants=C)
        held, weights = container.states, container.get_weights()
        with raises(error, *parts):
            container(list(sequences), constants=constants, **options)
        assert container.states is held
        assert all(np.array_equal(a, b) for a, b in zip(container.get_weights(), weights, strict=True))

    return call


def test_numbers_of_tensors() -> None:
    wrong = checked_call(ArgumentError, "number of sequences", "got: 1", r"expected: 2, x \(None, 2\), u \(None, 3\)")
    wrong(X)
    checked_call(ArgumentError, "number of sequences", "got: 0")()
    checked_call(ArgumentError, "number of sequences", "got: 3")(X, U, X)
    checked_call(ArgumentError, "number of constants", "got: 0", "expected: 1")(X, U, constants=None)
    checked_call(ArgumentError, "number of constants", "got: 2")(X, U, constants=[C, C])
    checked_call(ArgumentError, "number of states", "got: 2", r"expected: 1, h \(None, 5\)")(X, U, states=[H, H])
    checked_call(ArgumentError, "number of states", "got: 0")(X, U, states=[])


def test_shapes() -> None:
    features = checked_call(
        ShapeError, "sequence for 'x'", r"got: \(batch=3, time=7, 3\)", r"expected: \(batch, time, 2\)"
    )
    features(U, U)
    checked_call(ShapeError, "sequence for 'u'", r"got: \(batch=3, time=7\)")(X, U[:, :, 0])
    checked_call(ShapeError, "sequence for 'x'", r"got: \(batch=3, time=7, 2, 1\)")(X[..., None], U)
    checked_call(ShapeError, "sequence for 'x'", r"got: \(\)")(np.array(1.0), U)
    checked_call(ShapeError, "constant for 'input", r"got: \(batch=3, 5\)", r"expected: \(batch, 4\)")(
        X, U, constants=H
    )
    checked_call(ShapeError, "constant for 'input", r"got: \(batch=3, 1, 4\)")(X, U, constants=C[:, None])
    checked_call(ShapeError, "state for 'h'", r"got: \(batch=3, 4\)", r"expected: \(batch, 5\)")(X, U, states=C)


def test_batch_sizes_and_numbers_of_steps() -> None:
    """D10: also a batch of one does not stretch."""
    checked_call(ShapeError, "inputs differ in batch size", r"got: \[2, 3\]")(X, U[:2])
    checked_call(ShapeError, "inputs differ in batch size", r"got: \[1, 3\]")(X, U, constants=C[:1])
    checked_call(ShapeError, "inputs differ in batch size", r"got: \[1, 3\]")(X, U, states=H[:1])
    checked_call(ShapeError, "inputs differ in batch size", r"got: \[0, 3\]")(X, U[:0])
    checked_call(ShapeError, "inputs differ in number of time steps", r"got: \[6, 7\]")(X, U[:, :6])
    checked_call(ShapeError, "inputs differ in number of time steps", r"got: \[1, 7\]")(X[:, :1], U)


def test_dtypes() -> None:
    x = mr.Tensor(X.astype("float32"))
    checked_call(DtypeError, "sequence for 'x'", "got: float32", "expected: float64", r"x.astype\(\"float64\"\)")(x, U)
    state = mr.Tensor(H.astype("float32"))
    checked_call(DtypeError, "state for 'h'", "got: float32", "expected: float64")(X, U, states=state)


def test_things_that_are_no_arrays() -> None:
    for wrong in ("x", 3, X.tolist(), None, object()):
        checked_call(ArgumentError, "sequence for 'x'", "got: ", r"expected: an array \(batch, time, 2\)")(wrong, U)
    checked_call(ArgumentError, "constant for", "got: str")(X, U, constants="c")
    checked_call(ArgumentError, "state for 'h'", "got: str")(X, U, states=["h"])


def test_unknown_batch_size() -> None:
    s = Input((2,))
    container = RecurrentContainer(state_inputs=s, state_outputs=s, return_states=True, output_length=2, name="mine")
    with raises(ArgumentError, "the batch size is unknown", "states="):
        container()


def test_symbolic_calls_are_checked_too() -> None:
    container = Step().container()
    with raises(ShapeError, "sequence for 'x'", "time=None, 3"):
        container([Input((None, 3)), Input((None, 3))], constants=Input((4,)))
    with raises(ArgumentError, "number of sequences"):
        container(Input((None, 2)), constants=Input((4,)))
    with raises(ShapeError, "number of time steps", r"got: \[5, 6\]"):
        container([Input((5, 2)), Input((6, 3))], constants=Input((4,)))
    with raises(DtypeError, "constant for", "got: float32"):
        container([Input((None, 2)), Input((None, 3))], constants=Input((4,), dtype="float32"))
    data, more = Input((None, 2)), Input((None, 3))
    model = Model([data, more], container([data, more], constants=Lambda(lambda u: mr.ops.ones((u.shape[0], 4)))(more)))
    with raises(ShapeError, "inputs differ in number of time steps"):
        model([X, U[:, :5]])
    with raises(ShapeError, "inputs differ in batch size"):
        model([X, U[:2]])


def test_damaged_configurations() -> None:
    config = Step().container().get_config()
    for damage in (
        {"counts": {**config["counts"], "sequence_inputs": 5}},
        {"counts": {}},
        {"counts": dict.fromkeys(config["counts"], "1")},
        {"graph": {**config["graph"], "nodes": config["graph"]["nodes"][:-1]}},
        {"graph": {}},
        {"teacher": [7]},
        {"state_initializer": [None, None]},
        {"nonsense": 1},
    ):
        with pytest.raises(MinirnnError):
            RecurrentContainer.from_config({**config, **damage})
