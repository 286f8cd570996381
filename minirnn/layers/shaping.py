"""Layers that join, reshape or mask: Concatenate, Add, Multiply, Flatten, Reshape, Masking."""

from __future__ import annotations

import math
from typing import Any

from ..autodiff import ops, trees
from ..errors import ArgumentError, ShapeError
from . import registry
from .base import Layer, shape_text
from .masks import merged_mask


class _Merge(Layer):
    """A layer of a list of inputs; its output's mask is the AND of theirs.

    So in Keras 2.  Keras 3 takes the OR, with which a step counts that one of the inputs has not got.
    """

    supports_masking = True

    def _checked(self, inputs: Any) -> list[Any]:
        if not isinstance(inputs, (list, tuple)) or not inputs:
            raise ArgumentError(f"{self.label}: inputs", got=repr(inputs), expected="a list of one or more tensors")
        return list(inputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The AND of the inputs' masks."""
        return merged_mask(mask)


@registry.register(kind="layer")
class Add(_Merge):
    """The sum of a list of inputs, broadcast as in NumPy.

    >>> import numpy as np
    >>> Add()([np.ones((2, 3)), np.ones((2, 3))]).numpy().sum().item()
    12.0
    """

    def call(self, inputs: Any) -> Any:
        """x0 + x1 + ..."""
        total, *rest = self._checked(inputs)
        for x in rest:
            total = total + x
        return total


@registry.register(kind="layer")
class Multiply(_Merge):
    """The product, element by element, of a list of inputs, broadcast as in NumPy.

    >>> import numpy as np
    >>> Multiply()([2 * np.ones((1, 2)), 3 * np.ones((1, 2))]).numpy().tolist()
    [[6.0, 6.0]]
    """

    def call(self, inputs: Any) -> Any:
        """x0 * x1 * ..."""
        product, *rest = self._checked(inputs)
        for x in rest:
            product = product * x
        return product


@registry.register(kind="layer")
class Concatenate(_Merge):
    """A list of inputs joined along `axis`; raises ShapeError when another axis differs.

    >>> import numpy as np
    >>> Concatenate()([np.ones((2, 3)), np.ones((2, 4))]).shape
    (2, 7)
    """

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = int(axis)

    def call(self, inputs: Any) -> Any:
        """The inputs side by side."""
        xs = self._checked(inputs)
        rank = xs[0].ndim
        fits = all(x.ndim == rank for x in xs) and -rank <= self.axis < rank
        if not fits or len({x.shape[: self.axis % rank] + x.shape[self.axis % rank + 1 :] for x in xs}) > 1:
            raise ShapeError(
                f"{self.label}: inputs differ on another axis than {self.axis}",
                got=" and ".join(shape_text(x.shape, ("batch",)) for x in xs),
            )
        return ops.concatenate(xs, self.axis)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The AND of the inputs' masks; joined like the inputs along the time axis."""
        if not trees.flatten(mask)[0]:
            return None
        if self.axis % inputs[0].ndim != 1:
            return merged_mask(mask)
        pairs = zip(inputs, mask, strict=True)
        return ops.concatenate([ops.ones(x.shape[:2], "bool") if m is None else m for x, m in pairs], 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


@registry.register(kind="layer")
class Flatten(Layer):
    """All axes but the batch as one: (B, ...) to (B, n).

    >>> import numpy as np
    >>> Flatten()(np.ones((2, 3, 4))).shape
    (2, 12)
    """

    def call(self, inputs: Any) -> Any:
        """(B, ...) to (B, n)."""
        return ops.reshape(inputs, (inputs.shape[0], math.prod(inputs.shape[1:])))


@registry.register(kind="layer")
class Reshape(Layer):
    """Another shape for each row; one size may be -1.  Raises ShapeError when the elements don't fit.

    >>> import numpy as np
    >>> Reshape((3, -1))(np.ones((2, 12))).shape
    (2, 3, 4)
    """

    def __init__(self, target_shape: Any, **options: Any) -> None:
        super().__init__(**options)
        self.target_shape = tuple(int(n) for n in target_shape)
        if self.target_shape.count(-1) > 1 or any(n < -1 for n in self.target_shape):
            raise ArgumentError(f"{self.label}: target_shape", got=self.target_shape, expected="sizes, at most one -1")

    def call(self, inputs: Any) -> Any:
        """(B, ...) to (B, *target_shape)."""
        size, known = math.prod(inputs.shape[1:]), math.prod(n for n in self.target_shape if n != -1)
        free = size // known if known and size % known == 0 else None
        shape = tuple(free if n == -1 else n for n in self.target_shape)
        if free is None or (-1 not in self.target_shape and free != 1):
            raise ShapeError(
                f"{self.label}: the elements of a row don't fit its target_shape",
                got=shape_text(inputs.shape, ("batch",)),
                expected=f"rows of shape {self.target_shape}",
            )
        return ops.reshape(inputs, (inputs.shape[0], *shape))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "target_shape": list(self.target_shape)}


@registry.register(kind="layer")
class Masking(Layer):
    """Masks the time steps whose features all equal `mask_value`, and sets them to zero: (B, T, F) to the same.

    >>> import numpy as np
    >>> Masking()(np.array([[[1.0], [0.0]]])).mask.numpy().tolist()
    [[True, False]]
    """

    supports_masking = True

    def __init__(self, mask_value: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.mask_value = float(mask_value)

    def call(self, inputs: Any) -> Any:
        """The same shape, zeros in masked steps."""
        kept = ops.any(ops.not_equal(inputs, self.mask_value), axis=-1, keepdims=True)
        return ops.where(kept, inputs, ops.zeros_like(inputs))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """True where some feature differs from `mask_value`, and the inputs' own mask is."""
        return merged_mask([mask, ops.any(ops.not_equal(inputs, self.mask_value), axis=-1)])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mask_value": self.mask_value}
