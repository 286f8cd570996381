"""Models of many kinds with data for them, and the comparison of a stream with the whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minirnn as mr
from minirnn import ops
from minirnn.autodiff import trees
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Add,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    GRUCell,
    Input,
    Lambda,
    Layer,
    LayerNormalization,
    LSTMCell,
    Masking,
    Multiply,
    Reshape,
    SimpleRNN,
)
from minirnn.models import Model, Sequential

B, T = 3, 6


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape) + 7 * len(shape)).normal(size=shape)


def randomized(model: Any) -> Any:
    """The model with all weights asymmetric, biases and learned states included."""
    rng = np.random.default_rng(len(model.weights))
    model.set_weights([0.5 * rng.normal(size=v.shape) for v in model.weights])
    return model


def pushed(stream: Any, *sequences: Any, masks: Any = None, steps: int = T) -> list[Any]:
    """What each step returned, as lists of arrays."""
    outputs = [
        stream.push(*[x[:, t] for x in sequences], mask=None if masks is None else masks[:, t]) for t in range(steps)
    ]
    return [trees.flatten(y)[0] for y in outputs]


def assert_like_predict(
    model: Any, given: list[Any], timed: list[int], steps: int = T, rtol: float = 1e-12, atol: float = 1e-13
) -> Any:
    """Every output with time equals its step of the whole sequence, the others the end of it."""
    fixed = [x for i, x in enumerate(given) if i not in timed]
    stream = model.stream(B, inputs=fixed or None)
    outputs = pushed(stream, *[given[i] for i in timed], steps=steps)
    whole = trees.flatten(model.predict(given if len(given) > 1 else given[0]))[0]
    for index, (symbol, wanted) in enumerate(zip(model.outputs, whole, strict=True)):
        of_steps = [y[index] for y in outputs]
        found = np.stack(of_steps, 1) if of_steps[0].ndim < symbol.ndim else of_steps[-1]
        np.testing.assert_allclose(found, wanted, rtol, atol)
    return stream


# Models of many kinds --------------------------------------------------------------------------------
def layered() -> Model:
    x = Input((None, 3))
    h = LSTM(4, return_sequences=True)(Dropout(0.5)(Dense(5, "tanh")(x)))
    h = GRU(5, return_sequences=True, reset_after=False, dropout=0.3)(LayerNormalization()(h))
    gate = Dense(5, "sigmoid")(h)
    joined = Concatenate()([Multiply()([gate, h]), x, Add()([h, h])])
    return Model(x, Dense(2, "softmax")(SimpleRNN(4, return_sequences=True)(joined)))


def last_only() -> Model:
    x = Input((None, 3))
    return Model(x, {"last": Dense(2)(LSTM(4)(x)), "all": GRU(3, return_sequences=True)(x)})


def with_states() -> Model:
    x = Input((None, 3))
    y, h, c = LSTM(4, return_sequences=True, return_state=True)(x)
    return Model(x, [y, Dense(2)(h), c])


def shared_and_nested() -> Model:
    x, z = Input((None, 3)), Input((None, 3))
    y, h = GRU(3, return_sequences=True, return_state=True)(x)
    inner = Model(x, [y, Dense(2)(h)])
    first, h = inner(Dense(3)(z))
    second, _ = inner(first)
    return Model(z, [SimpleRNN(2, return_sequences=True)(second), h])


def stacked() -> Model:
    x = Input((None, 3))
    return Model(x, RNN([LSTMCell(3), GRUCell(4), OwnCell()], return_sequences=True, return_state=True)(x))


def two_layers() -> Model:
    return randomized(Sequential([Input((None, 3)), LSTM(4, return_sequences=True), GRU(2, return_sequences=True)]))


class OwnCell:
    """A plain class with two states of different ranks, whose output is neither of them."""

    state_size = [(2, 4), 2]
    output_size = 5

    def __init__(self) -> None:
        self.kernel = mr.Variable(draw(4, 5))
        self.decay = draw(2)

    def get_initial_state(self, inputs: Any, batch_size: int, dtype: str) -> Any:
        return [ops.zeros((batch_size, 2, 4), dtype) + 0.1, ops.ones((batch_size, 2), inputs.dtype)]

    def call(self, x: Any, states: Any) -> Any:
        slow, fast = states
        slow = 0.5 * slow + ops.reshape(x, (x.shape[0], 1, 4))
        fast = fast * self.decay + x[:, :2]
        return x @ self.kernel + ops.sum(slow, (1, 2))[:, None], [slow, fast]


def joined_behind() -> Model:
    x, more = Input((None, 3)), Input((None, 2))
    return Model([x, more], Concatenate()([LSTM(4, return_sequences=True)(x), more]))


def of_fixed_length() -> Model:
    x, more = Input((T, 3)), Input((T, 4))
    return Model([x, more], Reshape((-1, 2, 2))(Add()([LSTM(4, return_sequences=True)(x), more])))


def time_major() -> Model:
    def turned(x: Any) -> Any:
        return ops.transpose(x, (1, 0, 2))

    x = Input((None, 3))
    return Model(x, Lambda(turned)(LSTM(4, time_major=True, return_sequences=True)(Lambda(turned)(x))))


def of_operations() -> Model:
    x = Input((None, 4))
    y = GRU(4, return_sequences=True)(ops.tanh(x) * 2 + x[:, :, ::-1])
    a, b = ops.split(y, 2, axis=2)
    top = ops.max(y, axis=-1, keepdims=True) + ops.softmax(ops.stack([a, b], axis=3), axis=2)[..., 0]
    return Model(x, ops.concatenate([top, ops.zeros_like(top)], axis=-1))


def of_own_layers() -> Model:
    class PerStep(Layer):
        """Joins time with the batch and parts them again, as wrappers do, with a loop over features inside."""

        def build(self, input_shape: Any) -> None:
            self.kernel = self.add_weight("kernel", (input_shape[-1], 2))

        def call(self, inputs: Any) -> Any:
            rows = ops.reshape(inputs, (inputs.shape[0] * inputs.shape[1], inputs.shape[2])) @ self.kernel
            total, running = mr.scan(lambda s, x: (s + x, s * x), rows[:, 0], ops.transpose(rows))
            return ops.reshape(ops.transpose(running) + total[:, None], (*inputs.shape[:2], 2))

    x = Input((None, 3))
    return Model(x, GRU(4)(PerStep()(x)))


def without_recurrence() -> Model:
    x = Input((None, 3))
    return Model(x, LayerNormalization()(Dense(4, "relu")(x)))


def from_ids() -> Model:
    ids = Input((None,), dtype="int32")
    y = LSTM(4, return_sequences=True)(Embedding(9, 5, mask_zero=True)(ids))
    return Model(ids, [Dense(2)(GRU(3, return_sequences=True, zero_output_for_mask=True)(y)), SimpleRNN(2)(y)])


def masked_by_values() -> Model:
    x = Input((None, 3))
    y, h, c = LSTM(4, return_sequences=True, return_state=True)(Masking()(x))
    return Model(x, [y, h, c, GRU(2)(Concatenate()([y, x]))])


def masked_by_input() -> Model:
    x, valid = Input((None, 3)), Input((None,), dtype="bool")
    return Model([x, valid], [LSTM(3, return_sequences=True)(x, mask=valid), GRU(2)(x, mask=valid)])


PADDED = np.where(np.random.default_rng(3).random((B, T, 1)) > 0.4, draw(B, T, 3), 0)
IDS = np.array([[0, 4, 1, 0, 0, 8], [3, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
MASK = np.array([[0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool)

MODELS: dict[str, tuple[Callable[[], Model], list[Any]]] = {
    "layers": (layered, [draw(B, T, 3)]),
    "last outputs": (last_only, [draw(B, T, 3)]),
    "states as outputs": (with_states, [draw(B, T, 3)]),
    "shared layers in nested models": (shared_and_nested, [draw(B, T, 3)]),
    "stacked cells": (stacked, [draw(B, T, 3)]),
    "input joined behind the recurrent layer": (joined_behind, [draw(B, T, 3), draw(B, T, 2)]),
    "fixed length": (of_fixed_length, [draw(B, T, 3), draw(B, T, 4)]),
    "time first": (time_major, [draw(B, T, 3)]),
    "operations": (of_operations, [draw(B, T, 4)]),
    "own layers": (of_own_layers, [draw(B, T, 3)]),
    "nothing recurrent": (without_recurrence, [draw(B, T, 3)]),
    "numbers with padding": (from_ids, [IDS]),
    "masked values": (masked_by_values, [PADDED]),
    "a mask as input": (masked_by_input, [draw(B, T, 3), MASK]),
}
