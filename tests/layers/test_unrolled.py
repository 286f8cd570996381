"""`unroll` and `time_major`: the same bits as the loop, and no transposes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.autodiff.trace import Trace
from minirnn.layers import GRU, LSTM, SimpleRNN
from tests.reference import subjects
from tests.reference.cells import random_case

RNG = np.random.default_rng(75)
B, T, F, U = 3, 6, 2, 4
MASK = np.array([[0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]], bool)
RESETS = np.array([[0, 0, 1, 0, 0, 1], [0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0]], bool)


@pytest.mark.parametrize("go_backwards", [False, True], ids=["forward", "backwards"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
@pytest.mark.parametrize("resets", [None, RESETS], ids=["", "resets"])
@pytest.mark.parametrize("kind", ["simple_rnn", "gru_reset_before", "lstm"])
def test_unrolled_is_the_loop_to_the_bit(kind: str, mask: Any, resets: Any, go_backwards: bool) -> None:
    options = {"peepholes": True, "proj_size": 3} if kind == "lstm" else {"zoneout": 0.2}
    case = random_case(kind, 76, time=T, mask=mask, resets=resets, go_backwards=go_backwards, options=options)
    loop = subjects.layer(case, engine="reference")
    for engine in ("reference", "numpy"):
        found = subjects.layer(case, engine=engine, unroll=True)
        for name, array in loop.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    last = subjects.layer(case.changed(cotangents=(case.cotangents[0][:, -1], *case.cotangents[1:])),
                          engine="reference", unroll=True, return_sequences=False)  # fmt: skip
    np.testing.assert_array_equal(last["outputs"], loop["outputs"][:, -1])


@pytest.mark.parametrize("kind", [SimpleRNN, GRU, LSTM])
def test_unrolled_training_draws_the_same_numbers(kind: Any) -> None:
    options = {"dropout": 0.3, "recurrent_dropout": 0.2, "zoneout": 0.2, "return_sequences": True, "dtype": "float64"}
    layer = kind(U, **options)
    layer.build((None, T, F))
    unrolled = kind(U, unroll=True, **options)
    unrolled.build((None, T, F))
    unrolled.set_weights(layer.get_weights())
    x = RNG.normal(size=(B, T, F))
    found = []
    with mr.engine("reference"):
        for one in (layer, unrolled):
            mr.seed(8)
            found.append(one(x, training=True, mask=MASK).numpy())
    np.testing.assert_array_equal(*found)


def transposes(layer: Any, shape: tuple[int, ...], **call: Any) -> int:
    """The number of transposes that a call records."""
    with Trace(shapes_only=True) as trace:
        layer(trace.input(shape, "float64"), **call)
        return sum(node.primitive.name == "transpose" for node in trace.nodes)


@pytest.mark.parametrize("kind", [SimpleRNN, GRU, LSTM])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("options", [{}, {"go_backwards": True, "zero_output_for_mask": True}], ids=["", "backwards"])
def test_time_major_never_transposes(kind: Any, return_sequences: bool, options: dict[str, Any]) -> None:
    options = {**options, "return_sequences": return_sequences, "return_state": True, "dtype": "float64"}
    major, minor = kind(U, time_major=True, **options), kind(U, **options)
    assert transposes(major, (T, B, F), mask=MASK.T, reset_mask=RESETS.T, lengths=[1, 2, 3]) == 0
    assert transposes(major, (T, B, F)) == 0
    assert transposes(minor, (B, T, F)) > 0
    minor.set_weights(major.get_weights())
    x = RNG.normal(size=(B, T, F))
    for call in ({}, {"mask": MASK, "reset_mask": RESETS}):
        turned = {name: flags.T for name, flags in call.items()}
        y, *states = major(x.swapaxes(0, 1), **turned)
        wanted, *wanted_states = minor(x, **call)
        y = y.numpy().swapaxes(0, 1) if return_sequences else y.numpy()
        for got, want in zip([y, *states], [wanted, *wanted_states], strict=True):
            np.testing.assert_array_equal(got, want)
