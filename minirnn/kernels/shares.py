"""How a batch is shared out to threads: rows that need the same time steps together.

Under a mask a row needs the steps from its first valid one to its last: before and after, the carry
is held and whatever else the step gives is zero or not looked at.  So rows of like lengths make a
share, and each share runs over no more than the steps that one of its rows needs.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

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
