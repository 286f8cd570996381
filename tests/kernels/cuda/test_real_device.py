"""The cuda engine on a real device: skipped, with the reason, where there is none.  It has never run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import EngineError
from minirnn.kernels.cuda import device, streams
from minirnn.kernels.cuda.arrays import DeviceArray
from minirnn.layers import GRU, LSTM, SimpleRNN
from tests.kernels import engine_cases as cases
from tests.kernels import step_cases as _more_cases  # noqa: F401  (they enter themselves in the list)
from tests.kernels.same_bits_cases import differing

SCHEDULES = ("block", "grid", "step")
# Forward and backward, B, T, F, U pairwise different.  "block" holds no more than this; "grid" can hold all of them.
SIZES = {"block": (3, 11, 7, 48), "grid": (5, 13, 33, 256), "step": (19, 11, 33, 70)}


try:
    DEVICE = device.NumbaDevice()
except EngineError as error:
    pytest.skip(f"there is no CUDA device here: {error.got}", allow_module_level=True)


def drawn(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype) / np.asarray(shape[-1] ** 0.5, dtype)


def trained(layer: Any, x: mr.Tensor, **options: Any) -> dict[str, Any]:
    with mr.Tape() as tape:
        tape.watch(x)
        y = layer(x, **options)
    cotangent = mr.Tensor(drawn(*y.shape, dtype=str(y.dtype), seed=3))
    sources = {"x": x, **{w.name: w for w in layer.trainable_variables}}
    return {"y": y, **dict(zip(sources, tape.gradient(y, [*sources.values()], cotangent), strict=True))}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [SimpleRNN, GRU, LSTM])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_built_in_layers_have_the_cpu_engines_bits(schedule: str, kind: Any, dtype: str) -> None:
    batch, steps, features, units = SIZES[schedule]
    units = units // 2 if dtype == "float64" else units
    layer = kind(units, return_sequences=True, dtype=dtype)
    layer.build((None, None, features))
    layer.set_weights([drawn(*w.shape, dtype=dtype, seed=k) for k, w in enumerate(layer.weights)])
    x = mr.Tensor(drawn(batch, steps, features, dtype=dtype))
    mask = np.random.default_rng(1).random((batch, steps)) > 0.3
    for options in ({}, {"mask": mask}):
        with mr.engine("cpu"):
            wanted = trained(layer, x, **options)
        with mr.engine("cuda"), mr.cuda.schedule(schedule if not options else "auto"):
            for _ in range(3):  # whatever the order of threads and blocks was
                assert differing(trained(layer, x, **options), wanted) == []


@pytest.mark.parametrize("name", cases.CASES)
def test_every_case_has_the_cpu_engines_bits(name: str) -> None:
    for dtype in cases.DTYPES:
        assert differing(cases.evaluate(name, dtype, "cuda"), cases.evaluate(name, dtype, "cpu")) == []


def test_a_stream_of_its_own_and_back() -> None:
    from numba import cuda

    stream = cuda.stream()
    xs, init = drawn(7, 5, 3), drawn(5, 3, seed=1)

    def step(h: Any, x: Any) -> Any:
        return mr.ops.tanh(h + x), h

    with mr.engine("cuda"):
        wanted = mr.scan(step, init, xs)[0].numpy()
        with mr.cuda.stream(stream):
            assert streams.current() is stream
            found = mr.scan(step, init, xs)[0]
        assert np.array_equal(found, wanted)
        again = mr.scan(step, found, xs)[0]  # on the default stream, once the other one is done
        assert np.array_equal(again, mr.scan(step, wanted, xs)[0])


@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_arrays_of_other_libraries_without_a_copy(library: str) -> None:
    other = pytest.importorskip(library)
    host = drawn(7, 5, 3)
    if library == "torch":
        if not other.cuda.is_available():
            pytest.skip("torch sees no device")
        array = other.tensor(host).to("cuda")
        address, back = array.data_ptr(), lambda t: other.as_tensor(t, device="cuda").cpu().numpy()
    else:
        array = other.asarray(host)
        address, back = array.data.ptr, lambda t: other.asnumpy(other.asarray(t))
    with mr.engine("cuda"):
        t = mr.Tensor(array)
        assert type(t.value) is DeviceArray and t.__cuda_array_interface__["data"][0] == address
        y = mr.scan(lambda h, x: (h + x, h), np.zeros((5, 3), "float32"), t)[1]
        assert np.array_equal(back(y), y.numpy()) and np.array_equal(t, host)


def repeated(h: Any, x: Any) -> Any:
    return h, mr.ops.broadcast_to(h + x, (1024, 1024)) * 2.0


def test_too_little_memory_is_named() -> None:
    steps = 2 * DEVICE.free_memory() // (4 * 1024 * 1024)
    xs = np.zeros((steps, 1, 1), "float32")
    with mr.engine("cuda"), pytest.raises(EngineError, match="too little memory"):
        mr.scan(repeated, np.zeros((1, 1), "float32"), xs)


def test_each_schedule_can_be_forced_and_refuses_what_does_not_fit() -> None:
    layer = LSTM(512, return_sequences=True)
    x = mr.Tensor(drawn(2, 3, 5))
    with mr.engine("cuda"), mr.cuda.schedule("block"), pytest.raises(EngineError):
        layer(x)
