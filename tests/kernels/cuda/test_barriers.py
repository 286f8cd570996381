"""Which barriers the analysis finds, on phases written by hand and in the loops of the built-in cells."""

from __future__ import annotations

import itertools
import random

import pytest

from minirnn.kernels.cuda.barriers import BLOCK, GRID, Access, Phase, needed
from minirnn.kernels.cuda.device import Limits
from minirnn.kernels.cuda.schedule import plan
from minirnn.kernels.heavy import lower
from tests.stepgraph.test_graph import PASSES, graph_of

CELLS = ("simple_rnn", "gru", "lstm")


def write(buffer: str, owner: object = None, **more: object) -> Access:
    return Access(buffer, True, owner or ("writer", buffer), **more)  # type: ignore[arg-type]


def read(buffer: str, owner: object = None, **more: object) -> Access:
    return Access(buffer, False, owner or ("reader", buffer), **more)  # type: ignore[arg-type]


# phases by hand ----------------------------------------------------------------------------------
def test_what_another_thread_reads_needs_a_barrier_and_what_the_same_thread_reads_none() -> None:
    assert needed([Phase([write("a")]), Phase([read("a")])], False) == {1: BLOCK}
    assert needed([Phase([write("a", "same")]), Phase([read("a", "same")])], False) == {}
    assert needed([Phase([write("a")]), Phase([read("b")])], False) == {}
    assert needed([Phase([read("a")]), Phase([read("a", "other")])], False) == {}


def test_what_another_block_reads_needs_a_barrier_of_the_grid() -> None:
    phases = [Phase([write("a")]), Phase([read("a", inside=False)])]
    assert needed(phases, False) == {1: GRID}


def test_one_barrier_serves_several_dependences() -> None:
    phases = [Phase([write("a")]), Phase([write("b")]), Phase([read("a"), read("b")])]
    assert needed(phases, False) == {2: BLOCK}
    # One of the grid serves the block, too.
    phases = [Phase([write("a"), write("b")]), Phase([read("a"), read("b", inside=False)])]
    assert needed(phases, False) == {1: GRID}


def test_a_loop_must_not_overwrite_what_others_still_read() -> None:
    phases = [Phase([write("a")]), Phase([read("a")])]
    assert needed(phases, True) == {0: BLOCK, 1: BLOCK}
    # A value with a place for each step is never overwritten; one of two places by turns, when a barrier has passed.
    assert needed([Phase([write("a", clocked=True)]), Phase([read("a", clocked=True)])], True) == {1: BLOCK}
    by_turns = [Phase([write("a", turn=0)]), Phase([read("a", turn=0, inside=False)])]
    assert needed(by_turns, True) == {1: GRID}


def test_a_carry_is_read_a_step_after_it_was_written() -> None:
    step = [Phase([read("h", turn=0, inside=False), write("z")]), Phase([read("z"), write("h", turn=1)])]
    found = needed(step, True)
    assert sorted(found.values()) == [BLOCK, GRID] and found[1] == BLOCK and found[0] == GRID


def test_zeros_that_something_is_added_to_are_written_before() -> None:
    parts = [Phase([write("a", "one")]), Phase([write("a", "two")])]  # of one value, side by side
    assert needed(parts, False) == {}
    added = [Phase([write("a", "one", again=True)]), Phase([write("a", "two", again=True)])]
    assert needed(added, False) == {1: BLOCK}


def test_inner_loops_have_their_barriers_and_none_of_the_grid() -> None:
    phases = [
        Phase([write("a")]),
        Phase(),
        Phase([read("a", inside=False), write("staged", "stage")], 1),
        Phase([read("staged", "chains"), write("b")], 1),
    ]
    assert needed(phases, False) == {1: GRID, 2: BLOCK, 3: BLOCK}


def test_a_barrier_before_the_loop_is_enough_for_what_is_written_there() -> None:
    phases = [Phase([write("once")]), Phase(), Phase([read("once"), write("a", "same")]), Phase([read("a", "same")])]
    assert needed(phases, True, first=2) == {1: BLOCK}


def test_random_phases_have_the_barriers_that_they_need_and_no_others() -> None:
    """Against a search of all sets of barriers: the fewest of the grid that keep all dependences apart."""
    rng = random.Random(3)
    compared = 0
    for _ in range(150):
        phases = [
            Phase([
                Access(
                    rng.choice("ab"), rng.random() < 0.5, rng.choice([1, 2]), rng.choice([None, None, 0, 1]),
                    rng.random() < 0.2, rng.random() < 0.7, rng.random() < 0.3,
                )
                for _ in range(rng.randint(1, 3))
            ])
            for _ in range(rng.randint(1, 4))
        ]  # fmt: skip
        found = needed(phases, True)
        enough = [b for b in _choices(len(phases)) if _keeps_apart(phases, b)]
        assert found in enough
        assert sum(s == GRID for s in found.values()) == min(sum(s == GRID for s in b.values()) for b in enough)
        for position in found:
            assert {p: s for p, s in found.items() if p != position} not in enough
        compared += bool(found)
    assert compared > 20


def _choices(count: int) -> list[dict[int, int]]:
    return [{k: s for k, s in enumerate(each) if s} for each in itertools.product((0, BLOCK, GRID), repeat=count)]


def _keeps_apart(phases: list[Phase], barriers: dict[int, int]) -> bool:
    """Whether five steps are in order, looked at access by access."""
    passed: list[tuple[Access, int, int, int]] = []  # with the step, and barriers that were passed by then
    blocks = grids = 0
    for step in range(5):
        for k, phase in enumerate(phases):
            blocks += barriers.get(k, 0) >= BLOCK
            grids += barriers.get(k, 0) >= GRID
            for a in phase.accesses:
                for b, before, b_blocks, b_grids in passed:
                    same_place = a.buffer == b.buffer and not (a.clocked and b.clocked and step != before)
                    if a.turn is not None and b.turn is not None:
                        same_place &= (a.turn + step) % 2 == (b.turn + before) % 2
                    matters = (a.writes or b.writes) and a.owner != b.owner
                    matters &= not (a.writes and b.writes) or a.again or b.again
                    is_kept = blocks > b_blocks if a.inside and b.inside else grids > b_grids
                    if same_place and matters and not is_kept:
                        return False
            passed += [(a, step, blocks, grids) for a in phase.accesses]
    return True


# the built-in cells ------------------------------------------------------------------------------
@pytest.mark.parametrize("pass_", PASSES)
@pytest.mark.parametrize("name", CELLS)
def test_the_grid_waits_once_a_step(name: str, pass_: str) -> None:
    lowering = lower(graph_of(name, pass_))
    loop = plan(lowering, Limits(multiprocessors=2), "grid").kernels["loop"]
    assert loop.count("grid.sync()") == 1
    assert "        grid.sync()\n" in loop and "            grid.sync()" not in loop  # in no loop but that over time
    block = plan(lowering, Limits(), "block").kernels["loop"]
    assert "grid.sync()" not in block and block.count("cuda.syncthreads()") <= 5


def test_what_blocks_read_from_each_other_has_two_places() -> None:
    """The gates' cotangents of a GRU are read by all blocks and written anew at the next step."""
    lowering = lower(graph_of("gru", "backward"))
    slots = {b.name: b.slots for b in lowering.buffers}
    found = {b.name: b.slots for b in plan(lowering, Limits(multiprocessors=2), "grid").buffers}
    assert sum(found[name] != slots[name] for name in slots) == 1
    assert {b.name: b.slots for b in plan(lowering, Limits(), "block").buffers} == slots


def test_a_step_in_which_threads_keep_their_elements_has_no_barrier() -> None:
    assert "syncthreads" not in plan(lower(graph_of("simple_rnn")), Limits(), "step").kernels["one_step"]
    assert "syncthreads" in plan(lower(graph_of("lstm")), Limits(), "step").kernels["one_step"]
