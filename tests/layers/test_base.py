"""What every layer does: building, weights, dtypes, masks, configuration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, DtypeError, ShapeError
from minirnn.layers import GRU, LSTM, Dense, Dropout, Embedding, Input, Layer
from minirnn.layers.base import observe


class Scale(Layer):
    def __init__(self, power: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.power = power
        self.factor: Any = None
        self.shift: Any = None

    def build(self, input_shape: Any) -> None:
        self.seen = input_shape
        self.shift = self.add_weight("shift", (), "zeros", trainable=False)
        self.factor = self.add_weight("factor", (input_shape[-1],), "ones")

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor**self.power + self.shift

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "power": self.power}


class Nested(Layer):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.last = Dense(2)
        self.more = {"a": Dense(3), "b": [Dense(4), mr.Variable([1.0])]}
        self.own = mr.Variable(np.zeros(5), trainable=False)
        self.first = Dropout(0.5)

    def call(self, inputs: Any, training: Any = False) -> Any:
        x = self.more["b"][0](self.more["a"](inputs))
        return self.last(self.first(x))


def test_build_happens_once_and_sees_a_free_batch() -> None:
    layer = Scale()
    assert layer(np.ones((2, 3), "float32")).shape == (2, 3)
    assert layer.seen == (None, 3)
    weight = layer.factor
    layer(np.ones((5, 3)))
    assert layer.factor is weight


def test_building_by_hand_is_building() -> None:
    layer = Scale()
    layer.build((None, 3))
    layer.set_weights([np.array([1.0, 2.0, 3.0]), 5.0])
    np.testing.assert_array_equal(layer(np.ones((1, 3))).numpy(), [[6, 7, 8]])


def test_weights_trainable_first_and_by_assignment() -> None:
    layer = Scale()
    layer.build((None, 3))
    assert [v.name for v in layer.weights] == ["factor", "shift"]
    assert [v.name for v in layer.trainable_variables] == ["factor"]
    assert [v.name for v in layer.non_trainable_variables] == ["shift"]
    layer.trainable = False
    assert layer.trainable_variables == [] and len(layer.non_trainable_variables) == 2


def test_sublayers_in_lists_and_dicts() -> None:
    layer = Nested()
    layer(np.ones((2, 7)))
    assert [v.shape for v in layer.weights] == [(1,), (5,), (4, 2), (2,), (7, 3), (3,), (3, 4), (4,)]
    assert [below.name for below in layer.sublayers][-1] == layer.first.name
    assert layer.count_params() == sum(v.size for v in layer.weights)
    layer.last.trainable = False
    assert (4, 2) not in [v.shape for v in layer.trainable_variables]


def test_a_replaced_weight_is_gone() -> None:
    layer = Scale()
    layer.build((None, 3))
    layer.factor = mr.Variable(np.ones(3), dtype="float32", name="new")
    assert [v.name for v in layer.weights] == ["new", "shift"]


def test_a_layer_without_call_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"Layer has no call\(\)"):
        Layer()(np.ones((1, 2)))


def test_a_weight_kept_nowhere_is_found() -> None:
    layer = Layer()
    layer.add_weight("loose", (2,), "ones")
    assert [v.name for v in layer.weights] == ["loose"]


def test_set_weights_checks_before_it_changes() -> None:
    layer = Dense(2)
    layer.build((None, 3))
    before = layer.get_weights()
    with pytest.raises(ShapeError, match="bias"):
        layer.set_weights([np.ones((3, 2)), np.ones(3)])
    with pytest.raises(ArgumentError, match="1 arrays"):
        layer.set_weights([np.ones((3, 2))])
    for was, now in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    with pytest.raises(ArgumentError, match="build"):
        Dense(2).set_weights([np.ones((3, 2)), np.ones(3)])


def test_arrays_are_cast_and_tensors_are_not() -> None:
    assert Dense(2)(np.ones((1, 3))).dtype == np.float32
    assert Dense(2, dtype="float64")(np.ones((1, 3), "float32")).dtype == np.float64
    assert Dense(2)(np.ones((1, 3), int)).dtype == np.float32
    with pytest.raises(DtypeError, match="Dense 'd': it computes in float32"):
        Dense(2, name="d")(mr.Tensor(np.ones((1, 3))))
    with pytest.raises(DtypeError, match="float32 or float64"):
        Dense(2, dtype="int32")
    with pytest.raises(DtypeError, match="unknown dtype"):
        Dense(2, dtype="floaty")
    with mr.default_dtype("float64"):
        assert Dense(2).dtype == "float64"


def test_dtype_policy_of_keras_3() -> None:
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float64"}, "registered_name": None}
    assert Dense.from_config({"units": 2, "dtype": policy}).dtype == "float64"


def test_names_are_unique_and_kept() -> None:
    assert Dense(2).name != Dense(2).name
    assert Dense(2, name="head").name == "head"
    assert "'head'" in Dense(2, name="head").label


def test_training_reaches_sublayers() -> None:
    layer = Nested()
    x = np.ones((4, 7))
    layer(x)
    layer.last.kernel.assign(np.ones((4, 2)))
    assert np.array_equal(layer(x), layer(x))
    assert not np.array_equal(layer(x, training=True), layer(x))


def test_masks_pass_through_layers_that_support_them() -> None:
    x = Embedding(9, 3, mask_zero=True)(np.array([[1, 0], [2, 3]]))
    kept = Dropout(0.1)(Dense(2)(x))
    np.testing.assert_array_equal(kept.mask.numpy(), [[True, False], [True, True]])
    assert Scale()(x).mask is None


def test_a_layer_that_takes_a_mask_gets_it() -> None:
    class Count(Layer):
        def call(self, inputs: Any, mask: Any = None) -> Any:
            return mr.ops.sum(mr.ops.cast(mask, "float32"), axis=1)

    x = Embedding(9, 3, mask_zero=True)(np.array([[1, 0], [2, 3]]))
    assert Count()(x).numpy().tolist() == [1, 2]
    assert Count()(np.ones((2, 2, 1)), mask=np.array([[True, True], [False, False]])).numpy().tolist() == [2, 0]


def test_configuration_comes_back() -> None:
    layer = Scale(3, name="s", dtype="float64")
    again = Scale.from_config(layer.get_config())
    assert (again.power, again.name, again.dtype) == (3, "s", "float64")
    with pytest.raises(ArgumentError, match="powr"):
        Scale.from_config({"powr": 3})


def test_keys_of_keras_that_mean_nothing_are_passed_over() -> None:
    config = {**LSTM(3).get_config(), "use_cudnn": "auto", "seed": None, "activity_regularizer": None}
    assert LSTM.from_config(config).units == 3
    with pytest.raises(ArgumentError, match="activity_regularizer"):
        Dense.from_config({"units": 3, "activity_regularizer": {"class_name": "L2", "config": {"l2": 0.1}}})


def test_weights_of_unknown_size_are_refused() -> None:
    with pytest.raises(ShapeError, match="Dense 'd': the size of its weight 'kernel' is unknown"):
        Dense(3, name="d")(Input((None, None)))


def test_observers_see_every_layer_innermost_first() -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []
    layer = Nested(name="outer")
    layer(np.ones((2, 7)))
    with observe(lambda label, outputs: seen.append((label, outputs.shape))):
        layer(np.ones((2, 7)))
    assert seen[-1] == ("Nested 'outer'", (2, 2))
    assert [shape for _, shape in seen] == [(2, 3), (2, 4), (2, 4), (2, 2), (2, 2)]
    layer(np.ones((2, 7)))
    assert len(seen) == 5


@pytest.mark.parametrize("units", [0, -1, 2.5, True, None, "3"])
@pytest.mark.parametrize("cls", [Dense, LSTM, GRU])
def test_units_are_positive_integers(cls: Any, units: Any) -> None:
    with pytest.raises(ArgumentError, match="units"):
        cls(units)


def test_an_unknown_argument_names_the_class_and_the_argument() -> None:
    with pytest.raises(ArgumentError, match="Dense takes no argument of this name\n  got: colour"):
        Dense(3, colour="red")


class Counting(Layer):
    """Counts its calls in a Variable of its own."""

    def build(self, input_shape: Any) -> None:
        self.calls = self.add_weight("calls", (), "zeros", trainable=False)
        self.calls.assign(10.0)

    def call(self, inputs: Any) -> Any:
        self.calls.assign(np.asarray(self.calls) + 1)
        return inputs * 1


def test_asking_for_shapes_assigns_nothing_but_building_does() -> None:
    layer = Counting()
    symbolic = layer(Input((4,)))
    assert symbolic.shape == (None, 4) and float(layer.calls) == 10
    layer(np.ones((2, 4)))
    assert float(layer.calls) == 11


def test_a_layer_without_its_base_says_so() -> None:
    class Forgetful(Layer):
        def __init__(self) -> None:
            self.inner = Dense(3)

    with pytest.raises(ArgumentError, match=r"Forgetful: its __init__(.|\n)*super\(\)"):
        Forgetful()(np.ones((2, 3)))


def test_a_call_without_result_or_without_array_is_an_error() -> None:
    class Silent(Layer):
        def call(self, inputs: Any) -> None:
            inputs * 2

    with pytest.raises(ArgumentError, match="returned None"):
        Silent(name="s")(np.ones((2, 3)))
    for wrong in (None, [[1.0, 2.0]], "text"):
        with pytest.raises(ArgumentError, match="Dense 'd': input"):
            Dense(2, name="d")(wrong)
