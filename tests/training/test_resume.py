"""Repeatable to the bit: seeds, files, and runs that were stopped and went on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import ArgumentError, FormatError
from minirnn.layers import LSTM, Dense, Dropout, Input
from minirnn.models import Model, Sequential, load_model
from minirnn.serialization import load_state

RNG = np.random.default_rng(13)
X, Y = RNG.standard_normal((11, 5, 3)), RNG.standard_normal((11, 5, 2))
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: mr.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "rmsprop": lambda: mr.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "adam": lambda: mr.optimizers.Adam(mr.schedules.ExponentialDecay(0.05, 3, 0.5), amsgrad=True, global_clipnorm=1.0),
    "adamw": lambda: mr.optimizers.AdamW(0.01),
}


def new_model(optimizer: str = "adam") -> Sequential:
    model = Sequential(
        [
            Input((None, 3)),
            LSTM(4, return_sequences=True, dropout=0.2, recurrent_dropout=0.3, kernel_regularizer="l2"),
            Dropout(0.4),
            Dense(2),
        ]
    )
    model.compile(OPTIMIZERS[optimizer](), "huber", metrics=["mae"])
    return model


def fit(model: Any, epochs: int, **options: Any) -> dict[str, list[float]]:
    options = {"validation_split": 0.2, "batch_size": 4, "verbose": 0} | options
    return model.fit(X, Y, epochs=epochs, **options).history


def bits(model: Any) -> list[bytes]:
    variables = model.trainable_variables
    state = model.optimizer.export_state(variables)
    return [*(w.tobytes() for w in model.get_weights()), *(state[name].tobytes() for name in sorted(state))]


def draw_something() -> None:
    mr.random.uniform((7,))


@pytest.mark.parametrize("seeded", ["the process", "fit"])
def test_a_seed_makes_a_run_repeatable(seeded: str) -> None:
    def run(seed: int) -> Any:
        mr.seed(seed)
        model = new_model()
        if seeded == "fit":
            mr.seed(int(RNG.integers(1000)))
        history = fit(model, 3, seed=seed if seeded == "fit" else None)
        return history, bits(model)

    first = run(5)
    assert run(5) == first
    assert run(6)[1] != first[1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("seed", [None, 5], ids=["seed of the process", "seed of fit"])
def test_stop_and_resume_equals_an_uninterrupted_run(optimizer: str, seed: int | None, tmp_path: Path) -> None:
    mr.seed(4)
    whole = new_model(optimizer)
    history = fit(whole, 5, seed=seed)
    mr.seed(4)
    stopped = new_model(optimizer)
    fit(stopped, 2, seed=seed)
    stopped.save(tmp_path / "half.safetensors")
    fit(stopped, 1)
    mr.seed(99)
    resumed = load_model(tmp_path / "half.safetensors")
    draw_something()
    assert resumed.trained_epochs == 2
    tail = fit(resumed, 5, initial_epoch=resumed.trained_epochs)
    assert bits(resumed) == bits(whole)
    assert tail == {name: values[2:] for name, values in history.items()}


def test_resuming_with_the_seed_given_again(tmp_path: Path) -> None:
    mr.seed(4)
    whole = new_model()
    fit(whole, 4, seed=5)
    mr.seed(4)
    stopped = new_model()
    fit(stopped, 1, seed=5)
    draw_something()
    fit(stopped, 2, seed=5, initial_epoch=1)
    stopped.save(tmp_path / "m")
    resumed = load_model(tmp_path / "m")
    fit(resumed, 4, seed=5, initial_epoch=2)
    assert bits(resumed) == bits(whole)


def test_a_checkpoint_in_the_middle_of_a_run_resumes_it(tmp_path: Path) -> None:
    mr.seed(4)
    whole = new_model()
    fit(whole, 4, callbacks=[mr.callbacks.ModelCheckpoint(tmp_path / "{epoch}.safetensors")])
    mr.seed(77)
    resumed = load_model(tmp_path / "2.safetensors")
    fit(resumed, 4, initial_epoch=2)
    assert bits(resumed) == bits(whole)


def test_what_is_not_saved_makes_a_difference(tmp_path: Path) -> None:
    """The comparison above can fail: without random numbers, or without the optimizer's state, it does."""
    mr.seed(4)
    whole = new_model()
    fit(whole, 3)
    mr.seed(4)
    stopped = new_model()
    fit(stopped, 2)
    stopped.save(tmp_path / "m")

    def other_random_numbers(model: Any) -> None:
        model.resumed_run["random"]["calls"] += 1

    def fresh_optimizer(model: Any) -> None:
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        optimizer.iterations = model.optimizer.iterations
        model.compiled.optimizer = optimizer

    def no_iterations(model: Any) -> None:
        model.optimizer.iterations = 0

    for spoil in (other_random_numbers, fresh_optimizer, no_iterations):
        resumed = load_model(tmp_path / "m")
        spoil(resumed)
        fit(resumed, 3, initial_epoch=2)
        assert bits(resumed) != bits(whole), spoil.__name__


def test_loading_changes_no_random_numbers_of_the_process(tmp_path: Path) -> None:
    model = new_model()
    fit(model, 1)
    model.save(tmp_path / "m")
    mr.seed(3)
    before = mr.random.get_state()
    load_model(tmp_path / "m").predict(X)
    assert mr.random.get_state()["seed"] == before["seed"]


def test_the_optimizer_of_a_loaded_model_is_as_it_was(tmp_path: Path) -> None:
    model = new_model("sgd")
    fit(model, 2)
    model.optimizer.learning_rate = 0.125  # type: ignore[union-attr]
    model.save(tmp_path / "m")
    copy = load_model(tmp_path / "m")
    assert copy.optimizer.learning_rate == 0.125 and bits(copy) == bits(model)
    assert copy.evaluate(X, Y, verbose=0, return_dict=True) == model.evaluate(X, Y, verbose=0, return_dict=True)
    assert load_model(tmp_path / "m", compile=False).optimizer is None


def test_a_model_that_was_never_compiled_or_trained(tmp_path: Path) -> None:
    model = Sequential([Input((3,)), Dense(2)])
    model.save(tmp_path / "m")
    copy = load_model(tmp_path / "m")
    assert copy.compiled is None and np.array_equal(copy.predict(X[:, 0]), model.predict(X[:, 0]))
    model.compile("adam", "mse")
    model.save(tmp_path / "m")
    assert load_model(tmp_path / "m").optimizer.iterations == 0


def test_several_outputs_keep_their_goals(tmp_path: Path) -> None:
    x = Input((3,))
    model = Model(x, [Dense(2, name="p")(x), Dense(1, name="q")(x)])
    model.compile("sgd", {"p": "mse", "q": mr.losses.Huber(0.5)}, {"q": ["mae"]}, loss_weights=[1.0, 0.5])
    model.save(tmp_path / "m")
    copy = load_model(tmp_path / "m")
    data = X[:, 0], [Y[:, 0], Y[:, 0, :1]]
    got = copy.evaluate(*data, verbose=0, return_dict=True)
    assert got == model.evaluate(*data, verbose=0, return_dict=True)
    assert list(got) == ["loss", "p_loss", "q_loss", "q_mae"]


def cubic(y_true: Any, y_pred: Any) -> Any:
    return mr.ops.mean(mr.ops.abs(y_pred - y_true) ** 3, axis=-1)


def test_losses_and_metrics_of_ones_own(tmp_path: Path) -> None:
    model = Sequential([Input((3,)), Dense(2)])
    model.compile("sgd", cubic, metrics=[cubic])
    model.save(tmp_path / "m")
    with pytest.raises(ArgumentError, match="'cubic'"):
        load_model(tmp_path / "m")
    copy = load_model(tmp_path / "m", custom_objects={"cubic": cubic})
    assert copy.evaluate(X[:, 0], Y[:, 0], verbose=0) == model.evaluate(X[:, 0], Y[:, 0], verbose=0)


def test_a_loss_without_a_name_is_left_out_with_a_warning(tmp_path: Path) -> None:
    model = Sequential([Input((3,)), Dense(2)])
    model.compile("sgd", lambda y, p: cubic(y, p))
    with pytest.warns(UserWarning, match="saved without what compile was told"):
        model.save(tmp_path / "m")
    assert load_model(tmp_path / "m").compiled is None


def test_weights_by_themselves(tmp_path: Path) -> None:
    model, other = new_model(), new_model()
    model.save_weights(tmp_path / "w")
    model.save(tmp_path / "m")
    for path in (tmp_path / "w", tmp_path / "m"):
        other.set_weights([np.zeros_like(w) for w in other.get_weights()])
        other.load_weights(path)
        assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), other.get_weights()))
    with pytest.raises(FormatError, match="holds no model"):
        load_model(tmp_path / "w")
    small = Sequential([Input((3,)), Dense(2)])
    before = small.get_weights()
    with pytest.raises(FormatError, match="not those of"):
        small.load_weights(tmp_path / "w")
    assert all(np.array_equal(a, b) for a, b in zip(before, small.get_weights()))


def test_the_weights_in_a_file_have_telling_names(tmp_path: Path) -> None:
    x = Input((None, 3))
    shared = LSTM(4, name="encoder")
    Model(x, [Dense(2, name="p")(shared(x)), Dense(2, name="q")(shared(x))]).save(tmp_path / "m")
    names = list(load_state(tmp_path / "m").groups["weights"])
    assert len(set(names)) == 7
    assert names[-4:] == ["p/kernel", "p/bias", "q/kernel", "q/bias"]
    assert all(name.startswith("encoder/") for name in names[:3]) and names[0].endswith("/kernel")


def test_states_of_stateful_layers_go_on(tmp_path: Path) -> None:
    model = Sequential([Input((None, 3)), LSTM(4, stateful=True, return_sequences=True), LSTM(2, stateful=True)])
    model.predict(X[:4], batch_size=4)
    model.save(tmp_path / "m")
    copy = load_model(tmp_path / "m")
    assert np.array_equal(copy.predict(X[4:8], batch_size=4), model.predict(X[4:8], batch_size=4))
    fresh = load_model(tmp_path / "m")
    fresh.reset_states()
    assert not np.array_equal(fresh.predict(X[4:8]), load_model(tmp_path / "m").predict(X[4:8]))


def test_plain_values_of_the_user_are_saved_along(tmp_path: Path) -> None:
    model = Sequential([Input((3,)), Dense(2)])
    model.metadata = {"characters": "abc\n", "steps": (3, 4.5), "note": None}
    model.save(tmp_path / "m")
    assert load_model(tmp_path / "m").metadata == model.metadata
    model.metadata = {"array": np.zeros(3)}
    with pytest.raises(ArgumentError, match="metadata"):
        model.save(tmp_path / "m")
    model.metadata = None
    model.save(tmp_path / "m")
    assert load_model(tmp_path / "m").metadata == {}


def plateau_run() -> tuple[Any, list[mr.callbacks.Callback]]:
    """A rate so high that the loss hardly falls, and callbacks that count for how long."""
    mr.seed(5)
    model = new_model("sgd")
    return model, [
        mr.callbacks.ReduceLROnPlateau(patience=2, factor=0.5, min_delta=10.0),
        mr.callbacks.EarlyStopping(patience=4, restore_best_weights=True, min_delta=10.0),
    ]


def test_callbacks_go_on_counting_where_a_saved_run_ended(tmp_path: Path) -> None:
    whole, callbacks = plateau_run()
    want = fit(whole, 9, callbacks=callbacks, seed=3)
    stopped, callbacks = plateau_run()
    # First in the list, it still saves what the others remember of the epoch.
    saver = mr.callbacks.ModelCheckpoint(tmp_path / "m.safetensors")
    fit(stopped, 3, callbacks=[saver, *callbacks], seed=3)
    again = load_model(tmp_path / "m.safetensors")
    _, callbacks = plateau_run()
    found = fit(again, 9, callbacks=callbacks, initial_epoch=3)
    assert len(want["loss"]) == 5 and want["learning_rate"][-1] < want["learning_rate"][0]
    assert {name: values[3:] for name, values in want.items()} == found
    assert [w.tobytes() for w in again.get_weights()] == [w.tobytes() for w in whole.get_weights()]


def test_a_run_from_the_first_epoch_has_callbacks_that_begin_anew(tmp_path: Path) -> None:
    model, callbacks = plateau_run()
    fit(model, 3, callbacks=callbacks)
    model.save(tmp_path / "m")
    again = load_model(tmp_path / "m")
    _, callbacks = plateau_run()
    assert len(fit(again, 9, callbacks=callbacks)["loss"]) == 5
