"""Symbolic tensors and the functional graph: shapes, operations, running, configuration, errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, DtypeError, FormatError, MinirnnError, ShapeError
from minirnn.layers import GRU, LSTM, RNN, Concatenate, Dense, Embedding, Flatten, Input, Lambda, Layer, Reshape
from minirnn.layers.functional import FunctionGraph, SymbolicTensor

RNG = np.random.default_rng(16)


def run(graph: FunctionGraph, *arrays: Any, **options: Any) -> list[np.ndarray]:
    return [y.numpy() for y in graph.run([mr.Tensor(a) for a in arrays], **options)]


def rebuilt(graph: FunctionGraph, custom_objects: Any = None) -> FunctionGraph:
    """The graph from its configuration as text, with the same weights."""
    again = FunctionGraph.from_config(json.loads(json.dumps(graph.get_config())), custom_objects)
    for one, other in zip(graph.layers, again.layers, strict=True):
        other.set_weights(one.get_weights())
    return again


# shapes ------------------------------------------------------------------------------------------
def test_inputs() -> None:
    x = Input(shape=(None, 3), name="x")
    assert (x.shape, x.dtype, x.name, x.ndim) == ((None, None, 3), np.float32, "x", 3)
    assert Input((3,), batch_size=4).shape == (4, 3)
    assert Input(batch_shape=(4, None)).shape == (4, None)
    assert Input((), dtype="int32").dtype == np.int32
    with mr.default_dtype("float64"):
        assert Input((3,)).dtype == np.float64
    with pytest.raises(ArgumentError, match="a tuple of sizes, such as"):
        Input(3)
    with pytest.raises(ArgumentError, match="either shape"):
        Input()
    with pytest.raises(ArgumentError, match="sizes >= 0"):
        Input((-1,))
    with pytest.raises(ArgumentError, match="a tuple of sizes"):
        Input(("a", 3))
    with pytest.raises(ShapeError, match="too many axes"):
        Input((1,) * 9)


def test_unknown_sizes_follow_through_layers() -> None:
    x, y = Input((None, 3)), Input((None, 5))
    assert LSTM(4, return_sequences=True)(x).shape == (None, None, 4)
    assert [s.shape for s in LSTM(4, return_state=True)(x)] == [(None, 4)] * 3
    assert Concatenate(axis=1)([x, x]).shape == (None, None, 3)
    assert Concatenate()([x, y]).shape == (None, None, 8)
    assert Embedding(9, 2)(Input((None,), dtype="int32")).shape == (None, None, 2)
    assert Flatten()(Input((4, 5))).shape == (None, 20)
    assert Flatten()(x).shape == (None, None)
    assert Reshape((-1, 6))(Input((4, 3))).shape == (None, 2, 6)


def test_unknown_sizes_follow_through_operations() -> None:
    x = Input((None, 3))
    assert (x + 1).shape == (None, None, 3)
    assert (2 / x[..., :2] - x**2 @ np.ones((3, 2), "float32"))[..., :1].shape == (None, None, 1)
    assert x[:, 0].shape == (None, 3)
    assert x[:, -1:].shape == (None, 1, 3)
    assert x[0].shape == (None, 3)  # an axis of unknown size goes away
    assert x[:, None].shape == (None, 1, None, 3)
    assert x.T.shape == (3, None, None)
    assert x.mean(axis=1).shape == (None, 3)
    assert x.sum().shape == ()
    assert mr.ops.stack([x, x], axis=-1).shape == (None, None, 3, 2)
    assert [part.shape for part in mr.ops.split(x, 3, axis=-1)] == [(None, None, 1)] * 3
    assert (x > 0).dtype == bool
    assert (-abs(x)).dtype == np.float32
    assert x.astype("float64").dtype == np.float64
    assert (np.ones((3,), "float32") + x).shape == (None, None, 3)
    assert (mr.Tensor(np.ones((3,), "float32")) * x).shape == (None, None, 3)


def test_attention_over_two_unknown_lengths() -> None:
    queries, keys = Input((None, 4)), Input((None, 4))
    longer = mr.ops.concatenate([keys, keys], axis=1)
    scores = mr.ops.softmax(queries @ mr.ops.transpose(longer, (0, 2, 1)))
    mixed = scores @ longer
    assert scores.shape == (None, None, None) and mixed.shape == (None, None, 4)
    graph = FunctionGraph([queries, keys], [mixed])
    q, k = RNG.normal(size=(2, 3, 4)).astype("f4"), RNG.normal(size=(2, 5, 4)).astype("f4")
    assert run(graph, q, k)[0].shape == (2, 3, 4)


def test_a_layer_may_declare_its_output_shape() -> None:
    class Opaque(Layer):
        def call(self, inputs: Any) -> Any:
            return mr.Tensor(np.asarray(inputs)[:, :2])  # looks at values, so it cannot be traced

        def compute_output_shape(self, input_shape: Any) -> Any:
            return (input_shape[0], 2)

    x = Input((5,))
    y = Opaque()(x)
    assert y.shape == (None, 2)
    assert run(FunctionGraph([x], [y]), np.ones((3, 5), "f4"))[0].shape == (3, 2)


def test_symbolic_tensors_have_no_values() -> None:
    x = Input((None, 3))
    for look in (bool, np.asarray, lambda t: np.tanh(t) and None):
        with pytest.raises((ArgumentError, TypeError)):
            look(x)
    with pytest.raises(ShapeError, match="unknown size"):
        list(x)
    assert [row.shape for row in Input(batch_shape=(2, 3))] == [(3,), (3,)]
    assert "SymbolicTensor shape=(None, None, 3)" in repr(x)
    assert (x != 3).dtype == bool  # elementwise, and symbolic itself


def test_variables_do_not_hide_in_graphs() -> None:
    x = Input((3,))
    with pytest.raises(ArgumentError, match="a Variable among the arguments"):
        x * mr.Variable(np.ones(3, "float32"))


def test_dtypes_do_not_mix() -> None:
    with pytest.raises(DtypeError):
        Input((3,)) + Input((3,), dtype="float64")
    with pytest.raises(DtypeError) as caught:
        Dense(2, name="d")(Input((3,), dtype="float64"))
    assert "(None, 3)" in str(caught.value) and caught.value.__notes__ == ["while calling Dense 'd' on symbolic Inputs"]


# running -----------------------------------------------------------------------------------------
def test_shared_layers_and_several_outputs() -> None:
    shared = Dense(3)
    a, b = Input((4,), name="a"), Input((4,), name="b")
    u, v = shared(a), shared(b)
    graph = FunctionGraph([a, b], [u - v, u, b])
    xa, xb = RNG.normal(size=(2, 4)).astype("f4"), RNG.normal(size=(2, 4)).astype("f4")
    difference, first, same = run(graph, xa, xb)
    np.testing.assert_array_equal(first, shared(xa).numpy())
    np.testing.assert_allclose(difference, shared(xa).numpy() - shared(xb).numpy(), rtol=1e-6)
    np.testing.assert_array_equal(same, xb)
    assert graph.layers[0] is shared and len(graph.layers) == 2
    again = rebuilt(graph)
    assert len(again.layers) == 2
    for got, want in zip(run(again, xa, xb), run(graph, xa, xb), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_graph_may_begin_in_the_middle() -> None:
    x = Input((4,))
    middle = Dense(3)(x)
    end = Dense(2)(middle)
    graph = FunctionGraph([middle], [end])
    assert len(graph.nodes) == 1
    assert run(graph, np.ones((5, 3), "f4"))[0].shape == (5, 2)
    assert rebuilt(graph).inputs[0].shape == (None, 3)


def test_nodes_run_in_order_without_recursion() -> None:
    x = Input((1,), dtype="float64")
    y = x
    for _ in range(1200):
        y = y + 1
    graph = FunctionGraph([x], [y])
    assert run(graph, np.zeros((1, 1)))[0].item() == 1200


def test_training_reaches_layers_that_were_not_told() -> None:
    from minirnn.layers import Dropout

    x = Input((50,))
    graph = FunctionGraph([x], [Dropout(0.5)(x), Dropout(0.5)(x, training=False)])
    ones = np.ones((2, 50), "f4")
    dropped, kept = run(graph, ones, training=True)
    assert (dropped == 0).any() and (kept == 1).all()
    assert (run(graph, ones)[0] == 1).all()


def test_masks_travel_through_graphs() -> None:
    ids = Input((None,), dtype="int32")
    x = Embedding(5, 3, mask_zero=True)(ids)
    y = GRU(2, return_sequences=True)(x)
    data = np.array([[1, 2, 0], [3, 0, 0]])
    (found,) = FunctionGraph([ids], [y]).run([mr.Tensor(data)])
    np.testing.assert_array_equal(found.mask.numpy(), data != 0)


def test_gradients_through_graphs() -> None:
    x = Input((3,), dtype="float64")
    graph = FunctionGraph([x], [mr.ops.sum(x**3)])
    primal = mr.Tensor(RNG.normal(size=(2, 3)))
    with mr.Tape() as tape:
        tape.watch(primal)
        (y,) = graph.run([primal])
    np.testing.assert_allclose(tape.gradient(y, primal).numpy(), 3 * primal.numpy() ** 2)


# configuration -----------------------------------------------------------------------------------
def test_operations_and_their_arguments_come_back() -> None:
    x, h = Input((None, 3), dtype="float64"), Input((4,), name="h", dtype="float64")
    weights = RNG.normal(size=(3, 4))
    y = mr.ops.where(x @ weights > 0, x @ weights, 0.5)[:, ::2, None, 1:]
    z = mr.ops.concatenate([mr.ops.sum(y, axis=(1, 2)), mr.ops.cast(h, np.float64)], axis=-1)
    last, state = GRU(4, return_state=True, dtype="float64")(x[..., :], initial_state=[h])
    graph = FunctionGraph([x, h], [z, last * mr.Tensor([2.0] * 4, dtype="float64"), state])
    a, b = RNG.normal(size=(2, 5, 3)), RNG.normal(size=(2, 4))
    for got, want in zip(run(rebuilt(graph), a, b), run(graph, a, b), strict=True):
        np.testing.assert_array_equal(got, want)


def test_lambdas_come_back_where_they_are_known() -> None:
    def twice(x: Any) -> Any:
        return 2 * x

    x = Input((3,))
    graph = FunctionGraph([x], [Lambda(twice)(x)])
    again = rebuilt(graph, {"twice": twice})
    np.testing.assert_array_equal(run(again, np.ones((1, 3), "f4"))[0], [[2, 2, 2]])
    with pytest.raises(ArgumentError, match="'twice'"):
        rebuilt(graph)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("nodes"),
        lambda c: c["nodes"][0].update(layer=7),
        lambda c: c["nodes"][0].update(args=[{"symbolic": [9, 0]}]),
        lambda c: c["nodes"][0].update(args=[{"something": 1}]),
        lambda c: c["outputs"].append([0, 3]),
        lambda c: c["inputs"][0].update(shapes=[1]),
        lambda c: c["layers"][0].update(class_name=5),
    ],
)
def test_damaged_configurations(damage: Any) -> None:
    x = Input((3,))
    config = FunctionGraph([x], [Dense(2)(x)]).get_config()
    damage(config)
    with pytest.raises(FormatError):
        FunctionGraph.from_config(config)


def test_errors() -> None:
    x, y = Input((3,), name="x"), Input((3,), name="y")
    with pytest.raises(ArgumentError, match="(?s)depends on the Input 'y'.*got: inputs \\['x'\\]"):
        FunctionGraph([x], [x + y])
    with pytest.raises(ArgumentError, match="twice"):
        FunctionGraph([x, x], [x])
    with pytest.raises(ArgumentError, match="must be symbolic"):
        FunctionGraph([np.ones(3)], [x])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="must be symbolic"):
        FunctionGraph([x], [3])  # type: ignore[list-item]
    assert isinstance(x, SymbolicTensor)


class Shifted(Layer):
    """A cell that adds a constant of one column."""

    state_size = 4

    def call(self, inputs: Any, states: Any, constants: Any) -> Any:
        h = states[0] + inputs + constants[0]
        return h, [h]


FLOATS = {"dtype": "float64"}
BY_ROW: dict[str, Any] = {
    "state": (lambda: GRU(4, **FLOATS), {"initial_state": RNG.normal(size=(6, 4))}),
    "mask": (lambda: GRU(4, **FLOATS), {"mask": RNG.random((6, 3)) > 0.4}),
    "mask in lists": (lambda: GRU(4, **FLOATS), {"mask": (RNG.random((6, 3)) > 0.4).tolist()}),
    "time-major mask": (lambda: GRU(4, time_major=True, **FLOATS), {"mask": RNG.random((3, 6)) > 0.4}),
    "lengths": (lambda: LSTM(4, **FLOATS), {"lengths": [1, 2, 3, 0, 3, 1]}),
    "constant": (lambda: RNN(Shifted(**FLOATS)), {"constants": [RNG.normal(size=(6, 1))]}),
    "constant and state": (
        lambda: RNN(Shifted(**FLOATS)),
        {"constants": RNG.normal(size=(6, 1)), "initial_state": [RNG.normal(size=(6, 4))]},
    ),
}


@pytest.mark.parametrize("how", BY_ROW)
def test_arrays_fix_the_batch_of_a_call_on_an_input_of_any_batch(how: str) -> None:
    make, options = BY_ROW[how]
    layer, is_time_major = make(), how.startswith("time-major")
    x = Input(batch_shape=(3, None, 4) if is_time_major else (None, 3, 4), dtype="float64")
    y = layer(x, **options)
    assert y.shape == (None, 4)
    data = RNG.normal(size=(3, 6, 4) if is_time_major else (6, 3, 4))
    graph = FunctionGraph([x], [y])
    np.testing.assert_array_equal(run(graph, data)[0], layer(data, **options).numpy())
    with pytest.raises(ShapeError):
        run(graph, data[:, :5] if is_time_major else data[:5])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GRU(4)(Input((None, 5)), initial_state=Input((3,))), ["(batch=None, 3)", "(batch=None, 4)"]),
        (lambda: GRU(4)(Input((3, 5)), mask=np.ones((6, 4))), ["(batch=None, time=4)", "(batch=None, time=3)"]),
        (lambda: Concatenate()([Input((None, 19)), Input((17, 19, 1))]), ["None"]),
        (lambda: GRU(4)(Input(batch_shape=(17, None, 5)), initial_state=np.zeros((19, 4))), ["batch=19", "batch=17"]),
    ],
)
def test_errors_say_none_for_unknown_sizes(call: Any, words: list[str]) -> None:
    with pytest.raises(MinirnnError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("make", "given", "wanted"),
    [
        (lambda: GRU(3, return_sequences=True, return_state=True), (2, 5, 4), [(2, 5, 3), (2, 3)]),
        (lambda: GRU(3, stateful=True), (2, None, 4), (2, 3)),
        (lambda: Embedding(5, 3), [None, 7], (None, 7, 3)),
        (lambda: Concatenate(), [(2, 3), (2, 4)], (2, 7)),
        (lambda: Flatten(), (None, 3, 4), (None, 12)),
    ],
)
def test_compute_output_shape(make: Any, given: Any, wanted: Any) -> None:
    layer = make()
    before = mr.autodiff.random.get_state()
    assert layer.compute_output_shape(given) == wanted
    assert not layer.weights and mr.autodiff.random.get_state() == before


def test_compute_output_shape_of_a_layer_that_is_built() -> None:
    layer = GRU(3, stateful=True)
    layer(np.ones((2, 5, 4)))
    h = layer.states[0].numpy()
    assert layer.compute_output_shape((2, 7, 4)) == (2, 3)
    np.testing.assert_array_equal(layer.states[0], h)
    with pytest.raises(ShapeError, match="5 features"):
        layer.compute_output_shape((2, 7, 5))
