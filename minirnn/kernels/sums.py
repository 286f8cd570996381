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


class _Step(NamedTuple):
    """A node on T x B rows: its function, for each operand how it is found, and where its outputs go."""

    function: Callable[..., Any]
    operands: list[tuple[str, Any]]  # "number", "merged", "constant" or "tiled", and which
    params: dict[str, Any]
    outputs: list[int]
    multiple: bool


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
        self.steps = [self._step(node) for node in nodes]
        made = {key for step in self.steps for key in step.outputs}
        wanted = {id(t): t for node in nodes for t in node.tensors}
        self.merged = [
            (key, places[key], t.shape[1:]) for key, t in wanted.items() if key not in made and not self._is_constant(t)
        ]

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
        function, params = forward_of(node.primitive), node.params
        if node.primitive.form == "contract" and is_plain(params["spec"]) and all(k == "merged" for k, _ in operands):
            function, params = product_over_rows, {}
        return _Step(function, operands, params, [id(o) for o in node.outputs], node.primitive.multiple)

    def __call__(self, pool: Any, values: Any, length: int, batch: int, valid: np.ndarray | None) -> list[Any]:
        """The sums, from values (T, B, ...) at their places in `pool` and from those that do not change, by id.

        valid: a mask (T, B) outside of which there are only zeros to add.
        """
        rows = length * batch
        chosen = None if valid is None else np.flatnonzero(valid)
        merged = {}
        for key, place, shape in self.merged:
            array = pool[place]
            if chosen is None or array.flags.c_contiguous:
                array = array.reshape(rows, *shape)
                merged[key] = array if chosen is None else array.take(chosen, 0)
            else:
                merged[key] = array[valid]
        for step in self.steps:
            operands = []
            for kind, what in step.operands:
                if kind == "merged":
                    operands.append(merged[what])
                elif kind == "number":
                    operands.append(what)
                elif kind == "constant":
                    operands.append(values[what])
                else:
                    tiles = tiled(values[what], rows)
                    operands.append(tiles if chosen is None else tiles.take(chosen, 0))
            made = step.function(*operands, **step.params)
            for key, value in zip(step.outputs, made if step.multiple else (made,), strict=True):
                merged[key] = value
        return [merged[id(t)] if id(t) in merged else self._sum(t, pool, values, length) for t in self.sums]

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


def product_over_rows(a: Any, b: Any) -> Any:
    """The sum over rows of the products of a (rows, F) and b (rows, U): (F, U)."""
    return matmul.matmul(a.T[None], b[None])[0]
