"""Printed kernels: as text for people, and as modules that Numba compiles."""

from __future__ import annotations

from collections.abc import Callable

from ..autodiff.tensor import Tensor
from ..stepgraph.graph import StepGraph
from . import build, contract, rowproducts, rowsums
from .emit import kernel_text
from .heavy import lower
from .lower import DTYPES, Lowering
from .program import Array
from .text import Text

_LANES_MODULE = (
    "load store load_apart store_apart element put stride select fma sqrt absolute maximum minimum LANES".split()
)
_CONVERSIONS = [f"as_{dtype}" for dtype in DTYPES]
# Where library functions are that contract.py does not have.
_MODULES = {"sum_rows": rowsums, "multiply_each": rowproducts}
# What a printed kernel says of its arguments.
_ROLES = {
    "x": "read at every step",
    "y": "written at every step",
    "stack": "written at every step, for the sums over time",
    "constant": "the same at every step",
    "panels": "the same at every step, packed",
    "sum": "summed over time",
}


def source(graph: StepGraph) -> str:
    """The printed kernel of a graph, with the names and the lines of the user's step."""
    lowering = lower(graph)
    text = kernel_text(lowering, "step_loop", explained=True)
    return "\n".join([*summary(lowering, text), *text.lines]) + "\n"


def summary(lowering: Lowering, text: Text) -> list[str]:
    """What the kernel is given and what is computed around it, as comments."""
    names = lowering.names
    lines = []
    for array, t in lowering.sources.items():
        if array.role in _ROLES:
            word = _ROLES[array.role]
            shape = ", ".join(map(str, t.shape))
            lines.append(f"# {text.name(array)}: {names.get(id(t), '?')} ({shape}) {t.dtype}, {word}")
    for node in lowering.summed:
        operands = ", ".join(names[id(x)] if isinstance(x, Tensor) else repr(x) for x in node.inputs)
        lines.append(
            f"# afterwards, over all time steps: {names[id(node.outputs[0])]} = {node.primitive.name}({operands})"
        )
    return lines


def compiled(text: Text, graph: StepGraph, types: str) -> Callable[..., None]:
    """The compiled function of a printed kernel."""
    name = text.lines[0].partition(" ")[2].partition("(")[0]
    module = _imports(text) + "\n\n@kernel\n" + "\n".join(text.lines) + "\n"
    label = f"a step of {len(graph.nodes)} operations"
    return build.compiled(module, name, label=label, signature=types)


def _imports(text: Text) -> str:
    """The lines that bring in what a printed kernel uses."""
    body = "\n".join(text.lines)
    lanes = [name for name in [*_LANES_MODULE, *_CONVERSIONS] if f"{name}(" in body or name == "LANES"]
    lines = [f"from minirnn.kernels.lanes import {', '.join(lanes)}"]
    functions = sorted(n for n in text.used if not n.endswith(("_f32", "_f64")))
    elementary = sorted(n for n in text.used if n.endswith(("_f32", "_f64")))
    if pointers := [f"{dtype}_at" for dtype in DTYPES if f"{dtype}_at(" in body]:
        lines.append(f"from minirnn.kernels.pointers import {', '.join(pointers)}")
    for module in (contract, *_MODULES.values()):
        if names := [n for n in functions if _MODULES.get(n, contract) is module]:
            lines.append(f"from {module.__name__} import {', '.join(names)}")
    if elementary:
        lines.append(f"from minirnn.kernels.elementary import {', '.join(elementary)}")
    if "inf" in body or "nan" in body:
        lines.append("from math import inf, nan")
    return "\n".join(lines)


def signature(arrays: list[Array]) -> str:
    """The types of a kernel's arguments, as Numba writes them."""
    parts = ["int64"] * 6 + ["int64[::1]"] * 3
    for a in arrays:
        dtype = "boolean" if a.dtype == bool else str(a.dtype)
        layout = "A" if a.role in ("x", "y", "stack") else "C"
        rank = a.rank if a.role != "panels" else a.rank
        readonly = "" if a.written else ", True"
        parts.append(f"Array({dtype}, {rank}, '{layout}'{readonly})" if rank else f"Array({dtype}, 0, 'C'{readonly})")
    return f"void({', '.join(parts)})"
