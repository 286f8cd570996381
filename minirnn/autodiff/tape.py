"""The Tape: the ordered record of operations, and the replay of their vjp rules backward.

A list and a loop are enough: nodes were appended in an order in which every operand comes before
its use, so going backward needs no sorting and no recursion.  The rules are made of minirnn's own
operations, so that a replay is itself recorded by whatever tape is active, and gradients of
gradients need nothing extra.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..errors import ArgumentError, GradientError, ShapeError
from . import trees
from .cotangents import Guard, either, operand_guards, unbroadcast
from .operators import PUBLIC
from .tensor import (
    FLOATING,
    Node,
    Tensor,
    Variable,
    as_tensor,
    current_trace,
    identity,
    pop_recorder,
    push_recorder,
    resolve,
    wrap,
)


class Tape:
    """Records operations on watched Tensors, so that `gradient` can go back through them.

    Trainable Variables are watched by themselves.

    >>> import minirnn as mr
    >>> w = mr.Variable(3.0)
    >>> with mr.Tape() as tape:
    ...     loss = w * w
    >>> tape.gradient(loss, w).item()
    6.0
    """

    is_trace = False

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._tracked: dict[int, Tensor] = {}
        self._token: Any = None

    def __enter__(self) -> Tape:
        self._token = push_recorder(self)
        return self

    def __exit__(self, *exc: object) -> None:
        pop_recorder(self._token)

    def watch(self, tensors: Any) -> None:
        """Record what happens to these Tensors (nested structures allowed) from now on."""
        for tensor in trees.flatten(tensors)[0]:
            if not isinstance(tensor, Tensor):
                raise ArgumentError("Tape.watch", got=type(tensor).__name__, expected="a minirnn.Tensor")
            key = identity(resolve(tensor))
            self._tracked[id(key)] = key

    def wants(self, operands: Any) -> bool:
        """Whether any operand is tracked."""
        tracked = self._tracked
        for x in operands:
            if type(x) is Tensor:
                variable = x.variable
                if variable is None:
                    if id(x) in tracked:
                        return True
                elif variable.trainable or id(variable) in tracked:
                    return True
            elif isinstance(x, Variable) and (x.trainable or id(x) in tracked):
                return True
        return False

    def record(self, node: Node) -> None:
        """Remember a node if it touches anything tracked."""
        if self.wants(node.inputs):
            self.keep(node)

    def keep(self, node: Node) -> None:
        """Remember a node that touches something tracked."""
        self.nodes.append(node)
        tracked = self._tracked
        for output in node.outputs:
            tracked[id(output)] = output

    def gradient(self, target: Any, sources: Any, output_gradients: Any = None) -> Any:
        """The derivative of `target` with respect to each source.

        `target`: a Tensor or a nested structure of them, summed if not scalar; `sources`: a Tensor
        or a nested structure; `output_gradients`: cotangents shaped like `target` (ones by default).
        Returns what `sources` is (a Tensor for a Tensor, a list for a list), with None for a source
        that is not watched or that the target does not depend on.  May be called again; inside a
        `with` it is itself recorded.  Raises GradientError for a target of integers.
        """
        targets = [target] if type(target) is Tensor else trees.flatten(target)[0]
        if output_gradients is None:
            given = [None] * len(targets)
        else:
            given = [output_gradients] if isinstance(target, Tensor) else trees.flatten(output_gradients)[0]
        if len(given) != len(targets):
            raise ArgumentError("gradient: output_gradients", got=f"{len(given)} arrays", expected=len(targets))
        leaves, form = trees.flatten(sources)
        for source in leaves:
            if not isinstance(source, Tensor):
                raise ArgumentError("gradient: a source", got=type(source).__name__, expected="a minirnn.Tensor")
        # Of a source that is not watched only some uses may have been recorded: better None than a part.
        if current_trace() is not None:
            leaves = [*map(resolve, leaves)]
        keys = [
            id(x) if type(x) is Variable and x.trainable else id(identity(x)) if self.wants((x,)) else None
            for x in leaves
        ]
        pullback = Pullback(self.nodes, {key for key in keys if key is not None})
        for tensor, ct in zip(targets, given, strict=True):
            pullback.seed(resolve(as_tensor(tensor)), ct)
        # Derivatives of what `where` did not select may be infinite; they are selected away.
        with np.errstate(all="ignore"):
            pullback.replay()
        return trees.unflatten(form, [None if key is None else pullback.cotangents.get(key) for key in keys])


class Pullback:
    """One replay: cotangents, and what guards them, by the identity of the value they belong to."""

    def __init__(self, nodes: list[Node], sources: set[int]) -> None:
        self.cotangents: dict[int, Tensor] = {}
        self.guards: dict[int, Guard] = {}
        # Only values that depend on a source need a cotangent.
        self.needed = needed = set(sources)
        self.nodes: list[Node] = []
        for node in nodes:
            if node.primitive.vjp is not None and not needed.isdisjoint(node.keys):
                self.nodes.append(node)
                needed.update(map(id, node.outputs))

    def seed(self, target: Tensor, ct: Any) -> None:
        """Begin at a target, with a given cotangent or with ones."""
        if target.dtype.kind not in FLOATING:
            raise GradientError(
                "gradient of a target that has no derivative", got=f"dtype {target.dtype}", expected="a floating dtype"
            )
        if ct is None and current_trace() is None:
            ct = _one(target.dtype) if target.shape == () else wrap(np.ones(target.shape, target.dtype))
        elif ct is None:
            ct = PUBLIC["ones_like"](target)
        elif not isinstance(ct, Tensor):
            ct = as_tensor(ct, target.dtype)
        if ct.shape != target.shape:
            raise ShapeError("gradient: output_gradients", got=ct.shape, expected=target.shape)
        self._add(id(identity(target)), ct, None)

    def replay(self) -> None:
        """Go backward through the nodes, from each one's outputs to its inputs."""
        trace, cotangents = current_trace(), self.cotangents
        for node in reversed(self.nodes):
            cts = [*map(cotangents.get, map(id, node.outputs))]
            for ct in cts:
                if ct is not None:
                    if trace is not None:
                        trace.pulls_through(node, cts)
                    self._pull_through(node, cts)
                    break
        if trace is not None:
            trace.origin = ()

    def _pull_through(self, node: Node, cts: list[Tensor | None]) -> None:
        primitive, keys, needed = node.primitive, node.keys, self.needed
        if primitive.selective:
            results = node.pull(cts, needed=tuple(map(needed.__contains__, keys)))
        else:
            results = node.pull(cts)
        guards: list[Guard | None] | None = None
        selects_again = False
        if self.guards or node.params.get("safe"):
            guards = operand_guards(node, [self.guards.get(id(output)) for output in node.outputs])
            # Zero times an infinite derivative is NaN, so what was zero by selection is selected again.
            selects_again = primitive.form == "map" and primitive.linear != "all" and id(node.outputs[0]) in self.guards
        for place, (key, ct) in enumerate(zip(keys, results, strict=True)):
            if ct is None or key not in needed:
                continue
            if type(ct) is not Tensor:
                ct = ct()
                if ct is None:
                    continue
            if selects_again:
                ct = PUBLIC["where"](self.guards[id(node.outputs[0])](), ct, 0.0)
            shape = node.inputs[place].shape
            ct = ct if ct.shape == shape else unbroadcast(ct, shape)
            self._add(key, ct, None if guards is None else guards[place])

    def _add(self, key: Any, ct: Tensor, guard: Guard | None) -> None:
        before = self.cotangents.get(key)
        other = self.guards.pop(key, None) if self.guards else None
        if before is not None:
            ct = PUBLIC["add"](before, ct)
            guard = None if guard is None or other is None else either(guard, other)
        self.cotangents[key] = ct
        if guard is not None:
            self.guards[key] = guard


@functools.cache
def _one(dtype: np.dtype[Any]) -> Tensor:
    """The cotangent of a loss."""
    one = np.ones((), dtype)
    one.flags.writeable = False
    return wrap(one)
