"""The contestants of the benchmark do the same work, and none of them could do other work unnoticed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from minirnn import bench
from minirnn.bench import cases, contestants
from minirnn.bench.cases import Case
from minirnn.bench.contestants import Disagreement, Work
from tests.peers import Need

pytestmark = pytest.mark.peers

STEPS, UNITS = 7, 5


class Swapped(Work):
    """Its peers are given weights in which two gates' columns (of a SimpleRNN, two units') are exchanged."""

    @property
    def weights(self) -> list[np.ndarray]:
        arrays = super().weights
        place = next(k for k, v in enumerate(self.variables) if v.name == "recurrent_kernel")
        width = UNITS if arrays[place].shape[1] > UNITS else 1
        first, second, *rest = np.split(arrays[place], range(width, arrays[place].shape[1], width), axis=1)
        arrays[place] = np.concatenate([second, first, *rest], axis=1)
        return arrays


def work_of(kind: type[Work], grid: str, cell: str, training: bool) -> Work:
    batch = 1 if grid == "stream" else 3
    return kind(Case(grid, cell, batch, UNITS, (), training, STEPS))


def all_work() -> list[Any]:
    built_in = [(grid, cell, grid == "training") for grid in ("sequence", "training") for cell in cases.BUILT_IN]
    own = [("own", cell, training) for cell in cases.OWN for training in (False, True)]
    images = [("images", "conv_lstm", training) for training in (False, True)]
    return [*built_in, *own, *images, ("stream", "gru", False), ("stream", "lstm", False), ("engines", "lstm", True)]


@pytest.mark.parametrize(("grid", "cell", "training"), all_work())
def test_peers_agree_and_planted_bugs_are_noticed(need: Need, grid: str, cell: str, training: bool) -> None:
    names = contestants.PEERS[grid]
    for name in names:
        for module in contestants.MODULES[name]:
            need(module)
    work = work_of(Work, grid, cell, training)
    expected = work.expected()
    peers = contestants.of(work, (), names, threads=1)
    assert {peer.peer for peer in peers} == set(names)
    for peer in peers:
        with peer.during():
            peer.run()  # as timed: neither changes what the other finds
        contestants.check(peer, expected)
    missed = []
    for peer in contestants.of(work_of(Swapped, grid, cell, training), (), names, threads=1):
        try:
            contestants.check(peer, expected)
            missed.append(peer.name)
        except Disagreement as found:
            assert peer.name in str(found)
    assert missed == []


def test_a_row_with_every_peer(need: Need) -> None:
    for name in ("onnx", "onnxruntime", "torch", "jax"):
        need(name)
    target = cases.Target(("onnxruntime", "torch"), 1e-9)
    case = Case("sequence", "lstm", 1, UNITS, (target,), steps=STEPS)
    row = bench.run_case(case, bench.Options(engine="numpy", rounds=1, threads=1))
    assert row.verdict(target) == "met" and row.engine == "numpy"
    report = bench.Report({}, [row], [])
    (found,) = json.loads(bench.as_json(report))["rows"]
    assert {timing["peer"] for timing in found["seconds"].values()} == {"numpy", "onnxruntime", "torch", "jax"}
    assert "onnxruntime ms" in bench.as_text(report)


@pytest.mark.parametrize("threads", [1, 3])
def test_jax_takes_its_threads_from_the_environment(need: Need, threads: int) -> None:
    need("jax")
    from minirnn.bench import fresh

    program = """
import collections, json, os
import jax
jax.numpy.ones((300, 300)).block_until_ready()
names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
print(json.dumps(collections.Counter(names)))
"""
    if not fresh.run("import json, os; print(json.dumps({'linux': os.path.isdir('/proc/self/task')}))", {})["linux"]:
        pytest.skip("threads are counted on Linux only")
    assert fresh.run(program, {}, **bench.environment(threads))["tf_XLAEigen"] == threads
