"""Layers of one step: Dense, Embedding, Activation, Dropout, LayerNormalization, Lambda."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autodiff import ops, random
from ..autodiff.tensor import Tensor
from ..errors import ArgumentError, DtypeError, MinirnnError, ShapeError
from . import activations, constraints, initializers, registry, regularizers
from .base import Layer, shape_text, units_of
from .masks import merged_mask


@registry.register(kind="layer")
class Dense(Layer):
    """`activation(x @ kernel + bias)` over the last axis: (..., features) to (..., units).

    Weights: kernel (features, units), bias (units,).  Raises ShapeError when the last axis has another
    size than the kernel was built for.

    >>> Dense(3)(np.ones((2, 5))).shape
    (2, 3)
    """

    supports_masking = True

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.units = units_of(units, self.label)
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)

    def build(self, input_shape: Any) -> None:
        if len(input_shape) < 2:
            raise ShapeError(
                f"{self.label}: input", got=shape_text(input_shape, ("batch",)), expected="(batch, ..., features)"
            )
        self.kernel = self.add_weight(
            "kernel",
            (input_shape[-1], self.units),
            self.kernel_initializer,
            self.kernel_regularizer,
            self.kernel_constraint,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                "bias", (self.units,), self.bias_initializer, self.bias_regularizer, self.bias_constraint
            )

    def call(self, inputs: Any) -> Any:
        """(..., features) to (..., units)."""
        features = self.kernel.shape[0]
        if not inputs.shape or inputs.shape[-1] != features:
            raise ShapeError(
                f"{self.label}: input has {inputs.shape[-1] if inputs.shape else 'no'} features on its last axis "
                f"(shape {shape_text(inputs.shape, ('batch',))}) but its kernel was built for {features}"
            )
        z = inputs @ self.kernel
        if self.use_bias:
            z = z + self.bias
        return self.activation(z)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": registry.serialize(self.kernel_initializer),
            "bias_initializer": registry.serialize(self.bias_initializer),
            "kernel_regularizer": registry.serialize(self.kernel_regularizer),
            "bias_regularizer": registry.serialize(self.bias_regularizer),
            "kernel_constraint": registry.serialize(self.kernel_constraint),
            "bias_constraint": registry.serialize(self.bias_constraint),
        }


@registry.register(kind="layer")
class Embedding(Layer):
    """Rows of a table by number: integers (B, ...) to (B, ..., output_dim).

    Weight: embeddings (input_dim, output_dim).  With `mask_zero` the number 0 means padding: the result
    carries the mask `ids != 0`, joined with one that the numbers brought.  Raises ArgumentError for a
    number outside of 0 .. input_dim - 1.

    >>> Embedding(10, 4)(np.array([[1, 2, 0]])).shape
    (1, 3, 4)
    """

    default_input_dtype = "int32"

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.input_dim = units_of(input_dim, self.label, "input_dim")
        self.output_dim = units_of(output_dim, self.label, "output_dim")
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self.embeddings_regularizer = regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = constraints.get(embeddings_constraint)
        self.mask_zero = bool(mask_zero)

    def build(self, input_shape: Any = None) -> None:
        self.embeddings = self.add_weight(
            "embeddings",
            (self.input_dim, self.output_dim),
            self.embeddings_initializer,
            self.embeddings_regularizer,
            self.embeddings_constraint,
        )

    def call(self, inputs: Any) -> Any:
        """(B, ...) integers to (B, ..., output_dim)."""
        return ops.take(self.embeddings, self._checked(inputs), axis=0)

    def _checked(self, ids: Any) -> Any:
        values = np.asarray(ids) if isinstance(ids, Tensor) and not ids.is_abstract else None
        if ids.dtype.kind == "b":
            raise DtypeError(f"{self.label}: input", got="booleans", expected="integers")
        if ids.dtype.kind == "f":  # Keras's Input is float32 unless told otherwise
            if values is not None and (values != np.round(values)).any():
                raise DtypeError(f"{self.label}: input", got=f"{ids.dtype} with fractions", expected="integers")
            ids = ops.cast(ids, "int64")
        if values is not None and values.size and not 0 <= values.min() <= values.max() < self.input_dim:
            worst = values.min() if values.min() < 0 else values.max()
            raise ArgumentError(
                f"{self.label}: a number outside of its table",
                got=f"{worst:g}",
                expected=f"0 to {self.input_dim - 1} (input_dim={self.input_dim})",
            )
        return ids

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The inputs' own mask, with mask_zero only where `inputs != 0`."""
        return merged_mask([mask, ops.not_equal(inputs, 0)]) if self.mask_zero else mask

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": registry.serialize(self.embeddings_initializer),
            "embeddings_regularizer": registry.serialize(self.embeddings_regularizer),
            "embeddings_constraint": registry.serialize(self.embeddings_constraint),
            "mask_zero": self.mask_zero,
        }


@registry.register(kind="layer")
class Activation(Layer):
    """An activation, by name or as a function, as a layer.

    >>> Activation("relu")(np.array([[-1.0, 2.0]])).numpy().tolist()
    [[0.0, 2.0]]
    """

    supports_masking = True

    def __init__(self, activation: Any, **options: Any) -> None:
        super().__init__(**options)
        self.activation = activations.get(activation)

    def call(self, inputs: Any) -> Any:
        """The same shape."""
        return self.activation(inputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "activation": activations.serialize(self.activation)}


@registry.register(kind="layer")
class Dropout(Layer):
    """In training, zeroes elements with probability `rate` and divides the others by `1 - rate`.

    An axis of size 1 in `noise_shape` shares its draws, as in (None, 1, features) over time (None: the
    input's size).  Raises ArgumentError unless 0 <= rate <= 1.

    >>> Dropout(0.5)(np.ones((1, 2))).numpy().tolist()
    [[1.0, 1.0]]
    """

    supports_masking = True

    def __init__(self, rate: float, noise_shape: Any = None, **options: Any) -> None:
        super().__init__(**options)
        if isinstance(rate, bool) or not 0 <= rate <= 1:
            raise ArgumentError(f"{self.label}: rate", got=repr(rate), expected="a number from 0 to 1")
        self.rate = float(rate)
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)

    def call(self, inputs: Any, training: Any = False) -> Any:
        """The same shape."""
        if not training or self.rate == 0:
            return inputs
        shape = inputs.shape
        if self.noise_shape is not None:
            if len(self.noise_shape) != len(shape):
                raise ShapeError(f"{self.label}: noise_shape", got=self.noise_shape, expected=f"{len(shape)} sizes")
            shape = tuple(n if m is None else m for n, m in zip(shape, self.noise_shape, strict=True))
        dtype = inputs.dtype if inputs.dtype.kind == "f" else self.dtype
        return inputs * random.dropout_mask(shape, self.rate, dtype)

    def get_config(self) -> dict[str, Any]:
        shape = None if self.noise_shape is None else list(self.noise_shape)
        return {**super().get_config(), "rate": self.rate, "noise_shape": shape}


@registry.register(kind="layer")
class LayerNormalization(Layer):
    """`gamma * (x - mean) / sqrt(variance + epsilon) + beta` over `axis` of each row.

    Weights: gamma and beta, of the sizes of the normalised axes (Ba et al. 2016, arXiv:1607.06450).

    >>> LayerNormalization(epsilon=0.0)(np.array([[1.0, 3.0]])).numpy().tolist()
    [[-1.0, 1.0]]
    """

    supports_masking = True

    def __init__(
        self,
        axis: Any = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.axis = list(axis) if isinstance(axis, (list, tuple)) else int(axis)
        self.epsilon, self.center, self.scale = float(epsilon), bool(center), bool(scale)
        self.beta_initializer, self.gamma_initializer = (
            initializers.get(beta_initializer),
            initializers.get(gamma_initializer),
        )
        self.beta_regularizer, self.gamma_regularizer = (
            regularizers.get(beta_regularizer),
            regularizers.get(gamma_regularizer),
        )
        self.beta_constraint, self.gamma_constraint = (
            constraints.get(beta_constraint),
            constraints.get(gamma_constraint),
        )

    def _axes(self, rank: int) -> tuple[int, ...]:
        axes = self.axis if isinstance(self.axis, list) else [self.axis]
        if any(not -rank <= axis < rank for axis in axes):
            raise ShapeError(f"{self.label}: axis", got=self.axis, expected=f"axes of an input with {rank}")
        return tuple(sorted(axis % rank for axis in axes))

    def build(self, input_shape: Any) -> None:
        shape = tuple(input_shape[axis] for axis in self._axes(len(input_shape)))
        if self.scale:
            self.gamma = self.add_weight(
                "gamma", shape, self.gamma_initializer, self.gamma_regularizer, self.gamma_constraint
            )
        if self.center:
            self.beta = self.add_weight(
                "beta", shape, self.beta_initializer, self.beta_regularizer, self.beta_constraint
            )

    def call(self, inputs: Any) -> Any:
        """The same shape."""
        axes = self._axes(inputs.ndim)
        x = inputs if inputs.dtype.kind in "fc" else ops.cast(inputs, self.dtype)
        centered = x - ops.mean(x, axis=axes, keepdims=True)
        variance = ops.mean(ops.square(centered), axis=axes, keepdims=True)
        y = centered / ops.sqrt(variance + self.epsilon)
        if self.scale:
            y = y * self._aligned(self.gamma, axes, inputs.ndim)
        return y + self._aligned(self.beta, axes, inputs.ndim) if self.center else y

    def _aligned(self, weight: Any, axes: tuple[int, ...], rank: int) -> Any:
        """The weight with its axes where the input has them."""
        if axes == tuple(range(rank - len(axes), rank)):
            return weight
        sizes = dict(zip(axes, weight.shape, strict=True))
        return ops.reshape(weight, tuple(sizes.get(axis, 1) for axis in range(rank)))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "axis": self.axis,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            **{
                f"{name}_{kind}": registry.serialize(getattr(self, f"{name}_{kind}"))
                for kind in ("initializer", "regularizer", "constraint")
                for name in ("beta", "gamma")
            },
        }


@registry.register(kind="layer")
class Lambda(Layer):
    """A Python function of Tensors, made of `mr.ops`, as a layer without weights.

    `arguments`: more keyword arguments; `mask`: a function (inputs, mask) that makes the outputs' mask.  It
    can be saved if the function has a name, and loaded where that name is registered
    (`minirnn.register`) or among `custom_objects`; code itself is never stored.

    >>> Lambda(lambda x: x * 2)(np.ones((1, 2))).numpy().tolist()
    [[2.0, 2.0]]
    """

    def __init__(
        self,
        function: Callable[..., Any],
        arguments: dict[str, Any] | None = None,
        mask: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.function = registry.get("function", function)
        if not callable(self.function):
            raise ArgumentError(f"{self.label}: function", got=repr(function), expected="a function")
        self.arguments = dict(arguments or {})
        self.mask = registry.get("function", mask)

    def call(self, inputs: Any) -> Any:
        """What the function returns."""
        return self.function(inputs, **self.arguments)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """What the mask function makes, None without one."""
        return self.mask(inputs, mask) if self.mask is not None else None

    def get_config(self) -> dict[str, Any]:
        try:
            function, mask = registry.serialize(self.function), registry.serialize(self.mask)
        except MinirnnError as error:
            error.add_note(f"{self.label} stores the name of its function, never its code")
            raise
        return {**super().get_config(), "function": function, "arguments": self.arguments, "mask": mask}
