"""Learning-rate schedules against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from minirnn.errors import ArgumentError
from minirnn.layers import registry
from minirnn.training import schedules
from minirnn.training.optimizers import SGD

CASES = [
    (schedules.ExponentialDecay(0.8, 4, 0.25), {0: 0.8, 2: 0.4, 3: 0.8 * 0.25**0.75, 8: 0.05}),
    (schedules.ExponentialDecay(0.8, 4, 0.25, staircase=True), {0: 0.8, 3: 0.8, 4: 0.2, 7: 0.2, 8: 0.05}),
    (schedules.InverseTimeDecay(0.6, 4, 2.0), {0: 0.6, 2: 0.3, 4: 0.2}),
    (schedules.InverseTimeDecay(0.6, 4, 2.0, staircase=True), {3: 0.6, 4: 0.2, 7: 0.2}),
    (schedules.PiecewiseConstantDecay([2, 5], [3.0, 2.0, 1.0]), {0: 3.0, 2: 3.0, 3: 2.0, 5: 2.0, 6: 1.0}),
    (schedules.PolynomialDecay(1.0, 10, 0.2, power=2.0), {0: 1.0, 5: 0.4, 10: 0.2, 99: 0.2}),
    (schedules.PolynomialDecay(1.0, 10, 0.2, cycle=True), {5: 0.6, 10: 0.2, 15: 0.4, 20: 0.2}),
    (schedules.CosineDecay(0.5, 10, alpha=0.2), {0: 0.5, 5: 0.3, 10: 0.1, 99: 0.1}),
    (
        schedules.CosineDecay(0.1, 10, warmup_target=0.5, warmup_steps=4),
        {0: 0.1, 1: 0.2, 4: 0.5, 9: 0.25, 14: 0.0, 11: 0.25 * (1 + math.cos(0.7 * math.pi))},
    ),
]


@pytest.mark.parametrize(("schedule", "values"), CASES)
def test_values(schedule: schedules.LearningRateSchedule, values: dict[int, float]) -> None:
    for step, rate in values.items():
        assert schedule(step) == pytest.approx(rate, abs=1e-15), step


@pytest.mark.parametrize(("schedule", "values"), CASES)
def test_configuration_round_trip_in_an_optimizer(
    schedule: schedules.LearningRateSchedule, values: dict[int, float]
) -> None:
    copy = registry.deserialize(registry.serialize(SGD(schedule)), "optimizer")
    for step in values:
        copy.iterations = step
        assert copy.learning_rate == schedule(step)


def test_what_makes_no_sense_raises() -> None:
    with pytest.raises(ArgumentError, match="decay_steps"):
        schedules.CosineDecay(0.1, 0)
    with pytest.raises(ArgumentError, match="one entry more"):
        schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2])
    with pytest.raises(ArgumentError, match="increase"):
        schedules.PiecewiseConstantDecay([2, 1], [0.1, 0.2, 0.3])
