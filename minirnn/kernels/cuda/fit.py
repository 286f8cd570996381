"""Whether a loop program fits a schedule that keeps weights on the chip, and how it is shared out there."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..lower import Lowering
from ..program import ONE, ROWS_KEY, Coefficient, Nest, Product, value_of
from ..tile import BLOCK
from .device import Limits
from .onchip import Held, can_be_held, other_registers, registers_of, shared_out
from .owners import Units

_ACROSS_CALLS = 64  # registers for weights


class Fit(NamedTuple):
    """How a loop's products are held, and the units of a block if blocks share them out."""

    held: list[Held]
    units: Units | None = None


class Misfit(NamedTuple):
    """Why a program does not fit: what there is, and what there may be."""

    got: str
    expected: str


def fit_block(lowering: Lowering, limits: Limits) -> Fit | Misfit:
    """How one block holds all products of the loop."""
    products = [p for p in lowering.sections["loop"] if can_be_held(p)]
    held = shared_out(products, lambda columns: columns, limits, _others(lowering))
    return _too_large(products, limits, 1, _others(lowering)) if held is None else Fit(held)


def fit_grid(lowering: Lowering, limits: Limits) -> Fit | Misfit:
    """How the blocks of a grid hold them, each for some of the units."""
    size = _unit_size(lowering)
    if isinstance(size, Misfit):
        return size
    products = [p for p in lowering.sections["loop"] if isinstance(p, Product)]
    each = -(-size // limits.multiprocessors)
    # Waiting for the grid is a call, over which few registers keep what they have.
    held = shared_out(products, lambda columns: columns // size * each, limits, _others(lowering), _ACROSS_CALLS, True)
    return (
        _too_large(products, limits, -(-size // each), _others(lowering), _ACROSS_CALLS)
        if held is None
        else Fit(held, Units(size, each))
    )


def _others(lowering: Lowering) -> int:
    loop = lowering.sections["loop"]
    sizes = [p.out.array.dtype.itemsize for p in loop if isinstance(p, Product)]
    return other_registers(loop, max(sizes, default=4))


def _unit_size(lowering: Lowering) -> int | Misfit:
    """The number of units, of which every last axis of the loop has a multiple; or what stands against it."""
    expected = "carries (batch, units), products with one matrix, and maps of values (batch, a multiple of units)"
    shapes = {t.shape[1] if len(t.shape) == 2 and lowering.rows_first(t) else 0 for t in lowering.graph.carry_in}
    if len(shapes) != 1 or 0 in shapes:
        return Misfit("carries " + ", ".join(str(t.shape) for t in lowering.graph.carry_in), expected)
    (size,) = shapes
    products = 0
    for statement in lowering.sections["loop"]:
        if isinstance(statement, Nest):
            space = statement.space
            ok = len(space) == 2 and space[0].key == ROWS_KEY and _is_multiple((space[1],), size)
        else:
            ok = can_be_held(statement) and _is_multiple(statement.columns, size)
            products += ok
        if not ok:
            name = type(statement).__name__.lower()
            return Misfit(f"a {name} of another form in the loop", expected)
    return size if products else Misfit("no product in the loop", expected)


def _is_multiple(count: Coefficient, size: int) -> bool:
    return all(s != ONE for s in count) and bool(count) and value_of(count) % size == 0


def _too_large(products: list[Any], limits: Limits, blocks: int, others: int, most: int | None = None) -> Misfit:
    weights = sum(value_of(p.columns) * value_of(p.inner) * p.out.array.dtype.itemsize for p in products) // blocks
    got = f"weights of {weights:,} bytes a block, a thread having whole blocks of {BLOCK} of a column"
    free = [
        threads * min(registers_of(threads, limits) - others, limits.registers_per_thread if most is None else most)
        for threads in range(32, limits.threads_per_block + 1, 32)
    ]
    room = f"{max(0, *free) * 4:,} bytes in registers beside the work of the threads"
    limit = "" if most is None else f" ({most} of a thread, over a wait for the grid)"
    return Misfit(got, f"{room}{limit}, and what {limits.shared_per_block:,} bytes of shared memory take")
