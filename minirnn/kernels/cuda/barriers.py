"""Which barriers a kernel needs, found from what its statements read and write.

A kernel is a row of phases, each with its accesses to memory that threads share.  Two accesses to the same
place, of which one writes, have to be kept in order: by nothing where one thread makes both, by a barrier of
the block where two threads of a block do, by one of the whole grid where two blocks do.  The loop over time
comes back to its first phase, carries alternate between two places, and what has a place for each step of
a block of time never meets itself again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..lower import Lowering
from ..program import (
    ONE,
    ROWS_KEY,
    Affine,
    Buffer,
    Chain,
    Fill,
    Gather,
    Load,
    Move,
    Nest,
    Product,
    Reduce,
    Window,
    Write,
    along,
)

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
    """The buffer that an offset of the scratch memory leads to; `turn` and `clocked` as an Access has them."""

    buffer: str
    turn: int | None
    clocked: bool


def region_of(load: Load | Write) -> Region | None:
    """Where an access goes; None for memory that is only read, or only written, in a kernel."""
    if load.array.role != "work":
        return None
    for variable, _ in load.offset.terms:
        if variable.endswith(("_at_now", "_at_next")):
            buffer, _, which = variable.rpartition("_")
            return Region(buffer, int(which == "next"), False)
    paced = any(variable == "s" for variable, _ in load.offset.terms)
    for coefficient in load.offset.constants:
        if len(coefficient) == 1 and coefficient[0].key[0] == "at":
            key = coefficient[0].key
            return Region(key[1], key[2] if len(key) > 2 else None, paced)
    raise AssertionError("an offset of scratch memory that leads to no buffer")


Inside = Callable[[Any, "Load | Write"], bool]


def always(statement: Any, load: Load | Write) -> bool:
    """Where blocks share nothing."""
    return True


def accesses_of(statement: Any, inside: Inside = always) -> list[Access]:
    """What a statement reads and writes of the memory that threads share.

    inside: whether the blocks that share out the statement touch different elements of what it reads or writes.
    """
    if isinstance(statement, Nest):
        axes = [(variable, (size,)) for variable, size in zip(statement.variables, statement.space, strict=True)]
        loads = [part if isinstance(part, Write) else part.expression for part in statement.body]
        found: list[_Place] = [
            (load, axes, isinstance(load, Write), False) for load in loads if isinstance(load, Load | Write)
        ]
    else:
        found = list(_of_statement(statement))
    made = []
    for load, shared_out, writes, again in found:
        region = region_of(load)
        if region is not None:
            # Threads share out all index spaces in one way, so that equal spaces and offsets mean equal threads.
            owner = ("any", id(statement)) if shared_out is None else _by_place(shared_out, load.offset)
            alone = inside(statement, load)
            made.append(Access(region.buffer, writes, owner, region.turn, region.clocked, alone, again))
    return made


_Axes = list[tuple[str, Any]]
_Place = tuple[Any, _Axes | None, bool, bool]


def _of_statement(statement: Any) -> Iterator[_Place]:
    """Each place of a statement: the axes along which threads share it out, if they do; is it written, and again?"""
    loops = [
        (v, (size,))
        for v, size in zip(getattr(statement, "variables", ()), getattr(statement, "loops", ()), strict=False)
    ]
    if isinstance(statement, Product):
        row, column = along("row").scaled_by(statement.out_row), along("column")
        out = Load(statement.out.array, statement.out.offset.plus(row).plus(column))
        yield statement.a, None, False, False
        yield out, [*loops, ("row", statement.rows), ("column", statement.columns)], True, False
    elif isinstance(statement, Chain):
        yield statement.a, None, False, False
        yield statement.b, None, False, False
        yield statement.out, [(f"i{k}", (size,)) for k, size in enumerate(statement.space)], True, False
    elif isinstance(statement, Reduce):
        yield statement.source, None, False, False
        columns = () if statement.columns is None else (statement.columns,)
        out = Load(statement.out.array, statement.out.offset.plus(along("column") if columns else Affine()))
        yield out, [*loops, ("column", columns)], True, False
    elif isinstance(statement, Gather | Window):
        large, small = (
            (statement.table, statement.other) if isinstance(statement, Gather) else (statement.large, statement.small)
        )
        if isinstance(statement, Gather):
            yield statement.index, None, False, False
        yield (small if statement.adds else large), None, False, False
        yield (large if statement.adds else small), None, True, statement.adds
    elif isinstance(statement, Fill):
        yield Load(statement.array, statement.offset), None, True, True
    else:
        assert isinstance(statement, Move)
        yield statement.source, None, False, False
        yield statement.target, None, True, False


def _by_place(axes: _Axes, offset: Affine) -> Any:
    """Equal for accesses in which every thread has the same elements: what is counted, and the way through memory.

    Neighbouring axes that go through memory as one count as one, but not the batch's.
    """
    kept = [(v, tuple(s for s in count if s != ONE)) for v, count in axes]
    made: list[tuple[tuple[Any, ...], tuple[Any, ...] | None]] = []
    for variable, count in kept:
        if not count:
            continue
        counted = _keys(count)
        stride = offset.stride_of(variable)
        pace = None if stride is None else _keys(stride)
        if made and pace is not None and made[-1][1] == _sorted((*pace, *counted)) and ROWS_KEY not in made[-1][0]:
            made[-1] = _sorted((*made[-1][0], *counted)), pace
        else:
            made.append((counted, pace))
    variables = {variable for variable, _ in kept}
    rest = [(v, _keys(c)) for v, c in offset.terms if v not in variables]
    return tuple(made), _sorted(rest), _sorted(_keys(c) for c in offset.constants)


def _keys(count: Any) -> tuple[Any, ...]:
    return _sorted(size.key for size in count if size != ONE)


def _sorted(found: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(found, key=str))


def needed(phases: list[Phase], repeats: bool, first: int = 0) -> dict[int, int]:
    """The barrier before each phase: its number and its strength, where one is needed.

    As few as there can be of the grid's; none that others make superfluous.  If it `repeats`, the phases from
    number `first` on are those of a loop.
    """
    order = [(position, 0) for position in range(first)]
    order += _unrolled(phases, first, _STEPS if repeats else 1)
    pairs = _conflicts(phases, order)
    found: dict[int, int] = {}
    for strength in (GRID, BLOCK):
        wanted = sorted((p for p in pairs if p[2] == strength), key=lambda p: p[1])
        for a, b, _ in wanted:
            if not _kept_apart(order, found, a, b, strength):
                found[_best(phases, order, a, b, first)] = strength
    for position in sorted(found, key=lambda p: -found[p]):
        rest = {p: s for p, s in found.items() if p != position}
        if all(_kept_apart(order, rest, a, b, s) for a, b, s in pairs):
            found = rest
    return found


def _unrolled(phases: list[Phase], first: int, steps: int) -> list[tuple[int, int]]:
    """The phases in the order in which a thread comes to them, with the number of the step; inner loops run twice."""
    once: list[int] = []
    k = first
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


def _best(phases: list[Phase], order: list[tuple[int, int]], before: int, after: int, first: int) -> int:
    """The latest place between two for a barrier, before the loop if there is one, or outside of inner loops."""
    places = [order[k][0] for k in range(before + 1, after + 1)]
    outside = [p for p in places if p < first] or [p for p in places if not phases[p].inner]
    return (outside or places)[-1]


def read_by_others(lowering: Lowering, statements: list[Any], inside: Inside) -> list[Buffer]:
    """Buffers of one step that blocks read from each other.

    In two places by turns they need no second barrier, before the next step writes them.
    """
    carries = {now[: -len("_now")] for now, _ in lowering.swaps}
    found = {a.buffer for each in statements for a in accesses_of(each, inside) if not a.inside}
    return [b for b in lowering.buffers if b.name in found and b.name not in carries and not b.over_time]
