"""Functions of the device library: Python that is compiled into the kernels which call it.

`inlined` makes one of a Python function, `emitted` of a function that appends LLVM instructions.  Neither
becomes a device function of its own, so that compiling never asks which device there is, and arrays that
a kernel keeps on the chip stay known as such.  In Numba's simulator the Python functions run as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import target

Rule = Callable[..., Any]


def inlined(result: Rule) -> Callable[[Callable[..., Any]], Any]:
    """A Python function as part of the kernels that call it; `result` gives the type it returns from those it is given.

    Whole numbers are widened to int64.
    """

    def make(function: Callable[..., Any]) -> Any:
        if target.SIMULATED:
            return target.cuda.jit(device=True)(function)

        def typed(typing: Any, *given: Any) -> Any:
            wanted = [target.cuda.types.int64 if isinstance(t, target.cuda.types.Integer) else t for t in given]

            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                flags = target.flags.CUDAFlags()
                flags.forceinline = True
                flags.error_model = "numpy"
                compiled = context.compile_subroutine(builder, function, signature, flags=flags)
                return context.call_internal(builder, compiled.fndesc, signature, values)

            return result(*given)(*wanted), codegen

        return target.extending.intrinsic(_with_parameters_of(function, typed))

    return make


def emitted(rule: Rule, twin: Callable[..., Any] | None = None) -> Any:
    """A function of kernels whose `rule(typing, *types)` gives a signature and what appends its instructions.

    The rule returns None for types that it does not take; where a whole number of the text matters, its type is
    a literal in a second try.  twin: the same in Python, for the simulator.
    """
    if target.SIMULATED:
        return twin
    return target.extending.intrinsic(rule)


def _with_parameters_of(function: Callable[..., Any], typed: Rule) -> Rule:
    """The rule with as many parameters as a function: Numba counts them."""
    code = function.__code__
    names = ", ".join(code.co_varnames[: code.co_argcount])
    scope: dict[str, Any] = {"typed": typed}
    exec(f"def {function.__name__}(typing, {names}):\n    return typed(typing, {names})\n", scope)
    made: Rule = scope[function.__name__]
    made.__doc__ = function.__doc__
    return made
