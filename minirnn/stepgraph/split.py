"""The three parts of a scan: before the loop, the loop, after it.

before: what needs no carry, for all time steps at once.  loop: what the carry needs.  after: what
only reads the loop's results.  "At once" means with time and batch as one axis of T x B rows, which
is possible for a node that treats rows alike; a node that sums over the rows then sums over time
as well, so it may go after the loop only if nothing but a sum over time reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..autodiff.primitive import ROWS, SHARED, SUMMED
from ..autodiff.tensor import Node, Tensor
from .graph import StepGraph
from .rows import classify, operand_classes

CONSTANT, FROM_X, FROM_CARRY = 0, 1, 2
NEVER_MERGED = ("random", "scan", "hold", "source")
# What gains by running once on T x B rows instead of T times on B.
HEAVY = ("contract", "reduce", "window", "gather", "scatter")


@dataclass(eq=False)
class Split:
    """A step graph's nodes by part, with the class and the level of each Tensor (by id).

    Level CONSTANT depends on neither x nor carry, FROM_X on x only, FROM_CARRY on the carry.
    """

    graph: StepGraph
    once: list[Node]
    before: list[Node]
    loop: list[Node]
    after: list[Node]
    classes: dict[int, str]
    levels: dict[int, int]


def split(graph: StepGraph, fused: bool = False) -> Split:
    """Sort the nodes of a step graph into once, before, loop and after, as far as its passes go.

    Where a loop is compiled, maps cost least next to what they feed (`fused`): then only heavy nodes
    leave it, with what they need before the loop, and what needs them after it.  A compiled loop takes
    constants packed, so there they always run once.
    """
    classes, levels = classify(graph), _levels(graph, fused or "once" in graph.passes)
    once = [node for node in graph.nodes if all(levels[id(o)] == CONSTANT for o in node.outputs)]
    before = _before(graph, classes, levels) if "before" in graph.passes else []
    if fused:
        before = _leading_to_heavy(before)
    placed = {id(n) for n in once + before}
    after = _after(graph, classes, levels, placed) if "after" in graph.passes else []
    if fused:
        after = _closed_under_sums(graph, {id(n): n for n in _following_heavy(after, classes)}, classes)
    elsewhere = {id(n) for n in once + before + after}
    loop = [node for node in graph.nodes if id(node) not in elsewhere]
    return Split(graph, once, before, loop, after, classes, levels)


def _levels(graph: StepGraph, once: bool) -> dict[int, int]:
    levels = {id(t): CONSTANT for t in graph.closed}
    levels.update((id(t), FROM_X) for t in graph.xs)
    levels.update((id(t), FROM_CARRY) for t in graph.carry_in)
    for node in graph.nodes:
        level = _level(node, levels)
        if level == CONSTANT and not once:
            level = FROM_CARRY  # as if it were new at each step
        for output in node.outputs:
            levels.setdefault(id(output), level)
    return levels


def _level(node: Node, levels: dict[int, int]) -> int:
    return max((levels[id(t)] for t in node.tensors), default=CONSTANT)


def _merges(node: Node, classes: dict[int, str], levels: dict[int, int]) -> bool:
    """Whether the node can run on T x B rows: every operand is constant, or follows the rows."""
    if node.primitive.form in NEVER_MERGED:
        return False
    operands = operand_classes(node, classes)
    if node.primitive.rows(operands, node.inputs, node) not in (ROWS, SUMMED):
        return False
    return not any(
        isinstance(x, Tensor) and c == SHARED and levels[id(x)] != CONSTANT
        for x, c in zip(node.inputs, operands, strict=True)
    )


def _before(graph: StepGraph, classes: dict[int, str], levels: dict[int, int]) -> list[Node]:
    ready = {id(t) for t in graph.xs}
    nodes = []
    for node in graph.nodes:
        if _level(node, levels) != FROM_X or not _merges(node, classes, levels):
            continue
        varying = [t for t in node.tensors if levels[id(t)] != CONSTANT]
        if all(classes[id(o)] == ROWS for o in node.outputs) and all(id(t) in ready for t in varying):
            nodes.append(node)
            ready.update(id(o) for o in node.outputs)
    return nodes


def _leading_to_heavy(nodes: list[Node]) -> list[Node]:
    kept: list[Node] = []
    needed: set[int] = set()
    for node in reversed(nodes):
        if node.primitive.form in HEAVY or any(id(o) in needed for o in node.outputs):
            kept.append(node)
            needed.update(id(t) for t in node.tensors)
    return kept[::-1]


def _following_heavy(nodes: list[Node], classes: dict[int, str]) -> list[Node]:
    """Heavy nodes, sums over the rows, and all that read them."""
    kept: list[Node] = []
    made: set[int] = set()
    for node in nodes:
        summed = any(classes[id(o)] == SUMMED for o in node.outputs)
        if summed or node.primitive.form in HEAVY or any(id(t) in made for t in node.tensors):
            kept.append(node)
            made.update(id(o) for o in node.outputs)
    return kept


def _after(graph: StepGraph, classes: dict[int, str], levels: dict[int, int], placed: set[int]) -> list[Node]:
    # Tensors that something in the loop needs: going backward, a node is after the loop if all its
    # outputs are free of them.
    in_loop = {id(t) for t in graph.carry_out}
    stacked = {id(t) for t in graph.ys}
    chosen: dict[int, Node] = {}
    for node in reversed(graph.nodes):
        if id(node) in placed:
            continue
        free = not any(id(o) in in_loop for o in node.outputs)
        summed = any(classes[id(o)] == SUMMED for o in node.outputs)
        if free and _merges(node, classes, levels) and not (summed and any(id(o) in stacked for o in node.outputs)):
            chosen[id(node)] = node
        else:
            in_loop.update(id(t) for t in node.tensors)
    return _closed_under_sums(graph, chosen, classes)


def _closed_under_sums(graph: StepGraph, chosen: dict[int, Node], classes: dict[int, str]) -> list[Node]:
    """Put back what reads a per-step sum from the loop, and what those nodes then need in the loop."""
    while True:
        made = {id(o) for node in chosen.values() for o in node.outputs}
        back = [
            node
            for node in chosen.values()
            if any(classes[id(t)] == SUMMED and id(t) not in made for t in node.tensors)
        ]
        if not back:
            return [node for node in graph.nodes if id(node) in chosen]
        needed: set[int] = set()
        for node in reversed(graph.nodes):
            if node in back or any(id(o) in needed for o in node.outputs):
                chosen.pop(id(node), None)
                needed.update(id(t) for t in node.tensors)
