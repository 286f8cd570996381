"""The step of a container: six groups of symbolic tensors, and the graph that leads from one half to the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import ArgumentError, DtypeError, FormatError, MinirnnError, ShapeError
from .base import Layer
from .functional import FunctionGraph, SymbolicTensor
from .recurrent_unit import RecurrentUnit

INPUTS = ("sequence_inputs", "constant_inputs", "state_inputs")
OUTPUTS = ("sequence_outputs", "constant_outputs", "state_outputs")


def listed(tensors: Any) -> list[Any]:
    """A group of tensors as a new list; a bare one is a group of one, None is none.

    >>> listed(7), listed((7, 8)), listed(None)
    ([7], [7, 8], [])
    """
    if tensors is None:
        return []
    return list(tensors) if isinstance(tensors, (list, tuple)) else [tensors]


class ContainerStep:
    """The groups of a step by name, checked against each other; each takes a bare tensor or a list.

    If there are no state_outputs and the constant_outputs fit the state_inputs, those are fed back.
    Raises ArgumentError, ShapeError or DtypeError, which begin with `label`, for groups that make no step.
    """

    def __init__(self, groups: dict[str, Any], label: str) -> None:
        self.label = label
        self.groups: dict[str, list[SymbolicTensor]] = {
            group: listed(groups.get(group)) for group in (*INPUTS, *OUTPUTS)
        }
        self._check_tensors()
        self._check_inputs()
        self._feed_back()
        self._check_batch()
        self.graph = self._make_graph()

    def __getitem__(self, group: str) -> list[SymbolicTensor]:
        return self.groups[group]

    def count(self, group: str) -> int:
        """The number of tensors in a group."""
        return len(self.groups[group])

    @property
    def inputs(self) -> list[SymbolicTensor]:
        """The tensors of all input groups, in the order of INPUTS."""
        return [t for group in INPUTS for t in self.groups[group]]

    @property
    def outputs(self) -> list[SymbolicTensor]:
        """The tensors of all output groups, in the order of OUTPUTS."""
        return [t for group in OUTPUTS for t in self.groups[group]]

    def float_dtype(self) -> str | None:
        """The float dtype of the step, None if it has only integers; DtypeError if there are several."""
        floats = {t.dtype.name for t in [*self.inputs, *self.outputs] if t.dtype.kind == "f"}
        if len(floats) > 1:
            raise DtypeError(
                f"{self.label}: its step mixes dtypes",
                got=", ".join(f"{t.name} {t.dtype}" for t in [*self.inputs, *self.outputs]),
                expected="one float dtype",
                fix="give the Inputs and layers of the step the same dtype",
            )
        return floats.pop() if floats else None

    def run(self, inputs: Sequence[Any], training: Any) -> tuple[list[Any], list[Any], list[Any]]:
        """The values of the three output groups for those of the inputs."""
        outputs = self.graph.run(inputs, training)
        first, second = self.count("sequence_outputs"), self.count("sequence_outputs") + self.count("constant_outputs")
        return outputs[:first], outputs[first:second], outputs[second:]

    def __trace_state__(self) -> Any:
        """What a traced step can see of the groups, which never change: their graph."""
        return self.graph

    # Checks ----------------------------------------------------------------------------------------
    def _check_tensors(self) -> None:
        for group, tensors in self.groups.items():
            for tensor in tensors:
                if not isinstance(tensor, SymbolicTensor):
                    raise ArgumentError(
                        f"{self.label}: {group}", got=repr(tensor), expected="symbolic tensors of one step"
                    )
                if tensor.ndim < 2:
                    raise ShapeError(
                        f"{self.label}: {group}, {tensor.name!r}", got=tensor.shape, expected="(batch, features, ...)"
                    )

    def _check_inputs(self) -> None:
        if not self.inputs or not self.outputs:
            missing = "output" if self.inputs else "input"
            raise ArgumentError(f"{self.label}: it needs at least one {missing} tensor", got="none")
        if len({id(t) for t in self.inputs}) != len(self.inputs):
            raise ArgumentError(
                f"{self.label}: An input tensor cannot be in multiple lists at the same time.",
                got=", ".join(f"{group} {[t.name for t in self.groups[group]]}" for group in INPUTS),
            )

    def _feed_back(self) -> None:
        begin, end = self.groups["state_inputs"], self.groups["state_outputs"]

        def fits(tensors: Sequence[SymbolicTensor]) -> bool:
            return len(tensors) == len(begin) and all(
                a.shape[1:] == b.shape[1:] and a.dtype == b.dtype for a, b in zip(tensors, begin, strict=True)
            )

        if begin and not end and fits(self.groups["constant_outputs"]):
            end = self.groups["state_outputs"] = list(self.groups["constant_outputs"])
        if not fits(end):
            raise ArgumentError(
                f"{self.label}: state_outputs must match state_inputs one to one in number, shape and dtype",
                got=[f"{t.shape} {t.dtype}" for t in end],
                expected=[f"{t.shape} {t.dtype}" for t in begin],
                fix="give state_outputs, or constant_outputs that can be fed back" if not end else None,
            )

    def _check_batch(self) -> None:
        batches = {tuple(sample[0] for sample in t.samples) for t in self.inputs}
        for group in OUTPUTS:
            for t in self.groups[group]:
                if tuple(sample[0] for sample in t.samples) not in batches:
                    raise ShapeError(
                        f"{self.label}: {group}, {t.name!r} does not have the batch as its first axis",
                        got=t.shape,
                        expected="(batch, features, ...)",
                    )

    def _make_graph(self) -> FunctionGraph:
        try:
            graph = FunctionGraph(self.inputs, self.outputs)
        except MinirnnError as error:
            what = f"{self.label}: {error.what}"
            raise type(error)(what, got=error.got, expected=error.expected, fix=error.fix) from None
        stateful = [layer.label for layer in _layers_within(graph.layers) if getattr(layer, "stateful", False)]
        if stateful:
            raise ArgumentError(
                f"{self.label}: a step may not contain a stateful layer",
                got=", ".join(stateful),
                fix="stateful=False inside; state_inputs are what a step remembers",
            )
        return graph

    # Configuration ---------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        """The graph, and how many tensors each group has."""
        return {"graph": self.graph.get_config(), "counts": {group: self.count(group) for group in self.groups}}

    @staticmethod
    def groups_from_config(config: dict[str, Any], custom_objects: dict[str, Any] | None) -> dict[str, Any]:
        """The groups of the step that `get_config` described, with new layers; FormatError if it is damaged."""
        counts: Any = config.get("counts")
        graph: Any = config.get("graph")
        has_groups = isinstance(counts, dict) and set(counts) == {*INPUTS, *OUTPUTS}
        if not isinstance(graph, dict) or not has_groups or not all(type(n) is int for n in counts.values()):
            raise FormatError("the configuration of a container has no step", got=sorted(config))
        made, groups = FunctionGraph.from_config(graph, custom_objects), {}
        for names, tensors in ((INPUTS, made.inputs), (OUTPUTS, made.outputs)):
            if sum(counts[group] for group in names) != len(tensors):
                raise FormatError("the groups of a container do not fit its step", got=counts, expected=len(tensors))
            remaining = iter(tensors)
            groups.update({group: [next(remaining) for _ in range(counts[group])] for group in names})
        return groups


def _layers_within(layers: Sequence[Layer]) -> Iterator[Layer]:
    """The layers and all below them; not below a RecurrentUnit, which makes no use of its layer but the cell."""
    for layer in layers:
        yield layer
        if not isinstance(layer, RecurrentUnit):
            yield from _layers_within(layer.sublayers)
