"""Sums over time: after a kernel has run, products and sums over all time steps and rows of what it stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..autodiff import contraction
from ..autodiff.primitive import ROWS
from ..autodiff.tensor import Node, Tensor
from ..stepgraph.interpret import tiled
from ..stepgraph.rows import operand_classes
from . import matmul
from .arrays import forward_of
from .lower import Lowering
from .timesums import is_plain
from .weightsums import sums_over_rows


class _Step(NamedTuple):
    """A node on T x B rows: its function, for each operand how it is found, and where its outputs go."""

    function: Callable[..., Any]
    operands: list[tuple[str, Any]]  # "number", "merged", "constant" or "tiled", and which
    params: dict[str, Any]
    outputs: list[int]
    multiple: bool


class _RowSums(NamedTuple):
    """Sums over rows, none of which waits for another: of what, and where they go.

    pairs: the two whose products are summed, by their ids; the first is None if it is the second's own sum.
    """

    pairs: list[tuple[int | None, int]]
    outputs: list[tuple[int, tuple[int, ...]]]  # and their shapes


class Sums:
    """Some of the sums over time of a lowered graph."""

    def __init__(self, lowering: Lowering, places: dict[int, int], sums: Sequence[Tensor]) -> None:
        self.lowering, self.places, self.sums = lowering, places, sums
        nodes: list[Node] = []
        live = {id(t) for t in sums}
        for node in reversed(lowering.summed):
            if not live.isdisjoint(map(id, node.outputs)):
                nodes.insert(0, node)
                live.update(map(id, node.tensors))
        self.steps = self._in_order(nodes)
        made = {id(o) for node in nodes for o in node.outputs}
        wanted = {id(t): t for node in nodes for t in node.tensors}
        self.merged = [
            (key, places[key], t.shape[1:]) for key, t in wanted.items() if key not in made and not self._is_constant(t)
        ]

    def _in_order(self, nodes: list[Node]) -> list[_Step | _RowSums]:
        """The nodes as steps, sums over rows as late as possible: so more of them are computed at once."""
        steps: list[_Step | _RowSums] = []
        while nodes:
            later: list[Node] = []
            missing: set[int] = set()
            for node in nodes:
                if self._is_row_sum(node) or not missing.isdisjoint(map(id, node.tensors)):
                    later.append(node)
                    missing.update(map(id, node.outputs))
                else:
                    steps.append(self._step(node))
            nodes, pairs, outputs = [], [], []
            for node in later:
                *left, right = map(id, node.tensors)
                if missing.isdisjoint([*left, right]):
                    pairs.append((left[0] if left else None, right))
                    outputs += [(id(o), o.shape) for o in node.outputs]
                else:
                    nodes.append(node)
            if pairs:
                steps.append(_RowSums(pairs, outputs))
        return steps

    def _is_row_sum(self, node: Node) -> bool:
        """Whether it is the sum over all rows of a value, or of the products of two."""
        params = node.params
        is_product = node.primitive.form == "contract" and is_plain(params["spec"])
        if not is_product and not (node.primitive.name == "sum" and params["axis"] == (0,)):
            return False
        classes = self.lowering.classes
        if not all(isinstance(x, Tensor) and classes[id(x)] == ROWS and not self._is_constant(x) for x in node.inputs):
            return False
        return {x.dtype for x in node.tensors} in ({np.dtype(np.float32)}, {np.dtype(np.float64)})

    def _is_constant(self, t: Tensor) -> bool:
        return self.lowering.is_constant(t)

    def _step(self, node: Node) -> _Step:
        classes = self.lowering.classes
        per_row = node.primitive.per_row(node, operand_classes(node, classes))
        operands = []
        for x, tile in zip(node.inputs, per_row, strict=True):
            if not isinstance(x, Tensor):
                operands.append(("number", x))
            elif not self._is_constant(x):
                operands.append(("merged", id(x)))
            else:
                operands.append(("tiled" if tile or classes[id(x)] == ROWS else "constant", id(x)))
        outputs = [id(o) for o in node.outputs]
        return _Step(forward_of(node.primitive), operands, node.params, outputs, node.primitive.multiple)

    def __call__(self, pool: Any, values: Any, length: int, batch: int, valid: np.ndarray | None) -> list[Any]:
        """The sums, from values (T, B, ...) at their places in `pool` and from those that do not change, by id.

        valid: a mask (T, B) outside of which there are only zeros to add.
        """
        rows = length * batch
        chosen = None if valid is None else np.flatnonzero(valid)
        over_time: dict[int, Any] = {}
        found: dict[int, Any] = {}
        for key, place, shape in self.merged:
            array = pool[place]
            if chosen is None:
                over_time[key] = array
            elif array.flags.c_contiguous:
                over_time[key] = array.reshape(rows, *shape).take(chosen, 0)[None]
            else:
                over_time[key] = array[valid][None]

        def merged(key: int) -> Any:
            if key not in found:
                array = over_time[key]
                found[key] = array.reshape(-1, *array.shape[2:])
            return found[key]

        def as_rows(key: int | None) -> Any:
            if key is None:
                return None
            if key not in over_time:
                over_time[key] = found[key][None]
            array = over_time[key]
            return array if array.ndim == 3 else array.reshape(*array.shape[:2], -1)

        for step in self.steps:
            if isinstance(step, _RowSums):
                sums = sums_over_rows([(as_rows(a), as_rows(b)) for a, b in step.pairs])
                found.update(
                    (key, value.reshape(shape)) for (key, shape), value in zip(step.outputs, sums, strict=True)
                )
                continue
            operands = []
            for kind, what in step.operands:
                if kind == "merged":
                    operands.append(merged(what))
                elif kind == "number":
                    operands.append(what)
                elif kind == "constant":
                    operands.append(values[what])
                else:
                    tiles = tiled(values[what], rows)
                    operands.append(tiles if chosen is None else tiles.take(chosen, 0))
            made = step.function(*operands, **step.params)
            found.update(zip(step.outputs, made if step.multiple else (made,), strict=True))
        return [found[id(t)] if id(t) in found else self._sum(t, pool, values, length) for t in self.sums]

    def _sum(self, t: Tensor, pool: Any, values: Any, length: int) -> Any:
        """The sum over time of a value that is no sum over the rows."""
        if id(t) in values:
            return values[id(t)] * length
        node = self.lowering.outer_products.get(id(t))
        if node is None:
            return matmul.sum_over(pool[self.places[id(t)]], (0,), False)
        a, b, letters = contraction.parse(node.params["spec"])
        clock = next(c for c in "tTzZ" if c not in a + b)
        x, y = (pool[self.places[id(operand)]] for operand in node.inputs)
        return matmul.contract_arrays(x, y, f"{clock}{a},{clock}{b}->{letters}")
