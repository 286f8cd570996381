"""Options of cells and calls in all combinations, against formulas: peepholes, projection, clip, zoneout, resets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn.errors import ArgumentError
from minirnn.layers import GRU, LSTM, GRUCell, Input, LSTMCell, SimpleRNN, SimpleRNNCell, registry
from minirnn.models import Model
from tests.reference import mutants, subjects
from tests.reference.cells import KINDS, Array, Case, random_case, step_with_options, weight_names
from tests.reference.checks import assert_agree, max_error

RNG = np.random.default_rng(47)
B, T, F, U = 3, 7, 4, 5
LSTM_OPTIONS: list[dict[str, Any]] = [
    {"peepholes": True},
    {"proj_size": 3},
    {"input_forget": True},
    {"clip": 0.6},
    {"zoneout": 0.3},
    {"peepholes": True, "proj_size": 2, "clip": 0.8, "zoneout": 0.2},
    {"peepholes": True, "input_forget": True, "clip": 0.5, "use_bias": False},
]
BOTH = [{"clip": 0.6}, {"zoneout": 0.3}, {"clip": 0.7, "zoneout": 0.1, "use_bias": False}]
CASES = [("lstm", options) for options in LSTM_OPTIONS] + [
    (kind, options) for kind in ("simple_rnn", "gru_reset_after", "gru_reset_before") for options in BOTH
]
HOLES = np.array([[0, 1, 0, 0, 1, 1, 0], [1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0]], bool)
RESETS = np.array([[0, 0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 1]], bool)
each_case = pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda x: x if isinstance(x, str) else "-".join(x))


@each_case
@pytest.mark.parametrize("engine", ["reference", "numpy"])
def test_layer_equals_formulas(kind: str, options: dict[str, Any], engine: str) -> None:
    for mask, resets, go_backwards in ((None, None, False), (HOLES, RESETS, True)):
        case = random_case(
            kind, 48, features=2, units=3, mask=mask, resets=resets, go_backwards=go_backwards, options=options
        )
        truth = subjects.formulas_with_gradients(case)
        assert_agree(subjects.layer(case, engine=engine), truth, 1e-12)
        assert_agree(subjects.layer(case, "float32", engine), truth, 1e-5)


@each_case
def test_planted_bugs_are_noticed(kind: str, options: dict[str, Any]) -> None:
    case = random_case(kind, 50, mask=HOLES, resets=RESETS, go_backwards=True, options=options)
    truth = subjects.formulas(case)

    def check(subject: mutants.Subject) -> None:
        found = subject(case)
        assert_agree({name: found[name] for name in truth}, truth, 1e-12)

    bugs = mutants.of_options(options) | mutants.MASK | mutants.RESET
    assert mutants.unnoticed(check, subjects.layer, bugs) == []


@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_to_write_the_formulas_agree(kind: str) -> None:
    case = random_case(kind, 49)
    plain = KINDS[kind].step(case.x[:, 0], case.initial_states, case.weights)
    for got, want in zip(step_with_options(kind, {})(case.x[:, 0], case.initial_states, case.weights), plain):
        assert max_error(got, want) < 1e-15


Problem = tuple[Case, str, dict[str, Any]]


@st.composite
def problems(draw: Any) -> Problem:
    """A cell with options, a mask of any pattern, resets, flags of the layer and lengths, an engine."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    options: dict[str, Any] = {"use_bias": draw(st.booleans())}
    options["clip"] = draw(st.sampled_from([None, 0.5]))
    options["zoneout"] = draw(st.sampled_from([0.0, 0.4]))
    if kind == "lstm":
        options["peepholes"], options["input_forget"] = draw(st.booleans()), draw(st.booleans())
        options["proj_size"] = draw(st.sampled_from([None, 1, 3]))
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    pattern = st.lists(st.booleans(), min_size=batch * time, max_size=batch * time)
    some_flags = st.none() | pattern.map(lambda values: np.array(values).reshape(batch, time))
    case = random_case(
        kind,
        draw(st.integers(0, 2**31)),
        batch=batch,
        time=time,
        features=draw(st.integers(1, 2)),
        units=draw(st.integers(1, 3)),
        mask=draw(some_flags),
        resets=draw(some_flags),
        go_backwards=draw(st.booleans()),
        options=options,
    )
    if not draw(st.booleans()):
        case = case.changed(initial_states=tuple(np.zeros_like(s) for s in case.initial_states))
    flags = dict(draw(st.sampled_from([{}, {"unroll": True}, {"checkpoint": 2}])))
    flags["zero_output_for_mask"] = draw(st.booleans())
    flags["lengths"] = draw(st.none() | st.lists(st.integers(0, time), min_size=batch, max_size=batch))
    return case, draw(st.sampled_from(["reference", "numpy"])), flags


def valid_steps(case: Case, flags: dict[str, Any]) -> Array:
    """The mask and the lengths together."""
    mask = np.ones(case.x.shape[:2], bool) if case.mask is None else case.mask
    return mask if flags["lengths"] is None else mask & (np.arange(mask.shape[1]) < np.array(flags["lengths"])[:, None])


def spoilt(case: Case, valid: Array) -> Case:
    """The case with NaN and infinities in the padding."""
    return case.changed(x=np.where(valid[..., None], case.x, np.where(np.arange(case.x.shape[2]) % 2, np.inf, np.nan)))


@given(problem=problems())
@settings(max_examples=40)
def test_any_combination(problem: Problem) -> None:
    case, engine, flags = problem
    valid = valid_steps(case, flags)
    shown = (valid[:, ::-1] if case.go_backwards else valid)[..., None] | (not flags["zero_output_for_mask"])
    # Outputs that are zeros lead to no gradient.
    cotangents = (case.cotangents[0] * shown, *case.cotangents[1:])
    truth = subjects.formulas_with_gradients(case.changed(mask=valid, cotangents=cotangents))
    truth["outputs"] = truth["outputs"] * shown
    assert_agree(subjects.layer(spoilt(case, valid), engine=engine, **flags), truth, 1e-11)


@given(problem=problems())
@settings(max_examples=20)
def test_the_last_output(problem: Problem) -> None:
    case, engine, flags = problem
    valid = valid_steps(case, flags)
    last = np.zeros_like(case.cotangents[0])
    last[:, -1] = case.cotangents[0][:, -1]
    truth = subjects.formulas_with_gradients(case.changed(mask=valid, cotangents=(last, *case.cotangents[1:])))
    truth["outputs"] = truth["outputs"][:, -1]
    case = spoilt(case.changed(cotangents=(last[:, -1], *case.cotangents[1:])), valid)
    assert_agree(subjects.layer(case, engine=engine, return_sequences=False, **flags), truth, 1e-11)


# resets ------------------------------------------------------------------------------------------
def made(**options: Any) -> tuple[Any, Array, list[Array]]:
    """A random LSTM, an input and initial states for it."""
    layer = LSTM(U, **{"return_sequences": True, "return_state": True, **options}, dtype="float64")
    layer.build((None, None, F))
    layer.set_weights([RNG.normal(size=v.shape) for v in layer.weights])
    return layer, RNG.normal(size=(B, T, F)), [RNG.normal(size=(B, U)) for _ in range(2)]


def test_a_reset_is_a_new_call() -> None:
    layer, x, states = made()
    resets = np.zeros((B, T), bool)
    resets[:, 4] = True
    y, *final = layer(x, initial_state=states, reset_mask=resets, mask=HOLES)
    before = layer(x[:, :4], initial_state=states, mask=HOLES[:, :4])[0]
    after, *wanted = layer(x[:, 4:], initial_state=states, mask=HOLES[:, 4:])
    for got, want in zip([y, *final], [np.concatenate([before, after], 1), *wanted], strict=True):
        np.testing.assert_allclose(got, want, atol=1e-14)


def test_forms_of_reset_masks() -> None:
    layer, x, states = made()
    wanted = layer(x, initial_state=states, reset_mask=RESETS)[0].numpy()
    for same in (RESETS.astype(float), RESETS[..., None], RESETS.tolist(), mr.Tensor(RESETS)):
        np.testing.assert_array_equal(layer(x, initial_state=states, reset_mask=same)[0].numpy(), wanted)
    major = LSTM.from_config({**layer.get_config(), "time_major": True})
    major.build((None, None, F))
    major.set_weights(layer.get_weights())
    y = major(x.swapaxes(0, 1), initial_state=states, reset_mask=RESETS.T)[0].numpy()
    np.testing.assert_array_equal(y.swapaxes(0, 1), wanted)


def test_a_stateful_layer_goes_back_to_where_the_call_began() -> None:
    layer, x, states = made(stateful=True, return_state=False)
    layer.reset_states(states=states)
    y = layer(x, reset_mask=RESETS).numpy()
    held = [s.numpy() for s in layer.states]
    wanted, *final = made_like(layer)(x, initial_state=states, reset_mask=RESETS)
    np.testing.assert_array_equal(y, wanted.numpy())
    for got, want in zip(held, final, strict=True):
        np.testing.assert_array_equal(got, want.numpy())


def made_like(layer: Any) -> Any:
    """The same LSTM without states of its own, returning them instead."""
    other = LSTM.from_config({**layer.get_config(), "stateful": False, "return_state": True})
    other.build((None, None, F))
    other.set_weights(layer.get_weights())
    return other


def test_symbolic_resets() -> None:
    layer, x, _ = made(return_state=False)
    sequence, resets = Input((None, F), dtype="float64"), Input((None,), dtype="bool")
    model = Model([sequence, resets], layer(sequence, reset_mask=resets))
    again = Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    wanted = layer(x, reset_mask=RESETS).numpy()
    with pytest.raises(ArgumentError, match="reset_mask"):
        model.stream()
    for one in (model, again):
        np.testing.assert_array_equal(one([x, RESETS]).numpy(), wanted)


# options of cells --------------------------------------------------------------------------------
@pytest.mark.parametrize("options", LSTM_OPTIONS, ids="-".join)
def test_weights_and_configuration(options: dict[str, Any]) -> None:
    layer = LSTM(U, **options)
    layer.build((None, T, F))
    proj = options.get("proj_size", U)
    shapes = {
        "kernel": (F, 4 * U), "recurrent_kernel": (proj, 4 * U), "projection_kernel": (U, proj), "bias": (4 * U,),
        "peephole": (3, U),
    }  # fmt: skip
    names = weight_names(options)
    assert [(v.name, v.shape) for v in layer.weights] == [(name, shapes[name]) for name in names]
    for one in (layer, layer.cell):
        again = registry.deserialize(registry.serialize(one), "layer")
        assert again.get_config() == one.get_config()
        assert {name: again.get_config()[name] for name in options} == options


def test_first_values_of_the_variants() -> None:
    cell = LSTMCell(U, peepholes=True, proj_size=3, recurrent_regularizer="l2", recurrent_constraint="non_neg")
    cell.build((None, F))
    assert not cell.peephole.numpy().any() and cell.projection_kernel.numpy().any()
    assert cell.state_size == [3, U] and cell.output_size == 3
    assert len(cell.losses) == len(cell.constraints) == 2


@pytest.mark.parametrize("make", [SimpleRNNCell, GRUCell, LSTMCell, SimpleRNN, GRU, LSTM])
@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"clip": 0}, "clip"),
        ({"clip": -1.0}, "clip"),
        ({"clip": "1"}, "clip"),
        ({"zoneout": 1.5}, "zoneout"),
        ({"zoneout": -0.1}, "zoneout"),
        ({"zoneout": True}, "zoneout"),
    ],
)
def test_wrong_options(make: Any, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ArgumentError, match=f"(?s)LSTM|GRU|SimpleRNN.*{word}"):
        make(3, **options)


def test_wrong_projections() -> None:
    for size in (0, -1, 2.0, True):
        with pytest.raises(ArgumentError, match="proj_size"):
            LSTM(3, proj_size=size)
    with pytest.raises(ArgumentError, match="proj_size"):
        GRU(3, proj_size=2)


# what is drawn -----------------------------------------------------------------------------------
@pytest.mark.parametrize("engine", ["reference", "numpy"])
@pytest.mark.parametrize("kind", [SimpleRNN, GRU, LSTM])
def test_zoneout_keeps_elements_in_training(kind: Any, engine: str) -> None:
    steps, width = 60, 40
    layer = kind(width, zoneout=0.3, return_sequences=True, dtype="float64")
    layer.build((None, None, F))
    x = RNG.normal(size=(2, steps, F))
    with mr.engine(engine):
        mr.seed(3)
        y = layer(x, training=True).numpy()
        other = layer(x, training=True).numpy()
        mr.seed(3)
        np.testing.assert_array_equal(layer(x, training=True).numpy(), y)
    kept = y[:, 1:] == y[:, :-1]
    assert abs(kept.mean() - 0.3) < 0.03
    assert 0.1 < kept.mean(axis=(0, 2)).min()  # at every step, others at each
    assert not (kept[:, 1:] == kept[:, :-1]).all() and not np.array_equal(y, other)
    calm = layer(x).numpy()
    assert (calm[:, 1:] == calm[:, :-1]).mean() < 0.001


def test_zoneout_of_all_and_none() -> None:
    x, h, c = RNG.normal(size=(B, F)), RNG.normal(size=(B, U)), RNG.normal(size=(B, U))
    keeping = LSTMCell(U, zoneout=1.0, dtype="float64")
    for training in (False, True):
        y, (new_h, new_c) = keeping(x, [h, c], training=training)
        for got, want in ((y, h), (new_h, h), (new_c, c)):
            np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.parametrize("engine", ["reference", "numpy"])
@pytest.mark.parametrize(("make", "gates"), [(GRU, 3), (LSTM, 4)])
def test_each_gate_has_a_mask_of_its_own_with_implementation_1(make: Any, gates: int, engine: str) -> None:
    def masks_seen(**options: Any) -> Array:
        """For each row, which blocks of the input product are dropped: with units 1 and one feature."""
        layer = make(1, dropout=0.5, return_sequences=True, dtype="float64", **options)
        layer.build((None, None, 1))
        # Only one gate sees the input at a time.
        seen = []
        for gate in range(gates):
            kernel, recurrent, bias = (np.zeros_like(w) for w in layer.get_weights())
            kernel[0, gate] = 1.0
            bias[...] = 0.7
            layer.set_weights([kernel, recurrent, bias])
            mr.seed(6)
            y = layer(np.ones((200, 2, 1)), training=True).numpy()[:, 1, 0]
            calm = layer(np.zeros((1, 2, 1))).numpy()[0, 1, 0]
            seen.append(np.isclose(y, calm))
        return np.stack(seen)

    with mr.engine(engine):
        together, apart = masks_seen(), masks_seen(implementation=1)
    assert (together == together[0]).all()
    agreement = [(apart[a] == apart[b]).mean() for a in range(gates) for b in range(a)]
    assert max(agreement) < 0.65 and abs(apart.mean() - 0.5) < 0.1
    assert make(1, recurrent_dropout=0.1).cell.implementation == 1 and make(1).cell.implementation == 2


def test_dropout_of_gates_is_shared_over_time() -> None:
    layer = LSTM(3, dropout=0.5, implementation=1, return_sequences=True, dtype="float64")
    layer.build((None, None, 2))
    kernel, recurrent, bias = layer.get_weights()
    bias[3:6] = -100.0  # nothing is remembered
    layer.set_weights([kernel, 0 * recurrent, bias])
    y = layer(np.ones((20, 6, 2)), training=True).numpy()
    np.testing.assert_allclose(y, y[:, :1] + 0 * y, atol=1e-12)
    assert len(np.unique(y[:, 0, 0].round(9))) > 4


@pytest.mark.parametrize("make", [SimpleRNN, GRU, LSTM])
def test_layers_ignore_constants(make: Any) -> None:
    layer = make(U, dtype="float64", return_state=True)
    x, c = RNG.normal(size=(B, T, F)), RNG.normal(size=(B, 2))
    states = [RNG.normal(size=(B, U)) for _ in layer.cell.get_initial_state(batch_size=B)]
    for got, want in zip(layer(x, constants=[c]), layer(x), strict=True):
        np.testing.assert_array_equal(got, want)
    for got, want in zip(layer([x, *states, c, c]), layer(x, initial_state=states), strict=True):
        np.testing.assert_array_equal(got, want)
    assert "num_constants" not in layer.get_config()


@pytest.mark.parametrize("make", [SimpleRNN, GRU, LSTM])
def test_layers_have_the_options_of_their_cells(make: Any) -> None:
    layer = make(3, activation="relu", dropout=0.25, kernel_regularizer="l2", bias_constraint="non_neg")
    for name in layer.cell.option_names:
        assert getattr(layer, name) is getattr(layer.cell, name)
    assert (layer.units, layer.dropout, layer.state_size) == (3, 0.25, layer.cell.state_size)
    layer.dropout = 0.5
    assert layer.cell.dropout == 0.5
    assert hasattr(layer, "unit_forget_bias") == (make is LSTM)


def test_trainable_reaches_the_cell() -> None:
    layer = GRU(3, trainable=False)
    layer(np.ones((2, 3, 4)))
    assert layer.cell.trainable_variables == [] == layer.trainable_variables
    layer.trainable = True
    assert len(layer.cell.trainable_variables) == 3 == len(layer.trainable_variables)
