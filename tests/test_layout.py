"""The rooms of minirnn: imports point one way, files stay short, words mean one thing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minirnn"
MAX_LINES = 500

# Bottom first. A module may import its own room and the rooms of lower lines, wherever in the module
# the import stands. `minirnn/__init__.py` is the root above all, which nothing inside may import.
LEVELS = """
    version
    errors
    config
    autodiff
    stepgraph
    kernels
    cuda
    loop
    scan
    layers
    serialization
    streaming
    training
    models
    interop oracle bench
    demo
    cli
    __main__
"""
LEVEL = {room: level for level, line in enumerate(LEVELS.split("\n")) for room in line.split()}

# DESIGN's banned words, as far as no other meaning is likely.
BANNED = {"Box", "Function", "grad_output", "grad_outputs", "dout", "bprop", "saved_tensors", "inner_function"}
BANNED |= {"kernel_op", "taps", "seqs", "rnn_function", "push_out", "Wx", "weight_ih"}
BANNED_FILES = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
OTHER_FRAMEWORKS_WORDS = {"Wx", "weight_ih"}  # allowed in interop, which reads their files


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
INSIDE = [name for name in MODULES if name != "minirnn"]


def imported(module: str, source: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """The line and the absolute dotted name of everything that a module imports, at any depth of the code."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    name = argument.value
                    yield node.lineno, "minirnn" + name if name.startswith(".") else name


def upward_imports(module: str, source: str, is_package: bool = False) -> list[str]:
    own = module.split(".")[1]
    found = []
    for line, name in imported(module, source, is_package):
        top, _, rest = name.partition(".")
        room = rest.split(".")[0]
        if top != "minirnn" or room == own:
            continue
        if LEVEL.get(room, len(LEVEL)) >= LEVEL[own]:
            what = f"the room {room}" if room in LEVEL else f"{name}, which is in no room below it"
            found.append(f"{module}:{line} imports {what}")
    return found


def compiler_imports(module: str, source: str, is_package: bool = False) -> list[str]:
    if module.split(".")[1] == "kernels":
        return []
    names = [(line, name.split(".")[0]) for line, name in imported(module, source, is_package)]
    return [f"{module}:{line} imports {name}" for line, name in names if name in ("numba", "numba_cuda", "llvmlite")]


def identifiers(source: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(source)):
        line = getattr(node, "lineno", 0)
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(text := getattr(node, field, None), str):
                yield line, text


def banned_words(module: str, source: str) -> list[str]:
    banned = BANNED - OTHER_FRAMEWORKS_WORDS if module.startswith("minirnn.interop") else BANNED
    return [f"{module}:{line} says {word}" for line, word in identifiers(source) if word in banned]


def is_package(name: str) -> bool:
    return MODULES[name].name == "__init__.py"


def test_every_module_is_in_a_room() -> None:
    assert [name for name in INSIDE if name.split(".")[1] not in LEVEL] == []


@pytest.mark.parametrize("name", INSIDE)
def test_imports_point_one_way(name: str) -> None:
    assert upward_imports(name, MODULES[name].read_text(), is_package(name)) == []


@pytest.mark.parametrize("name", INSIDE)
def test_only_kernels_imports_numba(name: str) -> None:
    assert compiler_imports(name, MODULES[name].read_text(), is_package(name)) == []


@pytest.mark.parametrize("name", MODULES)
def test_words_mean_one_thing(name: str) -> None:
    assert banned_words(name, MODULES[name].read_text()) == []


def test_folders_are_packages() -> None:
    folders = {path.parent for path in MODULES.values()}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_files_are_short_and_named_after_what_they_hold() -> None:
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert {str(path): n for path in files if (n := len(path.read_text().splitlines())) > MAX_LINES} == {}
    assert [str(path) for path in files if path.name in BANNED_FILES] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("minirnn.scan", "from .layers import LSTM"),
        ("minirnn.scan", "from . import models"),
        ("minirnn.scan", "import minirnn.cli as command"),
        ("minirnn.scan", "from minirnn import layers"),
        ("minirnn.scan", "from minirnn.training.losses import mse"),
        ("minirnn.scan", "from . import *"),
        ("minirnn.scan", "def f():\n    from .layers.base import Layer\n"),
        ("minirnn.scan", "if TYPE_CHECKING:\n    from .layers.base import Layer\n"),
        ("minirnn.scan", "importlib.import_module('.models', __package__)"),
        ("minirnn.scan", "import_module('minirnn.models')"),
        ("minirnn.errors", "from .config import engine"),
        ("minirnn.config", "from . import __version__"),
        ("minirnn.config", "import minirnn"),
        ("minirnn.layers.core", "from ..models import Model"),
        ("minirnn.layers.core", "from .. import Tensor"),
        ("minirnn.oracle.cases", "from ..bench import run"),
    ],
)
def test_planted_upward_imports_are_caught(module: str, source: str) -> None:
    assert len(upward_imports(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("minirnn.scan", "import numpy\nfrom .autodiff.tensor import Tensor\nfrom .config import engine"),
        ("minirnn.layers.core", "from ..autodiff import ops\nfrom .base import Layer\nfrom . import initializers"),
        ("minirnn.config", "from .errors import ArgumentError\nfrom .version import __version__"),
        ("minirnn.cli", "from .bench import main\nfrom minirnn.layers import LSTM"),
    ],
)
def test_downward_imports_pass(module: str, source: str) -> None:
    assert upward_imports(module, source) == []


def test_relative_imports_of_a_package_start_in_it() -> None:
    assert upward_imports("minirnn.layers", "from .core import Dense\nfrom ..scan import scan", is_package=True) == []
    assert len(upward_imports("minirnn.layers", "from ..models import Model", is_package=True)) == 1


def test_planted_numba_and_banned_words_are_caught() -> None:
    assert len(compiler_imports("minirnn.layers.core", "def f():\n    import numba.cuda")) == 1
    assert compiler_imports("minirnn.kernels.build", "import numba") == []
    assert len(banned_words("minirnn.scan", "def pullback(grad_output): pass")) == 1
    assert len(banned_words("minirnn.scan", "x = module.weight_ih")) == 1
    assert banned_words("minirnn.interop.torch", "x = module.weight_ih") == []
