"""The parts of a printed kernel: what one prints, what it touches, and the barriers between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..program import Nest
from .barriers import GRID, Inside, Phase, accesses_of, always, needed
from .emit import print_statement
from .text import CudaText


class Part(NamedTuple):
    """A phase of a kernel and what prints it."""

    phase: Phase
    show: Callable[[], None]


def parts_of(text: CudaText, statements: Iterable[Any], inside: Inside = always) -> list[Part]:
    """One part a statement, which the threads of a block share out."""
    found = []
    for statement in statements:
        if not isinstance(statement, Nest) or statement.body:
            phase = Phase(accesses_of(statement, inside))
            found.append(Part(phase, lambda each=statement: print_statement(text, each)))  # type: ignore[misc]
    return found


def print_parts(
    text: CudaText, parts: list[Part], repeats: bool, stretches: list[tuple[int, int]] | None = None
) -> dict[int, int]:
    """The lines of all parts, with the barriers that they need; `repeats`: they stand in a loop over steps.

    stretches: gets the first line of each part, and the one after its last.
    """
    barriers = needed([part.phase for part in parts], repeats)
    for k, part in enumerate(parts):
        if k in barriers:
            text.line("grid.sync()" if barriers[k] == GRID else "cuda.syncthreads()")
        begin = len(text.lines)
        part.show()
        if stretches is not None:
            stretches.append((begin, len(text.lines)))
    return barriers
