"""Elementary functions of float32 and float64, from IEEE operations, fma and bit operations only.

Without branches, the same bits on every processor, special numbers right.  Kernels call them by name, on
sixteen lanes or one number: `tanh_f32`, `power_f64` (`name_of` says which there are).  NumPy arrays go to
`ARRAY_FUNCTIONS`, which have the primitives' Python signatures.  docs/accuracy.md shows the worst errors;
`python -m minirnn.kernels.accuracy` measures them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from ..autodiff import numerics
from . import build, exponentials, periodic
from .formulas import Formula, on_numbers

FORMULAS: dict[str, Formula] = {
    **{
        name: getattr(exponentials, name)
        for name in "exp expm1 log log1p tanh sigmoid softplus elu softsign power".split()
    },
    "sin": periodic.sin,
    "cos": periodic.cos,
}
SUFFIXES = {"float32": "f32", "float64": "f64"}


def name_of(function: str, dtype: Any) -> str | None:
    """What a function is called here for a dtype ("tanh_f32"), None if there is none."""
    suffix = SUFFIXES.get(str(dtype))
    return f"{function}_{suffix}" if suffix and function in FORMULAS else None


for _function, _formula in FORMULAS.items():
    for _dtype in (numba.float32, numba.float64):
        _name = f"{_function}_{SUFFIXES[str(_dtype)]}"
        globals()[_name] = on_numbers(_formula, _dtype, _name)


_TEXT = """
from minirnn.kernels.elementary import {function}
from minirnn.kernels.lanes import LANES, load, store

@kernel
def {function}_of_arrays({parameters}, out):
    for i in range(0, out.size, LANES):
        count = out.size - i
        store(out, i, {function}({values}), count)
"""


@functools.cache
def _of_arrays(function: str, second: str) -> Callable[..., Any]:
    """The compiled loop over flat arrays; the second argument is missing, a "number" or an "array"."""
    dtype = next(dtype for dtype, suffix in SUFFIXES.items() if function.endswith(suffix))
    array = f"Array({dtype}, 1, 'C', readonly=True)"
    parameters, values, types = {
        "": ("x", "load(x, i, count)", array),
        "number": ("x, y", "load(x, i, count), y", f"{array}, {dtype}"),
        "array": ("x, y", "load(x, i, count), load(y, i, count)", f"{array}, {array}"),
    }[second]
    text = _TEXT.format(function=function, parameters=parameters, values=values)
    signature = f"void({types}, {dtype}[::1])"
    return build.compiled(text, f"{function}_of_arrays", label=function, signature=signature)


def _on_arrays(function: str, numpy_function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of NumPy arrays: this module's for float32 and float64, NumPy's for other dtypes."""
    second = {"elu": "number", "power": "array"}.get(function, "")
    names = {np.dtype(dtype): name_of(function, dtype) for dtype in SUFFIXES}

    @functools.wraps(numpy_function)
    def call(x: Any, *more: Any, **named: Any) -> Any:
        more = (*more, *named.values())
        dtype = x.dtype if isinstance(x, np.ndarray) and second != "array" else np.result_type(x, *more)
        name = names.get(dtype)
        if name is None:
            return numpy_function(x, *more)
        if second == "array":
            shape = np.broadcast_shapes(np.shape(x), *map(np.shape, more))
            arguments = [_flat(v, shape, dtype) for v in (x, *more)]
        else:
            shape = np.shape(x)
            arguments = [_flat(x, shape, dtype), *map(dtype.type, more)]
        out = np.empty(shape, dtype)
        if build.JIT_OFF:
            with np.errstate(all="ignore"):
                out.reshape(-1)[...] = FORMULAS[function](*arguments)
        else:
            _of_arrays(name, second)(*arguments, out.reshape(-1))
        return out if shape else out[()]

    return call


def _flat(x: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array's elements in order, after broadcasting."""
    x = np.asarray(x, dtype)
    if x.shape != shape:
        x = np.broadcast_to(x, shape)
    return (x if x.flags.carray else np.require(x, requirements=["C", "A"])).reshape(-1)


_NUMPY_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in ("exp", "expm1", "log", "log1p", "sin", "cos", "power")},
    **{name: getattr(numerics, name) for name in ("tanh", "sigmoid", "softplus", "elu")},
    "softsign": lambda x: x / (1 + numerics.absolute(x)),
}
ARRAY_FUNCTIONS = {name: _on_arrays(name, forward) for name, forward in _NUMPY_FUNCTIONS.items()}
