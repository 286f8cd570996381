"""What fit, evaluate and predict are given, made into batches: several inputs and outputs, weights, shuffling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autodiff import random
from ..autodiff.tensor import Tensor
from ..errors import ArgumentError, DtypeError, ShapeError
from ..layers.ragged import Ragged


@dataclass
class Batch:
    """Arrays with the same samples on axis 0: inputs, targets (None where there is none) and weights.

    `masks` say at which steps targets and outputs count; they are known once there are outputs.
    """

    input_names: Sequence[str]
    inputs: list[Any]
    targets: list[Any]
    weights: list[Any]
    size: int
    masks: list[Any] = field(default_factory=list)


class Samples:
    """All samples of a run: one array or Ragged for each input and, where given, each target and weight.

    Raises ShapeError when the arrays hold different numbers of samples, naming each array.

    >>> samples = Samples.of(np.zeros((5, 3)), np.zeros(5), None, ["x"], ["y"])
    >>> [batch.size for batch in samples.batches(2)]
    [2, 2, 1]
    """

    def __init__(
        self,
        input_names: Sequence[str],
        output_names: Sequence[str],
        inputs: list[Any],
        targets: list[Any],
        weights: list[Any],
    ) -> None:
        self.input_names, self.output_names = list(input_names), list(output_names)
        self.inputs, self.targets, self.weights = inputs, targets, weights
        self.size = len(inputs[0])

    @classmethod
    def of(
        cls,
        x: Any,
        y: Any,
        sample_weight: Any,
        input_names: Sequence[str],
        output_names: Sequence[str],
    ) -> Samples:
        """The samples in `x`, `y` and `sample_weight`: an array each, a list in order, or a dict by name."""
        inputs = arrays("x", x, input_names)
        targets: list[Any] = [None] * len(output_names)
        if y is not None:
            targets = arrays("y", y, output_names)
        weights = _weights(sample_weight, output_names)
        sizes = {}
        for group, names, found in (
            ("x", input_names, inputs),
            ("y", output_names, targets),
            ("sample_weight", output_names, weights),
        ):
            for name, array in zip(names, found, strict=True):
                if array is not None:
                    sizes[group if len(names) == 1 else f"{group}[{name!r}]"] = len(array)
        if any(array is None for array in inputs):
            raise ArgumentError("x: every input needs an array", got=f"None for one of {', '.join(input_names)}")
        if len(set(sizes.values())) > 1:
            raise ShapeError(
                "the arrays hold different numbers of samples (the length of axis 0)",
                got=", ".join(f"{name}: {size}" for name, size in sizes.items()),
                expected="the same number everywhere",
            )
        return cls(input_names, output_names, [a for a in inputs if a is not None], targets, weights)

    def require_some(self, what: str) -> Samples:
        """These samples; ArgumentError if there are none."""
        if self.size == 0:
            raise ArgumentError(f"{what}: there are no samples", got="arrays of length 0", expected="at least one")
        return self

    def split(self, fraction: float) -> tuple[Samples, Samples]:
        """The first samples for training and the last `fraction` of them for validation, as Keras splits."""
        if not 0 < fraction < 1:
            raise ArgumentError("validation_split", got=fraction, expected="a number between 0 and 1")
        at = math.floor(self.size * (1 - fraction))
        if at == 0 or at == self.size:
            raise ArgumentError(
                f"validation_split={fraction} leaves nothing to {'train' if at == 0 else 'validate'} on",
                got=f"{self.size} samples",
            )
        return self._take(slice(None, at)), self._take(slice(at, None))

    def batches(self, batch_size: int, order: np.ndarray | None = None) -> Iterator[Batch]:
        """Batches of `batch_size` samples, the last one of what is left; in the given order of samples."""
        for start in range(0, self.size, batch_size):
            part: Any = slice(start, start + batch_size)
            yield self._take(part if order is None else order[part]).whole()

    def whole(self) -> Batch:
        """All samples as one batch."""
        return Batch(self.input_names, self.inputs, self.targets, self.weights, self.size)

    def count_batches(self, batch_size: int) -> int:
        """How many batches there are."""
        return -(-self.size // batch_size)

    def shuffled_order(self, epoch: int) -> np.ndarray:
        """An order of the samples that depends on the seed and the epoch only."""
        return random.numpy_generator("shuffle", epoch).permutation(self.size)

    def _take(self, index: Any) -> Samples:
        def take(group: Sequence[Any]) -> list[Any]:
            return [None if array is None else array[index] for array in group]

        return Samples(self.input_names, self.output_names, take(self.inputs), take(self.targets), take(self.weights))


def check_batch_size(batch_size: Any) -> int:
    """`batch_size` if it is a whole number of at least one; ArgumentError otherwise."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ArgumentError("batch_size", got=repr(batch_size), expected="a whole number, at least 1")
    return int(batch_size)


def names_for(kind: str, value: Any) -> list[str]:
    """Names for the arrays in `value` when no Inputs or output layers have given any.

    >>> names_for("input", np.zeros(3)), names_for("input", [np.zeros(3), np.zeros(3)])
    (['input'], ['input_0', 'input_1'])
    """
    if isinstance(value, Mapping):
        return list(value)
    count = len(value) if isinstance(value, (list, tuple)) and _holds_arrays(value) else 1
    return [kind] if count == 1 else [f"{kind}_{i}" for i in range(count)]


def arrays(what: str, value: Any, names: Sequence[str]) -> list[Any]:
    """One array or Ragged for each name, from an array, a list in the order of `names`, or a dict by name.

    With one name, a list of numbers or of nested lists is itself the array.

    >>> arrays("x", {"b": [1, 2], "a": [3, 4]}, ["a", "b"])
    [array([3, 4]), array([1, 2])]
    """
    if isinstance(value, Mapping):
        _check_names(what, value, names)
        return [_array(f"{what}[{name!r}]", value.get(name)) for name in names]
    if isinstance(value, (list, tuple)) and (len(names) > 1 or _holds_arrays(value)):
        if len(value) != len(names):
            raise ArgumentError(
                f"{what}: one array for each of {', '.join(names)}",
                got=f"{len(value)} entries",
                expected=len(names),
                fix=f"for one input, pass np.stack({what}), or mr.Ragged({what})" if len(names) == 1 else None,
            )
        return [_array(f"{what}[{name!r}]", entry) for name, entry in zip(names, value, strict=True)]
    if len(names) > 1:
        raise ArgumentError(
            f"{what}: one array for each of {', '.join(names)}",
            got="one array",
            expected=f"a list of {len(names)} arrays, or a dict with these names",
        )
    return [_array(what, value)]


def _holds_arrays(value: Sequence[Any]) -> bool:
    return any(isinstance(entry, (np.ndarray, Tensor, Ragged)) and entry.ndim > 0 for entry in value)


def _check_names(what: str, given: Mapping[str, Any], names: Sequence[str]) -> None:
    unknown = [name for name in given if name not in names]
    missing = [name for name in names if name not in given] if what == "x" else []
    if unknown or missing:
        raise ArgumentError(
            f"{what}: the names do not fit the model",
            got=", ".join(map(repr, given)),
            expected=", ".join(map(repr, names)),
        )


def _array(what: str, value: Any) -> np.ndarray | Ragged | None:
    if value is None or isinstance(value, Ragged):
        return value
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ShapeError(
            f"{what} is no regular array",
            got=str(error),
            fix="mr.Ragged(rows) takes sequences of different lengths",
        ) from None
    if array.dtype.kind not in "fiub":
        raise DtypeError(f"{what} must hold numbers", got=f"{type(value).__name__} of dtype {array.dtype}")
    if array.ndim == 0:
        raise ShapeError(f"{what} needs an axis of samples", got="a single number")
    return array


def _weights(sample_weight: Any, names: Sequence[str]) -> list[Any]:
    if sample_weight is None:
        return [None] * len(names)
    if len(names) > 1 and not isinstance(sample_weight, (Mapping, list, tuple)):
        sample_weight = [sample_weight] * len(names)  # one array weighs the samples of every output
    return arrays("sample_weight", sample_weight, names)
