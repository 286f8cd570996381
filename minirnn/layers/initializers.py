"""First values of weights, drawn with NumPy from the seed of `minirnn.seed` (or one of their own)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autodiff import random
from ..errors import ArgumentError, ShapeError
from . import registry

Shape = tuple[int, ...]
MODES = ("fan_in", "fan_out", "fan_avg")
DISTRIBUTIONS = ("uniform", "normal", "truncated_normal")
# The standard deviation of a unit normal that is cut off at two; scaled by it, one has deviation 1.
_TRUNCATED_DEVIATION = 0.87962566103423978


_ALIASES = {
    "Zeros": ("zero",), "Ones": ("one",), "RandomUniform": ("uniform",), "RandomNormal": ("normal",),
    "Orthogonal": ("OrthogonalInitializer",), "Identity": ("IdentityInitializer",),
}  # fmt: skip


def _register(cls: type) -> type:
    return registry.register(kind="initializer", aliases=_ALIASES.get(cls.__name__, ()))(cls)


class Initializer:
    """Base of initializers: calling one with a shape and a dtype gives an array.

    >>> Zeros()((2,), "float32").tolist()
    [0.0, 0.0]
    """

    def __call__(self, shape: Shape, dtype: Any = "float32") -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} has no __call__(shape, dtype)")

    def get_config(self) -> dict[str, Any]:
        """What the constructor needs to make an equal one."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Initializer:
        """The initializer that `get_config` described."""
        made: Initializer = registry.made_from(cls, config)
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.get_config().items())})"


@_register
class Zeros(Initializer):
    """Zeros everywhere."""

    def __call__(self, shape: Shape, dtype: Any = "float32") -> np.ndarray:
        return np.zeros(shape, dtype)


@_register
class Ones(Initializer):
    """Ones everywhere."""

    def __call__(self, shape: Shape, dtype: Any = "float32") -> np.ndarray:
        return np.ones(shape, dtype)


@_register
class Constant(Initializer):
    """One value everywhere (or an array that broadcasts).

    >>> Constant(3)((2,), "float64").tolist()
    [3.0, 3.0]
    """

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value

    def __call__(self, shape: Shape, dtype: Any = "float32") -> np.ndarray:
        return np.array(np.broadcast_to(np.asarray(self.value, dtype), shape))

    def get_config(self) -> dict[str, Any]:
        return {"value": np.asarray(self.value).tolist()}


@_register
class Identity(Initializer):
    """`gain` times the identity matrix; raises ShapeError for anything but a matrix.

    >>> Identity(2.0)((2, 2), "float32").tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def __call__(self, shape: Shape, dtype: Any = "float32") -> np.ndarray:
        if len(shape) != 2:
            raise ShapeError("the Identity initializer makes matrices", got=f"shape {shape}", expected="2 axes")
        return np.asarray(self.gain * np.eye(*shape), dtype)

    def get_config(self) -> dict[str, Any]:
        return {"gain": self.gain}


class Random(Initializer):
    """Base of random initializers; with a `seed`, every call gives the same numbers."""

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(self, shape: Shape, dtype: Any = "float32") -> np.ndarray:
        return np.asarray(self.draw(tuple(shape), self._generator()), dtype)

    def _generator(self) -> np.random.Generator:
        if self.seed is not None:
            return np.random.default_rng(self.seed)
        with random.drawing_from(None):  # also where a layer is built inside a step: weights are made once
            _, call = random.next_key().numpy()
        return random.numpy_generator("initializer", call)

    def draw(self, shape: Shape, generator: np.random.Generator) -> np.ndarray:
        """The values, in float64."""
        raise NotImplementedError(f"{type(self).__name__} has no draw(shape, generator)")

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}


@_register
class RandomUniform(Random):
    """Uniform in [`minval`, `maxval`).

    >>> bool(abs(RandomUniform(-1, 1, seed=1)((9,))).max() < 1)
    True
    """

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        self.minval, self.maxval = minval, maxval

    def draw(self, shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return generator.uniform(self.minval, self.maxval, shape)

    def get_config(self) -> dict[str, Any]:
        return {"minval": self.minval, "maxval": self.maxval, "seed": self.seed}


@_register
class RandomNormal(Random):
    """Normal with `mean` and `stddev`."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        self.mean, self.stddev = mean, stddev

    def draw(self, shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return generator.normal(self.mean, self.stddev, shape)

    def get_config(self) -> dict[str, Any]:
        return {"mean": self.mean, "stddev": self.stddev, "seed": self.seed}


@_register
class TruncatedNormal(RandomNormal):
    """Normal with `mean` and `stddev`; what falls farther than two deviations out is drawn again.

    >>> bool(abs(TruncatedNormal(stddev=1.0, seed=3)((1000,))).max() <= 2)
    True
    """

    def draw(self, shape: Shape, generator: np.random.Generator) -> np.ndarray:
        return self.mean + self.stddev * _truncated(shape, generator)


def _truncated(shape: Shape, generator: np.random.Generator) -> np.ndarray:
    values = generator.standard_normal(shape)
    while (outside := np.abs(values) > 2).any():
        values[outside] = generator.standard_normal(int(outside.sum()))
    return values


def fans(shape: Shape) -> tuple[int, int]:
    """How many inputs and outputs a weight of this shape connects (a kernel's last two axes, times its window)."""
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    window = math.prod(shape[:-2])
    return shape[-2] * window, shape[-1] * window


@_register
class VarianceScaling(Random):
    """Random with variance `scale / n`, n being the fan that `mode` names (Glorot & Bengio 2010; He et al. 2015).

    Raises ArgumentError for an unknown mode or distribution, or a scale that isn't positive.

    >>> VarianceScaling(2.0, "fan_in", "uniform", seed=0)((3, 4)).shape
    (3, 4)
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        if not scale > 0:
            raise ArgumentError("VarianceScaling: scale", got=scale, expected="a positive number")
        if mode not in MODES:
            raise ArgumentError("VarianceScaling: mode", got=repr(mode), expected="one of " + ", ".join(MODES))
        # Keras 3 writes "untruncated_normal" for what the others call "normal".
        distribution = "normal" if distribution == "untruncated_normal" else distribution
        if distribution not in DISTRIBUTIONS:
            raise ArgumentError(
                "VarianceScaling: distribution", got=repr(distribution), expected="one of " + ", ".join(DISTRIBUTIONS)
            )
        self.scale, self.mode, self.distribution = scale, mode, distribution

    def draw(self, shape: Shape, generator: np.random.Generator) -> np.ndarray:
        fan_in, fan_out = fans(shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, fan)
        if self.distribution == "uniform":
            limit = math.sqrt(3.0 * variance)
            return generator.uniform(-limit, limit, shape)
        if self.distribution == "normal":
            return generator.normal(0.0, math.sqrt(variance), shape)
        return math.sqrt(variance) / _TRUNCATED_DEVIATION * _truncated(shape, generator)

    def get_config(self) -> dict[str, Any]:
        return {"scale": self.scale, "mode": self.mode, "distribution": self.distribution, "seed": self.seed}


class _Preset(VarianceScaling):
    """A VarianceScaling with a name of its own, configured by its seed alone."""

    preset: tuple[float, str, str]

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(*self.preset, seed=seed)

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}


@_register
class GlorotUniform(_Preset):
    """Uniform within sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010); the default of kernels.

    >>> bool(abs(GlorotUniform(seed=1)((2, 4))).max() <= 1)
    True
    """

    preset = (1.0, "fan_avg", "uniform")


@_register
class GlorotNormal(_Preset):
    """Truncated normal with variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010)."""

    preset = (1.0, "fan_avg", "truncated_normal")


@_register
class HeUniform(_Preset):
    """Uniform within sqrt(6 / fan_in) (He et al. 2015)."""

    preset = (2.0, "fan_in", "uniform")


@_register
class HeNormal(_Preset):
    """Truncated normal with variance 2 / fan_in (He et al. 2015)."""

    preset = (2.0, "fan_in", "truncated_normal")


@_register
class LecunUniform(_Preset):
    """Uniform within sqrt(3 / fan_in) (LeCun et al. 1998)."""

    preset = (1.0, "fan_in", "uniform")


@_register
class LecunNormal(_Preset):
    """Truncated normal with variance 1 / fan_in (LeCun et al. 1998)."""

    preset = (1.0, "fan_in", "truncated_normal")


@_register
class Orthogonal(Random):
    """`gain` times a random matrix with orthonormal rows or columns, whichever are fewer (Saxe et al. 2014).

    Leading axes count as one; raises ShapeError for fewer than two axes.

    >>> import numpy as np
    >>> w = Orthogonal(seed=2)((3, 12), "float64")
    >>> bool(np.allclose(w @ w.T, np.eye(3)))
    True
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        super().__init__(seed)
        self.gain = gain

    def draw(self, shape: Shape, generator: np.random.Generator) -> np.ndarray:
        if len(shape) < 2:
            raise ShapeError(
                "the Orthogonal initializer makes matrices", got=f"shape {shape}", expected="2 or more axes"
            )
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(generator.standard_normal((max(rows, columns), min(rows, columns))))
        # Signs made unique: without this Q would not be uniform over the orthogonal matrices.
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        return self.gain * (q if rows >= columns else q.T).reshape(shape)

    def get_config(self) -> dict[str, Any]:
        return {"gain": self.gain, "seed": self.seed}


def get(identifier: Any) -> Any:
    """The initializer for a name, an object, a function (shape, dtype) or a configuration; None stays None.

    Raises ArgumentError for an unknown name.

    >>> get("glorot_uniform"), get("he_normal")
    (GlorotUniform(seed=None), HeNormal(seed=None))
    """
    return registry.get("initializer", identifier)
