"""A whole classifier of sequences against HIPS autograd in float64: gradients and Hessian-vector products.

LSTM, Dense and softmax cross-entropy are written once for autograd; minirnn's side is the same model
as a step that is scanned (and as an unrolled loop), and as layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from tests.peers import Need
from tests.reference.cells import Array
from tests.reference.checks import Disagreement, assert_agree

pytestmark = pytest.mark.peers

BATCH, TIME, FEATURES, UNITS, CLASSES = 3, 6, 4, 5, 7
SHAPES = {
    "kernel": (FEATURES, 4 * UNITS),
    "recurrent_kernel": (UNITS, 4 * UNITS),
    "bias": (4 * UNITS,),
    "dense_kernel": (UNITS, CLASSES),
    "dense_bias": (CLASSES,),
    "h": (BATCH, UNITS),
    "c": (BATCH, UNITS),
    "x": (BATCH, TIME, FEATURES),
}
TOLERANCE = 1e-12
LOOPS = ["unrolled", "reference", "numpy"]

Named = dict[str, Array]
Loss = Callable[..., Any]


def draw(seed: int) -> Named:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) * 0.6 for name, shape in SHAPES.items()}


PARAMETERS, DIRECTIONS = draw(51), draw(52)
LABELS = np.random.default_rng(53).integers(0, CLASSES, size=(BATCH, TIME))


@pytest.fixture(scope="module")
def truth(need: Need) -> Named:
    """The loss, its gradients and its Hessian times DIRECTIONS, by autograd."""
    need("autograd")
    import autograd
    import autograd.numpy as anp

    def sigmoid(z: Any) -> Any:
        return 1 / (1 + anp.exp(-z))

    def loss(kernel, recurrent_kernel, bias, dense_kernel, dense_bias, h, c, x):  # type: ignore[no-untyped-def]
        total = 0.0
        for t in range(TIME):
            z = anp.dot(x[:, t], kernel) + anp.dot(h, recurrent_kernel) + bias
            i, f, candidate, o = (z[:, k * UNITS : (k + 1) * UNITS] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * anp.tanh(candidate)
            h = sigmoid(o) * anp.tanh(c)
            logits = anp.dot(h, dense_kernel) + dense_bias
            normaliser = anp.log(anp.sum(anp.exp(logits), axis=1))
            total = total + anp.sum(normaliser - logits[anp.arange(BATCH), LABELS[:, t]])
        return total / (BATCH * TIME)

    everything = tuple(range(len(SHAPES)))
    gradient = autograd.grad(loss, everything)

    def slope(*parameters: Any) -> Any:
        pairs = zip(gradient(*parameters), DIRECTIONS.values(), strict=True)
        return sum(anp.sum(g * d) for g, d in pairs)

    values = tuple(PARAMETERS.values())
    return named(loss(*values), gradient(*values), autograd.grad(slope, everything)(*values))


def named(loss: Any, gradients: Any, products: Any) -> Named:
    found = {"loss": np.asarray(loss)}
    for name, gradient, product in zip(SHAPES, gradients, products, strict=True):
        found |= {f"gradient of {name}": np.asarray(gradient), f"Hessian product of {name}": np.asarray(product)}
    return found


def cross_entropy(logits: Any) -> Any:
    """The mean over all steps; logits are time first."""
    chosen = mr.ops.one_hot(LABELS.T, CLASSES, "float64")
    return -mr.ops.mean(mr.ops.sum(chosen * mr.ops.log_softmax(logits), axis=-1))


def make_loss(loop: str, bug: Callable[[Named], Any] = lambda parameters: parameters) -> Loss:
    """minirnn's side as a function of the parameters in the order of SHAPES; `bug` may spoil them."""

    def loss(*parameters: Any) -> Any:
        p = bug(dict(zip(SHAPES, parameters, strict=True)))

        def step(carry: Any, x: Any) -> Any:
            h, c = carry
            z = x @ p["kernel"] + h @ p["recurrent_kernel"] + p["bias"]
            i, f, candidate, o = mr.ops.split(z, 4, axis=-1)
            c = mr.ops.sigmoid(f) * c + mr.ops.sigmoid(i) * mr.ops.tanh(candidate)
            h = mr.ops.sigmoid(o) * mr.ops.tanh(c)
            return (h, c), h @ p["dense_kernel"] + p["dense_bias"]

        carry, xs = (p["h"], p["c"]), mr.ops.transpose(p["x"], (1, 0, 2))
        if loop == "unrolled":
            logits = []
            for t in range(TIME):
                carry, y = step(carry, xs[t])
                logits.append(y)
            return cross_entropy(mr.ops.stack(logits))
        _, ys = mr.scan(step, carry, xs, engine=loop)
        return cross_entropy(ys)

    return loss


def by_transforms(loss: Loss) -> Named:
    values = [mr.Tensor(value) for value in PARAMETERS.values()]
    directions = [mr.Tensor(value) for value in DIRECTIONS.values()]
    value, gradients = mr.value_and_grad(loss, argnums=tuple(range(len(values))))(*values)
    return named(value, gradients, mr.hvp(loss, tuple(values), tuple(directions)))


def by_tapes(loss: Loss, tensors: list[Any], cut: int | None = None) -> Named:
    """A Tape inside a Tape: the gradient of the gradient's product with DIRECTIONS; `cut` plants a bug."""
    with mr.Tape() as outer:
        outer.watch(tensors)
        with mr.Tape() as inner:
            inner.watch(tensors)
            value = loss(*tensors)
        gradients = inner.gradient(value, tensors)
        if cut is not None:
            gradients[cut] = mr.ops.stop_gradient(gradients[cut])
        pairs = zip(gradients, DIRECTIONS.values(), strict=True)
        slope = sum(mr.ops.sum(gradient * mr.Tensor(direction)) for gradient, direction in pairs)
    return named(value, gradients, outer.gradient(slope, tensors))


@pytest.mark.parametrize("loop", LOOPS)
def test_transforms_equal_autograd(truth: Named, loop: str) -> None:
    assert_agree(by_transforms(make_loss(loop)), truth, TOLERANCE)


@pytest.mark.parametrize("loop", LOOPS)
def test_nested_tapes_equal_autograd(truth: Named, loop: str) -> None:
    assert_agree(by_tapes(make_loss(loop), [mr.Tensor(p) for p in PARAMETERS.values()]), truth, TOLERANCE)


@pytest.mark.parametrize("engine", ["reference", "numpy"])
def test_layers_equal_autograd(truth: Named, engine: str) -> None:
    """LSTM, Dense and the loss as a user writes them, the weights being the layers' own Variables."""
    from minirnn.layers import LSTM, Dense

    lstm = LSTM(UNITS, return_sequences=True, dtype="float64")
    dense = Dense(CLASSES, dtype="float64")
    lstm.build((BATCH, TIME, FEATURES))
    dense.build((BATCH, TIME, UNITS))
    lstm.set_weights([PARAMETERS[name] for name in ("kernel", "recurrent_kernel", "bias")])
    dense.set_weights([PARAMETERS[name] for name in ("dense_kernel", "dense_bias")])
    h, c, x = (mr.Tensor(PARAMETERS[name]) for name in ("h", "c", "x"))
    crossentropy = mr.losses.SparseCategoricalCrossentropy(from_logits=True)

    def loss(*_: Any) -> Any:
        return crossentropy(LABELS, dense(lstm(x, initial_state=[h, c])))

    with mr.engine(engine):
        found = by_tapes(loss, [*lstm.trainable_variables, *dense.trainable_variables, h, c, x])
    assert_agree(found, truth, TOLERANCE)


def swap_gates(p: Named) -> Any:
    i, f, candidate, o = mr.ops.split(p["kernel"], 4, axis=1)
    return p | {"kernel": mr.ops.concatenate([f, i, candidate, o], axis=1)}


def transpose_recurrent_kernel(p: Named) -> Any:
    gates = mr.ops.split(p["recurrent_kernel"], 4, axis=1)
    return p | {"recurrent_kernel": mr.ops.concatenate([gate.T for gate in gates], axis=1)}


def drop_kernel_cotangent(p: Named) -> Any:
    return p | {"kernel": mr.ops.stop_gradient(p["kernel"])}


def cotangent_off_by_a_thousandth(p: Named) -> Any:
    """The value stays; the derivative becomes 1.001 times itself."""
    bias = p["bias"]
    return p | {"bias": bias + 0.001 * (bias - mr.ops.stop_gradient(bias))}  # type: ignore[operator]


BUGS = [swap_gates, transpose_recurrent_kernel, drop_kernel_cotangent, cotangent_off_by_a_thousandth]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_planted_bugs_are_noticed(truth: Named, bug: Callable[[Named], Any]) -> None:
    with pytest.raises(Disagreement, match="gradient of"):
        assert_agree(by_transforms(make_loss("numpy", bug)), truth, TOLERANCE)


def test_bug_of_the_second_order_alone_is_noticed(truth: Named) -> None:
    """The gradients are right, but one of them is cut off from the parameters."""
    tensors = [mr.Tensor(p) for p in PARAMETERS.values()]
    with pytest.raises(Disagreement, match="above 1e-12: Hessian product of kernel"):
        assert_agree(by_tapes(make_loss("numpy"), tensors, cut=0), truth, TOLERANCE)
