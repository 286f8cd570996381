"""Steps drawn at random by hypothesis: a list of instructions, and the inputs that a scan of them needs.

Instructions are chosen by the shapes of the values that are there, so every drawn step is a valid
one, and a failing step shrinks to a short list that prints as a program.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minirnn import ops
from minirnn.autodiff.trace import abstract, eval_shapes

UNARY: dict[str, Any] = {
    "tanh": ops.tanh,
    "sigmoid": ops.sigmoid,
    "softplus": ops.softplus,
    "sin": ops.sin,
    "square": ops.square,
    "relu": ops.relu,
    "elu": ops.elu,
    "abs": ops.abs,
    "negative": ops.negative,
    "softsign": ops.softsign,
    "stop_gradient": ops.stop_gradient,
    "clip": lambda a: ops.clip(a, -0.4, 0.6),
    "scaled": lambda a: 0.7 * a - 0.2,
    "log_of_positive": lambda a: ops.log(a * a + 0.5),
    "root_of_positive": lambda a: ops.sqrt(a * a + 0.5),
    "constant_of_the_step": lambda a: a * np.linspace(0.5, 1.5, a.shape[-1]) if a.ndim else a * 1.5,
    "ones_like": lambda a: a + ops.ones_like(a),
}
BINARY: dict[str, Any] = {
    "add": ops.add,
    "subtract": ops.subtract,
    "multiply": ops.multiply,
    "divide": lambda a, b: a / (b * b + 1.5),
    "maximum": ops.maximum,
    "minimum": ops.minimum,
    "where": lambda a, b: ops.where(a > b, ops.sin(a), b),
    "power": lambda a, b: (a * a + 0.5) ** ops.tanh(b),
}
# Over the features; the batch is axis 0.
REDUCTIONS: dict[str, Any] = {
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
    "sum": lambda a: ops.sum(a, axis=-1, keepdims=True),
    "mean": lambda a: ops.mean(a, axis=-1, keepdims=True),
    "max": lambda a: ops.max(a, axis=-1, keepdims=True),
    "logsumexp": lambda a: ops.logsumexp(a, axis=-1, keepdims=True),
    "normalized": lambda a: (a - ops.mean(a, -1, keepdims=True)) / ops.sqrt(ops.var(a, -1, keepdims=True) + 0.3),
    "sum_without_axis": lambda a: ops.sum(a, axis=-1),
}
MOVES: dict[str, Any] = {
    "first_half": lambda a: a[..., : (a.shape[-1] + 1) // 2],
    "reversed": lambda a: ops.flip(a, -1),
    "every_other": lambda a: a[..., ::2],
    "second_part": lambda a: ops.split(a, [a.shape[-1] // 2], axis=-1)[-1],
    "parts_exchanged": lambda a: ops.concatenate(ops.split(a, [a.shape[-1] // 2], axis=-1)[::-1], axis=-1),
    "padded": lambda a: ops.pad(a, ((0, 0),) * (a.ndim - 1) + ((1, 2),)),
    "column": lambda a: a[..., 0],
    "new_axis": lambda a: ops.expand_dims(a, -1),
    "flattened": lambda a: ops.reshape(a, (a.shape[0], -1)),
    "repeated": lambda a: ops.broadcast_to(a[..., None], (*a.shape, 2)),
}
# What lets rows see each other.
ROW_MIXING: dict[str, Any] = {
    "batch_mean": lambda a: ops.mean(a, axis=0),
    "centred": lambda a: a - ops.mean(a, axis=0, keepdims=True),
    "batch_reversed": lambda a: ops.flip(a, 0),
    "first_row": lambda a: a[0],
    "total": lambda a: ops.mean(a),
    "batch_softmax": lambda a: ops.softmax(a, axis=0),
    "last_rows": lambda a: a[a.shape[0] // 2 :],
}
LIMIT = 60  # elements in a row, so that a step stays small


@dataclass
class RandomStep:
    """A step as a list of instructions on a growing list of values, first the inputs, then the results."""

    batch: int
    length: int
    carry_shapes: list[tuple[int, ...]]
    x_shapes: list[tuple[int, ...]]
    closed_shapes: list[tuple[int, ...]]
    instructions: list[tuple[Any, ...]]
    carry_out: list[int]
    ys: list[int]
    id_count: int | None  # the last x is integer ids below this
    seed: int

    @functools.cached_property
    def arrays(self) -> dict[str, list[np.ndarray]]:
        """The numbers: the initial carry, the sequences and the closed-over arrays."""
        rng = np.random.default_rng(self.seed)
        xs = [rng.uniform(-1, 1, (self.length, *shape)) for shape in self.x_shapes]
        if self.id_count is not None:
            xs[-1] = rng.integers(0, self.id_count, (self.length, *self.x_shapes[-1]))
        return {
            "init": [rng.uniform(-1, 1, shape) for shape in self.carry_shapes],
            "xs": xs,
            "closed": [rng.uniform(-1, 1, shape) for shape in self.closed_shapes],
        }

    def over(self, closed: list[Any]) -> Any:
        """The step as a function that closes over Tensors."""
        instructions, carry_out, ys = self.instructions, self.carry_out, self.ys

        def step(carry: Any, x: Any) -> Any:
            values = [*carry, *x, *closed]
            for instruction in instructions:
                values.append(execute(instruction, values))
            return [values[i] for i in carry_out], [values[i] for i in ys]

        return step


def execute(instruction: tuple[Any, ...], values: list[Any]) -> Any:
    """The value of one instruction (kind, what, places of its operands)."""
    kind, what, *places = instruction
    operands = [values[i] for i in places]
    if kind in TABLES:
        return TABLES[kind][what](*operands)
    if kind == "contract":
        return ops.contract(what, *operands)
    if kind == "concatenate":
        return ops.concatenate(operands, axis=-1)
    if kind == "take":
        return ops.take(*operands, axis=0)
    assert kind == "one_hot"
    return ops.one_hot(*operands, n=what, dtype="float64")


TABLES = {"unary": UNARY, "binary": BINARY, "reduce": REDUCTIONS, "move": MOVES, "mix": ROW_MIXING}


class _Drawing:
    """A step in the making: draws instructions that fit the shapes that are there."""

    def __init__(self, draw: Any, batch: int, masked: bool, mixing: bool) -> None:
        self.draw, self.batch, self.masked, self.mixing = draw, batch, masked, mixing
        self.shapes: list[tuple[int, ...]] = []
        self.integer: set[int] = set()
        self.instructions: list[tuple[Any, ...]] = []
        self.carry_shapes: list[tuple[int, ...]] = []
        self.x_shapes: list[tuple[int, ...]] = []
        self.closed_shapes: list[tuple[int, ...]] = []
        self.id_count: int | None = None

    def choose(self, items: Any) -> Any:
        return self.draw(st.sampled_from(list(items)))

    def inputs(self) -> None:
        """Carries of different widths, xs, and closed-over tensors of every kind."""
        b = self.batch
        carries = [(b, 3), (b, 5), (b, 2), (b,)] + ([] if self.masked else [(), (5,)])
        xs = [(b, 7), (b, 3), (b, 2, 3), (b,)] + ([] if self.masked else [()])
        closed = [(3, 5), (5, 3), (7, 3), (2, 7), (3,), (5,), (b, 3), (b, 1), (b, 5, 2), (b, 2, 3), (), (1, 3), (8, 3)]
        self.carry_shapes = self.draw(st.lists(st.sampled_from(carries), min_size=0, max_size=3))
        self.x_shapes = self.draw(st.lists(st.sampled_from(xs), min_size=0 if self.carry_shapes else 1, max_size=3))
        ids = None
        if self.draw(st.booleans()):
            self.x_shapes.append((b,))
            self.id_count = 8
            ids = len(self.carry_shapes) + len(self.x_shapes) - 1
        self.closed_shapes = closed
        self.shapes = [*self.carry_shapes, *self.x_shapes, *self.closed_shapes]
        if ids is not None:
            self.integer.add(ids)

    def floats(self, wanted: Any = lambda shape: True) -> list[int]:
        return [i for i, shape in enumerate(self.shapes) if i not in self.integer and wanted(shape)]

    def instruction(self) -> None:
        """Add one instruction, if the kind drawn finds operands."""
        kind = self.choose(
            ["unary", "binary", "binary", "contract", "contract", "reduce", "move", "concatenate", "take"]
            + (["mix"] if self.mixing else [])
        )
        made = getattr(self, f"_{kind}")()
        if made is None:
            return
        operands = [abstract(self.shapes[i], "int64" if i in self.integer else "float64") for i in made[2:]]
        places = range(len(operands))
        shape = eval_shapes(lambda *values: execute((*made[:2], *places), list(values)), *operands).shape
        if int(np.prod(shape)) <= LIMIT * self.batch and 0 not in shape[1:]:
            self.instructions.append(made)
            self.shapes.append(shape)

    def _one(self, kind: str, table: dict[str, Any], wanted: Any) -> tuple[Any, ...] | None:
        places = self.floats(wanted)
        return (kind, self.choose(table), self.choose(places)) if places else None

    def _unary(self) -> Any:
        return self._one("unary", UNARY, lambda shape: True)

    def _reduce(self) -> Any:
        return self._one("reduce", REDUCTIONS, lambda shape: len(shape) > 1 and shape[-1] > 0)

    def _move(self) -> Any:
        return self._one("move", MOVES, lambda shape: len(shape) > 1 and shape[-1] > 1)

    def _mix(self) -> Any:
        return self._one("mix", ROW_MIXING, lambda shape: len(shape) > 0 and shape[0] == self.batch and self.batch > 0)

    def _binary(self) -> Any:
        places = self.floats()
        if not places:
            return None
        first = self.choose(places)
        fitting = self.floats(lambda shape: _broadcasts(shape, self.shapes[first]))
        return ("binary", self.choose(BINARY), first, self.choose(fitting))

    def _contract(self) -> Any:
        """A product whose inner sizes agree: with a matrix, per row, or row by row as attention does."""
        found: dict[str, list[tuple[int, int]]] = {}
        for i in self.floats(lambda shape: len(shape) in (2, 3)):
            for j in self.floats(lambda shape: len(shape) in (2, 3)):
                a, b = self.shapes[i], self.shapes[j]
                fits = {
                    "bf,fu->bu": len(a) == 2 and len(b) == 2 and a[1] == b[0],
                    "bkf,fu->bku": len(a) == 3 and len(b) == 2 and a[2] == b[0],
                    "bk,bkd->bd": len(a) == 2 and len(b) == 3 and a == b[:2],
                    "bd,bkd->bk": len(a) == 2 and len(b) == 3 and a == b[::2],
                    "bi,bj->ij": len(a) == 2 and len(b) == 2 and a[0] == b[0] and self.mixing,
                }
                for spec, fit in fits.items():
                    if fit:
                        found.setdefault(spec, []).append((i, j))
        if not found:
            return None
        spec = self.choose(found)
        return ("contract", spec, *self.choose(found[spec]))

    def _concatenate(self) -> Any:
        places = self.floats(lambda shape: len(shape) == 2)
        if not places:
            return None
        first = self.choose(places)
        same_rows = self.floats(lambda shape: len(shape) == 2 and shape[0] == self.shapes[first][0])
        return ("concatenate", None, first, self.choose(same_rows), self.choose(same_rows))

    def _take(self) -> Any:
        if not self.integer:
            return None
        (ids,) = self.integer
        tables = self.floats(lambda shape: len(shape) == 2 and shape[0] == 8)
        if tables and self.draw(st.booleans()):
            return ("take", None, self.choose(tables), ids)
        return ("one_hot", 8, ids)

    def outputs(self) -> tuple[list[int], list[int]]:
        """Places of the new carry and of y: of anything that fits, inputs and closed-over values among them."""
        carry_out = []
        inputs = len(self.carry_shapes) + len(self.x_shapes) + len(self.closed_shapes)
        for place, shape in enumerate(self.carry_shapes):
            fitting = [place, *self.floats(lambda s, shape=shape: s == shape)]
            source = self.choose(fitting)
            # What feeds back is kept small; inputs can be handed on as they are.
            if source >= inputs:
                self.instructions.append(("unary", self.choose(["tanh", "sin", "sigmoid", "softsign"]), source))
                self.shapes.append(shape)
                source = len(self.shapes) - 1
            carry_out.append(source)
        every = [i for i, s in enumerate(self.shapes) if s[:1] == (self.batch,) or not self.masked]
        ys = self.draw(st.lists(st.sampled_from(every[-6:]), min_size=0 if carry_out else 1, max_size=3))
        ys += self.draw(st.lists(st.sampled_from(every), max_size=1))
        return carry_out, ys


def _broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        return False
    return True


@st.composite
def random_steps(draw: Any, masked: bool = False, mixing: bool = True, sizes: Any = None) -> RandomStep:
    """A valid step with its inputs. Sizes of batch, time and features are pairwise different, 0 and 1 among them."""
    batch, length = draw(sizes or st.sampled_from([(6, 4)] * 6 + [(1, 4), (4, 6), (6, 1), (6, 0), (1, 1)]))
    drawing = _Drawing(draw, batch, masked, mixing)
    drawing.inputs()
    for _ in range(draw(st.integers(2, 12))):
        drawing.instruction()
    carry_out, ys = drawing.outputs()
    return RandomStep(
        batch,
        length,
        drawing.carry_shapes,
        drawing.x_shapes,
        drawing.closed_shapes,
        drawing.instructions,
        carry_out,
        ys,
        drawing.id_count,
        draw(st.integers(0, 2**16)),
    )
