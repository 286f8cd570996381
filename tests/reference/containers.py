"""A recurrent container written out as a loop in NumPy, with gradients by complex step; nothing here imports minirnn.

The network that the tests run: at each step an Elman cell reads two inputs, the prediction of the step
before and a constant; a Dense layer predicts.  States: the cell's h, and the prediction y.  Sequence
outputs: y and h.  Constant output: h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.reference.cells import Array
from tests.reference.checks import complex_step_gradients

BATCH, TIME = 3, 6
WIDTHS = {"x": 4, "u": 2, "constant": 7, "h": 5, "y": 8}
READ = WIDTHS["x"] + WIDTHS["u"] + WIDTHS["y"] + WIDTHS["constant"]
WEIGHTS = {
    "kernel": (READ, WIDTHS["h"]),
    "recurrent_kernel": (WIDTHS["h"], WIDTHS["h"]),
    "bias": (WIDTHS["h"],),
    "dense_kernel": (WIDTHS["h"], WIDTHS["y"]),
    "dense_bias": (WIDTHS["y"],),
}
RESULTS = ["sequence y", "sequence h", "last h", "final h", "final y"]
MASKS = {
    "all": None,
    "right": np.arange(TIME) < np.array([[4], [6], [1]]),
    "left": np.arange(TIME) >= np.array([[3], [0], [5]]),
    "holes": np.array([[0, 1, 0, 0, 1, 1], [1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool),
}

Step = Callable[[list[Array], list[Array], list[Array]], tuple[list[Array], list[Array], list[Array]]]


def run(
    step: Step,
    sequences: list[Array],
    constants: list[Array],
    states: list[Array],
    mask: Array | None = None,
    go_backwards: bool = False,
    length: int | None = None,
    teacher: dict[int, Array] | None = None,
    taken: Array | None = None,
) -> list[Array]:
    """sequence outputs (in processing order), last outputs and final states of a container.

    `teacher`: by number of the state the values (batch, time, ...) that are fed instead, in processing
    order; `taken` (batch, time) says at which steps, in processing order (all by default).
    """
    batch = [*sequences, *constants, *states][0].shape[0]
    time = sequences[0].shape[1] if sequences else length
    order = list(reversed(range(time))) if go_backwards else list(range(time))
    valid_at = np.ones((batch, time), bool) if mask is None else mask
    blank_outputs, blank_last, _ = step([x[:, 0] for x in sequences], constants, states)
    shown, last = [np.zeros_like(y) for y in blank_outputs], [np.zeros_like(y) for y in blank_last]
    collected: list[list[Array]] = []
    forced = dict(enumerate(states))
    begun = np.zeros(batch, bool)
    for number, t in enumerate(order):
        valid = valid_at[:, t]
        fed = list(states)
        for index in teacher or {}:
            here = begun & valid & (True if taken is None else taken[:, number])
            fed[index] = choose(here, forced[index], states[index])
        outputs, now, new_states = step([x[:, t] for x in sequences], constants, fed)
        shown = [choose(valid, new, old) for new, old in zip(outputs, shown, strict=True)]
        last = [choose(valid, new, old) for new, old in zip(now, last, strict=True)]
        states = [choose(valid, new, old) for new, old in zip(new_states, states, strict=True)]
        for index, sequence in (teacher or {}).items():
            forced[index] = choose(valid, sequence[:, number], forced[index])
        begun = begun | valid
        collected.append(shown)
    return [*(np.stack(column, axis=1) for column in zip(*collected, strict=True)), *last, *states]


def choose(rows: Array, new: Array, old: Array) -> Array:
    """Row by row one or the other."""
    return np.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, old)


@dataclass(frozen=True)
class Case:
    """One problem for the container: the arrays by name, and how it runs."""

    arrays: dict[str, Array]
    mask: Array | None = None
    go_backwards: bool = False
    forces: bool = False  # y is forced to the teacher's values
    taken: Array | None = None

    def changed(self, **fields: Any) -> Case:
        return replace(self, **fields)

    def with_arrays(self, **arrays: Array) -> Case:
        return self.changed(arrays={**self.arrays, **arrays})

    @property
    def weights(self) -> list[Array]:
        return [self.arrays[name] for name in WEIGHTS]


def random_case(seed: int, mask: str = "all", batch: int = BATCH, time: int = TIME, **options: Any) -> Case:
    """A case with asymmetric random arrays in float64."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = dict(WEIGHTS)
    shapes |= {name: (batch, time, WIDTHS[name]) for name in ("x", "u")}
    shapes |= {name: (batch, WIDTHS[name]) for name in ("constant", "h", "y")}
    shapes["teacher"] = (batch, time, WIDTHS["y"])
    return Case({name: rng.normal(size=shape) * 0.6 for name, shape in shapes.items()}, MASKS[mask], **options)


def results(case: Case) -> dict[str, Array]:
    """What the container returns, by name."""
    a = case.arrays

    def step(xs: list[Array], constants: list[Array], states: list[Array]) -> tuple[list[Array], ...]:
        h, y = states
        read = np.concatenate([*xs, y, *constants], axis=1)
        h = np.tanh(read @ a["kernel"] + h @ a["recurrent_kernel"] + a["bias"])
        y = np.tanh(h @ a["dense_kernel"] + a["dense_bias"])
        return [y, h], [h], [h, y]

    found = run(
        step,  # type: ignore[arg-type]
        [a["x"], a["u"]],
        [a["constant"]],
        [a["h"], a["y"]],
        case.mask,
        case.go_backwards,
        teacher={1: a["teacher"]} if case.forces else None,
        taken=case.taken,
    )
    return dict(zip(RESULTS, found, strict=True))


def cotangents(case: Case) -> dict[str, Array]:
    """Fixed random weights for the sum over all results whose gradients are compared."""
    rng = np.random.default_rng(99)
    batch, time = case.arrays["x"].shape[:2]
    shapes = [(batch, time, WIDTHS[k]) for k in ("y", "h")] + [(batch, WIDTHS[k]) for k in ("h", "h", "y")]
    return {name: rng.normal(size=shape) for name, shape in zip(RESULTS, shapes, strict=True)}


def with_gradients(case: Case) -> dict[str, Array]:
    """The results, and the gradients of their weighted sum for every array that takes part."""
    names = [name for name in case.arrays if case.forces or name != "teacher"]
    weights = cotangents(case)

    def loss(*arrays: Array) -> Array:
        found = results(case.with_arrays(**dict(zip(names, arrays, strict=True))))
        return sum(np.sum(weights[name] * value) for name, value in found.items())

    gradients = complex_step_gradients(loss, *[case.arrays[name] for name in names])
    return results(case) | {f"gradient of {name}": g for name, g in zip(names, gradients, strict=True)}
