"""Numba's CUDA target, imported in this one place: from a printed module's text to LLVM IR, PTX and machine code.

The text of a module begins with `from minirnn.kernels.cuda.target import cuda`, writes `@cuda.jit` above its
functions and imports what they call from `minirnn.kernels.cuda.library`.  `compiled(text, name, signature)`
compiles one of them for a compute capability, with neither a device nor a driver: what would ask the device
for its capability is told the one that is compiled for.

The options of the compiler are fixed, so that a kernel gives the bits that its text says: no contraction of
products and sums (`fma=0`; the text writes `fma` where it wants one), no flushing of small numbers to zero,
correctly rounded division and square root.

Everything else of `minirnn` reaches `numba.cuda` through the name `cuda` of this module, which is imported
when it is first asked for; a successor of the package numba-cuda takes its place here.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import linecache
import os
import sys
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

INSTALL = "pip install 'minirnn[cuda]' (or 'minirnn[cuda12]' for a driver of CUDA 12)"
CAPABILITY = (9, 0)  # what is compiled for where nothing else is said
_EXACT = {"fastmath": False, "opt": 3, "ftz": False, "fma": False, "prec_div": True, "prec_sqrt": True}

_PARTS = ("extending", "flags")  # of numba.cuda, with which the device library is made
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"  # kernels run as plain Python in Numba's simulator

_lock = threading.RLock()
_compiled: dict[tuple[Any, ...], Compiled] = {}


def __getattr__(name: str) -> Any:
    if name == "cuda":
        return _cuda()
    if name in _PARTS:
        _cuda()
        return importlib.import_module(f"numba.cuda.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _cuda() -> Any:
    """The module numba.cuda of the package numba-cuda, or of Numba's simulator."""
    from numba import cuda

    return cuda


def missing() -> str:
    """Why nothing can be compiled for CUDA here, in one sentence, or an empty string."""
    try:
        import numba_cuda  # noqa: F401  Numba's own target, which it replaces, is another compiler
    except ImportError:
        return f"the package numba-cuda is not installed: {INSTALL}"
    try:
        from cuda.bindings import nvvm

        nvvm.version()
    except Exception as error:
        return f"numba-cuda finds no libNVVM ({error}): {INSTALL}"
    return ""


# from text to a function --------------------------------------------------------------------------
def function(text: str, name: str) -> Callable[..., Any]:
    """The Python function `name` that the text of a module defines, without its decorator."""
    found = getattr(_module(text), name)
    return getattr(found, "py_func", getattr(found, "fn", found))  # of the compiler, of the simulator, plain


@functools.cache
def _module(text: str) -> types.ModuleType:
    """The module of a text; tracebacks and Numba's errors show its lines."""
    name = f"minirnn_cuda_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    module = types.ModuleType(name)
    module.__file__ = f"<{name}>"
    linecache.cache[module.__file__] = (len(text), None, text.splitlines(keepends=True), module.__file__)
    sys.modules[name] = module  # where Numba looks for a function's globals
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    return module


def launcher(kernel: Any, arguments: list[Any], stream: Any) -> Callable[..., None]:
    """What launches kernels of one signature, such as `kernel`, whose arguments from the fourth on are these.

    It takes (kernel, blocks, threads, shared, first three arguments); `Compiled.launchable` gave the kernels, stream
    is 0 or one of numba.cuda.  The arguments are prepared once, which takes longer than a launch.  It has not run on
    a device.
    """
    from cuda.core import LaunchConfig, launch
    from numba.cuda._compat import CUDA_CORE_GE_1_0
    from numba.cuda.cudadrv.driver import _to_core_stream

    together = "is_cooperative" if CUDA_CORE_GE_1_0 else "cooperative_launch"
    on, prepared = _to_core_stream(stream), list[Any]()
    for kind, value in zip(kernel.argument_types[3:], arguments, strict=True):
        kernel._prepare_args(kind, value, stream, [], prepared)

    def start(kernel: Any, blocks: tuple[int, int], threads: int, shared: int, numbers: Iterable[int]) -> None:
        options = {"grid": (*blocks, 1), "block": (threads, 1, 1), "shmem_size": shared, together: kernel.cooperative}
        config = LaunchConfig(**options)
        launch(on, config, kernel._codelibrary.get_cufunc().kernel, *map(ctypes.c_int64, numbers), *prepared)

    return start


# from a function to machine code ------------------------------------------------------------------
class Compiled:
    """A kernel as the compiler has it: its LLVM IR for libNVVM, PTX and machine code for any compute capability."""

    def __init__(self, name: str, threads: int | None, result: Any) -> None:
        self.name = name
        self.threads = threads
        self.library = result.library
        self.argument_types: tuple[Any, ...] = tuple(result.signature.args)
        self._result = result

    @property
    def symbol(self) -> str:
        """The kernel's name in LLVM IR, PTX and machine code."""
        return str(self.library._entry_name)

    @property
    def cooperative(self) -> bool:
        """Whether it waits for all blocks of the grid, and so has to be launched cooperatively."""
        return bool(self.library.use_cooperative)

    @functools.cached_property
    def modules(self) -> list[str]:
        """The LLVM IR of the kernel and of the device functions that it calls, just as libNVVM gets it."""
        from numba.cuda.cudadrv.nvvm import llvm_replace

        return [llvm_replace(text) for text in self.library.llvm_strs]

    def ptx(self, capability: tuple[int, int] = CAPABILITY) -> str:
        """The assembly that libNVVM makes of the LLVM IR."""
        with _lock:
            return str(self.library.get_asm_str(cc=capability))

    def machine_code(self, capability: tuple[int, int] = CAPABILITY) -> bytes:
        """The linked machine code that a device of this capability loads."""
        with _lock:
            return bytes(self.library.get_cubin(cc=capability).code)

    def launchable(self) -> Any:
        """The kernel as numba-cuda launches it, on the device that is current when it is first launched."""
        from numba.cuda.dispatcher import _Kernel

        with _lock:
            return _Kernel._rebuild(
                cooperative=self.cooperative,
                name=self.symbol,
                signature=self._result.signature,
                codelibrary=self.library,
                debug=False,
                lineinfo=False,
                call_helper=self._result.call_helper,
                extensions=[],
            )


def compiled(
    text: str, name: str, signature: str, threads: int | None = None, capability: tuple[int, int] = CAPABILITY
) -> Compiled:
    """The kernel `name` of a module's text for these types of arguments; equal arguments give the same one.

    signature: as Numba writes it, "void(int64, float32[::1])".  threads: the largest block that it will be
    launched with, so that its registers suffice for it.  Raises Numba's errors if the text is wrong.
    """
    key = (text, name, signature, threads, capability)
    if key not in _compiled:
        with _lock:
            if key not in _compiled:
                _compiled[key] = _compile(function(text, name), name, signature, threads, capability)
    return _compiled[key]


def _compile(
    kernel: Callable[..., Any], name: str, signature: str, threads: int | None, capability: tuple[int, int]
) -> Compiled:
    from numba.cuda import compiler
    from numba.cuda.core import sigutils
    from numba.cuda.cudadrv import nvvm

    arguments, _ = sigutils.normalize_signature(signature)
    with _device_of(capability):
        result = compiler.compile_cuda(kernel, compiler.types.void, arguments, nvvm_options=_EXACT, cc=capability)
    library = result.library
    entry = library.get_function(result.fndesc.llvm_func_name)
    library._entry_name = entry.name
    compiler.kernel_fixup(entry, False)
    nvvm.set_launch_bounds(entry, threads)
    library.needs_cudadevrt = library.use_cooperative
    return Compiled(name, threads, result)


@contextmanager
def _device_of(capability: tuple[int, int]) -> Iterator[None]:
    """While this lasts, a device function that asks for the current device is told of one of this capability."""
    from numba.cuda import dispatcher

    original = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=capability, id=0)
    try:
        yield
    finally:
        dispatcher.get_current_device = original
