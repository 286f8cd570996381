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


class Chunk(NamedTuple):
    """The lines of a part, of which barriers and other lines are put in front."""

    phase: Phase
    lines: list[str]

    @property
    def indent(self) -> str:
        """The space before its first line."""
        first = self.lines[0]
        return first[: len(first) - len(first.lstrip())]


def chunks_of(text: CudaText, parts: Iterable[Part]) -> list[Chunk]:
    """The lines that parts print, each apart."""
    found = []
    for part in parts:
        before, text.lines = text.lines, []
        part.show()
        found.append(Chunk(part.phase, text.lines))
        text.lines = before
    return found


def print_chunks(text: CudaText, chunks: list[Chunk], repeats: bool, first: int = 0) -> None:
    """Lines with the barriers that they need; from number `first` on in a loop over steps if it `repeats`."""
    barriers = needed([chunk.phase for chunk in chunks], repeats, first)
    for k, chunk in enumerate(chunks):
        if k in barriers:
            text.lines.append(chunk.indent + ("grid.sync()" if barriers[k] == GRID else "cuda.syncthreads()"))
        text.lines += chunk.lines


def print_parts(text: CudaText, parts: list[Part], repeats: bool) -> None:
    """The lines of all parts, with the barriers that they need; `repeats`: they stand in a loop over steps."""
    print_chunks(text, chunks_of(text, parts), repeats)
