"""Pieces of work shared out to threads, for kernels that let go of the interpreter's lock while they run.

A thread that calls `run` begins with the first piece and calls workers; all of them go on with the next piece that
nobody has begun.  Nobody waits for a worker to come, only for pieces that one has begun.  So small work costs
little more than in one thread, and calls from several threads at once, or from within pieces, never wait for
each other.

A system may wake a thread on the core of the one that wakes it, although others are idle: there it would wait for
milliseconds.  So before a worker is woken, that core is taken from those on which it may run.

Measured on two cores: two equal pieces take 10 to 14 us longer than one of them, and where the worker does not
come in time 3 us longer than both in one thread.  With workers that sleep at once it is 50 to 80 us, and with
concurrent.futures 40 to 65 us.  (On another day's virtual machine the first figure was 55 to 75 us.)
"""

from __future__ import annotations

import ctypes
import os
import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .. import config
from . import build

_LOOKS = 5000  # of 15 to 40 ns each

_jobs: deque[_Job] = deque()  # each as often as a worker could come
_idle: list[_Worker] = []  # those that sleep
_count = 0  # of workers
_count_lock = allocate_lock()


def run(function: Callable[..., Any], pieces: Sequence[tuple[Any, ...]]) -> None:
    """Call `function(*piece)` for each piece, on as many threads as `config.threads` allows, and wait for all.

    The first piece runs in the calling thread, the others in any thread and order.  In other threads
    they see the settings of the process, not those of the caller's `with` blocks.  After an error
    no further piece is begun, and the first error is raised when every thread has stopped.

    >>> import numpy as np
    >>> rows = np.zeros((5, 2))
    >>> run(rows.__setitem__, [(slice(0, 3), 1), (slice(3, 5), 2)])
    >>> rows[:, 0].tolist()
    [1.0, 1.0, 1.0, 2.0, 2.0]
    """
    wanted = min(len(pieces), config.current_threads()) - 1
    if wanted < 1:
        for piece in pieces:
            function(*piece)
        return
    job = _Job(function, deque(pieces))
    try:
        first = job.pieces.popleft()
        for _ in range(wanted):
            _jobs.append(job)
            _wake_one()
        _posted.change()
        function(*first)
        job.work()
    except BaseException as error:
        job.stop(error)
    job.wait()
    with suppress(ValueError):
        while True:
            _jobs.remove(job)  # for workers that have not come, and no longer need to
    if job.error is not None:
        try:
            raise job.error
        finally:
            job.error = None  # its traceback holds this job, which would keep the arrays alive


class _Job:
    """The pieces of one call that nobody has begun, and a ticket of each worker that came."""

    def __init__(self, function: Callable[..., Any], pieces: deque[tuple[Any, ...]]) -> None:
        self.function, self.pieces = function, pieces
        self.tickets: list[_Ticket] = []
        self.error: BaseException | None = None

    def work(self) -> None:
        while self.pieces:
            try:
                piece = self.pieces.popleft()
            except IndexError:  # another thread was quicker
                return
            self.function(*piece)

    def help(self, left: _Signal) -> None:
        ticket = _Ticket(left)
        with ticket.lock:
            self.tickets.append(ticket)  # before it takes a piece: who finds no pieces left finds every ticket
            try:
                self.work()
            except BaseException as error:
                self.stop(error)
            left.change()

    def stop(self, error: BaseException) -> None:
        self.error = self.error or error
        self.pieces.clear()

    def wait(self) -> None:
        """Wait, in spite of Ctrl-C, because the workers write to the caller's arrays."""
        while True:
            try:
                for ticket in self.tickets:
                    if ticket.lock.locked():
                        ticket.left.await_change(ticket.before)
                    with ticket.lock:
                        pass
                return
            except BaseException as error:
                self.stop(error)


class _Ticket:
    """A lock that a worker holds until it has left a job, and the signal that it gives then."""

    def __init__(self, left: _Signal) -> None:
        self.lock, self.left, self.before = allocate_lock(), left, left.value


class _Signal:
    """A number that changes when something has happened."""

    def __init__(self) -> None:
        self._number = ctypes.c_int64()
        self._address = ctypes.addressof(self._number)

    @property
    def value(self) -> int:
        return self._number.value

    def change(self) -> None:
        self._number.value += 1

    def await_change(self, before: int) -> None:
        """Wait awake, but not for long."""
        _wait_awake(self._address, before, _looks)


_posted = _Signal()  # a job
_wait_awake: Callable[[int, int, int], None] = lambda address, before, looks: None  # noqa: E731
_looks = 0


def _finder_of_cores() -> Callable[[], int | None]:
    """A function that says which core the calling thread is on; None where a thread's cores cannot be chosen."""
    if not hasattr(os, "sched_setaffinity"):
        return lambda: None
    return getattr(ctypes.PyDLL(None), "sched_getcpu", lambda: None)


_core_in_use = _finder_of_cores()


class _Worker(threading.Thread):
    """A thread that works on jobs, waits awake for others, and then sleeps on a bare lock."""

    def __init__(self) -> None:
        super().__init__(name="minirnn", daemon=True)  # the process may end while it sleeps
        self.sleep = allocate_lock()
        self.sleep.acquire()
        self._avoided: int | None = None

    def run(self) -> None:
        left = _Signal()
        while True:
            before = _posted.value
            if not _jobs:
                _posted.await_change(before)
            if not _jobs:
                self._fall_asleep()
            try:
                _jobs.popleft().help(left)
            except IndexError:  # another worker was quicker
                pass

    def wake(self) -> None:
        """Wake it up, on another core than the caller's."""
        here = _core_in_use()
        if here is not None and here != self._avoided and self.native_id is not None:
            self._avoided = here
            with suppress(OSError):  # there is no other core, or it is not allowed
                os.sched_setaffinity(self.native_id, os.sched_getaffinity(0) - {here})
        self.sleep.release()

    def _fall_asleep(self) -> None:
        _idle.append(self)
        if _jobs:  # since when nobody who saw it among the idle has woken it
            with suppress(ValueError):
                _idle.remove(self)
                return
        self.sleep.acquire()


def _wake_one() -> None:
    try:
        _idle.pop().wake()
    except IndexError:
        if _count + 1 < config.current_threads():
            _start()


def _start() -> None:
    """One worker more, unless there are enough or the system has no more threads."""
    global _count, _looks, _wait_awake
    with _count_lock, suppress(RuntimeError):
        number = config.current_threads()
        if _count + 1 >= number:
            return
        if not build.JIT_OFF:
            from . import waiting

            _looks = _LOOKS if number <= config.usable_cores() else 0  # awake, it would be in another's way
            _wait_awake = waiting.compiled()
        _Worker().start()
        _count += 1


def _after_fork() -> None:
    """In the child there are no workers, and the lock may be held by a thread that is not there either."""
    global _count, _count_lock
    _jobs.clear()
    _idle.clear()
    _count, _count_lock = 0, allocate_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
