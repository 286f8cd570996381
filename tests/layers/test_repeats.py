"""A call like an earlier one goes a shorter way, and never to an old result."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.layers import GRU, LSTM, RNN, Layer, LSTMCell, SimpleRNN
from minirnn.layers.base import observe
from minirnn.stepgraph.passes import only_passes

from .repeat_cases import RNG, B, F, T, U, assert_right, flat, inputs, made


@pytest.mark.parametrize("kind", [SimpleRNN, GRU, LSTM])
@pytest.mark.parametrize(
    "options",
    [
        {}, {"return_sequences": True}, {"return_state": True}, {"go_backwards": True, "return_sequences": True},
        {"return_sequences": True, "return_state": True, "time_major": True}, {"stateful": True},
    ],
    ids=str,
)  # fmt: skip
def test_repeated_calls_are_right(kind: Any, options: dict[str, Any], whole_calls: list[int]) -> None:
    layer = made(kind, **options)
    before = len(whole_calls)
    for array in (inputs(), inputs().astype("float32"), inputs().swapaxes(0, 1).copy().swapaxes(0, 1)):
        if not layer.stateful:
            assert_right(layer, array)
    got = [flat(layer(mr.Tensor(x))) for x in (inputs(), inputs())]
    assert len(got) == 2
    assert len(whole_calls) - before == (0 if layer.stateful else 3)  # those of the reference engine


@pytest.mark.parametrize(
    "options",
    [{}, {"return_sequences": True}, {"return_sequences": True, "return_state": True},
     {"return_sequences": True, "go_backwards": True}, {"return_sequences": True, "time_major": True}],
    ids=str,
)  # fmt: skip
def test_first_and_second_gradients_of_repeated_calls(options: dict[str, Any], whole_calls: list[int]) -> None:
    layer = made(**options)
    x = mr.Tensor(inputs(*((T, B) if layer.time_major else (B, T)), F))
    layer(x)
    before = len(whole_calls)

    def gradients() -> list[np.ndarray]:
        variables = layer.trainable_variables
        with mr.Tape() as outer:
            outer.watch(x)
            with mr.Tape() as tape:
                tape.watch(x)
                outputs = layer(x)
                loss = sum((y**3).sum() for y in mr.autodiff.trees.flatten(outputs)[0])
            first = tape.gradient(loss, [x, *variables])
            size = sum((g**2).sum() for g in first)
        return flat([first, outer.gradient(size, [x, *variables])])

    got = gradients()
    assert len(whole_calls) == before
    with mr.engine("reference"):
        wanted = gradients()
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_a_stateful_layer_goes_on_and_begins_again() -> None:
    layer, whole = made(stateful=True), made()
    whole.set_weights(layer.get_weights())
    x = inputs(B, 3 * T, F)
    layer.reset_states()
    pieces = [layer(x[:, t : t + T]).numpy() for t in (0, T, 2 * T)]
    np.testing.assert_allclose(pieces[-1], whole(x).numpy(), atol=1e-12)
    layer.reset_states()
    np.testing.assert_allclose(layer(x[:, :T]), pieces[0], atol=1e-12)
    layer.states = None
    np.testing.assert_allclose(layer(x[:, :T]), pieces[0], atol=1e-12)
    with pytest.raises(mr.errors.StateError, match="batch size"):
        layer(inputs(B + 1, T, F))


def changed_activation(layer: Any) -> None:
    layer.cell.activation = ops.relu


def changed_recurrent_activation(layer: Any) -> None:
    layer.cell.recurrent_activation = ops.hard_sigmoid


def set_weights(layer: Any) -> None:
    layer.set_weights([2.0 * w for w in layer.get_weights()])


def assigned_weight(layer: Any) -> None:
    layer.cell.kernel.assign(RNG.normal(size=layer.cell.kernel.shape))


def replaced_variable(layer: Any) -> None:
    layer.cell.recurrent_kernel = mr.Variable(RNG.normal(size=layer.cell.recurrent_kernel.shape))


def without_bias(layer: Any) -> None:
    layer.cell.use_bias = False


def own_call_of_the_cell(layer: Any) -> None:
    original = layer.cell.call
    layer.cell.call = lambda x, states, training=False: (lambda h, s: (2.0 * h, s))(*original(x, states))


def another_order_in_time(layer: Any) -> None:
    layer.go_backwards = True


def with_states(layer: Any) -> None:
    layer.return_state = True


def with_sequences(layer: Any) -> None:
    layer.return_sequences = True


def other_outputs(layer: Any) -> None:
    layer._result = lambda outputs, states: 3.0 * outputs


def own_call_of_the_layer(layer: Any) -> None:
    original = layer.call
    layer.call = lambda x, **options: 2.0 * original(x, **options)


CHANGES = [
    own_call_of_the_layer,
    changed_activation, changed_recurrent_activation, set_weights, assigned_weight, replaced_variable, without_bias,
    own_call_of_the_cell, another_order_in_time, with_states, with_sequences, other_outputs,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_shows_in_the_next_call(change: Callable[[Any], None]) -> None:
    layer, x = made(), inputs()
    before = assert_right(layer, x)
    change(layer)
    after = assert_right(layer, x)
    assert len(before) != len(after) or before[0].shape != after[0].shape or np.abs(before[0] - after[0]).max() > 1e-6
    assert_right(layer, x)


@pytest.mark.parametrize("change", [changed_activation, own_call_of_the_cell, replaced_variable])
def test_a_change_of_one_layer_is_none_of_another(change: Callable[[Any], None]) -> None:
    layers, x = [made(), made()], inputs()
    layers[1].set_weights(layers[0].get_weights())
    before = assert_right(layers[0], x)
    change(layers[1])
    assert np.abs(assert_right(layers[1], x)[0] - before[0]).max() > 1e-6
    np.testing.assert_array_equal(assert_right(layers[0], x)[0], before[0])


def gradient(layer: Any, x: Any) -> list[Any]:
    with mr.Tape() as tape:
        loss = layer(x).sum()
    return tape.gradient(loss, layer.weights)


def test_gradients_of_repeated_calls_are_right() -> None:
    layer, x = made(), inputs()
    for _ in range(3):
        got = gradient(layer, x)
        with mr.engine("reference"):
            wanted = gradient(layer, x)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-11)
        layer.set_weights([0.5 * w for w in layer.get_weights()])


def test_a_weight_that_is_not_trained_any_more() -> None:
    layer, x = made(), inputs()
    assert all(g is not None for g in gradient(layer, x))
    layer.cell.kernel.trainable = False
    assert [g is None for g in gradient(layer, x)] == [v is layer.cell.kernel for v in layer.weights]
    layer.cell.kernel.trainable = True
    assert all(g is not None for g in gradient(layer, x))


def test_the_gradient_of_the_input() -> None:
    layer = made()
    x = mr.Tensor(inputs())
    layer(x)
    with mr.Tape() as tape:
        tape.watch(x)
        loss = layer(x).sum()
    assert tape.gradient(loss, x).shape == x.shape


def test_a_recorded_input_may_change_afterwards() -> None:
    layer, x = made(), inputs()
    wanted = gradient(layer, x)
    changed = x.copy()
    with mr.Tape() as tape:
        loss = layer(changed).sum()
    changed[:] = np.nan
    for a, b in zip(tape.gradient(loss, layer.weights), wanted, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_settings_are_looked_at_in_each_call(whole_calls: list[int]) -> None:
    layer, x = made(), inputs()
    wanted = layer(x).numpy()
    for scope in (mr.engine("reference"), mr.default_dtype("float64"), only_passes("once")):
        before = len(whole_calls)
        with scope:
            np.testing.assert_allclose(layer(x), wanted, atol=1e-12)
        assert len(whole_calls) == before + 1


def test_dropout_comes_and_goes() -> None:
    layer, x = made(dropout=0.5), inputs()
    assert_right(layer, x)
    drawn = []
    for _ in range(3):
        mr.seed(3)
        drawn.append(layer(x, training=True).numpy())
        mr.seed(3)
        with mr.engine("reference"):
            np.testing.assert_allclose(drawn[-1], layer(x, training=True), atol=1e-12)
    assert np.abs(drawn[0] - assert_right(layer, x)[0]).max() > 1e-6
    mr.seed(3)
    layer(x, training=True)
    assert np.abs(layer(x, training=True).numpy() - drawn[0]).max() > 1e-6  # new numbers in each call
    layer.cell.dropout = 0.0
    np.testing.assert_array_equal(layer(x, training=True), layer(x))


def test_masks_states_and_lengths_come_and_go() -> None:
    layer, x = made(), inputs()
    plain = assert_right(layer, x)[0]
    mask = np.arange(T) < np.array([[2], [T], [3]])
    for options in (
        {"mask": mask}, {"lengths": np.array([2, T, 3])}, {"initial_state": [inputs(B, U), inputs(B, U)]},
    ):  # fmt: skip
        assert np.abs(assert_right(layer, x, **options)[0] - plain).max() > 1e-6
        np.testing.assert_array_equal(layer(x), plain)
    masked = mr.Tensor(x)
    masked.mask = mr.Tensor(mask)
    assert np.abs(layer(masked).numpy() - plain).max() > 1e-6
    np.testing.assert_array_equal(layer(x), plain)


def test_other_dtypes_are_refused_as_before() -> None:
    layer = made()
    with pytest.raises(mr.errors.DtypeError):
        layer(mr.Tensor(inputs(), "float32"))
    with pytest.raises(mr.errors.ShapeError):
        layer(inputs(B, T, F + 1))


class Doubled(LSTM):
    def call(self, *args: Any, **kwargs: Any) -> Any:
        return 2.0 * super().call(*args, **kwargs)


def test_a_subclass_goes_the_whole_way() -> None:
    layer, x = made(Doubled), inputs()
    plain = made()
    plain.set_weights(layer.get_weights())
    for _ in range(2):
        np.testing.assert_allclose(layer(x), 2.0 * plain(x).numpy(), atol=1e-12)


class Scaled(Layer):
    """A cell of somebody's own, with numbers that are no weights, and initial states that look at the input."""

    state_size = U
    scale = 1.0

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight("kernel", (shape[-1], U))
        self.table = {"offset": 0.5}

    def get_initial_state(self, inputs: Any = None, batch_size: Any = None, dtype: Any = None) -> Any:
        return [ops.broadcast_to(ops.mean(inputs), (batch_size, U))]

    def call(self, inputs: Any, states: Any) -> Any:
        h = ops.tanh(inputs @ self.kernel * self.scale + states[0] + self.table["offset"])
        return h, [h]


def test_a_cell_of_ones_own(whole_calls: list[int]) -> None:
    cell = Scaled(dtype="float64")
    layer = RNN(cell)
    layer(inputs())
    before = len(whole_calls)
    layer(inputs())
    assert len(whole_calls) == before
    x = inputs()
    results = [assert_right(layer, x)[0]]
    cell.scale = 2.0
    results.append(assert_right(layer, x)[0])
    cell.table["offset"] = 1.0
    results.append(assert_right(layer, x)[0])
    results.append(assert_right(layer, x + 1.0)[0])
    assert all(np.abs(a - b).max() > 1e-6 for a, b in zip(results, results[1:], strict=False))


def test_initial_states_that_become_the_cells_own() -> None:
    layer, x = made(), inputs()
    before = assert_right(layer, x)[0]
    layer.cell.get_initial_state = lambda batch_size: [ops.ones((batch_size, U), "float64")] * 2
    layer._face = type(layer._face)(layer.cell, layer.label)
    assert np.abs(assert_right(layer, x)[0] - before).max() > 1e-6


def test_inside_a_step_and_in_a_functional_graph() -> None:
    layer, x = made(), inputs()
    wanted = layer(x).numpy()
    _, ys = mr.scan(lambda carry, x: (carry, layer(x)), None, np.stack([x, x]))
    np.testing.assert_allclose(ys[1], wanted, atol=1e-12)
    symbol = mr.layers.Input((T, F), dtype="float64")
    assert layer(symbol).shape == (None, U)
    np.testing.assert_array_equal(layer(x), wanted)


def test_observers_see_every_call() -> None:
    layer, x, seen = made(), inputs(), []
    with observe(lambda label, outputs: seen.append(label)):
        layer(x)
        layer(x)
    assert seen.count(layer.label) == 2


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy])
def test_a_copy_has_a_life_of_its_own(copied: Any) -> None:
    layer, x = made(), inputs()
    before = assert_right(layer, x)[0]
    other = copied(layer)
    np.testing.assert_array_equal(other(x), before)
    other.go_backwards = True
    if copied is copy.deepcopy:
        set_weights(other)
    assert np.abs(assert_right(other, x)[0] - before).max() > 1e-6
    np.testing.assert_array_equal(assert_right(layer, x)[0], before)
    assert pickle.loads(pickle.dumps(layer._repeats))._calls == {}


def test_a_layer_that_nobody_holds_is_freed() -> None:
    import gc
    import weakref

    def run() -> Any:
        layer = made()
        layer(inputs())
        return weakref.ref(layer), weakref.ref(layer.cell.kernel)

    references = run()
    gc.collect()
    assert [r() for r in references] == [None, None]


def test_many_shapes_keep_few_calls() -> None:
    layer = made()
    for batch in range(1, 40):
        assert_right(layer, inputs(batch, 2, F))
    assert len(layer._repeats._calls) <= 16


def test_two_threads_at_once() -> None:
    layer = made()
    xs = [inputs() for _ in range(4)]
    wanted = [layer(x).numpy() for x in xs]
    failures: list[Any] = []

    def work(number: int) -> None:
        for _ in range(60):
            got = layer(xs[number]).numpy()
            if not np.array_equal(got, wanted[number]):
                failures.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_results_do_not_look_at_the_input() -> None:
    class Passing:
        state_size = F

        def call(self, inputs: Any, states: Any) -> Any:
            return inputs, [inputs]

    layer, x = RNN(Passing(), return_sequences=True, return_state=True, dtype="float64"), inputs()
    for _ in range(2):
        array = x.copy()
        results = layer(array)
        array[:] = 0.0
        np.testing.assert_array_equal(results[0], x)
        np.testing.assert_array_equal(results[1], x[:, -1])


@pytest.mark.parametrize("cell", [LSTMCell(U), [LSTMCell(U), LSTMCell(2)]])
def test_the_printed_loop(cell: Any) -> None:
    layer = RNN(cell, return_sequences=True)
    with pytest.raises(mr.errors.ArgumentError, match="source"):
        layer.source()
    layer.build((None, None, F))
    assert "recurrent_kernel" in layer.source() and "ct_" in layer.source("backward")


def test_unrolled_steps_run_in_python_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made(unroll=True)
    steps: list[int] = []
    original = LSTMCell.call

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(LSTMCell, "call", call)
    for _ in range(3):
        steps.clear()
        layer(inputs())
        assert len(steps) >= T


def test_a_call_inside_of_a_step_is_not_one_to_repeat() -> None:
    layer, x = made(), mr.Tensor(inputs())
    start = np.zeros((B, U))
    wanted = np.asarray(layer(x))
    fresh = layer.from_config(layer.get_config())
    fresh.build((None, None, F))
    fresh.set_weights(layer.get_weights())
    carry, _ = mr.scan(lambda h, _: (h + fresh(x), None), start, np.zeros((2, B, 1)))
    np.testing.assert_allclose(np.asarray(carry), 2 * wanted, rtol=1e-12)
    assert fresh._repeats._calls == {}
    np.testing.assert_array_equal(np.asarray(fresh(x)), wanted)
