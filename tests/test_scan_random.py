"""Random numbers in steps: new ones at each step, the same ones on every engine and for every way to run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.autodiff import random

from .stepgraph.agreement import error
from .stepgraph.steps import numbers

B, T, U = 3, 7, 4


def noisy(h: Any, x: Any) -> Any:
    first = random.uniform((B, U), "float64")
    second = random.uniform((B, U), "float64")
    return ops.tanh(h + x * first), (first, second)


def run(step: Any = noisy, seed: int = 3, xs: Any = None, **options: Any) -> list[np.ndarray]:
    mr.seed(seed)
    carry, ys = mr.scan(step, numbers(B, U), numbers(T, B, U) if xs is None else xs, **options)
    return [t.numpy() for t in mr.autodiff.trees.flatten((carry, ys))[0]]


def test_each_step_and_each_draw_has_numbers_of_its_own() -> None:
    _, first, second = run()
    assert len({*first.ravel().tolist(), *second.ravel().tolist()}) == 2 * T * B * U
    assert first.min() >= 0 and first.max() < 1 and 0.3 < first.mean() < 0.7


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "options", [{"checkpoint": 1}, {"checkpoint": 2}, {"checkpoint": 5}, {"engine": "reference"}], ids=str
)
def test_the_numbers_do_not_depend_on_how_a_scan_runs(options: dict[str, Any], reverse: bool) -> None:
    wanted = run(engine="numpy", reverse=reverse)
    got = run(reverse=reverse, **{"engine": "numpy", **options})
    assert np.array_equal(got[1], wanted[1]) and np.array_equal(got[2], wanted[2])
    assert error(got[0], wanted[0]) < 1e-12


def test_a_step_has_its_numbers_in_both_directions_of_time() -> None:
    assert np.array_equal(run(reverse=True)[1], run()[1])


def test_numbers_of_a_row_do_not_depend_on_the_batch() -> None:
    def step(h: Any, x: Any) -> Any:
        return h, random.uniform(x.shape, "float64")

    mr.seed(1)
    whole = mr.scan(step, None, numbers(T, 6, U))[1].numpy()
    mr.seed(1)
    assert np.array_equal(mr.scan(step, None, numbers(T, 2, U))[1], whole[:, :2])


@pytest.mark.parametrize("engine", ["reference", "numpy"])
def test_the_seed_and_the_call_decide(engine: str) -> None:
    a, b = run(engine=engine), run(engine=engine)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(run(engine=engine, seed=4)[1], a[1])
    mr.seed(3)
    calls = [mr.scan(noisy, numbers(B, U), numbers(T, B, U), engine=engine)[1][0].numpy() for _ in range(3)]
    assert np.array_equal(calls[0], a[1])
    assert len({c.tobytes() for c in calls}) == 3
    state = random.get_state()
    following = mr.scan(noisy, numbers(B, U), numbers(T, B, U), engine=engine)[1][0].numpy()
    random.set_state(state)
    assert np.array_equal(mr.scan(noisy, numbers(B, U), numbers(T, B, U), engine=engine)[1][0], following)


def test_a_scan_takes_one_call_number_however_it_runs() -> None:
    states = []
    for options in ({"engine": "reference"}, {"engine": "numpy"}, {"engine": "numpy", "checkpoint": 2}):
        run(**options)
        states.append(random.get_state())
    assert states[0] == states[1] == states[2] == {"seed": 3, "calls": 1}
    run(lambda h, x: (h + x, None))
    assert random.get_state() == {"seed": 3, "calls": 0}


def gradients(step: Any, **options: Any) -> list[np.ndarray]:
    mr.seed(3)
    x = mr.Tensor(numbers(T, B, U))
    with mr.Tape() as outer:
        outer.watch(x)
        with mr.Tape() as inner:
            inner.watch(x)
            carry, ys = mr.scan(step, numbers(B, U), x, **options)
            loss = (carry * carry).sum() + ys.sum()
        (first,) = inner.gradient(loss, [x])
        projected = (first * first).sum()
    return [carry.numpy(), first.numpy(), outer.gradient(projected, x).numpy()]


def dropping(h: Any, x: Any) -> Any:
    kept = random.dropout_mask((B, U), 0.4, "float64")
    h = ops.tanh(kept * h + x)
    return h, h * random.uniform((B, U), "float64")


@pytest.mark.parametrize(
    "options", [{}, {"checkpoint": 2}, {"reverse": True, "checkpoint": 3}, {"mask": True}], ids=str
)
def test_the_backward_sees_the_numbers_of_the_forward(options: dict[str, Any]) -> None:
    options = dict(options)
    if "mask" in options:
        options["mask"] = np.random.default_rng(2).random((T, B)) < 0.6
    reference = gradients(dropping, engine="reference", **{k: v for k, v in options.items() if k != "checkpoint"})
    for a, b in zip(gradients(dropping, engine="numpy", **options), reference, strict=True):
        assert error(a, b) < 1e-12


def test_the_gradient_is_that_of_the_same_numbers() -> None:
    """By finite differences with the seed set back."""
    x, direction = numbers(T, B, U), numbers(T, B, U, seed=8)

    def loss(x: Any) -> float:
        mr.seed(3)
        carry, ys = mr.scan(dropping, numbers(B, U), x)
        return ((carry * carry).sum() + ys.sum()).item()

    h = 1e-6
    numerical = (loss(x + h * direction) - loss(x - h * direction)) / (2 * h)
    assert abs((gradients(dropping)[1] * direction).sum() - numerical) < 1e-6


@pytest.mark.parametrize("checkpoint", [None, 2])
def test_nested_scans_draw_anew_at_each_outer_step(checkpoint: int | None) -> None:
    def step(h: Any, x: Any) -> Any:
        outside = random.uniform((B,), "float64")
        inner, draws = mr.scan(noisy, h, ops.stack([x, 2.0 * x]), checkpoint=None if checkpoint is None else 1)
        again = mr.scan(noisy, h, ops.stack([x]))[1][0]
        return inner, (outside, draws[0], draws[1], again, random.uniform((B,), "float64"))

    found = []
    for engine in ("reference", "numpy"):
        with mr.engine(engine):
            found.append(run(step, checkpoint=checkpoint))
    drawn = np.concatenate([a.ravel() for a in found[1][1:]])
    assert len(set(drawn.tolist())) == drawn.size
    for a, b in zip(*found, strict=True):
        assert error(a, b) < 1e-12


@pytest.mark.parametrize("engine", ["reference", "numpy"])
def test_numbers_shared_over_time(engine: str) -> None:
    def step(h: Any, x: Any) -> Any:
        with random.shared_over_time():
            shared = random.uniform((B, U), "float64")
        return h * shared + x, (shared, random.uniform((B, U), "float64"))

    for options in ({}, {"checkpoint": 2} if engine == "numpy" else {"reverse": True}):
        _, shared, own = run(step, engine=engine, **options)
        assert all(np.array_equal(s, shared[0]) for s in shared)
        assert len({o.tobytes() for o in own}) == T
        assert np.array_equal(shared, run(step, engine="reference")[1])
