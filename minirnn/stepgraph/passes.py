"""The passes that make a step graph faster, and the switch that leaves some of them out.

None changes a result by more than rounding, whichever of the others run; tests and people who look
for an error leave them out one by one.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

from ..errors import ArgumentError

# once: what depends on neither x nor carry runs once.  before, after: what needs no carry, and what
# only reads the loop's results, run for all time steps at once.  residuals: what is cheap to compute
# again is not kept for the backward loop.
PASSES = ("once", "before", "after", "residuals")

_active: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("passes", default=PASSES)


def active_passes() -> tuple[str, ...]:
    """The passes that steps traced here go through."""
    return _active.get()


@contextlib.contextmanager
def only_passes(*names: str) -> Iterator[None]:
    """Within the block, steps go through these passes only; raises ArgumentError for an unknown name.

    >>> with only_passes("once", "before"):
    ...     active_passes()
    ('once', 'before')
    """
    unknown = [name for name in names if name not in PASSES]
    if unknown:
        raise ArgumentError("only_passes", got=", ".join(unknown), expected="some of " + ", ".join(PASSES))
    token = _active.set(tuple(name for name in PASSES if name in names))
    try:
        yield
    finally:
        _active.reset(token)
