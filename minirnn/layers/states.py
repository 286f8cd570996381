"""The states of a cell: their shapes, their checks, and what a stateful layer keeps between calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff import ops, trees
from ..autodiff.tensor import Tensor, wrap
from ..errors import ArgumentError, ShapeError, StateError
from .base import shape_text


class TensorShape(tuple):
    """A shape, where a tuple of integers would mean one state for each.

    >>> state_shapes([TensorShape((3, 4)), 5])
    [TensorShape((3, 4)), TensorShape((5,))]
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"TensorShape({tuple(self)})"


def is_shape(x: Any) -> bool:
    """Whether `x` is a plain tuple of sizes.

    >>> is_shape((None, 3)), is_shape(((2, 3), (2, 4)))
    (True, False)
    """
    return isinstance(x, tuple) and not hasattr(x, "_fields") and all(n is None or _is_size(n) for n in x)


def map_shapes(f: Callable[[tuple[int | None, ...]], Any], shapes: Any) -> Any:
    """`f` on every shape of a nested structure of shapes.

    >>> map_shapes(len, {"a": (2, 3), "b": [(4,)]})
    {'a': 2, 'b': [1]}
    """
    if is_shape(shapes):
        return f(shapes)
    if isinstance(shapes, dict):
        return {key: map_shapes(f, shape) for key, shape in shapes.items()}
    if hasattr(shapes, "_fields"):
        return type(shapes)(*(map_shapes(f, shape) for shape in shapes))
    if isinstance(shapes, (list, tuple)):
        return type(shapes)(map_shapes(f, shape) for shape in shapes)
    raise ShapeError("this is no shape", got=repr(shapes), expected="a tuple of sizes, or shapes in lists or dicts")


def _is_size(x: Any) -> bool:
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def state_shapes(state_size: Any) -> Any:
    """The shapes of a cell's states without the batch axis, always in a list, tuple, namedtuple or dict.

    An integer is one state; a list or tuple of integers one state each; a shape is a TensorShape, or a
    tuple inside a list.  Raises ArgumentError for anything else.

    >>> state_shapes(7), state_shapes((7, 8)), state_shapes([(2, 3), 4])
    ([TensorShape((7,))], (TensorShape((7,)), TensorShape((8,))), [TensorShape((2, 3)), TensorShape((4,))])
    """
    if _is_size(state_size) or isinstance(state_size, TensorShape):
        return [_inner_shapes(state_size)]
    if type(state_size) in (list, tuple):
        return type(state_size)(_inner_shapes(size) for size in state_size)
    return _inner_shapes(state_size)


def _inner_shapes(size: Any) -> Any:
    if _is_size(size):
        return TensorShape((int(size),))
    if isinstance(size, TensorShape) or is_shape(size):
        return TensorShape(size)
    if isinstance(size, dict):
        return {key: _inner_shapes(item) for key, item in size.items()}
    if hasattr(size, "_fields"):
        return type(size)(*(_inner_shapes(item) for item in size))
    if isinstance(size, (list, tuple)):
        return type(size)(_inner_shapes(item) for item in size)
    raise ArgumentError(
        "state_size", got=repr(size), expected="an integer, a TensorShape, or a list, tuple or dict of those"
    )


def output_shapes(output_size: Any) -> Any:
    """The shapes of a cell's outputs without the batch axis: a bare shape for one output."""
    return _inner_shapes(output_size) if not isinstance(output_size, (list, dict)) else state_shapes(output_size)


def zero_states(shapes: Any, batch: int, dtype: Any) -> Any:
    """Zeros for every state; `dtype` is one name, or a list of one for each state."""
    leaves, form = trees.flatten(shapes)
    dtypes = dtype if isinstance(dtype, list) else [dtype] * len(leaves)
    return trees.unflatten(form, [ops.zeros((batch, *n), d) for n, d in zip(leaves, dtypes, strict=True)])


def checked_states(given: Any, shapes: Any, batch: int | None, label: str, what: str = "initial_state") -> Any:
    """`given` (a bare array or a nested structure) in the structure of `shapes`.

    Raises StateError for a wrong number of states, ShapeError for a wrong shape or batch size; a batch of
    None only asks that the states agree, and a size of None is that of any array.
    """
    expected, form = trees.flatten(shapes)
    leaves = trees.flatten(given)[0]
    if len(leaves) != len(expected):
        raise StateError(
            f"{label}: Layer has {len(expected)} states but was passed {len(leaves)} initial states.",
            expected=", ".join(shape_text((batch, *shape), ("batch",)) for shape in expected),
        )
    for number, (leaf, shape) in enumerate(zip(leaves, expected, strict=True)):
        got = tuple(np.shape(leaf) if not isinstance(leaf, Tensor) else leaf.shape)
        if batch is None and got:
            batch = got[0]
        fits = len(got) == 1 + len(shape) and all(n in (None, k) for n, k in zip(shape, got[1:], strict=True))
        if not fits or got[0] != batch:
            raise ShapeError(
                f"{label}: {what} {number} has another batch size than the input"
                if fits
                else f"{label}: {what} {number} is not compatible with the cell's state_size",
                got=shape_text(got, ("batch",)),
                expected=shape_text((batch, *shape), ("batch",)),
            )
    return trees.unflatten(form, leaves)


class HeldStates:
    """What a stateful layer carries from one call to the next: Tensors without a place on any tape.

    `shapes` are the states' shapes without the batch, `dtype` one name or a list of one for each state.
    `fresh(batch)` makes the states that a reset goes back to, zeros without it.  `fixed_batch` is the
    batch size if Input names it; else every call until a reset has to come with the same one.
    """

    def __init__(self, shapes: Any, dtype: Any, label: str, fresh: Callable[[int], Any] | None = None) -> None:
        self.shapes, self.dtype, self.label, self.fresh = shapes, dtype, label, fresh
        self.fixed_batch: int | None = None
        self.values: Any = None
        # After a reset without `fresh` the states are zeros, even where a cell's initial state is something else.
        self.was_reset = False
        self._to_check = False  # the states came before all of their sizes were known

    @property
    def batch(self) -> int | None:
        """The batch size that calls must have, None if any will do."""
        held = trees.flatten(self.values)[0]
        return held[0].shape[0] if held else self.fixed_batch

    def begin(self, batch: int) -> Any:
        """The states to begin a call with, None where the initial ones apply; StateError for another batch size."""
        if self.batch is not None and batch != self.batch:
            raise StateError(
                f"{self.label}: it is stateful, and the batch size of its input is not that of the states it holds",
                got=f"batch size {batch}",
                expected=f"batch size {self.batch}",
                fix=None if self.fixed_batch else "call reset_states() before a batch of another size",
            )
        if self.values is None and self.was_reset:
            return zero_states(self.shapes, batch, self.dtype)
        if self._to_check:
            self.check_against(self.shapes, batch)
            self._to_check = False
        return self.values

    def check_against(self, shapes: Any, batch: int) -> None:
        """ShapeError unless the states that are held, if any, have these shapes."""
        if self.values is not None:
            checked_states(self.values, shapes, batch, self.label, "state")

    def keep(self, states: Any) -> None:
        """Hold the states that a call ended with; shapes without values are passed over."""
        leaves, form = trees.flatten(states)
        if not any(leaf.is_abstract for leaf in leaves):
            self.values = trees.unflatten(form, [wrap(leaf.value) for leaf in leaves])

    def assign(self, states: Any) -> None:
        """Hold these arrays, or nothing for None."""
        self._hold(None if states is None else self._as_held(states))

    def reset(self, states: Any = None, rows: Any = None, initial: Callable[[int], Any] | None = None) -> None:
        """Back to the beginning, or to `states`; only for some `rows` (integers or a boolean mask) if given.

        Before the first call the other rows are those of `initial(batch)`.
        """
        self._hold(self._after_reset(states, rows, initial))
        if states is None and rows is None:
            self.was_reset = self.fresh is None

    def check(self, states: Any, rows: Any = None, initial: Callable[[int], Any] | None = None) -> None:
        """Raise what `reset` raises for these, and change nothing."""
        self._after_reset(states, rows, initial)

    def _hold(self, values: Any) -> None:
        self.values = values
        self._to_check = any(None in shape for shape in trees.flatten(self.shapes)[0])

    def _as_held(self, states: Any) -> Any:
        if self.shapes is None:
            raise StateError(
                f"{self.label}: its cell says only when it is built which states it has",
                fix="build or call the layer before it is given states",
            )
        leaves, form = trees.flatten(checked_states(states, self.shapes, self.fixed_batch, self.label, "state"))
        dtypes = self.dtype if isinstance(self.dtype, list) else [self.dtype] * len(leaves)
        tensors = [Tensor(np.asarray(leaf), dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
        return trees.unflatten(form, tensors)

    def _after_reset(self, states: Any, rows: Any, initial: Callable[[int], Any] | None) -> Any:
        """The states that a reset leaves."""
        if rows is not None:
            return self._with_rows(states, rows, initial)
        if states is not None:
            return self._as_held(states)
        if self.fresh is None and self.fixed_batch is not None:
            return zero_states(self.shapes, self.fixed_batch, self.dtype)
        return None

    def _with_rows(self, states: Any, rows: Any, initial: Callable[[int], Any] | None) -> Any:
        batch = self.batch
        if batch is None:
            raise StateError(
                f"{self.label}: reset_states(rows=...) before the number of rows is known",
                got="no states, and no batch size",
                fix="leave out rows, call the layer first, or give it the batch size: Input(batch_shape=(...))",
            )
        held = self.values
        if held is None:
            begins = None if self.was_reset else initial
            held = zero_states(self.shapes, batch, self.dtype) if begins is None else begins(batch)
        chosen = row_numbers(rows, batch, self.label)
        if states is not None:
            new = checked_states(states, self.shapes, len(chosen), self.label, "state")
        elif self.fresh is not None:
            new = trees.map(lambda leaf: np.asarray(leaf)[chosen], self.fresh(batch))
        else:
            new = trees.map(lambda leaf: np.zeros_like(leaf.numpy()[chosen]), held)

        def with_rows(held: Any, replacement: Any) -> Tensor:
            array = held.numpy()
            array[chosen] = np.asarray(replacement)
            return Tensor(array)

        return trees.map(with_rows, held, new)


class Stateful:
    """What layers that may keep states between calls share; they set `stateful` and `_held`."""

    stateful: bool
    label: str
    _held: HeldStates

    @property
    def states(self) -> Any:
        """The states that a stateful layer holds, in their structure; None before its first call."""
        return self._held.values

    @states.setter
    def states(self, values: Any) -> None:
        self._require_stateful()
        self._held.assign(values)

    def reset_states(self, states: Any = None, rows: Any = None) -> None:
        """Back to the beginning, or to `states`; only for some `rows` (numbers or booleans) if given.

        An RNN begins with zeros, a container with its declared initial states.  Before the first call the other
        rows are those that it would begin with.  Raises StateError if the layer isn't stateful, if the states
        don't fit, or for rows whose number isn't known yet.
        """
        self._require_stateful()
        self._held.reset(states, rows, self.get_initial_state)

    def get_initial_state(self, batch_size: int, inputs: Any = None) -> Any:
        """The states that a call without `initial_state` begins with."""
        held = self._held
        return zero_states(held.shapes, batch_size, held.dtype) if held.fresh is None else held.fresh(batch_size)

    def check_reset(self, states: Any = None, rows: Any = None) -> None:
        """Raise what `reset_states` raises for these, and change nothing."""
        self._require_stateful()
        self._held.check(states, rows, self.get_initial_state)

    def _require_stateful(self) -> None:
        if not self.stateful:
            raise StateError(f"{self.label}: Layer must be stateful.", fix="stateful=True")


def row_numbers(rows: Any, batch: int, label: str) -> np.ndarray:
    """`rows`, numbers or one boolean a row, as an array of numbers; ArgumentError if they are not among `batch`.

    >>> row_numbers([True, False, True], 3, "LSTM 'l'")
    array([0, 2])
    """
    array = np.atleast_1d(np.asarray(rows))
    if array.dtype == bool and array.shape == (batch,):
        return np.flatnonzero(array)
    if array.size == 0:
        return np.zeros(0, int)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < -batch or array.max() >= batch:
        raise ArgumentError(
            f"{label}: rows", got=repr(rows), expected=f"row numbers below {batch}, or {batch} booleans"
        )
    return array


def as_floats(states: Any, dtype: str) -> Any:
    """Integers and booleans among states as numbers of the layer's dtype."""
    return trees.map(lambda s: s if s.dtype.kind == "f" else ops.cast(s, dtype), states)


def as_states(values: Any, dtype: str) -> Any:
    """Arrays among states as Tensors of the layer's dtype."""
    return trees.map(lambda x: x if isinstance(x, Tensor) else Tensor(np.asarray(x), dtype), values)
