"""Functions of one or a few numbers: what the cpu engine makes of the same numbers, and types that must not meet."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from minirnn.kernels import build, formulas

from .host import host_kernel
from .test_elementary import same_bits

inf, nan = np.inf, np.nan
SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.5, inf, -inf, nan, 3e-41, -3e-41, 2.75, 1e30, -1e30, 2147483520.0, -2147483648.0]
)
DTYPES = ["float32", "float64"]
FUNCTIONS: dict[str, Any] = {
    "maximum(x, y)": np.maximum,
    "minimum(x, y)": np.minimum,
    "absolute(x)": lambda x, y: np.abs(x),
    "negative(x)": lambda x, y: -x,
    "-x": lambda x, y: -x,
    "sqrt(x)": lambda x, y: np.sqrt(x),
    "select(x > y, x, 7)": lambda x, y: np.where(x > y, x, x.dtype.type(7)),
    "select(logical_not(x != y), y, x)": lambda x, y: np.where(~(x != y), y, x),
    "select(as_bool(x), y, x)": lambda x, y: np.where(x.astype(bool), y, x),
    "x / y": lambda x, y: x / y,
}


def run(expressions: list[str], out_dtype: str, **arrays: np.ndarray) -> list[np.ndarray]:
    """Each expression of the elements of the arrays, for all of them, on the host in place of a device."""
    count = next(iter(arrays.values())).size
    names = (
        "absolute as_bool as_float32 as_float64 as_int32 as_int64 element fma logical_not maximum minimum negative "
        "put select sqrt"
    )
    lines = [
        f"from minirnn.kernels.cuda.library import {', '.join(names.split())}",
        "from minirnn.kernels.cuda.target import cuda",
        "@cuda.jit",
        f"def apply({', '.join(f'{name}_all' for name in arrays)}, out):",
        f"    for i in range(cuda.threadIdx.x, {count}, 3):",
        *[f"        {name} = element({name}_all, i)" for name in arrays],
        *[f"        put(out, {k} * {count} + i, {text})" for k, text in enumerate(expressions)],
    ]
    types = [f"{numba.typeof(a).dtype}[::1]" for a in arrays.values()]
    kernel = host_kernel("\n".join(lines) + "\n", "apply", f"void({', '.join(types)}, {out_dtype}[::1])")
    out = np.zeros(len(expressions) * count, np.bool_ if out_dtype == "boolean" else out_dtype)
    kernel.run(1, 3, *arrays.values(), out)
    return list(out.reshape(len(expressions), -1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_of_numbers(dtype: str) -> None:
    x, y = (v.reshape(-1) for v in np.meshgrid(SPECIAL.astype(dtype), SPECIAL.astype(dtype)))
    z = np.random.default_rng(1).permutation(x)
    with np.errstate(all="ignore"):
        expected = [np.asarray(function(x, y)) for function in FUNCTIONS.values()]
    for name, found, wanted in zip(FUNCTIONS, run(list(FUNCTIONS), dtype, x=x, y=y, z=z), expected, strict=True):
        equal = (found == wanted) & (found != 0) | np.isnan(found) & np.isnan(wanted)
        # NumPy leaves open which zero is the larger one; what it compares for maximum and minimum it does not say.
        zeros = (found == 0) & (wanted == 0)
        signs = np.signbit(found) == np.signbit(wanted)
        assert (equal | zeros & (signs | ("imum" in name))).all(), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_fma_rounds_once_and_other_operations_do_not_contract(dtype: str) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 500)).astype(dtype)
    z = (-x * y).astype(dtype)
    once, twice = run(["fma(x, y, z)", "x * y + z"], dtype, x=x, y=y, z=z)
    assert (once != 0).mean() > 0.9 and (twice == 0).all()
    assert same_bits(once, formulas.fma(x, y, z))


def test_the_first_of_two_zeros_is_the_larger_one_as_on_the_cpu() -> None:
    x, y = np.array([0.0, -0.0]), np.array([-0.0, 0.0])
    for found in run(["maximum(x, y)", "minimum(x, y)"], "float64", x=x, y=y):
        assert same_bits(found, x)


def lanes(expression: str, **arrays: np.ndarray) -> np.ndarray:
    """What the cpu engine's kernels make of the same numbers."""
    names = "as_float32 as_float64 as_int32 as_int64 as_bool absolute maximum minimum load store LANES"
    out_dtype = expression.partition("(")[0][3:]
    text = "\n".join(
        [
            f"from minirnn.kernels.lanes import {', '.join(names.split())}",
            "@kernel",
            "def apply(xs, out):",
            "    for i in range(0, out.size, LANES):",
            "        x = load(xs, i, out.size - i)",
            f"        store(out, i, {expression}, out.size - i)",
        ]
    )
    out = np.zeros(arrays["x"].size, out_dtype)
    kinds = [str(numba.typeof(a).dtype) for a in (arrays["x"], out)]
    kernel = build.compiled(text + "\n", "apply", label="x", signature=f"void({kinds[0]}[::1], {kinds[1]}[::1])")
    kernel(arrays["x"], out)
    return out


CASES: dict[str, Any] = {
    "float32": SPECIAL.astype(np.float32),
    "float64": np.append(SPECIAL, [-2147483648.5, 2147483647.5, -9.3e18, 9.3e18, -9.223372036854775808e18]),
    "int32": np.array([0, 1, -1, 2**31 - 1, -(2**31), 16777217], np.int32),
    "int64": np.array([0, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1, 2**32 + 5], np.int64),
    "bool": np.array([True, False]),
}


@pytest.mark.parametrize("source", CASES)
def test_conversions_are_those_of_the_cpu_engine(source: str) -> None:
    x = CASES[source]
    for dtype in ("float32", "float64", "int32", "int64", "bool"):
        name = "boolean" if dtype == "bool" else dtype
        (found,) = run([f"as_{dtype}(x)"], name, x=x)
        with np.errstate(all="ignore"):
            wanted = x.astype(dtype)
        if source.startswith("float") and dtype.startswith("int"):
            least = np.iinfo(dtype).min
            inside = np.isfinite(x) & (x >= least) & (x < -float(least))
            wanted = np.where(inside, np.where(inside, x, 0).astype(dtype), least)
        np.testing.assert_array_equal(found, wanted, err_msg=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("source", CASES)
def test_the_cpu_engine_converts_so(source: str) -> None:
    x = CASES[source]
    for dtype in ("float32", "float64", "int32", "int64", "bool"):
        (found,) = run([f"as_{dtype}(x)"], "boolean" if dtype == "bool" else dtype, x=x)
        np.testing.assert_array_equal(found, lanes(f"as_{dtype}(x)", x=x), err_msg=dtype)


def test_whole_numbers_and_booleans() -> None:
    x, y = np.array([3, -7, 0, 2**31 - 1], np.int32), np.array([-3, -7, 5, 1], np.int32)
    found = run(["maximum(x, y)", "minimum(x, 2)", "absolute(x)", "negative(y)", "as_int32(x + y)"], "int32", x=x, y=y)
    wanted = [np.maximum(x, y), np.minimum(x, 2), np.abs(x), -y, x + y]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    found = run(["a & b", "a | b", "logical_not(a)", "select(a, b, logical_not(b))"], "boolean", a=a, b=b)
    for made, wanted_of in zip(found, [a & b, a | b, ~a, np.where(a, b, ~b)], strict=True):
        np.testing.assert_array_equal(made, wanted_of)


@pytest.mark.parametrize("expression", ["maximum(x, y)", "select(x > 0, x, 0.5)", "fma(x, x, 1.0)", "sqrt(3)"])
def test_numbers_of_different_dtypes_are_refused(expression: str) -> None:
    with pytest.raises(Exception, match="No implementation of function"):
        run([expression], "float32", x=np.ones(1, np.float32), y=np.ones(1))
    with pytest.raises(Exception, match="No implementation of function"):
        run(["x + y"], "float32", x=np.ones(1, np.float32), y=np.ones(1))  # `put` of a float64
