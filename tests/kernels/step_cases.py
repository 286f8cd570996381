"""More computations for engine_cases.py: steps with operations that the named steps do not have."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np

import minirnn as mr
from minirnn import ops
from minirnn.autodiff import random
from tests.stepgraph import steps

from .engine_cases import B, F, Results, T, U, case, draw, evaluate, of_step


# steps with other operations ---------------------------------------------------------------------
@case
def moves_in_a_step() -> Results:
    def over(kernel: Any, table: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            h, grid = carry
            left, right = ops.split(h, [1], axis=-1)
            turned = ops.concatenate([ops.flip(right, -1), left], axis=-1)
            padded = ops.pad(grid, ((0, 0), (1, 0), (0, 2)))[:, :2, 1:4]
            pair = ops.stack([turned, h * x[:, :1]], axis=1)
            mixed = ops.contract("bij,jk->bik", pair, kernel)
            grid = ops.tanh(ops.transpose(mixed, (0, 2, 1))[:, :3, :].reshape(B, 2, 3) + padded + table)
            h = ops.tanh(turned + ops.reshape(grid, (B, 6))[:, 1:5] + ops.squeeze(pair[:, 1:, :], 1))
            return (h, grid), {"pair": pair, "every other": grid[:, ::-1, ::2], "x": x}

        return step

    return of_step(over, (draw(B, U), draw(B, 2, 3)), draw(T, B, F), [draw(U, U), draw(2, 3)], order=2)


@case
def reductions_in_a_step() -> Results:
    def over(kernel: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            z = h @ kernel + ops.sum(x, axis=1, keepdims=True)
            top, bottom = ops.max(z, axis=-1, keepdims=True), ops.min(x, axis=-1)
            weights = ops.softmax(z)
            h = ops.where(z > ops.mean(z, axis=-1, keepdims=True), weights - ops.logsumexp(x), ops.tanh(z * top))
            cube = ops.contract("bi,bj->bij", x, h)
            h = h / ops.sqrt(ops.var(h, axis=-1, keepdims=True) + 0.1)
            return h, (ops.max(cube, axis=1), ops.min(cube, axis=(1, 2)), bottom, ops.sum(cube, axis=(0, 1)))

        return step

    return of_step(over, draw(B, U), draw(T, B, 7), [draw(U, U)], order=2)


@case
def choices_in_a_step() -> Results:
    def over(table: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            h, was_high, count = carry
            high = ops.any(h > 0.3, axis=-1)
            best = ops.argmax(h, axis=-1)
            h = ops.where(ops.expand_dims(high, 1), ops.tanh(h - x), h * 0.5 + ops.take(table, best, axis=0))
            h = h + ops.one_hot(best, U) * ops.where(ops.expand_dims(was_high, 1), 0.1, -0.2)
            both = high & ~was_high | ops.all(x > 0, axis=-1)
            count = count + ops.cast(both, "int64")
            return (h, both, count), (best, both, count * 2 - best, ops.clip(h, -0.2, 0.3))

        return step

    init = (draw(B, U), np.array([True, False, True]), np.arange(B))
    return of_step(over, init, draw(T, B, U), [draw(U, U)])


@case
def embedding_in_a_step() -> Results:
    def over(table: Any, kernel: Any) -> Any:
        def step(h: Any, ids: Any) -> Any:
            words = ops.take(table, ids, axis=0)
            h = ops.tanh(h @ kernel + ops.sum(words, axis=1) + ops.take(table, ids[:, 0], axis=0))
            return h, words

        return step

    ids = np.random.default_rng(0).integers(0, 9, (T, B, 2))
    return of_step(over, draw(B, U), ids, [draw(9, U), draw(U, U)], order=2)


@case
def batch_dimensions_and_row_mixing() -> Results:
    def over(kernel: Any, memory: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            h, total = carry
            heads = ops.reshape(h, (B, 2, 3))
            scores = ops.contract("bhd,bkd->bhk", heads, memory)
            read = ops.contract("bhk,bkd->bhd", ops.softmax(scores), memory)
            h = ops.tanh(ops.reshape(read, (B, 6)) @ kernel + x - ops.mean(h, axis=0))
            total = total + ops.contract("bi,bj->ij", h, x)
            return (h, total), ops.contract("ij,bj->bi", total, h)

        return step

    init, closed = (draw(B, 6), draw(6, 6)), [draw(6, 6), draw(B, 5, 3)]
    return of_step(over, init, draw(T, B, 6), closed, order=2)


@case
def convolutions_in_a_step() -> Results:
    def over(kernel: Any, recurrent_kernel: Any, line: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            z = ops.conv(x, kernel, padding="same") + ops.conv(h, recurrent_kernel, padding="same")
            h = ops.tanh(z)
            rows = ops.conv(ops.reshape(h, (B, 20, 2)), line, strides=3, padding="valid", dilation=2)
            return h, rows

        return step

    closed = [draw(3, 2, 3, 2), draw(2, 3, 2, 2), draw(3, 2, 4)]
    return of_step(over, draw(B, 4, 5, 2), draw(T, B, 4, 5, 3), closed)


@case
def mixed_dtypes() -> Results:
    def over(kernel: Any, scale: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            single, double, whole = carry
            single = ops.tanh(single @ kernel + ops.cast(double, "float32"))
            double = ops.cast(single, "float64") * scale + ops.cast(x, "float64")
            whole = whole + ops.cast(double > 0, "int32") + ops.cast(x * 3, "int32")
            return (single, double, whole), (single, ops.cast(whole, "float32") * 0.5, double > 0.5)

        return step

    init = (steps.numbers(B, U).astype("float32"), steps.numbers(B, U), np.arange(B * U, dtype="int32").reshape(B, U))
    closed = [steps.numbers(U, U).astype("float32"), steps.numbers(U)]
    found = of_step(over, init, steps.numbers(T, B, U).astype("float32"), closed)
    # float32 has a part in everything; what is compared to 1e-12 is all in float64.
    exact = mr.config.current_dtype() == "float64"
    return {k: np.round(np.asarray(v), 4) if exact and np.asarray(v).dtype.kind == "f" else v for k, v in found.items()}


@case
def elementary_functions() -> Results:
    names = "exp expm1 log1p sin cos tanh sigmoid softplus softsign elu relu abs square negative sqrt log".split()

    def over(scale: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            parts = [getattr(ops, name)(h * scale + x * x + 0.6) for name in names]
            parts += [(h * h + 0.5) ** x, (x * x + 0.2) ** 1.7, x**3, (h * h + 1.0) ** -2, x / (h * h + 0.3)]
            parts += [ops.maximum(h, x), ops.minimum(h, 0.1), ops.leaky_relu(x), ops.hard_sigmoid(x), ops.sign(x)]
            return ops.tanh(ops.mean(ops.stack(parts), axis=0)), tuple(parts)

        return step

    return of_step(over, draw(B, U), draw(T, B, U), [draw(U)])


@case
def what_passes_through() -> Results:
    """Carries exchanged, handed on and replaced; ys that no step computes; inputs nobody reads; values per row."""

    def over(per_row: Any, unread: Any, scalar: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            a, b, kept, number = carry
            given, spare = x
            ys = (given, a, kept, per_row, ops.ones((2,)), scalar * 2.0, given * scalar, per_row + given)
            return (b, a * scalar, kept, number + scalar), ys

        return step

    init = (draw(B, U), draw(B, U, seed=1), draw(B, 2), np.asarray(draw(1)[0]))
    closed = [draw(B, 1), draw(7), np.asarray(draw(1)[0])]
    return of_step(over, init, (draw(T, B, U), draw(T, B)), closed, order=2)


@case
def no_carry() -> Results:
    def over(kernel: Any) -> Any:
        return lambda carry, x: (None, ops.tanh(x @ kernel))

    return of_step(over, None, draw(T, B, F), [draw(F, U)], order=2)


@case
def no_sequence() -> Results:
    def over(kernel: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            h = ops.tanh(h @ kernel)
            return h, ops.sum(h, axis=-1)

        return step

    return of_step(over, draw(B, U), None, [draw(U, U)], order=2, length=6)


@case
def random_numbers_in_a_step() -> Results:
    def over(kernel: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            noise = random.uniform((B, U), mr.config.current_dtype())
            keep = random.dropout_mask((B, U), 0.5, mr.config.current_dtype())
            h = ops.tanh((h * keep) @ kernel + noise * x)
            return h, (noise, keep)

        return step

    return of_step(over, draw(B, U), draw(T, B, U), [draw(U, U)], checkpoint=2)


def run_alone(path: str, dtypes: str, *names: str) -> None:
    """Write what the cases give on this process's cpu engine, or what went wrong, to a file."""
    made: dict[str, np.ndarray] = {}
    for name, dtype in itertools.product(names, dtypes.split(",")):
        try:
            with np.errstate(all="ignore"):
                made |= {f"{name}|{dtype}|{label}": array for label, array in evaluate(name, dtype).items()}
        except Exception as error:
            made[f"{name}|{dtype}|failed"] = np.array(f"{type(error).__name__}: {error}")
    np.savez(path, **made)


if __name__ == "__main__":
    run_alone(*sys.argv[1:])
