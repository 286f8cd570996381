"""The n-gram entropies against a model of the same definition written with dictionaries."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from minirnn.demo.baselines import ngram_bits
from minirnn.demo.corpus import python_topics


def with_dictionaries(training: list[int], held_out: list[int], order: int, characters: int, smoothing: float) -> float:
    grams: Counter[tuple[int, ...]] = Counter()
    contexts: Counter[tuple[int, ...]] = Counter()
    for i in range(order - 1, len(training)):
        context = tuple(training[i - order + 1 : i])
        grams[*context, training[i]] += 1
        contexts[context] += 1
    text = [*training, *held_out]
    total = 0.0
    for i in range(len(training), len(text)):
        context = tuple(text[i - order + 1 : i])
        p = (grams[*context, text[i]] + smoothing) / (contexts[context] + smoothing * characters)
        total -= math.log2(p)
    return total / len(held_out)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("smoothing", [0.01, 1.0])
def test_equals_the_definition(order: int, smoothing: float) -> None:
    rng = np.random.default_rng(order)
    ids = np.minimum(rng.geometric(0.25, 700), 11).astype(np.int32)  # some runs of ids only in the held-out part
    found = ngram_bits(ids[:600], ids[600:], order, 13, smoothing)
    assert found == pytest.approx(with_dictionaries(ids[:600].tolist(), ids[600:].tolist(), order, 13, smoothing))


def test_limits() -> None:
    ones = np.zeros(100, np.int32)
    assert ngram_bits(ones, ones[:10], 3, 1) == pytest.approx(0.0)
    unseen = np.array([0, 1, 2, 3] * 5)
    assert ngram_bits(ones, unseen, 1, 4, smoothing=1e9) == pytest.approx(2.0)  # all but uniform
    # A context that training never had says nothing: all characters are equally likely.
    assert ngram_bits(ones, np.array([1, 1, 1, 1]), 3, 4) > 2.0
    assert ngram_bits(np.array([0, 1]), np.array([3, 3, 2]), 3, 4) == pytest.approx(2.0)


def test_a_large_vocabulary_does_not_overflow() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 1_000_000, 500)
    assert ngram_bits(ids[:400], ids[400:], 3, 1_100_000) == pytest.approx(math.log2(1_100_000))


def test_on_the_text_of_the_demo() -> None:
    corpus = python_topics()
    bits = [ngram_bits(corpus.training, corpus.held_out, n, len(corpus.vocabulary)) for n in (1, 2, 3)]
    # English-like text: each character of context tells more.
    assert 4.2 < bits[0] < 5.2 and 3.0 < bits[1] < 3.8 and 2.2 < bits[2] < 2.9
