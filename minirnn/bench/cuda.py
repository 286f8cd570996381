"""The schedules of the cuda engine beside torch's modules on the same device, which run on cuDNN.

Nothing here has been timed: no device was at hand where it was written.  Inputs, weights and results stay on the
device for everyone, and a call is over when the device has done all of it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np

from .. import config
from ..autodiff.tape import Tape
from ..autodiff.tensor import Tensor
from ..errors import EngineError
from ..kernels.cuda import device, streams
from . import contestants, torch_peer
from .cases import BUILT_IN
from .contestants import Arrays, Contestant, Work

SCHEDULES = ("block", "grid", "step")


def taking_part(work: Work, peers: Sequence[str], say: Callable[[str], Any]) -> list[Contestant]:
    """The schedules that fit the work and the device, and torch if it is there and sees a device.

    `say` is told of a schedule that does not fit.  Raises EngineError where the cuda engine cannot run.
    """
    device.require()
    found = []
    for schedule in SCHEDULES:
        one = on_schedule(work, schedule)
        try:
            with one.during():
                one.run()
        except EngineError as error:
            say(f"{work.case.title}: no schedule {schedule}: {error.got}")
        else:
            found.append(one)
    if "torch" in peers and contestants.installed("torch") and work.case.cell in BUILT_IN:
        torch = importlib.import_module("torch")
        if torch.cuda.is_available():
            found += on_cudnn(torch, work, "cuda")
    return found


def on_schedule(work: Work, schedule: str) -> Contestant:
    """Minirnn's cuda engine with a forced schedule."""
    work.inputs = [Tensor(x) for x in work.inputs]  # type: ignore[misc]  # which go to the device once
    weights: dict[tuple[int, ...], Tensor] = {}

    def call() -> list[Any]:
        if not work.case.training:
            return [work.call()]
        with Tape() as tape:
            y = work.call()
        # The cotangent of the sum, which would bring all of y to the host.
        ones = weights.setdefault(y.shape, Tensor(np.ones(y.shape, y.dtype)))
        gradients: list[Any] = tape.gradient(y, work.variables, ones)
        return gradients

    def run() -> list[Any]:
        made = call()
        device.current().wait(streams.current())
        return made

    def results() -> Arrays:
        return [np.asarray(tensor) for tensor in call()]

    def during() -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(config.engine("cuda"))
        stack.enter_context(config.schedule(schedule))
        return stack

    name = f"cuda {schedule}"
    return Contestant(name, name, run, results, during)


def on_cudnn(torch: Any, work: Work, place: str) -> list[Contestant]:
    """Torch's fused modules at a place, with products in float32 as everyone else's."""
    torch.backends.cudnn.allow_tf32 = False
    found = [torch_peer.fused(torch, work, batch_first, place) for batch_first in (True, False)]
    return [one._replace(run=functools.partial(_finished, torch, place, one.run)) for one in found]


def _finished(torch: Any, place: str, run: Callable[[], Any]) -> Any:
    made = run()
    if place != "cpu":
        torch.cuda.synchronize()
    return made
