"""Nested tuples, lists, dicts and namedtuples of leaves: taken apart and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

import numpy as np

from ..errors import ArgumentError
from .tensor import Tensor, Variable

LEAF = "*"
_BARE = {Tensor, Variable, np.ndarray}  # leaves that one need not look at twice


def flatten(structure: Any) -> tuple[list[Any], Any]:
    """The leaves of a nested structure in order, and its form without them.

    >>> flatten({"b": (1, 2), "a": [3]})
    ([3, 1, 2], ('dict', ('a', 'b'), (('list', ('*',)), ('tuple', ('*', '*')))))
    """
    leaves: list[Any] = []
    return leaves, _form(structure, leaves)


def _form(x: Any, leaves: list[Any]) -> Any:
    kind = type(x)
    if kind is tuple or kind is list:
        items = []
        for item in x:
            if type(item) in _BARE:
                leaves.append(item)
                items.append(LEAF)
            else:
                items.append(_form(item, leaves))
        return (kind.__name__, tuple(items))
    if x is None:
        return None
    if isinstance(x, dict):
        keys = tuple(sorted(x))
        return ("dict", keys, tuple([_form(x[key], leaves) for key in keys]))
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return (kind, tuple([_form(item, leaves) for item in x]))
    if isinstance(x, list):  # one that also gives names to its items is taken apart as any other
        return ("list", tuple([_form(item, leaves) for item in x]))
    leaves.append(x)
    return LEAF


def unflatten(form: Any, leaves: Any) -> Any:
    """The structure of `form` with `leaves` in their places."""
    return leaves[0] if form is LEAF else _fill(form, iter(leaves))


def _fill(form: Any, leaves: Any) -> Any:
    if form is None:
        return None
    if form is LEAF:
        return next(leaves)
    kind, items = form[0], [next(leaves) if item is LEAF else _fill(item, leaves) for item in form[-1]]
    if kind == "tuple":
        return tuple(items)
    if kind == "list":
        return items
    if kind == "dict":
        return dict(zip(form[1], items, strict=True))
    return kind(*items)


def map(f: Callable[..., Any], structure: Any, *others: Any) -> Any:
    """`f` applied to the leaves of one structure, or of several of the same form.

    >>> map(lambda a, b: a + b, (1, [2]), (10, [20]))
    (11, [22])
    """
    if type(structure) in _BARE and not others:
        return f(structure)
    leaves, form = flatten(structure)
    columns = [leaves]
    for other in others:
        other_leaves, other_form = flatten(other)
        if not same_form(form, other_form):
            raise ArgumentError("nested structures differ", got=describe(other_form), expected=describe(form))
        columns.append(other_leaves)
    return unflatten(form, [f(*row) for row in zip(*columns, strict=True)])


def unique(values: Iterable[Any]) -> list[Any]:
    """The values in first-seen order, each object once (== of Tensors is elementwise)."""
    return list({id(x): x for x in values}.values())


def picker(places: list[int]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that picks what stands at some places of a list or tuple.

    >>> picker([2, 0])("abc")
    ('c', 'a')
    """
    return itemgetter(*places) if len(places) > 1 else lambda values: tuple([values[k] for k in places])


def same_form(a: Any, b: Any) -> bool:
    """Whether two forms are equal, a list counting as a tuple."""
    if a is None or b is None or a == LEAF or b == LEAF:
        return bool(a == b)
    kind_a, kind_b = (form[0] if form[0] != "list" else "tuple" for form in (a, b))
    if kind_a != kind_b or a[1:-1] != b[1:-1] or len(a[-1]) != len(b[-1]):
        return False
    return all(same_form(x, y) for x, y in zip(a[-1], b[-1], strict=True))


def describe(form: Any) -> str:
    """A form as a person writes it: `(*, [*, *])`."""
    if form is None or form == LEAF:
        return str(form)
    items = [describe(item) for item in form[-1]]
    if form[0] == "dict":
        return "{" + ", ".join(f"{key!r}: {item}" for key, item in zip(form[1], items, strict=True)) + "}"
    if form[0] == "list":
        return "[" + ", ".join(items) + "]"
    return "(" + ", ".join(items) + ("," if len(items) == 1 else "") + ")"
