"""A model's file: configuration, weights, states, and what is needed to go on training to the bit."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import serialization
from ..autodiff import random, trees
from ..autodiff.tensor import Variable
from ..errors import ArgumentError, FormatError
from ..layers import registry
from ..layers.base import Layer
from .compiled import Compiled
from .loop import stateful_layers

Path = str | os.PathLike[str]


def checked_path(path: Any, what: str) -> Path:
    """`path` if it is one; an integer, which the system would take for an open file, is none."""
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError(f"{what}: path", got=repr(path), expected="a string or a pathlib.Path")
    return path


def save_model(model: Any, path: Path) -> None:
    """Write all of a model to `path`, whole or not at all; ArgumentError for layers that have no configuration."""
    checked_path(path, f"{model.label}: save")
    groups = {"weights": named_weights(model), "states": _states(model)}
    extra: dict[str, Any] = {
        "random": random.get_state(),
        "seed": model.run_seed,
        "epochs": model.trained_epochs,
        "compile": None,
        "metadata": dict(model.metadata or {}),
    }
    extra["callbacks"], groups["callbacks"] = _memories(model)
    compiled: Compiled | None = model.compiled
    if compiled is not None:
        try:
            extra["compile"] = compiled.get_config()
        except ArgumentError as error:
            warnings.warn(f"{path}: saved without what compile was told: {error}", stacklevel=3)
        else:
            groups["optimizer"] = compiled.optimizer.export_state(model.trainable_variables)
    serialization.save_state(path, config={"model": registry.serialize(model)}, groups=groups, extra=extra)


def save_weights(model: Any, path: Path) -> None:
    """Write a model's weights only."""
    checked_path(path, f"{model.label}: save_weights")
    serialization.save_state(path, config={}, groups={"weights": named_weights(model)})


def load_weights(model: Any, path: Path) -> None:
    """Give the model the weights in a file of `save_weights` or `save_model`; FormatError if they do not fit."""
    checked_path(path, f"{model.label}: load_weights")
    _set_weights(model, serialization.load_state(path).groups.get("weights", {}), path)


def restore(model: Any, state: serialization.SavedState, path: Path, compile: bool = True) -> None:
    """Bring a new model of the saved configuration into the saved state; FormatError if the file does not fit it."""
    _set_weights(model, state.groups.get("weights", {}), path)
    _set_states(model, state.groups.get("states", {}), path)
    model.metadata = state.extra.get("metadata", {})
    model.trained_epochs = int(state.extra.get("epochs", 0))
    if compile and state.extra.get("compile") is not None:
        model.compiled = Compiled.from_config(state.extra["compile"])
        model.compiled.optimizer.import_state(state.groups.get("optimizer", {}), model.trainable_variables)
        model.resumed_run = {
            "random": state.extra["random"],
            "seed": state.extra["seed"],
            "callbacks": _restored_memories(state, path),
        }


def _memories(model: Any) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """What the callbacks of the latest run remember: plain values, and the arrays, by place, name and number."""
    plain: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    callbacks = model._run_callbacks
    for place, memory in enumerate(callbacks.memories() if callbacks is not None else ()):
        lists = {name: value for name, value in memory.items() if isinstance(value, list)}
        plain.append({name: len(lists[name]) if name in lists else value for name, value in memory.items()})
        plain[-1]["lists"] = sorted(lists)
        for name, values in lists.items():
            arrays |= {f"{place}/{name}/{number}": np.asarray(value) for number, value in enumerate(values)}
    return plain, arrays


def _restored_memories(state: serialization.SavedState, path: Path) -> list[dict[str, Any]]:
    """What `_memories` took apart; FormatError if it does not fit together."""
    arrays = state.groups.get("callbacks", {})
    found = []
    try:
        for place, plain in enumerate(state.extra.get("callbacks", [])):
            lists = {name: [arrays[f"{place}/{name}/{k}"] for k in range(plain[name])] for name in plain["lists"]}
            found.append({**plain, **lists, "class_name": str(plain["class_name"])})
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path}: what callbacks remembered is damaged", got=repr(error)) from error
    return found


def named_weights(model: Layer) -> dict[str, np.ndarray]:
    """The weights in the model's order, named by the layers that lead to them: "lstm/lstm_cell/kernel"."""
    paths: dict[int, str] = {}

    def visit(layer: Layer, prefix: str) -> None:
        for inner in layer.sublayers:
            visit(inner, f"{prefix}{inner.name}/")
        for variable in layer.weights:  # those of inner layers have their names already
            paths.setdefault(id(variable), prefix + (variable.name or "weight"))

    visit(model, "")
    names: dict[str, np.ndarray] = {}
    for variable in model.weights:
        name = stem = paths[id(variable)]
        number = 0
        while name in names:
            number += 1
            name = f"{stem}_{number}"
        names[name] = variable.value
    return names


def _set_weights(model: Any, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Weights go by their order, because generated layer names differ between processes."""
    weights: list[Variable] = model.weights
    saved = list(arrays.items())
    if [array.shape for _, array in saved] != [variable.shape for variable in weights]:
        raise FormatError(
            f"{path}: the weights in it are not those of {model.label}",
            got=_listed([(name, array.shape) for name, array in saved]),
            expected=_listed([(variable.name, variable.shape) for variable in weights]),
            fix=None if weights else "build the model first: call it, or give its first layer an input_shape",
        )
    for variable, (_, array) in zip(weights, saved, strict=True):
        variable.assign(array)


def _listed(shapes: list[tuple[Any, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes) or "none"


def _states(model: Any) -> dict[str, np.ndarray]:
    """The states that stateful layers hold, by the layer's place and the state's."""
    return {
        f"{place}/{index}": np.asarray(leaf)
        for place, layer in enumerate(stateful_layers(model))
        for index, leaf in enumerate(trees.flatten(layer.states)[0])
    }


def _set_states(model: Any, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    by_layer: dict[int, list[np.ndarray]] = {}
    layers = stateful_layers(model)
    for name, array in arrays.items():
        place = name.split("/")[0]
        if not place.isdigit() or int(place) >= len(layers):
            raise FormatError(f"{path}: states of a missing layer", got=name, expected=f"{len(layers)} layers")
        by_layer.setdefault(int(place), []).append(array)
    for number, states in by_layer.items():
        layers[number].states = states
