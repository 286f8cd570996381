"""`scan` against its definition, the loop of its docstring, on every engine; nested scans and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.errors import TraceError
from minirnn.stepgraph import trace as trace_module

from .stepgraph.agreement import error
from .stepgraph.steps import example, numbers

ENGINES = ("reference", "numpy")
B, T, F, U = 3, 7, 4, 6


def assert_equal(got: Any, wanted: Any, tolerance: float = 1e-12) -> None:
    got, wanted = mr.autodiff.trees.flatten(got)[0], mr.autodiff.trees.flatten(wanted)[0]
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert error(a, b) <= tolerance


def loop(step: Callable[..., Any], init: Any, xs: Any, reverse: bool = False) -> tuple[Any, list[Any]]:
    """The definition, in Python."""
    carry, ys = init, []
    for x in xs[::-1] if reverse else xs:
        carry, y = step(carry, mr.Tensor(x))
        ys.append(y)
    return carry, ys[::-1] if reverse else ys


# the definition ----------------------------------------------------------------------------------
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm", "attention"])
def test_scan_is_the_loop(name: str, reverse: bool, engine: str) -> None:
    step, init, xs = example(name)
    carry, ys = mr.scan(step, init, xs, reverse=reverse, engine=engine)
    wanted_carry, wanted_ys = loop(step, init, xs, reverse)
    assert_equal(carry, wanted_carry)
    assert_equal([mr.autodiff.trees.map(lambda y, t=t: y[t], ys) for t in range(T)], wanted_ys)


@pytest.mark.parametrize("engine", ENGINES)
def test_structures_keep_their_form(engine: str) -> None:
    init = {"a": (numbers(B), [numbers(B, 2)]), "none": None}
    xs = (numbers(T, B), {"k": numbers(T, B, 5)})

    def step(carry: Any, x: Any) -> Any:
        first, second = x
        (a, [b]) = carry["a"]
        return {"a": (a + first, [b * 0.5]), "none": None}, [second["k"], {"a": a, "n": None}, ()]

    carry, ys = mr.scan(step, init, xs, engine=engine)
    assert type(carry["a"]) is tuple and type(carry["a"][1]) is list and carry["none"] is None
    assert type(ys) is list and ys[0].shape == (T, B, 5) and ys[1]["n"] is None and ys[2] == ()
    assert_equal(carry["a"][0], init["a"][0] + xs[0].sum(0))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("length", [0, 1, 4])
def test_without_xs_the_length_says_how_often(engine: str, length: int) -> None:
    carry, ys = mr.scan(lambda c, x: (c * 2.0, c), np.array([3.0]), None, length=length, engine=engine)
    assert carry.item() == 3.0 * 2**length
    assert ys.numpy().ravel().tolist() == [3.0 * 2**t for t in range(length)]


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_carry_scan_maps(engine: str) -> None:
    xs = numbers(T, B)
    carry, ys = mr.scan(lambda c, x: (None, x * x), None, xs, engine=engine)
    assert carry is None
    assert_equal(ys, xs * xs)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("checkpoint", [None, 2])
@pytest.mark.parametrize(("batch", "steps"), [(B, 0), (0, T), (0, 0), (1, 1), (1, T)])
def test_empty_and_single_sizes(engine: str, checkpoint: int | None, batch: int, steps: int) -> None:
    w = mr.Variable(numbers(F, U), dtype="float64")
    init, xs = mr.Tensor(numbers(batch, U)), mr.Tensor(numbers(steps, batch, F))
    with mr.Tape() as tape:
        tape.watch([init, xs])
        carry, ys = mr.scan(
            lambda h, x: ((h := ops.tanh(x @ w + h)), (h, ops.sum(h, axis=-1))),
            init,
            xs,
            engine=engine,
            checkpoint=checkpoint,
        )
        loss = (carry * carry).sum() + ys[0].sum()
    assert carry.shape == (batch, U) and ys[0].shape == (steps, batch, U) and ys[1].shape == (steps, batch)
    d_init, d_xs, d_w = (
        g if g is not None else ops.zeros_like(t)
        for g, t in zip(tape.gradient(loss, [init, xs, w]), (init, xs, w), strict=True)
    )
    assert d_xs.shape == xs.shape and np.isfinite(d_w.numpy()).all()
    if not steps:
        assert_equal(d_init, 2 * init)
        assert not d_w.numpy().any()


@pytest.mark.parametrize("engine", ENGINES)
def test_integers_and_bools_go_around_too(engine: str) -> None:
    def step(carry: Any, x: Any) -> Any:
        count, seen = carry
        return (count + 1, seen | (x > 1)), (count, seen)

    init = np.zeros(2, np.int64), np.zeros(2, bool)
    (count, seen), ys = mr.scan(step, init, np.array([[0, 1], [2, 1], [0, 0]]), engine=engine)
    assert count.dtype == np.int64 and count.numpy().tolist() == [3, 3]
    assert seen.dtype == bool and seen.numpy().tolist() == [True, False]
    assert ys[1].numpy().tolist() == [[False, False], [False, False], [True, False]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ENGINES)
def test_dtypes_stay(engine: str, dtype: str) -> None:
    init, xs = numbers(B, U).astype(dtype), mr.Tensor(numbers(T, B, U), dtype=dtype)
    with mr.Tape() as tape:
        tape.watch(xs)
        carry, ys = mr.scan(lambda h, x: (ops.tanh(h * 0.5 + x), h + 1), init, xs, engine=engine)
    assert carry.dtype == ys.dtype == tape.gradient(ys, xs).dtype == dtype


def test_results_do_not_share_memory_with_the_inputs() -> None:
    init, xs, closed = numbers(B, U), numbers(T, B, U), numbers(U)
    carry, (first, second) = mr.scan(lambda h, x: (h, (x, closed)), init, xs)
    kept = [t.numpy() for t in (carry, first, second)]
    init[:], xs[:], closed[:] = 7.0, 8.0, 9.0
    assert_equal([carry, first, second], kept, 0.0)


def test_what_was_recorded_does_not_change_with_the_arrays() -> None:
    closed = numbers(U, U)
    x = mr.Tensor(numbers(T, B, U))

    def gradient(array: np.ndarray, change: float) -> Any:
        with mr.Tape() as tape:
            tape.watch(x)
            loss = mr.scan(lambda h, x: (ops.tanh(h + x @ array), None), numbers(B, U), x)[0].sum()
        array += change
        return tape.gradient(loss, x)

    assert_equal(gradient(closed.copy(), 1.0), gradient(closed.copy(), 0.0), 0.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_numbers_and_arrays_may_be_returned(engine: str) -> None:
    array = numbers(B, U)

    def step(h: Any, x: Any) -> Any:
        return np.ones((B, U)), (2, 3.5, array, np.float64(4.5), h)

    carry, ys = mr.scan(step, numbers(B, U, seed=1), numbers(T, B), engine=engine)
    assert [y.shape for y in ys] == [(T,), (T,), (T, B, U), (T,), (T, B, U)]
    assert [str(y.dtype) for y in ys] == ["int64", "float32", "float64", "float64", "float64"]
    assert carry.numpy().min() == 1 and np.array_equal(ys[2].numpy()[3], array) and ys[3].numpy()[0] == 4.5
    assert_equal(ys[4][1], np.ones((B, U)))


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_pass_by_integers(engine: str) -> None:
    """An integer carry beside floating ones: it counts, and the count scales what is differentiated."""

    def step(carry: Any, x: Any) -> Any:
        count, h = carry
        h = ops.tanh(h + x * ops.cast(count, "float64"))
        return (count + 1, h), (h, count)

    xs = mr.Tensor(numbers(T, B, U))
    with mr.Tape() as tape:
        tape.watch(xs)
        (count, _), (ys, counts) = mr.scan(step, (np.zeros((B, 1), np.int64), numbers(B, U)), xs, engine=engine)
        loss = (ys * ys).sum()
    direction, h = numbers(T, B, U, seed=4), 1e-6

    def value(a: Any) -> Any:
        return (mr.scan(step, (np.zeros((B, 1), np.int64), numbers(B, U)), a)[1][0].numpy() ** 2).sum()

    numerical = (value(xs.numpy() + h * direction) - value(xs.numpy() - h * direction)) / (2 * h)
    assert abs((tape.gradient(loss, xs).numpy() * direction).sum() - numerical) < 1e-6
    assert tape.gradient(loss, [xs], None)[0].shape == xs.shape
    assert counts.numpy()[:, 0, 0].tolist() == list(range(T)) and count.numpy()[0, 0] == T


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["simple_rnn", "gru", "lstm", "attention"])
def test_complex_step(name: str, engine: str) -> None:
    """The same step on complex numbers: the imaginary part is the derivative, without differences."""
    step, init, xs = example(name)
    direction = numbers(T, B, F, seed=4)
    complex_init = mr.autodiff.trees.map(lambda a: a + 0j, init)
    moved = mr.scan(step, complex_init, xs + 1e-30j * direction, engine=engine)
    wanted = mr.jvp(lambda x: mr.scan(step, init, x, engine=engine), (xs,), (direction,))[1]
    assert_equal(mr.autodiff.trees.map(lambda t: t.numpy().imag / 1e-30, moved), wanted)


def test_threads_may_run_the_same_step_at_once() -> None:
    step, init, _ = example("lstm")
    sequences = [numbers(40, B, F, seed=seed) for seed in range(4)]

    def run(xs: np.ndarray) -> list[np.ndarray]:
        x = mr.Tensor(xs)
        with mr.Tape() as tape:
            tape.watch(x)
            ys = mr.scan(step, init, x)[1]
        return [ys.numpy(), tape.gradient(ys, x).numpy()]

    wanted = [run(xs) for xs in sequences]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for got, right in zip(pool.map(run, sequences), wanted, strict=True):
                assert_equal(got, right, 0.0)


# nested ------------------------------------------------------------------------------------------
def inner_sum(w: Any) -> Callable[..., Any]:
    return lambda h, x: ((h := ops.tanh(h @ w + x)), h * x)


def nested(depth: int, w: Any, v: Any, checkpoint: int | None = None) -> Callable[..., Any]:
    """A step that scans `depth` levels deep over parts of its x."""

    def step(h: Any, x: Any) -> Any:
        if depth == 0:
            return inner_sum(w)(h, x)
        parts = ops.stack([x, 0.5 * x, ops.sin(x)])
        inner, ys = mr.scan(nested(depth - 1, w, v), h, parts, checkpoint=checkpoint, reverse=depth % 2 == 1)
        return ops.tanh(inner @ v + x), ys.sum(axis=0) + inner

    return step


def derivatives(step_of: Any, init: Any, xs: Any, weights: list[Any], **options: Any) -> list[Any]:
    """carry, ys, gradients and gradients of a projection of the gradients."""
    tensors = [mr.Tensor(a) for a in (init, xs, *weights)]
    with mr.Tape() as outer:
        outer.watch(tensors)
        with mr.Tape() as inner:
            inner.watch(tensors)
            carry, ys = mr.scan(step_of(*tensors[2:]), *tensors[:2], **options)
            loss = (carry * carry).sum() + (ops.sin(ys) * numbers(*ys.shape)).sum()
        first = inner.gradient(loss, tensors)
        projected: Any = sum((g * numbers(*g.shape, seed=5)).sum() for g in first)
    return [carry, ys, *first, *outer.gradient(projected, tensors)]


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(
    ("depth", "outer_checkpoint", "checkpoint"), [(1, None, None), (1, 2, None), (1, None, 2), (2, 3, 1)]
)
def test_nested_scans_to_second_order(depth: int, outer_checkpoint: Any, checkpoint: Any, mask: bool) -> None:
    steps = 5 if depth == 1 else 3
    init, xs, weights = numbers(B, U), numbers(steps, B, U), [numbers(U, U), numbers(U, U, seed=1)]
    valid = np.random.default_rng(3).random((steps, B)) < 0.7 if mask else None
    found = []
    for engine in ENGINES:
        with mr.engine(engine):
            found.append(
                derivatives(
                    lambda w, v: nested(depth, w, v, checkpoint),
                    init,
                    xs,
                    weights,
                    mask=valid,
                    checkpoint=outer_checkpoint,
                )
            )
    assert_equal(found[1], found[0])


def test_nested_scans_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = trace_module._trace
    monkeypatch.setattr(trace_module, "_trace", lambda *args: made.append(1) or original(*args))
    for seed in range(3):
        w, v = mr.Variable(numbers(U, U, seed=seed)), mr.Tensor(numbers(U, U, seed=seed + 7))
        mr.scan(nested(2, w, v), numbers(B, U), numbers(2, B, U), checkpoint=1)
        assert len(made) == 4  # three levels, and the segment of the checkpoint


def test_an_inner_scan_over_a_closed_sequence_and_an_inner_mask() -> None:
    memory, lengths = numbers(5, B, U), np.arange(5)[:, None] < np.array([5, 2, 0])

    def step_of(w: Any, memory: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            read, seen = mr.scan(lambda a, m: (ops.tanh(a @ w + m * h), a), x, memory, mask=lengths)
            return h + read, seen.sum(axis=0)

        return step

    found = []
    for engine in ENGINES:
        with mr.engine(engine):
            found.append(derivatives(step_of, numbers(B, U), numbers(T, B, U), [numbers(U, U), memory]))
    assert_equal(found[1], found[0])


@pytest.mark.parametrize("checkpoint", [None, 3])
def test_a_gradient_inside_a_step(checkpoint: int | None) -> None:
    """A step of gradient descent as the step: its gradient goes through the inner gradient."""

    def step_of(a: Any, b: Any) -> Any:
        def energy(h: Any, x: Any) -> Any:
            return (ops.tanh(h @ a) * x).sum() + (h * h).sum()

        def step(h: Any, x: Any) -> Any:
            slope = mr.grad(energy)(h, x)
            with mr.Tape() as tape:
                tape.watch(h)
                other = (ops.sin(h) @ b).sum()
            return h - 0.1 * slope - 0.05 * tape.gradient(other, h), slope

        return step

    found = [
        derivatives(
            step_of, numbers(B, U), numbers(T, B, U), [numbers(U, U), numbers(U, U, seed=1)], engine=e, **options
        )
        for e, options in (("reference", {}), ("numpy", {"checkpoint": checkpoint}))
    ]
    assert_equal(found[1], found[0])


def test_a_gradient_of_a_scan_inside_a_step() -> None:
    def step_of(w: Any, v: Any) -> Any:
        def inner_loss(h: Any, x: Any) -> Any:
            return (mr.scan(inner_sum(w), h, ops.stack([x, x * x]))[1] * v[:2, None]).sum()

        return lambda h, x: (h - 0.3 * mr.grad(inner_loss)(h, x), ops.tanh(h) * x)

    found = []
    for engine in ENGINES:
        with mr.engine(engine):
            found.append(derivatives(step_of, numbers(B, U), numbers(4, B, U), [numbers(U, U), numbers(U, U, seed=1)]))
    assert_equal(found[1], found[0])


def test_a_variable_inside_an_inner_gradient_is_known() -> None:
    w = mr.Variable(numbers(U, U), dtype="float64")

    def step(h: Any, x: Any) -> Any:
        with mr.Tape() as tape:
            loss = (ops.tanh(h @ w) * x).sum()
        return ops.tanh(h - tape.gradient(loss, w)[:B]), None

    found = []
    for engine in ENGINES:
        with mr.Tape() as tape:
            carry, _ = mr.scan(step, numbers(B, U), numbers(T, B, U), engine=engine)
            loss = (carry * carry).sum()
        found.append([carry, tape.gradient(loss, w)])
    assert_equal(found[1], found[0])


def test_transforms_of_a_scan() -> None:
    step, init, xs = example("gru", length=3)

    def last(h: Any) -> Any:
        return mr.scan(step, h, xs)[0]

    direction = numbers(B, U, seed=9)
    jacobian = mr.jacobian(last)(init)
    assert jacobian.shape == (B, U, B, U)
    moved = np.einsum("bucd,cd->bu", jacobian.numpy(), direction)
    assert_equal(mr.jvp(last, (init,), (direction,))[1], moved)
    h = 1e-6
    assert error((last(init + h * direction) - last(init - h * direction)) / (2 * h), moved) < 1e-8

    def energy(h: Any) -> Any:
        return (last(h) ** 2).sum()

    gradient = mr.grad(energy)
    numerical = (gradient(init + h * direction) - gradient(init - h * direction)) / (2 * h)
    assert error(mr.hvp(energy, (init,), (direction,)), numerical) < 1e-7


# checkpoints -------------------------------------------------------------------------------------
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("checkpoint", range(1, 9))
def test_every_checkpoint_gives_the_same(checkpoint: int, reverse: bool) -> None:
    def step_of(w: Any, v: Any) -> Any:
        return lambda h, x: ((h := ops.tanh(x @ w + h @ v)), h * h)

    arguments = numbers(B, U), numbers(T, B, F), [numbers(F, U), numbers(U, U)]
    wanted = derivatives(step_of, *arguments, engine="numpy", reverse=reverse)
    got = derivatives(step_of, *arguments, engine="numpy", reverse=reverse, checkpoint=checkpoint)
    assert_equal(got, wanted)


def test_a_checkpointed_scan_keeps_carries_of_segments_only() -> None:
    w = mr.Variable(numbers(U, U), dtype="float64")
    xs = mr.Tensor(numbers(64, B, U))

    def kept(checkpoint: int | None) -> int:
        with mr.Tape() as tape:
            mr.scan(lambda h, x: (ops.tanh(h @ w + x), None), numbers(B, U), xs, checkpoint=checkpoint)
        outputs = [t for node in tape.nodes if node.primitive.name == "scan" for t in node.outputs]
        return sum(t.size for t in outputs)

    assert kept(8) <= (64 // 8 + 2) * B * U
    assert kept(None) >= 64 * B * U


def test_assign_in_a_step_happens_at_each_step_or_is_an_error() -> None:
    count = mr.Variable(0.0, trainable=False)

    def step(h: Any, x: Any) -> Any:
        count.assign(np.asarray(count) + 1)
        return h + x * count, None

    with pytest.raises(TraceError, match='engine="reference"'):
        mr.scan(step, np.zeros((2, 3), "f4"), np.ones((4, 2, 3), "f4"), engine="numpy")
    assert float(count) == 0
    last, _ = mr.scan(step, np.zeros((2, 3), "f4"), np.ones((4, 2, 3), "f4"), engine="reference")
    assert (last.numpy() == 10).all() and float(count) == 4


@pytest.mark.parametrize("engine", ["reference", "numpy"])
@pytest.mark.parametrize("zero", [0.0, np.float32(0), np.float64(0)])
def test_a_number_as_carry_adapts_to_the_xs(engine: str, zero: Any) -> None:
    for dtype in ("float32", "float64"):
        total, _ = mr.scan(lambda c, x: (c + x, c), zero, np.ones(4, dtype), engine=engine)
        assert total.dtype == dtype and float(total) == 4
