"""minirnn against software that others wrote; marked `peers`, each skipped where its peer is not installed."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

# The fixture `need` of tests/conftest.py.
Need = Callable[[str], ModuleType]
