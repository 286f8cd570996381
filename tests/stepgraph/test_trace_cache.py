"""Steps are traced once, and traced again whenever something that they can see has changed."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import enum
import functools
import gc
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import ops
from minirnn.stepgraph import trace as trace_module

SCALE = 2.0
SETTINGS = types.ModuleType("settings_of_a_user")


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A list that gets one entry for every step that is traced."""
    made: list[int] = []
    original = trace_module._trace

    def counted(*args: Any) -> Any:
        made.append(1)
        return original(*args)

    monkeypatch.setattr(trace_module, "_trace", counted)
    monkeypatch.setattr(trace_module, "_cache", collections.OrderedDict())
    yield made


XS = np.array([[1.0], [2.0], [4.0]])
INIT = np.zeros(1)


def total(step: Callable[..., Any], xs: Any = XS, engine: str = "numpy") -> float:
    return mr.scan(step, INIT, xs, engine=engine)[0].item()


def adding(scale: Callable[[Any], Any]) -> Callable[..., Any]:
    """A step whose result shows what `scale` gives: 7 times it."""
    return lambda carry, x: (carry + scale(x) * x, None)


def test_the_same_step_is_traced_once(traces: list[int]) -> None:
    step = adding(lambda x: 3.0)
    assert [total(step) for _ in range(3)] == [21.0] * 3
    assert len(traces) == 1


def test_an_equal_step_made_anew_is_not_traced_again(traces: list[int]) -> None:
    assert [total(adding(lambda x: 3.0)) for _ in range(3)] == [21.0] * 3
    assert len(traces) == 1


def test_another_shape_or_dtype_is_another_trace(traces: list[int]) -> None:
    step = adding(lambda x: 3.0)
    total(step)
    mr.scan(step, np.zeros(2), np.ones((3, 2)))
    mr.scan(step, np.zeros(1, np.float32), np.ones((3, 1), np.float32))
    assert len(traces) == 3
    assert total(step, np.ones((9, 1))) == 27.0  # another length is not
    assert len(traces) == 3


def test_a_captured_number_that_changes() -> None:
    for number in (2.0, 3.0, 2, True, np.float64(5.0), np.array(6.0), 2.0):
        assert total(adding(lambda x, n=number: n)) == 7.0 * float(number)
    step_sees = 2.0

    def scale(x: Any) -> Any:
        return step_sees

    assert total(adding(scale)) == 14.0
    step_sees = 5.0
    assert total(adding(scale)) == 35.0


def test_numbers_that_compare_equal_are_told_apart() -> None:
    def copies(zero: float) -> Any:
        return mr.scan(lambda c, x: (c, np.copysign(1.0, zero) * x), INIT, XS)[1].numpy().ravel().tolist()

    assert copies(0.0) == [1.0, 2.0, 4.0]
    assert copies(-0.0) == [-1.0, -2.0, -4.0]

    def kinds(number: Any) -> Any:
        return mr.scan(lambda c, x: (c, float(isinstance(number, bool)) * x), INIT, XS)[1].numpy().ravel().tolist()

    assert kinds(1) == [0.0, 0.0, 0.0]
    assert kinds(True) == [1.0, 2.0, 4.0]


def test_nan_is_equal_to_itself_as_a_captured_number(traces: list[int]) -> None:
    for _ in range(3):
        total(adding(lambda x, n=float("nan"): n))
    assert len(traces) == 1


def test_a_global_number_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    step = adding(lambda x: SCALE)
    assert total(step) == 14.0
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert total(step) == 21.0


def test_a_number_in_a_module_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    SETTINGS.scale = 2.0
    SETTINGS.inner = types.ModuleType("settings_of_a_user.inner")
    SETTINGS.inner.offset = 1.0
    step = adding(lambda x: SETTINGS.scale + SETTINGS.inner.offset)
    assert total(step) == 21.0
    SETTINGS.scale = 4.0
    assert total(step) == 35.0
    SETTINGS.inner.offset = 2.0
    assert total(step) == 42.0


def helper(x: Any) -> Any:
    return 2.0


def test_a_function_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    step = adding(lambda x: helper(x))
    assert total(step) == 14.0
    monkeypatch.setitem(globals(), "helper", lambda x: 5.0)
    assert total(step) == 35.0


def test_default_arguments_and_function_attributes_that_change() -> None:
    def scale(x: Any, factor: float = 2.0, *, offset: float = 1.0) -> Any:
        return factor + offset + scale.extra

    scale.extra = 0.0
    step = adding(scale)
    assert total(step) == 21.0
    scale.__defaults__ = (3.0,)
    assert total(step) == 28.0
    scale.__kwdefaults__ = {"offset": 4.0}
    assert total(step) == 49.0
    scale.extra = 1.0
    assert total(step) == 56.0


class Plain:
    shared = 1.0

    def __init__(self, value: float) -> None:
        self.value = value
        self.me = self  # a cycle

    @property
    def doubled(self) -> float:
        return 2.0 * self.value * Plain.shared

    @staticmethod
    def fixed() -> float:
        return SCALE

    @classmethod
    def of_the_class(cls) -> float:
        return cls.shared

    def __call__(self, carry: Any, x: Any) -> Any:
        return carry + self.value * x, None


class Slotted:
    __slots__ = ("__hidden", "value")

    def __init__(self, value: float) -> None:
        self.value = self.__hidden = value

    def product(self) -> float:
        return self.value * self.__hidden


class Number(float):
    pass


class Level(enum.Enum):
    LOW = 2.0
    HIGH = 3.0


def test_an_attribute_of_a_captured_object_that_changes() -> None:
    thing = Plain(2.0)
    step = adding(lambda x: thing.value)
    assert total(step) == 14.0
    thing.value = 3.0
    assert total(step) == 21.0
    assert total(thing) == 21.0  # an object as the step
    thing.value = 4.0
    assert total(thing) == 28.0
    assert total(thing.__call__) == 28.0  # a method


def test_what_a_class_holds_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    thing = Plain(2.0)
    by_property, by_method = adding(lambda x: thing.doubled), adding(lambda x: thing.of_the_class())
    by_static, by_class = adding(lambda x: thing.fixed()), adding(lambda x: Plain.shared)
    assert [total(s) for s in (by_property, by_method, by_static, by_class)] == [28.0, 7.0, 14.0, 7.0]
    monkeypatch.setattr(Plain, "shared", 2.0)
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    assert [total(s) for s in (by_property, by_method, by_static, by_class)] == [56.0, 14.0, 35.0, 14.0]
    monkeypatch.setattr(Plain, "doubled", property(lambda self: 1.0))
    assert total(by_property) == 7.0


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (lambda n: [n], lambda box: box[0]),
        (lambda n: {"a": [0.0, (n,)]}, lambda box: box["a"][1][0]),
        (lambda n: {n}, lambda box: next(iter(box))),
        (lambda n: collections.deque([n]), lambda box: box[0]),
        (lambda n: types.SimpleNamespace(n=n), lambda box: box.n),
        (lambda n: types.MappingProxyType({"n": n}), lambda box: box["n"]),
        (lambda n: functools.partial(pow, n), lambda box: box(1)),
        (lambda n: functools.partial(lambda a, b: a, b=n, a=n), lambda box: box()),
        (lambda n: collections.namedtuple("Pair", "n m")(n, 0), lambda box: box.n),
        (lambda n: range(int(n)), lambda box: float(len(box))),
        (lambda n: slice(0, int(n)), lambda box: float(box.stop)),
        (lambda n: Slotted(n**0.5), lambda box: round(box.product(), 9)),
        (lambda n: Number(n), lambda box: float(box)),
        (lambda n: Level(n), lambda box: box.value),
        (lambda n: np.dtype("f8") if n == 2.0 else np.dtype("f4"), lambda box: 2.0 if box == "f8" else 3.0),
        (lambda n: collections.OrderedDict(n=n), lambda box: box["n"]),
        (lambda n: {"n": n}.get, lambda box: box("n")),
        (lambda n: weakref.ref(Plain(n)) if False else (lambda: n), lambda box: box()),
    ],
)
def test_numbers_in_containers_and_wrappers(make: Any, read: Any) -> None:
    for number in (2.0, 3.0, 2.0):
        box = make(number)
        assert total(adding(lambda x, box=box: read(box))) == 7.0 * number


def test_a_container_changed_in_place() -> None:
    box: dict[str, Any] = {"scales": [2.0]}
    step = adding(lambda x: sum(box["scales"]))
    assert total(step) == 14.0
    box["scales"].append(1.0)
    assert total(step) == 21.0


def test_a_context_variable_that_changes() -> None:
    scale = contextvars.ContextVar("scale", default=2.0)
    step = adding(lambda x: scale.get())
    assert total(step) == 14.0
    token = scale.set(3.0)
    assert total(step) == 21.0
    scale.reset(token)
    assert total(step) == 14.0


def test_hidden_state_is_never_taken_for_known(traces: list[int]) -> None:
    numbers = iter([2.0, 3.0, 4.0])
    step = adding(lambda x: next(numbers))
    assert [total(step) for _ in range(3)] == [14.0, 21.0, 28.0]
    rng = np.random.default_rng(3)
    step = adding(lambda x: rng.integers(100) * 1.0)
    assert len({total(step) for _ in range(5)}) > 1
    step = adding(lambda x, draw=rng.random: draw())
    assert len({total(step) for _ in range(3)}) == 3


def test_a_lock_or_a_logger_among_the_attributes_does_no_harm(traces: list[int]) -> None:
    thing = Plain(2.0)
    thing.lock = threading.Lock()  # type: ignore[attr-defined]
    for _ in range(3):
        assert total(adding(lambda x: thing.value)) == 14.0
    assert len(traces) == 1


def test_an_assigned_variable_gives_its_new_value(traces: list[int]) -> None:
    weight = mr.Variable([2.0], dtype="float64")
    step = adding(lambda x: weight)
    assert total(step) == 14.0
    weight.assign([3.0])
    assert total(step) == 21.0
    assert len(traces) == 1


def test_a_value_read_before_an_assign_stays_as_it_was() -> None:
    weight = mr.Variable([2.0], dtype="float64")
    before = weight.read()
    step = adding(lambda x: before)
    assert total(step) == 14.0
    weight.assign([3.0])
    assert total(step) == 14.0
    assert total(adding(lambda x: weight.read())) == 21.0


def test_an_array_changed_in_place_gives_its_new_values(traces: list[int]) -> None:
    array = np.array([2.0])
    step = adding(lambda x: array)
    assert total(step) == 14.0
    array[0] = 3.0
    assert total(step) == 21.0
    assert len(traces) == 1
    number = np.array(2.0)
    step = adding(lambda x: number)
    assert total(step) == 14.0
    number[()] = 3.0  # without axes it is a number, and part of the trace
    assert total(step) == 21.0


def test_fresh_tensors_of_the_same_shape_need_no_new_trace(traces: list[int]) -> None:
    for value in (2.0, 3.0, 4.0):
        weight, array = mr.Tensor(np.array([value])), np.array([value])
        assert total(adding(lambda x, w=weight, a=array: w + a)) == 14.0 * value
    assert len(traces) == 1


def test_the_same_tensor_twice_is_not_two_tensors() -> None:
    a, b = mr.Tensor(np.array([2.0])), mr.Tensor(np.array([3.0]))
    for left, right in ((a, a), (a, b), (b, a), (b, b)):
        assert total(adding(lambda x, p=left, q=right: p - 2.0 * q)) == 7.0 * (left.item() - 2.0 * right.item())


def test_gradients_go_to_the_tensors_of_this_call() -> None:
    def step_of(weight: Any) -> Any:
        return adding(lambda x: weight * weight)

    for value in (2.0, 3.0):
        weight = mr.Variable([value], dtype="float64")
        with mr.Tape() as tape:
            out = mr.scan(step_of(weight), INIT, XS)[0].sum()
        assert tape.gradient(out, weight).item() == 14.0 * value


def test_a_list_of_numbers_in_the_step_is_part_of_the_trace(traces: list[int]) -> None:
    numbers = [2.0, 3.0]

    def step(carry: Any, x: Any) -> Any:
        return carry + ops.sum(ops.multiply(numbers, x)), None

    with mr.default_dtype("float64"):
        assert [total(step) for _ in range(3)] == [35.0] * 3
        numbers[0] = 4.0
        assert total(step) == 49.0
    assert len(traces) == 2


def test_an_array_made_by_the_step_has_its_values_of_this_call() -> None:
    values = [2.0]

    class Maker:
        def make(self) -> Any:
            return np.array(values)

    maker = Maker()
    step = adding(lambda x: maker.make())
    assert total(step) == 14.0
    values[0] = 3.0
    assert total(step) == 21.0


def test_the_default_dtype_is_part_of_the_trace() -> None:
    def step(carry: Any, x: Any) -> Any:
        return carry, ops.cast(x, "int64") * 1.5

    for dtype in ("float32", "float64", "float32"):
        with mr.default_dtype(dtype):
            assert mr.scan(step, INIT, XS)[1].dtype == dtype


def test_the_engine_of_inner_scans_is_part_of_the_trace() -> None:
    def inner(carry: Any, x: Any) -> Any:
        return carry + x, None

    def step(carry: Any, x: Any) -> Any:
        return mr.scan(inner, carry, ops.stack([x, x]))[0], None

    kinds = []
    for engine in ("numpy", "reference"):
        with mr.engine(engine), mr.engine("numpy") if engine == "numpy" else contextlib.nullcontext():
            kinds.append(total(step))
    assert kinds == [14.0, 14.0]


def test_self_references_and_deep_nesting_end() -> None:
    loop: list[Any] = [2.0]
    loop.append(loop)
    assert total(adding(lambda x: loop[1][1][0])) == 14.0
    chain: Any = None
    for _ in range(5000):
        chain = (chain, 1.0)
    assert total(adding(lambda x: chain[1])) == 7.0

    def recursive(x: Any, n: int = 3) -> Any:
        return 1.0 if n == 0 else recursive(x, n - 1) + 1.0

    assert total(adding(recursive)) == 28.0


def test_a_step_that_reaches_very_much_is_traced_each_time(traces: list[int]) -> None:
    much = [[float(i)] for i in range(30_000)]
    step = adding(lambda x: much[2][0])
    assert [total(step), total(step)] == [14.0, 14.0]
    assert len(traces) == 2


def test_the_cache_is_bounded(traces: list[int]) -> None:
    def step_of(number: float) -> Any:
        return adding(lambda x: number)

    for number in range(trace_module._CACHE_SIZE + 40):
        total(step_of(float(number)))
    assert len(trace_module._cache) == trace_module._CACHE_SIZE
    before = len(traces)
    total(step_of(float(number)))  # the newest is still there
    assert len(traces) == before


@pytest.mark.parametrize("kind", ["tensor", "variable", "array", "object"])
@pytest.mark.parametrize("checkpoint", [None, 2])
def test_the_cache_keeps_no_arrays_alive(kind: str, checkpoint: int | None) -> None:
    def run() -> weakref.ref[Any]:
        array = np.full((1, 1), 2.0)
        weight: Any = {"tensor": mr.Tensor, "variable": mr.Variable, "array": np.asarray}.get(kind, Plain)(array)
        held = weight.value if kind == "object" else weight

        def step(carry: Any, x: Any) -> Any:
            return carry + ops.matmul(ops.expand_dims(x, 0), held)[0], None

        with mr.Tape() as tape:
            xs = mr.Tensor(XS)
            tape.watch(xs)
            out = mr.scan(step, INIT, xs, checkpoint=checkpoint)[0].sum()
            tape.gradient(out, xs)
        return weakref.ref(weight)

    alive = run()
    gc.collect()
    assert alive() is None


def test_two_threads_may_trace_at_once() -> None:
    failures: list[Exception] = []

    def work(seed: int) -> None:
        try:
            for number in range(150):
                n = float((number * 7 + seed) % 40)
                assert total(adding(lambda x, n=n: n)) == 7.0 * n
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
