"""The README's Python runs as it stands, from the first block to the last."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

README = Path(__file__).parent.parent / "README.md"


def test_python_blocks_run_in_order() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert np.shape(names["kernel_gradient"]) == (3, 4) and np.shape(names["ys"]) == (100, 2, 4)
    assert len(names["history"].history["loss"]) == 2  # type: ignore[attr-defined]


def test_the_printed_graph_is_what_the_readme_says() -> None:
    text = README.read_text(encoding="utf-8")
    first = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]
    (shown,) = re.findall(r"`print\((mr\.step_graph\(.*?\))\)`", text)
    names: dict[str, object] = {}
    exec(compile(first, "README.md", "exec"), names)
    graph = str(eval(shown, names))
    operations = [line for line in graph.splitlines() if line.startswith("  ")]
    assert [line.split(" = ")[1].partition("(")[0] for line in operations] == ["contract", "contract", "add", "tanh"]
