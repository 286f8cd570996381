"""Optimizers: Keras's names, defaults and formulas, on NumPy arrays.

An optimizer keeps a few arrays for every Variable it has updated and exports them by name, so that
a checkpoint can continue a run to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..autodiff.tensor import Tensor, Variable
from ..errors import ArgumentError, FormatError, ShapeError
from ..layers import registry
from . import schedules

Rate = float | schedules.LearningRateSchedule


class Optimizer:
    """The base: the learning rate, clipping, weight decay, and the arrays kept for each Variable.

    A subclass names the arrays it keeps in `slot_names` and defines `update`.  Of `clipnorm` (each
    gradient's norm), `global_clipnorm` (the norm of all together) and `clipvalue` (each element)
    one may be given.  `weight_decay` shrinks the weights by `learning_rate * weight_decay` of
    themselves before the update.

    >>> w = Variable([1.0, -2.0], name="w")
    >>> sgd = SGD(learning_rate=0.5)
    >>> sgd.apply([np.array([1.0, 1.0], "float32")], [w])
    >>> w.numpy()
    array([ 0.5, -2.5], dtype=float32)
    """

    slot_names: tuple[str, ...] = ()

    def __init__(
        self,
        learning_rate: Rate,
        *,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
    ) -> None:
        clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        given = {key: value for key, value in clips.items() if value is not None}
        if len(given) > 1:
            raise ArgumentError(f"{type(self).__name__}: only one way to clip", got=", ".join(given), expected="one")
        for key, value in given.items():
            if not value > 0:
                raise ArgumentError(f"{type(self).__name__}: {key} must be positive", got=value)
        self.clipnorm, self.clipvalue, self.global_clipnorm = clipnorm, clipvalue, global_clipnorm
        self.weight_decay = weight_decay
        self.name = name or type(self).__name__.lower()
        self.iterations = 0
        self._rate = self._checked_rate(learning_rate)
        self._kept: dict[int, tuple[Variable, list[np.ndarray]]] = {}
        self._scratch: dict[tuple[Any, ...], np.ndarray] = {}

    def _checked_rate(self, rate: Any) -> Rate:
        if isinstance(rate, schedules.LearningRateSchedule):
            return rate
        if isinstance(rate, dict):
            return self._checked_rate(registry.deserialize(rate, "schedule"))
        if not isinstance(rate, (int, float, np.number)):
            raise ArgumentError(
                f"{type(self).__name__}: learning_rate", got=rate, expected="a number or a LearningRateSchedule"
            )
        if not 0 <= float(rate) < math.inf:
            raise ArgumentError(f"{type(self).__name__}: learning_rate must be finite and not negative", got=rate)
        return float(rate)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update; assign a number or a schedule to change it."""
        return self._rate if isinstance(self._rate, float) else self._rate(self.iterations)

    @learning_rate.setter
    def learning_rate(self, rate: Rate) -> None:
        if not isinstance(self._rate, float) and not isinstance(rate, schedules.LearningRateSchedule):
            raise ArgumentError(
                f"{type(self).__name__}: the learning rate follows a {type(self._rate).__name__} and cannot be set",
                got=rate,
                fix="give the optimizer a number as its learning_rate if a callback is to change it",
            )
        self._rate = self._checked_rate(rate)

    def apply(self, gradients: Sequence[Any], variables: Sequence[Variable]) -> None:
        """Update each Variable by its gradient (an array or Tensor of its shape; None leaves it alone)."""
        if len(gradients) != len(variables):
            raise ArgumentError(
                f"{type(self).__name__}: gradients and variables",
                got=f"{len(gradients)} and {len(variables)}",
                expected="as many of one as of the other",
            )
        pairs = [(_array(g), v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        if not pairs:
            raise ArgumentError(
                f"{type(self).__name__}: there is no gradient for any variable",
                fix="was the loss computed from the variables, inside the Tape?",
            )
        for gradient, variable in pairs:
            if gradient.shape != variable.shape:
                raise ShapeError(
                    f"{type(self).__name__}: the gradient of {variable.name or 'a variable'}",
                    got=gradient.shape,
                    expected=variable.shape,
                )
        arrays = self._clip([gradient for gradient, _ in pairs])
        rate = self.learning_rate
        for gradient, (_, variable) in zip(arrays, pairs, strict=True):
            scratch = self._scratch_like(variable)
            value = variable.value
            if self.weight_decay:
                value = value - value * (rate * self.weight_decay)
            change = self.update(gradient, self._slots(variable), rate, scratch)
            variable.assign(np.subtract(value, change, out=scratch))
        self.iterations += 1

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Variable]]) -> None:
        """`apply` for pairs of gradient and Variable."""
        pairs = list(grads_and_vars)
        self.apply([g for g, _ in pairs], [v for _, v in pairs])

    def update(self, gradient: np.ndarray, slots: list[np.ndarray], rate: float, scratch: np.ndarray) -> np.ndarray:
        """What to subtract from the weights; changes `slots` in place and may use `scratch`, not `gradient`."""
        return np.multiply(gradient, rate, out=scratch)

    def _slots(self, variable: Variable) -> list[np.ndarray]:
        entry = self._kept.get(id(variable))
        if entry is None:
            entry = variable, [np.zeros(variable.shape, variable.dtype) for _ in self.slot_names]
            self._kept[id(variable)] = entry
        return entry[1]

    def _scratch_like(self, variable: Variable) -> np.ndarray:
        key = variable.shape, variable.dtype
        if key not in self._scratch:
            self._scratch[key] = np.empty(variable.shape, variable.dtype)
        return self._scratch[key]

    def _clip(self, gradients: list[np.ndarray]) -> list[np.ndarray]:
        if self.clipvalue is not None:
            return [np.clip(g, -self.clipvalue, self.clipvalue) for g in gradients]
        if self.clipnorm is not None:
            return [_scaled_to(g, self.clipnorm, math.sqrt(_sum_of_squares(g))) for g in gradients]
        if self.global_clipnorm is not None:
            norm = math.sqrt(sum(_sum_of_squares(g) for g in gradients))
            return [_scaled_to(g, self.global_clipnorm, norm) for g in gradients]
        return gradients

    def export_state(self, variables: Sequence[Variable]) -> dict[str, np.ndarray]:
        """The number of updates and every kept array, named `<slot>/<position in variables>`.

        Variables that were never updated have no entries.
        """
        arrays = {"iterations": np.array(self.iterations, dtype=np.int64)}
        for position, variable in enumerate(variables):
            if id(variable) in self._kept:
                kept = self._kept[id(variable)][1]
                arrays |= {f"{slot}/{position}": a.copy() for slot, a in zip(self.slot_names, kept, strict=True)}
        return arrays

    def import_state(self, arrays: dict[str, np.ndarray], variables: Sequence[Variable]) -> None:
        """Continue from what `export_state` returned; FormatError, with nothing changed, if it does not fit."""
        known = {f"{slot}/{i}": v for i, v in enumerate(variables) for slot in self.slot_names}
        wrong = sorted(set(arrays) - set(known) - {"iterations"})
        if wrong or "iterations" not in arrays:
            raise FormatError(
                f"{type(self).__name__}: this is not its saved state",
                got=", ".join(wrong) or "no iterations",
                expected="iterations" + "".join(f", {slot}/0 ..." for slot in self.slot_names),
            )
        for key, variable in known.items():
            if key in arrays and arrays[key].shape != variable.shape:
                raise FormatError(
                    f"{type(self).__name__}: saved state {key} does not fit {variable.name or 'its variable'}",
                    got=arrays[key].shape,
                    expected=variable.shape,
                )
        self._kept = {}
        for position, variable in enumerate(variables):
            for slot, name in enumerate(self.slot_names):
                if f"{name}/{position}" in arrays:
                    self._slots(variable)[slot][...] = arrays[f"{name}/{position}"]
        self.iterations = int(arrays["iterations"])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, with the learning rate as it is now."""
        rate = self._rate if isinstance(self._rate, float) else registry.serialize(self._rate)
        names = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "name")
        return {"learning_rate": rate} | {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Optimizer:
        """The optimizer that `get_config` described, without its kept arrays."""
        return cls(**config)


def _array(gradient: Any) -> np.ndarray:
    return gradient.value if isinstance(gradient, Tensor) else np.asarray(gradient)


def _sum_of_squares(array: np.ndarray) -> float:
    flat = array.ravel()
    with np.errstate(over="ignore", under="ignore"):
        total = float(np.dot(flat, flat))
    if 1e-30 < total < math.inf:
        return total
    return float(np.sum(np.square(array, dtype=np.float64)))  # beyond the range of float32 squares


def _scaled_to(gradient: np.ndarray, limit: float, norm: float) -> np.ndarray:
    return gradient if norm <= limit else gradient * (limit / norm)


@registry.register(kind="optimizer")
class SGD(Optimizer):
    """Gradient descent, `w -= learning_rate * g`, with momentum or Nesterov momentum if asked.

    With momentum: `v = momentum * v - learning_rate * g`, then `w += v`, or
    `w += momentum * v - learning_rate * g` with `nesterov`.
    Sutskever and others, On the importance of initialization and momentum in deep learning (2013).
    """

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(learning_rate, **common)
        if not 0 <= momentum <= 1:
            raise ArgumentError("SGD: momentum", got=momentum, expected="a number from 0 to 1")
        self.momentum, self.nesterov = momentum, nesterov
        self.slot_names = ("velocity",) if momentum else ()

    def update(self, gradient: np.ndarray, slots: list[np.ndarray], rate: float, scratch: np.ndarray) -> np.ndarray:
        """The velocity is kept with the sign of the gradient, so that it is what is subtracted."""
        step = np.multiply(gradient, rate, out=scratch)
        if not slots:
            return step
        (velocity,) = slots
        velocity *= self.momentum
        velocity += step
        if not self.nesterov:
            return velocity
        step += self.momentum * velocity
        return step

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return super().get_config() | {"momentum": self.momentum, "nesterov": self.nesterov}


@registry.register(kind="optimizer", aliases=("rmsprop",))
class RMSprop(Optimizer):
    """Gradient divided by the root of a running mean of its square, `v = rho * v + (1 - rho) * g**2`.

    `centered` subtracts the square of the running mean of g under the root; `momentum`
    accumulates the updates.  Tieleman and Hinton, lecture 6.5 of Neural Networks for Machine Learning (2012).
    """

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(learning_rate, **common)
        self.rho, self.momentum, self.epsilon, self.centered = rho, momentum, epsilon, centered
        self.slot_names = (
            "mean_square",
            *(["mean"] if centered else []),
            *(["velocity"] if momentum else []),
        )

    def update(self, gradient: np.ndarray, slots: list[np.ndarray], rate: float, scratch: np.ndarray) -> np.ndarray:
        """`rate * g / sqrt(v + epsilon)`, as Keras has it (epsilon under the root)."""
        mean_square = slots[0]
        np.multiply(gradient, gradient, out=scratch)
        _move_towards(mean_square, scratch, 1 - self.rho)
        np.copyto(scratch, mean_square)
        if self.centered:
            mean = slots[1]
            mean *= self.rho
            mean += gradient * (1 - self.rho)
            scratch -= mean * mean
        scratch += self.epsilon
        np.sqrt(scratch, out=scratch)
        step = np.divide(gradient, scratch, out=scratch)
        step *= rate
        if not self.momentum:
            return step
        velocity = slots[-1]
        velocity *= self.momentum
        velocity += step
        return velocity

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon, "centered": self.centered}
        return super().get_config() | own


@registry.register(kind="optimizer")
class Adam(Optimizer):
    """Running means of the gradient and of its square, corrected for their start at zero.

    `w -= learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (sqrt(v) + epsilon)`, where
    `amsgrad` takes the largest v so far.  Kingma and Ba, Adam (2015), the form before section 2.1;
    Reddi and others, On the Convergence of Adam and Beyond (2018).
    """

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(learning_rate, **common)
        for name, beta in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= beta < 1:
                raise ArgumentError(f"{type(self).__name__}: {name}", got=beta, expected="a number from 0 to below 1")
        self.beta_1, self.beta_2, self.epsilon, self.amsgrad = beta_1, beta_2, epsilon, amsgrad
        self.slot_names = ("mean", "mean_square", *(["max_mean_square"] if amsgrad else []))

    def update(self, gradient: np.ndarray, slots: list[np.ndarray], rate: float, scratch: np.ndarray) -> np.ndarray:
        """The formula above, epsilon outside of the root and not corrected."""
        mean, mean_square = slots[:2]
        np.multiply(gradient, gradient, out=scratch)
        _move_towards(mean_square, scratch, 1 - self.beta_2)
        np.copyto(scratch, gradient)
        _move_towards(mean, scratch, 1 - self.beta_1)
        if self.amsgrad:
            mean_square = np.maximum(slots[2], mean_square, out=slots[2])
        np.sqrt(mean_square, out=scratch)
        scratch += self.epsilon
        step = np.divide(mean, scratch, out=scratch)
        t = self.iterations + 1
        step *= rate * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        return step

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon, "amsgrad": self.amsgrad}
        return super().get_config() | own


@registry.register(kind="optimizer", aliases=("adamw",))
class AdamW(Adam):
    """Adam with weight decay, which acts on the weights and not through the gradient.

    Loshchilov and Hutter, Decoupled Weight Decay Regularization (2019).
    """

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay, **common)


def _move_towards(mean: np.ndarray, value: np.ndarray, share: float) -> None:
    """`mean += share * (value - mean)`, with `value` as room for the difference."""
    value -= mean
    value *= share
    mean += value


def get(optimizer: Any) -> Optimizer:
    """An Optimizer from itself, its name ("adam") or its configuration.

    >>> get("adam").learning_rate
    0.001
    """
    found = registry.get("optimizer", optimizer)
    if not isinstance(found, Optimizer):
        raise ArgumentError("this is not an optimizer", got=repr(optimizer), expected="a name or an Optimizer")
    return found
