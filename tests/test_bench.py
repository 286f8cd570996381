"""The benchmark runs the same computation in every contestant."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minirnn import bench


def test_contestants_compute_the_same_gradients() -> None:
    runners = bench.contestants(batch=2, steps=5, units=3)
    wanted = runners["numpy"]()
    for name, runner in runners.items():
        for got, want in zip(runner(), wanted, strict=True):
            np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.peers
def test_autograd_takes_part(need) -> None:
    need("autograd")
    assert "autograd" in bench.contestants(batch=1, steps=2, units=2)


def test_table_and_json_hold_every_contestant() -> None:
    rows = bench.run(rounds=1, cases=[(1, 2, 3)])
    assert "reference" in bench.table(rows) and "B=1" in bench.table(rows)
    (found,) = json.loads(bench.as_json(rows))
    assert set(found["seconds"]) - {"numpy"} == set(found["ratios"])
