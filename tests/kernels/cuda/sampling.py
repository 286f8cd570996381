"""How many of very many slow cases are run: a fixed draw of them, or all with MINIRNN_WHOLE_GRID=1."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import Any


def some_of(cases: Iterable[Any], count: int) -> list[Any]:
    """Some of the cases, always the same ones, in their order.

    >>> some_of(range(100), 3) == sorted(some_of(range(100), 3))
    True
    """
    every = list(cases)
    if os.environ.get("MINIRNN_WHOLE_GRID"):
        return every
    return [every[k] for k in sorted(random.Random(5).sample(range(len(every)), min(count, len(every))))]
