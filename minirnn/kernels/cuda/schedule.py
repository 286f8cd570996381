"""Which kernels run a step graph's loop on a device, and how they are launched.

Three schedules print the same loop program.  They differ in who owns what:

- "block": a block of threads owns a tile of the batch's rows and runs all steps of a block of time; the
  constant operands of the loop's products stay in its registers.
- "grid": blocks own units, each for all rows, with their slice of those operands in registers; they wait
  for each other where one reads what another has made.
- "step": one launch a step, which reads the operands from memory: for every step graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...errors import ArgumentError, EngineError
from ..lower import Lowering
from ..program import ROWS_KEY, Buffer, Product, Size, value_of
from ..shares import can_share
from ..timesums import TimeSum
from .device import Limits
from .fit import Fit, fit_block, fit_grid
from .kernels import COLUMN_THREADS, Printer, open_places, open_step
from .outside import move_out
from .owners import Owners, TiledRows
from .parts import parts_of, print_parts
from .tiles import TILE_THREADS, tile_count

SCHEDULES = ("block", "grid", "step")
_WARP = 32
_MOST_Y = 65535  # blocks along a grid's second axis


class Launch(NamedTuple):
    """How one kernel of a plan is started.

    each: "once" for each block of time, "step" for each step of it, "begin" or "end" of the whole scan.
    """

    kernel: str
    each: str
    threads: int  # of a block
    grid: Callable[[int, int], tuple[int, int]]  # blocks, from rows and steps
    cooperative: bool = False
    shared: int = 0  # bytes of shared memory that the launch has to ask for
    product: Product | TimeSum | None = None  # which it computes, if it is one over all steps at once


class Plan(NamedTuple):
    """The kernels of a schedule, their launches in order, the integers that they are given, and scratch memory."""

    schedule: str
    kernels: dict[str, str]
    launches: list[Launch]
    sizes: list[Size]
    buffers: list[Buffer]


def plan(
    lowering: Lowering, limits: Limits | None = None, schedule: str | None = None, explained: bool = False
) -> Plan:
    """The kernels of a loop program and how to launch them.

    schedule: one of SCHEDULES, EngineError if the program or the device does not fit it; None for the first
    that fits.  explained: with the user's names and lines, for people.
    """
    limits = limits or Limits()
    if schedule not in (None, *SCHEDULES):
        raise ArgumentError("schedule", got=repr(schedule), expected=", ".join(map(repr, SCHEDULES)))
    move_out(lowering)
    for name, fit, make in (("block", fit_block, _block_plan), ("grid", fit_grid, _grid_plan)):
        if schedule in (None, name):
            fitted = fit(lowering, limits)
            if isinstance(fitted, Fit):
                return make(lowering, limits, fitted, explained)
            if schedule == name:
                what = f'engine "cuda": a step does not fit the schedule "{name}"'
                fix = 'the schedule "step", or "auto", which takes the first that fits'
                raise EngineError(what, got=fitted.got, expected=fitted.expected, fix=fix)
    return _step_plan(lowering, limits, explained)


# the whole loop in one launch --------------------------------------------------------------------
def _block_plan(lowering: Lowering, limits: Limits, fit: Fit, explained: bool) -> Plan:
    owners = TiledRows(can_share(lowering))
    printer = Printer(lowering, owners, explained)
    launches = _around(printer, limits)
    if lowering.sections["loop"]:
        printer.whole_loop("loop", owners, fit.held)
        threads = max([h.threads for h in fit.held], default=_threads(lowering, "loop"))
        blocks = _row_blocks(owners, limits)
        launches["loop"] = [Launch("loop", "once", _whole_warps(threads), lambda rows, _: (blocks(rows), 1))]
    return _finished("block", printer, launches)


def _grid_plan(lowering: Lowering, limits: Limits, fit: Fit, explained: bool) -> Plan:
    assert fit.units is not None
    printer = Printer(lowering, Owners(can_share(lowering)), explained)
    launches = _around(printer, limits)
    printer.whole_loop("loop", fit.units, fit.held)
    threads = _whole_warps(max(h.all_threads for h in fit.held))
    count = -(-fit.units.size // fit.units.each)
    launches["loop"] = [Launch("loop", "once", threads, lambda rows, _: (count, 1), cooperative=True)]
    return _finished("grid", printer, launches)


def _whole_warps(threads: int) -> int:
    return -(-threads // _WARP) * _WARP


# one launch a step -------------------------------------------------------------------------------
def _step_plan(lowering: Lowering, limits: Limits, explained: bool) -> Plan:
    owners = Owners(can_share(lowering))
    printer = Printer(lowering, owners, explained)
    launches = _around(printer, limits)
    if lowering.sections["loop"]:
        text = printer.text()
        text.line("s = first")
        open_step(text)
        open_places(text)
        print_parts(text, parts_of(text, lowering.sections["loop"]), False)
        printer.add("one_step", text, comments=("One step of time.",))
        blocks = _row_blocks(owners, limits)
        launches["loop"] = [Launch("one_step", "step", _threads(lowering, "loop"), lambda rows, _: (blocks(rows), 1))]
    return _finished("step", printer, launches)


def _finished(schedule: str, printer: Printer, launches: dict[str, list[Launch]]) -> Plan:
    order = [launch for part in ("begin", "before", "loop", "after", "end") for launch in launches.get(part, [])]
    return Plan(schedule, printer.kernels, order, list(printer.sizes.values()), printer.buffers())


def _around(printer: Printer, limits: Limits) -> dict[str, list[Launch]]:
    """What stands before and after the loop."""
    lowering, blocks = printer.lowering, _row_blocks(printer.owners, limits)
    launches: dict[str, list[Launch]] = {"begin": [], "end": []}
    if lowering.swaps:
        for name, each, to_start in (("carry_in", "begin", True), ("carry_out", "end", False)):
            printer.moves(name, to_start)
            launches[each].append(Launch(name, each, TILE_THREADS, lambda rows, _: (blocks(rows), 1)))
    for section in ("before", "after"):
        launches[section] = _section(printer, section, blocks)
    for k, each in enumerate(lowering.time_sums):
        name = f"sum_{k}"
        printer.time_sum(name, each)
        width = each.right_width.value
        if each.left_width is None:
            count = -(-width // _WARP)
            launches["end"].append(Launch(name, "end", COLUMN_THREADS, lambda rows, steps, n=count: (n, 1)))  # type: ignore[misc]
        else:
            count = _tiles(each.left_width.value, width)
            grid: Any = lambda rows, steps, n=count: (n, 1)  # noqa: E731
            launches["end"].append(Launch(name, "end", TILE_THREADS, grid, product=each))
    return launches


def _section(printer: Printer, section: str, blocks: Callable[[int], int]) -> list[Launch]:
    """Launches for statements over all steps of a block of time: products in tiles, the others step by step."""
    launches: list[Launch] = []
    threads = _threads(printer.lowering, section)
    for group in _groups(printer.lowering.sections[section]):
        name = f"{section}_{len(launches)}"
        if isinstance(group, Product):
            printer.merged(name, group)
            columns = value_of(group.columns)
            grid: Any = lambda rows, steps, n=columns: (_tiles(rows * steps, n), 1)  # noqa: E731
            launches.append(Launch(name, "once", TILE_THREADS, grid, product=group))
        else:
            printer.steps_at_once(name, group)
            grid = lambda rows, steps: (blocks(rows), min(steps, _MOST_Y))  # noqa: E731
            launches.append(Launch(name, "once", threads, grid))
    return launches


def _groups(statements: list[Any]) -> list[Any]:
    """Merged products by themselves, and lists of what stands between them."""
    groups: list[Any] = []
    for statement in statements:
        if isinstance(statement, Product) and statement.merged:
            groups.append(statement)
        elif groups and isinstance(groups[-1], list):
            groups[-1].append(statement)
        else:
            groups.append([statement])
    return groups


def _tiles(rows: int, columns: int) -> int:
    return max(1, tile_count(rows, columns))


def _row_blocks(owners: Owners, limits: Limits) -> Callable[[int], int]:
    """How many blocks share out a number of rows."""
    most = limits.multiprocessors if owners.shares_rows else 1
    return lambda rows: max(1, min(rows, most))


def _threads(lowering: Lowering, section: str) -> int:
    """Threads of a block for statements of so many elements a row."""
    widest = 1
    for statement in lowering.sections[section]:
        space = getattr(statement, "space", None) or getattr(statement, "columns", None) or ()
        sizes = space if isinstance(space, tuple) else (space,)
        widest = max(widest, value_of(tuple(s for s in sizes if s.key != ROWS_KEY)))
    return min(512, max(128, -(-widest // _WARP) * _WARP))
