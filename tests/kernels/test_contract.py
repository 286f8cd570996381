"""Products, sums and maxima have the bits of their definition, whatever the sizes, the layout and the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn.autodiff import contraction
from minirnn.kernels import contract, matmul, outline

from . import contract_cases as cases

ROOT = Path(__file__).parents[2]
DTYPES = [np.float32, np.float64]
size = st.integers(1, 200)
floats = st.sampled_from(DTYPES)


def operands(rng: Any, dtype: Any, *shape: int) -> Any:
    """Numbers of many magnitudes, so that the order of additions shows."""
    return (rng.normal(size=shape) * 2.0 ** rng.integers(-8, 9, shape)).astype(dtype)


def same(a: Any, b: Any) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# the definition itself ---------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_definitions_fma_is_rounded_once(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a, b, c = operands(rng, dtype, 3, 2000)
    c[::2] = -(a * b)[::2]  # what cancels shows the product's lower half
    a[::5] = 1 + np.finfo(dtype).eps * rng.integers(0, 5, 400)
    got = cases.exact_fma(a, b, c)
    for x, y, z, r in zip(a, b, c, got, strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        below, above = np.nextafter(r, dtype(-np.inf)), np.nextafter(r, dtype(np.inf))
        off = abs(exact - Fraction(float(r)))
        assert off <= min(abs(exact - Fraction(float(n))) for n in (below, above))


def test_the_definitions_order_shows() -> None:
    rng = np.random.default_rng(0)
    a, b = operands(rng, np.float32, 20, 150), operands(rng, np.float32, 150, 20)
    assert not same(cases.product_by_definition(a, b), a @ b)
    flipped = cases.product_by_definition(a[:, ::-1], b[::-1])
    assert not same(cases.product_by_definition(a, b), flipped)
    chain = cases.exact_fma(a[:, :1], b[:1], np.float32(0))
    for k in range(1, 150):
        chain = cases.exact_fma(a[:, k : k + 1], b[k : k + 1], chain)
    assert not same(cases.product_by_definition(a, b), chain)


# products ----------------------------------------------------------------------------------------
@settings(max_examples=60)
@given(floats, size, size, size, st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 1), st.integers(0, 99))
def test_a_product_has_the_bits_of_its_definition(
    dtype: Any, rows: int, inner: int, columns: int, turn_a: bool, turn_b: bool, gap: int, turn: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = operands(rng, dtype, rows, inner), operands(rng, dtype, inner, columns)
    assert same(cases.product(a, b, (turn_a, turn_b), gap, turn), cases.product_by_definition(a, b))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8])
def test_every_tile_and_every_tail(dtype: Any, rows: int) -> None:
    rng = np.random.default_rng(rows)
    for inner in (1, 63, 64, 65, 128, 130):
        for columns in (1, 15, 16, 17, 31, 33, 48, 63, 64, 65, 100, 127, 128, 129, 200):
            a, b = operands(rng, dtype, rows, inner), operands(rng, dtype, inner, columns)
            for turn in (0, 1):
                assert same(cases.product(a, b, turn=turn), cases.product_by_definition(a, b)), (inner, columns, turn)


@settings(max_examples=25)
@given(floats, size, size, size, st.data())
def test_a_row_has_the_same_bits_in_any_company(dtype: Any, rows: int, inner: int, columns: int, data: Any) -> None:
    rng = np.random.default_rng(rows)
    a, b = operands(rng, dtype, rows, inner), operands(rng, dtype, inner, columns)
    whole = cases.product(a, b)
    first = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(first + 1, rows))
    assert same(cases.product(a[first:stop], b), whole[first:stop])
    assert same(cases.product(a, b[:, : stop + 1]), whole[:, : stop + 1].copy())


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_contracted_gives_zeros(dtype: Any, rows: int) -> None:
    for turn in (0, 1):
        made = cases.product(np.empty((rows, 0), dtype), np.empty((0, 150), dtype), turn=turn)
        assert same(made, np.zeros((rows, 150), dtype))
    assert same(matmul.matmul(np.empty((2, rows, 0), dtype), np.empty((2, 0, 5), dtype)), np.zeros((2, rows, 5), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_signed_zeros_infinities_and_nan(dtype: Any) -> None:
    tiny = np.finfo(dtype).tiny
    a = np.array([[-tiny, 1], [np.inf, 1], [np.nan, 1], [-0.0, 0.0]], dtype)
    b = np.array([[tiny, 1, 0, -1], [-0.0, -0.0, -0.0, -0.0]], dtype)
    made = cases.product(a, b)
    assert same(np.signbit(made[0]), np.array([True, True, False, False]))  # -tiny * tiny underflows to -0
    assert made[1].tolist()[:2] == [np.inf, np.inf] and np.isnan(made[1, 2]) and made[1, 3] == -np.inf
    assert np.isnan(made[2]).all()
    assert same(made[3], np.zeros(4, dtype))


def test_a_planted_bug_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The definition with another block size, or with products rounded on their own, is found to differ."""
    rng = np.random.default_rng(1)
    a, b = operands(rng, np.float32, 9, 150), operands(rng, np.float32, 150, 40)
    right = cases.product(a, b)
    assert same(right, cases.product_by_definition(a, b))
    monkeypatch.setattr(cases, "BLOCK", 128)
    assert not same(right, cases.product_by_definition(a, b))
    monkeypatch.setattr(cases, "BLOCK", 64)
    monkeypatch.setattr(cases, "exact_fma", lambda x, y, z: x * y + z)
    assert not same(right, cases.product_by_definition(a, b))


def test_a_kernel_whose_slots_are_empty_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    a = np.ones((2, 3), np.float32)
    cases.product(a, a.T)
    for each in outline._outlined:
        monkeypatch.setitem(each.slots, "float32", each.slots["float32"])
        kept = each.slots["float32"].value
        each.slots["float32"].value = None
        monkeypatch.setattr(outline, "prepare", lambda dtype, used: None)
        try:
            if each.function.__name__ == "product":
                with pytest.raises(RuntimeError, match="prepare"):
                    cases.product(a, a.T)
        finally:
            each.slots["float32"].value = kept


def test_buffers_are_aligned() -> None:
    for dtype in (np.float32, np.float64, np.int8):
        for n in (1, 3, 1000):
            made = contract.aligned_empty(n, dtype)
            assert made.ctypes.data % 64 == 0 and made.shape == (n,) and made.dtype == dtype


@settings(max_examples=40)
@given(floats, st.integers(1, 9), st.integers(0, 150), st.integers(1, 70), st.integers(0, 3), st.integers(0, 99))
def test_rows_with_a_matrix_each(dtype: Any, rows: int, inner: int, columns: int, gap: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = operands(rng, dtype, rows, inner)
    matrices = operands(rng, dtype, rows * inner, columns).reshape(rows, inner, columns)
    expected = np.concatenate([cases.product(a[r : r + 1], matrices[r]) for r in range(rows)])
    assert same(cases.products_of_rows(a, matrices, gap), expected)


# sums and maxima ---------------------------------------------------------------------------------
@settings(max_examples=40)
@given(floats, st.integers(0, 700), st.integers(1, 150), st.integers(0, 99))
def test_sums_have_the_bits_of_their_definition(dtype: Any, n: int, rows: int, seed: int) -> None:
    x = operands(np.random.default_rng(seed), dtype, rows, n)
    expected = cases.sum_by_definition(x.T)
    for step in (1, 3):
        assert same(cases.sum_rows(x, step), expected)
    assert same(cases.sum_columns(np.ascontiguousarray(x.T)), expected)
    assert same(dtype(cases.sum_chain(x.ravel(), n * (rows - 1), 1, n)), expected[-1])
    laid = np.ascontiguousarray(x.T).ravel()
    assert same(dtype(cases.sum_chain(laid, rows - 1, rows, n)) if n else dtype(0), expected[-1])


@settings(max_examples=40)
@given(floats, st.integers(1, 300), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_maxima(dtype: Any, n: int, columns: int, with_nan: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-20, 20, (n, columns)).astype(dtype)
    x[x == -20] = -np.inf
    if with_nan:
        x[rng.integers(0, n), rng.integers(0, columns)] = np.nan
    np.testing.assert_array_equal(cases.max_columns(x), x.max(axis=0))
    for c in range(0, columns, 7):
        np.testing.assert_array_equal(cases.max_chain(x.ravel(), c, columns, n), x[:, c].max())
        assert cases.argmax_chain(x.ravel(), c, columns, n) == x[:, c].argmax()


def test_signed_zeros_of_maxima_are_the_first() -> None:
    for x in ([0.0, -0.0], [-0.0, 0.0], [-1.0, -0.0, 0.0]):
        a = np.array(x, np.float32)
        first = a[a == 0][0]
        assert np.signbit(cases.max_chain(a, 0, 1, len(a))) == np.signbit(first)
        assert np.signbit(cases.max_columns(a[:, None])[0]) == np.signbit(first)


# whole arrays ------------------------------------------------------------------------------------
def as_one_product(a: Any, b: Any, spec: str) -> Any:
    """A contraction by its definition: the contracted letters are one index, in the first operand's order."""
    order_a, order_b, order_out, batch, rows, summed = contraction.plan(spec)
    a, b = a.transpose(order_a), b.transpose(order_b)
    shape = a.shape[: batch + rows] + b.shape[batch + summed :]
    count, inner = int(np.prod(a.shape[:batch])), int(np.prod(b.shape[batch : batch + summed]))
    lefts, rights = a.reshape(count, -1, inner), b.reshape(count, inner, -1)
    made = np.stack([cases.product_by_definition(x, y) for x, y in zip(lefts, rights, strict=True)])
    return made.reshape(shape).transpose(order_out)


SPECS = [
    "bf,fu->bu", "bf,fu->ub", "bu,fu->bf", "tbf,tbu->fu", "tbf,fu->tbu", "nij,njk->nik", "bqd,bkd->bqk", "f,f->",
    "bf,f->b", "f,fu->u", "abcd,cdab->", "bqk,bkd->qbd", "ab,cd->abcd", "bf,bf->bf", "ba,bc->bac",
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", SPECS)
def test_contractions_of_arrays(spec: str, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    for most in (4, 12, 40 if len(spec) < 13 else 7):
        size = {c: int(rng.integers(1, most)) for c in sorted(set(spec) - set(",->"))}
        a, b, _ = contraction.parse(spec)
        x, y = (operands(rng, dtype, *[size[c] for c in part]) for part in (a, b))
        made = matmul.contract_arrays(x, y, spec)
        np.testing.assert_allclose(made, np.einsum(spec, x, y), rtol=1e-3, atol=1e-3)
        if contraction.plan(spec)[-1]:
            assert same(np.ascontiguousarray(made), np.ascontiguousarray(as_one_product(x, y, spec)))
        turned = np.asfortranarray(x), y[::-1].copy()[::-1] if y.ndim else y
        assert same(np.ascontiguousarray(matmul.contract_arrays(*turned, spec)), np.ascontiguousarray(made))


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_products_have_the_same_bits_in_threads_and_chunks(dtype: Any) -> None:
    rng = np.random.default_rng(4)
    for rows, inner, columns in ((300, 700, 70), (70, 600, 700), (1, 5000, 1030), (130, 1000, 33)):
        a, b = operands(rng, dtype, inner, rows).T, operands(rng, dtype, inner, columns)
        expected = cases.product(a, b)
        for n in (1, 2, 3):
            with mr.threads(n):
                assert same(matmul.contract_arrays(a, b, "bf,fu->bu"), expected)
                assert same(matmul.contract_arrays(np.ascontiguousarray(a), b, "bf,fu->bu"), expected)


def test_other_dtypes_are_numpys() -> None:
    x, y = np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(matmul.contract_arrays(x, y, "bf,fu->bu"), x @ y)
    np.testing.assert_array_equal(matmul.contract_arrays(x + 1j, y, "bf,fu->bu"), (x + 1j) @ y)
    mixed = matmul.contract_arrays(x.astype(np.float32), y.astype(np.float64), "bf,fu->bu")
    assert same(mixed, matmul.contract_arrays(x.astype(np.float64), y.astype(np.float64), "bf,fu->bu"))
    assert matmul.sum_over(x, (0,), False).dtype == np.int64
    assert matmul.sum_over(x > 1, (0, 1), False) == 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [(0,), (1,), (2,), (3,), (0, 1), (1, 2), (2, 3), (0, 2), (0, 3), (0, 1, 2, 3), ()])
def test_sums_over_axes(axis: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(6)
    for shape in ((3, 70, 5, 20), (80, 2, 3, 17), (1, 1, 200, 1), (2, 0, 3, 4)):
        whole = operands(rng, dtype, *shape)
        for x in (whole, np.asfortranarray(whole), whole[:, ::-1, :, ::-1]):
            made = matmul.sum_over(x, axis, False)
            kept = [i for i in range(4) if i not in axis]
            flat = x.transpose((*axis, *kept)).reshape((-1, *(x.shape[i] for i in kept))) if x.size else x
            expected = x if not axis else cases.sum_by_definition(flat) if x.size else np.sum(x, axis)
            assert same(np.ascontiguousarray(made), np.ascontiguousarray(expected))
            assert matmul.sum_over(x, axis, True).shape == np.sum(x, axis=axis, keepdims=True).shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_neighbours(dtype: Any) -> None:
    """Few rows, whose blocks are summed side by side, and more, which are."""
    rng = np.random.default_rng(8)
    for rows in (1, 2, 3, 4, 17, 33):
        for n in (1, 63, 64, 1023, 1024, 1025, 1100, 2 * 1024 + 65):
            room = operands(rng, dtype, rows, n + 3)
            for x in (room[:, 1 : n + 1], np.ascontiguousarray(room[:, :n])):
                assert same(matmul.sum_over(x, (1,), False), cases.sum_by_definition(x.T))
    assert same(matmul.sum_over(np.full(2048, -0.0, dtype), (0,), True), np.zeros(1, dtype))


def test_large_sums_have_the_same_bits_in_threads() -> None:
    rng = np.random.default_rng(7)
    for shape, axis in (((1000, 600), 0), ((1000, 600), 1), ((3, 500, 400), 1), ((700000,), 0)):
        x = operands(rng, np.float32, *shape)
        expected = cases.sum_by_definition(np.moveaxis(x, axis, 0))
        for n in (1, 2, 3):
            with mr.threads(n):
                assert same(matmul.sum_over(x, (axis,), False), expected)


# other machines ----------------------------------------------------------------------------------
def in_another_process(folder: Path, most: int, count: int, **environment: str) -> Any:
    command = [sys.executable, "-m", "tests.kernels.contract_cases", str(folder / "made.npz"), str(most), str(count)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, **environment}, timeout=300)
    with np.load(folder / "made.npz") as made:
        return dict(made)


HOST = llvmlite.binding.get_host_cpu_features()


@pytest.mark.skipif(not (HOST.get("avx2") and HOST.get("fma")), reason="needs a processor with AVX2 and FMA")
@pytest.mark.slow  # whole layers on other processors are among the default tests
@pytest.mark.parametrize("name, features", [("haswell", "+avx,+avx2,+fma"), ("x86-64", "")])
def test_other_processors_give_the_same_bytes(name: str, features: str, tmp_path: Path) -> None:
    here = cases.results(100, 8)
    there = in_another_process(tmp_path, 100, 8, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features)
    assert here.keys() == there.keys()
    assert [key for key in here if not same(np.asarray(here[key]), there[key])] == []


def test_without_the_jit_the_same_to_rounding(tmp_path: Path) -> None:
    here = cases.results(20, 8)
    there = in_another_process(tmp_path, 20, 8, NUMBA_DISABLE_JIT="1")
    for key, value in here.items():
        assert there[key].dtype == value.dtype
        np.testing.assert_allclose(there[key], value, rtol=2e-5, atol=2e-5, err_msg=key)
