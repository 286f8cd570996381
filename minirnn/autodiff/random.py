"""Random numbers as a primitive: counter-based, so that no order of evaluation changes them.

A number depends on the seed, on the call it is drawn for, on the time step, on how many draws the
step made before, and on its place in the array.  Rematerialising, cutting time into pieces or
running another engine draws the same numbers again.  The generator is Philox4x32-10 (Salmon et
al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import config
from ..errors import ArgumentError, DtypeError
from .dispatch import sizes_of
from .elementwise import cast, greater_equal, multiply
from .primitive import SHARED, Primitive
from .tensor import apply, wrap

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Ten rounds of Philox4x32 on arrays of 32-bit counters held as uint64; four words each."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> _HALF) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _HALF) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _words(key: Any, draw: int) -> tuple[np.uint64, tuple[int, int]]:
    """The counter word of a call and Philox's key: the seed's two halves, the upper one mixed with the draw."""
    seed, call = int(key[0]), int(key[1])
    return np.uint64(call & 0xFFFFFFFF), (seed & 0xFFFFFFFF, (seed >> 32 ^ draw * 0x9E3779B1) & 0xFFFFFFFF)


def _uniform_forward(key: Any, step: Any, shape: Any, dtype: Any, draw: int) -> np.ndarray:
    rows, width = shape[0] if shape else 1, int(np.prod(shape[1:]))
    blocks = -(-width // 4)
    row, block = np.arange(rows)[:, None], np.arange(blocks)
    call, philox_key = _words(key, draw)
    words = np.stack(philox((block, row, np.uint64(int(step) & 0xFFFFFFFF), call), philox_key), axis=-1)
    words = words.reshape(rows, 4 * blocks)[:, :width].reshape(shape)
    # 24 bits are what a float32 holds exactly, so both dtypes get the same numbers, below 1.
    return ((words >> np.uint64(8)).astype(np.float64) * 2.0**-24).astype(dtype)


_uniform = Primitive(
    "uniform",
    _uniform_forward,
    None,
    shape=lambda primitive, operands, params: (params["shape"], np.dtype(params["dtype"])),
    form="random",
    rows=lambda classes, operands, node: SHARED,
    unified=None,
    samples=lambda rng: (
        [np.array([5, 7]), np.array(3)],
        {"shape": (3, 5), "dtype": np.dtype("float64"), "draw": 0},
    ),
)


def _derive_key_forward(key: Any, step: Any, draw: int) -> np.ndarray:
    call, philox_key = _words(key, draw)
    words = philox((0xFFFFFFFF, 0xFFFFFFFF, np.uint64(int(step) & 0xFFFFFFFF), call), philox_key)
    return np.array([int(words[0]) << 31 | int(words[1]) >> 1, int(words[2])], np.int64)


_derive_key = Primitive(
    "derive_key",
    _derive_key_forward,
    None,
    shape=lambda primitive, operands, params: ((2,), np.dtype("int64")),
    form="random",
    rows=lambda classes, operands, node: SHARED,
    unified=None,
    samples=lambda rng: ([np.array([5, 7]), np.array(3)], {"draw": 0}),
)


class _State:
    """The seed of the process and the number of calls that drew from it."""

    seed = 0
    calls = 0


class Source:
    """Where draws get their key and step from: `key` is (seed, call); each draw has its number.

    Sources of steps make their key when the first draw asks for its number, so `next_draw` comes
    before the other two are read.
    """

    def __init__(self, key: Any, step: Any) -> None:
        self.key, self.step, self.draws = key, step, 0

    def next_draw(self) -> int:
        """The number of this draw."""
        self.draws += 1
        return self.draws - 1


class _SharedOverTime(Source):
    """Draws with the key of the surrounding step and a step index that no step has."""

    def __init__(self, source: Source) -> None:
        super().__init__(None, 0xFFFFFFFF)
        self.source = source

    def next_draw(self) -> int:
        draw = self.source.next_draw()
        self.key = self.source.key
        return draw


_SOURCE: contextvars.ContextVar[Any] = contextvars.ContextVar("random_source", default=None)


@contextlib.contextmanager
def drawing_from(source: Any) -> Iterator[Any]:
    """Make draws inside the block take their key and step from `source` (scan and traces use this)."""
    token = _SOURCE.set(source)
    try:
        yield source
    finally:
        _SOURCE.reset(token)


@contextlib.contextmanager
def shared_over_time() -> Iterator[None]:
    """Draws inside the block are the same at every step of the surrounding scan."""
    source = _SOURCE.get()
    with drawing_from(None if source is None else _SharedOverTime(source)):
        yield


def current_source() -> Source | None:
    """Where draws come from inside a step; None outside of one."""
    return _SOURCE.get()


def next_key() -> Any:
    """The key of a fresh call: (seed, call number); inside a step one that is new at each step."""
    source = _SOURCE.get()
    if source is not None:
        draw = source.next_draw()
        return apply(_derive_key, source.key, source.step, draw=draw)
    _State.calls += 1
    return wrap(np.array([_State.seed, _State.calls], np.int64))


def seed(n: int) -> None:
    """Start the random numbers of the process again from seed `n` (an integer >= 0).

    >>> seed(3); a = uniform((2, 2)); seed(3); b = uniform((2, 2))
    >>> bool((a.numpy() == b.numpy()).all())
    True
    """
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or not 0 <= n < 2**63:
        raise ArgumentError("seed", got=repr(n), expected="an integer from 0 to 2**63 - 1")
    _State.seed, _State.calls = int(n), 0


def get_state() -> dict[str, int]:
    """What `set_state` needs to go on with the same numbers."""
    return {"seed": _State.seed, "calls": _State.calls}


def set_state(state: dict[str, int]) -> None:
    """Go on where `get_state` was called."""
    _State.seed, _State.calls = int(state["seed"]), int(state["calls"])


def uniform(shape: Any, dtype: Any = None) -> Any:
    """Random numbers, evenly distributed in [0, 1); axis 0 is the batch.

    >>> uniform((2, 3)).shape
    (2, 3)
    """
    source = _SOURCE.get() or Source(next_key(), 0)
    draw = source.next_draw()
    dtype = np.dtype(dtype or config.current_dtype())
    if dtype.kind != "f":
        raise DtypeError("random.uniform", got=dtype, expected="a floating dtype")
    return apply(_uniform, source.key, source.step, shape=sizes_of(shape), dtype=dtype, draw=draw)


def dropout_mask(shape: Any, rate: float, dtype: Any = None) -> Any:
    """0 with probability `rate`, else 1 / (1 - rate): what inverted dropout multiplies by."""
    dtype = np.dtype(dtype or config.current_dtype())
    if not 0.0 <= rate <= 1.0:
        raise ArgumentError("dropout rate", got=rate, expected="a number from 0 to 1")
    kept = cast(greater_equal(uniform(shape, dtype), rate), dtype)
    return multiply(kept, 1.0 / (1.0 - rate) if rate < 1.0 else 0.0)


def numpy_generator(*keys: Any) -> np.random.Generator:
    """A NumPy generator that depends on the seed and on `keys` (integers or strings) only."""
    words = [int.from_bytes(str(key).encode(), "little") if isinstance(key, str) else int(key) for key in keys]
    return np.random.default_rng([_State.seed, *words])
