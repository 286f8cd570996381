"""Layer: weights with names and a `call`, built when the first input shows its sizes."""

from __future__ import annotations

import contextvars
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import config
from ..autodiff import trees
from ..autodiff.elsewhere import is_on_device
from ..autodiff.tensor import Tensor, Variable, as_tensor, unrecorded
from ..errors import ArgumentError, DtypeError, ShapeError
from ..stepgraph.trace import SETTINGS
from . import constraints, initializers, registry, regularizers
from .masks import attach_masks, masks_of
from .ragged import Ragged
from .shapes import ShapedOutputs, sizes_of

# What needs no looking into: arrays, and what a call takes besides them.
_ARRAYS = frozenset({Tensor, Variable, np.ndarray})
_PLAIN = frozenset({*_ARRAYS, type(None), bool})
_SIMPLE = frozenset({type(None), bool, int, float, str})  # most attributes, which hold no weights
DTYPES = {name: np.dtype(name) for name in config.FLOAT_DTYPES}

_name_counts: Counter[str] = Counter()
_observer: contextvars.ContextVar[Callable[[str, Any], None] | None] = contextvars.ContextVar("observer", default=None)
_training: contextvars.ContextVar[bool] = contextvars.ContextVar("training", default=False)
SETTINGS.append(_training.get)  # a step that calls layers is traced anew for training


class _CallFace(NamedTuple):
    """What a layer's `call` takes."""

    first: str | None
    names: frozenset[str]
    takes_any: bool

    def accepts(self, name: str) -> bool:
        return name in self.names or self.takes_any


def face_of(function: Callable[..., Any]) -> _CallFace:
    """The names of the parameters that a `call` accepts (without `self`)."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    names = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return _CallFace(names[0] if names else None, frozenset(names), takes_any)


class _Added:
    """What `add_weight` knows beside the Variables themselves; an object, so that the search passes it over."""

    def __init__(self) -> None:
        self.variables: list[Variable] = []
        self.regularizers: list[tuple[Variable, Any]] = []
        self.constraints: list[tuple[Variable, Any]] = []

    def forget(self, variable: Variable) -> None:
        """Drop a Variable that another one replaced."""
        self.variables = [v for v in self.variables if v is not variable]
        self.regularizers = [pair for pair in self.regularizers if pair[0] is not variable]
        self.constraints = [pair for pair in self.constraints if pair[0] is not variable]


class Layer(ShapedOutputs):
    """Base of all layers; subclass it with `build(input_shape)` and `call(inputs, ..., mask, training)`.

    `dtype`: "float32" or "float64" (default: `minirnn.config.current_dtype()`); arrays are cast to it,
    Tensors of the other one raise DtypeError.  `build` is called once, with the input's shape (None
    where unknown, always so for the batch).  Variables and layers are found among the attributes,
    also in lists and dicts, in order of assignment.

    >>> class Scale(Layer):
    ...     def build(self, input_shape):
    ...         self.factor = self.add_weight("factor", (input_shape[-1],), "ones")
    ...     def call(self, inputs):
    ...         return inputs * self.factor
    >>> layer = Scale()
    >>> layer(np.array([[1.0, 2.0]])).shape, layer.count_params()
    ((1, 2), 2)
    """

    supports_masking = False
    # Attributes that no call reads: they may change without a new trace (stepgraph/reach.py; our own classes only).
    __untraced__: ClassVar[frozenset[str]] = frozenset({"_added", "batch_input_shape"})
    needs_arrays: ClassVar[bool] = True  # in a call's first argument; RecurrentUnit goes without
    # Which axis of the first input is the batch.
    batch_axis: int = 0
    default_input_dtype: ClassVar[str | None] = None
    _call_face: ClassVar[_CallFace]

    def __init__(
        self,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = True,
        input_shape: Any = None,
        batch_input_shape: Any = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            names = ", ".join(unknown)
            raise ArgumentError(f"{type(self).__name__} takes no argument of this name", got=names)
        self._added = _Added()
        self.name = name if name is not None else _fresh_name(type(self))
        self.dtype: str = self._dtype_name(dtype)
        self.trainable = trainable
        self.built = False
        # For Sequential: what its first layer says about the input.
        self.batch_input_shape: tuple[int | None, ...] | None = None
        if batch_input_shape is not None:
            self.batch_input_shape = sizes_of(batch_input_shape, f"{self.label}: batch_input_shape")
        elif input_shape is not None:
            self.batch_input_shape = (None, *sizes_of(input_shape, f"{self.label}: input_shape"))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "build" in cls.__dict__:
            cls.build = _marks_built(cls.__dict__["build"])  # type: ignore[method-assign]
        cls._call_face = face_of(cls.call)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Variable, Layer)):
            # Taken out first, so that the order of attributes is the order of assignment.
            replaced = vars(self).pop(name, None)
            if isinstance(replaced, Variable):
                self._added.forget(replaced)
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}{'' if self.built else ', not built'}>"

    def _dtype_name(self, dtype: Any) -> str:
        if isinstance(dtype, dict):  # Keras 3 writes its policy
            dtype = dtype.get("config", dtype).get("name")
        name = config.current_dtype() if dtype is None else _numpy_name(dtype)
        if name not in config.FLOAT_DTYPES:
            raise DtypeError(f"{self.label}: dtype", got=dtype, expected=" or ".join(config.FLOAT_DTYPES))
        return name

    @property
    def label(self) -> str:
        """How errors call the layer: its class and its name."""
        return f"{type(self).__name__} {self.name!r}"

    # Calling ---------------------------------------------------------------------------------------
    def build(self, input_shape: Any) -> None:
        """Make the weights for inputs of this shape; nothing by default."""
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs for the inputs; every layer defines its own, with arguments of its own."""
        raise NotImplementedError(f"{type(self).__name__} has no call()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if "_added" not in vars(self):
            name = type(self).__name__
            raise ArgumentError(f"{name}: its __init__ did not run Layer's", fix="call super().__init__() in it")
        is_plain = _PLAIN.issuperset(map(type, args)) and _PLAIN.issuperset(map(type, kwargs.values()))
        for leaf in () if is_plain else trees.flatten((args, kwargs))[0]:
            if hasattr(leaf, "__functional_call__"):
                return leaf.__functional_call__(self, args, kwargs)
        if args and self.needs_arrays:
            self._check_input(args[0])
        args, kwargs = self._cast_arguments(args, kwargs)
        face = self._call_face
        inputs = args[0] if args else kwargs.get(face.first or "")
        if not self.built:
            self._build_on(inputs)
        training = kwargs.pop("training", None)
        if training is None:
            training = _training.get()
        if face.accepts("training"):
            kwargs["training"] = training
        mask = self._mask_for(inputs, kwargs)
        if mask is not None and "mask" in face.names and len(args) < 2:
            kwargs["mask"] = mask
        token = _training.set(bool(training))
        try:
            outputs = self.call(*args, **kwargs)
        finally:
            _training.reset(token)
        if outputs is None:
            raise ArgumentError(f"{self.label}: its call() returned None", fix="return the outputs")
        # Asked even without a mask on the way in: Embedding and Masking make one.
        masks = self.compute_mask(inputs, mask)
        if masks is not None:
            attach_masks(outputs, masks)
        show(self.label, outputs)
        return outputs

    def _check_input(self, inputs: Any) -> None:
        if type(inputs) in _ARRAYS:
            return
        leaves = trees.flatten(inputs)[0]
        if inputs is None or any(isinstance(leaf, (bool, int, float, complex, str)) for leaf in leaves):
            raise ArgumentError(f"{self.label}: input", got=repr(inputs), expected="an array or a Tensor")

    def _cast_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple([self._cast_all(x) for x in args]), {key: self._cast_all(x) for key, x in kwargs.items()}

    def _cast_all(self, x: Any) -> Any:
        return self._cast(x) if type(x) in _PLAIN else trees.map(self._cast, x)

    def _cast(self, x: Any) -> Any:
        if isinstance(x, Ragged):
            return x.tensor(self.dtype, self.batch_axis)
        if isinstance(x, np.ndarray):
            return Tensor(x, self.dtype if x.dtype.kind == "f" else None)
        if not isinstance(x, Tensor) and is_on_device(x):
            x = Tensor(x)
            return as_tensor(x, self.dtype if x.dtype.kind == "f" else None)
        if isinstance(x, Tensor) and x.dtype.kind == "f" and x.dtype is not DTYPES.get(self.dtype):
            if x.dtype.name == self.dtype:
                return x
            raise DtypeError(
                f"{self.label}: it computes in {self.dtype} but was given a Tensor of {x.dtype}",
                got=f"{x.name or 'a Tensor'} of shape {x.shape}, {x.dtype}",
                expected=self.dtype,
                fix=f'make the layer with dtype="{x.dtype}", or cast: x.astype("{self.dtype}")',
            )
        return x

    def _mask_for(self, inputs: Any, kwargs: dict[str, Any]) -> Any:
        """The mask of a call: the one that was passed, or the masks attached to the inputs."""
        mask = kwargs.get("mask")
        return masks_of(inputs) if mask is None else mask

    def _build_on(self, inputs: Any) -> None:
        """Build for concrete inputs, whose batch size is a matter of this call only."""

        def free_batch(x: Any) -> tuple[int | None, ...]:
            shape = tuple(getattr(x, "shape", ()))
            axis = self.batch_axis
            return (*shape[:axis], None, *shape[axis + 1 :]) if len(shape) > axis else shape

        self.build_once(trees.map(free_batch, inputs))

    def build_once(self, input_shape: Any) -> None:
        """Build unless it is built."""
        if not self.built:
            self._added = _Added()
            # Making weights is no part of what is being recorded or traced.
            with unrecorded():
                self.build(input_shape)
            self.built = True

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask that goes with the outputs: the inputs' own if the layer `supports_masking`, else None."""
        return mask if self.supports_masking else None

    # Weights ---------------------------------------------------------------------------------------
    def add_weight(
        self,
        name: str | None = None,
        shape: Any = (),
        initializer: Any = "glorot_uniform",
        regularizer: Any = None,
        constraint: Any = None,
        trainable: bool = True,
        dtype: Any = None,
    ) -> Variable:
        """A new Variable of the layer; raises ShapeError where a size is unknown.

        >>> Layer().add_weight("w", (2, 3), "zeros").shape
        (2, 3)
        """
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        if any(size is None for size in sizes):
            raise ShapeError(
                f"{self.label}: the size of its weight {name!r} is unknown",
                got=f"shape {sizes}",
                fix="give Input a shape whose last axis has a size",
            )
        dtype = self.dtype if dtype is None else _numpy_name(dtype)
        maker = initializers.get("glorot_uniform" if initializer is None else initializer)
        value = maker(sizes, dtype) if callable(maker) else maker
        variable = Variable(np.asarray(value, dtype).reshape(sizes), name=name, trainable=trainable)
        self._added.variables.append(variable)
        if regularizer is not None:
            self._added.regularizers.append((variable, regularizers.get(regularizer)))
        if constraint is not None:
            self._added.constraints.append((variable, constraints.get(constraint)))
        return variable

    def _members(self) -> Iterator[Any]:
        """The values that are searched for Variables and layers, in order."""
        yield from vars(self).values()
        yield from self._added.variables

    def _parts(self) -> tuple[list[Variable], list[Layer]]:
        """The Variables and the layers found among the members, each once."""
        found = trees.unique(walk(self._members()))
        return [x for x in found if isinstance(x, Variable)], [x for x in found if isinstance(x, Layer)]

    @property
    def sublayers(self) -> list[Layer]:
        """The layers found among the attributes, in order of assignment."""
        return self._parts()[1]

    def all_layers(self) -> list[Layer]:
        """This layer and all layers below it, each once, parents first."""
        return trees.unique([self, *(below for layer in self.sublayers for below in layer.all_layers())])

    @property
    def weights(self) -> list[Variable]:
        """All Variables: the layer's own (trainable first), then those of its sublayers."""
        own, layers = self._parts()
        own.sort(key=lambda v: not v.trainable)
        return trees.unique([*own, *(v for layer in layers for v in layer.weights)])

    variables = weights

    @property
    def trainable_variables(self) -> list[Variable]:
        """The Variables that training changes; none where `trainable` is False."""
        if not self.trainable:
            return []
        variables, layers = self._parts()
        own = [v for v in variables if v.trainable]
        return trees.unique([*own, *(v for layer in layers for v in layer.trainable_variables)])

    @property
    def non_trainable_variables(self) -> list[Variable]:
        """The Variables that training leaves alone."""
        trainable = {id(v) for v in self.trainable_variables}
        return [v for v in self.weights if id(v) not in trainable]

    trainable_weights, non_trainable_weights = trainable_variables, non_trainable_variables

    @property
    def losses(self) -> list[Any]:
        """The regularizers' penalties for the present weights, as scalar Tensors."""
        pairs = [pair for layer in self.all_layers() for pair in layer._added.regularizers]
        trainable = {id(v) for v in self.trainable_variables}
        return [regularizer(v) for v, regularizer in pairs if id(v) in trainable]

    @property
    def constraints(self) -> list[tuple[Variable, Any]]:
        """Pairs (Variable, constraint); a training step assigns `constraint(value)` after its update."""
        return [pair for layer in self.all_layers() for pair in layer._added.constraints]

    def count_params(self) -> int:
        """The number of elements of all weights."""
        return sum(v.size for v in self.weights)

    def get_weights(self) -> list[np.ndarray]:
        """Copies of the weights' values, in the order of `weights`."""
        return [v.numpy() for v in self.weights]

    def set_weights(self, values: Iterable[Any]) -> None:
        """Give every weight a new value; ArgumentError or ShapeError before anything has changed."""
        arrays, weights = [np.asarray(value) for value in values], self.weights
        if len(arrays) != len(weights):
            raise ArgumentError(
                f"{self.label}: set_weights",
                got=f"{len(arrays)} arrays",
                expected=f"{len(weights)}: " + ", ".join(f"{v.name} {v.shape}" for v in weights),
                fix=None if self.built else "call or build the layer first: it has no weights before that",
            )
        for v, array in zip(weights, arrays, strict=True):
            if array.shape != v.shape:
                raise ShapeError(f"{self.label}: set_weights, {v.name!r}", got=array.shape, expected=v.shape)
        for v, array in zip(weights, arrays, strict=True):
            v.assign(array)

    # Configuration ---------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        """What `from_config` needs to make an equal layer without weights; JSON can hold it."""
        shape = {} if self.batch_input_shape is None else {"batch_input_shape": list(self.batch_input_shape)}
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype, **shape}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        """A new layer from what `get_config` returned; unknown keys raise, known ones of Keras are passed over."""
        with registry.custom_object_scope(custom_objects):
            return registry.made_from(cls, config)


Layer._call_face = face_of(Layer.call)


def _marks_built(build: Callable[..., None]) -> Callable[..., None]:
    """`build`, remembering that it ran, so that calling it by hand and then the layer builds once."""

    @functools.wraps(build)
    def build_and_mark(self: Layer, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.built = True

    return build_and_mark


def _fresh_name(cls: type) -> str:
    stem = registry.snake_case(cls.__name__).lstrip("_")
    _name_counts[stem] += 1
    return stem if _name_counts[stem] == 1 else f"{stem}_{_name_counts[stem] - 1}"


def _numpy_name(dtype: Any) -> str:
    try:
        return np.dtype(dtype).name
    except TypeError:
        raise DtypeError("unknown dtype", got=repr(dtype), expected='such as "float32"') from None


def walk(values: Iterable[Any]) -> list[Any]:
    """The Variables and layers among values, looking into lists, tuples and dicts."""
    found = []
    for value in values:
        if type(value) not in _SIMPLE and isinstance(value, (Variable, Layer)):
            found.append(value)
        elif isinstance(value, (dict, list, tuple)):
            found += walk(value.values() if isinstance(value, dict) else value)
    return found


@contextmanager
def observe(hook: Callable[[str, Any], None]) -> Iterator[None]:
    """Within the block, `hook(label, outputs)` sees what each layer returned, innermost first.

    >>> from minirnn.layers import Dense
    >>> with observe(lambda label, outputs: print(label, outputs.shape)):
    ...     _ = Dense(4, name="d")(np.ones((2, 3)))
    Dense 'd' (2, 4)
    """
    token = _observer.set(hook)
    try:
        yield
    finally:
        _observer.reset(token)


def show(label: str, outputs: Any) -> None:
    """Let the observer see what a layer returned; shapes without values are no result."""
    hook = _observer.get()
    if hook is not None and not any(getattr(x, "is_abstract", False) for x in trees.flatten(outputs)[0]):
        hook(label, outputs)


def is_observed() -> bool:
    """Whether somebody looks at what layers return."""
    return _observer.get() is not None


def is_training() -> bool:
    """What layers take for `training` here unless they are told."""
    return _training.get()


@contextmanager
def training_scope(training: Any) -> Iterator[None]:
    """Within the block, layers called without `training` take this one."""
    token = _training.set(bool(training))
    try:
        yield
    finally:
        _training.reset(token)


def units_of(value: Any, label: str, what: str = "units") -> int:
    """`value` as a positive number of units; ArgumentError for anything else.

    >>> units_of(3, "Dense 'd'")
    3
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value <= 0:
        raise ArgumentError(f"{label}: {what}", got=repr(value), expected="a positive integer")
    return int(value)


def shape_text(shape: tuple[int | None, ...], axes: tuple[str, ...] = ("batch", "time")) -> str:
    """A shape with its leading axes in words.

    >>> shape_text((2, 5, 3))
    '(batch=2, time=5, 3)'
    """
    named = [f"{axis}={size}" for axis, size in zip(axes, shape, strict=False)]
    return "(" + ", ".join([*named, *(str(size) for size in shape[len(named) :])]) + ")"
