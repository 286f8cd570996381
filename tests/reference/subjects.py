"""What the checks compare: a case run through the formulas, and through minirnn's layers."""

from __future__ import annotations

from typing import Any

import numpy as np

import minirnn as mr
from minirnn import layers
from tests.reference import cells
from tests.reference.cells import Array, Case


def formulas(case: Case) -> dict[str, Array]:
    """The results of the formulas alone."""
    return cells.results(case)


def formulas_with_gradients(case: Case) -> dict[str, Array]:
    """The results and all gradients of the formulas, the latter by complex step."""
    return cells.results(case) | cells.gradients(case)


def layer(case: Case, dtype: str = "float64", engine: str = "numpy", **flags: Any) -> dict[str, Array]:
    """The results and all gradients of minirnn's layer for the case; `flags` are more of its arguments."""
    lengths = flags.pop("lengths", None)
    makers = {
        "simple_rnn": (layers.SimpleRNN, {}),
        "gru_reset_after": (layers.GRU, {"reset_after": True}),
        "gru_reset_before": (layers.GRU, {"reset_after": False}),
        "lstm": (layers.LSTM, {}),
    }
    make, options = makers[case.kind]
    made = make(
        case.weights[0].shape[1] // cells.KINDS[case.kind].gates,
        **{"return_sequences": True, **flags},
        return_state=True,
        go_backwards=case.go_backwards,
        dtype=dtype,
        **options,
        **case.options,
    )
    made.build((None, *case.x.shape[1:]))
    made.set_weights([np.asarray(w, dtype) for w in case.weights])
    x = mr.Tensor(np.asarray(case.x, dtype))
    states = [mr.Tensor(np.asarray(s, dtype)) for s in case.initial_states]
    with mr.engine(engine), mr.Tape() as tape:
        for tensor in (x, *states):
            tape.watch(tensor)
        found = made(x, mask=case.mask, initial_state=states, reset_mask=case.resets, lengths=lengths)
        loss = sum(
            mr.ops.sum(mr.Tensor(np.asarray(ct, dtype)) * value)
            for ct, value in zip(case.cotangents, found, strict=True)
        )
        gradients = tape.gradient(loss, [x, *made.trainable_variables, *states])
    outputs, *final_states = found
    named = {"outputs": outputs, **{f"state {k}": state for k, state in enumerate(final_states)}}
    named |= dict(zip(cells.gradient_names(case), gradients, strict=True))
    for name, tensor in named.items():
        assert tensor is not None, f"{name} is missing"
        assert tensor.dtype == np.dtype(dtype), f"{name} is {tensor.dtype}, not {dtype}"
    return {name: np.asarray(tensor) for name, tensor in named.items()}


def layer_float32(case: Case) -> dict[str, Array]:
    """As `layer`, in float32."""
    return layer(case, "float32")
