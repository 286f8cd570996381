"""Containers with reset_mask and lengths: against a loop over rows in NumPy, with teachers, masks and held states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn import RecurrentContainer
from minirnn.errors import ArgumentError, ShapeError, StateError
from minirnn.layers import Dense, Input
from minirnn.models import Model
from tests.reference.cells import Array
from tests.reference.checks import complex_step_gradients, max_error

B, T, F, U = 3, 5, 2, 4
RNG = np.random.default_rng(3)
X, START, TEACHER = RNG.normal(size=(B, T, F)), RNG.normal(size=(B, U)), RNG.normal(size=(B, T, U))
KERNEL, RECURRENT = RNG.normal(size=(F, U)), RNG.normal(size=(U, U)) / 2
CTS = [RNG.normal(size=(B, T, U)), RNG.normal(size=(B, U)), RNG.normal(size=(B, U))]
ENGINES = ["reference", "numpy", pytest.param("cpu", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


def elman(**options: Any) -> RecurrentContainer:
    """h = tanh(x @ kernel + h @ recurrent); shows 2 h at each step, h at the last one."""
    x, h = Input((F,)), Input((U,))
    new = mr.ops.tanh(Dense(U, use_bias=False)(x) + Dense(U, use_bias=False)(h))
    made = RecurrentContainer(x, new * 2.0, (), new, h, new, return_states=True, **options)
    made.set_weights([*made.get_weights()[:-2], KERNEL, RECURRENT])
    return made


def by_hand(
    x: Array, start: Array, mask: Array, reset: Array, backwards: bool = False, teacher: Array | None = None
) -> list[Array]:
    shown, last, final = np.zeros((B, T, U), x.dtype), np.zeros((B, U), x.dtype), np.zeros((B, U), x.dtype)
    for b in range(B):
        h, y, here = start[b], np.zeros(U), False
        value = start[b]
        for number, t in enumerate(reversed(range(T)) if backwards else range(T)):
            if reset[b, t]:
                h, y, here = start[b], np.zeros(U), False
            if mask[b, t]:
                fed = value if teacher is not None and here else h
                h = np.tanh(x[b, t] @ KERNEL + fed @ RECURRENT)
                y, here = h, True
                value = value if teacher is None else teacher[b, number]
            shown[b, number] = 2 * y
        last[b], final[b] = y, h
    return [shown, last, final]


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**16),
    backwards=st.booleans(),
    taught=st.booleans(),
    option=st.sampled_from(["", "unroll", "checkpoint"]),
)
def test_it_is_the_loop_with_its_gradients(engine: str, seed: int, backwards: bool, taught: bool, option: str) -> None:
    rng = np.random.default_rng(seed)
    mask, reset = rng.random((B, T)) < 0.7, rng.random((B, T)) < 0.3
    options = {"unroll": {"unroll": True}, "checkpoint": {"checkpoint": 2}}.get(option, {})
    container = elman(go_backwards=backwards, teacher=[0] if taught else [], **options)
    x, start = mr.Tensor(X), mr.Tensor(START)
    teacher = {"teacher": {0: TEACHER}} if taught else {}
    with mr.engine(engine), mr.Tape() as tape:
        tape.watch(x)
        tape.watch(start)
        found = container(x, states=start, mask=mask, reset_mask=reset, training=True, **teacher)
        total = sum(mr.ops.sum(y * ct) for y, ct in zip(found, CTS, strict=True))
        gradients = tape.gradient(total, [x, start])

    def loss(x: Array, start: Array) -> Array:
        results = by_hand(x, start, mask, reset, backwards, TEACHER if taught else None)
        return sum(np.sum(y * ct) for y, ct in zip(results, CTS, strict=True))

    want = by_hand(X, START, mask, reset, backwards, TEACHER if taught else None)
    for one, other in zip([*found, *gradients], [*want, *complex_step_gradients(loss, X, START)], strict=True):
        assert max_error(one, other) < 1e-12


def test_a_row_begins_anew_with_what_the_call_began_with() -> None:
    """Explicit states, held ones, or declared ones."""
    reset, mask = np.zeros((B, T), bool), np.ones((B, T), bool)
    reset[1, 3] = True
    held = elman(stateful=True)
    held(X, states=START)
    began = np.asarray(held.states[0])
    found = held(X, reset_mask=reset)
    for one, other in zip(found, by_hand(X, began, mask, reset), strict=True):
        assert max_error(one, other) < 1e-13
    learned = elman(state_initializer="learned")
    learned.learned_states[0].assign(START[0])
    for one, other in zip(
        learned(X, reset_mask=reset), by_hand(X, np.tile(START[0], (B, 1)), mask, reset), strict=True
    ):
        assert max_error(one, other) < 1e-13


def test_reset_states_of_some_rows_goes_back_to_the_declared_states() -> None:
    held = elman(stateful=True, state_initializer=mr.initializers.Constant(0.5))
    held(X)
    before = np.asarray(held.states[0])
    held.reset_states(rows=[2])
    np.testing.assert_array_equal(held.states[0], np.concatenate([before[:2], np.full((1, U), 0.5)]))
    held.reset_states(states=START[:1], rows=[False, True, False])
    np.testing.assert_array_equal(np.asarray(held.states[0])[1], START[0])
    held.reset_states(states=[START])
    np.testing.assert_array_equal(held.states[0], START)


def test_rows_are_reset_before_the_first_call_of_a_known_batch() -> None:
    held = elman(stateful=True, state_initializer=mr.initializers.Constant(0.5))
    with pytest.raises(StateError, match="number of rows"):
        held.reset_states(rows=[1])
    Model(x := Input(batch_shape=(B, None, F)), held(x))
    held.reset_states(START[:1], rows=[1])
    np.testing.assert_array_equal(held.states[0], [[0.5] * U, START[0], [0.5] * U])


def test_lengths_are_a_mask_beside_the_others() -> None:
    lengths, holes = np.array([3, 0, 5]), RNG.random((B, T)) < 0.6
    mask = np.arange(T) < lengths[:, None]
    container = elman()
    for options, want in (({}, mask), ({"mask": holes}, mask & holes)):
        found = container(X, states=START, lengths=lengths, **options)
        for one, other in zip(found, by_hand(X, START, want, np.zeros((B, T), bool)), strict=True):
            assert max_error(one, other) < 1e-13
    np.testing.assert_array_equal(container(X, lengths=lengths.tolist())[0].mask, mask)


def test_symbolic_calls_take_them_too() -> None:
    x, lengths, reset = Input((None, F)), Input((), dtype="int32"), Input((None,), dtype="bool")
    container = elman()
    model = Model([x, lengths, reset], container(x, lengths=lengths, reset_mask=reset))
    given_lengths, given_reset = np.array([3, 0, 5]), RNG.random((B, T)) < 0.3
    found = model([X, given_lengths, given_reset])
    want = container(X, lengths=given_lengths, reset_mask=given_reset)
    assert all(np.array_equal(a, b) for a, b in zip(found, want, strict=True))
    again = Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(again([X, given_lengths, given_reset]), want, strict=True))


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"reset_mask": np.ones((B, T + 1))}, ShapeError, "reset_mask does not fit"),
        ({"mask": np.ones((B + 1, T))}, ShapeError, "mask does not fit"),
        ({"lengths": [1, 2]}, ShapeError, "lengths.*\n.*\n.*one integer for each of the 3 rows"),
        ({"lengths": [1, 2, 6]}, ArgumentError, "lengths.*\n.*\n.*0 to 5 steps"),
    ],
)
def test_errors(options: Any, error: type[Exception], text: str) -> None:
    container = elman(name="elman")
    with pytest.raises(error, match="RecurrentContainer 'elman': (the )?" + text):
        container(X, **options)
