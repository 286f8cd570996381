"""A functional graph one time step at a time, states held."""

from .stream import Stream

__all__ = ["Stream"]
