"""TimeDistributed: one layer at every time step of a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import config
from ..autodiff import ops, random, trees
from ..autodiff.tensor import Tensor
from ..autodiff.trace import Trace, abstract, eval_shapes
from ..errors import ArgumentError, MinirnnError, ShapeError
from ..stepgraph.follow import Follower, NotEntrywise, Place
from . import registry
from .base import Layer, is_training, shape_text
from .masks import masks_of, merged_mask
from .recurrent import RNN
from .sequences import SequenceForm
from .states import map_shapes
from .wrappers import Bidirectional

_ROWS = 17  # stands for the number of rows while a layer is looked at; rare as a real size


@registry.register(kind="layer")
class TimeDistributed(Layer):
    """The same layer at every time step: (B, T, ...) to (B, T, ...), also for nested inputs.

    The layer gets the steps (B, ...) one after the other, each with its part mask[:, t] of a mask (B, T, ...); if it
    treats rows one by one, which is found out from what it does with shapes, it gets all steps at once as B * T
    rows.  So dropout draws for each step, and a stateful layer goes on from step to step.  The outputs carry the
    masks that the layer gave them, else the input's mask (B, T), for which any further axes are joined by "or".

    Raises ShapeError for inputs of fewer than three axes, or of different sizes, and for a mask that doesn't fit.

    >>> from minirnn.layers import Dense
    >>> TimeDistributed(Dense(4))(np.ones((2, 5, 3))).shape
    (2, 5, 4)
    """

    __untraced__ = Layer.__untraced__ | {"_by_rows"}

    def __init__(self, layer: Any, **options: Any) -> None:
        if not isinstance(layer, Layer):
            raise ArgumentError("TimeDistributed: layer", got=repr(layer), expected="a Layer")
        if options.get("dtype") is None:
            options["dtype"] = layer.dtype
        super().__init__(**options)
        self.layer = layer
        self._by_rows: dict[Any, bool] = {}

    def build(self, input_shape: Any) -> None:
        self.layer.build_once(map_shapes(self._of_one_step, input_shape))

    def _of_one_step(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if len(shape) < 3:
            raise ShapeError(
                f"{self.label}: TimeDistributed takes inputs of 3 or more axes",
                got=shape_text(shape),
                expected="(batch, time, ...)",
            )
        return (shape[0], *shape[2:])

    def __call__(self, inputs: Any, mask: Any = None, training: Any = None) -> Any:
        """The outputs for (B, T, ...); mask: (B, T, ...), or a list of one for each of several inputs."""
        given = trees.flatten(mask)[0]
        if given and not any(hasattr(m, "shape") for m in given):  # one mask, in lists of booleans
            mask = SequenceForm(self.label, time_major=False, rank=None).as_array(mask, "mask")
        leaves = trees.flatten(inputs)[0]
        if not self.built and all(isinstance(x, (Tensor, np.ndarray)) for x in (*leaves, *trees.flatten(mask)[0])):
            # What is wrong with the call is found before the layer makes its weights.
            self._checked_masks(leaves, masks_of(inputs) if mask is None else mask)
        options = {"mask": mask, "training": training}
        return super().__call__(inputs, **{name: value for name, value in options.items() if value is not None})

    def call(self, inputs: Any, mask: Any = None, training: Any = False) -> Any:
        """(B, T, ...) to (B, T, ...); see the class."""
        leaves, form = trees.flatten(inputs)
        masks = self._checked_masks(leaves, mask)
        sizes = leaves[0].shape[:2]
        run = self._as_rows if self._treats_rows_alike(leaves, form, masks) else self._one_by_one
        outputs, output_masks = run(leaves, form, masks, sizes)
        passed = merged_mask([_of_steps(m) for m in masks if m is not None])
        for output, own in zip(outputs[0], output_masks, strict=True):
            output.mask = passed if own is None else own
        return trees.unflatten(outputs[1], outputs[0])

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Nothing: `call` gives the outputs their masks."""
        return None

    # Masks -----------------------------------------------------------------------------------------
    def _checked_masks(self, leaves: list[Any], mask: Any) -> list[Any]:
        """The mask of each input, None where it has none; ShapeError if the inputs or the masks don't fit."""
        for leaf in leaves:
            self._of_one_step(leaf.shape)
            if leaf.shape[:2] != leaves[0].shape[:2]:
                raise ShapeError(
                    f"{self.label}: inputs differ in batch size or number of time steps",
                    got=" and ".join(shape_text(x.shape) for x in leaves),
                )
        masks = self._mask_of_each(mask, leaves)
        return [None if m is None else self._checked(m, leaves[0].shape[:2]) for m in masks]

    def _mask_of_each(self, mask: Any, leaves: list[Any]) -> list[Any]:
        if mask is None or hasattr(mask, "shape"):
            return [mask] * len(leaves)
        found = [mask[key] for key in sorted(mask)] if isinstance(mask, dict) else list(mask)
        if len(found) != len(leaves):
            raise ShapeError(f"{self.label}: masks", got=len(found), expected=f"one, or {len(leaves)} for the inputs")
        return found

    def _checked(self, mask: Any, sizes: tuple[int, int]) -> Any:
        mask = mask if isinstance(mask, Tensor) else Tensor(np.asarray(mask))
        if mask.shape[:2] != sizes:
            raise ShapeError(
                f"{self.label}: the mask does not fit the input",
                got=shape_text(mask.shape),
                expected=f"{shape_text(sizes)[:-1]}, ...)",
            )
        return mask if mask.dtype == bool else ops.not_equal(mask, 0)

    def _step(self, x: Any, mask: Any) -> Any:
        """A step as the layer gets it: with the mask on it."""
        if mask is not None:
            if mask.ndim == 1 and isinstance(self.layer, (RNN, Bidirectional)):  # of a sequence a step: all of it
                mask = ops.broadcast_to(ops.expand_dims(mask, 1), x.shape[:2])
            x.mask = mask
        return x

    # Both ways to run ------------------------------------------------------------------------------
    def _as_rows(self, leaves: list[Any], form: Any, masks: list[Any], sizes: tuple[int, int]) -> Any:
        """All steps at once, as so many rows."""
        rows = sizes[0] * sizes[1]

        def joined(x: Any) -> Any:
            return None if x is None else ops.reshape(x, (rows, *x.shape[2:]))

        xs = [self._step(joined(x), joined(m)) for x, m in zip(leaves, masks, strict=True)]
        found, output_form = trees.flatten(self.layer(trees.unflatten(form, xs)))
        apart = [ops.reshape(y, (*sizes, *y.shape[1:])) for y in found]
        own = [None if y.mask is None else ops.reshape(y.mask, (*sizes, *y.mask.shape[1:])) for y in found]
        return (apart, output_form), own

    def _one_by_one(self, leaves: list[Any], form: Any, masks: list[Any], sizes: tuple[int, int]) -> Any:
        """Step after step."""
        if sizes[1] == 0:
            return self._no_steps(leaves, form, sizes)
        steps = []
        for t in range(sizes[1]):
            xs = [self._step(x[:, t], None if m is None else m[:, t]) for x, m in zip(leaves, masks, strict=True)]
            found, output_form = trees.flatten(self.layer(trees.unflatten(form, xs)))
            steps.append(found)
        columns = list(zip(*steps, strict=True))
        own = [None if ys[0].mask is None else ops.stack([y.mask for y in ys], 1) for ys in columns]
        return ([ops.stack(list(ys), 1) for ys in columns], output_form), own

    def _no_steps(self, leaves: list[Any], form: Any, sizes: tuple[int, int]) -> Any:
        one = trees.unflatten(form, [abstract((sizes[0], *x.shape[2:]), x.dtype) for x in leaves])
        found, output_form = trees.flatten(eval_shapes(self.layer, one))
        empty = [ops.zeros((sizes[0], 0, *y.shape[1:]), y.dtype) for y in found]
        return (empty, output_form), [None] * len(empty)

    def _treats_rows_alike(self, leaves: list[Any], form: Any, masks: list[Any]) -> bool:
        """Whether the layer makes each row of its outputs of that row of its inputs alone, in the same way."""
        if any(getattr(layer, "stateful", False) for layer in self.layer.all_layers()):
            return False
        kinds = tuple((x.shape[2:], x.dtype) for x in leaves)
        key = (form, kinds, tuple(None if m is None else m.shape[2:] for m in masks), is_training())
        if key not in self._by_rows:
            self._by_rows[key] = self._found_to(leaves, form, masks)
        return self._by_rows[key]

    def _found_to(self, leaves: list[Any], form: Any, masks: list[Any]) -> bool:
        follower, place = Follower(), Place(0, _ROWS)
        nowhere = random.Source(np.zeros(2, np.int64), 0)
        try:
            with config.engine_here("numpy"), Trace(shapes_only=True) as trace, random.drawing_from(nowhere):

                def rows_of(x: Any) -> Any:
                    made = trace.input((_ROWS, *x.shape[2:]), x.dtype)
                    follower.places[id(made)] = place
                    return made

                xs = [self._step(rows_of(x), m if m is None else rows_of(m)) for x, m in zip(leaves, masks)]
                outputs = trees.flatten(self.layer(trees.unflatten(form, xs)))[0]
            for node in trace.nodes:
                # Random numbers are as good in any row.
                if node.primitive.form == "random" and node.outputs[0].shape[:1] == (_ROWS,):
                    follower.places[id(node.outputs[0])] = place
            follower.through(trace.nodes)
        except (NotEntrywise, MinirnnError):
            return False
        everything = [*outputs, *(y.mask for y in outputs if y.mask is not None)]
        return all(follower.places.get(id(y)) == place for y in everything)

    # Configuration ---------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "layer": registry.serialize(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> TimeDistributed:
        layer = registry.deserialize(config["layer"], "layer", custom_objects)
        return super().from_config({**config, "layer": layer}, custom_objects)


def _of_steps(mask: Any) -> Any:
    """Which steps have anything that counts: (B, T, ...) to (B, T)."""
    return mask if mask.ndim == 2 else ops.any(mask, axis=tuple(range(2, mask.ndim)))
