"""Learning-rate schedules: functions of the number of updates made so far, with Keras's formulas."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

from ..errors import ArgumentError
from ..layers import registry


class LearningRateSchedule(abc.ABC):
    """A learning rate that depends on the number of updates; subclass it and define `__call__(step)`.

    >>> class Harmonic(LearningRateSchedule):
    ...     def __init__(self, start):
    ...         self.start = start
    ...     def __call__(self, step):
    ...         return self.start / (1 + step)
    >>> Harmonic(0.5)(4)
    0.1
    """

    @abc.abstractmethod
    def __call__(self, step: int) -> float:
        """The learning rate of the update that follows `step` earlier ones."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; every public attribute unless a subclass says otherwise."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearningRateSchedule:
        """The schedule that `get_config` described."""
        return cls(**{key: value for key, value in config.items() if key != "name"})  # Keras names its schedules


def _positive(schedule: LearningRateSchedule, name: str, value: float) -> float:
    if not value > 0:
        raise ArgumentError(f"{type(schedule).__name__}: {name} must be positive", got=value)
    return value


def _progress(step: int, decay_steps: float, staircase: bool) -> float:
    return step // decay_steps if staircase else step / decay_steps


@registry.register(kind="schedule")
class ExponentialDecay(LearningRateSchedule):
    """`initial_learning_rate * decay_rate ** (step / decay_steps)`; whole powers only with `staircase`.

    >>> ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)(20)
    0.025
    """

    def __init__(
        self, initial_learning_rate: float, decay_steps: float, decay_rate: float, staircase: bool = False
    ) -> None:
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive(self, "decay_steps", decay_steps)
        self.decay_rate = decay_rate
        self.staircase = staircase

    def __call__(self, step: int) -> float:
        return self.initial_learning_rate * self.decay_rate ** _progress(step, self.decay_steps, self.staircase)


@registry.register(kind="schedule")
class InverseTimeDecay(LearningRateSchedule):
    """`initial_learning_rate / (1 + decay_rate * step / decay_steps)`.

    >>> InverseTimeDecay(0.1, decay_steps=10, decay_rate=0.5)(20)
    0.05
    """

    def __init__(
        self, initial_learning_rate: float, decay_steps: float, decay_rate: float, staircase: bool = False
    ) -> None:
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive(self, "decay_steps", decay_steps)
        self.decay_rate = decay_rate
        self.staircase = staircase

    def __call__(self, step: int) -> float:
        return self.initial_learning_rate / (1 + self.decay_rate * _progress(step, self.decay_steps, self.staircase))


@registry.register(kind="schedule")
class PiecewiseConstantDecay(LearningRateSchedule):
    """`values[i]` for the first i with `step <= boundaries[i]`, the last value after all boundaries.

    `values` has one entry more than `boundaries`, which increase; ArgumentError otherwise.

    >>> schedule = PiecewiseConstantDecay([100, 200], [1.0, 0.5, 0.1])
    >>> [schedule(step) for step in (100, 101, 201)]
    [1.0, 0.5, 0.1]
    """

    def __init__(self, boundaries: Sequence[float], values: Sequence[float]) -> None:
        if len(values) != len(boundaries) + 1:
            raise ArgumentError(
                "PiecewiseConstantDecay: values needs one entry more than boundaries",
                got=f"{len(boundaries)} boundaries, {len(values)} values",
            )
        if any(later <= earlier for earlier, later in zip(boundaries, boundaries[1:], strict=False)):
            raise ArgumentError("PiecewiseConstantDecay: boundaries must increase", got=list(boundaries))
        self.boundaries = list(boundaries)
        self.values = list(values)

    def __call__(self, step: int) -> float:
        passed = sum(step > boundary for boundary in self.boundaries)
        return float(self.values[passed])


@registry.register(kind="schedule")
class PolynomialDecay(LearningRateSchedule):
    """From the initial to the end learning rate in `decay_steps` updates along `(1 - step / decay_steps) ** power`.

    With `cycle` the decay starts again, each time stretched to the next multiple of `decay_steps`.

    >>> PolynomialDecay(0.1, decay_steps=10, end_learning_rate=0.02)(5)
    0.06
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
    ) -> None:
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive(self, "decay_steps", decay_steps)
        self.end_learning_rate = end_learning_rate
        self.power = power
        self.cycle = cycle

    def __call__(self, step: int) -> float:
        whole: float = self.decay_steps
        if self.cycle:
            whole *= max(1, math.ceil(step / self.decay_steps))
        left = 1 - min(step, whole) / whole
        return (self.initial_learning_rate - self.end_learning_rate) * left**self.power + self.end_learning_rate


@registry.register(kind="schedule")
class CosineDecay(LearningRateSchedule):
    """Half a cosine wave from the starting rate down to `alpha` times it, after a linear warm-up if asked.

    With `warmup_target` the rate climbs from `initial_learning_rate` to it in `warmup_steps`
    updates; the cosine of `decay_steps` updates then starts there.
    Loshchilov and Hutter, SGDR (2017), section 3.

    >>> schedule = CosineDecay(0.0, decay_steps=10, warmup_target=0.1, warmup_steps=4)
    >>> [round(schedule(step), 3) for step in (0, 2, 4, 9, 14)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        alpha: float = 0.0,
        *,
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        self.initial_learning_rate = initial_learning_rate
        self.decay_steps = _positive(self, "decay_steps", decay_steps)
        self.alpha = alpha
        self.warmup_target = warmup_target
        self.warmup_steps = warmup_steps

    def __call__(self, step: int) -> float:
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * step / self.warmup_steps
            top = self.warmup_target
            step -= self.warmup_steps
        done = min(step, self.decay_steps) / self.decay_steps
        wave = 0.5 * (1 + math.cos(math.pi * done))
        return top * ((1 - self.alpha) * wave + self.alpha)
