"""Bidirectional: two recurrent layers that read a sequence both ways."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from ..autodiff import ops, trees
from ..errors import ArgumentError, MinirnnError, ShapeError, StateError
from . import registry
from .base import shape_text
from .recurrent import RNN
from .repeats import Repeats
from .sequences import SequenceLayer

_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda y, y_rev: y + y_rev,
    "mul": lambda y, y_rev: y * y_rev,
    "ave": lambda y, y_rev: (y + y_rev) / 2,
    "concat": lambda y, y_rev: ops.concatenate([y, y_rev], -1),
}
# In what the two directions have to agree.
_COMMON = ("stateful", "return_sequences", "return_state", "time_major")


class BothStates(list):
    """What a Bidirectional returns with `return_state`: [*outputs, *forward states, *backward states].

    `forward_state` and `backward_state` are the two halves of the states, each as `initial_state` takes it.

    >>> result = BothStates(["y", "fh", "fc", "bh", "bc"], 2)
    >>> result.backward_state, result[0]
    (['bh', 'bc'], 'y')
    """

    def __init__(self, items: Sequence[Any], count: int) -> None:
        super().__init__(items)
        first = len(self) - 2 * count
        self.forward_state: list[Any] = list(items[first : first + count])
        self.backward_state: list[Any] = list(items[first + count :])


@registry.register(kind="layer")
class Bidirectional(SequenceLayer):
    """Two recurrent layers, one that reads (B, T, ...) forwards and one that reads it backwards, and their outputs.

    `layer`: an RNN, SimpleRNN, GRU, LSTM or ConvLSTM; it is copied twice, with weights of their own (new ones, but
    copies of its weights where a cell has no configuration), once with its `go_backwards` the other way round.
    `backward_layer` is taken as it is instead; it must differ in go_backwards and agree in stateful,
    return_sequences and return_state.  `merge_mode` says what becomes of the outputs y and y_rev, which stand
    in the same order: "sum", "mul", "ave" (of one shape), "concat" (on the last axis), or None for a list of
    both.  With `return_sequences`, outputs in masked steps are zeros, of both layers.

    With `return_state` the result is a list [y, *forward states, *backward states], whose halves of the
    states also have names: `.forward_state` and `.backward_state` (Schuster & Paliwal 1997).

    >>> import numpy as np
    >>> from minirnn.layers import LSTM
    >>> result = Bidirectional(LSTM(4, return_sequences=True, return_state=True))(np.ones((2, 5, 3)))
    >>> result[0].shape, [state.shape for state in result.backward_state]
    ((2, 5, 8), [(2, 4), (2, 4)])
    """

    supports_masking = True

    def __init__(
        self,
        layer: Any,
        merge_mode: str | None = "concat",
        weights: Any = None,
        backward_layer: Any = None,
        **options: Any,
    ) -> None:
        given = {"layer": layer} if backward_layer is None else {"layer": layer, "backward_layer": backward_layer}
        for what, value in given.items():
            if not isinstance(value, RNN):
                raise ArgumentError(f"Bidirectional: {what}", got=repr(value), expected="an RNN, GRU, LSTM, ...")
        if options.get("dtype") is None:
            options["dtype"] = layer.dtype
        super().__init__(**options)
        if merge_mode is not None and merge_mode not in _MERGES:
            expected = ", ".join(map(repr, _MERGES)) + " or None"
            raise ArgumentError(f"{self.label}: merge_mode", got=repr(merge_mode), expected=expected)
        self.merge_mode = merge_mode
        stem = layer.name.removeprefix("forward_")
        self.forward_layer = _copied(layer, f"forward_{stem}", layer.go_backwards)
        self._has_own_backward = backward_layer is not None
        self.backward_layer = backward_layer
        if backward_layer is None:
            self.backward_layer = _copied(layer, f"backward_{stem}", not layer.go_backwards)
        self._check_directions()
        for direction in self._directions:
            direction.zero_output_for_mask = direction.return_sequences
        self._initial_weights = None if weights is None else list(weights)
        self.batch_axis = self.forward_layer.batch_axis

    def _check_directions(self) -> None:
        one, other = self.forward_layer, self.backward_layer
        if one.go_backwards == other.go_backwards:
            raise ArgumentError(
                f"{self.label}: forward layer and backward layer should have different `go_backwards` value",
                got=f"{one.go_backwards} in both",
            )
        for name in _COMMON:
            if getattr(one, name) != getattr(other, name):
                raise ArgumentError(
                    f"{self.label}: forward layer and backward layer should have the same {name}",
                    got=f"{getattr(one, name)} and {getattr(other, name)}",
                )
        declared = [layer._face.declared_output for layer in self._directions]
        if None not in declared:
            self._check_widths(*(trees.flatten(shapes)[0] for shapes in declared))

    def _check_widths(self, shapes: list[Any], shapes_rev: list[Any]) -> None:
        """ShapeError unless the outputs, of these shapes behind the batch, can be merged."""
        if self.merge_mode is None:
            return
        free = 1 if self.merge_mode == "concat" else 0  # axes at the end that may differ

        def fits(one: Any, other: Any) -> bool:
            pairs = list(zip(one, other, strict=False))[: len(one) - free]
            return len(one) == len(other) and all(None in pair or pair[0] == pair[1] for pair in pairs)

        if len(shapes) != len(shapes_rev) or not all(map(fits, shapes, shapes_rev)):
            found = zip(self._directions, (shapes, shapes_rev), strict=True)
            raise ShapeError(
                f"{self.label}: merge_mode={self.merge_mode!r} needs outputs of the same shape from both layers",
                got="; ".join(f"{', '.join(shape_text(n, ()) for n in ns)} of {layer.label}" for layer, ns in found),
                fix="the same number of units in both, or merge_mode=None" + ', or "concat"' * (1 - free),
            )

    @property
    def return_sequences(self) -> bool:
        """Whether the outputs are those of all steps."""
        return bool(self.forward_layer.return_sequences)

    @property
    def return_state(self) -> bool:
        """Whether the final states are returned behind the outputs."""
        return bool(self.forward_layer.return_state)

    def build(self, input_shape: Any) -> None:
        for layer in self._directions:
            layer.build_once(input_shape)
        if self._initial_weights is not None:
            self.set_weights(self._initial_weights)

    # Calling ---------------------------------------------------------------------------------------
    def _returned(self, result: Any, constants: Any) -> Any:
        return BothStates(result, self.forward_layer._face.returned_count) if self.return_state else result

    @property
    def _num_constants(self) -> int:
        return int(self.forward_layer._num_constants)

    @property
    def _form(self) -> Any:
        return self.forward_layer._form

    @property
    def _state_count(self) -> int:
        return self._state_counts()[2]

    def _check_constants(self, constants: Any) -> None:
        for layer in self._directions:
            layer._face.check_constants(None if layer.ignores_constants else constants)

    def _check_first_call(self, inputs: Any, options: dict[str, Any]) -> None:
        """Find what is wrong with a call before either layer makes its weights."""
        halves = self._halves(options["initial_state"] if self._knows_states else None)
        for layer, initial in zip(self._directions, halves, strict=True):
            constants = None if layer.ignores_constants else options["constants"]
            layer._check_first_call(inputs, {**options, "initial_state": initial, "constants": constants})

    @property
    def _knows_states(self) -> bool:
        return all(layer._face.shapes is not None for layer in self._directions)

    @property
    def _directions(self) -> tuple[Any, Any]:
        return self.forward_layer, self.backward_layer

    def _state_counts(self) -> tuple[int, int, int]:
        """The numbers of state arrays: forward, backward, together."""
        counts = [layer._face.state_count for layer in self._directions]
        return counts[0], counts[1], sum(counts)

    def _mask_for(self, inputs: Any, kwargs: dict[str, Any]) -> Any:
        return self.forward_layer._mask_for(inputs, kwargs)

    def call(
        self,
        inputs: Any,
        mask: Any = None,
        initial_state: Any = None,
        constants: Any = None,
        reset_mask: Any = None,
        training: Any = False,
    ) -> Any:
        """The merged outputs (and states) for (B, T, ...); see the class."""
        common = {"mask": mask, "constants": constants, "reset_mask": reset_mask}
        options = {"training": training, **{name: value for name, value in common.items() if value is not None}}
        outputs, states = [], []
        for layer, initial in zip(self._directions, self._halves(initial_state), strict=True):
            found = layer(inputs, **options, **({} if initial is None else {"initial_state": initial}))
            found = found if isinstance(found, list) else [found]
            count = len(found) - (layer._face.returned_count if self.return_state else 0)
            outputs.append(found[:count])
            states += found[count:]
        ys, ys_rev = outputs
        if self.return_sequences:
            ys_rev = [ops.flip(y, 1 - self.batch_axis) for y in ys_rev]
        if self.merge_mode is None:
            return [*ys, *ys_rev, *states]
        self._check_widths([y.shape[1:] for y in ys], [y.shape[1:] for y in ys_rev])
        merged = [_MERGES[self.merge_mode](y, y_rev) for y, y_rev in zip(ys, ys_rev, strict=True)]
        return [*merged, *states] if self.return_state or len(merged) > 1 else merged[0]

    def _halves(self, states: Any, what: str = "initial states") -> tuple[Any, Any]:
        """States for both directions as those of each; StateError for a wrong number of them."""
        if states is None:
            return None, None
        leaves = trees.flatten(states)[0]
        first, _, count = self._state_counts()
        if len(leaves) != count:
            odd = ", an odd number, which has no halves" if len(leaves) % 2 else ""
            raise StateError(
                f"{self.label}: Layer has {count} states but was passed {len(leaves)} {what}.",
                got=f"{len(leaves)}{odd}",
                expected=f"the {first} of the forward layer, then the {count - first} of the backward layer",
            )
        return leaves[:first], leaves[first:]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask for the outputs, in their order, if the layer returns sequences; else None."""
        masks = self.forward_layer.compute_mask(inputs, mask)
        passed = masks[0] if isinstance(masks, list) else masks
        states = sum(layer._face.returned_count for layer in self._directions) if self.return_state else 0
        masks = [passed] * (1 if self.merge_mode is not None else 2) + [None] * states
        return masks if len(masks) > 1 else passed

    # States ----------------------------------------------------------------------------------------
    @property
    def stateful(self) -> bool:
        """Whether each direction begins a call with the states that it ended the last one with."""
        return bool(self.forward_layer.stateful)

    @property
    def states(self) -> Any:
        """The states that both directions hold, forward first; None before the first call."""
        held = (self.forward_layer.states, self.backward_layer.states)
        return None if any(states is None for states in held) else trees.flatten(held)[0]

    @states.setter
    def states(self, values: Any) -> None:
        halves = self._halves(values, "states")
        for layer, own in zip(self._directions, halves, strict=True):
            layer.check_reset(own)
        self.forward_layer.states, self.backward_layer.states = halves

    def reset_states(self, states: Any = None, rows: Any = None) -> None:
        """Both directions back to the beginning, or to `states`, forward first; only for some `rows` if given.

        Raises StateError if the layer isn't stateful or the states don't fit.
        """
        halves = self._halves(states, "states")
        for layer, own in zip(self._directions, halves, strict=True):
            layer.check_reset(own, rows)
        for layer, own in zip(self._directions, halves, strict=True):
            layer.reset_states(own, rows)

    # Configuration ---------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            "merge_mode": self.merge_mode,
            "layer": registry.serialize(self.forward_layer),
        }
        if self._has_own_backward:
            config["backward_layer"] = registry.serialize(self.backward_layer)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Bidirectional:
        layers = {
            name: registry.deserialize(config[name], "layer", custom_objects)
            for name in ("layer", "backward_layer")
            if config.get(name) is not None
        }
        config = {key: value for key, value in config.items() if key != "num_constants"}
        return super().from_config({**config, **layers}, custom_objects)


def _copied(layer: Any, name: str, go_backwards: bool) -> Any:
    """The layer once more, with weights of its own."""
    # One that has no weights yet is copied as it is: a user's cell may have no configuration.
    made = copy.deepcopy(layer) if not layer.built else _made_again(layer)
    made.name, made.go_backwards = name, go_backwards
    for part in (made._face, made._held, made._form):  # which errors call by name, too
        part.label = made.label
    return made


def _made_again(layer: Any) -> Any:
    """A built layer as its configuration makes it, without weights; one without configuration with a copy of them."""
    try:
        return type(layer).from_config(layer.get_config())
    except (MinirnnError, TypeError, NotImplementedError) as error:
        try:
            made = copy.deepcopy(layer)
        except Exception:
            raise ArgumentError(
                f"Bidirectional: {layer.label} has weights already and cannot be copied",
                got=f"{layer._face.cell_name}: {error}",
                fix="give the cell get_config and minirnn.register, wrap the layer before its first call, or pass "
                "a backward_layer too",
            ) from error
        made._repeats = Repeats()  # what was kept runs the cell of the original
        if made.stateful:
            made.states = None
        return made
