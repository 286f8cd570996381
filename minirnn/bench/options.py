"""What a run is asked for, and the environment that gives every contestant the same threads."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from . import contestants

ROUNDS, QUICK_ROUNDS = 15, 3


# Two, or the one core that this process may use.
THREADS = min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Options(NamedTuple):
    """What a run does.

    grid: a name of cases.GRIDS, "all", or None for none.  figures: names of what is measured besides
    ("scaling", "memory", "compile", "overhead", "masks", "peak").  engine, cells, peers: only these; None for all.
    """

    grid: str | None = "all"
    figures: tuple[str, ...] = ()
    quick: bool = False
    rounds: int = ROUNDS
    threads: int = THREADS
    engine: str | None = None
    cells: tuple[str, ...] | None = None
    peers: tuple[str, ...] = tuple(contestants.MODULES)

    @classmethod
    def of(cls, **wishes: Any) -> Options:
        """What was wished for; None stands for what was left open.  Figures alone ask for no grid.

        The cuda engine has a grid of its own.

        >>> Options.of(grid=None, figures=["peak"], quick=True, rounds=None)[:4]
        (None, ('peak',), True, 3)
        """
        said: dict[str, Any] = {name: value for name, value in wishes.items() if value is not None}
        said.update({name: tuple(value) for name, value in said.items() if isinstance(value, list)})
        said.setdefault("grid", None if said.get("figures") else "all")
        if said["grid"] == "cuda":
            said.setdefault("engine", "cuda")
        elif said["grid"] == "all" and said.get("engine") == "cuda":
            said["grid"] = "cuda"
        said.setdefault("rounds", QUICK_ROUNDS if said.get("quick") else ROUNDS)
        return cls(**said)

    @property
    def engines(self) -> tuple[str, ...]:
        """The minirnn engines that take part."""
        return contestants.engines() if self.engine is None else (self.engine,)

    @property
    def judged(self) -> str:
        """The one that the targets are for."""
        return self.engines[0]


def environment(threads: int) -> dict[str, str]:
    """What must be in the environment before NumPy is imported and JAX makes its first array.

    JAX reads PJRT_NPROC for the sizes of its thread pools; the others are those of NumPy's BLAS, and of
    OpenMP, which torch uses.

    >>> environment(2)["PJRT_NPROC"]
    '2'
    """
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "PJRT_NPROC")
    return {**dict.fromkeys(names, str(threads)), "JAX_PLATFORMS": "cpu"}


def missing(options: Options) -> list[str]:
    """The peers that were asked for and cannot be imported."""
    return [peer for peer in options.peers if not contestants.installed(peer)]


def in_force(threads: int) -> bool:
    """Whether the process was started with that environment.

    >>> in_force(-1)
    False
    """
    return all(os.environ.get(name) == value for name, value in environment(threads).items())
