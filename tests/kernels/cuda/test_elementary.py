"""The elementary functions on the device have the cpu engine's bits, special numbers included."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest

from minirnn.kernels import accuracy
from minirnn.kernels.cuda import target
from minirnn.kernels.elementary import ARRAY_FUNCTIONS, FORMULAS, name_of

from .host import HostKernel, host_kernel

THREADS = 4
DTYPES = ["float32", "float64"]
ALPHA = 1.25  # of elu


def text_for(dtype: str) -> str:
    """A kernel that applies every function to each number; row after row of `out`, one a function."""
    names = {function: name_of(function, dtype) for function in FORMULAS}
    second = {"elu": f", as_{dtype}({ALPHA})", "power": ", element(y, i)"}
    lines = [
        f"        put(out, {row} * x.size + i, {name}(element(x, i){second.get(function, '')}))"
        for row, (function, name) in enumerate(names.items())
    ]
    return "\n".join(
        [
            "from minirnn.kernels.cuda.library import as_float32, as_float64, element, put",
            f"from minirnn.kernels.cuda.library import {', '.join(map(str, names.values()))}",
            "from minirnn.kernels.cuda.target import cuda",
            "",
            "@cuda.jit",
            "def apply(x, y, out):",
            f"    for i in range(cuda.threadIdx.x, x.size, {THREADS}):",
            *lines,
            "",
        ]
    )


def signature(dtype: str) -> str:
    return f"void({dtype}[::1], {dtype}[::1], {dtype}[::1])"


def sample(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that every function was measured with, and some for a second operand."""
    chunks = [next(iter(accuracy.random_chunks(function, dtype, 400))) for function in FORMULAS]
    x = np.concatenate([chunk[0] for chunk in chunks]).astype(dtype)
    y = np.concatenate([np.random.default_rng(5).permutation(chunk[-1]) for chunk in chunks]).astype(dtype)
    return x, y


def expected(function: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    more = {"elu": (ALPHA,), "power": (y,)}.get(function, ())
    return np.asarray(ARRAY_FUNCTIONS[function](x, *more))


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have equal bytes, any NaN equal to any NaN."""
    return bool(((a.view(f"u{a.itemsize}") == b.view(f"u{b.itemsize}")) | (np.isnan(a) & np.isnan(b))).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_function_has_the_bits_of_the_cpu_engine(dtype: str) -> None:
    x, y = sample(dtype)
    assert np.isnan(x).any() and np.isinf(x).any() and (x == 0).any()
    out = np.zeros(len(FORMULAS) * x.size, dtype)
    host_kernel(text_for(dtype), "apply", signature(dtype)).run(1, THREADS, x, y, out)
    for function, found in zip(FORMULAS, out.reshape(len(FORMULAS), -1), strict=True):
        assert same_bits(found, expected(function, x, y)), function


def test_a_product_in_place_of_fma_is_found() -> None:
    x, y = sample("float32")
    kernel = host_kernel(text_for("float32"), "apply", signature("float32"))
    body = kernel.compiled.modules[0]
    fma = r'call float @"llvm.fma.f32"\(float (\S+), float (\S+), float (\S+)\)'
    wrong = copy.copy(kernel.compiled)
    wrong.__dict__["modules"] = [re.sub(fma, r"fmul float \1, \2", body, count=1), *kernel.compiled.modules[1:]]
    assert wrong.modules[0] != body
    out = np.zeros(len(FORMULAS) * x.size, np.float32)
    HostKernel(wrong, kernel.names).run(1, THREADS, x, y, out)
    found = out.reshape(len(FORMULAS), -1)
    rows = [same_bits(a, expected(f, x, y)) for f, a in zip(FORMULAS, found, strict=True)]
    assert not rows[0] and all(rows[1:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_function_compiles_for_every_device(dtype: str) -> None:
    compiled = target.compiled(text_for(dtype), "apply", signature(dtype))
    for capability in ((8, 0), (9, 0), (10, 0)):
        assembly = compiled.ptx(capability)
        assert "fma.rn" in assembly and "call" not in re.sub(r"//.*", "", assembly), capability
