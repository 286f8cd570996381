"""What a printed kernel does, counted from its text: accesses, multiply-adds, barriers, registers of weights.

The text is run for one block with all its threads at once, on whole numbers only: indices, bounds and conditions
have values for each thread, numbers of the network have none.  So the counts hold for every input, and for a
kernel that is far too large to be executed on the host.  Of conditions on data both sides count; reads of the
integers in `sizes` do not.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from ...errors import ArgumentError
from ..tile import BLOCK
from . import tiles
from .tiles import TILE, TILE_DEPTH


class ArrayOf(NamedTuple):
    """An array that a kernel uses: its name, an element's bytes, and whether it is in the block's shared memory."""

    name: str
    itemsize: int
    shared: bool = False


@dataclass
class Counts:
    """What threads do; bytes are those that instructions ask for, `fetched` counts each element of a block once."""

    read: int = 0  # bytes of the device's memory
    written: int = 0
    fetched: int = 0  # bytes read, of elements that the block did not write itself
    shared_read: int = 0  # bytes of shared memory
    shared_written: int = 0
    accesses: int = 0  # instructions of threads that read or write either memory
    multiply_adds: int = 0
    functions: int = 0  # elementary functions, divisions and roots
    barriers: int = 0  # of the block
    grid_barriers: int = 0
    serial: int = 0  # multiply-adds of the thread that has most, from barrier to barrier
    serial_functions: int = 0
    memory_phases: int = 0  # stretches between barriers that read the device's memory
    phases: int = 0

    def add(self, other: Counts, times: int = 1) -> Counts:
        """Add so many times others to this one, and return it."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + times * getattr(other, each.name))
        return self


@dataclass
class BlockCounts:
    """What one block does: each step of its time loop, everything else, and what it keeps on the chip."""

    outside: Counts = field(default_factory=Counts)
    each_step: Counts = field(default_factory=Counts)
    steps: int = 0
    shared_bytes: int = 0
    held: int = 0  # bytes of weights that one thread keeps in registers

    @property
    def total(self) -> Counts:
        """From beginning to end."""
        return Counts().add(self.outside).add(self.each_step, self.steps)


def of_block(
    text: str, arguments: dict[str, Any], threads: int, block: tuple[int, int] = (0, 0), grid: tuple[int, int] = (1, 1)
) -> BlockCounts:
    """What a block of the kernel in a printed module does.

    arguments: whole numbers, a tuple of them for `sizes`, and `ArrayOf` for the others, by their names.
    """
    function = next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    special = {"threadIdx.x": np.arange(threads), "blockDim.x": threads}
    special |= {f"blockIdx.{axis}": value for axis, value in zip("xy", block, strict=True)}
    special |= {f"gridDim.{axis}": value for axis, value in zip("xy", grid, strict=True)}
    reader = _Reader(vars(tiles) | arguments, special, threads)
    reader.run(function.body)
    reader.end_phase()
    reader.end_section()
    return reader.result


_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.LShift: operator.lshift,
    ast.RShift: operator.rshift, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip


def _unknown(node: ast.AST) -> ArgumentError:
    """The error for text that no printed kernel has."""
    expected = "loops, conditions, assignments and calls as printed kernels have them"
    return ArgumentError("what a kernel does", got=ast.unparse(node), expected=expected)


_DATA = None  # the value of what only the network's numbers decide


class _Reader:
    """A kernel's text while it is read; lanes are threads, or threads with what they are in a loop of their own."""

    def __init__(self, names: dict[str, Any], special: dict[str, Any], threads: int) -> None:
        self.names, self.special, self.threads = dict(names), special, threads
        self.lanes = np.arange(threads)  # the thread of each lane
        self.copies: dict[str, tuple[int, ...]] = {}  # of `sizes`
        self.result = BlockCounts()
        self.counts = self.result.outside
        self.work = np.zeros((2, threads), np.int64)  # multiply-adds and functions of each thread since a barrier
        self.reads_memory = self.is_busy = False
        self.touched: dict[ArrayOf, list[tuple[np.ndarray, bool]]] = {}  # places, and whether they were written

    # statements --------------------------------------------------------------------------------------
    def run(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, ast.Assign):
                value = self.value(statement.value)
                for target in statement.targets:
                    self.assign(target, value)
            elif isinstance(statement, ast.AugAssign):
                self.value(statement.value)
                self.assign(statement.target, _DATA)
            elif isinstance(statement, ast.Expr):
                self.value(statement.value)
            elif isinstance(statement, ast.For):
                self.loop(statement)
            elif isinstance(statement, ast.If):
                self.condition(statement)
            else:
                raise _unknown(statement)

    def assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Tuple):
            for k, each in enumerate(target.elts):
                self.assign(each, value[k] if isinstance(value, tuple) else _DATA)
        elif isinstance(target, ast.Subscript):  # the block's own copy of `sizes`
            name = ast.unparse(target.value)
            self.copies[name] = self.names["sizes"]
            self.access(self.names[name], _DATA, True)
        else:
            assert isinstance(target, ast.Name)
            self.names[target.id] = value

    def loop(self, statement: ast.For) -> None:
        assert isinstance(statement.iter, ast.Call) and isinstance(statement.target, ast.Name)
        given = [self.value(a) for a in statement.iter.args]
        first, end, step = (0, *given, 1) if len(given) == 1 else (*given, 1) if len(given) == 2 else given
        variable = statement.target.id
        if any(isinstance(g, np.ndarray) for g in (first, end, step)):
            self.loop_of_lanes(variable, first, end, step, statement.body)
        elif variable == "s" and "done" in self.names:
            self.time_loop(first, len(range(first, end, step)), statement.body)
        else:
            for value in range(first, end, step):
                self.names[variable] = value
                self.run(statement.body)

    def loop_of_lanes(self, variable: str, first: Any, end: Any, step: Any, body: list[ast.stmt]) -> None:
        """A loop whose threads have indices of their own: all of them at once."""
        first, end = (np.broadcast_to(x, self.lanes.shape) for x in (first, end))
        trips = np.maximum(0, -(-(end - first) // step))
        source = np.repeat(np.arange(len(self.lanes)), trips)
        turn = np.arange(len(source)) - np.repeat(np.cumsum(trips) - trips, trips)
        self.among(source, {variable: first[source] + turn * step}, body)

    def among(self, chosen: np.ndarray, more: dict[str, Any], body: list[ast.stmt]) -> None:
        """Statements for some lanes."""
        if not len(chosen):
            return
        names, lanes, special = self.names, self.lanes, self.special
        self.names = {k: v[chosen] if isinstance(v, np.ndarray) else v for k, v in names.items()}
        self.special = {**special, "threadIdx.x": special["threadIdx.x"][chosen]}
        self.names.update(more)
        self.lanes = lanes[chosen]
        self.run(body)
        made = {k: v for k, v in self.names.items() if not isinstance(v, np.ndarray)}
        self.names, self.lanes, self.special = {**made, **names}, lanes, special

    def time_loop(self, first: int, steps: int, body: list[ast.stmt]) -> None:
        """The loop over time: its second step, in which carries are where they are in the third."""
        self.end_phase()
        self.end_section()
        self.result.steps, self.counts = steps, self.result.each_step
        self.names["s"] = first
        if steps:
            self.run(body)
        self.end_phase()
        self.end_section()
        self.counts = self.result.outside

    def condition(self, statement: ast.If) -> None:
        test = self.value(statement.test)
        if test is _DATA:
            self.run(statement.body)
            self.run(statement.orelse)
        elif isinstance(test, np.ndarray):
            self.among(np.flatnonzero(test), {}, statement.body)
            self.among(np.flatnonzero(~test), {}, statement.orelse)
        else:
            self.run(statement.body if test else statement.orelse)

    # values ------------------------------------------------------------------------------------------
    def value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, int) else _DATA
        if isinstance(node, ast.Name):
            return self.names.get(node.id, _DATA)
        if isinstance(node, ast.Tuple):
            return tuple(map(self.value, node.elts))
        if isinstance(node, ast.Attribute):
            return self.special.get(ast.unparse(node).removeprefix("cuda."), _DATA)
        if isinstance(node, ast.Subscript):
            index, name = self.value(node.slice), ast.unparse(node.value)
            numbers = self.copies.get(name) or self.names[name]
            return numbers[index] if isinstance(index, int) else _DATA
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.IfExp):
            return self.choice(self.value(node.test), self.value(node.body), self.value(node.orelse))
        if isinstance(node, ast.BoolOp):
            return self.joined(node.op, [self.value(v) for v in node.values])
        if isinstance(node, ast.UnaryOp):
            value = self.value(node.operand)
            if value is _DATA or isinstance(value, ArrayOf):
                return _DATA
            return -value if isinstance(node.op, ast.USub) else np.logical_not(value)
        if isinstance(node, ast.BinOp):
            return self.operation(node.op, self.value(node.left), self.value(node.right))
        if isinstance(node, ast.Compare):
            values = [self.value(v) for v in (node.left, *node.comparators)]
            pairs = zip(node.ops, values, values[1:], strict=False)
            return self.joined(ast.And(), [self.operation(op, a, b) for op, a, b in pairs])
        raise _unknown(node)

    @staticmethod
    def choice(test: Any, yes: Any, no: Any) -> Any:
        if test is _DATA or yes is _DATA or no is _DATA:
            return _DATA
        return np.where(test, yes, no) if isinstance(test, np.ndarray) else yes if test else no

    def operation(self, op: Any, left: Any, right: Any) -> Any:
        if left is _DATA or right is _DATA or type(op) not in _OPERATORS:
            if isinstance(op, ast.Div):
                self.compute(functions=1)
            return _DATA
        return _OPERATORS[type(op)](left, right)

    @staticmethod
    def joined(op: ast.boolop, values: list[Any]) -> Any:
        known = [v for v in values if v is not _DATA]
        if len(known) < len(values):
            return _DATA
        result = known[0]
        for value in known[1:]:
            result = np.logical_and(result, value) if isinstance(op, ast.And) else np.logical_or(result, value)
        return result if isinstance(result, np.ndarray) and result.ndim else bool(result)

    # calls -------------------------------------------------------------------------------------------
    def call(self, node: ast.Call) -> Any:
        name = ast.unparse(node.func).removeprefix("cuda.")
        if name == "shared.array":
            return self.shared_array(node)
        given = [self.value(a) for a in node.args]
        if name == "syncthreads":
            self.counts.barriers += 1
            self.end_phase()
        elif name.endswith(".sync"):
            self.counts.grid_barriers += 1
            self.end_phase()
        elif name in ("min", "max"):
            return self.extreme(np.minimum if name == "min" else np.maximum, given)
        elif name in ("as_int64", "as_int32"):
            return given[0]
        elif name.endswith(("_f32", "_f64")) or name in ("sqrt", "divide"):
            self.compute(functions=1)
        elif name in _CALLS:
            return _CALLS[name](self, *given)
        return _DATA

    def shared_array(self, node: ast.Call) -> ArrayOf:
        size, dtype = self.value(node.args[0]), ast.unparse(node.args[1]).rpartition(".")[2]
        made = ArrayOf(f"shared {node.lineno}", np.dtype(dtype).itemsize, True)
        self.result.shared_bytes += size * made.itemsize
        return made

    @staticmethod
    def extreme(function: Any, given: list[Any]) -> Any:
        if any(g is _DATA for g in given):
            return _DATA
        found = given[0]
        for value in given[1:]:
            found = function(found, value)
        return found if isinstance(found, np.ndarray) and found.ndim else int(found)

    # counting ----------------------------------------------------------------------------------------
    def access(self, array: Any, at: Any, writes: bool, count: int = 1, step: Any = 1, together: int = 1) -> None:
        """Each lane reads or writes `count` elements from `at` on, `step` apart, so many with one instruction."""
        if not isinstance(array, ArrayOf) or count <= 0:
            return
        size = len(self.lanes) * count * array.itemsize
        kind = ("shared_" if array.shared else "") + ("written" if writes else "read")
        setattr(self.counts, kind, getattr(self.counts, kind) + size)
        self.counts.accesses += len(self.lanes) * -(-count // together)
        self.is_busy = True
        if array.shared:
            return
        self.reads_memory |= not writes
        if at is _DATA:  # somewhere: elements that nobody else has
            self.counts.fetched += 0 if writes else size
            return
        begins = np.unique(at)
        places = begins if count == 1 else (begins[:, None] + np.arange(count) * int(step)).reshape(-1)
        self.touched.setdefault(array, []).append((places, writes))

    def compute(self, multiply_adds: int = 0, functions: int = 0) -> None:
        """Each lane computes so much."""
        self.counts.multiply_adds += len(self.lanes) * multiply_adds
        self.counts.functions += len(self.lanes) * functions
        each = np.bincount(self.lanes, minlength=self.threads)
        self.work += np.stack([each * multiply_adds, each * functions])
        self.is_busy = True

    def end_phase(self) -> None:
        """A barrier, or the end."""
        slowest = self.work.max(axis=1)
        self.counts.serial += int(slowest[0])
        self.counts.serial_functions += int(slowest[1])
        self.counts.memory_phases += self.reads_memory
        self.counts.phases += self.is_busy
        self.work[:] = 0
        self.reads_memory = self.is_busy = False

    def end_section(self) -> None:
        """Add up what was read, each element once, and not what the block itself wrote."""
        for array, accesses in self.touched.items():
            marks = np.zeros(1 + max(int(places.max()) for places, _ in accesses), np.uint8)
            for places, writes in accesses:
                marks[places] |= 1 + writes
            self.counts.fetched += array.itemsize * int((marks == 1).sum())
        self.touched.clear()

    # the device library ------------------------------------------------------------------------------
    def element(self, array: Any, at: Any) -> Any:
        self.access(array, at, False)

    def put(self, array: Any, at: Any, value: Any) -> None:
        self.access(array, at, True)

    def of_each(self, count: Any, do: Callable[..., None], *given: Any) -> None:
        """Do something with a count that lanes may have of their own; `given`: numbers and what else lanes have."""
        if not isinstance(count, np.ndarray):
            do(count, *given)
            return
        lanes = self.lanes
        for number in np.unique(count[count > 0]):
            chosen = count == number
            self.lanes = lanes[chosen]
            do(int(number), *(x[chosen] if isinstance(x, np.ndarray) else x for x in given))
        self.lanes = lanes

    def reduce(self, array: Any, at: Any, step: Any, count: Any) -> None:
        self.of_each(count, self._reduce, array, at, step)

    def _reduce(self, count: int, array: Any, at: Any, step: Any) -> None:
        self.access(array, at, False, count, step)
        self.compute(multiply_adds=count)

    def product(self, a: Any, a_at: Any, a_step: Any, b: Any, b_at: Any, b_step: Any, count: Any) -> None:
        self.of_each(count, self._product, a, a_at, a_step, b, b_at, b_step)

    def _product(self, count: int, a: Any, a_at: Any, a_step: Any, b: Any, b_at: Any, b_step: Any) -> None:
        self.access(a, a_at, False, count, a_step)
        self.access(b, b_at, False, count, b_step)
        self.compute(multiply_adds=count + -(-count // BLOCK) - 1)

    def hold(self, array: Any, at: Any, step: Any, count: Any, most: int) -> None:
        counts = np.broadcast_to(np.clip(count, 0, most), self.lanes.shape)
        self.of_each(counts, self._hold, array, np.broadcast_to(at, self.lanes.shape), step)
        self.result.held += most * array.itemsize

    def _hold(self, count: int, array: Any, at: Any, step: Any) -> None:
        self.access(array, at, False, count, step)

    def chain(self, weights: Any, first: Any, count: int, a: Any, at: Any, step: Any) -> None:
        self.access(a, at, False, count, step)
        self.compute(multiply_adds=count)

    def fma(self, *given: Any) -> None:
        self.compute(multiply_adds=1)

    def chain_aligned(self, weights: Any, first: Any, count: int, a: ArrayOf, at: Any, step: Any) -> None:
        self.access(a, at, False, count, step, together=16 // a.itemsize)
        self.compute(multiply_adds=count)

    def tiled_product(
        self, tile: int, a: ArrayOf, a_at: int, a_row: int, a_step: int, b: ArrayOf, b_at: int, b_row: int,
        b_column: int, out: ArrayOf, out_at: int, out_row: int, rows: int, inner: int, columns: int, shared: ArrayOf,
    ) -> None:  # fmt: skip
        """A tile: both operands go through shared memory, TILE_DEPTH contracted indices at a time."""
        across = -(-columns // TILE)
        high, wide = min(TILE, rows - tile // across * TILE), min(TILE, columns - tile % across * TILE)
        size, turns = a.itemsize, -(-inner // TILE_DEPTH)
        self.counts.add(Counts(
            read=(high + wide) * inner * size, fetched=(high + wide) * inner * size, written=high * wide * size,
            shared_written=2 * TILE * TILE_DEPTH * turns * size, shared_read=self.threads * 8 * inner * size,
            accesses=(high + wide) * inner + 2 * TILE * TILE_DEPTH * turns + self.threads * 2 * inner + high * wide,
            multiply_adds=TILE * TILE * inner, barriers=2 * turns, serial=TILE * TILE * inner // self.threads,
            memory_phases=turns, phases=2 * turns,
        ))  # fmt: skip


_CALLS: dict[str, Any] = {
    "element": _Reader.element, "put": _Reader.put, "sum_chain": _Reader.reduce, "max_chain": _Reader.reduce,
    "argmax_chain": _Reader.reduce, "sum_of_blocks": _Reader.reduce, "product_element": _Reader.product,
    "chain_element": _Reader.product, "hold": _Reader.hold, "chain": _Reader.chain, "fma": _Reader.fma,
    "chain_aligned": _Reader.chain_aligned, "tiled_product": _Reader.tiled_product,
}  # fmt: skip
