"""Recording a function on shapes: the recorder that a step graph is made with."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import trees
from .tensor import Node, Tensor, Variable, abstract, as_tensor, current_trace, identity, pop_recorder, push_recorder

_PACKAGE = Path(__file__).resolve().parent.parent
# Frames of these rooms are machinery; anything else, the built-in cells included, is somebody's step.
_MACHINERY = tuple(str(_PACKAGE / room) for room in ("autodiff", "stepgraph", "kernels", "loop.py", "scan.py"))


class Place(NamedTuple):
    """Where in somebody's code a node was recorded: an instruction of a running function."""

    code: types.CodeType
    instruction: int
    line: int
    frame: int  # which run of the function it was, 0 if that is of no interest


class Trace:
    """A tape of shapes: every operation inside it is remembered and none is computed.

    Tensors and arrays from outside become closed-over inputs: `closed` lists pairs (the value
    outside, the Tensor that stands for it inside); those made of lists that were operands are
    `literals`.  While `origin` is set, nodes are said to come from that place.
    """

    is_trace = True

    def __init__(self, shapes_only: bool = False) -> None:
        self.shapes_only = shapes_only  # nobody will run what is recorded
        self.nodes: list[Node] = []
        self.closed: list[tuple[Any, Tensor]] = []
        self.literals: list[Tensor] = []
        self.origin: tuple[Place, ...] = ()
        self._own: dict[int, Tensor] = {}
        self._stand_ins: dict[int, Tensor] = {}
        self._token: Any = None
        self._entered_in = 0

    def __enter__(self) -> Trace:
        self._token = push_recorder(self)
        self._entered_in = id(sys._getframe(1))
        return self

    def __exit__(self, *exc: object) -> None:
        pop_recorder(self._token)

    def wants(self, operands: Any) -> bool:
        """A trace keeps everything."""
        return True

    def input(self, shape: tuple[int, ...], dtype: Any, name: str | None = None) -> Tensor:
        """A new input of the traced function."""
        return self._adopt(abstract(shape, dtype, name))

    def operand(self, x: Any) -> Tensor:
        """What stands for `x` inside: itself if it was made here, else a closed-over input."""
        if id(x) in self._own:
            return x
        outer: Any
        if isinstance(x, Tensor):
            outer = identity(x)
            if x.value is not None and x.value is not outer.value:
                outer = x  # read from a Variable that has been assigned since
        elif isinstance(x, np.ndarray):
            outer = x  # looked up again at each run
        else:
            outer = as_tensor(x)  # lists are taken as they are now
            self.literals.append(outer)
        stand_in = self._stand_ins.get(id(outer))
        if stand_in is None:
            value = as_tensor(outer)
            stand_in = self._adopt(abstract(value.shape, value.dtype, value.name))
            stand_in.variable = outer if isinstance(outer, Variable) else None
            self._stand_ins[id(outer)] = stand_in
            self.closed.append((outer, stand_in))  # which also keeps the id from being given away
        return stand_in

    def record(self, node: Node) -> None:
        """Remember a node, and where in the user's code it was made."""
        node.source = self.origin + self._places()
        self.nodes.append(node)
        for output in node.outputs:
            self._adopt(output)

    def comes_from(self, node: Node) -> None:
        """What is recorded next is said to come from the line that made `node`, until `origin` is cleared."""
        self.origin = tuple(place._replace(frame=0) for place in node.source[:1]) if node.source else ()

    def pulls_through(self, node: Node, cotangents: list[Tensor | None]) -> None:
        """What is recorded next comes from the vjp rule of `node`, for the cotangents of its outputs."""
        self.comes_from(node)
        for output, ct in zip(node.outputs, cotangents, strict=True):
            if ct is not None and ct.name is None and output.name is not None:
                ct.name = f"ct_{output.name}"

    def _places(self) -> tuple[Place, ...]:
        """The callers outside of the machinery, innermost first, up to where the trace began."""
        frame: types.FrameType | None = sys._getframe(2)
        places = []
        while frame is not None and id(frame) != self._entered_in:
            if not frame.f_code.co_filename.startswith(_MACHINERY):
                places.append(Place(frame.f_code, frame.f_lasti, frame.f_lineno, id(frame)))
            frame = frame.f_back
        return tuple(places)

    def _adopt(self, tensor: Tensor) -> Tensor:
        self._own[id(tensor)] = tensor
        return tensor


def is_tracing() -> bool:
    """Whether a step is being recorded on shapes here."""
    return current_trace() is not None


def eval_shapes(fn: Callable[..., Any], *args: Any) -> Any:
    """The outputs of `fn` as abstract Tensors: shapes and dtypes without computing anything.

    Tensors (abstract or not) and arrays may be nested in `args`; anything else is passed on.

    >>> eval_shapes(lambda x: x @ x.T, abstract((2, 3), "float32"))
    Tensor(abstract, shape=(2, 2), dtype=float32)
    """
    with Trace(shapes_only=True) as trace:

        def enter(x: Any) -> Any:
            if not isinstance(x, (Tensor, np.ndarray)):
                return x
            inner = trace.input(x.shape, x.dtype, getattr(x, "name", None))
            mask = x.mask if isinstance(x, Tensor) else None
            inner.mask = None if mask is None else enter(mask)
            return inner

        out = fn(*[trees.map(enter, arg) for arg in args])
    return trees.map(lambda t: abstract(t.shape, t.dtype, t.name) if isinstance(t, Tensor) else t, out)
