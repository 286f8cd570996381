"""A plan's kernels as text for people: who owns what, in which order they are launched, and the kernels."""

from __future__ import annotations

import re

from ...stepgraph.graph import StepGraph
from ..heavy import lower
from ..printed import summary
from .device import Limits
from .owners import Owners
from .schedule import Plan, plan
from .text import CudaText

_WHO = {
    "block": (
        "a block of threads owns some rows of the batch and runs all steps;",
        "the weights of the loop's products stay in its registers.",
    ),
    "grid": (
        "each block owns some units, for all rows, and runs all steps; its part of the",
        "weights stays on the chip; grid.sync() waits for all blocks, cuda.syncthreads() for a block's threads.",
    ),
    "step": ("one launch a step; a block of threads owns some rows of the batch, weights are read from memory.", ""),
}
_EACH = {
    "begin": "once, before all steps",
    "once": "once for each block of time steps",
    "step": "at every step",
    "end": "once, after all steps",
}
_IMPORT = re.compile(r"from (\S+) import (.+)")


def source(graph: StepGraph, schedule: str | None = None, limits: Limits | None = None) -> str:
    """The kernels that engine "cuda" launches for a graph, with the names and the lines of the user's step.

    schedule: None for the first that fits a device with `limits`.
    """
    lowering = lower(graph)
    made = plan(lowering, limits, schedule, explained=True)
    return "\n".join([*_heading(made), *summary(lowering, CudaText(lowering, Owners(True), True)), "", *_module(made)])


def _heading(made: Plan) -> list[str]:
    first, *others = (line for line in _WHO[made.schedule] if line)
    lines = [f'# Schedule "{made.schedule}": {first}', *(f"# {line}" for line in others), "# Launches, in order:"]
    for launch in made.launches:
        text = made.kernels[launch.kernel]
        waits = [f"{text.count(call)} {call}" for call in ("grid.sync()", "cuda.syncthreads()") if call in text]
        barriers = f", with {' and '.join(waits)}" if waits else ""
        together = " that all run at once" if launch.cooperative else ""
        lines.append(
            f"#   {launch.kernel}: {_EACH[launch.each]}, blocks of {launch.threads} threads{together}{barriers}"
        )
    return lines


def _module(made: Plan) -> list[str]:
    """All kernels as one module, with what they import at its top."""
    imports: dict[str, list[str]] = {}
    kernels: list[str] = []
    for launch in made.launches:
        lines = made.kernels[launch.kernel].rstrip("\n").split("\n")
        found = [line for line in lines if _IMPORT.fullmatch(line)]
        for line in found:
            module, names = _IMPORT.fullmatch(line).groups()  # type: ignore[union-attr]
            known = imports.setdefault(module, [])
            known += [name for name in names.split(", ") if name not in known]
        kernels += lines[len(found) :]
    return [*(f"from {module} import {', '.join(names)}" for module, names in imports.items()), *kernels, ""]
