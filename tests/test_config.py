"""Settings: of the process or of a block, what they refuse, and what bug reports show."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import config
from minirnn.errors import ArgumentError


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No number of threads chosen, and no functions for arrays; both as before when a test ends."""
    monkeypatch.delenv("MINIRNN_THREADS", raising=False)
    monkeypatch.setattr(config._threads, "process_value", None)
    monkeypatch.setattr(config, "_loaders", {})
    monkeypatch.setattr(config, "_array_functions", {})
    monkeypatch.setattr(config, "_devices", {})
    yield


# engine -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", config.ENGINES)
def test_engines(name: str) -> None:
    mr.engine(name)
    assert config.current_engine() == (config._AUTO if name == "auto" else name)
    with mr.engine("reference"):
        assert config.current_engine() == "reference" and config.current_engine("cpu") == "cpu"
    assert config.current_engine("auto") == config._AUTO != "auto"


def test_an_unknown_engine_is_refused_and_changes_nothing() -> None:
    mr.engine("cpu")
    with pytest.raises(ArgumentError, match="one of auto, reference, numpy, cpu, cuda"):
        mr.engine("gpu")
    with pytest.raises(ArgumentError, match="'fast'"):
        config.current_engine("fast")
    assert config.current_engine() == "cpu"


# threads ------------------------------------------------------------------------------------------------
def test_threads_are_the_cores_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5}, raising=False)
    assert config.current_threads() == 3
    monkeypatch.setattr(config._threads, "process_value", None)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert config.current_threads() == os.cpu_count()


def test_threads_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIRNN_THREADS", "7")
    assert config.current_threads() == 7
    mr.threads(2)
    assert config.current_threads() == 2


@pytest.mark.parametrize("text", ["0", "-1", "many", "2.5"])
def test_a_wrong_environment_is_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MINIRNN_THREADS", text)
    with pytest.raises(ArgumentError, match="MINIRNN_THREADS"):
        config.current_threads()


def test_threads_of_the_process_and_of_a_block() -> None:
    mr.threads(5)
    with mr.threads(np.int64(3)):  # type: ignore[arg-type]
        assert config.current_threads() == 3 and type(config.current_threads()) is int
        with mr.threads(1):
            assert config.current_threads() == 1
        assert config.current_threads() == 3
        seen: list[int] = []
        other = threading.Thread(target=lambda: seen.append(config.current_threads()))
        other.start()
        other.join()
        assert seen == [5]
        assert contextvars.Context().run(config.current_threads) == 5
    assert config.current_threads() == 5


def test_a_block_before_any_choice_leaves_the_default() -> None:
    default = config.current_threads()
    config._threads.process_value = None
    with mr.threads(default + 1):
        assert config.current_threads() == default + 1
    assert config.current_threads() == default


@pytest.mark.parametrize("wrong", [0, -1, 2.0, "2", None, True, np.array([2])])
def test_wrong_numbers_of_threads(wrong: Any) -> None:
    mr.threads(4)
    with pytest.raises(ArgumentError, match="at least 1"):
        mr.threads(wrong)
    assert config.current_threads() == 4


# functions that run primitives on arrays ----------------------------------------------------------------
def test_array_functions_follow_the_engine_and_are_loaded_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load() -> dict[str, Any]:
        loaded.append("cpu")
        return {"tanh": max}

    config.register_array_functions("cpu", load)
    for name in ("numpy", "reference"):
        with mr.engine(name):
            assert config.array_function("tanh") is None
    assert loaded == []
    for _ in range(2):
        with mr.engine("cpu"):
            assert config.array_function("tanh") is max and config.array_function("exp") is None
    mr.engine("cpu")
    assert config.array_function("tanh") is max and loaded == ["cpu"]


def test_array_functions_of_auto_are_those_of_what_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "_AUTO", "cpu")
    mr.engine("auto")
    config.register_array_functions("cpu", lambda: {"tanh": max})
    assert config.array_function("tanh") is max
    config.register_array_functions("cpu", lambda: {"tanh": min})
    assert config.array_function("tanh") is min


# the cache folder ---------------------------------------------------------------------------------------
def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MINIRNN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setattr("sys.platform", "linux")
    assert config.cache_folder() == Path("/home/someone/.cache/minirnn")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the XDG specification says to ignore
    assert config.cache_folder() == Path("/home/someone/.cache/minirnn")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/caches")
    assert config.cache_folder() == Path("/var/caches/minirnn")
    monkeypatch.setattr("sys.platform", "darwin")
    assert config.cache_folder() == Path("/home/someone/Library/Caches/minirnn")
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert config.cache_folder() == Path("/local/minirnn")
    monkeypatch.setenv("MINIRNN_CACHE", "~/kernels")
    assert config.cache_folder() == Path("/home/someone/kernels")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIRNN_CACHE", "here")
    assert config.cache_folder() == tmp_path / "here"


# for bug reports ----------------------------------------------------------------------------------------
def test_show_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MINIRNN_CACHE", str(tmp_path))
    (tmp_path / f"{config.CACHE_PREFIX}x__0123456789abcdef.py").write_text("#" * 100_000)
    (tmp_path / "other").write_text("#" * 1_000_000)
    with mr.threads(3), mr.engine("reference"):
        mr.show_config()
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["minirnn"] == mr.__version__ and shown["numpy"] == np.__version__
    assert "llvmlite" in shown["numba"] and "cores" in shown["processor"] and shown["determinism"]
    assert shown["threads"] == "3" and shown["engine"] == "reference (runs as reference)"
    assert shown["cache"] == f"{tmp_path} (0.1 MB)"


def test_show_config_without_numba_a_home_or_linux(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.metadata

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    def unreadable(*_: Any, **__: Any) -> str:
        raise OSError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr(Path, "read_text", unreadable)
    for name in ("MINIRNN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    mr.show_config()
    out = capsys.readouterr().out
    assert "missing, llvmlite missing" in out and "none: " in out
