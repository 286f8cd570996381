"""Bidirectional against two plain loops: merging, masks, states, its own backward layer, configuration, errors."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.errors import ArgumentError, StateError
from minirnn.layers import (
    GRU,
    LSTM,
    RNN,
    Bidirectional,
    Dense,
    Embedding,
    GRUCell,
    Input,
    Layer,
    LSTMCell,
    SimpleRNN,
    registry,
    wrappers,
)
from minirnn.models import Model, Sequential, load_model
from tests.reference import both_ways
from tests.reference.cells import KINDS
from tests.reference.checks import Disagreement, assert_agree, complex_step_gradients, max_error
from tests.reference.outcomes import named, outcome, total

B, T, F, U = 3, 5, 2, 4
MAKERS = {
    "simple_rnn": SimpleRNN,
    "gru_reset_after": GRU,
    "lstm": LSTM,
}
MASKS = {
    "none": None,
    "right": np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool),
    "left": np.array([[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], bool),
    "middle": np.array([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1], [1, 1, 0, 1, 1]], bool),
    "all": np.array([[0, 0, 0, 0, 0], [1, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool),
}
each_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
each_merge = pytest.mark.parametrize("merge_mode", both_ways.MERGES)
on_engines = pytest.mark.parametrize(
    "engines", [("reference", "numpy"), pytest.param(("cpu",), marks=pytest.mark.slow)], ids=["python", "cpu"]
)


def made(kind: str = "lstm", merge_mode: Any = "concat", seed: int = 3, **options: Any) -> Any:
    """A built float64 layer with random weights, no two alike."""
    layer = Bidirectional(MAKERS[kind](U, dtype="float64", **options), merge_mode=merge_mode)
    layer.build((None, T, F))
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(size=v.shape) for v in layer.weights])
    return layer


def inputs(kind: str = "lstm", seed: int = 4) -> tuple[np.ndarray, list[np.ndarray]]:
    """A sequence, and initial states for both directions."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, T, F)), [rng.normal(size=(B, U)) for _ in range(2 * KINDS[kind].states)]


def expected(layer: Any, kind: str, x: Any, states: Any, mask: Any) -> dict[str, np.ndarray]:
    weights, count = layer.get_weights(), len(states)
    how = (mask, layer.merge_mode, layer.return_sequences)

    def run(x: Any, *rest: Any) -> list[Any]:
        return both_ways.run(kind, x, rest[count:], rest[:count], *how)

    arrays = (x, *states, *weights)
    return named(run(*arrays), complex_step_gradients(lambda *moved: total(run(*moved)), *arrays))


@on_engines
@each_mask
@pytest.mark.parametrize("sequences", [True, False], ids=["sequences", "last"])
def test_equals_two_loops(mask: Any, sequences: bool, engines: tuple[str, ...]) -> None:
    for kind in MAKERS:
        layer = made(kind, return_sequences=sequences, return_state=True)
        x, states = inputs(kind)
        wanted = expected(layer, kind, x, states, mask)
        for engine in engines:
            with mr.engine(engine):
                assert_agree(outcome(layer, x, states, mask=mask), wanted, 1e-11)


@each_merge
@pytest.mark.parametrize("sequences", [True, False], ids=["sequences", "last"])
def test_merges(merge_mode: Any, sequences: bool) -> None:
    layer = made("lstm", merge_mode, return_sequences=sequences, return_state=True)
    x, states = inputs()
    assert_agree(
        outcome(layer, x, states, mask=MASKS["middle"]), expected(layer, "lstm", x, states, MASKS["middle"]), 1e-11
    )


def test_the_observed_values_of_keras() -> None:
    """A cell that adds up, on 1, 2, 4: what Keras gives for three masks (semantics 2.11)."""

    class Total(Layer):
        state_size = 1

        def call(self, inputs: Any, states: Any) -> Any:
            total = inputs + states[0]
            return total, [total]

    x = np.array([1.0, 2.0, 4.0]).reshape(1, 3, 1)
    whole = Bidirectional(RNN(Total(dtype="float64"), return_sequences=True))
    last = Bidirectional(RNN(Total(dtype="float64")))
    for mask, wanted in [
        ([1, 1, 0], [[1, 3], [3, 2], [0, 0]]),
        ([0, 1, 1], [[0, 0], [2, 6], [6, 4]]),
        ([1, 0, 1], [[1, 5], [0, 0], [5, 4]]),
    ]:
        assert whole(x, mask=np.array([mask], bool)).numpy()[0].tolist() == wanted
    assert last(x, mask=np.array([[1, 1, 0]], bool)).numpy().tolist() == [[3, 3]]


@each_mask
def test_what_stands_in_masked_steps_reaches_nothing(mask: Any) -> None:
    if mask is None:
        return
    layer = made(return_sequences=True, return_state=True)
    x, states = inputs()
    for dirt in (np.nan, np.inf):
        dirty = np.where(mask[..., None], x, dirt)
        assert_agree(outcome(layer, dirty, states, mask=mask), outcome(layer, x, states, mask=mask), 1e-13)


# planted bugs ------------------------------------------------------------------------------------
def _unflipped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(wrappers, "ops", SimpleNamespace(flip=lambda y, axis: y, concatenate=ops.concatenate))


def _wrong_half(patch: pytest.MonkeyPatch) -> None:
    right = Bidirectional._halves
    patch.setattr(Bidirectional, "_halves", lambda self, states, *what: right(self, states, *what)[::-1])


def _same_weights(patch: pytest.MonkeyPatch) -> None:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.backward_layer.set_weights(self.forward_layer.get_weights())
        return right(self, *args, **kwargs)

    right = Bidirectional.call
    patch.setattr(Bidirectional, "call", call)


def _held_outputs(patch: pytest.MonkeyPatch) -> None:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.forward_layer.zero_output_for_mask = False
        return right(self, *args, **kwargs)

    right = Bidirectional.call
    patch.setattr(Bidirectional, "call", call)


@pytest.mark.parametrize("bug", [_unflipped, _wrong_half, _same_weights, _held_outputs])
def test_planted_bugs_are_noticed(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(return_sequences=True, return_state=True)
    x, states = inputs()
    wanted = expected(layer, "lstm", x, states, MASKS["middle"])
    bug(monkeypatch)
    with pytest.raises(Disagreement):
        assert_agree(outcome(layer, x, states, mask=MASKS["middle"]), wanted, 1e-11)


# the parts ---------------------------------------------------------------------------------------
def test_the_result_names_both_halves_of_the_states() -> None:
    layer = made(return_sequences=True, return_state=True)
    x, states = inputs()
    found = layer(x, initial_state=states)
    assert isinstance(found, list) and len(found) == 5
    assert found.forward_state == found[1:3] and found.backward_state == found[3:]
    decoder = LSTM(U, dtype="float64")
    assert decoder(x, initial_state=found.backward_state).shape == (B, U)


def test_named_states_in_a_functional_model() -> None:
    x = Input((None, F), dtype="float64")
    found = Bidirectional(GRU(U, return_state=True, dtype="float64"))(x)
    after = GRU(U, dtype="float64")(x, initial_state=found.backward_state)
    model = Model(x, [*found, after])
    assert [y.shape for y in model.predict(inputs()[0])] == [(B, 2 * U), (B, U), (B, U), (B, U)]
    assert Model(x, found).predict(inputs()[0])[2].shape == (B, U)


def test_stacked_cells_have_nested_states() -> None:
    layer = Bidirectional(RNN([GRUCell(3), LSTMCell(4)], return_state=True))
    found = layer(np.ones((B, T, F), "float32"))
    shapes = [[s.shape for s in cell] for cell in found.forward_state]
    assert shapes == [[(B, 3)], [(B, 4), (B, 4)]] == [[s.shape for s in cell] for cell in found.backward_state]
    again = layer(np.ones((B, T, F), "float32"), initial_state=[*found.forward_state, *found.backward_state])
    assert again[0].shape == (B, 8)


def test_flat_call_with_states_and_constants() -> None:
    class Shifted(Layer):
        state_size = U

        def call(self, inputs: Any, states: Any, constants: Any) -> Any:
            h = ops.tanh(inputs + states[0] + constants[0])
            return h, [h]

    layer = Bidirectional(RNN(Shifted(dtype="float64"), return_state=True))
    rng = np.random.default_rng(5)
    x, h, h_rev, shift = (rng.normal(size=s) for s in [(B, T, U), (B, U), (B, U), (B, U)])
    flat = layer([x, h, h_rev, shift])
    named = layer(x, initial_state=[h, h_rev], constants=[shift])
    assert_agree(dict(enumerate(map(np.asarray, flat))), dict(enumerate(map(np.asarray, named))), 0)
    assert max_error(flat[0], layer(x, initial_state=[h, h_rev], constants=[2 * shift])[0]) > 1e-3


def test_lengths_are_a_mask() -> None:
    layer = made(return_sequences=True)
    x, _ = inputs()
    lengths = np.array([3, 1, 5])
    by_mask = layer(x, mask=np.arange(T) < lengths[:, None])
    by_lengths = layer(x, lengths=lengths)
    assert max_error(by_lengths, by_mask) == 0
    assert by_lengths.mask.numpy().sum(axis=1).tolist() == lengths.tolist()


def test_ragged_sequences_are_read_from_their_own_ends() -> None:
    layer = made(return_sequences=True, return_state=True)
    x, _ = inputs()
    rows = [x[0, :4], x[1, :2], x[2]]
    found = layer(mr.Ragged(rows))
    for k, row in enumerate(rows):
        alone = layer(row[None])
        assert max_error(found[0].numpy()[k, : len(row)], alone[0].numpy()[0]) < 1e-13
        for a, b in zip(found.backward_state, alone.backward_state, strict=True):
            assert max_error(a.numpy()[k], b.numpy()[0]) < 1e-13


def test_a_reset_divides_the_sequence_for_both_directions() -> None:
    layer = made(return_sequences=True)
    x, states = inputs()
    resets = np.zeros((B, T), bool)
    resets[1, 2] = True
    found = layer(x, initial_state=states, reset_mask=resets).numpy()
    whole = layer(x, initial_state=states).numpy()
    assert max_error(found[[0, 2]], whole[[0, 2]]) < 1e-13
    # Each direction begins anew before it reads step 2.
    one, other = layer.forward_layer, layer.backward_layer
    late = one(x[:, 2:], initial_state=states[:2]).numpy()
    early = other(x[:, :3], initial_state=states[2:]).numpy()[:, ::-1]
    assert max_error(found[1, 2:, :U], late[1]) < 1e-13
    assert max_error(found[1, :3, U:], early[1]) < 1e-13


def test_masks_go_on_to_the_next_layer() -> None:
    ids = np.array([[3, 1, 0, 0], [2, 0, 0, 0]])
    mask = ids != 0
    embedding = Embedding(5, 3, mask_zero=True)
    y = Bidirectional(GRU(4, return_sequences=True))(embedding(ids))
    assert (y.mask.numpy() == mask).all()
    one, other = Bidirectional(GRU(4, return_sequences=True), merge_mode=None)(embedding(ids))
    assert (one.mask.numpy() == mask).all() and (other.mask.numpy() == mask).all()
    assert Bidirectional(GRU(4))(embedding(ids)).mask is None
    turned = Bidirectional(GRU(4, return_sequences=True, go_backwards=True))(embedding(ids))
    assert (turned.mask.numpy() == mask[:, ::-1]).all()


def test_a_base_layer_that_goes_backwards_turns_everything_around() -> None:
    plain = made(return_sequences=True, return_state=True)
    turned = made(return_sequences=True, return_state=True, go_backwards=True)
    x, states = inputs()
    wanted = plain(x[:, ::-1], initial_state=states, mask=MASKS["middle"][:, ::-1])
    found = turned(x, initial_state=states, mask=MASKS["middle"])
    for a, b in zip(found, wanted, strict=True):
        assert max_error(a, b) < 1e-13


def test_time_major() -> None:
    layer, timed = made(return_sequences=True), made(return_sequences=True, time_major=True)
    x, _ = inputs()
    mask = MASKS["left"]
    assert max_error(timed(x.swapaxes(0, 1), mask=mask.T).numpy().swapaxes(0, 1), layer(x, mask=mask)) < 1e-13


def test_a_backward_layer_of_another_kind() -> None:
    layer = Bidirectional(
        LSTM(U, return_sequences=True, dtype="float64"),
        backward_layer=GRU(U + 1, return_sequences=True, go_backwards=True, dtype="float64"),
    )
    x, _ = inputs()
    y = layer(x)
    assert y.shape == (B, T, 2 * U + 1)
    backward = layer.backward_layer(x).numpy()[:, ::-1]
    assert max_error(y[..., U:], backward) == 0
    with pytest.raises(StateError, match="odd"):
        layer(x, initial_state=[np.ones((B, U))] * 3 + [np.ones((B, U + 1))] * 2)
    states = [np.ones((B, U))] * 2 + [np.ones((B, U + 1))]
    assert layer(x, initial_state=states).shape == (B, T, 2 * U + 1)


def test_weights_are_the_layers_own_forward_first() -> None:
    base = LSTM(U, name="base")
    base.build((None, T, F))
    layer = Bidirectional(base)
    layer.build((None, T, F))
    assert len(layer.weights) == 6 and layer.forward_layer.weights == layer.weights[:3]
    assert not {id(v) for v in base.weights} & {id(v) for v in layer.weights}
    assert (layer.forward_layer.name, layer.backward_layer.name) == ("forward_base", "backward_base")
    values = [np.full(v.shape, k) for k, v in enumerate(layer.weights)]
    again = Bidirectional(LSTM(U), weights=values)
    again(np.ones((1, T, F)))
    assert [w.flat[0] for w in again.get_weights()] == list(range(6))


def test_stateful_goes_on_where_it_ended() -> None:
    plain, kept = made(return_state=True), made(return_state=True, stateful=True)
    x, states = inputs()
    first = kept(x)
    second = kept(x)
    for a, b in zip(second, plain(x, initial_state=first[1:]), strict=True):
        assert max_error(a, b) < 1e-13
    assert len(kept.states) == 4
    kept.reset_states()
    assert max_error(kept(x)[0], first[0]) == 0
    kept.reset_states(states)
    assert max_error(kept(x)[0], plain(x, initial_state=states)[0]) < 1e-13
    kept.reset_states(states)
    kept.reset_states(rows=[1])
    begun = [np.where(np.arange(B)[:, None] == 1, 0, s) for s in states]
    assert max_error(kept(x)[0], plain(x, initial_state=begun)[0]) < 1e-13
    with pytest.raises(StateError, match="must be stateful"):
        plain.reset_states()
    with pytest.raises(StateError, match="4 states but was passed 3"):
        kept.reset_states(states[:3])


def test_dropout_draws_for_each_direction() -> None:
    layer = made(return_sequences=True, dropout=0.5)
    x, _ = inputs()
    assert max_error(layer(x, training=True), layer(x, training=True)) > 0
    assert max_error(layer(x), layer(x)) == 0


# configuration -----------------------------------------------------------------------------------
def test_configuration_and_weights_make_the_layer_again() -> None:
    for layer in (
        made("gru_reset_after", "ave", return_sequences=True),
        Bidirectional(LSTM(U, dtype="float64"), backward_layer=GRU(U, go_backwards=True, dtype="float64")),
    ):
        x, _ = inputs()
        wanted = layer(x)
        entry = json.loads(json.dumps(registry.serialize(layer)))
        again = registry.deserialize(entry, "layer")
        again.build((None, T, F))
        again.set_weights(layer.get_weights())
        assert max_error(again(x), wanted) == 0
        assert again.get_config() == layer.get_config()


@pytest.mark.parametrize("written_by", ["Keras 2", "Keras 3"])
def test_configurations_of_keras(written_by: str) -> None:
    inner = {"name": "gru_1", "units": 3, "return_sequences": True, "time_major": False, "num_constants": None}
    config = {"name": "bi", "trainable": True, "dtype": "float32", "merge_mode": "sum"}
    if written_by == "Keras 3":
        inner = {"name": "gru_1", "units": 3, "return_sequences": True, "seed": None, "use_cudnn": "auto"}
        config["dtype"] = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
        config["build_config"] = {"input_shape": [None, 5, 2]}
    layer = Bidirectional.from_config({**config, "layer": {"class_name": "GRU", "config": inner}})
    assert layer.merge_mode == "sum" and layer(np.ones((2, 5, 2), "float32")).shape == (2, 5, 3)


class Unregistered(Layer):
    """A user's cell that no configuration can name."""

    state_size = U

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight("kernel", (input_shape[-1], U))

    def call(self, inputs: Any, states: Any) -> Any:
        h = ops.tanh(inputs @ self.kernel * self.scale + states[0])
        return h, [h]


class Plain:
    """A cell of a plain class."""

    state_size = U

    def build(self, input_shape: Any) -> None:
        self.kernel = mr.Variable(np.random.default_rng(0).normal(size=(input_shape[-1], U)))

    def call(self, inputs: Any, states: Any) -> Any:
        h = ops.tanh(inputs @ self.kernel + states[0])
        return h, [h]


@pytest.mark.parametrize("cell", [Unregistered(0.5), Plain()], ids=["layer", "plain class"])
def test_users_cells_are_copied(cell: Any) -> None:
    layer = Bidirectional(RNN(cell, dtype="float64" if isinstance(cell, Plain) else None))
    assert layer(np.ones((B, T, F), layer.dtype)).shape == (B, 2 * U)
    assert len(layer.weights) == 2 and layer.weights[0] is not layer.weights[1]


def test_saved_in_a_model(tmp_path: Any) -> None:
    model = Sequential([Input((None, F)), Bidirectional(GRU(U, return_sequences=True), merge_mode="mul"), Dense(2)])
    x = inputs()[0].astype("float32")
    wanted = model.predict(x)
    model.save(tmp_path / "model.npz")
    assert max_error(load_model(tmp_path / "model.npz").predict(x), wanted) == 0


def test_a_model_trains_and_cannot_be_streamed() -> None:
    model = Sequential([Input((T, F)), Bidirectional(SimpleRNN(3)), Dense(1)])
    model.compile("sgd", "mse")
    x = inputs()[0].astype("float32")
    history = model.fit(x, x[:, :1, 0], epochs=5, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    with pytest.raises(ArgumentError, match="(?s)Bidirectional 'bidirectional.*from its end"):
        model.stream()


# misuse ------------------------------------------------------------------------------------------
def test_errors() -> None:
    x, states = inputs()
    with pytest.raises(ArgumentError, match="merge_mode"):
        Bidirectional(LSTM(2), merge_mode="max")
    with pytest.raises(ArgumentError, match="layer"):
        Bidirectional(Dense(2))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="different `go_backwards`"):
        Bidirectional(LSTM(2), backward_layer=LSTM(2))
    for name in ("stateful", "return_sequences", "return_state"):
        with pytest.raises(ArgumentError, match=f"same {name}"):
            Bidirectional(LSTM(2), backward_layer=LSTM(2, go_backwards=True, **{name: True}))
    layer = made()
    with pytest.raises(StateError, match="4 states but was passed 3"):
        layer(x, initial_state=states[:3])
    with pytest.raises(StateError, match="4 states but was passed 2"):
        layer(x, initial_state=states[:2])
    with pytest.raises(ArgumentError, match="constants"):
        Bidirectional(RNN(GRUCell(U)))(x, constants=[np.ones((B, 1))])
    with pytest.raises(ArgumentError, match="a list is the call"):
        layer([x, *states], initial_state=states)
    with pytest.raises(ArgumentError, match="a list is the call"):
        layer([])
