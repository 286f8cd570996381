"""What every test relies on: the peers' back ends, repeatable examples, and no silent skips where none may be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

import minirnn as mr

# Read by the peers when they are first imported.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

GOLDEN = Path(__file__).parent / "golden"
REQUIRE_PEERS = os.environ.get("MINIRNN_REQUIRE_PEERS", "") not in ("", "0")

# Shared machines stall now and then, so no example has a deadline. Under CI=true hypothesis loads its own
# profile, which has none either and draws the same examples in every run.
settings.register_profile("minirnn", deadline=None)
if not os.environ.get("CI"):
    settings.load_profile("minirnn")


@pytest.fixture(scope="session")
def need() -> Callable[[str], ModuleType]:
    """`need("onnxruntime")` is that module; without it the test is skipped, saying how to get it.

    Only tests marked `peers` ask for it, in their body or in a fixture, never at the top of their module.
    """

    def import_or_skip(name: str) -> ModuleType:
        reason = f"{name} is not installed: pip install -e '.[peers,interop]'"
        return pytest.importorskip(name, reason=reason, exc_type=ImportError)

    return import_or_skip


@pytest.fixture(autouse=True)
def _as_at_the_start() -> Iterator[None]:
    """Every test begins with the same seed, and what it sets for the whole process ends with it."""
    mr.seed(0)
    mr.engine("numpy")
    yield
    mr.engine("numpy")
    mr.default_dtype("float32")


def pytest_configure() -> None:
    """Only tests of kernels choose the compiled engine: compiling takes seconds.  This holds for doctests, too."""
    mr.engine("numpy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files of tests/golden/ anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("lstm.txt", text)` compares with that file of tests/golden/, or writes it under --update-golden."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden file {name}: run pytest with --update-golden, then read what it wrote"
        assert text == path.read_text(encoding="utf-8"), f"{name} differs: if that is meant, pytest --update-golden"

    return compare


def _fail_if_skipped(report: Any) -> Any:
    """Where every peer must be there, a skip means that a comparison was silently left out.

    Not so for a GPU, which no package brings along.
    """
    no_device = "there is no CUDA device here" in str(report.longrepr)
    if REQUIRE_PEERS and report.skipped and not hasattr(report, "wasxfail") and not no_device:
        report.outcome, report.longrepr = "failed", f"skipped although MINIRNN_REQUIRE_PEERS is set: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    return _fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    return _fail_if_skipped((yield))
