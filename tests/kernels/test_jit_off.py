"""With NUMBA_DISABLE_JIT=1 printed kernels run as plain Python, with the same results to rounding."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minirnn.kernels import lanes, twins

from . import engine_cases as cases
from . import step_cases as _more_cases  # noqa: F401  (they enter themselves in the list)

ROOT = Path(__file__).parents[2]
LONGER = ("100 steps", "in segments", "in_segments", "reversed", "stateful", "dropout", "GRU reset", "gru_hessian")
BY_DEFAULT = [name for name in cases.CASES if not any(word in name for word in LONGER)]


def without_jit(*arguments: str, timeout: float = 3000) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, timeout=timeout, capture_output=True, text=True
    )


def results_without_jit(folder: Path, dtypes: str, names: list[str]) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """By case and dtype what it gave, or what went wrong."""
    done = without_jit("-m", "tests.kernels.step_cases", str(folder / "made.npz"), dtypes, *names)
    assert done.returncode == 0, done.stderr
    made: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    with np.load(folder / "made.npz") as arrays:
        for key, array in arrays.items():
            name, dtype, label = key.split("|")
            made.setdefault((name, dtype), {})[label] = array
    return made


def check(made: dict[str, np.ndarray], name: str, dtype: str) -> None:
    assert "failed" not in made, str(made["failed"])
    wanted = cases.evaluate(name, dtype, "reference")
    assert cases.disagreement(made, wanted, cases.TOLERANCE[dtype]) == {}


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return results_without_jit(tmp_path_factory.mktemp("without-jit"), "float64", BY_DEFAULT)


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_agreement_with_the_reference(name: str, some: Any) -> None:
    check(some[name, "float64"], name, "float64")


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return results_without_jit(tmp_path_factory.mktemp("without-jit"), "float64,float32", [*cases.CASES])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("name", cases.CASES)
def test_agreement_of_every_case(name: str, dtype: str, every: Any) -> None:
    check(every[name, dtype], name, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    "test",
    [
        "test_random_steps",
        "test_masked_random_steps",
        "test_any_subset_of_the_passes_gives_the_same_bits",
        "test_all_of_the_containers_grid",
    ],
)
def test_in_a_process_without_the_jit(test: str) -> None:
    done = without_jit("-m", "pytest", "-q", "-m", "", f"tests/kernels/jit_off_cases.py::{test}")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr


# twins -------------------------------------------------------------------------------------------
def defined(module: Any) -> dict[str, ast.AST]:
    """The public functions that a module's text defines, in whatever way, and the names it gives values."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found.update({target.id: node for target in node.targets if isinstance(target, ast.Name)})
    return {name: node for name, node in found.items() if not name.startswith("_")}


def test_every_intrinsic_has_a_twin_with_the_same_arguments() -> None:
    functions, others = defined(lanes), defined(twins)
    # Pointers made of addresses are for bound steps, which never run without the JIT.
    functions = {name: node for name, node in functions.items() if not name.endswith("_at")}
    assert functions.keys() <= others.keys()
    assert others.keys() - functions.keys() <= {"LANES", "place_in"}  # its one helper
    for name, node in functions.items():
        other = others[name]
        if isinstance(node, ast.FunctionDef) and isinstance(other, ast.FunctionDef):
            arguments = [a.arg for a in node.args.args if a.arg != "typing"]
            assert arguments == [a.arg for a in other.args.args], name


def test_twins_notice_what_reaches_outside_of_an_array() -> None:
    x = np.arange(12.0).reshape(3, 4)
    for view in (x, x[::-1], x[:, ::-1], x[::2, 1:], x.T):
        row, column = (stride // 8 for stride in view.strides)
        for i in range(view.shape[0]):
            for j in range(view.shape[1]):
                assert twins.element(view, i * row + j * column) == view[i, j]
    for array, offset in ((x, 12), (x, -1), (x[1:], -1), (x[:, :2], 10), (x[::-1], 4), (x[::-1], -9)):
        with pytest.raises(IndexError):
            twins.element(array, offset)
        with pytest.raises(IndexError):
            twins.put(array, offset, 1.0)
    assert x.ravel().tolist() == list(range(12))
