"""The cpu engine: a step graph's kernel with its buffers, packed weights and threads.

Around one compiled kernel, which runs the whole time loop, stand three things in Python: what does
not change over time is computed and packed once for each set of weights; rows are shared out to
threads, each with scratch memory of its own; sums over time are products of what the kernel stacked.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from operator import is_
from typing import Any, NamedTuple

import numpy as np
from numpy import empty

from .. import config
from ..errors import EngineError, EngineFallbackWarning
from ..stepgraph import interpret
from ..stepgraph.graph import StepGraph
from ..stepgraph.provenance import source_line
from . import build, matmul, outline, printed, teamwork, threads, timesums
from .arrays import forward_of
from .contract import aligned_empty
from .emit import kernel_text, place_key
from .heavy import lower
from .loop_program import LoopProgram, address_of, block_of_steps, places_of_buffers, refuse_index
from .lower import Panels
from .panels import packed
from .program import Array, Inexpressible
from .recycled import LARGE, recycled
from .shares import Share, by_length, can_share, cost_of_a_row, even
from .sums import Sums

# Scratch memory of a block of time steps: what fits the second cache beside the weights.
_BLOCK_BYTES = 1 << 20
# Below this many nanoseconds of work a second thread costs more than it brings.
_WORTH_A_THREAD = 100_000.0


def run(graph: StepGraph, arrays: list[Any], length: int, reverse: bool) -> list[np.ndarray]:
    """Run `length` time steps of the graph: as `stepgraph.interpret.run`, compiled.

    A step that holds scans is interpreted, each inner scan being one call of its kernel.  So is one
    with a node that no kernel has, after a warning, if the engine is "auto"; else EngineError names it.
    """
    kernel = kernel_of(graph)
    if kernel is None:
        return interpret.run(graph, arrays, length, reverse, forward_of)
    return kernel(arrays, length, reverse)


def kernel_of(graph: StepGraph) -> Kernel | None:
    """The kernel of a graph, compiled at the first request; None if it has to be interpreted."""
    made = graph.cache.get("kernel")
    if made is None or (isinstance(made, Inexpressible) and config.engine_is_chosen()):
        try:
            made = "scans" if any(node.primitive.form in ("scan", "hold") for node in graph.nodes) else Kernel(graph)
        except Inexpressible as reason:
            made = reason
            _refuse_or_warn(reason)
        graph.cache["kernel"] = made
    return made if type(made) is Kernel else None


def _refuse_or_warn(reason: Inexpressible) -> None:
    """Say which node has no kernel, and why."""
    error = refusal(reason)
    if config.engine_is_chosen():
        raise error from None
    where = f" ({error.where})" if error.where else ""
    warnings.warn(f"{error.what}: {error.got}{where}; it runs with NumPy", EngineFallbackWarning, stacklevel=2)


def refusal(reason: Inexpressible) -> EngineError:
    """The error for a node that no kernel has."""
    line = source_line(reason.node) if reason.node is not None else ""
    fix = 'scan(..., engine="numpy"), or mr.engine("auto"), which then runs this step with NumPy'
    return EngineError("a step holds what no kernel can express", got=reason.reason, where=line or None, fix=fix)


def bind(graph: StepGraph, arrays: list[Any], final: list[Any]) -> tuple[Callable[[], None], list[np.ndarray]] | None:
    """One step of the graph on fixed arrays, as `Kernel.bind`; None if more than a kernel has to run."""
    kernel = kernel_of(graph)
    return None if kernel is None else kernel.bind(arrays, final)


class _Layout(NamedTuple):
    """How a number of rows lies in scratch memory."""

    block: int  # time steps
    sizes: np.ndarray  # the integers that the kernel is given
    needs: list[tuple[int, int, Any]]  # for each scratch array its number among the arguments, its size and dtype
    scratch: list[Any]  # sets of scratch arrays that no call uses now


class Kernel(LoopProgram):
    """A step graph ready to run on the CPU."""

    def __init__(self, graph: StepGraph) -> None:
        lowering = lower(graph)
        self.text = text = kernel_text(lowering, "step_loop")
        super().__init__(graph, lowering)
        for dtype in {str(a.dtype) for a in self.arrays if a.dtype.kind == "f"}:
            outline.prepare(dtype, text.used)
        self.function = printed.compiled(text, graph, printed.signature(self.arrays))
        self.all_rows = np.arange(self.batch)
        # From so many steps on some array that a call makes is large.
        widest = max([lowering.sources[a].size * a.dtype.itemsize for a in self.made if a.time], default=1)
        self.large = -(-LARGE // max(widest, 1))
        # The place of the mask, whose masked steps can be left out.
        self.guard = next((len(graph.carry_in) + k for k, t in enumerate(graph.xs) if t is graph.guard), None)
        self.cost = cost_of_a_row(lowering) * self.batch if can_share(lowering) else 0.0
        # With more steps than that, sums over time are shared out to threads.
        self.most_summed = min([_most_steps(each, self.batch) for each in lowering.time_sums], default=0)
        self.help = teamwork.wanted(lowering, self.batch, self.cost > 0)
        self.passed = [size for key, (_, size) in text.sizes.items() if key[0] != "of"]
        self._layouts: dict[int, _Layout] = {}
        self._bound: Callable[..., None] | None = None
        # What goes over time is read and written where it is, by the numbers of the rows.
        self.inner: list[Any] = [None] * len(graph.carry_in) + [
            np.empty((1, 1, *t.shape[1:]), t.dtype).strides[2:] if lowering.rows_first(t) else None
            for t in (*graph.xs, *self.drawn)
        ]
        self.rowed = [number for number, a in enumerate(self.arrays) if a.rowed and not a.time]
        self.rowed_finals = [number for number in self.rowed if self.arrays[number].role == "final"]
        # In steps that are left out only these are looked at: residuals are read behind the mask alone.
        factors = [x for node in lowering.outer_products.values() for x in node.tensors]
        seen = self.shown | {id(t) for t in [*graph.sums, *factors]}
        self.zeroed = [
            number for number, a in enumerate(self.arrays)
            if a.time and a.rowed and a.written and id(lowering.sources[a]) in seen
        ]  # fmt: skip
        self.all_sums = Sums(lowering, self.over_time, graph.sums)
        others = [t for t, place in zip(graph.sums, self.sum_places, strict=True) if place is None]
        self.other_sums = Sums(lowering, self.over_time, others) if others else None

    # preparing ---------------------------------------------------------------------------------------
    def lay_out(self, array: Array, value: Any, panels: Panels | None) -> Any:
        return np.require(value, None, ["C", "A"]) if panels is None else packed(value, panels)

    def _layout(self, rows: int) -> _Layout:
        if len(self._layouts) > 64:
            self._layouts.clear()
        buffers = self.lowering.buffers
        block = min(1024, block_of_steps(buffers, rows, _BLOCK_BYTES))
        values, used = places_of_buffers(buffers, rows, block)
        values[timesums.MOST_STEPS.key] = self.most_summed if rows == self.batch else 0
        work = [(number, str(a.dtype)) for number, a in enumerate(self.arrays) if a.role == "work"]
        sizes = np.array([values.get(size.key, size.value) for size in self.passed], np.int64)
        made = _Layout(block, sizes, [(number, used.get(dtype, 0), dtype) for number, dtype in work], [])
        self._layouts[rows] = made
        return made

    # running -----------------------------------------------------------------------------------------
    def __call__(self, arrays: list[Any], length: int, reverse: bool) -> list[np.ndarray]:
        graph, first_closed = self.graph, self.first_closed
        closed, given = arrays[first_closed:], arrays[:first_closed]
        if length == 0:
            return self.without_steps(given)
        ready = self.ready
        if ready is None or not all(map(is_, ready.closed, closed)):
            ready = self.prepare(closed)
        values = ready.values
        if self.drawn:
            values = dict(values)
            given += self.draw(values, given[len(graph.carry_in) :], length)
        time_first = True
        for k, x in enumerate(given):
            flags = x.flags
            if not (flags.carray or (flags.c_contiguous and flags.aligned)) and k in self.read:
                x = given[k] = _fitting(x, self.inner[k])
                time_first = time_first and not (x.ndim > 1 and x.strides[0] < x.strides[1])
                if k in self.dense and length <= self.most_summed:
                    given[k] = np.ascontiguousarray(x)
        parts = self._shares(given, length)
        made = [*map(recycled if length >= self.large else empty, *self.shapes(length, time_first))]
        if not time_first:
            for k in self.turned:
                made[k] = made[k].swapaxes(0, 1)
        pool = [*given, *ready.fixed, *made]
        arguments = [*self.in_order(pool)]
        status = np.zeros(2, np.int64) if self.lowering.checked else _NO_STATUS
        self._run(parts, arguments, length, -1 if reverse else 1, status)
        if self.lowering.checked and status[1]:
            refuse_index(int(status[0]), int(status[1]) - 1)
        results = [*self.results_of(pool)]
        if not self.plain:
            results += self.other_ys(pool, values, length)
        if not graph.sums:
            return results
        left_out = any(end - begin < length for _, _, begin, end in parts)
        if len(parts) == 1 and not left_out and length <= self.most_summed:
            others = iter(self.other_sums(pool, values, length, self.batch, None) if self.other_sums else ())
            return results + [next(others) if place is None else pool[place] for place in self.sum_places]
        valid = given[self.guard] if left_out and self.guard is not None else None
        return results + self.all_sums(pool, values, length, self.batch, valid)

    def bind(self, arrays: list[Any], final: list[Any]) -> tuple[Callable[[], None], list[np.ndarray]] | None:
        """A call that runs one step on the given arrays again and again, allocating nothing, and its ys (1, ...).

        It reads carry, xs and closed-over inputs where they stand and writes the carry to `final`, other
        memory than it came from.  None if something besides the kernel has to run.
        """
        graph, first_closed = self.graph, self.first_closed
        if not self.plain or graph.sums or self.drawn or self.lowering.checked or build.JIT_OFF:
            return None
        fixed = self.prepare(arrays[first_closed:]).fixed
        outputs = [*map(empty, *self.shapes(1, True))][len(final) :]
        pool = [*arrays[:first_closed], *fixed, *final, *outputs]
        arguments = [*self.in_order(pool)]
        layout = self._layouts.get(self.batch) or self._layout(self.batch)
        work = {}
        for number, size, dtype in layout.needs:
            arguments[number] = work[dtype] = aligned_empty(size, dtype)
        text = kernel_text(self.lowering, "bound_step", bound=True)
        if self._bound is None:
            self._bound = printed.compiled(text, graph, "void(int64[::1], int64[::1])")
        places = {array.name: number for number, array in enumerate(self.arrays)}
        passed = dict(zip([size.key for size in self.passed], layout.sizes, strict=True))
        for (now, _), *carry in zip(self.lowering.swaps, arrays, final, strict=False):
            for number, array in enumerate(carry):  # where it is, as elements after the scratch memory
                distance = address_of(array) - address_of(work[array.dtype.name])
                passed[place_key(now, number)] = distance // array.itemsize
        integers = [self.batch]
        for key in text.sizes:
            array = arguments[places[key[1]]] if key[0] == "of" else None
            integers.append(passed[key] if array is None else array.strides[key[2]] // array.itemsize)
        addresses = np.array([address_of(a) for a in arguments], np.int64)
        call = _BoundCall(self._bound, addresses, np.array(integers, np.int64))
        call.arrays = [*arguments, *arrays, *final]  # which the addresses are of
        return call, [pool[y] for y in self.ys]

    def _shares(self, given: list[Any], length: int) -> list[Share]:
        """How the rows are shared out."""
        worth = self.cost * length
        if worth >= _WORTH_A_THREAD:
            threads = config.current_threads()
            if self.guard is not None and (found := by_length(given[self.guard], threads)):
                return found
            if self.batch > 1:
                return even(self.batch, length, min(threads, self.batch, int(worth / _WORTH_A_THREAD)))
        return [Share(..., self.all_rows, 0, length)]

    def _run(self, parts: list[Share], arguments: list[Any], length: int, direction: int, status: Any) -> None:
        """All shares of the rows, on as many threads as there are."""
        if len(parts) == 1 and parts[0].end - parts[0].begin == length:
            if self.help is not None and length >= self.help.steps and teamwork.at_hand():
                teamwork.run(functools.partial(self._rows, parts[0], arguments, direction, status), self.help)
            else:
                self._rows(parts[0], arguments, direction, status)
            return

        def run_part(share: Share) -> None:
            part = arguments.copy()
            for number in self.rowed:
                part[number] = arguments[number][share.rows]
            self._rows(share, part, direction, status)
            for number in self.rowed_finals:
                arguments[number][share.rows] = part[number]
            if share.end - share.begin < length:
                for number in self.zeroed:
                    arguments[number][: share.begin, share.rows] = 0
                    arguments[number][share.end :, share.rows] = 0

        threads.run(run_part, [(share,) for share in parts])

    def _rows(self, share: Share, arguments: list[Any], direction: int, status: Any, team: int = 0) -> None:
        """One call of the compiled kernel."""
        _, order, first, end = share
        rows, begin = len(order), first if direction > 0 else end - 1
        layout = self._layouts.get(rows) or self._layout(rows)
        try:
            scratch = layout.scratch.pop()
        except IndexError:
            scratch = [aligned_empty(size, dtype) for _, size, dtype in layout.needs]
        for (number, _, _), array in zip(layout.needs, scratch, strict=True):
            arguments[number] = array
        self.function(end - first, begin, direction, layout.block, rows, team, order, layout.sizes, status, *arguments)
        layout.scratch.append(scratch)


class _BoundCall(functools.partial[None]):
    """A call on fixed addresses, and the arrays that have to live as long."""

    arrays: list[Any]


_NO_STATUS = np.zeros(2, np.int64)


def _fitting(x: Any, inner: tuple[int, ...] | None) -> Any:
    """An x that the kernel can read: time and rows in any order, each row contiguous."""
    if inner is None:
        return np.require(x, None, ["C", "A"])
    if x.strides[2:] == inner and x.flags.aligned:
        return x
    # Of what is the same for all steps or rows, such as the cotangent of a sum, one is enough.
    once = x[tuple([slice(1) if stride == 0 else slice(None) for stride in x.strides[:2]])]
    return np.broadcast_to(np.require(once, None, ["C", "A"]), x.shape)


def _most_steps(each: timesums.TimeSum, batch: int) -> int:
    """For how many steps a sum over time is not worth a second thread."""
    worth = matmul._ADDITIONS_WORTH_THREADS if each.left is None else matmul._PRODUCTS_WORTH_THREADS
    return (worth - 1) // max(batch * each.products, 1)
