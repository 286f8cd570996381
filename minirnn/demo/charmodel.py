"""The model: an LSTM that reads characters and says which one comes next; its measure, its voice, its file."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import ArgumentError, FormatError
from ..layers.core import Dense, Embedding
from ..layers.functional import Input
from ..layers.initializers import RandomNormal
from ..layers.standard import LSTM
from ..models import Sequential, load_model
from ..training.losses import SparseCategoricalCrossentropy
from ..training.optimizers import Adam
from .corpus import Vocabulary

LEARNING_RATE = 0.015
CLIP = 1.0  # of the norm of all gradients together
ROWS, STEPS = 32, 32  # of a training batch: windows of 32 characters from 32 places of the text

_MEASURE_ROWS, _MEASURE_STEPS, _CONTEXT = 16, 128, 128


def build(characters: int, units: int) -> Sequential:
    """A new model, compiled: ids (B, T) to scores (B, T, characters) of the character that follows each.

    The LSTM is stateful: every call goes on where the one before it ended.
    """
    # Keras's initial embedding, at most 0.05, is next to nothing as an input: the LSTM would take
    # a thousand steps to notice it.  One of size 1 saves that time.
    embedding = Embedding(characters, max(units // 2, 1), embeddings_initializer=RandomNormal(stddev=1.0))
    model = Sequential(
        [
            Input((None,), dtype="int32"),
            embedding,
            LSTM(units, return_sequences=True, stateful=True),
            Dense(characters),
        ],
        name="character_model",
    )
    model.compile(Adam(LEARNING_RATE, global_clipnorm=CLIP), SparseCategoricalCrossentropy(from_logits=True))
    return model


class Windows:
    """A text laid out in rows, and cut into windows that follow one another: batch k + 1 goes on where k ended.

    >>> windows = Windows(np.arange(9), rows=2, steps=2)
    >>> x, y = windows.batch(1)
    >>> windows.per_pass, x.tolist(), y.tolist()
    (2, [[2, 3], [6, 7]], [[3, 4], [7, 8]])
    """

    def __init__(self, ids: np.ndarray, rows: int = ROWS, steps: int = STEPS) -> None:
        self.steps = min(steps, len(ids) - 1)
        self.rows = min(rows, (len(ids) - 1) // self.steps)
        width = (len(ids) - 1) // self.rows
        self.per_pass = width // self.steps  # batches until the text begins again
        self._x = ids[: self.rows * width].reshape(self.rows, width)
        self._y = ids[1 : self.rows * width + 1].reshape(self.rows, width)

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, (rows, steps) each; batch `per_pass` is the first one again."""
        at = number % self.per_pass * self.steps
        return self._x[:, at : at + self.steps], self._y[:, at : at + self.steps]


@contextlib.contextmanager
def fresh_states(model: Any) -> Iterator[None]:
    """Within the block the model begins from zero states; what it held before comes back at the end."""
    held = [(layer, layer.states) for layer in model.all_layers() if getattr(layer, "stateful", False)]
    model.reset_states()
    try:
        yield
    finally:
        for layer, states in held:
            layer.states = states


def bits_per_character(model: Any, before: np.ndarray, ids: np.ndarray) -> float:
    """The model's cross-entropy on `ids` (N,), which follow `before` in the text, in bits per character.

    The text is read in 16 rows at once, each after the 128 characters that stand before it.
    """
    rows = min(_MEASURE_ROWS, max(len(ids) // _CONTEXT, 1))
    width = -(-len(ids) // rows)
    context = min(_CONTEXT, len(before))
    text = np.concatenate([before[len(before) - context :], ids, np.zeros(rows * width - len(ids), ids.dtype)])
    # Row r's targets are text[context + r * width :][:width]; its inputs begin `context` before them.
    windows = text[np.arange(rows)[:, None] * width + np.arange(context + width)]
    x, y = windows[:, :-1], windows[:, 1:]
    bits = np.empty(y.shape)
    with fresh_states(model):
        for at in range(0, x.shape[1], _MEASURE_STEPS):
            part = slice(at, at + _MEASURE_STEPS)
            bits[:, part] = _bits(model.predict_on_batch(x[:, part]), y[:, part])
    return float(bits[:, context - 1 :].reshape(-1)[: len(ids)].mean())


def _bits(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log2 of the probability of each target; scores (..., characters)."""
    scores = scores.astype(np.float64)
    highest = scores.max(axis=-1)
    total = highest + np.log(np.exp(scores - highest[..., None]).sum(axis=-1))
    chosen = np.take_along_axis(scores, targets[..., None].astype(np.int64), axis=-1)[..., 0]
    return (total - chosen) / math.log(2)


def write(
    model: Any, vocabulary: Vocabulary, prompt: str, length: int, temperature: float, seed: int | None
) -> Iterator[str]:
    """`length` characters that the model continues the prompt with, one at a time.

    Each is drawn from softmax(scores / temperature) (the likeliest one for temperature 0) and read by the
    model in turn, its state carried from one to the next.  An equal seed gives an equal text.  Raises ArgumentError
    for an empty prompt, and for one with characters that are not in the vocabulary.
    """
    if not prompt:
        raise ArgumentError("the prompt is empty", expected="at least one character to go on from")
    ids = vocabulary.encode(prompt)
    return _written(model, vocabulary, ids, length, temperature, np.random.default_rng(seed))


def _written(
    model: Any, vocabulary: Vocabulary, ids: np.ndarray, length: int, temperature: float, rng: np.random.Generator
) -> Iterator[str]:
    with fresh_states(model):
        for _ in range(length):
            scores = model.predict_on_batch(ids[None])[0, -1]
            chosen = _drawn(scores.astype(np.float64), temperature, rng.random())
            yield vocabulary.characters[chosen]
            ids = np.array([chosen], ids.dtype)


def _drawn(scores: np.ndarray, temperature: float, uniform: float) -> int:
    if temperature == 0:
        return int(scores.argmax())
    with np.errstate(over="ignore", under="ignore"):  # a tiny temperature leaves one character
        weights = np.exp((scores - scores.max()) / temperature)
    sums = weights.cumsum()
    return int(min(np.searchsorted(sums, uniform * sums[-1], side="right"), len(sums) - 1))


def load(path: str | os.PathLike[str]) -> tuple[Any, Vocabulary]:
    """A saved character model and its vocabulary.

    Raises FormatError for a damaged file and for a model of another kind, OSError where it cannot be read.
    """
    model = load_model(path)
    characters = model.metadata.get("characters") if isinstance(model.metadata, dict) else None
    if not isinstance(characters, str) or not _fits(model, len(characters)):
        raise FormatError(
            "a minirnn model, but not one of characters",
            got=f"{model.label} without a vocabulary" if characters is None else model.label,
            expected="a model that `minirnn demo` or `minirnn train` saved",
            where=os.fspath(path),
        )
    return model, Vocabulary(characters)


def _fits(model: Any, characters: int) -> bool:
    """Whether the model maps ids (B, T) to scores (B, T, characters)."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return False
    (ids,), (scores,) = model.inputs, model.outputs
    return ids.ndim == 2 and ids.dtype.kind in "iu" and scores.ndim == 3 and scores.shape[-1] == characters
