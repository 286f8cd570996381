"""The loop as one operation: the engine that runs it, its backward, and what it makes of arrays it was given."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.stepgraph import interpret

from .stepgraph.steps import numbers

B, U = 3, 6


def engines_used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets the engine of every run, with the numpy engine in the place of the compiled one."""
    loop, used = importlib.import_module("minirnn.loop"), []
    original = loop.run_forward

    def run_forward(graph: Any, arrays: Any, length: int, reverse: bool, engine: str) -> Any:
        used.append(engine)
        return original(graph, arrays, length, reverse, engine)

    monkeypatch.setattr(loop, "run_forward", run_forward)
    monkeypatch.setattr(loop, "kernels", lambda: interpret)
    return used


@pytest.mark.parametrize("engine", ["numpy", "cpu"])
@pytest.mark.parametrize("checkpoint", [None, 2])
def test_the_engine_of_a_scan_is_that_of_its_gradients(
    engine: str, checkpoint: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = engines_used(monkeypatch)
    w = mr.Variable(np.ones((1, 1)))
    for setting in ("numpy", "reference", "cpu"):
        with mr.engine(setting), mr.Tape() as outer:
            with mr.Tape() as tape:
                loss = mr.scan(
                    lambda h, x: (ops.tanh(x @ w + h), h), np.zeros((1, 1)), np.ones((5, 1, 1)), engine=engine,
                    checkpoint=checkpoint,
                )[0].sum()  # fmt: skip
            first = tape.gradient(loss, w)
        outer.gradient(first, w)
        assert len(used) >= 4 and set(used) == {engine}
        used.clear()


def test_the_engine_in_force_is_taken_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    used = engines_used(monkeypatch)
    for engine in ("numpy", "cpu"):
        with mr.engine(engine):
            mr.scan(lambda h, x: (h + x, None), np.zeros(1), np.ones((3, 1)))
    assert used == ["numpy", "cpu"]


def test_results_never_look_at_what_was_given() -> None:
    for step in (lambda h, x: (h, x), lambda h, x: (x, h)):
        for length in (0, 1, 4):
            h, x = numbers(B, U), numbers(length, B, U)
            given_h, given_x = h.copy(), x.copy()
            carry, ys = mr.scan(step, given_h, given_x)
            given_h[:] = given_x[:] = np.nan
            wanted_carry, wanted_ys = mr.scan(step, h, x, engine="reference")
            np.testing.assert_array_equal(carry, wanted_carry)
            np.testing.assert_array_equal(ys, wanted_ys)


def test_over_no_time_the_gradient_of_a_weight_is_zero() -> None:
    w = mr.Variable(np.ones((U, U)))
    for engine in ("numpy", "reference"):
        with mr.Tape() as tape:
            carry, ys = mr.scan(lambda h, x: (h @ w, x @ w), numbers(B, U), numbers(0, B, U), engine=engine)
            loss = carry.sum() + ys.sum()
        assert not tape.gradient(loss, w).numpy().any()


def test_the_printed_loop_of_a_step() -> None:
    def step(h: Any, x: Any) -> Any:
        candidate = ops.tanh(x + h)
        return candidate, candidate

    init, xs = numbers(B, U), numbers(3, B, U)
    assert "candidate" in mr.scan_source(step, init, xs)
    assert "ct_h" in mr.scan_source(step, init, xs, pass_="backward")
    for wrong in ({"engine": "numpy"}, {"pass_": "sideways"}):
        with pytest.raises(mr.errors.ArgumentError):
            mr.scan_source(step, init, xs, **wrong)


@pytest.mark.parametrize("engine", ["numpy", "cpu"])
def test_a_closed_over_array_that_is_changed_in_place_is_read_anew(engine: str) -> None:
    weights, xs = np.eye(3), np.ones((2, 1, 3))

    def step(h: Any, x: Any) -> Any:
        h = x + h @ weights
        return h, h

    with mr.engine(engine):
        first = mr.scan(step, np.zeros((1, 3)), xs)[0].numpy()
        weights *= 2
        second = mr.scan(step, np.zeros((1, 3)), xs)[0].numpy()
    assert first.tolist() == [[2.0, 2.0, 2.0]] and second.tolist() == [[3.0, 3.0, 3.0]]
