"""`hold` and `unhold` against the loop that defines them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minirnn.autodiff.holding import hold, unhold
from minirnn.autodiff.tensor import Tensor


def held_step_by_step(ys: np.ndarray, valid: np.ndarray, reverse: bool) -> np.ndarray:
    out = np.zeros_like(ys)
    for b in range(valid.shape[1]):
        previous = np.zeros(ys.shape[2:])
        for t in reversed(range(len(ys))) if reverse else range(len(ys)):
            previous = ys[t, b] if valid[t, b] else previous
            out[t, b] = previous
    return out


masks = st.tuples(st.integers(0, 6), st.integers(0, 4)).flatmap(lambda shape: arrays(bool, shape))


@given(masks, st.booleans(), st.integers(0, 2**16))
def test_hold_is_the_loop_and_unhold_its_transpose(valid: np.ndarray, reverse: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ys, cts = rng.normal(size=(2, *valid.shape, 2))
    held = hold(Tensor(ys), Tensor(valid), reverse).numpy()
    np.testing.assert_array_equal(held, held_step_by_step(ys, valid, reverse))
    brought_back = unhold(Tensor(cts), Tensor(valid), reverse).numpy()
    assert np.vdot(held, cts) == pytest.approx(np.vdot(ys, brought_back), rel=1e-12, abs=1e-12)
    assert not brought_back[~valid].any()


def test_what_stands_in_masked_steps_is_not_read() -> None:
    valid = np.array([[True, False], [False, True], [False, False]])
    ys = np.where(valid[..., None], 1.0, np.nan)
    assert hold(Tensor(ys), Tensor(valid), False).numpy()[..., 0].tolist() == [[1, 0], [1, 1], [1, 1]]
    assert hold(Tensor(ys), Tensor(valid), True).numpy()[..., 0].tolist() == [[1, 1], [0, 1], [0, 0]]
