"""What must hold for every primitive, as functions that measure by how much it does not."""

from __future__ import annotations

from typing import Any

import numpy as np

from minirnn.autodiff.primitive import Primitive
from minirnn.autodiff.tape import Tape
from minirnn.autodiff.tensor import Tensor, abstract, apply
from tests.reference.checks import central_differences, complex_step_gradients, max_error

Array = np.ndarray
MAP_SHAPES = ((3, 4), (4,), (3, 1))
COMPLEX_STEP, FINITE_DIFFERENCES = 1e-12, 1e-6


def has_sample(primitive: Primitive) -> bool:
    """Whether the record says what its tests may draw."""
    return primitive.samples is not None or bool(primitive.domain)


def sample(
    primitive: Primitive, dtype: str = "float64", shapes: tuple[tuple[int, ...], ...] = MAP_SHAPES, seed: int = 7
) -> tuple[list[Array], dict[str, Any]]:
    """Random operands and params, as the record's samples or domain say."""
    rng = np.random.default_rng(seed)
    if primitive.samples is not None:
        operands, params = primitive.samples(rng)
    else:
        operands = [rng.uniform(*span, size=shape) for span, shape in zip(primitive.domain, shapes, strict=False)]
        params = {}
    return [np.asarray(x, dtype if np.asarray(x).dtype.kind == "f" else None) for x in operands], params


def outputs_of(primitive: Primitive, operands: list[Any], params: dict[str, Any]) -> list[Any]:
    """The results of the NumPy forward, as a list also if there is one only."""
    made = primitive.forward(*operands, **params)
    return [np.asarray(x) for x in (made if primitive.multiple else [made])]


def shape_problems(primitive: Primitive, operands: list[Array], params: dict[str, Any]) -> list[str]:
    """Where the shape rule says something else than what NumPy's forward returns."""
    said = primitive.shape(primitive, tuple(abstract(x.shape, x.dtype) for x in operands), params)
    told = [(tuple(shape), np.dtype(dtype)) for shape, dtype in (said if primitive.multiple else [said])]
    got = [(x.shape, x.dtype) for x in outputs_of(primitive, operands, params)]
    return [f"{primitive.name}: rule {a}, NumPy {b}" for a, b in zip(told, got, strict=True) if a != b]


class Probe:
    """A primitive as a scalar function of its floating operands: its outputs in a random direction."""

    def __init__(self, primitive: Primitive, operands: list[Array], params: dict[str, Any]) -> None:
        self.primitive, self.operands, self.params = primitive, operands, params
        rng = np.random.default_rng(11)
        self.places = [i for i, x in enumerate(operands) if x.dtype.kind == "f"]
        self.cts = [rng.normal(size=x.shape) for x in outputs_of(primitive, operands, params)]
        self.directions = [rng.normal(size=operands[i].shape) for i in self.places]

    @property
    def floats(self) -> list[Array]:
        return [self.operands[i] for i in self.places]

    def _all(self, floats: Any) -> list[Any]:
        operands: list[Any] = list(self.operands)
        for place, x in zip(self.places, floats, strict=True):
            operands[place] = x
        return operands

    def value(self, *floats: Array) -> Any:
        """The function itself, by NumPy's forward only."""
        made = outputs_of(self.primitive, self._all(floats), self.params)
        return sum(np.sum(ct * x) for ct, x in zip(self.cts, made, strict=True))

    def gradients(self, floats: list[Tensor]) -> list[Tensor]:
        """Its gradients, by the vjp rule."""
        with Tape() as tape:
            tape.watch(floats)
            made = apply(self.primitive, *self._all(floats), **self.params)
        outputs = list(made) if self.primitive.multiple else [made]
        cts = [ct.astype(x.dtype) for ct, x in zip(self.cts, outputs, strict=True)]
        return tape.gradient(outputs, floats, cts)

    def slope(self, *floats: Array) -> Any:
        """The derivative along a random direction, by the vjp rule: a function to differentiate again."""
        found = self.gradients([Tensor(x) for x in floats])
        return sum(np.sum(d * np.asarray(g)) for d, g in zip(self.directions, found, strict=True) if g is not None)

    def slope_gradients(self, floats: list[Tensor]) -> list[Tensor]:
        """The gradients of `slope`, by the tape again."""
        with Tape() as tape:
            tape.watch(floats)
            found = self.gradients(floats)
        kept = [(g, d.astype(g.dtype)) for g, d in zip(found, self.directions, strict=True) if g is not None]
        return tape.gradient([g for g, _ in kept], floats, [d for _, d in kept])


def vjp_errors(primitive: Primitive, operands: list[Array], params: dict[str, Any]) -> dict[str, float]:
    """The vjp rule against complex step and finite differences, as multiples of what is allowed."""
    probe = Probe(primitive, operands, params)
    got = _arrays(probe.gradients([Tensor(x) for x in probe.floats]), probe.floats)
    return _errors(primitive, got, probe.value, probe.floats)


def second_order_errors(primitive: Primitive, operands: list[Array], params: dict[str, Any]) -> dict[str, float]:
    """The gradient of the gradient against differences of the gradient, as multiples of what is allowed."""
    probe = Probe(primitive, operands, params)
    got = _arrays(probe.slope_gradients([Tensor(x) for x in probe.floats]), probe.floats)
    return _errors(primitive, got, probe.slope, probe.floats)


def _arrays(gradients: list[Any], like: list[Array]) -> list[Array]:
    return [np.zeros(x.shape) if g is None else np.asarray(g) for g, x in zip(gradients, like, strict=True)]


def _errors(primitive: Primitive, got: list[Array], f: Any, floats: list[Array]) -> dict[str, float]:
    wants = {"finite differences": (central_differences(f, *floats), FINITE_DIFFERENCES)}
    if primitive.analytic:
        wants["complex step"] = (complex_step_gradients(f, *floats), COMPLEX_STEP)
    return {
        how: max((max_error(g, w) / allowed for g, w in zip(got, want, strict=True)), default=0.0)
        for how, (want, allowed) in wants.items()
    }


def linear_error(
    primitive: Primitive, operands: list[Array], params: dict[str, Any], linear: str | None = None
) -> float:
    """How far f(a x + b y) is from a f(x) + b f(y), in the operands that the record calls linear."""
    rng = np.random.default_rng(3)
    floats = [i for i, x in enumerate(operands) if x.dtype.kind == "f"]
    groups = [floats] if (linear or primitive.linear) == "all" else [[i] for i in floats]
    worst = 0.0
    for group in groups:
        others = {i: rng.normal(size=operands[i].shape) for i in group}
        second = [others.get(i, x) for i, x in enumerate(operands)]
        both = [2.0 * x - 3.0 * others[i] if i in others else x for i, x in enumerate(operands)]
        parts = [outputs_of(primitive, x, params) for x in (operands, second, both)]
        worst = max(worst, *[max_error(c, 2.0 * a - 3.0 * b) for a, b, c in zip(*parts, strict=True)])
    return worst
