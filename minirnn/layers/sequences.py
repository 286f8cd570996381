"""What a sequence layer's call is given: its inputs, masks, lengths and resets, checked against each other."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..autodiff import ops, trees
from ..autodiff.tensor import Tensor
from ..autodiff.trace import abstract
from ..errors import ArgumentError, MinirnnError, ShapeError
from .base import Layer, is_training, shape_text
from .states import map_shapes


class SequenceLayer(Layer):
    """A layer over time, and its call: the forms in which it takes inputs, masks, states and constants."""

    ignores_constants: ClassVar[bool] = False
    _form: Any
    _num_constants: Any  # that a list ends with, 0 if that is not known
    _knows_states: Any  # whether its cells do, which some learn in their build
    _state_count: Any  # of arrays

    def __call__(
        self,
        inputs: Any,
        *,
        mask: Any = None,
        lengths: Any = None,
        initial_state: Any = None,
        constants: Any = None,
        reset_mask: Any = None,
        training: Any = None,
    ) -> Any:
        """Run over `inputs`, or over the first of a list [inputs, *states, *constants].

        mask: (B, T), True where a step counts; lengths: (B,) integers, the numbers of leading steps that
        count; initial_state: one array per state, (B, ...), for both directions first those of the forward
        one; constants: arrays that the cell gets at every step; reset_mask: (B, T), True where a row goes back
        to the states that the call began with, before it reads that step.  Each row is then as if a new call
        began there, with the same initial states; a reset at a masked step counts, too.
        """
        if self.ignores_constants:
            constants = None
        is_bare = mask is lengths is reset_mask is None
        if is_bare and (training is None or training is is_training()):
            result = self._again(inputs, initial_state, constants)
            if result is not None:
                return result
        if type(inputs) is list:
            if len(inputs) > 1 and not self._knows_states:
                self._build_on(inputs[0])  # which states there are
            counts = self._state_count, self._num_constants
            inputs, initial_state, constants = split_call(inputs, initial_state, constants, *counts, self.label)
        if constants is not None:
            constants = list(constants) if isinstance(constants, (list, tuple)) else [constants]
        if self.ignores_constants or not constants:
            constants = None
        self._check_constants(constants)
        mask, lengths, reset_mask = (
            self._form.as_array(given, what)
            for what, given in (("mask", first_mask(mask)), ("lengths", lengths), ("reset_mask", reset_mask))
        )
        options = {
            "mask": mask, "lengths": lengths, "initial_state": initial_state, "constants": constants,
            "reset_mask": reset_mask, "training": training,
        }  # fmt: skip
        if not self.built:
            self._check_first_call(inputs, options)
        given = {name: value for name, value in options.items() if value is not None}
        return self._returned(super().__call__(inputs, **given), constants)

    def _again(self, inputs: Any, initial_state: Any, constants: Any) -> Any:
        """What a call remembered from before gives for these arguments; None without one."""
        return None

    def _check_constants(self, constants: Any) -> None:
        """ArgumentError for constants that no cell takes."""

    def _check_first_call(self, inputs: Any, options: dict[str, Any]) -> None:
        """Find what is wrong with a call before the weights are made."""

    def _returned(self, result: Any, constants: Any) -> Any:
        """What the call returns for the layer's result."""
        return result


class SequenceForm:
    """The form of a layer's inputs: arrays (B, T, ...), or (T, B, ...) with `time_major`, perhaps nested.

    `rank` is the rank that they must have; None for any from 3 on.  The features are known once it is built.
    """

    def __init__(self, label: str, time_major: bool, rank: int | None) -> None:
        self.label, self.time_major, self.rank = label, time_major, rank
        self.axes = ("time", "batch") if time_major else ("batch", "time")
        self.batch_axis = 1 if time_major else 0
        self.features: list[tuple[int | None, ...]] | None = None
        self._nesting: Any = None

    def of_one_step(self, input_shape: Any, unroll: bool) -> tuple[Any, int | None]:
        """The shape of one step's input, and the batch size if it is known; ShapeError for a shape that won't do."""
        shapes: list[Any] = []
        map_shapes(lambda shape: shapes.append(self._checked_rank(shape)), input_shape)
        if not shapes:
            raise ShapeError(f"{self.label}: it was given no input")
        if unroll and any(shape[1 - self.batch_axis] is None for shape in shapes):
            raise ShapeError(
                f"{self.label}: Cannot unroll a RNN if the time dimension is undefined.",
                got=shape_text(shapes[0], self.axes),
                fix="give Input the number of time steps, or leave out unroll=True",
            )
        batch = shapes[0][self.batch_axis]
        return map_shapes(lambda shape: (batch, *shape[2:]), input_shape), batch

    def remember(self, input_shape: Any) -> None:
        """The layer is built for inputs of this shape."""
        features: list[tuple[int | None, ...]] = []
        map_shapes(lambda shape: features.append(shape[2:]), input_shape)
        self.features, self._nesting = features, trees.flatten(map_shapes(len, input_shape))[1]

    def _checked_rank(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        rank = self.rank
        if len(shape) < 3 or rank not in (None, len(shape)):
            raise ShapeError(
                f"{self.label}: input is incompatible with the layer: expected ndim={rank or '3 or more'}, found "
                f"ndim={len(shape)}. Full shape received: {shape}",
                expected=f"({', '.join(self.axes)}, features{'' if rank else ', ...'})",
                fix="one sequence is a batch of one: x[None]" if len(shape) == 2 else None,
            )
        return shape

    def batch_and_time(self, inputs: Any) -> tuple[int, int]:
        """The sizes of the first two axes; ShapeError unless all inputs fit each other and the built cell."""
        leaves = trees.flatten(inputs)[0]
        if not leaves or not all(isinstance(leaf, (Tensor, np.ndarray)) for leaf in leaves):
            raise ShapeError(f"{self.label}: input", got=repr(inputs), expected="an array (batch, time, features)")
        known = [leaf.shape[2:] for leaf in leaves] if self.features is None else self.features
        if len(leaves) != len(known):
            raise ShapeError(f"{self.label}: inputs", got=f"{len(leaves)} arrays", expected=len(known))
        for leaf, features in zip(leaves, known, strict=True):
            self._checked_rank(leaf.shape)
            if len(leaf.shape) != 2 + len(features) or any(
                b not in (None, a) for a, b in zip(leaf.shape[2:], features, strict=True)
            ):
                raise ShapeError(self._features_message(leaf.shape, features))
            if leaf.shape[:2] != leaves[0].shape[:2]:
                raise ShapeError(
                    f"{self.label}: inputs differ in batch size or number of time steps",
                    got=" and ".join(shape_text(x.shape, self.axes) for x in leaves),
                )
        sizes = leaves[0].shape
        return sizes[self.batch_axis], sizes[1 - self.batch_axis]

    def _features_message(self, shape: tuple[int, ...], features: tuple[int | None, ...]) -> str:
        if len(features) == 1:
            got = f"input has {shape[-1]} features on its last axis (shape {shape_text(shape, self.axes)})"
            order = "This layer is time-major: was it (batch, time, features)?"
            if not self.time_major:
                order = "Layers are batch-first: was this (time, batch, features)?"
            return f"{self.label}: {got} but its kernel was built for {features[0]}. {order}"
        got = f"input of shape {shape_text(shape, self.axes)}"
        return f"{self.label}: {got} but the cell was built for steps of {features}"

    def as_array(self, given: Any, what: str) -> Any:
        """Lists as one array, and nothing as nothing; ArgumentError if they are none."""
        if given is None or isinstance(given, (Tensor, np.ndarray)) or hasattr(given, "__functional_call__"):
            return given
        try:
            return np.asarray(Tensor(given))
        except MinirnnError as error:
            raise ArgumentError(f"{self.label}: {what}", got=repr(given), expected="an array of numbers") from error

    def checked_mask(self, mask: Any, sizes: tuple[int, int], what: str = "mask") -> Any:
        """A mask, or what else is one boolean a row and step, as booleans; `sizes` are those of batch and time."""
        mask = _tensor(self.as_array(mask, what))
        expected = sizes[::-1] if self.time_major else sizes
        if tuple(mask.shape) == (*expected, 1):
            mask = ops.reshape(mask, expected)
        if tuple(mask.shape) != expected:
            raise ShapeError(
                f"{self.label}: the {what} does not fit the input",
                got=shape_text(mask.shape, self.axes),
                expected=shape_text(expected, self.axes),
            )
        return mask if mask.dtype == bool else ops.not_equal(mask, 0)

    def mask_of_lengths(self, lengths: Any, sizes: tuple[int, int]) -> Any:
        """The mask that counts the leading `lengths` steps of each row."""
        batch, time = sizes
        lengths = _tensor(self.as_array(lengths, "lengths"))
        if lengths.shape != (batch,) or lengths.dtype.kind not in "iu":
            raise ShapeError(
                f"{self.label}: lengths",
                got=f"{lengths.dtype} of shape {lengths.shape}",
                expected=f"one integer for each of the {batch} rows",
            )
        if not lengths.is_abstract and lengths.size and not 0 <= lengths.numpy().min() <= lengths.numpy().max() <= time:
            raise ArgumentError(f"{self.label}: lengths", got=lengths.numpy().tolist(), expected=f"0 to {time} steps")
        steps = ops.arange(time)
        if self.time_major:
            return ops.less(ops.expand_dims(steps, 1), ops.expand_dims(lengths, 0))
        return ops.less(ops.expand_dims(steps, 0), ops.expand_dims(lengths, 1))

    def examples(self, sizes: tuple[int, int], dtype: Any) -> Any:
        """Inputs of the layer's form without values; sizes that it does not know are taken for 7."""
        shapes = [(*sizes, *(7 if n is None else n for n in features)) for features in self.features or []]
        return trees.unflatten(self._nesting, [abstract(shape, dtype) for shape in shapes])


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else Tensor(x)


def first_mask(masks: Any) -> Any:
    """The mask that counts among those of several inputs: the first, as in Keras; None if there is none."""
    leaves = trees.flatten(masks)[0]
    if leaves and not hasattr(leaves[0], "shape"):
        return masks  # one mask, in lists of booleans
    return leaves[0] if leaves else None


def split_call(
    items: list[Any], initial_state: Any, constants: Any, state_count: int, num_constants: int, label: str
) -> tuple[Any, Any, Any]:
    """Inputs, states and constants of a flat call [inputs, *states, *constants].

    Where it can be read in two ways, `num_constants`, those that the layer is known to take, decide as in
    Keras 2.  Raises ArgumentError for an empty list, or for states or constants that are given twice.
    """
    rest = items[1:]
    if not items or (rest and initial_state is not None) or (constants is not None and len(rest) > state_count):
        raise ArgumentError(
            f"{label}: a list is the call [inputs, *states, *constants]",
            got=f"a list of {len(items)}" + (" and initial_state" if initial_state is not None else ""),
            expected=f"1 input and {state_count} states",
        )
    if not rest:
        return items[0], initial_state, constants
    if constants is None and len(rest) == num_constants:
        return items[0], None, rest
    return items[0], rest[:state_count], rest[state_count:] or constants
