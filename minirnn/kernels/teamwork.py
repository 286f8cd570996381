"""Running a kernel with helpers, which look out for its products; team.py says how they share them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import config
from . import build, outline, threads
from .build import library_function
from .contract import multiply_share
from .lower import Lowering
from .program import Product, value_of
from .team import OVER, Team, claim_share, finish_share, look_again
from .tile import address
from .waiting import number_at

# Measured on two cores with a second cache of 2 MB each, float32.
_WORTH_HELP = 180_000  # multiply-adds of a product: for a row they take 6 us, and with a helper 4
# As many as take ten times as long as it takes a helper to come.
_WORTH_A_TEAM = 10_000_000
# Seconds without teams after two in turn whose helpers lost their cores to other processes, twice as many after each
# further one, but no more than 64 times: such a kernel takes some 10 ms, where one alone takes 5.  The first one means
# little: a helper just woken may begin on the caller's core.
_WITHOUT = 0.01
_MOST_DOUBLINGS = 6
_held_up, _without_until = 0, 0.0  # in turn; a time


class Help(NamedTuple):
    """What a kernel wants helpers for: products of this dtype.

    steps: the time steps from which on it pays.  shares: the most that a product is worth.
    """

    dtype: Any
    steps: float
    shares: int


def wanted(lowering: Lowering, rows: int, shareable: bool) -> Help | None:
    """What helpers are to do for a kernel whose rows cannot be shared out to threads; None if that is not worth it.

    Rows are better shared out even where weights are too large for a core's cache: of 16 rows through 4 MB of
    them 100 steps took 26 ms as 8 in each thread, 30 ms with a helper, which leaves all maps to one thread.
    """
    found = [(name, p) for name, section in lowering.sections.items() for p in section if isinstance(p, Product)]
    work = [rows * value_of(p.inner) * value_of(p.columns) for name, p in found if name == "loop"]
    if (shareable and rows > 1) or max(work, default=0) < _WORTH_HELP or len({p.out.array.dtype for _, p in found}) > 1:
        return None
    return Help(found[0][1].out.array.dtype, _WORTH_A_TEAM / sum(work), 2 * max(work) // _WORTH_HELP)


def at_hand() -> bool:
    """Whether there are other threads, and each would have a core, as far as is known."""
    enough = not build.JIT_OFF and 1 < config.current_threads() <= config.usable_cores()
    return enough and time.monotonic() >= _without_until


def run(kernel: Callable[[int], None], wish: Help) -> None:
    """Call `kernel` with the address of a team, whose helpers are the threads that `threads.run` has."""
    _prepare(wish.dtype)
    shares = min(config.current_threads(), wish.shares)
    team, like = Team(shares, _WORTH_HELP), np.empty(0, wish.dtype)

    def take_part(share: int) -> None:
        if share > 0:
            _help(like, team.address, share)
            return
        global _held_up, _without_until
        try:
            kernel(team.address)
        finally:
            team.leave()
        _held_up = _held_up + 1 if team.held_up else 0
        if _held_up > 1:
            _without_until = time.monotonic() + _WITHOUT * 2 ** min(_held_up - 2, _MOST_DOUBLINGS)

    threads.run(take_part, [(share,) for share in range(shares)])


_ready: set[str] = set()


def _prepare(dtype: Any) -> None:
    """Load or compile what a team needs besides its kernel."""
    name = np.dtype(dtype).name
    if name not in _ready:
        outline.prepare(name, ("product", "multiply_together"))
        with build._lock:
            build._compile(_help, f"void(Array({name}, 1, 'C'), int64, int64)", "helping with products")
        _ready.add(name)


@library_function
def _help(like: Any, team: int, share: int) -> None:
    """Compute a share of each product of a team until there are no more.  like: any array of the dtype."""
    number, looks = 0, 0
    while number != OVER:
        before, number = number, number_at(team)
        if number != before and claim_share(team, share, number):
            multiply_share(address(like, 0), team, share)
            finish_share(team, share, number)
            looks = 0
        else:
            looks = look_again(looks)
