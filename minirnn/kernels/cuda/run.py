"""The cuda engine: a step graph's kernels with their launches, device arrays and scratch memory.

What goes in and comes out are arrays on the device, so that layers hand results on without a copy; NumPy's arrays
are sent there, those that never change only once.  What no kernel of the plan computes, such as sums over time of
unusual form, is computed on the host with the functions of the cpu engine, which give the same bits.

On a device none of this has run; the tests run it with kernels that are executed on the host.
"""

from __future__ import annotations

import itertools
import math
import threading
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from ... import config
from ...autodiff.elsewhere import on_host
from ...autodiff.tensor import Node
from ...errors import EngineError
from ...stepgraph import interpret
from ...stepgraph.graph import StepGraph
from ..arrays import forward_of
from ..heavy import lower
from ..loop_program import LoopProgram, block_of_steps, places_of_buffers, refuse_index
from ..lower import Panels
from ..program import Array, Inexpressible
from ..run import refusal
from ..sums import Sums
from . import device as devices
from . import streams
from .arrays import DeviceArray, is_dense, made, sent, sent_once
from .cupy_products import CupyProduct
from .device import Device, Launcher
from .schedule import Launch, plan

# Scratch memory of a block of time steps: few launches, and room left for sequences.
_BLOCK_BYTES = 1 << 28
_MOST_STEPS = 1 << 14  # of a block


def run(graph: StepGraph, arrays: list[Any], length: int, reverse: bool) -> list[Any]:
    """Run `length` time steps of the graph on the device: as `stepgraph.interpret.run`, but results are DeviceArrays.

    arrays: of NumPy or of the device.  A step that holds scans is interpreted on the host, each inner scan being
    run here.  EngineError names a node that no kernel has, and says so if the device has too little memory.
    """
    kernel = kernel_of(graph)
    if kernel is None:
        return interpret.run(graph, [*map(on_host, arrays)], length, reverse, forward_of)
    return kernel(arrays, length, reverse)


def kernel_of(graph: StepGraph) -> Kernel | None:
    """The kernels of a graph for the device and the schedule in force; None if it has to be interpreted."""
    device, schedule, products = devices.current(), config.current_schedule(), config.current_products()
    key = ("cuda", id(device), schedule, products)
    found = graph.cache.get(key)
    if found is None:
        try:
            holds_scans = any(node.primitive.form in ("scan", "hold") for node in graph.nodes)
            forced = None if schedule == "auto" else schedule
            found = "scans" if holds_scans else Kernel(graph, device, forced, products)
        except Inexpressible as reason:
            raise refusal(reason) from None
        graph.cache[key] = found
    return found if type(found) is Kernel else None


def to_send(array: Any) -> DeviceArray:
    """A NumPy array of which the caller may do what he likes afterwards, on the device."""
    return sent(array, devices.current(), streams.current())


def to_share(array: Any) -> Any:
    """The array of a Tensor, which never changes, on the device."""
    return sent_once(array, devices.current(), streams.current()) if type(array) is np.ndarray else array


class _Started(NamedTuple):
    """A launch with its kernel, and what computes it in place of the kernel."""

    launch: Launch
    kernel: Any
    instead: CupyProduct | None


class _Layout(NamedTuple):
    """Where things are in scratch memory."""

    sizes: DeviceArray  # the integers that kernels are given
    places: dict[Any, int]  # those of them that say where buffers are, by key
    used: dict[str, int]  # how many elements of each dtype the buffers take


class _Call(NamedTuple):
    """What all launches of a call have in common."""

    launcher: Launcher
    arguments: list[Any]
    places: dict[Any, int]
    stream: Any


class Kernel(LoopProgram):
    """A step graph ready to run on a device."""

    def __init__(self, graph: StepGraph, device: Device, schedule: str | None = None, products: str = "own") -> None:
        self.device, self.products = device, products
        too_large = self._take(graph, schedule)
        if too_large and schedule is None:
            too_large = self._take(graph, "step")
        if too_large:
            fix = 'mr.cuda.schedule("auto"), which then runs one launch a step'
            raise EngineError(f'schedule "{schedule}" does not fit {device.name}', got=too_large, fix=fix)

    def _take(self, graph: StepGraph, schedule: str | None) -> str:
        """Plan and compile; returns why the device cannot launch it, if it cannot."""
        device, lowering = self.device, lower(graph)
        self.plan = chosen = plan(lowering, device.limits, schedule)
        super().__init__(graph, lowering)
        types = signature(self.arrays)
        self.numbers = {a.name: number for number, a in enumerate(self.arrays)}
        self.launches = []
        for launch in chosen.launches:
            kernel = device.compile(chosen.kernels[launch.kernel], launch.kernel, types, launch.threads)
            product = launch.product if self.products == "cupy" else None
            instead = None if product is None else CupyProduct(product, self.numbers, self.batch)
            self.launches.append(_Started(launch, kernel, instead))
        self.groups = [(each, [*group]) for each, group in itertools.groupby(self.launches, lambda s: s.launch.each)]
        self.work = [(number, str(a.dtype)) for number, a in enumerate(self.arrays) if a.role == "work"]
        self.most_steps = min(_MOST_STEPS, block_of_steps(chosen.buffers, self.batch, _BLOCK_BYTES))
        self._layouts: dict[Any, _Layout] = {}  # by the steps of a block, the strides of what is given, the stream
        others = [t for t, place in zip(graph.sums, self.sum_places, strict=True) if place is None]
        self.other_sums = Sums(lowering, self.over_time, others) if others else None
        for launch, kernel, _ in self.launches:
            x, y = launch.grid(self.batch, 1)
            room = device.cooperative_blocks(kernel, launch.threads, launch.shared) if launch.cooperative else x * y
            if x * y > room:
                return f"a cooperative grid of {x * y} blocks, of which the device can hold {room} at once"
        return ""

    # preparing ---------------------------------------------------------------------------------------
    def evaluate_once(self, node: Node, env: dict[int, Any]) -> None:
        values = {id(t): on_host(env[id(t)]) for t in node.tensors}
        interpret.evaluate(node, values, forward_of)
        env.update((id(o), values[id(o)]) for o in node.outputs)

    def lay_out(self, array: Array, value: Any, panels: Panels | None) -> DeviceArray:
        if panels is None:
            return self._dense(value, lasting=True)
        batch, summed, _ = panels.counts
        shape = [value.shape[axis] for axis in panels.axes]
        parts = [math.prod(shape[a:b]) for a, b in ((0, batch), (batch, batch + summed), (batch + summed, None))]
        if panels.axes == (*range(value.ndim),):  # which other kernels may have sent already
            return self._dense(value, lasting=True).reshape(parts)
        return sent(on_host(value).transpose(panels.axes).reshape(parts), self.device, streams.current())

    def _dense(self, value: Any, lasting: bool = False) -> DeviceArray:
        """An array of the device whose elements stand in order."""
        if type(value) is DeviceArray and value.memory.device is self.device and value.is_dense:
            return value
        host = on_host(value)
        send = sent_once if lasting and type(value) is np.ndarray else sent
        return send(host, self.device, streams.current())

    def _readable(self, k: int, value: Any) -> DeviceArray:
        """What a call was given, as kernels read it: xs may have time and rows in any order."""
        if type(value) is DeviceArray and value.memory.device is self.device and k >= len(self.graph.carry_in):
            any_order = k not in self.dense and min(value.steps, default=0) >= 0
            inner = 2 if any_order and self._has_rows(k) else 1 if any_order else 0
            if any_order and is_dense(value.shape[inner:], value.steps[inner:]):
                return value
        return self._dense(value)

    def _has_rows(self, k: int) -> bool:
        sequences = (*self.graph.xs, *self.drawn)
        return self.lowering.rows_first(sequences[k - len(self.graph.carry_in)])

    def _block(self, length: int) -> int:
        """Steps of a block of time: one of few numbers, so that lengths that differ share what is prepared."""
        return min(self.most_steps, 1 << (length - 1).bit_length())

    def _layout(self, block: int, given: list[DeviceArray | None], stream: Any) -> _Layout:
        """Where everything is for so many steps at once, when a call is given these arrays."""
        key = (block, tuple(None if x is None else x.steps for x in given), stream)
        if key not in self._layouts:
            if len(self._layouts) > 64:
                self._layouts.clear()
            places, used = places_of_buffers(self.plan.buffers, self.batch, block)
            numbers = [places[s.key] if s.key in places else self._size(s, given) for s in self.plan.sizes]
            sizes = sent(np.array(numbers or [0], np.int64), self.device, stream)
            self._layouts[key] = _Layout(sizes, places, used)
        return self._layouts[key]

    def _size(self, size: Any, given: list[DeviceArray | None]) -> int:
        if size.key[0] != "of":
            return int(size.value)
        _, name, axis = size.key
        array = given[self.numbers[name]]
        assert array is not None
        return array.steps[axis]

    # running -----------------------------------------------------------------------------------------
    def __call__(self, arrays: list[Any], length: int, reverse: bool) -> list[Any]:
        device, stream = self.device, streams.current()
        closed, given = arrays[self.first_closed :], arrays[: self.first_closed]
        if length == 0:
            return self.without_steps(given)
        ready = self.ready
        if ready is None or not all(map(is_, ready.closed, closed)):
            ready = self.prepare(closed)
        values = _OnHost(ready.values)
        if self.drawn:
            sequences = [*map(on_host, given[len(self.graph.carry_in) :])]
            given += self.draw(values, sequences, length)
        given = [self._readable(k, x) if k in self.read else x for k, x in enumerate(given)]
        shapes, dtypes = self.shapes(length, True)
        results = [made(shape, dtype, device, stream) for shape, dtype in zip(shapes, dtypes, strict=True)]
        pool = [*given, *ready.fixed, *results]
        self._launch(pool, length, -1 if reverse else 1, stream)
        found = [*self.results_of(pool)]
        if not self.plain:
            found += self.other_ys(pool, values, length)
        if self.other_sums is None:
            return found + [pool[place] for place in self.sum_places if place is not None]
        others = iter(self.other_sums(_OnHost(pool), values, length, self.batch, None))
        return found + [next(others) if place is None else pool[place] for place in self.sum_places]

    def _launch(self, pool: list[Any], length: int, direction: int, stream: Any) -> None:
        """All launches of a call."""
        device, block = self.device, self._block(length)
        placed: list[Any] = [*self.in_order(pool)]
        for number, _ in self.work:
            placed[number] = None
        layout = self._layout(block, placed, stream)
        checked = self.lowering.checked
        status = sent(np.zeros(2, np.int64), device, stream) if checked else layout.sizes
        begin = 0 if direction > 0 else length - 1
        if not self.launches:  # every result is one of the things given
            return
        with _scratch_of(device, stream) as scratch:
            arguments = [None if x is None else x.buffer(stream) for x in placed]
            for number, dtype in self.work:
                arguments[number] = scratch.of(dtype, layout.used.get(dtype, 0))
            rest = [begin, direction, self.batch, layout.sizes.buffer(stream), status.buffer(stream), *arguments]
            launcher = device.launcher(self.launches[0].kernel, rest, stream)
            call = _Call(launcher, arguments, layout.places, stream)
            for started in self._those("begin"):
                self._start(call, started, 0, length, 0)
            for done in range(0, length, block):
                steps = min(block, length - done)
                for each, group in self.groups:
                    if each == "once":
                        for started in group:
                            self._start(call, started, 0, steps, done)
                    elif each == "step":
                        for s in range(steps):
                            for started in group:
                                self._start(call, started, s, 1, done)
            for started in self._those("end"):
                self._start(call, started, 0, length, length)
        if checked:
            entry, entries = status.host()
            if entries:
                refuse_index(int(entry), int(entries) - 1)

    def _those(self, each: str) -> list[_Started]:
        return [started for started in self.launches if started.launch.each == each]

    def _start(self, call: _Call, started: _Started, first: int, steps: int, done: int) -> None:
        launch, kernel, instead = started
        blocks = launch.grid(self.batch, steps)
        if 0 in blocks:
            return
        if instead is None:
            call.launcher(kernel, launch, blocks, first, steps, done)
        else:
            instead(call.arguments, call.places, steps, call.stream)


class _OnHost:
    """Arrays of the device or of NumPy by their keys, which the host gets when it asks for one."""

    def __init__(self, arrays: Any) -> None:
        self._arrays = arrays

    def __getitem__(self, key: Any) -> Any:
        return on_host(self._arrays[key])

    def __contains__(self, key: Any) -> bool:
        return key in self._arrays


# scratch memory ----------------------------------------------------------------------------------
class _Scratch:
    """Scratch memory of a stream, which does one thing after the other: what a call left there nobody reads again."""

    def __init__(self, device: Device, stream: Any) -> None:
        self.device, self.stream, self.lock = device, stream, threading.Lock()
        self.memory: dict[str, Any] = {}

    def of(self, dtype: str, size: int) -> Any:
        """Room for that many elements."""
        size = max(size, 1)
        if dtype not in self.memory or self.memory[dtype].size < size:
            self.memory.pop(dtype, None)
            self.memory[dtype] = made((size,), dtype, self.device, self.stream)
        return self.device.part(self.memory[dtype].buffer(self.stream), 0, size)

    def __enter__(self) -> _Scratch:
        self.lock.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.lock.release()


_scratch: dict[Any, _Scratch] = {}


def _scratch_of(device: Device, stream: Any) -> _Scratch:
    return _scratch.setdefault((id(device), stream), _Scratch(device, stream))


def signature(arrays: list[Array]) -> str:
    """The types of a kernel's arguments, as Numba writes them."""
    kinds = ["boolean" if a.dtype == bool else str(a.dtype) for a in arrays]
    return f"void({', '.join(['int64'] * 6 + ['int64[::1]'] * 2 + [f'{kind}[::1]' for kind in kinds])})"
