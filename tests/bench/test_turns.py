"""Turns: short calls are repeated, slow contestants sit out, rounds begin with another one each time."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Any

import pytest

from minirnn.bench import turns
from minirnn.bench.contestants import Contestant


def contestant(name: str, seconds: float, log: list[str], entered: Any = None) -> Contestant:
    def run() -> None:
        log.append(name)
        time.sleep(seconds)

    return Contestant(name, name, run, list, *([entered] if entered else []))


def test_short_calls_are_repeated_and_long_ones_are_not() -> None:
    log: list[str] = []
    found = turns.measure([contestant("short", 0.001, log), contestant("long", 0.03, log)], rounds=2)
    assert found["long"].calls == 1 and 8 <= found["short"].calls <= 20
    assert found["short"].turns == found["long"].turns == 2
    assert log.count("long") == 1 + 2 + 2  # to warm up, to see how long it takes, in two turns
    assert found["short"].low <= found["short"].median <= found["short"].high
    assert 0.03 <= found["long"].median < 3 and found["long"].spread >= 0


def test_they_take_turns_and_another_one_begins_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "ROUND", 1e-9)
    log: list[str] = []
    turns.measure([contestant(name, 0.0, log) for name in "abc"], rounds=3)
    assert "".join(log[-9:]) == "abcbcacab"


def test_who_has_used_up_the_budget_sits_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "BUDGET", 0.01)
    found = turns.measure([contestant("slow", 0.03, [])], rounds=9)
    assert found["slow"].turns == turns.LEAST


def test_what_holds_during_a_turn_is_entered_outside_of_it() -> None:
    entered, log = [0], []

    @contextmanager
    def during() -> Any:
        entered[0] += 1
        log.append("enter")
        yield
        log.append("leave")

    turns.measure([contestant("a", 0.03, log, during)], rounds=1)
    assert log == ["enter", "a", "leave"] * 4 and entered == [4]


def test_rest_ends_when_nothing_runs_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([0.0, 0.01, 0.01, 0.02, 0.02, 0.02])  # two looks at a busy process, one at an idle one
    rests: list[float] = []
    monkeypatch.setattr(time, "process_time", lambda: next(used))
    monkeypatch.setattr(time, "sleep", rests.append)
    turns._settle()
    assert len(rests) == 3
