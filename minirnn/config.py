"""What can be set for the process or a block of code: engine, dtype, threads, schedule; and where kernels are kept."""

from __future__ import annotations

import contextlib
import contextvars
import importlib.util
import operator
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from .errors import ArgumentError, EngineError
from .version import __version__

ENGINES = ("auto", "reference", "numpy", "cpu", "cuda")
PRODUCTS = ("own", "cupy")
SCHEDULES = ("auto", "block", "grid", "step")
FLOAT_DTYPES = ("float32", "float64")
_AUTO = "cpu"  # what "auto" stands for

T = TypeVar("T")


class _Setting(Generic[T]):
    """One setting: a value of the process, and one of the current context that goes before it."""

    def __init__(self, name: str, default: T, check: Callable[[T], T]) -> None:
        self.process_value, self.check = default, check
        self.context_value: contextvars.ContextVar[T | None] = contextvars.ContextVar(name, default=None)

    def get(self) -> T:
        return self.context_value.get() or self.process_value

    def set(self, value: T) -> _Restore[T]:
        value = self.check(value)
        restore = _Restore(self, value, self.process_value)
        self.process_value = value
        return restore


class _Restore(Generic[T]):
    """What a setter returns; as a context manager it confines the new value to the block."""

    def __init__(self, setting: _Setting[T], value: T, previous: T) -> None:
        self._setting, self._value, self._previous = setting, value, previous
        self._tokens: list[contextvars.Token[T | None]] = []

    def __enter__(self) -> _Restore[T]:
        if not self._tokens:
            self._setting.process_value = self._previous
        self._tokens.append(self._setting.context_value.set(self._value))
        return self

    def __exit__(self, *exc: object) -> None:
        self._setting.context_value.reset(self._tokens.pop())


def _one_of(name: str, choices: tuple[str, ...]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in choices:
            raise ArgumentError(f"unknown {name}", got=repr(value), expected="one of " + ", ".join(choices))
        return value

    return check


def _at_least_one(value: int | None, where: str | None = None) -> int:
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1:
        raise ArgumentError("threads", got=repr(value), expected="a whole number of at least 1", where=where)
    return number


_devices: dict[str, Callable[[], Any]] = {}


def register_device(engine: str, loader: Callable[[], Any]) -> None:
    """Let `loader()` say which module knows the device of an engine.

    Its `require()` raises EngineError where the engine cannot run, before it is chosen; `adopted(array)` takes an
    array with a `__cuda_array_interface__`; `describe()` is a line for bug reports.
    """
    _devices[engine] = loader


def array_on_device(array: Any) -> Any:
    """What a Tensor holds for an array on a device, which it shares; EngineError without the cuda engine."""
    if "cuda" not in _devices:
        raise EngineError("an array on a device", got=type(array).__name__, expected="an array of NumPy")
    return _devices["cuda"]().adopted(array)


def _engine_that_runs(value: str) -> str:
    name = _one_of("engine", ENGINES)(value)
    if name in _devices:
        _devices[name]().require()
    return name


_engine = _Setting("engine", "auto", _engine_that_runs)
_schedule = _Setting("schedule", "auto", _one_of("schedule", SCHEDULES))
_products = _Setting("products", "own", lambda value: _products_at_hand(value))
_float = _Setting("dtype", "float32", _one_of("dtype", FLOAT_DTYPES))
_threads: _Setting[int | None] = _Setting("threads", None, _at_least_one)


# engine, dtype, threads ---------------------------------------------------------------------------
def engine(name: str) -> _Restore[str]:
    """Choose what runs `scan`: "auto", "reference" (an eager Python loop), "numpy" or "cpu" (compiled loops).

    As a call it holds for the process, in a `with` statement for the block (and the current
    thread or task) only. "auto" is "cpu".  Raises ArgumentError for an unknown name.

    >>> with engine("reference"):
    ...     current_engine()
    'reference'
    """
    return _engine.set(name)


def current_engine(override: str | None = None) -> str:
    """The engine in force here, never "auto"; `override` goes before the settings."""
    name = _engine.check(override) if override is not None else _engine.get()
    return _AUTO if name == "auto" else name


def engine_here(name: str) -> contextlib.AbstractContextManager[None]:
    """The engine `name` for a block, without the moment in which `engine(name)` holds for the process."""
    return _here(_engine, name)


def schedule_here(name: str) -> contextlib.AbstractContextManager[None]:
    """The schedule `name` for a block, in the same way."""
    return _here(_schedule, name)


@contextlib.contextmanager
def _here(setting: _Setting[str], value: str) -> Iterator[None]:
    token = setting.context_value.set(setting.check(value))
    try:
        yield
    finally:
        setting.context_value.reset(token)


def engine_is_chosen() -> bool:
    """Whether somebody asked for the engine in force by its name."""
    return _engine.get() != "auto"


def schedule(name: str) -> _Restore[str]:
    """Choose how the cuda engine runs a loop: "auto" (by sizes and device), "block", "grid" or "step".

    "block": a block of threads runs all steps of a tile of the batch.  "grid": one grid of blocks that
    wait for each other runs all steps.  "step": one launch a step.  The bits are the same.  A schedule that
    does not fit raises EngineError with the figure when a loop asks for it.

    >>> with schedule("step"):
    ...     current_schedule()
    'step'
    """
    return _schedule.set(name)


def current_schedule() -> str:
    """The schedule in force here."""
    return _schedule.get()


def products(name: str) -> _Restore[str]:
    """Choose what the cuda engine computes products over all time steps with: "own", or CuPy's matmul ("cupy").

    Those are the products before and after a loop, and the gradients of weights.  CuPy sums in another order: the
    results are no longer the cpu engine's bits, and may depend on batch size and device.  Raises ArgumentError
    without CuPy.
    """
    return _products.set(name)


def _products_at_hand(value: str) -> str:
    name = _one_of("products", PRODUCTS)(value)
    if name == "cupy" and importlib.util.find_spec("cupy") is None:
        raise ArgumentError('products "cupy"', got="CuPy is not installed", expected='"own"', fix="pip install cupy")
    return name


def current_products() -> str:
    """What computes products over all time steps here."""
    return _products.get()


def default_dtype(name: str) -> _Restore[str]:
    """Choose the dtype that layers take when they are given none: "float32" or "float64".

    >>> with default_dtype("float64"):
    ...     current_dtype()
    'float64'
    """
    return _float.set(name)


def current_dtype() -> str:
    """The default floating dtype in force here."""
    return _float.get()


def threads(n: int) -> _Restore[int | None]:
    """Choose how many threads the cpu engine shares rows out to; 1 starts none.  Results do not depend on it.

    As a call it holds for the process, in a `with` statement for the block (and the current thread
    or task) only.  Without it: the environment variable MINIRNN_THREADS, or every core that this
    process may use.  Raises ArgumentError for anything but a whole number of at least 1.

    >>> with threads(1):
    ...     current_threads()
    1
    """
    return _threads.set(n)


def current_threads() -> int:
    """The number of threads in force here."""
    number = _threads.get()
    if number is None:
        number = _threads.process_value = _threads_at_first()
    return number


def _threads_at_first() -> int:
    if told := os.environ.get("MINIRNN_THREADS"):
        return _at_least_one(int(told) if told.isdecimal() else told, "environment variable MINIRNN_THREADS")  # type: ignore[arg-type]
    return usable_cores()


def usable_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# which function runs a primitive on arrays --------------------------------------------------------
ArrayFunctions = Mapping[str, Callable[..., Any]]
_loaders: dict[str, Callable[[], ArrayFunctions]] = {}
_array_functions: dict[str, ArrayFunctions] = {}  # by the engine's name, "auto" included, once asked for


def register_array_functions(engine: str, loader: Callable[[], ArrayFunctions]) -> None:
    """Let `loader()` say which functions run primitives on arrays while `engine` is chosen.

    It is called when the first of them is needed, and returns them by the primitives' names.
    Primitives that it does not name keep their own forward.
    """
    _loaders[engine] = loader
    _array_functions.clear()


def array_function(name: str) -> Callable[..., Any] | None:
    """The function that the engine in force puts in the place of a primitive's own forward, if it does."""
    chosen = _engine.context_value.get() or _engine.process_value
    try:
        return _array_functions[chosen].get(name)
    except KeyError:
        loader = _loaders.get(current_engine())
        _array_functions[chosen] = loader() if loader else {}
        return _array_functions[chosen].get(name)


# where kernels are kept ---------------------------------------------------------------------------
CACHE_PREFIX = "minirnn__" + re.sub(r"\W", "_", __version__) + "__"  # of the file names that this version writes
_OURS = re.compile(r"minirnn__\w+__[0-9a-f]{16}\..+|minirnn\.lock")


def cache_folder() -> Path:
    """The folder of the compiled kernels: MINIRNN_CACHE, or minirnn in the user's folder for caches.

    Raises OSError if the user has none.
    """
    if named := os.environ.get("MINIRNN_CACHE"):
        return Path(os.path.abspath(os.path.expanduser(named)))
    variable, path = "XDG_CACHE_HOME", "~/.cache"
    if sys.platform == "win32":
        variable, path = "LOCALAPPDATA", "~/AppData/Local"
    elif sys.platform == "darwin":
        variable, path = "", "~/Library/Caches"
    for candidate in (os.environ.get(variable, ""), os.path.expanduser(path)):
        if os.path.isabs(candidate):
            return Path(candidate) / "minirnn"
    raise OSError("no folder for caches: there is no home folder; set MINIRNN_CACHE")


def cache_files() -> Iterator[os.DirEntry[str]]:
    """The files in the cache folder that minirnn wrote, of any version; links and other people's files are left out."""
    top = cache_folder()
    for folder in (top, top / "__pycache__"):  # Numba keeps machine code in the latter
        if folder == top or not folder.is_symlink():
            try:
                with os.scandir(folder) as entries:
                    yield from sorted(filter(_is_ours, entries), key=lambda entry: entry.name)
            except (FileNotFoundError, NotADirectoryError):
                pass


def _is_ours(entry: os.DirEntry[str]) -> bool:
    if not _OURS.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
        return False
    return not hasattr(os, "geteuid") or entry.stat(follow_symlinks=False).st_uid == os.geteuid()


# for bug reports ----------------------------------------------------------------------------------
def show_config(file: Any = None) -> None:
    """Print versions, processor, engine, threads, cache folder and determinism, for bug reports."""
    rows = {
        "minirnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": f"{_installed('numba')}, llvmlite {_installed('llvmlite')}",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "engine": f"{_engine.get()} (runs as {current_engine()})",
        "dtype": current_dtype(),
        "threads": current_threads(),
        "cuda": _cuda(),
        "cache": _cache(),
        "determinism": "numpy engine: repeatable on one machine; equal to rounding across batch sizes",
    }
    for label, value in rows.items():
        print(f"{label:<12} {value}", file=file or sys.stdout)


def _installed(package: str) -> str:
    import importlib.metadata  # slow, and wanted nowhere else

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return f"{model[1]} ({platform.machine()})" if model else platform.machine()


def _cuda() -> str:
    """The versions and the device of the cuda engine."""
    device = _devices["cuda"]().describe() if "cuda" in _devices else "not asked for"
    return f"numba-cuda {_installed('numba-cuda')}, device {device}"


def _cache() -> str:
    try:
        size = sum(entry.stat(follow_symlinks=False).st_size for entry in cache_files())
        return f"{cache_folder()} ({size / 1e6:.1f} MB)"
    except OSError as error:
        return f"none: {error}"
