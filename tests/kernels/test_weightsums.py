"""Sums over time and rows: the bits of their definition, whatever the strides, however threads share them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn.kernels import matmul, run, sums, weightsums
from minirnn.layers import GRU, LSTM, SimpleRNN

from . import contract_cases as cases
from .same_bits_cases import numbers, same

widths = st.sampled_from([1, 2, 3, 16, 33, 64, 65, 129, 200, 300])


def definition(a: Any, b: Any) -> Any:
    b = b.reshape(-1, b.shape[2])
    return cases.sum_by_definition(b) if a is None else cases.product_by_definition(a.reshape(-1, a.shape[2]).T, b)


def laid(draw: Any, dtype: str, steps: int, rows: int, width: int) -> Any:
    """Numbers (T, B, F) that lie time first, batch first, backwards, with gaps, or once for all steps or rows."""
    how = draw(st.sampled_from(["time", "batch", "backwards", "gaps", "turned", "one step", "one row"]))
    shape = {"one step": (1, rows, width), "one row": (steps, 1, width)}.get(how, (steps, rows, width))
    x = numbers(dtype, *shape)
    if how == "batch":
        return np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)
    if how == "backwards":
        return x[::-1, :, ::-1]
    if how == "gaps":
        return numbers(dtype, steps, 2 * rows, width + 3)[:, ::2, 1:-2]
    if how == "turned":
        return np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0)
    return np.broadcast_to(x, (steps, rows, width))


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["float32", "float64"]), st.integers(1, 40), st.integers(1, 20), st.data())
def test_sums_have_the_bits_of_their_definition(dtype: str, steps: int, rows: int, data: Any) -> None:
    wanted = []
    for _ in range(data.draw(st.integers(1, 3))):
        right = laid(data.draw, dtype, steps, rows, data.draw(widths))
        for _ in range(data.draw(st.integers(1, 3))):
            left = laid(data.draw, dtype, steps, rows, data.draw(widths)) if data.draw(st.booleans()) else None
            wanted.append((left, right))
    expected = [definition(a, b) for a, b in wanted]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul, "_PRODUCTS_WORTH_THREADS", 0)
        for count in (1, 2, 3):
            with mr.threads(count):
                assert all(map(same, weightsums.sums_over_rows(wanted), expected))


def test_longer_ones_than_a_chunk() -> None:
    a, b = numbers("float32", 30, 7, 70), numbers("float32", 30, 7, 1100)
    wanted = [(a, b), (None, b), (b, a), (a[::-1], a)]
    for made, pair in zip(weightsums.sums_over_rows(wanted), wanted, strict=True):
        assert same(made, definition(*pair))


def test_of_no_rows_they_are_zero() -> None:
    a, b = np.ones((0, 3, 4), np.float32), np.ones((0, 3, 5), np.float32)
    made = weightsums.sums_over_rows([(a, b), (None, b)])
    assert same(made[0], np.zeros((4, 5), np.float32)) and same(made[1], np.zeros(5, np.float32))


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3)), min_size=1, max_size=6), st.integers(1, 9))
def test_threads_have_all_of_it_once(pairs: list[tuple[int, int]], count: int) -> None:
    rights = [128, 1, 600, 0]
    plan = weightsums._plan(tuple((height, rights[which], which) for height, which in pairs), 4, count)
    done = {k: np.zeros((height, rights[which]), int) for k, (height, which) in enumerate(pairs)}
    for start, stop, right, first, last, column, columns in [piece for share in plan.shares for piece in share]:
        before = 0
        for k, height, _, _ in plan.lefts[start:stop]:
            assert pairs[k][1] == pairs[plan.rights[right]][1]
            done[k][max(first - before, 0) : max(last - before, 0), column : column + columns] += 1
            before += height
    assert all((each == 1).all() for each in done.values())
    places = np.zeros(plan.size, int)
    for _, height, at, width in plan.lefts:
        places[at : at + height * width] += 1
    assert places.max(initial=0) <= 1 and places.sum() == sum(each.size for each in done.values())


def test_threads_have_equal_shares_with_few_pieces() -> None:
    def shares(*pairs: tuple[int, int, int]) -> list[list[tuple[int, ...]]]:
        return weightsums._plan(pairs, 4, 2).shares

    assert [len(share) for share in shares((64, 192, 0), (1, 192, 0), (64, 192, 1), (1, 192, 1))] == [1, 1]  # a GRU
    assert shares((128, 128, 0), (1, 128, 0), (128, 128, 0)) == [
        [(0, 3, 0, 0, 128, 0, 128)],
        [(0, 3, 0, 128, 257, 0, 128)],
    ]
    assert [piece[3:] for (piece,) in shares((128, 512, 0), (128, 512, 0))] == [(0, 256, 0, 256), (0, 256, 256, 256)]


CELLS = [(SimpleRNN, 3), (LSTM, 3), (GRU, 4), (functools.partial(GRU, reset_after=False), 4)]


@pytest.mark.parametrize(
    "cell, count, masked",
    [
        pytest.param(cell, count, masked, marks=[] if cell is SimpleRNN else pytest.mark.slow)
        for cell, count in CELLS
        for masked in (False, True)
    ],
)
def test_a_gradients_sums_are_computed_at_once(
    cell: Any, count: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = cell(9, return_sequences=True), numbers("float32", 4, 11, 6)
    mask = np.arange(11) < np.array([[3], [7], [5], [9]]) if masked else None
    kernels: list[Any] = []
    calls: list[int] = []
    make, sum_up = run.Kernel.__call__, sums.sums_over_rows

    def noted(kernel: Any, *arguments: Any) -> Any:
        kernels.append(kernel)
        return make(kernel, *arguments)

    def counted(wanted: Any) -> Any:
        calls.append(len(wanted))
        return sum_up(wanted)

    def of_weights() -> list[Any]:
        with mr.engine("cpu"), mr.Tape() as tape:
            loss = (layer(x, mask=mask) ** 2).sum()
        return [np.asarray(g) for g in tape.gradient(loss, layer.trainable_variables)]

    monkeypatch.setattr(run.Kernel, "__call__", noted)
    in_the_kernel = of_weights()
    (kernel,) = [k for k in kernels if k.graph.sums]
    monkeypatch.setattr(kernel, "most_summed", 0)
    monkeypatch.setattr(sums, "sums_over_rows", counted)
    assert all(map(same, of_weights(), in_the_kernel))
    assert calls == [count]
