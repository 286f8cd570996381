"""Tensors, and `apply`, the one door through which every operation goes.

`apply` computes with NumPy at once and shows what it did to the active recorders.  There are two
kinds: a Tape remembers the operations that touch what it watches, a Trace (trace.py) remembers
every operation and lets nothing be computed, so that a step is recorded on shapes.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from .. import config
from ..errors import ArgumentError, DtypeError, MinirnnError, ShapeError, TraceError
from . import elsewhere
from .operators import PUBLIC, Operators

if TYPE_CHECKING:
    from .primitive import Primitive
    from .trace import Trace

Number = (bool, int, float, complex)
FLOATING = "fc"  # kinds of NumPy dtypes that have derivatives; complex ones serve the complex step

# The recorders that see an operation here, innermost first, and the trace among them.  A trace hides
# what is recorded outside of it, so it is always the last.
_ACTIVE: contextvars.ContextVar[tuple[tuple[Any, ...], Trace | None]] = contextvars.ContextVar(
    "recorders", default=((), None)
)


class Tensor(Operators):
    """An immutable array with a place on the tapes that recorded it.

    `np.asarray(t)` gives a read-only array, `t.numpy()` a copy of one's own.  While a step is being
    traced a Tensor has a shape and a dtype but no values (`t.is_abstract`).

    >>> t = Tensor([[1.0, 2.0]], dtype="float64")
    >>> t * 3 + 1
    Tensor([[4., 7.]], shape=(1, 2), dtype=float64)
    """

    __slots__ = ("__weakref__", "dtype", "mask", "name", "shape", "value", "variable")

    value: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    name: str | None
    variable: Variable | None  # the Variable whose value this is
    mask: Any  # which time steps count; layers attach it

    def __init__(self, value: Any, dtype: Any = None, name: str | None = None) -> None:
        array = _own_array(value, dtype)
        self.value, self.shape, self.dtype = array, array.shape, array.dtype
        self.name, self.variable, self.mask = name, None, None

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape))

    @property
    def is_abstract(self) -> bool:
        """Whether this is a shape without values, inside a trace."""
        return self.value is None

    def numpy(self) -> np.ndarray:
        """A copy of the values, owned by the caller."""
        return np.array(self._concrete())

    def item(self) -> Any:
        """The value of a Tensor of one element, as a Python number."""
        return self._concrete().item()

    def _concrete(self) -> np.ndarray:
        value = self.value
        if type(value) is np.ndarray:
            return value
        if value is None:
            raise TraceError(
                "the values of a Tensor were asked for while its step is traced on shapes only",
                got=f"a Tensor of shape {self.shape}" + (f" named {self.name!r}" if self.name else ""),
                expected="operations of mr.ops, no float(), bool(), if, np.asarray() or print of values",
                fix='use mr.ops.where instead of `if`, or scan(..., engine="reference"), which runs any Python',
            )
        return elsewhere.on_host(value)

    @property
    def __cuda_array_interface__(self) -> Any:
        """Where the values are on a device; AttributeError if they are not on one."""
        return self.value.__cuda_array_interface__

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        value = self._concrete()
        if dtype is not None and value.dtype != np.dtype(dtype):
            return value.astype(dtype)
        if copy:
            return value.copy()
        view = value.view()
        view.flags.writeable = False
        return view

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        public = PUBLIC.get(_UFUNC_NAMES.get(ufunc.__name__, ufunc.__name__))
        if public is None or method != "__call__" or kwargs:
            call = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
            raise DtypeError(
                f"{call} has no derivative here" + (f" with {', '.join(kwargs)}" if kwargs else ""),
                expected="a function of mr.ops",
                fix="use np.asarray(t) for its values, without a gradient",
            )
        return public(*inputs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = func.__name__
        if name in _SHAPE_READERS and len(args) == 1 and not kwargs:
            return getattr(args[0], name)
        if name in _READERS:
            return func(*_without_tensors(args), **kwargs)
        if name not in PUBLIC or func is not getattr(np, name, None):
            raise DtypeError(
                f"{func.__module__}.{name} has no derivative here",
                expected="a function of mr.ops",
                fix="use np.asarray(t) for its values, without a gradient",
            )
        try:
            inspect.signature(PUBLIC[name]).bind(*args, **kwargs)
        except TypeError as error:
            raise DtypeError(
                f"np.{name} of a Tensor with these arguments has no derivative here: {error}",
                expected=f"mr.ops.{name}{inspect.signature(PUBLIC[name])}",
                fix="use np.asarray(t) for its values, without a gradient",
            ) from None
        return PUBLIC[name](*args, **kwargs)

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("len() of a Tensor without axes", got="shape ()")
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self._concrete())

    def __int__(self) -> int:
        return int(self._concrete())

    def __bool__(self) -> bool:
        return bool(self._concrete())

    def __index__(self) -> int:
        return self._concrete().__index__()

    def __format__(self, spec: str) -> str:
        return format(self._concrete().item(), spec) if spec else repr(self)

    def __repr__(self) -> str:
        label = f", name={self.name!r}" if self.name else ""
        if self.value is None:
            return f"{type(self).__name__}(abstract, shape={self.shape}, dtype={self.dtype}{label})"
        text = np.array2string(self._concrete(), separator=", ", threshold=20, prefix=f"{type(self).__name__}(")
        return f"{type(self).__name__}({text}, shape={self.shape}, dtype={self.dtype}{label})"


class Variable(Tensor):
    """A Tensor whose value optimizers replace with `assign`; trainable ones are watched by every Tape.

    >>> w = Variable([1.0, 2.0], name="w")
    >>> w.assign([3.0, 4.0]).numpy()
    array([3., 4.], dtype=float32)
    """

    __slots__ = ("_snapshot", "trainable")

    def __init__(self, value: Any, dtype: Any = None, name: str | None = None, trainable: bool = True) -> None:
        if dtype is None and not isinstance(value, (np.ndarray, np.generic, Tensor)):
            dtype = config.current_dtype()
        super().__init__(value, dtype, name)
        self.value = elsewhere.on_host(self.value)
        self.trainable = trainable
        self._snapshot: Tensor | None = None

    def assign(self, value: Any) -> Variable:
        """Replace the value by one of the same shape; ShapeError for another.

        While a step is traced it raises TraceError: the assignment would happen once and not at
        every step.  Where only shapes are asked for, nothing is assigned, as nothing is computed.
        """
        trace = current_trace()
        if trace is not None:
            if trace.shapes_only:
                return self
            raise TraceError(
                f"Variable {self.name or ''}: assign inside a traced step, where it would not happen at each step",
                fix='carry the value from step to step, or scan(..., engine="reference"), which runs any Python',
            )
        array = elsewhere.on_host(_own_array(value, self.dtype))
        if array.shape != self.shape:
            raise ShapeError(f"Variable {self.name or ''}: assign", got=array.shape, expected=self.shape)
        self.value, self._snapshot = array, None
        return self

    def read(self) -> Tensor:
        """The present value as a Tensor that a later `assign` leaves alone."""
        if self._snapshot is None:
            self._snapshot = wrap(self.value, self.name)
            self._snapshot.variable = self
        return self._snapshot


def _own_array(value: Any, dtype: Any) -> Any:
    """A private copy, because a recorded computation must not see later changes of the caller's array.

    What stands on a device already stays where it is, and must not change.
    """
    if isinstance(value, Tensor):
        value = value._concrete()
    elif elsewhere.is_on_device(value):
        return elsewhere.shared(value, dtype)
    elif type(value) is not np.ndarray and _holds_tensors(value):
        raise ArgumentError("a list that holds Tensors has no place on a tape", fix="join them with mr.ops.stack")
    try:
        if dtype is None and isinstance(value, (float, list, tuple)) and not isinstance(value, np.generic):
            value = np.asarray(value)
            dtype = config.current_dtype() if value.dtype.kind == "f" else None
        array = np.array(value, dtype)
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            "no Tensor can be made of this", got=str(error), expected="numbers, evenly nested"
        ) from None
    if array.dtype.kind not in "fciub":
        raise DtypeError("a Tensor holds numbers", got=f"dtype {array.dtype}", expected="float, int or bool")
    return array


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(x, Tensor) or _holds_tensors(x) for x in value)


_new = object.__new__


def wrap(array: Any, name: str | None = None) -> Tensor:
    """A Tensor around an array that nobody else will change; no copy."""
    tensor = _new(Tensor)
    if type(array) is not np.ndarray and type(array) not in elsewhere.KINDS:
        array = np.asarray(array)
    tensor.value, tensor.shape, tensor.dtype = array, array.shape, array.dtype
    tensor.name, tensor.variable, tensor.mask = name, None, None
    return tensor


def abstract(shape: tuple[int, ...], dtype: Any, name: str | None = None) -> Tensor:
    """A Tensor with a shape and no values, as a trace uses them."""
    tensor = _new(Tensor)
    tensor.value, tensor.shape, tensor.dtype = None, tuple(shape), np.dtype(dtype)
    tensor.name, tensor.variable, tensor.mask = name, None, None
    return tensor


def as_tensor(x: Any, dtype: Any = None) -> Any:
    """`x` as a Tensor: itself if it is one of that dtype, a copy of an array or a number."""
    if isinstance(x, Tensor):
        return x if dtype is None or x.dtype == np.dtype(dtype) else PUBLIC["cast"](x, dtype)
    return Tensor(x, dtype)


def identity(t: Tensor) -> Tensor:
    """What a value is known by: its Variable if it was read from one, else itself."""
    return t if t.variable is None else t.variable


class Node:
    """One application of a primitive: its operands (Tensors or numbers), params and outputs."""

    __slots__ = ("_keys", "inputs", "outputs", "params", "primitive", "source")

    def __init__(
        self, primitive: Primitive, inputs: tuple[Any, ...], params: dict[str, Any], outputs: tuple[Tensor, ...]
    ) -> None:
        self.primitive, self.inputs, self.params, self.outputs = primitive, inputs, params, outputs
        self.source: Any = None  # where in the user's code it was recorded; traces fill it
        self._keys: list[int | None] | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """The operands that are Tensors."""
        return [x for x in self.inputs if isinstance(x, Tensor)]

    @property
    def keys(self) -> list[int | None]:
        """By what id the cotangent of each operand is kept (see `identity`); None where there is no derivative."""
        if self._keys is None:
            self._keys = [
                id(x if x.variable is None else x.variable)
                if isinstance(x, Tensor) and x.dtype.kind in FLOATING
                else None
                for x in self.inputs
            ]
        return self._keys

    def pull(self, cts: list[Any], **extra: Any) -> Any:
        """What the primitive's vjp rule makes of the cotangents of the outputs: one an operand."""
        assert self.primitive.vjp is not None
        ct, out = (cts, self.outputs) if self.primitive.multiple else (cts[0], self.outputs[0])
        return self.primitive.vjp(ct, out, *self.inputs, **self.params, **extra)


def push_recorder(recorder: Any) -> contextvars.Token[tuple[tuple[Any, ...], Trace | None]]:
    """Make `recorder` the innermost one; the token undoes it."""
    recorders, trace = _ACTIVE.get()
    return _ACTIVE.set(((recorder,), recorder) if recorder.is_trace else ((recorder, *recorders), trace))


def pop_recorder(token: contextvars.Token[tuple[tuple[Any, ...], Trace | None]]) -> None:
    """Undo `push_recorder`."""
    _ACTIVE.reset(token)


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Within the block no tape and no trace is active: for what must really happen, such as making weights."""
    token = _ACTIVE.set(((), None))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def current_trace() -> Trace | None:
    """The innermost trace, if a step is being recorded on shapes."""
    return _ACTIVE.get()[1]


def active_recorders() -> tuple[tuple[Any, ...], Trace | None]:
    """The recorders that see an operation here, and the trace among them."""
    return _ACTIVE.get()


def is_recording() -> bool:
    """Whether any recorder is active, a tape or a trace."""
    return bool(_ACTIVE.get()[0])


def resolve(x: Any) -> Any:
    """The operand that stands for `x` here: a Tensor, or a Python number, which adapts its dtype."""
    trace = _ACTIVE.get()[1]
    if type(x) is Tensor:
        return x if trace is None else trace.operand(x)
    if isinstance(x, Variable):
        return x.read() if trace is None else trace.operand(x)
    if isinstance(x, (np.generic, np.ndarray)) and x.ndim == 0 and x.dtype.kind in "fiubc":
        return x.item()
    if isinstance(x, Number):
        return x
    if isinstance(x, (np.ndarray, list, tuple)) or elsewhere.is_on_device(x):
        return as_tensor(x) if trace is None else trace.operand(x)
    raise ArgumentError("an operation got something that is no array", got=type(x).__name__, expected="an array")


_TENSOR = frozenset({Tensor})


def apply(primitive: Primitive, *inputs: Any, **params: Any) -> Any:
    """Apply a primitive: compute it (or, in a trace, its shape) and show it to the active recorders."""
    recorders, trace = _ACTIVE.get()
    operands = inputs if trace is None and _TENSOR.issuperset(map(type, inputs)) else (*map(resolve, inputs),)
    if primitive.unified is not None:
        operands = _unify(primitive, operands)
    if trace is None:
        outputs = _compute(primitive, operands, params)
    else:
        specs = primitive.shape(primitive, operands, params)
        outputs = tuple([abstract(*spec) for spec in (specs if primitive.multiple else (specs,))])
    if recorders:
        node = Node(primitive, operands, params, outputs)
        for recorder in recorders:
            recorder.record(node)
    return outputs if primitive.multiple else outputs[0]


def _compute(primitive: Primitive, operands: tuple[Any, ...], params: dict[str, Any]) -> tuple[Tensor, ...]:
    values, has_complex, on_device = [], False, False
    for x in operands:
        if type(x) is Tensor:
            has_complex = has_complex or x.dtype.kind == "c"
            x = x.value
            if type(x) is not ndarray:
                if x is None:
                    raise TraceError(
                        f"{primitive.name} got a Tensor without values outside of the step it belongs to",
                        fix="return what you need from the step instead of keeping its Tensors",
                    )
                on_device = True
        values.append(x)
    forward = config.array_function(primitive.name)
    if forward is None or has_complex:
        forward = primitive.forward
    if on_device:
        forward, values = elsewhere.where_they_are(primitive, forward, values)
    try:
        results = forward(*values, **params)
    except MinirnnError:
        raise
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        primitive.shape(primitive, operands, params)  # says it in the user's terms, if it is the shapes
        dtypes = ", ".join(str(x.dtype) if type(x) is Tensor else repr(x) for x in operands)
        kind = DtypeError if isinstance(error, TypeError) else ArgumentError
        raise kind(f"{primitive.name} cannot be computed: {error}", got=f"operands of {dtypes}") from error
    return (*map(wrap, results),) if primitive.multiple else (wrap(results),)


def _unify(primitive: Primitive, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Operands of one dtype: integers and bools adapt to floats, float32 never meets float64."""
    first = primitive.unified or 0
    dtype: Any = None
    mixed, weak_float = False, primitive.float_only
    for x in operands[first:] if first else operands:
        if type(x) is Tensor:
            if dtype is None:
                dtype = x.dtype
            elif x.dtype != dtype:
                mixed = True
        elif type(x) is float:
            weak_float = True
    if dtype is not None and not mixed and (not weak_float or dtype.kind in FLOATING):
        return operands
    before, selected = operands[:first], operands[first:]
    if dtype is None:  # numbers only: the first one becomes a Tensor, to which the others adapt
        return (*before, number_as_tensor(selected[0], weak_float), *selected[1:])
    floats = {x.dtype for x in selected if type(x) is Tensor and x.dtype.kind in FLOATING}
    if len([d for d in floats if d.kind == "f"]) > 1:
        tensors = [x for x in selected if type(x) is Tensor]
        raise DtypeError(
            f"{primitive.name}: {' meets '.join(sorted(str(d) for d in floats))}",
            got=", ".join(f"{t.name or 'a Tensor'} of {t.dtype}" for t in tensors),
            expected="one floating dtype",
            fix='cast one of them: mr.ops.cast(x, "float32") or x.astype("float64")',
        )
    if not floats and not weak_float:
        return operands  # integers, which NumPy promotes
    target = floats.pop() if floats else np.dtype(config.current_dtype())
    return (*before, *[_adapt(x, target) for x in selected])


def number_as_tensor(x: Any, is_float: bool) -> Tensor:
    """A Python number as a Tensor of its own; in a trace a node that makes it, not a closed-over input."""
    return PUBLIC["full"]((), x, config.current_dtype() if is_float else np.asarray(x).dtype)


def _adapt(x: Any, dtype: np.dtype[Any]) -> Any:
    return PUBLIC["cast"](x, dtype) if type(x) is Tensor and x.dtype.kind not in FLOATING else x


def _without_tensors(args: Any) -> Any:
    return tuple(np.asarray(a) if isinstance(a, Tensor) else a for a in args)


_UFUNC_NAMES = {"true_divide": "divide", "absolute": "abs", "invert": "bitwise_not"}
# NumPy functions that only look at values and whose results are no arrays to differentiate.
_SHAPE_READERS = {"shape", "ndim", "size"}  # need no values, so they also work while a step is traced
_READERS = {*_SHAPE_READERS, "allclose", "array_equal", "array_repr", "array_str", "array2string"}
