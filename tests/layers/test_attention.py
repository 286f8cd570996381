"""AttentionCell against plain loops: scores, masks of the memory, gradients, any memory length, models, errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, ShapeError
from minirnn.layers import (
    GRU,
    RNN,
    AttentionCell,
    Bidirectional,
    ConvLSTMCell,
    Dense,
    Embedding,
    GRUCell,
    Input,
    LSTMCell,
    SimpleRNNCell,
    StackedRNNCells,
    registry,
)
from minirnn.models import Model, load_model
from tests.reference import cells
from tests.reference.checks import Disagreement, assert_agree, complex_step_gradients, max_error
from tests.reference.outcomes import named, outcome, total

B, T, F, U, S, D, H = 2, 3, 2, 3, 4, 5, 6  # H: hidden units of the additive score
CELLS = {"gru_reset_after": GRUCell, "lstm": LSTMCell}
MASK = np.array([[1, 0, 1, 1], [0, 1, 1, 0]], bool)
on_engines = pytest.mark.parametrize(
    "engines", [("reference", "numpy"), pytest.param(("cpu",), marks=pytest.mark.slow)], ids=["python", "cpu"]
)


def built(kind: str, score: str, memory_size: int = D) -> Any:
    """A float64 layer with random weights, no two alike; it returns outputs, attention weights, states."""
    units = {"units": H} if score == "additive" else {}
    cell = CELLS[kind](U, dtype="float64")
    cell = AttentionCell(cell, memory_size, score=score, return_attention_scores=True, **units)
    layer = RNN(cell, return_sequences=True, return_state=True)
    layer.build((None, T, F))
    rng = np.random.default_rng(3)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
    return layer


def arrays(kind: str, memory_size: int = D) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    states = [rng.normal(size=(B, U)) for _ in range(cells.KINDS[kind].states)]
    return [rng.normal(size=(B, T, F)), rng.normal(size=(B, S, memory_size)), *states]


def plain_loop(kind: str, score: str, mask: Any, x: Any, memory: Any, states: Any, weights: Any) -> list[Any]:
    """Outputs, attention weights, final states; place by place, those that are masked left out."""
    of_score, of_cell = weights[:-3], weights[-3:]
    batch, time, _ = x.shape
    outputs, shown = [], []
    for t in range(time):
        contexts, all_weights = [], []
        for b in range(batch):
            places = [s for s in range(memory.shape[1]) if mask is None or mask[b, s]]
            scores = []
            for s in places:
                query, place = states[0][b], memory[b, s]
                if score == "additive":
                    query_kernel, memory_kernel, score_kernel = of_score
                    scores.append((np.tanh(query @ query_kernel + place @ memory_kernel) @ score_kernel)[0])
                else:
                    scores.append((query @ of_score[0] if score == "general" else query) @ place)
            shares = np.exp(np.array(scores))
            shares = shares / shares.sum()
            found = np.zeros(memory.shape[1], shares.dtype)
            found[places] = shares
            all_weights.append(found)
            contexts.append(sum((w * memory[b, s] for w, s in zip(shares, places)), np.zeros(memory.shape[2])))
        step_input = np.concatenate([x[:, t], np.stack(contexts)], axis=1)
        states = cells.KINDS[kind].step(step_input, states, of_cell)
        outputs.append(states[0])
        shown.append(np.stack(all_weights))
    return [np.stack(outputs, 1), np.stack(shown, 1), *states]


def results(layer: Any, given: list[np.ndarray], mask: Any) -> dict[str, np.ndarray]:
    x, memory, *states = given
    return outcome(layer, x, states, [memory] if mask is None else [memory, mask])


def expected(layer: Any, kind: str, score: str, given: list[np.ndarray], mask: Any) -> dict[str, np.ndarray]:
    count = len(given)

    def run(*everything: Any) -> list[Any]:
        x, memory, *states = everything[:count]
        return plain_loop(kind, score, mask, x, memory, states, everything[count:])

    everything = (*given, *layer.get_weights())
    return named(run(*everything), complex_step_gradients(lambda *moved: total(run(*moved)), *everything))


@on_engines
@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "masked"])
@pytest.mark.parametrize("score", ["additive", "general", "dot"])
def test_equals_a_loop_over_places(score: str, mask: Any, engines: tuple[str, ...]) -> None:
    for kind in CELLS:
        size = U if score == "dot" else D
        layer, given = built(kind, score, size), arrays(kind, size)
        wanted = expected(layer, kind, score, given, mask)
        for engine in engines:
            with mr.engine(engine):
                assert_agree(results(layer, given, mask), wanted, 1e-11)


def test_planted_bugs_are_noticed() -> None:
    layer, given = built("lstm", "additive"), arrays("lstm")
    wanted = expected(layer, "lstm", "additive", given, MASK)
    for wrong in ([given[0], given[1][:, ::-1], *given[2:]], [*given[:2], given[3], given[2]]):
        with pytest.raises(Disagreement):
            assert_agree(results(layer, wrong, MASK), wanted, 1e-11)
    for mask in (None, ~MASK, MASK[::-1]):
        with pytest.raises(Disagreement):
            assert_agree(results(layer, given, mask), wanted, 1e-11)


@pytest.mark.parametrize("engine", ["reference", "numpy", pytest.param("cpu", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dirt", [np.nan, np.inf])
def test_what_stands_in_masked_places_reaches_nothing(dirt: float, engine: str) -> None:
    layer, given = built("gru_reset_after", "additive"), arrays("gru_reset_after")
    dirty = [given[0], np.where(MASK[..., None], given[1], dirt), *given[2:]]
    with mr.engine(engine):
        assert_agree(results(layer, dirty, MASK), results(layer, given, MASK), 1e-13)


def test_a_row_without_any_place_reads_zeros() -> None:
    layer, given = built("gru_reset_after", "general"), arrays("gru_reset_after")
    mask = MASK.copy()
    mask[0] = False
    x, memory, state = given
    y, weights, h = layer(x, initial_state=[state], constants=[memory, mask])
    nothing = layer(x, initial_state=[state], constants=[np.where(mask[..., None], memory, 0.0)])
    assert not weights.numpy()[0].any() and max_error(y.numpy()[0], nothing[0].numpy()[0]) < 1e-14
    assert np.isfinite(h.numpy()).all()


def test_memories_of_any_length_and_with_masks_of_their_own() -> None:
    layer, (x, memory, _) = built("gru_reset_after", "additive"), arrays("gru_reset_after")
    whole = layer(x, constants=[memory])
    longer = np.concatenate([memory, np.full((B, 2, D), np.nan)], 1)
    mask = np.arange(S + 2) < S
    found = layer(x, constants=[longer, np.broadcast_to(mask, (B, S + 2))])
    assert found[1].shape == (B, T, S + 2) and max_error(found[0], whole[0]) < 1e-14
    carried = mr.Tensor(longer)
    carried.mask = mr.Tensor(np.broadcast_to(mask, (B, S + 2)).copy())
    assert max_error(layer(x, constants=[carried])[0], whole[0]) < 1e-14
    assert max_error(layer(x, constants=[memory])[0], whole[0]) == 0


def test_time_masks_hold_the_weights_too() -> None:
    layer, (x, memory, _) = built("lstm", "general"), arrays("lstm")[:3]
    y, weights, *_ = layer(x, mask=np.array([[1, 0, 1], [0, 1, 0]], bool), constants=[memory])
    assert max_error(weights.numpy()[0, 1], weights.numpy()[0, 0]) == 0 == max_error(weights.numpy()[1, 0], np.zeros(S))
    assert max_error(y.numpy()[1, 2], y.numpy()[1, 1]) == 0


def test_stacked_cells_point_with_the_last_ones_state() -> None:
    cell = AttentionCell([SimpleRNNCell(3), LSTMCell(D)], D, score="dot")
    layer = RNN(cell, return_sequences=True)
    assert layer(np.ones((B, T, F), "float32"), constants=[np.ones((B, S, D), "float32")]).shape == (B, T, D)
    both = StackedRNNCells([AttentionCell(GRUCell(4), D), GRUCell(3)])
    assert RNN(both)(np.ones((B, T, F), "float32"), constants=[np.ones((B, S, D), "float32")]).shape == (B, 3)
    y = Bidirectional(RNN(AttentionCell(GRUCell(4), D)))(np.ones((B, T, F)), constants=[np.ones((B, S, D))])
    assert y.shape == (B, 8)


def test_a_translator_trains_saves_and_takes_the_encoders_mask(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    ids, target = rng.integers(1, 6, (16, S)), rng.normal(size=(16, T, F)).astype("float32")
    ids[:8, 2:] = 0
    source, before = Input((None,), dtype="int32"), Input((None, F))
    memory = GRU(D, return_sequences=True)(Embedding(6, 3, mask_zero=True)(source))
    decoder = RNN(AttentionCell(LSTMCell(8), D, return_attention_scores=True), return_sequences=True)
    y, weights = decoder(before, constants=[memory])
    model = Model([source, before], Dense(F)(y))
    model.compile("adam", "mse")
    losses = model.fit([ids, target], target, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.npz")
    assert max_error(load_model(tmp_path / "model.npz").predict([ids, target]), model.predict([ids, target])) == 0
    shown = Model([source, before], weights).predict([ids, target])
    assert shown.shape == (16, T, S) and max_error(shown.sum(axis=-1), np.ones((16, T))) < 1e-6
    assert not shown[:8, :, 2:].any() and shown[8:].all()


def test_configuration() -> None:
    layer = built("lstm", "additive")
    again = registry.deserialize(json.loads(json.dumps(registry.serialize(layer))), "layer")
    assert again.get_config() == layer.get_config()
    again.build((None, T, F))
    again.set_weights(layer.get_weights())
    x, memory, *_ = arrays("lstm")
    for a, b in zip(again(x, constants=[memory]), layer(x, constants=[memory]), strict=True):
        assert max_error(a, b) == 0


def test_errors() -> None:
    x = np.ones((B, T, F), "float32")
    with pytest.raises(ArgumentError, match="score"):
        AttentionCell(GRUCell(3), D, score="cosine")
    with pytest.raises(ShapeError, match="points into the memory"):
        AttentionCell(GRUCell(3), D, score="dot")
    with pytest.raises(ShapeError, match="points into the memory"):
        AttentionCell(ConvLSTMCell(1, 3, 2), D)
    with pytest.raises(ArgumentError, match="memory_size"):
        AttentionCell(GRUCell(3), 0)
    layer = RNN(AttentionCell(GRUCell(3), D))
    with pytest.raises(ShapeError, match="memory"):
        layer(x, constants=[np.ones((B, S, D + 1), "float32")])
    with pytest.raises(ShapeError, match="mask does not fit"):
        layer(x, constants=[np.ones((B, S, D), "float32"), np.ones((B, S + 1), bool)])
    with pytest.raises(ArgumentError, match="constants"):
        layer(x, constants=[np.ones((B, S, D), "float32")] * 3)
    with pytest.raises(ArgumentError, match="constants"):
        layer(x)
