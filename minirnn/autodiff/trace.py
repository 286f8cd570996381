"""Recording a function on shapes: the recorder that a step graph is made with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import trees
from .tensor import Node, Tensor, Variable, abstract, as_tensor, current_trace, identity, pop_recorder, push_recorder

_PACKAGE = Path(__file__).resolve().parent.parent
# Frames of these rooms are machinery; anything else, the built-in cells included, is somebody's step.
_MACHINERY = tuple(str(_PACKAGE / room) for room in ("autodiff", "stepgraph", "kernels", "scan.py"))


class Trace:
    """A tape of shapes: every operation inside it is remembered and none is computed.

    Tensors and arrays from outside become closed-over inputs: `closed` lists pairs (the value
    outside, the Tensor that stands for it inside).
    """

    is_trace = True

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.closed: list[tuple[Any, Tensor]] = []
        self._own: dict[int, Tensor] = {}
        self._stand_ins: dict[int, Tensor] = {}
        self._token: Any = None

    def __enter__(self) -> Trace:
        self._token = push_recorder(self)
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
        else:
            # Lists are taken as they are now; arrays are looked up again at each run.
            outer = x if isinstance(x, np.ndarray) else as_tensor(x)
        stand_in = self._stand_ins.get(id(outer))
        if stand_in is None:
            value = as_tensor(outer)
            stand_in = self._adopt(abstract(value.shape, value.dtype, value.name))
            stand_in.variable = outer if isinstance(outer, Variable) else None
            self._stand_ins[id(outer)] = stand_in
            self.closed.append((outer, stand_in))  # which also keeps the id from being given away
        return stand_in

    def record(self, node: Node) -> None:
        """Remember a node, and which line of the user's code made it."""
        node.source = _user_frame()
        self.nodes.append(node)
        for output in node.outputs:
            self._adopt(output)

    def _adopt(self, tensor: Tensor) -> Tensor:
        self._own[id(tensor)] = tensor
        return tensor


def _user_frame() -> tuple[str, int, int] | None:
    """File, line and frame of the nearest caller outside of the machinery."""
    frame = sys._getframe(2)
    while frame is not None:
        filename = frame.f_code.co_filename
        if not filename.startswith(_MACHINERY):
            return filename, frame.f_lineno, id(frame)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def is_tracing() -> bool:
    """Whether a step is being recorded on shapes here."""
    return current_trace() is not None


def eval_shapes(fn: Callable[..., Any], *args: Any) -> Any:
    """The outputs of `fn` as abstract Tensors: shapes and dtypes without computing anything.

    Tensors (abstract or not) and arrays may be nested in `args`; anything else is passed on.

    >>> eval_shapes(lambda x: x @ x.T, abstract((2, 3), "float32"))
    Tensor(abstract, shape=(2, 2), dtype=float32)
    """
    with Trace() as trace:

        def enter(x: Any) -> Any:
            if not isinstance(x, (Tensor, np.ndarray)):
                return x
            inner = trace.input(x.shape, x.dtype, getattr(x, "name", None))
            mask = x.mask if isinstance(x, Tensor) else None
            inner.mask = None if mask is None else enter(mask)
            return inner

        out = fn(*[trees.map(enter, arg) for arg in args])
    return trees.map(lambda t: abstract(t.shape, t.dtype, t.name) if isinstance(t, Tensor) else t, out)
