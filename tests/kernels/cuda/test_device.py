"""Where the cuda engine cannot run it says so before anything changes; and too little memory is named."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import config
from minirnn.errors import ArgumentError, EngineError
from minirnn.kernels.cuda import arrays, device, memory, streams, target

from .host import HostDevice


@pytest.fixture(autouse=True)
def _anew() -> Any:
    """Whether there is a device is found out anew."""
    device._first_device.cache_clear()
    yield
    device._first_device.cache_clear()


def refused(run: Any) -> str:
    engine, _ = config.current_engine(), mr.engine
    with pytest.raises(EngineError, match='engine "cuda" cannot run here') as error:
        run()
    assert config.current_engine() == engine
    text = str(error.value)
    assert all(f"\n  {part}: " in text for part in ("got", "expected", "fix")) and text.count("\n") == 3
    return text


def step(h: Any, x: Any) -> Any:
    raise AssertionError("the step ran")


REQUESTS = {
    "engine": lambda: mr.engine("cuda"),
    "with": lambda: mr.engine("cuda").__enter__(),
    "scan": lambda: mr.scan(step, np.zeros((2, 3)), np.zeros((4, 2, 3)), engine="cuda"),
    "adopting": lambda: mr.Tensor(Foreign(np.zeros(3))),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_without_numba_cuda(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "missing", lambda: f"the package numba-cuda is not installed: {target.INSTALL}")
    text = refused(REQUESTS[name])
    assert "got: the package numba-cuda is not installed" in text and "minirnn[cuda]" in text


class Driver:
    """numba.cuda where something is amiss with the driver or the device."""

    def __init__(self, message: str) -> None:
        self.message = message

    def get_current_device(self) -> Any:
        raise RuntimeError(self.message)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(
    "message, shown",
    [
        (
            "Error at driver init: \n\nCUDA driver library cannot be found.\nEnsure that",
            "driver library cannot be found",
        ),
        ("[100] Call to cuInit results in CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_NO_DEVICE"),
    ],
)
def test_without_a_driver_or_a_device(name: str, message: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "missing", lambda: "")
    monkeypatch.setitem(vars(target), "cuda", Driver(message))
    assert shown in refused(REQUESTS[name])
    assert not mr.cuda.is_available() and shown in mr.cuda.why_not()
    assert device.describe().startswith("none: ")


def test_the_settings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with device.using(HostDevice()):
        mr.show_config()
    shown = capsys.readouterr().out
    assert re.search(r"^cuda +numba-cuda .*, device .*, compute capability \d+\.\d, \d+ multiprocessors$", shown, re.M)


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ArgumentError, match="one of auto, block, grid, step"):
        mr.cuda.schedule("fast")
    with mr.cuda.schedule("grid"):
        assert config.current_schedule() == "grid"
    assert config.current_schedule() == "auto"


# memory ------------------------------------------------------------------------------------------
class SmallDevice(HostDevice):
    """Has room for so many bytes at a time, besides those that are kept for copies."""

    room = 1000

    def empty(self, size: int, dtype: Any) -> Any:
        self.take(size * np.dtype(dtype).itemsize)
        return super().empty(size, dtype)

    def to_device(self, array: np.ndarray, stream: Any = None) -> Any:
        self.take(array.nbytes)
        return super().to_device(array, stream)

    def take(self, count: int) -> None:
        if count + 8 * len(memory._sent) > self.room:
            raise MemoryError

    def free_memory(self) -> int:
        return self.room


def test_too_little_memory_is_named() -> None:
    with device.using(SmallDevice()) as small, mr.engine("cuda"):
        with pytest.raises(EngineError, match="too little memory") as error:
            mr.scan(lambda h, x: (h + x, h), np.zeros((2, 50)), np.zeros((4, 2, 50)))
        assert "0.0 MB free" in str(error.value) and "checkpoint" in str(error.value)
        kept = np.zeros(5)
        arrays.sent_once(kept, small, None)
        arrays.made((125,), "float64", small, None)  # for which the copy has to go
        assert not memory._sent


def test_memory_is_kept_for_the_next_array_of_its_size() -> None:
    keeping = HostDevice(limits=device.Limits(kept_bytes=100))
    with device.using(keeping):

        def where(size: int, stream: Any = None) -> int:
            """Where an array is that nobody holds afterwards."""
            made = arrays.made((size,), "float32", keeping, stream)
            return keeping.address(made.memory.buffer)

        first = arrays.made((10,), "float32", keeping, None)
        second = arrays.made((10,), "float32", keeping, None)
        at = keeping.address(first.memory.buffer)
        view = first[2:]
        del first
        assert where(10) != at  # the view holds it
        del view
        assert where(10) == where(10)
        assert where(10, "another stream") not in (at, keeping.address(second.memory.buffer))
        assert where(11) == where(11)
        shown = arrays.made((12,), "float32", keeping, None)
        at = shown.__cuda_array_interface__["data"][0]
        held = shown.memory.buffer  # as another library may
        del shown
        assert where(12) != at == keeping.address(held)
        assert 80 <= sum(memory._kept_bytes.values()) <= 100
    memory._kept.clear()
    memory._kept_bytes.clear()


# arrays of the device ------------------------------------------------------------------------------
class Foreign:
    """An array of another library on the device."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape = array, array.shape

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.array.__array_interface__, "version": 3, "stream": None}


def test_arrays_of_other_libraries_come_and_go_without_a_copy() -> None:
    with device.using(HostDevice()), mr.engine("cuda"):
        array = np.arange(24.0).reshape(2, 3, 4)
        t = mr.Tensor(Foreign(array))
        about = t.__cuda_array_interface__
        assert about["data"] == (array.ctypes.data, False) and about["shape"] == t.shape == (2, 3, 4)
        assert about["strides"] is None and about["typestr"] == "<f8"
        turned = mr.ops.transpose(t, (1, 0, 2))
        assert turned.__cuda_array_interface__["strides"] == (32, 96, 8)
        part = t[1]
        assert part.__cuda_array_interface__["data"][0] == array[1:].ctypes.data
        assert np.array_equal(turned, array.swapaxes(0, 1)) and np.array_equal(part, array[1])
        other = mr.Tensor(Foreign(array.swapaxes(0, 1)))
        assert np.array_equal(other, array.swapaxes(0, 1))
        assert mr.Tensor(Foreign(array), dtype="float32").dtype == "float32"
        with pytest.raises(ArgumentError, match="gaps between its elements"):
            mr.Tensor(Foreign(array[:, ::2]))
        given = Foreign(np.ones((2, 3, 4), "float32"))
        assert np.array_equal(mr.layers.Reshape((12,))(given), np.ones((2, 12)))  # a layer takes it, too
        assert np.array_equal(mr.ops.negative(given), -given.array)
        assert mr.layers.Reshape((12,), dtype="float64")(given).dtype == "float64"
    assert not hasattr(mr.Tensor(1.0), "__cuda_array_interface__")
    weight = mr.Variable(t)
    assert type(weight.value) is np.ndarray


def test_views_are_numpys() -> None:
    host = np.random.default_rng(0).normal(size=(3, 4, 5))
    with device.using(HostDevice()) as made:
        x = arrays.sent(host, made, None)
    for index in (1, -1, slice(1, 3), (slice(None), 2), (..., 3), (slice(None, None, -1), None, 2), (1, 2, 3)):
        assert np.array_equal(x[index], host[index]), index
        assert type(x[index]) is arrays.DeviceArray
    assert np.array_equal(x[[0, 2]], host[[0, 2]]) and np.array_equal(x[x > 0], host[host > 0])
    for view in (lambda a: a.transpose(2, 0, 1), lambda a: a.transpose(), lambda a: a.swapaxes(0, -1)):
        assert np.array_equal(view(x), view(host)) and view(x).strides == view(host).strides
        assert np.array_equal(view(x).reshape(5, -1), view(host).reshape(5, -1))
    row = arrays.sent(host[:1], made, None)
    assert row.swapaxes(0, 1).is_dense and not x.swapaxes(0, 1).is_dense  # one row is in order either way
    assert x.reshape(-1, 5).shape == (12, 5) and x.reshape((4, 15)).strides == (120, 8)
    assert np.array_equal(x + 1, host + 1) and np.array_equal(np.exp(x), np.exp(host))
    assert x.size == 60 and x.nbytes == 480 and len(x) == 3 and x.sum() == host.sum()
    again = pickle.loads(pickle.dumps(x[1:]))
    assert type(again) is np.ndarray and np.array_equal(again, host[1:])
    assert np.array_equal(copy.deepcopy(mr.autodiff.tensor.wrap(x)), host)
    assert repr(x).startswith("DeviceArray(shape=(3, 4, 5), dtype=float64")


def test_streams_of_other_libraries() -> None:
    class TorchStream:
        cuda_stream = 7

    class OwnStream:
        def synchronize(self) -> None: ...

    own = OwnStream()
    with device.using(HostDevice()):
        with mr.cuda.stream(TorchStream()):
            first = streams.current()
        with mr.cuda.stream(7):
            assert streams.current() is first
        with mr.cuda.stream(0):
            assert streams.current() is None
        with mr.cuda.stream(own):
            assert streams.current() is own
        with pytest.raises(ArgumentError, match="a stream of CuPy, torch or Numba"), mr.cuda.stream("fast"):
            pass
    assert streams.current() is None


def test_launches_are_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that can be seen without a device: the driver gets what a launch by numba-cuda itself sends."""
    import cuda.core
    from numba.cuda import dispatcher

    text = "from minirnn.kernels.cuda.target import cuda\n\n@cuda.jit\ndef add(a, b, c, n, x):\n    x[a] += n\n"
    kernel = target.compiled(text, "add", f"void({'int64, ' * 4}float32[::1])", 32).launchable()
    sent: list[Any] = []

    def launch(stream: Any, config: Any, function: Any, *arguments: Any) -> None:
        values = [(type(a), getattr(a, "value", a)) for a in arguments]
        sent.append((stream, config.grid, config.block, config.shmem_size, config.is_cooperative, function, values))

    class Library:
        def get_cufunc(self) -> Any:
            return type("Loaded", (), {"kernel": "the kernel"})

    def prepare(kind: Any, value: Any, stream: Any, retr: list[Any], found: list[Any]) -> None:
        if isinstance(value, int):
            dispatcher._Kernel._prepare_args(kernel, kind, value, stream, retr, found)
        else:
            found.extend(["an array of", len(value)])

    monkeypatch.setattr(cuda.core, "launch", launch)
    monkeypatch.setattr(dispatcher, "launch", launch)
    monkeypatch.setattr(kernel, "_codelibrary", Library())
    monkeypatch.setattr(kernel, "_prepare_args", prepare)
    monkeypatch.setattr("numba.cuda.cudadrv.driver._to_core_stream", lambda stream: ("stream", stream))
    start = target.launcher(kernel, [5, [1.0, 2.0]], 0)
    for first in range(2):
        start(kernel, (3, 2), 32, 16, (first, 1, 7))
        kernel.launch([first, 1, 7, 5, [1.0, 2.0]], (3, 2, 1), (32, 1, 1), ("stream", 0), 16)
    assert sent[0] == sent[1] and sent[2] == sent[3] and sent[0] != sent[2]
    assert sent[2][1:5] == ((3, 2, 1), (32, 1, 1), 16, False)
    assert [value for _, value in sent[2][6]] == [1, 1, 7, 5, "an array of", 2]
