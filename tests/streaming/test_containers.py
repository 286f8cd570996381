"""Streams of containers, and of models that are given something before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer, RecurrentUnit, ops
from minirnn.errors import ArgumentError
from minirnn.layers import (
    GRU,
    LSTM,
    Concatenate,
    Dense,
    Input,
    Masking,
    Reshape,
    SimpleRNN,
)
from minirnn.models import Model
from tests.streaming.models import (
    PADDED,
    B,
    T,
    assert_like_predict,
    draw,
    pushed,
    randomized,
)


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


# Containers and inputs without a time axis ----------------------------------------------------------
def container(**options: Any) -> RecurrentContainer:
    """Two sequences, a constant, a state from a cell and one fed back, and outputs of all kinds."""
    x, more, constant = Input((3,)), Input((2,)), Input((6,))
    h, y_before = Input((4,)), Input((2,))
    out, new_h = RecurrentUnit(SimpleRNN(4))(Concatenate()([x, more, constant, y_before]), states=h)
    y = Dense(2)(out)
    return RecurrentContainer(
        sequence_inputs=[x, more],
        constant_inputs=constant,
        state_inputs=[h, y_before],
        state_outputs=[new_h, y],
        sequence_outputs=[out, y],
        constant_outputs=Dense(3)(out),
        **options,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_states": True, "stateful": True},
        {"state_initializer": ["learned", mr.initializers.Constant(0.7)]},
        {"teacher": [1]},
    ],
    ids=str,
)
def test_container(options: dict[str, Any]) -> None:
    x, constant = Input((None, 3)), Input((6,))
    running = container(**options)
    outputs = running(sequences=[LSTM(3, return_sequences=True)(x), Dense(2)(x)], constants=constant)
    model = randomized(Model([constant, x], outputs))
    stream = assert_like_predict(model, [draw(B, 6), draw(B, T, 3)], [1])
    assert [[a.shape for a in group] for group in stream.state] == [[(B, 3), (B, 3)], [(B, 4), (B, 2)]]


def test_container_with_masks_and_states_that_are_passed() -> None:
    x, h, constant = Input((None, 3)), Input((4,)), Input((6,))
    outputs = container(return_states=True)(
        sequences=[Masking()(x), Dense(2)(x)], constants=constant, states=[Dense(4)(h), None]
    )
    model = randomized(Model([x, h, constant], outputs))
    assert_like_predict(model, [PADDED, draw(B, 4), draw(B, 6)], [0])


def test_attention_over_constants_of_any_number() -> None:
    x, keys, h = Input((3,)), Input((None, 5)), Input((4,))
    weights = ops.softmax(ops.contract("bnf,bf->bn", keys, Dense(5)(h)))
    context = ops.contract("bn,bnf->bf", weights, keys)
    new_h = Dense(4, "tanh")(Concatenate()([x, context, h]))
    running = RecurrentContainer(
        sequence_inputs=x, constant_inputs=keys, state_inputs=h, state_outputs=new_h, sequence_outputs=new_h,
        constant_outputs=context,
    )  # fmt: skip
    xs, all_keys = Input((None, 3)), Input((None, 5))
    model = randomized(Model([xs, all_keys], running(sequences=xs, constants=all_keys)))
    assert_like_predict(model, [draw(B, T, 3), draw(B, 8, 5)], [0])


def test_container_within_a_container() -> None:
    inner_x, inner_h = Input((2,)), Input((3,))
    inner_y = Dense(3, "tanh")(Concatenate()([inner_x, inner_h]))
    inner = RecurrentContainer(
        sequence_inputs=inner_x, state_inputs=inner_h, state_outputs=inner_y, constant_outputs=inner_y
    )
    row, h = Input((5, 2)), Input((3,))
    new_h = Dense(3)(Concatenate()([inner(sequences=row), h]))
    outer = RecurrentContainer(sequence_inputs=row, state_inputs=h, state_outputs=new_h, sequence_outputs=new_h)
    xs = Input((None, 5, 2))
    assert_like_predict(randomized(Model(xs, outer(sequences=xs))), [draw(B, T, 5, 2)], [0])


def test_container_that_makes_its_own_steps() -> None:
    constant, h = Input((6,)), Input((4,))
    running = RecurrentContainer(
        constant_inputs=constant,
        state_inputs=h,
        state_outputs=Dense(4, "tanh")(Concatenate()([constant, h])),
        sequence_outputs=Dense(2)(h),
        output_length=T,
    )
    data = Input((6,), name="theme")
    model = randomized(Model(data, Dense(3)(running(constants=data))))
    stream = assert_like_predict(model, [draw(B, 6)], [])
    assert stream.push().shape == (B, 3)  # it may go on
    by_name = model.stream(B, inputs={"theme": draw(B, 6)})
    np.testing.assert_array_equal(by_name.push(), model.stream(B, draw(B, 6)).push())


def test_initial_state_and_outputs_from_inputs_without_time() -> None:
    x, h, numbers = Input((None, 3)), Input((2,)), Input((10,))
    first = Dense(4)(h)
    read = GRU(3)(Reshape((5, 2))(numbers))  # a sequence of its own, and no part of the stream
    y = GRU(4, return_sequences=True)(x, initial_state=first)
    model = randomized(Model([h, x, numbers], [y, first, read]))
    assert_like_predict(model, [draw(B, 2), draw(B, T, 3), draw(B, 10)], [1])


def test_a_sequence_that_is_known_as_a_whole() -> None:
    source, x, bias = Input((None, 3), name="source"), Input((None, 2), name="x"), Input((4,), name="bias")
    keys, state = GRU(4, return_sequences=True, return_state=True)(source)
    y = GRU(4, return_sequences=True)(x, initial_state=state + bias)
    model = randomized(Model([source, x, bias], [y, keys]))
    with pytest.raises(ArgumentError, match="initial_state"):
        model.stream(B, inputs=draw(B, 4))
    data = [draw(B, 9, 3), draw(B, T, 2), draw(B, 4)]
    stream = model.stream(B, inputs={"source": data[0], "bias": data[2]})
    outputs = pushed(stream, data[1])
    whole, all_keys = model.predict(data)
    np.testing.assert_allclose(np.stack([y for y, _ in outputs], 1), whole, rtol=1e-12)
    np.testing.assert_allclose(outputs[0][1], all_keys, rtol=1e-12)
    model.set_weights([w * 1.1 for w in model.get_weights()])
    stream.reset()
    assert (stream.push(data[1][:, 0])[1] != all_keys).any()
