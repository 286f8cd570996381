"""LSTM, GRU (both reset forms) and SimpleRNN against onnxruntime's RNN operators, in float32."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.peers import Need
from tests.reference import mutants, subjects
from tests.reference.cells import KINDS, Array, Case, random_case
from tests.reference.checks import assert_agree

pytestmark = pytest.mark.peers

OPERATORS = {"simple_rnn": "RNN", "gru_reset_after": "GRU", "gru_reset_before": "GRU", "lstm": "LSTM"}
# Where each ONNX gate stands in Keras's order; ONNX has i o f c and z r h.
GATES = {"simple_rnn": [0], "gru_reset_after": [0, 1, 2], "gru_reset_before": [0, 1, 2], "lstm": [0, 3, 1, 2]}
RIGHT_PADDED = np.arange(7) < np.array([[4], [7], [1]])
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def runtime(need: Need) -> Any:
    need("onnx")
    return need("onnxruntime")


def onnx_gates(kind: str, array: Array) -> Array:
    """Keras's gate columns as ONNX's gate rows."""
    gates = np.split(array, KINDS[kind].gates, axis=-1)
    return np.concatenate([gates[k] for k in GATES[kind]], axis=-1).T


def onnx_inputs(case: Case) -> dict[str, Array]:
    """The operator's inputs by their names in the ONNX specification, time first."""
    kernel, recurrent_kernel, bias, *peephole = case.weights
    input_bias, state_bias = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    both = [onnx_gates(case.kind, input_bias), onnx_gates(case.kind, state_bias)]
    inputs = {
        "X": case.x.transpose(1, 0, 2),
        "W": onnx_gates(case.kind, kernel)[None],
        "R": onnx_gates(case.kind, recurrent_kernel)[None],
        "B": np.concatenate(both)[None],
        "initial_h": case.initial_states[0][None],
        **({"initial_c": case.initial_states[1][None]} if case.kind == "lstm" else {}),
    }
    if peephole:
        inputs["P"] = peephole[0][[0, 2, 1]].reshape(1, -1)  # i o f
    inputs = {name: np.ascontiguousarray(array, np.float32) for name, array in inputs.items()}
    if case.mask is not None:
        inputs["sequence_lens"] = case.mask.sum(axis=1).astype(np.int32)
    return inputs


def run_onnxruntime(runtime: Any, case: Case) -> dict[str, Array]:
    """The results of a single-node model, batch first, at their original times, zeros in the padding."""
    from onnx import TensorProto, helper

    inputs = onnx_inputs(case)
    n_states = KINDS[case.kind].states
    order = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c"][: 5 + n_states]
    order += ["P"] if "P" in inputs else []
    outputs = ["Y", "Y_h", "Y_c"][: 1 + n_states]
    attributes: dict[str, Any] = {"hidden_size": case.initial_states[0].shape[1]}
    attributes["direction"] = "reverse" if case.go_backwards else "forward"
    if OPERATORS[case.kind] == "GRU":
        attributes["linear_before_reset"] = int(case.kind == "gru_reset_after")
    attributes |= {name: case.options[name] for name in ("clip", "input_forget") if name in case.options}
    names = [name if name in inputs else "" for name in order]
    node = helper.make_node(OPERATORS[case.kind], names, outputs, **attributes)
    elements = {name: TensorProto.INT32 if name == "sequence_lens" else TensorProto.FLOAT for name in inputs}
    graph = helper.make_graph(
        [node],
        "one_node",
        [helper.make_tensor_value_info(name, elements[name], array.shape) for name, array in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, *states = session.run(outputs, inputs)
    return {"outputs": y[:, 0].transpose(1, 0, 2), **{f"state {k}": state[0] for k, state in enumerate(states)}}


def as_onnx_tells_it(case: Case, found: dict[str, Array]) -> dict[str, Array]:
    """Ours with the two things that ONNX does otherwise: original order of time, zeros in the padding."""
    found = {name: array for name, array in found.items() if not name.startswith("gradient")}
    outputs = found["outputs"][:, ::-1] if case.go_backwards else found["outputs"]
    return found | {"outputs": outputs if case.mask is None else np.where(case.mask[..., None], outputs, 0)}


def check(runtime: Any, case: Case, *compared: mutants.Subject) -> None:
    want = run_onnxruntime(runtime, case)
    for subject in compared:
        assert_agree(as_onnx_tells_it(case, subject(case)), want, TOLERANCE)


@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("mask", [None, RIGHT_PADDED], ids=["all", "sequence_lens"])
@pytest.mark.parametrize("kind", KINDS)
def test_layer_equals_onnxruntime(runtime: Any, kind: str, mask: Array | None, go_backwards: bool) -> None:
    case = random_case(kind, seed=11, mask=mask, go_backwards=go_backwards)
    check(runtime, case, subjects.formulas, subjects.layer_float32)


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("lstm", {"peepholes": True}),
    ("lstm", {"input_forget": True}),
    ("lstm", {"clip": 0.6}),
    ("lstm", {"peepholes": True, "input_forget": True, "clip": 0.7}),
    *((kind, {"clip": 0.6}) for kind in KINDS if kind != "lstm"),
]
by_options = pytest.mark.parametrize(
    ("kind", "options"), OPTIONS, ids=lambda x: x if isinstance(x, str) else "-".join(x)
)


@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "reverse"])
@by_options
def test_options_of_onnx(runtime: Any, kind: str, options: dict[str, Any], go_backwards: bool) -> None:
    case = random_case(kind, seed=13, mask=RIGHT_PADDED, go_backwards=go_backwards, options=options)
    check(runtime, case, subjects.formulas, subjects.layer_float32)


@by_options
def test_planted_bugs_in_options_are_noticed(runtime: Any, kind: str, options: dict[str, Any]) -> None:
    case = random_case(kind, seed=14, options=options)
    bugs = mutants.of_options(options)
    assert len(bugs) >= len(options)
    assert mutants.unnoticed(partial(check, runtime, case), subjects.formulas, bugs) == []


@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", KINDS)
def test_planted_bugs_are_noticed(runtime: Any, kind: str, go_backwards: bool) -> None:
    case = random_case(kind, seed=12, mask=RIGHT_PADDED, go_backwards=go_backwards)
    bugs = mutants.forward(kind) | mutants.MASK
    assert mutants.unnoticed(partial(check, runtime, case), subjects.formulas, bugs) == []
