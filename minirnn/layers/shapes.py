"""Shapes that a user writes, and the shapes of a layer's outputs for shapes of its inputs."""

from __future__ import annotations

import copy
import operator
from typing import Any, ClassVar

from ..autodiff import random, trees
from ..errors import ArgumentError
from . import registry


def sizes_of(shape: Any, what: str) -> tuple[int | None, ...]:
    """`shape` as a tuple of sizes, None where unknown; ArgumentError, beginning with `what`, if it is none.

    >>> sizes_of([None, 3], "Input: shape")
    (None, 3)
    """
    try:
        sizes = tuple(None if n is None else operator.index(n) for n in shape)
    except TypeError:
        raise ArgumentError(what, got=repr(shape), expected="a tuple of sizes or None") from None
    if any(n is not None and n < 0 for n in sizes):
        raise ArgumentError(what, got=repr(shape), expected="sizes >= 0, None where unknown")
    return sizes


class ShapedOutputs:
    """What tells the shapes of a layer's outputs; the layer stays as it is, built or not."""

    built: bool
    dtype: str
    default_input_dtype: ClassVar[str | None]

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shapes of the outputs for inputs of this shape, None where unknown; several stand in a list or dict.

        Raises what a call on such an Input raises.

        >>> from minirnn.layers import LSTM
        >>> LSTM(4, return_state=True).compute_output_shape((None, 5, 3))
        [(None, 4), (None, 4), (None, 4)]
        """
        # A layer that is not built makes weights of these sizes, and draws numbers for them: a copy does so.
        layer: Any = self if self.built else copy.deepcopy(self)
        before = random.get_state()
        try:
            outputs = layer(_inputs(input_shape, self.default_input_dtype or self.dtype))
        finally:
            random.set_state(before)
        return trees.map(lambda x: x.shape, outputs)


def _inputs(shape: Any, dtype: str) -> Any:
    """An Input of this shape, or one for each of several."""
    if isinstance(shape, dict):
        return {key: _inputs(item, dtype) for key, item in shape.items()}
    if isinstance(shape, (list, tuple)) and any(isinstance(item, (list, tuple, dict)) for item in shape):
        return [_inputs(item, dtype) for item in shape]
    return registry.lookup("layer", "InputLayer")(shape, dtype=dtype).output
