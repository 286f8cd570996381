"""Random steps: the numpy engine agrees with the reference loop, forward, backward and backward again."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from .agreement import disagreement, results
from .random_steps import RandomStep, random_steps

EXAMPLES = settings(max_examples=60)


def assert_engines_agree(drawn: RandomStep, reference: dict[str, Any] | None = None, **options: Any) -> None:
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
