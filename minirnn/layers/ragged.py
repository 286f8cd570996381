"""Ragged: a batch of sequences of different lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autodiff import trees
from ..autodiff.tensor import Tensor
from ..errors import ArgumentError, DtypeError, ShapeError

if TYPE_CHECKING:
    from .base import Layer


class Ragged:
    """A batch of sequences (T_i, ...), each of a length of its own, 0 allowed.

    A layer or a model that is called on one reads a padded array and the mask that says which steps count;
    `fit`, `evaluate` and `predict` take it wherever they take an array of sequences.  What drops masks, such
    as Flatten or an operation of mr.ops, lets later layers read the padding as steps.  The arrays are
    not copied.  Raises ShapeError or DtypeError, naming the row, unless all have one dtype and one shape behind
    the time axis.

    >>> batch = Ragged([np.ones((3, 2)), np.ones((1, 2))])
    >>> len(batch), batch.lengths, batch.shape, batch[1].shape
    (2, array([3, 1]), (2, 3, 2), (1, 2))
    """

    __array_ufunc__ = None  # arithmetic with an array is an error, not an array of rows

    def __init__(self, sequences: Iterable[Any]) -> None:
        given = list(sequences)
        if not given:
            raise ArgumentError("Ragged: it needs at least one sequence", got="none")
        rows = [_row(number, sequence) for number, sequence in enumerate(given)]
        # An empty list says nothing of its dtype and features.
        first = next(
            (row for row, x in zip(rows, given, strict=True) if row.size or isinstance(x, np.ndarray)), rows[0]
        )
        blank = np.zeros((0, *first.shape[1:]), first.dtype)
        self._rows = [
            row if row.size or isinstance(x, np.ndarray) else blank for row, x in zip(rows, given, strict=True)
        ]
        self._blank = blank
        for number, row in enumerate(self._rows):
            if row.dtype != blank.dtype:
                raise DtypeError(
                    f"Ragged: the dtype of row {number} is not that of the rows before",
                    got=row.dtype,
                    expected=blank.dtype,
                )
            if row.shape[1:] != blank.shape[1:]:
                raise ShapeError(
                    f"Ragged: row {number} has another shape behind its time axis than the rows before",
                    got=row.shape,
                    expected=f"(time, {', '.join(map(str, blank.shape[1:]))})" if blank.ndim > 1 else "(time,)",
                )

    @classmethod
    def from_padded(cls, array: Any, lengths: Any) -> Ragged:
        """The leading `lengths[i]` steps of each row of a padded array (B, T, ...).

        Raises ShapeError unless there is one length a row, from 0 to T.

        >>> [row.tolist() for row in Ragged.from_padded(np.array([[1, 2], [3, 0]]), [2, 1])]
        [[1, 2], [3]]
        """
        array, lengths = np.asarray(array), np.asarray(lengths)
        fits = array.ndim > 1 and lengths.shape == array.shape[:1] and lengths.dtype.kind in "iu"
        if not fits or (lengths.size and not 0 <= lengths.min() <= lengths.max() <= array.shape[1]):
            raise ShapeError(
                "Ragged.from_padded: lengths",
                got=f"{lengths.dtype} {lengths.tolist()} for an array of shape {array.shape}",
                expected="for each row of (batch, time, ...) an integer from 0 to its number of steps",
            )
        blank = np.zeros((0, *array.shape[2:]), array.dtype)
        return cls._of([row[:length] for row, length in zip(array, lengths, strict=True)], blank)

    @classmethod
    def _of(cls, rows: list[np.ndarray], blank: np.ndarray) -> Ragged:
        """Rows that are known to fit each other; `blank` has no steps, and says what they hold if there is none."""
        made = cls.__new__(cls)
        made._rows, made._blank = rows, blank
        return made

    @property
    def lengths(self) -> np.ndarray:
        """The number of steps of each row, (B,) integers."""
        return np.array([len(row) for row in self._rows], np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the padded array, (B, T, ...)."""
        return (len(self._rows), max(map(len, self._rows), default=0), *self._blank.shape[1:])

    @property
    def ndim(self) -> int:
        """The number of axes of the padded array."""
        return 1 + self._blank.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every row."""
        return self._blank.dtype

    @property
    def mask(self) -> np.ndarray:
        """Which steps of the padded array are steps of a sequence: bool (B, T)."""
        return _leading(self.lengths, self.shape[1])

    def padded(self, value: Any = 0, length: int | None = None) -> np.ndarray:
        """One array (B, T, ...) with `value` behind the end of each row; T is the longest length, or `length`.

        >>> Ragged([[1, 2], [3]]).padded(-1).tolist()
        [[1, 2], [3, -1]]
        """
        batch, time, *rest = self.shape
        if length is not None and length < time:
            raise ShapeError("Ragged.padded: length", got=length, expected=f"{time} or more, the longest row")
        array = np.full((batch, time if length is None else length, *rest), value, self.dtype)
        for row, steps in zip(array, self._rows, strict=True):
            row[: len(steps)] = steps
        return array

    def tensor(self, dtype: Any = None, batch_axis: int = 0, length: int | None = None) -> Tensor:
        """The padded array as a Tensor that carries its mask, both time first if `batch_axis` is 1.

        `dtype` is that of floats; integers stay what they are.
        """
        array, mask = self.padded(length=length), self.mask
        if length is not None:
            mask = _leading(self.lengths, length)
        if batch_axis:
            array, mask = array.swapaxes(0, 1), mask.T
        tensor = Tensor(array, dtype if self.dtype.kind == "f" else None)
        tensor.mask = Tensor(mask)
        return tensor

    def steps(self, start: int, stop: int) -> Ragged:
        """The steps from `start` to before `stop` of each row, as far as it has them.

        >>> Ragged([[1, 2, 3], [4]]).steps(1, 3).lengths
        array([2, 0])
        """
        return self._of([row[start:stop] for row in self._rows], self._blank)

    def joined_with(self, others: Iterable[Ragged]) -> Ragged:
        """The rows of this one, then those of the others.

        >>> Ragged([[1]]).joined_with([Ragged([[2, 3]])]).lengths
        array([1, 2])
        """
        return Ragged([*self, *(row for other in others for row in other)]) if others else self

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """A row by its number; several, as a Ragged, by a slice, an array of numbers or a boolean a row."""
        if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
            return self._rows[index]
        if isinstance(index, slice):
            return self._of(self._rows[index], self._blank)
        numbers = np.asarray(index)
        if numbers.dtype == bool and numbers.shape == (len(self),):
            numbers = np.flatnonzero(numbers)
        if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
            raise ArgumentError(
                "Ragged: index",
                got=repr(index),
                expected="a row number, a slice, row numbers, or a boolean for each row",
            )
        return self._of([self._rows[number] for number in numbers], self._blank)

    def __repr__(self) -> str:
        lengths = self.lengths
        steps = f"{lengths.min()} to {lengths.max()} steps" if len(self) else "no steps"
        return f"<Ragged {len(self)} sequences of {steps}, each {self._blank.shape[1:]} {self.dtype}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise ArgumentError(
            "a Ragged is no array", got=repr(self), fix="ragged.padded(), with ragged.lengths beside it"
        )

    def __functional_call__(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        refuse_beside_ragged(layer, kwargs)
        args, kwargs = layer._cast_arguments(args, kwargs)  # which knows what dtype and which axis is wanted
        return layer(*args, **kwargs)


def refuse_beside_ragged(layer: Any, kwargs: dict[str, Any]) -> None:
    """ArgumentError for what would contradict the lengths of a Ragged: another mask, or an unrolled loop."""
    given = [name for name in ("mask", "lengths") if kwargs.get(name) is not None]
    if given:
        raise ArgumentError(
            f"{layer.label}: a Ragged says itself which steps count",
            got=f"{given[0]}= beside it",
            fix="pass ragged.padded() with a mask or lengths, or the Ragged alone",
        )
    if getattr(layer, "unroll", False):
        raise ArgumentError(
            f"{layer.label}: it is unrolled, which needs a fixed number of steps", got="a Ragged", fix="unroll=False"
        )


def holds_ragged(values: Any) -> bool:
    """Whether there is a Ragged in a nested structure.

    >>> holds_ragged([np.ones(2), Ragged([[1]])])
    True
    """
    return any(isinstance(leaf, Ragged) for leaf in trees.flatten(values)[0])


def _leading(lengths: np.ndarray, time: int) -> np.ndarray:
    return np.arange(time) < lengths[:, None]


def _row(number: int, sequence: Any) -> np.ndarray:
    if isinstance(sequence, Tensor):
        raise ArgumentError(
            f"Ragged: row {number} is a Tensor, which would lose its place on a tape",
            fix="np.asarray(row), or a padded Tensor with lengths=",
        )
    try:
        row = np.asarray(sequence)
    except ValueError as error:
        raise ShapeError(f"Ragged: row {number} is no regular array", got=str(error)) from None
    if row.ndim == 0:
        raise ShapeError(f"Ragged: row {number} has no time axis", got=repr(sequence), expected="(time, ...)")
    if row.dtype.kind not in "fiub":
        raise DtypeError(f"Ragged: row {number} must hold numbers", got=row.dtype)
    return row
