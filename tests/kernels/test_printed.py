"""Printed kernels as people see them, and what stands in their loop over time."""

from __future__ import annotations

import ast
import builtins
import collections
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from minirnn import RecurrentContainer, ops
from minirnn.kernels import contract, elementary, lanes, rowproducts, rowsums
from minirnn.kernels.heavy import lower
from minirnn.kernels.printed import source
from minirnn.kernels.program import Call, Nest, Write
from minirnn.layers import Concatenate, Dense, Input
from minirnn.scan import step_graph
from tests.stepgraph.steps import EXAMPLES, numbers
from tests.stepgraph.test_graph import PASSES, graph_of

Golden = Callable[[str, str], None]
both_passes = pytest.mark.parametrize("pass_", PASSES)
each_example = pytest.mark.parametrize("name", EXAMPLES)


@both_passes
@each_example
def test_printed_kernels(name: str, pass_: str, golden: Golden) -> None:
    golden(f"kernel-{name}-{pass_}.py.txt", source(graph_of(name, pass_)))


# names -------------------------------------------------------------------------------------------
def check_names(text: str) -> None:
    """It is Python in which every name has one meaning, and is given a value before it is read."""
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef)
    arguments = [a.arg for a in function.args.args]
    assert len(set(arguments)) == len(arguments)
    called = {n.func.id for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assigned = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    read = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    known = {"LANES", "inf", "nan"} | {n for m in (lanes, contract, rowproducts, rowsums, elementary) for n in vars(m)}
    assert called <= known | set(vars(builtins))
    assert not (set(assigned) | set(arguments)) & (called | {"LANES", "inf", "nan"})
    assert not set(assigned) & set(arguments)
    assert read <= set(assigned) | set(arguments) | called | known
    # What is no loop variable, no count and no carry's place is given a value once.
    again = [n for n, k in collections.Counter(assigned).items() if k > 1]
    assert all(
        re.fullmatch(r"i\w+|row\w+|[stkmxp]\d*|steps|first\d*|part|total|entry|best|\w+_(now|next)", n) for n in again
    ), again


@both_passes
@each_example
def test_names_have_one_meaning(name: str, pass_: str) -> None:
    check_names(source(graph_of(name, pass_)))


def test_a_kernel_in_which_a_name_has_two_meanings_is_noticed() -> None:
    text = source(graph_of("lstm"))
    check_names(text)
    for name, other in (("candidate", "load"), ("candidate", "h_size"), ("v18", "v19"), ("candidate", "rows")):
        wrong = re.sub(rf"\b{name} = ", f"{other} = ", text)
        assert wrong != text
        with pytest.raises(AssertionError):
            check_names(wrong)


def test_the_users_names_may_be_the_kernels_own() -> None:
    """The step's variables have names that printed kernels use for other things."""
    kernel = numbers(4, 4)

    def step(carry: Any, m: Any) -> Any:
        rows, i0 = carry
        load = ops.tanh(rows @ kernel + m)
        LANES = ops.sigmoid(load) * 2.0
        i1 = ops.softmax(LANES)
        x0 = ops.exp(i1 - i0)
        x_size = x0 * load
        tanh_f64 = ops.tanh(x_size)
        total = ops.sum(tanh_f64, axis=-1, keepdims=True)
        product = tanh_f64 / (total * total + 1.0)
        inf = ops.sqrt(product * product + 1.0)
        s = t = k = ops.log(inf + 1.0)
        range = ops.tanh(s + t * k)
        part = ops.softplus(range)
        i0 = ops.sin(part)
        return (range, i0), {"length": total, "i0": i0}

    for pass_ in PASSES:
        check_names(source(step_graph(step, (numbers(3, 4), numbers(3, 4, seed=1)), numbers(5, 3, 4), pass_=pass_)))


@both_passes
@each_example
def test_no_size_and_no_path_stands_in_a_kernel(name: str, pass_: str) -> None:
    text = source(graph_of(name, pass_))
    code = re.sub(r"#.*", "", text)
    assert set(re.findall(r"(?<![\w.])\d+(?!\w)", code)) <= {*map(str, range(len(code.splitlines()))), "64"}
    integers = re.sub(r"sizes\[\d+\]|strides\[\d+\]", "", code)
    assert set(re.findall(r"(?<![\w.])\d+(?![\w.])", integers)) <= {"0", "1", "64"}
    assert "/" not in re.sub(r"#.*|//", "", text) or "divide" in str(graph_of(name, pass_))
    assert all(len(re.findall(r"# ", line)) <= 1 or line.startswith("#") for line in text.splitlines())


# what stands in the loop -------------------------------------------------------------------------
def operations(expression: Any) -> Iterator[str]:
    if isinstance(expression, Call):
        yield expression.primitive
        for operand in expression.operands:
            yield from operations(operand)


def counts(statements: list[Any]) -> dict[str, int]:
    """How many statements of each kind, operations on elements by their names, and writes."""
    found: collections.Counter[str] = collections.Counter()
    for statement in statements:
        found[type(statement).__name__] += 1
        if isinstance(statement, Nest):
            for part in statement.body:
                found.update(operations(part.expression))
                found["Write"] += isinstance(part, Write)
    return dict(found)


IN_THE_LOOP: dict[tuple[str, str], dict[str, int]] = {
    ("simple_rnn", "forward"): {"Product": 1, "Nest": 1, "Write": 2, "add": 2, "tanh": 1},
    ("simple_rnn", "backward"): {"Product": 1, "Nest": 1, "Write": 2, "add": 1, "multiply": 2, "subtract": 1},
    ("gru", "forward"): {
        "Product": 1, "Nest": 1, "Write": 2, "add": 7, "sigmoid": 2, "multiply": 3, "tanh": 1, "subtract": 1,
    },
    ("gru", "backward"): {"Product": 1, "Nest": 4, "Write": 9, "add": 4, "multiply": 12, "negative": 1, "subtract": 4},
    ("lstm", "forward"): {"Product": 1, "Nest": 1, "Write": 3, "add": 9, "sigmoid": 3, "tanh": 2, "multiply": 3},
    ("lstm", "backward"): {"Product": 1, "Nest": 2, "Write": 6, "add": 2, "multiply": 16, "subtract": 5},
    ("attention", "forward"): {
        "Product": 4, "Reduce": 2, "Nest": 5, "Write": 7, "stop_gradient": 1, "subtract": 1, "exp": 1, "divide": 1,
        "add": 1, "tanh": 1,
    },
    ("attention", "backward"): {
        "Product": 4, "Reduce": 1, "Nest": 7, "Write": 10, "multiply": 4, "subtract": 1, "add": 4, "divide": 3,
        "negative": 1,
    },
}  # fmt: skip
BEFORE = {"Nest": 1, "Write": 1, "Product": 1}  # the input projection
AFTER = {"Nest": 1, "Write": 1, "Product": 1}  # the cotangent of x
OUTSIDE: dict[tuple[str, str], tuple[dict[str, int], dict[str, int]]] = {
    ("attention", "forward"): ({}, {}),  # of the joined x and context nothing can go before
    ("attention", "backward"): ({}, {"Nest": 1, "Write": 1, "multiply": 2, "add": 1}),
}


@both_passes
@each_example
def test_operations_in_the_loop(name: str, pass_: str) -> None:
    """What belongs before or after the loop does not come back into it."""
    sections = lower(graph_of(name, pass_)).sections
    assert counts(sections["loop"]) == IN_THE_LOOP[name, pass_]
    outside = (BEFORE, {}) if pass_ == "forward" else ({}, AFTER)
    assert (counts(sections["before"]), counts(sections["after"])) == OUTSIDE.get((name, pass_), outside)


def test_sums_over_time_stand_in_no_section() -> None:
    """Each weight's cotangent is one product after the kernel, of what it stacked."""
    for name, contractions in {"simple_rnn": 2, "gru": 2, "lstm": 2, "attention": 2}.items():
        lowering = lower(graph_of(name, "backward"))
        text = source(graph_of(name, "backward"))
        assert [n.primitive.name for n in lowering.summed].count("contract") == contractions
        assert text.count("stack") and "[0] +=" not in text


def test_the_count_notices_a_projection_in_the_loop() -> None:
    """A step whose input goes through the carry's product, where it cannot be computed before."""
    kernel = numbers(10, 6)

    def step(h: Any, x: Any) -> Any:
        h = ops.tanh(ops.concatenate([x, h], axis=-1) @ kernel)
        return h, h

    sections = lower(step_graph(step, numbers(3, 6), np.zeros((5, 3, 4)))).sections
    assert counts(sections["before"]) == {} and counts(sections["loop"])["Product"] == 1
    assert counts(sections["loop"]) != IN_THE_LOOP["simple_rnn", "forward"]


def test_a_map_is_computed_in_the_nest_that_reads_it() -> None:
    """Also if it comes before a product, on which that nest waits."""
    kernel = numbers(6, 6)

    def step(h: Any, x: Any) -> Any:
        costly = ops.exp(ops.stop_gradient(h))
        h = ops.tanh(h @ kernel) * costly
        return h, h

    sections = lower(step_graph(step, numbers(3, 6), np.zeros((5, 3, 4)))).sections
    assert counts(sections["loop"]) == {
        "Product": 1, "Nest": 1, "stop_gradient": 1, "exp": 1, "tanh": 1, "multiply": 1, "Write": 2,
    }  # fmt: skip


# a container -------------------------------------------------------------------------------------
def attending_container() -> RecurrentContainer:
    """A state looks over four constant vectors at each step."""
    x, memory, h = Input((3,)), Input((4, 5)), Input((6,))
    query = Dense(5, use_bias=False)(h)
    scores = ops.squeeze(ops.matmul(memory, ops.expand_dims(query, 2)), 2)
    context = ops.squeeze(ops.matmul(ops.expand_dims(ops.softmax(scores), 1), memory), 1)
    new = Dense(6, activation="tanh")(Concatenate()([x, context, h]))
    container = RecurrentContainer(
        sequence_inputs=x, constant_inputs=memory, state_inputs=h, state_outputs=new, sequence_outputs=context
    )
    container(sequences=np.ones((2, 7, 3)), constants=np.ones((2, 4, 5)), states=np.zeros((2, 6)))
    return container


@both_passes
def test_the_printed_kernel_of_a_container(pass_: str, golden: Golden) -> None:
    text = attending_container().source(pass_)
    check_names(text)
    # The lines are those of minirnn's own layers, which move with every change there.
    text = re.sub(r"(\w+\.py):\d+", r"\1", text)
    golden(f"kernel-container-{pass_}.py.txt", text)
