"""Small kernels, and how a process gets them that has not used them yet: this one, made to forget, or another."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minirnn.kernels import build, cache

ROOT = Path(__file__).parents[2]
ON_FLOATS = "void(float64[::1], int64)"
DOUBLE = """
@kernel
def double(x, n):
    for i in range(n):
        x[i] = 2 * x[i]
"""
HELPER = """
from minirnn.kernels.build import library_function

@library_function
def plus_one(x):
    return x + 1

@library_function
def plus_two(x):
    return plus_one(plus_one(x))
"""
LINKED = """
from a_helper import plus_two

@kernel
def add(x, n):
    for i in range(n):
        x[i] = plus_two(x[i])
"""


def forget() -> None:
    build._compiled.clear()
    cache._reported.clear()
    cache.kept_folder.cache_clear()
    cache.own_folder.cache_clear()


def double(text: str = DOUBLE, label: str = "double", signature: Any = ON_FLOATS) -> Any:
    """The kernel, as a process that has not used it yet gets it; its result is checked."""
    build._compiled.clear()
    function = build.compiled(text, "double", label=label, signature=signature)
    x = np.array([1.0, 2.0, 3.0])
    function(x, 2)
    assert x.tolist() == [2, 4, 3]
    return function


def hits(function: Any) -> tuple[int, int]:
    return sum(function.stats.cache_hits.values()), sum(function.stats.cache_misses.values())


def files(folder: Path, ending: str) -> list[Path]:
    return sorted(folder.rglob("*" + ending))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_bytes(b"\x93" * path.stat().st_size)


DAMAGES = [cut, empty, overwrite, os.unlink]


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of helpers, as a process that has not used it yet imports it."""
    path = tmp_path / "a_helper.py"
    path.write_text(HELPER)
    spec = importlib.util.spec_from_file_location("a_helper", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "a_helper", module)
    monkeypatch.setattr(build, "_library", [])
    build._paths.pop("a_helper", None)
    spec.loader.exec_module(module)
    return module


def linked(more: str = "", signature: str = ON_FLOATS) -> Any:
    build._compiled.clear()
    function = build.compiled(LINKED + more, "add", label="add", signature=signature)
    x = np.ones(2, "float32" if "float32" in signature else "float64")
    function(x, 1)
    assert x.tolist() == [3, 1]
    return function


PROGRAM = """
import json, os, sys
import numpy as np
from minirnn.kernels import build, cache
LINKED = {text!r}

def run(dtype, text=LINKED):
    signature = "void(" + dtype + "[::1], int64)"
    function = build.compiled(text, "add", label="add", signature=signature)
    x = np.ones(2, dtype)
    function(x, 1)
    assert x.tolist() == [3, 1], x
    stats = getattr(function, "stats", None)
    return stats and [sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]
"""


def start(folder: Path, code: str, **environment: str) -> subprocess.Popen[str]:
    """A process that runs the code, after PROGRAM, with the cache in this folder and a_helper beside it."""
    (folder.parent / "a_helper.py").write_text(HELPER)
    paths = os.pathsep.join([str(ROOT), str(folder.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(text=LINKED) + code],
        env={**os.environ, "PYTHONPATH": paths, "MINIRNN_CACHE": str(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[Any, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out), err
