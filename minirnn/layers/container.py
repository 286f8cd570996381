"""RecurrentContainer: any functional graph as the step of a recurrent network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from ..autodiff import ops, random
from ..autodiff.tensor import Tensor
from ..autodiff.trace import abstract, eval_shapes
from ..errors import ArgumentError, DtypeError, ShapeError, StateError
from ..loop import swap_time
from ..scan import scan, scan_source
from . import initializers, registry, teaching
from .base import Layer, is_training, shape_text
from .container_step import INPUTS, OUTPUTS, ContainerStep, listed
from .functional import SymbolicTensor, cast, fitted
from .masks import hides_nothing, merged_mask
from .ragged import Ragged, refuse_beside_ragged
from .recurrent_unit import RecurrentUnit
from .repeats import Repeat, Repeats, is_one_run
from .sequences import SequenceForm
from .states import HeldStates, Stateful, TensorShape

__all__ = ["RecurrentContainer", "RecurrentUnit"]

_OPTIONS = (
    "return_states", "output_length", "teacher_probability", "go_backwards", "stateful", "unroll", "checkpoint",
)  # fmt: skip
_TIMED, _UNTIMED = ("batch", "time"), ("batch",)


@registry.register(kind="layer")
class RecurrentContainer(Stateful, Layer):
    """Runs a functional graph as the step of a recurrent network.

    The step is given by its Inputs and outputs.  sequence_inputs change from step to step,
    constant_inputs stay, state_inputs[i] takes what state_outputs[i] was at the step before.
    sequence_outputs are collected over time, constant_outputs are those of the last valid step.  If
    state_outputs is left out and constant_outputs fit the state_inputs, those are fed back.  Without
    sequence inputs `output_length` says how many steps to make.

    A call returns sequence_outputs + constant_outputs (+ states with `return_states`), bare if it is
    one.  `go_backwards` reads from the last step and collects in that order.  A mask holds the states and
    repeats the outputs before it; constant outputs without any valid step are zeros.

    States begin with what the call gives, else, if `stateful`, with what the last call ended with, else by
    `state_initializer`: None (zeros), an initializer (which draws anew at each call), "learned" (a weight),
    one for all states or one each.

    `teacher` names state_inputs that training may force: at step t > 0 of processing, the value
    teacher_sequence[:, t - 1] takes the place of the fed-back one, for each row and step with
    `teacher_probability` (Williams & Zipser 1989; Bengio et al. 2015, arXiv:1506.03099).  After masked
    steps it is the teacher's value of the last valid step; up to the first one the initial state stays.

    `unroll` and `checkpoint` are those of RNN.  Every group takes a bare tensor or a list.  Raises
    ArgumentError, ShapeError or DtypeError when the groups don't fit.

    >>> from minirnn.layers import Dense, Input
    >>> y_before, x = Input((3,)), Input((2,))
    >>> y = Dense(3)(x) + y_before
    >>> running = RecurrentContainer(sequence_inputs=x, state_inputs=y_before, state_outputs=y, sequence_outputs=y)
    >>> running(np.ones((4, 5, 2))).shape
    (4, 5, 3)
    """

    __untraced__ = Layer.__untraced__ | {"_repeats"}
    # What a call reads of the container itself; what its step reads is looked after by scan.
    _call_options: ClassVar[tuple[str, ...]] = (
        "dtype", "step", "return_states", "output_length", "teacher", "_teacher_probability", "go_backwards",
        "stateful", "unroll", "checkpoint", "state_initializer", "learned_states", "_held", "_form",
    )  # fmt: skip

    def __init__(
        self,
        sequence_inputs: Any = (),
        sequence_outputs: Any = (),
        constant_inputs: Any = (),
        constant_outputs: Any = (),
        state_inputs: Any = (),
        state_outputs: Any = (),
        return_states: bool = False,
        output_length: int | None = None,
        teacher: Any = (),
        teacher_probability: float = 1.0,
        state_initializer: Any = None,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        checkpoint: int | None = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        # Keras's base class of the original container took these, and it passed over them.
        for ignored in ("return_sequences", "implementation"):
            options.pop(ignored, None)
        label = f"RecurrentContainer {name!r}" if name else "RecurrentContainer"
        groups = (
            sequence_inputs, constant_inputs, state_inputs, sequence_outputs, constant_outputs, state_outputs,
        )  # fmt: skip
        self.step = ContainerStep(dict(zip((*INPUTS, *OUTPUTS), groups, strict=True)), label)
        dtype = self.step.float_dtype()
        if options.get("dtype") is None:
            options["dtype"] = dtype
        super().__init__(name=name, **options)
        self.step.label = self.label
        if dtype not in (None, self.dtype):
            raise DtypeError(f"{self.label}: dtype", got=self.dtype, expected=f"{dtype}, that of its step")
        self.return_states = bool(return_states)
        if not (self._count("sequence_outputs") or self._count("constant_outputs") or return_states):
            raise ArgumentError(
                f"{self.label}: without sequence_outputs and constant_outputs it has nothing to return",
                fix="return_states=True",
            )
        self.output_length = self._checked_length(output_length)
        if not self._count("sequence_inputs") and output_length is None:
            raise ArgumentError(f"{self.label}: If there are no sequence inputs, the output_length must be specified.")
        self.teacher = tuple([self._state_index(state) for state in listed(teacher)])
        self.teacher_probability = teacher_probability
        self.state_initializer = tuple(self._initializers(state_initializer))
        self.go_backwards, self.stateful = bool(go_backwards), bool(stateful)
        self.unroll, self.checkpoint = bool(unroll), checkpoint
        if checkpoint is not None and not _is_number(checkpoint, 1):
            raise ArgumentError(f"{self.label}: checkpoint", got=checkpoint, expected="a number of steps >= 1")
        states = self.step["state_inputs"]
        self.learned_states = {
            index: self.add_weight(f"{state.name}_initial", state.shape[1:], "zeros", dtype=state.dtype)
            for index, state in enumerate(states)
            if self.state_initializer[index] == "learned"
        }
        shapes = [TensorShape(t.shape[1:]) for t in states]
        self._held = HeldStates(shapes, [t.dtype for t in states], self.label, self._declared_states)
        self._form = SequenceForm(self.label, time_major=False, rank=None)
        self._repeats = Repeats()

    def _count(self, group: str) -> int:
        return self.step.count(group)

    def _checked_length(self, length: Any) -> Any:
        if length is not None and self._count("sequence_inputs"):
            raise ArgumentError(
                f'{self.label}: The "output_length" argument can only be specified if there are no sequence inputs.',
                got=length,
            )
        if length is not None and not _is_number(length, 0):
            raise ArgumentError(f"{self.label}: output_length", got=repr(length), expected="a number of steps >= 0")
        return length

    def _initializers(self, given: Any) -> list[Any]:
        states = self.step["state_inputs"]
        each = list(given) if isinstance(given, (list, tuple)) else [given] * len(states)
        if len(each) != len(states):
            raise ArgumentError(
                f"{self.label}: state_initializer", got=f"{len(each)} of them", expected=f"one, or {len(states)}"
            )
        for state, kind in zip(states, each, strict=True):
            if kind == "learned" and state.dtype.kind != "f":
                raise DtypeError(f"{self.label}: state {state.name!r} cannot be learned", got=state.dtype)
        return [kind if kind is None or kind == "learned" else initializers.get(kind) for kind in each]

    def _state_index(self, state: Any) -> int:
        """The place of a state that can be forced: given as one of the state_inputs, or as its number."""
        inputs = self.step["state_inputs"]
        if _is_number(state, 0) and state < len(inputs):
            return int(state)
        for index, tensor in enumerate(inputs):
            if tensor is state:
                return index
        raise ArgumentError(
            f"{self.label}: teacher names something that is no state input",
            got=repr(state),
            expected=f"one of {[t.name for t in inputs]}, or its number",
        )

    @property
    def teacher_probability(self) -> float:
        """How often training takes the teacher's value; may be changed between steps (scheduled sampling)."""
        return self._teacher_probability

    @teacher_probability.setter
    def teacher_probability(self, value: float) -> None:
        if not 0.0 <= value <= 1.0:
            raise ArgumentError(f"{self.label}: teacher_probability", got=value, expected="0 to 1")
        self._teacher_probability = float(value)

    def _members(self) -> Iterator[Any]:
        yield from self.step.graph.layers
        yield from super()._members()

    # Calling ---------------------------------------------------------------------------------------
    def __call__(
        self,
        sequences: Any = None,
        constants: Any = None,
        states: Any = None,
        mask: Any = None,
        output_length: int | None = None,
        teacher: Any = None,
        training: Any = None,
        lengths: Any = None,
        reset_mask: Any = None,
    ) -> Any:
        """Run over sequences (B, T, ...) with constants (B, ...) from initial states (B, ...).

        mask: (B, T), in place of the masks that came with the sequences; a state of None begins as declared,
        or, in a stateful container, as held; teacher: {state_input or its number: (B, T, ...)};
        `output_length` goes before the constructor's; lengths: (B,) integers, the numbers of leading steps that
        count; reset_mask: (B, T), True where a row begins anew with the states that the call began with.
        Sequences may be Ragged, which bring their own mask.
        """
        is_bare = mask is lengths is reset_mask is teacher is output_length is None
        if is_bare and (training is None or training is is_training()):
            begins = None if states is None else listed(states)
            result = self._repeats.again(self, listed(sequences), begins, listed(constants))
            if result is not None:
                return result
        self._check_ragged(listed(sequences), {"mask": mask, "lengths": lengths})
        given = {"output_length": self._checked_length(output_length), "training": training}
        if states is not None:
            given["states"] = self._group("states", states, self.step["state_inputs"], _UNTIMED)
        if teacher is not None:
            given["teacher"] = self._teacher_sequences(teacher)
        for name, flags in (("mask", mask), ("reset_mask", reset_mask)):
            if flags is not None:
                flags = _entered(flags)
                given[name] = flags if flags.dtype == bool else ops.not_equal(flags, 0)
        if lengths is not None:
            given["lengths"] = _entered(lengths)
        return super().__call__(
            self._group("sequences", sequences, self.step["sequence_inputs"], _TIMED),
            constants=self._group("constants", constants, self.step["constant_inputs"], _UNTIMED),
            **{key: value for key, value in given.items() if value is not None},
        )

    def _group(self, what: str, values: Any, steps: Sequence[SymbolicTensor], axes: tuple[str, ...]) -> list[Any]:
        """The tensors of a group as a list, each fitted to its Input; a state or a teacher sequence may be None."""
        values = listed(values)
        if len(values) != len(steps):
            raise ArgumentError(
                f"{self.label}: number of {what}",
                got=len(values),
                expected=f"{len(steps)}" + "".join(f", {t.name} {t.shape}" for t in steps),
            )
        may_lack = what in ("states", "teacher sequences")

        def entered(x: Any, step: SymbolicTensor) -> Any:
            x = fitted(x, step, f"{self.label}: {what[:-1]} for {step.name!r}", axes)
            return x if x.dtype == step.dtype else cast(x, step.dtype)  # integers of another width

        return [None if x is None and may_lack else entered(x, step) for x, step in zip(values, steps, strict=True)]

    def _check_ragged(self, sequences: list[Any], given: dict[str, Any]) -> None:
        ragged = [x for x in sequences if isinstance(x, Ragged)]
        if ragged:
            refuse_beside_ragged(self, given)
        if any(x.lengths.tolist() != ragged[0].lengths.tolist() for x in ragged):
            raise ShapeError(
                f"{self.label}: its Ragged sequences have different lengths",
                got=" and ".join(str(x.lengths.tolist()) for x in ragged),
                expected="the same number of steps in each row",
            )

    def _teacher_sequences(self, teacher: Any) -> list[Any]:
        """The teacher sequences in the order of `self.teacher`, None where there is none."""
        if isinstance(teacher, dict):
            given = {self._state_index(key): value for key, value in teacher.items()}
            for index in given:
                if index not in self.teacher:
                    raise ArgumentError(
                        f"{self.label}: state {index} cannot be forced",
                        got=f"teacher sequence for {self.step['state_inputs'][index].name!r}",
                        expected=f"states {list(self.teacher)}",
                        fix="name it in RecurrentContainer(teacher=[...])",
                    )
            teacher = [given.get(index) for index in self.teacher]
        steps = [self.step["state_inputs"][index] for index in self.teacher]
        return self._group("teacher sequences", teacher, steps, _TIMED)

    def build(self, input_shape: Any) -> None:
        if self.unroll and any(len(shape) > 1 and shape[1] is None for shape in input_shape):
            raise ShapeError(
                f"{self.label}: Cannot unroll a RNN if the time dimension is undefined.",
                got=", ".join(shape_text(shape) for shape in input_shape),
                fix="give Input the number of time steps, or leave out unroll=True",
            )
        if input_shape and input_shape[0]:
            self._held.fixed_batch = input_shape[0][0]

    def _mask_for(self, inputs: Any, kwargs: dict[str, Any]) -> Any:
        sizes = self._sizes(inputs, kwargs["constants"], kwargs.get("states") or [], kwargs.get("output_length"))
        given = kwargs.get("mask")
        mask = merged_mask([x.mask for x in inputs]) if given is None else given
        mask = None if mask is None else self._form.checked_mask(mask, sizes)
        lengths = kwargs.pop("lengths", None)
        if lengths is None:
            return mask
        by_length = self._form.mask_of_lengths(lengths, sizes)
        return by_length if mask is None else ops.logical_and(mask, by_length)

    def call(
        self,
        sequences: Any,
        constants: Any = (),
        states: Any = None,
        mask: Any = None,
        output_length: int | None = None,
        teacher: Any = None,
        reset_mask: Any = None,
        training: Any = False,
    ) -> Any:
        """See `__call__`; all groups are lists."""
        given = states or [None] * self._count("state_inputs")
        batch, length = self._sizes(sequences, constants, given, output_length)
        is_abstract = any(x is not None and x.is_abstract for x in [*sequences, *constants, *given])
        first = self._first_states(given, batch, is_abstract)
        reset = None if reset_mask is None else self._form.checked_mask(reset_mask, (batch, length), "reset_mask")
        mask = None if hides_nothing(mask) else mask
        valid, begins = (None if x is None else swap_time(x) for x in (mask, reset))
        forced: tuple[dict[int, Any], Any] = ({}, None)
        if training and self.teacher and self.teacher_probability:
            states_of = {index: self.step["state_inputs"][index].name for index in self.teacher}
            forced = teaching.forced(self.label, states_of, teacher, valid, begins, (batch, length), self.go_backwards)
        step = self._bare_step(constants, training)
        blank = self._blank(sequences, constants, first, batch, training)
        xs = ([swap_time(x) for x in sequences], *forced)
        (final, last), collected = scan(
            step,
            (first, blank),
            xs,
            length=length,
            reverse=self.go_backwards,
            mask=valid,
            engine="reference" if self.unroll else None,
            checkpoint=self.checkpoint,
            reset=begins,
        )
        is_simple = valid is begins is output_length is None and not forced[0] and training is is_training()
        if is_simple and not is_abstract and self._is_repeatable(states):
            call = Repeat(self, step, first, blank, xs, (batch, length), not self.go_backwards, training)
            self._repeats.keep(self, sequences, states, constants, call)
        return self._finish(final, last, collected)

    def _is_repeatable(self, states: list[Any] | None) -> bool:
        """Whether calls with such states go as one went, as far as this class has a say in it."""
        # Where some states are left out, those are zeros.
        are_given = states is not None and not any(state is None for state in states)
        are_clear = states is None or (not self.stateful and (self._begins_with_zeros or are_given))
        return are_clear and is_one_run(self)

    @property
    def _begins_with_zeros(self) -> bool:
        return not any(self.state_initializer)

    @property
    def _gives_states(self) -> bool:
        return self.return_states or self.stateful

    def _finish(self, states: Any, last: Any, ys: Any, is_arranged: bool = False) -> Any:
        """What the container returns for the results of the scan; a stateful one keeps the states."""
        if not is_arranged:
            ys = [swap_time(ops.flip(y, 0) if self.go_backwards else y) for y in ys]
        if self.stateful:
            self._held.keep(states)
        results = [*ys, *last, *(states if self.return_states else [])]
        return results[0] if len(results) == 1 else results

    def _bare_step(self, constants: Any, training: Any) -> Callable[[Any, Any], Any]:
        """The step that is run over time; its carry is the states and the constant outputs so far."""
        graph = self.step  # instead of self, which the trace would look through
        # As a Tensor the probability may change without a new trace.
        limit = Tensor(self.teacher_probability, "float32") if self.teacher_probability < 1.0 else None

        def step(carry: Any, x: Any) -> Any:
            states, _ = carry
            values, teacher_values, may_force = x
            states = list(states)
            teaching.force(states, teacher_values, may_force, limit)
            collected, last, states = graph.run([*values, *constants, *states], training)
            return (states, last), collected

        return step

    def source(self, pass_: str = "forward", engine: str = "cpu") -> str:
        """The loop that an engine compiles for the container, or for its gradient with pass_="backward".

        For calls without mask and teacher; sizes that the step does not know are taken for others than 1.
        """
        batch, steps = 2, 3

        def inputs(group: str, *sizes: int) -> list[Tensor]:
            shapes = [(*sizes, *(7 if n is None else n for n in t.shape[1:])) for t in self.step[group]]
            return [abstract(shape, t.dtype) for shape, t in zip(shapes, self.step[group], strict=True)]

        xs, constants = inputs("sequence_inputs", steps, batch), inputs("constant_inputs", batch)
        states = inputs("state_inputs", batch)
        blank = self._blank(inputs("sequence_inputs", batch, steps), constants, states, batch, False)
        return scan_source(self._bare_step(constants, False), (states, blank), (xs, {}, None), pass_, engine)

    def _sizes(self, sequences: Any, constants: Any, states: Any, output_length: int | None) -> tuple[int, int]:
        """Batch size and number of steps; ShapeError unless all inputs agree in them."""
        batches = {x.shape[0] for x in [*sequences, *constants, *states] if x is not None} or {self._held.batch}
        lengths = {x.shape[1] for x in sequences}
        for what, sizes in (("batch size", batches), ("number of time steps", lengths)):
            if len(sizes) > 1:
                raise ShapeError(f"{self.label}: inputs differ in {what}", got=sorted(sizes), expected="one size")
        batch = batches.pop()
        if batch is None:
            raise ArgumentError(f"{self.label}: the batch size is unknown", got="no tensors", fix="pass states=[...]")
        length = self.output_length if output_length is None else output_length
        return batch, lengths.pop() if lengths else int(length or 0)

    def _first_states(self, given: list[Any], batch: int, is_abstract: bool) -> list[Any]:
        """Explicit states before held ones, held ones before the declared initial ones."""
        held = None
        if self.stateful and not is_abstract and any(state is None for state in given):
            held = self._held.begin(batch)
        return [
            state if state is not None else held[index] if held is not None else self.initial_state(index, batch)
            for index, state in enumerate(given)
        ]

    def _declared_states(self, batch: int) -> list[Any]:
        return [self.initial_state(index, batch) for index in range(self._count("state_inputs"))]

    def initial_state(self, index: int, batch: int) -> Any:
        """What a state begins with where a call passes none and none is held; StateError if its size is unknown."""
        step, kind = self.step["state_inputs"][index], self.state_initializer[index]
        if None in step.shape[1:]:
            raise StateError(
                f"{self.label}: state {step.name!r} has no initial value, because its size is unknown",
                got=step.shape,
                fix="pass it: states=[...]",
            )
        shape = (batch, *step.shape[1:])
        if kind == "learned":
            return ops.broadcast_to(self.learned_states[index], shape)
        if isinstance(kind, initializers.Random) and kind.seed is None and random.current_source() is not None:
            raise ArgumentError(
                f"{self.label}: a random initial state would be another one at each step of the container around it",
                got=f"{kind} for state {step.name!r}",
                fix="pass states=[...], or give the initializer a seed",
            )
        value = ops.zeros(shape, step.dtype) if kind is None else Tensor(kind(shape, step.dtype), step.dtype)
        if value.shape != shape:
            raise ShapeError(f"{self.label}: initializer of state {step.name!r}", got=value.shape, expected=shape)
        return value

    def _blank(self, sequences: Any, constants: Any, states: Any, batch: int, training: Any) -> list[Any]:
        """What constant outputs are before the first valid step: zeros.

        As carries that begin so and are held in masked steps they end as the last valid outputs.
        """
        outputs: list[Any] = self.step["constant_outputs"]
        if any(None in t.shape[1:] for t in outputs):  # such as attention over a constant of any length
            one_step = [ops.zeros((batch, *x.shape[2:]), x.dtype) for x in sequences]
            run = eval_shapes(lambda *values: self.step.run(values, training), *one_step, *constants, *states)
            outputs = run[1]
        return [ops.zeros((batch, *t.shape[1:]), t.dtype) for t in outputs]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask for the sequence outputs, in their order; None for what has no time axis."""
        if mask is not None and self.go_backwards:
            mask = ops.flip(mask, 1)
        rest = self._count("constant_outputs") + (self._count("state_inputs") if self.return_states else 0)
        masks = [mask] * self._count("sequence_outputs") + [None] * rest
        return masks[0] if len(masks) == 1 else masks

    # Configuration ---------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        initial = [x if x is None or x == "learned" else registry.serialize(x) for x in self.state_initializer]
        return {
            **super().get_config(),
            **{option: getattr(self, option) for option in _OPTIONS},
            **self.step.get_config(),
            "teacher": list(self.teacher),
            "state_initializer": initial,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> RecurrentContainer:
        groups = ContainerStep.groups_from_config(config, custom_objects)
        options = {key: value for key, value in config.items() if key not in ("graph", "counts")}
        return super().from_config({**options, **groups}, custom_objects)


def _is_number(x: Any, least: int) -> bool:
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool) and bool(x >= least)


def _entered(x: Any) -> Any:
    return x if isinstance(x, (Tensor, SymbolicTensor)) else Tensor(x)
