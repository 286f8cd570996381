"""Tests of CUDA need numba-cuda, and what runs kernels on the host needs an x86-64 processor."""

from __future__ import annotations

import pytest

from minirnn.kernels.cuda import target

from .fibers import SUPPORTED


@pytest.fixture(autouse=True)
def _toolchain(request: pytest.FixtureRequest) -> None:
    if reason := target.missing():
        pytest.skip(reason)
    if not SUPPORTED and "real_device" not in request.node.nodeid:
        pytest.skip("the host executor switches stacks with instructions of x86-64 (not Windows)")
