"""Step graphs as people see them: printed, drawn, and split into before, loop and after."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.scan import scan_values, step_graph
from minirnn.stepgraph.adjoint import gradient_graph
from minirnn.stepgraph.draw import dot, mermaid
from minirnn.stepgraph.graph import StepGraph
from minirnn.stepgraph.split import split

from .steps import EXAMPLES, example, numbers

Golden = Callable[[str, str], None]
PASSES = ("forward", "backward")


def graph_of(name: str, pass_: str = "forward") -> StepGraph:
    return step_graph(*example(name), pass_=pass_)


def operations(nodes: Any) -> collections.Counter[str]:
    return collections.Counter(node.primitive.name for node in nodes)


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_printed_graphs(name: str, pass_: str, golden: Golden) -> None:
    golden(f"{name}-{pass_}.txt", str(graph_of(name, pass_)) + "\n")


def test_the_backward_of_the_backward_is_a_step_graph_too(golden: Golden) -> None:
    twice = gradient_graph(graph_of("simple_rnn", "backward"))
    golden("simple_rnn-backward-backward.txt", str(twice) + "\n")


@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_printed_graphs_have_one_node_a_line_and_no_paths(name: str, pass_: str) -> None:
    graph = graph_of(name, pass_)
    lines = str(graph).splitlines()
    assert len(lines) == len(graph.nodes) + 6
    names = graph.names()
    assert len(set(names.values())) == len(names)
    assert "/" not in re.sub(r"#.*", "", str(graph))
    assert str(Path(__file__).parent) not in str(graph)
    assert all("# steps.py:" in line for line in lines[3:-3] if "add(ct_h, ct_y)" not in line)


def test_values_have_the_names_of_the_source() -> None:
    names = [*graph_of("gru").names().values()]
    assert {"h", "x", "kernel", "bias", "x_z", "h_candidate", "z", "r", "candidate", "h_2"} <= set(names)
    backward = [*graph_of("lstm", "backward").names().values()]
    assert {"ct_h", "ct_c", "ct_y", "candidate", "ct_candidate", "ct_kernel", "ct_x"} <= set(backward)


def test_names_in_statements_of_all_forms() -> None:
    matrices = [numbers(2, 2, seed=i) for i in range(2)]

    def helper(a: Any) -> Any:
        return ops.tanh(a)

    def two(a: Any) -> Any:
        inside = a * 2.0
        return inside, ops.sin(a)

    class Cell:
        def gate(self, a: Any) -> Any:
            return ops.sigmoid(a)

    cell = Cell()

    def step(carry: Any, x: Any) -> Any:
        plain = x + 1.0
        first, (second, third) = helper(x), (x * 3.0, ops.cos(x))
        by_call = helper(plain)
        other_call = helper(by_call)
        doubled, sine = two(x)
        by_method = cell.gate(x)
        annotated: Any = x - 1.0
        chosen = ops.exp(x) if len(matrices) else ops.log(x)
        if (walrus := ops.abs(x)) is not None:
            annotated = annotated * walrus
        annotated += second
        multi_line = (
            ops.softmax(
                annotated,
            )
        )  # fmt: skip
        for matrix in matrices:
            layer = multi_line @ matrix
        slope = mr.grad(lambda a: (a * a).sum())(x)
        nothing = [plain, first, third, other_call, doubled, sine, by_method, chosen, slope]
        return carry + sum(nothing) * layer, None

    graph = step_graph(step, np.zeros((3, 2)), np.zeros((5, 3, 2)))
    made = {name: t for name, t in graph.named_values().items() if name not in ("carry", "x")}
    by_output = {id(o): node.primitive.name for node in graph.nodes for o in node.outputs}
    assert {name: by_output[id(t)] for name, t in made.items()} == {
        "plain": "add",
        "first": "tanh",
        "second": "multiply",
        "third": "cos",
        "by_call": "tanh",
        "other_call": "tanh",
        "inside": "multiply",
        "by_method": "sigmoid",
        "annotated": "add",
        "chosen": "exp",
        "walrus": "abs",
        "multi_line": "divide",
        "layer": "contract",
        "slope": "add",
    }


def test_names_of_carry_and_x_come_from_how_the_step_takes_them() -> None:
    def unpacking(carry: Any, x: Any) -> Any:
        (h, c), count = carry
        first, second = x
        return ((h + first, c + second), count), None

    pair = np.zeros((3, 2)), np.zeros((3, 2))
    xs = np.zeros((5, 3, 2)), np.zeros((5, 3, 2))
    graph = step_graph(unpacking, (pair, np.zeros(3)), xs)
    assert [t.name for t in graph.carry_in + graph.xs] == ["h", "c", "count", "first", "second"]
    graph = step_graph(lambda state, x: (state, x), {"h": pair[0], "c": pair[1]}, xs)
    assert [t.name for t in graph.carry_in + graph.xs] == ["c", "h", "x[0]", "x[1]"]
    State = collections.namedtuple("State", "left right")

    class Object:
        def step(self, s: Any, x: Any) -> Any:
            return s, None

    graph = step_graph(Object().step, State(*pair), xs[0])
    assert [t.name for t in graph.carry_in + graph.xs] == ["left", "right", "x"]


def test_code_without_a_source_file_still_prints() -> None:
    scope: dict[str, Any] = {"ops": ops}
    exec("def step(h, x):\n    z = ops.tanh(h + x)\n    return z, z", scope)
    text = str(step_graph(scope["step"], np.zeros((3, 2)), np.zeros((5, 3, 2))))
    assert "tanh(v2)" in text and "#" not in text


def test_a_step_graph_shows_itself_in_a_notebook() -> None:
    graph = graph_of("lstm")
    assert graph._repr_markdown_() == f"```mermaid\n{mermaid(graph)}```"


# the split ---------------------------------------------------------------------------------------
def test_the_input_projection_of_an_lstm_is_before_the_loop() -> None:
    parts = split(graph_of("lstm"))
    assert operations(parts.before) == {"contract": 1}
    assert operations(parts.loop)["contract"] == 1
    assert parts.after == []


def test_parameter_cotangents_of_an_lstm_are_after_the_loop() -> None:
    graph = graph_of("lstm", "backward")
    parts = split(graph)
    assert operations(parts.loop)["contract"] == 1  # the cotangent of h goes through recurrent_kernel
    assert operations(parts.after) == {"contract": 3, "sum": 1, "reshape": 1}  # kernel, recurrent_kernel, x; bias
    made_after = {id(o) for node in parts.after for o in node.outputs}
    assert {id(t) for t in graph.sums} <= made_after
    assert not any(node.primitive.name in ("sigmoid", "tanh") for node in graph.nodes)  # read from the residuals


def test_a_readout_is_after_the_loop() -> None:
    step, init, xs = example("simple_rnn")
    readout = numbers(6, 2)

    def with_readout(h: Any, x: Any) -> Any:
        h, y = step(h, x)
        return h, ops.softmax(y @ readout)

    parts = split(step_graph(with_readout, init, xs))
    assert operations(parts.after) == {
        "contract": 1,
        "max": 1,
        "stop_gradient": 1,
        "subtract": 1,
        "exp": 1,
        "sum": 1,
        "divide": 1,
    }
    assert operations(parts.loop) == {"contract": 1, "add": 2, "tanh": 1}


def test_what_depends_on_weights_only_runs_once() -> None:
    a, b = mr.Tensor(numbers(6, 5)), mr.Tensor(numbers(5, 6))
    parts = split(step_graph(lambda h, x: (ops.tanh(h @ (a @ b)), None), numbers(3, 6), numbers(7, 3, 2)))
    assert operations(parts.once) == {"contract": 1}
    assert operations(parts.loop) == {"contract": 1, "tanh": 1}


def test_rows_that_see_each_other_stay_in_the_loop_and_leave_the_rest_alone() -> None:
    w, v = numbers(2, 6), numbers(6, 5)

    def step(h: Any, x: Any) -> Any:
        centred = h - ops.mean(h, axis=0)
        return ops.tanh(x @ w + centred), h @ v

    graph = step_graph(step, numbers(3, 6), numbers(7, 3, 2))
    parts = split(graph)
    assert operations(parts.before) == {"contract": 1}
    assert operations(parts.after) == {"contract": 1}
    backward = split(step_graph(step, numbers(3, 6), numbers(7, 3, 2), pass_="backward"))
    assert operations(backward.before)["contract"] == 1  # of the cotangent of y
    assert operations(backward.after)["contract"] == 1  # v, which only reads h


# pictures ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_pictures_show_every_node_and_the_carry(name: str, pass_: str) -> None:
    graph = graph_of(name, pass_)
    for text, carry in ((mermaid(graph), "-. next step .->"), (dot(graph), "style=dashed")):
        assert text.count(carry) == len(graph.carry_in)
        for place in range(len(graph.nodes)):
            assert len(re.findall(rf"^ +n{place}[\[ ]", text, re.MULTILINE)) >= 1
        for title in ("carry", "loop: step by step", "closed"):
            assert f'"{title}"' in text


def test_drawn_graphs(golden: Golden) -> None:
    golden("gru-forward.mmd", mermaid(graph_of("gru")))
    golden("gru-forward.dot", dot(graph_of("gru")))


# values by name ----------------------------------------------------------------------------------
def test_scan_values_are_those_of_the_loop() -> None:
    step, init, xs = example("gru")
    values = scan_values(step, init, xs)
    kernel, recurrent_kernel, bias = (numbers(4, 18), numbers(6, 18), numbers(18))
    h, seen = init, []
    for x in xs:
        x_z, x_r, x_candidate = np.split(x @ kernel + bias, 3, -1)
        h_z, h_r, h_candidate = np.split(h @ recurrent_kernel, 3, -1)
        z, r = (1 / (1 + np.exp(-a)) for a in (x_z + h_z, x_r + h_r))
        candidate = np.tanh(x_candidate + r * h_candidate)
        h = z * h + (1 - z) * candidate
        seen.append({"x_z": x_z, "z": z, "r": r, "candidate": candidate, "h": h, "h_r": h_r, "x": x})
    assert set(values) >= set(seen[0])
    for name in seen[0]:
        np.testing.assert_allclose(values[name], np.stack([s[name] for s in seen]), rtol=1e-12, atol=1e-13)


def test_scan_values_of_some_names_and_of_values_that_nothing_needs() -> None:
    def step(h: Any, x: Any) -> Any:
        looked_at = ops.mean(h, axis=-1)
        size = ops.sum(looked_at)
        unused = size * 2.0  # noqa: F841 - a value to look at
        new = h + x
        return new, {"nothing": None}

    init, xs = numbers(3, 2), numbers(7, 3, 2)
    values = scan_values(step, init, xs, names=["unused", "looked_at"])
    assert list(values) == ["unused", "looked_at"]
    assert [v.shape for v in values.values()] == [(7,), (7, 3)]
    before = np.concatenate([init[None], init + np.cumsum(xs, 0)[:-1]])
    np.testing.assert_allclose(values["looked_at"], before.mean(-1), rtol=1e-12)
    with pytest.raises(mr.errors.ArgumentError, match="gate") as caught:
        scan_values(step, init, xs, names=["gate"])
    assert "looked_at" in str(caught.value)
    assert scan_values(step, init, xs[:0], names=["new"])["new"].shape == (0, 3, 2)


def test_scan_values_can_be_differentiated() -> None:
    step, init, xs = example("simple_rnn")

    def loss(init: Any) -> Any:
        return (scan_values(step, init, xs, ["h"])["h"] ** 2).sum()

    def by_scan(init: Any) -> Any:
        return (mr.scan(step, init, xs)[1] ** 2).sum()

    np.testing.assert_allclose(mr.grad(loss)(init), mr.grad(by_scan)(init), rtol=1e-12)


def test_step_graph_refuses_what_it_does_not_know() -> None:
    with pytest.raises(mr.errors.ArgumentError, match="forward"):
        step_graph(*example("gru"), pass_="sideways")
