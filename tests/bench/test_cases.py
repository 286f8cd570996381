"""The grids are those that were agreed on, and the count of multiply-adds is that of the products really made."""

from __future__ import annotations

import math
from typing import Any

import pytest

import minirnn as mr
from minirnn.bench import cases
from minirnn.bench.cases import Case
from minirnn.bench.contestants import Work


def sizes(grid: str) -> set[tuple[str, int, int, bool]]:
    return {(case.cell, case.batch, case.units, case.training) for case in cases.GRIDS[grid]}


def ratios(grid: str, **chosen: Any) -> set[float]:
    found = [c for c in cases.GRIDS[grid] if all(getattr(c, name) == value for name, value in chosen.items())]
    assert found
    return {target.ratio for case in found for target in case.targets}


def test_the_grids_are_complete() -> None:
    three = ("simple_rnn", "gru", "lstm")
    assert sizes("sequence") == {(c, 1, h, False) for c in three for h in (16, 32, 64, 128, 256, 512)}
    assert sizes("batch") == {(c, b, h, False) for c in three for b in (16, 64) for h in (64, 128, 256, 512)}
    assert sizes("training") == {(c, b, h, True) for c in three for b in (1, 16, 64) for h in (64, 128, 256)}
    pairs = ((1, 64), (16, 128), (64, 256))
    assert sizes("own") == {(c, b, h, t) for c in cases.OWN for b, h in pairs for t in (False, True)}
    assert sizes("stream") == {(c, 1, 64, False) for c in ("gru", "lstm")}
    assert sizes("images") == {("conv_lstm", 4, 16, True)} and cases.GRIDS["images"][0].steps == 10
    assert {case.steps for grid in cases.ALL if grid != "images" for case in cases.GRIDS[grid]} == {100}


def test_targets() -> None:
    assert ratios("sequence", units=32) == {1.5} and ratios("sequence", units=64) == {1.3}
    assert ratios("batch", cell="lstm") == {1.0}
    assert ratios("batch", cell="gru", units=256) == {1.5} and ratios("batch", cell="simple_rnn", units=512) == {1.2}
    assert ratios("training", cell="lstm", batch=1) == {1.5} and ratios("training", cell="lstm", batch=16) == {1.0}
    assert ratios("training", cell="gru") == {2.0}
    assert ratios("own", batch=1) == {2.5, 20.0} and ratios("own", batch=16, training=True) == {2.5, 6.0}
    assert ratios("own", batch=64, training=False) == {1.5} and ratios("own", batch=64, training=True) == {2.5}
    assert ratios("stream") == {5.0} and ratios("images") == {1.0}


def made(case: Case) -> int:
    """The multiply-adds of all products that the reference engine makes for a case."""
    work, found = Work(case), 0
    with mr.engine("reference"), mr.Tape() as tape:
        work.train() if case.training else work.call()
    for node in tape.nodes:
        if node.primitive.name == "contract":
            left, right = node.params["spec"].split("->")[0].split(",")
            extents = dict(zip(left + right, node.inputs[0].shape + node.inputs[1].shape, strict=True))
            found += math.prod(extents.values())
    return found


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("cell", [*cases.CELLS, "conv_lstm"])
def test_multiply_adds_are_those_of_the_products(cell: str, training: bool) -> None:
    # Of one more step: in the first one the initial states need no gradient.
    five, four = (Case("own", cell, 3, 7, (), training, steps) for steps in (5, 4))
    assert made(five) - made(four) == five.multiply_adds - four.multiply_adds


def test_quick_keeps_the_smallest_of_each_cell() -> None:
    found = cases.chosen("training", quick=True)
    assert [(case.cell, case.batch, case.units) for case in found] == [(c, 1, 64) for c in cases.BUILT_IN]
    assert {case.cell for case in cases.chosen("all", ("gru",))} == {"gru"}
