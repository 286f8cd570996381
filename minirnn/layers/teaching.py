"""Teacher forcing: what training may put in the place of the states that a container feeds back."""

from __future__ import annotations

from typing import Any

from ..autodiff import ops, random
from ..errors import ArgumentError, ShapeError
from ..loop import swap_time
from ..scan import hold, preceded
from .base import shape_text


def forced(
    label: str, names: dict[int, Any], teacher: Any, valid: Any, begins: Any, sizes: tuple[int, int], reverse: bool
) -> tuple[dict[int, Any], Any]:
    """By state the value that may take the place of the fed-back one at each step, and where it may.

    Both as a scan reads them.  The value is the teacher's of the last valid step before, since the row began.
    `names` are those of the states, by their numbers; `teacher` has a sequence (B, T, ...) for each.
    """
    missing = [name for name, x in zip(names.values(), teacher or [None] * len(names), strict=True) if x is None]
    if missing:
        raise ArgumentError(
            f"{label}: training needs the teacher sequences",
            got="none for state " + ", ".join(map(repr, missing)),
            fix="pass teacher={state_input: sequence}, or make it with teacher_probability=0",
        )
    batch, length = sizes
    for x in teacher:
        if x.shape[:2] != (batch, length):
            raise ShapeError(
                f"{label}: teacher", got=shape_text(x.shape), expected=f"(batch={batch}, time={length}, ...)"
            )
    valid = ops.full((length, batch), True, bool) if valid is None else valid
    processed = ops.flip(valid, 0) if reverse else valid
    values = [_delayed(hold(swap_time(x), processed, reverse=False), reverse) for x in teacher]
    return dict(zip(names, values, strict=True)), preceded(valid, reverse, begins)


def _delayed(sequence: Any, reverse: bool) -> Any:
    """A sequence (T, B, ...) in processing order, one step later, as the scan reads it; zeros come first."""
    moved = ops.concatenate([ops.zeros_like(sequence[:1]), sequence[:-1]])
    return ops.flip(moved, 0) if reverse else moved


def force(states: list[Any], values: dict[int, Any], where: Any, limit: Any) -> None:
    """Put the teacher's values in the place of states, in rows of one step; as often as `limit` says, if it does."""
    if not values:
        return
    if limit is not None:
        where = where & (random.uniform(where.shape, "float32") < limit)
    for index, value in values.items():
        along = ops.reshape(where, where.shape + (1,) * (value.ndim - 1))
        states[index] = ops.where(along, value, states[index])
