"""The backward of a step graph, recorded by replaying the vjp rules: itself a step graph.

`linearize` gives the forward graph that also stacks its residuals; `adjoint` gives the graph of
one backward step, which reads them.  The adjoint runs over time in the other direction, its carry
is the cotangent of the carry, its ys are the cotangents of x, its sums those of the closed-over
inputs.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..autodiff import structure
from ..autodiff.elementwise import select
from ..autodiff.primitive import ROWS, SUMMED
from ..autodiff.tape import Tape
from ..autodiff.tensor import FLOATING, Node, Tensor
from ..autodiff.trace import Trace
from .graph import StepGraph, enter_inputs, prune, replay
from .rows import as_input, classify, cotangent_classes, operand_classes


def is_float(t: Tensor) -> bool:
    """Whether a value has a derivative."""
    return t.dtype.kind in FLOATING


def linearize(graph: StepGraph) -> StepGraph:
    """The same step with the residuals that its adjoint reads as further ys."""
    made = graph.cache.get("linearized")
    if made is None:
        residuals = choose_residuals(graph)
        made = replace(graph, ys=graph.ys + residuals, residuals=len(residuals), cache={})
        graph.cache["linearized"] = made
    return made


def adjoint(graph: StepGraph, has_ct: tuple[bool, ...], needed: tuple[bool, ...]) -> StepGraph:
    """The backward step of a linearized graph.

    has_ct: which of the outputs have a cotangent (the carry always has); needed: which of the
    inputs want one.  Its carry: the cotangents of the floating carries.  Its xs: graph.xs, the
    residuals, the cotangents of the ys that have one.  Its closed: graph.closed, the cotangents of
    the sums that have one.  Its ys and sums: the cotangents of the xs and closed that want one.
    """
    key = ("adjoint", has_ct, needed)
    if key not in graph.cache:
        full, _, _ = _record(graph, has_ct, needed)
        graph.cache[key] = full
    return graph.cache[key]


def gradient_graph(graph: StepGraph) -> StepGraph:
    """The backward step for cotangents of all outputs, towards all inputs."""
    forward = linearize(graph)
    has_ct = tuple(is_float(t) for t in graph.carry_out + graph.ys)
    has_ct += (False,) * forward.residuals + tuple(is_float(t) for t in graph.sums)
    return adjoint(forward, has_ct, tuple(is_float(t) for t in graph.inputs))


def _record(
    graph: StepGraph, has_ct: tuple[bool, ...], needed: tuple[bool, ...]
) -> tuple[StepGraph, dict[int, Tensor], tuple[Node, ...]]:
    """The adjoint graph, the Tensors in it that stand for forward values, and its backward nodes."""
    carries, xs = len(graph.carry_in), len(graph.xs)
    names = graph.names()
    residuals = graph.ys[len(graph.ys) - graph.residuals :]
    with Trace() as trace:
        env: dict[int, Tensor] = {}
        inputs = enter_inputs(trace, graph.inputs)
        env.update((id(old), new) for old, new in zip(graph.inputs, inputs, strict=True))
        with Tape() as tape:
            tape.watch([t for t in inputs if is_float(t)])
            replay(graph.nodes, env)
        forward_nodes = len(trace.nodes)
        outputs = [env[id(t)] for t in graph.outputs]
        seeds: list[tuple[str, Tensor, Tensor]] = []
        labels = ["carry"] * carries + ["y"] * len(graph.ys) + ["sum"] * len(graph.sums)
        named = [t.name for t in graph.carry_in] + [None] * (len(outputs) - carries)
        for label, name, out, has in zip(labels, named, outputs, has_ct, strict=True):
            if has and is_float(out):
                seeds.append((label, out, trace.input(out.shape, out.dtype, f"ct_{name or label}")))
        wanted = [t for t, need in zip(inputs, needed, strict=True) if need and is_float(t)]
        gradients = tape.gradient([out for _, out, _ in seeds], wanted, [ct for _, _, ct in seeds])
        found = {
            id(t): structure.zeros_of(t.shape, t.dtype) if ct is None else ct
            for t, ct in zip(wanted, gradients, strict=True)
        }

    def cotangents(label: str) -> tuple[Tensor, ...]:
        return tuple(ct for kind, _, ct in seeds if kind == label)

    for t, ct in zip(wanted, found.values(), strict=True):
        ct.name = ct.name or f"ct_{t.name or 'input'}"
    available = tuple(env[id(t)] for t in residuals)
    for t in residuals:
        env[id(t)].name = names[id(t)]
    groups = (cotangents("carry"), (*graph.xs, *residuals), cotangents("y"), graph.closed, cotangents("sum"))
    classes = {key: as_input(kind) for key, kind in classify(graph).items()}
    kinds = zip(graph.outputs, cotangent_classes(graph), has_ct, strict=True)
    seeded = [kind for out, kind, has in kinds if has and is_float(out)]
    classes.update((id(ct), kind) for (_, _, ct), kind in zip(seeds, seeded, strict=True))
    made = StepGraph(
        carry_in=cotangents("carry"),
        xs=inputs[carries : carries + xs] + available + cotangents("y"),
        closed=inputs[carries + xs :] + cotangents("sum"),
        nodes=tuple(trace.nodes),
        carry_out=tuple(found[id(t)] for t in inputs[:carries] if is_float(t)),
        ys=tuple(found[id(t)] for t in inputs[carries : carries + xs] if id(t) in found),
        sums=tuple(found[id(t)] for t in inputs[carries + xs :] if id(t) in found),
        guard=None if graph.guard is None else env[id(graph.guard)],
        passes=graph.passes,
        row_classes=tuple(classes[id(t)] for group in groups for t in group),
    )
    return _guarded(prune(made), {id(ct) for _, _, ct in seeds}), env, tuple(trace.nodes[forward_nodes:])


def choose_residuals(graph: StepGraph) -> tuple[Tensor, ...]:
    """The forward values to keep for the backward loop.

    What the backward reads is kept, except for what costs next to nothing to compute again from
    what is there: views, sums, products and quotients of kept values, and anything that is the same at
    every step.  (Memory beyond the caches takes longer to come and go than a division.)  Of a value
    of which only parts are read these are kept.  With keep="carry" only the carry is kept and all
    else is computed again.
    """
    if graph.keep == "carry":
        return graph.carry_in
    has_ct = tuple(is_float(t) for t in graph.outputs)
    needed = tuple(is_float(t) for t in graph.inputs)
    full, env, backward = _record(replace(graph, residuals=0, guard=None, cache={}), has_ct, needed)
    origin = {id(new): old for old, new in env.items()}
    alive = {id(node) for node in full.nodes}
    read = {id(t) for node in backward if id(node) in alive for t in node.tensors} | {id(t) for t in full.outputs}
    wanted = {origin[key] for key in read if key in origin}
    # A view is taken again, so what it looks at has to be there in its place, unless only parts of that are wanted.
    parts: dict[int, int] = {}
    for node in reversed(graph.nodes):
        if node.primitive.form == "view":
            (source,) = node.tensors
            size = parts.get(id(source), 0) + sum(math.prod(o.shape) for o in node.outputs if id(o) in wanted)
            parts[id(source)] = size
            if size >= math.prod(source.shape) > 0:
                wanted.add(id(source))
    kept = [t for t in graph.carry_in if id(t) in wanted]
    if "residuals" not in graph.passes:
        return (*kept, *[o for node in graph.nodes for o in node.outputs if id(o) in wanted])
    invariant = {id(t) for t in graph.closed}
    there = invariant | {id(t) for t in graph.xs} | {id(t) for t in kept}
    for node in graph.nodes:
        if all(id(t) in invariant for t in node.tensors) and node.primitive.form != "random":
            invariant.update(id(o) for o in node.outputs)
            there.update(id(o) for o in node.outputs)
        elif _is_cheap(node) and all(id(t) in there for t in node.tensors):
            there.update(id(o) for o in node.outputs)
        else:
            found = [o for o in node.outputs if id(o) in wanted]
            kept.extend(found)
            there.update(id(o) for o in found)
    return tuple(kept)


def _is_cheap(node: Node) -> bool:
    primitive = node.primitive
    quick = primitive.linear is not None or primitive.result_dtype is bool or primitive.name == "divide"
    return primitive.form == "view" or (primitive.form == "map" and quick)


def _guarded(graph: StepGraph, cotangents: set[int]) -> StepGraph:
    """In a masked step: select to zero whatever masked rows would bring into a sum over rows.

    Cotangents of masked rows are zero, but zero times a NaN or an infinity is NaN.
    """
    if graph.guard is None:
        return graph
    classes = classify(graph)
    with Trace() as trace:
        inputs = enter_inputs(trace, graph.inputs)
        env = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
        selected: dict[int, Tensor] = {}
        guard = env[id(graph.guard)]

        def only_valid(old: Tensor) -> Tensor:
            if id(old) not in selected:
                new = env[id(old)]
                mask = structure.reshape(guard, guard.shape + (1,) * (len(new.shape) - 1))
                selected[id(old)] = select(mask, new, 0 if new.dtype.kind != "f" else 0.0)
            return selected[id(old)]

        def rewrite(node: Node, operands: list[object]) -> list[object]:
            linear_in = [x for x in node.tensors if id(x) in cotangents]
            if linear_in:
                cotangents.update(id(o) for o in node.outputs)
            found = operand_classes(node, classes)
            if node.primitive.rows(found, node.inputs, node) != SUMMED or not any(
                classes[id(x)] == ROWS for x in linear_in
            ):
                return operands
            return [
                only_valid(old) if kind == ROWS and is_float(old) else new
                for old, new, kind in zip(node.inputs, operands, found, strict=True)
            ]

        replay(graph.nodes, env, rewrite)
        sums = tuple(
            only_valid(t) if classes[id(t)] == ROWS and id(t) in cotangents else env[id(t)] for t in graph.sums
        )
    groups = (graph.carry_in, graph.xs, graph.closed, graph.carry_out, graph.ys)
    carry_in, xs, closed, carry_out, ys = (tuple(env[id(t)] for t in group) for group in groups)
    return replace(
        graph,
        carry_in=carry_in,
        xs=xs,
        closed=closed,
        nodes=tuple(trace.nodes),
        carry_out=carry_out,
        ys=ys,
        sums=sums,
        guard=guard,
        cache={},
    )
