"""Printed CUDA kernels as people see them; printing needs neither a device nor numba-cuda."""

from __future__ import annotations

import ast
import builtins
import collections
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import config, ops
from minirnn.cli import main
from minirnn.errors import ArgumentError
from minirnn.kernels.cuda.device import Limits
from minirnn.kernels.cuda.printed import source
from minirnn.kernels.elementary import ARRAY_FUNCTIONS
from minirnn.layers import GRU
from minirnn.scan import scan_source
from tests.kernels.test_printed import attending_container
from tests.stepgraph.steps import EXAMPLES, numbers
from tests.stepgraph.test_graph import PASSES, graph_of

Golden = Callable[[str, str], None]
# A device so small that a block has several units of the examples, and the last block fewer than the others.
SMALL = Limits(multiprocessors=2)
EXAMPLE_KERNELS = [
    ("simple_rnn", "forward", "grid"), ("simple_rnn", "backward", "step"), ("gru", "forward", "block"),
    ("gru", "backward", "grid"), ("lstm", "forward", "step"), ("lstm", "backward", "block"),
    ("attention", "forward", "step"), ("attention", "backward", "block"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pass_", "schedule"), EXAMPLE_KERNELS)
def test_printed_kernels(name: str, pass_: str, schedule: str, golden: Golden) -> None:
    golden(f"cuda-{schedule}-{name}-{pass_}.py.txt", source(graph_of(name, pass_), schedule, SMALL))


# names -------------------------------------------------------------------------------------------
def check_names(text: str) -> None:
    """A module in whose functions every name has one meaning, and is given a value before it is read."""
    module = ast.parse(text)
    imported = {a.name for n in module.body if isinstance(n, ast.ImportFrom) for a in n.names}
    functions = [n for n in module.body if isinstance(n, ast.FunctionDef)]
    assert len({f.name for f in functions}) == len(functions) > 0
    for function in functions:
        arguments = [a.arg for a in function.args.args]
        assert len(set(arguments)) == len(arguments)
        assert function.name not in arguments
        names = [n for n in ast.walk(function) if isinstance(n, ast.Name)]
        assigned = [n.id for n in names if isinstance(n.ctx, ast.Store)]
        read = {n.id for n in names if isinstance(n.ctx, ast.Load)}
        called = {n.func.id for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        assert called <= imported | set(vars(builtins))
        assert not set(assigned) & (set(arguments) | called | imported)
        assert read <= set(assigned) | set(arguments) | imported | set(vars(builtins))
        # What is no index, and no integer that comes from shared memory again, is given a value once.
        values = collections.Counter(
            target.id
            for n in ast.walk(function)
            if isinstance(n, ast.Assign) and "integers[" not in ast.unparse(n.value)
            for target in n.targets
            if isinstance(target, ast.Name)
        )
        again = [n for n, k in values.items() if k > 1]
        assert all(re.fullmatch(r"i\w+|at\d+|row|column|some|part|total|count|entry|k|p", n) for n in again), again


@pytest.mark.parametrize("schedule", ["block", "step"])
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_names_have_one_meaning(name: str, pass_: str, schedule: str) -> None:
    check_names(source(graph_of(name, pass_), schedule, SMALL))


def test_a_kernel_in_which_a_name_has_two_meanings_is_noticed() -> None:
    text = source(graph_of("lstm"), "step")
    check_names(text)
    for name, other in (("candidate", "put"), ("candidate", "rows"), ("v18", "v19"), ("turn", "first")):
        wrong = re.sub(rf"\b{name} = ", f"{other} = ", text)
        assert wrong != text
        with pytest.raises(AssertionError):
            check_names(wrong)


def test_the_users_names_may_be_the_kernels_own() -> None:
    """The step's variables have names that printed kernels use for other things."""
    kernel = numbers(4, 4)

    def step(carry: Any, thread: Any) -> Any:
        rows, weights_0 = carry
        put = ops.tanh(rows @ kernel + thread)
        staged_float64 = ops.sigmoid(put) * 2.0
        p = ops.softmax(staged_float64)
        turn = ops.exp(p - weights_0)
        row = turn * put
        integers = ops.tanh(row)
        total = ops.sum(integers, axis=-1, keepdims=True)
        grid = integers / (total * total + 1.0)
        cuda = ops.sqrt(grid * grid + 1.0)
        s = t = k = ops.log(cuda + 1.0)
        group = ops.tanh(s + t * k)
        return (group, ops.sin(group)), {"steps": total, "column": cuda}

    for schedule in ("block", "step"):
        with config.schedule(schedule):
            for pass_ in PASSES:
                carry = numbers(3, 4), numbers(3, 4, seed=1)
                check_names(scan_source(step, carry, numbers(5, 3, 4), pass_=pass_, engine="cuda"))


# numbers -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("name", EXAMPLES)
def test_numbers_say_their_dtype_and_launches_of_single_steps_no_sizes(name: str, pass_: str) -> None:
    """A bare 1.0 would make float64 of a float32; a size in the text would make one kernel for each size."""
    text = re.sub(r"#.*", "", source(graph_of(name, pass_), "step"))
    assert not re.findall(r"(?<!float64\()(?<!float32\()(?<![\w.])-?\d+\.\d*", text)
    integers = re.sub(r"sizes\[\d+\]", "", text)
    assert set(re.findall(r"(?<![\w.])\d+(?![\w.])", integers)) <= {"0", "1", "16", "32", "63", "64", "512", "1024"}


def test_every_elementary_function_has_a_device_form() -> None:
    from minirnn.kernels.cuda import library

    assert all(hasattr(library, f"{name}_{short}") for name in ARRAY_FUNCTIONS for short in ("f32", "f64"))


# where users get it ------------------------------------------------------------------------------
def test_layers_containers_steps_and_the_command_print_it(capsys: pytest.CaptureFixture[str]) -> None:
    layer = GRU(4)
    layer.build((None, None, 3))
    with mr.engine("numpy"):
        texts = [layer.source(engine="cuda"), layer.source("backward", engine="cuda")]
        texts.append(attending_container().source(engine="cuda"))
    for text in texts:
        check_names(text)
        assert text.startswith('# Schedule "block"')
    assert texts[0] != texts[1]
    assert not main(["source", "GRU", "--engine", "cuda", "--dtype", "float32"])
    printed = capsys.readouterr().out
    check_names(printed)
    assert "sigmoid_f32" in printed and '# Schedule "block"' in printed


def test_the_schedule_in_force_is_printed_and_other_engines_are_refused() -> None:
    def step(h: Any, x: Any) -> Any:
        return h * x, None

    arrays = np.zeros((2, 3)), np.zeros((5, 2, 3))
    with config.schedule("step"):
        assert scan_source(step, *arrays, engine="cuda").startswith('# Schedule "step"')
    with pytest.raises(ArgumentError, match="scan_source: engine"):
        scan_source(step, *arrays, engine="numpy")
