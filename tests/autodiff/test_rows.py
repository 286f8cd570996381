"""The row rules, which the split of a scan trusts: what a rule promises must hold on every batch.

ROWS: running on two batches at once gives their results one after the other.  SUMMED: it gives the
sum of their results.  SHARED: no batch went in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from minirnn.autodiff import contraction, elementwise, structure
from minirnn.autodiff.primitive import MIXED, PRIMITIVES, ROWS, SHARED, SUMMED
from minirnn.autodiff.tensor import Node, Tensor, apply
from minirnn.autodiff.trace import Trace
from tests.reference.checks import max_error

TOLERANCE = 1e-12
FLOAT = "float64"


@dataclass
class Operand:
    """A shape, and what may stand there."""

    shape: tuple[int, ...]
    dtype: str = FLOAT
    top: int = 0  # integers are below this
    number: float | None = None

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
        if self.number is not None:
            return self.number
        if self.dtype == FLOAT:
            return rng.uniform(0.3, 1.5, size=shape)
        return rng.integers(0, self.top, size=shape) if self.dtype == "int64" else rng.random(shape) > 0.5


@dataclass
class Case:
    """An application of a primitive to operands of which axis 0 may be the batch."""

    make: Callable[..., Any]
    operands: list[Operand]
    batch: int

    def node(self) -> Node:
        """The node as a trace of the step records it."""
        with Trace() as trace:
            self.make(*[x.number if x.number is not None else trace.input(x.shape, x.dtype) for x in self.operands])
        return trace.nodes[-1]

    def possible(self, place: int) -> list[str]:
        x = self.operands[place]
        if x.number is not None:
            return [SHARED]
        rows = [ROWS] if x.shape[:1] == (self.batch,) else []
        return [SHARED, *rows, *([SUMMED] if x.dtype == FLOAT else [])]


def run(node: Node, arrays: list[Any], params: dict[str, Any]) -> list[np.ndarray]:
    made = node.primitive.forward(*arrays, **params)
    return [np.asarray(x) for x in (made if node.primitive.multiple else [made])]


def promise_error(case: Case, classes: list[str], node: Node | None = None) -> tuple[str, float]:
    """What the node's row rule says, and by how much running on two batches at once differs from it.

    The two batches are two time steps, as in the split: of as many rows, with the same shared operands.
    """
    node = node or case.node()
    said = node.primitive.rows(classes, node.inputs, node)
    if said == MIXED:
        return said, 0.0
    rng = np.random.default_rng(5)
    per_row = node.primitive.per_row(node, classes)
    separate: list[list[Any]] = [[], []]
    merged = []
    for x, kind, tiled in zip(case.operands, classes, per_row, strict=True):
        a = x.draw(rng, x.shape)
        b = a if kind == SHARED else x.draw(rng, x.shape)
        separate[0].append(a)
        separate[1].append(b)
        merged.append(np.concatenate([a, b]) if kind == ROWS or tiled else a if kind == SHARED else a + b)
    first, second = (run(node, arrays, node.params) for arrays in separate)
    if said == SHARED:
        return said, max(max_error(a, b) for a, b in zip(first, second, strict=True))
    params = node.params
    if said == ROWS and node.primitive.resize is not None:
        params = node.primitive.resize(params, 2 * case.batch)
    together = run(node, merged, params)
    if said == ROWS:
        wanted = [np.concatenate([a, b]) for a, b in zip(first, second, strict=True)]
    else:
        wanted = [a + b for a, b in zip(first, second, strict=True)]
    return said, max((max_error(c, want) for c, want in zip(together, wanted, strict=True)), default=0.0)


def check(data: st.DataObject, case: Case) -> None:
    classes = [data.draw(st.sampled_from(case.possible(i))) for i in range(len(case.operands))]
    said, error = promise_error(case, classes)
    assert error <= TOLERANCE, (case.node().primitive, classes, said)
    if MIXED in classes or (said == SHARED and set(classes) - {SHARED}):
        raise AssertionError(f"{said} from {classes}")
    with_mixed = [MIXED if c != SHARED else c for c in classes]
    if MIXED in with_mixed:
        node = case.node()
        assert node.primitive.rows(with_mixed, node.inputs, node) == MIXED


BATCHES = st.sampled_from([1, 2, 4])
SIZES = st.integers(1, 3)
SHAPES = st.lists(SIZES, min_size=0, max_size=3).map(tuple)
EXAMPLES = settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])


# maps ----------------------------------------------------------------------------------------------
MAPS = [p for p in PRIMITIVES.values() if p.form == "map" and p.domain]


@pytest.mark.parametrize("primitive", MAPS, ids=lambda p: p.name)
@given(data=st.data())
@settings(max_examples=40)
def test_maps(primitive: Any, data: st.DataObject) -> None:
    batch = data.draw(BATCHES)
    base = data.draw(st.one_of(st.just(()), SHAPES.map(lambda s: (batch, *s))))
    shapes = data.draw(
        mutually_broadcastable_shapes(
            num_shapes=len(primitive.domain), base_shape=base, min_side=1, max_side=4, max_dims=3
        )
    ).input_shapes
    operands = [Operand(shape) for shape in shapes]
    if len(operands) > 1 and data.draw(st.booleans()):
        operands[data.draw(st.integers(0, len(operands) - 1))].number = 0.75
    check(data, Case(lambda *xs: apply(primitive, *xs), operands, batch))


@given(data=st.data(), batch=BATCHES, rest=SHAPES)
@EXAMPLES
def test_where_cast_and_power(data: st.DataObject, batch: int, rest: tuple[int, ...]) -> None:
    shape = (batch, *rest)
    condition = Operand(data.draw(st.sampled_from([shape, shape[1:], shape[:1] + (1,) * len(rest)])), "bool")
    which = data.draw(st.integers(0, 3))
    if which == 0:
        case = Case(elementwise.where, [condition, Operand(shape), Operand(shape[1:])], batch)
    elif which == 1:
        case = Case(elementwise.where, [condition, Operand(shape), Operand(shape, number=0.0)], batch)
    elif which == 2:
        dtype = data.draw(st.sampled_from(["int64", "bool", "float64"]))
        case = Case(lambda x: apply(PRIMITIVES["cast"], x, dtype=np.dtype(dtype)), [Operand(shape)], batch)
    else:
        exponent = data.draw(st.sampled_from([2, 3, -1, 0.5]))
        case = Case(lambda x: elementwise.power_by_number(x, exponent), [Operand(shape)], batch)
    check(data, case)


# contractions and reductions -------------------------------------------------------------------------
@st.composite
def contractions(draw: Any) -> Case:
    batch = draw(BATCHES)
    sizes = {"b": batch, **{letter: draw(SIZES) for letter in "ijk"}}
    # Each letter is in two of the three places, or in all.
    places = {letter: draw(st.sampled_from(["xy", "xo", "yo", "xyo"])) for letter in sizes}
    parts = [draw(st.permutations([c for c in sizes if part in places[c]])) for part in "xyo"]
    if draw(st.booleans()):  # the batch is more often in front
        parts = [sorted(part, key=lambda c: c != "b") for part in parts]
    x, y, out = ("".join(part) for part in parts)
    shapes = [tuple(sizes[c] for c in part) for part in (x, y)]
    return Case(lambda a, b: contraction.contract(f"{x},{y}->{out}", a, b), [Operand(s) for s in shapes], batch)


@given(data=st.data(), case=contractions())
@settings(max_examples=400)
def test_contractions(data: st.DataObject, case: Case) -> None:
    check(data, case)


@given(data=st.data(), batch=BATCHES, rest=SHAPES, keepdims=st.booleans())
@EXAMPLES
def test_reductions(data: st.DataObject, batch: int, rest: tuple[int, ...], keepdims: bool) -> None:
    shape = (batch, *rest)
    axis = tuple(sorted(data.draw(st.sets(st.integers(0, len(rest)), min_size=1))))
    name = data.draw(st.sampled_from(["sum", "max", "argmax"]))
    params: dict[str, Any] = {"axis": axis[:1]} if name == "argmax" else {"axis": axis, "keepdims": keepdims}
    check(data, Case(lambda x: apply(PRIMITIVES[name], x, **params), [Operand(shape)], batch))


@given(data=st.data(), batch=BATCHES, channels=SIZES, dilation=st.integers(1, 2), stride=st.integers(1, 2))
@EXAMPLES
def test_windows(data: st.DataObject, batch: int, channels: int, dilation: int, stride: int) -> None:
    params = {"size": (2,), "strides": (stride,), "dilation": (dilation,), "padding": ((1, 0),)}
    case = Case(lambda x: apply(PRIMITIVES["windows"], x, **params), [Operand((batch, 4, channels))], batch)
    check(data, case)
    shape = case.node().outputs[0].shape
    check(data, Case(lambda x: contraction.overlap_add(x, (4,), **params), [Operand(shape)], batch))


# moving elements -------------------------------------------------------------------------------------
@given(data=st.data(), batch=BATCHES, rest=SHAPES)
@EXAMPLES
def test_views(data: st.DataObject, batch: int, rest: tuple[int, ...]) -> None:
    shape = (batch, *rest)
    size = int(np.prod(shape))
    shapes = [(size,), (1, size), (batch, size // batch), (batch, 1, *rest), (*rest, batch), (size // batch, batch)]
    new = data.draw(st.sampled_from(shapes))
    check(data, Case(lambda x: structure.reshape(x, new), [Operand(shape)], batch)) if new != shape else None
    axes = tuple(data.draw(st.permutations(range(len(shape)))))
    check(data, Case(lambda x: structure.transpose(x, axes), [Operand(shape)], batch))
    wide = data.draw(st.sampled_from([(3, *shape), shape, (shape[0] if batch > 1 else 5, *shape[1:])]))
    check(data, Case(lambda x: structure.broadcast_to(x, wide), [Operand(shape)], batch))


@given(data=st.data(), batch=BATCHES, rest=SHAPES)
@EXAMPLES
def test_slices(data: st.DataObject, batch: int, rest: tuple[int, ...]) -> None:
    shape = (batch, *rest)
    slices = []
    for n in shape:
        start, stop, step = data.draw(st.slices(n)).indices(n)
        count = len(range(start, stop, step))
        part = (start, stop if stop >= 0 else None, step) if count else (0, 0, 1)
        slices.append(data.draw(st.sampled_from([(0, n, 1), part])))
    case = Case(lambda x: structure.slice_(x, tuple(slices)), [Operand(shape)], batch)
    check(data, case)
    part = case.node().outputs[0].shape
    # What is placed has the batch in front only if the slice left the rows alone.
    check(data, Case(lambda x: structure.place(x, tuple(slices), shape), [Operand(part)], batch))


@given(data=st.data(), batch=BATCHES, rest=SHAPES)
@EXAMPLES
def test_split_and_concatenate(data: st.DataObject, batch: int, rest: tuple[int, ...]) -> None:
    shape = (batch, *rest)
    axis = data.draw(st.integers(0, len(rest)))
    first = data.draw(st.integers(0, shape[axis]))
    sizes = (first, shape[axis] - first)
    check(data, Case(lambda x: structure.split(x, sizes, axis), [Operand(shape)], batch))
    other = (*shape[:axis], data.draw(SIZES), *shape[axis + 1 :])
    operands = [Operand(shape), Operand(other)]
    check(data, Case(lambda x, y: structure.concatenate([x, y], axis), operands, batch))


@given(data=st.data(), batch=BATCHES, rest=SHAPES, index=SHAPES)
@EXAMPLES
def test_take_and_scatter(data: st.DataObject, batch: int, rest: tuple[int, ...], index: tuple[int, ...]) -> None:
    indices = Operand(data.draw(st.sampled_from([index, (batch, *index)])), "int64", top=3)
    check(data, Case(structure.take, [Operand((data.draw(st.sampled_from([3, batch + 2])), *rest)), indices], batch))
    taken = Operand(indices.shape + rest)
    check(data, Case(lambda x, i: structure.scatter_add(x, i, 3), [taken, indices], batch))


# rules must not give up where they need not ---------------------------------------------------------
B = 4
MATRIX, ROW_MATRIX, VECTOR, SCALAR = Operand((3, 5)), Operand((B, 3)), Operand((3,)), Operand(())
INDEX = Operand((B,), "int64", top=3)
R, C, S, M = ROWS, SHARED, SUMMED, MIXED


def cast_to_float32(x: Tensor) -> Tensor:
    return elementwise.cast(x, "float32")


EXPECTED: list[tuple[str, Callable[..., Any], list[Operand], list[str], str]] = [
    ("add rows", elementwise.add, [ROW_MATRIX, ROW_MATRIX], [R, R], R),
    ("add a bias", elementwise.add, [ROW_MATRIX, VECTOR], [R, C], R),
    ("add per row", elementwise.add, [ROW_MATRIX, ROW_MATRIX], [R, C], R),
    ("add sums", elementwise.add, [MATRIX, MATRIX], [S, S], S),
    ("add to a sum", elementwise.add, [MATRIX, MATRIX], [S, C], M),
    ("scale a sum", elementwise.multiply, [MATRIX, SCALAR], [S, C], S),
    ("square a sum", elementwise.multiply, [MATRIX, MATRIX], [S, S], M),
    ("negate a sum", elementwise.negative, [MATRIX], [S], S),
    ("cast a sum", cast_to_float32, [MATRIX], [S], S),
    ("round a sum", lambda x: elementwise.cast(x, "int64"), [MATRIX], [S], M),
    ("center", elementwise.subtract, [ROW_MATRIX, Operand((1, 3))], [R, S], M),
    ("tanh", elementwise.tanh, [ROW_MATRIX], [R], R),
    ("tanh of a sum", elementwise.tanh, [MATRIX], [S], M),
    ("rows to columns", elementwise.add, [Operand((B,)), Operand((5, B))], [R, C], M),
    ("a batch of one", elementwise.add, [Operand((1, 3)), Operand((5, 3))], [R, C], M),
    ("a product", lambda x, w: contraction.contract("bf,fu->bu", x, w), [ROW_MATRIX, MATRIX], [R, C], R),
    ("a kernel", lambda x, y: contraction.contract("bf,bu->fu", x, y), [ROW_MATRIX, ROW_MATRIX], [R, R], S),
    ("attention", lambda q, k: contraction.contract("bf,btf->bt", q, k), [ROW_MATRIX, Operand((B, 2, 3))], [R, R], R),
    ("memory", lambda q, k: contraction.contract("bf,btf->bt", q, k), [ROW_MATRIX, Operand((B, 2, 3))], [R, C], R),
    ("pairs", lambda x, y: contraction.contract("bf,cf->bc", x, y), [ROW_MATRIX, ROW_MATRIX], [R, R], M),
    ("a sum times weights", lambda x, w: contraction.contract("fu,uv->fv", x, w), [MATRIX, Operand((5, 2))], [S, C], S),
    ("sum over features", lambda x: contraction.sum_over(x, (1,), False), [ROW_MATRIX], [R], R),
    ("sum over rows", lambda x: contraction.sum_over(x, (0,), False), [ROW_MATRIX], [R], S),
    ("sum of sums", lambda x: contraction.sum_over(x, (0,), False), [MATRIX], [S], S),
    ("max over rows", lambda x: contraction.max_over(x, (0,), False), [ROW_MATRIX], [R], M),
    ("embedding", structure.take, [MATRIX, INDEX], [C, R], R),
    ("its cotangent", lambda x, i: structure.scatter_add(x, i, 3), [ROW_MATRIX, INDEX], [R, R], S),
    ("shuffled rows", structure.take, [ROW_MATRIX, Operand((B,), "int64", top=B)], [R, C], M),
    ("flat rows", lambda x: structure.reshape(x, (B, 6)), [Operand((B, 2, 3))], [R], R),
    ("rows in a line", lambda x: structure.reshape(x, (B * 3,)), [ROW_MATRIX], [R], M),
    ("transposed sum", lambda x: structure.transpose(x, (1, 0)), [MATRIX], [S], S),
    ("gates", lambda x: structure.split(x, (1, 2), 1), [ROW_MATRIX], [R], R),
    ("joined", lambda x, y: structure.concatenate([x, y], 1), [ROW_MATRIX, ROW_MATRIX], [R, C], R),
    ("stacked rows", lambda x, y: structure.concatenate([x, y], 0), [ROW_MATRIX, ROW_MATRIX], [R, R], M),
    ("first feature", lambda x: structure.slice_(x, ((0, B, 1), (0, 1, 1))), [ROW_MATRIX], [R], R),
    ("first row", lambda x: structure.slice_(x, ((0, 1, 1), (0, 3, 1))), [ROW_MATRIX], [R], M),
    ("padded", lambda x: structure.place(x, ((0, B, 1), (1, 4, 1)), (B, 5)), [ROW_MATRIX], [R], R),
]


@pytest.mark.parametrize(
    ("make", "operands", "classes", "expected"), [e[1:] for e in EXPECTED], ids=[e[0] for e in EXPECTED]
)
def test_what_rules_say(make: Any, operands: list[Operand], classes: list[str], expected: str) -> None:
    batch = operands[0].shape[0] if operands[0].shape and classes[0] == R else B
    said, error = promise_error(Case(make, operands, batch), classes)
    assert (said, error <= (1e-6 if make is cast_to_float32 else TOLERANCE)) == (expected, True)


@pytest.mark.parametrize("name", ["reshape", "transpose", "concatenate", "sum", "contract", "add", "tanh", "take"])
def test_wrong_row_rules_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that calls everything rows is caught by some case of the list above."""
    primitive = PRIMITIVES[name]
    monkeypatch.setitem(PRIMITIVES, name, primitive)
    caught = []
    for _, make, operands, classes, expected in EXPECTED:
        case = Case(make, operands, operands[0].shape[0] if operands[0].shape and classes[0] == R else B)
        node = case.node()
        if node.primitive is primitive and expected != R and R in classes:
            wrong = dataclasses.replace(primitive, rows=lambda classes, operands, node: ROWS)
            planted = Node(wrong, node.inputs, node.params, node.outputs)
            try:
                caught.append(promise_error(case, classes, planted)[1] > TOLERANCE)
            except (ValueError, IndexError):  # it does not even run
                caught.append(True)
    assert all(caught) and (caught or name in ("tanh", "transpose"))


def test_sources_are_shared() -> None:
    x = Tensor([1.0])
    for name in ("full", "arange", "uniform", "derive_key"):
        node = Node(PRIMITIVES[name], (), {}, (x,))
        assert node.primitive.rows([SHARED, SHARED], node.inputs, node) == SHARED
