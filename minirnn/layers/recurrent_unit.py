"""RecurrentUnit: one time step of a recurrent layer, for use in the step of a container."""

from __future__ import annotations

from typing import Any

from ..autodiff import ops, trees
from ..errors import ShapeError, StateError
from . import registry
from .base import Layer, shape_text
from .protocol import CellFace
from .recurrent import RNN
from .states import checked_states, map_shapes


@registry.register(kind="layer")
class RecurrentUnit(Layer):
    """One time step of a recurrent layer: `unit(x_t, states=[...])` returns [output, *new_states].

    `layer` is an RNN, SimpleRNN, GRU or LSTM, a cell or a list of cells; of a layer only the cell counts,
    not what it does with time.  Called again, the unit uses the same weights.  x_t: (B, features), or None
    for a step without input, which reads one zero; each state (B, units).  Raises StateError without
    states or with a wrong number of them, ShapeError where shapes or batch sizes don't fit.

    >>> import numpy as np
    >>> from minirnn.layers import LSTM
    >>> y, h, c = RecurrentUnit(LSTM(4))(np.ones((2, 3)), states=[np.zeros((2, 4)), np.zeros((2, 4))])
    >>> y.shape, c.shape
    ((2, 4), (2, 4))
    """

    needs_arrays = False

    def __init__(self, layer: Any, **options: Any) -> None:
        if not isinstance(layer, RNN):
            if not isinstance(layer, (list, tuple)):
                CellFace(layer, "RecurrentUnit")  # says what is missing if this is no cell
            layer = RNN(layer)
        options.setdefault("dtype", layer.dtype)
        super().__init__(**options)
        self.layer = layer
        self._face = CellFace(layer.cell, self.label)

    def __call__(self, inputs: Any = None, states: Any = None, training: Any = None) -> list[Any]:
        """One step for (B, features) and one array (B, units) a state."""
        if not trees.flatten(states)[0]:
            raise StateError(
                f"{self.label}: A RecurrentUnit must be passed input states when called.",
                expected=f"{self._face.state_count} of them: unit(x_t, states=[...])",
            )
        options = {} if training is None else {"training": training}
        return super().__call__(inputs, states=states, **options)

    def build(self, input_shape: Any) -> None:
        step_shape = (None, 1) if input_shape is None else input_shape
        self.layer.build_once(map_shapes(self._with_time, step_shape))

    def _with_time(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of a sequence of one such step, as the layer reads it."""
        rank = self.layer.input_rank
        if len(shape) < 2 or (rank is not None and len(shape) != rank - 1):
            raise ShapeError(
                f"{self.label}: it takes one time step",
                got=shape_text(shape, ("batch",)),
                expected="(batch, features)" if rank is not None else "(batch, features, ...)",
            )
        head = (1, shape[0]) if self.layer.time_major else (shape[0], 1)
        return (*head, *shape[1:])

    def call(self, inputs: Any, states: Any, training: Any = False) -> list[Any]:
        """[output, *new_states] of one step."""
        first = trees.flatten((inputs, states))[0][0]
        batch = first.shape[0] if getattr(first, "shape", ()) else None
        states = checked_states(states, self._face.shapes, batch, self.label, "state")
        if inputs is None:
            inputs = ops.zeros((batch, 1), self.dtype)
        self._check_features(inputs)
        output, new_states = self._face(inputs, states, None, training)
        return [*trees.flatten(output)[0], *trees.flatten(new_states)[0]]

    def _check_features(self, inputs: Any) -> None:
        for x, features in zip(trees.flatten(inputs)[0], self.layer._form.features, strict=True):
            if x.ndim != 1 + len(features) or any(b not in (None, a) for a, b in zip(x.shape[1:], features)):
                raise ShapeError(
                    f"{self.label}: input",
                    got=shape_text(x.shape, ("batch",)),
                    expected=shape_text(("any", *features), ("batch",)),  # type: ignore[arg-type]
                )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "layer": registry.serialize(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> RecurrentUnit:
        layer = registry.deserialize(config["layer"], "layer", custom_objects)
        return super().from_config({**config, "layer": layer}, custom_objects)
