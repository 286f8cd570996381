"""The cuda engine from end to end, on kernels that are executed on the host: the cpu engine's bits, and what is copied.

By default one layer's kernels are compiled and used in many ways; every case of the cpu engine's tests in the slow set.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.autodiff import trees
from minirnn.errors import ArgumentError, EngineError, ShapeError
from minirnn.kernels.cuda import device
from minirnn.kernels.cuda.arrays import DeviceArray
from minirnn.kernels.cuda.run import Kernel
from minirnn.layers import Input, SimpleRNN
from minirnn.models import Model
from tests.kernels import step_cases as _more_cases  # noqa: F401  (they enter themselves in the list)
from tests.kernels.same_bits_cases import differing

from .fibers import BY_HOST
from .host import HostDevice


class CountingDevice(HostDevice):
    """Counts copies to the device and back."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sent = self.fetched = 0

    def to_device(self, array: np.ndarray, stream: Any = None) -> Any:
        self.sent += 1
        return super().to_device(array, stream)

    def to_host(self, buffer: Any, stream: Any = None) -> np.ndarray:
        self.fetched += 1
        return super().to_host(buffer, stream)


@pytest.fixture
def host() -> Iterator[CountingDevice]:
    limits = device.Limits(multiprocessors=3, kept_bytes=1 << 20)
    with device.using(CountingDevice(seed=1, limits=limits)) as made, mr.cuda.schedule("step"):
        yield made


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype("float32")


def on_both(run: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves of what `run()` returns on the cpu and on the cuda engine."""
    found = []
    for engine in ("cpu", "cuda"):
        with mr.engine(engine):
            leaves = trees.flatten(run())[0]
        found.append({str(k): leaf for k, leaf in enumerate(leaves)})
    return found[0], found[1]


def randomized(layer: Any, features: int) -> Any:
    layer.build((None, None, features))
    layer.set_weights([drawn(*w.shape, seed=k) for k, w in enumerate(layer.weights)])
    return layer


# layers ------------------------------------------------------------------------------------------
MASK = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
RESET = np.array([[0, 0, 1, 0, 0], [0, 1, 0, 0, 1], [1, 0, 0, 0, 0]], bool)


def trained(layers: list[Any], x: mr.Tensor, **options: Any) -> list[Any]:
    """Outputs and gradients of layers on top of each other."""
    with mr.Tape() as tape:
        tape.watch(x)
        y = x
        for layer in layers:
            y = layer(y, **options)
        loss = (y * drawn(*y.shape, seed=9)).sum()
    return [y, *tape.gradient(loss, [x, *[w for layer in layers for w in layer.trainable_variables]])]


def test_layers_give_the_cpu_engines_bits_and_stay_on_the_device(host: CountingDevice) -> None:
    layers = [
        randomized(SimpleRNN(4, return_sequences=True), 2),
        randomized(SimpleRNN(6, return_sequences=True, go_backwards=True), 4),
    ]
    x = mr.Tensor(drawn(3, 5, 2))
    wanted, got = on_both(lambda: trained(layers, x))
    assert differing(got, wanted) == []
    assert {type(t.value) for t in got.values()} == {DeviceArray}
    with mr.engine("cuda"):
        layers[1](layers[0](x))  # without a tape it is another kernel
        host.sent = host.fetched = 0
        y = layers[1](layers[0](x))
        assert (host.sent, host.fetched) == (0, 0)  # x and the weights are there since the first call
        layers[0].set_weights([2 * w for w in layers[0].get_weights()])
        layers[1](layers[0](x))
        assert host.sent == len(layers[0].weights)
        assert np.asarray(y).shape == y.numpy().shape == (3, 5, 6)
        assert host.fetched == 1  # the host keeps its copy
    wanted, got = on_both(lambda: [layers[1](layers[0](x))])
    assert differing(got, wanted) == []


@pytest.mark.slow
def test_masks_and_resets_on_the_device(host: CountingDevice) -> None:
    layers = [randomized(SimpleRNN(4, return_sequences=True), 2), randomized(SimpleRNN(6, return_sequences=True), 4)]
    x = mr.Tensor(drawn(3, 5, 2))
    wanted, got = on_both(lambda: trained(layers, x, mask=MASK, reset_mask=RESET))
    assert differing(got, wanted) == []
    with mr.engine("cuda"):
        host.fetched = 0
        trained(layers, x, mask=MASK, reset_mask=RESET)
        # On the host: the loss, and which last states rows have that begin anew.
        assert host.fetched == 1 + len(layers)


def test_a_stream_one_step_at_a_time(host: CountingDevice) -> None:
    x = Input((None, 2), dtype="float32")
    model = Model(x, randomized(SimpleRNN(4, return_sequences=True), 2)(x))
    given = drawn(3, 4, 2)

    def pushed() -> list[Any]:
        stream = model.stream(batch_size=3)
        return [stream.push(given[:, t]) for t in range(3)] + [stream.state[0][0]]

    wanted, got = on_both(pushed)
    assert differing(got, wanted) == []


# scans -------------------------------------------------------------------------------------------
def looked_up(h: Any, x: Any) -> Any:
    h = ops.tanh(h + ops.take(TABLE, x, axis=0))
    return h, h


TABLE = mr.Tensor(drawn(9, 4))


def test_an_index_out_of_range_is_named(host: CountingDevice) -> None:
    ids = np.random.default_rng(0).integers(0, 9, (5, 3))
    wanted, got = on_both(lambda: mr.scan(looked_up, drawn(3, 4), ids))
    assert differing(got, wanted) == []
    ids[2, 1] = 1000
    with pytest.raises(ShapeError, match="out of range") as error:
        mr.scan(looked_up, drawn(3, 4), ids, engine="cuda")
    assert "1000" in str(error.value) and "0 .. 8" in str(error.value)


def added(h: Any, x: Any) -> Any:
    h = h + x
    return h, (h, x, 2.0)


def test_what_goes_in_and_comes_out_of_a_scan(host: CountingDevice) -> None:
    init, xs = drawn(3, 4), drawn(5, 3, 4)
    wanted, got = on_both(lambda: mr.scan(added, init, xs))
    assert differing(got, wanted) == []
    with mr.engine("cuda"):
        final, (ys, same, _) = mr.scan(added, init, xs)
        before = np.array(same)
        xs[:] = 0  # the caller's own array, which may change
        assert np.array_equal(same, before)
        empty, (none, _, _) = mr.scan(added, final, xs[:0])
        assert np.array_equal(empty, final) and none.shape == (0, 3, 4)
        # Views stay where they are; all else is computed on the host.
        assert type(ops.transpose(ys, (1, 0, 2)).value) is DeviceArray
        assert np.array_equal(ys[1:3, 0] + 1, np.asarray(ys)[1:3, 0] + 1)
        strided = mr.Tensor(xs.swapaxes(0, 1))
        other = mr.scan(added, final, ops.transpose(strided, (1, 0, 2)))[0]
    assert np.array_equal(other, final)  # xs are zeros by now
    # A Tensor of the device is one for the other engines, too.
    assert np.array_equal(mr.scan(added, final, ys, engine="cpu")[0], mr.scan(added, final, ys, engine="cuda")[0])


def test_blocks_of_time(host: CountingDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    from minirnn.kernels.cuda import run

    layer = randomized(SimpleRNN(4, return_sequences=True), 2)
    x = mr.Tensor(drawn(3, 5, 2))
    monkeypatch.setattr(run, "_MOST_STEPS", 2)  # of a block; a kernel that is there already has its own
    with device.using(CountingDevice(seed=2)):
        wanted, got = on_both(lambda: trained([layer], x))
    assert differing(got, wanted) == []


def test_what_no_kernel_can_express_is_refused(host: CountingDevice) -> None:
    def counted(h: Any, x: Any) -> Any:
        return h + x, ()

    with pytest.raises(EngineError, match="a step holds what no kernel can express") as error:
        mr.scan(counted, np.zeros((3, 4), "int8"), np.ones((5, 3, 4), "int8"), engine="cuda")
    assert "int8" in str(error.value) and "numpy" in str(error.value)


# schedules ---------------------------------------------------------------------------------------
def test_a_grid_that_the_device_cannot_hold(host: CountingDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as one launch a step, unless the schedule is forced."""
    from minirnn.kernels.cuda import run

    whole = run.plan

    def with_grids(lowering: Any, limits: Any, schedule: str | None = None) -> Any:
        made = whole(lowering, limits, "step")
        launches = [launch._replace(cooperative=schedule != "step") for launch in made.launches]
        return made._replace(schedule=schedule or "grid", launches=launches)

    monkeypatch.setattr(run, "plan", with_grids)
    monkeypatch.setattr(CountingDevice, "cooperative_blocks", lambda *arguments: 0)
    graph = mr.step_graph(added, drawn(3, 4), drawn(5, 3, 4))
    assert Kernel(graph, host).plan.schedule == "step"
    with pytest.raises(EngineError, match='schedule "grid" does not fit') as error:
        Kernel(graph, host, "grid")
    assert "of which the device can hold 0 at once" in str(error.value)


# products ----------------------------------------------------------------------------------------
class CupyOfNumpy(types.ModuleType):
    """What is used of CuPy, on the memory of the host."""

    lib = np.lib

    def __init__(self) -> None:
        super().__init__("cupy")
        self.__spec__ = importlib.util.spec_from_loader("cupy", None)
        self.products = 0

    def asarray(self, buffer: Any) -> np.ndarray:
        buffer.shadow[:, 0] = BY_HOST  # who wrote it
        array: np.ndarray = buffer.array
        return array

    def matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.products += 1
        product: np.ndarray = a @ b
        return product


def test_products_by_cupy_only_if_asked_for(host: CountingDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = randomized(SimpleRNN(4, return_sequences=True), 2)
    x = mr.Tensor(drawn(3, 5, 2))
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ArgumentError, match="CuPy is not installed"):
        mr.cuda.products("cupy")
    numpy = CupyOfNumpy()
    monkeypatch.setitem(sys.modules, "cupy", numpy)
    with mr.engine("cuda"):
        wanted = trained([layer], x)
        assert numpy.products == 0
        with mr.cuda.products("cupy"):
            got = trained([layer], x)
    assert numpy.products == 4  # with x, for the cotangents of x, kernel and recurrent_kernel
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_comparison_notices_a_bit(host: CountingDevice) -> None:
    wanted, got = on_both(lambda: mr.scan(added, drawn(3, 4), drawn(5, 3, 4)))
    got["1"] = np.nextafter(np.asarray(got["1"]), np.float32(9))
    assert differing(got, wanted) == ["1"]
