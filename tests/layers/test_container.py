"""RecurrentContainer: its groups, what a call takes and returns, and plain layers as containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer, RecurrentUnit
from minirnn.errors import DtypeError
from minirnn.layers import GRU, LSTM, RNN, Dense, Embedding, Flatten, Input, SimpleRNN
from minirnn.models import Model
from tests.reference.cells import Array


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape) + len(shape)).normal(size=shape)


def arrays(results: Any) -> list[Array]:
    return [np.asarray(r) for r in (results if isinstance(results, list) else [results])]


def same(found: Any, wanted: Any) -> None:
    assert isinstance(found, list) == isinstance(wanted, list)
    for one, other in zip(arrays(found), arrays(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13)


# The program of the issue -------------------------------------------------------------------------
def test_constant_outputs_are_fed_back_where_no_state_outputs_are_given() -> None:
    """D1: the same container with state_outputs given."""
    x, h = Input((4,)), Input((5,))
    out, new_h = RecurrentUnit(SimpleRNN(5))(x, states=h)
    short = RecurrentContainer(sequence_inputs=x, sequence_outputs=out, state_inputs=h, constant_outputs=new_h)
    full = RecurrentContainer(
        sequence_inputs=[x], sequence_outputs=[out], state_inputs=[h], constant_outputs=[new_h], state_outputs=[new_h]
    )
    same(short(draw(3, 6, 4)), full(draw(3, 6, 4)))
    assert [a.shape for a in arrays(short(draw(3, 6, 4)))] == [(3, 6, 5), (3, 5)]


def test_one_constant_output_is_a_bare_2d_tensor() -> None:
    x, h = Input((4,)), Input((5,))
    out, new_h = RecurrentUnit(SimpleRNN(5))(x, states=h)
    container = RecurrentContainer(sequence_inputs=x, constant_outputs=out, state_inputs=h, state_outputs=new_h)
    data = Input((None, 4))
    last = container(sequences=data)
    assert last.shape == (None, 5)
    model = Model(inputs=data, outputs=last)
    layer = SimpleRNN(5)
    layer.build((None, None, 4))
    layer.set_weights(container.get_weights())
    same(model(draw(3, 6, 4)), layer(draw(3, 6, 4)))


@pytest.mark.parametrize("engine", ["reference", "numpy"])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda **o: SimpleRNN(5, **o),
        lambda **o: GRU(5, **o),
        lambda **o: GRU(5, reset_after=False, **o),
        lambda **o: LSTM(5, **o),
        lambda **o: LSTM(5, activation="relu", use_bias=False, **o),
        lambda **o: RNN([mr.layers.GRUCell(6), mr.layers.LSTMCell(5)], **o),
    ],
    ids=["SimpleRNN", "GRU", "GRU reset before", "LSTM", "LSTM relu", "stack"],
)
def test_container_of_a_unit_equals_the_layer(make: Any, masked: bool, go_backwards: bool, engine: str) -> None:
    """With the same weights: outputs at all steps, the last one, and the states."""
    layer = make(return_sequences=True, return_state=True, go_backwards=go_backwards)
    x = draw(3, 6, 4)
    layer(x)
    layer.set_weights([draw(*w.shape) * 0.5 for w in layer.weights])
    unit = RecurrentUnit(make())
    states, step_x = [Input((units,)) for units in state_sizes(layer)], Input((4,))
    out, *new_states = unit(step_x, states=states)
    container = RecurrentContainer(
        sequence_inputs=step_x,
        sequence_outputs=out,
        constant_outputs=out,
        state_inputs=states,
        state_outputs=new_states,
        return_states=True,
        go_backwards=go_backwards,
    )
    container.set_weights(layer.get_weights())
    mask = np.array([[0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool) if masked else None
    with mr.engine(engine):
        outputs, *layer_states = layer(x, mask=mask)
        sequence, last, *container_states = container(x, mask=mask)
    same(sequence, outputs)
    same(last, outputs[:, -1])
    flat = [s for group in layer_states for s in (group if isinstance(group, (list, tuple)) else [group])]
    same(container_states, flat)


def state_sizes(layer: Any) -> list[int]:
    sizes: list[int] = []
    for cell in getattr(layer.cell, "cells", [layer.cell]):
        sizes += cell.state_size if isinstance(cell.state_size, list) else [cell.state_size]
    return sizes


# Groups -------------------------------------------------------------------------------------------
def adder() -> dict[str, Any]:
    """y = x + c + y_before in the container's groups."""
    x, c, y_before = Input((2,)), Input((2,)), Input((2,))
    y = x + c + y_before
    inputs = {"sequence_inputs": x, "constant_inputs": c, "state_inputs": y_before}
    return inputs | {"state_outputs": y, "sequence_outputs": y}


def by_hand(x: Array, c: Array, y: Array) -> Array:
    return y[:, None] + np.cumsum(x + c[:, None], axis=1)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: [t], lambda t: (t,)], ids=["bare", "list", "tuple"])
def test_groups_take_bare_tensors_lists_and_tuples(wrap: Any) -> None:
    groups = {group: wrap(tensor) for group, tensor in adder().items()}
    container = RecurrentContainer(**groups)
    x, c, y = draw(3, 5, 2), draw(3, 2), draw(3, 2)
    same(container(sequences=wrap(x), constants=wrap(c), states=wrap(y)), mr.Tensor(by_hand(x, c, y)))
    same(container(wrap(mr.Tensor(x)), constants=wrap(c)), mr.Tensor(by_hand(x, c, 0 * y)))


def test_a_callers_lists_are_left_alone() -> None:
    groups = {group: [tensor] for group, tensor in adder().items()} | {"constant_outputs": []}
    before = {group: list(tensors) for group, tensors in groups.items()}
    container = RecurrentContainer(**groups)
    x = [draw(3, 5, 2)]
    container(x, constants=draw(3, 2))
    assert all(a is b for group in groups for a, b in zip(groups[group], before[group], strict=True))
    assert len(x) == 1
    groups["sequence_outputs"].append(groups["sequence_outputs"][0])
    assert not isinstance(container(draw(4, 5, 2), constants=draw(4, 2)), list)


def test_return_order_and_bareness() -> None:
    """D2: sequence_outputs + constant_outputs (+ states), bare if one."""
    x, h, c = Input((4,)), Input((5,)), Input((5,))
    out, new_h, new_c = RecurrentUnit(LSTM(5))(x, states=[h, c])
    read, wide = Dense(3)(out), Dense(7)(out)
    data = draw(3, 6, 4)

    def shapes(**groups: Any) -> Any:
        container = RecurrentContainer(sequence_inputs=x, state_inputs=[h, c], state_outputs=[new_h, new_c], **groups)
        found = container(data)
        symbolic = container(Input((6, 4), batch_size=3))
        if not isinstance(found, list):
            assert found.shape == symbolic.shape
            return found.shape
        assert [t.shape for t in found] == [t.shape for t in symbolic]
        return [t.shape for t in found]

    assert shapes(sequence_outputs=read) == (3, 6, 3)
    assert shapes(constant_outputs=wide) == (3, 7)
    assert shapes(sequence_outputs=[read, wide]) == [(3, 6, 3), (3, 6, 7)]
    assert shapes(constant_outputs=[wide, read]) == [(3, 7), (3, 3)]
    assert shapes(sequence_outputs=[wide], constant_outputs=[read]) == [(3, 6, 7), (3, 3)]
    assert shapes(sequence_outputs=read, return_states=True) == [(3, 6, 3), (3, 5), (3, 5)]
    assert shapes(return_states=True) == [(3, 5), (3, 5)]
    everything = shapes(sequence_outputs=[read, wide], constant_outputs=[wide, read], return_states=True)
    assert everything == [(3, 6, 3), (3, 6, 7), (3, 7), (3, 3), (3, 5), (3, 5)]


def test_one_state_alone_is_bare() -> None:
    groups = adder()
    del groups["sequence_outputs"]
    container = RecurrentContainer(**groups, return_states=True)
    x, c, y = draw(3, 5, 2), draw(3, 2), draw(3, 2)
    same(container(x, constants=c, states=y), mr.Tensor(by_hand(x, c, y)[:, -1]))


def test_the_same_output_tensor_may_stand_in_every_output_list() -> None:
    groups = adder()
    y = groups["sequence_outputs"]
    container = RecurrentContainer(
        **groups | {"sequence_outputs": [y, y], "constant_outputs": [y, y]}, return_states=True
    )
    x, c = draw(3, 5, 2), draw(3, 2)
    wanted = by_hand(x, c, np.zeros((3, 2)))
    same(
        container(x, constants=c), [mr.Tensor(a) for a in (wanted, wanted, wanted[:, -1], wanted[:, -1], wanted[:, -1])]
    )


def test_inputs_may_be_outputs() -> None:
    """A step that passes its input on: a delay by one step."""
    x, before = Input((2,)), Input((2,))
    delay = RecurrentContainer(sequence_inputs=x, state_inputs=before, state_outputs=x, sequence_outputs=before)
    data = draw(3, 5, 2)
    wanted = np.concatenate([np.zeros((3, 1, 2)), data[:, :-1]], axis=1)
    same(delay(data), mr.Tensor(wanted))


def test_a_constant_alone_becomes_a_sequence() -> None:
    c, y_before = Input((2,)), Input((2,))
    y = c + y_before
    container = RecurrentContainer(
        constant_inputs=c, state_inputs=y_before, state_outputs=y, sequence_outputs=y, output_length=5
    )
    value = draw(3, 2)
    wanted = value[:, None] * np.arange(1, 6)[:, None]
    same(container(constants=value), mr.Tensor(wanted))
    same(container(constants=value, output_length=2), mr.Tensor(wanted[:, :2]))
    assert container(constants=value, output_length=0).shape == (3, 0, 2)
    symbolic = Input((2,))
    model = Model(symbolic, [container(constants=symbolic), container(constants=symbolic, output_length=3)])
    same(model(value), [mr.Tensor(wanted), mr.Tensor(wanted[:, :3])])


def test_states_alone_make_a_sequence() -> None:
    before = Input((2,))
    container = RecurrentContainer(
        state_inputs=before, state_outputs=before * 2, sequence_outputs=before, output_length=4
    )
    value = draw(3, 2)
    same(container(states=value), mr.Tensor(value[:, None] * 2.0 ** np.arange(4)[:, None]))
    symbolic = Input((2,))
    same(Model(symbolic, container(states=symbolic))(value), container(states=value))


def test_several_sequences_constants_and_states_are_paired_by_position() -> None:
    x1, x2, c1, c2 = Input((2,)), Input((3,)), Input((4,)), Input((5,))
    s1, s2 = Input((6,)), Input((7,))
    container = RecurrentContainer(
        sequence_inputs=[x1, x2],
        constant_inputs=[c1, c2],
        state_inputs=[s1, s2],
        state_outputs=[s1 + 1, s2 * 2],
        sequence_outputs=[x2 * 2, c1 - 1, s2, x1],
        constant_outputs=[c2, s1],
        return_states=True,
    )
    a, b, c, d, e, f = (draw(3, *s) for s in ((4, 2), (4, 3), (4,), (5,), (6,), (7,)))
    y1, y2, y3, y4, l1, l2, f1, f2 = arrays(container([a, b], constants=[c, d], states=[e, f]))
    np.testing.assert_array_equal(y1, b * 2)
    np.testing.assert_array_equal(y2, np.repeat(c[:, None] - 1, 4, axis=1))
    np.testing.assert_allclose(y3, f[:, None] * 2.0 ** np.arange(4)[:, None])
    np.testing.assert_array_equal(y4, a)
    np.testing.assert_array_equal(l1, d)
    np.testing.assert_allclose(l2, e + 3)
    np.testing.assert_allclose(f1, e + 4)
    np.testing.assert_allclose(f2, f * 16)


def test_steps_of_any_rank() -> None:
    x, s = Input((2, 3)), Input((3, 4, 5))
    new = s + mr.ops.reshape(mr.ops.sum(x, axis=(1, 2)), (-1, 1, 1, 1))
    container = RecurrentContainer(
        sequence_inputs=x, state_inputs=s, state_outputs=new, sequence_outputs=[new, mr.ops.transpose(x, (0, 2, 1))],
        constant_outputs=mr.ops.sum(new, axis=3), state_initializer="ones",
    )  # fmt: skip
    data = draw(6, 7, 2, 3)
    y, turned, last = arrays(container(data))
    wanted = 1 + np.cumsum(data.sum(axis=(2, 3)), axis=1)
    np.testing.assert_allclose(y, np.broadcast_to(wanted[:, :, None, None, None], (6, 7, 3, 4, 5)))
    np.testing.assert_array_equal(turned, np.swapaxes(data, 2, 3))
    np.testing.assert_allclose(last, np.broadcast_to(5 * wanted[:, -1, None, None], (6, 3, 4)))


def test_sizes_may_stay_unknown() -> None:
    """Attention over a constant of any length: weights (B, S) as sequence and as constant output."""
    memory, query = Input((None, 4)), Input((4,))
    weights = mr.ops.softmax(mr.ops.sum(memory * mr.ops.expand_dims(query, 1), axis=2), axis=1)
    read = mr.ops.sum(memory * mr.ops.expand_dims(weights, 2), axis=1)
    container = RecurrentContainer(
        constant_inputs=memory, state_inputs=query, state_outputs=read, sequence_outputs=[weights, read],
        constant_outputs=weights, output_length=3,
    )  # fmt: skip
    start = draw(2, 4)
    for length in (5, 6):
        values, state = draw(2, length, 4), start
        found, _, last = arrays(container(constants=values, states=start))
        for t in range(3):
            scores = np.exp((values * state[:, None]).sum(2))
            wanted = scores / scores.sum(1, keepdims=True)
            np.testing.assert_allclose(found[:, t], wanted)
            state = (values * wanted[:, :, None]).sum(1)
        np.testing.assert_array_equal(last, found[:, -1])
    symbolic = container(constants=Input((None, 4)), states=Input((4,)))
    assert [t.shape for t in symbolic] == [(None, 3, None), (None, 3, 4), (None, None)]


def test_go_backwards_keeps_processing_order() -> None:
    """Outputs in the order of processing; constant outputs are those of the last processed step."""
    groups = adder()
    container = RecurrentContainer(**groups, constant_outputs=groups["sequence_outputs"], go_backwards=True)
    x, c, y = draw(3, 5, 2), draw(3, 2), draw(3, 2)
    wanted = by_hand(x[:, ::-1], c, y)
    same(container(x, constants=c, states=y), [mr.Tensor(wanted), mr.Tensor(wanted[:, -1])])


# dtypes -------------------------------------------------------------------------------------------
def test_a_step_with_integers() -> None:
    """A greedy decoder: the state is the number of the last token."""
    token = Input((1,), dtype="int32")
    scores = Dense(6)(Flatten()(Embedding(6, 4)(token)))
    best = mr.ops.cast(mr.ops.expand_dims(mr.ops.argmax(scores, axis=1), 1), "int32")
    decoder = RecurrentContainer(
        state_inputs=token, state_outputs=best, sequence_outputs=[best, scores], output_length=7, stateful=True
    )
    assert decoder.dtype == "float64"
    decoder.set_weights([draw(*w.shape) for w in decoder.weights])
    for start in (np.array([[3], [0]]), np.array([[3.0], [0.0]]), mr.Tensor(np.array([[3], [0]], "int32"))):
        tokens, _ = arrays(decoder(states=start))
        assert tokens.dtype == np.int32
        now = np.array([3, 0])
        table, kernel, bias = decoder.get_weights()
        for t in range(7):
            now = (table[now] @ kernel + bias).argmax(1)
            np.testing.assert_array_equal(tokens[:, t, 0], now)
    assert decoder.states[0].dtype == np.int32
    decoder.reset_states(states=[np.array([[1], [2]])])
    assert decoder.states[0].dtype == np.int32
    with pytest.raises(DtypeError, match=r"(?s)state for 'input_.*fractions"):
        decoder(states=np.array([[0.5], [0.0]]))


def test_integers_become_floats_for_float_inputs() -> None:
    container = RecurrentContainer(**adder())
    x = np.arange(12).reshape(2, 3, 2)
    found = container(x, constants=np.ones((2, 2), bool), states=np.zeros((2, 2), "int64"))
    same(found, mr.Tensor(by_hand(x, np.ones((2, 2)), np.zeros((2, 2)))))
    assert found.dtype == np.float64


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_step_decides_the_dtype(dtype: str) -> None:
    x, h = Input((4,), dtype=dtype), Input((5,), dtype=dtype)
    out, new_h = RecurrentUnit(SimpleRNN(5, dtype=dtype))(x, states=h)
    container = RecurrentContainer(sequence_inputs=x, sequence_outputs=out, state_inputs=h, state_outputs=new_h)
    assert container.dtype == dtype
    assert container(draw(3, 6, 4)).dtype == np.dtype(dtype)
    assert container(draw(3, 6, 4).astype("float32")).dtype == np.dtype(dtype)


def test_the_original_constructors_idle_arguments_are_accepted() -> None:
    container = RecurrentContainer(**adder(), return_sequences=False, implementation=1)
    assert container(draw(3, 5, 2), constants=draw(3, 2)).shape == (3, 5, 2)


# The printed loop ---------------------------------------------------------------------------------
def test_the_printed_loop_of_a_container() -> None:
    before, x, constant = Input((3,)), Input((2,)), Input((None, 3))
    y = Dense(3, activation="tanh", name="readout")(x) + before * mr.ops.sum(constant, axis=1)
    container = RecurrentContainer(
        sequence_inputs=x, constant_inputs=constant, state_inputs=before, state_outputs=y, sequence_outputs=y
    )
    assert "tanh" in container.source() and "afterwards" in container.source("backward")
    groups = {"state_inputs": before, "state_outputs": before * 2, "constant_outputs": before}
    fed_back = RecurrentContainer(**groups, output_length=3)
    assert "step_loop" in fed_back.source()
