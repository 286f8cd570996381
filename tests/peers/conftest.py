"""What the comparisons with other libraries share."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.peers import Need


@pytest.fixture(scope="session")
def keras(need: Need, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Keras on JAX, kept from reading or writing a configuration in the home folder."""
    need("jax")
    with pytest.MonkeyPatch.context() as patch:
        if "keras" not in sys.modules:
            patch.setenv("KERAS_BACKEND", "jax")
            patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        found = need("keras")
    assert found.backend.backend() == "jax", "Keras was imported with another backend before"
    return found
