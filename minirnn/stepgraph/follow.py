"""Where an axis goes in recorded nodes, and whether they treat its entries one by one.

Nodes act entry by entry along an axis if each entry of what they make comes from the same entry of
what they read, in the same way for all entries.  Then they can be run on one entry, as a stream runs
a layer on one time step.  This is what rows.py does for the batch, for an axis in any place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from ..autodiff.contraction import parse
from ..autodiff.tensor import Node, Tensor
from .graph import StepGraph

ALL = "all"  # instead of a place: made from all entries at once


@dataclass(frozen=True)
class Place:
    """Where in a Tensor the entries are: along `axis`, `inner` elements of it for each of `length` entries.

    Reshaping can join the axis with others: `inner` is the size of what was joined behind it.
    """

    axis: int
    length: int
    inner: int = 1


Places = list[Place | None]  # of the operands of a node; None for one without entries


class NotEntrywise(Exception):
    """A node does not act entry by entry; `loops` says that it runs over the entries in a loop of its own."""

    def __init__(self, reason: str, loops: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.loops = reason, loops


class Follower:
    """Follows an axis through nodes: `places` has, by id of the Tensor, its Place or ALL."""

    def __init__(self) -> None:
        self.places: dict[int, Any] = {}
        self._uniform: set[int] = set()  # Tensors of one number, which has no entries to tell apart

    def through(self, nodes: Iterable[Node]) -> None:
        """Go on through nodes in the order they were recorded; NotEntrywise if one does not act entry by entry."""
        for node in nodes:
            found = [self.places.get(id(x)) if isinstance(x, Tensor) else None for x in node.inputs]
            if all(place is None for place in found):
                if _is_uniform(node, self._uniform):
                    self._uniform.update(id(output) for output in node.outputs)
                continue
            if ALL in found:
                if any(isinstance(place, Place) for place in found):
                    raise NotEntrywise(f"{node.primitive.name} brings what is known at the end to every entry")
                made: Sequence[Any] = [ALL] * len(node.outputs)
            else:
                made = self._rule(node)(node, found, self)
            self.places.update((id(output), place) for output, place in zip(node.outputs, made, strict=True))

    def _rule(self, node: Node) -> Callable[[Node, Places, Follower], list[Place]]:
        rule = _RULES.get(node.primitive.name) or _RULES.get(node.primitive.form)
        if rule is None:
            raise NotEntrywise(f"what {node.primitive.name} does along it is not known")
        return rule

    def is_alike(self, x: Any, axis: int) -> bool:
        """Whether an operand without entries of its own is the same for every entry along `axis`."""
        return not isinstance(x, Tensor) or axis < 0 or x.shape[axis] == 1 or id(x) in self._uniform


def _is_uniform(node: Node, uniform: set[int]) -> bool:
    if node.primitive.form == "source":
        return "value" in node.params
    return node.primitive.form in ("map", "view") and all(id(x) in uniform for x in node.tensors)


def _only(places: Places) -> Place:
    (place,) = [place for place in places if place is not None]
    return place


def _map(node: Node, places: Places, follower: Follower) -> list[Place]:
    rank = node.outputs[0].ndim
    found = {
        replace(place, axis=place.axis + rank - x.ndim) for x, place in zip(node.inputs, places) if place is not None
    }
    if len(found) > 1:
        raise NotEntrywise(f"{node.primitive.name} brings entries of different places together")
    place = found.pop()
    for x, own in zip(node.inputs, places, strict=True):
        if own is None and isinstance(x, Tensor) and not follower.is_alike(x, place.axis - rank + x.ndim):
            raise NotEntrywise(f"{node.primitive.name} reads other numbers for each entry")
    return [place] * len(node.outputs)


def _contract(node: Node, places: Places, follower: Follower) -> list[Place]:
    a, b, out = parse(node.params["spec"])
    found = {(letters[p.axis], p) for letters, p in zip((a, b), places) if p is not None}
    if len({(letter, p.length, p.inner) for letter, p in found}) > 1:
        raise NotEntrywise("a product brings different entries together")
    letter, place = found.pop()
    if letter not in out:
        raise NotEntrywise("a product sums over it")
    for x, letters, own in zip(node.inputs, (a, b), places, strict=True):
        if own is None and not follower.is_alike(x, letters.find(letter)):
            raise NotEntrywise("a product reads other numbers for each entry")
    return [replace(place, axis=out.index(letter))]


def _reduce(node: Node, places: Places, follower: Follower) -> list[Place]:
    place = _only(places)
    if "axis" not in node.params:
        raise NotEntrywise(f"{node.primitive.name} goes along it")
    axes = node.params["axis"]
    if place.axis in axes:
        raise NotEntrywise(f"{node.primitive.name} is taken over it")
    gone = 0 if node.params.get("keepdims") else sum(axis < place.axis for axis in axes)
    return [replace(place, axis=place.axis - gone)]


def _reshape(node: Node, places: Places, follower: Follower) -> list[Place]:
    place, before, after = _only(places), node.tensors[0].shape, node.outputs[0].shape
    stride = place.inner * prod(before[place.axis + 1 :])  # from an entry to the next in memory
    fitting = []
    for axis, size in enumerate(after):
        behind = prod(after[axis + 1 :])
        if behind and stride % behind == 0 and size % (stride // behind * place.length) == 0:
            fitting.append(Place(axis, place.length, stride // behind))
    if not fitting:
        raise NotEntrywise("reshape cuts it into pieces")
    # With one entry only, several would do: an axis of its own is the better one.
    own = [p for p in fitting if p.inner == 1 and after[p.axis] == p.length]
    return [(own or fitting)[0]]


def _transpose(node: Node, places: Places, follower: Follower) -> list[Place]:
    place = _only(places)
    return [replace(place, axis=node.params["axes"].index(place.axis))]


def _broadcast(node: Node, places: Places, follower: Follower) -> list[Place]:
    place, x, out = _only(places), node.tensors[0], node.outputs[0]
    axis = place.axis + out.ndim - x.ndim
    if out.shape[axis] != x.shape[place.axis]:
        raise NotEntrywise("broadcast_to repeats it")
    return [replace(place, axis=axis)]


def _slice(node: Node, places: Places, follower: Follower) -> list[Place]:
    """A part of all entries; also a part of a larger array (`place`)."""
    place, size = _only(places), node.tensors[0].shape[_only(places).axis]
    whole = node.params["slices"][place.axis] == (0, size, 1)
    if not whole or node.outputs[0].shape[place.axis] != size:
        raise NotEntrywise("it is cut, turned around or padded")
    return [place]


def _split(node: Node, places: Places, follower: Follower) -> list[Place]:
    place = _only(places)
    if node.params["axis"] == place.axis:
        raise NotEntrywise("split cuts it")
    return [place] * len(node.outputs)


def _concatenate(node: Node, places: Places, follower: Follower) -> list[Place]:
    found = {place for place in places if place is not None}
    place = found.pop()
    if found or node.params["axis"] == place.axis:
        raise NotEntrywise("concatenate joins it with something else")
    if not all(follower.is_alike(x, place.axis) for x, p in zip(node.inputs, places) if p is None):
        raise NotEntrywise("concatenate reads other numbers for each entry")
    return [place]


def _take(node: Node, places: Places, follower: Follower) -> list[Place]:
    entries, (in_table, in_indices) = node.inputs[1], places
    if in_table is None:
        return [_only(places)]
    if in_indices is not None or in_table.axis == 0:
        raise NotEntrywise("take picks some of its entries")
    return [replace(in_table, axis=in_table.axis - 1 + entries.ndim)]


def _windows(node: Node, places: Places, follower: Follower) -> list[Place]:
    place = _only(places)
    if place.axis != 0:
        raise NotEntrywise("a convolution goes along it")
    return [place]


def _scan(node: Node, places: Places, follower: Follower) -> list[Place]:
    """A loop over another axis, each of whose steps acts entry by entry."""
    graph = node.params["graph"]
    carries, first_closed = len(graph.carry_in), len(graph.carry_in + graph.xs)
    inside = Follower()
    for index, (t, place) in enumerate(zip(graph.inputs, places, strict=True)):
        if place is None:
            continue
        is_x = carries <= index < first_closed
        if is_x and place.axis == 0:
            raise NotEntrywise("it has a loop of its own over it", loops=True)
        inside.places[id(t)] = replace(place, axis=place.axis - is_x)
    places_given = set(inside.places.values())
    # What begins without entries, zeros say, has them once a step gives it some.
    gained = _reached(graph, set(inside.places)) - set(inside.places)
    inside.places.update((id(t), next(iter(places_given))) for t in graph.carry_in if id(t) in gained)
    inside.through(graph.nodes)
    for before, after, x in zip(graph.carry_in, graph.carry_out, node.inputs, strict=False):
        place = inside.places.get(id(before))
        if len(places_given) > 1 or place != inside.places.get(id(after)):
            raise NotEntrywise("its place changes in a loop")
        if place is not None and id(before) in gained and not follower.is_alike(x, place.axis):
            raise NotEntrywise("a loop begins with other numbers for each entry")
    outcomes: list[Any] = [inside.places.get(id(t)) for t in graph.outputs]
    ys = range(carries, carries + len(graph.ys))
    return [replace(p, axis=p.axis + 1) if p and i in ys else p for i, p in enumerate(outcomes)]


def _hold(node: Node, places: Places, follower: Follower) -> list[Place]:
    """Outputs of masked steps, which come from other steps of the same row."""
    found = {place for place in places if place is not None}
    place = found.pop()
    if place.axis == 0:
        raise NotEntrywise("masked steps repeat those before them", loops=True)
    alike = [place.axis >= x.ndim or follower.is_alike(x, place.axis) for x in node.inputs]
    if found or not all(own or same for own, same in zip(places, alike, strict=True)):
        raise NotEntrywise("its entries are masked each in another way")
    return [place]


def _reached(graph: StepGraph, reached: set[int]) -> set[int]:
    """The ids of the Tensors that are made from some of those given, in any number of steps."""
    before = 0
    while len(reached) > before:
        before = len(reached)
        for node in graph.nodes:
            if any(id(t) in reached for t in node.tensors):
                reached.update(id(output) for output in node.outputs)
        reached.update(id(a) for a, b in zip(graph.carry_in, graph.carry_out, strict=True) if id(b) in reached)
    return reached


_RULES: dict[str, Callable[[Node, Places, Follower], list[Place]]] = {
    # Views and joins differ in what they do to axes; of the other forms all primitives go by one rule.
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast,
    "slice": _slice,
    "place": _slice,
    "split": _split,
    "concatenate": _concatenate,
    "map": _map,
    "contract": _contract,
    "reduce": _reduce,
    "gather": _take,
    "window": _windows,
    "scan": _scan,
    "hold": _hold,
}
