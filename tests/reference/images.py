"""ConvLSTM from its formulas (Shi et al. 2015, without peepholes): a convolution is a sum of shifted products.

Images stand as (batch, *sizes, channels).  Weights and gates in the order of Keras: i f c o.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.reference.cells import sigmoid

Array = np.ndarray


def convolve(x: Array, kernel: Array, strides: Sequence[int], padding: str, dilation: Sequence[int]) -> Array:
    """The sum over the kernel's offsets of the shifted image times the kernel there."""
    rank, sizes = kernel.ndim - 2, kernel.shape[:-2]
    reach = [d * (k - 1) for k, d in zip(sizes, dilation, strict=True)]
    counts, widths = [], []
    for n, more, step in zip(x.shape[1:-1], reach, strides, strict=True):
        counts.append(-(-n // step) if padding == "same" else -(-(n - more) // step))
        missing = max((counts[-1] - 1) * step + more + 1 - n, 0) if padding == "same" else 0
        widths.append((missing // 2, missing - missing // 2))
    padded = np.pad(x, [(0, 0), *widths, (0, 0)])
    total: Any = 0
    for offset in np.ndindex(*sizes):
        first = [o * d for o, d in zip(offset, dilation, strict=True)]
        parts = [slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(first, counts, strides, strict=True)]
        total = total + padded[(slice(None), *parts)] @ kernel[offset]
    assert total.shape[1 : 1 + rank] == tuple(counts)
    return total


def run(
    x: Array,
    weights: Sequence[Array],
    states: Sequence[Array],
    mask: Array | None = None,
    strides: Sequence[int] = (1, 1),
    padding: str = "valid",
    dilation: Sequence[int] = (1, 1),
    go_backwards: bool = False,
) -> list[Array]:
    """[all outputs in processing order, final h, final c]; a masked step holds states and output."""
    kernel, recurrent_kernel, bias = weights
    ones = (1,) * (kernel.ndim - 2)
    h, c = states
    output, outputs = np.zeros_like(h), []
    times = range(x.shape[1])
    for t in reversed(times) if go_backwards else times:
        z = convolve(x[:, t], kernel, strides, padding, dilation) + bias
        z = z + convolve(h, recurrent_kernel, ones, "same", ones)
        zi, zf, zc, zo = np.split(z, 4, axis=-1)
        new_c = sigmoid(zf) * c + sigmoid(zi) * np.tanh(zc)
        new_h = sigmoid(zo) * np.tanh(new_c)
        valid = np.ones(len(x), bool) if mask is None else mask[:, t]
        valid = valid.reshape(-1, *[1] * (h.ndim - 1))
        h, c, output = np.where(valid, new_h, h), np.where(valid, new_c, c), np.where(valid, new_h, output)
        outputs.append(output)
    return [np.stack(outputs, axis=1), h, c]
