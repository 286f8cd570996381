"""What tests of several files ask for by name."""

from __future__ import annotations

from typing import Any

import pytest

from minirnn.layers import RNN


@pytest.fixture
def whole_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets an entry for every call that goes the whole way."""
    made_calls: list[int] = []
    original = RNN.call

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        made_calls.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RNN, "call", call)
    return made_calls
