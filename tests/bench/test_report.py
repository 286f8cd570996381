"""Verdicts, and the three forms of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minirnn import bench
from minirnn.bench.cases import Case, Target
from minirnn.bench.report import Figure, Report, Row
from minirnn.bench.turns import Timing

BOTH, JAX = Target(("onnxruntime", "torch"), 1.5), Target(("jax",), 2.0)


def row(ours: float = 1.0, floor: float | None = None, **peers: float) -> Row:
    seconds = {"cpu": ours, "numpy": 9.0} | {name.replace("_", ", "): s for name, s in peers.items()}
    timings = {name: Timing(s, 0.9 * s, 1.2 * s, 7, 15) for name, s in seconds.items()}
    case = Case("batch", "gru", 16, 64, (BOTH, JAX))
    return Row(case, timings, {name: name.split(",")[0] for name in seconds}, "cpu", floor)


def test_the_fastest_variant_of_the_fastest_peer_counts() -> None:
    found = row(ours=2.0, torch_loop=8.0, torch_fused=5.0, onnxruntime_arrays=6.0)
    assert found.best("torch") == 5.0 and found.ratio(BOTH) == 2.5 and found.verdict(BOTH) == "met"
    assert row(ours=4.0, torch_loop=8.0, torch_fused=5.0, onnxruntime_arrays=6.0).verdict(BOTH) == "missed"


def test_without_one_of_the_peers_nothing_is_judged() -> None:
    found = row(torch_fused=5.0)
    assert found.ratio(BOTH) == 5.0 and found.verdict(BOTH) == "not judged"
    assert found.ratio(JAX) is None and found.verdict(JAX) == "not judged"


def test_a_target_above_the_peak_counts_as_met_at_the_peak() -> None:
    peers = {"torch_fused": 1.2, "onnxruntime_arrays": 1.2}
    assert row(ours=1.0, floor=None, **peers).verdict(BOTH) == "missed"
    assert row(ours=1.0, floor=0.9, **peers).verdict(BOTH) == "missed"
    assert row(ours=1.0, floor=1.0, **peers).verdict(BOTH) == "met at the peak"


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "verdict"),
    [(2.0, None, False, ""), (2.0, 2.0, False, "met"), (2.1, 2.0, False, "missed"), (2.1, 2.0, True, "met")],
)
def test_figures(value: float, limit: float | None, at_least: bool, verdict: str) -> None:
    assert Figure("part", "what", value, "s", limit, at_least).verdict == verdict


REPORT = Report(
    {"minirnn": "1.2", "threads": 2},
    [row(torch_fused=0.0123, onnxruntime_arrays=3.0, jax_scan=150.0)],
    [Figure("start", "first result", 0.7, "s", 0.8), Figure("peak", "fma", 123.4, "GFLOP/s")],
)


def test_text() -> None:
    lines = bench.as_text(REPORT).splitlines()
    assert lines[0] == "minirnn 1.2, threads 2"
    header = next(line for line in lines if line.startswith("cell"))
    line = next(line for line in lines if line.startswith("gru"))
    assert len(header) <= len(line) and header.index(" target") < line.index("missed")
    for part in ("forward", "16", "64", "1000", "9000", "12.3", "3000", "150000", "15 %", "0.01", "missed", "met"):
        assert part in line.split() or part in line, part
    assert lines[-1] == "Targets: 1 missed, 2 met"


def test_markdown_has_as_many_columns_in_every_line() -> None:
    text = bench.as_markdown(REPORT)
    assert "### Whole sequence, 16 and 64 rows" in text and "### Other figures" in text
    for part in text.split("\n\n"):
        if part.startswith("|"):
            assert len({line.count("|") for line in part.splitlines()}) == 1


def test_json() -> None:
    found = json.loads(bench.as_json(REPORT))
    assert found["about"] == {"minirnn": "1.2", "threads": 2}
    (cell,) = found["rows"]
    assert (cell["grid"], cell["cell"], cell["batch"], cell["engine"]) == ("batch", "gru", 16, "cpu")
    timing = cell["seconds"]["torch, fused"]
    assert timing.pop("spread") == pytest.approx(0.15)
    assert timing == {
        "median": 0.0123, "low": 0.9 * 0.0123, "high": 1.2 * 0.0123, "calls": 7, "turns": 15, "peer": "torch",
    }  # fmt: skip
    assert cell["targets"][1] == {"peers": ["jax"], "ratio": 2.0, "measured": 150.0, "verdict": "met"}
    assert [figure["verdict"] for figure in found["figures"]] == ["met", ""]


def test_the_page_tells_of_every_grid_and_figure() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    wanted = [f"`{grid}`" for grid in bench.GRIDS] + [f"`--{name}`" for name in bench.FIGURES]
    assert [word for word in wanted if word not in page] == []
    assert page.count("<!-- measured: begin -->") == page.count("<!-- measured: end -->") == 1
