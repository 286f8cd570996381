"""onnxruntime: one RNN, GRU or LSTM operator, as a model made in memory."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from .contestants import Arrays, Contestant, Work

_OPERATORS = {"simple_rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
# Where each of ONNX's gates stands in Keras's order: i o f c of i f c o, and z r h.
_GATES = {"simple_rnn": [0], "gru": [0, 1, 2], "lstm": [0, 3, 1, 2]}


def contestants(work: Work, threads: int) -> list[Contestant]:
    """The session's `run` on arrays, and on buffers that are bound once."""
    if work.case.grid == "stream":
        session = _session(work, threads, streamed=True)
        return [_stream_of_arrays(work, session), _stream_of_buffers(work, session)]
    session = _session(work, threads)
    x = np.ascontiguousarray(work.inputs[0].swapaxes(0, 1))  # batch first is not implemented for these operators
    y = np.empty((x.shape[0], 1, *x.shape[1:]), np.float32)
    bound = session.io_binding()
    bound.bind_cpu_input("X", x)
    bound.bind_output("Y", "cpu", 0, np.float32, y.shape, y.ctypes.data)

    def of_arrays() -> Any:
        return session.run(["Y"], {"X": x})[0]

    def of_buffers() -> Any:
        session.run_with_iobinding(bound)
        return y

    return [
        Contestant("onnxruntime, arrays", "onnxruntime", of_arrays, lambda: _batch_first(of_arrays())),
        Contestant("onnxruntime, buffers", "onnxruntime", of_buffers, lambda: _batch_first(of_buffers())),
    ]


def _batch_first(y: np.ndarray) -> Arrays:
    return [y[:, 0].swapaxes(0, 1)]


def _session(work: Work, threads: int, streamed: bool = False) -> Any:
    onnx = importlib.import_module("onnx")
    runtime = importlib.import_module("onnxruntime")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    cell, units, batch = work.case.cell, work.case.units, work.case.batch
    weights = _weights(cell, work.weights)
    attributes: dict[str, Any] = {"hidden_size": units}
    if cell == "gru":
        attributes["linear_before_reset"] = 1  # Keras's reset_after
    states = _state_names(cell) if streamed else []
    # Initial states that are left out are zeros.
    inputs = ["X", "W", "R", "B", "", *(f"initial_{s}" for s in states)] if streamed else ["X", "W", "R", "B"]
    outputs = ["", *(f"Y_{s}" for s in states)] if streamed else ["Y"]
    graph = helper.make_graph(
        [helper.make_node(_OPERATORS[cell], inputs, outputs, **attributes)],
        "bench",
        [
            helper.make_tensor_value_info("X", floats, (1 if streamed else work.case.steps, batch, units)),
            *(helper.make_tensor_value_info(f"initial_{s}", floats, (1, batch, units)) for s in states),
        ],
        [helper.make_tensor_value_info(name, floats, None) for name in outputs if name],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _weights(cell: str, weights: Arrays) -> dict[str, np.ndarray]:
    kernel, recurrent_kernel, bias = weights
    input_bias, state_bias = bias if cell == "gru" else (bias, np.zeros_like(bias))
    both = np.concatenate([_rows(cell, input_bias), _rows(cell, state_bias)])
    arrays = {"W": _rows(cell, kernel)[None], "R": _rows(cell, recurrent_kernel)[None], "B": both[None]}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _rows(cell: str, array: np.ndarray) -> np.ndarray:
    """Keras's gate columns as ONNX's gate rows."""
    gates = np.split(array, len(_GATES[cell]), axis=-1)
    return np.concatenate([gates[k] for k in _GATES[cell]], axis=-1).T


# streaming ---------------------------------------------------------------------------------------
def _state_names(cell: str) -> list[str]:
    return ["h", "c"] if cell == "lstm" else ["h"]


class _Held:
    """One step of a session, with arrays that are the states of the next."""

    def __init__(self, work: Work, session: Any) -> None:
        self.session = session
        self.names = _state_names(work.case.cell)
        self.outputs = [f"Y_{s}" for s in self.names]
        self.feeds = {"X": np.ascontiguousarray(work.inputs[0][None, :, 0])}
        self.shape = (1, work.case.batch, work.case.units)
        self.reset()

    def reset(self) -> None:
        for s in self.names:
            self.feeds[f"initial_{s}"] = np.zeros(self.shape, np.float32)

    def push(self) -> np.ndarray:
        found = self.session.run(self.outputs, self.feeds)
        for s, state in zip(self.names, found, strict=True):
            self.feeds[f"initial_{s}"] = state
        h: np.ndarray = found[0]
        return h


def _stream_of_arrays(work: Work, session: Any) -> Contestant:
    held, first = _Held(work, session), np.ascontiguousarray(work.inputs[0][None, :, 0])

    def results() -> Arrays:
        held.reset()
        ys = []
        for t in range(work.inputs[0].shape[1]):
            held.feeds["X"] = np.ascontiguousarray(work.inputs[0][None, :, t])
            ys.append(held.push()[0])
        held.feeds["X"] = first
        return [np.stack(ys, axis=1)]

    return Contestant("onnxruntime, arrays", "onnxruntime", held.push, results)


class _Bound:
    """One step of a session on buffers: two sets of states, each in turn read and written."""

    def __init__(self, work: Work, session: Any) -> None:
        self.session = session
        shape = (1, work.case.batch, work.case.units)
        self.x = np.empty(shape, np.float32)
        names = _state_names(work.case.cell)
        self.states = [{s: np.zeros(shape, np.float32) for s in names} for _ in range(2)]
        self.bindings = []
        for read, written in (self.states, self.states[::-1]):
            binding = session.io_binding()
            binding.bind_cpu_input("X", self.x)
            for s in names:
                binding.bind_cpu_input(f"initial_{s}", read[s])
                binding.bind_output(f"Y_{s}", "cpu", 0, np.float32, shape, written[s].ctypes.data)
            self.bindings.append(binding)
        self.turn = 0

    def push(self, x: np.ndarray) -> np.ndarray:
        self.x[...] = x
        self.session.run_with_iobinding(self.bindings[self.turn])
        self.turn = 1 - self.turn
        return self.states[self.turn]["h"]


def _stream_of_buffers(work: Work, session: Any) -> Contestant:
    bound, x = _Bound(work, session), work.inputs[0]
    first = x[:, 0]

    def results() -> Arrays:
        for state in bound.states[bound.turn].values():
            state.fill(0)
        return [np.stack([bound.push(x[:, t])[0].copy() for t in range(x.shape[1])], axis=1)]

    return Contestant("onnxruntime, buffers", "onnxruntime", lambda: bound.push(first), results)
