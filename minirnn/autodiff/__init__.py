"""The tape: Tensors, primitives with their vjp rules, and the transforms built on them."""

from . import contraction, elementwise, ops, random, structure, trees
from .tape import Tape
from .tensor import Tensor, Variable, as_tensor

__all__ = [
    "Tape",
    "Tensor",
    "Variable",
    "as_tensor",
    "contraction",
    "elementwise",
    "ops",
    "random",
    "structure",
    "trees",
]
