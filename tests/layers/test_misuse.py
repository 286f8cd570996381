"""Every known way to misuse a recurrent layer: the error that says so, and that nothing has changed after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, DtypeError, MinirnnError, ShapeError, StateError
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Dense,
    Input,
    LSTMCell,
    SimpleRNN,
    SimpleRNNCell,
    StackedRNNCells,
    TensorShape,
)
from minirnn.layers.registry import deserialize

B, T, F, U = 3, 5, 2, 4
X = np.random.default_rng(71).normal(size=(B, T, F))
H = np.zeros((B, U))


class Plain:
    """A cell of another kind for each error; the plain sum of its inputs else."""

    state_size: Any = F
    result: Callable[[Any, Any], Any] = staticmethod(lambda x, h: (h + x, [h + x]))

    def __init__(self, result: Any = None, **attributes: Any) -> None:
        vars(self).update(attributes)
        if result is not None:
            self.result = result

    def call(self, x: Any, states: Any) -> Any:
        return self.result(x, states[0])


class Needing(Plain):
    """A cell that cannot do without constants."""

    def call(self, x: Any, states: Any, constants: Any) -> Any:  # type: ignore[override]
        return x * constants[0], states


def run(cell: Any, **options: Any) -> Any:
    return RNN(cell, dtype="float64", name="r", **options)(X)


# how to do it, the error, words that it must have -------------------------------------------------
MAKING: dict[str, tuple[Callable[[], Any], type[MinirnnError], tuple[str, ...]]] = {
    "no units": (lambda: LSTM(0, name="e"), ArgumentError, ("units", "0", "positive")),
    "negative units": (lambda: GRU(-3), ArgumentError, ("units", "-3")),
    "half a unit": (lambda: SimpleRNN(1.5), ArgumentError, ("units", "1.5")),
    "units as text": (lambda: LSTMCell("3"), ArgumentError, ("units", "'3'")),
    "a class for a cell": (lambda: RNN(LSTMCell), ArgumentError, ("must be an object", "LSTMCell(...)")),
    "a cell without call": (lambda: RNN(object()), ArgumentError, ("`call", "object")),
    "a cell without state_size": (lambda: RNN(Dense(3)), ArgumentError, ("`state_size`", "Dense")),
    "a layer for a cell": (lambda: RNN(LSTM(3)), ArgumentError, ("one step", "LSTM", "LSTMCell(...)")),
    "a call that is no function": (lambda: RNN(Plain(call=3)), ArgumentError, ("`call`", "call = 3", "(output,")),
    "a call without states": (
        lambda: RNN(Plain(call=lambda x: x), name="r"),
        ArgumentError,
        ("RNN 'r'", "Plain with call(x)", "call(inputs, states"),
    ),
    "a batch_input_shape that is a number": (
        lambda: GRU(3, batch_input_shape=5, name="e"),
        ArgumentError,
        ("GRU 'e'", "batch_input_shape", "5"),
    ),
    "an activation that is not here": (lambda: GRU(3, activation="gelu"), ArgumentError, ("'gelu'", "mish", "relu6")),
    "a wrong state_size": (lambda: RNN(Plain(state_size="3")), ArgumentError, ("state_size", "'3'")),
    "an empty stack": (lambda: RNN([]), ArgumentError, ("at least one cell",)),
    "a stack of one cell, not in a list": (lambda: StackedRNNCells(LSTMCell(2)), ArgumentError, ("a list of cells",)),
    "something else in a stack": (lambda: RNN([LSTMCell(2), 3]), ArgumentError, ("cell 1", "`call")),
    "implementation 3": (lambda: LSTM(3, implementation=3), ArgumentError, ("implementation", "0, 1 or 2")),
    "dropout as text": (lambda: LSTM(3, dropout="a"), ArgumentError, ("dropout", "'a'")),
    "zoneout above 1": (lambda: GRU(3, zoneout=1.1), ArgumentError, ("zoneout", "1.1")),
    "clip below 0": (lambda: LSTM(3, clip=-1), ArgumentError, ("clip", "-1")),
    "a projection of no size": (lambda: LSTM(3, proj_size=0), ArgumentError, ("proj_size", "0")),
    "a projection in a GRU": (lambda: GRU(3, proj_size=2), ArgumentError, ("proj_size",)),
    "an unknown option": (lambda: LSTM(3, unit=2), ArgumentError, ("unit",)),
    "an unknown activation": (lambda: LSTM(3, activation="tanhh"), ArgumentError, ("tanhh", "tanh")),
    "an unknown dtype": (lambda: LSTM(3, dtype="float8"), DtypeError, ("float8",)),
    "checkpoint of no steps": (lambda: LSTM(3, checkpoint=0, name="e"), ArgumentError, ("LSTM 'e'", "checkpoint")),
    "unrolling an unknown length": (
        lambda: LSTM(3, unroll=True)(Input((None, F))),
        ShapeError,
        ("Cannot unroll", "time=None", "unroll=True"),
    ),
    "an unknown number of features": (lambda: LSTM(3)(Input((T, None))), ShapeError, ("kernel", "unknown")),
    "a configuration with unknown keys": (
        lambda: deserialize({"class_name": "LSTM", "config": {"units": 3, "colour": 1}}, "layer"),
        ArgumentError,
        ("LSTM", "colour"),
    ),
    "reset without stateful": (lambda: LSTM(3, name="e").reset_states(), StateError, ("LSTM 'e'", "stateful")),
    "states without stateful": (lambda: setattr(LSTM(3), "states", [H, H]), StateError, ("stateful",)),
}
STEPS: dict[str, tuple[Callable[[], Any], type[MinirnnError], tuple[str, ...]]] = {
    "a state_size that does not fit": (
        lambda: run(Plain(state_size=5)),
        ShapeError,
        ("RNN 'r'", "Plain", "(batch=3, 5)"),
    ),
    "another state shape": (
        lambda: run(Plain(lambda x, h: (x, [mr.ops.concatenate([x, h], -1)]))),
        ShapeError,
        ("Plain", "state 0", "state_size", "(batch=3, 4)", "(batch=3, 2)"),
    ),
    "another state dtype": (
        lambda: run(Plain(lambda x, h: (x, [mr.ops.cast(x, "float32")]))),
        DtypeError,
        ("Plain", "state 0", "float32", "float64"),
    ),
    "another output size": (lambda: run(Plain(output_size=7)), ShapeError, ("Plain", "output_size", "7")),
    "another output in a stack": (
        lambda: run([SimpleRNNCell(F, dtype="float64"), Plain(output_size=7)]),
        ShapeError,
        ("cell 1", "Plain", "output_size"),
    ),
    "no constants for a cell that needs them": (
        lambda: run(Needing()),
        ArgumentError,
        ("RNN 'r'", "Needing", "needs constants", "constants=[...]"),
    ),
    "no constants at all for a cell that needs them": (
        lambda: RNN(Needing(), dtype="float64", name="r")(X, constants=[]),
        ArgumentError,
        ("RNN 'r'", "needs constants"),
    ),
    "constants for a cell that takes none": (
        lambda: RNN(Plain(), dtype="float64", name="r")(X, constants=[X[:, 0]]),
        ArgumentError,
        ("RNN 'r'", "Plain", "does not support constants"),
    ),
    "a flat call with too many for such a cell": (
        lambda: RNN(Plain(), dtype="float64")([X, X[:, 0], X[:, 0]]),
        ArgumentError,
        ("does not support constants",),
    ),
    "constants of another batch": (
        lambda: RNN(Needing(), dtype="float64", name="r")(X, constants=[X[:, 0], X[:1, 0]]),
        ShapeError,
        ("RNN 'r'", "constant 1", "batch=1", "batch=3"),
    ),
    "no output": (
        lambda: run(Plain(lambda x, h: (None, [h]))),
        ArgumentError,
        ("RNN 'r'", "Plain", "got: None", "(batch=3, ...)"),
    ),
    "a number for an output": (lambda: run(Plain(lambda x, h: (1.0, [h]))), ShapeError, ("Plain", "got: ()")),
    "the output of one row": (
        lambda: run(Plain(lambda x, h: (x[0], [h])), return_sequences=True),
        ShapeError,
        ("Plain", "got: (2,)", "(batch=3, ...)"),
    ),
    "too few states": (lambda: run(Plain(lambda x, h: (x, []))), ArgumentError, ("number of states", "got: 0")),
    "no pair": (lambda: run(Plain(lambda x, h: x)), ArgumentError, ("two things",)),
    "a float32 weight in a float64 layer": (
        lambda: run(Plain(lambda x, h: (x * mr.Tensor(np.ones(F, "float32")), [h]))),
        DtypeError,
        ("RNN 'r'", "Plain", "float32 meets float64"),
    ),
    "initial states of another size": (
        lambda: run(Plain(get_initial_state=lambda batch_size: [np.zeros((batch_size, 9))])),
        ShapeError,
        ("get_initial_state", "(batch=3, 9)", "(batch=3, 2)"),
    ),
    "a state of high rank that does not fit": (
        lambda: run(Plain(state_size=TensorShape((2, 7)))),
        ShapeError,
        ("Plain", "(batch=3, 2, 7)"),
    ),
}


@pytest.mark.parametrize("how", [*MAKING, *STEPS])
def test_making_and_stepping(how: str) -> None:
    act, error, words = (MAKING | STEPS)[how]
    with pytest.raises(error) as caught:
        act()
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{caught.value}\nlacks {missing}"


# a call that is wrong: arguments, and what else is needed ------------------------------------------
CALLS: dict[str, tuple[Callable[[Any], Any], type[MinirnnError], tuple[str, ...]]] = {
    "rank 2": (lambda layer: layer(X[0]), ShapeError, ("expected ndim=3, found ndim=2", "x[None]")),
    "rank 4": (lambda layer: layer(X[None]), ShapeError, ("expected ndim=3, found ndim=4",)),
    "no array": (lambda layer: layer(3.0), ArgumentError, ("input", "3.0")),
    "None": (lambda layer: layer(None), ArgumentError, ("input", "None")),
    "text": (lambda layer: layer(np.array([[["a"]]])), DtypeError, ("<U1",)),
    "a Tensor of another dtype": (
        lambda layer: layer(mr.Tensor(X.astype("float32"))),
        DtypeError,
        ("float32", "float64", "astype"),
    ),
    "complex numbers": (lambda layer: layer(X.astype(complex)), DtypeError, ("complex128",)),
    "mask too long": (lambda layer: layer(X, mask=np.ones((B, T + 1))), ShapeError, ("mask", "time=6", "time=5")),
    "mask the other way round": (lambda layer: layer(X, mask=np.ones((T, B))), ShapeError, ("batch=5, time=3",)),
    "mask of one sequence": (lambda layer: layer(X, mask=np.ones(T)), ShapeError, ("mask",)),
    "mask of features": (lambda layer: layer(X, mask=np.ones((B, T, F))), ShapeError, ("mask",)),
    "an irregular mask": (
        lambda layer: layer(X, mask=[[1], [1, 2], []]),
        ArgumentError,
        ("mask", "[1, 2]", "an array"),
    ),
    "irregular lengths": (lambda layer: layer(X, lengths=[1, [2, 3], 1]), ArgumentError, ("lengths", "[2, 3]")),
    "reset_mask too short": (
        lambda layer: layer(X, reset_mask=np.zeros((B, T - 1), bool)),
        ShapeError,
        ("reset_mask", "time=4", "time=5"),
    ),
    "reset_mask of another batch": (
        lambda layer: layer(X, reset_mask=np.zeros((1, T), bool)),
        ShapeError,
        ("reset_mask", "batch=1", "batch=3"),
    ),
    "too few lengths": (lambda layer: layer(X, lengths=[1, 2]), ShapeError, ("lengths", "3 rows")),
    "lengths with fractions": (lambda layer: layer(X, lengths=[1.0, 2.0, 3.0]), ShapeError, ("lengths", "integer")),
    "a length beyond the end": (lambda layer: layer(X, lengths=[1, 2, T + 1]), ArgumentError, ("lengths", "0 to 5")),
    "a negative length": (lambda layer: layer(X, lengths=[1, 2, -1]), ArgumentError, ("lengths", "-1")),
    "too few states": (
        lambda layer: layer(X, initial_state=[H]),
        StateError,
        ("has 2 states but was passed 1 initial states",),
    ),
    "too many states": (lambda layer: layer(X, initial_state=[H] * 3), StateError, ("has 2 states but was passed 3",)),
    "a bare state for two": (lambda layer: layer(X, initial_state=H), StateError, ("was passed 1",)),
    "states of another batch": (
        lambda layer: layer(X, initial_state=[H[:1], H[:1]]),
        ShapeError,
        ("another batch size", "batch=1", "batch=3"),
    ),
    "states of another size": (
        lambda layer: layer(X, initial_state=[H, H[:, 1:]]),
        ShapeError,
        ("initial_state 1", "not compatible with the cell's state_size", "(batch=3, 3)"),
    ),
    "states of another rank": (
        lambda layer: layer(X, initial_state=[H[..., None]] * 2),
        ShapeError,
        ("not compatible",),
    ),
    "states of another dtype": (
        lambda layer: layer(X, initial_state=[mr.Tensor(H.astype("float32"))] * 2),
        DtypeError,
        ("float32", "float64"),
    ),
    "a flat call of nothing": (lambda layer: layer([]), ArgumentError, ("[inputs, *states, *constants]",)),
    "a flat call with one state": (lambda layer: layer([X, H]), StateError, ("has 2 states but was passed 1",)),
    "states twice": (
        lambda layer: layer([X, H, H], initial_state=[H, H]),
        ArgumentError,
        ("and initial_state",),
    ),
    "a dict of inputs": (lambda layer: layer({"a": X, "b": X[:, :2]}), ShapeError, ("differ in batch size or",)),
}
BUILT: dict[str, tuple[Callable[[Any], Any], type[MinirnnError], tuple[str, ...]]] = {
    "another number of features": (
        lambda layer: layer(np.zeros((B, T, F + 1))),
        ShapeError,
        ("input has 3 features", "built for 2", "(time, batch, features)"),
    ),
    "another batch": (lambda layer: layer(X[:2]), StateError, ("batch size 2", "batch size 3", "reset_states()")),
    "another batch with states": (
        lambda layer: layer(X[:2], initial_state=[H[:2], H[:2]]),
        StateError,
        ("batch size 2", "batch size 3"),
    ),
    "reset to too few states": (lambda layer: layer.reset_states(states=[H]), StateError, ("was passed 1",)),
    "reset to another size": (lambda layer: layer.reset_states(states=[H[:, 1:]] * 2), ShapeError, ("state_size",)),
    "reset of missing rows": (lambda layer: layer.reset_states(rows=[B]), ArgumentError, ("rows", "below 3")),
    "reset of rows with fractions": (lambda layer: layer.reset_states(rows=[0.5]), ArgumentError, ("rows",)),
    "reset of rows to too many": (
        lambda layer: layer.reset_states(states=[H, H], rows=[0, 1]),
        ShapeError,
        ("another batch size", "batch=3", "batch=2"),
    ),
    "weights of another shape": (
        lambda layer: layer.set_weights([w.T for w in layer.get_weights()]),
        ShapeError,
        ("set_weights", "kernel"),
    ),
}


def check_call(
    how: str, act: Callable[[Any], Any], error: type[MinirnnError], words: tuple[str, ...], layer: Any
) -> None:
    with pytest.raises(error) as caught:
        act(layer)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{how}: {caught.value}\nlacks {missing}"


# That a complex number makes complex states is seen by the first step only, for which there must be weights.
@pytest.mark.parametrize("how", [how for how in CALLS if how != "complex numbers"])
def test_first_calls_leave_the_layer_as_it_was(how: str) -> None:
    layer = LSTM(U, stateful=True, dtype="float64", name="encoder")
    check_call(how, *CALLS[how], layer)
    assert not layer.built and layer.weights == [] and layer.states is None
    assert layer(X).shape == (B, U)


@pytest.mark.parametrize("how", [*CALLS, *BUILT])
def test_later_calls_leave_weights_and_states_as_they_were(how: str) -> None:
    layer = LSTM(U, stateful=True, dtype="float64", name="encoder")
    layer(X)
    before = [*layer.get_weights(), *(s.numpy() for s in layer.states)]
    if how == "a dict of inputs":
        act, error, words = CALLS[how][0], ShapeError, ("2 arrays",)
    else:
        act, error, words = (CALLS | BUILT)[how]
    check_call(how, act, error, words, layer)
    for was, now in zip(before, [*layer.get_weights(), *(s.numpy() for s in layer.states)], strict=True):
        np.testing.assert_array_equal(was, now)


def test_a_build_that_failed_can_be_repeated() -> None:
    layer = LSTM(U, dtype="float64")
    with pytest.raises(ShapeError, match="unknown"):
        layer.build((None, T, None))
    assert not layer.built and layer.weights == []
    assert layer(X).shape == (B, U)


def test_a_fixed_batch_stays_for_good() -> None:
    layer = LSTM(U, stateful=True, dtype="float64")
    layer(Input(batch_shape=(B, None, F), dtype="float64"))
    layer.reset_states()
    with pytest.raises(StateError, match="(?s)batch size 2.*batch size 3"):
        layer(X[:2])
