"""Pieces shared out to threads: all done once, errors told, no thread too many, nobody waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from minirnn import config
from minirnn.kernels import build, threads

ROOT = Path(__file__).parents[2]
MANY = 20  # seconds after which a test has failed


@pytest.fixture(autouse=True)
def _no_workers_yet() -> None:
    forget_workers()


def forget_workers() -> None:
    """As at a process's start, once all are asleep."""
    while len(threads._idle) < threads._count:
        time.sleep(0.001)
    threads._idle.clear()
    threads._count = 0


class Meeting:
    """Pieces that all return only when `size` threads are in one at the same time."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.seen: list[threading.Thread] = []

    def __call__(self, *_: object) -> None:
        self.seen.append(threading.current_thread())
        self.barrier.wait(MANY)


def pieces(n: int) -> list[tuple[int]]:
    return [(i,) for i in range(n)]


@pytest.mark.parametrize("n", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_piece_runs_once_and_the_first_in_the_calling_thread(count: int, n: int) -> None:
    seen: list[tuple[int, threading.Thread]] = []
    with config.threads(count):
        for _ in range(20):
            seen.clear()
            threads.run(lambda i: seen.append((i, threading.current_thread())), pieces(n))
            assert sorted(i for i, _ in seen) == list(range(n))
            assert (0, threading.current_thread()) in seen or n == 0
    assert threads._count <= count - 1


def test_pieces_run_at_the_same_time() -> None:
    with config.threads(3):
        meeting = Meeting(3)
        threads.run(meeting, pieces(3))
        assert len(set(meeting.seen)) == 3
        again = Meeting(3)
        threads.run(again, pieces(3))
        assert set(again.seen) == set(meeting.seen)


def test_one_thread_starts_none() -> None:
    before = threading.active_count()
    seen: list[threading.Thread] = []
    with config.threads(1):
        threads.run(lambda i: seen.append(threading.current_thread()), pieces(9))
    assert set(seen) == {threading.current_thread()} and threading.active_count() == before


def test_workers_are_as_many_as_were_asked_for_last() -> None:
    with config.threads(2):
        threads.run(Meeting(2), pieces(2))
    assert threads._count == 1
    with config.threads(4):
        threads.run(Meeting(4), pieces(4))
    assert threads._count == 3
    with config.threads(2):
        meeting = Meeting(1)
        threads.run(meeting, pieces(30))
    assert len(set(meeting.seen)) <= 2


def test_a_worker_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads._Worker, "run", lambda self: None)
    seen: list[int] = []
    with config.threads(3):
        threads.run(seen.append, pieces(5))
    assert seen == [0, 1, 2, 3, 4] and not threads._jobs
    threads._count = 0


def all_asleep() -> None:
    """Have one worker, and wait until it sleeps."""
    with config.threads(2):
        threads.run(Meeting(2), pieces(2))
    while len(threads._idle) < threads._count:
        time.sleep(0.001)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not say where a thread may run")
def test_a_worker_is_woken_on_another_core(monkeypatch: pytest.MonkeyPatch) -> None:
    all_asleep()
    (worker,) = threads._idle
    chosen: list[tuple[int | None, set[int]]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    monkeypatch.setattr(os, "sched_setaffinity", lambda number, cores: chosen.append((number, cores)))
    for here in (5, 5, 3):
        monkeypatch.setattr(threads, "_core_in_use", lambda here=here: here)
        all_asleep()
    assert chosen == [(worker.native_id, {3, 7}), (worker.native_id, {5, 7})]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not say where a thread may run")
@pytest.mark.parametrize("error", [OSError, PermissionError])
def test_a_system_that_lets_nobody_choose_a_core(monkeypatch: pytest.MonkeyPatch, error: type[OSError]) -> None:
    def refuse(number: int, cores: set[int]) -> None:
        raise error

    all_asleep()
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    monkeypatch.setattr(threads, "_core_in_use", lambda: 0)
    all_asleep()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not say where a thread may run")
def test_the_caller_may_still_run_everywhere() -> None:
    before = os.sched_getaffinity(0)
    all_asleep()
    all_asleep()
    assert os.sched_getaffinity(0) == before


def test_a_system_without_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads._Worker, "start", refused)
    seen: list[int] = []
    with config.threads(3):
        threads.run(seen.append, pieces(5))
    assert seen == [0, 1, 2, 3, 4] and threads._count == 0


@pytest.mark.skipif(build.JIT_OFF, reason="nothing is compiled")
def test_workers_wait_awake_where_each_has_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, awake in ((3, True), (2, False)):
        forget_workers()
        monkeypatch.setattr(config, "usable_cores", lambda cores=cores: cores)
        with config.threads(3):
            for _ in range(20):
                threads.run(Meeting(3), pieces(3))
        assert (threads._looks > 0) == awake


# errors -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["caller", "worker"])
@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_errors_are_raised_when_every_thread_has_stopped(where: str, error: BaseException) -> None:
    together, running, seen = threading.Barrier(2), threading.Event(), []

    def piece(i: int) -> None:
        seen.append(i)
        if i > 1:
            return
        together.wait(MANY)
        if (where == "caller") == (i == 0):
            running.wait(MANY)
            raise error
        running.set()
        time.sleep(0.02)
        seen.append("done")

    with config.threads(2), pytest.raises(type(error)) as caught:
        threads.run(piece, pieces(40))
    assert caught.value is error and "done" in seen
    with config.threads(2):
        threads.run(Meeting(2), pieces(2))  # the worker is still good


def test_ctrl_c_waits_for_what_has_begun() -> None:
    """In a process of its own: the worker's piece ends although Ctrl-C comes while its caller waits for it."""
    code = """
import os, signal, threading, time
from minirnn import config
from minirnn.kernels import build, threads
begun, done = threading.Event(), []
def piece(i):
    if i == 0:
        begun.wait()
    else:
        begun.set()
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        done.append(i)
signal.signal(signal.SIGINT, signal.default_int_handler)
config.threads(2)
try:
    threads.run(piece, [(0,), (1,)])
except KeyboardInterrupt:
    print("interrupted", done)
"""
    if os.name == "posix":
        assert output(code) == "interrupted [1]"
    assert signal.getsignal(signal.SIGINT) is not None


# several callers, pieces that call, forks, the end ------------------------------------------------------
def test_several_threads_may_call_at_once() -> None:
    results: dict[int, list[int]] = {n: [] for n in range(6)}

    def call(n: int) -> None:
        for _ in range(50):
            threads.run(results[n].append, pieces(n))

    with config.threads(3):
        pass
    callers = [threading.Thread(target=call, args=(n,)) for n in results]
    config.threads(3)
    try:
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(MANY)
    finally:
        config._threads.process_value = None
    assert all(sorted(got) == sorted([*range(n)] * 50) for n, got in results.items())
    assert threads._count <= 2


def test_pieces_may_share_out_pieces() -> None:
    seen: list[tuple[int, int]] = []

    def outer(i: int) -> None:
        threads.run(lambda j: seen.append((i, j)), pieces(4))

    config.threads(3)
    try:
        for _ in range(20):
            seen.clear()
            threads.run(outer, pieces(4))
            assert sorted(seen) == [(i, j) for i in range(4) for j in range(4)]
    finally:
        config._threads.process_value = None
    assert threads._count <= 2


def output(code: str, **more: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=MANY)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "compiled waiting" not in line] == []
    return done.stdout.strip()


MEETING = """
import os, threading
from minirnn import config
from minirnn.kernels import build, threads
def meet(n):
    barrier = threading.Barrier(n)
    config.threads(n)
    threads.run(lambda i: barrier.wait(20), [(i,) for i in range(n)])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_after_a_fork_the_child_has_workers_of_its_own() -> None:
    code = """
meet(3)
threads._count_lock.acquire()
child = os.fork()
if child == 0:
    meet(3)
    os._exit(7)
threads._count_lock.release()
meet(4)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert output(MEETING + code) == "7"


def test_without_the_jit() -> None:
    code = """
meet(3)
import sys
print("numba" in sys.modules)
"""
    assert output(MEETING + code, NUMBA_DISABLE_JIT="1") == "False"


def test_sleeping_and_working_threads_do_not_hold_up_the_end() -> None:
    assert output(MEETING + "meet(4); print('end')") == "end"
    working = "import time; threads.run(time.sleep, [(0,), (100,), (100,)])"
    code = f"config.threads(3); threading.Thread(target=lambda: exec({working!r}), daemon=True).start(); print('end')"
    assert output(MEETING + code) == "end"
