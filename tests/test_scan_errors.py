"""What is wrong with a call of `scan` is said in the caller's terms, before anything runs, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import errors, ops
from minirnn.autodiff import random, tensor
from minirnn.stepgraph import trace as trace_module

from .stepgraph.steps import example, numbers

B, T, F, U = 3, 7, 4, 6
ENGINES = ("reference", "numpy")


@pytest.fixture(autouse=True)
def nothing_is_changed() -> Any:
    """Recorders, random numbers and the memory of traces are as before, and a good scan still runs."""
    mr.scan(*example("gru"))
    before = set(trace_module._cache)
    state = random.get_state()
    yield
    assert tensor.current_trace() is None and not tensor.is_recording()
    assert random.get_state() == state
    assert random.current_source() is None
    assert set(trace_module._cache) <= before
    mr.scan(*example("gru"))


def raised(kind: type[Exception], match: str, step: Callable[..., Any], init: Any, xs: Any, **options: Any) -> Any:
    with pytest.raises(kind, match=match) as caught:
        mr.scan(step, init, xs, **options)
    assert isinstance(caught.value, errors.MinirnnError)
    return caught.value


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("kind", "match", "step", "expected"),
    [
        (errors.ShapeError, "the carry changes its shape", lambda h, x: (ops.concatenate([h, x], -1), h), (B, U)),
        (errors.ShapeError, "the carry changes its shape", lambda h, x: (h.sum(axis=0), h), (B, U)),
        (errors.ShapeError, "the carry changes its shape", lambda h, x: (0.0, h), (B, U)),
        (errors.DtypeError, "the carry changes its dtype", lambda h, x: (h.astype("float32"), h), "float64"),
        (errors.DtypeError, "the carry changes its dtype", lambda h, x: (h > 0, h), "float64"),
        (errors.ShapeError, "another structure", lambda h, x: ((h, h), h), r"\*"),
        (errors.ShapeError, "another structure", lambda h, x: (None, h), r"\*"),
        (errors.ShapeError, "another structure", lambda h, x: ({"h": h}, h), r"\*"),
        (errors.TraceError, "must return", lambda h, x: h, "pair"),
        (errors.TraceError, "must return", lambda h, x: (h, h, h), "pair"),
        (errors.TraceError, "must return", lambda h, x: None, "pair"),
        (errors.TraceError, "must return", lambda h, x: {"h": h, "y": h}, "pair"),
    ],
)
def test_what_the_step_returns(kind: type[Exception], match: str, step: Any, expected: Any, engine: str) -> None:
    error = raised(kind, match, step, numbers(B, U), numbers(T, B, F), engine=engine)
    assert error.got is not None
    assert str(expected).strip("\\") in str(error)


@pytest.mark.parametrize("engine", ENGINES)
def test_of_several_carries_the_wrong_one_is_named(engine: str) -> None:
    init = numbers(B, U), numbers(B, 2)
    error = raised(
        errors.ShapeError, "leaf 1 of the carry", lambda c, x: ((c[0], c[0]), None), init, numbers(T, B), engine=engine
    )
    assert str((B, 2)) in str(error) and str((B, U)) in str(error)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("kind", "match", "xs", "options"),
    [
        (errors.ShapeError, "different lengths", (numbers(T, B), numbers(T + 1, B)), {}),
        (errors.ShapeError, "without a time axis", (numbers(T, B), np.zeros(())), {}),
        (errors.ArgumentError, "length is needed", None, {}),
        (errors.ArgumentError, "length is needed", (), {}),
        (errors.ArgumentError, "length", numbers(T, B), {"length": T + 1}),
        (errors.ArgumentError, "length", None, {"length": -1}),
        (errors.ArgumentError, "length", None, {"length": 2.5}),
        (errors.ArgumentError, "length", None, {"length": True}),
        (errors.ArgumentError, "length", None, {"length": "7"}),
        (errors.ArgumentError, "checkpoint", numbers(T, B), {"checkpoint": 0}),
        (errors.ArgumentError, "checkpoint", numbers(T, B), {"checkpoint": -2}),
        (errors.ArgumentError, "checkpoint", numbers(T, B), {"checkpoint": 1.5}),
        (errors.ArgumentError, "checkpoint", numbers(T, B), {"checkpoint": True}),
        (errors.DtypeError, "holds numbers", np.array(["a", "b"]), {}),
    ],
)
def test_wrong_arguments(kind: type[Exception], match: str, xs: Any, options: dict[str, Any], engine: str) -> None:
    error = raised(kind, match, lambda h, x: (h, h), numbers(B, U), xs, engine=engine, **options)
    assert error.got is not None and error.expected is not None


@pytest.mark.parametrize("engine", ["nunpy", "", "gpu", None])
def test_an_unknown_engine_is_named_with_those_there_are(engine: str | None) -> None:
    if engine is None:
        mr.scan(*example("gru"), engine=None)
        return
    error = raised(errors.ArgumentError, "unknown engine", *example("gru"), engine=engine)
    assert repr(engine) in str(error) and "reference" in str(error) and "numpy" in str(error)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("step", [None, 3, "tanh"])
def test_a_step_that_is_no_function(step: Any, engine: str) -> None:
    raised(errors.ArgumentError, "step", step, numbers(B, U), numbers(T, B, F), engine=engine)


def looks_with_if(h: Any, x: Any) -> Any:
    return (h * 2 if ops.any(x > 0) else h), None


def looks_with_float(h: Any, x: Any) -> Any:
    return h * float(x.sum()), None


def looks_with_int(h: Any, x: Any) -> Any:
    return h * [1.0, 2.0][int(x.sum()) * 0], None


def looks_with_numpy(h: Any, x: Any) -> Any:
    return h * np.asarray(x).sum(), None


def looks_with_copy(h: Any, x: Any) -> Any:
    return h * x.numpy().sum(), None


def looks_with_item(h: Any, x: Any) -> Any:
    return h * x[0, 0].item(), None


def looks_while_running(h: Any, x: Any) -> Any:
    while ops.sum(h) < 1.0:
        h = h + 1.0
    return h, None


LOOKING = [
    looks_with_if, looks_with_float, looks_with_int, looks_with_numpy, looks_with_copy, looks_with_item,
    looks_while_running,
]  # fmt: skip


@pytest.mark.parametrize("step", LOOKING)
def test_a_step_that_looks_at_values_names_the_engine_that_lets_it(step: Any) -> None:
    init, xs = numbers(B, U), numbers(T, B, F)
    error = raised(errors.TraceError, "values", step, init, xs, engine="numpy")
    assert 'engine="reference"' in str(error)
    carry, _ = mr.scan(step, init, xs, engine="reference")
    wanted = init
    for x in xs:
        wanted, _ = step(mr.Tensor(wanted), mr.Tensor(x))
    assert np.allclose(carry, wanted, rtol=1e-12)


@pytest.mark.parametrize("step", LOOKING)
def test_the_reference_engine_lets_it_look_even_if_there_is_no_step(step: Any) -> None:
    carry, ys = mr.scan(step, numbers(B, U), numbers(0, B, F), engine="reference")
    assert np.array_equal(carry, numbers(B, U)) and ys is None


def test_printing_inside_a_step_shows_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    def step(h: Any, x: Any) -> Any:
        print("x is", x, f"{x}")
        return h, None

    mr.scan(step, numbers(B, U), numbers(T, B, F), engine="numpy")
    shown = capsys.readouterr().out
    assert "abstract" in shown and "(3, 4)" in shown
    trace_module._cache.clear()


@pytest.mark.parametrize("engine", ENGINES)
def test_float32_never_meets_float64(engine: str) -> None:
    weights = mr.Tensor(numbers(F, U), dtype="float32", name="kernel")
    error = raised(
        errors.DtypeError, "float32", lambda h, x: (h + x @ weights, h), numbers(B, U), numbers(T, B, F), engine=engine
    )
    assert "float64" in str(error) and "cast" in str(error)
    init = numbers(B, F).astype("float32")
    error = raised(
        errors.DtypeError, "float32 meets float64", lambda h, x: (h + x, h), init, numbers(T, B, F), engine=engine
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_shapes_inside_the_step_are_explained(engine: str) -> None:
    w = numbers(F + 1, U)
    error = raised(
        errors.ShapeError, "inner sizes", lambda h, x: (h + x @ w, h), numbers(B, U), numbers(T, B, F), engine=engine
    )
    assert str((B, F)) in str(error) and str((F + 1, U)) in str(error)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_error_of_the_step_itself_comes_through(engine: str) -> None:
    def step(h: Any, x: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        mr.scan(step, numbers(B, U), numbers(T, B, F), engine=engine)


def test_a_tensor_that_leaves_its_step_is_refused_later() -> None:
    kept: list[Any] = []

    def step(h: Any, x: Any) -> Any:
        kept.append(h * 2)
        return h, None

    mr.scan(step, numbers(B, U), numbers(T, B, F), engine="numpy")
    with pytest.raises(errors.TraceError, match="outside of the step"):
        kept[0] + 1
    with pytest.raises(errors.TraceError):
        mr.scan(lambda h, x: (h + kept[0], None), numbers(B, U), numbers(T, B, F), engine="numpy")
    trace_module._cache.clear()  # this one had nothing wrong with it
