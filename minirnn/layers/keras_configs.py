"""Configurations that Keras 2 and 3 wrote, as far as they differ from ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Keys that say nothing here: how Keras finds a class, what it runs on, what the input's shape says anyway.
LEGACY_KEYS = frozenset({
    "autocast", "batch_shape", "build_config", "build_input_shape", "dynamic", "input_dim", "input_length",
    "input_spec", "module", "optional", "ragged", "registered_name", "seed", "sparse", "synchronized", "use_cudnn",
})  # fmt: skip
# Keys that mean something, unless they have one of these values.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "activity_regularizer": (None,), "data_format": (None, "channels_last"), "input_axes": (None,),
    "noise_shape": (None,), "output_axes": (None,), "quantization_config": (None,), "rms_scaling": (False,),
}  # fmt: skip


def without_legacy_keys(config: Mapping[str, Any], accepted: Collection[str]) -> dict[str, Any]:
    """`config` without what Keras writes and a class whose arguments are `accepted` can do without.

    >>> without_legacy_keys({"units": 3, "use_cudnn": "auto", "activity_regularizer": None}, {"units"})
    {'units': 3}
    """

    def says_nothing(key: str) -> bool:
        return key in LEGACY_KEYS or any(config[key] == value for value in _HARMLESS.get(key, ()))

    return {key: value for key, value in config.items() if key in accepted or not says_nothing(key)}


def in_our_words(config: Mapping[str, Any], option_names: Collection[str]) -> Mapping[str, Any]:
    """The configuration of a recurrent layer or cell with these options, if Keras 2 wrote it; others as they are.

    Keras 2 always writes `implementation` or `time_major`, which Keras 3 never does, and none of our own
    `checkpoint` and `zoneout`.  Its "hard_sigmoid" has another formula, and a GRU of its first years has no
    `reset_after`.

    >>> in_our_words({"units": 3, "implementation": 1, "recurrent_activation": "hard_sigmoid"}, ["reset_after"])
    {'units': 3, 'implementation': 1, 'recurrent_activation': 'hard_sigmoid_keras2', 'reset_after': False}
    """
    if {"checkpoint", "zoneout"} & config.keys() or not {"implementation", "time_major"} & config.keys():
        return config
    ours = dict(config)
    for name in ("activation", "recurrent_activation"):
        if ours.get(name) == "hard_sigmoid":
            ours[name] = "hard_sigmoid_keras2"
    if "reset_after" in option_names:
        ours.setdefault("reset_after", False)
    return ours
