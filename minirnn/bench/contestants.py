"""One case's weights and inputs, who computes it, and the check that they all compute the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from .. import config
from ..autodiff.random import seed
from ..autodiff.tape import Tape
from ..autodiff.tensor import Variable
from ..errors import MinirnnError
from ..layers import GRU, LSTM, ConvLSTM2D, Input, SimpleRNN
from ..models import Model
from . import own
from .cases import BUILT_IN, CHANNELS, IMAGE, KERNEL, SLOTS, Case

# What has to be importable for each peer.
MODULES = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "torch": ("torch",),
    "jax": ("jax",),
    "keras": ("keras", "jax"),
    "autograd": ("autograd",),
}
# Who may take part in each grid, beside minirnn's own engines.
PEERS = {
    "sequence": ("onnxruntime", "torch", "jax"),
    "batch": ("onnxruntime", "torch", "jax"),
    "training": ("torch", "jax"),
    "own": ("torch", "jax"),
    "stream": ("onnxruntime",),
    "images": ("torch", "jax", "keras"),
    "engines": ("autograd",),
    "cuda": (),
}
TOLERANCE = 1e-4
STREAMED = 10  # steps whose results are compared
_LAYERS = {"simple_rnn": SimpleRNN, "gru": GRU, "lstm": LSTM}
_OWN = {
    "layer_norm_lstm": own.layer_norm_lstm,
    "attention_lstm": own.attention_lstm,
    "stacked_lstm": own.stacked_lstm,
}

Arrays = list[np.ndarray]


class Contestant(NamedTuple):
    """Someone who does the work of a case.

    run: what is timed.  results: the outputs (B, T, ...), or the gradients in the order of the
    layer's variables.  during: what holds while it runs, entered outside of what is timed.
    """

    name: str
    peer: str
    run: Callable[[], Any]
    results: Callable[[], Arrays]
    during: Callable[[], AbstractContextManager[Any]] = nullcontext


class Disagreement(MinirnnError, AssertionError):
    """A contestant computes something else than minirnn's reference engine."""


class Work:
    """The layer of a case, built, with weights that no two places share, and its inputs.

    inputs: the arrays that are given to a call, batch first: x, for the attention also the vectors,
    for the decoder h and c.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        seed(7)  # the layer's own weights do not depend on the cases before
        rng = np.random.default_rng(7)
        units, batch = case.units, case.batch
        steps = STREAMED if case.grid == "stream" else case.steps
        if case.cell == "fed_back_lstm":
            self.inputs = [rng.normal(size=(batch, units)) for _ in range(2)]
        else:
            features = (*IMAGE, CHANNELS) if case.cell == "conv_lstm" else (units,)
            self.inputs = [rng.normal(size=(batch, steps, *features))]
        if case.cell == "attention_lstm":
            self.inputs.append(rng.normal(size=(batch, SLOTS, units)))
        self.inputs = [array.astype("float32") for array in self.inputs]
        self.layer: Any
        if case.cell in BUILT_IN:
            self.layer = _LAYERS[case.cell](units, return_sequences=True, dtype="float32")
        elif case.cell == "conv_lstm":
            self.layer = ConvLSTM2D(units, KERNEL, padding="same", return_sequences=True, dtype="float32")
        elif case.cell in _OWN:
            self.layer = _OWN[case.cell](units)
        else:
            self.layer = own.fed_back_lstm(units, steps)
        if case.grid == "stream":
            x = Input((None, units))
            self.model = Model(x, self.layer(x))
        else:
            with config.engine("numpy"):
                self.call()
        # Biases that are zero, and normalisations' ones, would hide an exchange of two of them.
        # With normalised gates of variance 1 the network is chaotic: rounding grows a thousandfold in 100 steps.
        for variable in self.variables:
            if variable.name == "gamma":
                variable.assign(variable.numpy() * np.float32(0.5))
            if len(variable.shape) == 1 or case.cell == "gru" and variable.shape[0] == 2:
                variable.assign(variable.numpy() + rng.normal(size=variable.shape).astype("float32") * 0.1)

    @property
    def variables(self) -> list[Variable]:
        """The layer's trainable variables."""
        found: list[Variable] = self.layer.trainable_variables
        return found

    @property
    def weights(self) -> Arrays:
        """Their values."""
        return [np.array(variable.numpy()) for variable in self.variables]

    def call(self) -> Any:
        """One call of the layer on its inputs."""
        if self.case.cell == "attention_lstm":
            x, vectors = self.inputs
            return self.layer(x, constants=[vectors])
        if self.case.cell == "fed_back_lstm":
            return self.layer(states=[None, *self.inputs])
        return self.layer(self.inputs[0])

    def train(self) -> Any:
        """One call, its sum, and the gradients."""
        with Tape() as tape:
            loss = self.call().sum()
        return tape.gradient(loss, self.variables)

    def results(self) -> Arrays:
        """What everyone should find, as minirnn in force here finds it."""
        found = self.train() if self.case.training else [self.call()]
        return [np.asarray(tensor) for tensor in found]

    def expected(self) -> Arrays:
        """The same by the reference engine."""
        with config.engine("reference"):
            return self.results()

    def on(self, engine: str) -> Contestant:
        """Minirnn itself, on an engine."""
        run, results = self.train if self.case.training else self.call, self.results
        if self.case.grid == "stream":
            x = self.inputs[0]
            with config.engine(engine):
                stream = self.model.stream(batch_size=1)
            first = x[:, 0]

            def run() -> Any:
                return stream.push(first)

            def results() -> Arrays:
                stream.reset()
                return [np.stack([np.array(stream.push(x[:, t])) for t in range(x.shape[1])], axis=1)]

        return Contestant(engine, engine, run, results, lambda: config.engine(engine))


def installed(peer: str) -> bool:
    """Whether a peer can be imported.

    >>> installed("no such library")
    False
    """
    return all(importlib.util.find_spec(name) is not None for name in MODULES.get(peer, (peer,)))


def engines() -> tuple[str, ...]:
    """The engines to be timed, the one that is judged first.

    >>> "reference" in engines()
    False
    """
    there = [name for name in config.ENGINES if name in ("cpu", "numpy")]
    return tuple(sorted(there, key=["cpu", "numpy"].index))


def of(work: Work, own_engines: Sequence[str], peers: Sequence[str], threads: int) -> list[Contestant]:
    """Everyone who does this work: minirnn's engines, then the peers among those that can be imported."""
    found = [work.on(engine) for engine in own_engines]
    for peer in PEERS[work.case.grid]:
        if peer in peers and installed(peer):
            module = importlib.import_module(f"{__package__}.{peer}_peer")
            found += module.contestants(work, threads)
    return found


def check(contestant: Contestant, expected: Arrays) -> None:
    """Disagreement unless its results are the expected ones, to TOLERANCE of the largest element of each."""
    with contestant.during():
        found = contestant.results()
    if len(found) != len(expected):
        raise Disagreement(f"bench: {contestant.name}", got=f"{len(found)} results", expected=len(expected))
    for index, (got, want) in enumerate(zip(found, expected, strict=True)):
        if got.shape != want.shape:
            raise Disagreement(f"bench: {contestant.name}, result {index}", got=got.shape, expected=want.shape)
        scale = float(np.abs(want).max(initial=0.0))
        off = float(np.abs(got - want).max(initial=0.0))
        if not off <= TOLERANCE * scale:  # NaN is off, too
            raise Disagreement(
                f"bench: {contestant.name} computes something else, in result {index}",
                got=f"a difference of {off:.2g}",
                expected=f"at most {TOLERANCE:g} of {scale:.2g}, the largest element",
            )
