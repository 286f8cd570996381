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


def test_what_the_readme_says_of_the_printed_graph() -> None:
    text = README.read_text(encoding="utf-8")
    assert "mr.step_graph(step, np.zeros((2, 4)), xs)" in text
