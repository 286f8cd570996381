"""Nests of the loop that need no step of it are moved behind it, and only those."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minirnn import ops
from minirnn.kernels.cuda.outside import move_out
from minirnn.kernels.heavy import lower
from minirnn.kernels.program import Array, Let, Load, Nest, Product, Size, Write, along
from minirnn.scan import step_graph
from minirnn.stepgraph.graph import StepGraph

from .plans import check

ROWS, UNITS, FEATURES = 3, 5, 4
KERNEL = np.random.default_rng(0).standard_normal((UNITS, UNITS))


def graph() -> StepGraph:
    """A masked step, with outputs that have nothing to do with the carry."""

    def step(h: Any, x: Any) -> Any:
        x, chosen = x
        new = ops.tanh(h @ KERNEL + ops.where(chosen, x[:, :1], 0.0))
        return ops.where(chosen, new, h), (x * 2.0, new * x[:, :1], h + 1.0)

    xs = np.zeros((2, ROWS, FEATURES)), np.zeros((2, ROWS, 1), bool)
    return step_graph(step, np.zeros((ROWS, UNITS)), xs)


def test_what_reads_nothing_of_the_loop_moves_out() -> None:
    lowering = lower(graph())
    before, after = list(lowering.sections["loop"]), list(lowering.sections["after"])
    move_out(lowering)
    loop, behind = lowering.sections["loop"], lowering.sections["after"]
    moved = behind[: len(behind) - len(after)]
    assert moved and behind[len(moved) :] == after and {id(s) for s in [*loop, *moved]} == {id(s) for s in before}
    assert any(isinstance(s, Product) for s in loop) and any(isinstance(s, Nest) for s in loop)
    loads = [part.expression for s in moved for part in s.body if isinstance(part, Let)]
    assert {x.array.role for x in loads if isinstance(x, Load)} == {"x"}


def loop_of(reads: str, writes: Write, other: Write | Load | None = None) -> SimpleNamespace:
    """A program whose loop has one nest, and perhaps another that reads or writes something."""
    source = Load(Array("a", np.dtype("float32"), 2, reads), along("i0"))
    loop = [Nest((ROW,), [Let(0, source, None), writes])]
    if other is not None:
        loop.append(Nest((ROW,), [Let(0, other, None) if isinstance(other, Load) else other]))
    return SimpleNamespace(sections={"loop": loop, "after": []})


ROW, WORK = Size(("rows",), 3), Array("work_float32", np.dtype("float32"), 1, "work")
OVER_TIME = along("s").scaled(Size(("pace", "b0"), 3)).plus(along("i0")).shifted(Size(("at", "b0"), 0))
STACK = Write(Array("stack0", np.dtype("float32"), 2, "stack"), along("i0"), None)


@pytest.mark.parametrize(
    ("moves", "reads", "writes", "other"),
    [
        (True, "x", STACK, None),
        (True, "constant", Write(WORK, OVER_TIME, None), None),
        (False, "work", STACK, None),  # the loop has made it
        (False, "x", Write(WORK, along("i0").shifted(Size(("at", "b0"), 0)), None), None),  # of one step
        (False, "x", Write(WORK, OVER_TIME, None), Load(WORK, OVER_TIME)),
        (True, "x", Write(WORK, OVER_TIME, None), Load(WORK, along("i0").shifted(Size(("at", "b1"), 9)))),
    ],
)
def test_what_the_loop_reads_or_makes_stays(moves: bool, reads: str, writes: Write, other: Any) -> None:
    program: Any = loop_of(reads, writes, other)
    nest = program.sections["loop"][0]
    move_out(program)
    assert (nest in program.sections["after"]) == moves


def test_results_are_the_same() -> None:
    check(graph(), "step", length=3, seed=2)
