"""What happens when a step holds an operation that no kernel has."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.errors import EngineError, EngineFallbackWarning

XS = np.random.default_rng(0).normal(size=(4, 2, 3))


def step(h: Any, x: Any) -> Any:
    largest = ops.argmax(ops.cast(10 * x, "int64"), axis=1)  # kernels compare floats only
    h = ops.tanh(h + x)
    return h, largest


def run(**options: Any) -> list[Any]:
    h, largest = mr.scan(step, np.zeros((2, 3)), XS, **options)
    return [h.numpy(), largest.numpy()]


def test_auto_says_which_operation_it_is_and_where_once_and_goes_on_with_numpy() -> None:
    wanted = run(engine="numpy")
    mr.engine("auto")
    with pytest.warns(EngineFallbackWarning, match=r"argmax of int64 \(test_fallback.py:\d+: largest ="):
        found = run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = run()
    for a, b, c in zip(wanted, found, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)
        np.testing.assert_array_equal(b, c)


@pytest.mark.parametrize("how", ["argument", "block", "process"])
def test_an_engine_that_was_asked_for_by_name_refuses(how: str) -> None:
    with pytest.raises(EngineError, match="argmax of int64") as refused:
        if how == "argument":
            mr.engine("auto")
            run(engine="cpu")
        elif how == "block":
            with mr.engine("cpu"):
                run()
        else:
            mr.engine("cpu")
            run()
    assert "test_fallback.py" in refused.value.where and "numpy" in refused.value.fix
