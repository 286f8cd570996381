"""One family of errors: what failed, what was got, what was expected, where, how to fix it.

Every class also derives from the built-in exception that Python users expect, so that
``except ValueError`` keeps working.
"""

from __future__ import annotations


class MinirnnError(Exception):
    """The base of every error that minirnn raises on purpose.

    >>> print(ShapeError("LSTM 'encoder': wrong number of features", got=2, expected=3))
    LSTM 'encoder': wrong number of features
      got: 2
      expected: 3
    """

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        where: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.got, self.expected, self.where, self.fix = what, got, expected, where, fix
        parts = {"got": got, "expected": expected, "where": where, "fix": fix}
        details = [f"\n  {label}: {value}" for label, value in parts.items() if value is not None]
        super().__init__(what + "".join(details))


class ShapeError(MinirnnError, ValueError):
    """An array has the wrong rank or size."""


class DtypeError(MinirnnError, TypeError, ValueError):
    """An array has a dtype that does not fit, or two dtypes would be mixed silently."""


class ArgumentError(MinirnnError, ValueError):
    """An argument's value, name or number is not acceptable."""


class GradientError(MinirnnError, ValueError):
    """A derivative was asked for that is not defined."""


class TraceError(MinirnnError, TypeError):
    """A step cannot be recorded on shapes, because it needs the values."""


class StateError(MinirnnError, ValueError, AttributeError):
    """States were asked of, or given to, something that has none or other ones."""


class NonFiniteError(MinirnnError, ArithmeticError):
    """A value became NaN or infinite where only finite numbers make sense."""


class FormatError(MinirnnError, ValueError):
    """A file is damaged, hostile, or not of the format it should be."""


class EngineError(MinirnnError, ValueError):
    """The engine that was asked for cannot run something."""


class EngineFallbackWarning(UserWarning):
    """The "auto" engine runs a step with NumPy, because its kernel lacks an operation."""
