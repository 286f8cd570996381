"""Teacher forcing and scheduled sampling in a container (gradients with forcing: test_container_gradients)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer
from minirnn.errors import ArgumentError, DtypeError, ShapeError
from minirnn.layers import Dense, Input
from minirnn.models import Model
from tests.reference.cells import Array
from tests.reference.checks import max_error
from tests.reference.containers import choose

ENGINES = ["reference", "numpy"]
BATCH, TIME = 3, 5
MASK = np.array([[0, 1, 0, 1, 1], [1, 1, 0, 0, 1], [0, 0, 0, 0, 0]], bool)


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape) + len(shape)).normal(size=shape)


def feeding(**options: Any) -> RecurrentContainer:
    """Shows at each step the states it was fed: two of them, fed back doubled and negated."""
    s, r = Input((2,)), Input((1, 3))
    return RecurrentContainer(
        state_inputs=[s, r],
        state_outputs=[2 * s + 1, -r],
        sequence_outputs=[s, r],
        output_length=options.pop("output_length", TIME),
        **options,
    )


START = [draw(BATCH, 2), draw(BATCH, 1, 3)]
FORCED = [draw(BATCH, TIME, 2), draw(BATCH, TIME, 1, 3)]


def fed(start: Array, forced: Array, step: Any, taken: Array, mask: Array | None = None) -> Array:
    """What a state is at each step, by the words of the interface; masked steps show the one before."""
    state, shown, last = start, np.zeros_like(start), start
    mask = np.ones((BATCH, TIME), bool) if mask is None else mask
    begun, found = np.zeros(BATCH, bool), []
    for t in range(TIME):
        now = choose(begun & taken[:, t], last, state)
        shown = choose(mask[:, t], now, shown)
        state = choose(mask[:, t], step(now), state)
        last = choose(mask[:, t], forced[:, t], last)
        begun = begun | mask[:, t]
        found.append(shown)
    return np.stack(found, axis=1)


def doubled(s: Array) -> Array:
    return 2 * s + 1


ALWAYS, NEVER = np.ones((BATCH, TIME), bool), np.zeros((BATCH, TIME), bool)


def check(found: Any, wanted: list[Array]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(one), other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"unroll": True}, {"checkpoint": 2}], ids=str)
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_training_takes_the_teachers_value_of_the_step_before(mask: Any, options: Any, engine: str) -> None:
    """Up to the first valid step the initial state is fed; everything goes by processing order."""
    container = feeding(teacher=[0], **options)
    given = mask[:, ::-1] if mask is not None and "go_backwards" in options else mask
    with mr.engine(engine):
        found = container(states=START, teacher={0: FORCED[0]}, mask=given, training=True)
    wanted = [fed(START[0], FORCED[0], doubled, ALWAYS, mask), fed(START[1], FORCED[1], np.negative, NEVER, mask)]
    check(found, wanted)
    if mask is None:
        np.testing.assert_array_equal(np.asarray(found[0])[:, 1:], FORCED[0][:, :-1])
        np.testing.assert_array_equal(np.asarray(found[0])[:, 0], START[0])


def test_every_named_state_is_forced() -> None:
    container = feeding(teacher=[1, 0])
    wanted = [fed(START[0], FORCED[0], doubled, ALWAYS), fed(START[1], FORCED[1], np.negative, ALWAYS)]
    check(container(states=START, teacher={0: FORCED[0], 1: FORCED[1]}, training=True), wanted)
    check(container(states=START, teacher=[FORCED[1], FORCED[0]], training=True), wanted)


def test_a_state_is_named_by_its_tensor_or_its_number() -> None:
    s, other = Input((2,)), Input((2,))
    for named in (s, [s], (s,), 0, [0], np.int64(0)):
        container = RecurrentContainer(
            state_inputs=[s, other],
            state_outputs=[2 * s, other],
            sequence_outputs=s,
            constant_outputs=s,
            output_length=TIME,
            teacher=named,
        )
        for key in (s, 0, np.int64(0)):
            found = container(states=[START[0], None], teacher={key: FORCED[0]}, training=True)
            np.testing.assert_array_equal(np.asarray(found[0])[:, 1:], FORCED[0][:, :-1])
            np.testing.assert_array_equal(np.asarray(found[1]), FORCED[0][:, -2])
        bare = container(states=[START[0], None], teacher=FORCED[0], training=True)
        np.testing.assert_array_equal(np.asarray(bare[0]), np.asarray(found[0]))


def test_inference_ignores_the_teacher_and_training_needs_it() -> None:
    container = feeding(teacher=[0])
    free = [fed(START[0], FORCED[0], doubled, NEVER), fed(START[1], FORCED[1], np.negative, NEVER)]
    check(container(states=START), free)
    check(container(states=START, teacher={0: FORCED[0]}), free)
    check(container(states=START, teacher={0: FORCED[0][:1, :2]}, training=False), free)
    for teacher in (None, {}, {0: None}, [None]):
        with pytest.raises(
            ArgumentError, match=r"(?s)RecurrentContainer 'rec.*training needs.*got: none for state 'input"
        ):
            container(states=START, teacher=teacher, training=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_probability_zero_needs_no_teacher(engine: str) -> None:
    container = feeding(teacher=[0], teacher_probability=0.0)
    free = fed(START[0], FORCED[0], doubled, NEVER)
    with mr.engine(engine):
        check(container(states=START, training=True)[:1], [free])
        check(container(states=START, teacher={0: FORCED[0]}, training=True)[:1], [free])


@pytest.mark.parametrize("options", [{}, {"unroll": True}, {"checkpoint": 2}, {"go_backwards": True}], ids=str)
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
def test_each_row_and_step_takes_the_teachers_value_with_the_probability(mask: Any, options: Any) -> None:
    """One draw for all forced states of a row and step, the same on both engines."""
    container = feeding(teacher=[0, 1], teacher_probability=0.5, **options)
    given = mask[:, ::-1] if mask is not None and "go_backwards" in options else mask
    found = {}
    for engine in ENGINES:
        mr.seed(4)
        with mr.engine(engine):
            call = {"states": START, "teacher": FORCED, "mask": given}
            found[engine] = [np.asarray(r) for r in container(**call, training=True)]
    check(found["numpy"], found["reference"])
    # The states fed tell what was drawn, which then has to explain both of them.
    taken = draws_behind(found["numpy"][0], mask)
    check(
        found["numpy"],
        [fed(START[0], FORCED[0], doubled, taken, mask), fed(START[1], FORCED[1], np.negative, taken, mask)],
    )
    if mask is None:
        assert 0 < taken[:, 1:].sum() < taken[:, 1:].size
        assert len(np.unique(taken, axis=0)) > 1 and len(np.unique(taken, axis=1).T) > 1


def draws_behind(shown: Array, mask: Array | None) -> Array:
    taken = np.zeros((BATCH, TIME), bool)
    for t in range(1, TIME):
        with_teacher, without = taken.copy(), taken.copy()
        with_teacher[:, t] = True
        right = fed(START[0], FORCED[0], doubled, with_teacher, mask)[:, t]
        other = fed(START[0], FORCED[0], doubled, without, mask)[:, t]
        taken[:, t] = np.isclose(shown[:, t], right).all(1) & ~np.isclose(right, other).all(1)
    return taken


@pytest.mark.parametrize("probability", [0.2, 0.9])
def test_how_often_the_teacher_is_followed(probability: float) -> None:
    s = Input((1,))
    container = RecurrentContainer(
        state_inputs=s, state_outputs=s, sequence_outputs=s, output_length=100, teacher=s,
        teacher_probability=probability, state_initializer="zeros",
    )  # fmt: skip
    # Fed back unchanged, a state keeps the last value that was forced.
    forced = np.broadcast_to(np.arange(1.0, 101.0)[:, None], (200, 100, 1))
    found = np.asarray(container(states=np.zeros((200, 1)), teacher=forced.copy(), training=True))[:, :, 0]
    share = (found[:, 1:] == forced[:, :-1, 0]).mean()
    assert abs(share - probability) < 4 * np.sqrt(probability * (1 - probability) / found[:, 1:].size)


def test_the_probability_may_change_between_steps() -> None:
    """Scheduled sampling: a callback sets the attribute."""
    container = feeding(teacher=[0])
    free, forced = fed(START[0], FORCED[0], doubled, NEVER), fed(START[0], FORCED[0], doubled, ALWAYS)
    for probability, wanted in ((1.0, forced), (0.0, free), (1, forced)):
        container.teacher_probability = probability
        check(container(states=START, teacher=FORCED[:1], training=True)[:1], [wanted])
    for probability, share in ((0.001, 0.0), (0.999, 1.0)):
        container.teacher_probability = probability
        found = np.asarray(container(states=START, teacher=FORCED[:1], training=True)[0])
        assert np.isclose(found[:, 1:], FORCED[0][:, :-1]).all(2).mean() == share
    for bad in (-0.1, 1.5, np.nan):
        with pytest.raises(ArgumentError, match="teacher_probability"):
            container.teacher_probability = bad
    assert container.teacher_probability == 0.999
    with pytest.raises(ArgumentError, match=r"(?s)RecurrentContainer 'mine'.*got: 2"):
        feeding(teacher=[0], teacher_probability=2, name="mine")


def predictor() -> tuple[RecurrentContainer, Any]:
    """y_t = tanh(W y_{t-1} + x_t), in which y may be forced."""
    x, before = Input((2,)), Input((2,))
    y = mr.ops.tanh(Dense(2)(before) + x)
    return RecurrentContainer(
        sequence_inputs=x, sequence_outputs=y, state_inputs=before, state_outputs=y, teacher=before
    ), before


@pytest.mark.parametrize("engine", ENGINES)
def test_forced_steps_pass_no_gradient_to_the_step_before(engine: str) -> None:
    container, before = predictor()
    x, forced = mr.Tensor(draw(BATCH, TIME, 2)), mr.Tensor(draw(BATCH, TIME, 2))
    with mr.engine(engine), mr.Tape() as tape:
        tape.watch([x, forced])
        loss = container(x, teacher={before: forced}, training=True)[:, 3].sum()
    of_x, of_forced = (np.asarray(g) for g in tape.gradient(loss, [x, forced]))
    assert np.flatnonzero(np.abs(of_x).sum((0, 2))).tolist() == [3]
    assert np.flatnonzero(np.abs(of_forced).sum((0, 2))).tolist() == [2]


def test_forced_everywhere_equals_a_feedforward_model() -> None:
    """With the teacher's values the steps do not depend on each other: one Dense over all of them."""
    container, before = predictor()
    x, forced = draw(BATCH, TIME, 2), draw(BATCH, TIME, 2)
    with mr.Tape() as tape:
        found = container(x, teacher={before: forced}, training=True)
        loss = (found * found).sum()
    slopes = tape.gradient(loss, container.trainable_variables)
    shifted = np.concatenate([np.zeros((BATCH, 1, 2)), forced[:, :-1]], axis=1)
    with mr.Tape() as tape:
        wanted = mr.ops.tanh(container.step.graph.layers[0](shifted) + x)
        loss = (wanted * wanted).sum()
    assert max_error(found, wanted) < 1e-14
    for one, other in zip(slopes, tape.gradient(loss, container.trainable_variables), strict=True):
        assert max_error(one, other) < 1e-13


def test_a_teacher_in_a_model_is_learned_from() -> None:
    """Trained with forcing, the model then runs by itself; it comes back from its configuration."""
    container, before = predictor()
    data, wanted = Input((TIME, 2)), Input((TIME, 2))
    model = Model([data, wanted], container(data, teacher={before: wanted}))
    model.compile(mr.optimizers.Adam(0.05), "mse")
    x, y = draw(64, TIME, 2), []
    kernel, state = np.array([[0.5, -1.0], [0.7, 0.2]]), np.zeros((64, 2))
    for t in range(TIME):
        state = np.tanh(state @ kernel + x[:, t])
        y.append(state)
    target = np.stack(y, axis=1)
    model.fit([x, target], target, epochs=60, batch_size=16, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], kernel, atol=0.02)
    free = container(x)
    assert max_error(free, target) < 0.02
    again = Model.from_config(json.loads(json.dumps(model.get_config())))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(np.asarray(again([x, target])), np.asarray(free))
    np.testing.assert_array_equal(
        np.asarray(again([x, target], training=True)), np.asarray(model([x, target], training=True))
    )


@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize("engine", ENGINES)
def test_hardly_any_steps(time: int, engine: str) -> None:
    container = feeding(teacher=[0], output_length=time)
    with mr.engine(engine):
        found = container(states=START, teacher={0: FORCED[0][:, :time]}, training=True)
    np.testing.assert_array_equal(np.asarray(found[0]), START[0][:, None][:, :time])


def test_teachers_that_do_not_fit() -> None:
    container = feeding(teacher=[0], name="mine")

    def call(teacher: Any) -> None:
        container(states=START, teacher=teacher, training=True)

    with pytest.raises(ShapeError, match=r"(?s)RecurrentContainer 'mine'.*got: \(batch=3, time=4, 2\).*time=5"):
        call({0: FORCED[0][:, :4]})
    with pytest.raises(ShapeError, match=r"(?s)'mine'.*got: \(batch=2, time=5, 2\).*batch=3"):
        call({0: FORCED[0][:2]})
    with pytest.raises(ShapeError, match=r"(?s)'mine': teacher sequence for 'input.*got: \(batch=3, time=5, 1, 3\)"):
        call({0: FORCED[1]})
    with pytest.raises(ArgumentError, match=r"(?s)'mine': state 1 cannot be forced.*expected: states \[0\]"):
        call({0: FORCED[0], 1: FORCED[1]})
    with pytest.raises(ArgumentError, match=r"(?s)'mine': teacher names something that is no state input.*got: 2"):
        call({2: FORCED[0]})
    with pytest.raises(ArgumentError, match="(?s)'mine': number of teacher sequences.*got: 2.*expected: 1"):
        call(FORCED)
    with pytest.raises(DtypeError, match="(?s)'mine': teacher sequence.*got: float32"):
        call({0: mr.Tensor(FORCED[0].astype("float32"))})
    with pytest.raises(ArgumentError, match="(?s)'mine': number of teacher sequences"):
        feeding(name="mine")(states=START, teacher=FORCED[0])
    for named in (2, -1, Input((2,)), "s", True):
        with pytest.raises(ArgumentError, match="(?s)'mine': teacher names something that is no state input"):
            feeding(teacher=[named], name="mine")
