"""How the two kinds of recurrent layers, RNN and RecurrentContainer, take one time step in a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..autodiff import ops, trees
from ..autodiff.tensor import Tensor
from ..errors import StateError
from ..layers.base import Layer
from ..layers.container import RecurrentContainer
from ..layers.masks import masks_of, merged_mask
from ..layers.protocol import CellFace
from ..layers.recurrent import RNN
from ..layers.states import checked_states

Arguments = tuple[Any, ...]
Options = dict[str, Any]


class OfCell:
    """An RNN: a step of its cell.  `args` and `kwargs` are those of the layer's call in the graph."""

    def __init__(self, layer: RNN) -> None:
        self.layer, self.face = layer, CellFace(layer.cell, layer.label)
        self.time_axis = 1 - layer.batch_axis
        self.returns_states = layer.return_state
        # Whether outputs in masked steps are zeros instead of the ones before.
        self.zero_if_masked = layer.zero_output_for_mask and layer.return_sequences

    def sequences(self, args: Arguments) -> list[Any]:
        """The inputs that come step by step."""
        return trees.flatten(args[0])[0]

    def fixed(self, kwargs: Options) -> Iterator[tuple[str, Any]]:
        """The inputs that must be known at the beginning, by what the call names them."""
        for name in ("initial_state", "constants"):
            yield from ((name, leaf) for leaf in trees.flatten(kwargs.get(name))[0])

    def mask(self, args: Arguments, kwargs: Options) -> Any:
        """The mask of the call: the one that was passed, or the first that came with the inputs."""
        given = kwargs.get("mask")
        masks = trees.flatten(masks_of(args[0]) if given is None else given)[0]
        return masks[0] if masks else None

    def timed(self, outputs: int) -> int:
        """How many of the outputs, from the first, have a time axis."""
        return outputs if self.layer.return_sequences else 0

    def masked(self, outputs: int) -> int:
        """How many of the outputs, from the first, carry the mask on."""
        return 1 if self.timed(outputs) and (outputs == 1 or self.returns_states) else 0

    def begin(self, batch: int, steps: list[tuple[tuple[int, ...], Any]], kwargs: Options) -> list[Any]:
        """The states before the first step; `steps` are shape and dtype of one step of the inputs."""
        given = kwargs.get("initial_state")
        if given is not None:
            return trees.flatten(checked_states(given, self.face.shapes, batch, self.layer.label))[0]
        # A cell may look at the inputs' shapes. Whether it looks at their values is seen by what NaN does.
        shown = [np.full(self._as_sequence(s, batch), np.nan if d.kind == "f" else 0, d) for s, d in steps]
        inputs = [Tensor(x) for x in shown]
        states = self.layer.get_initial_state(batch, inputs[0] if len(inputs) == 1 else inputs)
        leaves = trees.flatten(states)[0]
        if any(np.isnan(np.asarray(leaf)).any() for leaf in leaves):
            raise StateError(
                f"{self.layer.label}: its initial states depend on the values of the input, which a stream has not seen"
            )
        return leaves

    def _as_sequence(self, shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
        return (batch, 1, *shape[1:]) if self.time_axis else (1, batch, *shape[1:])

    def step(self, args: Arguments, kwargs: Options, xs: list[Any], states: list[Any]) -> tuple[list[Any], list[Any]]:
        """Outputs and new states for one step of the inputs."""
        x = trees.unflatten(trees.flatten(args[0])[1], xs)
        old = trees.unflatten(trees.flatten(self.face.shapes)[1], states)
        output, new = self.face(x, old, kwargs.get("constants"), kwargs.get("training", False))
        return trees.flatten(output)[0], trees.flatten(new)[0]


class OfContainer:
    """A RecurrentContainer: a run of its step; see OfCell."""

    time_axis = 1
    zero_if_masked = False

    def __init__(self, layer: RecurrentContainer) -> None:
        self.layer, self.returns_states = layer, layer.return_states

    def sequences(self, args: Arguments) -> list[Any]:
        """The sequence inputs."""
        return args[0]

    def fixed(self, kwargs: Options) -> Iterator[tuple[str, Any]]:
        """The constants and the initial states that were passed."""
        for name in ("constants", "states"):
            yield from ((name, leaf) for leaf in kwargs.get(name) or () if leaf is not None)

    def mask(self, args: Arguments, kwargs: Options) -> Any:
        """The mask of the call: the one that was passed, or the AND of those that came with the sequences."""
        given = kwargs.get("mask")
        return merged_mask(masks_of(args[0])) if given is None else given

    def timed(self, outputs: int) -> int:
        """The number of sequence outputs."""
        return self.layer.step.count("sequence_outputs")

    masked = timed

    def begin(self, batch: int, steps: list[tuple[tuple[int, ...], Any]], kwargs: Options) -> list[Any]:
        """The states that were passed, or else the declared ones."""
        given = kwargs.get("states") or [None] * self.layer.step.count("state_inputs")
        return [self.layer.initial_state(i, batch) if s is None else s for i, s in enumerate(given)]

    def step(self, args: Arguments, kwargs: Options, xs: list[Any], states: list[Any]) -> tuple[list[Any], list[Any]]:
        """Sequence and constant outputs, and new states."""
        inputs = [*xs, *kwargs.get("constants", ()), *states]
        collected, last, new = self.layer.step.run(inputs, kwargs.get("training", False))
        return [*collected, *last], new


Recurrence = OfCell | OfContainer


def recurrence_of(layer: Layer) -> Recurrence | None:
    """How a layer takes one step, None if it has no states or runs over time in a way of its own."""
    if isinstance(layer, RNN) and type(layer).call is RNN.call:
        return OfCell(layer)
    if isinstance(layer, RecurrentContainer) and type(layer).call is RecurrentContainer.call:
        return OfContainer(layer)
    return None


def valid_rows(mask: Any, batch: int) -> Any:
    """The mask of a sequence of one step, (B, 1), (1, B) or with a last axis of size 1, as booleans (B,)."""
    rows = ops.reshape(mask, (batch,))
    return rows if rows.dtype == bool else ops.not_equal(rows, 0)
