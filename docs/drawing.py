"""Pictures for the pages, as inline SVG: tapes and step graphs in layers, steps unrolled over time.

The drawings become part of the HTML page, so that their colours follow its light or dark theme.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

INK = "var(--color-foreground-primary, #222)"
FAINT = "var(--color-foreground-muted, #777)"
PAPER = "var(--color-background-primary, #fff)"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
# Mid-tones that can be read on light and on dark paper, also by the colour-blind (after Okabe and Ito).
HUES = {"before": "#3a86c8", "loop": "#d9822b", "after": "#2a9d74", "carry": "#d9822b", "plain": "#8a8f98"}
LETTER = 6.9  # width of a monospaced letter of 11.5 px
LINE = 15  # from one line of text to the next
GAP = 14  # between neighbours in a layer
BEND = 5  # half the room of a long edge on its way through a layer


class Picture:
    """An SVG drawing that grows by boxes, arrows and texts; shown when it is the last value of a cell."""

    def __init__(self, label: str) -> None:
        self.label, self.parts, self.below = label, [], []
        self.width = self.height = 0.0

    def _cover(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)

    def band(self, x: float, y: float, w: float, h: float, title: str, kind: str) -> None:
        """A large faint area behind boxes, with a title in its upper left corner."""
        hue = HUES[kind]
        self.below.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="9" fill="{hue}" fill-opacity="0.10"/>'
        )
        self.text(x + 10, y + 16, title, anchor="start", colour=hue, bold=True)
        self._cover(x + w, y + h)

    def box(self, x: float, y: float, lines: Sequence[str], kind: str = "plain", round_: bool = False) -> None:
        """Lines of text in a frame around (x, y); the first one is bold."""
        w, h = box_size(lines)
        hue = HUES[kind]
        self.parts.append(
            f'<rect x="{x - w / 2:.1f}" y="{y - h / 2:.1f}" width="{w:.1f}" height="{h:.1f}" '
            f'rx="{h / 2 if round_ else 5:.1f}" fill="{PAPER}" stroke="{hue}" stroke-width="1.5"/>'
        )
        first = y - LINE * (len(lines) - 1) / 2 + 4
        for i, line in enumerate(lines):
            self.text(x, first + LINE * i, line, bold=i == 0, colour=INK if i == 0 else FAINT)
        self._cover(x + w / 2 + 2, y + h / 2 + 2)

    def bar(self, left: float, y: float, right: float, text: str) -> None:
        """A wide box from left to right."""
        self.parts.append(
            f'<rect x="{left:.1f}" y="{y - 12:.1f}" width="{right - left:.1f}" height="24" rx="12" fill="{PAPER}" '
            f'stroke="{HUES["before"]}" stroke-width="1.5"/>'
        )
        self.text((left + right) / 2, y + 4, text, bold=True)
        self._cover(right + 2, y + 14)

    def carry(self, start: float, end: float, y: float, text: str) -> None:
        """A level arrow in the carry's colour, with a text above it."""
        self.corner_arrow([(start, y), (end, y)], HUES["carry"])
        self.text((start + end) / 2 - 3, y - 7, text, colour=HUES["carry"])

    def text(
        self, x: float, y: float, text: str, anchor: str = "middle", colour: str = INK, bold: bool = False
    ) -> None:
        """One line of text on the base line y."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{html.escape(text)}</text>'
        )
        reach = {"middle": 0.5, "start": 1.0, "end": 0.0}[anchor] * LETTER * len(text)
        self._cover(x + reach + 2, y + 4)

    def arrow(self, points: Sequence[tuple[float, float]], colour: str = FAINT, dashed: bool = False) -> None:
        """A smooth line through points, with a head at its end."""
        path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
        for (x0, y0), (x1, y1) in zip(points, points[1:]):
            middle = (y0 + y1) / 2
            flat = abs(y1 - y0) < 1
            path += (
                f" L{x1:.1f},{y1:.1f}" if flat else f" C{x0:.1f},{middle:.1f} {x1:.1f},{middle:.1f} {x1:.1f},{y1:.1f}"
            )
        self._line(path, points[-2:], colour, dashed)

    def corner_arrow(self, points: Sequence[tuple[float, float]], colour: str, dashed: bool = False) -> None:
        """A line with straight segments through points, with a head at its end."""
        path = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._line(path, points[-2:], colour, dashed)
        self._cover(max(x for x, _ in points) + 2, 0)

    def _line(self, path: str, end: Sequence[tuple[float, float]], colour: str, dashed: bool) -> None:
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.below.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.3"{dash}/>')
        (x0, y0), (x1, y1) = end
        # Smooth lines arrive vertically, straight ones along their last segment.
        level = abs(y1 - y0) < 1
        dx, dy = (1 if x1 > x0 else -1, 0) if level else (0, 1 if y1 > y0 else -1)
        wings = [(x1 - 7 * dx - 3.5 * dy, y1 - 7 * dy - 3.5 * dx), (x1 - 7 * dx + 3.5 * dy, y1 - 7 * dy + 3.5 * dx)]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x1, y1), *wings])
        self.below.append(f'<polygon points="{corners}" fill="{colour}"/>')

    def _repr_html_(self) -> str:
        body = "".join([*self.below, *self.parts])
        return (
            f'<div style="overflow-x: auto; margin: 0.6em 0"><svg xmlns="http://www.w3.org/2000/svg" role="img" '
            f'aria-label="{html.escape(self.label)}" viewBox="0 0 {self.width + 2:.0f} {self.height + 2:.0f}" '
            f'width="{self.width + 2:.0f}" style="max-width: 100%; height: auto; font: 11.5px {html.escape(MONO)}">'
            f"{body}</svg></div>"
        )

    def __repr__(self) -> str:
        return f"<picture: {self.label}>"


def box_size(lines: Sequence[str]) -> tuple[float, float]:
    """The width and height of a box around some lines of text."""
    return max(LETTER * max(map(len, lines)) + 18, 34), LINE * len(lines) + 9


# graphs ------------------------------------------------------------------------------------------
@dataclass
class Item:
    """One box of a graph: its text, the keys of the boxes it reads, its colour, and the band that it lies in."""

    key: Any
    lines: list[str]
    parents: list[Any]
    kind: str = "plain"
    round_: bool = False
    band: int = 0


def draw_graph(
    label: str, items: Sequence[Item], bands: Sequence[tuple[str, str]] = (), turns: Sequence[tuple[Any, Any]] = ()
) -> Picture:
    """A graph from top to bottom in layers; bands (title, kind) lie under one another.

    turns: pairs of keys (from, to) that an arrow on the right leads back up, as a carry goes to the next step.
    """
    rows = _layers(items, len(bands) or 1)
    lines = {item.key: item.lines for item in items}
    routes = _add_bends(items, rows, lines)
    _untangle(rows, routes)
    x = _columns(rows, routes, lines)
    picture = Picture(label)
    y, edges = _heights(rows, items, lines, bool(bands))
    width = max(x[key] + box_size(lines[key])[0] / 2 for row in rows for key in row if key in lines and lines[key])
    margin = 14 + 12 * len(turns)
    for number, (title, kind) in enumerate(bands):
        top, bottom = edges[number]
        picture.band(0, top, max(width + margin, 40 + LETTER * len(title)), bottom - top, title, kind)
    tall = [max(box_size(lines[key])[1] for key in row if lines[key]) for row in rows]
    layer = {key: i for i, row in enumerate(rows) for key in row}
    for route in routes:
        # From the lower edge of a box, straight past the boxes of the layers between, to an upper edge.
        points = [(x[route[0]], y[route[0]] + box_size(lines[route[0]])[1] / 2)]
        for key in route[1:-1]:
            points += [(x[key], y[key] - tall[key[3]] / 2), (x[key], y[key] + tall[key[3]] / 2)]
        picture.arrow([*points, (x[route[-1]], y[route[-1]] - box_size(lines[route[-1]])[1] / 2)])
    for i, (start, end) in enumerate(turns):
        # Out to the right, up beside everything, and back in the gap above the row of the target.
        right, upper = width + 10 + 12 * i, y[end] - box_size(lines[end])[1] / 2
        gap = y[end] - tall[layer[end]] / 2 - 9
        out = x[start] + box_size(lines[start])[0] / 2
        path = [(out, y[start]), (right, y[start]), (right, gap), (x[end], gap), (x[end], upper)]
        picture.corner_arrow(path, HUES["carry"], dashed=True)
    for item in items:
        picture.box(x[item.key], y[item.key], item.lines, item.kind, item.round_)
    return picture


def _layers(items: Sequence[Item], bands: int) -> list[list[Any]]:
    """Keys by layer: each item below all that it reads, each band below the one before."""
    depth: dict[Any, int] = {}
    first = 0
    for band in range(bands):
        for item in items:
            if item.band == band:
                depth[item.key] = max([first, *[depth[p] + 1 for p in item.parents]])
        first = max(depth.values(), default=-1) + 1
    # Inputs stand directly above what reads them first.
    for item in reversed(items):
        readers = [depth[other.key] for other in items if item.key in other.parents and other.band == item.band]
        if not item.parents and readers:
            depth[item.key] = min(readers) - 1
    rows: list[list[Any]] = [[] for _ in range(max(depth.values()) + 1)]
    for key, layer in depth.items():
        rows[layer].append(key)
    return rows


def _add_bends(items: Sequence[Item], rows: list[list[Any]], lines: dict[Any, list[str]]) -> list[list[Any]]:
    """Each edge as the keys that it goes through: an invisible one in every layer that it crosses."""
    layer = {key: i for i, row in enumerate(rows) for key in row}
    routes = []
    for item in items:
        for parent in dict.fromkeys(item.parents):
            route = [parent]
            for between in range(layer[parent] + 1, layer[item.key]):
                bend = ("bend", parent, item.key, between)
                rows[between].append(bend)
                lines[bend] = []
                route.append(bend)
            routes.append([*route, item.key])
    return routes


def _neighbours(routes: list[list[Any]]) -> tuple[dict[Any, list[Any]], dict[Any, list[Any]]]:
    above: dict[Any, list[Any]] = {}
    below: dict[Any, list[Any]] = {}
    for route in routes:
        for a, b in zip(route, route[1:]):
            above.setdefault(b, []).append(a)
            below.setdefault(a, []).append(b)
    return above, below


def _untangle(rows: list[list[Any]], routes: list[list[Any]]) -> None:
    """Order each layer by the mean place of what its members are connected to, some times down and up."""
    above, below = _neighbours(routes)
    for sweep in range(12):
        down = sweep % 2 == 0
        links = above if down else below
        for row, fixed in zip(rows[1:] if down else rows[-2::-1], rows if down else rows[:0:-1]):
            place = {key: i / max(len(fixed) - 1, 1) for i, key in enumerate(fixed)}
            own = {key: i / max(len(row) - 1, 1) for i, key in enumerate(row)}

            def centre(key: Any, place: Any = place, own: Any = own, links: Any = links) -> float:
                found = [place[k] for k in links.get(key, []) if k in place]
                return sum(found) / len(found) if found else own[key]

            row.sort(key=centre)


def _columns(rows: list[list[Any]], routes: list[list[Any]], lines: dict[Any, list[str]]) -> dict[Any, float]:
    """The x of each key: near the mean of its neighbours, without overlap."""
    above, below = _neighbours(routes)
    half = {key: box_size(lines[key])[0] / 2 if lines[key] else BEND for row in rows for key in row}
    x: dict[Any, float] = {}
    for row in rows:
        at = 0.0
        for key in row:
            x[key] = at + half[key]
            at += 2 * half[key] + GAP
    for sweep in range(200):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wish = {}
            for key in row:
                linked = above.get(key, []) + below.get(key, [])
                # Long edges want to be straight more than boxes want to be in the middle.
                weights = [8 if not lines[k] and not lines[key] else 1 for k in linked]
                total = sum(weight * x[k] for weight, k in zip(weights, linked))
                wish[key] = total / sum(weights) if linked else x[key]
            _spread(row, wish, half, x)
    left = min(x[key] - half[key] for row in rows for key in row)
    return {key: value - left + 14 for key, value in x.items()}


def _spread(row: list[Any], wish: dict[Any, float], half: dict[Any, float], x: dict[Any, float]) -> None:
    """Places as near to the wishes as their order and widths allow: groups that touch move to their mean."""

    def offsets(members: list[Any]) -> list[float]:
        gaps = [half[a] + half[b] + GAP for a, b in zip(members, members[1:])]
        return list(itertools.accumulate(gaps, initial=0.0))

    groups: list[tuple[list[Any], float]] = []  # members, and the place of the first
    for key in row:
        members, first = [key], wish[key]
        while groups:
            before, start = groups[-1]
            if first >= start + offsets([*before, members[0]])[-1]:
                break
            groups.pop()
            members = before + members
            weights = [1 if half[k] > BEND else 6 for k in members]
            firsts = [wish[k] - o for k, o in zip(members, offsets(members))]
            first = sum(w * f for w, f in zip(weights, firsts)) / sum(weights)
        groups.append((members, first))
    for members, first in groups:
        x.update((key, first + o) for key, o in zip(members, offsets(members)))


def _heights(
    rows: list[list[Any]], items: Sequence[Item], lines: dict[Any, list[str]], banded: bool
) -> tuple[dict[Any, float], dict[int, tuple[float, float]]]:
    band_of = {item.key: item.band for item in items}
    y: dict[Any, float] = {}
    edges: dict[int, tuple[float, float]] = {}
    at, current = 2.0 if banded else 16.0, -1
    for row in rows:
        number = max((band_of[key] for key in row if key in band_of), default=current)
        if banded and number != current:
            at += 0 if current < 0 else 10
            edges[number] = (at, at)
            at += 34
            current = number
        height = max(box_size(lines[key])[1] for key in row if lines[key])
        for key in row:
            y[key] = at + height / 2
        at += height + 24
        if banded:
            edges[current] = (edges[current][0], at - 12)
    return y, edges


# step graphs and tapes ---------------------------------------------------------------------------
def node_items(
    nodes: Iterable[Any],
    names: dict[int, str],
    given: Iterable[Any] = (),
    kinds: dict[int, tuple[str, int]] | None = None,
) -> list[Item]:
    """Boxes for nodes: the names of the outputs above the call; operands that no box stands for are only named."""
    from minirnn import Tensor

    boxes: dict[int, Any] = {id(t): id(t) for t in given}
    items = []
    for node in nodes:
        kind, band = (kinds or {}).get(id(node), ("plain", 0))
        operands = ", ".join(names[id(x)] if isinstance(x, Tensor) else f"{x:g}" for x in node.inputs)
        made = ", ".join(names[id(out)] for out in node.outputs)
        parents = [boxes[id(x)] for x in node.inputs if id(x) in boxes]
        items.append(Item(id(node), [made, f"{node.primitive.name}({operands})"], parents, kind, band=band))
        boxes.update((id(out), id(node)) for out in node.outputs)
    return items


def draw_step_graph(graph: Any, label: str = "a step graph") -> Picture:
    """A step graph from its inputs down to its results; what it closes over is named only."""
    names = graph.names()
    given, carried = [*graph.carry_in, *graph.xs], len(graph.carry_in)
    items = [
        Item(id(t), [names[id(t)]], [], "carry" if place < carried else "before", round_=True)
        for place, t in enumerate(given)
    ]
    items += node_items(graph.nodes, names, given)
    makers = {id(out): id(node) for node in graph.nodes for out in node.outputs}
    turns = [(makers[id(b)], id(a)) for a, b in zip(graph.carry_in, graph.carry_out) if id(b) in makers]
    return draw_graph(label, items, turns=turns)


def draw_split(graph: Any, parts: Any, label: str = "the three parts of a scan") -> Picture:
    """A step graph in the bands before, loop and after."""
    names = graph.names()
    kinds = {}
    for number, (kind, nodes) in enumerate((("before", parts.before), ("loop", parts.loop), ("after", parts.after))):
        kinds.update((id(node), (kind, number)) for node in nodes)
    nodes = [node for node in graph.nodes if id(node) in kinds]
    given = [*graph.carry_in, *graph.xs]
    readers: dict[int, list[int]] = {}
    for node in nodes:
        for t in node.tensors:
            readers.setdefault(id(t), []).append(kinds[id(node)][1])
    items = [
        Item(id(t), [names[id(t)]], [], "carry" if place < len(graph.carry_in) else "before", True, min(readers[id(t)]))
        for place, t in enumerate(given)
        if id(t) in readers
    ]
    items += node_items(nodes, names, [t for t in given if id(t) in readers], kinds)
    makers = {id(out): id(node) for node in nodes for out in node.outputs}
    turns = [
        (makers[id(b)], id(a)) for a, b in zip(graph.carry_in, graph.carry_out) if id(b) in makers and id(a) in readers
    ]
    titles = [
        ("before: once, for all time steps", "before"),
        ("loop: at each time step", "loop"),
        ("after: once, for all time steps", "after"),
    ]
    return draw_graph(label, items, titles, turns)


def draw_tape(tape: Any, target: Any, named: dict[str, Any], label: str) -> Picture:
    """A tape's nodes with their places in the list, their values (of single numbers) and their cotangents."""
    from minirnn import Tensor
    from minirnn.autodiff.tensor import identity

    names = {id(t): name for name, t in named.items()}
    items = [Item(id(t), [name, f"value {t.item():.4f}"], [], "before", round_=True) for name, t in named.items()]
    for number, node in enumerate(tape.nodes):
        names[id(node.outputs[0])] = f"v{number}"
    outs = [node.outputs[0] for node in tape.nodes]
    cts = tape.gradient(target, [*named.values(), *outs])
    for item, ct in zip(items, cts):
        item.lines.append(f"ct    {ct.item():.4f}")
    for number, (node, ct) in enumerate(zip(tape.nodes, cts[len(named) :])):
        keys = [id(identity(x)) if isinstance(x, Tensor) else None for x in node.inputs]
        operands = ", ".join(f"{x:g}" if key is None else names[key] for key, x in zip(keys, node.inputs))
        lines = [f"{number}: v{number} = {node.primitive.name}({operands})"]
        lines += [f"value {node.outputs[0].item():.4f}", f"ct    {ct.item():.4f}"]
        items.append(Item(id(node.outputs[0]), lines, [key for key in keys if key in names], "plain"))
    return draw_graph(label, items)


# unrolled steps ----------------------------------------------------------------------------------
def draw_unrolled(
    label: str,
    inside: str,
    xs: Sequence[str],
    ys: Sequence[str],
    carry: Sequence[str],
    constant: str = "",
) -> Picture:
    """The same step at each time: x from above, y out below, the carry from left to right.

    xs, ys: one text a step, "" for nothing; carry: one text more; constant: a bar above that feeds every step.
    """
    picture = Picture(label)
    aside = 24 if constant else 0  # the constant's arrow comes down beside the x
    wide = max(LETTER * max(map(len, [*xs, *ys])) + 30 + 2 * aside, 62 + LETTER * max(map(len, carry)) + 26)
    left = LETTER * len(carry[0]) + 60
    bar, top = 14, 56 if constant else 14
    middle = (top if any(xs) else bar) + 62
    half_width, half_height = (size / 2 for size in box_size([inside, "t = 0"]))
    places = [left + wide * i for i in range(len(xs))]
    if constant:
        picture.bar(places[0] - 40, bar, places[-1] + 40, constant)
    for i, (x, above, under) in enumerate(zip(places, xs, ys)):
        picture.box(x, middle, [inside, f"t = {i}"], "loop")
        if constant:
            down = x - 20 if any(xs) else x
            picture.arrow([(down, bar + 12), (down, middle - half_height)])
        if above:
            picture.box(x + aside, top, [above], "before", round_=True)
            picture.arrow([(x + aside / 2, top + 12), (x + aside / 2, middle - half_height)])
        if under:
            picture.arrow([(x, middle + half_height), (x, middle + 50)])
            picture.box(x, middle + 62, [under], "after", round_=True)
        start = places[i - 1] + half_width if i else 2
        picture.carry(start, x - half_width, middle, carry[i])
    picture.carry(places[-1] + half_width, places[-1] + half_width + 34 + LETTER * len(carry[-1]), middle, carry[-1])
    return picture
