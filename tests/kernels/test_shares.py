"""Rows shared out by the steps that they need: nothing shows it, and no step is run that nobody needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import minirnn as mr
from minirnn.kernels import run
from minirnn.kernels.shares import by_length, even

from . import same_bits_cases as cases
from .same_bits_cases import differing, same

masks = st.tuples(st.integers(1, 9), st.integers(1, 40)).flatmap(lambda shape: arrays(bool, shape))


@given(masks, st.integers(1, 3))
def test_every_valid_step_is_in_one_share(valid: np.ndarray, threads: int) -> None:
    shares = by_length(valid, threads)
    if shares is None:
        return
    assert sorted(np.concatenate([share.order for share in shares])) == list(range(valid.shape[1]))
    for share in shares:
        assert share.order.flags.c_contiguous and share.order.dtype == np.int64
        np.testing.assert_array_equal(np.arange(valid.shape[1])[share.rows], share.order)
        assert not valid[: share.begin, share.order].any() and not valid[share.end :, share.order].any()
        inside = valid[share.begin : share.end, share.order]
        assert not inside.size or inside[0].any() and inside[-1].any()
    assert sum(len(s.order) * (s.end - s.begin) for s in shares) <= 0.9 * valid.size


def test_rows_of_random_lengths_cost_little_more_than_their_steps() -> None:
    lengths = np.random.default_rng(0).integers(1, 101, 64)
    shares = by_length(np.arange(100)[:, None] < lengths, 2)
    assert shares is not None
    assert sum(len(s.order) * (s.end - s.begin) for s in shares) < 1.1 * lengths.sum()


def test_few_masked_steps_are_not_worth_it() -> None:
    valid = np.ones((20, 8), bool)
    valid[-1, 3] = False
    assert by_length(valid, 2) is None
    assert [s.rows for s in even(7, 20, 3)] == [slice(0, 2), slice(2, 4), slice(4, 7)]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Shares are made for work of any size; what is yielded grows by the number of shares of each call."""
    counts: list[int] = []

    def counted(valid: np.ndarray, threads: int) -> Any:
        shares = by_length(valid, threads)
        counts.append(len(shares or ()))
        return shares

    monkeypatch.setattr(run, "_WORTH_A_THREAD", 1e-9)
    monkeypatch.setattr(run, "by_length", counted)
    with mr.engine("cpu"):
        yield counts


def evaluate(name: str, given_rows: Any, mask: np.ndarray) -> tuple[Any, Any]:
    dtype = str(given_rows["x"].dtype)
    return cases.forward(name, dtype, given_rows, mask), cases.gradients(name, dtype, given_rows, mask)


@pytest.mark.parametrize(
    "name, dtype",
    [
        ("lstm", "float32"),
        pytest.param("gru", "float64", marks=pytest.mark.slow),
        pytest.param("attention", "float32", marks=pytest.mark.slow),
    ],
)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 12), st.integers(1, 8), st.integers(1, 3), st.data())
def test_shares_do_not_show(
    name: str, dtype: str, eager: list[int], batch: int, length: int, threads: int, data: Any
) -> None:
    pattern = data.draw(st.sampled_from(["right", "left", "any"]))
    lengths = data.draw(arrays(np.int64, batch, elements=st.integers(0, length)))
    steps = np.arange(length)
    if pattern == "any":
        mask = data.draw(arrays(bool, (batch, length)))
    else:
        mask = (steps if pattern == "right" else steps[::-1]) < lengths[:, None]
    given_rows = cases.rows(name, dtype, batch, length)
    given_rows["x"][~mask] = np.nan
    with mr.threads(threads):
        made, slopes = evaluate(name, given_rows, mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "by_length", lambda valid, threads: None)
        wanted, wanted_slopes = evaluate(name, given_rows, mask)
    assert differing(made, wanted) == []
    assert same(slopes["x"], wanted_slopes["x"])
    for key, slope in wanted_slopes.items():
        np.testing.assert_allclose(slopes[key], slope, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-5)


def test_shares_are_made_forward_and_backward(eager: list[int]) -> None:
    mask = np.repeat(np.tri(8, dtype=bool), 2, axis=0)
    evaluate("lstm", cases.rows("lstm", "float32", 16, 8), mask)
    assert eager == [4, 4, 4]  # the forward, and then once more with its backward


def test_a_share_that_ends_too_early_is_noticed(eager: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    given_rows, mask = cases.rows("gru", "float64", 8, 6), np.tri(8, 6, dtype=bool)
    wanted, _ = evaluate("gru", given_rows, mask)

    def too_early(valid: np.ndarray, threads: int) -> Any:
        return [share._replace(end=share.end - 1) for share in by_length(valid, threads) or ()]

    monkeypatch.setattr(run, "by_length", too_early)
    made, _ = evaluate("gru", given_rows, mask)
    assert differing(made, wanted) == ["y", "h"]


def test_nothing_looks_at_steps_that_were_left_out(eager: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    given_rows, mask = cases.rows("lstm", "float64", 12, 7), np.tri(12, 7, -3, dtype=bool)

    def slopes_of_slopes() -> list[Any]:
        x = mr.Tensor(given_rows["x"])
        with mr.Tape() as outer:
            outer.watch(x)
            with mr.Tape() as inner:
                inner.watch(x)
                loss = sum(
                    (v * v).sum() for v in cases.forward("lstm", "float64", {**given_rows, "x": x}, mask).values()
                )
            slope = inner.gradient(loss, x)
        return [slope, *outer.gradient((slope * slope).sum(), [x, *cases.layer("lstm", "float64").trainable_variables])]

    wanted = slopes_of_slopes()
    assert eager and min(eager) > 0
    monkeypatch.setattr(run, "empty", lambda shape, dtype: np.full(shape, np.nan if dtype.kind == "f" else 1, dtype))
    for made, value in zip(slopes_of_slopes(), wanted, strict=True):
        assert same(made, value)
