"""Calls of a recurrent layer that are like an earlier one: what was checked and made then is used again."""

from __future__ import annotations

from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autodiff import trees
from ..autodiff.tensor import Tensor, current_trace, is_recording, wrap
from ..loop import swap_time
from ..scan import Rerun
from .base import DTYPES, is_observed

if TYPE_CHECKING:
    from .recurrent import RNN

_MOST = 16
# What a call reads of the layer itself; what its step reads is looked after by scan.
_options = attrgetter(
    "dtype", "batch_axis", "return_sequences", "return_state", "go_backwards", "stateful", "time_major", "unroll",
    "zero_output_for_mask", "checkpoint", "cell", "_face", "_held", "_form",
)  # fmt: skip


class Repeat:
    """One call of a layer on one array: its step, initial states and output before the first step."""

    def __init__(self, layer: RNN, step: Any, states: Any, blank: Any, xs: Tensor, training: Any) -> None:
        self.options, self.attributes = _options(layer), len(vars(layer))
        self.training, self.are_zeros = training, layer._face.begins_with_zeros
        leaves, self.states_form = trees.flatten(states)
        # Of a stateful layer `states` may be those that the call before ended with.
        self.states = trees.flatten(layer.get_initial_state(xs.shape[1]))[0] if self.are_zeros else leaves
        self.kinds = [(t.shape, t.dtype) for t in leaves]
        self.blank, self.blank_form = trees.flatten(blank)
        self.dtype, self.axes = xs.dtype, (1, 0, *range(2, xs.ndim))
        self.batch_first = layer.return_sequences and not layer.time_major and not layer.go_backwards
        init = states if blank is None else (states, blank)
        self.rerun = Rerun(step, init, xs, layer.go_backwards, self.batch_first)

    def __call__(self, layer: RNN, inputs: Any, initial_state: Any, constants: Any) -> Any:
        """What the layer returns for these arguments; None if anything has changed that the call depends on."""
        if not all(map(is_, _options(layer), self.options)) or len(vars(layer)) != self.attributes:
            return None
        if current_trace() is not None or is_observed():
            return None
        if initial_state is not None:
            states = [layer._cast(x) for x in initial_state]
        elif layer.stateful or not self.are_zeros:
            if not self.are_zeros and type(inputs) is not Tensor:
                inputs = Tensor(inputs, self.dtype)  # the cell may look at it
            states = self._states(layer, inputs)
        else:
            states = self.states
        if states is not self.states and [(t.shape, t.dtype) for t in states] != self.kinds:
            return None
        step = None if constants is None else layer._bare_step([layer._cast(x) for x in constants], self.training)
        results = self.rerun([*states, *self.blank], self._sequence(inputs, layer.time_major), step)
        if results is None:
            return None
        carry, ys, y_form = results
        count = len(states)
        outputs = (
            trees.unflatten(y_form, ys) if layer.return_sequences else trees.unflatten(self.blank_form, carry[count:])
        )
        if layer.return_state or layer.stateful:
            states = trees.unflatten(self.states_form, carry[:count])
        return layer._finish(states, outputs, None, is_arranged=self.batch_first)

    def _states(self, layer: RNN, inputs: Any) -> list[Any]:
        batch = inputs.shape[layer.batch_axis]
        held = layer._held.begin(batch) if layer.stateful else None
        if held is None and self.are_zeros:
            return self.states
        return trees.flatten(layer.get_initial_state(batch, inputs) if held is None else held)[0]

    def _sequence(self, inputs: Any, time_major: bool) -> Any:
        """The inputs as the step reads them; a copy only where something records them."""
        if type(inputs) is Tensor:
            return inputs if time_major else swap_time(inputs)
        x = np.array(inputs, self.dtype) if is_recording() or inputs.dtype is not self.dtype else inputs
        x = x if time_major else x.transpose(self.axes)
        return wrap(x) if is_recording() else x


class Repeats:
    """The calls that a layer remembers, by the shapes and dtypes of their arguments.

    A copy of the layer begins with none of them, because they hold on to its cell.
    """

    def __init__(self) -> None:
        self._calls: dict[Any, Repeat] = {}

    def find(self, layer: RNN, inputs: Any, initial_state: Any, constants: Any) -> Repeat | None:
        """The call that had arguments like these."""
        return self._calls.get(_key(layer.dtype, inputs, initial_state, constants)) if self._calls else None

    def keep(self, layer: RNN, inputs: Tensor, initial_state: Any, constants: Any, call: Repeat) -> None:
        """Remember a call; of very many shapes, only the last ones."""
        if len(self._calls) >= _MOST:
            self._calls.clear()
        key = _key(layer.dtype, inputs, initial_state, constants)
        if key is not None:
            self._calls[key] = call

    def __trace_state__(self) -> None:
        """A traced step sees nothing of this."""

    def __deepcopy__(self, memo: Any) -> Repeats:
        return Repeats()

    def __reduce__(self) -> Any:
        return Repeats, ()


def _key(dtype: str, inputs: Any, initial_state: Any, constants: Any) -> Any:
    """Shapes and dtypes of arguments, floats as the layer casts them; None if they are not all plain arrays."""
    kind = _kind(inputs, dtype)
    if initial_state is constants is None or kind is None:
        return kind
    kinds = [kind]
    for given in (initial_state, constants):
        if given is not None and type(given) not in (list, tuple):
            return None
        each = [_kind(x, dtype) for x in given or ()]
        if None in each:
            return None
        kinds.append(None if given is None else tuple(each))
    return tuple(kinds)


def _kind(x: Any, dtype: str) -> Any:
    if type(x) is np.ndarray:
        return x.shape, DTYPES[dtype] if x.dtype.kind == "f" else x.dtype
    return (x.shape, x.dtype) if type(x) is Tensor and x.mask is None else None
