"""Which values follow the batch: found by data flow from axis 0 of the carry and of x, never by size."""

from __future__ import annotations

from ..autodiff.primitive import MIXED, ROWS, SHARED, SUMMED
from ..autodiff.tensor import Node, Tensor
from .graph import StepGraph


def input_classes(graph: StepGraph) -> tuple[str, ...]:
    """The class of each input: known from the graph that this one was made of, or by the rule.

    The rule: axis 0 of the carry and of x is the batch, if all that have axes agree on its size.
    """
    if graph.row_classes is not None:
        return graph.row_classes
    sizes = {t.shape[0] for t in graph.carry_in + graph.xs if t.shape}
    with_axes = ROWS if len(sizes) == 1 else MIXED
    return (*[with_axes if t.shape else SHARED for t in graph.carry_in + graph.xs], *[SHARED] * len(graph.closed))


def batch_size(graph: StepGraph) -> int | None:
    """The number of rows, if anything has rows."""
    classes = zip(graph.inputs, input_classes(graph), strict=True)
    return next((t.shape[0] for t, kind in classes if kind == ROWS), None)


def classify(graph: StepGraph) -> dict[int, str]:
    """For every Tensor (by id) its relation to the batch: ROWS, SHARED, SUMMED or MIXED."""
    classes = {id(t): kind for t, kind in zip(graph.inputs, input_classes(graph), strict=True)}
    for node in graph.nodes:
        operands = operand_classes(node, classes)
        outcome = node.primitive.rows(operands, node.inputs, node)
        classes.update((id(output), outcome) for output in node.outputs if id(output) not in classes)
    return classes


def as_input(kind: str) -> str:
    """The class of a value that comes from another graph at each step: one sum of all rows is one value for all."""
    return SHARED if kind == SUMMED else kind


def cotangent_classes(graph: StepGraph) -> tuple[str, ...]:
    """The classes of the cotangents of the outputs as inputs of the adjoint.

    In a masked step cotangents of class ROWS are zero in masked rows, and only those are: what
    comes from a value without rows may spread to all of them.  Where rows mix, so may what comes
    from a residual or a sum: masked rows have a part in the results of other rows.
    """
    classes = classify(graph)
    carry = [as_input(classes[id(t)]) for t in graph.carry_in]
    ys, sums = [as_input(classes[id(t)]) for t in graph.ys], [SHARED] * len(graph.sums)
    if graph.guard is not None:
        shown = len(ys) - graph.residuals
        if MIXED in classes.values() or SUMMED in [classes[id(t)] for t in graph.ys[:shown]]:
            ys, sums = ys[:shown] + [MIXED] * graph.residuals, [MIXED] * len(sums)
        ys = [kind if kind == ROWS else MIXED for kind in ys]
    return (*carry, *ys, *sums)


def operand_classes(node: Node, classes: dict[int, str]) -> list[str]:
    """The classes of a node's operands; a number is SHARED."""
    return [classes[id(x)] if isinstance(x, Tensor) else SHARED for x in node.inputs]
