"""Padding changes no bit: of valid outputs, states, and the cotangents of x and of the initial states.

Padded steps go anywhere in a row, padded rows anywhere in the batch, and NaN stands in them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn import RecurrentContainer
from minirnn.layers import GRU, LSTM, Bidirectional, Dense, Input, SimpleRNN, recurrent
from minirnn.layers import container as container_module
from tests.reference.checks import max_error

from .engine_cases import randomized
from .same_bits_cases import differing, numbers

F, U = 5, 19
SUBJECTS = {"simple_rnn": 1, "gru": 1, "lstm": 2, "container": 2, "both ways": 4}  # and their numbers of states
CASES = [("lstm", "float32"), ("both ways", "float32")]
MORE = [(name, dtype) for name in SUBJECTS for dtype in ("float32", "float64") if (name, dtype) not in CASES]
each_subject = pytest.mark.parametrize(
    "name, dtype", [*CASES, *[pytest.param(*case, marks=pytest.mark.slow) for case in MORE]]
)
draws = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _on_the_cpu_engine() -> Iterator[None]:
    with mr.engine("cpu"):
        yield


def container() -> RecurrentContainer:
    """Two states, one of which is an output that is fed back."""
    x, h, fed = Input((F,)), Input((U,)), Input((U,))
    new = mr.ops.tanh(Dense(U)(x) + Dense(U)(h) * fed)
    shown = mr.ops.sigmoid(Dense(U)(new))
    return RecurrentContainer(x, shown, state_inputs=[h, fed], state_outputs=[new, shown], return_states=True)


@functools.cache
def layer(name: str, dtype: str) -> Any:
    options = {"return_sequences": True, "return_state": True}
    with mr.default_dtype(dtype):
        made = {
            "simple_rnn": lambda: SimpleRNN(U, **options),
            "gru": lambda: GRU(U, **options),
            "lstm": lambda: LSTM(U, **options),
            "container": container,
            "both ways": lambda: Bidirectional(LSTM(U, **options)),
        }[name]()
        return randomized(made, None, None, F)


def results(name: str, dtype: str, case: dict[str, Any]) -> dict[str, Any]:
    """Outputs, states and all gradients of the sum of cotangent * result."""
    made = layer(name, dtype)
    x, states = mr.Tensor(case["x"]), [mr.Tensor(s) for s in case["states"]]
    with mr.Tape() as tape:
        tape.watch([x, *states])
        begin = {"states": states} if name == "container" else {"initial_state": states}
        y, *final = made(x, mask=case["mask"], **begin)
        loss = (y * case["ct"]).sum() + sum((s * s).sum() for s in final)
        sources = [x, *states, *made.trainable_variables]
        slopes = tape.gradient(loss, sources)
    count = len(states)
    return {
        "y": y.numpy(),
        **{f"state {k}": s.numpy() for k, s in enumerate(final)},
        "ct of x": slopes[0].numpy(),
        **{f"ct of state {k}": s.numpy() for k, s in enumerate(slopes[1 : 1 + count])},
        **{f"weight {k}": s.numpy() for k, s in enumerate(slopes[1 + count :])},
    }


def compare(padded: dict[str, Any], plain: dict[str, Any], rows: Any, places: Any) -> list[str]:
    """What differs in a bit where both have it, and the weights' gradients that differ by more than rounding."""
    timed = {"y", "ct of x"}
    taken = {
        name: value[np.asarray(rows)[:, None], places] if name in timed else value[rows]
        for name, value in padded.items()
        if not name.startswith("weight")
    }
    wanted = {name: plain[name] for name in taken}
    # Where a mask selects, a cotangent of -0 becomes 0: adding 0 makes them one.
    signless = [
        {name: v + v.dtype.type(0) if name.startswith("ct") else v for name, v in x.items()} for x in (taken, wanted)
    ]
    wrong = differing(*signless)
    tolerance = 1e-4 if plain["y"].dtype == np.float32 else 1e-12
    return wrong + [
        name for name in plain if name.startswith("weight") and max_error(padded[name], plain[name]) > tolerance
    ]


def drawn(name: str, dtype: str, data: Any) -> tuple[dict[str, Any], dict[str, Any], Any, Any]:
    """A case, the same one padded, and where in the latter its rows and its steps are."""
    batch, time = data.draw(st.integers(1, 5), "batch"), data.draw(st.integers(1, 6), "time")
    more_rows, more_steps = data.draw(st.integers(0, 9), "more rows"), data.draw(st.integers(0, 7), "more steps")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16), "seed"))
    mask = rng.random((batch, time)) < data.draw(st.sampled_from([0.6, 1.0]), "share of valid steps")
    width = U * (2 if name == "both ways" else 1)
    case = {
        "x": numbers(dtype, batch, time, F),
        "mask": None if mask.all() else mask,
        "states": [numbers(dtype, batch, U, seed=k) for k in range(SUBJECTS[name])],
        "ct": numbers(dtype, batch, time, width),
    }
    rows = rng.permutation(batch + more_rows)[:batch]
    places = np.stack([np.sort(rng.permutation(time + more_steps)[:time]) for _ in range(batch)])
    return case, padded_case(case, mask, rows, places, (batch + more_rows, time + more_steps)), rows, places


def padded_case(case: dict[str, Any], mask: Any, rows: Any, places: Any, sizes: tuple[int, int]) -> dict[str, Any]:
    def at_steps(array: Any, value: Any) -> Any:
        made = np.full((*sizes, *array.shape[2:]), value, array.dtype)
        made[rows[:, None], places] = array
        return made

    def at_rows(array: Any) -> Any:
        made = np.full((sizes[0], *array.shape[1:]), 0.5, array.dtype)
        made[rows] = array
        return made

    return {
        "x": at_steps(case["x"], np.nan),
        "mask": at_steps(mask, False),
        "states": [at_rows(s) for s in case["states"]],
        "ct": at_steps(case["ct"], 0),
    }


@each_subject
@draws
@given(data=st.data())
def test_padding_changes_no_bit(name: str, dtype: str, data: Any) -> None:
    case, padded, rows, places = drawn(name, dtype, data)
    assert compare(results(name, dtype, padded), results(name, dtype, case), rows, places) == []


def test_the_comparison_sees_a_step_that_counts_and_a_state_that_moves() -> None:
    case = {
        "x": numbers("float32", 2, 3, F),
        "mask": None,
        "states": [numbers("float32", 2, U, seed=k) for k in range(2)],
        "ct": numbers("float32", 2, 3, U),
    }
    rows, places = np.array([1, 0]), np.array([[0, 2, 3], [1, 2, 4]])
    right = padded_case(case, np.ones((2, 3), bool), rows, places, (3, 5))
    plain = results("lstm", "float32", case)
    assert compare(results("lstm", "float32", right), plain, rows, places) == []
    counted = {**right, "mask": right["mask"].copy(), "x": np.nan_to_num(right["x"], nan=1e-3)}
    counted["mask"][1, 1] = True
    wrong = compare(results("lstm", "float32", counted), plain, rows, places)
    assert {"y", "state 0", "state 1", "ct of x", "ct of state 0"} <= set(wrong)
    moved = {**right, "states": [s + np.float32(1e-6) * (np.arange(U) == 0) for s in right["states"]]}
    assert "y" in compare(results("lstm", "float32", moved), plain, rows, places)


@pytest.mark.parametrize("name", ["lstm", pytest.param("container", marks=pytest.mark.slow)])
def test_a_mask_that_hides_nothing_costs_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step runs without it, to the same bits; what follows is told of it all the same."""
    subject, x = layer(name, "float32"), numbers("float32", 3, 7, F)
    given: list[Any] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        given.append(options["mask"])
        return mr.scan(*arguments, **options)

    for module in (recurrent, container_module):
        monkeypatch.setattr(module, "scan", watched)
    some = np.ones((3, 7), bool)
    some[1, 5:] = False
    results = []
    for mask in (None, np.ones((3, 7)), some):
        with mr.Tape() as tape:
            outputs = subject(x, mask=mask)
            loss = sum((y * y).sum() for y in outputs)
        gradients = tape.gradient(loss, subject.trainable_variables)
        results.append({str(i): np.asarray(y) for i, y in enumerate([*outputs, *gradients])})
        assert (outputs[0].mask is None) == (mask is None)
    assert [mask is None for mask in given][-2:] == [True, False]
    assert differing(results[0], results[1]) == []
    assert differing(results[0], results[2]) != []
