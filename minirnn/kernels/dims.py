"""Which axes of a step graph have the same size by construction, so that a kernel needs one integer for them.

Found by the shape rules of the loop forms, never by comparing sizes: two axes that happen to be equal
stay apart, and one printed kernel serves all sizes.  (Numbers that a step makes of sizes, as the 1/n of a mean,
are printed as numbers: such a step has a kernel for each.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..autodiff import contraction
from ..autodiff.primitive import ROWS
from ..autodiff.tensor import Node, Tensor
from ..stepgraph.graph import StepGraph
from .program import ONE, ROWS_KEY, Size

Axis = tuple[int, int]  # the id of a Tensor and the number of its axis


class Dims:
    """The sizes of all axes of a graph's Tensors."""

    def __init__(self, graph: StepGraph, classes: dict[int, str], names: dict[int, str]) -> None:
        self.names = names
        self._parents: dict[Axis, Axis] = {}
        self._numbers: dict[Axis, int] = {}
        self._words: dict[Axis, str] = {}
        tensors = [*graph.inputs, *[o for node in graph.nodes for o in node.outputs]]
        self._rows: set[Axis] = set()
        for before, after in zip(graph.carry_in, graph.carry_out, strict=True):
            self._join_all(before, after, [(k, k) for k in range(len(before.shape))])
        for node in graph.nodes:
            for a, b, pairs in _pairs(node):
                self._join_all(a, b, pairs)
        of_rows = [t for t in tensors if t.shape and classes.get(id(t)) == ROWS]
        self._rows = {self._root((id(t), 0)) for t in of_rows}

    def _root(self, axis: Axis) -> Axis:
        while self._parents.get(axis, axis) != axis:
            axis = self._parents[axis]
        return axis

    def _join_all(self, a: Tensor, b: Tensor, pairs: list[tuple[int, int]]) -> None:
        for i, k in pairs:
            if a.shape[i] == b.shape[k]:
                first, second = self._root((id(a), i)), self._root((id(b), k))
                self._parents[second] = first

    def size(self, t: Tensor, axis: int) -> Size:
        """The size of an axis; ONE only where the structure says so, never for the batch."""
        root = self._root((id(t), axis))
        if root in self._rows:
            return Size(ROWS_KEY, t.shape[axis], "rows")
        if t.shape[axis] == 1:
            return ONE
        number = self._numbers.setdefault(root, len(self._numbers))
        word = self._words.setdefault(root, f"{self.names.get(id(t), 'v')}_size")
        return Size(("dim", number), t.shape[axis], word)

    def sizes(self, t: Tensor) -> tuple[Size, ...]:
        """The sizes of all axes."""
        return tuple(self.size(t, axis) for axis in range(len(t.shape)))


def _pairs(node: Node) -> Iterator[tuple[Tensor, Tensor, list[tuple[int, int]]]]:
    """Pairs of Tensors and the axes that they share."""
    form, name, params, out = node.primitive.form, node.primitive.name, node.params, node.outputs[0]
    if form == "map" or name == "broadcast_to":
        for x in node.tensors:
            yield x, out, _aligned(x, out)
    elif form == "contract":
        letters = contraction.parse(params["spec"])
        shared = list(zip(letters, (*node.inputs, out), strict=True))
        for i, (left, a) in enumerate(shared):
            for right, b in shared[i + 1 :]:
                yield a, b, [(left.index(c), right.index(c)) for c in left if c in right]
    elif form == "reduce" and "axis" in params:
        kept = [k for k in range(len(node.inputs[0].shape)) if params.get("keepdims") or k not in params["axis"]]
        yield node.inputs[0], out, [(k, i) for i, k in enumerate(kept) if k not in params["axis"]]
    elif name == "reshape":
        yield node.inputs[0], out, [(a[0], b[0]) for a, b in axis_groups(node.inputs[0], out) if len(a) == len(b) == 1]
    elif name == "transpose":
        yield node.inputs[0], out, [(axis, k) for k, axis in enumerate(params["axes"])]
    elif name in ("slice", "place"):
        whole = [k for k, s in enumerate(params["slices"]) if s[2] == 1]
        yield node.inputs[0], out, [(k, k) for k in whole]
    elif name == "split" or form == "join":
        for x in node.tensors:
            for o in node.outputs:
                yield x, o, [(k, k) for k in range(len(x.shape)) if k != params["axis"]]
    elif name in ("take", "scatter_add"):
        table, entries = (node.inputs[0], out) if name == "take" else (out, node.inputs[0])
        rank = len(node.inputs[1].shape)
        yield node.inputs[1], entries, [(k, k) for k in range(rank)]
        yield table, entries, [(k, rank + k - 1) for k in range(1, len(table.shape))]
    elif form == "window":
        yield node.inputs[0], out, [(0, 0), (len(node.inputs[0].shape) - 1, len(out.shape) - 1)]


def _aligned(x: Tensor, out: Tensor) -> list[tuple[int, int]]:
    """Axes counted from the last, without those that are broadcast."""
    shift = len(out.shape) - len(x.shape)
    return [(k, k + shift) for k in range(len(x.shape)) if x.shape[k] == out.shape[k + shift]]


def axis_groups(source: Tensor, out: Tensor) -> list[tuple[list[int], list[int]]]:
    """How a reshape takes axes apart and together: groups of axes with as many elements on both sides."""
    groups: list[tuple[list[int], list[int]]] = []
    i = k = 0
    a, b = source.shape, out.shape
    while i < len(a) or k < len(b):
        left, right = [], []
        if i < len(a) and k < len(b) and a[i] == b[k]:
            left, right, i, k = [i], [k], i + 1, k + 1
        elif k < len(b) and b[k] == 1:
            right, k = [k], k + 1
        elif i < len(a) and a[i] == 1:
            left, i = [i], i + 1
        else:
            left, right, i, k = [i], [k], i + 1, k + 1
            while np.prod([a[x] for x in left]) != np.prod([b[x] for x in right]):
                if np.prod([a[x] for x in left]) < np.prod([b[x] for x in right]):
                    left, i = [*left, i], i + 1
                else:
                    right, k = [*right, k], k + 1
        groups.append((left, right))
    return groups
