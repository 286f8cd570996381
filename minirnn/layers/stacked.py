"""StackedRNNCells: several cells as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..autodiff import trees
from ..errors import ArgumentError
from . import registry
from .base import Layer
from .protocol import CellFace, members_of


@registry.register(kind="layer")
class StackedRNNCells(Layer):
    """Several cells as one: at each step, every cell reads the output of the one before it.

    The states are one list a cell, first cell first, or last cell first with `reverse_state_order` (an option
    of Keras 2).  `constants` reach the cells that take them.  Raises ArgumentError for an empty list or for
    something that is no cell.

    >>> from minirnn.layers import LSTMCell, SimpleRNNCell
    >>> StackedRNNCells([SimpleRNNCell(3), LSTMCell(4)]).state_size
    [[TensorShape((3,))], [TensorShape((4,)), TensorShape((4,))]]
    """

    def __init__(self, cells: Any, reverse_state_order: bool = False, **options: Any) -> None:
        if not isinstance(cells, (list, tuple)):
            raise ArgumentError("StackedRNNCells: cells", got=repr(cells), expected="a list of cells")
        cells = list(cells)
        if options.get("dtype") is None:
            options["dtype"] = getattr(cells[0], "dtype", None) if cells else None
        super().__init__(**options)
        if not cells:
            raise ArgumentError(f"{self.label}: cells", got="an empty list", expected="at least one cell")
        self.cells, self.reverse_state_order = cells, bool(reverse_state_order)
        self._faces = [CellFace(cell, f"{self.label}, cell {number}") for number, cell in enumerate(cells)]

    def _ordered(self, states: Any) -> list[Any]:
        """The cells' states, listed by cell, in the order of `state_size`; and back."""
        return list(states)[::-1] if self.reverse_state_order else list(states)

    @property
    def state_size(self) -> list[Any] | None:
        """The shapes of the cells' states, one list a cell; None while a cell does not know its own."""
        shapes = self._ordered(face.shapes for face in self._faces)
        return None if any(shape is None for shape in shapes) else shapes

    @property
    def output_size(self) -> Any:
        """The size of the last cell's output."""
        return self._faces[-1].output

    @property
    def begins_with_zeros(self) -> bool:
        """Whether the initial states of all cells are known to be zeros."""
        return all(face.begins_with_zeros for face in self._faces)

    def _members(self) -> Iterator[Any]:
        yield from members_of(self._faces)
        yield from super()._members()

    def get_initial_state(self, inputs: Any = None, batch_size: int | None = None, dtype: Any = None) -> list[Any]:
        """The cells' own initial states; the batch is that of `inputs` or `batch_size`."""
        batch = batch_size if batch_size is not None else None if inputs is None else inputs.shape[0]
        if batch is None:
            raise ArgumentError(f"{self.label}: get_initial_state needs inputs or batch_size")
        return self._ordered(face.initial_states(inputs, batch, dtype or self.dtype) for face in self._faces)

    def build(self, input_shape: Any) -> None:
        for face in self._faces:
            face.build(input_shape)
            input_shape = trees.map(lambda shape: (None, *shape), face.output)

    def call(self, inputs: Any, states: Any, constants: Any = None, training: Any = False) -> tuple[Any, list[Any]]:
        """One step through all cells."""
        new_states = []
        for face, cell_states in zip(self._faces, self._ordered(states), strict=True):
            given = constants if face.takes_constants else None
            inputs, cell_states = face(inputs, cell_states, given, training)
            new_states.append(cell_states)
        return inputs, self._ordered(new_states)

    def get_config(self) -> dict[str, Any]:
        cells = registry.serialize_all(self.cells)
        return {**super().get_config(), "reverse_state_order": self.reverse_state_order, "cells": cells}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> StackedRNNCells:
        cells = registry.deserialize_all(config["cells"], "layer", custom_objects)
        made: StackedRNNCells = super().from_config({**config, "cells": cells}, custom_objects)
        return made
