"""The measurements of the product's speed measure something."""

from __future__ import annotations

import numpy as np
import pytest

from minirnn.kernels import build
from minirnn.kernels.rates import peak, product_rate

pytestmark = pytest.mark.skipif(build.JIT_OFF, reason="plain Python has no speed to speak of")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_product_is_faster_than_the_machine(dtype: type) -> None:
    assert 0 < product_rate(4, 64, 64, dtype) < 1.5 * peak(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("units", [128, 256])
def test_the_product_of_an_lstms_loop_is_close_to_the_machines_peak(units: int) -> None:
    best = max(product_rate(32, units, 4 * units, np.float32) / peak(np.float32) for _ in range(5))
    assert best >= 0.75
