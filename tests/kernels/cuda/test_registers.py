"""Registers of the loop kernels of the built-in cells for real targets: within the table's budget, and no spills.

`registers.txt` lists for each kernel the most registers a thread may take on sm_80, sm_90 and sm_100, and the
bytes of shared memory of a block; pytest --update-golden writes it anew.  The figures are the assembler's;
nothing has run on a device.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import EngineError
from minirnn.kernels.cuda import target
from minirnn.kernels.cuda.device import Limits
from minirnn.kernels.cuda.schedule import Plan, plan
from minirnn.kernels.heavy import lower
from minirnn.kernels.lower import Lowering
from minirnn.layers import GRUCell, LSTMCell, SimpleRNNCell
from minirnn.scan import step_graph

from .assembly import CAPABILITIES, Figures, figures, inexact
from .plans import signature

TABLE = Path(__file__).parent / "registers.txt"
ROWS, FEATURES = 32, 40
CELLS = {"simple_rnn": SimpleRNNCell, "gru": GRUCell, "lstm": LSTMCell}


class Case(NamedTuple):
    """A kernel of the table."""

    cell: str
    schedule: str
    dtype: str
    units: int
    pass_: str

    def __str__(self) -> str:
        return " ".join(map(str, self))


# The largest sizes that a schedule promises, and a small one.
SIZES = [
    ("lstm", "grid", "float32", 512), ("lstm", "block", "float32", 96), ("lstm", "grid", "float64", 256),
    ("gru", "grid", "float32", 512), ("gru", "grid", "float64", 256), ("gru", "block", "float32", 96),
    ("simple_rnn", "grid", "float32", 512), ("simple_rnn", "grid", "float64", 256),
    ("simple_rnn", "block", "float32", 96), ("lstm", "block", "float64", 48),
    ("lstm", "step", "float32", 512), ("lstm", "step", "float64", 512),
    ("gru", "step", "float32", 512), ("simple_rnn", "step", "float32", 512),
]  # fmt: skip
CASES = [Case(*size, pass_) for size in SIZES for pass_ in ("forward", "backward")]
QUICK = 2  # cases of the default run


def planned(case: Case) -> tuple[Lowering, Plan]:
    """The plan of a cell's loop for the limits of an A100."""
    mr.default_dtype(case.dtype)
    cell = CELLS[case.cell](case.units)
    cell.build((ROWS, FEATURES))
    states = cell.get_initial_state(batch_size=ROWS)

    def step(states, x):
        output, states = cell(x, states)
        return states, output

    graph = step_graph(step, states, np.zeros((3, ROWS, FEATURES), case.dtype), pass_=case.pass_)
    lowering = lower(graph)
    return lowering, plan(lowering, Limits(), case.schedule)


def measured(case: Case) -> list[Figures]:
    """What the assembler says of the kernel of the loop, target by target."""
    lowering, chosen = planned(case)
    (launch,) = [launch for launch in chosen.launches if launch.kernel in ("loop", "one_step")]
    compiled = target.compiled(chosen.kernels[launch.kernel], launch.kernel, signature(lowering), launch.threads)
    found = []
    for capability in CAPABILITIES:
        assert not inexact(compiled.ptx(capability))
        found.append(figures(compiled, capability))
    return found


def table() -> dict[str, list[int]]:
    """The rows of the table: registers for each target, then shared memory."""
    rows = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            words = line.split()
            rows[" ".join(words[:5])] = [int(word) for word in words[5:]]
    return rows


def line_of(case: Case, found: list[Figures]) -> str:
    """The table's line: registers rounded up to what a device gives out at once, eight."""
    budget = [min(255, -(-each.registers // 8) * 8) for each in found]
    numbers = f"{budget[0]:>7}{budget[1]:>7}{budget[2]:>7}{found[0].shared:>9}"
    return f"{case.cell:<12}{case.schedule:<7}{case.dtype:<9}{case.units:<7}{case.pass_:<9}{numbers}"


def write(case: Case, new: str) -> None:
    """Put a line into the table, in the order of the cases."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = {" ".join(line.split()[:5]): line for line in lines if not line.startswith("#")} | {str(case): new}
    head = [line for line in lines if line.startswith("#")]
    TABLE.write_text("\n".join([*head, *[rows[str(c)] for c in CASES if str(c) in rows]]) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=str(c), marks=[pytest.mark.slow] if n >= QUICK else []) for n, c in enumerate(CASES)]
)
def test_registers_are_within_the_budget_and_nothing_is_spilled(case: Case, request: pytest.FixtureRequest) -> None:
    found = measured(case)
    assert [each.spills for each in found] == [0, 0, 0], found
    if request.config.getoption("--update-golden"):
        write(case, line_of(case, found))
    *budget, shared = table()[str(case)]
    assert [each.registers <= most for each, most in zip(found, budget, strict=True)] == [True] * 3, (found, budget)
    assert found[0].shared == shared


def test_the_table_has_these_cases_and_no_others():
    assert [*table()] == [*map(str, CASES)]


@pytest.mark.parametrize(("schedule", "dtype", "units"), [("block", "float32", 136), ("grid", "float64", 900)])
def test_what_does_not_fit_is_refused_with_the_figure(schedule, dtype, units):
    with pytest.raises(EngineError, match=r"(?s)a step does not fit the schedule.*weights of [\d,]+ bytes a block"):
        planned(Case("lstm", schedule, dtype, units, "forward"))
