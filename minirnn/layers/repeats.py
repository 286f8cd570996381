"""Calls of a recurrent layer that are like an earlier one: what was checked and made then is used again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import config
from ..autodiff import trees
from ..autodiff.tensor import Tensor, active_recorders, wrap
from ..autodiff.trace import is_tracing
from ..loop import swap_time
from ..scan import Rerun
from ..stepgraph.sight import same_attributes
from .base import DTYPES, is_observed

if TYPE_CHECKING:
    from .container import RecurrentContainer
    from .recurrent import RNN

    Repeatable: TypeAlias = RNN | RecurrentContainer

_MOST = 16


def is_one_run(layer: Repeatable) -> bool:
    """Whether a call is one compiled run of the layer's step, as minirnn's own classes have written it."""
    kind = type(layer)
    is_ours = kind.__module__.startswith("minirnn.")
    methods_are_ours = not any(callable(getattr(kind, name, None)) for name in vars(layer))
    is_whole = not layer.unroll and layer.checkpoint is None
    return is_ours and methods_are_ours and is_whole and config.current_engine() != "reference" and not is_tracing()


class Repeat:
    """One call of a layer on some arrays: its step, initial states and what it carries along with them.

    `xs` are the inputs as the step reads them, `sizes` those of batch and time, and `blank` what outputs are
    before the first step.
    """

    def __init__(
        self,
        layer: Repeatable,
        step: Any,
        states: Any,
        blank: Any,
        xs: Any,
        sizes: tuple[int, int],
        batch_first: bool,
        training: Any,
    ) -> None:
        self.has_same_options, self.attributes = same_attributes(layer, layer._call_options), len(vars(layer))
        self.training, self.are_zeros = training, layer._begins_with_zeros
        self.batch, self.time_major, self.batch_first = sizes[0], layer._form.time_major, batch_first
        leaves, self.states_form = trees.flatten(states)
        self.kinds = [(t.shape, t.dtype) for t in leaves]
        self.zeros = [wrap(np.zeros(*kind)) for kind in self.kinds]
        self.blank, self.blank_form = trees.flatten(blank)
        self.sequences = [
            (x.dtype, None if self.time_major else (1, 0, *range(2, x.ndim))) for x in trees.flatten(xs)[0]
        ]
        init = states if blank is None else (states, blank)
        self.rerun = Rerun(step, init, xs, sizes[1], layer.go_backwards, batch_first)

    def __call__(self, layer: Repeatable, inputs: list[Any], initial_state: Any, constants: Any) -> Any:
        """What the layer returns for these arguments; None if anything has changed that the call depends on."""
        if not self.has_same_options(layer) or len(vars(layer)) != self.attributes:
            return None
        recorders, trace = active_recorders()
        if trace is not None or is_observed():
            return None
        states: Any = self.zeros
        if initial_state is not None or layer.stateful or not self.are_zeros:
            states = self._states(layer, inputs, initial_state, bool(recorders))
            if [(t.shape, t.dtype) for t in states] != self.kinds:
                return None
        step = layer._bare_step([layer._cast(x) for x in constants], self.training) if constants else None
        xs = [
            _entered(x, dtype, bool(recorders), axes) for x, (dtype, axes) in zip(inputs, self.sequences, strict=True)
        ]
        results = self.rerun([*states, *self.blank], xs, step)
        if results is None:
            return None
        carry, ys, y_form = results
        count = len(self.kinds)
        last = trees.unflatten(self.blank_form, carry[count:])
        if layer._gives_states:
            states = trees.unflatten(self.states_form, carry[:count])
        return layer._finish(states, last, trees.unflatten(y_form, ys), is_arranged=self.batch_first)

    def _states(self, layer: Repeatable, inputs: list[Any], given: Any, is_kept: bool) -> list[Any]:
        """The leaves of the states to begin with."""
        if given is not None:
            return [
                zeros if x is None else _entered(x, dtype, is_kept)
                for x, zeros, (_, dtype) in zip(given, self.zeros, self.kinds, strict=True)
            ]
        held = layer._held.begin(self.batch) if layer.stateful else None
        if held is None:
            if self.are_zeros:
                return self.zeros
            # A cell may look at the inputs.
            looked_at = [layer._cast(x) for x in inputs]
            held = layer.get_initial_state(self.batch, looked_at[0] if len(inputs) == 1 else looked_at)
        return trees.flatten(held)[0]


def _entered(x: Any, dtype: Any, is_kept: bool, axes: tuple[int, ...] | None = None) -> Any:
    """What a call was given, with time first if `axes` say so; of an array that something keeps a copy, as a Tensor."""
    if type(x) is Tensor:
        return x if axes is None else swap_time(x)
    if is_kept or x.dtype is not dtype:
        x = np.array(x, dtype)
    if axes is not None:
        x = x.transpose(axes)
    return wrap(x) if is_kept else x


class Repeats:
    """The calls that a layer remembers, by the shapes and dtypes of their arguments.

    A copy of the layer begins with none of them, because they hold on to its cell.
    """

    def __init__(self) -> None:
        self._calls: dict[Any, Repeat] = {}

    def again(self, layer: Repeatable, inputs: list[Any], initial_state: Any, constants: Any) -> Any:
        """What the layer returns, from the call that had arguments like these; None without one that still holds."""
        call = self._calls.get(_key(layer.dtype, inputs, initial_state, constants)) if self._calls else None
        return None if call is None else call(layer, inputs, initial_state, constants)

    def keep(self, layer: Repeatable, inputs: list[Any], initial_state: Any, constants: Any, call: Repeat) -> None:
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


def _key(dtype: str, inputs: list[Any], initial_state: Any, constants: Any) -> Any:
    """Shapes and dtypes of arguments, floats as the layer casts them; None unless they are arrays.

    None for no arguments at all, which say no batch size.
    """
    kinds = [_kind(x, dtype) for x in inputs]
    if None in kinds:
        return None
    if initial_state is None and not constants:
        return tuple(kinds) or None
    groups: list[Any] = [tuple(kinds)]
    for given in (initial_state, constants):
        if given is not None and type(given) not in (list, tuple):
            return None
        each = ["left out" if x is None else _kind(x, dtype) for x in given or ()]
        if None in each:
            return None
        groups.append(None if given is None else tuple(each))
    return tuple(groups)


def _kind(x: Any, dtype: str) -> Any:
    if type(x) is np.ndarray:
        return x.shape, DTYPES[dtype] if x.dtype.kind == "f" else x.dtype
    return (x.shape, x.dtype) if type(x) is Tensor and x.mask is None else None
