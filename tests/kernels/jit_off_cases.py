"""Tests that test_jit_off.py runs in a process without the JIT; by its name pytest does not collect this file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn.kernels import build
from minirnn.stepgraph.passes import PASSES, only_passes
from tests.layers.test_container_grid import GRID, Choice, Sizes, name_of, run_through
from tests.stepgraph.agreement import disagreement, results
from tests.stepgraph.random_steps import RandomStep, random_steps

from .same_bits_cases import differing

TINY = Sizes(units=3, features=2, batch=2, time=3)


def check(drawn: RandomStep, **options: Any) -> None:
    assert build.JIT_OFF
    wanted = results(drawn, engine="reference", **options)
    assert disagreement(results(drawn, engine="cpu", **options), wanted) == {}


@settings(max_examples=60)
@given(random_steps(), st.booleans(), st.one_of(st.none(), st.integers(1, 5)))
def test_random_steps(drawn: RandomStep, reverse: bool, checkpoint: int | None) -> None:
    check(drawn, reverse=reverse, checkpoint=checkpoint)


@settings(max_examples=60)
@given(random_steps(masked=True), st.booleans(), st.integers(0, 99), st.sampled_from([0.2, 0.6, 0.9]))
def test_masked_random_steps(drawn: RandomStep, reverse: bool, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((drawn.length, drawn.batch)) < share
    check(drawn, reverse=reverse, mask=mask)


@settings(max_examples=100)
@given(random_steps(), st.lists(st.sampled_from(PASSES), unique=True))
def test_any_subset_of_the_passes_gives_the_same_bits(drawn: RandomStep, names: list[str]) -> None:
    """Of the forward; derivatives are equal to rounding, as passes decide in how many sums a total is made."""
    forward, derivatives = results(drawn, order=0, engine="cpu"), results(drawn, engine="cpu")
    with only_passes(*names):
        made = results(drawn, order=0, engine="cpu")
        assert disagreement(results(drawn, engine="cpu"), derivatives) == {}
    assert differing(made, forward) == []


@pytest.mark.parametrize("choice", GRID, ids=name_of)
def test_all_of_the_containers_grid(choice: Choice) -> None:
    assert build.JIT_OFF
    with mr.engine("cpu"):
        run_through(choice, TINY)
