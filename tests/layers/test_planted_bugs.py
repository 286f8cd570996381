"""Bugs planted in masks, reversal, states and merging: each is noticed by the check that is named for it.

The checks compare layers with loops in NumPy.  Without a bug all of them are content.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import RecurrentContainer
from minirnn.layers import GRU, LSTM, Bidirectional, Input, states, wrappers
from tests.reference import both_ways, cells
from tests.reference.checks import Disagreement, assert_agree

recurrent_module = importlib.import_module("minirnn.layers.recurrent")
container_module = importlib.import_module("minirnn.layers.container")
scan_module = importlib.import_module("minirnn.scan")
B, T, F, U = 3, 6, 2, 4
RNG = np.random.default_rng(21)
X = RNG.normal(size=(B, T, F))
STATES = [RNG.normal(size=(B, U)) for _ in range(4)]
MASKS = {
    "right": np.arange(T) < np.array([[4], [6], [1]]),
    "left": np.arange(T) >= np.array([[3], [0], [5]]),
    "holes": np.array([[0, 1, 0, 0, 1, 1], [1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], bool),
}
RESET = np.array([[0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0]], bool)
TOLERANCE = 1e-12


def weights_of(layer: Any) -> list[np.ndarray]:
    return [np.random.default_rng(n).normal(size=w.shape) / 2 for n, w in enumerate(layer.get_weights())]


def lstm(**options: Any) -> tuple[LSTM, list[np.ndarray]]:
    layer = LSTM(U, return_state=True, dtype="float64", **options)
    layer.build((None, None, F))
    layer.set_weights(weights_of(layer))
    return layer, layer.get_weights()


def named(results: Any) -> dict[str, Any]:
    return {f"result {k}": np.asarray(result) for k, result in enumerate(results)}


# the checks --------------------------------------------------------------------------------------
def check_masks() -> None:
    """Outputs at all steps and at the last one, and states, for every pattern."""
    for mask in MASKS.values():
        for sequences in (True, False):
            layer, weights = lstm(return_sequences=sequences)
            y, ends = cells.run(cells.lstm_step, X, weights, STATES[:2], mask)
            found = layer(X, mask=mask, initial_state=STATES[:2])
            assert_agree(named(found), named([y if sequences else y[:, -1], *ends]), TOLERANCE)


def check_reversal() -> None:
    """go_backwards, whose mask turns around with the sequence."""
    for mask in (None, *MASKS.values()):
        layer, weights = lstm(return_sequences=True, go_backwards=True)
        y, ends = cells.run(cells.lstm_step, X, weights, STATES[:2], mask, go_backwards=True)
        assert_agree(named(layer(X, mask=mask, initial_state=STATES[:2])), named([y, *ends]), TOLERANCE)


def check_lengths() -> None:
    """lengths and Ragged are the mask of the leading steps, to the last one of them."""
    lengths = np.array([4, 6, 1])
    layer, weights = lstm(return_sequences=True)
    y, ends = cells.run(cells.lstm_step, X, weights, STATES[:2], MASKS["right"])
    for found in (
        layer(X, lengths=lengths, initial_state=STATES[:2]),
        layer(mr.Ragged.from_padded(X, lengths), initial_state=STATES[:2]),
    ):
        assert_agree(named(found), named([y, *ends]), TOLERANCE)


def check_resets() -> None:
    """reset_mask: each row is cut where it begins anew, and its pieces run by themselves."""
    layer, weights = lstm(return_sequences=True)
    mask = MASKS["holes"]
    for reset, valid in ((RESET, np.ones((B, T), bool)), (RESET, mask), (np.zeros((B, T), bool), mask)):
        ys, ends = np.zeros((B, T, U)), [np.zeros((B, U)) for _ in range(2)]
        for b in range(B):
            cuts = [0, *np.flatnonzero(reset[b]), T]
            for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
                if start == stop:
                    continue
                piece = (
                    X[b : b + 1, start:stop],
                    weights,
                    [s[b : b + 1] for s in STATES[:2]],
                    valid[b : b + 1, start:stop],
                )
                y, last = cells.run(cells.lstm_step, *piece)
                ys[b, start:stop] = y[0]
                for end, value in zip(ends, last, strict=True):
                    end[b] = value[0]
        found = layer(X, mask=valid, initial_state=STATES[:2], reset_mask=reset)
        assert_agree(named(found), named([ys, *ends]), TOLERANCE)


def check_states() -> None:
    """A stateful layer goes on where it ended, and begins anew once it is reset."""
    layer, weights = lstm(return_sequences=True, stateful=True)
    zeros = [np.zeros((B, U))] * 2
    y, ends = cells.run(cells.lstm_step, X, weights, zeros, MASKS["right"])
    for _ in range(2):
        halves = [layer(X[:, part], mask=MASKS["right"][:, part])[0] for part in (slice(0, 2), slice(2, T))]
        # At the beginning of a call a masked step has nothing to repeat.
        shown = np.concatenate([np.asarray(half) for half in halves], axis=1)
        valid = MASKS["right"][..., None]
        assert_agree(named([shown * valid, *(layer.states or [])]), named([y * valid, *ends]), TOLERANCE)
        layer.reset_states()
    layer(X)
    before = [np.asarray(state) for state in layer.states or [np.ones((B, U))]]
    layer.reset_states(rows=[1])
    kept = (np.arange(B) != 1)[:, None]
    assert_agree(named(layer.states or []), named([state * kept for state in before]), TOLERANCE)


def running_sum(**options: Any) -> RecurrentContainer:
    x, total = Input((F,), dtype="float64"), Input((F,), dtype="float64")
    return RecurrentContainer(x, x + total, state_inputs=total, state_outputs=x + total, **options)


def check_declared_states() -> None:
    """A container begins, and after a reset begins again, with the states that it declares."""
    container = running_sum(state_initializer=mr.initializers.Constant(2.0), stateful=True)
    sums = 2.0 + np.cumsum(X, axis=1)
    assert_agree(named([container(X)]), named([sums]), TOLERANCE)
    assert_agree(named([container(X)]), named([sums + sums[:, -1:] - 2.0]), TOLERANCE)
    container.reset_states()
    assert_agree(named([container(X)]), named([sums]), TOLERANCE)
    container.reset_states(rows=[0])
    want = np.where((np.arange(B) == 0)[:, None, None], sums, sums + sums[:, -1:] - 2.0)
    assert_agree(named([container(X)]), named([want]), TOLERANCE)


def check_merging() -> None:
    """Bidirectional: both ways merged step by step, states of both directions in order."""
    for mask in (None, *MASKS.values()):
        for sequences in (True, False):
            for merge_mode in ("concat", "sum", None):
                inner = GRU(U, return_sequences=sequences, return_state=True, dtype="float64")
                layer = Bidirectional(inner, merge_mode=merge_mode)
                layer.build((None, T, F))
                layer.set_weights(weights_of(layer))
                begin = STATES[:2]
                want = both_ways.run("gru_reset_after", X, layer.get_weights(), begin, mask, merge_mode, sequences)
                assert_agree(named(layer(X, mask=mask, initial_state=begin)), named(want), TOLERANCE)


CHECKS = {
    check.__name__.removeprefix("check_"): check
    for check in (
        check_masks, check_reversal, check_lengths, check_resets, check_states, check_declared_states, check_merging,
    )
}  # fmt: skip


def noticed() -> set[str]:
    """The checks that are not content."""
    found = set()
    for name, check in CHECKS.items():
        try:
            check()
        except (Disagreement, mr.errors.MinirnnError):
            found.add(name)
    return found


@pytest.fixture(autouse=True)
def _no_repeated_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer remembers what it did, and would do the right thing again."""
    monkeypatch.setattr(recurrent_module.RNN, "_is_repeatable", lambda self, *arguments: False)


def test_without_a_bug_every_check_is_content() -> None:
    assert noticed() == set()


# the bugs ----------------------------------------------------------------------------------------
Patch = Callable[..., None]
Bug = Callable[[Patch], None]


def of_scan(change: Callable[..., Any]) -> Bug:
    """`change(scan, step, init, xs, options)` in the place of scan, wherever layers call it."""

    def bug(patch: Patch) -> None:
        scan = scan_module.scan

        def wrong(step: Any, init: Any, xs: Any, **options: Any) -> Any:
            return change(scan, step, init, xs, options)

        patch(recurrent_module, "scan", wrong)
        patch(container_module, "scan", wrong)

    return bug


def of_option(name: str, change: Callable[[Any, dict[str, Any]], Any]) -> Bug:
    def changed(scan: Any, step: Any, init: Any, xs: Any, options: dict[str, Any]) -> Any:
        value = options.get(name)
        return scan(step, init, xs, **{**options, name: None if value is None else change(value, options)})

    return of_scan(changed)


def shifted(flags: Any, steps: int) -> Any:
    return mr.Tensor(np.roll(np.asarray(flags), steps, axis=0))


def zeros_instead_of_held_outputs(scan: Any, step: Any, init: Any, xs: Any, options: dict[str, Any]) -> Any:
    carry, ys = scan(step, init, xs, **options)
    mask = options.get("mask")
    return carry, ys if mask is None else mr.autodiff.trees.map(lambda y: y * np.asarray(mask)[..., None], ys)


def states_not_held(scan: Any, step: Any, init: Any, xs: Any, options: dict[str, Any]) -> Any:
    ys = scan(step, init, xs, **options)[1]
    return scan(step, init, xs, **{**options, "mask": None})[0], ys


def first_two_states_swapped(scan: Any, step: Any, init: Any, xs: Any, options: dict[str, Any]) -> Any:
    leaves, form = mr.autodiff.trees.flatten(init)
    if len(leaves) > 1 and leaves[0].shape == leaves[1].shape:
        leaves[0], leaves[1] = leaves[1], leaves[0]
    return scan(step, mr.autodiff.trees.unflatten(form, leaves), xs, **options)


def states_begin_with_zeros(scan: Any, step: Any, init: Any, xs: Any, options: dict[str, Any]) -> Any:
    return scan(step, mr.autodiff.trees.map(lambda s: s * 0.0, init), xs, **options)


def reset_to_zeros_in_the_middle(scan: Any, step: Any, init: Any, xs: Any, options: dict[str, Any]) -> Any:
    """As if scan's own reset put zeros in the place of the initial carry."""
    real = scan_module._beginning_anew
    scan_module._beginning_anew = lambda step, init: real(step, [s * 0.0 for s in init])
    try:
        return scan(step, init, xs, **options)
    finally:
        scan_module._beginning_anew = real


def resets_in_masked_steps_forgotten(value: Any, options: dict[str, Any]) -> Any:
    return value if options["mask"] is None else mr.ops.logical_and(value, options["mask"])


def states_are_not_kept(patch: Patch) -> None:
    patch(states.HeldStates, "keep", lambda self, values: None)


def reset_does_nothing(patch: Patch) -> None:
    patch(states.HeldStates, "reset", lambda self, *given: None)


def reset_of_rows_resets_all(patch: Patch) -> None:
    real = states.HeldStates.reset
    patch(states.HeldStates, "reset", lambda self, states=None, *_: real(self, states))


def reset_to_zeros_instead_of_declared_states(patch: Patch) -> None:
    def reset(self: Any, *given: Any) -> None:
        self.fresh = None
        real(self, *given)

    real = states.HeldStates.reset
    patch(states.HeldStates, "reset", reset)


def lengths_one_too_long(patch: Patch) -> None:
    sequences = importlib.import_module("minirnn.layers.sequences")
    real = sequences.SequenceForm.mask_of_lengths
    patch(
        sequences.SequenceForm,
        "mask_of_lengths",
        lambda self, lengths, sizes: real(self, np.minimum(np.asarray(lengths) + 1, sizes[1]), sizes),
    )


def ragged_rows_at_the_end(patch: Patch) -> None:
    ragged = importlib.import_module("minirnn.layers.ragged")
    real = ragged._leading
    patch(ragged, "_leading", lambda lengths, time: real(lengths, time)[:, ::-1])


def backward_outputs_not_turned_around(patch: Patch) -> None:
    patch(wrappers, "ops", SimpleNamespace(**{**vars(wrappers.ops), "flip": lambda x, axis: x}))


def concatenated_the_other_way_round(patch: Patch) -> None:
    real = wrappers._MERGES["concat"]
    patch(wrappers, "_MERGES", {**wrappers._MERGES, "concat": lambda y, y_rev: real(y_rev, y)})


def halves_of_the_initial_states_swapped(patch: Patch) -> None:
    real = Bidirectional._halves
    patch(Bidirectional, "_halves", lambda self, *args: real(self, *args)[::-1])


def returned_states_backward_first(patch: Patch) -> None:
    real = Bidirectional.call

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        return [*result[:-2], result[-1], result[-2]] if isinstance(result, list) and len(result) > 2 else result

    patch(Bidirectional, "call", call)


BUGS: dict[str, tuple[Bug, str]] = {
    "mask ignored": (of_option("mask", lambda mask, _: None), "masks"),
    "mask inverted": (of_option("mask", lambda mask, _: mr.ops.logical_not(mask)), "masks"),
    "mask one step late": (of_option("mask", lambda mask, _: shifted(mask, 1)), "masks"),
    "mask one step early": (of_option("mask", lambda mask, _: shifted(mask, -1)), "masks"),
    "rows of the mask swapped": (of_option("mask", lambda mask, _: mask[:, ::-1]), "masks"),
    "zeros instead of held outputs": (of_scan(zeros_instead_of_held_outputs), "masks"),
    "states not held": (of_scan(states_not_held), "masks"),
    "mask not turned around": (of_option("mask", lambda mask, o: mask[::-1] if o["reverse"] else mask), "reversal"),
    "mask turned around, off by one": (
        of_option("mask", lambda m, o: shifted(m, 1) if o["reverse"] else m),
        "reversal",
    ),
    "not reversed": (of_option("reverse", lambda reverse, _: False), "reversal"),
    "lengths one too long": (lengths_one_too_long, "lengths"),
    "ragged rows at the end": (ragged_rows_at_the_end, "lengths"),
    "h and c swapped": (of_scan(first_two_states_swapped), "masks"),
    "initial states ignored": (of_scan(states_begin_with_zeros), "masks"),
    "resets ignored": (of_option("reset", lambda reset, _: None), "resets"),
    "resets one step late": (of_option("reset", lambda reset, _: shifted(reset, 1)), "resets"),
    "resets in masked steps forgotten": (of_option("reset", resets_in_masked_steps_forgotten), "resets"),
    "reset to zeros within a sequence": (of_scan(reset_to_zeros_in_the_middle), "resets"),
    "states not kept": (states_are_not_kept, "states"),
    "reset does nothing": (reset_does_nothing, "states"),
    "reset of rows resets all": (reset_of_rows_resets_all, "states"),
    "reset to zeros instead of declared states": (reset_to_zeros_instead_of_declared_states, "declared_states"),
    "backward outputs not turned around": (backward_outputs_not_turned_around, "merging"),
    "concatenated the other way round": (concatenated_the_other_way_round, "merging"),
    "halves of the initial states swapped": (halves_of_the_initial_states_swapped, "merging"),
    "returned states backward first": (returned_states_backward_first, "merging"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug, check = BUGS[name]
    bug(monkeypatch.setattr)
    assert check in noticed()
