"""Stream: what `Model.stream` returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from .. import config
from ..autodiff import random, trees
from ..autodiff.tensor import Tensor, abstract, unrecorded
from ..autodiff.trace import eval_shapes
from ..errors import ArgumentError, DtypeError, ShapeError, StateError
from ..layers.base import shape_text
from ..layers.functional import FunctionGraph, SymbolicTensor
from ..layers.states import row_numbers
from .plan import Survey, plan_for
from .program import Program, Reference
from .step import Step


class Stream:
    """A model run one time step at a time, its states held; made by `Model.stream`.

    The states belong to the stream: other streams of the model, its calls and its stateful layers neither
    see nor change them.  Weights are read at each push.  Not for several threads at once.
    """

    def __init__(
        self,
        graph: FunctionGraph,
        output_form: Any,
        label: str,
        names: Sequence[str],
        batch_size: int = 1,
        inputs: Any = None,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ArgumentError(f"{label}: stream: batch_size", got=repr(batch_size), expected="a positive integer")
        self._graph, self._label, self._batch = graph, label, int(batch_size)
        self._form, self._is_bare = output_form, output_form == trees.LEAF
        known = frozenset(i for i, name in enumerate(names) if isinstance(inputs, dict) and name in inputs)
        self._timed, plan = plan_for(graph, label, known)
        self._symbols = [graph.inputs[i] for i in sorted(self._timed)]
        self._names = [names[i] for i in sorted(self._timed)]
        self._xs = [self._buffer(x) for x in self._symbols]
        self._room = [(buffer, buffer.shape, buffer.dtype) for buffer in self._xs]
        fixed = self._fixed_inputs(inputs, names)
        self._step = Step(graph, plan, fixed, self._batch, label)
        with unrecorded():
            self._make_carry()
            key = random.next_key().value
        self._time = np.zeros((), np.int64)
        self._valid = np.ones(self._batch, bool)
        self._side = 0
        self._engine = config.current_engine()
        self._clock = [key, self._time]
        self._program = self._program_for([*self._xs], (self._xs, None))
        self._masked_program: Any = None

    def __repr__(self) -> str:
        return f"<Stream of {self._label}, batch_size={self._batch}>"

    # Making ----------------------------------------------------------------------------------------
    def _buffer(self, x: SymbolicTensor) -> np.ndarray:
        """Room for one step of an input."""
        if x.shape[0] not in (None, self._batch):
            raise ShapeError(f"{self._label}: stream: batch_size", got=self._batch, expected=f"{x.shape[0]}")
        if None in x.shape[2:]:
            raise ShapeError(
                f"{self._label}: stream: input {x.name!r} has no fixed size at a step",
                got=shape_text(x.shape),
                fix="give Input all sizes but batch and time",
            )
        return np.zeros((self._batch, *x.shape[2:]), x.dtype)  # type: ignore[arg-type]

    def _fixed_inputs(self, given: Any, names: Sequence[str]) -> list[Any]:
        """For each input of the model its Tensor, None for those with a time axis."""
        places = [i for i in range(len(names)) if i not in self._timed]
        wanted = [names[i] for i in places]
        if isinstance(given, dict):
            got: Any = sorted(given)
            values = [given[name] for name in wanted] if got == sorted(wanted) else None
        else:
            values = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
            got = f"{len(values)} arrays"
        if values is None or len(values) != len(wanted):
            raise ArgumentError(
                f"{self._label}: stream: inputs are those without a time axis", got=got, expected=wanted or "none"
            )
        fixed: list[Any] = [None] * len(names)
        for i, value in zip(places, values, strict=True):
            symbol, where = self._graph.inputs[i], f"{self._label}: stream: input {names[i]!r}"
            array = _numbers(value, symbol.dtype, where)
            shape = (self._batch, *symbol.shape[1:])
            fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape))
            if not fits or symbol.shape[0] not in (None, self._batch):
                raise ShapeError(where, got=shape_text(array.shape, ("batch",)), expected=shape_text(shape, ("batch",)))
            fixed[i] = Tensor(array, symbol.dtype)
        return fixed

    def _make_carry(self) -> None:
        """Two sides of buffers for the carry: the states, and the outputs that masked rows repeat."""
        states = self._step.initial_states()
        xs = [abstract(x.shape, x.dtype, s.name) for x, s in zip(self._xs, self._symbols, strict=True)]
        (_, held), _ = eval_shapes(lambda s, x: self._step((s, None), (x, None)), states, xs)
        self._counts = [len(group) for group in states]
        leaves, self._carry_form = trees.flatten((states, held))
        first = [
            np.zeros(leaf.shape, leaf.dtype) if leaf.is_abstract else np.array(leaf.value, order="C") for leaf in leaves
        ]
        self._carries = first, [np.zeros_like(array) for array in first]

    def _program_for(self, buffers: list[np.ndarray], x: Any) -> Any:
        form = trees.flatten(x)[1]
        with unrecorded():
            if self._engine == "reference":
                return Reference(self._step, self._carry_form, buffers, form, self._carries, self._clock)
            return Program(self._step, self._carry_form, buffers, form, self._carries, self._clock, self._engine)

    # Running ---------------------------------------------------------------------------------------
    def push(self, *xs: Any, mask: Any = None) -> Any:
        """One time step: what `predict` returns, without the time axis, as new arrays.

        xs: for each input with a time axis an array (B, ...), in the model's order.  mask: (B,), True where
        the step counts; as a layer does with a masked step, rows where it does not hold their states and
        repeat the recurrent layers' outputs.  An output without time axis is that of the steps so far.
        Raises ShapeError, DtypeError or ArgumentError with nothing changed.
        """
        room = self._room
        if len(xs) != len(room):
            self._refuse_number(len(xs))
        for x, (buffer, shape, dtype) in zip(xs, room):
            if type(x) is not ndarray or x.shape != shape or x.dtype is not dtype:
                x = self._fitted(x, buffer)
            buffer[...] = x  # which is no change yet: the next push writes it anew
        program = self._program if mask is None else self._with_mask(mask)
        side = self._side
        made = program.run(side)
        self._side = 1 - side
        if program.draws:
            self._time += 1
        if self._is_bare:
            return made[0]()
        return trees.unflatten(self._form, [array() for array in made])

    def _with_mask(self, mask: Any) -> Any:
        """The program for steps with a mask, the mask being put where it reads it."""
        rows = np.asarray(mask)
        rows = rows[:, 0] if rows.shape == (self._batch, 1) else rows
        if rows.shape != (self._batch,) or rows.dtype.kind not in "biuf":
            raise ShapeError(
                f"{self._label}: push: mask", got=f"{rows.dtype} of shape {rows.shape}", expected=f"(B={self._batch},)"
            )
        if self._masked_program is None:
            Survey(self._label).run(self._graph, self._timed, masked=True)
            self._masked_program = self._program_for([*self._xs, self._valid], (self._xs, self._valid))
        self._valid[...] = rows != 0
        return self._masked_program

    def _refuse_number(self, got: int) -> None:
        expected = ", ".join(f"{n} {x.shape}" for n, x in zip(self._names, self._xs, strict=True))
        raise ArgumentError(
            f"{self._label}: push takes one step of each input with a time axis",
            got=f"{got} arrays",
            expected=f"{len(self._xs)}" + (f": {expected}" if expected else ""),
        )

    def _fitted(self, x: Any, buffer: np.ndarray) -> np.ndarray:
        """An array that the buffer of an input can take; errors name the input."""
        number = next(number for number, each in enumerate(self._xs) if each is buffer)
        where = f"{self._label}: push: input {self._names[number]!r}"
        array = _numbers(x, buffer.dtype, where)
        if array.shape != buffer.shape:
            fix = None
            if array.ndim == buffer.ndim + 1:
                fix = "one time step is x[:, t]"
            elif array.shape == buffer.shape[1:]:
                fix = "a single row is a batch of one: x[None]"
            raise ShapeError(
                where,
                got=shape_text(array.shape, ("batch",)),
                expected=shape_text(buffer.shape, ("batch",)),
                fix=fix,
            )
        return array

    # States ----------------------------------------------------------------------------------------
    @property
    def state(self) -> States:
        """The states: for each recurrent layer, in the order of their calls, a list of arrays (copies).

        Assign a list of the same form, `s.state = ...`, or that of one layer, `s.state[0] = [h, c]`; an array
        alone does for a layer with one state.  Raises StateError or ShapeError with nothing changed.
        """
        return States(self, [[array.copy() for array in group] for group in self._groups()])

    @state.setter
    def state(self, values: Any) -> None:
        if not isinstance(values, (list, tuple)) or len(values) != len(self._counts):
            raise StateError(
                f"{self._label}: stream: state",
                got=f"{len(values)} entries" if isinstance(values, (list, tuple)) else type(values).__name__,
                expected=f"a list with one entry for each of {len(self._counts)} recurrent layers",
            )
        self._assign(dict(enumerate(values)))

    def _groups(self) -> list[list[np.ndarray]]:
        """The buffers of the states that the next push begins with, by layer."""
        remaining = iter(self._carries[self._side])
        return [[next(remaining) for _ in range(count)] for count in self._counts]

    def _assign(self, values: dict[int, Any]) -> None:
        """Take states for some layers; nothing is written before all are found to fit."""
        groups, writes = self._groups(), []
        for index, value in values.items():
            leaves, where = trees.flatten(value)[0], f"{self._label}: stream: state of recurrent layer {index}"
            if len(leaves) != len(groups[index]):
                raise StateError(where, got=f"{len(leaves)} arrays", expected=f"{len(groups[index])}")
            for buffer, leaf in zip(groups[index], leaves, strict=True):
                array = _numbers(leaf, buffer.dtype, where)
                if array.shape != buffer.shape:
                    raise ShapeError(where, got=array.shape, expected=buffer.shape)
                writes.append((buffer, array))
        for buffer, array in writes:
            buffer[...] = array

    def reset(self, rows: Any = None) -> None:
        """Back to the initial states, by the present weights; for some `rows` only (numbers or booleans) if given."""
        chosen = slice(None) if rows is None else row_numbers(rows, self._batch, f"{self._label}: stream")
        with unrecorded():
            fresh = [leaf for group in self._step.initial_states() for leaf in group]
        now = self._carries[self._side]
        for buffer, leaf in zip(now, fresh):
            buffer[chosen] = np.asarray(leaf)[chosen]
        for buffer in now[len(fresh) :]:
            buffer[chosen] = 0


class States(list[list[np.ndarray]]):
    """A stream's states as a list that hands what is assigned to an entry on to the stream."""

    def __init__(self, stream: Stream, values: list[list[np.ndarray]]) -> None:
        super().__init__(values)
        self._stream = stream

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(index, (int, np.integer)) or not -len(self) <= index < len(self):
            raise StateError("stream: state", got=f"index {index}", expected=f"the number of one of {len(self)} layers")
        index = int(index) % len(self)
        self._stream._assign({index: value})
        super().__setitem__(index, self._stream.state[index])


def _numbers(x: Any, dtype: np.dtype[Any], where: str) -> np.ndarray:
    """`x` as an array whose values fit `dtype`: whole numbers for integers."""
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise DtypeError(where, got=f"dtype {array.dtype}", expected=dtype)
    if dtype.kind in "iu" and array.dtype.kind == "f" and (array % 1 != 0).any():
        raise DtypeError(where, got=f"{array.dtype} with fractions", expected=dtype)
    return array
