"""RNN: any cell run over time by `scan`, and SimpleRNN, GRU and LSTM on top of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from .. import config
from ..autodiff import ops, trees
from ..autodiff.tensor import Tensor
from ..autodiff.trace import abstract, eval_shapes, is_tracing
from ..errors import ArgumentError, ShapeError
from ..loop import swap_time
from ..scan import scan, scan_source
from . import registry
from .base import Layer, is_training, shape_text
from .cells import GRUCell, LSTMCell, RecurrentCell, SimpleRNNCell, StackedRNNCells
from .masks import masks_of
from .protocol import CellFace
from .repeats import Repeat, Repeats
from .states import HeldStates, Stateful, checked_states, map_shapes, zero_states

_OPTIONS = (
    "return_sequences", "return_state", "go_backwards", "stateful", "unroll", "time_major", "zero_output_for_mask",
    "checkpoint",
)  # fmt: skip


@registry.register(kind="layer")
class RNN(Stateful, Layer):
    """Runs a cell over the time steps of (B, T, ...).

    `cell`: a cell, a list of cells (stacked), or an object of any class with `call(input_t, states)` and
    `state_size` (see protocol.CellFace).  The result is the last output (B, ...), or with
    `return_sequences` all of them (B, T, ...); with `return_state` a list [output, *states].

    `go_backwards` reads from the last step to the first, and `return_sequences` then gives the outputs in
    that order.  A masked step holds the states and repeats the output before it (zeros before the first
    valid one; zeros wherever masked with `zero_output_for_mask` and `return_sequences`).  `stateful` begins
    each call with the states that the last one ended with, until `reset_states`.  `unroll` runs the
    steps one by one in Python, `time_major` takes and gives (T, B, ...), `checkpoint=k` keeps only every
    k-th state for the backward pass.

    >>> layer = RNN(LSTMCell(4), return_sequences=True, return_state=True)
    >>> y, h, c = layer(np.ones((2, 5, 3)))
    >>> y.shape, h.shape, c.shape
    ((2, 5, 4), (2, 4), (2, 4))
    """

    supports_masking = True
    __untraced__ = Layer.__untraced__ | {"_held", "_repeats", "_feature_shapes", "_input_form"}
    # The rank of the input that the layer takes; None for any from 3 on.
    input_rank: ClassVar[int | None] = None

    def __init__(
        self,
        cell: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        time_major: bool = False,
        zero_output_for_mask: bool = False,
        checkpoint: int | None = None,
        **options: Any,
    ) -> None:
        if isinstance(cell, (list, tuple)):
            cell = StackedRNNCells(cell)
        if options.get("dtype") is None:
            options["dtype"] = getattr(cell, "dtype", None)
        super().__init__(**options)
        self.cell = cell
        self._face = CellFace(cell, self.label)
        self.return_sequences, self.return_state = bool(return_sequences), bool(return_state)
        self.go_backwards, self.stateful = bool(go_backwards), bool(stateful)
        self.unroll, self.time_major = bool(unroll), bool(time_major)
        self.zero_output_for_mask, self.checkpoint = bool(zero_output_for_mask), checkpoint
        self.batch_axis = 1 if self.time_major else 0
        self._held = HeldStates(self._face.shapes, self.dtype, self.label)
        self._feature_shapes: Any = None
        self._input_form: Any = None
        self._repeats = Repeats()

    def _members(self) -> Iterator[Any]:
        yield from self._face.members()
        yield from super()._members()

    # Calling ---------------------------------------------------------------------------------------
    def __call__(
        self,
        inputs: Any,
        *,
        mask: Any = None,
        lengths: Any = None,
        initial_state: Any = None,
        constants: Any = None,
        training: Any = None,
    ) -> Any:
        """Run over `inputs`, or over the first of a list [inputs, *states, *constants].

        mask: (B, T), True where a step counts; lengths: (B,) integers, the numbers of leading steps that
        count; initial_state: one array per state, (B, ...); constants: arrays that the cell gets at every step.
        """
        if mask is lengths is initial_state is constants is None and (training is None or training is is_training()):
            before = self._repeats.find(inputs, self.dtype)
            outputs = None if before is None else before(self, inputs)
            if outputs is not None:
                return outputs
        if type(inputs) is list:
            inputs, initial_state, constants = self._split_call(inputs, initial_state, constants)
        constants = [constants] if constants is not None and not isinstance(constants, (list, tuple)) else constants
        self._face.check_constants(constants)
        options = {
            "mask": mask, "lengths": lengths, "initial_state": initial_state, "constants": constants,
            "training": training,
        }  # fmt: skip
        return super().__call__(inputs, **{name: value for name, value in options.items() if value is not None})

    def _split_call(self, items: list[Any], initial_state: Any, constants: Any) -> tuple[Any, Any, Any]:
        if len(items) == 1:
            return items[0], initial_state, constants
        count = self._face.state_count
        if not items or initial_state is not None or (constants is not None and len(items) > 1 + count):
            raise ArgumentError(
                f"{self.label}: a list is the call [inputs, *states, *constants]",
                got=f"a list of {len(items)}" + (" and initial_state" if initial_state is not None else ""),
                expected=f"1 input and {count} states",
            )
        rest = items[1 + count :]
        return items[0], items[1 : 1 + count], rest if rest else constants

    def _mask_for(self, inputs: Any, kwargs: dict[str, Any]) -> Any:
        batch, time = self._batch_and_time(inputs)
        given = kwargs.get("mask")
        masks = trees.flatten(masks_of(inputs) if given is None else given)[0]
        mask = self._checked_mask(masks[0], batch, time) if masks else None
        lengths = kwargs.pop("lengths", None)
        if lengths is None:
            return mask
        by_length = self._mask_from(lengths, batch, time)
        return by_length if mask is None else ops.logical_and(mask, by_length)

    def _checked_mask(self, mask: Any, batch: int, time: int) -> Any:
        sizes = (time, batch) if self.time_major else (batch, time)
        if tuple(mask.shape) == (*sizes, 1):
            mask = ops.reshape(mask, sizes)
        if tuple(mask.shape) != sizes:
            raise ShapeError(
                f"{self.label}: the mask does not fit the input",
                got=shape_text(mask.shape, self._axes),
                expected=shape_text(sizes, self._axes),
            )
        return mask if mask.dtype == bool else ops.not_equal(mask, 0)

    def _mask_from(self, lengths: Any, batch: int, time: int) -> Any:
        lengths = lengths if isinstance(lengths, Tensor) else Tensor(np.asarray(lengths))
        if lengths.shape != (batch,) or lengths.dtype.kind not in "iu":
            raise ShapeError(
                f"{self.label}: lengths",
                got=f"{lengths.dtype} of shape {lengths.shape}",
                expected=f"one integer for each of the {batch} rows",
            )
        if not lengths.is_abstract and lengths.size and not 0 <= lengths.numpy().min() <= lengths.numpy().max() <= time:
            raise ArgumentError(f"{self.label}: lengths", got=lengths.numpy().tolist(), expected=f"0 to {time} steps")
        steps = ops.arange(time)
        if self.time_major:
            return ops.less(ops.expand_dims(steps, 1), ops.expand_dims(lengths, 0))
        return ops.less(ops.expand_dims(steps, 0), ops.expand_dims(lengths, 1))

    @property
    def _axes(self) -> tuple[str, str]:
        return ("time", "batch") if self.time_major else ("batch", "time")

    def build(self, input_shape: Any) -> None:
        if self._feature_shapes is not None:
            return
        shapes: list[Any] = []
        map_shapes(lambda shape: shapes.append(self._checked_rank(shape)), input_shape)
        if not shapes:
            raise ShapeError(f"{self.label}: it was given no input")
        if self.unroll and any(shape[1 - self.batch_axis] is None for shape in shapes):
            raise ShapeError(
                f"{self.label}: Cannot unroll a RNN if the time dimension is undefined.",
                got=shape_text(shapes[0], self._axes),
                fix="give Input the number of time steps, or leave out unroll=True",
            )
        batch = shapes[0][self.batch_axis]
        self._face.build(map_shapes(lambda shape: (batch, *shape[2:]), input_shape))
        self._held.fixed_batch = batch
        self._feature_shapes = [shape[2:] for shape in shapes]
        self._input_form = trees.flatten(map_shapes(len, input_shape))[1]

    def _checked_rank(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        rank = self.input_rank
        if len(shape) < 3 or rank not in (None, len(shape)):
            raise ShapeError(
                f"{self.label}: input is incompatible with the layer: expected ndim={rank or '3 or more'}, found "
                f"ndim={len(shape)}. Full shape received: {shape}",
                expected=f"({', '.join(self._axes)}, features{'' if rank else ', ...'})",
                fix="one sequence is a batch of one: x[None]" if len(shape) == 2 else None,
            )
        return shape

    def _batch_and_time(self, inputs: Any) -> tuple[int, int]:
        """The sizes of the first two axes; ShapeError unless all inputs fit each other and the built cell."""
        leaves = trees.flatten(inputs)[0]
        if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise ShapeError(f"{self.label}: input", got=repr(inputs), expected="an array (batch, time, features)")
        if len(leaves) != len(self._feature_shapes):
            raise ShapeError(f"{self.label}: inputs", got=f"{len(leaves)} arrays", expected=len(self._feature_shapes))
        for leaf, features in zip(leaves, self._feature_shapes, strict=True):
            self._checked_rank(leaf.shape)
            if len(leaf.shape) != 2 + len(features) or any(
                b not in (None, a) for a, b in zip(leaf.shape[2:], features, strict=True)
            ):
                raise ShapeError(self._features_message(leaf.shape, features))
            if leaf.shape[:2] != leaves[0].shape[:2]:
                raise ShapeError(
                    f"{self.label}: inputs differ in batch size or number of time steps",
                    got=" and ".join(shape_text(x.shape, self._axes) for x in leaves),
                )
        sizes = leaves[0].shape
        return sizes[self.batch_axis], sizes[1 - self.batch_axis]

    def _features_message(self, shape: tuple[int, ...], features: tuple[int | None, ...]) -> str:
        if len(features) == 1:
            got = f"input has {shape[-1]} features on its last axis (shape {shape_text(shape, self._axes)})"
            order = "This layer is time-major: was it (batch, time, features)?"
            if not self.time_major:
                order = "Layers are batch-first: was this (time, batch, features)?"
            return f"{self.label}: {got} but its kernel was built for {features[0]}. {order}"
        got = f"input of shape {shape_text(shape, self._axes)}"
        return f"{self.label}: {got} but the cell was built for steps of {features}"

    def call(
        self, inputs: Any, mask: Any = None, initial_state: Any = None, constants: Any = None, training: Any = False
    ) -> Any:
        """The outputs (and states) for (B, T, ...); see the class."""
        batch, _ = self._batch_and_time(inputs)
        states = self._first_states(inputs, batch, initial_state)
        xs = inputs if self.time_major else trees.map(swap_time, inputs)
        mask = mask if mask is None or self.time_major else swap_time(mask)
        step, blank = self._step(xs, states, constants, training, batch)
        carry, ys = scan(
            step,
            states if blank is None else (states, blank),
            xs,
            reverse=self.go_backwards,
            mask=mask,
            engine="reference" if self.unroll else None,
            checkpoint=self.checkpoint,
        )
        if mask is initial_state is constants is None and training is is_training() and self._is_repeatable(inputs):
            self._repeats.keep(inputs, Repeat(self, step, states, blank, xs))
        states, outputs = (carry, ys) if blank is None else carry
        return self._finish(states, outputs, mask)

    def _step(self, xs: Any, states: Any, constants: Any, training: Any, batch: int) -> tuple[Any, Any]:
        """The step that is run over time, and where it carries the output along, what that is before the first step."""
        face = self._face

        def step(states: Any, x: Any) -> Any:
            output, states = face(x, states, constants, training)
            return states, output

        def step_to_last(carry: Any, x: Any) -> Any:
            states, _ = carry
            output, states = face(x, states, constants, training)
            return (states, output), ()

        if self.return_sequences:
            return step, None
        # A carry that begins with zeros and is held in masked steps ends as the last valid output.
        return step_to_last, self._blank_output(xs, states, constants, training, batch)

    def _finish(self, states: Any, outputs: Any, mask: Any, is_arranged: bool = False) -> Any:
        """What the layer returns for the results of the scan; a stateful layer keeps the states."""
        if self.return_sequences and not is_arranged:
            outputs = trees.map(lambda ys: self._arranged(ys, mask), outputs)
        if self.stateful:
            self._held.keep(states)
        return self._result(outputs, states)

    def source(self, pass_: str = "forward") -> str:
        """The loop that engine="cpu" compiles for the layer, or for its gradient with pass_="backward": plain Python.

        For inputs without mask; sizes that the layer does not know are taken for others than 1.  Raises
        ArgumentError before the layer is built.
        """
        if self._feature_shapes is None:
            raise ArgumentError(f"{self.label}: source", got="a layer without weights", fix="call or build it first")
        steps, batch = 3, 2

        def sequences(*sizes: int) -> Any:
            shapes = [(*sizes, *(7 if n is None else n for n in shape)) for shape in self._feature_shapes]
            return trees.unflatten(self._input_form, [abstract(shape, self.dtype) for shape in shapes])

        xs = sequences(steps, batch)
        states = self.get_initial_state(batch, xs if self.time_major else sequences(batch, steps))
        step, blank = self._step(xs, states, None, False, batch)
        return scan_source(step, states if blank is None else (states, blank), xs, pass_)

    def _is_repeatable(self, inputs: Any) -> bool:
        """Whether calls like one on these inputs go as it went, as far as this class has a say in it."""
        is_ours = type(self).__module__.startswith("minirnn.")
        is_plain = type(inputs) is Tensor and not inputs.is_abstract and not is_tracing()
        is_one_run = not self.unroll and self.checkpoint is None and config.current_engine() != "reference"
        return is_ours and is_plain and is_one_run

    def _first_states(self, inputs: Any, batch: int, initial_state: Any) -> Any:
        if initial_state is not None:
            return checked_states(initial_state, self._face.shapes, batch, self.label)
        if self.stateful and not trees.flatten(inputs)[0][0].is_abstract:
            held = self._held.begin(batch)
            if held is not None:
                return held
        return self._face.initial_states(inputs, batch, self.dtype)

    def _blank_output(self, xs: Any, states: Any, constants: Any, training: Any, batch: int) -> Any:
        declared = self._face.declared_output
        if declared is not None:
            return zero_states(declared, batch, self.dtype)
        first = trees.map(lambda x: ops.zeros((batch, *x.shape[2:]), x.dtype), xs)
        outputs = eval_shapes(lambda x, s: self._face(x, s, constants, training)[0], first, states)
        return trees.map(lambda y: ops.zeros(y.shape, y.dtype), outputs)

    def _arranged(self, ys: Any, mask: Any) -> Any:
        """Outputs (T, B, ...) as the layer returns them: masked, in processing order, batch first."""
        if mask is not None and self.zero_output_for_mask:
            ys = ops.where(ops.reshape(mask, (*mask.shape, *[1] * (ys.ndim - 2))), ys, ops.zeros_like(ys))
        ys = ops.flip(ys, 0) if self.go_backwards else ys
        return ys if self.time_major else swap_time(ys)

    def _result(self, outputs: Any, states: Any) -> Any:
        if type(outputs) is Tensor and not self.return_state:
            return outputs
        flat = trees.flatten(outputs)[0]
        if self.return_state:
            return [*flat, *(states if isinstance(states, (list, tuple)) else trees.flatten(states)[0])]
        return flat[0] if len(flat) == 1 else flat

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask for the outputs: the input's, in the outputs' order, if the layer returns sequences; else None."""
        masks = trees.flatten(mask)[0]
        passed = masks[0] if masks and self.return_sequences else None
        if passed is not None and self.go_backwards:
            passed = ops.flip(passed, 1 - self.batch_axis)
        # Nested outputs come first in the result, then the states, which have no mask.
        return [passed] + [None] * self._face.state_count if self.return_state else passed

    def get_initial_state(self, batch_size: int, inputs: Any = None) -> Any:
        """The states that a call without `initial_state` begins with."""
        return self._face.initial_states(inputs, batch_size, self.dtype)

    # Configuration ---------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in _OPTIONS}
        return {**super().get_config(), **options, "cell": registry.serialize(self.cell)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        if "cell" in config:
            config = {**config, "cell": registry.deserialize(config["cell"], "layer", custom_objects)}
        return super().from_config(config, custom_objects)


class _BuiltIn(RNN):
    """An RNN over one of the built-in cells, configured by the cell's options."""

    input_rank = 3
    cell_class: ClassVar[type[RecurrentCell]]

    def __init__(self, units: int, **options: Any) -> None:
        own = {name: options.pop(name) for name in self.cell_class.option_names if name in options}
        name, dtype = options.get("name"), options.get("dtype")
        super().__init__(self.cell_class(units, dtype=dtype, name=name or type(self).__name__, **own), **options)

    @property
    def units(self) -> int:
        """The size of the output and of each state."""
        return int(self.cell.units)

    def get_config(self) -> dict[str, Any]:
        cell = self.cell.get_config()
        config = {key: value for key, value in super().get_config().items() if key != "cell"}
        return {**config, **{name: cell[name] for name in self.cell_class.option_names}}


@registry.register(kind="layer")
class SimpleRNN(_BuiltIn):
    """`h = activation(x @ kernel + bias + h @ recurrent_kernel)` over time; options of SimpleRNNCell and of RNN.

    >>> SimpleRNN(4, return_sequences=True)(np.ones((2, 5, 3))).shape
    (2, 5, 4)
    """

    cell_class = SimpleRNNCell

    def __init__(self, units: int, activation: Any = "tanh", use_bias: bool = True, **options: Any) -> None:
        super().__init__(units, activation=activation, use_bias=use_bias, **options)


@registry.register(kind="layer")
class GRU(_BuiltIn):
    """Gated recurrent units over time; options of GRUCell and of RNN.

    >>> GRU(4, reset_after=False)(np.ones((2, 5, 3))).shape
    (2, 4)
    """

    cell_class = GRUCell

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            units, activation=activation, recurrent_activation=recurrent_activation, use_bias=use_bias, **options
        )


@registry.register(kind="layer")
class LSTM(_BuiltIn):
    """Long short-term memory over time; options of LSTMCell and of RNN.

    >>> y, h, c = LSTM(4, return_state=True)(np.ones((2, 5, 3)))
    >>> y.shape, c.shape
    ((2, 4), (2, 4))
    """

    cell_class = LSTMCell

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            units, activation=activation, recurrent_activation=recurrent_activation, use_bias=use_bias, **options
        )
