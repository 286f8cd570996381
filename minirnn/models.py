"""Model and Sequential: functional graphs as layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from . import serialization
from .autodiff import ops, trees
from .autodiff.tensor import Tensor
from .errors import ArgumentError, FormatError, MinirnnError, ShapeError
from .layers import registry
from .layers.base import Layer, shape_text
from .layers.functional import FunctionGraph, Input, InputLayer, SymbolicTensor, fitted
from .streaming import Stream
from .training import checkpoint
from .training.trainer import Trainer

_HEADS = ("Layer (type)", "Output Shape", "Param #", "Connected to")
_GAP = 2


@registry.register(kind="layer")
class Model(Trainer, Layer):
    """The graph from `inputs` to `outputs` as a layer that can be trained, saved and called like any other.

    `inputs`, `outputs`: symbolic tensors, alone or in lists or dicts; calls take and give the same structure.
    A subclass may instead define `call`.  Raises ArgumentError when an output depends on an Input that is
    not among `inputs`.

    >>> import numpy as np
    >>> from minirnn.layers import Dense
    >>> x = Input(shape=(3,))
    >>> model = Model(x, Dense(2)(x))
    >>> model(np.ones((4, 3))).shape
    (4, 2)
    """

    graph: FunctionGraph | None = None

    needs_arrays = False  # it checks its inputs by name

    def __init__(self, inputs: Any = None, outputs: Any = None, name: str | None = None, **options: Any) -> None:
        super().__init__(name=name, **options)
        if (inputs is None) != (outputs is None):
            raise ArgumentError(f"{self.label}: it takes inputs and outputs, or neither in a subclass with call()")
        if inputs is not None:
            self._set_graph(inputs, outputs)

    def _set_graph(self, inputs: Any, outputs: Any) -> None:
        flat_inputs, self._inputs_form = trees.flatten(inputs)
        flat_outputs, self._outputs_form = trees.flatten(outputs)
        self.graph = FunctionGraph(flat_inputs, flat_outputs)
        self.built = True

    def _members(self) -> Iterator[Any]:
        if self.graph is not None:
            yield from self.graph.layers
        yield from super()._members()

    # What it is made of ----------------------------------------------------------------------------
    @property
    def inputs(self) -> list[SymbolicTensor]:
        """The symbolic inputs as a flat list; empty before a model's inputs are known."""
        return [] if self.graph is None else self.graph.inputs

    @property
    def outputs(self) -> list[SymbolicTensor]:
        """The symbolic outputs as a flat list."""
        return [] if self.graph is None else self.graph.outputs

    @property
    def input_names(self) -> list[str]:
        """The keys of a dict of inputs, else the names of the layers that made the inputs, each made unique."""
        return [] if self.graph is None else _keys(self._inputs_form) or _unique_names(self.inputs)

    @property
    def output_names(self) -> list[str]:
        """The keys of a dict of outputs, else the names of the layers that made the outputs, each made unique."""
        return [] if self.graph is None else _keys(self._outputs_form) or _unique_names(self.outputs)

    @property
    def layers(self) -> list[Layer]:
        """The layers of the graph, Inputs included, in order of their first call."""
        if self.graph is None:
            return self.sublayers
        begin = [x.node for x in self.graph.inputs if isinstance(x.node.layer, InputLayer)]
        return trees.unique(node.layer for node in sorted([*begin, *self.graph.nodes], key=lambda node: node.number))

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of that name, or at that place in `layers`; ArgumentError if there is none."""
        layers = self.layers
        if index is not None and -len(layers) <= index < len(layers):
            return layers[index]
        found = [layer for layer in layers if layer.name == name]
        if not found:
            raise ArgumentError(
                f"{self.label}: get_layer", got=name or index, expected=[layer.name for layer in layers]
            )
        return found[0]

    # Calling ---------------------------------------------------------------------------------------
    def _cast_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.graph is None:
            return super()._cast_arguments(args, kwargs)
        inputs = args[0] if args else kwargs.pop("inputs", None)
        pairs = zip(self.inputs, self._flat(inputs), strict=True)
        values = [fitted(value, x, f"{self.label}: input {x.name!r}") for x, value in pairs]
        return (trees.unflatten(self._inputs_form, values), *args[1:]), kwargs

    def _flat(self, inputs: Any) -> list[Any]:
        """A call's inputs in the order of `self.inputs`; dicts may name them, one input may stand in a list."""
        if isinstance(inputs, dict) and sorted(inputs) == sorted(self.input_names):
            return [inputs[name] for name in self.input_names]
        leaves, form = trees.flatten(inputs)
        if not trees.same_form(form, self._inputs_form) and not (len(leaves) == len(self.inputs) == 1):
            raise ArgumentError(
                f"{self.label}: inputs",
                got=trees.describe(form),
                expected=f"{trees.describe(self._inputs_form)}: " + ", ".join(self.input_names),
            )
        return leaves

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """The outputs for `inputs`, in the structure that the model was made with.

        `mask`: (B, T), in a list or dict one for each input or None; else the masks that the inputs carry.
        """
        if self.graph is None:
            return super().call(inputs)
        values = self._masked(trees.flatten(inputs)[0], mask)
        return trees.unflatten(self._outputs_form, self.graph.run(values))

    def _masked(self, values: list[Any], mask: Any) -> list[Any]:
        """The inputs, carrying the masks that a call was given."""
        if mask is None:
            return values
        if isinstance(mask, dict):
            masks = [mask.get(name) for name in self.input_names]
            unknown = set(mask) - set(self.input_names)
        else:
            is_group = isinstance(mask, (list, tuple)) and any(x is None or hasattr(x, "shape") for x in mask)
            masks = list(mask) if is_group else [mask]
            unknown = set()
        if unknown or len(masks) != len(values):
            raise ArgumentError(
                f"{self.label}: mask",
                got=f"masks for {', '.join(mask)}" if unknown else f"{len(masks)} masks",
                expected=f"one for each input or None: {', '.join(self.input_names)}",
            )
        return [
            value if given is None or given is value.mask else self._carrying(value, given, x.name)
            for value, given, x in zip(values, masks, self.inputs, strict=True)
        ]

    def _carrying(self, value: Tensor, mask: Any, name: str | None) -> Tensor:
        mask = mask if isinstance(mask, Tensor) else Tensor(mask)
        if not mask.ndim or mask.shape != value.shape[: mask.ndim]:
            raise ShapeError(
                f"{self.label}: the mask does not fit the input {name!r}",
                got=shape_text(mask.shape),
                expected=shape_text(value.shape[:2]),
            )
        # Another Tensor of the same values, because this one may be the caller's own.
        carrying: Tensor = ops.reshape(ops.expand_dims(value, 0), value.shape)
        carrying.mask = mask if mask.dtype == bool else ops.not_equal(mask, 0)
        return carrying

    def stream(self, batch_size: int = 1, inputs: Any = None) -> Stream:
        """The model one time step at a time, beginning with the initial states: see `Stream`.

        `inputs`: the inputs without a time axis, in the model's order, each (batch_size, ...).  In a dict by
        name there may also be sequences that are known as a whole, such as what an encoder reads.  Raises
        ArgumentError with the name of the layer if the model cannot run so: what reads later steps, or all
        of them, must see the whole sequence.

        >>> import numpy as np
        >>> from minirnn.layers import LSTM, Dense
        >>> model = Sequential([Input((None, 3)), LSTM(4, return_sequences=True), Dense(2)])
        >>> stream = model.stream()
        >>> x = np.ones((1, 5, 3))
        >>> ys = [stream.push(x[:, t]) for t in range(5)]
        >>> bool(np.allclose(np.stack(ys, axis=1), model.predict(x), atol=1e-6))
        True
        """
        if self.graph is None:
            raise ArgumentError(
                f"{self.label}: stream: it has no functional graph",
                fix="Model(inputs, outputs), or a Sequential that begins with an Input",
            )
        return Stream(self.graph, self._outputs_form, self.label, self.input_names, batch_size, inputs)

    def reset_states(self) -> None:
        """Reset every stateful layer in the model; it is no error if there is none."""
        for layer in self.all_layers():
            if getattr(layer, "stateful", False):
                layer.reset_states()  # type: ignore[attr-defined]

    def summary(self, line_length: int | None = None, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the layers, their output shapes and numbers of weights."""
        for line in summary_lines(self, line_length):
            print_fn(line)

    # Configuration ---------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        config = {"name": self.name, "trainable": self.trainable}
        if self.graph is None:
            return config
        return {
            **config,
            "graph": self.graph.get_config(),
            "input_structure": trees.unflatten(self._inputs_form, list(range(len(self.inputs)))),
            "output_structure": trees.unflatten(self._outputs_form, list(range(len(self.outputs)))),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        if "graph" not in config:
            return super().from_config(config, custom_objects)
        graph = FunctionGraph.from_config(config["graph"], custom_objects)
        return cls(
            trees.map(lambda index: graph.inputs[index], config["input_structure"]),
            trees.map(lambda index: graph.outputs[index], config["output_structure"]),
            name=config.get("name"),
            trainable=config.get("trainable", True),
        )


def _keys(form: Any) -> list[str]:
    """The keys of a dict of tensors in their order; none for any other structure."""
    is_flat = isinstance(form, tuple) and form[0] == "dict" and set(form[2]) == {trees.LEAF}
    return list(form[1]) if is_flat else []


def _unique_names(tensors: list[SymbolicTensor]) -> list[str]:
    names: list[str] = []
    for tensor in tensors:
        stem, number = tensor.node.layer.name, 0
        name = stem
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names.append(name)
    return names


@registry.register(kind="layer")
class Sequential(Model):
    """Layers one after the other.

    The input's shape comes from an `Input` in first place, from the first layer's `input_shape=`, or from
    the first call.  Raises ArgumentError for something that is no layer.

    >>> import numpy as np
    >>> from minirnn.layers import Dense
    >>> model = Sequential([Input((3,)), Dense(4, "relu"), Dense(2)])
    >>> [layer.units for layer in model.layers], model(np.ones((5, 3))).shape
    ([4, 2], (5, 2))
    """

    def __init__(self, layers: Any = None, name: str | None = None, **options: Any) -> None:
        super().__init__(name=name, **options)
        self._stack: list[Layer] = []
        self._begin: SymbolicTensor | None = None
        for layer in layers or []:
            self.add(layer)

    def _members(self) -> Iterator[Any]:
        yield from Layer._members(self)

    @property
    def layers(self) -> list[Layer]:
        """The layers in order, without the Input."""
        return list(self._stack)

    def add(self, layer: Any) -> None:
        """Put a layer (or, in first place, an Input) at the end."""
        if isinstance(layer, InputLayer):
            layer = layer.output
        if isinstance(layer, SymbolicTensor):
            if self._stack or self._begin is not None:
                raise ArgumentError(f"{self.label}: an Input stands only in first place", got=repr(layer))
            self._begin = layer
            return
        if not isinstance(layer, Layer):
            raise ArgumentError(f"{self.label}: add", got=repr(layer), expected="a Layer")
        if self._begin is None and not self._stack:
            self._begin = _input_of(layer)
        self._stack.append(layer)
        try:
            self._connect()
        except MinirnnError:
            self._stack.pop()
            raise

    def pop(self) -> Layer:
        """Take the last layer away."""
        if not self._stack:
            raise ArgumentError(f"{self.label}: there is no layer to take away")
        layer = self._stack.pop()
        self._connect()
        return layer

    def _connect(self) -> None:
        """Make the graph anew if the input is known."""
        if self._begin is None or not self._stack:
            self.graph, self.built = None, False
            return
        x = self._begin
        for layer in self._stack:
            x = layer(x)
            if not isinstance(x, SymbolicTensor):
                raise ArgumentError(
                    f"{self.label}: {layer.label} returns several tensors",
                    fix="use Model(inputs, outputs), or return_state=False",
                )
        self._set_graph(self._begin, x)

    def build(self, input_shape: Any) -> None:
        first = self._stack[0] if self._stack else None
        dtype = getattr(first, "default_input_dtype", None) or getattr(first, "dtype", None)
        self._begin_with(tuple(input_shape), dtype)

    def _build_on(self, inputs: Any) -> None:
        if not isinstance(inputs, Tensor):
            raise ArgumentError(f"{self.label}: inputs", got=type(inputs).__name__, expected="one array")
        self._begin_with((None, *inputs.shape[1:]), inputs.dtype)

    def _begin_with(self, shape: tuple[int | None, ...], dtype: Any) -> None:
        if not self._stack:
            raise ArgumentError(f"{self.label}: it has no layers")
        # A second axis is usually time, of any length; where the layers need its size, they say so.
        candidates = [(shape[0], None, *shape[2:]), shape] if len(shape) > 2 else [shape]
        for last, candidate in zip([False, True][-len(candidates) :], candidates, strict=True):
            self._begin = Input(batch_shape=candidate, dtype=dtype)
            try:
                return self._connect()
            except MinirnnError:
                self._begin = None
                if last:
                    raise

    def get_config(self) -> dict[str, Any]:
        begin = self._begin
        shape = {} if begin is None else {"batch_input_shape": list(begin.shape), "input_dtype": begin.dtype.name}
        layers = registry.serialize_all(self._stack)
        return {"name": self.name, "trainable": self.trainable, **shape, "layers": layers}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        layers = registry.deserialize_all(config["layers"], "layer", custom_objects)
        shape = config.get("batch_input_shape")
        begin = [] if shape is None else [Input(batch_shape=shape, dtype=config.get("input_dtype"))]
        return cls([*begin, *layers], name=config.get("name"), trainable=config.get("trainable", True))


def _input_of(layer: Layer) -> SymbolicTensor | None:
    """The Input that a first layer asks for, None if it doesn't say."""
    if layer.batch_input_shape is not None:
        return Input(batch_shape=layer.batch_input_shape, dtype=layer.default_input_dtype or layer.dtype)
    if isinstance(layer, Model) and len(layer.inputs) == 1:
        return Input(batch_shape=layer.inputs[0].shape, dtype=layer.inputs[0].dtype)
    return None


def load_model(path: checkpoint.Path, custom_objects: dict[str, Any] | None = None, compile: bool = True) -> Any:
    """The model that `Model.save` wrote, with its weights, states and, with `compile`, all that training goes on with.

    `custom_objects` gives the classes and functions that the configuration names.  Nothing in the file is
    executed; FormatError for a damaged or foreign one, ArgumentError for a name that is not known.

    >>> import tempfile
    >>> import numpy as np
    >>> from minirnn.layers import Dense
    >>> model = Sequential([Input((3,)), Dense(2)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(f"{folder}/m.safetensors")
    ...     copy = load_model(f"{folder}/m.safetensors")
    >>> x = np.ones((1, 3))
    >>> bool((copy.predict(x) == model.predict(x)).all())
    True
    """
    state = serialization.load_state(checkpoint.checked_path(path, "load_model"))
    if "model" not in state.config:
        raise FormatError(
            "the file holds no model",
            got=f"a configuration with {', '.join(state.config) or 'nothing'}",
            expected="what Model.save wrote",
            where=str(path),
            fix="for weights only, make the model and call its load_weights(path)",
        )
    with registry.custom_object_scope(custom_objects):
        model = registry.deserialize(state.config["model"], "layer")
        if not isinstance(model, Model):
            raise FormatError("the file holds a layer that is no model", got=type(model).__name__, where=str(path))
        checkpoint.restore(model, state, path, compile=compile)
    return model


def summary_lines(model: Any, line_length: int | None = None) -> list[str]:
    """The lines of a model's table; a column of connections where the graph is no chain.

    >>> from minirnn.layers import Dense
    >>> print("\\n".join(summary_lines(Sequential([Input((3,)), Dense(2, name="d")], name="m"))))
    Model: "m"
    ___________________________________
    Layer (type)  Output Shape  Param #
    ===================================
    d (Dense)     (None, 2)     8
    ===================================
    Total params: 8 (32 bytes)
    Trainable params: 8 (32 bytes)
    Non-trainable params: 0 (0 bytes)
    ___________________________________
    """
    rows = [_row(model, layer) for layer in model.layers]
    columns = 3 if _is_chain(model) else 4
    table = [_HEADS[:columns], *(row[:columns] for row in rows)]
    widths = [max(len(row[column]) for row in table) + _GAP for column in range(columns)]
    if line_length is not None and line_length > sum(widths):
        widths[-1] += line_length - sum(widths)
    text = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    trainable, fixed = model.trainable_variables, model.non_trainable_variables
    totals = [
        f"Total params: {_amount([*trainable, *fixed])}",
        f"Trainable params: {_amount(trainable)}",
        f"Non-trainable params: {_amount(fixed)}",
    ]
    length = max(sum(widths) - _GAP, *map(len, totals))
    return [
        f'Model: "{model.name}"',
        "_" * length,
        text[0],
        "=" * length,
        *text[1:],
        "=" * length,
        *totals,
        "_" * length,
    ]


def _nodes(model: Any, layer: Any) -> list[Any]:
    """The calls of a layer in the model's graph, the one that made an Input included."""
    graph = getattr(model, "graph", None)
    if graph is None:
        return []
    made = [x.node for x in graph.inputs if x.node.layer is layer]
    return [*made, *(node for node in graph.nodes if node.layer is layer)]


def _row(model: Any, layer: Any) -> tuple[str, str, str, str]:
    nodes = _nodes(model, layer)
    shapes = {", ".join(str(x.shape) for x in node.outputs) for node in nodes}
    shape = "?" if not shapes else shapes.pop() if len(shapes) == 1 else "multiple"
    sources = [x for node in nodes for x in node.inputs]
    connected = ", ".join(f"{x.node.layer.name}[{x.index}]" for x in sources)
    count = f"{layer.count_params():,}" if layer.built else "0 (not built)"
    return f"{layer.name} ({type(layer).__name__})", shape, count, connected


def _is_chain(model: Any) -> bool:
    graph = getattr(model, "graph", None)
    if graph is None:
        return True
    previous = list(graph.inputs)
    for node in graph.nodes:
        if len(node.inputs) != 1 or len(previous) != 1 or node.inputs[0] is not previous[0]:
            return False
        previous = node.outputs
    return True


def _amount(variables: list[Any]) -> str:
    size = sum(v.size * v.dtype.itemsize for v in variables)
    text = f"{size} bytes"
    for unit in ("KB", "MB", "GB"):
        if size < 1024:
            break
        size /= 1024
        text = f"{size:.2f} {unit}"
    return f"{sum(v.size for v in variables):,} ({text})"
