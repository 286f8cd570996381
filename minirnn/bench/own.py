"""Steps of users' own, written as a user writes them: cells as subclasses of Layer, a graph as a container's step."""

from __future__ import annotations

from typing import Any

from ..autodiff import ops
from ..layers import LSTM, RNN, Dense, Input, Layer, LayerNormalization, LSTMCell
from ..layers.container import RecurrentContainer, RecurrentUnit
from .cases import LAYERS


class LayerNormLSTMCell(Layer):
    """An LSTM with normalised gates and a normalised c (Ba et al. 2016, arXiv:1607.06450).

    >>> import numpy as np
    >>> RNN(LayerNormLSTMCell(4))(np.ones((2, 5, 3))).shape
    (2, 4)
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.state_size = [units, units]
        self.x_norm, self.h_norm, self.c_norm = (LayerNormalization(epsilon=1e-5) for _ in range(3))

    def build(self, input_shape: Any) -> None:
        width = 4 * self.units
        self.kernel = self.add_weight("kernel", (input_shape[-1], width), "glorot_uniform")
        self.recurrent_kernel = self.add_weight("recurrent_kernel", (self.units, width), "orthogonal")
        for norm, size in ((self.x_norm, width), (self.h_norm, width), (self.c_norm, self.units)):
            norm.build((None, size))

    def call(self, inputs: Any, states: Any) -> Any:
        """(B, features) and [h, c] to (h, [h, c])."""
        h, c = states
        z = self.x_norm(inputs @ self.kernel) + self.h_norm(h @ self.recurrent_kernel)
        i, f, candidate, o = ops.split(z, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(candidate)
        h = ops.sigmoid(o) * ops.tanh(self.c_norm(c))
        return h, [h, c]


class AttentionLSTMCell(Layer):
    """An LSTM that looks at constant vectors (B, slots, size), weighted by their products with a query made from h.

    >>> import numpy as np
    >>> RNN(AttentionLSTMCell(4))(np.ones((2, 5, 3)), constants=[np.ones((2, 6, 4))]).shape
    (2, 4)
    """

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.state_size = [units, units]

    def build(self, input_shape: Any) -> None:
        width = 4 * self.units
        self.kernel = self.add_weight("kernel", (input_shape[-1], width), "glorot_uniform")
        self.context_kernel = self.add_weight("context_kernel", (self.units, width), "glorot_uniform")
        self.recurrent_kernel = self.add_weight("recurrent_kernel", (self.units, width), "orthogonal")
        self.bias = self.add_weight("bias", (width,), "zeros")
        self.query_kernel = self.add_weight("query_kernel", (self.units, self.units), "glorot_uniform")

    def call(self, inputs: Any, states: Any, constants: Any) -> Any:
        """(B, features), [h, c] and the vectors to (h, [h, c])."""
        h, c = states
        (vectors,) = constants
        query = h @ self.query_kernel
        weights = ops.softmax(ops.contract("bd,bkd->bk", query, vectors))
        context = ops.contract("bk,bkd->bd", weights, vectors)
        z = inputs @ self.kernel + self.bias + context @ self.context_kernel + h @ self.recurrent_kernel
        i, f, candidate, o = ops.split(z, 4, axis=-1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(candidate)
        h = ops.sigmoid(o) * ops.tanh(c)
        return h, [h, c]


def fed_back_lstm(units: int, steps: int) -> RecurrentContainer:
    """A decoder: it reads what it wrote at the step before, and begins with the states that it is given.

    >>> import numpy as np
    >>> fed_back_lstm(4, 5)(states=[None, np.ones((2, 4)), np.ones((2, 4))]).shape
    (2, 5, 4)
    """
    before, h, c = Input((units,)), Input((units,)), Input((units,))
    y, next_h, next_c = RecurrentUnit(LSTM(units))(before, states=[h, c])
    written = Dense(units)(y)
    return RecurrentContainer(
        state_inputs=[before, h, c],
        state_outputs=[written, next_h, next_c],
        sequence_outputs=written,
        output_length=steps,
    )


def layer_norm_lstm(units: int) -> RNN:
    """The layer-normalised LSTM over time."""
    return RNN(LayerNormLSTMCell(units), return_sequences=True)


def attention_lstm(units: int) -> RNN:
    """The LSTM with attention over time; the vectors are its one constant."""
    return RNN(AttentionLSTMCell(units), return_sequences=True)


def stacked_lstm(units: int) -> RNN:
    """LSTM cells on top of each other, all of them in one step."""
    return RNN([LSTMCell(units) for _ in range(LAYERS)], return_sequences=True)
