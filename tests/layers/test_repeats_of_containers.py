"""Calls of a container like an earlier one go a shorter way, and never to an old result."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer, RecurrentUnit, ops
from minirnn.layers import LSTM, Dense, Dropout, Input
from minirnn.layers.base import observe

from .repeat_cases import B, F, T, U, assert_right, flat, inputs


@pytest.fixture
def whole_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets an entry for every call of a container that goes the whole way."""
    made_calls: list[int] = []
    original = RecurrentContainer.call

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        made_calls.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RecurrentContainer, "call", call)
    return made_calls


def drawn(container: Any) -> Any:
    """The container, with weights that are no zeros."""
    container.set_weights([inputs(*v.shape) for v in container.weights])
    return container


def reading(**options: Any) -> Any:
    """Two sequences and a constant through an LSTM and a Dense layer, with outputs at each step and of the last one."""
    x, other, constant = (Input((n,), dtype="float64") for n in (F, 2, 3))
    h, c = (Input((U,), dtype="float64") for _ in range(2))
    y, *new = RecurrentUnit(LSTM(U, dtype="float64"))(ops.concatenate([x, other, constant], -1), states=[h, c])
    z = Dense(3, activation="tanh", dtype="float64")(y)
    groups = {"sequence_inputs": [x, other], "constant_inputs": constant, "state_inputs": [h, c]}
    return drawn(
        RecurrentContainer(
            **groups, state_outputs=new, sequence_outputs=z, constant_outputs=options.pop("last", y), **options
        )
    )


def writing(**options: Any) -> Any:
    """What reads what it wrote at the step before."""
    before, h, c = (Input((n,), dtype="float64") for n in (F, U, U))
    y, *new = RecurrentUnit(LSTM(U, dtype="float64"))(before, states=[h, c])
    written = Dense(F, dtype="float64")(y)
    options = {"output_length": T, "sequence_outputs": written, **options}
    return drawn(RecurrentContainer(state_inputs=[before, h, c], state_outputs=[written, *new], **options))


def given(batch: int = B) -> dict[str, Any]:
    return {"x": [inputs(batch, T, F), mr.Tensor(inputs(batch, T, 2))], "constants": inputs(batch, 3)}


@pytest.mark.parametrize(
    "options",
    [
        {}, {"return_states": True}, {"go_backwards": True}, {"last": ()}, {"state_initializer": "learned"},
        {"state_initializer": ["ones", None], "return_states": True},
    ],
    ids=str,
)  # fmt: skip
def test_repeated_calls_are_right(options: dict[str, Any], whole_calls: list[int]) -> None:
    container = reading(**options)
    calls = [given(), {**given(), "states": [inputs(B, U), mr.Tensor(inputs(B, U))]}]
    for one in calls:
        container(one["x"], **{k: v for k, v in one.items() if k != "x"})
    before = len(whole_calls)
    for one in (given(), {**calls[1], **given()}, given()):
        one["x"][0] = (
            one["x"][0].astype("float32") if one is calls[0] else one["x"][0].swapaxes(0, 1).copy().swapaxes(0, 1)
        )
        assert_right(container, **{"x": one.pop("x"), **one})
    assert len(whole_calls) == before + 3, "only those of the reference engine go the whole way"


def test_fed_back_outputs_begin_with_states_and_with_zeros(whole_calls: list[int]) -> None:
    container = writing()
    for _ in range(2):
        states = [None, inputs(B, U), inputs(B, U)]
        before = len(whole_calls)
        container(states=states)
        with mr.engine("reference"):
            wanted = container(states=states).numpy()
        np.testing.assert_allclose(container(states=states), wanted, atol=1e-12)
    assert len(whole_calls) == before + 1
    longer = container(states=states, output_length=T + 2)
    assert longer.shape == (B, T + 2, F)
    np.testing.assert_array_equal(container(states=states), longer[:, :T])
    container.output_length = T - 1
    np.testing.assert_array_equal(container(states=states), longer[:, : T - 1])
    with pytest.raises(mr.errors.ArgumentError, match="batch size"):
        container()
    with pytest.raises(mr.errors.ArgumentError, match="output_length"):
        container(states=states, output_length=True)


def test_first_and_second_gradients_of_repeated_calls(whole_calls: list[int]) -> None:
    container = reading(state_initializer=["learned", None])
    x = [mr.Tensor(inputs(B, T, F)), mr.Tensor(inputs(B, T, 2))]
    constant = mr.Tensor(inputs(B, 3))
    container(x, constants=constant)
    before = len(whole_calls)

    def gradients() -> list[np.ndarray]:
        sources = [*x, constant, *container.trainable_variables]
        with mr.Tape() as outer:
            outer.watch(sources)
            with mr.Tape() as tape:
                tape.watch(sources)
                loss = sum((y**3).sum() for y in container(x, constants=constant))
            first = tape.gradient(loss, sources)
            size = sum((g**2).sum() for g in first)
        return flat([first, outer.gradient(size, sources)])

    got = gradients()
    assert len(whole_calls) == before
    with mr.engine("reference"):
        wanted = gradients()
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def set_weights(container: Any) -> None:
    container.set_weights([2.0 * w for w in container.get_weights()])


def changed_activation(container: Any) -> None:
    dense = next(layer for layer in container.all_layers() if isinstance(layer, Dense))
    dense.activation = ops.relu


def changed_cell(container: Any) -> None:
    unit = next(layer for layer in container.all_layers() if isinstance(layer, RecurrentUnit))
    unit.layer.cell.recurrent_activation = ops.hard_sigmoid


def replaced_variable(container: Any) -> None:
    dense = next(layer for layer in container.all_layers() if isinstance(layer, Dense))
    dense.kernel = mr.Variable(inputs(*dense.kernel.shape))


def other_order_in_time(container: Any) -> None:
    container.go_backwards = True


def with_states(container: Any) -> None:
    container.return_states = True


def other_initial_states(container: Any) -> None:
    container.state_initializer = (mr.initializers.get("ones"), None)


def own_ending(container: Any) -> None:
    original = container._finish
    container._finish = lambda *args, **kwargs: original(*args, **kwargs)[::-1]


def own_call(container: Any) -> None:
    original = container.call
    container.call = lambda *args, **kwargs: [2.0 * y for y in original(*args, **kwargs)]


CHANGES = [
    own_call, set_weights, changed_activation, changed_cell, replaced_variable, other_order_in_time, with_states,
    other_initial_states, own_ending,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_shows_in_the_next_call(change: Callable[[Any], None]) -> None:
    container, one = reading(), given()
    for _ in range(2):
        before = flat(container(one["x"], constants=one["constants"]))
    change(container)
    with mr.engine("reference"):
        wanted = flat(container(one["x"], constants=one["constants"]))
    for _ in range(2):
        got = flat(container(one["x"], constants=one["constants"]))
    assert len(got) != len(before) or got[0].shape != before[0].shape or np.abs(got[0] - before[0]).max() > 1e-6
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_masks_lengths_resets_and_observers_come_and_go() -> None:
    container, one = reading(), given()
    x, constants = one["x"], one["constants"]
    plain = assert_right(container, x, constants=constants)
    mask = np.arange(T) < np.array([[2], [T], [3]])
    masked = mr.Tensor(x[0])
    masked.mask = mr.Tensor(mask)
    for changed, options in (
        (x, {"mask": mask}), (x, {"lengths": np.array([2, T, 3])}), (x, {"reset_mask": ~mask}), ([masked, x[1]], {}),
    ):  # fmt: skip
        got = assert_right(container, changed, constants=constants, **options)
        assert np.abs(got[0] - plain[0]).max() > 1e-6
        np.testing.assert_array_equal(assert_right(container, x, constants=constants)[0], plain[0])
    seen: list[str] = []
    with observe(lambda label, outputs: seen.append(label)):
        container(x, constants=constants)
    assert container.label in seen


def teaching() -> tuple[Any, Any, Any]:
    """A container of one state that training may force, the sequence that it reads, and the teacher's."""
    before, x = Input((F,), dtype="float64"), Input((F,), dtype="float64")
    y = ops.tanh(before * 2.0 + x)
    container = RecurrentContainer(x, y, state_inputs=before, state_outputs=y, teacher=before)
    return container, inputs(B, T, F), inputs(B, T, F)


def test_a_teacher_comes_and_goes() -> None:
    container, x, teacher = teaching()
    container.teacher_probability = 0.0
    for _ in range(2):
        free = container(x, training=True).numpy()
        with mr.layers.base.training_scope(True):
            np.testing.assert_array_equal(container(x), free)
    container.teacher_probability = 1.0
    forced = container(x, teacher={0: teacher}, training=True).numpy()
    assert np.abs(forced - free).max() > 1e-6
    with mr.layers.base.training_scope(True):
        np.testing.assert_array_equal(container(x, teacher={0: teacher}), forced)
        with pytest.raises(mr.errors.ArgumentError, match="teacher sequences"):
            container(x)
    np.testing.assert_array_equal(container(x), free)
    with pytest.raises(mr.errors.ArgumentError, match="cannot be forced|no state input"):
        container(x, teacher={1: teacher})
    with pytest.raises(mr.errors.ShapeError, match="teacher"):
        container(x, teacher={0: teacher[0]})


@pytest.mark.parametrize("initializer", [None, "learned", mr.initializers.Constant(0.5)], ids=str)
def test_a_stateful_container_goes_on_and_begins_again(initializer: Any, whole_calls: list[int]) -> None:
    container, whole = (reading(stateful=s, state_initializer=initializer) for s in (True, False))
    whole.set_weights(container.get_weights())
    x, constants = [inputs(B, 3 * T, F), inputs(B, 3 * T, 2)], inputs(B, 3)
    for _ in range(3):
        before = len(whole_calls)
        pieces = [container([s[:, t : t + T] for s in x], constants=constants) for t in (0, T, 2 * T)]
        assert len(whole_calls) - before <= 1
        np.testing.assert_allclose(pieces[-1][1], whole(x, constants=constants)[1], atol=1e-12)
        with pytest.raises(mr.errors.StateError, match="batch size"):
            container([s[:2, :T] for s in x], constants=constants[:2])
        container.reset_states()
    smaller = [s[:2, :T] for s in x]
    for _ in range(2):
        np.testing.assert_allclose(container(smaller, constants=constants[:2])[1], pieces[0][1][:2], atol=1e-12)
        container.reset_states()


@pytest.mark.parametrize("initializer", [None, "ones"])
def test_states_that_are_left_out_begin_as_declared_or_as_held(initializer: Any) -> None:
    plain, one = reading(state_initializer=initializer), given()
    held = reading(state_initializer=initializer, stateful=True)
    held.set_weights(plain.get_weights())
    h, c = inputs(B, U), inputs(B, U)
    for _ in range(2):
        for states in (None, [None, None], [h, None], [None, c], [h, c]):
            assert_right(plain, one["x"], constants=one["constants"], states=states)
    wanted = []
    for container in (held, plain):
        found = []
        for states in (None, [None, None], None, [None, None], [h, None], [None, None]):
            if container is plain:
                container._repeats._calls.clear()
                container.stateful = True
            found.append(container(one["x"], constants=one["constants"], states=states)[0].numpy())
        wanted.append(found)
    for a, b in zip(*wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(wanted[0][2] - wanted[0][0]).max() > 1e-6
    with pytest.raises(mr.errors.ArgumentError, match="number of states"):
        plain(one["x"], constants=one["constants"], states=[None])


def test_a_stateful_container_without_inputs_has_the_batch_of_its_states() -> None:
    container = writing(stateful=True)
    for batch in (2, 3, 2):
        container.reset_states()
        states = [inputs(batch, F), inputs(batch, U), inputs(batch, U)]
        whole = container(states=states, output_length=3 * T)
        container.reset_states()
        pieces = [container(states=states), container(), container(states=[None] * 3)]
        np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=1e-12)


def test_random_initial_states_are_drawn_anew() -> None:
    container, one = reading(state_initializer="random_normal"), given()

    def run() -> list[np.ndarray]:
        mr.seed(5)
        return [container(one["x"], constants=one["constants"])[0].numpy() for _ in range(3)]

    first = run()
    assert np.abs(first[0] - first[2]).max() > 1e-9
    container._repeats._calls.clear()
    for a, b in zip(run(), first, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dropout_in_the_step_draws_anew(whole_calls: list[int]) -> None:
    x, before = Input((F,), dtype="float64"), Input((F,), dtype="float64")
    y = Dropout(0.5, dtype="float64")(x) + before
    container, array = RecurrentContainer(x, y, state_inputs=before, state_outputs=y), inputs(B, T, F)

    def run() -> list[np.ndarray]:
        mr.seed(7)
        with mr.layers.base.training_scope(True):
            return [container(array).numpy() for _ in range(3)]

    first = run()
    assert len(whole_calls) == 1 and np.abs(first[1] - first[2]).max() > 1e-3
    container._repeats._calls.clear()
    for a, b in zip(run(), first, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(container(array), array.cumsum(1), atol=1e-12)


def test_integers_are_looked_at_in_each_call() -> None:
    x, total = Input((1,), dtype="int64"), Input((1,), dtype="int64")
    container = RecurrentContainer(x, x + total, state_inputs=total, state_outputs=x + total)
    array = np.arange(6).reshape(2, 3, 1)
    for dtype in ("int64", "int32", "float32", "int64"):
        np.testing.assert_array_equal(container(array.astype(dtype)), array.cumsum(1))
    with pytest.raises(mr.errors.DtypeError, match="fractions"):
        container(array + 0.5)


def test_results_do_not_look_at_what_was_given() -> None:
    x, before, h = (Input((F,), dtype="float64") for _ in range(3))
    container = RecurrentContainer(
        x, [x, h], state_inputs=[before, h], state_outputs=[x, h], constant_outputs=x, return_states=True
    )
    for _ in range(3):
        wanted, state = inputs(B, T, F), inputs(B, F)
        given, given_state = wanted.copy(), state.copy()
        results = container(given, states=[given_state, given_state])
        given[:], given_state[:] = 0.0, 0.0
        np.testing.assert_array_equal(results[0], wanted)
        np.testing.assert_array_equal(results[1], np.repeat(state[:, None], T, 1))
        np.testing.assert_array_equal(results[2], wanted[:, -1])
        np.testing.assert_array_equal(results[4], state)
        assert [np.may_share_memory(np.asarray(r), a) for r in results for a in (given, given_state)] == [False] * 10


def test_copies_and_nobody_keeps_a_container_alive() -> None:
    container, one = reading(), given()
    before = assert_right(container, one["x"], constants=one["constants"])
    for other in (copy.deepcopy(container), copy.copy(container)):
        np.testing.assert_array_equal(assert_right(other, one["x"], constants=one["constants"])[0], before[0])
        other.go_backwards = True
        assert np.abs(assert_right(other, one["x"], constants=one["constants"])[0] - before[0]).max() > 1e-6
    np.testing.assert_array_equal(assert_right(container, one["x"], constants=one["constants"])[0], before[0])
    state = mr.Tensor(inputs(B, U))
    held = weakref.ref(state)
    container(one["x"], constants=one["constants"], states=[state, state])
    del state
    gc.collect()
    assert held() is None
    gone = weakref.ref(container), weakref.ref(container.weights[0])
    del container, other
    gc.collect()
    assert [r() for r in gone] == [None, None]
