"""Functions from functions: derivatives of a Python function of Tensors, nested to any order.

Arguments and results may be nested tuples, lists and dicts; arrays and numbers are taken as
Tensors.  Where a result does not depend on an argument, the derivative is zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, GradientError, ShapeError
from . import ops, trees
from .cotangents import zeros_where_none
from .elementwise import alias
from .tape import Tape
from .tensor import FLOATING, Tensor, as_tensor


def _entered(structure: Any) -> Any:
    """The leaves as Tensors of their own, so that watching them watches nothing else."""

    def enter(x: Any) -> Tensor:
        tensor = as_tensor(float(x) if type(x) is int else x)
        if tensor.dtype.kind not in FLOATING:
            raise GradientError(
                "a derivative with respect to integers",
                got=f"an argument of {tensor.dtype}",
                expected="floats",
                fix="cast it, or leave it out of argnums or in a closure",
            )
        return alias(tensor)

    return trees.map(enter, structure)


def _pick(args: tuple[Any, ...], argnums: Any) -> tuple[tuple[int, ...], bool]:
    single = isinstance(argnums, (int, np.integer))
    places = (argnums,) if single else tuple(argnums)
    if any(not -len(args) <= i < len(args) for i in places):
        raise ArgumentError("argnums", got=argnums, expected=f"places among {len(args)} positional arguments")
    return tuple(int(i) % len(args) for i in places), single


def value_and_grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns `f`'s scalar and its gradient with respect to one or more arguments.

    Raises GradientError if the result of `f` is not a scalar.

    >>> import minirnn as mr
    >>> value, slope = mr.value_and_grad(lambda x: (x * x).sum())(np.array([1.0, 3.0]))
    >>> value.item(), slope.numpy().tolist()
    (10.0, [2.0, 6.0])
    """

    def with_gradient(*args: Any, **kwargs: Any) -> Any:
        places, single = _pick(args, argnums)
        entered = [_entered(arg) if i in places else arg for i, arg in enumerate(args)]
        sources = [entered[i] for i in places]
        with Tape() as tape:
            tape.watch(sources)
            value = f(*entered, **kwargs)
        if not isinstance(value, Tensor) or value.shape != ():
            got = value.shape if isinstance(value, Tensor) else type(value).__name__
            raise GradientError("grad needs a function with a scalar result", got=got, fix="sum it, or use jacobian")
        leaves, form = trees.flatten(sources)
        found = zeros_where_none(tape.gradient(value, leaves), leaves)
        gradients = trees.unflatten(form, found)
        return value, gradients[0] if single else tuple(gradients)

    return with_gradient


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns the gradient of `f`'s scalar result; see `value_and_grad`.

    >>> import minirnn as mr
    >>> cube = lambda x: x * x * x
    >>> mr.grad(mr.grad(cube))(2.0).item()
    12.0
    """
    with_gradient = value_and_grad(f, argnums)
    return lambda *args, **kwargs: with_gradient(*args, **kwargs)[1]


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """`f(*primals)` and its pullback: from a cotangent of the result to a tuple, one entry a primal.

    >>> import minirnn as mr
    >>> out, pullback = mr.vjp(lambda x, y: x * y, 2.0, 5.0)
    >>> [ct.item() for ct in pullback(1.0)]
    [5.0, 2.0]
    """
    entered = [_entered(p) for p in primals]
    leaves, form = trees.flatten(entered)
    with Tape() as tape:
        tape.watch(leaves)
        out = f(*entered)

    def pullback(ct: Any) -> tuple[Any, ...]:
        found = tape.gradient(out, leaves, ct)
        return tuple(trees.unflatten(form, zeros_where_none(found, leaves)))

    return out, pullback


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """`f(*primals)` and its derivative in the direction of `tangents`.

    The pullback is linear in its cotangent, and its own pullback is the derivative sought: two
    replays of the reverse rules, and no second set of rules.

    >>> import minirnn as mr
    >>> mr.jvp(mr.ops.exp, (0.0,), (3.0,))[1].item()
    3.0
    """
    for what, entries in (("primals", primals), ("tangents", tangents)):
        if not isinstance(entries, (tuple, list)):
            raise ArgumentError(f"jvp: {what}", got=type(entries).__name__, expected="a tuple, one entry an argument")
    if len(primals) != len(tangents):
        raise ArgumentError("jvp: tangents", got=len(tangents), expected=f"{len(primals)}, as many as primals")
    entered = [_entered(p) for p in primals]
    leaves, given = trees.flatten(entered)[0], trees.flatten(list(tangents))[0]
    if len(given) != len(leaves):
        raise ArgumentError("jvp: tangents", got=f"{len(given)} arrays", expected=f"{len(leaves)}, as in the primals")
    directions = [as_tensor(t, leaf.dtype) for t, leaf in zip(given, leaves, strict=True)]
    for leaf, direction in zip(leaves, directions, strict=True):
        if leaf.shape != direction.shape:
            raise ShapeError("jvp: a tangent", got=direction.shape, expected=f"its primal's shape {leaf.shape}")
    with Tape() as outer:
        with Tape() as inner:
            inner.watch(leaves)
            out = f(*entered)
        results, form = trees.flatten(out)
        seeds = [alias(ops.zeros_like(result)) for result in results]
        outer.watch(seeds)
        found = inner.gradient(results, leaves, seeds)
    pairs = [(ct, d) for ct, d in zip(found, directions, strict=True) if ct is not None]
    moved = outer.gradient([ct for ct, _ in pairs], seeds, [d for _, d in pairs])
    return out, trees.unflatten(form, zeros_where_none(moved, seeds))


def hvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The Hessian of a scalar function times a vector: one entry a primal, a bare one for one primal.

    >>> import minirnn as mr
    >>> mr.hvp(lambda x: (x * x * x).sum(), (np.array([1.0, 2.0]),), (np.array([1.0, 1.0]),)).numpy().tolist()
    [6.0, 12.0]
    """
    products = jvp(grad(f, tuple(range(len(primals)))), primals, tangents)[1]
    return products[0] if len(products) == 1 else products


def jacobian(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns all derivatives of `f`'s array: shape out.shape + argument.shape.

    >>> import minirnn as mr
    >>> mr.jacobian(lambda x: x[:2] * 3)(np.array([1.0, 2.0, 3.0])).shape
    (2, 3)
    """

    def all_derivatives(*args: Any, **kwargs: Any) -> Any:
        places, single = _pick(args, argnums)

        def of_chosen(*chosen: Any) -> Any:
            filled = list(args)
            for place, value in zip(places, chosen, strict=True):
                filled[place] = value
            return f(*filled, **kwargs)

        primals = tuple(args[i] for i in places)
        out, pullback = vjp(of_chosen, *primals)
        if not isinstance(out, Tensor):
            raise GradientError("jacobian needs a function that returns one array", got=type(out).__name__)
        basis = np.eye(out.size, dtype=out.dtype).reshape(out.size, *out.shape)
        rows = [pullback(unit) for unit in basis]

        def together(*column: Tensor) -> Tensor:
            return ops.reshape(ops.stack(column), out.shape + column[0].shape)

        if rows:
            found = trees.map(together, *rows)
        else:
            found = trees.map(lambda x: ops.zeros(out.shape + as_tensor(x).shape, out.dtype), primals)
        return found[0] if single else found

    return all_derivatives


def per_sample_grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function (params, *batch) that returns the gradients of every sample, stacked over the batch.

    `f` is called on batches of one, so nothing in it needs to know.

    >>> import minirnn as mr
    >>> loss = lambda w, x: ((x @ w) ** 2).sum()
    >>> mr.per_sample_grad(loss)(np.array([1.0, 1.0]), np.array([[1.0, 0.0], [0.0, 3.0]])).numpy().tolist()
    [[2.0, 0.0], [0.0, 18.0]]
    """
    of_one = grad(f, argnums)

    def of_each(params: Any, *batch: Any, **kwargs: Any) -> Any:
        columns = [trees.map(as_tensor, column) for column in batch]
        sizes = {leaf.shape[0] if leaf.shape else None for leaf in trees.flatten(columns)[0]}
        if len(sizes) != 1 or None in sizes:
            raise ShapeError("per_sample_grad: batch arrays differ in their first axis", got=sorted(map(str, sizes)))
        (count,) = sizes
        if not count:
            return _no_samples([params, *columns], argnums)
        samples = [trees.map(lambda x, i=i: x[i : i + 1], columns) for i in range(count)]
        return trees.map(lambda *found: ops.stack(found), *[of_one(params, *sample, **kwargs) for sample in samples])

    return of_each


def _no_samples(args: list[Any], argnums: int | Sequence[int]) -> Any:
    """The gradients of no samples: an empty first axis before the shapes that one sample's would have."""
    places, single = _pick(tuple(args), argnums)

    def empty(x: Any, place: int) -> Tensor:
        tensor = as_tensor(x)
        shape = (1, *tensor.shape[1:]) if place else tensor.shape
        return ops.zeros((0, *shape), tensor.dtype)

    found = tuple(trees.map(lambda x, i=i: empty(x, i), args[i]) for i in places)
    return found[0] if single else found


__all__ = ["grad", "hvp", "jacobian", "jvp", "per_sample_grad", "value_and_grad", "vjp"]
