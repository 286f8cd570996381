"""What installing and importing minirnn promises."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
import os
import subprocess
import sys

import minirnn

MAX_IMPORT_SECONDS = 0.1  # beyond NumPy's own import
ATTEMPTS = 5

REPORT = """
import json, sys, time
import numpy
before, start = set(sys.modules), time.perf_counter()
import minirnn
seconds = time.perf_counter() - start
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps({"seconds": seconds, "others": sorted(new - sys.stdlib_module_names - {"numpy", "minirnn"})}))
"""


def import_report() -> dict:
    # Byte code is kept between the attempts, as on any machine where minirnn is imported a second time.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", REPORT]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


def test_importing_minirnn_loads_numpy_and_the_standard_library_only() -> None:
    assert import_report()["others"] == []


def test_importing_minirnn_is_quick() -> None:
    # The quickest of a few: other programs can only make it slower.
    seconds = []
    while len(seconds) < ATTEMPTS and (not seconds or seconds[-1] > MAX_IMPORT_SECONDS):
        seconds.append(import_report()["seconds"])
    assert min(seconds) <= MAX_IMPORT_SECONDS


def test_version_is_the_installed_one() -> None:
    assert minirnn.__version__ == importlib.metadata.version("minirnn")


def test_core_dependencies_are_numpy_and_numba_only() -> None:
    requirements = importlib.metadata.requires("minirnn") or []
    assert sorted(line.split(">")[0] for line in requirements if "extra ==" not in line) == ["numba", "numpy"]


def test_the_command_is_installed() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="minirnn")
    assert callable(command.load())


def test_types_are_declared_and_the_licence_travels_along() -> None:
    assert (importlib.resources.files("minirnn") / "py.typed").is_file()
    assert importlib.metadata.metadata("minirnn")["License-Expression"] == "MIT"


def test_public_names_exist() -> None:
    assert [name for name in minirnn.__all__ if not hasattr(minirnn, name)] == []
