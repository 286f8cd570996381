"""Every step graph of the cpu engine's battery becomes machine code for real targets, under all schedules that fit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minirnn.errors import EngineError
from minirnn.kernels import run as cpu
from minirnn.kernels.cuda import target
from minirnn.kernels.cuda.device import Limits
from minirnn.kernels.cuda.schedule import SCHEDULES, plan
from minirnn.kernels.heavy import lower
from minirnn.stepgraph.graph import StepGraph
from tests.kernels import step_cases as _more_cases  # noqa: F401  (they enter themselves in the list)
from tests.kernels.engine_cases import CASES, evaluate

from .assembly import CAPABILITIES, inexact
from .plans import signature
from .sampling import some_of

_done: set[str] = set()  # kernels that have been compiled for all targets, by their text


def graphs_of(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> list[StepGraph]:
    """The graphs that the cpu engine is given in a case."""
    found: dict[str, StepGraph] = {}

    def kernel_of(graph: StepGraph) -> cpu.Kernel | None:
        kernel = original(graph)
        if kernel is not None:
            found.setdefault(str(graph), graph)
        return kernel

    original = cpu.kernel_of
    monkeypatch.setattr(cpu, "kernel_of", kernel_of)
    with np.errstate(all="ignore"):
        evaluate(name, dtype)
    return list(found.values())


def check_machine_code(graph: StepGraph) -> None:
    """Compile all kernels of all schedules that fit."""
    lowering = lower(graph)
    for schedule in SCHEDULES:
        try:
            made = plan(lowering, Limits(), schedule)
        except EngineError:
            assert schedule != "step"
            continue
        for launch in made.launches:
            text = made.kernels[launch.kernel]
            if text in _done:
                continue
            compiled = target.compiled(text, launch.kernel, signature(lowering), threads=launch.threads)
            for capability in CAPABILITIES:
                assert not inexact(compiled.ptx(capability))
                assert len(compiled.machine_code(capability)) > 1000
            _done.add(text)


@pytest.mark.slow
@pytest.mark.parametrize("name, dtype", some_of(itertools.product(CASES, ["float32", "float64"]), 3))
def test_all_step_graphs_become_machine_code(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = graphs_of(name, dtype, monkeypatch)
    assert graphs
    for graph in graphs:
        check_machine_code(graph)
