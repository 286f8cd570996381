"""Memory of large results that is used again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import minirnn as mr
from minirnn.kernels import recycled as room
from minirnn.kernels.recycled import LARGE, recycled

FLOAT = np.dtype("float32")
SHAPE = (LARGE // 64, 16)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(room, "_kept", {})
    yield


def place(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_that_nobody_looks_at_is_used_again() -> None:
    first = recycled(SHAPE, FLOAT)
    at = place(first)
    del first
    assert place(recycled((SHAPE[1], SHAPE[0]), FLOAT)) == at


def test_memory_that_a_view_looks_at_is_left_alone() -> None:
    first = recycled(SHAPE, FLOAT)
    first[:] = 3
    view = first.swapaxes(0, 1)[2:5, ::7]
    del first
    recycled(SHAPE, FLOAT)[:] = 4
    np.testing.assert_array_equal(view, 3)


def test_only_so_much_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MOST", 3 * LARGE)
    sizes = [LARGE + LARGE // 8 * k for k in range(5)]
    arrays = [recycled((size,), np.dtype("int8")) for size in sizes]
    while arrays:
        arrays.pop(0)
    assert [piece.size for pieces in room._kept.values() for piece in pieces] == sizes[-2:]
    room.forget()
    assert not room._kept


def test_sizes_that_differ_by_little_share_memory() -> None:
    at = place(recycled((1200, 100), FLOAT))
    for steps in (1150, 1200, 1180):
        array = recycled((steps, 100), FLOAT)
        assert place(array) == at and array.shape == (steps, 100)
        array[:] = steps
        del array
    assert place(recycled((2400, 100), FLOAT)) != at


def test_memory_that_is_too_small_is_not_used() -> None:
    recycled((1150, 100), FLOAT)
    array = recycled((1200, 100), FLOAT)
    memory = array.base.piece
    assert memory.size >= array.nbytes and place(memory) == place(array)


def test_results_of_one_call_are_not_those_of_the_next() -> None:
    def ended(scale: float) -> tuple[np.ndarray, np.ndarray]:
        xs = np.full((3, *SHAPE), scale, FLOAT)
        with mr.Tape() as tape:
            w = mr.Variable(np.full(SHAPE[1], 2.0, FLOAT))
            carry, ys = mr.scan(lambda c, x: (c + w * x, c * x), np.zeros(SHAPE, FLOAT), xs, engine="cpu")
        del tape
        return np.asarray(carry), np.asarray(ys)

    first = ended(1.0)
    kept = [x.copy() for x in first]
    second = ended(5.0)
    for x, before, after in zip(first, kept, second, strict=True):
        np.testing.assert_array_equal(x, before)
        assert not np.shares_memory(x, after)
