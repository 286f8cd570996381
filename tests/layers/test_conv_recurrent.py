"""ConvLSTM1D, 2D and 3D against sums of shifted products: options, masks, states, gradients, configuration, errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.errors import ArgumentError, ShapeError, StateError
from minirnn.layers import (
    RNN,
    Bidirectional,
    ConvLSTM1D,
    ConvLSTM2D,
    ConvLSTM3D,
    ConvLSTMCell,
    Input,
    TimeDistributed,
    registry,
)
from minirnn.models import Model, Sequential
from tests.reference import images
from tests.reference.checks import Disagreement, assert_agree, complex_step_derivative, max_error
from tests.reference.outcomes import named, outcome, total

B, T, C, FILTERS = 3, 4, 2, 3
LAYERS = {1: ConvLSTM1D, 2: ConvLSTM2D, 3: ConvLSTM3D}
SIZES = {1: (7,), 2: (6, 5), 3: (4, 5, 3)}
KERNELS = {1: (3,), 2: (3, 2), 3: (2, 3, 2)}
MASKS = {
    "none": None,
    "right": np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool),
    "left": np.array([[0, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1]], bool),
    "middle": np.array([[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 1]], bool),
    "all": np.array([[0, 0, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]], bool),
}
FORMS: dict[str, dict[str, Any]] = {
    "valid": {},
    "same": {"padding": "same"},
    "strides": {"strides": 2},
    "strides, same": {"strides": 2, "padding": "same"},
    "dilation, same": {"dilation_rate": 2, "padding": "same"},
}
each_rank = pytest.mark.parametrize("rank", LAYERS)
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


def made(rank: int, seed: int = 3, **options: Any) -> Any:
    """A built float64 layer with random weights, no two alike."""
    layer = LAYERS[rank](FILTERS, KERNELS[rank], dtype="float64", **{"return_sequences": True, **options})
    lead = (T, None) if options.get("time_major") else (None, T)
    first = options.get("data_format") == "channels_first"
    layer.build((*lead, C, *SIZES[rank]) if first else (*lead, *SIZES[rank], C))
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=w.shape) * 0.5 for w in layer.weights])
    return layer


def inputs(layer: Any, rank: int) -> list[np.ndarray]:
    """A sequence of images and the states to begin with."""
    rng = np.random.default_rng(4)
    first = layer.cell.data_format == "channels_first"
    x = rng.normal(size=(B, T, C, *SIZES[rank]) if first else (B, T, *SIZES[rank], C))
    return [x, *(rng.normal(size=(B, *shape)) for shape in layer.cell.state_size)]


def results(layer: Any, arrays: list[np.ndarray], mask: Any) -> dict[str, np.ndarray]:
    """What the layer returns, and the slopes of its total along one direction for each array."""
    found = outcome(layer, arrays[0], arrays[1:], mask=mask)
    return {
        name: np.sum(array * direction(array.shape)) if name.startswith("gradient") else array
        for name, array in found.items()
    }


def direction(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape)


def expected(layer: Any, arrays: list[np.ndarray], mask: Any) -> dict[str, np.ndarray]:
    cell, weights = layer.cell, layer.get_weights()
    how = {"strides": cell.strides, "padding": cell.padding, "dilation": cell.dilation_rate}

    def run(x: Any, h: Any, c: Any, *weights: Any) -> list[Any]:
        return images.run(x, weights, (h, c), mask, go_backwards=layer.go_backwards, **how)

    everything, slopes = [*arrays, *weights], []
    for k, array in enumerate(everything):
        directions = [np.zeros_like(a) for a in everything]
        directions[k] = direction(array.shape)
        slopes.append(complex_step_derivative(lambda *moved: total(run(*moved)), everything, directions))
    return named(run(*everything), slopes)


@each_rank
@each_form
@pytest.mark.parametrize("engine", ["reference", "numpy"])
def test_equals_the_formulas(rank: int, form: dict[str, Any], engine: str) -> None:
    layer = made(rank, return_state=True, **form)
    arrays = inputs(layer, rank)
    with mr.engine(engine):
        assert_agree(results(layer, arrays, None), expected(layer, arrays, None), 1e-12)


@each_mask
@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "backwards"])
def test_masks(mask: Any, go_backwards: bool) -> None:
    layer = made(2, return_state=True, go_backwards=go_backwards)
    arrays = inputs(layer, 2)
    wanted = expected(layer, arrays, mask)
    assert_agree(results(layer, arrays, mask), wanted, 1e-12)
    if mask is not None:
        for dirt in (np.nan, np.inf):
            dirty = [np.where(mask[..., None, None, None], arrays[0], dirt), *arrays[1:]]
            assert_agree(results(layer, dirty, mask), results(layer, arrays, mask), 1e-13)


@pytest.mark.slow
@each_rank
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_compiled_without_falling_back(rank: int, masked: bool) -> None:
    """An explicit engine refuses what no kernel can run, so this shows that kernels run all of it."""
    mask = MASKS["middle"] if masked else None
    for form in ({"padding": "same"}, {"strides": 2}, {"data_format": "channels_first"}):
        layer = made(rank, return_state=True, **form)
        arrays = inputs(layer, rank)
        wanted = results(layer, arrays, mask)
        with mr.engine("cpu"):
            assert_agree(results(layer, arrays, mask), wanted, 1e-12)


def test_planted_bugs_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(2, return_state=True, strides=2)
    arrays = inputs(layer, 2)
    wanted = expected(layer, arrays, MASKS["middle"])
    assert_agree(results(layer, arrays, MASKS["middle"]), wanted, 1e-12)
    right = layer.get_weights()
    i_and_f_swapped = [np.concatenate([np.split(w, 4, -1)[k] for k in (1, 0, 2, 3)], -1) for w in right]
    flipped_kernel = [right[0][::-1], *right[1:]]
    for wrong in (
        i_and_f_swapped,
        flipped_kernel,
        [right[0], right[1].swapaxes(2, 3).reshape(right[1].shape), right[2]],
    ):
        layer.set_weights(wrong)
        with pytest.raises(Disagreement):
            assert_agree(results(layer, arrays, MASKS["middle"]), wanted, 1e-12)
    turned = lambda self, hs: ops.conv(ops.flip(hs[0], 1), self.recurrent_kernel, padding="same")  # noqa: E731
    monkeypatch.setattr(ConvLSTMCell, "_h_product", turned)
    layer.set_weights(right)
    with mr.engine("reference"), pytest.raises(Disagreement):  # which remembers no trace
        assert_agree(results(layer, arrays, MASKS["middle"]), wanted, 1e-12)


@pytest.mark.slow
def test_compiled_with_axes_of_one_place() -> None:
    """A kernel of one element, an image of one row, one position along an axis, a batch of one."""
    for kernel, sizes, form in [((1, 1), (3, 2), {}), ((1, 2), (1, 5), {}), ((2, 2), (3, 2), {"strides": 2})]:
        layer = ConvLSTM2D(FILTERS, kernel, return_sequences=True, return_state=True, dtype="float64", **form)
        rng = np.random.default_rng(6)
        for batch in (1, 2):
            x = rng.normal(size=(batch, T, *sizes, C))
            layer(x)
            arrays = [x, *(rng.normal(size=(batch, *shape)) for shape in layer.cell.state_size)]
            wanted = results(layer, arrays, None)
            assert_agree(wanted, expected(layer, arrays, None), 1e-12)
            with mr.engine("cpu"):
                assert_agree(results(layer, arrays, None), wanted, 1e-12)


# options -----------------------------------------------------------------------------------------
@each_rank
def test_channels_first_is_the_same_with_axes_moved(rank: int) -> None:
    last = made(rank, return_state=True, strides=2)
    first = made(rank, return_state=True, strides=2, data_format="channels_first")
    x, h, c = inputs(last, rank)
    moved = [np.moveaxis(x, -1, 2), np.moveaxis(h, -1, 1), np.moveaxis(c, -1, 1)]
    y, h_after, c_after = first(moved[0], initial_state=moved[1:])
    wanted = last(x, initial_state=[h, c])
    assert max_error(np.moveaxis(y.numpy(), 2, -1), wanted[0]) < 1e-13
    for found, state in zip((h_after, c_after), wanted[1:], strict=True):
        assert max_error(np.moveaxis(found.numpy(), 1, -1), state) < 1e-13
    assert first.cell.output_size == first(moved[0])[1].shape[1:]


def test_begins_with_zeros_and_shows_the_last_output() -> None:
    layer, last = made(2, return_state=True), made(2, return_sequences=False)
    x, *states = inputs(layer, 2)
    zeros = [np.zeros_like(s) for s in states]
    for a, b in zip(layer(x), layer(x, initial_state=zeros), strict=True):
        assert max_error(a, b) == 0
    assert max_error(last(x), layer(x)[0].numpy()[:, -1]) < 1e-13


def test_unrolled_checkpointed_time_major_and_stateful() -> None:
    layer = made(2)
    x, *_ = inputs(layer, 2)
    wanted = layer(x).numpy()
    assert max_error(made(2, unroll=True)(x), wanted) < 1e-13
    assert max_error(made(2, checkpoint=2)(x), wanted) < 1e-13
    assert max_error(made(2, time_major=True)(x.swapaxes(0, 1)).numpy().swapaxes(0, 1), wanted) < 1e-13
    kept = made(2, stateful=True)
    halves = [kept(x[:, :2]).numpy(), kept(x[:, 2:]).numpy()]
    assert max_error(np.concatenate(halves, 1), wanted) < 1e-13
    kept.reset_states()
    assert max_error(kept(x[:, :2]), halves[0]) == 0
    with pytest.raises(StateError, match="batch size"):
        kept(x[:1, :2])


def test_bidirectional_and_time_distributed_around_it() -> None:
    layer = made(2)
    x, *_ = inputs(layer, 2)
    both = Bidirectional(made(2), merge_mode="sum")
    both.build((None, None, *x.shape[2:]))
    both.set_weights([*layer.get_weights(), *(-w for w in layer.get_weights())])
    backwards = made(2, go_backwards=True)
    backwards.set_weights([-w for w in layer.get_weights()])
    wanted = layer(x).numpy() + backwards(x).numpy()[:, ::-1]
    assert max_error(both(x), wanted) < 1e-13
    pieces = np.stack([x, 2 * x], 1)
    assert max_error(TimeDistributed(layer)(pieces).numpy()[:, 1], layer(2 * x)) < 1e-13


def test_stacked_cells_and_a_symbolic_model() -> None:
    stack = RNN([ConvLSTMCell(2, 3, 2), ConvLSTMCell(2, 4, 3, padding="same")], return_state=True)
    y, first, second = stack(np.ones((B, T, 5, 4, 2), "float32"))
    assert (
        y.shape == (B, 4, 3, 4) and [s.shape for s in first] == [(B, 4, 3, 3)] * 2 and second[1].shape == (B, 4, 3, 4)
    )
    x = Input((None, 5, 4, 2))
    outputs = ConvLSTM2D(3, 2, return_sequences=True, return_state=True)(x)
    assert [o.shape for o in outputs] == [(None, None, 4, 3, 3), (None, 4, 3, 3), (None, 4, 3, 3)]
    assert Model(x, outputs).predict(np.ones((2, 3, 5, 4, 2), "float32"))[0].shape == (2, 3, 4, 3, 3)


def test_streams() -> None:
    model = Sequential([Input((None, 6, 5, C)), ConvLSTM2D(FILTERS, 3, padding="same", return_sequences=True)])
    x = np.random.default_rng(0).normal(size=(B, T, 6, 5, C)).astype("float32")
    stream = model.stream(batch_size=B)
    assert max_error(np.stack([stream.push(x[:, t]) for t in range(T)], 1), model.predict(x)) < 1e-6


def test_dropout_is_one_mask_a_gate_shared_over_time() -> None:
    layer = ConvLSTM1D(50, 1, dropout=0.5, return_state=True, dtype="float64")
    layer.build((None, None, 1, 40))
    kernel, recurrent_kernel, bias = layer.get_weights()
    layer.set_weights([kernel, np.zeros_like(recurrent_kernel), bias])
    x = np.random.default_rng(0).normal(size=(2, 1, 1, 40)) * np.ones((2, 3, 1, 40))
    masks = [np.array(m) / x[:, 0] for m in layer.cell._dropped(mr.Tensor(x[:, 0]), 0.5, True)]
    assert len({m.tobytes() for m in masks}) == 4 and all(set(np.unique(m.round(9))) == {0, 2} for m in masks)

    def c_after(steps: int) -> np.ndarray:
        mr.seed(3)
        return layer(x[:, :steps], training=True)[2].numpy()

    # Without a recurrent product and with the same input, all steps have the same gates: c = f * c + added.
    added = c_after(1)
    f = (c_after(2) - added) / added
    assert max_error(c_after(3), f * c_after(2) + added) < 1e-12


def test_forget_bias_and_activations() -> None:
    layer = ConvLSTM1D(2, 2)
    layer.build((None, None, 5, 1))
    assert layer.get_weights()[2].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert ConvLSTM1D(2, 2).cell.recurrent_activation is ops.sigmoid
    hard = ConvLSTM1D(2, 2, recurrent_activation="hard_sigmoid", activation="relu", use_bias=False)
    assert hard(np.ones((1, 2, 4, 1))).shape == (1, 3, 2) and len(hard.weights) == 2


# configuration and misuse ------------------------------------------------------------------------
def test_configuration() -> None:
    layer = made(2, strides=(2, 1), kernel_regularizer="l2", return_state=True, go_backwards=True)
    again = registry.deserialize(json.loads(json.dumps(registry.serialize(layer))), "layer")
    x, *_ = inputs(layer, 2)
    again.build((None, None, *x.shape[2:]))
    again.set_weights(layer.get_weights())
    assert max_error(again(x)[0], layer(x)[0]) == 0
    assert json.dumps(again.get_config()) == json.dumps(layer.get_config()) and "rank" not in layer.get_config()
    of_keras = {
        "name": "c", "filters": 4, "kernel_size": (3, 3), "strides": (1, 1), "padding": "same", "unroll": False,
        "data_format": "channels_last", "dilation_rate": (1, 1), "activation": "tanh", "unit_forget_bias": True,
        "recurrent_activation": "hard_sigmoid", "return_sequences": True, "seed": None, "dtype": "float32",
    }  # fmt: skip
    assert ConvLSTM2D.from_config(of_keras)(np.ones((1, 2, 5, 4, 1), "float32")).shape == (1, 2, 5, 4, 4)


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="rank"):
        ConvLSTMCell(4, 2, 3)
    with pytest.raises(ArgumentError, match="strides > 1"):
        ConvLSTM2D(2, 3, strides=2, dilation_rate=2)
    with pytest.raises(ArgumentError, match="padding"):
        ConvLSTM2D(2, 3, padding="causal")
    with pytest.raises(ArgumentError, match="data_format"):
        ConvLSTM2D(2, 3, data_format="NHWC")
    with pytest.raises(ArgumentError, match="kernel_size"):
        ConvLSTM2D(2, (3, 3, 3))
    with pytest.raises(ArgumentError, match="units|filters"):
        ConvLSTM2D(0, 3)
    with pytest.raises(ShapeError, match="expected ndim=5"):
        ConvLSTM2D(2, 3)(np.ones((2, 3, 5, 1)))
    with pytest.raises(ShapeError, match="known size"):
        ConvLSTM2D(2, 3)(Input((None, None, 8, 1)))
    with pytest.raises(ShapeError, match="larger than the images"):
        ConvLSTM2D(2, 5)(np.ones((2, 3, 4, 8, 1)))
    layer = ConvLSTM2D(2, 3)
    layer(np.ones((2, 3, 5, 5, 1)))
    with pytest.raises(ShapeError, match="built for steps"):
        layer(np.ones((2, 3, 6, 5, 1)))
    with pytest.raises(ShapeError, match="not compatible"):
        layer(np.ones((2, 3, 5, 5, 1)), initial_state=[np.ones((2, 5, 5, 2))] * 2)
