"""The pages: all of them linked, every public module in the reference, nothing that only one machine has."""

from __future__ import annotations

import re
import types
from pathlib import Path

import pytest

import minirnn as mr

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
CELL = re.compile(r"^```\{code-cell\}\n(:tags: \[([^\]]*)\]\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)
WIDTH = 84  # what a page shows of a line of code without scrolling


def test_every_page_can_be_reached() -> None:
    index = (DOCS / "index.md").read_text()
    tree = index.split("```{toctree}")[1].split("```")[0].split()
    assert {page.stem for page in PAGES} == {"index", *(word for word in tree if not word.startswith(":"))}


def test_the_reference_has_every_public_module() -> None:
    described = set(re.findall(r"automodule:: (\S+)", (DOCS / "api.md").read_text()))
    public = [getattr(mr, name) for name in mr.__all__]
    assert {m.__name__ for m in public if isinstance(m, types.ModuleType)} - described == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_fits_the_page_and_compiles(page: Path) -> None:
    for _, tags, code in CELL.findall(page.read_text()):
        compile(code, page.name, "exec")
        if not tags:
            assert [line for line in code.splitlines() if len(line) > WIDTH] == []


@pytest.mark.parametrize("path", [*PAGES, *DOCS.glob("*.py")], ids=lambda path: path.name)
def test_no_page_knows_the_machine_it_was_written_on(path: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:work|home|tmp|root)\b\S*", path.read_text()) == []
