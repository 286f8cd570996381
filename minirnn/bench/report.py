"""What was measured, as text, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from .cases import TITLES, Case, Target
from .turns import Timing

_WORDS = ("of", "what", "cell", "work", "")  # columns of words, not of numbers
SHARE_OF_PEAK = 0.8  # of the machine's fma: a target that would need more counts as met there


class Row(NamedTuple):
    """One case: everyone's timing by name, who belongs to which peer, and the minirnn engine that is judged.

    floor: seconds at SHARE_OF_PEAK, None where the peak is not known.
    """

    case: Case
    timings: dict[str, Timing]
    peer_of: dict[str, str]
    engine: str
    floor: float | None = None

    def best(self, peer: str) -> float | None:
        """The seconds of the fastest variant of a peer, None if it did not take part."""
        return min((t.median for name, t in self.timings.items() if self.peer_of[name] == peer), default=None)

    @property
    def seconds(self) -> float:
        """The seconds of the judged engine."""
        return self.timings[self.engine].median

    def ratio(self, target: Target) -> float | None:
        """The fastest peer's time by minirnn's; None if none of the peers took part."""
        seconds = [best for peer in target.peers if (best := self.best(peer)) is not None]
        return min(seconds) / self.seconds if seconds else None

    def verdict(self, target: Target) -> str:
        """met, met at the peak, missed; or "not judged" if one of the peers did not take part."""
        ratio = self.ratio(target)
        if ratio is None or any(self.best(peer) is None for peer in target.peers):
            return "not judged"
        if ratio >= target.ratio:
            return "met"
        return "met at the peak" if self.floor is not None and self.seconds <= self.floor else "missed"


class Figure(NamedTuple):
    """A measured number beside the limit that it should keep (`at_least` says to which side)."""

    part: str
    what: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        """met or missed; nothing without a limit."""
        if self.limit is None:
            return ""
        return "met" if (self.value >= self.limit if self.at_least else self.value <= self.limit) else "missed"


class Report(NamedTuple):
    """All of a run; `about` tells of the machine and the versions."""

    about: dict[str, Any]
    rows: list[Row]
    figures: list[Figure]


def as_text(report: Report) -> str:
    """Aligned columns, milliseconds and ratios."""
    return _laid_out(report, _aligned, "{}")


def as_markdown(report: Report) -> str:
    """The same as tables of a page."""
    return _laid_out(report, _piped, "### {}")


def as_json(report: Report) -> str:
    """Everything, with seconds, quartiles, variants and verdicts."""
    rows = [
        {
            **{name: getattr(row.case, name) for name in ("grid", "cell", "batch", "units", "steps", "training")},
            "engine": row.engine,
            "multiply_adds": row.case.multiply_adds,
            "seconds": {
                name: {**t._asdict(), "peer": row.peer_of[name], "spread": t.spread} for name, t in row.timings.items()
            },
            "targets": [
                {**target._asdict(), "measured": row.ratio(target), "verdict": row.verdict(target)}
                for target in row.case.targets
            ],
        }
        for row in report.rows
    ]
    figures = [{**figure._asdict(), "verdict": figure.verdict} for figure in report.figures]
    return json.dumps({"about": report.about, "rows": rows, "figures": figures}, indent=2)


def _laid_out(report: Report, table: Any, heading: str) -> str:
    parts = [", ".join(f"{name} {value}" for name, value in report.about.items())]
    for grid in dict.fromkeys(row.case.grid for row in report.rows):
        rows = [row for row in report.rows if row.case.grid == grid]
        parts.append(heading.format(TITLES[grid]) + "\n\n" + table(*_columns(rows)))
    if report.figures:
        lines = [[f.part, f.what, f"{f.value:.3g} {f.unit}".strip(), _limit(f), f.verdict] for f in report.figures]
        parts.append(heading.format("Other figures") + "\n\n" + table([*_WORDS[:2], "measured", "target", ""], lines))
    judged = [row.verdict(t) for row in report.rows for t in row.case.targets]
    judged += [f.verdict for f in report.figures if f.verdict]
    if judged:
        counts = {verdict: judged.count(verdict) for verdict in dict.fromkeys(judged)}
        parts.append("Targets: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return "\n\n".join(parts)


def _limit(figure: Figure) -> str:
    if figure.limit is None:
        return ""
    return f"{'>=' if figure.at_least else '<='} {figure.limit:g}"


def _columns(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """A grid's header and lines: who took how many milliseconds, then the ratio for each target."""
    shown = list(dict.fromkeys(peer for row in rows for peer in row.peer_of.values()))
    targets = list(dict.fromkeys(target.peers for row in rows for target in row.case.targets))
    header = ["cell", "work", "B", "H", *(f"{peer} ms" for peer in shown), "spread"]
    for peers in targets:
        header += [f"{' or '.join(peers)} / {rows[0].engine}", "target", ""]
    lines = []
    for row in rows:
        best = {peer: row.best(peer) for peer in shown}
        line = [row.case.cell, "training" if row.case.training else "forward", str(row.case.batch), str(row.case.units)]
        line += ["" if seconds is None else _milliseconds(seconds) for seconds in best.values()]
        line.append(f"{100 * row.timings[row.engine].spread:.0f} %")
        for target in row.case.targets:
            ratio = row.ratio(target)
            line += ["" if ratio is None else f"{ratio:.2f}", f">= {target.ratio:g}", row.verdict(target)]
        lines.append(line)
    return header, lines


def _milliseconds(seconds: float) -> str:
    """Three digits.

    >>> _milliseconds(0.0123456), _milliseconds(1.5), _milliseconds(2.5e-6)
    ('12.3', '1500', '0.0025')
    """
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _aligned(header: list[str], lines: list[list[str]]) -> str:
    widths = [max(len(line[k]) for line in (header, *lines)) for k in range(len(header))]
    sides = [str.ljust if name in _WORDS else str.rjust for name in header]
    return "\n".join(
        "  ".join(side(text, width) for side, text, width in zip(sides, line, widths)).rstrip()
        for line in (header, *lines)
    )


def _piped(header: list[str], lines: list[list[str]]) -> str:
    marks = [":--" if name in _WORDS else "--:" for name in header]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, marks, *lines))
