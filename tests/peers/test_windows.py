"""fit(tbptt=) on sequences of different lengths against the same training written by hand in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.layers import LSTM, Dense, Input
from minirnn.models import Sequential
from tests.peers import Need
from tests.reference.checks import max_error

pytestmark = pytest.mark.peers

LENGTHS, WINDOW, RATE = [7, 4, 9, 1], 3, 0.2
RNG = np.random.default_rng(14)
X = mr.Ragged([RNG.normal(size=(n, 3)) for n in LENGTHS])
Y = mr.Ragged([RNG.normal(size=(n, 2)) for n in LENGTHS])


def train_torch(torch: Any, weights: list[np.ndarray], epochs: int) -> list[np.ndarray]:
    """Windows of padded rows, states detached in between; a row that has ended is left out, so that its state stays."""
    kernel, recurrent_kernel, bias, head_kernel, head_bias = weights
    lstm = torch.nn.LSTM(3, 5, batch_first=True, dtype=torch.float64)
    head = torch.nn.Linear(5, 2, dtype=torch.float64)
    with torch.no_grad():
        for parameter, value in [
            (lstm.weight_ih_l0, kernel.T), (lstm.weight_hh_l0, recurrent_kernel.T), (lstm.bias_ih_l0, bias),
            (lstm.bias_hh_l0, 0 * bias), (head.weight, head_kernel.T), (head.bias, head_bias),
        ]:  # fmt: skip
            parameter.copy_(torch.tensor(np.ascontiguousarray(value)))
    lstm.bias_hh_l0.requires_grad_(False)
    parameters = [*(p for p in lstm.parameters() if p.requires_grad), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, RATE)
    x, y, lengths = torch.tensor(X.padded()), torch.tensor(Y.padded()), np.array(LENGTHS)
    for _ in range(epochs):
        h, c = torch.zeros(4, 5, dtype=torch.float64), torch.zeros(4, 5, dtype=torch.float64)
        for start in range(0, max(LENGTHS), WINDOW):
            steps = np.clip(lengths - start, 0, WINDOW)
            rows = np.flatnonzero(steps)
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                x[rows, start : start + WINDOW], torch.tensor(steps[rows]), batch_first=True, enforce_sorted=False
            )
            out, (h_new, c_new) = lstm(packed, (h[None, rows], c[None, rows]))
            out = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0]
            valid = torch.tensor(np.arange(out.shape[1]) < steps[rows][:, None])
            error = (head(out) - y[rows, start : start + out.shape[1]]) ** 2
            optimizer.zero_grad()
            error[valid].mean().backward()
            optimizer.step()
            h, c = h.clone(), c.clone()
            h[rows], c[rows] = h_new[0].detach(), c_new[0].detach()
    found = [lstm.weight_ih_l0.T, lstm.weight_hh_l0.T, lstm.bias_ih_l0, head.weight.T, head.bias]
    return [p.detach().numpy() for p in found]


def test_truncated_training_equals_torch(need: Need) -> None:
    model = Sequential(
        [Input((None, 3), dtype="float64"), LSTM(5, return_sequences=True, dtype="float64"), Dense(2, dtype="float64")]
    )
    model.set_weights([RNG.normal(size=w.shape) / 2 for w in model.get_weights()])
    want = train_torch(need("torch"), model.get_weights(), epochs=3)
    model.compile(mr.optimizers.SGD(RATE), "mse")
    model.fit(X, Y, batch_size=4, epochs=3, shuffle=False, verbose=0, tbptt=WINDOW)
    assert max(max_error(a, b) for a, b in zip(model.get_weights(), want, strict=True)) < 1e-12
