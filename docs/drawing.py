"""Pictures for the pages: graphs and unrolled steps as inline SVG, plots of matplotlib in the page's own colours.

Everything here becomes part of the HTML page, so that its colours follow the page's light or dark theme.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

INK = "var(--color-foreground-primary, #222)"
FAINT = "var(--color-foreground-muted, #777)"
PAPER = "var(--color-background-primary, #fff)"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
# Mid-tones that can be read on light and on dark paper, also by the colour-blind (after Okabe and Ito).
HUES = {"before": "#3a86c8", "loop": "#d9822b", "after": "#2a9d74", "carry": "#d9822b", "plain": "#8a8f98", "red": "#cc4c4c"}
PLOT = ["#3a86c8", "#d9822b", "#2a9d74", "#b05fa8", "#8a8f98", "#cc4c4c"]
LETTER = 6.9  # width of a monospaced letter of 11.5 px
LINE = 15


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
            path += f" L{x1:.1f},{y1:.1f}" if flat else f" C{x0:.1f},{middle:.1f} {x1:.1f},{middle:.1f} {x1:.1f},{y1:.1f}"
        self._line(path, points[-2:], colour, dashed)

    def corner_arrow(self, points: Sequence[tuple[float, float]], colour: str, dashed: bool = False) -> None:
        """A line with straight segments through points, with a head at its end."""
        path = "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._line(path, points[-2:], colour, dashed)

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


def draw_graph(label: str, items: Sequence[Item], bands: Sequence[tuple[str, str]] = (), turns: Sequence[tuple[Any, Any]] = ()) -> Picture:
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
    for route in routes:
        points = [(x[key], y[key]) for key in route]
        half_start, half_end = box_size(lines[route[0]])[1] / 2, box_size(lines[route[-1]])[1] / 2
        points[0] = (points[0][0], points[0][1] + half_start)
        points[-1] = (points[-1][0], points[-1][1] - half_end)
        picture.arrow(points)
    for i, (start, end) in enumerate(turns):
        right = width + 10 + 12 * i
        out, back = x[start] + box_size(lines[start])[0] / 2, x[end] + box_size(lines[end])[0] / 2
        path = [(out, y[start]), (right, y[start]), (right, y[end]), (back, y[end])]
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
    half = {key: box_size(lines[key])[0] / 2 if lines[key] else 5 for row in rows for key in row}
    x: dict[Any, float] = {}
    for row in rows:
        at = 0.0
        for key in row:
            x[key] = at + half[key]
            at += 2 * half[key] + 14
    for sweep in range(40):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wish = {}
            for key in row:
                linked = above.get(key, []) + below.get(key, [])
                wish[key] = sum(x[k] for k in linked) / len(linked) if linked else x[key]
            _spread(row, wish, half, x)
    left = min(x[key] - half[key] for row in rows for key in row)
    return {key: value - left + 14 for key, value in x.items()}


def _spread(row: list[Any], wish: dict[Any, float], half: dict[Any, float], x: dict[Any, float]) -> None:
    """Places as near to the wishes as their order and widths allow: groups that touch move to their mean."""
    groups: list[tuple[list[Any], float, float]] = []  # members, offset-corrected mean, width before the next
    for key in row:
        members, mean = [key], wish[key]
        while groups:
            before, before_mean, _ = groups[-1]
            end = before_mean + sum(half[a] + half[b] + 14 for a, b in zip(before, before[1:]))
            if mean >= end + half[before[-1]] + half[members[0]] + 14:
                break
            groups.pop()
            members = before + members
            offsets, at = [], 0.0
            for i, k in enumerate(members):
                at += half[members[i - 1]] + half[k] + 14 if i else 0
                offsets.append(at)
            mean = sum(wish[k] - o for k, o in zip(members, offsets)) / len(members)
        groups.append((members, mean, 0.0))
    for members, mean, _ in groups:
        at = mean
        for i, key in enumerate(members):
            at += half[members[i - 1]] + half[key] + 14 if i else 0
            x[key] = at


def _heights(
    rows: list[list[Any]], items: Sequence[Item], lines: dict[Any, list[str]], banded: bool
) -> tuple[dict[Any, float], dict[int, tuple[float, float]]]:
    band_of = {item.key: item.band for item in items}
    y: dict[Any, float] = {}
    edges: dict[int, tuple[float, float]] = {}
    at, current = 2.0, -1
    for row in rows:
        number = max((band_of[key] for key in row if key in band_of), default=current)
        if banded and number != current:
            at += 0 if current < 0 else 10
            edges[number] = (at, at)
            at += 26
            current = number
        height = max(box_size(lines[key])[1] for key in row if lines[key])
        for key in row:
            y[key] = at + height / 2
        at += height + 24
        if banded:
            edges[current] = (edges[current][0], at - 12)
    return y, edges


# step graphs and tapes ---------------------------------------------------------------------------
def node_items(nodes: Iterable[Any], names: dict[int, str], given: Iterable[Any] = (), kinds: dict[int, tuple[str, int]] | None = None) -> list[Item]:
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
    given = [*graph.carry_in, *graph.xs]
    items = [Item(id(t), [names[id(t)]], [], "carry" if id(t) in carried else "before", round_=True) for t in given]
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
        Item(id(t), [names[id(t)]], [], "carry" if t in graph.carry_in else "before", True, min(readers[id(t)]))
        for t in given
        if id(t) in readers
    ]
    items += node_items(nodes, names, [t for t in given if id(t) in readers], kinds)
    makers = {id(out): id(node) for node in nodes for out in node.outputs}
    turns = [
        (makers[id(b)], id(a))
        for a, b in zip(graph.carry_in, graph.carry_out)
        if id(b) in makers and id(a) in readers
    ]
    titles = [
        ("before: once, for all time steps", "before"),
        ("loop: at each time step", "loop"),
        ("after: once, for all time steps", "after"),
    ]
    return draw_graph(label, items, titles, turns)


# unrolled steps ----------------------------------------------------------------------------------
def draw_unrolled(
    label: str,
    steps: Sequence[str],
    above: Sequence[Sequence[str]],
    inside: str,
    below: Sequence[Sequence[str]],
    carry: Sequence[str],
    constants: str = "",
) -> Picture:
    """The same step at each time: inputs above, outputs below, the carry from left to right.

    above, below: rows of texts, one a step ("" for nothing); carry: one text more than steps; constants:
    the text of a bar that feeds every step.
    """
    wide = max([len(inside), *[len(c) for c in carry], *[len(t) for row in [*above, *below] for t in row]])
    pitch = max(LETTER * wide + 74, 118)
    picture = Picture(label)
    left, row_height = LETTER * len(carry[0]) + 30, 40
    middle = 18 + row_height * len(above) + (46 if constants else 0)
    for i, step in enumerate(steps):
        x = left + pitch * i + 40
        picture.box(x, middle, [inside, step] if step else [inside], "loop")
        half = box_size([inside, step] if step else [inside])
        for j, row in enumerate(above):
            if row[i]:
                y = 18 + row_height * j
                picture.box(x, y, [row[i]], "before", round_=True)
                if j == len(above) - 1:
                    picture.arrow([(x, y + 12), (x, middle - half[1] / 2)])
        for j, row in enumerate(below):
            if row[i]:
                y = middle + 48 + row_height * j
                picture.box(x, y, [row[i]], "after", round_=True)
                if j == 0:
                    picture.arrow([(x, middle + half[1] / 2), (x, y - 12)])
        start = x - pitch + half[0] / 2 if i else 2
        picture.corner_arrow([(start, middle), (x - half[0] / 2, middle)], HUES["carry"])
        picture.text((start + x - half[0] / 2) / 2, middle - 7, carry[i], colour=HUES["carry"])
        if i == len(steps) - 1:
            end = x + half[0] / 2 + 24 + LETTER * len(carry[-1])
            picture.corner_arrow([(x + half[0] / 2, middle), (end, middle)], HUES["carry"])
            picture.text((x + half[0] / 2 + end) / 2 - 3, middle - 7, carry[-1], colour=HUES["carry"])
    return picture


# plots -------------------------------------------------------------------------------------------
_STAND_IN = "#010203"  # a colour that no plot uses, for the page's own


def axes(columns: int = 1, height: float = 2.8, width: float = 7.2, **options: Any) -> Any:
    """A figure and its axes, in the page's colours; give the figure to `show`."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    settings = {
        "axes.edgecolor": _STAND_IN, "axes.labelcolor": _STAND_IN, "xtick.color": _STAND_IN, "ytick.color": _STAND_IN,
        "text.color": _STAND_IN, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9.5,
        "axes.prop_cycle": plt.cycler(color=PLOT), "svg.fonttype": "none", "legend.frameon": False,
        "font.family": "sans-serif", "figure.constrained_layout.use": True, "axes.titlesize": 9.5,
    }  # fmt: skip
    plt.rcParams.update(settings)
    return plt.subplots(1, columns, figsize=(width, height), **options)


def show(figure: Any, label: str) -> Any:
    """The figure as part of the page."""
    import matplotlib.pyplot as plt
    from IPython.display import HTML

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_STAND_IN, INK)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" style="max-width: 100%; height: auto" ', 1)
    return HTML(text)
