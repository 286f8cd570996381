"""Every example runs as a script, says what it should, and computes what it claims."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minirnn.layers import Input, SimpleRNN
from minirnn.models import Model
from tests.reference.checks import max_error

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

# For each example: its arguments at a small size, and how the last line of its output looks.
SCRIPTS: dict[str, tuple[list[str], str]] = {
    "addition.py": (["--size", "small"], r"sums right in every digit: 9\d\.\d\d% of 10000 random pairs"),
    "char_model.py": (["--size", "small"], r"bits per character on held-out text: 3\.\d{3} \(unigram 4\.\d{3}\)"),
    "seed.py": ([], r"largest difference from SimpleRNN with the same weights: (0\.0|\d\.\d+e-0[789])"),
}

SEED_PROGRAM = """\
from minirnn.layers import SimpleRNN, Input
from minirnn.models import Model
from minirnn import RecurrentUnit, RecurrentContainer

x_in, h_in = Input(shape=(20,)), Input(shape=(10,))
x_out, h_out = RecurrentUnit(SimpleRNN(10))(x_in, states=h_in)
data_in = Input(shape=(None, 20))
container = RecurrentContainer(sequence_inputs=x_in, sequence_outputs=x_out, state_inputs=h_in, constant_outputs=h_out)
sequence, last = container(sequences=data_in)
model = Model(inputs=data_in, outputs=[sequence, last])
"""


def test_every_example_is_run_here() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs_as_a_script(name: str, tmp_path: Path) -> None:
    arguments, last_line = SCRIPTS[name]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(last_line, done.stdout.splitlines()[-1])
    said = [line for line in done.stderr.splitlines() if not line.startswith("minirnn: compiled ")]
    assert said == []


def names_of(example: str) -> dict[str, Any]:
    """What an example defines, as when it is imported."""
    return runpy.run_path(str(EXAMPLES / example), run_name="example")


def test_the_seed_program_stands_as_it_was_written() -> None:
    assert SEED_PROGRAM in (EXAMPLES / "seed.py").read_text()


def test_the_seed_program_equals_the_plain_layer() -> None:
    names = names_of("seed.py")
    model, container = names["model"], names["container"]
    assert (names["sequence"].shape, names["last"].shape) == ((None, None, 10), (None, 10))
    assert [w.shape for w in model.get_weights()] == [(20, 10), (10, 10), (10,)]
    x = np.random.default_rng(1).normal(size=(4, 9, 20)).astype("float32")
    layer = SimpleRNN(10, return_sequences=True, return_state=True)
    layer.build(x.shape)
    rng = np.random.default_rng(2)
    layer.set_weights([rng.normal(size=w.shape) * 0.3 for w in layer.get_weights()])
    model.set_weights(layer.get_weights())
    outputs, state = layer(x)
    for found in (model(x), container(sequences=x), model.predict(x, verbose=0)):
        assert max_error(found[0], outputs) < 1e-6
        assert max_error(found[1], state) < 1e-6


def test_the_seed_program_with_state_outputs_returns_a_bare_tensor() -> None:
    names = names_of("seed.py")
    container = type(names["container"])(
        sequence_inputs=names["x_in"],
        constant_outputs=names["x_out"],
        state_inputs=names["h_in"],
        state_outputs=names["h_out"],
    )
    data = Input(shape=(None, 20))
    last = container(sequences=data)
    assert last.shape == (None, 10)
    x = np.random.default_rng(3).normal(size=(4, 9, 20)).astype("float32")
    found = Model(data, last).predict(x, verbose=0)
    assert found.shape == (4, 10)
    assert max_error(found, names["container"](sequences=x)[1]) < 1e-6


@pytest.mark.slow
def test_addition_at_full_size_is_as_right_as_it_says() -> None:
    assert names_of("addition.py")["main"]() > 0.99


@pytest.mark.slow
def test_the_character_model_at_full_size_learns() -> None:
    assert names_of("char_model.py")["main"](epochs=1) < 2.5
