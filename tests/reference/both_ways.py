"""A bidirectional layer from its definition: two plain loops, one over the sequence turned around.

A masked step leaves the states as they are.  With all outputs shown, those of masked steps are zeros
and the second loop's are turned around again; else the output is that of the last valid step that a
loop came to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.reference import cells

Array = np.ndarray

MERGES = {
    "sum": lambda y, y_rev: [y + y_rev],
    "mul": lambda y, y_rev: [y * y_rev],
    "ave": lambda y, y_rev: [0.5 * y + 0.5 * y_rev],
    "concat": lambda y, y_rev: [np.concatenate([y, y_rev], axis=-1)],
    None: lambda y, y_rev: [y, y_rev],
}


def run(
    kind: str,
    x: Array,
    weights: Sequence[Array],
    states: Sequence[Array],
    mask: Array | None = None,
    merge_mode: str | None = "concat",
    sequences: bool = True,
) -> list[Array]:
    """[*outputs, *forward states, *backward states]; weights and states of the forward loop first."""
    step = cells.KINDS[kind].step
    half, count = len(weights) // 2, len(states) // 2
    turned = None if mask is None else mask[:, ::-1]
    y, forward = cells.run(step, x, weights[:half], states[:count], mask)
    y_rev, backward = cells.run(step, x[:, ::-1], weights[half:], states[count:], turned)
    if not sequences:
        return [*MERGES[merge_mode](y[:, -1], y_rev[:, -1]), *forward, *backward]
    y_rev = y_rev[:, ::-1]
    if mask is not None:
        y, y_rev = y * mask[..., None], y_rev * mask[..., None]
    return [*MERGES[merge_mode](y, y_rev), *forward, *backward]
