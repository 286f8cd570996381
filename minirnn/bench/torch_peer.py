"""PyTorch: its fused modules, and loops over time in Python with the products of x taken out of them by hand.

With oneDNN switched off no fused module is faster (2.13: LSTM much slower, the others equal), so that is no variant.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import BUILT_IN
from .contestants import Arrays, Contestant, Work

_MODULES = {"simple_rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
# Where each of PyTorch's gates stands in Keras's order, and the other way round: r z n to z r h, i f g o as it is.
_GATES = {"simple_rnn": [0], "gru": [1, 0, 2], "lstm": [0, 1, 2, 3]}
Weights = list[Any]


def contestants(work: Work, threads: int) -> list[Contestant]:
    """The loop, and for the built-in cells the fused module in its variants."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    if work.case.cell == "conv_lstm":
        return [_images(torch, work, channels_last=channels_last) for channels_last in (True, False)]
    found = [_loop(torch, work)]
    if work.case.cell in BUILT_IN:
        found += [fused(torch, work, batch_first=batch_first) for batch_first in (True, False)]
    return found


def _contestant(
    torch: Any,
    work: Work,
    name: str,
    forward: Callable[[], Any],
    weights: Weights,
    batch_first: bool,
    to_keras: Callable[[Arrays], Arrays] = list,
) -> Contestant:
    """A forward pass in inference mode, or with training the gradients of its sum."""

    def train() -> Any:
        return torch.autograd.grad(forward().sum(), weights)

    def results() -> Arrays:
        if work.case.training:
            return to_keras([gradient.cpu().numpy() for gradient in train()])
        outputs = forward().cpu().numpy()
        return [outputs if batch_first else outputs.swapaxes(0, 1)]

    if work.case.training:
        return Contestant(f"torch, {name}", "torch", train, results)
    return Contestant(f"torch, {name}", "torch", forward, results, torch.inference_mode)


# fused -------------------------------------------------------------------------------------------
def fused(torch: Any, work: Work, batch_first: bool, place: str = "cpu") -> Contestant:
    """PyTorch's own module for a built-in cell, on a device of torch's."""
    cell, units = work.case.cell, work.case.units
    kernel, recurrent_kernel, bias = (_reordered(cell, w) for w in work.weights)
    # Only the GRU needs both of PyTorch's biases: its second one is under the reset gate.
    input_bias, state_bias = bias if cell == "gru" else (bias, np.zeros_like(bias))
    module = getattr(torch.nn, _MODULES[cell])(units, units, batch_first=batch_first)
    values = {
        "weight_ih_l0": kernel.T,  # as PyTorch calls them
        "weight_hh_l0": recurrent_kernel.T,
        "bias_ih_l0": input_bias,
        "bias_hh_l0": state_bias,
    }
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(torch.tensor(np.ascontiguousarray(value)))
    module.to(place).flatten_parameters()
    module.bias_hh_l0.requires_grad_(cell == "gru")
    x = _array(torch, np.asarray(work.inputs[0]), batch_first).to(place)
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def to_keras(gradients: Arrays) -> Arrays:
        of_kernel, of_recurrent_kernel, *of_biases = gradients
        of_bias = np.stack(of_biases) if cell == "gru" else of_biases[0]
        return [_reordered(cell, g) for g in (of_kernel.T, of_recurrent_kernel.T, of_bias)]

    name = f"fused, {'batch' if batch_first else 'time'} first"
    return _contestant(torch, work, name, lambda: module(x)[0], weights, batch_first, to_keras)


def _reordered(cell: str, array: np.ndarray) -> np.ndarray:
    gates = np.split(array, len(_GATES[cell]), axis=-1)
    return np.concatenate([gates[k] for k in _GATES[cell]], axis=-1)


def _array(torch: Any, array: np.ndarray, batch_first: bool) -> Any:
    return torch.tensor(np.ascontiguousarray(array if batch_first else array.swapaxes(0, 1)))


# loops -------------------------------------------------------------------------------------------
def _loop(torch: Any, work: Work) -> Contestant:
    weights = [torch.tensor(w, requires_grad=work.case.training) for w in work.weights]
    # Sequences time first, as suits a loop; the attention's vectors and the decoder's states as they are.
    is_sequence = [array.ndim == 3 and index == 0 for index, array in enumerate(work.inputs)]
    inputs = [_array(torch, array, not sequence) for array, sequence in zip(work.inputs, is_sequence, strict=True)]
    program, steps = _PROGRAMS[work.case.cell], work.case.steps
    return _contestant(
        torch, work, "loop", lambda: torch.stack(program(torch, weights, inputs, steps)), weights, batch_first=False
    )


def _zeros(x: Any, units: int) -> Any:
    return x.new_zeros((x.shape[1], units))


def _gates(z: Any, c: Any, axis: int = -1) -> tuple[Any, Any]:
    i, f, candidate, o = z.chunk(4, axis)
    c = f.sigmoid() * c + i.sigmoid() * candidate.tanh()
    return o.sigmoid() * c.tanh(), c


def _simple_rnn(torch: Any, weights: Weights, inputs: list[Any], steps: int) -> list[Any]:
    kernel, recurrent_kernel, bias = weights
    (x,) = inputs
    h, ys = _zeros(x, kernel.shape[1]), []
    for z in (x @ kernel + bias).unbind(0):
        h = torch.addmm(z, h, recurrent_kernel).tanh()
        ys.append(h)
    return ys


def _gru(torch: Any, weights: Weights, inputs: list[Any], steps: int) -> list[Any]:
    kernel, recurrent_kernel, (input_bias, state_bias) = weights
    (x,) = inputs
    h, ys = _zeros(x, recurrent_kernel.shape[0]), []
    for x_part in (x @ kernel + input_bias).unbind(0):
        xz, xr, xh = x_part.chunk(3, -1)
        hz, hr, hh = torch.addmm(state_bias, h, recurrent_kernel).chunk(3, -1)
        z, r = (xz + hz).sigmoid(), (xr + hr).sigmoid()
        candidate = (xh + r * hh).tanh()
        h = candidate + z * (h - candidate)
        ys.append(h)
    return ys


def _lstm(torch: Any, weights: Weights, inputs: list[Any], steps: int) -> list[Any]:
    kernel, recurrent_kernel, bias = weights
    (x,) = inputs
    h, ys = _zeros(x, recurrent_kernel.shape[0]), []
    c = h
    for z in (x @ kernel + bias).unbind(0):
        h, c = _gates(torch.addmm(z, h, recurrent_kernel), c)
        ys.append(h)
    return ys


def _layer_norm_lstm(torch: Any, weights: Weights, inputs: list[Any], steps: int) -> list[Any]:
    kernel, recurrent_kernel, x_gamma, x_beta, h_gamma, h_beta, c_gamma, c_beta = weights
    (x,), units = inputs, recurrent_kernel.shape[0]

    def norm(z: Any, gamma: Any, beta: Any) -> Any:
        return torch.nn.functional.layer_norm(z, z.shape[-1:], gamma, beta, 1e-5)

    h, ys = _zeros(x, units), []
    c = h
    for x_part in norm(x @ kernel, x_gamma, x_beta).unbind(0):
        i, f, candidate, o = (x_part + norm(h @ recurrent_kernel, h_gamma, h_beta)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * candidate.tanh()
        h = o.sigmoid() * norm(c, c_gamma, c_beta).tanh()
        ys.append(h)
    return ys


def _attention_lstm(torch: Any, weights: Weights, inputs: list[Any], steps: int) -> list[Any]:
    kernel, context_kernel, recurrent_kernel, bias, query_kernel = weights
    x, vectors = inputs
    columns = vectors.transpose(1, 2)
    h, ys = _zeros(x, recurrent_kernel.shape[0]), []
    c = h
    for x_part in (x @ kernel + bias).unbind(0):
        scores = torch.bmm((h @ query_kernel)[:, None], columns)
        context = torch.bmm(scores.softmax(-1), vectors)[:, 0]
        z = torch.addmm(torch.addmm(x_part, context, context_kernel), h, recurrent_kernel)
        h, c = _gates(z, c)
        ys.append(h)
    return ys


def _fed_back_lstm(torch: Any, weights: Weights, inputs: list[Any], steps: int) -> list[Any]:
    kernel, recurrent_kernel, bias, out_kernel, out_bias = weights
    h, c = inputs
    y, ys = torch.zeros_like(h), []
    for _ in range(steps):
        h, c = _gates(torch.addmm(torch.addmm(bias, y, kernel), h, recurrent_kernel), c)
        y = torch.addmm(out_bias, h, out_kernel)
        ys.append(y)
    return ys


def _stacked_lstm(torch: Any, weights: Weights, inputs: list[Any], steps: int) -> list[Any]:
    """Layer after layer, so that the later ones' products with their inputs leave the loop as well."""
    (x,) = inputs
    ys: list[Any] = []
    for layer in range(0, len(weights), 3):
        ys = _lstm(torch, weights[layer : layer + 3], [torch.stack(ys) if ys else x], steps)
    return ys


# images ------------------------------------------------------------------------------------------
def _images(torch: Any, work: Work, channels_last: bool) -> Contestant:
    """A ConvLSTM2D as a loop, in either order in which torch may keep images; the inputs' is made beforehand."""
    weights = [torch.tensor(w, requires_grad=work.case.training) for w in work.weights]
    kernel, recurrent_kernel, bias = weights
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = _array(torch, work.inputs[0], batch_first=False)
    steps, batch, *sizes, _ = x.shape
    images = x.flatten(0, 1).movedim(-1, 1).contiguous(memory_format=layout)
    convolved = torch.nn.functional.conv2d

    def forward() -> Any:
        of_x, of_h = (w.permute(3, 2, 0, 1) for w in (kernel, recurrent_kernel))
        x_parts = convolved(images, of_x, bias, padding="same").unflatten(0, (steps, batch))
        h = x.new_zeros((batch, recurrent_kernel.shape[2], *sizes)).contiguous(memory_format=layout)
        c, ys = h, []
        for x_part in x_parts.unbind(0):
            h, c = _gates(x_part + convolved(h, of_h, padding="same"), c, axis=1)
            ys.append(h)
        return torch.stack(ys).movedim(2, -1)

    name = f"loop, channels {'last' if channels_last else 'first'}"
    return _contestant(torch, work, name, forward, weights, batch_first=False)


_PROGRAMS: dict[str, Callable[[Any, Weights, list[Any], int], list[Any]]] = {
    "simple_rnn": _simple_rnn,
    "gru": _gru,
    "lstm": _lstm,
    "layer_norm_lstm": _layer_norm_lstm,
    "attention_lstm": _attention_lstm,
    "fed_back_lstm": _fed_back_lstm,
    "stacked_lstm": _stacked_lstm,
}
