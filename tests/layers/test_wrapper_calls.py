"""Layers around layers: the masks of nested outputs, calls and resets that fail before anything changes, copies."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from minirnn.errors import ArgumentError, MinirnnError, ShapeError, StateError
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    ConvLSTM2D,
    ConvLSTMCell,
    Dense,
    GRUCell,
    Input,
    Layer,
    LSTMCell,
    TimeDistributed,
)
from minirnn.models import Model

B, T, F, U = 3, 5, 2, 4
RNG = np.random.default_rng(31)
X = RNG.normal(size=(B, T, F))
MASK = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool)


class TwoOutputs:
    """A plain cell with two outputs, of different sizes, and one state."""

    state_size = F

    def call(self, inputs: Any, states: Any) -> Any:
        h = states[0] + inputs
        return (h, h[:, :1] * 2), [h]


class Weighted:
    """A plain cell with weights, but without a configuration."""

    state_size = F

    def build(self, input_shape: Any) -> None:
        self.maker = Layer()
        self.weight = self.maker.add_weight("w", (input_shape[-1], F))

    def call(self, inputs: Any, states: Any) -> Any:
        h = inputs @ self.weight + states[0]
        return h, [h]


# Masks -------------------------------------------------------------------------------------------------
def masks(outputs: Any) -> list[Any]:
    return [None if y.mask is None else y.mask.numpy().tolist() for y in outputs]


@pytest.mark.parametrize("return_state", [False, True])
def test_every_nested_output_carries_the_mask(return_state: bool) -> None:
    options: dict[str, Any] = {"return_sequences": True, "return_state": return_state, "dtype": "float64"}
    mask, states = MASK.tolist(), [None] * return_state
    assert masks(RNN(TwoOutputs(), **options)(X, mask=MASK)) == [mask] * 2 + states
    backwards = RNN(TwoOutputs(), go_backwards=True, **options)
    assert masks(backwards(X, mask=MASK)) == [MASK[:, ::-1].tolist()] * 2 + states
    major = RNN(TwoOutputs(), time_major=True, **options)
    assert masks(major(X.swapaxes(0, 1), mask=MASK.T)) == [MASK.T.tolist()] * 2 + states
    assert masks(Bidirectional(RNN(TwoOutputs(), **options))(X, mask=MASK)) == [mask] * 2 + states * 2
    separate = Bidirectional(RNN(TwoOutputs(), **options), merge_mode=None)
    assert masks(separate(X, mask=MASK)) == [mask] * 4 + states * 2


def test_states_of_several_cells_carry_no_mask() -> None:
    stack = RNN([LSTMCell(3), GRUCell(U)], return_sequences=True, return_state=True)
    y, (h, c), (h2,) = stack(X, mask=MASK)
    assert masks([y, h, c, h2]) == [MASK.tolist(), None, None, None]
    y, y_rev, *states = Bidirectional(LSTM(T, return_sequences=True, return_state=True), merge_mode=None)(X, mask=MASK)
    assert masks([y, y_rev, *states]) == [MASK.tolist()] * 2 + [None] * 4
    assert masks(RNN(TwoOutputs())(X, mask=MASK)) == [None, None]


def test_the_mask_of_a_second_output_counts_in_the_layer_behind_it() -> None:
    source, x = RNN(TwoOutputs(), return_sequences=True), Input((T, F))
    mask = Input((T,), dtype="bool")
    reader = LSTM(3)
    model = Model([x, mask], reader(source(x, mask=mask)[1]))
    second = source(X, mask=MASK)[1].numpy()
    np.testing.assert_allclose(model.predict([X, MASK]), reader(second, mask=MASK).numpy(), atol=1e-6)


class Halves(Layer):
    """Two outputs, of which one has no time axis; the mask is passed on as it came."""

    supports_masking = True

    def call(self, inputs: Any) -> Any:
        return [inputs * 2, inputs[:, 0]]


def test_one_mask_is_for_outputs_with_its_axes() -> None:
    x = np.ones((B, T, T))
    assert masks(Halves()(RNN(GRUCell(T), return_sequences=True)(x, mask=MASK))) == [MASK.tolist(), None]


# Calls that fail -----------------------------------------------------------------------------------------
IMAGES = RNG.normal(size=(B, T, 5, 6, 1))
FIRST_CALLS: dict[str, tuple[Any, Any, dict[str, Any], type[MinirnnError]]] = {
    "mask": (lambda: Bidirectional(LSTM(U)), X, {"mask": MASK[:, 1:]}, ShapeError),
    "lengths": (lambda: Bidirectional(LSTM(U)), X, {"lengths": [1, 2]}, ShapeError),
    "reset_mask": (lambda: Bidirectional(LSTM(U)), X, {"reset_mask": MASK[1:]}, ShapeError),
    "number of states": (lambda: Bidirectional(LSTM(U)), X, {"initial_state": [np.ones((B, U))] * 3}, StateError),
    "backward state": (
        lambda: Bidirectional(GRU(U)), X, {"initial_state": [np.ones((B, U)), np.ones((B, U + 1))]}, ShapeError,
    ),
    "constants": (lambda: Bidirectional(RNN(GRUCell(U))), X, {"constants": [np.ones((B, 1))]}, ArgumentError),
    "images' state": (lambda: ConvLSTM2D(2, 3), IMAGES, {"initial_state": [np.ones((B, 4, 3, 2))] * 2}, ShapeError),
    "images' states": (lambda: ConvLSTM2D(2, 3), IMAGES, {"initial_state": [np.ones((B, 3, 4, 2))]}, StateError),
    "both ways over images": (
        lambda: Bidirectional(ConvLSTM2D(2, 3)), IMAGES, {"initial_state": [np.ones((B, 3, 3, 2))] * 4}, ShapeError,
    ),
    "mask of steps": (lambda: TimeDistributed(Dense(U)), X, {"mask": MASK[:, 1:]}, ShapeError),
    "mask of steps, in lists": (lambda: TimeDistributed(Dense(U)), X, {"mask": MASK[1:].tolist()}, ShapeError),
}  # fmt: skip


@pytest.mark.parametrize("case", FIRST_CALLS.values(), ids=FIRST_CALLS)
def test_a_first_call_that_fails_makes_no_weights(case: Any) -> None:
    make, x, options, error = case
    layer = make()
    with pytest.raises(error):
        layer(x, **options)
    assert not layer.built and not layer.weights
    layer(x)


@pytest.mark.parametrize("how", ["all", "rows", "set"])
def test_both_directions_are_reset_or_neither(how: str) -> None:
    layer = Bidirectional(GRU(U, stateful=True, dtype="float64"))
    layer(X)
    before = [s.numpy() for s in layer.states]
    good, bad = np.ones((1 if how == "rows" else B, U)), np.ones((1 if how == "rows" else B, U + 1))
    with pytest.raises(ShapeError, match="backward_gru"):
        if how == "set":
            layer.states = [good, bad]
        else:
            layer.reset_states([good, bad], rows=[1] if how == "rows" else None)
    for was, now in zip(before, layer.states, strict=True):
        np.testing.assert_array_equal(was, now.numpy())
    layer.reset_states([good, good * 2], rows=[1] if how == "rows" else None)
    assert [s.numpy()[1, 0] for s in layer.states] == [1.0, 2.0]
    layer.states = None
    assert layer.states is None


def test_masks_of_steps_in_lists() -> None:
    layer = TimeDistributed(Dense(U))
    y = layer(X, mask=MASK.tolist())
    assert masks([y]) == [MASK.tolist()]
    for wrong in ([[True], [True, False]], "mask"):
        with pytest.raises(ArgumentError, match="TimeDistributed"):
            layer(X, mask=wrong)


@pytest.mark.parametrize("merge_mode", ["sum", "mul", "ave"])
@pytest.mark.parametrize("widths", [(3, 5), (1, 4)])
def test_outputs_of_unequal_width_are_not_added(merge_mode: str, widths: tuple[int, int]) -> None:
    one, other = GRU(widths[0], name="a"), LSTM(widths[1], go_backwards=True, name="b")
    said = rf"(?s)Bidirectional 'both'.*\({widths[0]}\) of GRU 'forward_a'.*\({widths[1]}\) of LSTM 'b'.*concat"
    with pytest.raises(ShapeError, match=said):
        Bidirectional(one, merge_mode, backward_layer=other, name="both")
    for free in ("concat", None):
        Bidirectional(GRU(widths[0]), free, backward_layer=LSTM(widths[1], go_backwards=True))(X)


def test_images_of_unequal_size_cannot_be_merged() -> None:
    layer = Bidirectional(ConvLSTM2D(2, 3), backward_layer=ConvLSTM2D(2, 2, go_backwards=True), name="both")
    with pytest.raises(ShapeError, match=r"(?s)Bidirectional 'both'.*\(3, 4, 2\).*\(4, 5, 2\)"):
        layer(IMAGES)


def test_errors_of_images_name_their_axes() -> None:
    with pytest.raises(
        ShapeError, match=r"expected ndim=5, (?s:.*)\(batch, time, rows, cols, channels\)(?s:.*)x\[None\]"
    ):
        ConvLSTM2D(2, 3)(IMAGES[0])
    with pytest.raises(ShapeError, match=r"\(batch, time, channels, rows, cols\)"):
        ConvLSTM2D(2, 3, data_format="channels_first")(X)
    for make in (lambda: ConvLSTM2D(0, 3, name="c"), lambda: ConvLSTMCell(2, -1, 3)):
        with pytest.raises(ArgumentError, match="filters"):
            make()


# Copies ---------------------------------------------------------------------------------------------------
def test_a_built_layer_around_a_cell_without_configuration_is_copied() -> None:
    layer = RNN(Weighted(), return_sequences=True, stateful=True)
    layer(X.astype("float32"))
    layer(X.astype("float32"))
    both = Bidirectional(layer, merge_mode=None)
    assert both.states is None
    assert len({id(w) for w in [*layer.weights, *both.weights]}) == 3
    both.backward_layer.weights[0].assign(np.zeros((F, F)))
    y, y_rev = both(X.astype("float32"))
    assert y.numpy().any() and not y_rev.numpy().any()
    layer.reset_states()
    np.testing.assert_allclose(y.numpy(), layer(X.astype("float32")).numpy(), atol=1e-6)


def test_a_cell_that_cannot_be_copied() -> None:
    cell = Weighted()
    cell.lock = threading.Lock()  # type: ignore[attr-defined]
    layer = RNN(cell, name="r")
    layer.build((None, T, F))
    with pytest.raises(ArgumentError, match="(?s)RNN 'r'.*Weighted.*get_config"):
        Bidirectional(layer)
