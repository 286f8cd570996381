"""How exact the elementary functions are: `python -m minirnn.kernels.accuracy` prints the table of worst errors.

An error is measured in ulp, the distance of two neighbouring numbers of the dtype at the true value.  float32
results are compared with float64 ones; --exhaustive takes all 2^32 inputs (power: pairs of some).  float64
results are compared with long double ones at random numbers of all exponents, in the ranges where something
happens, and at the inputs of NumPy's own validation sets; the worst of them are computed again by mpmath.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import heapq
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import build
from .elementary import ARRAY_FUNCTIONS, FORMULAS

Compute = Callable[..., Any]
Arguments = tuple[Any, ...]

WIDER: dict[Any, Any] = {np.dtype("float32"): np.dtype("float64"), np.dtype("float64"): np.dtype("longdouble")}
MORE_ARGUMENTS = {"elu": (1.0,)}
_CHUNK = 1 << 17
_CHECKED_AGAIN = 200  # of the worst errors of a function
# Where a function of float64 (and of float32, about) neither overflows nor is constant, besides small numbers:
_RANGES = {
    "exp": (-746, 710), "expm1": (-40, 710), "log": (0, 4), "log1p": (-1, 4), "tanh": (-20, 20),
    "sigmoid": (-746, 40), "softplus": (-746, 40), "elu": (-40, 2), "softsign": (-50, 50), "sin": (-100, 100),
    "cos": (-100, 100), "power": (-50, 50),
}  # fmt: skip


class Worst(NamedTuple):
    """A function's worst error."""

    function: str
    dtype: str
    error: float  # ulp
    at: tuple[float, ...]
    points: int


# errors ------------------------------------------------------------------------------------------
def _softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _softsign(x: Any) -> Any:
    return np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x)))


_FORMULAS_OF_NUMPY: dict[str, Compute] = {
    **{name: getattr(np, name) for name in ("exp", "expm1", "log", "log1p", "tanh", "sin", "cos", "power")},
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": _softplus,
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.where(x > 0, 0, x))),
    "softsign": _softsign,
}


def reference(function: str, *arguments: Any) -> Any:
    """The function in the next wider dtype."""
    wider = WIDER[arguments[0].dtype]
    with np.errstate(all="ignore"):
        return _FORMULAS_OF_NUMPY[function](*(v.astype(wider) if isinstance(v, np.ndarray) else v for v in arguments))


def ulp(true: Any, dtype: Any) -> Any:
    """The distance of two neighbours of a dtype at numbers of the wider one, those that overflow included."""
    limits = np.finfo(dtype)
    if true.dtype == np.float64:
        powers = (true.view(np.int64) & 0x7FF0000000000000).view(np.float64)
    else:
        powers = np.ldexp(true.dtype.type(1), np.frexp(true)[1] - 1)
    return np.clip(powers, 2.0**limits.minexp, 2.0 ** (limits.maxexp - 1)) * limits.eps


def errors(got: Any, true: Any) -> Any:
    """Errors in ulp; infinite where only one of both is NaN or the signs differ."""
    beyond = true.dtype.type(2) ** np.finfo(got.dtype).maxexp  # what infinity stands for
    with np.errstate(all="ignore"):
        bounded = np.clip(true, -beyond, beyond)
        found = np.abs(np.clip(got.astype(true.dtype), -beyond, beyond) - bounded) / ulp(bounded, got.dtype)
        found[(np.signbit(got) != np.signbit(true)) | (got != got)] = np.inf
    nan = np.isnan(true)
    if nan.any():
        found[nan] = np.where(np.isnan(got[nan]), 0, np.inf)
    return found.astype(np.float64)


# What `errors` does for float32, in one pass and for the worst alone, because 2^32 inputs take their time.
_WORST = """
@kernel
def worst_of(got, true, true_bits, ulps_in_one, beyond):
    worst, place = -1.0, 0
    for i in range(got.size):
        value, expected = float(got[i]), true[i]
        if expected != expected or value != value:
            error = 0.0 if expected != expected and value != value else np.inf
        elif (true_bits[i] < 0) != (math.copysign(1.0, value) < 0):
            error = np.inf
        else:
            expected, value = min(max(expected, -beyond), beyond), min(max(value, -beyond), beyond)
            error = abs(value - expected) * ulps_in_one[true_bits[i] >> 52 & 2047]
        if error > worst:
            worst, place = error, i
    return worst, place
"""


@functools.cache
def _ulps_in_one() -> Any:
    """1 / ulp of float32 for each exponent of a float64."""
    return 1 / ulp(np.ldexp(1.0, np.clip(np.arange(2048) - 1023, -1022, 1023)), np.float32)


def worst_of_float32(got: Any, true: Any) -> tuple[float, int]:
    """The largest of `errors` and where it is."""
    signature = "(float32[::1], float64[::1], int64[::1], float64[::1], float64)"
    text = "import math\nimport numpy as np\n" + _WORST
    worst_of = build.compiled(text, "worst_of", label="the comparison", signature=signature)
    return worst_of(got, true, true.view(np.int64), _ulps_in_one(), 2.0**128)


def _error_at(function: str, arguments: Arguments, compute: Compute, found: float) -> float:
    """The error at one point against mpmath; what was found, without mpmath or where a number is not finite."""
    try:
        import mpmath
    except ImportError:
        return found
    exact: dict[str, Compute] = {
        "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
        "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
        "elu": lambda x, alpha: x if x > 0 else alpha * mpmath.expm1(x),
        "softsign": lambda x: x / (1 + abs(x)),
    }
    got = compute(*(np.array([v]) if isinstance(v, np.generic) else v for v in arguments))[0]
    if not all(map(np.isfinite, (*arguments, got))):
        return found
    with mpmath.workprec(1300):  # 1200 for the arguments of sin
        true = (exact[function] if function in exact else getattr(mpmath, function))(
            *map(mpmath.mpf, map(float, arguments))
        )
        rounded = np.array([float(true)]).astype(WIDER[got.dtype])
        return float(abs(mpmath.mpf(float(got)) - true) / mpmath.mpf(float(ulp(rounded, got.dtype)[0])))


def measure(function: str, chunks: Iterable[Arguments], compute: Compute | None = None, threads: int = 1) -> Worst:
    """The worst error over chunks of arguments, of this engine's function or of another that is given.

    >>> measure("tanh", [(np.linspace(-9, 9, 1000, dtype="float32"),)]).error < 1.5
    True
    """
    compute = compute or ARRAY_FUNCTIONS[function]
    more = MORE_ARGUMENTS.get(function, ())

    def of_chunk(arguments: Arguments) -> tuple[int, str, list[tuple[float, Arguments]]]:
        got = compute(*arguments, *more)
        true = reference(function, *arguments, *more)
        if got.dtype == np.float32:
            error, i = worst_of_float32(got, true)
            return got.size, got.dtype.name, [(error, tuple(v[i] for v in arguments))]
        found, few = errors(got, true), _CHECKED_AGAIN
        places = np.argpartition(found, -few)[-few:].tolist() if found.size > few else range(found.size)
        return found.size, got.dtype.name, [(float(found[i]), tuple(v[i] for v in arguments)) for i in places]

    points, dtype, worst = 0, "", [(0.0, ())]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for count, name, found in _in_turn(pool, of_chunk, chunks, 2 * threads):
            points, dtype = points + count, name
            worst = heapq.nlargest(_CHECKED_AGAIN, [*worst, *found], key=lambda pair: pair[0])
    if dtype == "float64":
        worst = [(_error_at(function, (*at, *more), compute, error), at) for error, at in worst if at] or worst
    error, at = max(worst, key=lambda pair: pair[0])
    return Worst(function, dtype, error, tuple(map(float, at)), points)


def _in_turn(pool: Any, function: Compute, items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Results in order, a few items worked on at a time."""
    waiting: list[Any] = []
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.pop(0).result()
    yield from (future.result() for future in waiting)


# points ------------------------------------------------------------------------------------------
def float32_chunks(step: int = 1, progress: str = "") -> Iterator[tuple[Any]]:
    """Every step-th of the 2^32 float32 numbers."""
    start, total = time.monotonic(), 1 << 32
    for i in range(0, total, _CHUNK * step):
        numbers = np.arange(i, min(i + _CHUNK * step, total), step, dtype=np.int64)
        yield (numbers.astype(np.uint32).view(np.float32),)
        if progress and i % (1 << 26) == 0 and sys.stderr.isatty():
            seconds = time.monotonic() - start
            print(f"\r{progress}: {100 * i / total:.1f} %, {seconds:.0f} s", end="", file=sys.stderr)
    if progress and sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)


@functools.cache
def validation_inputs(dtype: str) -> Any:
    """The inputs of NumPy's umath-validation-set files, which its installation brings along."""
    folder = Path(np.__file__).parent / "_core" / "tests" / "data"
    found = [np.array([], dtype)]
    for path in sorted(folder.glob("umath-validation-set-*.csv")):
        for line in path.read_text().splitlines():
            kind, number, *_ = [*line.split(","), ""]
            if kind.strip() == f"np.{dtype}":
                word = np.array([int(number, 16)], np.uint32 if dtype == "float32" else np.uint64)
                found.append(word.view(dtype))
    return np.concatenate(found)


def special_numbers(dtype: Any) -> Any:
    """Zeros, infinities, NaN, the ends of the subnormal and normal numbers, numbers beside 1 and powers of two."""
    limits = np.finfo(dtype)
    ends = [0.0, 1.0, 0.5, 2.0, 3.0, np.inf, np.nan, limits.max, limits.tiny, limits.smallest_subnormal]
    values = np.array([*ends, 1 + limits.eps, 1 - limits.epsneg, 2.0**limits.nmant, 2.0**limits.nmant + 1], dtype)
    return np.concatenate([values, -values])


def random_chunks(function: str, dtype: Any, count: int, seed: int = 0) -> Iterator[Arguments]:
    """About `count` random arguments, and all special ones first."""
    dtype, rng = np.dtype(dtype), np.random.default_rng(seed)
    special = np.concatenate([special_numbers(dtype), validation_inputs(dtype.name)])
    if function == "power":
        few = special_numbers(dtype)
        yield tuple(v.ravel() for v in np.meshgrid(few, few))
        yield special, rng.permutation(special)
    else:
        yield (special,)
    size = min(_CHUNK, -(-count // 8))
    for _ in range(-(-count // (8 * size))):
        yield from _random_parts(function, dtype, size, rng)


def _random_parts(function: str, dtype: Any, size: int, rng: Any) -> Iterator[Arguments]:
    """Eight chunks: all bit patterns, the function's range, small numbers, numbers around 1."""
    bits, (low, high) = np.dtype(f"i{dtype.itemsize}"), _RANGES[function]
    largest, log_max = np.iinfo(bits), np.log(float(np.finfo(dtype).max))

    def patterns() -> Any:
        return rng.integers(largest.min, largest.max, size, bits, endpoint=True).view(dtype)

    parts = [
        patterns(),
        patterns(),
        rng.uniform(low, high, size).astype(dtype),
        rng.uniform(max(low, -4), min(high, 4), size).astype(dtype),
        rng.uniform(-1, 1, size).astype(dtype),
        (2.0 ** rng.uniform(-60, 5, size) * rng.choice([-1, 1], size)).astype(dtype),
        (1 + rng.normal(size=size) * 0.3).astype(dtype),
        (1 + rng.normal(size=size) * 1e-3).astype(dtype),
    ]
    for x in parts:
        if function == "power":
            with np.errstate(all="ignore"):  # exponents for which no power overflows, and whole ones
                exponent = rng.uniform(-1.05, 1.05, size) * log_max / np.log(np.abs(x.astype(np.float64)))
                exponent[::5] = np.rint(exponent[::5])
                yield x, exponent.astype(dtype)
        else:
            yield (x,)


# the command -------------------------------------------------------------------------------------
def table(rows: Iterable[Worst]) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| function | dtype | worst error (ulp) | at | points |"
    yield "|---|---|---|---|---|"
    for row in rows:
        at = ", ".join(str(np.dtype(row.dtype).type(v)) for v in row.at)
        points = "all 2^32" if row.points == 1 << 32 else f"{row.points:,}"
        yield f"| {row.function} | {row.dtype} | {row.error:.3f} | {at} | {points} |"


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m minirnn.kernels.accuracy", description=__doc__)
    parser.add_argument("--exhaustive", action="store_true", help="float32: all inputs instead of every 997th")
    parser.add_argument("--functions", nargs="+", default=list(FORMULAS), choices=list(FORMULAS), metavar="NAME")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    parser.add_argument("--points", type=int, default=10_000_000, help="random points of float64 and of power")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(argv)

    def rows() -> Iterator[Worst]:
        for dtype in given.dtypes:
            for name in given.functions:
                if dtype == "float32" and name != "power":
                    chunks: Iterable[Arguments] = float32_chunks(1 if given.exhaustive else 997, name)
                else:
                    chunks = random_chunks(name, dtype, given.points)
                yield measure(name, chunks, threads=given.threads)

    for line in table(rows()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
