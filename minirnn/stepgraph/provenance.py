"""Where in the user's source a node came from, and the names that the source gives to values."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..autodiff.tensor import Node


@functools.lru_cache(maxsize=256)
def _assignments(filename: str, size: int) -> dict[int, tuple[tuple[str, ...], int]]:
    """For each line: the plain names that the statement there assigns, and the statement's first line."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return {}
    lines: dict[int, tuple[tuple[str, ...], int]] = {}
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            names = _target_names(statement.targets[0])
            for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1):
                lines[line] = (names, statement.lineno)
    return lines


def _target_names(target: ast.expr) -> tuple[str, ...]:
    if isinstance(target, ast.Name):
        return (target.id,)
    if isinstance(target, (ast.Tuple, ast.List)):
        return tuple(item.id if isinstance(item, ast.Name) else "" for item in target.elts)
    return ()


def node_names(nodes: Sequence[Node]) -> list[tuple[str, ...]]:
    """For each node the names of its outputs, "" where the source has none.

    The names of a statement belong to the last node that it made.
    """
    result: list[tuple[str, ...]] = []
    for position, node in enumerate(nodes):
        count = len(node.outputs)
        blank = ("",) * count
        result.append(blank)
        if node.source is None:
            continue
        filename, line, frame = node.source
        names, first = _assignments(filename, len(linecache.getlines(filename))).get(line, ((), line))
        following = nodes[position + 1].source if position + 1 < len(nodes) else None
        if following is not None and following[0] == filename and following[2] == frame:
            following_first = _assignments(filename, len(linecache.getlines(filename))).get(following[1], ((), 0))[1]
            if following_first == first:
                continue
        if len(names) == count:
            result[-1] = names
    return result


def source_line(node: Node) -> str:
    """`file.py:12: z = x @ kernel`, or an empty text where the source is not at hand."""
    if node.source is None:
        return ""
    filename, line, _ = node.source
    text = linecache.getline(filename, line).strip()
    return f"{Path(filename).name}:{line}: {text}" if text else ""


def argument_names(step: Any, position: int, count: int) -> list[str | None]:
    """Names for the leaves of a step's argument: as the step unpacks it (`h, c = carry`), or the argument's own."""
    blank: list[str | None] = [None] * count
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(step)))
        function = next(n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.Lambda)))
        argument = function.args.args[position]
    except (OSError, TypeError, SyntaxError, StopIteration, IndexError):
        return blank
    if count == 1:
        return [argument.arg]
    for statement in ast.walk(function):
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name):
            names = _target_names(statement.targets[0])
            if statement.value.id == argument.arg and len(names) == count and all(names):
                return list(names)
    return blank
