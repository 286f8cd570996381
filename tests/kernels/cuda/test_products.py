"""Sums, maxima and products on the device: the cpu engine's bits, at every size and in every order of threads."""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any

import numpy as np
import pytest

from minirnn.kernels import matmul
from minirnn.kernels.cuda import products, target
from minirnn.kernels.cuda.tiles import TILE_THREADS, tile_count

from . import assembly
from .host import KernelError, host_kernel
from .test_elementary import same_bits

DTYPES = ["float32", "float64"]
DEPTHS = [0, 1, 63, 64, 65, 150]


def rng_of(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(rng: np.random.Generator, shape: Any, dtype: str) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


# one element a thread ------------------------------------------------------------------------------------
ELEMENTS = """
from minirnn.kernels.cuda.library import argmax_chain, chain_element, max_chain, product_element, put, sum_chain
from minirnn.kernels.cuda.target import cuda


@cuda.jit
def products(a, b, out, inner, columns):
    n = cuda.threadIdx.x
    put(out, n, product_element(a, 2, 3, b, n, columns, inner))
    put(out, columns + n, chain_element(a, 2, 3, b, n, columns, inner))
    put(out, 2 * columns + n, sum_chain(b, n, columns, inner))


@cuda.jit
def maxima(b, out, places, inner, columns):
    n = cuda.threadIdx.x
    put(out, n, max_chain(b, n, columns, inner))
    put(places, n, argmax_chain(b, n, columns, inner))
"""


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a (R, K) times b (K, C) as the cpu engine has it."""
    found: np.ndarray = matmul.matmul(a[None], b[None])[0]
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_and_products_of_every_depth(dtype: str) -> None:
    kernel = host_kernel(ELEMENTS, "products", f"void({dtype}[::1], {dtype}[::1], {dtype}[::1], int64, int64)")
    columns = 5
    for inner in DEPTHS:
        rng = rng_of(1, inner)
        a, b = normal(rng, 3 * inner + 2, dtype), normal(rng, (inner, columns), dtype)
        out = np.full(3 * columns, np.nan, dtype)
        kernel.run(1, columns, a, b.reshape(-1), out, inner, columns)
        made, chained, summed = out.reshape(3, columns)
        wanted = product(a[2::3][None], b)[0]
        assert same_bits(made, wanted), inner
        assert same_bits(chained, wanted if inner else -wanted), inner
        assert same_bits(summed, matmul.sum_over(b, (0,), False)), inner


def test_a_sum_in_another_order_is_found() -> None:
    inner, columns = 150, 5
    a, b = normal(rng_of(1), 3 * inner + 2, "float32"), normal(rng_of(2), (inner, columns), "float32")
    wanted = product(a[2::3][None], b)[0]
    for block in (1, 32, 100):
        blocks = [product(a[2::3][None, k : k + block], b[k : k + block])[0] for k in range(0, inner, block)]
        assert not same_bits(np.asarray(np.sum(blocks, axis=0, dtype=np.float32)), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_maxima(dtype: str) -> None:
    kernel = host_kernel(ELEMENTS, "maxima", f"void({dtype}[::1], {dtype}[::1], int64[::1], int64, int64)")
    for inner in (1, 2, 70):
        b = rng_of(3, inner).integers(-3, 3, (inner, 8)).astype(dtype)  # with equal ones
        b[:, 1] = -np.inf
        b[0, 2], b[-1, 3], b[inner // 2, 4], b[-1, 5], b[:, 6] = np.nan, np.nan, np.nan, np.inf, np.nan
        out, places = np.zeros(8, dtype), np.zeros(8, np.int64)
        kernel.run(1, 8, b.reshape(-1), out, places, inner, 8)
        assert same_bits(out, np.max(b, axis=0))
        np.testing.assert_array_equal(places, np.argmax(b, axis=0))


# weights in registers ------------------------------------------------------------------------------------
HELD = """
from numba import float32, float64
from minirnn.kernels.cuda.library import {chain}, element, hold, put, sum_of_blocks
from minirnn.kernels.cuda.target import cuda


@cuda.jit
def held(a, weights, out, rows, columns):
    x = cuda.shared.array({most}, {dtype}, 16)
    sums = cuda.shared.array({blocks} * {threads}, {dtype})
    n = cuda.threadIdx.x
    mine = hold(weights, n, columns, {inner} if n < columns else 0, {most})
    for r in range(rows):
        for k in range(n, {inner}, {threads}):
            put(x, k, element(a, r * {inner} + k))
        cuda.syncthreads()
{chains}
        if n < columns:
            put(out, r * columns + n, sum_of_blocks(sums, n, {threads}, {blocks}))
        cuda.syncthreads()
"""


def held_text(inner: int, dtype: str, chain: str, threads: int, most: int | None = None) -> str:
    blocks = [(first, min(64, inner - first)) for first in range(0, inner, 64)]
    lines = [
        f"        put(sums, {q * threads} + n, {chain}(mine, {first}, {count}, x, {first}, 1))"
        for q, (first, count) in enumerate(blocks)
    ]
    return HELD.format(
        inner=inner, dtype=dtype, chain=chain, threads=threads, most=most or inner, blocks=len(blocks),
        chains="\n".join(lines),
    )  # fmt: skip


def held_signature(dtype: str) -> str:
    return f"void({dtype}[::1], {dtype}[::1], {dtype}[::1], int64, int64)"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chain", ["chain", "chain_aligned"])
@pytest.mark.parametrize(("inner", "columns", "most"), [(1, 3, 2), (71, 6, 80), (130, 8, 130)])
def test_products_with_held_weights(inner: int, columns: int, most: int, chain: str, dtype: str) -> None:
    kernel = host_kernel(held_text(inner, dtype, chain, 8, most), "held", held_signature(dtype), 8)
    rng = rng_of(4, inner)
    a, b = normal(rng, (3, inner), dtype), normal(rng, (inner, columns), dtype)
    a[1, inner // 2], a[2, 0] = np.inf, -0.0
    for seed in (0, 1):
        out = np.full((3, columns), np.nan, dtype)
        kernel.run(1, 8, a.reshape(-1), b.reshape(-1), out.reshape(-1), 3, columns, seed=seed)
        assert same_bits(out, product(a, b))


@pytest.mark.parametrize(
    "wrong", ["hold(weights, n, columns, 64, rows)", "chain(mine, 60, 10, x, 0, 1)", "chain(mine, 0, n, x, 0, 1)"]
)
def test_what_is_held_is_known_while_compiling(wrong: str) -> None:
    text = held_text(64, "float32", "chain", 8).replace("    for r in", f"    unused = {wrong}\n    for r in", 1)
    with pytest.raises(Exception, match="No implementation of function"):
        target.compiled(text, "held", held_signature("float32"))


# large products -------------------------------------------------------------------------------------------
TILES = """
from numba import float32, float64
from minirnn.kernels.cuda.library import TILE_SHARED, tile_count, tiled_product
from minirnn.kernels.cuda.target import cuda


@cuda.jit
def tiles(a, a_row, a_step, b, b_row, b_column, out, out_row, rows, inner, columns):
    shared = cuda.shared.array(TILE_SHARED, {dtype}, 16)
    for tile in range(cuda.blockIdx.x, tile_count(rows, columns), cuda.gridDim.x):
        tiled_product(
            tile, a, 1, a_row, a_step, b, 2, b_row, b_column, out, 3, out_row, rows, inner, columns, shared
        )
"""


def tiles_signature(dtype: str) -> str:
    array, number = f"{dtype}[::1]", "int64"
    return f"void({array}, {number}, {number}, {array}, {number}, {number}, {array}{f', {number}' * 4})"


def tiled(
    rows: int, inner: int, columns: int, dtype: str, transposed: tuple[bool, bool], blocks: int = 2, seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """A product by tiles, and what the cpu engine makes of it."""
    text = TILES.format(dtype=dtype)
    kernel = host_kernel(text, "tiles", tiles_signature(dtype), TILE_THREADS)
    rng = rng_of(5, rows, inner, columns)
    a, b = normal(rng, (rows, inner), dtype), normal(rng, (inner, columns), dtype)
    a_flat = (a.T if transposed[0] else a).reshape(-1)
    b_flat = (b.T if transposed[1] else b).reshape(-1)
    a_row, a_step = (1, rows) if transposed[0] else (inner, 1)
    b_row, b_column = (1, inner) if transposed[1] else (columns, 1)
    out = np.full(3 + rows * (columns + 2), 7, dtype)
    kernel.run(
        blocks, TILE_THREADS, np.append(dtype_nan(dtype, 1), a_flat), a_row, a_step,
        np.append(dtype_nan(dtype, 2), b_flat), b_row, b_column, out, columns + 2, rows, inner, columns, seed=seed,
    )  # fmt: skip
    made = out[3:].reshape(rows, columns + 2)
    assert (out[:3] == 7).all() and (made[:, columns:] == 7).all()
    return made[:, :columns].copy(), product(a, b)


def dtype_nan(dtype: str, count: int) -> np.ndarray:
    return np.full(count, np.nan, dtype)


@pytest.mark.parametrize(
    ("rows", "inner", "columns", "transposed", "dtype"),
    [
        (5, 3, 9, (False, False), "float32"),
        (70, 97, 65, (False, False), "float32"),
        (66, 150, 70, (True, False), "float64"),
        (67, 64, 3, (False, True), "float32"),
        (1, 33, 130, (True, True), "float64"),
        (3, 0, 4, (False, False), "float64"),
    ],
)
def test_tiles_have_the_bits_of_the_cpu_engine(
    rows: int, inner: int, columns: int, transposed: tuple[bool, bool], dtype: str
) -> None:
    made, wanted = tiled(rows, inner, columns, dtype, transposed, seed=rows)
    assert same_bits(made, wanted)


def test_how_many_tiles_there_are() -> None:
    assert [tile_count(r, c) for r, c in ((1, 1), (64, 64), (65, 64), (130, 200), (0, 5))] == [1, 1, 2, 12, 0]


@pytest.mark.parametrize("barrier", [0, 1])
def test_a_barrier_less_is_found(barrier: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = inspect.getsource(products)
    parts = source.split("cuda.syncthreads()")
    assert len(parts) == 3
    between = ["cuda.syncthreads()", "cuda.syncthreads()"]
    between[barrier] = "pass"
    changed = parts[0] + between[0] + parts[1] + between[1] + parts[2]
    module = types.ModuleType(f"{products.__package__}.products_{barrier}")
    module.__package__ = products.__package__
    exec(compile(changed, module.__name__, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    text = TILES.format(dtype="float32") + "\n"
    text = text.replace("@cuda.jit", f"from {module.__name__} import tiled_product\n\n\n@cuda.jit", 1)
    kernel = host_kernel(text, "tiles", tiles_signature("float32"), TILE_THREADS)
    a, b, out = np.ones(1 + 64 * 70, np.float32), np.ones(2 + 70 * 64, np.float32), np.zeros(3 + 64 * 64, np.float32)
    with pytest.raises(KernelError, match="no barrier is between them|nothing has written"):
        kernel.run(1, TILE_THREADS, a, 70, 1, b, 64, 1, out, 64, 64, 70, 64)


# Registers for sm_80, sm_90 and sm_100, as measured; a few more are no reason to worry, spills are.
REGISTERS = {
    (64, "float32"): (105, 110, 95),
    (96, "float32"): (158, 158, 127),
    (128, "float32"): (170, 172, 160),
    (192, "float32"): (238, 234, 218),
    (64, "float64"): (172, 175, 158),
    (96, "float64"): (248, 244, 222),
}


@pytest.mark.parametrize(("most", "dtype"), [(192, "float32"), (64, "float64")])
def test_weights_stay_in_registers(most: int, dtype: str) -> None:
    check_registers(most, dtype, "chain")


@pytest.mark.slow
@pytest.mark.parametrize("chain", ["chain", "chain_aligned"])
@pytest.mark.parametrize(("most", "dtype"), REGISTERS)
def test_as_many_weights_as_there_may_be(most: int, dtype: str, chain: str) -> None:
    check_registers(most, dtype, chain)


def check_registers(most: int, dtype: str, chain: str) -> None:
    text = held_text(most, dtype, chain, 256).replace("n, columns,", "n, 192,")  # a number, as in printed kernels
    kernel = target.compiled(text, "held", held_signature(dtype), 256)
    for capability, registers in zip(assembly.CAPABILITIES, REGISTERS[most, dtype], strict=True):
        figures = assembly.figures(kernel, capability)
        assert figures.spills == 0 and figures.registers <= registers + 8, (capability, figures)
    # Each weight is read from memory by one instruction, and used by one; the rest reads what is multiplied.
    ptx = kernel.ptx((9, 0))
    assert most < ptx.count("ld.global") <= most + 8 and ptx.count("fma.rn") == most
    assert "ld.local" not in ptx and "ld.shared.v" in ptx
