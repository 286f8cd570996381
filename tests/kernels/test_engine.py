"""The cpu engine agrees with the reference loop: forward, gradients and second order, whatever the step does.

By default a few kernels are compiled; the others run without the JIT in test_jit_off.py, and compiled in the slow set.
"""

from __future__ import annotations

import math
import os
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn import ops
from minirnn.errors import ShapeError
from minirnn.kernels import recycled
from minirnn.kernels.run import _fitting
from minirnn.layers import LSTM
from tests.layers.test_container_grid import GRID, SMALL, SOME, Choice, name_of, run_through
from tests.stepgraph import agreement, steps
from tests.stepgraph.random_steps import RandomStep, random_steps

from . import engine_cases as cases
from . import step_cases as _more_cases  # noqa: F401  (they enter themselves in the list)

BY_DEFAULT = [
    ("LSTM, masked", "float32"),
    ("attention, pair", "float32"),
    ("attention, 100 steps", "float32"),
    ("simple_rnn, pair", "float64"),
    ("simple_rnn, 100 steps", "float64"),
    ("choices_in_a_step", "float64"),
]
EVERY = [
    (name, dtype) for name in cases.CASES for dtype in cases.DTYPES
    if (name, dtype) not in BY_DEFAULT and (dtype == "float64" or name.endswith(("masked", "pair", "100 steps")))
]  # fmt: skip


def check(name: str, dtype: str) -> None:
    wanted = cases.evaluate(name, dtype, "reference")
    got = cases.evaluate(name, dtype, "cpu")
    assert cases.disagreement(got, wanted, cases.TOLERANCE[dtype]) == {}


@pytest.mark.parametrize("name, dtype", BY_DEFAULT)
def test_agreement_with_the_reference(name: str, dtype: str) -> None:
    check(name, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name, dtype", EVERY)
def test_agreement_of_every_case(name: str, dtype: str) -> None:
    check(name, dtype)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_inputs_in_any_layout(layout: str) -> None:
    check(f"xs: {layout}", "float64")


@settings(max_examples=25)
@given(st.integers(0, 9), st.integers(0, 40), st.integers(2, 70), st.integers(2, 70), st.booleans())
def test_one_kernel_serves_all_sizes(length: int, batch: int, features: int, units: int, reverse: bool) -> None:
    shapes = [(batch, units), (length, batch, features), (features, units), (units, units), (units,)]
    init, xs, *weights = (steps.numbers(*shape) / np.sqrt(shape[0] + 1) for shape in shapes)
    if batch == 1:  # of which another kernel is made
        init, xs = np.repeat(init, 2, 0), np.repeat(xs, 2, 1)
    made, wanted = (
        cases.of_step(steps.simple_rnn, init, xs, weights, engine=engine, reverse=reverse)
        for engine in ("cpu", "reference")
    )
    assert cases.disagreement(made, wanted, 1e-12) == {}


def test_the_checker_notices_a_small_error() -> None:
    wanted = cases.evaluate("simple_rnn, pair", "float64", "reference")
    for label, value in wanted.items():
        wrong = {**wanted, label: value + 1e-9 * (np.arange(value.size).reshape(value.shape) == value.size - 1)}
        assert [*cases.disagreement(wrong, wanted, 1e-12)] == [label]
        assert label.startswith("result") or [*cases.disagreement({**wanted, label: 0 * value}, wanted, 1e-12)]


# indices -----------------------------------------------------------------------------------------
def test_an_index_out_of_range_is_named() -> None:
    table, ids = steps.numbers(9, 4), np.random.default_rng(0).integers(0, 9, (5, 3))
    weights = mr.Tensor(table)

    def step(h: Any, x: Any) -> Any:
        h = ops.tanh(h + ops.take(weights, x, axis=0))
        return h, h

    def run(at: Any, value: int, engine: str) -> Any:
        given = ids.copy()
        given[at] = value
        return mr.scan(step, steps.numbers(3, 4), given, engine=engine)[1].numpy()

    np.testing.assert_allclose(run((0, 0), 8, "cpu"), run((0, 0), 8, "reference"), rtol=1e-13, atol=1e-13)
    for at in ((0, 0), (4, 2), (2, 1)):
        for value in (9, 1000):
            with pytest.raises(ShapeError, match="out of range") as error:
                run(at, value, "cpu")
            assert str(value) in str(error.value) and "0 .. 8" in str(error.value)


# memory ------------------------------------------------------------------------------------------
def test_memory_of_a_long_sequence_is_constant() -> None:
    """Beyond inputs and outputs: of 100,000 steps at most as much as of 10,000, and some kilobytes."""
    layer = cases.randomized(LSTM(4, return_state=True, return_sequences=True), None, None, 2)

    def beyond(steps_count: int) -> int:
        x = np.random.default_rng(0).normal(size=(1, steps_count, 2)).astype("float32")
        layer(x)  # compiles, and makes the scratch memory that stays
        recycled.forget()
        tracemalloc.start()
        y, *_ = layer(x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert y.shape == (1, steps_count, 4)
        return peak - y.numpy().nbytes

    with mr.engine("cpu"):
        short, long = beyond(10_000), beyond(100_000)
    assert long < short + 10_000 and long < 100_000


# random steps and the container's grid -----------------------------------------------------------
def check_random_step(drawn: RandomStep, **options: Any) -> None:
    wanted = agreement.results(drawn, engine="reference", **options)
    got = agreement.results(drawn, engine="cpu", **options)
    assert agreement.disagreement(got, wanted) == {}


@pytest.mark.slow
@settings(max_examples=10)
@given(random_steps(), st.booleans())
def test_random_steps_compiled(drawn: RandomStep, reverse: bool) -> None:
    check_random_step(drawn, reverse=reverse)


# Compiled with nothing cached, the whole grid takes about an hour.
COMPILED = GRID if os.environ.get("MINIRNN_WHOLE_GRID") else SOME


@pytest.mark.slow
@pytest.mark.parametrize("choice", COMPILED, ids=name_of)
def test_a_part_of_the_containers_grid_compiled(choice: Choice) -> None:
    with mr.engine("cpu"):
        run_through(choice, SMALL)


def test_an_index_outside_of_the_second_table_is_said_of_that_table() -> None:
    short, long = np.zeros((3, 2)), np.zeros((8, 2))

    def step(h: Any, i: Any) -> Any:
        h = h + ops.take(short, i[:, 0], axis=0) + ops.take(long, i[:, 1], axis=0)
        return h, h

    ids = np.array([[[2, 7]], [[0, 8]]])
    with pytest.raises(ShapeError, match="out of range") as refused:
        mr.scan(step, np.zeros((1, 2)), ids, engine="cpu")
    assert refused.value.got == 8 and "0 .. 7" in refused.value.expected


@pytest.mark.parametrize("shape", [(1, 1, 4), (5, 1, 4), (1, 3, 4), (1, 1, 1), (5, 3, 1)])
def test_cotangents_that_repeat_stay_small(shape: tuple[int, ...]) -> None:
    ct = np.broadcast_to(np.arange(math.prod(shape), dtype="float32").reshape(shape), (5, 3, 4))
    fitting = _fitting(ct, (4,))
    np.testing.assert_array_equal(fitting, ct)
    assert fitting.strides[2:] == (4,)
    assert [stride == 0 for stride in fitting.strides[:2]] == [size == 1 for size in shape[:2]]
