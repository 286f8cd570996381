"""Anyone's cell behind one face: layers and plain Python classes, in the forms that Keras 2 and 3 allow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..autodiff import trees
from ..errors import ArgumentError
from .base import Layer, face_of
from .states import as_states, checked_states, output_shapes, state_shapes, zero_states


class CellFace:
    """How a sequence layer talks to a cell.

    A cell has `call(input_t, states[, constants][, training]) -> (output, new_states)` and `state_size`;
    `output_size`, `build(input_shape)` and `get_initial_state` (with any of `inputs`, `batch_size`,
    `dtype`) may be missing.  Raises ArgumentError for something that is no cell.
    """

    # Read by calls, but never changed.
    __untraced__ = frozenset({"label", "shapes", "_form", "_maker_face", "_built"})

    def __init__(self, cell: Any, label: str) -> None:
        if isinstance(cell, type):
            raise ArgumentError(
                f"{label}: a cell must be an object", got=f"the class {cell.__name__}", fix=f"{cell.__name__}(...)"
            )
        for name, kind in (("call", "a `call(inputs, states)` method"), ("state_size", "a `state_size`")):
            if not hasattr(cell, name):
                raise ArgumentError(f"{label}: a cell needs {kind}", got=f"{type(cell).__name__} without `{name}`")
        self.cell, self.label = cell, label
        self.shapes = state_shapes(cell.state_size)
        self._form = trees.flatten(self.shapes)[1]
        self._count = len(trees.flatten(self.shapes)[0])
        face = face_of(cell.call)
        self._takes_training = face.accepts("training")
        self.takes_constants = face.accepts("constants")
        maker = getattr(cell, "get_initial_state", None)
        self._maker_face = None if maker is None else face_of(maker)
        self._built = False

    @property
    def state_count(self) -> int:
        """The number of state arrays."""
        return self._count

    @property
    def declared_output(self) -> Any:
        """The shapes of the output as the cell's `output_size` has them, None if it has none."""
        size = getattr(self.cell, "output_size", None)
        return None if size is None else output_shapes(size)

    @property
    def output(self) -> Any:
        """The shapes of the output without the batch: declared, or those of the first state."""
        declared = self.declared_output
        return declared if declared is not None else trees.flatten(self.shapes)[0][0]

    def build(self, step_shape: Any) -> None:
        """Let the cell make its weights for inputs of one step."""
        if isinstance(self.cell, Layer):
            self.cell.build_once(step_shape)
        elif hasattr(self.cell, "build") and not self._built:
            self.cell.build(step_shape)
        self._built = True

    def members(self) -> Iterator[Any]:
        """What a plain class keeps its Variables in; a Layer is searched by itself."""
        if not isinstance(self.cell, Layer):
            yield from vars(self.cell).values()

    @property
    def begins_with_zeros(self) -> bool:
        """Whether the cell's initial states are known to be zeros, whatever the inputs are."""
        maker = getattr(self.cell, "get_initial_state", None)
        return maker is None or getattr(maker, "makes_zeros", False)

    def initial_states(self, inputs: Any, batch: int, dtype: str) -> Any:
        """The cell's own initial states, or zeros."""
        if self._maker_face is None:
            return zero_states(self.shapes, batch, dtype)
        offered = {"inputs": inputs, "batch_size": batch, "dtype": dtype}
        taken = {name: value for name, value in offered.items() if self._maker_face.accepts(name)}
        states = self.cell.get_initial_state(**taken)
        return as_states(checked_states(states, self.shapes, batch, self.label, "get_initial_state:"), dtype)

    def check_constants(self, constants: Any) -> None:
        """ArgumentError if there are constants and the cell takes none."""
        if constants is not None and not self.takes_constants:
            raise ArgumentError(
                f"{self.label}: RNN cell {type(self.cell).__name__} does not support constants.",
                fix="give its call an argument `constants`",
            )

    def __call__(self, inputs: Any, states: Any, constants: Any = None, training: Any = False) -> tuple[Any, Any]:
        """One step: output and new states, the latter in the structure of `state_size`."""
        options: dict[str, Any] = {"training": training} if self._takes_training else {}
        if constants is not None:
            options["constants"] = constants
        run = self.cell if isinstance(self.cell, Layer) else self.cell.call
        result = run(inputs, states, **options)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise ArgumentError(
                f"{self.label}: a cell's call must return two things", got=repr(result), expected="(output, new_states)"
            )
        leaves = trees.flatten(result[1])[0]
        if len(leaves) != self._count:
            raise ArgumentError(
                f"{self.label}: the cell returned another number of states than its state_size has",
                got=len(leaves),
                expected=self._count,
            )
        return result[0], trees.unflatten(self._form, leaves)


def members_of(faces: Iterable[CellFace]) -> Iterator[Any]:
    """The attributes of the plain-class cells among `faces`."""
    for face in faces:
        yield from face.members()
