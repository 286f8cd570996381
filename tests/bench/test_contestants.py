"""Nobody is timed on other work: every contestant is checked, and the check notices planted bugs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minirnn.bench import cases, contestants
from minirnn.bench.cases import Case
from minirnn.bench.contestants import Contestant, Disagreement, Work
from minirnn.errors import MinirnnError


def small(cell: str, training: bool) -> Case:
    return Case("own", cell, batch=2, units=3, targets=(), training=training, steps=5)


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("cell", [*cases.CELLS, "conv_lstm"])
def test_numpy_engine_agrees(cell: str, training: bool) -> None:
    work = Work(small(cell, training))
    expected = work.expected()
    (ours,) = contestants.of(work, ("numpy",), (), threads=1)
    contestants.check(ours, expected)
    if training:
        assert [g.shape for g in expected] == [v.shape for v in work.variables]
        assert all(np.abs(g).max() > 0 for g in expected)
    else:
        images = cases.IMAGE if cell == "conv_lstm" else ()
        assert [y.shape for y in expected] == [(2, 5, *images, 3)]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_streaming_agrees_and_may_be_asked_twice(cell: str) -> None:
    case = Case("stream", cell, batch=1, units=3, targets=())
    work = Work(case)
    ours = work.on("numpy")
    for _ in range(2):
        ours.run()
        contestants.check(ours, work.expected())


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("cell", cases.CELLS)
def test_swapped_gates_are_noticed(cell: str, training: bool) -> None:
    work = Work(small(cell, training))
    expected = work.expected()
    name = "recurrent_kernel"
    variable = next(v for v in work.variables if v.name == name)
    variable.assign(np.roll(variable.numpy(), 3 if variable.shape[1] > 3 else 1, axis=1))
    with pytest.raises(Disagreement, match="numpy"):
        contestants.check(work.on("numpy"), expected)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([np.ones((2, 3))], "1 results"),
        ([np.ones((2, 3)), np.ones(4)], "result 1"),
        ([np.ones((2, 3)), np.array([1.0, 1.0, 1.0002])], "result 1"),
        ([np.full((2, 3), np.nan), np.ones(3)], "result 0"),
    ],
)
def test_what_counts_as_something_else(found: list[Any], message: str) -> None:
    expected = [np.ones((2, 3)), np.ones(3)]
    contestants.check(Contestant("same", "us", list, lambda: [e + 5e-5 for e in expected]), expected)
    with pytest.raises(Disagreement, match="somebody") as caught:
        contestants.check(Contestant("somebody", "peer", list, lambda: found), expected)
    assert message in str(caught.value) and isinstance(caught.value, MinirnnError)


def test_weights_differ_everywhere() -> None:
    for cell in cases.CELLS:
        for array in Work(small(cell, False)).weights:
            assert len(np.unique(array)) == array.size, cell
