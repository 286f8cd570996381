"""One time step of SimpleRNN, GRU and LSTM, with the weights, gate orders and defaults of Keras."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from ..autodiff import ops, random, trees
from ..errors import ArgumentError, ShapeError
from . import activations, constraints, initializers, registry, regularizers
from .base import Layer, shape_text, units_of
from .protocol import CellFace, members_of
from .states import state_shapes, zero_states

_SHARED_OPTIONS = (
    "units", "activation", "use_bias",
    "kernel_initializer", "recurrent_initializer", "bias_initializer",
    "kernel_regularizer", "recurrent_regularizer", "bias_regularizer",
    "kernel_constraint", "recurrent_constraint", "bias_constraint",
    "dropout", "recurrent_dropout", "implementation",
)  # fmt: skip


class RecurrentCell(Layer):
    """What the three cells share: options, weights, dropout.

    `inputs` of a call are (B, features), each state (B, units).  `dropout` acts on the inputs,
    `recurrent_dropout` on the previous h before its product; one mask a sequence, shared by all time
    steps (Gal & Ghahramani 2016, arXiv:1512.05287).  `implementation` is accepted and changes nothing.
    """

    __untraced__ = Layer.__untraced__ | {
        "kernel_initializer", "recurrent_initializer", "bias_initializer", "kernel_regularizer",
        "recurrent_regularizer", "bias_regularizer", "kernel_constraint", "recurrent_constraint", "bias_constraint",
        "implementation", "unit_forget_bias",
    }  # fmt: skip
    gates: ClassVar[int]
    option_names: ClassVar[tuple[str, ...]] = _SHARED_OPTIONS
    # Keras's LSTM and GRU take a rate of 1 as no dropout, its SimpleRNN drops everything.
    full_rate_drops: ClassVar[bool] = False

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        implementation: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.units = units_of(units, self.label)
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = regularizers.get(recurrent_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.recurrent_constraint = constraints.get(recurrent_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self.dropout = min(1.0, max(0.0, float(dropout)))
        self.recurrent_dropout = min(1.0, max(0.0, float(recurrent_dropout)))
        if implementation not in (0, 1, 2):
            raise ArgumentError(f"{self.label}: implementation", got=implementation, expected="0, 1 or 2")
        self.implementation = implementation
        self.bias: Any = None

    @property
    def state_size(self) -> Any:
        """The number of units of the one state h."""
        return self.units

    @property
    def output_size(self) -> int:
        """The number of units."""
        return self.units

    def get_initial_state(self, inputs: Any = None, batch_size: int | None = None, dtype: Any = None) -> Any:
        """Zeros (B, units) for every state; the batch is that of `inputs` or `batch_size`."""
        batch = batch_size if batch_size is not None else None if inputs is None else inputs.shape[0]
        if batch is None:
            raise ArgumentError(f"{self.label}: get_initial_state needs inputs or batch_size")
        return zero_states(state_shapes(self.state_size), batch, dtype or self.dtype)

    get_initial_state.makes_zeros = True  # type: ignore[attr-defined]

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != 2:
            raise ShapeError(
                f"{self.label}: a cell takes one time step",
                got=shape_text(input_shape, ("batch",)),
                expected="(batch, features)",
            )
        features, units, width = input_shape[-1], self.units, self.gates * self.units
        self.kernel = self.add_weight(
            "kernel", (features, width), self.kernel_initializer, self.kernel_regularizer, self.kernel_constraint
        )
        self.recurrent_kernel = self.add_weight(
            "recurrent_kernel",
            (units, width),
            self.recurrent_initializer,
            self.recurrent_regularizer,
            self.recurrent_constraint,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                "bias", self._bias_shape(), self._first_bias, self.bias_regularizer, self.bias_constraint
            )

    def _bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def _first_bias(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self.bias_initializer(shape, dtype)

    def _dropped(self, x: Any, rate: float, training: Any) -> Any:
        """`x` with elements dropped, the same ones at every step of the sequence."""
        if not training or not (0.0 < rate < 1.0 or (rate == 1.0 and self.full_rate_drops)):
            return x
        with random.shared_over_time():
            return x * random.dropout_mask(x.shape, rate, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: _plain(getattr(self, name)) for name in self.option_names}}


def _plain(option: Any) -> Any:
    """An option as JSON can hold it."""
    if callable(option) and not hasattr(option, "get_config"):
        return activations.serialize(option)
    return registry.serialize(option) if hasattr(option, "get_config") else option


@registry.register(kind="layer")
class SimpleRNNCell(RecurrentCell):
    """`h = activation(x @ kernel + bias + h @ recurrent_kernel)` (Elman 1990).

    Weights: kernel (features, units), recurrent_kernel (units, units), bias (units,).

    >>> cell = SimpleRNNCell(3)
    >>> output, states = cell(np.ones((2, 5)), [np.zeros((2, 3))])
    >>> output.shape, len(states)
    ((2, 3), 1)
    """

    gates = 1
    full_rate_drops = True

    def call(self, inputs: Any, states: Any, training: Any = False) -> tuple[Any, list[Any]]:
        """(B, features) and [h] to (h, [h])."""
        (h,) = states
        x_part = self._dropped(inputs, self.dropout, training) @ self.kernel
        if self.use_bias:
            x_part = x_part + self.bias
        h_part = self._dropped(h, self.recurrent_dropout, training) @ self.recurrent_kernel
        h = self.activation(x_part + h_part)
        return h, [h]


@registry.register(kind="layer")
class GRUCell(RecurrentCell):
    """A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), columns in the order z, r, h.

    With `reset_after` (the default, as cuDNN computes it) the reset gate acts after the recurrent product
    and bias is (2, 3 * units), its rows added to the input's and to the recurrent product; without it
    the gate acts on h before the product and bias is (3 * units,).  Weights: kernel
    (features, 3 * units), recurrent_kernel (units, 3 * units), bias.

    >>> GRUCell(4).build((None, 3)), GRUCell(4, reset_after=False).state_size
    (None, 4)
    """

    gates = 3
    option_names = (*_SHARED_OPTIONS, "recurrent_activation", "reset_after")

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        reset_after: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(units, activation, use_bias, **options)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.reset_after = bool(reset_after)

    def _bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def call(self, inputs: Any, states: Any, training: Any = False) -> tuple[Any, list[Any]]:
        """(B, features) and [h] to (h, [h])."""
        (h,) = states
        x_part = self._dropped(inputs, self.dropout, training) @ self.kernel
        h_dropped = self._dropped(h, self.recurrent_dropout, training)
        if self.reset_after:
            h_part = h_dropped @ self.recurrent_kernel
            if self.use_bias:
                x_part = x_part + self.bias[0]
                h_part = h_part + self.bias[1]
            xz, xr, xh = ops.split(x_part, 3, axis=-1)
            hz, hr, hh = ops.split(h_part, 3, axis=-1)
            z = self.recurrent_activation(xz + hz)
            r = self.recurrent_activation(xr + hr)
            candidate = self.activation(xh + r * hh)
        else:
            if self.use_bias:
                x_part = x_part + self.bias
            xz, xr, xh = ops.split(x_part, 3, axis=-1)
            gates = h_dropped @ self.recurrent_kernel[:, : 2 * self.units]
            hz, hr = ops.split(gates, 2, axis=-1)
            z = self.recurrent_activation(xz + hz)
            r = self.recurrent_activation(xr + hr)
            hh = (r * h_dropped) @ self.recurrent_kernel[:, 2 * self.units :]
            candidate = self.activation(xh + hh)
        h = z * h + (1 - z) * candidate
        return h, [h]


@registry.register(kind="layer")
class LSTMCell(RecurrentCell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000), columns in the order i, f, c, o.

    `activation` squashes the candidate and the output's c.  With `unit_forget_bias` the forget gate's bias
    begins at ones (Jozefowicz et al. 2015).  Weights: kernel (features, 4 * units), recurrent_kernel
    (units, 4 * units), bias (4 * units,).

    >>> cell = LSTMCell(2)
    >>> h, (_, c) = cell(np.ones((1, 3)), [np.zeros((1, 2)), np.zeros((1, 2))])
    >>> cell.bias.numpy().tolist()
    [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """

    gates = 4
    option_names = (*_SHARED_OPTIONS, "recurrent_activation", "unit_forget_bias")

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        unit_forget_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(units, activation, use_bias, **options)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.unit_forget_bias = bool(unit_forget_bias)

    @property
    def state_size(self) -> list[int]:
        """The sizes of h and c."""
        return [self.units, self.units]

    def _first_bias(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if not self.unit_forget_bias:
            return super()._first_bias(shape, dtype)
        units = self.units
        make = self.bias_initializer
        return np.concatenate([make((units,), dtype), np.ones(units, dtype), make((2 * units,), dtype)])

    def call(self, inputs: Any, states: Any, training: Any = False) -> tuple[Any, list[Any]]:
        """(B, features) and [h, c] to (h, [h, c])."""
        h, c = states
        x_part = self._dropped(inputs, self.dropout, training) @ self.kernel
        if self.use_bias:
            x_part = x_part + self.bias
        h_part = self._dropped(h, self.recurrent_dropout, training) @ self.recurrent_kernel
        z = x_part + h_part
        zi, zf, zc, zo = ops.split(z, 4, axis=-1)
        i = self.recurrent_activation(zi)
        f = self.recurrent_activation(zf)
        candidate = self.activation(zc)
        o = self.recurrent_activation(zo)
        c = f * c + i * candidate
        h = o * self.activation(c)
        return h, [h, c]


@registry.register(kind="layer")
class StackedRNNCells(Layer):
    """Several cells as one: at each step, every cell reads the output of the one before it.

    The states are one list a cell, first cell first.  Raises ArgumentError for an empty list or for
    something that is no cell.

    >>> StackedRNNCells([SimpleRNNCell(3), LSTMCell(4)]).state_size
    [[TensorShape((3,))], [TensorShape((4,)), TensorShape((4,))]]
    """

    def __init__(self, cells: Any, **options: Any) -> None:
        cells = list(cells)
        options.setdefault("dtype", getattr(cells[0], "dtype", None) if cells else None)
        super().__init__(**options)
        if not cells:
            raise ArgumentError(f"{self.label}: cells", got="an empty list", expected="at least one cell")
        self.cells = cells
        self._faces = [CellFace(cell, f"{self.label}, cell {number}") for number, cell in enumerate(cells)]

    @property
    def state_size(self) -> list[Any]:
        """The shapes of the cells' states, one list a cell."""
        return [face.shapes for face in self._faces]

    @property
    def output_size(self) -> Any:
        """The size of the last cell's output."""
        return self._faces[-1].output

    def _members(self) -> Iterator[Any]:
        yield from members_of(self._faces)
        yield from super()._members()

    def get_initial_state(self, inputs: Any = None, batch_size: int | None = None, dtype: Any = None) -> list[Any]:
        """The cells' own initial states; the batch is that of `inputs` or `batch_size`."""
        batch = batch_size if batch_size is not None else inputs.shape[0]
        return [face.initial_states(inputs, batch, dtype or self.dtype) for face in self._faces]

    def build(self, input_shape: Any) -> None:
        batch = None
        for face in self._faces:
            face.build(input_shape)
            input_shape = trees.map(lambda shape: (batch, *shape), face.output)

    def call(self, inputs: Any, states: Any, constants: Any = None, training: Any = False) -> tuple[Any, list[Any]]:
        """One step through all cells; `constants` reach those that take them."""
        new_states = []
        for face, cell_states in zip(self._faces, states, strict=True):
            given = constants if face.takes_constants else None
            inputs, cell_states = face(inputs, cell_states, given, training)
            new_states.append(cell_states)
        return inputs, new_states

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "cells": registry.serialize_all(self.cells)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> StackedRNNCells:
        cells = registry.deserialize_all(config["cells"], "layer", custom_objects)
        return super().from_config({**config, "cells": cells}, custom_objects)
