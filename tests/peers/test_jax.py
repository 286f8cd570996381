"""A step of nobody's invention, scanned, against jax.lax.scan in float64: all derivatives, both orders.

The step has a nested carry (one of rank 3), nested inputs and outputs, and closed-over parameters.  It
is written once over a set of operations; what is compared is the loop and the derivatives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from tests.peers import Need
from tests.reference.cells import Array
from tests.reference.checks import Disagreement, assert_agree

pytestmark = pytest.mark.peers

TIME, BATCH, FEATURES, UNITS, SLOTS = 6, 3, 4, 5, 2
SHAPES = {
    "kernel": (FEATURES, UNITS),
    "recurrent_kernel": (UNITS, UNITS),
    "bias": (UNITS,),
    "key_kernel": (FEATURES, SLOTS),
    "query_kernel": (UNITS, SLOTS),
    "h": (BATCH, UNITS),
    "memory": (BATCH, UNITS, SLOTS),
    "signal": (TIME, BATCH, FEATURES),
    "rate": (TIME, BATCH, 1),
}
NAMES = list(SHAPES)
TOLERANCE = 1e-12
MASK = np.random.default_rng(64).random((TIME, BATCH)) < 0.6
MASK[0, 0], MASK[:, 2] = False, False

Named = dict[str, Any]
Truth = Callable[[bool, bool], Named]


def draw(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape) * 0.7 for name, shape in SHAPES.items()}


PARAMETERS, DIRECTIONS = draw(61), draw(62)
WEIGHTS_OF_LOSS = np.random.default_rng(63).normal(size=(TIME, BATCH, UNITS))


def make_step(ops: Any, p: Named) -> Callable[[Any, Any], Any]:
    """A network that reads from and writes to a decaying memory, addressed by softmax."""

    def step(carry: Any, x: Any) -> Any:
        query = ops.softmax(carry["h"] @ p["query_kernel"])
        read = ops.sum(carry["memory"] * ops.expand_dims(query, 1), axis=2)
        h = ops.tanh(x["signal"] @ p["kernel"] + read @ p["recurrent_kernel"] + p["bias"])
        key = ops.softmax(x["signal"] @ p["key_kernel"])
        decay = ops.expand_dims(ops.sigmoid(x["rate"]), 2)
        memory = decay * carry["memory"] + ops.expand_dims(h, 2) * ops.expand_dims(key, 1)
        return {"h": h, "memory": memory}, (h, ops.sum(memory * memory, axis=(1, 2)))

    return step


def summarise(ops: Any, carry: Any, ys: Any) -> Any:
    """A loss that every result of the scan enters, and not linearly."""
    hs, energies = ys
    return ops.sum(hs * WEIGHTS_OF_LOSS) + ops.sum(ops.tanh(energies)) + ops.sum(carry["h"] * carry["memory"][:, :, 0])


def parts(p: Named) -> tuple[Named, Named]:
    return {"h": p["h"], "memory": p["memory"]}, {"signal": p["signal"], "rate": p["rate"]}


@pytest.fixture(scope="module")
def jax(need: Need) -> Any:
    return need("jax")


def jax_loss(jax: Any, reverse: bool, mask: Array | None) -> Callable[..., Any]:
    jnp = jax.numpy
    ops = SimpleNamespace(
        softmax=jax.nn.softmax, sigmoid=jax.nn.sigmoid, tanh=jnp.tanh, sum=jnp.sum, expand_dims=jnp.expand_dims
    )

    def loss(*parameters: Any) -> Any:
        p = dict(zip(NAMES, parameters, strict=True))
        step = make_step(ops, p)
        init, xs = parts(p)

        def hold(valid: Any, new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(valid.reshape((-1,) + (1,) * (n.ndim - 1)), n, o), new, old)

        def masked_step(carry: Any, x: Any) -> Any:
            held, last = carry
            x, valid = x
            new, y = step(held, x)
            new, y = hold(valid, new, held), hold(valid, y, last)
            return (new, y), y

        start = (init, (jnp.zeros((BATCH, UNITS)), jnp.zeros((BATCH,))))
        everywhere = np.ones((TIME, BATCH), bool) if mask is None else mask
        (carry, _), ys = jax.lax.scan(masked_step, start, (xs, everywhere), reverse=reverse)
        return summarise(ops, carry, ys)

    return loss


def minirnn_loss(
    loop: str,
    reverse: bool = False,
    mask: Array | None = None,
    checkpoint: int | None = None,
    bug: Callable[[Named], Named] = lambda p: p,
) -> Callable[..., Any]:
    def loss(*parameters: Any) -> Any:
        p = bug(dict(zip(NAMES, parameters, strict=True)))
        init, xs = parts(p)
        carry, ys = mr.scan(
            make_step(mr.ops, p), init, xs, reverse=reverse, mask=mask, engine=loop, checkpoint=checkpoint
        )
        return summarise(mr.ops, carry, ys)

    return loss


@pytest.fixture(scope="module")
def truth(jax: Any) -> Truth:
    """What JAX finds, by `reverse` and whether masked."""

    @functools.cache
    def find(reverse: bool, masked: bool) -> Named:
        loss = jax_loss(jax, reverse, MASK if masked else None)
        with_gradients = jax.value_and_grad(loss, tuple(range(len(NAMES))))
        with jax.enable_x64(True):
            both_orders = jax.jit(lambda p, d: jax.jvp(with_gradients, p, d))
            primals, tangents = both_orders(tuple(PARAMETERS.values()), tuple(DIRECTIONS.values()))
        (value, gradients), (slope, products) = primals, tangents
        return named(value, slope, gradients, products)

    return find


def by_minirnn(loss: Callable[..., Any]) -> Named:
    values = tuple(mr.Tensor(value) for value in PARAMETERS.values())
    directions = tuple(mr.Tensor(value) for value in DIRECTIONS.values())
    value, gradients = mr.value_and_grad(loss, tuple(range(len(NAMES))))(*values)
    slope = mr.jvp(loss, values, directions)[1]
    return named(value, slope, gradients, mr.hvp(loss, values, directions))


def named(value: Any, slope: Any, gradients: Any, products: Any) -> Named:
    found = {"loss": np.asarray(value), "directional derivative": np.asarray(slope)}
    for name, gradient, product in zip(NAMES, gradients, products, strict=True):
        found |= {f"gradient of {name}": np.asarray(gradient), f"Hessian product of {name}": np.asarray(product)}
    return found


@pytest.mark.parametrize("loop", ["reference", "numpy"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_scan_equals_lax_scan(truth: Truth, reverse: bool, masked: bool, loop: str) -> None:
    found = by_minirnn(minirnn_loss(loop, reverse, MASK if masked else None))
    assert_agree(found, truth(reverse, masked), TOLERANCE)


@pytest.mark.parametrize("checkpoint", [1, 4, 6, 50])
def test_checkpointed_scan_equals_lax_scan(truth: Truth, checkpoint: int) -> None:
    found = by_minirnn(minirnn_loss("numpy", mask=MASK, checkpoint=checkpoint))
    assert_agree(found, truth(False, True), TOLERANCE)


def without_cotangent(name: str) -> Callable[[Named], Named]:
    return lambda p: p | {name: mr.ops.stop_gradient(p[name])}


def off_by_a_thousandth(name: str) -> Callable[[Named], Named]:
    """The value stays; the derivative becomes 1.001 times itself."""
    return lambda p: p | {name: p[name] + 0.001 * (p[name] - mr.ops.stop_gradient(p[name]))}


BUGS = {
    **{f"no cotangent of {name}": without_cotangent(name) for name in NAMES},
    **{f"cotangent of {name} off by 0.1 %": off_by_a_thousandth(name) for name in NAMES},
    "recurrent kernel transposed": lambda p: p | {"recurrent_kernel": p["recurrent_kernel"].T},
    "time reversed": lambda p: p | {"signal": mr.ops.flip(p["signal"], 0)},
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_noticed(truth: Truth, bug: str) -> None:
    with pytest.raises(Disagreement, match="gradient of"):
        assert_agree(by_minirnn(minirnn_loss("numpy", bug=BUGS[bug])), truth(False, False), TOLERANCE)


def test_planted_bugs_of_the_loop_are_noticed(truth: Truth) -> None:
    ignored_mask, other_direction = minirnn_loss("numpy"), minirnn_loss("numpy", reverse=True, mask=MASK)
    for wrong in [ignored_mask, other_direction]:
        with pytest.raises(Disagreement, match="loss .* gradient of"):
            assert_agree(by_minirnn(wrong), truth(False, True), TOLERANCE)


@pytest.mark.parametrize("loop", ["reference", "numpy"])
def test_jacobian_and_per_sample_gradients_equal_jax(jax: Any, loop: str) -> None:
    """The last state's derivative by the first, and a loss for each row of the batch."""
    jnp = jax.numpy
    kernel, recurrent_kernel = PARAMETERS["kernel"], PARAMETERS["recurrent_kernel"]
    h, signal = PARAMETERS["h"], PARAMETERS["signal"]

    def last_by_jax(kernel: Any, h: Any, signal: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = jnp.tanh(x @ kernel + h @ recurrent_kernel)
            return h, None

        return jax.lax.scan(step, h, signal)[0]

    def last(kernel: Any, h: Any, signal: Any) -> Any:
        recurrent = mr.Tensor(recurrent_kernel)

        def step(h: Any, x: Any) -> Any:
            h = mr.ops.tanh(x @ kernel + h @ recurrent)
            return h, h

        return mr.scan(step, h, signal, engine=loop)[0]

    def loss_of_batch(kernel: Any, h: Any, signal: Any) -> Any:
        """Batch first, as `per_sample_grad` cuts it."""
        return mr.ops.sum(mr.ops.exp(last(kernel, h, mr.ops.transpose(signal, (1, 0, 2)))))

    with jax.enable_x64(True):
        jacobian = jax.jacrev(last_by_jax, argnums=(0, 1))(kernel, h, signal)
        row_loss = jax.grad(lambda k, h, x: jnp.sum(jnp.exp(last_by_jax(k, h[None], x[:, None]))))
        rows = jax.vmap(row_loss, in_axes=(None, 0, 1))(kernel, h, signal)
    got = mr.jacobian(last, argnums=(0, 1))(mr.Tensor(kernel), mr.Tensor(h), mr.Tensor(signal))
    got_rows = mr.per_sample_grad(loss_of_batch)(mr.Tensor(kernel), h, signal.transpose(1, 0, 2))
    truth = {"by kernel": jacobian[0], "by h": jacobian[1], "per sample": rows}
    assert_agree({"by kernel": got[0], "by h": got[1], "per sample": got_rows}, truth, TOLERANCE)
