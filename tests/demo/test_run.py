from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import minirnn as mr
from minirnn.demo import charmodel, run
from minirnn.demo.corpus import Corpus, split
from minirnn.errors import ArgumentError

LINE = "abcdefgh ijk. "


class Clock:
    """A clock that goes on by `each` second whenever it is read."""

    def __init__(self, each: float) -> None:
        self.now, self.each = 0.0, each

    def __call__(self) -> float:
        self.now += self.each
        return self.now


def steps_made(pace: run.Pace, first: int = 0) -> int:
    step = first
    while pace.goes_on(step):
        step += 1
    return step


def test_without_a_limit_the_plan_is_kept() -> None:
    pace = run.Pace(0, 100, None, Clock(1e9))
    assert steps_made(pace) == pace.goal == 100
    rates = [pace.learning_rate(step) for step in (0, 50, 99, 200)]
    assert rates == pytest.approx([charmodel.LEARNING_RATE * share for share in (1.0, 0.5, 0.05, 0.05)])


def test_a_machine_that_is_fast_enough_keeps_the_plan_throughout() -> None:
    pace = run.Pace(0, 100, 10.0, Clock(0.09))
    goals = set()
    step = 0
    while pace.goes_on(step):
        goals.add(pace.goal)
        step += 1
    assert goals == {100} and step == 100


def test_on_a_slow_machine_the_learning_rate_has_come_down_when_the_time_is_up() -> None:
    pace = run.Pace(0, 1000, 10.0, Clock(0.05))
    assert steps_made(pace) == pytest.approx(200, abs=3) and pace.goal == pytest.approx(200, abs=3)
    assert pace.learning_rate(pace.goal - 1) == pytest.approx(charmodel.LEARNING_RATE * run.LEAST_RATE)


def test_a_stall_does_not_shorten_what_follows_for_good() -> None:
    clock = Clock(0.01)
    pace = run.Pace(0, 500, 10.0, clock)
    for step in range(100):
        assert pace.goes_on(step)
    clock.now += 2.0
    pace.goes_on(100)
    assert pace.goal < 500
    for step in range(101, 500):
        assert pace.goes_on(step)
    assert pace.goal == 500


def test_at_least_one_step_is_made() -> None:
    assert steps_made(run.Pace(7, 9, 0.001, Clock(5.0)), first=7) == 8


def small_corpus() -> Corpus:
    return split("lines", LINE * 150)


def trained(steps: int, stop_at: int | None = None) -> list[np.ndarray]:
    corpus = small_corpus()
    mr.seed(1)
    model = charmodel.build(len(corpus.vocabulary), 6)
    for _ in run.learn(model, corpus, run.Pace(0, steps, None)):
        pass
    return model.get_weights()


def test_training_learns_and_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    corpus = small_corpus()
    mr.seed(1)
    model = charmodel.build(len(corpus.vocabulary), 12)
    held_out = list(run.learn(model, corpus, run.Pace(0, 150, None)))
    assert len(held_out) == 3 and held_out[-1] < held_out[0] / 2  # the same line again and again
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" - ")[0] for line in printed] == ["Round 1", "Round 2", "Round 3"]
    assert all("training: " in line and "held-out: " in line for line in printed)
    for first, second in zip(trained(60), trained(60), strict=True):
        assert (first == second).all()


def test_where_a_model_may_be_saved(tmp_path: Path) -> None:
    run.check_out(str(tmp_path / "new"), False)
    run.check_out("no-folder-in-its-name", False)
    (tmp_path / "mine").write_text("a diary")
    with pytest.raises(ArgumentError, match="exists already"):
        run.check_out(str(tmp_path / "mine"), False, replaceable=run.DEMO)
    run.check_out(str(tmp_path / "mine"), True)
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(ArgumentError, match="no regular file"):
            run.check_out(str(path), True)
    with pytest.raises(ArgumentError, match="no folder"):
        run.check_out(str(tmp_path / "missing" / "m"), False)


def test_only_the_demos_own_model_is_replaced_unasked(tmp_path: Path) -> None:
    for made_by in (run.DEMO, run.TRAIN, None):
        model = charmodel.build(5, 3)
        model.metadata = {} if made_by is None else {"made_by": made_by}
        path = str(tmp_path / f"{made_by}")
        model.save(path)
        if made_by == run.DEMO:
            run.check_out(path, False, replaceable=run.DEMO)
        else:
            with pytest.raises(ArgumentError, match="exists already"):
                run.check_out(path, False, replaceable=run.DEMO)
        with pytest.raises(ArgumentError, match="exists already"):
            run.check_out(path, False)
