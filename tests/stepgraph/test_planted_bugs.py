"""The comparison of the engines is itself tested: every bug planted here makes it fail."""

from __future__ import annotations

import collections
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from minirnn import ops
from minirnn.autodiff.primitive import MIXED, ROWS
from minirnn.stepgraph import adjoint as adjoint_module
from minirnn.stepgraph import interpret, rows, split
from minirnn.stepgraph import trace as trace_module

from .agreement import disagreement, results
from .random_steps import RandomStep
from .steps import attention, lstm, numbers

scan_module = importlib.import_module("minirnn.scan")
loop_module = importlib.import_module("minirnn.loop")
B, T = 3, 5
VALID = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 0, 1], [1, 0, 1]], bool)


class Written(RandomStep):
    """A step written by hand in the place of a drawn one."""

    def __init__(self, make: Callable[..., Any], init: list[Any], xs: list[Any], closed: list[Any]) -> None:
        self.make, self.length = make, T
        self.__dict__["arrays"] = {"init": init, "xs": xs, "closed": closed}

    def over(self, closed: list[Any]) -> Any:
        return self.make(*closed)


def lstm_in_lists(*closed: Any) -> Any:
    def step(carry: Any, x: Any) -> Any:
        carry, h = lstm(*closed)(tuple(carry), x[0])
        return list(carry), [h, x[0] * 2.0]

    return step


def attention_in_lists(*closed: Any) -> Any:
    def step(carry: Any, x: Any) -> Any:
        h, seen = attention(*closed)(carry[0], x[0])
        return [h], [seen["context"], ops.softmax(h @ closed[0])]

    return step


def rows_that_mix(w: Any, v: Any) -> Any:
    def step(carry: Any, x: Any) -> Any:
        centred = x[0] @ w - ops.mean(x[0] @ w, axis=0)
        h = ops.tanh(carry[0] @ v + centred + ops.mean(carry[0], axis=0) * (v @ v)[:1])
        return [h], [h * x[0][:, :1]]

    return step


XS = [numbers(T, B, 4)]
TWO_STATES = [numbers(B, 6), numbers(B, 6, seed=1)]
BATTERY = {
    "lstm": Written(lstm_in_lists, TWO_STATES, XS, [numbers(4, 24), numbers(6, 24), numbers(24)]),
    "attention": Written(attention_in_lists, TWO_STATES[:1], XS, [numbers(6, 2), numbers(B, 7, 2), numbers(6, 6)]),
    "mixing": Written(rows_that_mix, TWO_STATES[:1], XS, [numbers(4, 6), numbers(6, 6)]),
}


def found_by_the_battery() -> set[str]:
    """The steps of the battery, masked and reversed, on which the engines disagree or one of them fails."""
    found = set()
    for name, step in BATTERY.items():
        for mask in (None, VALID):
            for reverse in (False, True):
                label = f"{name}{' masked' if mask is not None else ''}{' reversed' if reverse else ''}"
                try:
                    got = results(step, engine="numpy", mask=mask, reverse=reverse, checkpoint=2 if reverse else None)
                    if disagreement(got, REFERENCE[label]):
                        found.add(label)
                except Exception:
                    found.add(label)
    return found


REFERENCE = {
    f"{name}{' masked' if mask is not None else ''}{' reversed' if reverse else ''}": results(
        step, engine="reference", mask=mask, reverse=reverse
    )
    for name, step in BATTERY.items()
    for mask in (None, VALID)
    for reverse in (False, True)
}


@pytest.fixture(autouse=True)
def _no_memory_of_other_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "_cache", collections.OrderedDict())


def test_without_a_bug_the_battery_is_content() -> None:
    assert found_by_the_battery() == set()


def swapped(pair: Any) -> tuple[Any, ...]:
    """The first two of equal shape exchanged."""
    items = list(pair)
    for i, a in enumerate(items):
        for j, b in enumerate(items[:i]):
            if a.shape == b.shape:
                items[i], items[j] = b, a
                return tuple(items)
    return tuple(items)


def swapped_carry_cotangents(patch: Any) -> None:
    original = adjoint_module._guarded
    patch(
        adjoint_module,
        "_guarded",
        lambda graph, cts: replace(g := original(graph, cts), carry_out=swapped(g.carry_out)),
    )


def swapped_residuals(patch: Any) -> None:
    real_run = interpret.run

    def run(graph: Any, arrays: Any, length: int, reverse: bool) -> Any:
        out = real_run(graph, arrays, length, reverse)
        last = len(graph.carry_out) + len(graph.ys)
        first = last - graph.residuals
        return [*out[:first], *swapped(out[first:last]), *out[last:]]

    patch(interpret, "run", run)


def dropped_residual(patch: Any) -> None:
    original = adjoint_module.choose_residuals
    patch(adjoint_module, "choose_residuals", lambda graph: original(graph)[1:])


def residuals_of_zeros(patch: Any) -> None:
    real_run = interpret.run

    def run(graph: Any, arrays: Any, length: int, reverse: bool) -> Any:
        out = real_run(graph, arrays, length, reverse)
        last = len(graph.carry_out) + len(graph.ys)
        return [*out[: last - 1], out[last - 1] * 0, *out[last:]] if graph.residuals else out

    patch(interpret, "run", run)


def time_off_by_one(patch: Any) -> None:
    """The backward reads each residual of the step before."""
    original = loop_module.run_graph

    def run_graph(graph: Any, operands: Any, length: int, reverse: bool, engine: str) -> Any:
        if graph.row_classes is not None:
            sequences = slice(len(graph.carry_in), len(graph.carry_in) + len(graph.xs))
            operands[sequences] = [ops.concatenate([x[:1], x[:-1]]) for x in operands[sequences]]
        return original(graph, operands, length, reverse, engine)

    patch(loop_module, "run_graph", run_graph)


def backward_in_the_forward_direction(patch: Any) -> None:
    original = loop_module.run_graph

    def run_graph(graph: Any, operands: Any, length: int, reverse: bool, engine: str) -> Any:
        return original(graph, operands, length, reverse != (graph.row_classes is not None), engine)

    patch(loop_module, "run_graph", run_graph)


def ignored_mask(patch: Any) -> None:
    patch(scan_module._Masked, "__call__", lambda self, carry, valid_and_x: self.step(carry, valid_and_x[1]))


def carry_that_is_not_held(patch: Any) -> None:
    original = scan_module._Masked.__call__
    select = scan_module.elementwise.select

    def call(self: Any, carry: Any, valid_and_x: Any) -> Any:
        patch(scan_module.elementwise, "select", lambda c, a, b: a if isinstance(b, type(a)) else select(c, a, b))
        try:
            return original(self, carry, valid_and_x)
        finally:
            patch(scan_module.elementwise, "select", select)

    patch(scan_module._Masked, "__call__", call)


def outputs_that_are_not_held(patch: Any) -> None:
    patch(scan_module, "hold", lambda ys, valid, reverse: ys)


def outputs_held_in_the_wrong_direction(patch: Any) -> None:
    original = scan_module.hold
    patch(scan_module, "hold", lambda ys, valid, reverse: original(ys, valid, not reverse))


def rows_taken_for_separate(patch: Any) -> None:
    """Nodes that mix rows are run on all time steps at once."""
    original = rows.classify

    def classify(graph: Any) -> Any:
        return {key: ROWS if kind == MIXED else kind for key, kind in original(graph).items()}

    patch(split, "classify", classify)


def per_step_values_taken_for_constant(patch: Any) -> None:
    original = split._levels

    def levels(graph: Any) -> Any:
        return {key: max(level - 1, 0) for key, level in original(graph).items()}

    patch(split, "_levels", levels)


def sums_that_leave_the_first_step_out(patch: Any) -> None:
    real_run = interpret.run

    def run(graph: Any, arrays: Any, length: int, reverse: bool) -> Any:
        out = real_run(graph, arrays, length, reverse)
        if not graph.sums or length < 2:
            return out
        carries, xs = len(graph.carry_in), len(graph.xs)
        parts = [*arrays[:carries], *[a[1:] for a in arrays[carries : carries + xs]], *arrays[carries + xs :]]
        shorter = real_run(graph, parts, length - 1, reverse)
        return [*out[: -len(graph.sums)], *shorter[-len(graph.sums) :]]

    patch(interpret, "run", run)


def cotangents_off_by_a_thousandth(patch: Any) -> None:
    original = loop_module._vjp

    def vjp(*args: Any, **params: Any) -> Any:
        return [None if ct is None else ct * 1.001 for ct in original(*args, **params)]

    patch(loop_module, "_vjp", vjp)
    object.__setattr__(loop_module._scan, "vjp", vjp)


def forgotten_cotangent_of_the_carry(patch: Any) -> None:
    original = loop_module._vjp

    def vjp(cts: Any, *args: Any, graph: Any, **params: Any) -> Any:
        return original([None] * len(graph.carry_out) + list(cts)[len(graph.carry_out) :], *args, graph=graph, **params)

    object.__setattr__(loop_module._scan, "vjp", vjp)


BUGS = {
    swapped_carry_cotangents: "lstm",
    swapped_residuals: "lstm",
    dropped_residual: "lstm",
    residuals_of_zeros: "attention",
    time_off_by_one: "lstm",
    backward_in_the_forward_direction: "attention",
    ignored_mask: "lstm masked",
    carry_that_is_not_held: "lstm masked",
    outputs_that_are_not_held: "attention masked",
    outputs_held_in_the_wrong_direction: "lstm masked",
    rows_taken_for_separate: "mixing",
    per_step_values_taken_for_constant: "lstm",
    sums_that_leave_the_first_step_out: "lstm",
    cotangents_off_by_a_thousandth: "lstm",
    forgotten_cotangent_of_the_carry: "mixing",
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    rule = loop_module._scan.vjp
    bug(monkeypatch.setattr)
    try:
        assert BUGS[bug] in found_by_the_battery()
    finally:
        object.__setattr__(loop_module._scan, "vjp", rule)
