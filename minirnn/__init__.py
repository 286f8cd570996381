"""minirnn: write one time step, get the whole sequence: forward, backward, masked, stateful.

The tape and `scan` are imported at once, layers, models and training when they are first asked for,
so that `import minirnn` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors
from .autodiff import Tape, Tensor, Variable, ops, random
from .autodiff.random import seed
from .autodiff.transforms import grad, hvp, jacobian, jvp, per_sample_grad, value_and_grad, vjp
from .config import default_dtype, engine, show_config, threads
from .scan import scan, scan_source, scan_values, step_graph
from .version import __version__

if TYPE_CHECKING:
    from . import cuda, layers, models
    from .layers import activations, constraints, initializers, regularizers
    from .layers.container import RecurrentContainer, RecurrentUnit
    from .layers.ragged import Ragged
    from .layers.registry import custom_object_scope, register
    from .layers.states import TensorShape
    from .training import callbacks, losses, metrics, optimizers, schedules

# Where the names live that are imported on first use; a module stands for itself.
_LATER = {
    "cuda": "cuda",
    "layers": "layers",
    "models": "models",
    "activations": "layers.activations",
    "constraints": "layers.constraints",
    "initializers": "layers.initializers",
    "regularizers": "layers.regularizers",
    "callbacks": "training.callbacks",
    "losses": "training.losses",
    "metrics": "training.metrics",
    "optimizers": "training.optimizers",
    "schedules": "training.schedules",
    "Ragged": "layers.ragged",
    "RecurrentContainer": "layers.container",
    "RecurrentUnit": "layers.container",
    "TensorShape": "layers.states",
    "custom_object_scope": "layers.registry",
    "register": "layers.registry",
}

__all__ = [
    "Ragged",
    "RecurrentContainer",
    "RecurrentUnit",
    "Tape",
    "Tensor",
    "TensorShape",
    "Variable",
    "__version__",
    "activations",
    "callbacks",
    "constraints",
    "cuda",
    "custom_object_scope",
    "default_dtype",
    "engine",
    "errors",
    "grad",
    "hvp",
    "initializers",
    "jacobian",
    "jvp",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "optimizers",
    "per_sample_grad",
    "random",
    "register",
    "regularizers",
    "scan",
    "scan_source",
    "scan_values",
    "schedules",
    "seed",
    "show_config",
    "step_graph",
    "threads",
    "value_and_grad",
    "vjp",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'minirnn' has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LATER[name]}")
    value = module if _LATER[name].rpartition(".")[2] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
