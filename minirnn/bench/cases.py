"""What is measured: the grids, and for each cell of them the ratio that is aimed at."""

from __future__ import annotations

import math
from typing import NamedTuple

STEPS = 100
BUILT_IN = ("simple_rnn", "gru", "lstm")
OWN = ("layer_norm_lstm", "attention_lstm", "fed_back_lstm", "stacked_lstm")
CELLS = (*BUILT_IN, *OWN)
SLOTS = 20  # vectors that the attention looks at
LAYERS = 3  # stacked cells
# The images of the ConvLSTM2D: their sizes, their channels, the kernel.
IMAGE, CHANNELS, KERNEL = (32, 32), 8, (3, 3)


class Target(NamedTuple):
    """The fastest of the peers should take at least `ratio` times as long as minirnn."""

    peers: tuple[str, ...]
    ratio: float


class Case(NamedTuple):
    """One cell of a grid; features and units are equal, but for images, whose units are filters."""

    grid: str
    cell: str
    batch: int
    units: int
    targets: tuple[Target, ...]
    training: bool = False
    steps: int = STEPS

    @property
    def title(self) -> str:
        """A line for messages."""
        work = "streamed step" if self.grid == "stream" else "training" if self.training else "forward"
        return f"{self.cell} {work} B={self.batch} H={self.units}"

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of the matrix products in one call."""
        forward, backward = _products(self.cell, self.units)
        steps = 1 if self.grid == "stream" else self.steps
        return steps * self.batch * (forward + backward if self.training else forward)


def _products(cell: str, units: int) -> tuple[int, int]:
    """Multiply-adds a row and step, forward and backward: in H x H products, and of the attention by its slots.

    A product with a weight has two products in its backward; that with x has one, for x needs no gradient.
    """
    if cell == "conv_lstm":
        place = math.prod(IMAGE) * math.prod(KERNEL) * 4 * units
        return place * (CHANNELS + units), place * (CHANNELS + 2 * units)
    square, gates = units * units, {"simple_rnn": 1, "gru": 3}.get(cell, 4)
    of_x, of_state = gates, gates  # products with x, and with what has a gradient
    attention = 0
    if cell == "attention_lstm":
        of_state, attention = gates + 1 + gates, 2 * SLOTS * units  # query, context
    elif cell == "fed_back_lstm":
        of_x, of_state = 0, 2 * gates + 1  # what was written, the state; and Dense
    elif cell == "stacked_lstm":
        of_state = gates * (2 * LAYERS - 1)
    return (of_x + of_state) * square + attention, (of_x + 2 * of_state) * square + attention


def _sequence() -> list[Case]:
    return [
        Case("sequence", cell, 1, units, (Target(("onnxruntime", "torch"), 1.5 if units <= 32 else 1.3),))
        for cell in BUILT_IN
        for units in (16, 32, 64, 128, 256, 512)
    ]


def _batch() -> list[Case]:
    def ratio(cell: str, units: int) -> float:
        return 1.0 if cell == "lstm" else 1.5 if units <= 256 else 1.2

    return [
        Case("batch", cell, batch, units, (Target(("onnxruntime", "torch"), ratio(cell, units)),))
        for cell in BUILT_IN
        for batch in (16, 64)
        for units in (64, 128, 256, 512)
    ]


def _training() -> list[Case]:
    def ratio(cell: str, batch: int) -> float:
        return 2.0 if cell != "lstm" else 1.5 if batch == 1 else 1.0

    return [
        Case("training", cell, batch, units, (Target(("torch",), ratio(cell, batch)),), training=True)
        for cell in BUILT_IN
        for batch in (1, 16, 64)
        for units in (64, 128, 256)
    ]


# The users' own steps: (B, H) to the ratios to JAX and to torch, forward and in training.
_OWN_RATIOS = {
    (1, 64): ((2.5, 20.0), (2.5, 20.0)),
    (16, 128): ((2.0, 4.5), (2.5, 6.0)),
    (64, 256): ((1.5, 1.5), (2.5, 2.5)),
}


def _own() -> list[Case]:
    return [
        Case("own", cell, batch, units, (Target(("jax",), ratios[0]), Target(("torch",), ratios[1])), training)
        for cell in OWN
        for (batch, units), both in _OWN_RATIOS.items()
        for training, ratios in zip((False, True), both, strict=True)
    ]


def _stream() -> list[Case]:
    return [Case("stream", cell, 1, 64, (Target(("onnxruntime",), 5.0),)) for cell in ("gru", "lstm")]


def _images() -> list[Case]:
    return [Case("images", "conv_lstm", 4, 16, (Target(("keras", "torch"), 1.0),), training=True, steps=10)]


def _engines() -> list[Case]:
    """The numpy engine against the step-by-step loop, and against the same LSTM written by hand with autograd."""
    return [
        Case("engines", "lstm", batch, 128, (Target(("reference",), slower), Target(("autograd",), 1.0)), training=True)
        for batch, slower in ((1, 3.0), (32, 1.5))
    ]


def _cuda() -> list[Case]:
    """Sizes at which different schedules fit, without targets as long as nobody has timed them."""
    return [
        Case("cuda", cell, batch, units, (), training)
        for cell in BUILT_IN
        for training in (False, True)
        for batch in (1, 16, 64)
        for units in (64, 256, 512)
    ]


GRIDS = {
    "sequence": _sequence(),
    "batch": _batch(),
    "training": _training(),
    "own": _own(),
    "stream": _stream(),
    "images": _images(),
    "engines": _engines(),
    "cuda": _cuda(),
}
ALL = tuple(name for name in GRIDS if name not in ("engines", "cuda"))  # those of the cpu engine's kernels
TITLES = {
    "sequence": "Whole sequence, one row",
    "batch": "Whole sequence, 16 and 64 rows",
    "training": "Training step: forward and backward",
    "own": "Users' own steps",
    "stream": "One streamed step, called from Python",
    "images": "Training step of a ConvLSTM2D",
    "engines": "The numpy engine, LSTM training",
    "cuda": "The schedules of the cuda engine",
}


def chosen(grid: str, cells: tuple[str, ...] | None = None, quick: bool = False) -> list[Case]:
    """The cases of a grid ("all" for those of ALL), of some cells only, or with `quick` only the smallest of each cell.

    >>> [case.title for case in chosen("stream")]
    ['gru streamed step B=1 H=64', 'lstm streamed step B=1 H=64']
    >>> len(chosen("all")), len(chosen("all", quick=True)), len(chosen("own", ("fed_back_lstm",)))
    (96, 20, 6)
    """
    cases = [case for name in (ALL if grid == "all" else (grid,)) for case in GRIDS[name]]
    cases = [case for case in cases if cells is None or case.cell in cells]
    if quick:
        cases = list({(case.grid, case.cell, case.training): case for case in reversed(cases)}.values())[::-1]
    return cases
