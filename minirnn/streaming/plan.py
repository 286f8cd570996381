"""Whether a model can run one time step at a time, and where time is in its tensors.

The model is recorded once on shapes of whole sequences.  Every layer that is not recurrent must treat
time steps one by one, which its recorded nodes show; a recurrent layer must read its sequence from
the first step to the last, and begin with what does not change over time.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..autodiff import trees
from ..autodiff.tensor import Tensor
from ..autodiff.trace import Trace
from ..errors import ArgumentError
from ..layers.base import Layer, training_scope
from ..layers.functional import FunctionGraph, Node, SymbolicTensor
from ..layers.wrappers import Bidirectional
from ..stepgraph.follow import ALL, Follower, NotEntrywise, Place
from .recurrences import OfContainer, Recurrence, recurrence_of

WHOLE = "use predict on whole sequences"


@dataclass(eq=False)
class Slot:
    """A recurrent layer's call: how it takes a step, and shape and dtype of one step of its sequences."""

    recurrence: Recurrence
    steps: list[tuple[tuple[int, ...], Any]]


@dataclass(eq=False)
class Plan:
    """What a walk through the model has to know; `slots` and `axes` by the number of the visit.

    axes: for each output of a layer the axis of time, None if it has none; outputs: the same for the model.
    """

    slots: dict[int, Slot] = field(default_factory=dict)
    axes: dict[int, list[int | None]] = field(default_factory=dict)
    outputs: list[int | None] = field(default_factory=list)


class Walk(abc.ABC):
    """Goes through the calls of a functional graph in order, and through those of models inside it."""

    def __init__(self) -> None:
        self._visits = 0

    def through(self, graph: FunctionGraph, values: Iterable[Any]) -> list[Any]:
        """The outputs of the graph for one value an input."""
        known = dict(zip(map(id, graph.inputs), values, strict=True))

        def value_of(leaf: Any) -> Any:
            return known[id(leaf)] if isinstance(leaf, SymbolicTensor) else leaf

        for node in graph.nodes:
            args, kwargs = trees.map(value_of, node.args), trees.map(value_of, node.kwargs)
            inner = getattr(node.layer, "graph", None)
            if isinstance(inner, FunctionGraph):
                results = self.through(inner, trees.flatten(args[0])[0])
            else:
                number, self._visits = self._visits, self._visits + 1
                results = self.visit(number, node, args, kwargs)
            known.update(zip(map(id, node.outputs), results, strict=True))
        return [known[id(x)] for x in graph.outputs]

    @abc.abstractmethod
    def visit(self, number: int, node: Node, args: Any, kwargs: Any) -> list[Any]:
        """The values of a node's outputs."""


class Survey(Walk):
    """The walk on shapes of whole sequences that makes the plan; ArgumentError names a layer that is in the way.

    timed: the inputs with a time axis, by number; masked: whether they come with a mask.  A tolerant survey
    goes on behind a layer that is in the way; `reached` then says whether time got to a recurrent layer.
    """

    def __init__(self, label: str, tolerant: bool = False) -> None:
        super().__init__()
        self.label, self.tolerant = label, tolerant
        self.plan = Plan()
        self.reached = False
        self.generates = False  # whether a container without sequence inputs makes the steps
        self._follower = Follower()

    def run(self, graph: FunctionGraph, timed: frozenset[int], masked: bool = False) -> Plan:
        """The plan for a graph."""
        with Trace(shapes_only=True) as self._trace, training_scope(False):
            values = []
            for number, x in enumerate(graph.inputs):
                value = self._trace.input(x.samples[0], x.dtype, x.name)
                if number in timed:
                    place = Place(1, value.shape[1])
                    self._put(value, place)
                    if masked:
                        value.mask = self._trace.input(value.shape[:2], bool)
                        self._put(value.mask, place)
                values.append(value)
            self.plan.outputs = [self._axis(x) for x in self.through(graph, values)]
        return self.plan

    def _put(self, x: Tensor, place: Any) -> None:
        self._follower.places[id(x)] = place

    def _place(self, x: Any) -> Any:
        return self._follower.places.get(id(x))

    def _axis(self, x: Any) -> int | None:
        place = self._place(x)
        return place.axis if isinstance(place, Place) else None

    def visit(self, number: int, node: Node, args: Any, kwargs: Any) -> list[Any]:
        layer = node.layer
        recurrence = recurrence_of(layer)
        self.reached = self.reached or any(self._axis(x) for x in trees.flatten(kwargs.get("teacher"))[0])
        try:
            if recurrence is not None and self._comes_in_steps(recurrence, args):
                return self._recurrent(number, recurrence, args, kwargs)
            return self._other(number, layer, args, kwargs)
        except ArgumentError:
            if not self.tolerant:
                raise
            return trees.flatten(layer(*args, **kwargs))[0]

    def _refuse(self, layer: Layer, why: str, fix: str = WHOLE) -> ArgumentError:
        return ArgumentError(f"{self.label}: {layer.label} cannot run one time step at a time", got=why, fix=fix)

    def _other(self, number: int, layer: Layer, args: Any, kwargs: Any) -> list[Any]:
        begin = len(self._trace.nodes)
        results = trees.flatten(layer(*args, **kwargs))[0]
        try:
            self._follower.through(self._trace.nodes[begin:])
        except NotEntrywise as error:
            self.reached = self.reached or error.loops
            if isinstance(layer, Bidirectional):
                raise self._refuse(layer, "it also reads the sequence from its end") from None
            fix = "make recurrent layers part of the model's own graph" if error.loops else WHOLE
            raise self._refuse(layer, f"along the time axis: {error.reason}", fix) from None
        for x in results:
            place = self._place(x)
            if isinstance(place, Place) and (place.inner, x.shape[place.axis]) != (1, place.length):
                raise self._refuse(layer, "along the time axis: it is joined with another one")
        self.plan.axes[number] = [self._axis(x) for x in results]
        return results

    def _comes_in_steps(self, recurrence: Recurrence, args: Any) -> bool:
        """Whether the layer is to run along with the stream; otherwise it reads something of a known length."""
        sequences = recurrence.sequences(args)
        return not sequences or any(isinstance(self._place(x), Place) for x in sequences)

    def _recurrent(self, number: int, recurrence: Recurrence, args: Any, kwargs: Any) -> list[Any]:
        layer, axis, sequences = recurrence.layer, recurrence.time_axis, recurrence.sequences(args)
        self.reached, self.generates = self.reached or bool(sequences), self.generates or not sequences
        if layer.go_backwards:
            raise self._refuse(layer, "go_backwards=True: it reads the last step first")
        if "lengths" in kwargs:
            raise self._refuse(layer, "lengths are those of whole sequences", "push(..., mask=...)")
        if "reset_mask" in kwargs:
            raise self._refuse(layer, "reset_mask is that of a whole sequence", "reset(rows=...) between two pushes")
        mask = recurrence.mask(args, kwargs)
        for what, leaf in [("input", x) for x in sequences] + [("mask", mask)] * (mask is not None):
            if self._axis(leaf) != axis:
                raise self._refuse(layer, f"its {what} does not come step by step")
        for what, leaf in recurrence.fixed(kwargs):
            place = self._place(leaf)
            if place == ALL:
                raise self._refuse(layer, f"{what}: made from the end of a sequence")
            if place is not None:
                raise self._refuse(layer, f"{what}: another value at each step", "pass it as a sequence")
        results = trees.flatten(layer(*args, **kwargs))[0]
        outputs = len(results) - (self._state_count(recurrence) if recurrence.returns_states else 0)
        for index, x in enumerate(results):
            is_timed = index < recurrence.timed(outputs)
            place = Place(axis, x.shape[axis]) if is_timed else ALL
            for part in (x, x.mask):
                if part is not None:
                    self._put(part, place)
        steps = [((*x.shape[:axis], *x.shape[axis + 1 :]), x.dtype) for x in sequences]
        self.plan.slots[number] = Slot(recurrence, steps)
        return results

    def _state_count(self, recurrence: Recurrence) -> int:
        if isinstance(recurrence, OfContainer):
            return recurrence.layer.step.count("state_inputs")
        return recurrence.face.state_count


def plan_for(graph: FunctionGraph, label: str, known: frozenset[int]) -> tuple[frozenset[int], Plan]:
    """The inputs that come step by step, by number, and the plan of the model.

    An input does if its axis 1 leads to the time axis of what a recurrent layer reads.  In a model without
    recurrent layers it does if that axis has no fixed size, or features behind it.  Those that are `known`
    at the beginning never do.  Raises ArgumentError if the model cannot run one time step at a time.
    """
    reached: set[int] = set()
    generates = False
    open_inputs = [(number, x) for number, x in enumerate(graph.inputs) if number not in known and x.ndim > 1]
    for timed in [frozenset([number]) for number, _ in open_inputs] or [frozenset()]:
        survey = Survey(label, tolerant=True)
        survey.run(graph, timed)
        generates = generates or survey.generates
        if survey.reached:
            reached |= timed
    if not reached and not generates:
        reached = {number for number, x in open_inputs if x.ndim > 2 or x.shape[1] is None}
        if not reached:
            raise ArgumentError(f"{label}: no input has a time axis", got=[x.shape for x in graph.inputs], fix=WHOLE)
    try:
        return frozenset(reached), Survey(label).run(graph, frozenset(reached))
    except ArgumentError as error:
        # Inputs that are joined with a sequence behind its recurrent layer do not lead to any.
        sizes = {None, *(graph.inputs[number].shape[1] for number in reached)}
        joined = {number for number, x in open_inputs if x.shape[1] in sizes}
        if joined <= reached:
            raise
        try:
            return frozenset(reached | joined), Survey(label).run(graph, frozenset(reached | joined))
        except ArgumentError:
            raise error from None
