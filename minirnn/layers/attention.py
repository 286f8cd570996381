"""AttentionCell: a cell that at each step reads what it finds in a memory, by where the state before points."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..autodiff import ops, trees
from ..errors import ArgumentError, ShapeError
from . import registry
from .base import Layer, shape_text, units_of
from .protocol import CellFace
from .stacked import StackedRNNCells

SCORES = ("additive", "general", "dot")


@registry.register(kind="layer")
class AttentionCell(Layer):
    """Any cell, with attention over a memory (B, S, memory_size) that is passed as `constants=[memory]`.

    At each step every place of the memory gets a score from the query, which is the first state (of stacked
    cells that of the last) before the step; the softmax of the scores weighs the places, and the wrapped cell
    reads [input, weighted sum].  `score`: "additive", score_kernel . tanh(query @ query_kernel + place @
    memory_kernel) with `units` hidden units, those of the query by default (Bahdanau et al. 2015,
    arXiv:1409.0473); "general", (query @ query_kernel) . place, or "dot", query . place (both Luong et al. 2015,
    arXiv:1508.04025).

    A mask (B, S), which comes as a second constant or on the memory, leaves places out: what stands there
    reaches nothing.  S may differ from call to call.  With `return_attention_scores` the weights (B, S) are a
    second output: RNN(..., return_sequences=True) then returns [y, weights (B, T, S)].

    >>> from minirnn.layers import RNN, GRUCell
    >>> layer = RNN(AttentionCell(GRUCell(4), 6, return_attention_scores=True), return_sequences=True)
    >>> y, weights = layer(np.ones((2, 5, 3)), constants=[np.ones((2, 7, 6))])
    >>> y.shape, weights.shape
    ((2, 5, 4), (2, 5, 7))
    """

    def __init__(
        self,
        cell: Any,
        memory_size: int,
        units: int | None = None,
        score: str = "additive",
        return_attention_scores: bool = False,
        **options: Any,
    ) -> None:
        if isinstance(cell, (list, tuple)):
            cell = StackedRNNCells(cell)
        if options.get("dtype") is None:
            options["dtype"] = getattr(cell, "dtype", None)
        super().__init__(**options)
        if score not in SCORES:
            raise ArgumentError(f"{self.label}: score", got=repr(score), expected=" or ".join(map(repr, SCORES)))
        self.cell, self.score = cell, score
        self._face = CellFace(cell, self.label)
        self.memory_size = units_of(memory_size, self.label, "memory_size")
        self.units = None if units is None else units_of(units, self.label)
        self.return_attention_scores = bool(return_attention_scores)
        width = self._query_of(self._face.shapes)
        if len(width) != 1 or (score == "dot" and tuple(width) != (self.memory_size,)):
            expected = f"(batch, {self.memory_size})" if score == "dot" else "(batch, units)"
            raise ShapeError(
                f"{self.label}: the state that points into the memory",
                got=shape_text((None, *width), ("batch",)),
                expected=expected,
                fix='score="general"' if len(width) == 1 else None,
            )

    def _members(self) -> Iterator[Any]:
        yield from self._face.members()
        yield from super()._members()

    def _query_of(self, states: Any) -> Any:
        """The state that points into the memory, or its shape."""
        if isinstance(self.cell, StackedRNNCells):
            states = states[-1]
        return trees.flatten(states)[0][0]

    @property
    def state_size(self) -> Any:
        """The wrapped cell's."""
        return self._face.shapes

    @property
    def output_size(self) -> Any:
        """The wrapped cell's; None with the weights, whose number the memory decides."""
        return None if self.return_attention_scores else self._face.output

    def get_initial_state(self, inputs: Any = None, batch_size: int | None = None, dtype: Any = None) -> Any:
        """The wrapped cell's own initial states; the batch is that of `inputs` or `batch_size`."""
        batch = batch_size if batch_size is not None else inputs.shape[0]
        return self._face.initial_states(inputs, batch, dtype or self.dtype)

    def build(self, input_shape: Any) -> None:
        (query,) = self._query_of(self._face.shapes)
        if self.score != "dot":
            units = self.units or query
            columns = self.memory_size if self.score == "general" else units
            self.query_kernel = self.add_weight("query_kernel", (query, columns))
            if self.score == "additive":
                self.memory_kernel = self.add_weight("memory_kernel", (self.memory_size, units))
                self.score_kernel = self.add_weight("score_kernel", (units, 1))
        self._face.build((*input_shape[:-1], input_shape[-1] + self.memory_size))

    def call(self, inputs: Any, states: Any, constants: Any = None, training: Any = False) -> tuple[Any, Any]:
        """(B, features), the cell's states and [memory] or [memory, mask] to its output and new states."""
        memory, mask = self._memory_and_mask(constants, inputs.shape[0])
        if mask is not None:
            memory = ops.where(ops.expand_dims(mask, 2), memory, 0.0)
        scores = self._scores(self._query_of(states), memory)
        if mask is not None:
            scores = ops.where(mask, scores, float(np.finfo(np.float32).min))
        weights = ops.softmax(scores)
        if mask is not None:  # a row without any place has zeros
            weights = ops.where(mask, weights, 0.0)
        context = ops.contract("bs,bsd->bd", weights, memory)
        output, states = self._face(ops.concatenate([inputs, context], -1), states, None, training)
        return ((output, weights) if self.return_attention_scores else output), states

    def _memory_and_mask(self, constants: Any, batch: int) -> tuple[Any, Any]:
        count = len(constants or ())
        if count not in (1, 2):
            raise ArgumentError(
                f"{self.label}: constants", got=f"{count} of them", expected="constants=[memory] or [memory, mask]"
            )
        memory = constants[0]
        if memory.ndim != 3 or (memory.shape[0], memory.shape[2]) != (batch, self.memory_size):
            raise ShapeError(
                f"{self.label}: memory",
                got=shape_text(memory.shape, ("batch", "places")),
                expected=f"(batch={batch}, places, {self.memory_size})",
            )
        mask = memory.mask if len(constants) == 1 else constants[1]
        if mask is not None:
            if tuple(mask.shape) != memory.shape[:2]:
                raise ShapeError(
                    f"{self.label}: the mask does not fit the memory",
                    got=shape_text(mask.shape, ("batch", "places")),
                    expected=shape_text(memory.shape[:2], ("batch", "places")),
                )
            mask = mask if mask.dtype == bool else ops.not_equal(mask, 0)
        return memory, mask

    def _scores(self, query: Any, memory: Any) -> Any:
        if self.score != "additive":
            query = query if self.score == "dot" else query @ self.query_kernel
            return ops.contract("bd,bsd->bs", query, memory)
        hidden = ops.tanh(ops.expand_dims(query @ self.query_kernel, 1) + memory @ self.memory_kernel)
        return ops.squeeze(hidden @ self.score_kernel, -1)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "cell": registry.serialize(self.cell),
            "memory_size": self.memory_size,
            "units": self.units,
            "score": self.score,
            "return_attention_scores": self.return_attention_scores,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> AttentionCell:
        cell = registry.deserialize(config["cell"], "layer", custom_objects)
        return super().from_config({**config, "cell": cell}, custom_objects)
