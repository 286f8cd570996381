"""One time step of SimpleRNN, GRU and LSTM, with the weights, gate orders and defaults of Keras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..autodiff import ops, random
from ..errors import ArgumentError, ShapeError
from . import activations, constraints, initializers, registry, regularizers
from .base import Layer, shape_text, units_of
from .keras_configs import in_our_words
from .states import state_shapes, zero_states

_SHARED_OPTIONS = (
    "units", "activation", "use_bias",
    "kernel_initializer", "recurrent_initializer", "bias_initializer",
    "kernel_regularizer", "recurrent_regularizer", "bias_regularizer",
    "kernel_constraint", "recurrent_constraint", "bias_constraint",
    "dropout", "recurrent_dropout", "implementation", "clip", "zoneout",
)  # fmt: skip


class RecurrentCell(Layer):
    """What the three cells share: options, weights, dropout, zoneout.

    `inputs` of a call are (B, features), each state (B, units).  `dropout` acts on the inputs,
    `recurrent_dropout` on the previous h before its product, in training: one mask a sequence, shared by
    all time steps (Gal & Ghahramani 2016, arXiv:1512.05287), or one for each gate with `implementation=1`,
    which LSTM and GRU always have with recurrent_dropout, as in Keras; it changes nothing else.

    `clip` limits what goes into the activations of gates and candidates to -clip .. clip (as onnxruntime
    does; an LSTM's c is not limited).  `zoneout` (Krueger et al. 2017, arXiv:1606.01305): in training each
    element of each state keeps its value from the step before with this probability, drawn at every step;
    otherwise a state is the expectation, zoneout * old + (1 - zoneout) * new.
    """

    __untraced__ = Layer.__untraced__ | {
        "kernel_initializer", "recurrent_initializer", "bias_initializer", "kernel_regularizer",
        "recurrent_regularizer", "bias_regularizer", "kernel_constraint", "recurrent_constraint", "bias_constraint",
        "unit_forget_bias",
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
        clip: float | None = None,
        zoneout: float = 0.0,
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
        for what, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout), ("zoneout", zoneout)):
            if not _is_number(rate) or not (what != "zoneout" or 0 <= rate <= 1):
                raise ArgumentError(f"{self.label}: {what}", got=repr(rate), expected="a number from 0 to 1")
        self.dropout = min(1.0, max(0.0, float(dropout)))
        self.recurrent_dropout = min(1.0, max(0.0, float(recurrent_dropout)))
        if implementation not in (0, 1, 2):
            raise ArgumentError(f"{self.label}: implementation", got=implementation, expected="0, 1 or 2")
        self.implementation = 1 if self.recurrent_dropout and self.gates > 1 else implementation
        if clip is not None and not (_is_number(clip) and clip > 0):
            raise ArgumentError(f"{self.label}: clip", got=repr(clip), expected="a number above 0, or None")
        self.clip, self.zoneout = None if clip is None else float(clip), float(zoneout)
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
        self._add_kernels(self._features_of(input_shape))
        if self.use_bias:
            self.bias = self.add_weight(
                "bias", self._bias_shape(), self._first_bias, self.bias_regularizer, self.bias_constraint
            )

    def _features_of(self, input_shape: Any) -> Any:
        if len(input_shape) != 2:
            raise ShapeError(
                f"{self.label}: a cell takes one time step",
                got=shape_text(input_shape, ("batch",)),
                expected="(batch, features)",
            )
        return input_shape[-1]

    def _kernel_shape(self, features: Any) -> tuple[int, ...]:
        return features, self.gates * self.units

    @property
    def _h_size(self) -> int:
        return self.units

    def _add_kernels(self, features: Any) -> None:
        shape = self._kernel_shape(features)
        self.kernel = self.add_weight(
            "kernel", shape, self.kernel_initializer, self.kernel_regularizer, self.kernel_constraint
        )
        self.recurrent_kernel = self._add_recurrent("recurrent_kernel", self._kernel_shape(self._h_size))

    def _add_recurrent(self, name: str, shape: tuple[int, ...]) -> Any:
        return self.add_weight(
            name, shape, self.recurrent_initializer, self.recurrent_regularizer, self.recurrent_constraint
        )

    def _bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def _first_bias(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self.bias_initializer(shape, dtype)

    def _dropped(self, x: Any, rate: float, training: Any) -> list[Any]:
        """`x` with elements dropped, the same ones at every step of the sequence; one for each gate, or for all."""
        if not training or not (0.0 < rate < 1.0 or (rate == 1.0 and self.full_rate_drops)):
            return [x]
        with random.shared_over_time():
            count = self.gates if self.implementation == 1 else 1
            return [x * random.dropout_mask(x.shape, rate, x.dtype) for _ in range(count)]

    def _x_product(self, xs: list[Any]) -> Any:
        return product(xs, self.kernel)

    def _h_product(self, hs: list[Any]) -> Any:
        return product(hs, self.recurrent_kernel)

    def _bounded(self, z: Any) -> Any:
        """What goes into an activation."""
        return z if self.clip is None else ops.clip(z, -self.clip, self.clip)

    def _zoned(self, new: list[Any], old: Any, training: Any) -> list[Any]:
        """The new states, with zoneout."""
        rate = self.zoneout
        if rate == 0:
            return new
        if not training:
            return [rate * before + (1 - rate) * after for before, after in zip(old, new, strict=True)]
        return [
            ops.where(ops.less(random.uniform(after.shape, after.dtype), rate), before, after)
            for before, after in zip(old, new, strict=True)
        ]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: _plain(getattr(self, name)) for name in self.option_names}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        return super().from_config(dict(in_our_words(config, cls.option_names)), custom_objects)


def forget_bias_of_ones(make: Any, units: int, dtype: Any) -> np.ndarray:
    """A bias for i, f, c, o: ones for f, the others from the initializer `make`."""
    return np.concatenate([make((units,), dtype), np.ones(units, dtype), make((2 * units,), dtype)])


def product(xs: list[Any], kernel: Any, multiply: Any = ops.matmul) -> Any:
    """x times kernel; of several xs, each times its share of the kernel's columns."""
    if len(xs) == 1:
        return multiply(xs[0], kernel)
    shares = ops.split(kernel, len(xs), axis=-1)
    return ops.concatenate([multiply(x, share) for x, share in zip(xs, shares, strict=True)], axis=-1)


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)


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
        x_part = self._x_product(self._dropped(inputs, self.dropout, training))
        if self.use_bias:
            x_part = x_part + self.bias
        h_part = self._h_product(self._dropped(h, self.recurrent_dropout, training))
        h = self.activation(self._bounded(x_part + h_part))
        (h,) = self._zoned([h], states, training)
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
        x_part = self._x_product(self._dropped(inputs, self.dropout, training))
        hs = self._dropped(h, self.recurrent_dropout, training)
        if self.reset_after:
            h_part = self._h_product(hs)
            if self.use_bias:
                x_part = x_part + self.bias[0]
                h_part = h_part + self.bias[1]
            xz, xr, xh = ops.split(x_part, 3, axis=-1)
            hz, hr, hh = ops.split(h_part, 3, axis=-1)
            z = self.recurrent_activation(self._bounded(xz + hz))
            r = self.recurrent_activation(self._bounded(xr + hr))
            candidate = self.activation(self._bounded(xh + r * hh))
        else:
            if self.use_bias:
                x_part = x_part + self.bias
            xz, xr, xh = ops.split(x_part, 3, axis=-1)
            gates = product(hs[:2], self.recurrent_kernel[:, : 2 * self.units])
            hz, hr = ops.split(gates, 2, axis=-1)
            z = self.recurrent_activation(self._bounded(xz + hz))
            r = self.recurrent_activation(self._bounded(xr + hr))
            hh = (r * hs[-1]) @ self.recurrent_kernel[:, 2 * self.units :]
            candidate = self.activation(self._bounded(xh + hh))
        h = z * h + (1 - z) * candidate
        (h,) = self._zoned([h], states, training)
        return h, [h]


@registry.register(kind="layer")
class LSTMCell(RecurrentCell):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; Gers et al. 2000), columns in the order i, f, c, o.

    `activation` squashes the candidate and the output's c.  With `unit_forget_bias` the forget gate's bias
    begins at ones (Jozefowicz et al. 2015).  `peepholes`: i and f also see the old c, o the new one, each
    unit its own (Gers & Schmidhuber 2000); these weights begin at zeros.  `input_forget`: f = 1 - i, and the
    columns of f are not used (both as in ONNX).  `proj_size`: h = (o * activation(c)) @ projection_kernel is
    of that size (Sak et al. 2014, arXiv:1402.1128); projection_kernel begins as recurrent_kernel does.

    Weights: kernel (features, 4 * units), recurrent_kernel (units, or proj_size, 4 * units),
    projection_kernel (units, proj_size), bias (4 * units,), peephole (3, units) in the order i, f, o.
    States: h (units, or proj_size) and c (units).

    >>> cell = LSTMCell(2)
    >>> h, (_, c) = cell(np.ones((1, 3)), [np.zeros((1, 2)), np.zeros((1, 2))])
    >>> cell.bias.numpy().tolist()
    [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """

    gates = 4
    option_names: ClassVar[tuple[str, ...]] = (
        *_SHARED_OPTIONS, "recurrent_activation", "unit_forget_bias", "peepholes", "proj_size", "input_forget",
    )  # fmt: skip

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        unit_forget_bias: bool = True,
        peepholes: bool = False,
        proj_size: int | None = None,
        input_forget: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(units, activation, use_bias, **options)
        self.recurrent_activation = activations.get(recurrent_activation)
        self.unit_forget_bias = bool(unit_forget_bias)
        self.peepholes, self.input_forget = bool(peepholes), bool(input_forget)
        self.proj_size = None if proj_size is None else units_of(proj_size, self.label, "proj_size")

    @property
    def state_size(self) -> list[int]:
        """The sizes of h and c."""
        return [self._h_size, self.units]

    @property
    def output_size(self) -> int:
        """The size of h."""
        return self._h_size

    @property
    def _h_size(self) -> int:
        return self.units if self.proj_size is None else self.proj_size

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        if self.peepholes:
            self.peephole = self.add_weight("peephole", (3, self.units), "zeros")

    def _add_kernels(self, features: Any) -> None:
        super()._add_kernels(features)
        if self.proj_size is not None:
            self.projection_kernel = self._add_recurrent("projection_kernel", (self.units, self.proj_size))

    def _first_bias(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if not self.unit_forget_bias:
            return super()._first_bias(shape, dtype)
        return forget_bias_of_ones(self.bias_initializer, self.units, dtype)

    def call(self, inputs: Any, states: Any, training: Any = False) -> tuple[Any, list[Any]]:
        """(B, features) and [h, c] to (h, [h, c])."""
        h, c = states
        x_part = self._x_product(self._dropped(inputs, self.dropout, training))
        if self.use_bias:
            x_part = x_part + self.bias
        h_part = self._h_product(self._dropped(h, self.recurrent_dropout, training))
        z = x_part + h_part
        zi, zf, zc, zo = ops.split(z, 4, axis=-1)
        if self.peepholes:
            zi, zf = zi + self.peephole[0] * c, zf + self.peephole[1] * c
        i = self.recurrent_activation(self._bounded(zi))
        f = 1 - i if self.input_forget else self.recurrent_activation(self._bounded(zf))
        candidate = self.activation(self._bounded(zc))
        c = f * c + i * candidate
        if self.peepholes:
            zo = zo + self.peephole[2] * c
        o = self.recurrent_activation(self._bounded(zo))
        h = o * self.activation(c)
        if self.proj_size is not None:
            h = h @ self.projection_kernel
        h, c = self._zoned([h, c], states, training)
        return h, [h, c]
