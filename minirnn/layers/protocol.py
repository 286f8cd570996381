"""Anyone's cell behind one face: layers and plain Python classes, in the forms that Keras 2 and 3 allow."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..autodiff import trees
from ..errors import ArgumentError, DtypeError, ShapeError
from .base import Layer, face_of, shape_text
from .states import as_states, checked_states, is_shape, output_shapes, state_shapes, zero_states

_RESULT = "what its call() returned"


class CellFace:
    """How a sequence layer talks to a cell.

    A cell has `call(input_t, states[, constants][, training]) -> (output, new_states)` and `state_size`;
    `output_size`, `build(input_shape)` and `get_initial_state` (with any of `inputs`, `batch_size`,
    `dtype`) may be missing.  Sizes may be None until `build` sets them.  Raises ArgumentError for
    something that is no cell.
    """

    # Read by calls, but never changed.
    __untraced__ = frozenset({"label", "shapes", "_form", "_maker_face", "_built"})

    def __init__(self, cell: Any, label: str) -> None:
        if isinstance(cell, type):
            raise ArgumentError(
                f"{label}: a cell must be an object", got=f"the class {cell.__name__}", fix=f"{cell.__name__}(...)"
            )
        if hasattr(cell, "return_sequences"):
            name = type(cell).__name__
            raise ArgumentError(
                f"{label}: a cell is one step", got=f"{name}, a layer over time", fix=f"a cell, such as {name}Cell(...)"
            )
        for name, kind in (("call", "a `call(inputs, states)` method"), ("state_size", "a `state_size`")):
            if not hasattr(cell, name):
                raise ArgumentError(f"{label}: a cell needs {kind}", got=f"{type(cell).__name__} without `{name}`")
        self.cell, self.label, self._built = cell, label, False
        self._check_call()
        if self._waits:
            self.shapes, self._form, self._count = None, None, 0
        else:
            self._look_at_states()
        face = face_of(cell.call)
        self._takes_training = face.accepts("training")
        self.takes_constants = face.accepts("constants")
        parameter = inspect.signature(cell.call).parameters.get("constants")
        self._needs_constants = parameter is not None and parameter.default is parameter.empty
        maker = getattr(cell, "get_initial_state", None)
        self._maker_face = None if maker is None else face_of(maker)

    def _check_call(self) -> None:
        call = self.cell.call
        if callable(call):
            parameters = inspect.signature(call).parameters.values()
            if any(p.kind is p.VAR_POSITIONAL for p in parameters):
                return
            if sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) >= 2:
                return
            call = f"call{inspect.signature(call)}"
        raise ArgumentError(
            f"{self.label}: the `call` of a cell takes the input of one step and the states",
            got=f"{self.cell_name} with {call if isinstance(call, str) else f'call = {call!r}'}",
            expected="call(inputs, states[, constants][, training]) -> (output, new_states)",
        )

    @property
    def _waits(self) -> bool:
        return not self._built and self.cell.state_size is None and hasattr(self.cell, "build")

    @property
    def returned_count(self) -> int:
        """The number of entries that the states have in a layer's result: of stacked cells one for each cell."""
        return len(self.shapes) if isinstance(self.shapes, (list, tuple)) else self.state_count

    @property
    def knows_states(self) -> bool:
        """Whether all sizes of the states are known; of some cells they are once it is built."""
        return self.shapes is not None and all(None not in shape for shape in trees.flatten(self.shapes)[0])

    def _look_at_states(self) -> None:
        self.shapes = state_shapes(self.cell.state_size)
        leaves, self._form = trees.flatten(self.shapes)
        self._count = len(leaves)

    @property
    def state_count(self) -> int:
        """The number of state arrays."""
        return self._count

    @property
    def declared_output(self) -> Any:
        """The shapes of the output as the cell's `output_size` has them, None if they are not known from it.

        Several numbers in a plain tuple may be a shape, or one output each as in Keras 2.
        """
        size = getattr(self.cell, "output_size", None)
        is_either = type(size) is tuple and is_shape(size) and len(size) > 1
        return None if size is None or is_either else output_shapes(size)

    @property
    def output(self) -> Any:
        """The shapes of the output without the batch: declared, or those of the first state; None if unknown."""
        size = getattr(self.cell, "output_size", None)
        if size is None and self.shapes is None:
            return None
        return trees.flatten(self.shapes)[0][0] if size is None else output_shapes(size)

    def build(self, step_shape: Any) -> None:
        """Let the cell make its weights for inputs of one step."""
        if isinstance(self.cell, Layer):
            self.cell.build_once(step_shape)
        elif hasattr(self.cell, "build") and not self._built:
            self.cell.build(step_shape)
        self._built = True
        self._look_at_states()  # a cell may know their sizes only now

    def members(self) -> Iterator[Any]:
        """What a plain class keeps its Variables in; a Layer is searched by itself."""
        if not isinstance(self.cell, Layer):
            yield from vars(self.cell).values()

    @property
    def begins_with_zeros(self) -> bool:
        """Whether the cell's initial states are known to be zeros, whatever the inputs are."""
        maker = getattr(self.cell, "get_initial_state", None)
        known: bool | None = getattr(self.cell, "begins_with_zeros", None)  # of a cell made of others
        return known if known is not None else maker is None or getattr(maker, "makes_zeros", False)

    def initial_states(self, inputs: Any, batch: int, dtype: str) -> Any:
        """The cell's own initial states, or zeros."""
        if self._maker_face is None:
            return zero_states(self.shapes, batch, dtype)
        offered = {"inputs": inputs, "batch_size": batch, "dtype": dtype}
        taken = {name: value for name, value in offered.items() if self._maker_face.accepts(name)}
        make = self.cell.get_initial_state
        states = make(**taken) if taken or self._maker_face.first is None else make(batch)
        return as_states(checked_states(states, self.shapes, batch, self.label, "get_initial_state:"), dtype)

    def check_constants(self, constants: Any, batch: int | None = None) -> None:
        """ArgumentError for constants that the cell doesn't take, ShapeError unless each has `batch` rows."""
        if constants is not None and not self.takes_constants:
            raise ArgumentError(
                f"{self.label}: RNN cell {self.cell_name} does not support constants.",
                fix="give its call an argument `constants`",
            )
        for number, constant in enumerate(constants or ()):
            shape = tuple(getattr(constant, "shape", ()))
            if batch is not None and shape and shape[0] != batch:
                raise ShapeError(
                    f"{self.label}: constant {number} has another batch size than the input",
                    got=shape_text(shape, ("batch",)),
                    expected=f"(batch={batch}, ...), a row for each sequence",
                )

    def __call__(self, inputs: Any, states: Any, constants: Any = None, training: Any = False) -> tuple[Any, Any]:
        """One step: output and new states, the latter in the structure of `state_size`."""
        options: dict[str, Any] = {"training": training} if self._takes_training else {}
        if constants is not None:
            options["constants"] = constants
        elif self._needs_constants:
            raise ArgumentError(
                f"{self.label}: its cell {self.cell_name} needs constants",
                got="a call without",
                fix="layer(x, constants=[...]), or a default for the argument `constants` of the cell's call",
            )
        run = self.cell if isinstance(self.cell, Layer) else self.cell.call
        try:
            result = run(inputs, states, **options)
        except (ShapeError, DtypeError) as error:
            if error.where is not None:  # a cell inside this one has been named
                raise
            raise self._failed(error, inputs, states) from error
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
        self._check_results(result[0], leaves, trees.flatten(states)[0], trees.flatten(inputs)[0])
        return result[0], trees.unflatten(self._form, leaves)

    @property
    def cell_name(self) -> str:
        """How errors call the cell."""
        return self.cell.label if isinstance(self.cell, Layer) else type(self.cell).__name__

    def _failed(self, error: ShapeError | DtypeError, inputs: Any, states: Any) -> ShapeError | DtypeError:
        shown = [", ".join(_kind(leaf) for leaf in trees.flatten(x)[0]) for x in (inputs, states)]
        return type(error)(
            f"{self.label}: its cell {self.cell_name} fails in a step: {error.what}",
            got=error.got,
            expected=error.expected,
            where=f"a step with input {shown[0]} and states {shown[1]}",
            fix=error.fix or "state_size has to say the sizes of the states that call() works with",
        )

    def _check_results(self, output: Any, states: list[Any], before: list[Any], inputs: list[Any]) -> None:
        """ShapeError or DtypeError unless the states are of the kind that they were, and the output as declared."""
        found = trees.flatten(output)[0]
        shapes = [tuple(getattr(leaf, "shape", ())) for leaf in found]
        batch = inputs[0].shape[0]
        if not found or any(shape[:1] != (batch,) for shape in shapes):
            raise (ShapeError if found else ArgumentError)(
                f"{self.label}: its cell {self.cell_name} returned an output that is not one row for each of the input",
                got=", ".join(map(str, shapes)) if found else repr(output),
                expected=f"(batch={batch}, ...)",
                where=_RESULT,
            )
        for number, (new, old) in enumerate(zip(states, before, strict=True)):
            if not hasattr(new, "dtype") or (new.shape == old.shape and new.dtype == old.dtype):
                continue
            raise (DtypeError if new.shape == old.shape else ShapeError)(
                f"{self.label}: its cell {self.cell_name} returned state {number} unlike the one in its state_size",
                got=_kind(new),
                expected=_kind(old),
                where=_RESULT,
            )
        declared = self.declared_output
        if declared is None or not before:
            return
        wanted = trees.flatten(declared)[0]
        if [len(shape) for shape in shapes] != [1 + len(sizes) for sizes in wanted] or any(
            n not in (None, got)
            for sizes, shape in zip(wanted, shapes, strict=True)
            for n, got in zip(sizes, shape[1:], strict=True)
        ):
            raise ShapeError(
                f"{self.label}: its cell {self.cell_name} returned an output unlike its output_size",
                got=", ".join(shape_text(shape, ("batch",)) for shape in shapes),
                expected=", ".join(shape_text((before[0].shape[0], *sizes), ("batch",)) for sizes in wanted),
                where=_RESULT,
            )


def _kind(x: Any) -> str:
    return f"{shape_text(tuple(np.shape(x)), ('batch',))} {getattr(x, 'dtype', type(x).__name__)}"


def members_of(faces: Iterable[CellFace]) -> Iterator[Any]:
    """The attributes of the plain-class cells among `faces`."""
    for face in faces:
        yield from face.members()
