"""Planted bugs: each takes a right way to run a case and makes it wrong; every check must notice.

A check that passes says little until it has been seen to fail.  A subject is a function from a case
to its named results and gradients; a mutant wraps a subject.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.reference.cells import KINDS, Array, Case, weight_names
from tests.reference.checks import Disagreement

Subject = Callable[[Case], dict[str, Array]]
Mutant = Callable[[Subject], Subject]


def _of_case(change: Callable[[Case], Case]) -> Mutant:
    return lambda subject: lambda case: subject(change(case))


def _of_array(name: str, change: Callable[[Array], Array]) -> Mutant:
    def mutant(subject: Subject) -> Subject:
        def wrong(case: Case) -> dict[str, Array]:
            found = dict(subject(case))
            found[name] = change(np.array(found[name]))
            return found

        return wrong

    return mutant


def swap_gates(first: int, second: int) -> Mutant:
    """Two gates change places in all weights."""

    def change(case: Case) -> Case:
        def swap(array: Array) -> Array:
            gates = np.split(array, KINDS[case.kind].gates, axis=-1)
            gates[first], gates[second] = gates[second], gates[first]
            return np.concatenate(gates, axis=-1)

        return case.changed(weights=tuple(swap(w) for w in case.weights))

    return _of_case(change)


def _transpose_recurrent_kernel(case: Case) -> Case:
    kernel, recurrent_kernel, bias = case.weights
    gates = np.split(recurrent_kernel, KINDS[case.kind].gates, axis=1)
    return case.changed(weights=(kernel, np.concatenate([gate.T for gate in gates], axis=1), bias))


def _without_bias(case: Case) -> Case:
    kernel, recurrent_kernel, bias = case.weights
    return case.changed(weights=(kernel, recurrent_kernel, np.zeros_like(bias)))


def _swap_bias_rows(case: Case) -> Case:
    kernel, recurrent_kernel, bias = case.weights
    return case.changed(weights=(kernel, recurrent_kernel, bias[::-1]))


def _without_initial_states(case: Case) -> Case:
    return case.changed(initial_states=tuple(np.zeros_like(s) for s in case.initial_states))


def _swap_first_rows(found: Array) -> Array:
    return found[[1, 0, *range(2, len(found))]]


def _one_step_late(found: Array) -> Array:
    return np.concatenate([found[:, :1], found[:, :-1]], axis=1)


# Bugs that show in the outputs, for every kind of cell.
FORWARD: dict[str, Mutant] = {
    "recurrent kernel transposed": _of_case(_transpose_recurrent_kernel),
    "bias dropped": _of_case(_without_bias),
    "initial states ignored": _of_case(_without_initial_states),
    "time runs the other way": _of_case(lambda case: case.changed(go_backwards=not case.go_backwards)),
    "input one step late": _of_case(lambda case: case.changed(x=_one_step_late(case.x))),
    "outputs one step late": _of_array("outputs", _one_step_late),
    "two rows swapped": _of_array("outputs", _swap_first_rows),
    "final state off by 0.1 %": _of_array("state 0", lambda found: found * 1.001),
}

# Bugs of one kind of cell.
FORWARD_OF_KIND: dict[str, dict[str, Mutant]] = {
    "simple_rnn": {},
    "gru_reset_after": {
        "z and r swapped": swap_gates(0, 1),
        "r and h swapped": swap_gates(1, 2),
        "bias rows swapped": _of_case(_swap_bias_rows),
    },
    "gru_reset_before": {"z and r swapped": swap_gates(0, 1), "z and h swapped": swap_gates(0, 2)},
    "lstm": {
        "i and f swapped": swap_gates(0, 1),
        "f and c swapped": swap_gates(1, 2),
        "c and o swapped": swap_gates(2, 3),
        "i and o swapped": swap_gates(0, 3),
        "h and c swapped": _of_case(lambda case: case.changed(initial_states=case.initial_states[::-1])),
    },
}

# Bugs that only a case with a mask can show.
MASK: dict[str, Mutant] = {
    "mask ignored": _of_case(lambda case: case.changed(mask=None)),
    "mask one step late": _of_case(
        lambda case: case.changed(mask=None if case.mask is None else _one_step_late(case.mask))
    ),
}

# Bugs that only a case with resets can show.
RESET: dict[str, Mutant] = {
    "resets ignored": _of_case(lambda case: case.changed(resets=None)),
    "resets one step late": _of_case(
        lambda case: case.changed(resets=None if case.resets is None else _one_step_late(case.resets))
    ),
    "resets of masked steps ignored": _of_case(
        lambda case: case.changed(resets=case.resets & case.mask) if case.resets is not None else case
    ),
    "resets in the other order of time": _of_case(
        lambda case: case.changed(resets=None if case.resets is None else case.resets[:, ::-1])
    ),
}

# Bugs that leave the outputs as they are.
BACKWARD: dict[str, Mutant] = {
    "kernel cotangent dropped": _of_array("gradient of kernel", np.zeros_like),
    "recurrent kernel cotangent transposed": _of_array(
        "gradient of recurrent_kernel", lambda found: found.T.reshape(found.shape)
    ),
    "kernel cotangent off by 0.1 %": _of_array("gradient of kernel", lambda found: found * 1.001),
    "bias cotangent off by 0.1 %": _of_array("gradient of bias", lambda found: found * 1.001),
    "input cotangent one step late": _of_array("gradient of x", _one_step_late),
    "initial state's cotangent dropped": _of_array("gradient of initial state 0", np.zeros_like),
}


def _of_weight(name: str, change: Callable[[Array], Array]) -> Mutant:
    def changed(case: Case) -> Case:
        named = dict(zip(weight_names(case.options), case.weights, strict=True))
        return case.changed(weights=tuple((named | {name: change(named[name])}).values()))

    return _of_case(changed)


def _without_option(name: str) -> Mutant:
    return _of_case(lambda case: case.changed(options={**case.options, name: None}))


def of_options(options: Mapping[str, Any]) -> dict[str, Mutant]:
    """Bugs in what the options add to a cell."""
    bugs: dict[str, Mutant] = {}
    if options.get("peepholes"):
        bugs["peepholes of i and o swapped"] = _of_weight("peephole", lambda p: p[[2, 1, 0]])
        bugs["peephole of the output dropped"] = _of_weight("peephole", lambda p: p * [[1], [1], [0]])
    if options.get("proj_size"):
        bugs["projection one column on"] = _of_weight("projection_kernel", lambda w: np.roll(w, 1, axis=1))
        bugs["projection off by 0.1 %"] = _of_weight("projection_kernel", lambda w: w * 1.001)
    for name in ("clip", "input_forget"):
        if options.get(name):
            bugs[f"{name} ignored"] = _without_option(name)
    if options.get("zoneout"):
        bugs["zoneout ignored"] = _of_case(lambda case: case.changed(options={**case.options, "zoneout": 0.0}))
    if options.get("clip"):
        bugs["clip off by 1 %"] = _of_case(
            lambda case: case.changed(options={**case.options, "clip": 1.01 * case.options["clip"]})
        )
    return bugs


def forward(kind: str) -> dict[str, Mutant]:
    """The forward bugs of one kind of cell."""
    return FORWARD | FORWARD_OF_KIND[kind]


def unnoticed(check: Callable[[Subject], None], subject: Subject, bugs: dict[str, Mutant]) -> list[str]:
    """The bugs that a check lets pass; the check must pass on the subject as it is, and fail on each mutant."""
    check(subject)
    missed = []
    for name, mutant in bugs.items():
        try:
            check(mutant(subject))
        except Disagreement:
            continue
        missed.append(name)
    return missed
