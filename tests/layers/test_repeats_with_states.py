"""Calls with initial states and constants like an earlier one go a shorter way, and never to an old result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.layers import RNN, LSTMCell

from .repeat_cases import B, F, T, U, assert_right, inputs


def glancing(**options: Any) -> Any:
    """A layer whose cell is given one constant, an array with a row for each of its own."""
    return RNN(Glancing(U, dtype="float64"), dtype="float64", **options)


class Glancing(LSTMCell):
    """An LSTM cell that adds a constant to its input, if it is given one."""

    def call(self, inputs: Any, states: Any, constants: Any = None, training: Any = None) -> Any:
        return super().call(inputs if constants is None else inputs + constants[0], states, training)


@pytest.mark.parametrize(
    "options", [{}, {"return_sequences": True, "return_state": True}, {"time_major": True}], ids=str
)
@pytest.mark.parametrize("kind", [list, tuple])
def test_calls_with_other_states_and_constants(kind: Any, options: dict[str, Any], whole_calls: list[int]) -> None:
    layer = glancing(**options)
    shape = (T, B, F) if options.get("time_major") else (B, T, F)

    def given(constant: bool = True, states: bool = True) -> dict[str, Any]:
        found = {"constants": kind([inputs(B, F)])} if constant else {}
        return {**found, "initial_state": kind([inputs(B, U), mr.Tensor(inputs(B, U))])} if states else found

    calls = [given(), given(constant=False), given(states=False), {}]
    for one in calls:
        assert_right(layer, inputs(*shape), **one)
    before = len(whole_calls)
    for one in [given(), given(), given(constant=False), given(states=False), {}]:
        assert_right(layer, inputs(*shape), **one)
    assert len(whole_calls) == before + 5, "only those of the reference engine go the whole way"


def test_gradients_of_states_and_constants_that_come_anew() -> None:
    layer = glancing()

    def gradients(x: Any, constant: Any, h: Any, c: Any) -> list[Any]:
        f = lambda constant, h, c: ops.sum(layer(x, constants=[constant], initial_state=[h, c]) ** 2)  # noqa: E731
        return [np.array(g) for g in mr.grad(f, argnums=(0, 1, 2))(*map(mr.Tensor, (constant, h, c)))]

    for _ in range(3):
        arguments = inputs(), inputs(B, F), inputs(B, U), inputs(B, U)
        got = gradients(*arguments)
        with mr.engine("reference"):
            wanted = gradients(*arguments)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
            assert np.abs(a).max() > 1e-4


def test_states_and_constants_that_do_not_fit_are_refused_as_before() -> None:
    layer, good = glancing(), [inputs(B, U), inputs(B, U)]
    for _ in range(2):
        layer(inputs(), initial_state=good, constants=[inputs(B, F)])
    with pytest.raises(mr.errors.StateError, match="2 states"):
        layer(inputs(), initial_state=good[:1], constants=[inputs(B, F)])
    with pytest.raises(mr.errors.ShapeError, match="batch size"):
        layer(inputs(), initial_state=[inputs(B + 1, U)] * 2, constants=[inputs(B, F)])
    with pytest.raises(mr.errors.ShapeError, match="batch size"):
        layer(inputs(), constants=[inputs(B + 1, F)])
    with pytest.raises(mr.errors.DtypeError, match="float64"):
        layer(inputs(), initial_state=[mr.Tensor(s.astype("float32")) for s in good])


def test_a_constant_that_changes_in_place_is_another_one() -> None:
    layer, constant, x = glancing(), inputs(B, F), inputs()
    for _ in range(3):
        assert_right(layer, x, constants=[constant])
        constant += 1
