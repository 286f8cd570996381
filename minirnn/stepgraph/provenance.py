"""Where in the user's source a node came from, and the names that the source gives to values."""

from __future__ import annotations

import ast
import functools
import linecache
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..autodiff.tensor import Node
from ..autodiff.trace import Place
from ..autodiff.trees import LEAF

Span = tuple[Any, ...]  # first line, last line, first column, column after the last
Pattern = Any  # a name, "" for none, or a tuple of patterns


def name_outputs(nodes: Sequence[Node]) -> None:
    """Give the outputs of traced nodes the names that the source assigns them to.

    Of several nodes that one expression made, the last one is its value.  What a function returns
    has the name that its caller gives it, unless it has one inside.
    """
    for node, following in zip(nodes, [*nodes[1:], None], strict=False):
        places: tuple[Place, ...] = node.source or ()
        others: tuple[Place, ...] = (following.source or ()) if following is not None else ()
        for depth, place in enumerate(places):
            if not place.frame:
                continue
            outer = places[depth:]
            if outer == others[len(others) - len(outer) :]:
                break
            pattern = _assigned(place)
            if pattern:
                names = (pattern,) if isinstance(pattern, str) else pattern
                for output, name in zip(node.outputs, names if len(names) == len(node.outputs) else (), strict=False):
                    if isinstance(name, str) and name:
                        output.name = name
                break


def source_line(node: Node) -> str:
    """`file.py:12: z = x @ kernel`, or an empty text where the source is not at hand."""
    if not node.source:
        return ""
    place = node.source[0]
    path = Path(place.code.co_filename)
    text = linecache.getline(str(path), place.line).strip()
    # Jupyter keeps each cell in a file of its own with a number for a name.
    label = "cell" if path.parent.name.startswith("ipykernel") or path.name.startswith("<ipython") else path.name
    return f"{label}:{place.line}: {text}" if text else ""


def argument_names(step: Callable[..., Any], position: int, form: Any) -> list[str | None]:
    """Names for the leaves of a step's argument: as the step unpacks it, by its keys, or the argument's own."""
    code = _code_of(step)
    if code is None:
        return _leaf_names(form, "")
    arguments = code.co_varnames[: code.co_argcount]
    place = position + (1 if _is_bound(step) else 0)
    if place >= len(arguments):
        return _leaf_names(form, "")
    lines = [line for _, _, line in code.co_lines() if line is not None]
    unpacked = [
        pattern
        for line, value, pattern in _file(code.co_filename).unpacked
        if value == arguments[place] and min(lines) <= line <= max(lines)
    ]
    return _leaf_names(form, unpacked[0] if unpacked else arguments[place])


def _leaf_names(form: Any, pattern: Pattern) -> list[str | None]:
    if form is None:
        return []
    if form == LEAF:
        return [pattern or None if isinstance(pattern, str) else None]
    kind, items = form[0], form[-1]
    if kind == "dict":
        patterns: Iterable[Pattern] = [str(key) for key in form[1]]
    elif kind not in ("tuple", "list"):
        patterns = kind._fields
    elif isinstance(pattern, tuple) and len(pattern) == len(items):
        patterns = pattern
    else:
        base = pattern if isinstance(pattern, str) else ""
        patterns = [f"{base}[{i}]" if base and len(items) > 1 else base for i in range(len(items))]
    return [name for item, part in zip(items, patterns, strict=True) for name in _leaf_names(item, part)]


def _code_of(step: Any) -> types.CodeType | None:
    function = getattr(step, "__func__", step)
    if not isinstance(function, types.FunctionType):
        function = vars(type(step)).get("__call__")
    return getattr(function, "__code__", None)


def _is_bound(step: Any) -> bool:
    return not isinstance(step, types.FunctionType)


class _File:
    """The assignments of a source file: by the place of the assigned expression, and those that unpack a name."""

    def __init__(self, text: str) -> None:
        self.assigned: dict[Span, Pattern] = {}
        self.unpacked: list[tuple[int, str, Pattern]] = []
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            return
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target in reversed(node.targets):
                    self._assign(_pattern(target), node.value)
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
                self._assign(_pattern(node.target), node.value)
            elif isinstance(node, ast.AugAssign):
                self.assigned[_span(node)] = _pattern(node.target)

    def _assign(self, pattern: Pattern, value: ast.expr) -> None:
        if isinstance(value, ast.Name) and isinstance(pattern, tuple):
            self.unpacked.append((value.lineno, value.id, pattern))
        elif isinstance(value, ast.Tuple) and isinstance(pattern, tuple) and len(pattern) == len(value.elts):
            for part, item in zip(pattern, value.elts, strict=True):
                self._assign(part, item)
        elif isinstance(value, ast.IfExp):
            self._assign(pattern, value.body)
            self._assign(pattern, value.orelse)
        elif pattern:
            self.assigned[_span(value)] = pattern


def _pattern(target: ast.expr) -> Pattern:
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, (ast.Tuple, ast.List)) and not any(isinstance(x, ast.Starred) for x in target.elts):
        return tuple(_pattern(item) for item in target.elts)
    return ""


def _span(node: Any) -> Span:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


_files: dict[str, tuple[list[str], _File]] = {}


def _file(filename: str) -> _File:
    lines = linecache.getlines(filename)  # the same list as long as the file is the same
    known = _files.get(filename)
    if known is None or known[0] is not lines:
        known = _files[filename] = (lines, _File("".join(lines)))
    return known[1]


@functools.lru_cache(maxsize=1024)
def _positions(code: types.CodeType) -> list[Span]:
    return list(code.co_positions())


def _assigned(place: Place) -> Pattern:
    """The names that the expression at a place is assigned to."""
    return _file(place.code.co_filename).assigned.get(_positions(place.code)[place.instruction // 2], "")
