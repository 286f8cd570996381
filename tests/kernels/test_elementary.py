"""The elementary functions: worst errors, special numbers, the same bits everywhere; and that the checker checks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minirnn.kernels import accuracy, build, exponentials
from minirnn.kernels.elementary import ARRAY_FUNCTIONS, FORMULAS, name_of

ROOT = Path(__file__).parents[2]
DTYPES = ["float32", "float64"]
BOUND = {"float32": 1.5, "float64": 2.0}  # ulp
inf, nan = np.inf, np.nan


def sample(function: str, dtype: str) -> Iterator[tuple[Any, ...]]:
    """Special numbers, NumPy's validation inputs, random numbers; of float32 also every 9973rd there is."""
    yield from accuracy.random_chunks(function, dtype, 80_000)
    if dtype == "float32" and function != "power":
        yield from accuracy.float32_chunks(9973)


# worst errors -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", FORMULAS)
def test_no_error_exceeds_the_bound(function: str, dtype: str) -> None:
    worst = accuracy.measure(function, sample(function, dtype))
    assert 0.4 < worst.error <= BOUND[dtype], worst
    assert worst.dtype == dtype and worst.points > 80_000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["exp", "expm1", "log", "log1p", "tanh", "sin", "cos"])
def test_the_results_that_numpy_validates_with(function: str, dtype: str) -> None:
    path = Path(np.__file__).parent / "_core" / "tests" / "data" / f"umath-validation-set-{function}.csv"
    rows = [line.split(",") for line in path.read_text().splitlines() if line.startswith(f"np.{dtype},")]
    word = np.uint32 if dtype == "float32" else np.uint64
    x, expected = (np.array([int(row[i], 16) for row in rows], word).view(dtype) for i in (1, 2))
    assert x.size > 100
    found = accuracy.errors(ARRAY_FUNCTIONS[function](x), expected.astype(accuracy.WIDER[np.dtype(dtype)]))
    assert found.max() <= BOUND[dtype] + 0.5  # half an ulp is what rounding the expected results took


@pytest.mark.parametrize(
    ("x", "sine"), [(6381956970095103.0 * 2.0**797, 1.0), (1e22, -0.8522008497671888), (11.0, None)]
)
def test_the_arguments_that_are_hardest_to_reduce(x: float, sine: float | None) -> None:
    mpmath = pytest.importorskip("mpmath")
    for name in ("sin", "cos"):
        error = accuracy._error_at(name, (np.float64(x),), ARRAY_FUNCTIONS[name], nan)
        assert error < 1, mpmath.mpf(x)
    assert sine is None or ARRAY_FUNCTIONS["sin"](np.array([x]))[0] == sine


# a checker that finds nothing proves nothing ------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("function", "polynomial", "place"),
    [("exp", "exp", 0), ("expm1", "exp", 0), ("sigmoid", "exp", 0), ("tanh", "exp2", 1), ("tanh", "tanh", 0),
     ("log", "log", 0), ("log1p", "log", 0), ("softplus", "log", 0), ("elu", "exp", 0)],
)  # fmt: skip
def test_a_changed_coefficient_is_found(
    function: str, polynomial: str, place: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worst() -> float:
        points = accuracy.random_chunks(function, dtype, 40_000)
        return accuracy.measure(function, points, quiet(FORMULAS[function])).error

    width = np.dtype(dtype).itemsize * 8
    right = exponentials.FORMATS[width]
    coefficients = list(getattr(right, polynomial))
    coefficients[place] *= 1 + (4e-6 if dtype == "float32" else 1e-14)
    before = worst()
    monkeypatch.setitem(exponentials.FORMATS, width, right._replace(**{polynomial: tuple(coefficients)}))
    assert before <= BOUND[dtype] < worst()


def quiet(formula: Callable[..., Any]) -> Callable[..., Any]:
    def compute(*arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return formula(*arguments)

    return compute


def test_errors_tell_wrong_signs_and_missing_nan() -> None:
    true = np.array([0.0, -0.0, nan, 1.0, inf, 1.0, 3.5e38, 2.0**-150])
    got = np.array([-0.0, -0.0, 1.0, nan, 3.4028235e38, 1 + 2.0**-23, inf, 0], np.float32)
    assert accuracy.errors(got, true)[[0, 2, 3]].tolist() == [inf, inf, inf]
    assert accuracy.errors(got, true)[[1, 4, 5, 6, 7]].tolist() == [0, 1, 1, 0, 0.5]


def test_the_fast_comparison_is_the_slow_one() -> None:
    rng = np.random.default_rng(0)
    true = np.append(rng.integers(-(1 << 63), 1 << 63, 2000).view(np.float64), [nan, inf, 0.0])
    true[:1500] = 2.0 ** rng.uniform(-160, 130, 1500)
    with np.errstate(all="ignore"):
        got = true.astype(np.float32) * (1 + np.float32(2e-7) * rng.normal(size=true.size).astype(np.float32))
    got[:5] *= -1
    for part in range(0, true.size, 3):
        one = slice(part, part + 3)
        error, place = accuracy.worst_of_float32(got[one], true[one])
        expected = accuracy.errors(got[one], true[one])
        assert error == expected.max() == expected[place]


# special numbers ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        ("exp", [0.0, -0.0, inf, -inf, 1e30, -1e30], [1, 1, inf, 0, inf, 0]),
        ("expm1", [0.0, -0.0, inf, -inf, 1e-30, -1e30], [0.0, -0.0, inf, -1, 1e-30, -1]),
        ("log", [1.0, 0.0, -0.0, inf, -1.0, -inf], [0.0, -inf, -inf, inf, nan, nan]),
        ("log1p", [0.0, -0.0, -1.0, inf, -1.5, 1e-30], [0.0, -0.0, -inf, inf, nan, 1e-30]),
        ("tanh", [0.0, -0.0, inf, -inf, 1e-30, -40.0], [0.0, -0.0, 1, -1, 1e-30, -1]),
        ("sigmoid", [0.0, -0.0, inf, -inf, 100.0, -1e4], [0.5, 0.5, 1, 0, 1, 0]),
        ("softplus", [inf, -inf, 1e30, -1e30, 1e4], [inf, 0, 1e30, 0, 1e4]),
        ("softsign", [0.0, -0.0, inf, -inf, 1.0, 1e38], [0.0, -0.0, 1, -1, 0.5, 1]),
        ("sin", [0.0, -0.0, inf, -inf, 1e-30], [0.0, -0.0, nan, nan, 1e-30]),
        ("cos", [0.0, -0.0, inf, -inf, 1e-30], [1, 1, nan, nan, 1]),
    ],
)
def test_special_numbers(function: str, x: list[float], expected: list[float], dtype: str) -> None:
    got = ARRAY_FUNCTIONS[function](np.array([*x, nan], dtype))
    assert_same(got, np.array([*expected, nan], dtype))


def assert_same(got: Any, expected: Any) -> None:
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got) & (got == got), np.signbit(expected) & (expected == expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_numbers_in_and_out(dtype: str) -> None:
    tiny, least = np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal
    x = np.array([least, 3 * least, -tiny / 2, tiny - least], dtype)
    for function in ("expm1", "log1p", "tanh", "softsign", "sin"):
        assert_same(ARRAY_FUNCTIONS[function](x), x)
    assert_same(ARRAY_FUNCTIONS["elu"](x, 1.0), x)
    bottom = np.log(accuracy.WIDER[np.dtype(dtype)].type(least)).astype(dtype)
    for function in ("exp", "sigmoid", "softplus"):
        assert_same(ARRAY_FUNCTIONS[function](bottom + np.array([0.0, -1.0], dtype)), np.array([least, 0], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_powers_are_numpys(dtype: str) -> None:
    numbers = accuracy.special_numbers(np.dtype(dtype))
    x, y = np.meshgrid(np.append(numbers, np.array([-1.5, 7], dtype)), np.append(numbers, np.array([-1.5, 7], dtype)))
    with np.errstate(all="ignore"):
        expected = np.power(x, y)
    got = ARRAY_FUNCTIONS["power"](x, y)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    exact = ~np.isfinite(expected) | (expected == 0) | (y == 0) | (np.abs(x) == 1)
    assert exact.sum() > 500
    assert_same(got[exact], expected[exact])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha", [1.0, 0.3, 1.7, -2.0])
def test_elu_rounds_once_for_any_alpha(alpha: float, dtype: str) -> None:
    x = np.concatenate([np.random.default_rng(0).uniform(-5, 1, 100_000), [0.0, inf, -inf, nan]]).astype(dtype)
    alpha = float(np.dtype(dtype).type(alpha))
    errors = accuracy.errors(ARRAY_FUNCTIONS["elu"](x, alpha), accuracy.reference("elu", x, alpha))
    assert errors.max() <= BOUND[dtype]


# the same bits everywhere -------------------------------------------------------------------------------
DIGESTS = """
import hashlib, sys
import numpy as np
from minirnn.kernels import build
from minirnn.kernels.elementary import ARRAY_FUNCTIONS

TEXT = '''
from minirnn.kernels.elementary import *
from minirnn.kernels.lanes import LANES, load, store

@kernel
def every(x, y, out):
    for i in range(0, x.size, LANES):
        count, a = x.size - i, load(x, i, x.size - i)
        CALLS
'''
for dtype, suffix in (("float32", "f32"), ("float64", "f64")):
    word = np.dtype(dtype.replace("float", "int"))
    rng = np.random.default_rng(0)
    x = np.concatenate([
        rng.integers(np.iinfo(word).min, np.iinfo(word).max, 500, word).view(dtype),
        *(rng.uniform(-size, size, 500).astype(dtype) for size in (1, 20, 100)),
    ])
    y, out = rng.permutation(x), np.empty((len(ARRAY_FUNCTIONS), x.size), dtype)
    if build.JIT_OFF:
        for row, (name, function) in zip(out, ARRAY_FUNCTIONS.items()):
            row[...] = function(x, *{"elu": (1.3,), "power": (y,)}.get(name, ()))
    else:
        second = {"elu": ", 1.3", "power": ", load(y, i, count)"}
        calls = [f"store(out, {k} * x.size + i, {name}_{suffix}(a{second.get(name, '')}), count)"
                 for k, name in enumerate(ARRAY_FUNCTIONS)]
        text = TEXT.replace("*", ", ".join(f"{name}_{suffix}" for name in ARRAY_FUNCTIONS), 1)
        text = text.replace("CALLS", "\\n        ".join(calls))
        signature = f"void({dtype}[::1], {dtype}[::1], {dtype}[::1])"
        every = build.compiled(text, "every", label="every", signature=signature)
        every(x, y, out.reshape(-1))
    out[out != out] = 0  # any NaN equals any NaN
    for name, row in zip(ARRAY_FUNCTIONS, out):
        print(name, dtype, hashlib.sha256(row.tobytes()).hexdigest()[:16])
"""


def digests(**environment: str) -> list[str]:
    """A line for each function and dtype, from a process with another environment."""
    env = {**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", DIGESTS], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def here() -> list[str]:
    return digests()


@pytest.mark.parametrize(
    "environment",
    [
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"},
        {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
        {"NUMBA_DISABLE_JIT": "1"},
    ],
    ids=["avx2", "baseline", "without the JIT"],
)
def test_the_same_bits(environment: dict[str, str], here: list[str]) -> None:
    if "NUMBA_CPU_NAME" in environment and build.platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("not an x86-64 machine")
    assert len(here) == 2 * len(FORMULAS) and digests(**environment) == here


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["tanh", "sigmoid", "softplus", "sin"])
def test_no_lane_looks_at_another(function: str, dtype: str) -> None:
    x = np.random.default_rng(0).uniform(-9, 9, 37).astype(dtype)
    compute = ARRAY_FUNCTIONS[function]
    whole = compute(x)
    assert_same(np.concatenate([compute(x[:5]), compute(x[5:])]), whole)
    assert_same(compute(x[::-1])[::-1], whole)
    assert_same(np.array([compute(v) for v in x]), whole)


# on arrays and in kernels -------------------------------------------------------------------------------
@pytest.mark.parametrize("function", ARRAY_FUNCTIONS)
def test_arrays_of_any_layout(function: str) -> None:
    base = np.random.default_rng(0).uniform(0.1, 2, (6, 5, 4))
    more = {"elu": (0.5,), "power": (1.5,)}.get(function, ())
    compute = ARRAY_FUNCTIONS[function]
    flat = compute(base.ravel(), *more)
    for x in (base, base.T, base[::2, 1:], base[..., 2], np.asfortranarray(base), base[:0]):
        numbers = np.searchsorted(np.sort(base.ravel()), x)
        expected = flat[np.argsort(base.ravel())][numbers]
        x = x.copy(order="K")
        x.flags.writeable = False
        assert_same(compute(x, *more), expected)
    assert isinstance(compute(np.float32(0.5), *more), np.float32)


def test_other_dtypes_are_numpys() -> None:
    assert ARRAY_FUNCTIONS["tanh"](np.arange(3)).dtype == np.float64
    assert ARRAY_FUNCTIONS["exp"](1j) == np.exp(1j)
    assert ARRAY_FUNCTIONS["power"](np.arange(3), np.arange(3)).tolist() == [1, 1, 4]
    assert ARRAY_FUNCTIONS["elu"](np.array([-1 + 0j]), alpha=2.0)[0].real == pytest.approx(2 * np.expm1(-1))


def test_power_broadcasts() -> None:
    x, y = np.array([[1.5], [2.0]], np.float32), np.array([0.0, 1.0, 2.0], np.float32)
    assert ARRAY_FUNCTIONS["power"](x, y).tolist() == [[1, 1.5, 2.25], [1, 2, 4]]
    assert ARRAY_FUNCTIONS["power"](x, 2.0).dtype == np.float32


def test_kernels_call_them_on_numbers_too() -> None:
    text = """
    from minirnn.kernels.elementary import elu_f32, power_f32, sin_f32, tanh_f32
    from minirnn.kernels.lanes import load, store

    @kernel
    def some(x, out):
        store(out, 0, tanh_f32(load(x, 0, 4)), 4)
        for i in range(4):
            out[4 + i] = tanh_f32(x[i])
        store(out, 8, power_f32(2.0, load(x, 0, 4)), 4)
        out[12] = elu_f32(x[0], 0.5)
        out[13] = sin_f32(x[0])
    """
    text = "\n".join(line[4:] for line in text.splitlines())
    some = build.compiled(text, "some", label="some", signature="void(float32[::1], float32[::1])")
    x, out = np.array([-1, 0.5, 2, 3], np.float32), np.empty(14, np.float32)
    some(x, out)
    assert_same(out[:4], ARRAY_FUNCTIONS["tanh"](x))
    assert_same(out[4:8], out[:4])
    assert_same(out[8:12], ARRAY_FUNCTIONS["power"](np.float32(2), x))
    assert_same(out[12:], np.array([ARRAY_FUNCTIONS["elu"](x[0], 0.5), ARRAY_FUNCTIONS["sin"](x[0])]))


def test_names() -> None:
    assert name_of("tanh", np.dtype("float32")) == "tanh_f32" and name_of("power", "float64") == "power_f64"
    assert name_of("tanh", "int64") is None and name_of("matmul", "float32") is None


# the command --------------------------------------------------------------------------------------------
def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    accuracy.main(["--functions", "softsign", "power", "--points", "1000"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[0].startswith("| function | dtype |")
    assert lines[2].startswith("| softsign | float32 | 1.") and lines[5].startswith("| power | float64 |")
