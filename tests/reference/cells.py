"""SimpleRNN, GRU and LSTM as plain loops over time, straight from their published formulas.

Weights come in the order and layout of Keras: kernel (features, gates * units), recurrent kernel
(units, gates * units), bias; the gates are i f c o for LSTM (Hochreiter and Schmidhuber 1997, with
the forget gate of Gers, Schmidhuber and Cummins 2000) and z r h for GRU (Cho et al. 2014 without
`reset_after`, the form of cuDNN with it).  Everything also runs on complex numbers, so that the
gradients can be taken by complex step; nothing here imports minirnn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tests.reference.checks import complex_step_gradients

Array = np.ndarray
Step = Callable[[Array, Sequence[Array], Sequence[Array]], list[Array]]


def sigmoid(z: Array) -> Array:
    """The logistic function; the naive form is exact enough for the moderate arguments used in tests."""
    return 1.0 / (1.0 + np.exp(-z))


def simple_rnn_step(x: Array, states: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
    """The new states [h] of Elman's network, one time step on."""
    (h,) = states
    kernel, recurrent_kernel, bias = weights
    return [np.tanh(x @ kernel + h @ recurrent_kernel + bias)]


def gru_reset_after_step(x: Array, states: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
    """The new states [h] of a GRU that resets after the recurrent product; bias (2, 3 * units)."""
    (h,) = states
    kernel, recurrent_kernel, bias = weights
    kernel_z, kernel_r, kernel_h = np.split(kernel, 3, axis=1)
    recurrent_z, recurrent_r, recurrent_h = np.split(recurrent_kernel, 3, axis=1)
    input_bias_z, input_bias_r, input_bias_h = np.split(bias[0], 3)
    state_bias_z, state_bias_r, state_bias_h = np.split(bias[1], 3)
    z = sigmoid(x @ kernel_z + input_bias_z + h @ recurrent_z + state_bias_z)
    r = sigmoid(x @ kernel_r + input_bias_r + h @ recurrent_r + state_bias_r)
    candidate = np.tanh(x @ kernel_h + input_bias_h + r * (h @ recurrent_h + state_bias_h))
    return [z * h + (1.0 - z) * candidate]


def gru_reset_before_step(x: Array, states: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
    """The new states [h] of a GRU that resets before the recurrent product; bias (3 * units,)."""
    (h,) = states
    kernel, recurrent_kernel, bias = weights
    kernel_z, kernel_r, kernel_h = np.split(kernel, 3, axis=1)
    recurrent_z, recurrent_r, recurrent_h = np.split(recurrent_kernel, 3, axis=1)
    bias_z, bias_r, bias_h = np.split(bias, 3)
    z = sigmoid(x @ kernel_z + h @ recurrent_z + bias_z)
    r = sigmoid(x @ kernel_r + h @ recurrent_r + bias_r)
    candidate = np.tanh(x @ kernel_h + (r * h) @ recurrent_h + bias_h)
    return [z * h + (1.0 - z) * candidate]


def lstm_step(x: Array, states: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
    """The new states [h, c] of an LSTM."""
    h, c = states
    kernel, recurrent_kernel, bias = weights
    kernel_i, kernel_f, kernel_c, kernel_o = np.split(kernel, 4, axis=1)
    recurrent_i, recurrent_f, recurrent_c, recurrent_o = np.split(recurrent_kernel, 4, axis=1)
    bias_i, bias_f, bias_c, bias_o = np.split(bias, 4)
    i = sigmoid(x @ kernel_i + h @ recurrent_i + bias_i)
    f = sigmoid(x @ kernel_f + h @ recurrent_f + bias_f)
    o = sigmoid(x @ kernel_o + h @ recurrent_o + bias_o)
    c = f * c + i * np.tanh(x @ kernel_c + h @ recurrent_c + bias_c)
    return [o * np.tanh(c), c]


@dataclass(frozen=True)
class Kind:
    """One kind of cell: how it steps, and how its weights are laid out."""

    step: Step
    gates: int
    states: int
    bias_rows: int = 1

    def bias_shape(self, units: int) -> tuple[int, ...]:
        columns = self.gates * units
        return (columns,) if self.bias_rows == 1 else (self.bias_rows, columns)


KINDS = {
    "simple_rnn": Kind(simple_rnn_step, gates=1, states=1),
    "gru_reset_after": Kind(gru_reset_after_step, gates=3, states=1, bias_rows=2),
    "gru_reset_before": Kind(gru_reset_before_step, gates=3, states=1),
    "lstm": Kind(lstm_step, gates=4, states=2),
}


def weight_names(options: Mapping[str, Any]) -> list[str]:
    """The names of the weights in their order."""
    projection = ["projection_kernel"] if options.get("proj_size") else []
    bias = ["bias"] if options.get("use_bias", True) else []
    return ["kernel", "recurrent_kernel", *projection, *bias, *(["peephole"] if options.get("peepholes") else [])]


def step_with_options(kind: str, options: Mapping[str, Any]) -> Step:
    """The same cells with the LSTM's variants of ONNX and PyTorch, clipping, and zoneout outside of training.

    clip acts on what goes into the activations of gates and candidates; peepholes are i, f, o, the last one
    reads the new c; with input_forget, f = 1 - i.  Written anew, so that it checks the plain formulas, too.
    """
    gates = KINDS[kind].gates
    limit, zoneout = options.get("clip") or np.inf, options.get("zoneout", 0.0)

    def bounded(z: Array) -> Array:  # np.clip, on complex numbers too
        return np.where(z.real > limit, limit, np.where(z.real < -limit, -limit, z))

    def step(x: Array, states: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
        named = dict(zip(weight_names(options), weights, strict=True))
        h, recurrent = states[0], named["recurrent_kernel"]
        units = recurrent.shape[1] // gates
        columns = [slice(k * units, (k + 1) * units) for k in range(gates)]
        bias = named.get("bias", np.zeros(gates * units))
        input_bias, state_bias = bias if bias.ndim == 2 else (bias, np.zeros(gates * units))
        xs = [x @ named["kernel"][:, at] + input_bias[at] for at in columns]
        hs = [h @ recurrent[:, at] + state_bias[at] for at in columns]
        if kind == "simple_rnn":
            new = [np.tanh(bounded(xs[0] + hs[0]))]
        elif kind == "lstm":
            c = states[1]
            p_i, p_f, p_o = named.get("peephole", np.zeros((3, units)))
            i = sigmoid(bounded(xs[0] + hs[0] + p_i * c))
            f = 1.0 - i if options.get("input_forget") else sigmoid(bounded(xs[1] + hs[1] + p_f * c))
            new_c = f * c + i * np.tanh(bounded(xs[2] + hs[2]))
            new_h = sigmoid(bounded(xs[3] + hs[3] + p_o * new_c)) * np.tanh(new_c)
            new = [new_h @ named["projection_kernel"] if "projection_kernel" in named else new_h, new_c]
        else:
            z, r = sigmoid(bounded(xs[0] + hs[0])), sigmoid(bounded(xs[1] + hs[1]))
            from_h = r * hs[2] if kind == "gru_reset_after" else (r * h) @ recurrent[:, columns[2]]
            new = [z * h + (1.0 - z) * np.tanh(bounded(xs[2] + from_h))]
        return [zoneout * old + (1.0 - zoneout) * value for old, value in zip(states, new, strict=True)]

    return step


def run(
    step: Step,
    x: Array,
    weights: Sequence[Array],
    initial_states: Sequence[Array],
    mask: Array | None = None,
    go_backwards: bool = False,
    resets: Array | None = None,
) -> tuple[Array, list[Array]]:
    """All outputs (batch, time, units) in processing order, and the final states.

    At a masked step the states stay as they are, and the output is the output of the step before
    (in processing order), zeros where there was none.  The output of a step is its first state.
    A reset makes of the row, before that step, what it was before the first one.
    """
    batch, time, _ = x.shape
    states = list(initial_states)
    output = np.zeros_like(states[0])
    outputs = []
    for t in reversed(range(time)) if go_backwards else range(time):
        if resets is not None:
            anew = resets[:, t, None]
            states = [np.where(anew, first, now) for first, now in zip(initial_states, states, strict=True)]
            output = np.where(anew, 0.0, output)
        new_states = step(x[:, t], states, weights)
        valid = np.ones((batch, 1), bool) if mask is None else mask[:, t, None]
        states = [np.where(valid, new, old) for new, old in zip(new_states, states, strict=True)]
        output = np.where(valid, new_states[0], output)
        outputs.append(output)
    return np.stack(outputs, axis=1), states


@dataclass(frozen=True)
class Case:
    """One problem for a recurrent layer: its data, its weights, and the cotangents of its results.

    The loss whose gradients are compared is the sum over the results (the outputs at all steps, then
    the final states) of `cotangent * result`.
    """

    kind: str
    x: Array
    weights: tuple[Array, ...]
    initial_states: tuple[Array, ...]
    cotangents: tuple[Array, ...]
    mask: Array | None = None
    go_backwards: bool = False
    resets: Array | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, **fields: object) -> Case:
        return replace(self, **fields)  # type: ignore[arg-type]


def random_case(
    kind: str,
    seed: int,
    *,
    batch: int = 3,
    time: int = 7,
    features: int = 4,
    units: int = 5,
    mask: Array | None = None,
    go_backwards: bool = False,
    resets: Array | None = None,
    options: Mapping[str, Any] | None = None,
) -> Case:
    """A case with asymmetric random weights, biases and initial states, in float64."""
    rng = np.random.default_rng(seed)
    layout, options = KINDS[kind], options or {}
    outputs = options.get("proj_size") or units
    weights = [
        rng.normal(size=(features, layout.gates * units)) / np.sqrt(features),
        rng.normal(size=(outputs, layout.gates * units)) / np.sqrt(outputs),
        rng.normal(size=layout.bias_shape(units)) * 0.5,
    ]
    states = tuple(rng.normal(size=(batch, n)) * 0.7 for n in [outputs, units][: layout.states])
    cotangents = (rng.normal(size=(batch, time, outputs)), *(rng.normal(size=s.shape) for s in states))
    x = rng.normal(size=(batch, time, features))
    if options.get("peepholes"):
        weights.append(rng.normal(size=(3, units)) * 0.8)
    if not options.get("use_bias", True):
        del weights[2]
    if options.get("proj_size"):
        weights.insert(2, rng.normal(size=(units, outputs)) / np.sqrt(units))
    return Case(kind, x, tuple(weights), states, cotangents, mask, go_backwards, resets, options)


def results(case: Case) -> dict[str, Array]:
    """The outputs and final states of a case, by name."""
    step = step_with_options(case.kind, case.options) if case.options else KINDS[case.kind].step
    outputs, states = run(step, case.x, case.weights, case.initial_states, case.mask, case.go_backwards, case.resets)
    return {"outputs": outputs, **{f"state {k}": state for k, state in enumerate(states)}}


def gradients(case: Case) -> dict[str, Array]:
    """The gradients of the case's loss for x, every weight and every initial state, by complex step."""
    n_weights = len(case.weights)

    def loss(x: Array, *rest: Array) -> Array:
        found = results(case.changed(x=x, weights=rest[:n_weights], initial_states=rest[n_weights:]))
        return sum(np.sum(ct * value) for ct, value in zip(case.cotangents, found.values(), strict=True))

    found = complex_step_gradients(loss, case.x, *case.weights, *case.initial_states)
    return dict(zip(gradient_names(case), found, strict=True))


def gradient_names(case: Case) -> list[str]:
    """The names of the gradients in the order x, weights, initial states."""
    states = [f"gradient of initial state {k}" for k in range(len(case.initial_states))]
    return ["gradient of x", *(f"gradient of {name}" for name in weight_names(case.options)), *states]
