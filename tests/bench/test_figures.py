"""What is measured besides the grids, in small."""

from __future__ import annotations

import json
import time

import pytest

from minirnn import bench
from minirnn.bench import fresh, masks, memory, overhead, scaling, startup
from minirnn.bench.options import Options
from minirnn.errors import ArgumentError

NUMPY = Options(grid=None, engine="numpy", rounds=1, quick=True)


def test_a_process_of_its_own() -> None:
    with pytest.raises(fresh.ProgramError, match="exit code 1") as caught:
        fresh.run("raise ValueError('planted')", {})
    assert "planted" in str(caught.value)
    told = fresh.run("import json, os; print('noise'); print(json.dumps(dict(os.environ)))", {}, MINIRNN_CACHE="there")
    assert told["MINIRNN_CACHE"] == "there"


def test_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "LENGTHS", (20, 40, 80))
    monkeypatch.setattr(scaling, "BATCHES", (2, 4))
    found = list(scaling.figures(NUMPY))
    assert [f.what for f in found][:2] == [
        "LSTM forward, T from 20 to 80 at B=1",
        "LSTM forward, B from 2 to 4 at T=100",
    ]
    assert len(found) == 4 and all(f.limit == 1.05 for f in found)


def test_overhead() -> None:
    found = list(overhead.figures(NUMPY))
    assert [f.what.split(",")[0] for f in found] == ["layer", "layer", "scan", "scan"]
    assert [f.limit for f in found] == [20, 60, 20, 60] and all(1 < f.value < 1e6 for f in found)


def test_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "UNITS", 4)
    found = list(masks.figures(NUMPY))
    assert [f.limit for f in found] == [1.1, 1.1, 0.7] * 2
    assert all("B=32 H=4 T=10" in f.what and 0.1 < f.value < 1000 for f in found)


@pytest.mark.slow
def test_memory() -> None:
    found = {f.what: f.value for f in memory.figures(NUMPY)}
    plain, checkpointed = (found[f"training, LSTM B=1 H=64 T=1000{told}: arrays"] for told in ("", ", checkpoint=32"))
    # At least h, c, four gates and x @ kernel of 1,000 steps, in float32.
    assert plain > 1000 * 64 * 10 * 4 / 1e6 > 1.2 * checkpointed
    assert found["inference, LSTM B=1 H=64 T=10000: arrays"] >= 0


@pytest.mark.slow
def test_start() -> None:
    found = {f.what: f.value for f in startup.figures(NUMPY)}
    assert 0 < found["nothing cached: LSTM forward, the call"] < found["nothing cached: first result since start"]
    assert found["warm cache: first LSTM result since start"] < found["warm cache: first gradient since start"]


def test_every_figure_has_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name in bench.FIGURES:
        if name != "peak":  # which asks for the kernels
            modules = {"compile": startup, "scaling": scaling, "memory": memory, "overhead": overhead, "masks": masks}
            module = modules[name]
            monkeypatch.setattr(module, "figures", lambda options, name=name: asked.append(name) or [])
    bench.run(NUMPY._replace(figures=tuple(name for name in bench.FIGURES if name != "peak")))
    assert asked == ["scaling", "memory", "compile", "overhead", "masks"]


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(ArgumentError, match="quantum"):
        bench.run(Options(engine="quantum"))


def test_a_run_tells_of_everything_as_it_goes() -> None:
    told: list[str] = []
    begin = time.perf_counter()
    options = Options("training", quick=True, rounds=1, threads=3, engine="numpy", cells=("simple_rnn",), peers=("no",))
    report = bench.run(options, told.append)
    assert time.perf_counter() - begin < 60
    assert told[0] == "not installed, so left out: no" and "environment" in told[1]
    assert told[2].startswith("1/1 simple_rnn training B=1 H=64: numpy ")
    assert json.loads(bench.as_json(report))["about"]["threads"] == 3


def test_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    from minirnn.bench import peak

    monkeypatch.setattr(peak.machine, "peak", lambda dtype: 100e9, raising=False)
    monkeypatch.setattr(peak.machine, "product_rate", lambda rows, inner, columns, dtype: 70e9, raising=False)
    found = list(peak.figures(NUMPY))
    assert peak.of_threads(3) == 300e9
    assert [f.verdict for f in found] == ["", "", "", "missed", "", "missed"] and found[3].value == 0.7
    # 80 % of two threads' 200 GFLOP/s.
    case = bench.Case("batch", "lstm", 16, 64, ())
    (floor,) = bench._floors([case], Options(engine="cpu", threads=2))
    assert floor == pytest.approx(2 * 100 * 16 * 64 * 8 * 64 / 160e9)
    assert bench._floors([case], NUMPY) == [None]
