"""Products that a kernel shares out to helpers: the same bits, whoever comes, and nobody waits for ever."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import config, ops
from minirnn.kernels import build, contract, rates, teamwork, threads
from minirnn.kernels.build import library_function
from minirnn.kernels.heavy import lower
from minirnn.stepgraph import trace
from tests.stepgraph.steps import numbers
from tests.stepgraph.test_graph import graph_of

from . import same_bits_cases as cases
from .same_bits_cases import differing, forward, gradients, rows
from .test_threads import forget_workers

if build.JIT_OFF:
    pytest.skip("without the JIT kernels run alone", allow_module_level=True)

MANY = 20  # seconds after which a test has failed
SUBJECTS = [("lstm", "float32"), pytest.param("gru", "float64", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Products of any size are shared out, to threads of any number; which kernels had a team."""
    seen: list[Any] = []
    run = teamwork.run
    monkeypatch.setattr(teamwork, "_WORTH_HELP", 1)
    monkeypatch.setattr(teamwork, "_WORTH_A_TEAM", 1)
    monkeypatch.setattr(teamwork, "_WITHOUT", 0.0)
    monkeypatch.setattr(config, "usable_cores", lambda: 8)
    monkeypatch.setattr(teamwork, "run", lambda kernel, wish: (seen.append(wish), run(kernel, wish)))
    # With layers and kernels of their own.
    monkeypatch.setattr(cases, "layer", cases.layer.__wrapped__)
    monkeypatch.setattr(trace, "_cache", OrderedDict())
    with mr.engine("cpu"):
        yield seen


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Have `cases.layer` give one layer, that it makes now."""

    def fix(name: str, dtype: str) -> None:
        layer = cases.layer(name, dtype)
        monkeypatch.setattr(cases, "layer", lambda *_: layer)

    return fix


@pytest.mark.parametrize("name, dtype", SUBJECTS)
def test_a_row_has_the_same_bits_with_any_number_of_helpers(
    name: str, dtype: str, runs: list[Any], fixed: Callable[[str, str], None]
) -> None:
    fixed(name, dtype)
    for length in (1, 7, 40):
        given = rows(name, dtype, 1, length)
        with mr.threads(1):
            wanted = {**forward(name, dtype, given), **gradients(name, dtype, given)}
        assert runs == []
        for count in (2, 3, 8):
            with mr.threads(count):
                for _ in range(5):
                    assert differing({**forward(name, dtype, given), **gradients(name, dtype, given)}, wanted) == []
            assert len(runs) >= 15 and {str(wish.dtype) for wish in runs} == {dtype}  # forward, twice, and backward
            runs.clear()


def test_rows_that_mix_have_the_same_bits_with_helpers(runs: list[Any]) -> None:
    weights = mr.Tensor(cases.numbers("float32", 70, 150))

    def step(h: Any, x: Any) -> Any:
        z = ops.tanh(ops.concatenate([h - ops.mean(h, axis=0, keepdims=True), x], axis=1) @ weights)
        return z[:, :50], z[:, 50:]

    h, xs = cases.numbers("float32", 5, 50), cases.numbers("float32", 30, 5, 20)
    with mr.threads(1):
        wanted = mr.scan(step, h, xs)
    with mr.threads(3):
        made = mr.scan(step, h, xs)
    assert len(runs) == 1 and all(cases.same(a, b) for a, b in zip(made, wanted, strict=True))


def test_rows_that_can_be_shared_out_have_no_helpers(runs: list[Any]) -> None:
    with mr.threads(2):
        forward("lstm", "float32", rows("lstm", "float32", 2, 9))
    assert runs == []


def test_who_wants_help(monkeypatch: pytest.MonkeyPatch) -> None:
    lowering = lower(graph_of("lstm"))
    assert teamwork.wanted(lowering, 1, True) == teamwork.wanted(lowering, 1, False)
    assert teamwork.wanted(lowering, 2, True) is None
    help_ = teamwork.wanted(lowering, 2, False)
    assert help_ is not None and help_.dtype == "float64" and help_.steps <= 1
    assert teamwork.wanted(lower(graph_of("simple_rnn", "backward")), 1, False) is not None
    monkeypatch.setattr(teamwork, "_WORTH_HELP", 10**6)
    assert teamwork.wanted(lowering, 1, False) is None


def test_products_of_two_dtypes_have_no_helpers() -> None:
    one, other = numbers(4, 4), numbers(4, 4).astype("float32")

    def step(h: Any, x: Any) -> Any:
        return h @ one + ops.cast(ops.cast(x, "float32") @ other, "float64"), None

    graph = mr.step_graph(step, np.zeros((1, 4)), np.zeros((3, 1, 4)))
    assert teamwork.wanted(lower(graph), 1, False) is None


# who comes and goes ------------------------------------------------------------------------------
@library_function
def _products(a: Any, panels: Any, out: Any, rows: int, inner: int, columns: int, team: int, turn: int) -> None:
    contract.product(a, 0, inner, 1, panels, 0, out, 0, columns, rows, inner, columns, turn, team)


@pytest.mark.parametrize("count, columns", [(2, 300), (3, 64), (3, 65), (4, 1000)])
@pytest.mark.parametrize("height", [1, 6])
def test_helpers_compute_shares(height: int, count: int, columns: int) -> None:
    """Until all have, the product is repeated, each time into memory that shows what is missing."""
    inner, dtype = 100, "float32"
    a, b = cases.numbers(dtype, height * inner), cases.numbers(dtype, inner * columns)
    panels = contract.aligned_empty(contract.packed_size(inner, columns, dtype), dtype)
    rates._pack_once(b, panels, inner, columns)
    out, wanted = np.empty((2, height * columns), dtype)
    teamwork._prepare(np.dtype(dtype))
    _products(a, panels, wanted, height, inner, columns, 0, 1)
    finished: set[int] = set()

    def kernel(address: int) -> None:
        memory = np.ctypeslib.as_array((ctypes.c_int64 * (24 + 8 * count)).from_address(address))
        deadline = time.monotonic() + MANY
        while len(finished) < count - 1 and time.monotonic() < deadline:
            out[:] = np.nan
            memory[2] = memory[20] = 0  # on a busy machine a helper may come late or have been held up
            _products(a, panels, out, height, inner, columns, address, 1)
            assert cases.same(out, wanted)
            finished.update(k for k in range(1, count) if memory[24 + 8 * k + 1])

    with mr.threads(count):
        teamwork.run(kernel, teamwork.Help(np.dtype(dtype), 1, count))
    assert finished == set(range(1, count))


def test_helpers_that_do_not_come_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, runs: list[Any], fixed: Callable[[str, str], None]
) -> None:
    fixed("lstm", "float32")
    given = rows("lstm", "float32", 1, 20)
    with mr.threads(1):
        wanted = forward("lstm", "float32", given)
    forget_workers()
    monkeypatch.setattr(threads._Worker, "run", lambda self: None)
    with mr.threads(3):
        assert differing(forward("lstm", "float32", given), wanted) == []
    assert len(runs) == 1
    threads._count = 0


def test_after_helpers_were_held_up_twice_there_are_no_teams_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The helper comes back late with its share: it is played by a thread that claims one and rests."""
    monkeypatch.setattr(teamwork, "_WITHOUT", 100.0)
    monkeypatch.setattr(teamwork, "_held_up", 0)
    monkeypatch.setattr(teamwork, "_without_until", 0.0)
    real, late = teamwork._help, threading.Event()

    def help_late(like: Any, address: int, share: int) -> None:
        memory = np.ctypeslib.as_array((ctypes.c_int64 * 48).from_address(address))
        memory[32] = 1  # the first product's share is claimed
        late.set()
        time.sleep(0.2)
        memory[33] = 1  # and computed
        real(like, address, share)

    def kernel(address: int) -> None:
        a, panels, out = (contract.aligned_empty(n, "float32") for n in (64, 64 * 128, 128))
        late.wait(MANY)
        _products(a, panels, out, 1, 64, 128, address, 1)

    teamwork._prepare(np.dtype("float32"))
    _products(*(contract.aligned_empty(n, "float32") for n in (64, 64 * 128, 128)), 1, 64, 128, 0, 1)
    monkeypatch.setattr(teamwork, "_help", help_late)
    with mr.threads(2):
        for _ in range(2):
            assert teamwork.at_hand()
            late.clear()
            teamwork.run(kernel, teamwork.Help(np.dtype("float32"), 1, 2))
        assert not teamwork.at_hand()


def test_a_helper_that_comes_late_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    real, called, came = teamwork._help, threading.Event(), threading.Event()

    def help_late(like: Any, address: int, share: int) -> None:
        called.wait(MANY)
        came.set()
        real(like, address, share)

    def kernel(address: int) -> None:
        a, panels, out = (contract.aligned_empty(n, "float32") for n in (64, 64 * 128, 128))
        memory = np.ctypeslib.as_array((ctypes.c_int64 * 40).from_address(address))
        for turn in range(400):
            _products(a, panels, out, 1, 64, 128, address, turn)
        assert 33 < memory[0] < 400  # the products that were shared: by and by not all of them
        called.set()
        came.wait(MANY)
        deadline = time.monotonic() + MANY
        while memory[20] > 32 and time.monotonic() < deadline:
            turn += 1
            _products(a, panels, out, 1, 64, 128, address, turn)
        taken.append(memory[20] <= 32)

    taken: list[Any] = []
    teamwork._prepare(np.dtype("float32"))
    monkeypatch.setattr(teamwork, "_help", help_late)
    with mr.threads(2):
        teamwork.run(kernel, teamwork.Help(np.dtype("float32"), 1, 2))
    assert taken == [True]


def test_helpers_leave_a_kernel_that_fails() -> None:
    def kernel(address: int) -> None:
        time.sleep(0.01)
        raise ValueError("wrong")

    wish = teamwork.Help(np.dtype("float32"), 1, 3)
    for _ in range(3):
        with mr.threads(3), pytest.raises(ValueError, match="wrong"):
            teamwork.run(kernel, wish)


def test_several_threads_may_call_at_once(fixed: Callable[[str, str], None], runs: list[Any]) -> None:
    fixed("gru", "float64")
    given = [rows("gru", "float64", 1, 20, seed=seed) for seed in range(4)]
    with mr.threads(1):
        wanted = [forward("gru", "float64", each) for each in given]
    wrong: list[Any] = []

    def call(number: int) -> None:
        with mr.engine("cpu"), mr.threads(3):
            for _ in range(20):
                wrong.extend(differing(forward("gru", "float64", given[number]), wanted[number]))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(MANY)
    assert not any(caller.is_alive() for caller in callers) and wrong == [] and len(runs) == 80


# in processes of their own -----------------------------------------------------------------------
CODE = """
import os
import numpy as np
import minirnn as mr
from minirnn import config
from minirnn.kernels import teamwork
from tests.kernels import same_bits_cases as cases

teamwork._WORTH_HELP = teamwork._WORTH_A_TEAM = 1
teamwork._WITHOUT = 0.0
config.usable_cores = lambda: 8
mr.engine("cpu")
given = cases.rows("lstm", "float32", 1, 30)
with mr.threads(1):
    wanted = cases.forward("lstm", "float32", given)

def check(times):
    with mr.threads(3):
        for _ in range(times):
            assert cases.differing(cases.forward("lstm", "float32", given), wanted) == []
"""


def output(code: str) -> str:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-c", CODE + code]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=6 * MANY)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_a_fork_both_have_helpers() -> None:
    code = """
check(3)
child = os.fork()
check(3)
if child == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert output(code) == "7"


@pytest.mark.slow
def test_on_a_busy_machine_it_ends() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        assert output("check(40); print('end')") == "end"
    finally:
        for process in busy:
            process.kill()
            process.wait()
