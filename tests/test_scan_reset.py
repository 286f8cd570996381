"""scan(reset=): rows that begin anew, against a loop over rows and steps, and against calls on the pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn.errors import ShapeError
from tests.reference.cells import Array
from tests.reference.checks import complex_step_gradients, max_error

T, B, U = 6, 3, 4
RNG = np.random.default_rng(7)
KERNEL = RNG.normal(size=(U, U)) / 2
XS, INIT, CTS, LAST_CT = (
    RNG.normal(size=(T, B, U)),
    RNG.normal(size=(B, U)),
    RNG.normal(size=(T, B, U)),
    RNG.normal(size=U),
)
ENGINES = ["reference", "numpy", pytest.param("cpu", marks=pytest.mark.slow)]


def step(h: Any, x: Any) -> Any:
    h = mr.ops.tanh(h @ KERNEL + x)
    return h, h * h + x


def by_hand(xs: Array, init: Array, valid: Array, reset: Array, reverse: bool) -> tuple[Array, Array]:
    last, ys = np.zeros_like(init), np.zeros_like(xs)
    for b in range(xs.shape[1]):
        h, shown = init[b], np.zeros_like(init[b])
        for t in reversed(range(len(xs))) if reverse else range(len(xs)):
            if reset[t, b]:
                h, shown = init[b], np.zeros_like(shown)
            if valid[t, b]:
                h = np.tanh(h @ KERNEL + xs[t, b])
                shown = h * h + xs[t, b]
            ys[t, b] = shown
        last[b] = h
    return last, ys


def found(reset: Array, mask: Array | None, reverse: bool, engine: str, checkpoint: int | None) -> dict[str, Array]:
    xs, init = mr.Tensor(XS), mr.Tensor(INIT)
    with mr.engine(engine), mr.Tape() as tape:
        tape.watch(xs)
        tape.watch(init)
        last, ys = mr.scan(step, init, xs, mask=mask, reset=reset, reverse=reverse, checkpoint=checkpoint)
        gradients = tape.gradient(mr.ops.sum(last * LAST_CT) + mr.ops.sum(ys * CTS), [xs, init])
    return dict(zip(["carry", "ys", "ct xs", "ct init"], map(np.asarray, (last, ys, *gradients)), strict=True))


def wanted(reset: Array, mask: Array | None, reverse: bool) -> dict[str, Array]:
    valid = np.ones((T, B), bool) if mask is None else mask

    def loss(xs: Array, init: Array) -> Array:
        last, ys = by_hand(xs, init, valid, reset, reverse)
        return np.sum(last * LAST_CT) + np.sum(ys * CTS)

    results = [*by_hand(XS, INIT, valid, reset, reverse), *complex_step_gradients(loss, XS, INIT)]
    return dict(zip(["carry", "ys", "ct xs", "ct init"], results, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**16), masked=st.booleans(), reverse=st.booleans(), checkpoint=st.sampled_from([None, 1, 4])
)
def test_it_is_the_loop_with_its_gradients(
    engine: str, seed: int, masked: bool, reverse: bool, checkpoint: int | None
) -> None:
    rng = np.random.default_rng(seed)
    reset, mask = rng.random((T, B)) < 0.4, rng.random((T, B)) < 0.6 if masked else None
    want = wanted(reset, mask, reverse)
    for name, value in found(reset, mask, reverse, engine, checkpoint).items():
        assert max_error(value, want[name]) < 1e-12, name


@pytest.mark.parametrize("reverse", [False, True])
def test_it_is_two_calls_joined(reverse: bool) -> None:
    at, mask = 2, RNG.random((T, B)) < 0.7
    reset = np.zeros((T, B), bool)
    reset[T - 1 - at if reverse else at] = True
    last, ys = mr.scan(step, INIT, XS, mask=mask, reset=reset, reverse=reverse)
    cut = T - at if reverse else at
    pieces = [
        mr.scan(step, INIT, XS[part], mask=mask[part], reverse=reverse) for part in (slice(cut), slice(cut, None))
    ]
    assert max_error(ys, np.concatenate([np.asarray(piece[1]) for piece in pieces])) < 1e-14
    assert max_error(last, pieces[0 if reverse else 1][0]) < 1e-14


def test_a_reset_in_a_masked_step_takes_effect_and_is_held() -> None:
    mask, reset = np.ones((T, B), bool), np.zeros((T, B), bool)
    mask[3:] = False
    reset[4, 1] = True
    last, ys = mr.scan(step, INIT, XS, mask=mask, reset=reset)
    np.testing.assert_array_equal(np.asarray(last)[1], INIT[1])
    assert not np.asarray(ys)[4:, 1].any() and np.asarray(ys)[3, 1].any() and np.asarray(ys)[4:, 0].all()


def test_what_was_before_a_reset_reaches_nothing_behind_it() -> None:
    """An infinite carry that is thrown away, and NaN in a masked step that is reset."""
    xs, reset, mask = XS.copy(), np.zeros((T, B), bool), np.ones((T, B), bool)
    xs[3, 0], mask[3, 0], reset[3, 0] = np.nan, False, True
    tensors = mr.Tensor(xs), mr.Tensor(INIT)
    with mr.Tape() as tape:
        for tensor in tensors:
            tape.watch(tensor)
        last, ys = mr.scan(step, tensors[1], tensors[0], mask=mask, reset=reset)
        gradients = tape.gradient(mr.ops.sum(last) + mr.ops.sum(ys), list(tensors))
    assert all(np.isfinite(np.asarray(x)).all() for x in (last, ys, *gradients))


def test_forms_and_errors() -> None:
    reset = RNG.random((T, B)) < 0.4
    want = np.asarray(mr.scan(step, INIT, XS, reset=reset)[1])
    for form in (reset * 2.5, reset[..., None], reset.tolist(), mr.Tensor(reset)):
        np.testing.assert_array_equal(mr.scan(step, INIT, XS, reset=form)[1], want)
    with pytest.raises(ShapeError, match="reset does not fit the x"):
        mr.scan(step, INIT, XS, reset=reset[1:])
    for shape in ((0, B), (T, 0)):
        carry, ys = mr.scan(
            step, np.zeros((shape[1], U)), np.zeros((*shape, U)), reset=np.ones(shape), mask=np.ones(shape)
        )
        assert (carry.shape, ys.shape) == ((shape[1], U), (*shape, U))
