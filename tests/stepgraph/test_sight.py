"""Looking again at what a walk met: never content where another walk would find something else."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn.stepgraph.reach import Reach
from minirnn.stepgraph.trace import _trails


class Box:
    """A thing with attributes."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def closing_over(*contents: Any) -> Callable[..., Any]:
    return lambda carry, x: contents


LEAVES: list[Callable[[random.Random], Any]] = [
    lambda rng: rng.randrange(3),
    lambda rng: float(rng.randrange(3)),
    lambda rng: rng.choice(["a", "b"]),
    lambda rng: rng.choice([None, True, False]),
    lambda rng: np.zeros(rng.randrange(1, 3)),
    lambda rng: np.float64(rng.randrange(2)),
    lambda rng: mr.Tensor(np.zeros(rng.randrange(1, 3))),
    lambda rng: mr.Variable(np.zeros(2), trainable=rng.random() < 0.5),
    lambda rng: rng.choice([np, np.tanh, mr.ops.tanh, Box, len]),
]


def structure(rng: random.Random, depth: int, mutable: list[Any], made: list[Any]) -> Any:
    """A random thing that a step may close over; what can be changed in it goes to `mutable`."""
    if made and rng.random() < 0.15:
        return rng.choice(made)
    if depth == 0 or rng.random() < 0.3:
        thing = rng.choice(LEAVES)(rng)
    else:
        items = [structure(rng, depth - 1, mutable, made) for _ in range(rng.randrange(3))]
        kind = rng.choice(["list", "tuple", "dict", "object", "function", "set"])
        if kind == "list":
            thing = items
        elif kind == "tuple":
            thing = tuple(items)
        elif kind == "dict":
            thing = {str(i): item for i, item in enumerate(items)}
        elif kind == "object":
            thing = Box(**{f"a{i}": item for i, item in enumerate(items)})
        elif kind == "set":
            thing = {rng.randrange(3), "s"}
        else:
            thing = closing_over(*items)
        if kind not in ("tuple",):
            mutable.append(thing)
    made.append(thing)
    return thing


def changed(rng: random.Random, thing: Any, new: Any) -> None:
    """Put something new into a mutable thing, or take something away."""
    if isinstance(thing, list):
        place = rng.randrange(len(thing) + 1)
        thing[place : place + rng.randrange(2)] = [new]
    elif isinstance(thing, dict):
        thing[rng.choice(["0", "1", "new"])] = new
    elif isinstance(thing, set):
        thing.symmetric_difference_update({rng.randrange(3)})
    elif isinstance(thing, Box):
        setattr(thing, rng.choice(["a0", "a1", "new"]), new)
    elif rng.random() < 0.5:
        thing.__closure__[0].cell_contents = (new,)
    else:
        thing.__defaults__ = (new,)


@settings(max_examples=1500, deadline=None)
@given(st.integers(0, 10**9))
def test_a_second_look_agrees_with_a_second_walk(seed: int) -> None:
    rng = random.Random(seed)
    mutable: list[Any] = []
    made: list[Any] = []
    contents = [structure(rng, 3, mutable, made) for _ in range(2)]
    before = Reach(closing_over(*contents))
    assert before.sight is not None
    same = before.sight.arrays_of(closing_over(*contents))
    assert same is not None and [id(a) for a in same] == [id(a) for a in before.arrays]
    for _ in range(4):
        step = closing_over(*contents)
        if mutable and rng.random() < 0.7:
            changed(rng, rng.choice(mutable), structure(rng, 1, mutable, made))
        else:
            contents[rng.randrange(2)] = structure(rng, 2, mutable, made)
            step = closing_over(*contents)
        after = Reach(step)
        found = before.sight.arrays_of(step)
        if found is not None:
            assert after.words == before.words
            assert [id(a) for a in found] == [id(a) for a in after.arrays]


def test_other_arrays_in_the_same_places_are_found() -> None:
    weight, array = mr.Variable([1.0]), np.zeros(3)
    sight = Reach(closing_over(weight, array)).sight
    assert sight is not None
    others = mr.Variable([2.0]), np.ones(3)
    found = sight.arrays_of(closing_over(*others))
    assert found is not None and [id(a) for a in found] == [id(a) for a in others]
    for unfit in (
        (mr.Variable([1.0, 2.0]), array),
        (weight, np.zeros(4)),
        (weight, np.zeros(3, "float32")),
        (weight, 1),
    ):
        assert sight.arrays_of(closing_over(*unfit)) is None
    weight.trainable = False
    assert sight.arrays_of(closing_over(weight, array)) is None


def test_two_places_that_become_one() -> None:
    a, b = np.zeros(2), np.zeros(2)
    two, one = Reach(closing_over(a, b)).sight, Reach(closing_over(a, a)).sight
    assert two is not None and one is not None
    c = np.zeros(2)
    assert two.arrays_of(closing_over(c, a)) is not None
    assert two.arrays_of(closing_over(c, c)) is None
    assert one.arrays_of(closing_over(c, c)) is not None
    assert one.arrays_of(closing_over(c, a)) is None


@pytest.mark.parametrize(
    "name", ["units", "class", "None", "grö\u00dfe", "ﬁ", "two words", "a'\"b\\", "x", "look", "k1"]
)
def test_attributes_of_our_own_layers_by_any_name(name: str) -> None:
    layer, values = mr.layers.Dense(2), [1, np.zeros(2), mr.Variable(np.zeros(2)), [3], Box(inner=4)]
    for value in values:
        setattr(layer, name, value)
        before = Reach(closing_over(layer))
        assert before.sight is not None
        for _ in range(2):
            found = before.sight.arrays_of(closing_over(layer))
            assert found is not None and [id(a) for a in found] == [id(a) for a in before.arrays]
        vars(layer)[name] = 2
        assert before.sight.arrays_of(closing_over(layer)) is None
        delattr(layer, name)
        assert before.sight.arrays_of(closing_over(layer)) is None


def test_attributes_of_functions_come_and_go() -> None:
    def inner() -> None: ...

    bare = Reach(closing_over(inner)).sight
    inner.scale = 2.0  # type: ignore[attr-defined]
    scaled = Reach(closing_over(inner)).sight
    assert bare is not None and scaled is not None
    assert bare.arrays_of(closing_over(inner)) is None and scaled.arrays_of(closing_over(inner)) == []
    inner.scale = 3.0  # type: ignore[attr-defined]
    assert scaled.arrays_of(closing_over(inner)) is None
    del inner.scale  # type: ignore[attr-defined]
    assert bare.arrays_of(closing_over(inner)) == [] and scaled.arrays_of(closing_over(inner)) is None


def test_a_tensor_that_gets_a_mask_or_another_one() -> None:
    for array in (mr.Variable(np.zeros((2, 3))), mr.Tensor(np.zeros((2, 3)))):
        without = Reach(closing_over(array)).sight
        assert without is not None and without.arrays_of(closing_over(array)) is not None
        array.mask = mr.Tensor(np.ones((2, 3), bool))
        masked = Reach(closing_over(array)).sight
        assert without.arrays_of(closing_over(array)) is None
        assert masked is not None and len(masked.arrays_of(closing_over(array)) or ()) == 2
        array.mask = mr.Tensor(np.ones((2, 2), bool))
        assert masked.arrays_of(closing_over(array)) is None
        array.mask = None
        assert masked.arrays_of(closing_over(array)) is None


def test_what_has_gone_is_never_taken_for_something_new() -> None:
    """Addresses are given away again; a sight whose objects are gone is of no use."""

    def namespace(number: int) -> Any:
        return type("Own", (), {"number": number})

    kind = namespace(1)
    sight = Reach(closing_over(kind)).sight
    assert sight is not None and sight.arrays_of(closing_over(kind)) is not None
    del kind
    gc.collect()
    for number in range(200):
        assert sight.arrays_of(closing_over(namespace(number))) is None


def test_what_is_known_by_its_identity_alone_is_another_one_at_the_same_address() -> None:
    class Silent:
        def __trace_state__(self) -> None: ...

    thing = Silent()
    sight = Reach(closing_over(thing)).sight
    assert sight is not None and sight.arrays_of(closing_over(thing)) == []
    address = id(thing)
    del thing
    others = [Silent() for _ in range(200)]
    assert address in [*map(id, others)]
    assert all(sight.arrays_of(closing_over(other)) is None for other in others)


def test_a_variable_around_the_step_that_is_assigned_later() -> None:
    def made(late: bool) -> Callable[..., Any]:
        def step(carry: Any, x: Any) -> Any:
            return carry + (x if carry is None else number), None

        if late:
            number = 2.0
        return step

    total = mr.scan(made(True), np.zeros(1), np.ones((3, 1)))[0]
    assert total.item() == 6.0
    for _ in range(2):
        with pytest.raises(NameError):
            mr.scan(made(False), np.zeros(1), np.ones((3, 1)))
    assert mr.scan(made(True), np.zeros(1), np.ones((3, 1)))[0].item() == 6.0


def test_the_memory_of_walks_is_bounded() -> None:
    class Own:
        value = 1.0

    for _ in range(1100):
        thing = Own()
        mr.scan(lambda carry, x, thing=thing: (carry + thing.value * x, None), np.zeros(1), np.ones((2, 1)))
    objects = [Own() for _ in range(1100)]

    def run(thing: Any) -> Any:
        return mr.scan(lambda carry, x: (carry + thing.value * x, None), np.zeros(1), np.ones((2, 1)))[0].item()

    assert {run(thing) for thing in objects} == {2.0}
    assert len(_trails) <= 1024
