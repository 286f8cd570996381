"""Random steps: the numpy engine agrees with the reference loop, forward, backward and backward again."""

from __future__ import annotations

import functools
import importlib
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirnn.stepgraph.passes import PASSES, only_passes

from .agreement import disagreement, results
from .random_steps import RandomStep, random_steps

scan_module = importlib.import_module("minirnn.scan")
SUBSETS = st.lists(st.sampled_from(PASSES), unique=True)
EXAMPLES = settings(max_examples=100)


def assert_engines_agree(drawn: RandomStep, **options: Any) -> None:
    common = {key: value for key, value in options.items() if key in ("reverse", "mask")}
    wanted = results(drawn, engine="reference", **common)
    got = results(drawn, engine="numpy", **options)
    assert disagreement(got, wanted) == {}


@EXAMPLES
@given(random_steps(), st.booleans(), st.one_of(st.none(), st.integers(1, 5)))
def test_engines_agree(drawn: RandomStep, reverse: bool, checkpoint: int | None) -> None:
    assert_engines_agree(drawn, reverse=reverse, checkpoint=checkpoint)


@st.composite
def masks(draw: Any, length: int, batch: int) -> np.ndarray:
    kind = draw(st.sampled_from(["all", "none", "padded", "any"]))
    if kind in ("all", "none"):
        return np.full((length, batch), kind == "all")
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if kind == "padded":
        return np.arange(length)[:, None] < rng.integers(0, length + 1, batch)
    return rng.random((length, batch)) < draw(st.sampled_from([0.2, 0.6, 0.9]))


@EXAMPLES
@given(random_steps(masked=True), st.booleans(), st.one_of(st.none(), st.integers(1, 5)), st.data())
def test_engines_agree_on_masked_steps(
    drawn: RandomStep, reverse: bool, checkpoint: int | None, data: st.DataObject
) -> None:
    mask = data.draw(masks(drawn.length, drawn.batch))
    assert_engines_agree(drawn, reverse=reverse, checkpoint=checkpoint, mask=mask)


@EXAMPLES
@given(random_steps(masked=True), st.booleans(), st.booleans(), SUBSETS, st.data())
def test_any_subset_of_the_passes_agrees(
    drawn: RandomStep, reverse: bool, masked: bool, names: list[str], data: st.DataObject
) -> None:
    mask = data.draw(masks(drawn.length, drawn.batch)) if masked else None
    with only_passes(*names):
        assert_engines_agree(drawn, reverse=reverse, mask=mask)


@EXAMPLES
@given(random_steps(masked=True), st.booleans(), st.data())
def test_keeping_only_the_carry_agrees(drawn: RandomStep, masked: bool, data: st.DataObject) -> None:
    mask = data.draw(masks(drawn.length, drawn.batch)) if masked else None
    wanted = results(drawn, engine="reference", mask=mask)
    with mock.patch.object(scan_module, "_traced", functools.partial(scan_module._traced, keep="carry")):
        got = results(drawn, engine="numpy", mask=mask)
    assert disagreement(got, wanted) == {}


# Found by longer runs of the tests above: in masked steps, what rows that see each other send into masked rows.
ROWS_OF_VALUES_WITHOUT_ROWS = [
    ([(6,)], [], [(6, 3), (6, 2, 3)], [("contract", "bd,bkd->bk", 1, 2), ("mix", "centred", 3)], [0], [4]),
    ([], [(6, 7)], [(6, 1)], [("binary", "add", 0, 1), ("mix", "centred", 1)], [], [2, 3]),
]


@pytest.mark.parametrize("description", ROWS_OF_VALUES_WITHOUT_ROWS)
def test_values_without_rows_in_masked_steps(description: Any) -> None:
    drawn = RandomStep(6, 4, *description, id_count=None, seed=0)
    assert_engines_agree(drawn, mask=np.arange(4)[:, None] < np.array([4, 3, 2, 1, 1, 0]))
