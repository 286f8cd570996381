"""An axis followed through recorded nodes: what is said to act entry by entry does so, and what does not is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minirnn as mr
from minirnn import ops
from minirnn.autodiff.trace import Trace
from minirnn.layers import GRU
from minirnn.stepgraph.follow import ALL, Follower, NotEntrywise, Place

B, T, F = 3, 5, 4
LOOP = GRU(2, dtype="float64")
KERNEL = np.random.default_rng(0).normal(size=(F, 6))
Function = Callable[[Any], Any]


def place_of(f: Function, shape: tuple[int, ...], axis: int) -> Any:
    """Where an axis of the argument is in the result."""
    with Trace() as trace:
        x = trace.input(shape, "float64")
        y = f(x)
    follower = Follower()
    follower.places[id(x)] = Place(axis, shape[axis])
    follower.through(trace.nodes)
    return follower.places.get(id(y))


def joined(x: Any) -> Any:
    """(B, T, F) with batch and time as one axis and back, in the way of a wrapper."""
    rows = ops.reshape(x, (x.shape[0] * x.shape[1], x.shape[2]))
    return ops.reshape(ops.tanh(rows @ KERNEL) + rows[:, :1], (x.shape[0], x.shape[1], 6))


def over_features(x: Any) -> Any:
    """A loop over the last axis, with rows and time as its batch."""
    rows = ops.reshape(x, (x.shape[0] * x.shape[1], x.shape[2], 1))
    return ops.reshape(LOOP(rows), (*x.shape[:2], 2))


ENTRYWISE: dict[str, Function] = {
    "map": lambda x: ops.exp(-x) * 2 + ops.where(x > 0, x, 0.0),
    "broadcast": lambda x: x + np.arange(4.0) - ops.sum(x, axis=2, keepdims=True),
    "product": lambda x: x @ KERNEL,
    "batched product": lambda x: ops.contract("btf,btg->btfg", x, x * 2),
    "softmax": lambda x: ops.softmax(x, axis=-1),
    "argmax": lambda x: ops.argmax(x, axis=2),
    "reduced in front": lambda x: ops.sum(ops.transpose(x, (2, 1, 0)), axis=0).T,
    "turned": lambda x: ops.transpose(ops.tanh(ops.transpose(x, (2, 1, 0))), (2, 1, 0)),
    "reshaped": lambda x: ops.reshape(ops.reshape(x, (*x.shape[:2], 2, 2)) * 3, (*x.shape[:2], 4)),
    "new axes": lambda x: ops.expand_dims(x, (1, 3))[:, 0, :, 0],
    "split and joined": lambda x: ops.concatenate(ops.split(x, 2, axis=2)[::-1], axis=2),
    "parts of the features": lambda x: x[:, :, ::-1][..., 1:3],
    "padded features": lambda x: ops.pad(x, ((0, 0), (0, 0), (1, 2))),
    "zeros": lambda x: ops.concatenate([x, ops.zeros_like(x) * 2 + 1], axis=2),
    "repeated": lambda x: ops.broadcast_to(x[:, :, None], (x.shape[0], x.shape[1], 2, x.shape[2])),
    "looked up": lambda x: ops.take(KERNEL, ops.cast(x > 0, "int64"), axis=0),
    "taken features": lambda x: ops.take(x, np.array([2, 0]), axis=2),
    "stacked": lambda x: ops.stack([x, x], axis=3),
    "joined with the batch": joined,
    "a loop over features": over_features,
    "a convolution over features": lambda x: ops.reshape(
        ops.conv(ops.reshape(x, (x.shape[0] * x.shape[1], x.shape[2], 1)), np.ones((2, 1, 3))), (*x.shape[:2], 9)
    ),
}
REFUSED: dict[str, Function] = {
    "sum": lambda x: x - ops.mean(x, axis=1, keepdims=True),
    "sum of all": lambda x: x + ops.sum(x),
    "product over it": lambda x: ops.contract("btf,bsf->bts", x, x) @ x,
    "numbers for each": lambda x: x * np.arange(1.0, T + 1)[:, None],
    "weights for each": lambda x: ops.contract("btf,tg->btfg", x, np.ones((T, 2))),
    "joined numbers": lambda x: ops.concatenate([x, np.zeros((B, T, 1))], axis=2),
    "flipped": lambda x: x[:, ::-1],
    "one entry": lambda x: x[:, 1:2] + x,
    "doubled": lambda x: ops.concatenate([x, x], axis=1),
    "split": lambda x: ops.split(x, [2], axis=1)[0],
    "picked": lambda x: ops.take(x, np.array([0, 0, 1, 2, 3]), axis=1),
    "padded": lambda x: ops.pad(x, ((0, 0), (1, 0), (0, 0))),
    "cut into pieces": lambda x: ops.reshape(x, (x.shape[0], 4, T)),
    "different entries": lambda x: x[..., 0][:, :, None] + x[..., 0][:, None, :],
    "the loop's own axis": lambda x: mr.scan(lambda s, y: (s + y, s), np.zeros((B, F)), ops.transpose(x, (1, 0, 2)))[1],
    "a window": lambda x: ops.conv(x, np.ones((2, 4, 3))),
    "random numbers": lambda x: x * mr.random.uniform(x.shape, "float64"),
    "a convolution with it as a window": lambda x: ops.conv(ops.transpose(x, (0, 2, 1)), np.ones((2, T, 3))),
}


@pytest.mark.parametrize("kind", ENTRYWISE)
def test_entry_by_entry(kind: str) -> None:
    f, x = ENTRYWISE[kind], np.random.default_rng(1).normal(size=(B, T, F))
    place = place_of(f, x.shape, 1)
    whole = np.asarray(f(x))
    assert place == Place(1, T) and whole.shape[1] == T
    for t in range(T):
        np.testing.assert_allclose(np.asarray(f(x[:, t : t + 1])), whole[:, t : t + 1], rtol=1e-12)


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    with pytest.raises(NotEntrywise) as error:
        place_of(REFUSED[kind], (B, T, F), 1)
    assert error.value.loops == (kind == "the loop's own axis")
    assert len(error.value.reason) > 10


def test_places_of_axes_that_were_joined() -> None:
    assert place_of(lambda x: ops.reshape(x, (B, T * F)), (B, T, F), 1) == Place(1, T, inner=F)
    assert place_of(lambda x: ops.reshape(x, (B * T, F)), (B, T, F), 1) == Place(0, T)
    assert place_of(lambda x: ops.reshape(x, (B * T * F,)), (B, T, F), 1) == Place(0, T, inner=F)
    assert place_of(lambda x: ops.reshape(ops.reshape(x, (B * T * F,)), (B, T, 2, 2)), (B, T, F), 1) == Place(1, T)
    assert place_of(lambda x: ops.reshape(x, (B, 1, F)), (B, 1, 1, F), 1) == Place(1, 1)
    assert place_of(lambda x: ops.zeros((2,)) + 1, (B, T, F), 1) is None


def test_what_is_made_from_all_entries_goes_on_alone() -> None:
    with Trace() as trace:
        x, end = trace.input((B, T, F), "float64"), trace.input((B, F), "float64")
        alone = ops.tanh(end) @ KERNEL
        count = len(trace.nodes)
        x * end[:, None]
    follower = Follower()
    follower.places.update({id(x): Place(1, T), id(end): ALL})
    follower.through(trace.nodes[:count])
    assert follower.places[id(alone)] == ALL
    with pytest.raises(NotEntrywise, match="known at the end"):
        follower.through(trace.nodes[count:])


STEPS = [
    lambda x: ops.tanh(x),
    lambda x: ops.transpose(x, (0, 2, 1)),
    lambda x: ops.transpose(x, (1, 0, 2)),
    lambda x: ops.reshape(x, (x.shape[2], x.shape[0], x.shape[1])),
    lambda x: x + ops.max(x, axis=0, keepdims=True),
    lambda x: x + ops.max(x, axis=2, keepdims=True),
    lambda x: x - x[..., :1],
    lambda x: x * x[:1],
    lambda x: ops.concatenate([x, x * 2], axis=2),
    lambda x: ops.contract("abc,abd->acd", x, x),
    lambda x: ops.contract("abc,adc->abd", x, x),
]


@given(st.lists(st.integers(0, len(STEPS) - 1), min_size=1, max_size=5), st.integers(0, 2))
def test_no_entry_reaches_another_one(numbers: list[int], axis: int) -> None:
    """If a place is found, changing one entry of the argument changes that entry of the result and no other."""

    def f(x: Any) -> Any:
        for number in numbers:
            x = STEPS[number](x)
        return x

    shape = (2, 3, 4)
    try:
        place = place_of(f, shape, axis)
    except NotEntrywise:
        return
    x = np.random.default_rng(2).normal(size=shape)
    before = np.asarray(f(x))
    for entry in range(shape[axis]):
        changed = x.copy()
        changed[(slice(None),) * axis + (entry,)] += 1.0
        differs = (np.asarray(f(changed)) != before).nonzero()[place.axis]
        assert set(differs // place.inner % place.length) <= {entry}
