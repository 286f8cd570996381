"""The step graph: one time step as a list of nodes, with its inputs and outputs named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..autodiff.tensor import Node, Tensor, apply, current_trace
from ..autodiff.trace import Trace
from .passes import PASSES
from .provenance import source_line


@dataclass(eq=False)
class StepGraph:
    """One time step: `carry_in`, `xs` and `closed` go in; `carry_out`, `ys` and `sums` come out.

    All are abstract Tensors.  `ys` are stacked over time, `sums` are added up over time.  The last
    `residuals` of the ys were added for the backward loop.  `guard` is the x that holds the mask
    of a masked step.  `random` says which inputs bring the random numbers' key and the step index.
    """

    carry_in: tuple[Tensor, ...]
    xs: tuple[Tensor, ...]
    closed: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    carry_out: tuple[Tensor, ...]
    ys: tuple[Tensor, ...]
    sums: tuple[Tensor, ...] = ()
    residuals: int = 0
    guard: Tensor | None = None
    row_classes: tuple[str, ...] | None = None  # of each input, where it is known; see rows.py
    passes: tuple[str, ...] = PASSES
    keep: str = "residuals"  # or "carry": keep only the carry for the backward loop, recompute the rest
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """All inputs, in the order of a scan's operands."""
        return self.carry_in + self.xs + self.closed

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """All outputs, in the order of a scan's results."""
        return self.carry_out + self.ys + self.sums

    def names(self) -> dict[int, str]:
        """A name for every Tensor by its id, no two equal: the user's own where the source says one."""
        taken: dict[str, int] = {}
        names: dict[int, str] = {}

        def name(tensor: Tensor, wish: str) -> None:
            count = taken.get(wish, 0)
            taken[wish] = count + 1
            names[id(tensor)] = wish if not count else f"{wish}_{count + 1}"

        groups = (("carry", self.carry_in), ("x", self.xs), ("closed", self.closed))
        for label, tensors in groups:
            for tensor in tensors:
                name(tensor, tensor.name or label)
        for node in self.nodes:
            for output in node.outputs:
                if id(output) not in names:
                    name(output, output.name or f"v{len(names)}")
        return names

    def named_values(self) -> dict[str, Tensor]:
        """The values that the user's code gives a name, the last one of each name."""
        computed = [output for node in self.nodes for output in node.outputs]
        return {t.name: t for t in [*self.carry_in, *self.xs, *computed] if t.name}

    def _repr_markdown_(self) -> str:
        from .draw import mermaid

        return f"```mermaid\n{mermaid(self)}```"

    def __str__(self) -> str:
        names = self.names()

        def show(tensors: Iterable[Tensor]) -> str:
            return ", ".join(f"{names[id(t)]}: {describe(t)}" for t in tensors) or "nothing"

        lines = [f"carry: {show(self.carry_in)}", f"x: {show(self.xs)}", f"closed: {show(self.closed)}"]
        for node in self.nodes:
            left = ", ".join(names[id(output)] for output in node.outputs)
            operands = ", ".join(names[id(x)] if isinstance(x, Tensor) else repr(x) for x in node.inputs)
            call = f"{node.primitive.name}({operands})"
            params = ", ".join(f"{key}={_short(value)}" for key, value in node.params.items())
            shapes = ", ".join(describe(output) for output in node.outputs)
            text = f"  {left} = {call}" + (f" [{params}]" if params else "")
            lines.append(f"{text:<60} {shapes}" + (f"  # {line}" if (line := source_line(node)) else ""))
        for label, tensors in (("carry", self.carry_out), ("y", self.ys), ("sum", self.sums)):
            lines.append(f"{label} -> {', '.join(names.get(id(t), '?') for t in tensors) or 'nothing'}")
        return "\n".join(lines)


def describe(tensor: Tensor) -> str:
    """dtype and shape in short: `f32(2, 3)`."""
    sizes = ", ".join(str(n) for n in tensor.shape)
    return f"{tensor.dtype.kind}{8 * tensor.dtype.itemsize}({sizes})"


def _short(value: Any) -> str:
    text = "step graph" if isinstance(value, StepGraph) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def replay(nodes: Sequence[Node], env: dict[int, Any], rewrite: Callable[..., Any] | None = None) -> None:
    """Apply the nodes again to the values in `env` (by id of the Tensor), adding their outputs to it.

    With `rewrite(node, operands)` the operands of each node can be exchanged first.  In a trace the
    new nodes keep the names and the places in the source.
    """
    trace = current_trace()
    for node in nodes:
        operands = [env[id(x)] if isinstance(x, Tensor) else x for x in node.inputs]
        if rewrite is not None:
            operands = rewrite(node, operands)
        if trace is not None:
            trace.comes_from(node)
        made = apply(node.primitive, *operands, **node.params)
        for old, new in zip(node.outputs, made if node.primitive.multiple else (made,), strict=True):
            new.name = old.name
            env[id(old)] = new
    if trace is not None:
        trace.origin = ()


def prune(graph: StepGraph) -> StepGraph:
    """Drop the nodes that no output needs; an input cuts what it could be computed from."""
    live = {id(t) for t in graph.outputs}
    given = {id(t) for t in graph.inputs}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(id(output) in live and id(output) not in given for output in node.outputs):
            kept.append(node)
            live.update(id(t) for t in node.tensors)
    return replace(graph, nodes=tuple(reversed(kept)), cache={})


def enter_inputs(trace: Trace, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """New inputs of `trace` like the given Tensors."""
    return tuple(trace.input(t.shape, t.dtype, t.name) for t in tensors)
