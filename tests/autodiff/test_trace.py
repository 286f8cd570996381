"""Recording on shapes, and the nested structures that go in and out."""

from __future__ import annotations

import gc
from collections import namedtuple
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.autodiff import trees
from minirnn.autodiff.trace import Trace, abstract, eval_shapes, is_tracing
from minirnn.errors import ArgumentError, TraceError

Pair = namedtuple("Pair", "first second")


def test_a_trace_computes_nothing_and_remembers_everything() -> None:
    with Trace() as trace:
        assert is_tracing()
        x = trace.input((2, 3), "float32", "x")
        y = ops.tanh(x @ np.ones((3, 4), "float32")) * 2.0
    assert not is_tracing()
    assert y.is_abstract and y.shape == (2, 4) and y.dtype == np.float32
    assert [node.primitive.name for node in trace.nodes] == ["contract", "tanh", "multiply"]
    assert trace.nodes[2].inputs[1] == 2.0


def test_every_node_knows_its_line() -> None:
    def step(x: Any) -> None:
        y = x + 1.0
        ops.softmax(y)

    with Trace() as trace:
        step(trace.input((2,), "float32"))
    assert {len(node.source) for node in trace.nodes} == {1}
    places = [node.source[0] for node in trace.nodes]
    assert {place.code for place in places} == {step.__code__}
    first, *others = [place.line - step.__code__.co_firstlineno for place in places]
    assert first == 1 and set(others) == {2}


def test_closed_over_values_are_found_once() -> None:
    outside, array, w = mr.Tensor(np.ones(2)), np.ones(2), mr.Variable(np.ones(2))
    with Trace() as trace:
        x = trace.input((2,), "float64")
        ((x + outside) * array - w) * (outside + array + w)
    assert [outer is known for (outer, _), known in zip(trace.closed, (outside, array, w), strict=True)] == [True] * 3
    assert trace.closed[2][1].variable is w
    assert all(inner.is_abstract for _, inner in trace.closed)


def test_lists_that_come_and_go_are_not_confused() -> None:
    """A list has no name on the trace, and the next one may lie at the same address."""
    with Trace() as trace:
        x = trace.input((1,), "float32")
        for i in range(50):
            x = x + [float(i)]
            if i % 10 == 0:
                gc.collect()
    assert [outer.item() for outer, _ in trace.closed] == [float(i) for i in range(50)]


def test_numbers_need_no_input() -> None:
    with Trace() as trace:
        x = trace.input((1,), "float32")
        x * np.float64(2) + np.array(3.0) + ops.sqrt(2.0) + ops.where(x > 0, 1.0, 0.0) + ops.zeros(1)
    assert trace.closed == []


def test_a_variable_and_an_old_reading_of_it_are_two_inputs() -> None:
    w = mr.Variable([1.0])
    now, old = ops.reshape(w, (1,)), None
    with Trace() as trace:
        trace.input((1,), "float32") + w + now
    assert len(trace.closed) == 1
    old = now
    w.assign([2.0])
    with Trace() as trace:
        trace.input((1,), "float32") + w + old
    assert [outer for outer, _ in trace.closed if outer is w or outer is old] == [w, old]


def test_tapes_inside_a_trace_differentiate_on_shapes() -> None:
    def step(w: Any, x: Any) -> Any:
        return mr.grad(lambda w: ops.sum(ops.where(x > 0, ops.log(x @ w), 0.0)))(w)

    w, x = np.ones((3, 4)), np.ones((4, 3))
    out = eval_shapes(lambda w, x: mr.grad(lambda w: ops.sum(ops.tanh(x @ w)))(w), w, x)
    assert (out.shape, out.dtype, out.is_abstract) == ((3, 4), np.float64, True)
    x = np.ones((4, 3))
    out = eval_shapes(lambda w: mr.hvp(lambda w: ops.sum(ops.exp(x @ w)), (w,), (w,)), w)
    assert out.shape == (3, 4)
    variable = mr.Variable(w)

    def with_variable(x: Any) -> Any:
        with mr.Tape() as tape:
            y = ops.sum(x @ variable)
        return tape.gradient(y, variable)

    assert eval_shapes(with_variable, x).shape == (3, 4)
    square = np.ones((3, 3))
    assert eval_shapes(step, square, square).shape == (3, 3)


def test_an_outer_tape_does_not_see_the_trace() -> None:
    w = mr.Variable(np.ones(3))
    with mr.Tape() as tape:
        eval_shapes(lambda x: x * w, np.ones(3))
    assert tape.nodes == []


def test_eval_shapes() -> None:
    def f(p: Any, x: Any, n: int) -> Any:
        return {"y": (x @ p["w"] + p["b"][0], n), "none": None, "back": p["w"]}

    out = eval_shapes(f, {"w": np.ones((3, 2)), "b": [mr.Tensor(np.ones(2))]}, abstract((5, 3), "float64", "x"), 7)
    assert out["y"][0].shape == (5, 2) and out["y"][1] == 7 and out["none"] is None
    assert out["back"].shape == (3, 2) and out["back"].is_abstract
    with pytest.raises(TraceError, match="engine="):
        eval_shapes(lambda x: x * 2 if x.sum() > 0 else x, np.ones(2))


def test_masks_go_in_with_their_tensors() -> None:
    x = mr.Tensor(np.ones((2, 3, 4)))
    x.mask = mr.Tensor(np.ones((2, 3), bool))
    assert eval_shapes(lambda x: x.mask, x).shape == (2, 3)


def test_an_error_ends_the_trace() -> None:
    with pytest.raises(ZeroDivisionError):
        eval_shapes(lambda x: 1 / 0, np.ones(2))
    assert not is_tracing()
    assert (mr.Tensor(1.0) + 1.0).item() == 2.0


def test_a_tensor_of_a_trace_that_escapes() -> None:
    kept = []
    eval_shapes(lambda x: kept.append(x) or x, np.ones(2))
    with pytest.raises(TraceError, match="outside of the step"):
        kept[0] + 1.0


# trees -------------------------------------------------------------------------------------------------
STRUCTURES = [
    1, "leaf", None, (), [], {}, (1,), [1, (2, None)], {"b": 1, "a": [2, {"c": 3}]}, Pair(1, [2]),
    (Pair(None, 1), {"x": ()}),
]  # fmt: skip


@pytest.mark.parametrize("structure", STRUCTURES, ids=repr)
def test_flatten_and_back(structure: Any) -> None:
    leaves, form = trees.flatten(structure)
    back = trees.unflatten(form, leaves)
    assert back == structure and type(back) is type(structure)
    assert trees.map(lambda x: x, structure) == structure
    assert trees.same_form(form, form)
    assert isinstance(trees.describe(form), str)


def test_trees_of_several_structures() -> None:
    assert trees.map(lambda a, b, c: a + b + c, Pair(1, [2]), Pair(10, (20,)), Pair(100, [200])) == Pair(111, [222])
    for other in ((1, 2), [1, [2]], {"a": 1}, None, Pair(1, 2), (1,)):
        with pytest.raises(ArgumentError, match="nested structures differ"):
            trees.map(lambda a, b: a, (1, (2, None)), other)
    assert trees.describe(trees.flatten({"a": (1,), "b": [None, (1, 2)]})[1]) == "{'a': (*,), 'b': [None, (*, *)]}"
