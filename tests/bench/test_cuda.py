"""The schedules of the cuda engine are ready to be timed: they compute what everyone does, or say that they cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minirnn import bench
from minirnn.bench import contestants, cuda
from minirnn.bench.cases import Case
from minirnn.bench.contestants import Disagreement, Work
from minirnn.bench.options import Options
from minirnn.errors import EngineError
from minirnn.kernels.cuda import device, target
from tests.kernels.cuda.fibers import SUPPORTED
from tests.kernels.cuda.host import HostDevice

needs_kernels = pytest.mark.skipif(
    bool(target.missing()) or not SUPPORTED, reason=target.missing() or "kernels run on the host on x86-64 only"
)


def small(training: bool, cell: str = "simple_rnn") -> Case:
    return Case("cuda", cell, batch=2, units=3, targets=(), training=training, steps=4)


@needs_kernels
def test_a_schedule_computes_what_everyone_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "SCHEDULES", ("step",))
    with device.using(HostDevice()):
        row = bench.run_case(small(True), Options(engine="cuda", rounds=1, peers=()))
        assert [*row.timings] == ["cuda step"] and row.engine == "cuda step"
        work = Work(small(True))
        (ours,) = cuda.taking_part(work, (), print)
        work.variables[1].assign(work.variables[1].numpy()[::-1])
        with pytest.raises(Disagreement, match="cuda step"):
            contestants.check(ours, Work(small(True)).expected())


@needs_kernels
def test_a_schedule_that_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Unfit:
        def __init__(self, work: Any, schedule: str) -> None:
            self.name, self.schedule = schedule, schedule
            self.during = cuda.ExitStack

        def run(self) -> None:
            if self.schedule != "step":
                raise EngineError("too large", got="99 registers")

    monkeypatch.setattr(cuda, "on_schedule", Unfit)
    with device.using(HostDevice()):
        found = cuda.taking_part(Work(small(False)), (), told.append)
    assert [one.name for one in found] == ["step"]
    assert told == [f"simple_rnn forward B=2 H=3: no schedule {name}: 99 registers" for name in ("block", "grid")]


def test_without_a_device_it_is_refused_before_anything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Any:
        raise EngineError('engine "cuda" cannot run here', got="no device")

    monkeypatch.setattr(device, "_first_device", none)
    with pytest.raises(EngineError, match="cannot run here"):
        bench.run(Options.of(engine="cuda"), say=lambda line: pytest.fail(line))


def test_the_engine_has_a_grid_of_its_own() -> None:
    assert Options.of(engine="cuda").grid == "cuda" and Options.of(grid="cuda").engine == "cuda"
    assert Options.of(engine="cuda", grid="batch").grid == "batch"
    assert Options.of(figures=["peak"], engine="cuda").grid is None
    assert {case.grid for case in bench.GRIDS["cuda"]} == {"cuda"} and "cuda" not in bench.cases.ALL


@pytest.mark.peers
@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("cell", ["simple_rnn", "gru", "lstm"])
def test_torchs_modules_at_another_place(cell: str, training: bool) -> None:
    import torch

    work = Work(small(training, cell))
    expected = work.expected()
    for one in cuda.on_cudnn(torch, work, "cpu"):
        contestants.check(one, expected)
        one.run()
    assert all(np.isfinite(array).all() for array in expected)
