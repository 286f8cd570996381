"""Models that cannot run one time step at a time are refused, with the layer's name and the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer, ops
from minirnn.errors import ArgumentError, ShapeError, StateError
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Concatenate,
    Dense,
    Flatten,
    Input,
    Lambda,
    Layer,
    LayerNormalization,
    Reshape,
)
from minirnn.models import Model, Sequential

T = 5


def chain(*layers: Layer) -> Callable[[], Model]:
    return lambda: Sequential([Input((T, 3)), *layers])


def function(f: Callable[[Any], Any]) -> Callable[[], Model]:
    return chain(Lambda(f, name="f"), GRU(2))


class Inside(Layer):
    """Hides a recurrent layer from the model's graph."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gru = GRU(4, return_sequences=True)

    def call(self, inputs: Any) -> Any:
        return self.gru(inputs)


class OwnRNN(RNN):
    """Runs over time in a way of its own."""

    def call(self, inputs: Any, **options: Any) -> Any:
        return super().call(inputs, **options)


class Count:
    """A cell without weights."""

    state_size = 3

    def call(self, x: Any, states: Any) -> Any:
        return x, [x + states[0]]


def decoder_of_an_encoder() -> Model:
    source, target = Input((None, 3)), Input((None, 3))
    return Model([source, target], GRU(4, return_sequences=True, name="decoder")(target, initial_state=GRU(4)(source)))


def constants_from_the_end() -> Model:
    x, constant, xs = Input((3,)), Input((4,)), Input((None, 3))
    running = RecurrentContainer(
        sequence_inputs=x, constant_inputs=constant, sequence_outputs=Concatenate()([x, constant]), name="running"
    )
    return Model(xs, running(sequences=xs, constants=GRU(4)(xs)))


def constants_that_change() -> Model:
    x, constant, xs = Input((3,)), Input((T, 4)), Input((T, 3))
    running = RecurrentContainer(
        sequence_inputs=x, constant_inputs=constant, sequence_outputs=x + ops.sum(constant, (1, 2))[:, None],
        name="running",
    )  # fmt: skip
    return Model(xs, running(sequences=xs, constants=LSTM(4, return_sequences=True)(xs)))


def the_end_at_every_step() -> Model:
    x = Input((None, 3))
    y, h = GRU(4, return_sequences=True, return_state=True)(x)
    return Model(x, Lambda(lambda pair: pair[0] * pair[1][:, None], name="product")([y, h]))


def container_backwards() -> Model:
    x, xs = Input((3,)), Input((None, 3))
    running = RecurrentContainer(sequence_inputs=x, sequence_outputs=x * 2, go_backwards=True, name="running")
    return Model(xs, running(sequences=xs))


def lengths() -> Model:
    x, n = Input((None, 3)), Input((), dtype="int32")
    return Model([x, n], GRU(4, name="gru")(x, lengths=n))


REFUSED: dict[str, tuple[Callable[[], Model], str]] = {
    "flatten": (chain(Flatten(name="flat"), Dense(2)), "Flatten 'flat'.*\n.*joined with another"),
    "flatten behind": (chain(GRU(4, return_sequences=True), Flatten(name="flat")), "Flatten 'flat'"),
    "reshape": (chain(Reshape((3, T), name="r"), GRU(2)), "Reshape 'r'.*\n.*cuts it"),
    "backwards": (chain(GRU(4, go_backwards=True, name="back")), "GRU 'back'.*\n.*go_backwards"),
    "container backwards": (container_backwards, "RecurrentContainer 'running'.*\n.*go_backwards"),
    "normalized over time": (chain(LayerNormalization(axis=1, name="n"), GRU(2)), "'n'.*\n.*sum is taken"),
    "mean": (function(lambda x: ops.mean(x, axis=1, keepdims=True) + x), "Lambda 'f'.*\n.*sum is taken"),
    "softmax": (function(lambda x: ops.softmax(x, axis=1)), "'f'.*\n.*max is taken"),
    "attention": (function(lambda x: ops.contract("btf,bsf->bts", x, x) @ x), "'f'.*\n.*product"),
    "flipped": (function(lambda x: x[:, ::-1]), "'f'.*\n.*turned around"),
    "shifted": (function(lambda x: ops.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))), "'f'.*\n.*cut"),
    "last step": (chain(GRU(4, return_sequences=True), Lambda(lambda x: x[:, -1], name="f")), "'f'.*\n.*cut"),
    "taken": (function(lambda x: ops.take(x, np.array([1, 0]), axis=1)), "'f'.*\n.*picks"),
    "joined in time": (function(lambda x: ops.concatenate([x, x], 1)), "'f'.*\n.*joins"),
    "positions": (function(lambda x: x + ops.arange(T, "float32")[:, None]), "'f'.*\n.*other numbers for each"),
    "weight for each step": (function(lambda x: x * np.ones((T, 1), "f")), "'f'.*\n.*other numbers for each"),
    "convolution": (function(lambda x: ops.conv(x, np.ones((2, 3, 3), "f"))), "'f'.*\n.*convolution"),
    "random": (function(lambda x: x * mr.random.uniform(x.shape)), "'f'.*\n.*other numbers for each"),
    "recurrent inside": (chain(Inside(name="inside")), "Inside 'inside'.*\n.*loop of its own.*\n.*own graph"),
    "recurrent of its own": (chain(OwnRNN(Count(), name="own")), "OwnRNN 'own'.*\n.*loop of its own"),
    "steps by number": (chain(Reshape((T, 1, 3), name="r")), "Reshape 'r'.*\n.*with one step.*\n.*open"),
    "steps by number, silently": (chain(Reshape((T, -1), name="r")), "Reshape 'r'.*\n.*with one step"),
    "encoder and decoder": (decoder_of_an_encoder, "GRU 'decoder'.*\n.*initial_state: made from the end"),
    "constants from the end": (constants_from_the_end, "'running'.*\n.*constants: made from the end"),
    "constants that change": (constants_that_change, "'running'.*\n.*constants: another value at each step"),
    "the end at every step": (the_end_at_every_step, "Lambda 'product'.*\n.*known at the end"),
    "lengths": (lengths, "GRU 'gru'.*\n.*lengths.*\n.*mask"),
    "no time": (lambda: Sequential([Input((4,)), Dense(2)]), "no input has a time axis"),
    "no graph": (lambda: Sequential([Dense(2)]), "no functional graph"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(ArgumentError, match=message):
        make().stream()


def test_a_layer_that_reads_a_mask_over_time_is_refused_when_there_is_one() -> None:
    class Share(Layer):
        """The share of valid steps, where there is a mask."""

        supports_masking = True

        def call(self, inputs: Any, mask: Any = None) -> Any:
            return inputs if mask is None else inputs * ops.mean(ops.cast(mask, "float32"))

    x = Input((None, 3))
    model = Model(x, GRU(4, return_sequences=True)(Share(name="share")(x)))
    stream, step = model.stream(), np.ones((1, 3), "f")
    first = stream.push(step)
    with pytest.raises(ArgumentError, match=r"Share 'share'.*\n.*sum is taken"):
        stream.push(step, mask=[True])
    stream.reset()
    np.testing.assert_array_equal(stream.push(step), first)


def test_initial_states_that_read_the_input_are_refused() -> None:
    class First(Count):
        def get_initial_state(self, inputs: Any, batch_size: int, dtype: str) -> Any:
            return [inputs[:, 0]]

    x = Input((None, 3))
    with pytest.raises(StateError, match="RNN 'own'.*has not seen"):
        Model(x, RNN(First(), name="own")(x)).stream()


def test_arguments_of_stream() -> None:
    x, h = Input((None, 3), name="x"), Input((4,), name="h")
    model = Model([x, h], GRU(4)(x, initial_state=h))
    start = np.zeros((2, 4))
    for size in (0, -1, 1.5, True, "2"):
        with pytest.raises(ArgumentError, match="batch_size"):
            model.stream(size, start)  # type: ignore[arg-type]
    for given in (None, [], [start, start], {"h": start, "other": start}):
        with pytest.raises(ArgumentError, match=r"inputs are those without a time axis(.|\n)*h"):
            model.stream(2, given)
    with pytest.raises(ArgumentError, match="no input has a time axis"):
        model.stream(2, {"x": np.zeros((2, 7, 3)), "h": start})
    with pytest.raises(ShapeError, match="input 'h'"):
        model.stream(3, start)
    assert "batch_size=2" in repr(model.stream(2, start))
    fixed = Model(y := Input(batch_shape=(4, None, 3)), GRU(2)(y))
    with pytest.raises(ShapeError, match=r"batch_size(.|\n)*expected: 4"):
        fixed.stream()
    assert fixed.stream(4).push(np.ones((4, 3))).shape == (4, 2)
    wide = Input((None, None, 3), name="wide")
    with pytest.raises(ShapeError, match="'wide' has no fixed size"):
        Model(wide, Dense(2)(wide)).stream()
