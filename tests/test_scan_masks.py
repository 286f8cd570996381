"""Masks: what stands in a masked step of a row reaches nothing, and held outputs repeat the last valid one."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import errors, ops
from minirnn.stepgraph import adjoint, trace

from .stepgraph.agreement import error
from .stepgraph.steps import example, numbers

ENGINES = ("reference", "numpy")
B, T, F, U = 5, 7, 4, 6
# By columns: all valid, padded, a hole in between, the first steps masked, nothing valid.
VALID = np.array(
    [
        [1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 0, 1, 1, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 1, 1, 0],
    ],
    bool,
)
BAD = [np.nan, np.inf, -np.inf]


def by_hand(step: Callable[..., Any], init: np.ndarray, xs: np.ndarray, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Each row by itself, over its valid steps only."""
    carry, ys = init.copy(), None
    for b in range(B):
        held = None
        for t in reversed(range(T)) if reverse else range(T):
            if VALID[t, b]:
                new, y = step(mr.Tensor(carry[b : b + 1]), mr.Tensor(xs[t, b : b + 1]))
                carry[b], held = new.numpy()[0], y.numpy()[0]
                ys = np.zeros((T, B, *held.shape)) if ys is None else ys
            if held is not None:
                ys[t, b] = held
    return carry, ys


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("checkpoint", [None, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_masked_steps_hold_carry_and_output(reverse: bool, checkpoint: int | None, engine: str) -> None:
    step, _, _ = example("gru")

    def both(h: Any, x: Any) -> Any:
        h, _ = step(h, x)
        return h, ops.concatenate([h, x], axis=-1)

    init, xs = numbers(B, U), numbers(T, B, F)
    carry, ys = mr.scan(both, init, xs, mask=VALID, reverse=reverse, engine=engine, checkpoint=checkpoint)
    wanted_carry, wanted_ys = by_hand(both, init, xs, reverse)
    assert error(carry, wanted_carry) < 1e-12
    assert error(ys, wanted_ys) < 1e-12
    assert not ys.numpy()[:, 4].any()  # no valid step at all
    assert np.array_equal(carry.numpy()[4], init[4])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mask_may_be_of_numbers_and_have_a_last_axis(engine: str) -> None:
    step, _, _ = example("gru")
    init, xs = numbers(B, U), numbers(T, B, F)
    wanted = mr.scan(step, init, xs, mask=VALID, engine=engine)
    for mask in (VALID.astype(np.int64), VALID.astype("float32"), VALID[..., None], mr.Tensor(VALID), VALID.tolist()):
        got = mr.scan(step, init, xs, mask=mask, engine=engine)
        assert error(got[0], wanted[0]) == 0 and error(got[1], wanted[1]) == 0


def total_valid(step_of: Any, xs: np.ndarray, init: np.ndarray, weights: list[np.ndarray], **options: Any) -> list[Any]:
    """carry, ys, gradients and gradients of a projection of them, all of which must not see masked steps."""
    tensors = [mr.Tensor(a) for a in (init, xs, *weights)]
    with mr.Tape() as outer:
        outer.watch(tensors)
        with mr.Tape() as inner:
            inner.watch(tensors)
            carry, ys = mr.scan(step_of(*tensors[2:]), *tensors[:2], mask=VALID, **options)
            loss = (carry**2).sum() + (ys**2 * numbers(*ys.shape)).sum()
        first = inner.gradient(loss, tensors)
        projected: Any = sum((ops.sin(g) * numbers(*g.shape, seed=5)).sum() for g in first)
    return [carry, ys, *first, *outer.gradient(projected, tensors)]


def steps_that_divide() -> dict[str, Callable[..., Any]]:
    """Steps whose value or derivative is infinite where x or the carry is zero."""

    def divides(w: Any, v: Any) -> Any:
        return lambda h, x: ((h := ops.tanh(x[:, :1] / (x[:, 1:2] * x[:, 1:2]) + h @ v + x @ w)), h)

    def takes_logs(w: Any, v: Any) -> Any:
        return lambda h, x: ((h := ops.tanh(ops.log(x * x) @ w + h @ v)), ops.sqrt(x[:, :2] ** 2) + h[:, :2])

    def divides_by_the_carry(w: Any, v: Any) -> Any:
        return lambda h, x: ((h := 2.0 + ops.sigmoid(x @ w + (1.0 / h) @ v)), h / ops.sum(x * x, -1, keepdims=True))

    def normalizes(w: Any, v: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            unit = x / ops.sqrt(ops.sum(x * x, axis=-1, keepdims=True))
            h = ops.tanh(unit @ w + h @ v)
            return h, ops.log(ops.abs(h)) * 0.1

        return step

    def has_a_product_of_rows(w: Any, v: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            scores = ops.contract("bf,fu->bu", 1.0 / x, w)
            return ops.tanh(scores * h + h @ v), ops.contract("bu,bu->b", scores, h)

        return step

    def sums_a_bias(w: Any, v: Any) -> Any:
        return lambda h, x: ((h := ops.tanh((w[0] + h) / x[:, :1] + v[1])), h + w[1, :1])

    return {
        f.__name__: f
        for f in (divides, takes_logs, divides_by_the_carry, normalizes, has_a_product_of_rows, sums_a_bias)
    }


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's divisions by zero in the masked rows
@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"checkpoint": 3}], ids=str)
@pytest.mark.parametrize("name", steps_that_divide())
def test_nothing_of_a_masked_step_gets_out(name: str, options: dict[str, Any], bad: float) -> None:
    step_of = steps_that_divide()[name]
    init, xs, weights = 1.5 + numbers(B, U), 1.5 + numbers(T, B, F), [numbers(F, U), numbers(U, U)]
    clean = total_valid(step_of, xs, init, weights, engine="numpy", **options)
    spoilt = np.where(VALID[..., None], xs, bad)
    got = total_valid(step_of, spoilt, init, weights, engine="numpy", **options)
    for a, b in zip(got, clean, strict=True):
        assert error(a, b) == 0.0
    d_xs = got[3].numpy()
    assert not d_xs[~VALID].any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_without_the_guard_of_the_sums_something_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: zero cotangents times infinite values are NaN."""
    monkeypatch.setattr(adjoint, "_guarded", lambda graph, cotangents: graph)
    monkeypatch.setattr(trace, "_cache", collections.OrderedDict())
    step_of = steps_that_divide()["takes_logs"]
    init, xs, weights = 1.5 + numbers(B, U), 1.5 + numbers(T, B, F), [numbers(F, U), numbers(U, U)]
    found = total_valid(step_of, np.where(VALID[..., None], xs, np.nan), init, weights, engine="numpy")
    assert not all(np.isfinite(t.numpy()).all() for t in found)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["divides", "takes_logs", "normalizes"])
def test_masked_gradients_are_those_of_the_rows_alone(name: str) -> None:
    """Against the same loss from each row's valid steps."""
    step_of = steps_that_divide()[name]
    init, xs, weights = 1.5 + numbers(B, U), 1.5 + numbers(T, B, F), [numbers(F, U), numbers(U, U)]
    tensors = [mr.Tensor(a) for a in (init, *weights)]
    gradients = []
    for masked in (True, False):
        with mr.Tape() as tape:
            tape.watch(tensors)
            step = step_of(*tensors[1:])
            if masked:
                carry = mr.scan(step, tensors[0], xs, mask=VALID)[0]
            else:
                rows = []
                for b in range(B):
                    row = tensors[0][b : b + 1]
                    for t in np.flatnonzero(VALID[:, b]):
                        row = step(row, mr.Tensor(xs[t, b : b + 1]))[0]
                    rows.append(row)
                carry = ops.concatenate(rows)
            loss = (carry**3).sum()
        gradients.append(tape.gradient(loss, tensors))
    for a, b in zip(*gradients, strict=True):
        assert error(a, b) < 1e-12


@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_regular_step_is_safe_on_every_engine(engine: str, bad: float) -> None:
    def step_of(w: Any, v: Any) -> Any:
        return lambda h, x: ((h := ops.tanh(x @ w + h @ v)), h * x[:, :1])

    init, xs, weights = numbers(B, U), numbers(T, B, F), [numbers(F, U), numbers(U, U)]
    spoilt = np.where(VALID[..., None], xs, bad)
    wanted = total_valid(step_of, xs, init, weights, engine=engine)
    got = total_valid(step_of, spoilt, init, weights, engine=engine)
    for a, b in zip(got, wanted, strict=True):
        assert error(a, b) == 0.0


def test_integer_ids_in_masked_steps_are_not_looked_up() -> None:
    table = mr.Variable(numbers(4, U), dtype="float64")
    ids = np.where(VALID, np.random.default_rng(0).integers(0, 4, VALID.shape), 99)
    with mr.Tape() as tape:
        carry, _ = mr.scan(lambda h, i: (ops.tanh(h + table[i]), None), numbers(B, U), ids, mask=VALID)
    assert np.isfinite(tape.gradient(carry, table).numpy()).all()


def test_where_no_step_is_valid_nothing_is_read() -> None:
    carry, ys = mr.scan(lambda h, x: (h, x + 5.0), np.zeros((B, 1)), np.ones((T, B, 1)), mask=np.zeros((T, B), bool))
    assert not ys.numpy().any() and not carry.numpy().any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("mask", "init", "xs"),
    [
        (np.ones((T, B + 1), bool), numbers(B, U), numbers(T, B, F)),
        (np.ones((B, T), bool), numbers(B, U), numbers(T, B, F)),
        (np.ones((T + 1, B), bool), numbers(B, U), numbers(T, B, F)),
        (np.ones(T, bool), numbers(B, U), numbers(T, B, F)),
        (np.ones((T, B, 2), bool), numbers(B, U), numbers(T, B, F)),
        (np.ones((T, B), bool), numbers(B + 1, U), numbers(T, B, F)),  # a carry of another batch
        (np.ones((T, B), bool), np.zeros(()), numbers(T, B, F)),
        (np.ones((T, B), bool), numbers(B, U), numbers(T)),
        (np.ones((T + 1, B), bool), None, None),
    ],
)
def test_masks_that_do_not_fit(mask: Any, init: Any, xs: Any, engine: str) -> None:
    with pytest.raises(errors.ShapeError, match="mask") as caught:
        mr.scan(lambda h, x: (h, x), init, xs, length=T, mask=mask, engine=engine)
    assert caught.value.expected is not None


@pytest.mark.parametrize("engine", ENGINES)
def test_with_a_mask_y_has_the_batch_as_its_first_axis(engine: str) -> None:
    with pytest.raises(errors.ShapeError, match="every y has a batch axis"):
        mr.scan(lambda h, x: (h, x.sum()), numbers(B, U), numbers(T, B, F), mask=VALID, engine=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mask_alone_says_how_many_rows_there_are(engine: str) -> None:
    carry, ys = mr.scan(lambda c, x: (c, ops.ones(B, "float64")), None, None, length=T, mask=VALID, engine=engine)
    assert np.array_equal(ys.numpy() > 0, np.logical_or.accumulate(VALID))


def test_a_mask_that_a_step_computes_for_an_inner_scan() -> None:
    counts = np.random.default_rng(4).integers(0, 4, (T, B))
    xs, weights = numbers(T, B, F), numbers(F, U)

    def step_of(w: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            x, count = x
            parts = ops.stack([x, x * x, ops.sin(x)])
            valid = ops.expand_dims(ops.arange(3), -1) < count
            last, seen = mr.scan(lambda a, m: ((a := ops.tanh(a + m @ w)), a * 2.0), h, parts, mask=valid)
            return last, seen.sum(axis=0)

        return step

    found = []
    for engine in ENGINES:
        w, init = mr.Tensor(weights), mr.Tensor(numbers(B, U))
        with mr.engine(engine), mr.Tape() as tape:
            tape.watch([w, init])
            carry, ys = mr.scan(step_of(w), init, (xs, counts), mask=VALID)
            loss = (carry**2).sum() + (ys**2).sum()
        found.append([carry, ys, *tape.gradient(loss, [w, init])])
    for a, b in zip(*found, strict=True):
        assert error(a, b) < 1e-12
