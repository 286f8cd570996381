"""Layers in Numba's simulator, in a process of its own: results and bounds of every access."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .sampling import some_of

ROOT = Path(__file__).parents[3]


def simulate(*cases: str) -> None:
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "tests.kernels.cuda.simulator_cases", *cases]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"checked {len(cases)}" in done.stdout, done.stdout + done.stderr


def test_a_layer_in_the_simulator() -> None:
    simulate("SimpleRNN,float32,step")


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell, schedule", some_of(itertools.product(["SimpleRNN", "GRU", "GRU reset before", "LSTM"], ["step", "block"]), 3)
)
def test_layers_in_the_simulator(cell: str, schedule: str) -> None:
    simulate(*[f"{cell},{dtype},{schedule}" for dtype in ("float32", "float64")])
