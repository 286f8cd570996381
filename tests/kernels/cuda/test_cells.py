"""Whole layers on the cuda engine, with kernels executed on the host: the cpu engine's bits, forward and backward."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn import config
from minirnn.errors import EngineError
from minirnn.kernels.cuda import device
from minirnn.kernels.cuda.schedule import SCHEDULES
from minirnn.layers import GRU, LSTM, SimpleRNN
from tests.kernels import engine_cases, step_cases
from tests.kernels.engine_cases import draw, of_layer, randomized
from tests.kernels.same_bits_cases import differing
from tests.stepgraph import agreement
from tests.stepgraph.random_steps import RandomStep, random_steps

from .host import HostDevice
from .sampling import some_of

assert step_cases  # which enters its cases in the list
DTYPES = ("float32", "float64")
CELLS: dict[str, tuple[Any, int]] = {
    "SimpleRNN": (SimpleRNN, 1),
    "GRU": (GRU, 1),
    "GRU reset before": (functools.partial(GRU, reset_after=False), 1),
    "LSTM": (LSTM, 2),
}
# Batch, time, features and units: more than a block of a sum and than a warp, none a multiple of anything.
SIZES = {"tiny": (2, 3, 1, 3), "small": (3, 5, 2, 4), "ragged": (5, 3, 67, 70)}


def run(cell: str, dtype: str, size: str, engine: str, order: int = 1) -> dict[str, np.ndarray]:
    """A layer backwards over time with a mask, initial states and all gradients."""
    make, count = CELLS[cell]
    batch, time, features, units = SIZES[size]
    mask = np.arange(batch * time).reshape(batch, time) % 4 != 1
    mask[1] = False
    with mr.engine(engine), mr.default_dtype(dtype):
        layer = randomized(
            make(units, return_sequences=True, return_state=True, go_backwards=True), None, None, features
        )
        scale = np.asarray(units**-0.5, dtype)
        layer.set_weights([w * scale for w in layer.get_weights()])
        states = [draw(batch, units, seed=k) for k in range(count)]
        found = of_layer(layer, draw(batch, time, features), states, order=order, mask=mask)
        return {label: np.asarray(value) for label, value in found.items()}


@functools.cache
def on_cpu(cell: str, dtype: str, size: str) -> dict[str, np.ndarray]:
    return run(cell, dtype, size, "cpu")


@pytest.fixture
def host() -> Iterator[HostDevice]:
    """A device that is not there, whose threads and blocks run in a random order."""
    with device.using(found := HostDevice(seed=7)):
        yield found


def check(cell: str, schedule: str, size: str, dtype: str, host: HostDevice) -> None:
    with config.schedule(schedule):
        made = run(cell, dtype, size, "cuda")
    assert host.launched and differing(made, on_cpu(cell, dtype, size)) == []


BY_DEFAULT = [("LSTM", "float32", "grid"), ("GRU", "float32", "block"), ("SimpleRNN", "float64", "step")]
# More weights than the registers of a block, or of one for each of the device's multiprocessors, have room for.
REFUSED = [
    ("GRU", "ragged", "float64", "block"),
    ("GRU reset before", "ragged", "float64", "block"),
    ("LSTM", "ragged", "float64", "block"),
]


@pytest.mark.parametrize(("cell", "dtype", "schedule"), BY_DEFAULT)
def test_layers_have_the_bits_of_the_cpu_engine(cell: str, dtype: str, schedule: str, host: HostDevice) -> None:
    check(cell, schedule, "ragged", dtype, host)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_order_of_threads_and_blocks_does_not_show(order: int) -> None:
    with device.using(HostDevice(seed=order)) as host:  # 0: first in line
        check("SimpleRNN", "step", "ragged", "float64", host)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell, schedule, size, dtype", some_of(itertools.product(CELLS, SCHEDULES, ["small", "ragged"], DTYPES), 6)
)
def test_every_layer_and_size(cell: str, schedule: str, size: str, dtype: str, host: HostDevice) -> None:
    if (cell, size, dtype, schedule) in REFUSED:
        with pytest.raises(EngineError, match=r"weights of [\d,]+ bytes"):
            check(cell, schedule, size, dtype, host)
    else:
        check(cell, schedule, size, dtype, host)


# other steps -------------------------------------------------------------------------------------
def check_case(name: str, dtype: str) -> None:
    wanted = engine_cases.evaluate(name, dtype, "cpu")
    made = engine_cases.evaluate(name, dtype, "cuda")
    assert differing(made, wanted) == []


def test_a_step_with_attention(host: HostDevice) -> None:
    check_case("attention, pair", "float64")


@pytest.mark.slow
@pytest.mark.parametrize("name, dtype", some_of(itertools.product(engine_cases.CASES, DTYPES), 8))
def test_every_case_of_the_cpu_engine(name: str, dtype: str, host: HostDevice) -> None:
    check_case(name, dtype)


def check_drawn(drawn: RandomStep, seed: int, **options: Any) -> None:
    wanted = agreement.results(drawn, order=1, engine="cpu", **options)
    with device.using(HostDevice(seed=seed)):
        made = agreement.results(drawn, order=1, engine="cuda", **options)
    assert differing({k: np.asarray(v) for k, v in made.items()}, {k: np.asarray(v) for k, v in wanted.items()}) == []


@settings(max_examples=3, deadline=None)
@given(random_steps(), st.booleans(), st.integers(0, 9))
def test_some_random_steps(drawn: RandomStep, reverse: bool, seed: int) -> None:
    check_drawn(drawn, seed, reverse=reverse)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(random_steps(), st.booleans(), st.integers(0, 9))
def test_random_steps(drawn: RandomStep, reverse: bool, seed: int) -> None:
    check_drawn(drawn, seed, reverse=reverse)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(random_steps(masked=True), st.integers(0, 9))
def test_random_steps_with_masks(drawn: RandomStep, seed: int) -> None:
    mask = np.random.default_rng(seed).random((drawn.length, drawn.batch)) < 0.7
    check_drawn(drawn, seed, mask=mask)


# a checker that finds nothing proves nothing ------------------------------------------------------
class _Slightly(HostDevice):
    """Its tanh is one in the last place too large."""

    def compile(self, text: str, name: str, signature: str, threads: int) -> Any:
        changed = re.sub(r"= (tanh_f64\(\w+\))", r"= \1 * (1 + 2.0**-52)", text)
        return super().compile(changed, name, signature, threads)


def test_a_wrong_last_bit_is_found() -> None:
    with device.using(_Slightly()), config.schedule("step"):
        made = run("SimpleRNN", "float64", "ragged", "cuda", order=0)
    wanted = on_cpu("SimpleRNN", "float64", "ragged")
    assert "result 0" in differing(made, {label: wanted[label] for label in made})
