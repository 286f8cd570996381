"""Pictures of a step graph as text: Mermaid for notebooks and web pages, DOT for Graphviz.

Both show the parts of the scan as boxes, and the carry as a dashed edge back to where it enters the
next step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .graph import StepGraph, describe
from .split import split


@dataclass
class _Picture:
    """What both texts show: boxes of labelled shapes, and edges between them."""

    boxes: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)  # title -> (id, label, kind)
    edges: list[tuple[str, str, str]] = field(default_factory=list)  # from, to, kind


def _picture(graph: StepGraph) -> _Picture:
    names, parts = graph.names(), split(graph)
    picture = _Picture()
    ids: dict[int, str] = {}  # of the shape that makes each value
    groups = (("c", "carry", graph.carry_in), ("x", "x", graph.xs), ("w", "closed", graph.closed))
    for letter, title, tensors in groups:
        for place, t in enumerate(tensors):
            ids[id(t)] = f"{letter}{place}"
            label = f"{names[id(t)]}: {describe(t)}"
            picture.boxes.setdefault(title, []).append((ids[id(t)], label, "input"))
    order = {id(node): f"n{place}" for place, node in enumerate(graph.nodes)}
    titles = (
        ("once", parts.once),
        ("before: all steps at once", parts.before),
        ("loop: step by step", parts.loop),
        ("after: all steps at once", parts.after),
    )
    for title, nodes in titles:
        for node in nodes:
            named = ", ".join(o.name for o in node.outputs if o.name)
            label = f"{named} = {node.primitive.name}" if named else node.primitive.name
            picture.boxes.setdefault(title, []).append((order[id(node)], label, "node"))
    for node in graph.nodes:
        picture.edges += [(ids[id(t)], order[id(node)], "value") for t in node.tensors]
        for output in node.outputs:
            ids.setdefault(id(output), order[id(node)])
    for t, old in zip(graph.carry_out, graph.carry_in, strict=True):
        picture.edges.append((ids[id(t)], ids[id(old)], "carry"))
    for letter, title, tensors in (("y", "y", graph.ys), ("s", "sum over time", graph.sums)):
        for place, t in enumerate(tensors):
            picture.boxes.setdefault(title, []).append((f"{letter}{place}", f"{title}: {names[id(t)]}", "output"))
            picture.edges.append((ids[id(t)], f"{letter}{place}", "value"))
    return picture


def mermaid(graph: StepGraph) -> str:
    """The graph as a Mermaid flow chart."""
    shapes = {"input": '(["{}"])', "node": '["{}"]', "output": '[["{}"]]'}
    arrows = {"value": "-->", "carry": "-. next step .->"}
    picture = _picture(graph)
    lines = ["flowchart TD"]
    for number, (title, items) in enumerate(picture.boxes.items()):
        lines.append(f'  subgraph box{number}["{title}"]')
        lines += [f"    {key}{shapes[kind].format(_without_quotes(label))}" for key, label, kind in items]
        lines.append("  end")
    lines += [f"  {a} {arrows[kind]} {b}" for a, b, kind in picture.edges]
    return "\n".join(lines) + "\n"


def dot(graph: StepGraph) -> str:
    """The graph in Graphviz' language."""
    shapes = {"input": "ellipse", "node": "box", "output": "box, peripheries=2"}
    arrows = {"value": "", "carry": ' [style=dashed, constraint=false, label="next step"]'}
    picture = _picture(graph)

    def lines() -> Iterator[str]:
        yield "digraph step {"
        for number, (title, items) in enumerate(picture.boxes.items()):
            yield f"  subgraph cluster_{number} {{"
            yield f'    label="{title}";'
            for key, label, kind in items:
                yield f'    {key} [label="{_without_quotes(label)}", shape={shapes[kind]}];'
            yield "  }"
        for a, b, kind in picture.edges:
            yield f"  {a} -> {b}{arrows[kind]};"
        yield "}"

    return "\n".join(lines()) + "\n"


def _without_quotes(label: str) -> str:
    return label.replace("\\", "/").replace('"', "'")
