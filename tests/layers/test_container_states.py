"""Where a container's states begin: given, held, declared; stateful containers; initializers; learned states."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer, RecurrentUnit
from minirnn.errors import ArgumentError, DtypeError, ShapeError, StateError
from minirnn.layers import LSTM, Input
from minirnn.layers.initializers import Constant, RandomNormal
from minirnn.models import Model
from tests.reference.cells import Array
from tests.reference.checks import central_differences, max_error

ENGINES = ["reference", "numpy"]


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with mr.default_dtype("float64"):
        yield


def draw(*shape: int) -> Array:
    return np.random.default_rng(sum(shape) + len(shape)).normal(size=shape)


def sums(**options: Any) -> RecurrentContainer:
    """Two running sums of x: s of width 2 and, doubled, d of shape (1, 2); returns [s, d at the end, states]."""
    x, s, d = Input((2,)), Input((2,)), Input((1, 2))
    new_s, new_d = s + x, d + 2 * mr.ops.expand_dims(x, 1)
    return RecurrentContainer(
        sequence_inputs=x,
        sequence_outputs=new_s,
        state_inputs=[s, d],
        state_outputs=[new_s, new_d],
        return_states=True,
        **options,
    )


X = draw(3, 4, 2)
TOTAL = X.sum(1)
S, D = draw(3, 2), draw(3, 1, 2)


def final(container: RecurrentContainer, x: Array = X, **options: Any) -> tuple[Array, Array]:
    _, s, d = container(x, **options)
    return np.asarray(s), np.asarray(d)


def check(found: tuple[Array, Array], s: Any, d: Any) -> None:
    np.testing.assert_allclose(found[0], np.broadcast_to(s, found[0].shape), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found[1], np.broadcast_to(d, found[1].shape), rtol=1e-13, atol=1e-13)


DOUBLE = 2 * TOTAL[:, None]


# Given states -------------------------------------------------------------------------------------
def test_states_begin_with_zeros_unless_given_one_by_one() -> None:
    container = sums()
    check(final(container), TOTAL, DOUBLE)
    check(final(container, states=[S, D]), S + TOTAL, D + DOUBLE)
    check(final(container, states=[None, D]), TOTAL, D + DOUBLE)
    check(final(container, states=[S, None]), S + TOTAL, DOUBLE)
    check(final(container, states=[None, None]), TOTAL, DOUBLE)
    assert container.states is None


def test_a_slot_may_stay_free_in_a_model() -> None:
    data, start = Input((None, 2)), Input((1, 2))
    model = Model([data, start], sums()(data, states=[None, start]))
    again = Model.from_config(json.loads(json.dumps(model.get_config())))
    for m in (model, again):
        _, s, d = m([X, D])
        check((np.asarray(s), np.asarray(d)), TOTAL, D + DOUBLE)


# Initializers -------------------------------------------------------------------------------------
def test_initializers() -> None:
    check(final(sums(state_initializer="ones")), 1 + TOTAL, 1 + DOUBLE)
    check(final(sums(state_initializer=Constant(3))), 3 + TOTAL, 3 + DOUBLE)
    check(final(sums(state_initializer=[None, Constant(3)])), TOTAL, 3 + DOUBLE)
    check(final(sums(state_initializer=("ones", "zeros"))), 1 + TOTAL, DOUBLE)
    check(final(sums(state_initializer=["ones", None]), states=[S, None]), S + TOTAL, DOUBLE)


def test_random_initializers_draw_anew_at_each_call_and_repeat_with_the_seed() -> None:
    container = sums(state_initializer=RandomNormal(stddev=1.0))
    mr.seed(5)
    first, second = final(container), final(container)
    assert np.abs(first[0] - second[0]).min() > 1e-6
    assert len(np.unique(first[0] - TOTAL)) == 6  # rows differ
    mr.seed(5)
    np.testing.assert_array_equal(final(container)[0], first[0])
    fixed = sums(state_initializer=RandomNormal(stddev=1.0, seed=3))
    np.testing.assert_array_equal(final(fixed)[0], final(fixed)[0])


def test_given_states_draw_nothing() -> None:
    container = sums(state_initializer=RandomNormal())
    before = mr.random.get_state()
    container(X, states=[S, D])
    assert mr.random.get_state() == before


def test_initializers_are_part_of_the_configuration() -> None:
    container = sums(state_initializer=["learned", Constant(3)])
    again = RecurrentContainer.from_config(json.loads(json.dumps(container.get_config())))
    again.set_weights([np.array([5.0, 7.0])])
    check(final(again), np.array([5, 7]) + TOTAL, 3 + DOUBLE)
    assert json.dumps(again.get_config()) == json.dumps(container.get_config())


# Learned states -----------------------------------------------------------------------------------
def test_learned_states_are_weights_from_the_start_and_broadcast_over_the_batch() -> None:
    container = sums(state_initializer="learned")
    assert [w.shape for w in container.trainable_variables] == [(2,), (1, 2)]
    container.set_weights([np.array([1.0, 2.0]), np.array([[3.0, 4.0]])])
    check(final(container), np.array([1, 2]) + TOTAL, np.array([[3, 4]]) + DOUBLE)
    check(final(container, X[:1]), np.array([1, 2]) + TOTAL[:1], np.array([[3, 4]]) + DOUBLE[:1])
    container.trainable = False
    assert container.trainable_variables == []


@pytest.mark.parametrize("engine", ENGINES)
def test_learned_states_get_gradients(engine: str) -> None:
    """Summed over the batch, except where a state was given or a row has no valid step to forget it."""
    x, h, c = Input((2,)), Input((5,)), Input((5,))
    out, *new = RecurrentUnit(LSTM(5))(x, states=[h, c])
    container = RecurrentContainer(
        sequence_inputs=x, sequence_outputs=out, state_inputs=[h, c], state_outputs=new, state_initializer="learned"
    )
    container.set_weights([draw(*w.shape) for w in container.weights])
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]], bool)
    with mr.engine(engine), mr.Tape() as tape:
        loss = (container(X, mask=mask) ** 2).sum()
    found = tape.gradient(loss, container.trainable_variables[:2])
    weights = container.get_weights()

    def loss_of(h0: Array, c0: Array) -> float:
        container.set_weights([h0, c0, *weights[2:]])
        return float((np.asarray(container(X, mask=mask)) ** 2).sum())

    for gradient, slope in zip(found, central_differences(loss_of, *weights[:2]), strict=True):
        assert np.abs(slope).max() > 0.01
        assert max_error(gradient, slope) < 1e-6


def test_a_learned_state_is_trained() -> None:
    data = Input((None, 2))
    model = Model(data, sums(state_initializer="learned")(data)[0])
    model.compile(mr.optimizers.SGD(0.1), "mse")
    y = np.cumsum(X, axis=1) + np.array([2.0, -1.0])
    for _ in range(100):
        model.train_on_batch(X, y)
    np.testing.assert_allclose(model.get_weights()[0], [2, -1], atol=0.05)


# Stateful -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"unroll": True}, {"checkpoint": 1}], ids=str)
def test_states_are_kept_from_call_to_call(options: Any, engine: str) -> None:
    container = sums(stateful=True, **options)
    with mr.engine(engine):
        assert container.states is None
        check(final(container), TOTAL, DOUBLE)
        check(final(container, X[:, :1]), TOTAL + X[:, 0], DOUBLE + 2 * X[:, :1])
    assert [type(s) for s in container.states] == [mr.Tensor] * 2
    check(tuple(map(np.asarray, container.states)), TOTAL + X[:, 0], DOUBLE + 2 * X[:, :1])
    whole, *_ = sums()(np.concatenate([X, X], axis=1))
    container.reset_states()
    halves = [np.asarray(container(x)[0]) for x in (X, X)]
    np.testing.assert_allclose(np.concatenate(halves, axis=1), np.asarray(whole))


def test_given_states_win_and_the_result_is_held() -> None:
    """D6, slot by slot."""
    container = sums(stateful=True)
    container(X)
    check(final(container, states=[S, None]), S + TOTAL, 2 * DOUBLE)
    check(final(container), S + 2 * TOTAL, 3 * DOUBLE)
    check(final(container, states=[S, D]), S + TOTAL, D + DOUBLE)
    check(final(container), S + 2 * TOTAL, D + 2 * DOUBLE)


def test_masked_rows_hold_their_states_over_calls() -> None:
    container = sums(stateful=True)
    container(X)
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    container(X, mask=mask)
    check(
        tuple(map(np.asarray, container.states)),
        TOTAL + X[:, 2] * mask[:, 2:3],
        DOUBLE + 2 * X[:, 2:3] * mask[:, 2:3, None],
    )


def test_reset_goes_back_to_the_declared_states() -> None:
    container = sums(stateful=True, state_initializer=["learned", Constant(3)])
    container.set_weights([np.array([5.0, 7.0])])
    for reset in (lambda: None, container.reset_states, lambda: container.reset_states(rows=[0, 1, 2])):
        reset()
        check(final(container), np.array([5, 7]) + TOTAL, 3 + DOUBLE)
    container.reset_states(rows=[True, False, True])
    one = np.array([[0], [1], [0]])
    check(final(container), np.array([5, 7]) + TOTAL * (1 + one), 3 + DOUBLE * (1 + one[:, None]))
    container.reset_states(states=[S, D])
    check(final(container), S + TOTAL, D + DOUBLE)
    container.reset_states(states=[S[:1], D[:1]], rows=2)
    assert np.array_equal(np.asarray(container.states[0])[2], S[0])
    check(tuple(np.asarray(s)[:2] for s in container.states), (S + TOTAL)[:2], (D + DOUBLE)[:2])
    container.states = [S, D]
    check(final(container), S + TOTAL, D + DOUBLE)
    container.states = None
    assert container.states is None


def test_states_may_be_set_before_the_first_call() -> None:
    container = sums(stateful=True)
    container.reset_states(states=[S, D])
    check(final(container), S + TOTAL, D + DOUBLE)


def test_another_batch_size_is_refused_until_a_reset() -> None:
    container = sums(stateful=True)
    container(X)
    before = [np.asarray(s) for s in container.states]
    with pytest.raises(StateError, match=r"(?s)RecurrentContainer 'rec.*got: batch size 2.*expected: batch size 3"):
        container(X[:2])
    with pytest.raises(StateError, match="batch size"):
        container(X[:2], states=[S[:2], None])
    for state, old in zip(container.states, before, strict=True):
        np.testing.assert_array_equal(np.asarray(state), old)
    container.reset_states()
    check(final(container, X[:2]), TOTAL[:2], DOUBLE[:2])


def test_an_input_with_a_batch_size_fixes_that_of_a_stateful_container() -> None:
    container = sums(stateful=True)
    container(Input((None, 2), batch_size=3))
    for _ in range(2):
        with pytest.raises(StateError, match="(?s)got: batch size 2.*expected: batch size 3"):
            container(X[:2])
        check(final(container), TOTAL, DOUBLE)
        container.reset_states()


def test_a_failed_call_leaves_the_states_alone() -> None:
    container = sums(stateful=True)
    container(X)
    before = container.states
    for bad in (X[:, :, :1], X[0], X[:2], "x"):
        with pytest.raises((ShapeError, StateError, ArgumentError)):
            container(bad)
        with pytest.raises(ShapeError):
            container(X, states=[S, D[:, :, :1]])
    assert container.states is before


def test_held_states_have_no_past_and_no_alias() -> None:
    container = sums(stateful=True)
    x = mr.Tensor(X)
    with mr.Tape() as tape:
        tape.watch(x)
        container(x)
        loss = container(x)[0].sum()
    np.testing.assert_allclose(tape.gradient(loss, x), np.broadcast_to(np.arange(4, 0, -1)[:, None], X.shape))
    start = S.copy()
    container.reset_states(states=[start, D])
    start[:] = 0
    np.testing.assert_array_equal(np.asarray(container.states[0]), S)


def test_stateful_in_a_model() -> None:
    """Making a symbolic call, also of a container that holds states already, holds nothing and forgets nothing."""
    container = sums(stateful=True)
    container(X)
    data = Input((None, 2))
    model = Model(data, container(data)[0])
    np.testing.assert_allclose(np.asarray(model(X))[:, -1], 2 * TOTAL)
    np.testing.assert_allclose(np.asarray(model(X))[:, -1], 3 * TOTAL)
    model.reset_states()
    np.testing.assert_allclose(np.asarray(model(X))[:, -1], TOTAL)
    np.testing.assert_allclose(model.predict(X, batch_size=3, verbose=0)[:, -1], 2 * TOTAL)


def test_containers_that_are_not_stateful_have_no_states() -> None:
    container = sums()
    for act in (container.reset_states, lambda: setattr(container, "states", [S, D])):
        with pytest.raises(StateError, match=r"RecurrentContainer 'rec.*must be stateful"):
            act()
    assert container.states is None
    data = Input((None, 2))
    Model(data, container(data)).reset_states()


def test_states_that_do_not_fit_are_refused() -> None:
    container = sums(stateful=True)
    container(X)
    before = container.states
    for states in ([S], [S, D, D], [D, S], [S, D[:2]], [S[:, :1], D]):
        with pytest.raises((StateError, ShapeError), match="RecurrentContainer 'rec"):
            container.reset_states(states=states)
    for rows in (3, [0, -4], [[0]], [True, False], "x"):
        with pytest.raises(ArgumentError, match="rows"):
            container.reset_states(rows=rows)
    assert container.states is before


def test_states_alone_stateful_need_nothing_at_the_second_call() -> None:
    s = Input((2,))
    container = RecurrentContainer(
        state_inputs=s, state_outputs=s * 2, sequence_outputs=s, output_length=2, stateful=True
    )
    with pytest.raises(ArgumentError, match="batch size is unknown"):
        container()
    container(states=S)
    np.testing.assert_allclose(np.asarray(container())[:, -1], 8 * S)


# What cannot be -----------------------------------------------------------------------------------
def test_bad_initializers() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)state_initializer.*got: 3 of them.*one, or 2"):
        sums(state_initializer=["zeros"] * 3)
    with pytest.raises(ArgumentError, match="unknown initializer 'nonsense'"):
        sums(state_initializer="nonsense")
    with pytest.raises(
        ShapeError, match=r"(?s)RecurrentContainer 'rec.*initializer of state.*got: \(2,\).*expected: \(3, 2\)"
    ):
        sums(state_initializer=lambda shape, dtype: np.zeros(shape[1:], dtype))(X)
    token = Input((1,), dtype="int32")
    with pytest.raises(DtypeError, match="cannot be learned"):
        RecurrentContainer(
            state_inputs=token,
            state_outputs=token + 1,
            return_states=True,
            output_length=2,
            state_initializer="learned",
        )


def test_a_state_of_unknown_size_has_to_be_given() -> None:
    s = Input((None,))
    container = RecurrentContainer(state_inputs=s, state_outputs=s * 2, sequence_outputs=s, output_length=3)
    np.testing.assert_allclose(np.asarray(container(states=S))[:, -1], 4 * S)
    x = Input((2,))
    container = RecurrentContainer(sequence_inputs=x, state_inputs=s, state_outputs=s * 2, sequence_outputs=x)
    with pytest.raises(StateError, match=r"(?s)has no initial value.*states="):
        container(X)
