"""Arrays on the device as their users meet them: as NumPy's, on streams, and from other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError
from minirnn.kernels.cuda import arrays, device, streams
from minirnn.kernels.cuda.arrays import DeviceArray

from .host import HostDevice


class Waiting(HostDevice):
    """Writes down which streams are waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[Any] = []

    def wait(self, stream: Any) -> None:
        self.waited.append(stream)


@pytest.fixture
def host() -> Iterator[Waiting]:
    with device.using(Waiting()) as made:
        yield made


def on_device(array: np.ndarray, stream: Any = None) -> DeviceArray:
    return arrays.sent(array, device.current(), stream)


def test_it_is_used_as_an_array_that_nobody_changes(host: Waiting) -> None:
    numbers = np.arange(12.0).reshape(3, 4)
    made = on_device(numbers)
    assert len(made) == 3 and float(made[1, 2]) == 6.0 and int(made[2, 1]) == 9 and not made[0, 0]
    assert [row.tolist() for row in made] == numbers.tolist()
    assert made.reshape(2, -1).shape == (2, 6) and made.reshape((12,)).host().tolist() == [*range(12)]
    assert np.add(made, 1).tolist() == (numbers + 1).tolist()
    with pytest.raises(ValueError, match="reshape"):
        made.reshape(5, 5)
    with pytest.raises(TypeError, match="NotImplemented"):
        made += 1
    with pytest.raises(TypeError, match="without axes"):
        len(made[0, 0])
    assert made.host().tolist() == numbers.tolist()


def test_another_stream_waits_for_the_one_before(host: Waiting) -> None:
    made = on_device(np.ones(3), stream=5)
    made.buffer(5)
    assert host.waited == []
    made.buffer(7)
    made.buffer(7)
    assert host.waited == [5]


def test_others_get_elements_that_are_there(host: Waiting) -> None:
    made = on_device(np.arange(6.0).reshape(2, 3), stream=5)
    about = made[1:].__cuda_array_interface__
    assert host.waited == [5]
    assert (about["shape"], about["strides"], about["stream"]) == ((1, 3), None, None)
    assert about["data"][0] == made.__cuda_array_interface__["data"][0] + 3 * 8


def test_arrays_that_share_memory_go_into_one_loop(host: Waiting) -> None:
    """Its first values are a part of its inputs."""
    xs = mr.Tensor(np.random.default_rng(0).normal(size=(4, 3, 5)))

    def step(h: Any, x: Any) -> Any:
        h = mr.ops.tanh(h + x)
        return h, h

    def twice() -> np.ndarray:
        _, ys = mr.scan(step, xs[1], xs)
        return np.array(mr.scan(step, ys[2], ys)[1])

    with mr.engine("cpu"):
        wanted = twice()
    with mr.engine("cuda"), mr.cuda.schedule("step"):
        np.testing.assert_array_equal(twice(), wanted)


def test_what_another_library_has_on_the_device(host: Waiting) -> None:
    about = {**on_device(np.arange(6.0).reshape(2, 3)).__cuda_array_interface__}
    made = arrays.adopted(SimpleNamespace(__cuda_array_interface__=about))
    assert made.host().tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    with pytest.raises(ArgumentError, match="mask"):
        arrays.adopted(SimpleNamespace(__cuda_array_interface__={**about, "mask": object()}))


def test_one_copy_for_each_dtype_of_one_memory(host: Waiting) -> None:
    numbers = np.arange(4, dtype="int64")
    whole, others = (arrays.sent_once(a, host, streams.current()) for a in (numbers, numbers.view("float64")))
    assert whole.dtype != others.dtype and whole.memory is not others.memory
    assert arrays.sent_once(numbers, host, None).memory is whole.memory
