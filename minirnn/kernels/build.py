"""From a printed kernel's text to a compiled function, through a cache on disk.

A printed kernel is the text of a Python module.  It writes `@kernel` above its functions, imports helpers
with `from minirnn.kernels.elementary import tanh`, and reads nothing but its arguments:

    @kernel
    def double(x, n):
        for i in range(n):
            x[i] = 2 * x[i]

`compiled(text, "double", label="double", signature="void(float64[::1], int64)")` is that function.  Modules of
helpers write `@library_function` above theirs, which is the same decorator.

Numba keeps the machine code of a function beside the file that the function comes from, and looks at that file
and at the function's own byte code to see whether it still fits.  So each text, and the text of each module of
helpers, goes into a file of the cache folder, and the file's name ends in a hash of all that the machine code
depends on: the text, the sources of the helpers that it imports, versions, compiler flags and the processor.
Other content has another name, and nothing is ever out of date.  The name is also part of every compiled
function's name, because LLVM takes functions of one name for the same.

Machine code is read with pickle: the folder must belong to this user alone.  Where it cannot be used, this
process compiles into a folder of its own, and says so once.  (NUMBA_CACHE_DIR, if set, moves the machine code.)
With NUMBA_DISABLE_JIT=1 texts run as plain Python and nothing is written.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import linecache
import os
import platform
import re
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import config
from . import cache

JIT_OFF = os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0")

_HEADER = "from minirnn.kernels.build import library_function as kernel\n\n"
# Nothing calls a kernel through Numba's C callback: it would only be compiled.
_OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False, "no_cfunc_wrapper": True}
_FLAGS = ("OPT", "LOOP_VECTORIZE", "SLP_VECTORIZE", "ENABLE_AVX", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")
_ATTEMPTS = 300  # more than there are library functions
_LOCK_SECONDS = 60.0
_HASH = 16  # hexadecimal digits
_IMPORTS = re.compile(r"^\s*(?:from\s+(\S+)\s+)?import\s+(\([^)]*\)|[^\n#]*)", re.MULTILINE)

_lock = threading.RLock()  # one compilation at a time: Numba has a lock for it, too
_alone = False  # whether this process holds the lock of the folder, or has given up on it
_compiled: dict[tuple[str, str, str], Callable[..., Any]] = {}
_paths: dict[str, Path] = {}  # of each module with compiled functions: its copy in the cache folder, or just a name
_library: list[Any] = []  # the compiled functions of the modules of helpers


# Held while a thread is inside LLVM, be it only to free a module that the garbage collector has found.
_in_llvm = threading.RLock()


@functools.cache
def _prepare_for_forks() -> None:
    """Have llvmlite say when a thread enters and leaves LLVM, and import what Numba would in a first call.

    A child whose parent was forked in the middle of an import waits forever for the end of it.
    """
    from llvmlite.binding import ffi

    importlib.import_module("numpy.ma")
    ffi.register_lock_callback(_in_llvm.acquire, _in_llvm.release)


def _before_fork() -> None:
    _lock.acquire()
    _in_llvm.acquire()


def _after_fork() -> None:
    _in_llvm.release()
    _lock.release()


if hasattr(os, "register_at_fork"):  # a child must not begin with a lock, ours or LLVM's, that nobody gives back
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


# compiling ----------------------------------------------------------------------------------------
def compiled(text: str, name: str, *, label: str, signature: Any = None) -> Callable[..., Any]:
    """The compiled function `name` of a printed kernel's text; equal texts give the same function.

    signature: the types of arguments and result, as Numba writes them ("void(float32[::1], int64)"):
    the function is then compiled, or loaded, at once, and refuses other types.  Without one it is
    compiled when it is called with types that it has not seen, and each call is slower.
    label: what the line on stderr calls it that a first compilation prints.  Raises Numba's errors
    if the text is wrong.

    >>> text = "@kernel\\ndef double(x):\\n    for i in range(x.size):\\n        x[i] = 2 * x[i]"
    >>> double = compiled(text, "double", label="the example", signature="void(float64[::1])")
    >>> x = np.array([1.0, 2.0])
    >>> double(x)
    >>> x.tolist()
    [2.0, 4.0]
    """
    key = (text, name, str(signature))
    if key not in _compiled:
        with _lock:
            if key not in _compiled:
                _compiled[key] = _build(text, name, label, signature)
    return _compiled[key]


def _build(text: str, name: str, label: str, signature: Any) -> Callable[..., Any]:
    function = getattr(_run(_HEADER + text, name, str(signature)), name)
    if JIT_OFF:
        return function
    if signature is None:
        return _compiled_when_called(function, label)
    _compile(function, signature, label)
    function.disable_compile()
    return function


def _run(text: str, name: str, signature: str) -> types.ModuleType:
    """The module that a printed kernel's text is.  What runs is the text at hand, never a file's content."""
    path = _place(text, name, signature)
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules[path.stem] = module  # before it runs: Numba looks for it there
    _paths[path.stem] = path
    if not path.is_absolute():  # there is no file; errors and debuggers show its lines all the same
        linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


def library_function(function: Any = None, **options: Any) -> Any:
    """A decorator: a function that printed kernels call, compiled once for each set of types it is called with.

    options: Numba's, such as forceinline=True.
    """
    if function is None:
        return functools.partial(library_function, **options)
    if JIT_OFF:
        return function
    import numba

    _prepare_for_forks()
    module, code = function.__module__, function.__code__
    if module not in _paths:
        source = Path(code.co_filename).read_text(encoding="utf-8")
        _paths[module] = _place(source, "library_" + module.rpartition(".")[2], module)
    path = _paths[module]
    function.__code__ = code.replace(co_filename=str(path))  # beside it Numba keeps the machine code
    function.__qualname__ = f"{function.__name__}_{path.stem[-_HASH:]}"
    made = numba.njit(cache=path.is_absolute(), **{**_OPTIONS, **options})(function)
    if module != path.stem:
        _library.append(made)
    return made


def _compiled_when_called(function: Any, label: str) -> Callable[..., Any]:
    import numba

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        signature = tuple(map(numba.typeof, arguments))
        if signature not in function.overloads:
            with _lock:
                _compile(function, signature, label)
        return function(*arguments)

    return call


def _compile(function: Any, signature: Any, label: str) -> None:
    """Load or compile a function for one signature, whatever state the files of the cache are in."""
    from numba.core.errors import NumbaError

    start, path = time.perf_counter(), _paths[function.__module__]
    kept = path.parent == cache.kept_folder()
    with _one_process_at_a_time(path, function):
        for attempt in range(_ATTEMPTS):
            try:
                function.compile(signature)
                break
            except NumbaError:
                raise
            except OSError as error:
                # On a full disk Numba fails after each function that it has compiled and cannot keep.  The function
                # is at hand all the same when the next attempt comes to it.
                if attempt == _ATTEMPTS - 1:
                    raise
                cache.report(f"{path.parent}: {error.strerror}")
                kept, suspects = False, [function]
            except Exception:  # from a damaged file (numba #10434)
                if attempt:
                    raise
                suspects = [function, *_library]
            if not attempt:
                _drop_machine_code(suspects)
    if any(function.stats.cache_misses.values()):
        where = "kept in the cache" if kept else "for this process only"
        cache.say(f"compiled {label} in {time.perf_counter() - start:.1f} s ({where})")


def _machine_code(function: Any) -> list[str]:
    """The files that Numba keeps of a function."""
    folder, stem = function.stats.cache_path, _paths[function.__module__].stem
    with contextlib.suppress(OSError):
        return [entry.path for entry in os.scandir(folder) if entry.name.startswith(f"{stem}.")] if folder else []
    return []


def _drop_machine_code(functions: list[Any]) -> None:
    for path in {path for function in functions for path in _machine_code(function)}:
        with contextlib.suppress(OSError):
            os.unlink(path)


@contextlib.contextmanager
def _one_process_at_a_time(path: Path, function: Any) -> Iterator[None]:
    """Hold the folder's lock while something is compiled.

    Two processes that added machine code for different types to one library function might give it
    the same file name.  A process that cannot have the lock, even after a minute, goes without.
    """
    global _alone
    if _alone or not path.is_absolute() or _machine_code(function):  # what is there is only read
        yield
        return
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            file = held.enter_context(open(path.parent / "minirnn.lock", "ab"))
            deadline = time.monotonic() + _LOCK_SECONDS
            while time.monotonic() < deadline:
                try:
                    _set_lock(file.fileno(), True)
                except (BlockingIOError, PermissionError):
                    time.sleep(0.02)
                else:
                    held.callback(_set_lock, file.fileno(), False)
                    break
        _alone = True
        try:
            yield
        finally:
            _alone = False


def _set_lock(file: int, locked: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK if locked else msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if locked else fcntl.LOCK_UN)


# names --------------------------------------------------------------------------------------------
class _Source(NamedTuple):
    text: str
    stamp: tuple[int, int]


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


_HERE = Path(__file__).parent
_SOURCES = {path.stem: _Source(path.read_text(encoding="utf-8"), _stamp(path)) for path in _HERE.glob("*.py")}


def _helpers(text: str) -> list[str]:
    """The modules of this folder that a text imports, and those that they import."""
    found: set[str] = set()
    waiting = [text]
    while waiting:
        for names in _IMPORTS.findall(waiting.pop()):
            new = (set(re.findall(r"\w+", " ".join(names))) & _SOURCES.keys()) - found
            found |= new
            waiting += [_SOURCES[name].text for name in new]
    return sorted(found)


@functools.cache
def _machine() -> str:
    """The versions, flags and processor that machine code depends on."""
    import llvmlite
    import llvmlite.binding
    import numba

    versions = [config.__version__, platform.python_version(), numba.__version__, llvmlite.__version__, np.__version__]
    flags: Any = numba.config
    name, features = flags.CPU_NAME, flags.CPU_FEATURES
    name = llvmlite.binding.get_host_cpu_name() if name is None else name
    features = llvmlite.binding.get_host_cpu_features().flatten() if features is None else features
    return repr([versions, platform.machine(), name, features, [getattr(flags, flag, None) for flag in _FLAGS]])


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:_HASH]


def _place(text: str, name: str, more: str) -> Path:
    """Where a text's machine code belongs: beside a file of that content; a relative path if it cannot be kept."""
    if JIT_OFF:
        return Path(f"{name}__{_hash([text, more])}.py")
    helpers = _helpers(text)
    stem = f"{config.CACHE_PREFIX}{name}__{_hash([text, more, _machine(), *(_SOURCES[h].text for h in helpers)])}"
    edited = [helper for helper in helpers if _stamp(_HERE / f"{helper}.py") != _SOURCES[helper].stamp]
    if edited:  # what was imported may be neither the old source nor the new one
        cache.report(f"the source of {edited[0]} changed while minirnn ran")
    kept = None if edited else cache.kept_folder()
    if kept:
        try:
            return cache.write(kept / f"{stem}.py", text)
        except OSError as error:
            cache.report(f"{kept}: {error.strerror}")
    with contextlib.suppress(OSError):
        return cache.write(cache.own_folder() / f"{stem}.py", text)
    return Path(f"{stem}.py")
