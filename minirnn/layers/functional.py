"""Input and the graph of layer calls: what Model and RecurrentContainer run.

Calling a layer (or an operation of `mr.ops`) on a SymbolicTensor computes nothing; it makes a Node
and gives SymbolicTensors back.  Their shapes come from running the call on shapes alone, twice,
with two different numbers in the place of every unknown size: what differs is unknown.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import config
from ..autodiff import ops, trees
from ..autodiff.operators import PUBLIC, Operators
from ..autodiff.tensor import Tensor, Variable
from ..autodiff.trace import abstract, eval_shapes
from ..errors import ArgumentError, DtypeError, FormatError, MinirnnError, ShapeError
from . import registry
from .base import Layer, shape_text, show, training_scope
from .masks import attach_masks
from .ragged import Ragged
from .shapes import sizes_of

Shape = tuple[int | None, ...]
# The two numbers that stand for an unknown size, by axis; rare as real sizes.
_STAND_INS = ((17, 19), (23, 29), (31, 37), (41, 43), (47, 53), (59, 61), (67, 71), (73, 79))
# Arguments of calls with one row for each row of the input.
_BY_ROW = frozenset({"mask", "lengths", "reset_mask", "initial_state", "states", "constants"})
_numbers = itertools.count()


class SymbolicTensor(Operators):
    """What stands for an array while a functional graph is made: a shape (None where unknown), a dtype, no values.

    Operators, indexing and `mr.ops` work on it and make nodes.

    >>> x = Input((None, 3))
    >>> (x[:, 0] * 2).shape
    (None, 3)
    """

    __array_ufunc__ = None  # leaves `array + symbolic` to our own operators

    def __init__(self, samples: tuple[tuple[int, ...], tuple[int, ...]], dtype: Any, name: str | None = None) -> None:
        # The shape under either choice of stand-ins: it says how sizes depend on each other (2T, T - 1, ...).
        self.samples = samples
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.name = name
        self.node: Node
        self.index = 0

    @property
    def shape(self) -> Shape:
        """The sizes, None where unknown."""
        return tuple(a if a == b else None for a, b in zip(*self.samples, strict=True))

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.samples[0])

    def __functional_op__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return call_symbolically(Operation(name), args, kwargs)

    def __functional_call__(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return call_symbolically(layer, *layer._cast_arguments(args, kwargs))

    def __len__(self) -> int:
        size = self.shape[0] if self.samples[0] else None
        if size is None:
            raise ShapeError(f"{self}: the length of an axis of unknown size was asked for")
        return size

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        raise ArgumentError(
            "the values of a symbolic tensor were asked for, but it has none before the model runs",
            got=repr(self),
            fix="use mr.ops.where instead of `if`, or put the computation into a Layer",
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self.__bool__()
        raise AssertionError

    def __repr__(self) -> str:
        return f"<SymbolicTensor shape={self.shape} dtype={self.dtype} name={self.name!r}>"


class Node:
    """One call of a layer in a functional graph: its arguments, and the SymbolicTensors that came out."""

    def __init__(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        self.layer, self.args, self.kwargs, self.result = layer, args, kwargs, outputs
        self.number = next(_numbers)  # later nodes depend on earlier ones only
        leaves = trees.flatten((args, kwargs))[0]
        for leaf in leaves:
            if isinstance(leaf, Variable):
                raise ArgumentError(
                    f"{layer.label}: a Variable among the arguments of a functional graph, where no model finds it",
                    got=repr(leaf),
                    fix="make it a weight of a Layer (add_weight)",
                )
        self.inputs: list[SymbolicTensor] = [leaf for leaf in leaves if isinstance(leaf, SymbolicTensor)]
        self.outputs: list[SymbolicTensor] = trees.flatten(outputs)[0]
        for index, output in enumerate(self.outputs):
            output.node, output.index = self, index
            output.name = output.name or (layer.name if len(self.outputs) == 1 else f"{layer.name}_{index}")


def call_symbolically(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a layer on SymbolicTensors: builds it, makes a Node, returns its SymbolicTensors."""
    if not layer.built:
        first = args[0] if args else next(iter(kwargs.values()))
        layer.build_once(trees.map(lambda x: tuple(getattr(x, "shape", ())), first))
    try:
        outcomes = [_outcome(layer, args, kwargs, choice) for choice in (0, 1)]
    except MinirnnError as error:
        _forget_stand_ins(error, layer, args, kwargs)
        error.add_note(f"while calling {layer.label} on symbolic Inputs")
        raise

    def symbolic(first: Any, second: Any) -> SymbolicTensor:
        if not isinstance(first, Tensor) or first.ndim != second.ndim:
            raise ShapeError(f"{layer.label}: call() must return Tensors of known rank", got=type(first).__name__)
        return SymbolicTensor((first.shape, second.shape), first.dtype)

    outputs = trees.map(symbolic, *outcomes)
    return Node(layer, args, kwargs, outputs).result


def _outcome(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], choice: int) -> Any:
    """The abstract outputs of a call with one choice of numbers for the unknown sizes."""
    if type(layer).compute_output_shape is not Layer.compute_output_shape:
        shapes = layer.compute_output_shape(trees.map(lambda x: x.samples[choice], args[0]))
        if not isinstance(shapes, list):
            return abstract(tuple(shapes), layer.dtype)
        return [abstract(tuple(shape), layer.dtype) for shape in shapes]

    def stand_in(x: Any) -> Any:
        return abstract(x.samples[choice], x.dtype, x.name) if isinstance(x, SymbolicTensor) else x

    inputs = [x for x in trees.flatten(args)[0] if isinstance(x, SymbolicTensor) and x.ndim > layer.batch_axis]
    batch = layer.batch_axis
    rows = {x.samples[choice][batch] for x in inputs if x.shape[batch] is None}

    def with_rows(x: Any, axis: int) -> Any:
        """An array whose number of rows decides what batch size the call will have to have, not the other way round."""
        if not isinstance(x, (Tensor, np.ndarray)) or x.ndim <= axis or len(rows) != 1:
            return stand_in(x)
        return abstract((*x.shape[:axis], *rows, *x.shape[axis + 1 :]), x.dtype)

    def stood_in(name: str, value: Any) -> Any:
        axis = batch if "mask" in name else 0
        return trees.map((lambda x: with_rows(x, axis)) if name in _BY_ROW else stand_in, value)

    options = {name: stood_in(name, value) for name, value in kwargs.items()}
    return eval_shapes(lambda a, k: layer(*a, **k), trees.map(stand_in, args), options)


def _forget_stand_ins(error: MinirnnError, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Let an error say None where the other choice of stand-ins makes another number."""
    other: BaseException | None = None
    try:
        _outcome(layer, args, kwargs, 1)
    except MinirnnError as caught:
        other = caught
    first: BaseException | None = error
    while isinstance(first, MinirnnError) and type(first) is type(other):
        parts = [
            _without_stand_ins(getattr(first, part), getattr(other, part))
            for part in ("what", "got", "expected", "where", "fix")
        ]
        MinirnnError.__init__(first, parts[0], **dict(zip(("got", "expected", "where", "fix"), parts[1:], strict=True)))
        first, other = first.__cause__, other.__cause__


def _without_stand_ins(one: Any, other: Any) -> Any:
    """`one` with None for each number that is another one in `other`, where only numbers differ."""
    a, b = (re.split(r"(\d+)", str(text)) for text in (one, other))
    if a == b or a[::2] != b[::2]:
        return one
    return "".join(x if x == y else "None" for x, y in zip(a, b, strict=True))


@registry.register(kind="layer")
class InputLayer(Layer):
    """Where a functional graph begins; made by `Input`."""

    def __init__(self, batch_shape: Any, dtype: Any = None, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(name=name, trainable=trainable)
        self.batch_shape: Shape = sizes_of(batch_shape, "Input: shape")
        self.dtype = np.dtype(dtype or config.current_dtype()).name
        self.built = True
        if len(self.batch_shape) > len(_STAND_INS):
            raise ShapeError("Input: too many axes", got=len(self.batch_shape), expected=f"at most {len(_STAND_INS)}")
        sizes = [(n, n) if n is not None else _STAND_INS[axis] for axis, n in enumerate(self.batch_shape)]
        self.output = SymbolicTensor((tuple(n for n, _ in sizes), tuple(n for _, n in sizes)), self.dtype, self.name)
        Node(self, (), {}, self.output)

    def get_config(self) -> dict[str, Any]:
        return {"batch_shape": list(self.batch_shape), "dtype": self.dtype, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        shape = config.get("batch_shape", config.get("batch_input_shape"))  # the latter in Keras 2
        others = {key: value for key, value in config.items() if key != "batch_input_shape"}
        return super().from_config({**others, "batch_shape": shape}, custom_objects)


def Input(
    shape: Any = None,
    batch_size: int | None = None,
    batch_shape: Any = None,
    dtype: Any = None,
    name: str | None = None,
) -> SymbolicTensor:
    """A symbolic tensor to make a functional graph from; `shape` is without the batch, None where unknown.

    `batch_shape` says all of it.  Raises ArgumentError when neither or both are given.

    >>> Input(shape=(None, 20)).shape, Input(batch_shape=(4, 7, 2), dtype="float64").dtype
    ((None, None, 20), dtype('float64'))
    """
    if (shape is None) == (batch_shape is None):
        raise ArgumentError(
            "Input takes either shape (without the batch) or batch_shape", got=f"{shape}, {batch_shape}"
        )
    if batch_shape is None:
        if isinstance(shape, (int, np.integer)):
            raise ArgumentError("Input: shape", got=repr(shape), expected=f"a tuple of sizes, such as ({shape},)")
        batch_shape = (batch_size, *shape)
    return InputLayer(batch_shape, dtype=dtype, name=name).output


@registry.register(kind="layer")
class Operation(Layer):
    """An operation of `mr.ops` as a node of a functional graph; it has no weights and serialises by name."""

    def __init__(self, operation: str, name: str | None = None, dtype: Any = None, trainable: bool = True) -> None:
        function = PUBLIC.get(operation)
        if function is None:
            raise ArgumentError(
                "unknown operation", got=repr(operation), expected="the name of a function of minirnn.ops"
            )
        super().__init__(name=name or _operation_name(operation), dtype=dtype, trainable=trainable)
        self.operation, self.function, self.built = operation, function, True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(leaf, SymbolicTensor) for leaf in trees.flatten((args, kwargs))[0]):
            return call_symbolically(self, args, kwargs)
        outputs = self.function(*args, **kwargs)
        show(self.label, outputs)
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "operation": self.operation}


_operation_counts: dict[str, Any] = {}


def _operation_name(operation: str) -> str:
    return f"ops_{operation}_{next(_operation_counts.setdefault(operation, itertools.count()))}"


def fitted(value: Any, input_: SymbolicTensor, where: str, axes: tuple[str, ...] = ("batch",)) -> Any:
    """What a call gives for an Input as a Tensor of the Input's kind of dtype, with the mask that it came with.

    `axes` stand in the place of the Input's batch.  Numbers become floats for a float Input, whole floats
    integers for an integer one.  Raises ArgumentError, ShapeError or DtypeError, which begin with `where`,
    for anything that does not fit.
    """
    dtype, single = input_.dtype, len(axes) == 1
    wanted = input_.shape if single else (None,) * len(axes) + input_.shape[1:]
    if isinstance(value, Ragged):
        length = wanted[1] if single and len(wanted) > 1 else None  # which the Input may say
        value = value.tensor(dtype if dtype.kind == "f" else None, length=length)
    elif isinstance(value, np.ndarray):
        value = Tensor(value, dtype if dtype.kind == value.dtype.kind == "f" else None)
    elif not isinstance(value, (Tensor, SymbolicTensor)):
        raise ArgumentError(where, got=type(value).__name__, expected=f"an array {_wanted_text(wanted, axes)}")
    fits = value.ndim == len(wanted) and all(
        want is None or got is None or want == got for got, want in zip(value.shape, wanted, strict=True)
    )
    if not fits:
        raise ShapeError(
            where,
            got=shape_text(value.shape, axes),
            expected=_wanted_text(wanted, axes),
            fix="a single sample is a batch of one: x[None]" if value.ndim == len(wanted) - 1 else None,
        )
    kinds = value.dtype.kind, dtype.kind
    if kinds == ("f", "f") and value.dtype != dtype:
        raise DtypeError(where, got=value.dtype, expected=dtype, fix=f'cast it: x.astype("{dtype}")')
    if kinds[0] == kinds[1] or (kinds[0] in "iu" and kinds[1] in "iu") or kinds[0] == "c":
        return value
    if kinds[1] in "iu" and kinds[0] == "f" and isinstance(value, Tensor) and not value.is_abstract:
        if (value.numpy() % 1 != 0).any():
            raise DtypeError(where, got=f"{value.dtype} with fractions", expected=dtype)
    return cast(value, dtype)


def _wanted_text(shape: Shape, axes: tuple[str, ...]) -> str:
    named = [axis if size is None else f"{axis}={size}" for axis, size in zip(axes, shape, strict=False)]
    return "(" + ", ".join([*named, *("any" if size is None else str(size) for size in shape[len(named) :])]) + ")"


def cast(value: Any, dtype: Any) -> Any:
    """`value` in another dtype, with the mask that it came with."""
    made = ops.cast(value, dtype)
    if isinstance(value, Tensor):
        attach_masks(made, value.mask)
    return made


class FunctionGraph:
    """The nodes that lead from some SymbolicTensors to others, in an order in which they can run.

    Raises ArgumentError when an output cannot be computed from the inputs.

    >>> x = Input((2,), dtype="float64")
    >>> graph = FunctionGraph([x], [x * 2 + 1])
    >>> graph.run([np.array([[1.0, 2.0]])])[0].numpy()
    array([[3., 5.]])
    """

    def __init__(self, inputs: Sequence[SymbolicTensor], outputs: Sequence[SymbolicTensor]) -> None:
        self.inputs, self.outputs = list(inputs), list(outputs)
        for what, tensors in (("input", self.inputs), ("output", self.outputs)):
            for tensor in tensors:
                if not isinstance(tensor, SymbolicTensor):
                    raise ArgumentError(
                        f"an {what} of a functional graph must be symbolic",
                        got=repr(tensor),
                        expected="what Input() or a layer called on one returns",
                    )
        if len(trees.unique(self.inputs)) != len(self.inputs):
            raise ArgumentError("an Input stands twice among the inputs", got=[x.name for x in self.inputs])
        self.nodes = self._reachable()
        arguments = trees.flatten([(node.args, node.kwargs) for node in self.nodes])[0]
        self._visible = self.layers, [x for x in arguments if isinstance(x, (Tensor, np.ndarray))]

    def _reachable(self) -> list[Node]:
        given = {id(x) for x in self.inputs}
        found: dict[int, Node] = {}
        pending = list(self.outputs)
        while pending:
            tensor = pending.pop()
            node = tensor.node
            if id(tensor) in given or node.number in found:
                continue
            if isinstance(node.layer, InputLayer):
                raise ArgumentError(
                    f"an output depends on the Input {tensor.name!r}, which is not among the inputs",
                    got=f"inputs {[x.name for x in self.inputs]}",
                    fix="name every Input that the outputs are made from",
                )
            found[node.number] = node
            pending.extend(node.inputs)
        return [found[number] for number in sorted(found)]

    @property
    def layers(self) -> list[Layer]:
        """The layers of the nodes, each once, in order of their first call."""
        return trees.unique(node.layer for node in self.nodes)

    def __trace_state__(self) -> Any:
        """What a traced step can see of the graph, which itself never changes: layers, and arrays among arguments."""
        return self._visible

    def run(self, values: Sequence[Any], training: Any = None) -> list[Any]:
        """The outputs for `values`, one per input; `training` holds for every layer that was not told otherwise."""
        known: dict[int, Any] = {id(x): value for x, value in zip(self.inputs, values, strict=True)}

        def value_of(leaf: Any) -> Any:
            return known[id(leaf)] if isinstance(leaf, SymbolicTensor) else leaf

        def run_nodes() -> list[Any]:
            for node in self.nodes:
                result = node.layer(*trees.map(value_of, node.args), **trees.map(value_of, node.kwargs))
                known.update(zip(map(id, node.outputs), trees.flatten(result)[0], strict=True))
            return [known[id(x)] for x in self.outputs]

        if training is None:
            return run_nodes()
        with training_scope(training):
            return run_nodes()

    # Configuration ---------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        """The graph as JSON can hold it: inputs, layers, their calls in order, outputs."""
        layers = self.layers
        position = {id(layer): index for index, layer in enumerate(layers)}
        places = {id(x): [-1, index] for index, x in enumerate(self.inputs)}
        for number, node in enumerate(self.nodes):
            for index, output in enumerate(node.outputs):
                places.setdefault(id(output), [number, index])
        return {
            "inputs": [{"batch_shape": list(x.shape), "dtype": x.dtype.name, "name": x.name} for x in self.inputs],
            "layers": registry.serialize_all(layers),
            "nodes": [
                {
                    "layer": position[id(node.layer)],
                    "args": [_encode(arg, places) for arg in node.args],
                    "kwargs": {key: _encode(arg, places) for key, arg in node.kwargs.items()},
                }
                for node in self.nodes
            ],
            "outputs": [places[id(x)] for x in self.outputs],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> FunctionGraph:
        """The graph that `get_config` described, with new layers; raises FormatError if it is damaged."""
        try:
            inputs = [Input(**entry) for entry in config["inputs"]]
            layers = registry.deserialize_all(config["layers"], "layer", custom_objects)
            made: list[list[SymbolicTensor]] = []

            def tensor(place: list[int]) -> SymbolicTensor:
                return (inputs if place[0] == -1 else made[place[0]])[place[1]]

            for entry in config["nodes"]:
                args = [_decode(arg, tensor) for arg in entry["args"]]
                kwargs = {key: _decode(arg, tensor) for key, arg in entry["kwargs"].items()}
                made.append(trees.flatten(layers[entry["layer"]](*args, **kwargs))[0])
            return cls(inputs, [tensor(place) for place in config["outputs"]])
        except (KeyError, IndexError, TypeError) as error:
            if isinstance(error, MinirnnError):
                raise
            raise FormatError("the configuration of a functional graph is damaged", got=repr(error)) from error


def _encode(value: Any, places: dict[int, list[int]]) -> Any:
    """An argument of a node as JSON; everything but plain numbers, strings and lists is a dict with one tag."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, SymbolicTensor):
        return {"symbolic": places[id(value)]}
    if isinstance(value, list):
        return [_encode(item, places) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, places) for item in value]}
    if isinstance(value, dict):
        return {"dict": {key: _encode(item, places) for key, item in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_encode(part, places) for part in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (Tensor, np.ndarray)):
        array = np.asarray(value)
        return {"array": array.tolist(), "dtype": array.dtype.name, "shape": list(array.shape)}
    if isinstance(value, (type, np.dtype)):
        return {"dtype": np.dtype(value).name}
    raise ArgumentError("an argument of a functional graph cannot be written into a configuration", got=repr(value))


def _decode(value: Any, tensor: Callable[[list[int]], SymbolicTensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensor) for item in value]
    if not isinstance(value, dict):
        return value
    if "symbolic" in value:
        return tensor(value["symbolic"])
    if "tuple" in value:
        return tuple(_decode(item, tensor) for item in value["tuple"])
    if "dict" in value:
        return {key: _decode(item, tensor) for key, item in value["dict"].items()}
    if "slice" in value:
        return slice(*(_decode(part, tensor) for part in value["slice"]))
    if "ellipsis" in value:
        return Ellipsis
    if "array" in value:
        return np.array(value["array"], value["dtype"]).reshape(value["shape"])
    if "dtype" in value:
        return np.dtype(value["dtype"])
    raise FormatError("the configuration of a functional graph is damaged", got=repr(value))
