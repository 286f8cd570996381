"""How a batch is shared out to threads: rows that need the same time steps together.

Under a mask a row needs the steps from its first valid one to its last: before and after, the carry
is held and whatever else the step gives is zero or not looked at.  So rows of like lengths make a
share, and each share runs over no more than the steps that one of its rows needs.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..autodiff import contraction
from ..autodiff.primitive import ROWS
from .lower import Lowering
from .program import ROWS_KEY
from .text import MAPS

# A product of so many rows takes about as long for each row as one of more.
_ROWS = 4
# For each thread; more of them would fit the lengths a little better, and each call costs 20 us.
_SHARES = 8
# A smaller part of all steps is not worth leaving out.
_WORTH_LEAVING_OUT = 0.1


class Share(NamedTuple):
    """Some rows of a batch, as an index and by their numbers, and their steps from `begin` to before `end`."""

    rows: Any
    order: np.ndarray
    begin: int
    end: int


def even(batch: int, length: int, count: int) -> list[Share]:
    """All steps of all rows, in shares of neighbours.

    >>> [share.rows for share in even(5, 7, 2)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    ends = [batch * k // count for k in range(count + 1)]
    return [Share(slice(a, b), np.arange(a, b), 0, length) for a, b in zip(ends, ends[1:], strict=False)]


def by_length(valid: np.ndarray, threads: int) -> list[Share] | None:
    """Shares for a mask (T, B), those with most to do first; None if they would leave out next to nothing.

    >>> short, long = [True, False], [True, True]
    >>> for share in by_length(np.array([short, long] * 4).T, 1):
    ...     print(share.order, share.end)
    [1 3 5 7] 2
    [0 2 4 6] 1
    """
    length, batch = valid.shape
    is_any = valid.any(0)
    begins = np.where(is_any, valid.argmax(0), length)
    ends = np.where(is_any, length - valid[::-1].argmax(0), 0)
    each = _ROWS * math.ceil(batch / (_ROWS * _SHARES * threads))
    order = np.lexsort((begins, ends))
    shares = []
    for first in range(0, batch, each):
        rows = np.sort(order[first : first + each])
        are_neighbours = rows[-1] - rows[0] == len(rows) - 1
        index = slice(int(rows[0]), int(rows[-1]) + 1) if are_neighbours else rows
        end = int(ends[rows].max())
        shares.append(Share(index, rows, min(int(begins[rows].min()), end), end))
    if sum(len(s.order) * (s.end - s.begin) for s in shares) > (1 - _WORTH_LEAVING_OUT) * length * batch:
        return None
    return sorted(shares, key=lambda s: len(s.order) * (s.begin - s.end))


def can_share(lowering: Lowering) -> bool:
    """Whether rows can be shared out: every value follows the rows, and rows stand on no other axis."""
    made = [o for nodes in lowering.in_section.values() for n in nodes for o in n.outputs]
    rows = all(lowering.classes[id(t)] == ROWS for t in [*made, *lowering.graph.carry_in])
    sizes = [lowering.dims.sizes(t) for t in [*made, *lowering.graph.inputs]]
    return rows and lowering.rows_stay and not any(size.key == ROWS_KEY for s in sizes for size in s[1:])


def cost_of_a_row(lowering: Lowering) -> float:
    """About how many nanoseconds one row of one step takes."""
    cost = 0.0
    for nodes in lowering.in_section.values():
        for node in nodes:
            elements = sum(o.size for o in node.outputs) / max(lowering.batch or 1, 1)
            if node.primitive.form == "contract":
                a, b, out = contraction.parse(node.params["spec"])
                sizes = dict(zip(a + b, node.inputs[0].shape + node.inputs[1].shape, strict=True))
                summed = contraction.summed_letters(node.params["spec"])
                cost += elements * float(np.prod([sizes[c] for c in summed])) / 40
            else:
                cost += elements * 0.1 * (1 if node.primitive.name in MAPS else 5)
    return cost
