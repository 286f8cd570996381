"""Which barriers a kernel needs, found from what its statements read and write.

A kernel is a row of phases, each with its accesses to memory that threads share.  Two accesses to the same
place, of which one writes, have to be kept in order: by nothing where one thread makes both, by a barrier of
the block where two threads of a block do, by one of the whole grid where two blocks do.  The loop over time
comes back to its first phase, carries alternate between two places, and what has a place for each step of
a block of time never meets itself again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..lower import Lowering
from ..program import Buffer, Chain, Fill, Gather, Let, Load, Move, Nest, Product, Reduce, Window, Write

NONE, BLOCK, GRID = 0, 1, 2  # the strength of a barrier
_STEPS = 4  # of the loop that are looked at: more than carries have places, and once around


class Access(NamedTuple):
    """What a phase does to one buffer.

    turn: 0 or 1 for what the present or the next step's place of a carry is, None if there is one place.
    owner: accesses with equal owners are made by the same thread, element by element.
    inside: whether each block touches only elements that no other block touches.
    again: whether it writes elements that another statement of the same step writes, too.
    """

    buffer: str
    writes: bool
    owner: Any
    turn: int | None = None
    clocked: bool = False
    inside: bool = True
    again: bool = False


@dataclass
class Phase:
    """Statements of a kernel between which no thread waits for another.

    inner: phases of one number (not 0) are a loop of their own, which a phase without accesses opens.
    """

    accesses: list[Access] = field(default_factory=list)
    inner: int = 0


class Region(NamedTuple):
    """The buffer that an offset of the scratch memory leads to, and what is left of the offset."""

    buffer: str
    turn: int | None
    clocked: bool
    rest: Any


def region_of(load: Load | Write) -> Region | None:
    """Where an access goes; None for memory that is only read, or only written, in a kernel."""
    if load.array.role != "work":
        return None
    buffer, turn, clocked = "", None, False
    rest: list[Any] = []
    for variable, coefficient in load.offset.terms:
        if variable.endswith(("_at_now", "_at_next")):
            buffer, _, which = variable.rpartition("_")
            turn = int(which == "next")
        elif variable == "s" and any(size.key[0] == "pace" for size in coefficient):
            clocked = True
        else:
            rest.append((variable, tuple(sorted((size.key for size in coefficient), key=str))))
    for coefficient in load.offset.constants:
        if len(coefficient) == 1 and coefficient[0].key[0] == "at":
            buffer, turn = coefficient[0].key[1], coefficient[0].key[2] if len(coefficient[0].key) > 2 else None
        else:
            rest.append(("", tuple(sorted((size.key for size in coefficient), key=str))))
    return Region(buffer, turn, clocked, tuple(sorted(rest, key=str)))


Inside = Callable[[Any, "Load | Write"], bool]


def always(statement: Any, load: Load | Write) -> bool:
    """Where blocks share nothing."""
    return True


def accesses_of(statement: Any, inside: Inside = always) -> list[Access]:
    """What a statement reads and writes of the memory that threads share.

    inside: whether the blocks that share out the statement touch different elements of what it reads or writes.
    """
    if isinstance(statement, Nest):
        return _accesses_of_nest(statement, inside)
    if isinstance(statement, Product):
        reads, writes, again = [statement.a], [statement.out], False
    elif isinstance(statement, Chain):
        reads, writes, again = [statement.a, statement.b], [statement.out], False
    elif isinstance(statement, Reduce):
        reads, writes, again = [statement.source], [statement.out], False
    elif isinstance(statement, Gather):
        other = (statement.other, statement.table) if statement.adds else (statement.table, statement.other)
        reads, writes, again = [statement.index, other[0]], [other[1]], statement.adds
    elif isinstance(statement, Window):
        other = (statement.small, statement.large) if statement.adds else (statement.large, statement.small)
        reads, writes, again = [other[0]], [other[1]], statement.adds
    elif isinstance(statement, Fill):
        reads, writes, again = [], [Load(statement.array, statement.offset)], True
    else:
        assert isinstance(statement, Move)
        reads, writes, again = [statement.source], [statement.target], False
    return _accesses(statement, reads, writes, again, inside)


def _accesses(
    statement: Any, reads: list[Load], writes: list[Load], again: bool, inside: Inside
) -> list[Access]:
    made = []
    for load in [*reads, *writes]:
        region = region_of(load)
        if region is not None:
            owner = ("statement", id(statement), region.rest)
            is_written = any(load is w for w in writes)
            alone = inside(statement, load)
            made.append(Access(region.buffer, is_written, owner, region.turn, region.clocked, alone, again))
    return made


def _accesses_of_nest(nest: Nest, inside: Inside) -> list[Access]:
    made = []
    for part in nest.body:
        load = part if isinstance(part, Write) else part.expression if isinstance(part, Let) else None
        region = region_of(load) if isinstance(load, Load | Write) else None
        if region is not None and load is not None:
            # Threads share out the index space of a nest in one way, so that equal spaces mean equal threads.
            owner = ("nest", tuple(size.key for size in nest.space), region.rest)
            alone = inside(nest, load)
            made.append(Access(region.buffer, isinstance(part, Write), owner, region.turn, region.clocked, alone))
    return made


def needed(phases: list[Phase], repeats: bool) -> dict[int, int]:
    """The barrier before each phase: its number and its strength, where one is needed.

    As few as there can be of the grid's; none that others make superfluous.
    """
    order = _unrolled(phases, _STEPS if repeats else 1)
    pairs = _conflicts(phases, order)
    found: dict[int, int] = {}
    for strength in (GRID, BLOCK):
        wanted = sorted((p for p in pairs if p[2] == strength), key=lambda p: p[1])
        for first, second, _ in wanted:
            if not _kept_apart(order, found, first, second, strength):
                found[_best(phases, order, first, second)] = strength
    for position in sorted(found, key=lambda p: -found[p]):
        rest = {p: s for p, s in found.items() if p != position}
        if all(_kept_apart(order, rest, a, b, s) for a, b, s in pairs):
            found = rest
    return found


def _unrolled(phases: list[Phase], steps: int) -> list[tuple[int, int]]:
    """The phases in the order in which a thread comes to them, with the number of the step; inner loops run twice."""
    once: list[int] = []
    k = 0
    while k < len(phases):
        end = k
        while end < len(phases) and phases[k].inner and phases[end].inner == phases[k].inner:
            end += 1
        once += [*range(k, end), *range(k, end)] if end > k else [k]
        k = max(end, k + 1)
    return [(position, step) for step in range(steps) for position in once]


def _conflicts(phases: list[Phase], order: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Pairs of places in the order between which a barrier has to stand, and how strong a one."""
    pairs = []
    for j, (second, after) in enumerate(order):
        for i, (first, before) in enumerate(order[:j]):
            strength = max(
                (
                    _strength(a, b, before, after, first == second)
                    for a in phases[first].accesses
                    for b in phases[second].accesses
                ),
                default=NONE,
            )
            if strength:
                pairs.append((i, j, strength))
    return pairs


def _strength(a: Access, b: Access, before: int, after: int, same: bool) -> int:
    """What has to keep two accesses in order, of which `a` comes first."""
    if a.buffer != b.buffer or not (a.writes or b.writes) or a.owner == b.owner:
        return NONE
    if a.clocked and b.clocked and before != after:
        return NONE
    if a.turn is not None and b.turn is not None and (a.turn + before - b.turn - after) % 2:
        return NONE
    # Apart from zeros and what is added to them, an element is written once.
    if a.writes and b.writes and not (a.again or b.again):
        return NONE
    return BLOCK if a.inside and b.inside else GRID


def _kept_apart(order: list[tuple[int, int]], barriers: dict[int, int], first: int, second: int, strength: int) -> bool:
    return any(barriers.get(order[k][0], NONE) >= strength for k in range(first + 1, second + 1))


def _best(phases: list[Phase], order: list[tuple[int, int]], first: int, second: int) -> int:
    """The latest place between two for a barrier, outside of inner loops if there is one."""
    places = [order[k][0] for k in range(first + 1, second + 1)]
    outside = [p for p in places if not phases[p].inner]
    return (outside or places)[-1]


def read_by_others(lowering: Lowering, statements: list[Any], inside: Inside) -> list[Buffer]:
    """Buffers of one step that blocks read from each other.

    In two places by turns they need no second barrier, before the next step writes them.
    """
    carries = {now[: -len("_now")] for now, _ in lowering.swaps}
    found = {a.buffer for each in statements for a in accesses_of(each, inside) if not a.inside}
    return [b for b in lowering.buffers if b.name in found and b.name not in carries and not b.over_time]
