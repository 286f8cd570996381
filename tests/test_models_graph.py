"""Model and Sequential as graphs: structures, nesting, sharing, summary, configuration, states, errors."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, DtypeError, ShapeError
from minirnn.layers import GRU, LSTM, Add, Dense, Dropout, Embedding, Flatten, Input, InputLayer, Layer, registry
from minirnn.models import Model, Sequential, load_model
from tests.reference.checks import max_error

RNG = np.random.default_rng(17)


def come_back(model: Any, custom_objects: Any = None) -> Any:
    """The model from its configuration as text, with the same weights."""
    again = registry.deserialize(json.loads(json.dumps(registry.serialize(model))), "layer", custom_objects)
    again.set_weights(model.get_weights())
    return again


def two_headed() -> Model:
    ids, h = Input((None,), dtype="int32", name="ids"), Input((4,), name="h")
    shared = Dense(4, name="shared")
    x = Embedding(10, 3, mask_zero=True, name="embedding")(ids)
    sequence, state = GRU(4, return_sequences=True, return_state=True, name="gru")(x, initial_state=shared(h))
    return Model(
        [ids, h], {"head": Dense(2, name="head")(Add(name="sum")([state, shared(h)])), "all": sequence}, name="m"
    )


DATA = [np.array([[1, 2, 0], [4, 0, 0]]), RNG.normal(size=(2, 4))]


def test_structures_of_inputs_and_outputs() -> None:
    model = two_headed()
    assert (model.input_names, model.output_names) == (["ids", "h"], ["all", "head"])
    found = model(DATA)
    assert sorted(found) == ["all", "head"] and found["head"].shape == (2, 2)
    np.testing.assert_array_equal(found["all"].mask.numpy(), DATA[0] != 0)
    np.testing.assert_array_equal(model({"h": DATA[1], "ids": DATA[0]})["head"], found["head"])
    np.testing.assert_array_equal(model(tuple(DATA))["head"], found["head"])
    assert [layer.name for layer in model.layers] == ["ids", "h", "embedding", "shared", "gru", "sum", "head"]
    assert model.get_layer("gru") is model.layers[4] is model.get_layer(index=4)
    x = Input((3,))
    for inputs in (x, [x]):
        single = Model(inputs, Dense(2)(x))
        assert single(np.ones((1, 3))).shape == single([np.ones((1, 3))]).shape == (1, 2)


def test_configuration_comes_back() -> None:
    model = two_headed()
    again = come_back(model)
    assert again.get_config() == model.get_config()
    for key, value in model(DATA).items():
        np.testing.assert_array_equal(again(DATA)[key], value)
    assert [v.shape for v in again.weights] == [v.shape for v in model.weights]


def test_weights_of_shared_layers_count_once() -> None:
    model = two_headed()
    assert model.count_params() == 30 + 20 + (3 * 12 + 4 * 12 + 24) + 10
    model.get_layer("shared").trainable = False
    assert len(model.trainable_variables) == len(model.weights) - 2


def test_nested_models() -> None:
    inner = two_headed()
    ids, h = Input((None,), dtype="int32"), Input((4,))
    out = inner([ids, h])
    outer = Model([h, ids], [Dense(3)(out["head"]), out["all"]], name="outer")
    found = outer(DATA[::-1])
    np.testing.assert_array_equal(found[1], inner(DATA)["all"])
    assert inner in outer.sublayers and len(outer.weights) == len(inner.weights) + 2
    again = come_back(outer)
    for got, want in zip(again(DATA[::-1]), found, strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_model_called_twice_shares_its_weights() -> None:
    inner = Sequential([Input((3,)), Dense(2)])
    a, b = Input((3,)), Input((3,))
    model = Model([a, b], [inner(a), inner(b)])
    assert len(model.weights) == 2
    y, z = model([np.ones((1, 3)), np.ones((1, 3))])
    np.testing.assert_array_equal(y, z)


def test_training_reaches_nested_models() -> None:
    inner = Sequential([Input((50,)), Dropout(0.5)])
    x = Input((50,))
    model = Model(x, inner(x))
    ones = np.ones((1, 50))
    assert (model(ones, training=True).numpy() == 0).any() and (model(ones).numpy() == 1).all()


def test_subclasses_define_call() -> None:
    class Residual(Model):
        def __init__(self, units: int, **options: Any) -> None:
            super().__init__(**options)
            self.units = units
            self.dense = Dense(units)

        def call(self, inputs: Any) -> Any:
            return inputs + self.dense(inputs)

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "units": self.units}

    model = Residual(3)
    assert model(np.ones((2, 3))).shape == (2, 3)
    assert len(model.weights) == 2 and model.layers == [model.dense]
    x = Input((3,))
    assert Model(x, model(x)).count_params() == 12
    again = registry.deserialize(registry.serialize(model), "layer", {"Residual": Residual})
    assert again.units == 3
    with pytest.raises(NotImplementedError, match="has no call"):
        Model()(np.ones((2, 3)))


def test_custom_layers_in_configurations() -> None:
    class Double(Layer):
        def call(self, inputs: Any) -> Any:
            return 2 * inputs

    x = Input((3,))
    model = Model(x, Double()(x))
    again = come_back(model, {"Double": Double})
    np.testing.assert_array_equal(again(np.ones((1, 3))).numpy(), [[2, 2, 2]])
    with pytest.raises(ArgumentError, match="unknown layer 'Double'"):
        come_back(model)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([DATA[0], DATA[1][:, :3]], ShapeError, r"input 'h'.*got: \(batch=2, 3\).*expected: \(batch, 4\)"),
        ([DATA[0], DATA[1][0]], ShapeError, "input 'h'.*a batch of one"),
        ([DATA[0] + 0.5, DATA[1]], DtypeError, "input 'ids'.*fractions"),
        ([DATA[0], mr.Tensor(DATA[1])], DtypeError, "input 'h'.*float64"),
        ([DATA[0]], ArgumentError, "inputs"),
        (DATA[0], ArgumentError, "inputs"),
        ({"ids": DATA[0], "g": DATA[1]}, ArgumentError, "inputs"),
        ([DATA[0], "text"], ArgumentError, "input 'h'.*str"),
    ],
)
def test_errors_name_the_input(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s)Model 'm': .*{message}"):
        two_headed()(data)


def test_numbers_adapt_to_their_input() -> None:
    model = two_headed()
    wanted = model(DATA)["head"]
    np.testing.assert_array_equal(model([DATA[0].astype(float), DATA[1].astype("float32")])["head"], wanted)
    x = Input((2,))
    halves = Model(x, x / 2)
    assert halves(np.array([[1, 3]])).numpy().tolist() == [[0.5, 1.5]]
    assert halves(np.array([[True, False]])).numpy().tolist() == [[0.5, 0]]


def test_errors_of_making() -> None:
    x = Input((2,), name="x")
    with pytest.raises(ArgumentError, match="inputs and outputs"):
        Model(x)
    with pytest.raises(ArgumentError, match="'x', which is not among"):
        Model(Input((2,)), Dense(1)(x))
    with pytest.raises(ArgumentError, match="get_layer"):
        two_headed().get_layer("nobody")
    with pytest.raises(ArgumentError, match="get_layer"):
        two_headed().get_layer(index=99)


# Sequential --------------------------------------------------------------------------------------
def test_sequential_with_an_input() -> None:
    for begin in (Input((3,)), InputLayer((None, 3))):
        model = Sequential([begin, Dense(4), Dense(2)])
        assert model.built and [layer.units for layer in model.layers] == [4, 2]
        assert model.outputs[0].shape == (None, 2)
    assert Sequential([Dense(4, input_shape=(3,))]).outputs[0].shape == (None, 4)
    assert Sequential([LSTM(4, batch_input_shape=(2, 5, 3))]).inputs[0].shape == (2, 5, 3)
    assert Sequential([Embedding(4, 2, input_shape=(5,))]).inputs[0].dtype == np.int32
    assert Sequential([Sequential([Input((3,)), Dense(4)]), Dense(2)]).outputs[0].shape == (None, 2)


def test_sequential_built_by_its_first_call() -> None:
    model = Sequential([LSTM(4, return_sequences=True), Dense(2)])
    assert not model.built and model.inputs == [] and model.weights == []
    assert model(RNG.normal(size=(2, 5, 3))).shape == (2, 5, 2)
    assert model.inputs[0].shape == (None, None, 3)
    assert model(RNG.normal(size=(1, 7, 3))).shape == (1, 7, 2)
    fixed = Sequential([Flatten(), Dense(2)])
    fixed(np.ones((2, 5, 3)))
    assert fixed.inputs[0].shape == (None, 5, 3)
    ids = Sequential([Embedding(5, 2), GRU(3)])
    assert ids(np.array([[1, 2]])).shape == (1, 3) and ids.inputs[0].dtype == np.int64
    by_hand = Sequential([Embedding(5, 2), GRU(3)])
    by_hand.build((None, 4))
    assert by_hand.outputs[0].shape == (None, 3)


def test_sequential_grows_and_shrinks() -> None:
    model = Sequential([Input((3,))])
    model.add(Dense(4))
    model.add(Dense(5))
    assert model.outputs[0].shape == (None, 5)
    model.pop()
    assert model.outputs[0].shape == (None, 4) and len(model.weights) == 2
    with pytest.raises(ShapeError):
        model.add(LSTM(2))
    assert model(np.ones((1, 3))).shape == (1, 4)
    for wrong, message in ((3, "a Layer"), (Input((3,)), "first place")):
        with pytest.raises(ArgumentError, match=message):
            model.add(wrong)
    with pytest.raises(ArgumentError, match="several tensors"):
        Sequential([Input((None, 3)), LSTM(2, return_state=True)])
    with pytest.raises(ArgumentError, match="no layer"):
        Sequential().pop()
    with pytest.raises(ArgumentError, match="no layers"):
        Sequential()(np.ones((1, 3)))


@pytest.mark.parametrize("begin", [True, False])
def test_sequential_comes_back(begin: bool) -> None:
    layers = [GRU(3, return_sequences=True), Dropout(0.2), GRU(2)]
    model = Sequential([Input((None, 4)), *layers] if begin else layers, name="s")
    x = RNG.normal(size=(2, 5, 4))
    again = Sequential.from_config(json.loads(json.dumps(model.get_config())))
    assert again.built == begin and again.get_config() == model.get_config()
    wanted = model(x)
    again.build((None, None, 4))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(x).numpy(), wanted.numpy())


# states and summary ------------------------------------------------------------------------------
def test_reset_states_passes_over_layers_without() -> None:
    inner = Sequential([Input(batch_shape=(2, None, 3)), GRU(4, stateful=True, return_sequences=True)])
    x = Input(batch_shape=(2, None, 3))
    model = Model(x, LSTM(2)(inner(x)))
    data = RNG.normal(size=(2, 3, 3))
    first = model(data).numpy()
    assert not np.array_equal(model(data).numpy(), first)
    model.reset_states()
    np.testing.assert_array_equal(model(data).numpy(), first)
    assert len(model.weights) == 6


def lines_of(model: Model, **options: Any) -> list[str]:
    lines: list[str] = []
    model.summary(print_fn=lines.append, **options)
    return lines


def test_summary_of_a_chain() -> None:
    model = Sequential([Input((None, 3)), LSTM(4, name="l"), Dense(2, name="d")], name="s")
    model.layers[0].trainable = False
    lines = lines_of(model)
    assert lines[0] == 'Model: "s"'
    assert lines[2].split() == ["Layer", "(type)", "Output", "Shape", "Param", "#"]
    assert [line.split() for line in lines[4:6]] == [
        ["l", "(LSTM)", "(None,", "4)", "128"],
        ["d", "(Dense)", "(None,", "2)", "10"],
    ]
    assert lines[7:10] == [
        "Total params: 138 (552 bytes)",
        "Trainable params: 10 (40 bytes)",
        "Non-trainable params: 128 (512 bytes)",
    ]
    assert all(len(line) <= len(lines[1]) for line in lines)
    assert len(lines_of(model, line_length=100)[1]) == 98
    assert any("?" in line for line in lines_of(Sequential([Dense(2)])))


def test_summary_of_a_graph_shows_connections(capsys: pytest.CaptureFixture[str]) -> None:
    two_headed().summary()
    text = capsys.readouterr().out
    assert "Connected to" in text
    assert re.search(r"gru \(GRU\) +\(None, None, 4\), \(None, 4\) +108 +embedding\[0\], shared\[0\]", text)
    assert "h[0], h[0]" in text


def test_the_keys_of_inputs_and_outputs_name_them_in_training_too() -> None:
    a, b = Input((3,), name="first"), Input((2,), name="second")
    model = Model({"i": a, "a": b}, {"o": Dense(2, name="head")(a), "p": Dense(1)(b)})
    assert (model.input_names, model.output_names) == (["a", "i"], ["o", "p"])
    x = {"i": RNG.normal(size=(4, 3)), "a": RNG.normal(size=(4, 2))}
    found = model.predict(x)
    assert {name: y.shape for name, y in found.items()} == {"o": (4, 2), "p": (4, 1)}
    model.compile("sgd", {"o": "mse", "p": "mae"}, metrics={"o": ["mae"]})
    logs = model.evaluate(x, {"o": np.zeros((4, 2)), "p": np.zeros((4, 1))}, verbose=0, return_dict=True)
    assert list(logs) == ["loss", "o_loss", "p_loss", "o_mae"]
    assert max_error(logs["o_loss"], (found["o"] ** 2).mean()) < 1e-6
    again = Model.from_config(model.get_config())
    assert (again.input_names, again.output_names) == (["a", "i"], ["o", "p"])


@pytest.mark.parametrize("path", [3, None, 1.5])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    model = Sequential([Input((3,)), Dense(2)])
    for call in (model.save, model.save_weights, model.load_weights, load_model):
        with pytest.raises(ArgumentError, match="path.*\n.*got.*\n.*pathlib.Path"):
            call(path)


MASK = np.array([[1, 1, 0], [0, 1, 1]], bool)


@pytest.mark.parametrize("form", ["array", "list", "lists", "integers", "tensor", "dict"])
def test_a_call_takes_the_mask_of_its_input(form: str) -> None:
    x, i, layer = RNG.normal(size=(2, 3, 4)), Input((None, 4), dtype="float64", name="i"), GRU(5, dtype="float64")
    model = Model(i, layer(i))
    given = {
        "array": MASK, "list": [MASK], "lists": MASK.tolist(), "integers": MASK.astype(int), "tensor": mr.Tensor(MASK),
        "dict": {"i": MASK},
    }  # fmt: skip
    wanted = layer(x, mask=MASK).numpy()
    assert max_error(wanted, layer(x)) > 1e-3
    tensor = mr.Tensor(x)
    np.testing.assert_array_equal(model(tensor, mask=given[form]), wanted)
    assert tensor.mask is None
    with mr.Tape() as tape:
        tape.watch(tensor)
        loss = mr.ops.sum(model(tensor, mask=given[form]))
    gradient = tape.gradient(loss, [tensor])[0].numpy()
    assert not gradient[~MASK].any() and gradient[MASK].all()


def test_masks_of_models_that_are_built_by_the_call_or_are_in_others() -> None:
    x = RNG.normal(size=(2, 3, 4))
    model = Sequential([GRU(5, dtype="float64")], dtype="float64")
    y = model(x, mask=MASK)
    np.testing.assert_array_equal(y, model.layers[0](x, mask=MASK))
    i, m = Input((None, 4), dtype="float64"), Input((None,), dtype="bool")
    np.testing.assert_array_equal(Model([i, m], model(i, mask=m))([x, MASK]), y)


def test_masks_of_several_inputs() -> None:
    i, j = Input((None, 4), dtype="float64", name="i"), Input((None, 4), dtype="float64", name="j")
    first, second = GRU(5, dtype="float64"), GRU(5, dtype="float64")
    model = Model([i, j], Add(dtype="float64")([first(i), second(j)]))
    x = RNG.normal(size=(2, 3, 4))
    for mask in ([None, MASK], {"j": MASK}):
        np.testing.assert_array_equal(model([x, x], mask=mask), first(x) + second(x, mask=MASK))
    for mask, error, words in (
        ([MASK], ArgumentError, "1 masks"),
        (MASK, ArgumentError, "1 masks"),
        ({"k": MASK}, ArgumentError, "masks for k"),
        ([None, MASK[:, :2]], ShapeError, "input 'j'"),
    ):
        with pytest.raises(error, match=f"(?s)Model.*mask.*{words}"):
            model([x, x], mask=mask)
