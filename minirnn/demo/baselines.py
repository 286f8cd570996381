"""What a model of characters has to beat: n-gram frequencies."""

from __future__ import annotations

import numpy as np

SMOOTHING = 0.01


def ngram_bits(
    training: np.ndarray, held_out: np.ndarray, order: int, characters: int, smoothing: float = SMOOTHING
) -> float:
    """The cross-entropy of an n-gram model on held-out text, in bits per character.

    The model is `p(c | the order - 1 characters before) = (count + smoothing) / (total + smoothing *
    characters)`, counted in `training`; order 1 is the unigram, 3 the trigram.  training, held_out: ids
    below `characters`, (N,) and (M,); held_out follows training, whose end is the context of its beginning.
    Additive smoothing: Lidstone (1920); Chen and Goodman, An Empirical Study of Smoothing (1998), section 2.1.

    >>> round(ngram_bits(np.array([0, 1] * 50), np.array([0, 1] * 5), 2, 2), 4)
    0.0003
    """
    grams, counts = np.unique(_numbered(training, order, characters), return_counts=True)
    contexts, begin = np.unique(grams // characters, return_index=True)
    totals = np.add.reduceat(counts, begin) if len(begin) else counts
    before = training[len(training) - (order - 1) :]
    asked = _numbered(np.concatenate([before, held_out]), order, characters)
    count = _looked_up(grams, counts, asked)
    total = _looked_up(contexts, totals, asked // characters)
    return float(-np.log2((count + smoothing) / (total + smoothing * characters)).mean())


def _numbered(ids: np.ndarray, order: int, characters: int) -> np.ndarray:
    """Every run of `order` ids as one number; the last id is its last digit in the base `characters`."""
    count = max(len(ids) - order + 1, 0)
    numbers = np.zeros(count, np.int64)
    for place in range(order):
        numbers = numbers * characters + ids[place : place + count]
    return numbers


def _looked_up(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """values[i] where asked is keys[i] (sorted), 0 where it is none of them."""
    if not len(keys):
        return np.zeros(len(asked), np.int64)
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)
