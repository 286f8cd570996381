"""The command: what it prints, what it leaves behind, and how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import cli
from minirnn.demo import charmodel, run
from minirnn.layers import Dense, Input
from minirnn.models import Sequential, load_model

PROSE = "It was the best of times, it was the worst of times.\n" * 40
ROOT = Path(__file__).parent.parent
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """`command("train", ...)` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(arguments)
        except SystemExit as stop:
            code = stop.code  # type: ignore[assignment]
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    assert [path.name for path in tmp_path.rglob("*") if path.name.endswith(".tmp")] == []


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "prose.txt").write_text(PROSE, encoding="utf-8")
    return "prose.txt"


SMALL = ("--units", "8", "--epochs", "20")


def train(command: Command, text: str, *more: str) -> tuple[int, str, str]:
    return command("train", "--text", text, *SMALL, *more)


# demo ---------------------------------------------------------------------------------------------------
def test_demo_in_short(command: Command) -> None:
    code, out, err = command("demo", "--units", "8", "--epochs", "0.05")
    assert (code, err) == (0, "")
    told = [
        "pydoc_data.topics", "in bits per character: unigram 4.", "trigram 2.", "Before training it writes:",
        "Round 1 - 20/20", "held-out: ", "this LSTM", "the trigram", "After training it writes:", "  | The ",
        "Saved minirnn-demo.safetensors", "minirnn generate minirnn-demo.safetensors --prompt 'The ' --temperature",
        "minirnn train --text FILE",
    ]  # fmt: skip
    at = 0
    for part in told:
        at = out.index(part, at)  # each after the one before
    model = load_model("minirnn-demo.safetensors")
    assert model.metadata["made_by"] == "minirnn demo" and model.optimizer.iterations == 20
    code, out, err = command("generate", "minirnn-demo.safetensors", "--length", "5")
    assert (code, err) == (0, "") and out.startswith("The ")
    # The demo's own model is replaced, and an equal seed makes the same one.
    assert command("demo", "--units", "8", "--epochs", "0.05")[0] == 0
    for first, second in zip(model.get_weights(), load_model("minirnn-demo.safetensors").get_weights(), strict=True):
        assert (first == second).all()


def test_demo_replaces_no_other_file(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "python_topics", lambda: pytest.fail("work before the check"))
    (tmp_path / "minirnn-demo.safetensors").write_text("a diary")
    code, out, err = command("demo")
    assert (code, out) == (1, "") and "exists already" in err and "--overwrite" in err
    assert (tmp_path / "minirnn-demo.safetensors").read_text() == "a diary"
    assert "no folder" in command("demo", "--out", "missing/m")[2]


@pytest.mark.slow
def test_demo_beats_the_trigram(tmp_path: Path) -> None:
    done = in_a_process("demo", "--seconds", "25", cwd=tmp_path).communicate(timeout=300)
    assert "It beats the trigram by" in done[0] and complaints(done[1]) == []


# source -----------------------------------------------------------------------------------------------
def test_source_prints_the_loop_of_a_layer(command: Any) -> None:
    code, forward, err = command("source", "GRU", "--dtype", "float64")
    assert (code, err) == (0, "") and forward.count("product(") == 2 and "tanh_f64" in forward
    code, backward, err = command("source", "GRU", "--backward")
    assert (code, err) == (0, "") and "ct_" in backward and "work_float32" in backward and "tanh" not in backward


def test_source_prints_the_loops_of_a_saved_model(command: Any) -> None:
    charmodel.build(3, 4).save("m")
    code, out, err = command("source", "m")
    assert (code, err) == (0, "") and out.count("def step_loop") == 1 and "# lstm" in out
    Sequential([Input((3,)), Dense(2)]).save("flat")
    code, out, err = command("source", "flat")
    assert (code, out) == (1, "") and "no layer of the model has a loop" in err
    code, out, err = command("source", "LTSM")
    assert (code, out) == (1, "") and "LTSM" in err


# train --------------------------------------------------------------------------------------------------
def test_train_and_generate(command: Command, text: str) -> None:
    code, out, err = train(command, text)
    assert (code, err) == (0, "")
    assert "Saved minirnn-prose.safetensors" in out and "minirnn generate minirnn-prose.safetensors" in out
    again = ("generate", "minirnn-prose.safetensors", "--prompt", "It was", "--length", "40", "--seed", "3")
    code, out, err = command(*again)
    assert (code, err) == (0, "") and out.startswith("It was") and len(out) == len("It was") + 40 + 1
    assert command(*again)[1] == out
    assert command(*again[:-1], "4")[1] != out
    code, coldest, _ = command(*again, "--temperature", "0")
    assert code == 0 and command(*again[:-1], "9", "--temperature", "0")[1] == coldest


def test_stop_and_resume_equals_an_uninterrupted_run(
    command: Command, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(command, text, "--out", "whole")[0] == 0
    after = load_model("whole").optimizer.iterations // 3

    def interrupted(model: Any, *batch: Any) -> Any:
        if model.optimizer.iterations == after:
            raise KeyboardInterrupt
        return original(model, *batch)

    original = Sequential.train_on_batch
    with monkeypatch.context() as patched:
        patched.setattr(Sequential, "train_on_batch", interrupted)
        code, out, err = train(command, text, "--out", "part")
    assert code == 130 and f"interrupted after step {after} of" in err and "--resume part" in err
    assert load_model("part").optimizer.iterations == after
    code, out, err = command("train", "--text", text, "--resume", "part")
    assert (code, err) == (0, "") and f"trained for {after} steps" in out
    for first, second in zip(load_model("whole").get_weights(), load_model("part").get_weights(), strict=True):
        assert (first == second).all()
    # What is finished goes on only for as long as it is told to.
    code, out, err = command("train", "--text", text, "--resume", "part")
    assert code == 1 and "--epochs" in err
    before = load_model("part").optimizer.iterations
    assert command("train", "--text", text, "--resume", "part", "--epochs", "2", "--out", "more")[0] == 0
    assert load_model("more").optimizer.iterations > before == load_model("part").optimizer.iterations


def test_resume_asks_for_the_same_text_and_a_model_that_can(command: Command, text: str, tmp_path: Path) -> None:
    train(command, text, "--out", "m")
    (tmp_path / "other.txt").write_text(PROSE + "!")
    code, _, err = command("train", "--text", "other.txt", "--resume", "m")
    assert code == 1 and "another text" in err and "prose.txt" in err
    model = load_model("m", compile=False)
    model.save("uncompiled")
    code, _, err = command("train", "--text", text, "--resume", "uncompiled", "--epochs", "1")
    assert code == 1 and "cannot be gone on with" in err
    code, _, err = command("train", "--text", text, "--resume", "m", "--units", "9", "--epochs", "1")
    assert code == 1 and "--units" in err


def test_train_replaces_a_model_only_when_told(command: Command, text: str) -> None:
    assert train(command, text)[0] == 0
    before = Path("minirnn-prose.safetensors").read_bytes()
    code, _, err = train(command, text, "--seed", "2")
    assert code == 1 and "exists already" in err and Path("minirnn-prose.safetensors").read_bytes() == before
    assert train(command, text, "--seed", "2", "--overwrite")[0] == 0
    assert Path("minirnn-prose.safetensors").read_bytes() != before


def test_a_text_without_latin_letters(command: Command, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(
        "春眠暁を覚えず処処啼鳥を聞く夜来風雨の声花落つること知る多少" * 60, encoding="utf-8"
    )
    assert train(command, "text", "--out", "m")[0] == 0
    code, out, err = command("generate", "m", "--length", "5")
    assert code == 0 and len(out) == 1 + 5 + 1
    code, _, err = command("generate", "m", "--prompt", "spring")
    assert code == 1 and "does not know" in err and "got: g, i, n, p, r, s" in err


# what goes wrong ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"\x00\xff" * 900, "UTF-8"),
        (b"a\x00" * 900, "binary"),
        (b"a", "short"),
    ],
)
def test_bad_texts(command: Command, tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    code, out, err = command("train", "--text", "text")
    assert code == 1 and out == "" and err.startswith("minirnn: error: ") and message in err
    assert [path.name for path in tmp_path.iterdir() if path.name != "text"] == []


def test_bad_models(command: Command, tmp_path: Path) -> None:
    code, _, err = command("generate", "missing")
    assert code == 1 and "No such file" in err
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text(PROSE)
    Sequential([Input((3,)), Dense(2)]).save("other")
    model = charmodel.build(5, 3)
    model.metadata = {"characters": "abcde"}
    model.save("model")
    whole = (tmp_path / "model").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-40])
    (tmp_path / "damaged").write_bytes(whole[:30] + bytes([whole[30] ^ 0xFF]) + whole[31:])
    for name in ("empty", "text", "other", "cut", "damaged", "."):
        code, out, err = command("generate", name)
        assert code == 1 and out == "" and err.startswith("minirnn: error: ") and "Traceback" not in err, name
    assert "not one of characters" in command("generate", "other")[2]
    assert command("generate", "model", "--length", "3")[0] == 0
    assert "empty" in command("generate", "model", "--prompt", "")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dance",),
        ("train",),
        ("generate",),
        ("demo", "--seed", "-1"),
        ("demo", "--units", "0"),
        ("demo", "--seconds", "nan"),
        ("demo", "--epochs", "-1"),
        ("generate", "m", "--temperature", "-0.5"),
        ("generate", "m", "--temperature", "inf"),
        ("generate", "m", "--length", "many"),
        ("bench", "--grid", "everything"),
        ("bench", "--cells", "quantum"),
        ("bench", "--threads", "0"),
    ],
)
def test_wrong_usage(command: Command, arguments: tuple[str, ...]) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "") and err.startswith("usage: minirnn")


def test_control_characters_of_a_model_do_not_reach_the_terminal(command: Command) -> None:
    model = charmodel.build(2, 3)
    model.metadata = {"characters": "\x1b["}
    model.save("m")
    code, out, _ = command("generate", "m", "--prompt", "[", "--length", "50", "--temperature", "5")
    assert code == 0 and "\x1b" not in out and "\ufffd" in out


def test_an_error_below_is_told_in_one_message(command: Command, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "minirnn-prose.safetensors")

    monkeypatch.setattr(Sequential, "save", full)
    code, _, err = train(command, text)
    assert code == 1 and "No space left on device" in err and "Traceback" not in err
    monkeypatch.setattr(run, "train", lambda *_: np.zeros(10**18))
    code, _, err = train(command, text)
    assert code == 1 and "memory" in err


# bench, config ------------------------------------------------------------------------------------------
BENCH = ("bench", "--grid", "sequence", "--quick", "--rounds", "1", "--engine", "numpy", "--cells", "simple_rnn")


def test_bench(command: Command) -> None:
    code, out, err = command(*BENCH, "--peers")
    assert code == 0 and "1/1 simple_rnn forward B=1 H=16: numpy" in err
    assert "numpy ms" in out and out.splitlines()[-1] == "Targets: 1 not judged"
    code, out, err = command(*BENCH, "--peers", "--markdown", "--json", "found.json")
    assert code == 0 and "### Whole sequence, one row" in out
    assert json.loads(Path("found.json").read_text())["rows"][0]["units"] == 16
    code, out, err = command(*BENCH, "--peers", "--json", "-")
    assert code == 0 and json.loads(out)["rows"][0]["engine"] == "numpy"
    code, out, err = command("bench", "--overhead", "--quick", "--engine", "numpy")
    assert code == 0 and "overhead" in out and "Whole sequence" not in out


def test_bench_begins_anew_with_everyones_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments) or sys.exit(7))
    monkeypatch.setattr(sys, "argv", ["minirnn", *BENCH, "--threads", "3"])
    with pytest.raises(SystemExit, match="7"):
        cli.main()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    ((_, _, environment),) = started
    assert environment["OPENBLAS_NUM_THREADS"] == environment["PJRT_NPROC"] == "3"


def test_config_and_version(command: Command) -> None:
    code, out, _ = command("config")
    assert code == 0 and mr.__version__ in out and "numpy" in out
    assert command("--version")[1].strip() == f"minirnn {mr.__version__}"


# as a process -------------------------------------------------------------------------------------------
def in_a_process(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "minirnn", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def complaints(err: str) -> list[str]:
    """The lines of stderr but those that tell of a first compilation."""
    return [line for line in err.splitlines() if not line.startswith("minirnn: compiled ")]


def test_interrupting_the_demo_leaves_nothing(tmp_path: Path) -> None:
    process = in_a_process("demo", "--units", "8", cwd=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Training"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and complaints(err) == ["minirnn: interrupted; no model was saved"]
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    model = charmodel.build(3, 4)
    model.metadata = {"characters": "abc"}
    model.save(tmp_path / "m")
    process = in_a_process("generate", "m", "--length", "100000", cwd=tmp_path)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(20).strip("abc") == ""  # it writes as it goes
    process.stdout.close()
    assert complaints(process.stderr.read()) == [] and process.wait(timeout=60) == 1
    process.stderr.close()


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    model = charmodel.build(2, 4)
    model.metadata = {"characters": "é春"}
    model.save(tmp_path / "m")
    process = in_a_process("generate", "m", "--prompt", "é", "--length", "30", cwd=tmp_path, PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "") and "\\xe9" in out


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a process cannot begin anew")
def test_training_runs_with_one_blas_thread_unless_told_otherwise(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocked() -> set[int]:
        return signal.pthread_sigmask(signal.SIG_BLOCK, ())

    started: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append((*arguments, signal.SIGINT in blocked())))
    for name in cli._BLAS_THREADS:
        monkeypatch.delenv(name, raising=False)
    cli._begin_anew_with_one_blas_thread()
    (program, arguments, environment, ctrl_c_waits), *others = started
    assert (program, arguments, others) == (sys.executable, sys.orig_argv, [])
    assert environment["OPENBLAS_NUM_THREADS"] == "1" and ctrl_c_waits
    command("config")
    assert signal.SIGINT not in blocked()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    cli._begin_anew_with_one_blas_thread()
    assert len(started) == 1
