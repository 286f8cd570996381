"""The kernels' `hold` and `unhold` against NumPy's, whatever the mask, the layout and the threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import minirnn as mr
from minirnn.autodiff import holding
from minirnn.kernels import held

flags = st.tuples(st.integers(1, 6), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), st.none() | arrays(bool, shape))
)


def check(x: Any, valid: Any, begins: Any, reverse: bool) -> None:
    given_flags = [valid] if begins is None else [valid, begins]
    for name in ("hold", "unhold"):
        made = getattr(held, name)(x, *given_flags, reverse=reverse)
        wanted = getattr(holding, f"_{name}_forward")(x, *given_flags, reverse=reverse)
        assert made.dtype == x.dtype and made.shape == x.shape
        np.testing.assert_allclose(made, wanted, rtol=1e-5 if x.dtype == np.float32 else 1e-14, atol=1e-6)


@given(flags, st.booleans(), st.sampled_from(["float32", "float64", "int64"]), st.integers(0, 99))
def test_any_mask(both: Any, reverse: bool, dtype: str, seed: int) -> None:
    valid, begins = both
    x = np.random.default_rng(seed).normal(size=(*valid.shape, 3, 7)).astype(dtype)
    check(x, valid, begins, reverse)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1)])
def test_any_layout(axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=np.array((5, 4, 20))[list(axes)]).transpose(np.argsort(axes))
    check(x, rng.random((5, 4)) > 0.5, None, False)


def test_threads_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x, valid = rng.normal(size=(9, 7, 20)), rng.random((9, 7)) > 0.6
    wanted = [f(x, valid, reverse=True) for f in (held.hold, held.unhold)]
    monkeypatch.setattr(held, "_WORTH_THREADS", 1)
    with mr.threads(3):
        for f, value in zip((held.hold, held.unhold), wanted, strict=True):
            np.testing.assert_array_equal(f(x, valid, reverse=True), value)


def test_what_stands_in_masked_steps_is_not_read() -> None:
    valid = np.array([[False, True], [True, False]])
    x = np.where(valid[..., None], 2.0, np.nan)
    assert held.hold(x, valid, reverse=False).ravel().tolist() == [0, 2, 2, 2]
