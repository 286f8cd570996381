"""What pages show beside pictures: plots of matplotlib in the page's own colours, and minirnn's source."""

from __future__ import annotations

import ast
import html
import importlib
import inspect
import io
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
from drawing import INK
from IPython.display import HTML, Markdown

matplotlib.use("svg")
PALETTE = ["#3a86c8", "#d9822b", "#2a9d74", "#b05fa8", "#8a8f98"]
_STAND_IN = "#010203"  # a colour that no plot uses, for the page's own

# The kernel sends what a cell prints in pieces, and a piece may end within a line; with this there is one at the end.
if hasattr(sys.stdout, "flush_interval"):
    sys.stdout.flush_interval = 600


def axes(height: float = 2.8, width: float = 7.2, **options: Any) -> Any:
    """A figure and its axes, in the page's colours; give the figure to `show`. options: of plt.subplots."""
    page = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color")
    plt.rcParams.update(dict.fromkeys(page, _STAND_IN))
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 9.5,
            "figure.constrained_layout.use": True,
            "font.size": 9.5,
            "legend.frameon": False,
            "svg.fonttype": "none",
        }
    )
    return plt.subplots(figsize=(width, height), **options)


def show(figure: Any, label: str) -> Any:
    """The figure as part of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_STAND_IN, INK)
    described = f'<svg role="img" aria-label="{html.escape(label)}" style="max-width: 100%; height: auto" '
    return HTML(text.replace("<svg ", described, 1))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Any:
    """A table; text between backticks is code, between double stars bold."""

    def shown(cell: Any) -> str:
        text = re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(str(cell)))
        return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)

    lines = [f"<tr>{''.join(f'<th>{shown(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{shown(cell)}</td>' for cell in row)}</tr>" for row in rows]
    style = 'class="docutils" style="display: block; overflow-x: auto; width: fit-content; max-width: 100%"'
    return HTML(f"<table {style}>{''.join(lines)}</table>")


def excerpt(module: str, name: str) -> Any:
    """The statement of a module that defines a name, as highlighted code."""
    source = inspect.getsource(importlib.import_module(module))
    for statement in ast.parse(source).body:
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else getattr(statement, "targets", [])
        if name in [getattr(statement, "name", None), *[getattr(target, "id", None) for target in targets]]:
            return Markdown(f"```python\n{ast.get_source_segment(source, statement)}\n```")
    raise LookupError(f"{module} defines no {name}")


def module_lines(package: str, descriptions: dict[str, str]) -> Any:
    """A table of a package's files: lines and contents. LookupError if it has others than those described."""
    folder = Path(importlib.import_module(package).__file__ or "").parent
    found = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    if found != set(descriptions):
        raise LookupError(f"files of {package} that differ from their table: {sorted(found ^ set(descriptions))}")
    counts = {stem: len((folder / f"{stem}.py").read_text().splitlines()) for stem in descriptions}
    rows: list[Sequence[Any]] = [(f"`{stem}.py`", counts[stem], text) for stem, text in descriptions.items()]
    return table(("file", "lines", "what"), [*rows, ("together", sum(counts.values()), "")])
