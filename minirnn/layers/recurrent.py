"""RNN: any cell run over time by `scan`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from ..autodiff import ops, trees
from ..autodiff.tensor import Tensor
from ..autodiff.trace import eval_shapes
from ..errors import ArgumentError, TraceError
from ..loop import swap_time
from ..scan import scan, scan_source
from . import registry
from .base import Layer, is_training, units_of
from .masks import hides_nothing, masks_of
from .protocol import CellFace
from .repeats import Repeat, Repeats, is_one_run
from .sequences import SequenceForm, SequenceLayer, first_mask
from .stacked import StackedRNNCells
from .states import HeldStates, Stateful, as_floats, checked_states, zero_states

_OPTIONS = (
    "return_sequences", "return_state", "go_backwards", "stateful", "unroll", "time_major", "zero_output_for_mask",
    "checkpoint",
)  # fmt: skip


@registry.register(kind="layer")
class RNN(Stateful, SequenceLayer):
    """Runs a cell over the time steps of (B, T, ...).

    `cell`: a cell, a list of cells (stacked), or an object of any class with `call(input_t, states)` and
    `state_size` (see protocol.CellFace).  The result is the last output (B, ...), or with
    `return_sequences` all of them (B, T, ...); with `return_state` a list [output, *states].

    `go_backwards` reads from the last step to the first, and `return_sequences` then gives the outputs in
    that order.  A masked step holds the states and repeats the output before it (zeros before the first
    valid one; zeros wherever masked with `zero_output_for_mask` and `return_sequences`).  `stateful` begins
    each call with the states that the last one ended with, until `reset_states`.  `unroll` runs the
    steps one by one in Python, `time_major` takes and gives (T, B, ...), `checkpoint=k` keeps only every
    k-th state for the backward pass.  `num_constants` says how many constants a flat call
    [inputs, *states, *constants] ends with; otherwise the first call with `constants` does.

    >>> import numpy as np
    >>> from minirnn.layers import LSTMCell
    >>> layer = RNN(LSTMCell(4), return_sequences=True, return_state=True)
    >>> y, h, c = layer(np.ones((2, 5, 3)))
    >>> y.shape, h.shape, c.shape
    ((2, 5, 4), (2, 4), (2, 4))
    """

    supports_masking = True
    __untraced__ = Layer.__untraced__ | {"_held", "_repeats", "_form", "_num_constants"}
    # What a call reads of the layer itself; what its step reads is looked after by scan.
    _call_options: ClassVar[tuple[str, ...]] = (
        "dtype", "batch_axis", "return_sequences", "return_state", "go_backwards", "stateful", "time_major", "unroll",
        "zero_output_for_mask", "checkpoint", "cell", "_face", "_held", "_form",
    )  # fmt: skip
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
        num_constants: int | None = None,
        **options: Any,
    ) -> None:
        if isinstance(cell, (list, tuple)):
            cell = StackedRNNCells(cell, dtype=options.get("dtype"))
        if options.get("dtype") is None:
            options["dtype"] = getattr(cell, "dtype", None)
        super().__init__(**options)
        self.cell = cell
        self._face = CellFace(cell, self.label)
        self.return_sequences, self.return_state = bool(return_sequences), bool(return_state)
        self.go_backwards, self.stateful = bool(go_backwards), bool(stateful)
        self.unroll, self.time_major = bool(unroll), bool(time_major)
        self.zero_output_for_mask = bool(zero_output_for_mask)
        self.checkpoint = None if checkpoint is None else units_of(checkpoint, self.label, "checkpoint")
        self.batch_axis = 1 if self.time_major else 0
        self._held = HeldStates(self._face.shapes, self.dtype, self.label)
        self._form = SequenceForm(self.label, self.time_major, self.input_rank)
        self._num_constants = units_of(num_constants, self.label, "num_constants") if num_constants else 0
        self._repeats = Repeats()

    def _members(self) -> Iterator[Any]:
        yield from self._face.members()
        yield from super()._members()

    # Calling ---------------------------------------------------------------------------------------
    @property
    def _begins_with_zeros(self) -> bool:
        return self._face.begins_with_zeros

    @property
    def _gives_states(self) -> bool:
        return self.return_state or self.stateful

    def _again(self, inputs: Any, initial_state: Any, constants: Any) -> Any:
        return self._repeats.again(self, [inputs], initial_state, constants)

    def _returned(self, result: Any, constants: Any) -> Any:
        if constants is not None:
            self._num_constants = len(constants)
        return result

    @property
    def _knows_states(self) -> bool:
        return self._face.knows_states

    @property
    def _state_count(self) -> int:
        return self._face.state_count

    def _check_constants(self, constants: Any) -> None:
        self._face.check_constants(constants)

    def _check_first_call(self, inputs: Any, options: dict[str, Any]) -> None:
        """Find what is wrong with a call before the weights are made, as far as it can be seen from arrays."""
        leaves = trees.flatten(inputs)[0]
        if any(hasattr(leaf, "__functional_call__") for leaf in [*leaves, *trees.flatten(options)[0]]):
            return
        if not leaves or not all(isinstance(leaf, (Tensor, np.ndarray)) for leaf in leaves):
            return
        batch, time = self._form.batch_and_time(inputs)
        self._mask_for(inputs, dict(options))
        if options["reset_mask"] is not None:
            self._form.checked_mask(options["reset_mask"], (batch, time), "reset_mask")
        self._face.check_constants(options["constants"], batch)
        if self._face.knows_states:
            self._given_states(inputs, batch, options["initial_state"])

    def _mask_for(self, inputs: Any, kwargs: dict[str, Any]) -> Any:
        sizes = self._form.batch_and_time(inputs)
        given = kwargs.get("mask")
        mask = first_mask(masks_of(inputs)) if given is None else given
        mask = None if mask is None else self._form.checked_mask(mask, sizes)
        lengths = kwargs.pop("lengths", None)
        if lengths is None:
            return mask
        by_length = self._form.mask_of_lengths(lengths, sizes)
        return by_length if mask is None else ops.logical_and(mask, by_length)

    def build(self, input_shape: Any) -> None:
        if self._form.features is None:
            step_shape, batch = self._form.of_one_step(input_shape, self.unroll)
            self._face.build(step_shape)
            self._form.remember(input_shape)
            self._held.shapes, self._held.fixed_batch = self._face.shapes, batch

    def call(
        self,
        inputs: Any,
        mask: Any = None,
        initial_state: Any = None,
        constants: Any = None,
        reset_mask: Any = None,
        training: Any = False,
    ) -> Any:
        """The outputs (and states) for (B, T, ...); see the class."""
        sizes = self._form.batch_and_time(inputs)
        self._face.check_constants(constants, sizes[0])
        resets = None if reset_mask is None else self._form.checked_mask(reset_mask, sizes, "reset_mask")
        states = self._first_states(inputs, sizes[0], initial_state)
        mask = None if hides_nothing(mask) else mask
        xs, mask, resets = trees.map(self._time_first, (inputs, mask, resets))
        step, blank = self._step(xs, states, constants, training, sizes[0])
        carry, ys = scan(
            step,
            states if blank is None else (states, blank),
            xs,
            reverse=self.go_backwards,
            mask=mask,
            engine="reference" if self.unroll else None,
            checkpoint=self.checkpoint,
            reset=resets,
        )
        if mask is resets is None and training is is_training() and self._is_repeatable(inputs, initial_state):
            batch_first = self.return_sequences and not self.time_major and not self.go_backwards
            call = Repeat(self, step, states, blank, xs, sizes, batch_first, training)
            self._repeats.keep(self, [inputs], initial_state, constants, call)
        final, last = (carry, None) if blank is None else carry
        return self._finish(final, last, ys, mask)

    def _time_first(self, sequence: Any) -> Any:
        return sequence if self.time_major else swap_time(sequence)

    def _bare_step(self, constants: Any, training: Any) -> Any:
        """The step that is run over time; it carries the output along unless all outputs are returned."""
        face = self._face

        def step(states: Any, x: Any) -> Any:
            output, states = face(x, states, constants, training)
            return states, output

        def step_to_last(carry: Any, x: Any) -> Any:
            states, _ = carry
            output, states = face(x, states, constants, training)
            return (states, _flat(output)), ()

        return step if self.return_sequences else step_to_last

    def _step(self, xs: Any, states: Any, constants: Any, training: Any, batch: int) -> tuple[Any, Any]:
        """The step that is run over time, and where it carries the output along, what that is before the first step."""
        face, step = self._face, self._bare_step(constants, training)
        if self.return_sequences:
            return step, None
        # A carry that begins with zeros and is held in masked steps ends as the last valid output.
        declared = face.declared_output
        if declared is not None:
            return step, _flat(zero_states(declared, batch, self.dtype))
        first = trees.map(lambda x: ops.zeros(x.shape[1:], x.dtype), xs)

        def with_outputs(states: Any, x: Any) -> Any:
            output, states = face(x, states, constants, training)
            return states, output

        try:
            outputs = eval_shapes(lambda x, s: with_outputs(s, x)[1], first, states)
        except TraceError:  # the cell looks at values, as it may where steps are not traced
            empty = trees.map(lambda x: ops.zeros((0, *x.shape[1:]), x.dtype), xs)
            _, no_outputs = scan(with_outputs, states, empty, engine="reference")
            return step, trees.map(lambda ys: ops.zeros(ys.shape[1:], ys.dtype), _flat(no_outputs))
        return step, trees.map(lambda y: ops.zeros(y.shape, y.dtype), _flat(outputs))

    def _finish(self, states: Any, last: Any, ys: Any, mask: Any = None, is_arranged: bool = False) -> Any:
        """What the layer returns for the results of the scan; a stateful layer keeps the states."""
        outputs = ys if self.return_sequences else last
        if self.return_sequences and not is_arranged:
            outputs = trees.map(lambda ys: self._arranged(ys, mask), outputs)
        if self.stateful:
            self._held.keep(states)
        return self._result(outputs, states)

    def source(self, pass_: str = "forward", engine: str = "cpu") -> str:
        """The loop that an engine compiles for the layer, or for its gradient with pass_="backward": plain Python.

        For inputs without mask; sizes that the layer does not know are taken for others than 1.  Raises
        ArgumentError before the layer is built.
        """
        if self._form.features is None:
            raise ArgumentError(f"{self.label}: source", got="a layer without weights", fix="call or build it first")
        steps, batch = 3, 2
        xs = self._form.examples((steps, batch), self.dtype)
        inputs = xs if self.time_major else self._form.examples((batch, steps), self.dtype)
        states = self.get_initial_state(batch, inputs)
        step, blank = self._step(xs, states, None, False, batch)
        return scan_source(step, states if blank is None else (states, blank), xs, pass_, engine)

    def _is_repeatable(self, inputs: Any, initial_state: Any) -> bool:
        """Whether calls like one on these inputs go as it went, as far as this class has a say in it."""
        if initial_state is not None and self.stateful:
            return False
        return type(inputs) is Tensor and not inputs.is_abstract and is_one_run(self)

    def _given_states(self, inputs: Any, batch: int, initial_state: Any) -> Any:
        """The states that a call was given or that the layer holds, None without them; raises if they don't fit."""
        # A call on shapes alone looks at nothing that a call before it left.
        is_abstract = getattr(trees.flatten(inputs)[0][0], "is_abstract", False)
        held = self._held.begin(batch) if self.stateful and not is_abstract else None
        if initial_state is None:
            return held
        return checked_states(initial_state, self._face.shapes, batch, self.label)

    def _first_states(self, inputs: Any, batch: int, initial_state: Any) -> Any:
        states = self._given_states(inputs, batch, initial_state)
        if states is None:
            return self._face.initial_states(inputs, batch, self.dtype)
        return as_floats(states, self.dtype) if self._face.begins_with_zeros else states

    def _arranged(self, ys: Any, mask: Any) -> Any:
        """Outputs (T, B, ...) as the layer returns them: masked, in processing order, batch first."""
        if mask is not None and self.zero_output_for_mask:
            ys = ops.where(ops.reshape(mask, (*mask.shape, *[1] * (ys.ndim - 2))), ys, ops.zeros_like(ys))
        ys = ops.flip(ys, 0) if self.go_backwards else ys
        return ys if self.time_major else swap_time(ys)

    def _result(self, outputs: Any, states: Any) -> Any:
        if type(outputs) is Tensor and not self.return_state:
            return outputs
        if self.return_state:
            return [
                *trees.flatten(outputs)[0],
                *(states if isinstance(states, (list, tuple)) else trees.flatten(states)[0]),
            ]
        return _flat(outputs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask for the outputs: the input's, in the outputs' order, if the layer returns sequences; else None."""
        masks = trees.flatten(mask)[0]
        passed = masks[0] if masks and self.return_sequences else None
        if passed is not None and self.go_backwards:
            passed = ops.flip(passed, 1 - self.batch_axis)
        # The first one is for all outputs, if they are nested; the states behind them have no mask.
        return [passed] + [None] * self._face.returned_count if self.return_state else passed

    def get_initial_state(self, batch_size: int, inputs: Any = None) -> Any:
        """The states that a call without `initial_state` begins with."""
        return self._face.initial_states(inputs, batch_size, self.dtype)

    # Configuration ---------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in _OPTIONS}
        if self._num_constants:
            options["num_constants"] = self._num_constants
        return {**super().get_config(), **options, "cell": registry.serialize(self.cell)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        if "cell" in config:
            config = {**config, "cell": registry.deserialize(config["cell"], "layer", custom_objects)}
        return super().from_config(config, custom_objects)


def _flat(outputs: Any) -> Any:
    """The one output, however it is nested, or a list of several."""
    leaves = trees.flatten(outputs)[0]
    return leaves[0] if len(leaves) == 1 else leaves
