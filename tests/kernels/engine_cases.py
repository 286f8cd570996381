"""Small computations of many kinds, to be run on one engine and on another: results, gradients, second order.

`python -m tests.kernels.engine_cases made.npz float64,float32 name ...` runs them on the cpu engine, alone.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import minirnn as mr
from minirnn import RecurrentContainer, RecurrentUnit, ops
from minirnn.autodiff import trees
from minirnn.layers import GRU, LSTM, RNN, Concatenate, Dense, GRUCell, Input, LSTMCell, SimpleRNN
from tests.stepgraph import steps
from tests.stepgraph.agreement import error

DTYPES = ("float64", "float32")
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}
B, T, F, U = 3, 5, 2, 4

Results = dict[str, Any]
CASES: dict[str, Callable[[], Results]] = {}


def case(function: Callable[[], Results]) -> Callable[[], Results]:
    CASES[function.__name__] = function
    return function


# running and comparing ---------------------------------------------------------------------------
def evaluate(name: str, dtype: str, engine: str = "cpu") -> dict[str, np.ndarray]:
    """The arrays that a case gives on an engine."""
    mr.seed(11)
    with mr.engine(engine), mr.default_dtype(dtype):
        return {label: np.asarray(value) for label, value in CASES[name]().items()}


def disagreement(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], tolerance: float) -> dict[str, float]:
    """The errors above the tolerance; a gradient that one side lacks counts as zeros."""
    errors = {}
    for label in {**got, **wanted}:
        a, b = got.get(label), wanted.get(label)
        if a is None or b is None:
            assert label.startswith("d"), label
            a = np.zeros_like(b) if a is None else a
            b = np.zeros_like(a) if b is None else b
        if not (e := error(a, b)) <= tolerance:
            errors[label] = e
    return errors


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers of the default dtype, other ones for another shape or seed."""
    return steps.numbers(*shape, seed=seed).astype(mr.config.current_dtype())


def _curved(results: list[Any], seed: int) -> Any:
    """A scalar with another weight on each element, curved so that its second derivatives are not zero."""
    total: Any = 0.0
    for place, t in enumerate(results):
        if t is not None and t.dtype.kind == "f":
            a, b = np.random.default_rng([seed, place]).normal(size=(2, *t.shape)).astype(t.dtype)
            total = total + ops.cast((ops.sin(t) * a).sum() + (t * b).sum(), "float64")
    return total


def derivatives(run: Callable[[], Any], sources: dict[str, Any], order: int = 1) -> Results:
    """What `run()` returns, and up to the second derivatives towards the floats among the sources."""
    floats = {label: t for label, t in sources.items() if t.dtype.kind == "f"}
    tensors = list(floats.values())
    with mr.Tape() if order > 1 else contextlib.nullcontext() as outer:
        if order > 1:
            outer.watch(tensors)
        with mr.Tape() if order else contextlib.nullcontext() as inner:
            if order:
                inner.watch(tensors)
            made = trees.flatten(run())[0]
            loss = _curved(made, 1)
        found = {f"result {i}": t for i, t in enumerate(made)}
        if not order or not isinstance(loss, mr.Tensor):
            return found
        first = inner.gradient(loss, tensors)
        along = _curved(first, 2) if order > 1 else None
    found |= {f"d {label}": g for label, g in zip(floats, first, strict=True) if g is not None}
    if isinstance(along, mr.Tensor):
        second = outer.gradient(along, tensors)
        found |= {f"dd {label}": g for label, g in zip(floats, second, strict=True) if g is not None}
    return found


def of_step(step_over: Any, init: Any, xs: Any, closed: Any = (), order: int = 1, **options: Any) -> Results:
    """A scan of `step_over(*closed)`, with derivatives towards all that it is given."""
    groups = {"init": trees.flatten(init), "x": trees.flatten(xs), "closed": trees.flatten(list(closed))}
    tensors = {name: [mr.Tensor(a) for a in leaves] for name, (leaves, _) in groups.items()}
    sources = {f"{name} {i}": t for name, leaves in tensors.items() for i, t in enumerate(leaves)}

    def run() -> Any:
        first, sequences, others = (trees.unflatten(groups[name][1], tensors[name]) for name in groups)
        return mr.scan(step_over(*others), first, sequences, **options)

    return derivatives(run, sources, order)


def randomized(layer: Any, *shape: int | None) -> Any:
    """The layer with random weights, no two alike."""
    layer.build(shape)
    layer.set_weights([draw(*w.shape, seed=k) for k, w in enumerate(layer.weights)])
    return layer


def of_layer(layer: Any, x: Any, states: Any = (), order: int = 1, calls: int = 1, **options: Any) -> Results:
    """Calls of a layer, with derivatives towards its weights, x and the initial states."""
    x, states = mr.Tensor(x), [mr.Tensor(s) for s in states]
    sources = {f"weight {k}": w for k, w in enumerate(layer.trainable_variables)}
    sources |= {"x": x} | {f"state {k}": s for k, s in enumerate(states)}
    given = {"initial_state": states} if states else {}
    return derivatives(lambda: [layer(x, **given, **options) for _ in range(calls)], sources, order)


# recurrent layers --------------------------------------------------------------------------------
LAYERS: dict[str, tuple[Callable[..., Any], int]] = {
    "SimpleRNN": (SimpleRNN, 1),
    "GRU": (GRU, 1),
    "GRU reset before": (lambda *a, **k: GRU(*a, reset_after=False, **k), 1),
    "LSTM": (LSTM, 2),
}
MASK = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)


def _layer_case(kind: str, variant: str) -> Results:
    make, count = LAYERS[kind]
    states = [draw(B, U, seed=k) for k in range(count)]
    x = draw(B, T, F)
    if variant == "last output":
        return of_layer(randomized(make(U), None, None, F), x, order=0)
    if variant == "masked":
        layer = make(U, return_sequences=True, return_state=True, go_backwards=True)
        return of_layer(randomized(layer, None, None, F), x, states, mask=MASK)
    if variant == "stateful":
        layer = make(U, return_sequences=True, stateful=True)
        return of_layer(randomized(layer, B, None, F), x, mask=MASK, calls=2)
    layer = make(U, return_state=True, dropout=0.3, recurrent_dropout=0.4)
    return of_layer(randomized(layer, None, None, F), x, states, training=True)


for _kind, _variant in itertools.product(LAYERS, ["last output", "masked", "stateful", "dropout"]):
    CASES[f"{_kind}, {_variant}"] = lambda kind=_kind, variant=_variant: _layer_case(kind, variant)


@case
def lstm_second_order() -> Results:
    layer = randomized(LSTM(U, return_sequences=True), None, None, F)
    return of_layer(layer, draw(B, T, F), [draw(B, U), draw(B, U, seed=1)], order=2)


@case
def gru_hessian_vector_product() -> Results:
    layer = randomized(GRU(U), None, None, F)
    _, slope, product = (*mr.jvp(lambda x: (layer(x) ** 2).sum(), (draw(B, T, F),), (draw(B, T, F, seed=1),)), None)
    product = mr.hvp(lambda x: (layer(x) ** 2).sum(), (draw(B, T, F),), (draw(B, T, F, seed=1),))
    return {"slope": slope} | {f"product {k}": p for k, p in enumerate(trees.flatten(product)[0])}


@case
def stacked_cells() -> Results:
    layer = RNN([GRUCell(3), LSTMCell(U)], return_sequences=True, return_state=True)
    return of_layer(randomized(layer, None, None, F), draw(B, T, F), mask=MASK)


class OwnCell:
    """A plain class with two states of different ranks, whose output is neither of them."""

    state_size = [(2, 4), 2]
    output_size = 5

    def __init__(self) -> None:
        self.kernel = mr.Variable(draw(4, 5))
        self.decay = mr.Variable(draw(2))

    def call(self, x: Any, states: Any) -> Any:
        grid, level = states
        level = ops.tanh(level * self.decay + x)
        grid = ops.sigmoid(grid + level[:, :, None])
        return ops.sum(grid, axis=1) @ self.kernel, [grid, level]


@case
def own_cell() -> Results:
    layer = RNN(OwnCell(), return_sequences=True, return_state=True)
    return of_layer(layer, draw(B, T, 2), [draw(B, 2, 4), draw(B, 2)], mask=MASK)


# the named steps ---------------------------------------------------------------------------------
def _named(name: str, length: int = T, order: int = 1, **options: Any) -> Results:
    step, init, xs = steps.example(name, length)
    closed = [cell.cell_contents for cell in step.__closure__ or () if isinstance(cell.cell_contents, np.ndarray)]
    dtype = mr.config.current_dtype()
    init, xs, closed = trees.map(lambda a: np.asarray(a, dtype), (init, xs, closed))
    make = {"simple_rnn": steps.simple_rnn, "gru": steps.gru, "lstm": steps.lstm, "attention": steps.attention}[name]
    if name == "attention":
        arrays = [steps.numbers(*s) for s in ((steps.U, steps.D), (steps.B, steps.K, steps.D))]
        closed = [a.astype(dtype) for a in (*arrays, steps.numbers(steps.F + steps.D, steps.U))]
    else:
        closed = [closed[k] for k in range(3)]
        closed = sorted(closed, key=lambda a: (a.ndim == 1, a.shape[0] != steps.F))
    return of_step(make, init, xs, closed, order, **options)


STEP_MASK = np.array([[0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], bool)
VARIANTS: dict[str, dict[str, Any]] = {
    "forward only": {"order": 0},
    "pair": {},
    "second order": {"order": 2},
    "reversed": {"reverse": True, "mask": STEP_MASK},
    "in segments": {"checkpoint": 2},
    "100 steps": {"length": 100},
}
for _name, _variant in itertools.product(steps.EXAMPLES, VARIANTS):
    CASES[f"{_name}, {_variant}"] = lambda name=_name, options=VARIANTS[_variant]: _named(name, **options)


@case
def in_segments_second_order() -> Results:
    return _named("simple_rnn", order=2, checkpoint=2)


@case
def scan_in_a_scan() -> Results:
    def over(kernel: Any, weight: Any) -> Any:
        def inner(h: Any, x: Any) -> Any:
            h = ops.tanh(h @ kernel + x)
            return h, h * weight

        def step(h: Any, x: Any) -> Any:
            h, ys = mr.scan(inner, h, ops.transpose(x, (1, 0, 2)))
            return h, ops.sum(ys, axis=0)

        return step

    return of_step(over, draw(B, U), draw(T, B, 6, U), [draw(U, U), draw(U)], order=2)


# containers --------------------------------------------------------------------------------------
def _container(**options: Any) -> RecurrentContainer:
    a, b, constant = Input((2,)), Input((3, 2)), Input((3,))
    h, c, fed = Input((U,)), Input((U,)), Input((2,))
    attended = ops.sum(b * ops.expand_dims(fed, 1), axis=2)
    y, new_h, new_c = RecurrentUnit(LSTM(U))(Concatenate()([a, attended, constant]), states=[h, c])
    out = Dense(2, activation="softmax")(y)
    container = RecurrentContainer(
        sequence_inputs=[a, b],
        constant_inputs=constant,
        sequence_outputs=[out, attended],
        constant_outputs=Dense(5)(new_c),
        state_inputs=[h, c, fed],
        state_outputs=[new_h, new_c, out],
        return_states=True,
        **options,
    )
    container.set_weights([draw(*w.shape, seed=k) for k, w in enumerate(container.weights)])
    return container


def _container_case(order: int = 1, make: dict[str, Any] | None = None, **options: Any) -> Results:
    container = _container(**make or {})
    arrays = {
        "sequence 0": draw(B, T, 2), "sequence 1": draw(B, T, 3, 2), "constant": draw(B, 3),
        "state 0": draw(B, U), "state 1": draw(B, U, seed=1), "state 2": draw(B, 2),
    }  # fmt: skip
    sources = {label: mr.Tensor(a) for label, a in arrays.items()}
    s0, s1, constant, *states = sources.values()
    sources |= {f"weight {k}": w for k, w in enumerate(container.trainable_variables)}
    return derivatives(lambda: container([s0, s1], constants=constant, states=states, **options), sources, order)


@case
def container() -> Results:
    return _container_case(mask=MASK)


@case
def container_with_teacher() -> Results:
    teacher = {2: draw(B, T, 2, seed=1)}
    return _container_case(make={"teacher": [2]}, teacher=teacher, training=True)


@case
def container_with_a_teacher_now_and_then() -> Results:
    options = {"teacher": [2], "teacher_probability": 0.5, "go_backwards": True}
    return _container_case(make=options, teacher={2: draw(B, T, 2, seed=1)}, training=True, mask=MASK)


@case
def container_in_segments() -> Results:
    return _container_case(make={"checkpoint": 2})


@case
def decoder_without_sequences() -> Results:
    h, fed = Input((U,)), Input((2,))
    y, new_h = RecurrentUnit(GRU(U))(fed, states=h)
    out = Dense(2)(y)
    made = RecurrentContainer(
        state_inputs=[h, fed], state_outputs=[new_h, out], sequence_outputs=out, output_length=6
    )  # fmt: skip
    made.set_weights([draw(*w.shape, seed=k) for k, w in enumerate(made.weights)])
    states = [mr.Tensor(draw(B, U)), mr.Tensor(draw(B, 2))]
    sources = {f"weight {k}": w for k, w in enumerate(made.trainable_variables)} | {"h": states[0], "fed": states[1]}
    return derivatives(lambda: made(states=states), sources)


@case
def container_in_a_containers_step() -> Results:
    def recurrent(width: int, units: int) -> RecurrentContainer:
        x, h = Input((width,)), Input((units,))
        y, new_h = RecurrentUnit(SimpleRNN(units))(x, states=h)
        return RecurrentContainer(
            sequence_inputs=x, sequence_outputs=y, constant_outputs=y, state_inputs=h, state_outputs=new_h
        )

    words, before = Input((6, 2)), Input((U,))
    sequence, last = recurrent(2, U)(words, states=before)
    outer = RecurrentContainer(
        sequence_inputs=words, sequence_outputs=sequence, state_inputs=before, state_outputs=last
    )  # fmt: skip
    outer.set_weights([draw(*w.shape, seed=k) for k, w in enumerate(outer.weights)])
    x = mr.Tensor(draw(B, T, 6, 2))
    sources = {f"weight {k}": w for k, w in enumerate(outer.trainable_variables)} | {"x": x}
    return derivatives(lambda: outer(x), sources, order=2)


# sizes and layouts -------------------------------------------------------------------------------
SIZES = [(0, B, F, U), (T, 0, F, U), (T, 1, F, U), (T, B, 1, U), (T, B, F, 1), (1, 1, 1, 1), (T, 1, 1, 1), (3, 7, 1, 1)]


def _attending(query: Any, memory: Any, kernel: Any) -> Any:
    return steps.attention(query, memory, kernel)


def _size_case(t: int, b: int, f: int, u: int) -> Results:
    layer = randomized(LSTM(u, return_sequences=True, return_state=True), None, None, f)
    found = of_layer(layer, draw(b, t, f), [draw(b, u), draw(b, u, seed=1)])
    keys = 5 if u > 1 else 1
    closed = [draw(u, 2), draw(b, keys, 2), draw(f + 2, u)]
    second = of_step(_attending, draw(b, u), draw(t, b, f), closed)
    return found | {f"{label} attending": value for label, value in second.items()}


for _t, _b, _f, _u in SIZES:
    CASES[f"T={_t} B={_b} F={_f} U={_u}"] = lambda size=(_t, _b, _f, _u): _size_case(*size)

LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "plain": np.array,
    "every other step": lambda x: np.repeat(x, 2, axis=0)[::2],
    "steps backwards": lambda x: x[::-1].copy()[::-1],
    "every other row": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "rows backwards": lambda x: x[:, ::-1].copy()[:, ::-1],
    "every other feature": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
    "features backwards": lambda x: x[:, :, ::-1].copy()[:, :, ::-1],
    "batch first": lambda x: np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1),
    "Fortran's order": np.asfortranarray,
    "rows and features turned": lambda x: np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2),
    "one row for all": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "one step for all": lambda x: np.broadcast_to(x[:1], x.shape),
    "one number for all": lambda x: np.broadcast_to(x[:1, :1, :1], x.shape),
    "not to be written to": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "not aligned": lambda x: np.frombuffer(b"1" * x.itemsize + x.tobytes(), x.dtype, offset=x.itemsize).reshape(
        x.shape
    ),
}


def _layout_case(lay: Callable[[Any], Any]) -> Results:
    kernel, recurrent_kernel, bias = draw(F, U), draw(U, U), draw(U)
    xs, init = lay(draw(T, B, F)), lay(draw(1, B, U))[0]
    weights = [lay(w[:, :, None])[:, :, 0] for w in (kernel, recurrent_kernel)]
    with mr.Tape() as tape:
        weights = [mr.Tensor(w) for w in weights]
        tape.watch(weights)
        carry, ys = mr.scan(steps.simple_rnn(*weights, bias), init, xs)
        loss = _curved([carry, ys], 1)
    direct = mr.scan(steps.simple_rnn(kernel, recurrent_kernel, bias), init, xs)
    first, second = tape.gradient(loss, weights)
    return {"carry": carry, "ys": ys, "carry again": direct[0], "ys again": direct[1], "d 0": first, "d 1": second}


for _layout in LAYOUTS:
    CASES[f"xs: {_layout}"] = lambda lay=LAYOUTS[_layout]: _layout_case(lay)
