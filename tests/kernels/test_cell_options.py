"""The cells' options and resets, compiled: against the formulas, and the same bits whatever stands around a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.layers import GRU, LSTM
from tests.reference import subjects
from tests.reference.cells import Case, random_case
from tests.reference.checks import assert_agree

RIGHT = np.arange(7) < np.array([[4], [7], [1]])
HOLES = np.array([[0, 1, 0, 0, 1, 1, 0], [1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0]], bool)
RESETS = np.array([[0, 0, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 1]], bool)
ALL = {"peepholes": True, "proj_size": 2, "clip": 0.8, "zoneout": 0.2}


def case_of(kind: str, mask: Any, resets: Any, options: dict[str, Any], **changes: Any) -> Case:
    return random_case(kind, 81, mask=mask, resets=resets, options=options, **changes)


@pytest.mark.parametrize(
    ("kind", "mask", "resets", "options"),
    [
        pytest.param("lstm", HOLES, RESETS, ALL, marks=pytest.mark.slow),
        pytest.param("lstm", None, RESETS, {"input_forget": True}, marks=pytest.mark.slow),
        pytest.param("gru_reset_before", HOLES, RESETS, {"clip": 0.5}, marks=pytest.mark.slow),
        pytest.param("simple_rnn", None, RESETS, {"zoneout": 0.3}, marks=pytest.mark.slow),
    ],
    ids=["lstm all", "lstm resets", "gru", "simple"],
)
def test_compiled_equals_formulas(kind: str, mask: Any, resets: Any, options: dict[str, Any]) -> None:
    for go_backwards in (False, True):
        case = case_of(kind, mask, resets, options, go_backwards=go_backwards)
        assert_agree(subjects.layer(case, engine="cpu"), subjects.formulas_with_gradients(case), 1e-12)


@pytest.mark.slow
def test_padding_and_other_rows_change_no_bit() -> None:
    case = case_of("lstm", RIGHT, RESETS & RIGHT, ALL)
    whole = subjects.layer(case, "float32", "cpu")
    seen = {name for name in whole if not name.startswith("gradient of")} | {"gradient of x"}
    seen |= {name for name in whole if name.startswith("gradient of initial")}

    def padded(array: Any, rows: int, steps: int, fill: float) -> Any:
        width = [(0, rows), (0, steps), *[(0, 0)] * (array.ndim - 2)]
        return np.pad(array, width, constant_values=fill)

    larger = case.changed(
        x=padded(case.x, 2, 3, np.nan),
        mask=padded(case.mask, 2, 3, 0),
        resets=padded(case.resets, 2, 3, 0),
        cotangents=(padded(case.cotangents[0], 2, 3, 0.0), *(padded(ct, 2, 0, 0.0) for ct in case.cotangents[1:])),
        initial_states=tuple(padded(s, 2, 0, 0.5) for s in case.initial_states),
    )
    found = subjects.layer(larger, "float32", "cpu")
    for name in seen:
        rows = found[name][:3, :7] if whole[name].ndim == 3 else found[name][:3]
        np.testing.assert_array_equal(rows, whole[name], err_msg=name)
    for row in range(3):
        one = slice(row, row + 1)
        alone = subjects.layer(
            case.changed(
                x=case.x[one],
                mask=case.mask[one],
                resets=case.resets[one],
                cotangents=tuple(ct[one] for ct in case.cotangents),
                initial_states=tuple(s[one] for s in case.initial_states),
            ),
            "float32",
            "cpu",
        )
        for name in seen:
            np.testing.assert_array_equal(alone[name], whole[name][one], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("make", [LSTM, GRU])
def test_what_is_drawn_is_the_same_on_every_engine(make: Any) -> None:
    layer = make(4, zoneout=0.3, dropout=0.2, recurrent_dropout=0.3, return_sequences=True, dtype="float64")
    x = np.random.default_rng(82).normal(size=(3, 6, 2))
    layer.build((None, None, 2))
    found = []
    for engine in ("reference", "numpy", "cpu"):
        with mr.engine(engine):
            mr.seed(4)
            found.append(layer(x, training=True, mask=RIGHT[:, :6]).numpy())
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-14)
