"""The face of the tape: what `gradient` returns, what is recorded and what is not."""

from __future__ import annotations

import copy
import gc
import threading
import time
import weakref
from collections import namedtuple
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.errors import ArgumentError, DtypeError, GradientError, ShapeError, TraceError


def taped(*tensors: Any) -> mr.Tape:
    tape = mr.Tape()
    tape.watch(list(tensors))
    return tape


def test_gradient_returns_what_sources_is() -> None:
    a, b, c = (mr.Tensor([float(i), 2.0], name=str(i)) for i in range(3))
    with taped(a, b, c) as tape:
        loss = (a * b).sum()
    assert isinstance(tape.gradient(loss, a), mr.Tensor)
    assert [None if g is None else g.numpy().tolist() for g in tape.gradient(loss, [a, c, b])] == [
        [1.0, 2.0],
        None,
        [0.0, 2.0],
    ]
    assert tape.gradient(loss, c) is None
    assert tape.gradient(loss, []) == []
    pair = namedtuple("pair", "x y")
    nested = tape.gradient(loss, {"p": pair(a, c), "q": (b, [a])})
    assert nested["p"].y is None and nested["q"][1][0].numpy().tolist() == [1.0, 2.0]
    assert isinstance(nested["p"], pair)


def test_a_target_that_is_not_scalar_is_summed_and_targets_may_nest() -> None:
    x = mr.Tensor([1.0, 2.0, 3.0])
    with taped(x) as tape:
        y, z = x * x, {"z": (x * 2.0, 5.0)}
    assert tape.gradient(y, x).numpy().tolist() == [2.0, 4.0, 6.0]
    assert tape.gradient([y, z], x).numpy().tolist() == [4.0, 6.0, 8.0]
    assert tape.gradient(y, x, np.array([1.0, 0.0, -1.0])).numpy().tolist() == [2.0, 0.0, -6.0]
    given = tape.gradient([y, z], x, [mr.ops.ones((3,)), {"z": (np.array([0.0, 1.0, 0.0]), 1.0)}])
    assert given.numpy().tolist() == [2.0, 6.0, 6.0]
    assert tape.gradient(y, x, [1.0, 0.0, -1.0]).numpy().tolist() == [2.0, 0.0, -6.0]
    assert tape.gradient(3.0, x) is None


def test_the_tape_may_be_asked_again_and_after_more_was_recorded() -> None:
    x = mr.Tensor(3.0)
    with taped(x) as tape:
        y = x * x
        assert tape.gradient(y, x).item() == 6.0
        z = y * x
    assert [tape.gradient(t, x).item() for t in (y, z, y)] == [6.0, 27.0, 6.0]
    with tape:
        w = z * x
    assert tape.gradient(w, x).item() == 108.0


def test_a_source_may_be_a_result_on_the_way() -> None:
    x = mr.Tensor([1.0, 2.0])
    with taped(x) as tape:
        y = x * 3.0
        z = (y * y).sum() + x.sum()
    gx, gy = tape.gradient(z, [x, y])
    assert gx.numpy().tolist() == [19.0, 37.0]
    assert gy.numpy().tolist() == [6.0, 12.0]
    assert tape.gradient(x, x).numpy().tolist() == [1.0, 1.0]


def test_a_gradient_inside_the_block_is_recorded() -> None:
    x = mr.Tensor(2.0, "float64")
    with taped(x) as tape:
        y = x * x * x
        g = tape.gradient(y, x)
        gg = tape.gradient(g, x)
    assert [t.item() for t in (g, gg, tape.gradient(gg, x))] == [12.0, 12.0, 6.0]


def test_a_gradient_outside_the_block_is_not_recorded() -> None:
    x = mr.Tensor(2.0)
    with taped(x) as tape:
        y = x * x
    count = len(tape.nodes)
    tape.gradient(y, x)
    assert len(tape.nodes) == count


def test_trainable_variables_are_watched_by_themselves() -> None:
    w, b = mr.Variable([1.0, 2.0], name="w"), mr.Variable([0.5, 0.5], trainable=False)
    with mr.Tape() as tape:
        loss = (w * w * b).sum()
    assert tape.gradient(loss, w).numpy().tolist() == [1.0, 2.0]
    assert tape.gradient(loss, b) is None
    with mr.Tape() as tape:
        tape.watch(b)
        loss = (w * w * b).sum()
    assert tape.gradient(loss, [b])[0].numpy().tolist() == [1.0, 4.0]
    w.trainable = False
    with mr.Tape() as tape:
        loss = (w * w).sum()
    assert tape.gradient(loss, w) is None and tape.nodes == []


def test_a_source_that_was_not_watched_has_no_gradient_rather_than_a_part_of_it() -> None:
    x, w = mr.Tensor(3.0), mr.Variable(2.0)
    with mr.Tape() as tape:
        squared = x * x
        y = w * x + squared
    assert tape.gradient(y, [x, squared, w])[:2] == [None, None]


def test_assign_after_recording_changes_no_gradient() -> None:
    w = mr.Variable([1.0, 2.0])
    with mr.Tape() as tape:
        y = (w * w).sum()
        w.assign([10.0, 20.0])
        z = (w * 3.0).sum()
    w.assign(w * 0.0)
    assert tape.gradient(y, w).numpy().tolist() == [2.0, 4.0]
    assert tape.gradient(z, w).numpy().tolist() == [3.0, 3.0]
    assert tape.gradient([y, z], w).numpy().tolist() == [5.0, 7.0]
    assert w.numpy().tolist() == [0.0, 0.0]


def test_changing_arrays_in_place_changes_no_gradient() -> None:
    a, b = np.array([1.0, 2.0]), np.array([5.0, 7.0])
    listed = [3.0, 4.0]
    x, w = mr.Tensor(a), mr.Variable(a)
    with taped(x) as tape:
        y = x * x * b * mr.Tensor(listed, "float64") + w
    a[:] = b[:] = 100.0
    listed[0] = 100.0
    assert tape.gradient(y, x).numpy().tolist() == [30.0, 112.0]
    assert w.numpy().tolist() == x.numpy().tolist() == [1.0, 2.0]
    mine = x.numpy()
    mine[:] = 9.0
    assert x.numpy().tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(x)[0] = 1.0
    with pytest.raises(TypeError):
        x[0] = 1.0  # type: ignore[index]


def test_views_of_a_tensor_cannot_be_written() -> None:
    x = mr.Tensor(np.ones((2, 3)))
    for view in (x.T, x[0], x.reshape(6), ops.broadcast_to(x, (4, 2, 3)), ops.stop_gradient(x)):
        assert not np.asarray(view).flags.writeable
    assert np.array(x, copy=True).flags.writeable
    assert np.asarray(x, "float32").dtype == np.float32


def test_outside_of_a_tape_nothing_is_kept() -> None:
    x = mr.Variable(np.ones(3))
    middle = x * 2.0
    alive = weakref.ref(middle)
    out = middle + 1.0
    del middle
    gc.collect()
    assert alive() is None and out.shape == (3,)
    with mr.Tape() as tape:
        constant = mr.Tensor(np.ones(3)) * 2.0
    assert tape.nodes == []
    with mr.Tape():
        recorded = x * 2.0
        alive = weakref.ref(recorded)
        del recorded
        assert alive() is not None
    gc.collect()
    assert constant.shape == (3,)


def test_a_tape_that_is_let_go_frees_its_values_at_once() -> None:
    x = mr.Variable(np.ones(3))
    with mr.Tape() as tape:
        alive = weakref.ref(x * 2.0)
    gc.disable()
    try:
        assert alive() is not None
        del tape
        assert alive() is None  # no cycles: reference counting suffices
    finally:
        gc.enable()


def test_stop_gradient_and_integers_end_the_way() -> None:
    x = mr.Tensor([1.0, 2.0])
    with taped(x) as tape:
        y = (x * ops.stop_gradient(x)).sum()
        k = ops.argmax(x)
        z = (x * ops.cast(k, "float32")).sum()
    assert tape.gradient(y, x).numpy().tolist() == [1.0, 2.0]
    assert tape.gradient(z, x).numpy().tolist() == [1.0, 1.0]
    assert tape.gradient(y, k) is None
    with pytest.raises(GradientError, match="int64"):
        tape.gradient(k, x)


def test_a_value_used_many_times_gets_the_sum() -> None:
    x = mr.Tensor(2.0)
    with taped(x) as tape:
        y = x * x + x * x * x + x
    assert tape.gradient(y, x).item() == 4 + 12 + 1


def test_tapes_inside_tapes_see_the_same_operations() -> None:
    x, w = mr.Tensor(2.0), mr.Variable(3.0)
    with taped(x) as outer:
        a = x * w
        with mr.Tape() as inner:
            b = a * w
        c = b * x
    assert inner.gradient(b, w).item() == 6.0
    assert inner.gradient(b, x) is None
    assert outer.gradient(c, [x, w])[0].item() == 2 * 2 * 9
    assert outer.gradient(c, w).item() == 2 * 4 * 3


def chain_seconds(count: int) -> tuple[float, float]:
    x = mr.Variable(1.0, "float64")
    start = time.process_time()
    with mr.Tape() as tape:
        y = x * 1.0
        for _ in range(count):
            y = y * 0.9999
    middle = time.process_time()
    slope = tape.gradient(y, x)
    end = time.process_time()
    np.testing.assert_allclose(slope, 0.9999**count, rtol=1e-10)
    return middle - start, end - middle


def test_ten_thousand_operations_neither_recurse_nor_slow_down() -> None:
    chain_seconds(100)
    # Processor time, the best of several runs: other work on the machine only ever adds to it.
    short = np.min([chain_seconds(2_500) for _ in range(4)], axis=0)
    long = np.min([chain_seconds(10_000) for _ in range(3)], axis=0)
    assert (long <= 4 * 2.0 * short).all(), (short, long)


def test_ten_thousand_operations_twice_differentiated() -> None:
    def f(x: Any) -> Any:
        y = x
        for _ in range(2_500):
            y = y + 0.0001 * x * y
        return y

    factor = 1 + 0.0001 * 0.5
    got = mr.grad(mr.grad(f))(0.5).item()
    n, e = 2_500, 0.0001
    want = 2 * n * e * factor ** (n - 1) + 0.5 * n * (n - 1) * e * e * factor ** (n - 2)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_threads_have_their_own_tapes() -> None:
    w = mr.Variable([1.0, 2.0])
    ready, results = threading.Barrier(2), {}

    def work(name: str, factor: float) -> None:
        with mr.Tape() as tape:
            ready.wait(10)
            y = (w * factor).sum()
            ready.wait(10)
        results[name] = (len(tape.nodes), tape.gradient(y, w).numpy().tolist())

    threads = [threading.Thread(target=work, args=(str(f), f)) for f in (2.0, 3.0)]
    with mr.Tape() as mine:
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert results == {"2.0": (2, [2.0, 2.0]), "3.0": (2, [3.0, 3.0])}
    assert mine.nodes == []


def test_errors_in_a_block_leave_no_tape_behind() -> None:
    x = mr.Variable(1.0)
    with pytest.raises(ShapeError), mr.Tape() as tape:
        x + ops.ones((2,)) + ops.ones((3,))
    count = len(tape.nodes)
    x + 1.0
    assert len(tape.nodes) == count == 1


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda t, x, y: t.watch(np.ones(2)), ArgumentError, "ndarray"),
        (lambda t, x, y: t.gradient(y, np.ones(2)), ArgumentError, "a source"),
        (lambda t, x, y: t.gradient(y, [x, 2.0]), ArgumentError, "a source"),
        (lambda t, x, y: t.gradient(y, x, np.ones(3)), ShapeError, r"\(3,\)"),
        (lambda t, x, y: t.gradient([y, y], x, [np.ones(2)]), ArgumentError, "output_gradients"),
        (lambda t, x, y: t.gradient("loss", x), DtypeError, "numbers"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], match: str) -> None:
    x = mr.Tensor([1.0, 2.0])
    with taped(x) as tape:
        y = x * x
    with pytest.raises(error, match=match):
        call(tape, x, y)


def test_variables() -> None:
    w = mr.Variable([[1, 2.5]], name="w")
    assert (w.shape, w.dtype, w.name, w.trainable) == ((1, 2), np.float32, "w", True)
    assert w.assign(np.array([[3.0, 4.0]])) is w and w.dtype == np.float32
    assert mr.Variable(np.ones(2)).dtype == np.float64
    assert mr.Variable(np.float64(1)).dtype == np.float64
    with pytest.raises(ShapeError, match="'?w'?: assign"):
        w.assign([1.0, 2.0])
    assert w.numpy().tolist() == [[3.0, 4.0]]
    assert "Variable" in repr(w) and "w" in repr(w)
    for other in (copy.copy(w), copy.deepcopy(w)):
        other.assign([[0.0, 0.0]])
        assert w.numpy().tolist() == [[3.0, 4.0]]


def test_what_is_read_from_a_variable_stays() -> None:
    w = mr.Variable([1.0])
    read = ops.reshape(w, (1,))
    w.assign([2.0])
    assert (read.numpy().tolist(), ops.reshape(w, (1,)).numpy().tolist()) == ([1.0], [2.0])


def test_tensors_as_python_values() -> None:
    t = mr.Tensor([[1.0, 2.0]])
    assert (t.ndim, t.size, len(t), bool(mr.Tensor(0.0)), int(mr.Tensor(3)), float(mr.Tensor(2.5))) == (
        2,
        2,
        1,
        False,
        3,
        2.5,
    )
    assert [row.numpy().tolist() for row in t] == [[1.0, 2.0]]
    assert f"{mr.Tensor(2.5):.2f}" == "2.50"
    assert [10, 20, 30][mr.Tensor(1)] == 20
    assert hash(t) == hash(t) and t in {t: 1}
    with pytest.raises(ShapeError, match="len"):
        len(mr.Tensor(1.0))
    with pytest.raises(ValueError):
        bool(t)
    assert repr(mr.Tensor([1.5], name="a")) == "Tensor([1.5], shape=(1,), dtype=float32, name='a')"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("text", DtypeError),
        ([1, "a"], DtypeError),
        ([[1.0], [1.0, 2.0]], ArgumentError),
        ({}, DtypeError),
        (None, DtypeError),
    ],
)
def test_what_is_no_tensor(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        mr.Tensor(value)


def test_a_list_of_tensors_does_not_detach_silently() -> None:
    x = mr.Tensor(1.0)
    for use in (mr.Tensor, ops.sum, lambda v: ops.add(v, 1.0), lambda v: x + v):
        with pytest.raises(ArgumentError, match="stack"):
            use([x, x])
    with pytest.raises(ArgumentError, match="number"):
        ops.full((2,), x)  # type: ignore[arg-type]


def test_tensors_of_a_trace_have_no_values() -> None:
    from minirnn.autodiff.trace import abstract

    t = abstract((2, 3), "float32", "hidden")
    assert t.is_abstract and repr(t) == "Tensor(abstract, shape=(2, 3), dtype=float32, name='hidden')"
    for use in (np.asarray, float, bool, int, lambda t: t.numpy(), lambda t: t + 1.0, lambda t: f"{t:.1f}"):
        with pytest.raises(TraceError):
            use(t)
