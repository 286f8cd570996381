"""The side-by-side benchmark: minirnn's engines, torch, onnxruntime and JAX on the same work.

All take turns within one process, with equal threads, so that a machine whose speed drifts treats them
alike; medians are compared, as ratios.  Nobody is timed before it has computed what minirnn's reference
engine computes.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from typing import Any

from .. import config
from ..errors import ArgumentError
from ..version import __version__
from . import cases, contestants, turns
from .cases import CELLS, GRIDS, Case
from .contestants import Work
from .options import THREADS, Options, environment, in_force, missing
from .report import SHARE_OF_PEAK, Report, Row, as_json, as_markdown, as_text

# What can be measured besides the grids, and the module that does it.
FIGURES = {
    "scaling": "how the time grows with the numbers of steps and of rows",
    "memory": "peak memory of long sequences, and of training with checkpoints",
    "compile": "seconds from the start of a process, with nothing compiled before and with a warm cache",
    "overhead": "microseconds of a call with next to nothing to compute",
    "masks": "an LSTM's time on padded rows, over that without a mask",
    "peak": "the machine's peak, and how near the product in the loop comes to it",
}
_MODULES = {"compile": "startup"}
PEERS = tuple(contestants.MODULES)
ENGINES = (*contestants.engines(), "cuda")

__all__ = [
    "CELLS", "ENGINES", "FIGURES", "GRIDS", "PEERS", "THREADS", "Case", "Options", "Report", "as_json", "as_markdown",
    "as_text", "environment", "in_force", "run", "run_case",
]  # fmt: skip


def run(options: Options, say: Callable[[str], Any] = lambda line: None) -> Report:
    """Measure what the options ask for; `say` is told of each result as soon as it is there.

    Raises ArgumentError for an engine that is not there, Disagreement if a contestant computes something else.

    >>> report = run(Options(grid="stream", cells=("simple_rnn",), peers=()))
    >>> report.rows, report.figures
    ([], [])
    """
    if options.engine not in (None, *ENGINES):
        raise ArgumentError("bench: engine", got=options.engine, expected=" or ".join(ENGINES))
    if options.engine == "cuda":
        config.current_engine("cuda")  # which says so if it cannot run
    about = _about(options)
    if left_out := missing(options):
        say(f"not installed, so left out: {', '.join(left_out)}")
    if not in_force(options.threads):
        say("the process was not started with the environment of this number of threads; `minirnn bench` sees to that")
    chosen = [] if options.grid is None else cases.chosen(options.grid, options.cells, options.quick)
    rows, figures = [], []
    with config.threads(options.threads):
        floors = _floors(chosen, options)
        for number, (case, floor) in enumerate(zip(chosen, floors, strict=True), 1):
            row = run_case(case, options, say)._replace(floor=floor)
            rows.append(row)
            say(f"{number}/{len(chosen)} {_told(row)}")
        for name in options.figures:
            module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
            for figure in module.figures(options):
                figures.append(figure)
                say(f"{figure.part}: {figure.what}: {figure.value:.3g} {figure.unit} {figure.verdict}")
    return Report(about, rows, figures)


def run_case(case: Case, options: Options, say: Callable[[str], Any] = lambda line: None) -> Row:
    """Everyone who can do the work of one case: checked against the reference engine, then timed in turns."""
    work = Work(case)
    if options.engine == "cuda":
        found = importlib.import_module(f"{__name__}.cuda").taking_part(work, options.peers, say)
    else:
        own: Sequence[str] = ("numpy", "reference") if case.grid == "engines" else options.engines
        found = contestants.of(work, own, options.peers, options.threads)
    expected = work.expected()
    for contestant in found:
        contestants.check(contestant, expected)
    return Row(case, turns.measure(found, options.rounds), {c.name: c.peer for c in found}, found[0].name)


def _floors(chosen: Sequence[Case], options: Options) -> list[float | None]:
    """For each case the seconds that it would take at SHARE_OF_PEAK, as far as kernels run it."""
    by_kernels = [options.judged == "cpu" and case.grid != "engines" for case in chosen]
    if not any(by_kernels):
        return [None] * len(chosen)
    from . import peak

    rate = SHARE_OF_PEAK * peak.of_threads(options.threads)
    return [2 * case.multiply_adds / rate if kernels else None for case, kernels in zip(chosen, by_kernels)]


def _told(row: Row) -> str:
    parts = [f"{name} {1e3 * timing.median:.3g} ms" for name, timing in row.timings.items()]
    for target in row.case.targets:
        ratio = row.ratio(target)
        if ratio is not None:
            parts.append(f"{' or '.join(target.peers)}: {ratio:.2f} of {target.ratio:g}, {row.verdict(target)}")
    return f"{row.case.title}: " + "; ".join(parts)


def _about(options: Options) -> dict[str, Any]:
    """The machine, the versions and the settings."""
    about = {
        "minirnn": __version__,
        "python": platform.python_version(),
        "processor": config._processor(),
        "threads": options.threads,
        "rounds": options.rounds,
    }
    if options.engine == "cuda":
        about["device"] = config._cuda()
    for name in ("numpy", "numba", *options.peers):
        if contestants.installed(name):
            about[name] = importlib.metadata.version(name)
    return about
