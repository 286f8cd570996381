"""Pictures of CUDA kernels: who owns what, and one step of a printed kernel with its barriers."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import NamedTuple

from drawing import FAINT, HUES, INK, LETTER, PAPER, Picture

OWNERS = ["#3a86c8", "#d9822b", "#2a9d74", "#b05fa8"]  # of blocks and of threads, by turns
CELL = 15


class Chart(Picture):
    """A picture with matrices of coloured cells."""

    def cell(self, x: float, y: float, w: float, h: float, hue: str, strong: float = 0.45) -> None:
        """A rectangle of one owner."""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{hue}" fill-opacity="{strong}" '
            f'stroke="{PAPER}" stroke-width="1"/>'
        )
        self._cover(x + w, y + h)

    def matrix(self, x: float, y: float, hues: Sequence[Sequence[str]], title: str, under: str, left: str = "") -> None:
        """Rows of cells with a title above, a text under and one at the left."""
        for i, row in enumerate(hues):
            for j, hue in enumerate(row):
                self.cell(x + CELL * j, y + CELL * i, CELL, CELL, hue)
        wide, high = CELL * len(hues[0]), CELL * len(hues)
        self.text(x, y - 8, title, anchor="start", bold=True)
        self.text(x, y + high + 15, under, anchor="start", colour=FAINT)
        if left:
            self.text(x - 6, y + high / 2 + 4, left, anchor="end", colour=FAINT)
        self._cover(x + wide, y + high)

    def frame(self, x: float, y: float, w: float, h: float, hue: str, title: str, dashed: bool = False) -> None:
        """A frame with a title: a block, or memory."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.below.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="6" fill="none" stroke="{hue}" '
            f'stroke-width="1.5"{dash}/>'
        )
        self.text(x + 9, y + 16, title, anchor="start", colour=hue, bold=True)
        self._cover(x + w, y + h)

    def line(self, x: float, top: float, bottom: float, hue: str, wide: float, dashed: bool = False) -> None:
        """An upright line: a barrier."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{hue}" '
            f'stroke-width="{wide}"{dash}/>'
        )
        self._cover(x + 2, bottom)


# who owns what -----------------------------------------------------------------------------------
def draw_owners(schedule: str) -> Chart:
    """Which block owns which part of the state (6 rows, 8 units) and of an LSTM's recurrent kernel (8 x 32)."""
    return {"block": _owners_of_block, "grid": _owners_of_grid, "step": _owners_of_step}[schedule]()


_GATES = "ifco"


def _owners_of_block() -> Chart:
    chart = Chart("block: each block owns two rows of the state, and holds the whole recurrent kernel in its registers")
    state = [[OWNERS[i // 2]] * 8 for i in range(6)]
    chart.matrix(52, 34, state, "state h", "units", "rows")
    for k in range(3):
        x = 220 + 178 * k
        chart.frame(x, 10, 168, 130, OWNERS[k], f"block {k}")
        for j in range(32):
            for i in range(8):
                chart.cell(x + 12 + 4.5 * j, 52 + 5 * i, 4.5, 5, OWNERS[k])
        chart.text(x + 12, 44, "recurrent kernel", anchor="start", colour=FAINT)
        chart.text(x + 12, 110, "in registers,", anchor="start", colour=FAINT)
        chart.text(x + 12, 126, "all of it, all steps", anchor="start", colour=FAINT)
    return chart


def _owners_of_grid() -> Chart:
    chart = Chart("grid: each block owns two units of every row, and of each gate the columns of its units")
    units = [OWNERS[j // 2] for j in range(8)]
    chart.matrix(52, 34, [units] * 6, "state h", "units", "rows")
    for gate in range(4):
        x = 240 + 132 * gate
        for j in range(8):
            for i in range(8):
                chart.cell(x + CELL * j, 34 + 9 * i, CELL, 9, units[j])
        chart.text(x + 4 * CELL, 122, f"gate {_GATES[gate]}", colour=FAINT)
    chart.text(240, 26, "recurrent kernel, in the registers of its owners", anchor="start", bold=True)
    for k in range(4):
        chart.cell(52 + 92 * k, 150, 12, 12, OWNERS[k])
        chart.text(70 + 92 * k, 160, f"block {k}", anchor="start", colour=FAINT)
    return chart


def _owners_of_step() -> Chart:
    chart = Chart("step: each block owns two rows for one launch; the recurrent kernel stays in memory")
    chart.matrix(52, 34, [[OWNERS[i // 2]] * 8 for i in range(6)], "state h", "units", "rows")
    chart.frame(220, 10, 180, 130, HUES["plain"], "memory, L2 cache", dashed=True)
    for j in range(32):
        for i in range(8):
            chart.cell(235 + 4.5 * j, 52 + 5 * i, 4.5, 5, HUES["plain"])
    chart.text(235, 44, "recurrent kernel", anchor="start", colour=FAINT)
    chart.text(235, 110, "read in each step", anchor="start", colour=FAINT)
    for k in range(3):
        y = 28 + 38 * k
        chart.corner_arrow([(404, y + 12), (462, y + 12)], FAINT)
        chart.frame(466, y, 96, 26, OWNERS[k], f"block {k}")
    return chart


def draw_held(columns: int = 4, blocks: int = 3) -> Chart:
    """How the threads of a block hold a part of a matrix: a column and a block of 64 contracted indices each."""
    chart = Chart("a thread holds 64 weights of one column; the sums of a column's blocks are added in order")
    wide, high, x, y = 112, 46, 120, 40
    chart.text(x, 18, "the block's columns of the recurrent kernel", anchor="start", bold=True)
    for group in range(blocks):
        chart.text(x - 10, y + high * (group + 0.5) + 4, f"k = {64 * group} .. {64 * group + 63}", "end", FAINT)
        for column in range(columns):
            left, top = x + wide * column, y + high * group
            chart.cell(left, top, wide - 3, high - 3, OWNERS[group], 0.35)
            chart.text(left + wide / 2, top + 19, f"thread {group * columns + column}", bold=True)
            chart.text(left + wide / 2, top + 34, "64 weights", colour=FAINT)
    bottom = y + high * blocks
    for column in range(columns):
        middle = x + wide * (column + 0.5)
        chart.arrow([(middle, bottom), (middle, bottom + 22)])
        chart.text(middle, bottom + 38, "S0 + S1 + S2"[: 5 * blocks - 3])
    chart.text(x, bottom + 58, "through shared memory, added in this order", "start", FAINT)
    return chart


# one step ----------------------------------------------------------------------------------------
class Piece(NamedTuple):
    """What a kernel does between two barriers, or a barrier; depth: 1 within a loop over groups of rows."""

    kind: str  # "work", "block", "grid"
    lines: list[str]
    depth: int = 0


_KINDS = [  # what a loop of the text is, from a name in it
    ("tiled_product", ["product", "in tiles"]),
    ("put(staged", ["rows to", "shared memory"]),
    ("sum_of_blocks", ["block sums", "in order"]),
    ("chain_aligned", ["chains", "of 64"]),
    ("chain(", ["chains", "of 64"]),
    ("product_element", ["product,", "weights read"]),
]


def pieces_of(text: str) -> list[Piece]:
    """The pieces of one step of a printed kernel: the body of its loop over time, or all of it."""
    function = next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    loops = [node for node in function.body if isinstance(node, ast.For) and ast.unparse(node.target) == "s"]
    return _pieces(loops[0].body if loops else function.body, 0)


def _pieces(statements: Sequence[ast.stmt], depth: int) -> list[Piece]:
    found: list[Piece] = []
    for statement in statements:
        shown = ast.unparse(statement)
        if shown in ("grid.sync()", "cuda.syncthreads()"):
            found.append(Piece("grid" if shown.startswith("grid") else "block", [], depth))
        elif isinstance(statement, ast.For) and "cuda.syncthreads()" in shown:
            found += _pieces(statement.body, depth + 1)
        elif isinstance(statement, (ast.For, ast.If)) and "put(" in shown:
            lines = next((lines for name, lines in _KINDS if name in shown), None)
            lines = lines or (["gates,", "new state"] if re.search(r"tanh|sigmoid", shown) else ["elementwise"])
            if not (found and found[-1] == Piece("work", lines, depth)):
                found.append(Piece("work", lines, depth))
    return found


def rows_at_once(text: str) -> int:
    """How many rows go through shared memory at a time."""
    found = re.search(r"range\(row_first, row_end, (\d+)\)", text)
    return int(found[1]) if found else 1


def draw_step(label: str, text: str, lanes: Sequence[str], ends: str = "") -> Chart:
    """One step of a printed kernel from left to right, for some blocks.

    ends: what separates this step from the next one, if not the kernel's own barriers.
    """
    chart = Chart(label)
    height, gap, top = 40, 12, 30
    bottom = top + (height + gap) * len(lanes) - gap
    left = x = 16 + LETTER * max(map(len, lanes))
    inner_from = 0.0
    pieces = pieces_of(text)
    for number, piece in enumerate(pieces):
        if piece.depth and not inner_from:
            inner_from = x + 2
        if piece.kind == "grid":
            chart.line(x + 12, top - 8, bottom + 8, "#b03a3a", 3)
            chart.text(x + 12, bottom + 24, "grid.sync", colour="#b03a3a")
            x += 24
        elif piece.kind == "block":
            for lane in range(len(lanes)):
                y = top + (height + gap) * lane
                chart.line(x + 9, y - 3, y + height + 3, INK, 2)
            x += 18
        else:
            wide = LETTER * max(map(len, piece.lines)) + 14
            for lane in range(len(lanes)):
                y = top + (height + gap) * lane
                chart.cell(x, y, wide, height, OWNERS[lane % len(OWNERS)], 0.3)
                for k, line in enumerate(piece.lines):
                    chart.text(x + wide / 2, y + height / 2 + 4 + 14 * (k - (len(piece.lines) - 1) / 2), line)
            x += wide + 3
        if inner_from and (number + 1 == len(pieces) or not pieces[number + 1].depth):
            title = f"for each {rows_at_once(text)} rows"
            chart.frame(inner_from - 4, top - 26, x - inner_from + 4, bottom - top + 32, FAINT, title, True)
            inner_from, x = 0.0, x + 6
    if ends:
        chart.line(x + 10, top - 8, bottom + 8, HUES["plain"], 3, dashed=True)
        chart.text(x + 10, bottom + 24, ends, colour=FAINT)
    for lane, name in enumerate(lanes):
        middle = top + (height + gap) * lane + height / 2 + 4
        chart.text(left - 10, middle, name, "end", OWNERS[lane % len(OWNERS)], True)
    return chart
