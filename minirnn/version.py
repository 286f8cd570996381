"""The version, in a room below all others so that every module can import it."""

from __future__ import annotations

__version__ = "0.1.0"
