"""A row's results have the same bits in any company, batch, thread count and cut of time, and on any processor."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minirnn as mr
from minirnn import ops
from minirnn.kernels import matmul, run
from minirnn.layers import LSTM, Dense, Input
from minirnn.models import Model

from . import same_bits_cases as cases
from .engine_cases import randomized
from .same_bits_cases import differing, forward, gradients, numbers, rows, same

ROOT = Path(__file__).parents[2]
SUBJECTS = [("lstm", "float32"), ("attention", "float32"), ("gru", "float64")]
MORE = [("lstm", "float64"), ("attention", "float64"), ("gru", "float32")]
each_subject = pytest.mark.parametrize(
    "name, dtype", [*SUBJECTS, *[pytest.param(*subject, marks=pytest.mark.slow) for subject in MORE]]
)
draws = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
sizes = st.one_of(st.integers(1, 6), st.integers(7, 70))


@pytest.fixture(autouse=True)
def _on_the_cpu_engine() -> Iterator[None]:
    with mr.engine("cpu"):
        yield


@pytest.fixture
def eager_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads start for work of any size."""
    monkeypatch.setattr(run, "_WORTH_A_THREAD", 1e-9)
    monkeypatch.setattr(matmul, "_PRODUCTS_WORTH_THREADS", 0)
    monkeypatch.setattr(matmul, "_ADDITIONS_WORTH_THREADS", 0)


def chosen(given_rows: Any, index: Any) -> Any:
    return {name: np.asarray(array)[index] for name, array in given_rows.items()}


# the checker -------------------------------------------------------------------------------------
def test_the_checker_sees_single_bits() -> None:
    x = numbers("float32", 3, 4)
    x[0, 0] = np.nan
    assert same(x, x.copy()) and same(x, np.where(np.isnan(x), -np.float32(np.nan), x))
    for wrong in (np.nextafter(x, np.float32(9)), x.astype("float64"), x.T, np.nan_to_num(x), x[:2], -x):
        assert not same(x, wrong)
    assert not same(np.zeros(2), -np.zeros(2)) and not same(np.arange(3), np.arange(3) + 1)


@pytest.mark.parametrize("name, dtype", SUBJECTS[:1])
def test_the_checker_sees_another_order_of_sums(name: str, dtype: str) -> None:
    """The same products added in another order: what it would be if a row's order depended on anything."""
    given_rows, turned = rows(name, dtype, 6, 3), cases.layer.__wrapped__(name, dtype)
    kernel, *others = cases.layer(name, dtype).get_weights()
    turned.set_weights([kernel[::-1], *others])
    right = forward(name, dtype, given_rows)
    y, *states = turned(given_rows["x"][:, :, ::-1], initial_state=[given_rows["h"], given_rows["c"]])
    assert differing({"y": y, "h": states[0], "c": states[1]}, right) == ["y", "h", "c"]
    np.testing.assert_allclose(y.numpy(), right["y"].numpy(), rtol=1e-3, atol=1e-3)


# rows --------------------------------------------------------------------------------------------
@each_subject
@draws
@given(batch=sizes, length=st.integers(1, 5), data=st.data())
def test_a_row_has_the_same_bits_in_any_company(name: str, dtype: str, batch: int, length: int, data: Any) -> None:
    given_rows = rows(name, dtype, batch, length)
    whole = forward(name, dtype, given_rows)
    index = data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=9))
    assert differing(forward(name, dtype, chosen(given_rows, index)), chosen(whole, index)) == []


@each_subject
def test_what_stands_in_other_rows_does_not_show(name: str, dtype: str) -> None:
    given_rows = rows(name, dtype, 21, 3)
    wanted = forward(name, dtype, given_rows)
    for value in (np.nan, np.inf, 1e30, -0.0):
        spoiled = {k: np.where(np.arange(21).reshape(-1, *[1] * (v.ndim - 1)) % 4 > 0, v.dtype.type(value), v)
                   for k, v in given_rows.items()}  # fmt: skip
        made = forward(name, dtype, spoiled)
        kept = np.arange(21) % 4 == 0
        assert differing(chosen(made, kept), chosen(wanted, kept)) == []


@draws
@given(st.lists(st.integers(0, 6), min_size=2, max_size=9), st.integers(0, 3), st.sampled_from([np.nan, 7.5]))
def test_padding_does_not_show(lengths: list[int], more: int, padding: float) -> None:
    """Each row alone, without a mask, and in a batch padded to any length."""
    longest = max(lengths) + more
    given_rows = rows("lstm", "float32", len(lengths), longest)
    mask = np.arange(longest) < np.array(lengths)[:, None]
    padded = {**given_rows, "x": np.where(mask[:, :, None], given_rows["x"], np.float32(padding))}
    made = forward("lstm", "float32", padded, mask=mask)
    for row, length in enumerate(lengths):
        alone = chosen(given_rows, [row])
        wanted = forward("lstm", "float32", {**alone, "x": alone["x"][:, :length]})
        of_row = chosen(made, [row])
        assert differing({**of_row, "y": of_row["y"][:, :length]}, wanted) == []


# time --------------------------------------------------------------------------------------------
@each_subject
@draws
@given(batch=st.integers(1, 9), length=st.integers(1, 40), data=st.data())
def test_any_cut_of_time_gives_the_same_bits(name: str, dtype: str, batch: int, length: int, data: Any) -> None:
    given_rows = rows(name, dtype, batch, length)
    whole = forward(name, dtype, given_rows)
    cuts = data.draw(st.sets(st.integers(1, length)) | st.just(set(range(1, length))))
    parts, states = [], given_rows
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), length], strict=True):
        made = forward(name, dtype, {**states, "x": given_rows["x"][:, begin:end]})
        states = {**states, **{k: v for k, v in made.items() if k in "hc"}}
        parts.append(made)
    joined = {k: np.concatenate([p[k].numpy() for p in parts], 1) if k.startswith("y") else states[k] for k in whole}
    assert differing(joined, whole) == []


@pytest.mark.parametrize("bytes_of_a_block", [1, 300_000])
def test_blocks_of_time_do_not_show(bytes_of_a_block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one step and of a few; with one row more, as the memory of a batch size is laid out once."""
    given_rows = rows("lstm", "float32", 80 + bytes_of_a_block % 2, 37)
    short = chosen(given_rows, slice(0, -1))
    wanted = forward("lstm", "float32", short)
    monkeypatch.setattr(run, "_BLOCK_BYTES", bytes_of_a_block)
    assert differing(chosen(forward("lstm", "float32", given_rows), slice(0, -1)), chosen(wanted, ...)) == []


# threads -----------------------------------------------------------------------------------------
@each_subject
@draws
@given(batch=sizes, length=st.integers(1, 5))
def test_threads_do_not_show(name: str, dtype: str, batch: int, length: int, eager_threads: None) -> None:
    given_rows = rows(name, dtype, batch, length)
    with mr.threads(1):
        wanted = forward(name, dtype, given_rows)
    for count in (2, 3):
        with mr.threads(count):
            assert differing(forward(name, dtype, given_rows), wanted) == []


@pytest.mark.parametrize("name, dtype", [SUBJECTS[0], *[pytest.param(*s, marks=pytest.mark.slow) for s in MORE]])
@settings(draws, max_examples=10)
@given(batch=st.integers(2, 70), length=st.integers(1, 9))
def test_gradients_do_not_show_threads(name: str, dtype: str, batch: int, length: int, eager_threads: None) -> None:
    given_rows = rows(name, dtype, batch, length)
    with mr.threads(1):
        wanted = gradients(name, dtype, given_rows)
    for count in (2, 3):
        with mr.threads(count):
            assert differing(gradients(name, dtype, given_rows), wanted) == []


# outside of a scan, and streams ------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@draws
@given(batch=sizes, length=st.integers(1, 4), count=st.integers(1, 3), data=st.data())
def test_heads_and_losses(dtype: str, batch: int, length: int, count: int, eager_threads: None, data: Any) -> None:
    """Dense, softmax, sums, elementary functions and the losses of single rows, on whole arrays."""
    with mr.default_dtype(dtype):
        dense = randomized(Dense(19), None, cases.U)
    x, classes = numbers(dtype, batch, length, cases.U), np.random.default_rng(0).integers(0, 19, (batch, length))

    def results(x: Any, classes: Any) -> Any:
        logits = dense(x)
        shares = ops.softmax(logits)
        return {
            "logits": logits, "softmax": shares, "log softmax": ops.log_softmax(logits), "sum": ops.sum(x, axis=(1, 2)),
            "tanh": ops.tanh(logits), "mean": ops.mean(logits, axis=-1), "logsumexp": ops.logsumexp(logits, axis=-1),
            "variance": ops.var(x, axis=(1, 2)), "max": ops.max(shares, axis=-1),
            "cross entropy": mr.losses.SparseCategoricalCrossentropy(reduction="none")(classes, shares),
            "square": mr.losses.MeanSquaredError(reduction="none")(x, ops.tanh(x)),
        }  # fmt: skip

    with mr.threads(1):
        whole = results(x, classes)
    index = data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=5))
    with mr.threads(count):
        assert differing(results(x, classes), whole) == []
        assert differing(results(x[index], classes[index]), chosen(whole, index)) == []


@pytest.mark.parametrize("batch", [1, 4])
def test_streams_give_the_bits_of_predict(batch: int) -> None:
    x = Input((None, cases.F))
    recurrent = LSTM(cases.U, return_sequences=True)
    model = Model(x, Dense(11, activation="softmax")(recurrent(x)))
    recurrent.set_weights(cases.layer("lstm", "float32").get_weights())
    data = numbers("float32", batch, 9, cases.F)
    whole = model.predict(data, verbose=0)
    stream = model.stream(batch_size=batch)
    assert same(np.stack([stream.push(data[:, t]) for t in range(9)], 1), whole)
    assert same(model.predict(data, batch_size=max(1, batch - 1), verbose=0), whole)


# other machines ----------------------------------------------------------------------------------
MACHINES = {"x86-64": "", "haswell": "+avx,+avx2,+fma"}


def check_on(machine: str, folder: Path, dtypes: str, names: list[str]) -> None:
    environment = {**os.environ, "NUMBA_CPU_NAME": machine, "NUMBA_CPU_FEATURES": MACHINES[machine]}
    command = [sys.executable, "-m", "tests.kernels.same_bits_cases", str(folder / "made.npz"), dtypes, *names]
    subprocess.run(command, cwd=ROOT, check=True, env=environment, timeout=900)
    here = cases.all_results(dtypes, *names)
    with np.load(folder / "made.npz") as there:
        assert differing(dict(there), here) == []


@pytest.mark.parametrize("machine", MACHINES)
def test_other_processors_give_the_same_bits(machine: str, tmp_path: Path) -> None:
    check_on(machine, tmp_path, "float32", ["lstm"])


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_other_processors_give_the_same_bits_of_everything(machine: str, tmp_path: Path) -> None:
    check_on(machine, tmp_path, "float32,float64", ["lstm", "gru", "attention"])


# sums over time ----------------------------------------------------------------------------------
@draws
@given(batch=st.integers(2, 9), length=st.integers(1, 40), batch_first=st.booleans())
def test_it_does_not_show_who_sums_over_time(batch: int, length: int, batch_first: bool) -> None:
    """Gradients of weights have the same bits in a kernel of few steps and from what it stacked for threads."""
    layer, x = subject_layer(batch_first), numbers("float32", *((batch, length) if batch_first else (length, batch)), 5)
    kernels = []
    make = run.Kernel.__call__

    def noted(kernel: Any, *arguments: Any) -> Any:
        kernels.append(kernel)
        return make(kernel, *arguments)

    def of_weights() -> Any:
        with mr.Tape() as tape:
            loss = (layer(x) ** 2).sum()
        return [np.asarray(g) for g in tape.gradient(loss, layer.trainable_variables)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Kernel, "__call__", noted)
        together = of_weights()
        (kernel,) = [k for k in kernels if k.graph.sums]
        assert length <= kernel.most_summed and None not in kernel.sum_places
        patch.setattr(kernel, "most_summed", 0)
        apart = of_weights()
    assert all(same(a, b) for a, b in zip(together, apart, strict=True))


@functools.cache
def subject_layer(batch_first: bool) -> Any:
    return LSTM(7, return_sequences=True, time_major=not batch_first)
