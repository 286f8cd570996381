from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import minirnn as mr
from minirnn.demo import charmodel
from minirnn.demo.corpus import Vocabulary
from minirnn.errors import ArgumentError, FormatError
from minirnn.layers import Dense, Embedding, Input
from minirnn.models import Model, Sequential

VOCABULARY = Vocabulary("\n abcdef")


def made(units: int = 7, characters: int = len(VOCABULARY)) -> Sequential:
    mr.seed(3)
    model = charmodel.build(characters, units)
    rng = np.random.default_rng(5)  # larger weights than initial ones, so that states matter
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    model.metadata = {"characters": VOCABULARY.characters[:characters]}
    return model


def text(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, len(VOCABULARY), length).astype(np.int32)


def one_by_one(model: Sequential, before: np.ndarray, ids: np.ndarray) -> float:
    """The bits per character of a model that reads the whole text in one row."""
    whole = np.concatenate([before, ids])
    model.reset_states()
    scores = model.predict_on_batch(whole[None, :-1])[0, len(before) - 1 :].astype(np.float64)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    return float(-np.log2(probabilities[np.arange(len(ids)), ids]).mean())


def test_windows_follow_one_another() -> None:
    ids = np.arange(203)
    windows = charmodel.Windows(ids, rows=3, steps=8)
    passed = [windows.batch(k) for k in range(windows.per_pass)]
    assert windows.per_pass == 8 and passed[0][0].shape == (3, 8)
    inputs = np.concatenate([x for x, _ in passed], axis=1)
    assert (np.diff(inputs, axis=1) == 1).all() and inputs[:, 0].tolist() == [0, 67, 134]
    assert all((y == x + 1).all() for x, y in passed)
    assert (windows.batch(windows.per_pass)[0] == passed[0][0]).all()


@pytest.mark.parametrize("length", [2, 3, 33, 34, 900, 1057])
def test_windows_of_short_texts(length: int) -> None:
    windows = charmodel.Windows(np.arange(length))
    x, y = windows.batch(0)
    assert windows.per_pass >= 1 and x.shape == y.shape == (windows.rows, windows.steps)
    assert y.max() < length and (y == x + 1).all()


@pytest.mark.parametrize(("before", "length"), [(300, 50), (300, 127), (300, 128), (1, 40), (20, 500)])
def test_bits_equal_those_of_one_row(before: int, length: int) -> None:
    model = made()
    if length < 256:  # one row, and nothing of the context is left out up to 128 characters
        whole = text(before + length)
        expected = one_by_one(model, whole[max(before - 128, 0) : before], whole[before:])
        assert charmodel.bits_per_character(model, whole[:before], whole[before:]) == pytest.approx(expected, abs=1e-5)
    else:  # several rows, each after what stands before it
        whole = text(before + length)
        expected = one_by_one(model, whole[:before], whole[before:])
        assert charmodel.bits_per_character(model, whole[:before], whole[before:]) == pytest.approx(expected, abs=2e-2)


def test_bits_of_a_uniform_model() -> None:
    model = made()
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    assert charmodel.bits_per_character(model, text(1), text(3000)) == pytest.approx(math.log2(len(VOCABULARY)))


def test_measuring_and_writing_leave_the_states_alone() -> None:
    model = made()
    model.predict_on_batch(text(32).reshape(4, 8))
    held = [np.asarray(state) for state in model.get_layer(index=1).states]
    charmodel.bits_per_character(model, text(40), text(400))
    "".join(charmodel.write(model, VOCABULARY, "abc", 5, 1.0, 0))
    for state, before in zip(model.get_layer(index=1).states, held, strict=True):
        assert (np.asarray(state) == before).all() and before.shape == (4, 7)


def test_an_equal_seed_gives_an_equal_text() -> None:
    model = made()
    first, again, other = ("".join(charmodel.write(model, VOCABULARY, "ab", 60, 1.0, seed)) for seed in (1, 1, 2))
    assert first == again != other and len(first) == 60


def test_writing_carries_the_state_from_character_to_character() -> None:
    model = made()
    written = "".join(charmodel.write(model, VOCABULARY, "fed", 40, 0.0, None))
    ids = VOCABULARY.encode("fed" + written)
    model.reset_states()
    scores = model.predict_on_batch(ids[None])[0]
    assert VOCABULARY.decode(scores[2:-1].argmax(axis=-1)) == written


def test_the_temperature_decides_between_the_likeliest_and_chance() -> None:
    scores = np.log([0.1, 0.2, 0.7])
    uniforms = (np.arange(1000) + 0.5) / 1000

    def drawn(temperature: float) -> list[int]:
        return np.bincount([charmodel._drawn(scores, temperature, u) for u in uniforms], minlength=3).tolist()

    assert drawn(1.0) == [100, 200, 700]
    assert drawn(0.0) == drawn(1e-300) == [0, 0, 1000]
    assert drawn(1e9) == pytest.approx([333, 333, 333], abs=1)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_unit_interval_draw_a_character(uniform: float) -> None:
    assert charmodel._drawn(np.array([0.3, -800.0, 0.1]), 1.0, uniform) in (0, 2)


def test_prompts_that_cannot_be_gone_on_from() -> None:
    with pytest.raises(ArgumentError, match="the prompt is empty"):
        charmodel.write(made(), VOCABULARY, "", 5, 1.0, 0)
    with pytest.raises(ArgumentError, match="does not know"):
        charmodel.write(made(), VOCABULARY, "abz", 5, 1.0, 0)


def test_the_file_carries_the_vocabulary(tmp_path: Path) -> None:
    model = made()
    model.save(tmp_path / "m")
    loaded, vocabulary = charmodel.load(tmp_path / "m")
    assert vocabulary.characters == VOCABULARY.characters
    texts = ["".join(charmodel.write(m, vocabulary, "cab", 30, 0.8, 9)) for m in (model, loaded)]
    assert texts[0] == texts[1]


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    x = Input((None,), dtype="int32")
    embedded = Embedding(8, 3)(x)
    kinds = {
        "no vocabulary": (Model(x, Dense(8)(embedded)), None),
        "another size": (Model(x, Dense(9)(embedded)), VOCABULARY.characters),
        "floats": (Sequential([Input((None, 2)), Dense(8)]), VOCABULARY.characters),
        "two outputs": (Model(x, [Dense(8)(embedded), Dense(8)(embedded)]), VOCABULARY.characters),
        "not a string": (Model(x, Dense(8)(embedded)), list(VOCABULARY.characters)),
    }
    for model, characters in kinds.values():
        if characters is not None:
            model.metadata = {"characters": characters}
        model.save(tmp_path / "m")
        with pytest.raises(FormatError, match="not one of characters"):
            charmodel.load(tmp_path / "m")
