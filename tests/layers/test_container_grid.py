"""The grid of the original container's own test: 486 containers that build, train a step and come back.

Two kinds of units; zero to two of each of sequence inputs, sequence outputs, constant inputs, constant
outputs and readouts (predictions that are fed back).  By default at small sizes a part of the grid that has
every pair of choices; all of it, at the original's sizes, in the slow set.
"""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer, RecurrentUnit
from minirnn.layers import LSTM, Concatenate, Dense, Input, SimpleRNN
from minirnn.models import Model

UNITS = {"SimpleRNN": (SimpleRNN, 1), "LSTM": (LSTM, 2)}


class Choice(NamedTuple):
    kind: str
    sequence_inputs: int
    sequence_outputs: int
    constant_inputs: int
    constant_outputs: int
    readouts: int


class Sizes(NamedTuple):
    units: int
    features: int
    batch: int
    time: int


GRID = [Choice(kind, *numbers) for kind in UNITS for numbers in itertools.product(range(3), repeat=5)]
SOME = [GRID[(k * 59) % len(GRID)] for k in range(24)]
SMALL, ORIGINAL = Sizes(units=5, features=3, batch=4, time=6), Sizes(units=10, features=6, batch=32, time=50)


def name_of(choice: Choice) -> str:
    return "-".join(map(str, choice))


def make_container(choice: Choice, sizes: Sizes) -> RecurrentContainer:
    layer, state_count = UNITS[choice.kind]

    def inputs(number: int, width: int) -> list[Any]:
        return [Input((width,)) for _ in range(number)]

    sequences, constants, readouts = (
        inputs(n, sizes.features) for n in (choice.sequence_inputs, choice.constant_inputs, choice.readouts)
    )
    states = inputs(state_count, sizes.units)
    read = [*sequences, *constants, *readouts]
    x = Concatenate()(read) if len(read) > 1 else read[0] if read else None
    y, *new_states = RecurrentUnit(layer(sizes.units, recurrent_dropout=0.5))(x, states=states)
    return RecurrentContainer(
        sequence_inputs=sequences,
        sequence_outputs=[Dense(sizes.features)(y) for _ in range(choice.sequence_outputs)],
        constant_inputs=constants,
        constant_outputs=[Dense(sizes.features)(y) for _ in range(choice.constant_outputs)],
        state_inputs=[*states, *readouts],
        state_outputs=[*new_states, *(Dense(sizes.features)(y) for _ in readouts)],
        return_states=True,
        output_length=None if sequences else sizes.time,
    )


def make_model(choice: Choice, sizes: Sizes) -> Model:
    """The container in a model; where it has no other input to take the batch size from, it gets a first state."""
    sequences = [Input((None, sizes.features)) for _ in range(choice.sequence_inputs)]
    constants = [Input((sizes.features,)) for _ in range(choice.constant_inputs)]
    container = make_container(choice, sizes)
    if sequences or constants:
        return Model([*sequences, *constants], container(sequences=sequences, constants=constants))
    first = Input((sizes.units,))
    rest = [None] * (UNITS[choice.kind][1] + choice.readouts - 1)
    return Model([first], container(states=[first, *rest]))


def result_shapes(choice: Choice, sizes: Sizes) -> list[tuple[int, ...]]:
    batch, time, features = sizes.batch, sizes.time, sizes.features
    return [
        *[(batch, time, features)] * choice.sequence_outputs,
        *[(batch, features)] * choice.constant_outputs,
        *[(batch, sizes.units)] * UNITS[choice.kind][1],
        *[(batch, features)] * choice.readouts,
    ]


def run_through(choice: Choice, sizes: Sizes) -> None:
    model = make_model(choice, sizes)
    rng = np.random.default_rng(1)
    shapes = [(sizes.batch, *(sizes.time if n is None else n for n in x.shape[1:])) for x in model.inputs]
    x = [rng.normal(size=shape).astype("float32") for shape in shapes]
    y = [rng.normal(size=shape).astype("float32") for shape in result_shapes(choice, sizes)]

    model.compile(mr.optimizers.SGD(0.1), "mse")
    before = model.get_weights()
    history = model.fit(x, y, batch_size=sizes.batch, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    after = model.get_weights()
    assert all(np.isfinite(w).all() for w in after)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True))
    assert (
        len(model.trainable_variables)
        == len(after)
        == 3 + 2 * (choice.sequence_outputs + choice.constant_outputs + choice.readouts)
    )

    predicted = listed(model.predict(x, batch_size=sizes.batch, verbose=0))
    assert [p.shape for p in predicted] == result_shapes(choice, sizes)
    model.set_weights(before)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(listed(model(x)), predicted, strict=True))
    model.set_weights(after)
    check_equal(listed(model(x)), predicted)

    again = Model.from_config(json.loads(json.dumps(model.get_config())))
    assert json.dumps(again.get_config()) == json.dumps(model.get_config())
    again.set_weights(after)
    check_equal(listed(again(x)), predicted)


def listed(results: Any) -> list[Any]:
    return [np.asarray(r) for r in (results if isinstance(results, list) else [results])]


def check_equal(found: list[Any], wanted: list[Any]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("choice", SOME, ids=name_of)
def test_a_part_of_the_grid(choice: Choice) -> None:
    run_through(choice, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("choice", GRID, ids=name_of)
def test_all_of_the_grid(choice: Choice) -> None:
    run_through(choice, ORIGINAL)


def test_the_part_has_every_pair_of_choices() -> None:
    def pairs(choices: list[Choice]) -> set[Any]:
        return {(i, j, c[i], c[j]) for c in choices for i, j in itertools.combinations(range(6), 2)}

    assert len(GRID) == 486
    assert len(set(SOME)) == 24
    assert pairs(SOME) == pairs(GRID)
