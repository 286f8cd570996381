"""Every example runs as a script, says what it should, and computes what it claims."""

from __future__ import annotations

import importlib.util
import os
import random
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
    "co2.py": (
        ["--size", "small", "--plot", "drawn.png"],
        r"1\.\d\d \(the year before, again: 2\.68; raised by its growth: 1\.54\)",
    ),
    "dates.py": (
        ["--size", "small", "--plot", "drawn.png"],
        r"dates right in every character: [1-9]\d\.\d% of \d+ new days",
    ),
    "seed.py": ([], r"largest difference from SimpleRNN with the same weights: (0\.0|\d\.\d+e-0[789])"),
    "speakers.py": (
        ["--size", "small", "--plot", "drawn.png"],
        r"speakers recognised: [89]\d\.\d% of 370 \(nearest mean 93\.8%, published 95 to 98%\)",
    ),
}
# What some of them need beyond minirnn, to draw or for their data, and what installs that.
NEEDS = {
    "co2.py": ["matplotlib", "statsmodels"],
    "dates.py": ["matplotlib"],
    "speakers.py": ["matplotlib", "sktime"],
}
INSTALLED_BY = {
    "matplotlib": "pip install -e '.[viz]'",
    "sktime": "pip install --no-deps sktime",
    "statsmodels": "pip install --no-deps statsmodels",
}
# What may be said beside the results: by minirnn of a first compilation, by matplotlib of its first import.
ASIDES = ("minirnn: compiled ", "Matplotlib is building the font cache")

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


def skip_without_needs(example: str) -> None:
    """Skip the test where what an example needs is not installed."""
    for package in NEEDS.get(example, []):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: {INSTALLED_BY[package]}")


@pytest.mark.parametrize("name", [n if n == "seed.py" else pytest.param(n, marks=pytest.mark.slow) for n in SCRIPTS])
def test_it_runs_as_a_script(name: str, tmp_path: Path) -> None:
    skip_without_needs(name)
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
    assert [line for line in done.stderr.splitlines() if not line.startswith(ASIDES)] == []
    if "--plot" in arguments:
        assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def names_of(example: str) -> dict[str, Any]:
    """What an example defines, as when it is imported."""
    skip_without_needs(example)
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
def test_the_utterances_are_those_of_the_data_set() -> None:
    utterances = names_of("speakers.py")["utterances"]
    for part, lengths, share in (
        ("TRAIN", (7, 26), [30] * 9),
        ("TEST", (7, 29), [31, 35, 88, 44, 29, 24, 40, 50, 29]),
    ):
        x, y = utterances(part)
        assert (x.shape[2], x.lengths.min(), x.lengths.max()) == (12, *lengths)
        assert np.bincount(y).tolist() == share


@pytest.mark.slow
def test_the_gaps_of_the_series_are_masked_and_weigh_nothing() -> None:
    names = names_of("co2.py")
    days, values = names["weekly"]()
    assert (len(values), np.isnan(values).sum(), str(days[-1])) == (2284, 59, "2001-12-29")
    start = np.flatnonzero(np.isnan(values))[-1] - 10  # a gap among what is forecast, and some before
    (read, known, ahead), targets, level = names["windows"](days, values, np.array([start]))
    assert (read.shape, known.shape, ahead.shape) == ((1, 156, 3), (1, 156), (1, 104, 2))
    assert (np.isnan(read[..., 0]) == ~known).all() and 0 < (~known).sum()
    assert np.isnan(targets).sum() == 1 and np.isfinite(read[..., 1:]).all()
    np.testing.assert_allclose(level + 5 * targets[..., 0], values[None, start : start + 104])


@pytest.mark.slow
def test_dates_are_encoded_with_padding_behind() -> None:
    names = names_of("dates.py")
    pairs = list(names["dates"](200, random.Random(2)))
    assert len({text for text, _ in pairs}) > 190
    x, y = names["encoded"](pairs)
    for (text, written), letters, characters in zip(pairs, x, y):
        assert "".join(names["LETTERS"][i - 1] for i in letters[: len(text)]) == text.lower()
        assert not letters[len(text) :].any()
        assert "".join(names["CHARACTERS"][i] for i in characters) == written


@pytest.mark.slow
@pytest.mark.parametrize(("example", "reader"), [("co2.py", "weekly"), ("speakers.py", "utterances")])
def test_data_that_is_missing_is_named_with_its_command(
    example: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = names_of(example)[reader]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="not installed: pip install --no-deps"):
        read(*["TRAIN"] * (reader == "utterances"))


@pytest.mark.slow
def test_addition_at_full_size_is_as_right_as_it_says() -> None:
    assert names_of("addition.py")["main"]() > 0.99


@pytest.mark.slow
def test_the_character_model_at_full_size_learns() -> None:
    assert names_of("char_model.py")["main"](epochs=1) < 2.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "is_as_promised"),
    [
        ("co2.py", lambda error: error < 1.3),
        ("dates.py", lambda share: share > 0.97),
        ("speakers.py", lambda share: share > 0.95),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_examples_on_real_data_at_full_size(example: str, is_as_promised: Any, tmp_path: Path) -> None:
    assert is_as_promised(names_of(example)["main"](plot=tmp_path / "drawn.png"))
