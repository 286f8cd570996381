"""Random numbers: the generator's published vectors, and what they do and do not depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.autodiff import random
from minirnn.autodiff.tensor import Tensor
from minirnn.autodiff.trace import Trace
from minirnn.errors import ArgumentError, DtypeError

# Known answers of Philox4x32-10 (Random123, kat_vectors): counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_known_answers(counter: str, key: str, result: str) -> None:
    k0, k1 = words(key)
    c0, c1, c2, c3 = words(counter)
    assert [int(w) for w in random.philox((c0, c1, c2, c3), (k0, k1))] == words(result)


def test_philox_on_arrays_is_philox_on_each() -> None:
    rows = np.arange(3)[:, None]
    together = random.philox((np.arange(5), rows, 7, 9), (1, 2))
    one = random.philox((4, 2, 7, 9), (1, 2))
    assert [w[2, 4] for w in together] == [int(w) for w in one]


def test_the_seed_repeats_the_numbers() -> None:
    mr.seed(5)
    first = [random.uniform((3, 4)).numpy() for _ in range(2)]
    mr.seed(5)
    np.testing.assert_array_equal(random.uniform((3, 4)), first[0])
    state = random.get_state()
    np.testing.assert_array_equal(random.uniform((3, 4)), first[1])
    random.set_state(state)
    np.testing.assert_array_equal(random.uniform((3, 4)), first[1])
    assert not (first[0] == first[1]).any()
    for other in (6, 5 + 2**32, 2**63 - 1):
        mr.seed(other)
        assert not (random.uniform((3, 4)).numpy() == first[0]).any()


def test_a_row_does_not_depend_on_the_batch() -> None:
    draws = []
    for rows in (1, 3, 8):
        mr.seed(2)
        draws.append(random.uniform((rows, 5, 3)).numpy())
    for few in draws[:2]:
        np.testing.assert_array_equal(draws[2][: len(few)], few)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0), (1,), (7,), (2, 3), (3, 2, 5), 4])
def test_shapes(shape: Any) -> None:
    got = random.uniform(shape, "float64")
    assert got.shape == ((shape,) if isinstance(shape, int) else shape)
    assert (np.asarray(got) >= 0).all() and (np.asarray(got) < 1).all()


def test_uniform_is_uniform() -> None:
    x = random.uniform((200, 500), "float64").numpy()
    assert abs(x.mean() - 0.5) < 4 / np.sqrt(12 * x.size)
    counts = np.histogram(x, 50, (0, 1))[0]
    assert (abs(counts - x.size / 50) < 5 * np.sqrt(x.size / 50)).all()
    for shifted in (x[1:], x[:, 1:]):
        pair = np.corrcoef(x[: len(shifted), : shifted.shape[1]].ravel(), shifted.ravel())[0, 1]
        assert abs(pair) < 5 / np.sqrt(x.size)
    assert np.unique(x).size > 0.98 * x.size


def test_both_dtypes_hold_the_same_numbers() -> None:
    mr.seed(1)
    wide = random.uniform((4, 5), "float64")
    mr.seed(1)
    narrow = random.uniform((4, 5), "float32")
    np.testing.assert_array_equal(wide, narrow)
    assert random.uniform((2,)).dtype == np.float32


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
def test_dropout_masks_keep_the_mean(rate: float) -> None:
    mask = random.dropout_mask((300, 300), rate, "float64").numpy()
    assert abs(mask.mean() - 1) < 5 * np.sqrt(rate / (1 - rate) / mask.size) + 1e-12
    assert set(np.unique(mask)) <= {0.0, 1 / (1 - rate)}


def test_dropout_of_all_is_zero() -> None:
    assert random.dropout_mask((3, 3), 1.0).numpy().tolist() == np.zeros((3, 3)).tolist()


def test_numpy_generators_depend_on_seed_and_keys() -> None:
    def draw(*keys: Any) -> float:
        return float(random.numpy_generator(*keys).random())

    mr.seed(3)
    drawn = [draw(), draw("kernel"), draw("kernel", 1), draw("kernel", 2), draw(1, "kernel")]
    random.uniform((2,))
    assert [draw(), draw("kernel"), draw("kernel", 1), draw("kernel", 2), draw(1, "kernel")] == drawn
    mr.seed(4)
    assert len({*drawn, draw("kernel")}) == 6


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: mr.seed(-1), ArgumentError),
        (lambda: mr.seed(1.5), ArgumentError),  # type: ignore[arg-type]
        (lambda: mr.seed(True), ArgumentError),
        (lambda: mr.seed(2**63), ArgumentError),
        (lambda: random.dropout_mask((2,), 1.5), ArgumentError),
        (lambda: random.dropout_mask((2,), float("nan")), ArgumentError),
        (lambda: random.uniform((2,), "int64"), DtypeError),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        call()


# inside a step -----------------------------------------------------------------------------------------
def step_draws(key: Any, step: int, count: int) -> list[np.ndarray]:
    with random.drawing_from(random.Source(key, step)):
        return [random.uniform((2, 3)).numpy() for _ in range(count)]


def test_draws_in_a_step_depend_on_call_step_and_place() -> None:
    key, other = random.next_key(), random.next_key()
    a, b = step_draws(key, 0, 2)
    np.testing.assert_array_equal(step_draws(key, 0, 2)[1], b)
    assert not (a == b).any()
    assert not (a == step_draws(key, 1, 1)[0]).any()
    assert not (a == step_draws(other, 0, 1)[0]).any()


def test_draws_shared_over_time() -> None:
    def draws(step: int) -> list[np.ndarray]:
        with random.drawing_from(random.Source(key, step)):
            own = random.uniform((2, 3)).numpy()
            with random.shared_over_time():
                shared = [random.uniform((2, 3)).numpy() for _ in range(2)]
            return [own, *shared, random.uniform((2, 3)).numpy()]

    key = random.next_key()
    first, second = draws(0), draws(1)
    assert [bool((a == b).all()) for a, b in zip(first, second, strict=True)] == [False, True, True, False]
    assert not (first[1] == first[2]).any()
    with random.shared_over_time():  # outside of a step there is no time to share
        assert not (random.uniform((2, 3)).numpy() == random.uniform((2, 3)).numpy()).any()


def test_keys_inside_a_step_are_new_at_each_step() -> None:
    def inner(step: int) -> np.ndarray:
        with random.drawing_from(random.Source(key, step)):
            inner_key = random.next_key()
        return step_draws(inner_key, 0, 1)[0]

    key = random.next_key()
    assert not (inner(0) == inner(1)).any()
    np.testing.assert_array_equal(inner(0), inner(0))


def test_traced_draws_are_nodes_that_give_the_same_numbers() -> None:
    key = random.next_key()
    with Trace() as trace, random.drawing_from(random.Source(trace.input((2,), "int64"), trace.input((), "int64"))):
        made = random.uniform((2, 3))
    (node,) = trace.nodes
    assert made.is_abstract and made.dtype == np.float32
    got = node.primitive.forward(np.asarray(key), np.asarray(5), **node.params)
    np.testing.assert_array_equal(got, step_draws(key, 5, 1)[0])


def test_random_numbers_are_constants_to_a_gradient() -> None:
    x = Tensor(np.ones((2, 3)))
    with mr.Tape() as tape:
        tape.watch(x)
        mask = random.dropout_mask((2, 3), 0.5, "float64")
        y = ops.sum(x * mask)
    np.testing.assert_array_equal(tape.gradient(y, x), mask)
