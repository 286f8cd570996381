"""What stands in the loop of a program and needs no step of it moves behind the loop, where all steps are one launch.

On the cpu such nests are cheapest where their values are at hand; on a device they would make every step longer,
and a grid whose blocks own units cannot share out what has no units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from ..lower import Lowering
from ..program import Affine, Array, Let, Load, Nest, Write

_GIVEN = ("x", "constant")  # roles of arrays that are there before the loop begins
_RESULTS = ("y", "stack")


def move_out(lowering: Lowering) -> None:
    """Move whole nests that read nothing of the loop, and that no statement of the loop reads, behind it."""
    loop, after = lowering.sections["loop"], lowering.sections["after"]
    moved = [
        statement
        for statement in loop
        if isinstance(statement, Nest)
        and statement.body
        and _reads_what_is_given(statement)
        and _is_for_later(statement, [other for other in loop if other is not statement])
    ]
    kept = [statement for statement in loop if not any(statement is nest for nest in moved)]
    lowering.sections["loop"], lowering.sections["after"] = kept, [*moved, *after]


def _reads_what_is_given(nest: Nest) -> bool:
    loads = [part.expression for part in nest.body if isinstance(part, Let) and isinstance(part.expression, Load)]
    return all(load.array.role in _GIVEN for load in loads)


def _is_for_later(nest: Nest, others: list[Any]) -> bool:
    """Whether what a nest writes are results, or values over time that nothing else of the loop uses."""
    used = {place for other in others for place in _places(other)}
    return all(
        write.array.role in _RESULTS or (_is_over_time(write.offset) and not used & _place(write.array, write.offset))
        for write in nest.body
        if isinstance(write, Write)
    )


def _is_over_time(offset: Affine) -> bool:
    return offset.stride_of("s") is not None


def _places(statement: Any) -> Iterator[Any]:
    """The buffers of scratch memory that a statement reads or writes."""
    if dataclasses.is_dataclass(statement):
        if isinstance(statement, (Load, Write)):
            yield from _place(statement.array, statement.offset)
        for field in dataclasses.fields(statement):
            yield from _places(getattr(statement, field.name))
    elif isinstance(statement, (list, tuple)):
        for part in statement:
            yield from _places(part)


def _place(array: Array, offset: Affine) -> set[Any]:
    return {(array.name, size.key) for product in offset.constants for size in product if size.key[0] == "at"}
