"""Data into batches: forms of x and y, splitting, shuffling, and everything that cannot fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, DtypeError, ShapeError
from minirnn.training.data import Samples, check_batch_size, names_for

X = np.arange(20.0).reshape(10, 2)
Y = np.arange(10)


def samples(x: Any, y: Any = None, weight: Any = None, inputs: str = "a", outputs: str = "p") -> Samples:
    return Samples.of(x, y, weight, inputs.split(), outputs.split())


def test_batches_hold_every_sample_once_in_order() -> None:
    batches = list(samples(X, Y, Y / 2).batches(4))
    assert [batch.size for batch in batches] == [4, 4, 2] and samples(X, Y).count_batches(4) == 3
    assert np.array_equal(np.concatenate([batch.inputs[0] for batch in batches]), X)
    assert np.array_equal(np.concatenate([batch.targets[0] for batch in batches]), Y)
    assert np.array_equal(np.concatenate([batch.weights[0] for batch in batches]), Y / 2)


def test_shuffled_batches_keep_samples_together() -> None:
    data = samples([X, X[:, :1]], {"p": Y, "q": -Y}, None, "a b", "p q")
    batches = list(data.batches(4, data.shuffled_order(3)))
    order = np.concatenate([batch.targets[0] for batch in batches])
    assert sorted(order) == list(range(10)) and list(order) != list(range(10))
    for batch in batches:
        assert np.array_equal(batch.inputs[0], X[batch.targets[0]])
        assert np.array_equal(batch.inputs[1], X[batch.targets[0], :1])
        assert np.array_equal(batch.targets[1], -np.asarray(batch.targets[0]))


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    data = samples(X)
    mr.seed(1)
    first, second = data.shuffled_order(0), data.shuffled_order(1)
    mr.random.uniform((3,))
    assert np.array_equal(data.shuffled_order(0), first) and not np.array_equal(first, second)
    mr.seed(2)
    assert not np.array_equal(data.shuffled_order(0), first)


@pytest.mark.parametrize("x", [X, X.tolist(), tuple(X.tolist()), [X], {"a": X}, mr.Tensor(X), X.astype("float32")])
def test_forms_of_one_input(x: Any) -> None:
    assert np.array_equal(samples(x).inputs[0], X)


@pytest.mark.parametrize("x", [[X, Y], (X, Y.tolist()), {"b": Y, "a": X}, [mr.Tensor(X), Y]])
def test_forms_of_two_inputs(x: Any) -> None:
    a, b = samples(x, inputs="a b").inputs
    assert np.array_equal(a, X) and np.array_equal(b, Y)


def test_targets_may_be_missing_for_some_outputs() -> None:
    assert samples(X, {"q": Y}, outputs="p q").targets[0] is None
    assert samples(X, [None, Y], outputs="p q").targets[0] is None
    assert samples(X, outputs="p q").targets == [None, None]


def test_one_array_of_weights_goes_to_every_output() -> None:
    one = samples(X, [Y, Y], Y, outputs="p q")
    assert np.array_equal(one.weights[0], Y) and np.array_equal(one.weights[1], Y)
    assert samples(X, [Y, Y], {"q": Y}, outputs="p q").weights[0] is None


def test_split_takes_the_last_samples() -> None:
    first, last = samples(X, Y, Y).split(0.25)
    assert first.targets[0].tolist() == list(range(7)) and last.weights[0].tolist() == [7, 8, 9]


@pytest.mark.parametrize("fraction", [0.999, 1.0, -0.5, float("nan")])
def test_splits_that_leave_nothing_raise(fraction: float) -> None:
    with pytest.raises(ArgumentError, match="validation_split"):
        samples(X).split(fraction)


def test_different_numbers_of_samples_are_named() -> None:
    with pytest.raises(ShapeError) as error:
        samples(X, Y[:9])
    assert "x: 10" in str(error.value) and "y: 9" in str(error.value)
    with pytest.raises(ShapeError, match="x\\['b'\\]: 9"):
        samples([X, X[:9]], inputs="a b")
    with pytest.raises(ShapeError, match="sample_weight: 3"):
        samples(X, Y, np.ones(3))


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        ([X, Y], ArgumentError, "one array for each of a"),
        ([X] * 3, ArgumentError, "got: 3"),
        ({"c": X}, ArgumentError, "'c'"),
        ([[1.0], [2.0, 3.0]], ShapeError, "no regular array"),
        (np.array(["a", "b"]), DtypeError, "numbers"),
        (np.array([object()]), DtypeError, "numbers"),
        ((n for n in range(3)), DtypeError, "generator"),
        (3.0, ShapeError, "axis of samples"),
        ([None], ArgumentError, "every input needs"),
    ],
)
def test_what_is_no_data_raises(x: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        samples(x if text != "every input needs" else {"a": None})


def test_one_array_for_two_inputs_raises() -> None:
    with pytest.raises(ArgumentError, match="one array for each of a, b"):
        samples(X, inputs="a b")
    with pytest.raises(ArgumentError, match="names do not fit"):
        samples({"a": X}, inputs="a b")


def test_no_samples() -> None:
    with pytest.raises(ArgumentError, match="fit: there are no samples"):
        samples(X[:0]).require_some("fit")


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", True])
def test_batch_sizes_that_make_no_sense_raise(size: Any) -> None:
    with pytest.raises(ArgumentError, match="batch_size"):
        check_batch_size(size)


def test_names_where_the_model_has_none() -> None:
    assert names_for("input", {"u": X, "v": X}) == ["u", "v"]
    assert names_for("output", [X]) == ["output"] and names_for("output", (X, Y)) == ["output_0", "output_1"]
