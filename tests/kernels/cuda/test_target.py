"""From a printed module's text to a compiled kernel, and what is said where that cannot be."""

from __future__ import annotations

import subprocess
import sys
import traceback

import pytest

from minirnn.kernels.cuda import target

TEXT = """
from minirnn.kernels.cuda.target import cuda


@cuda.jit(device=True)
def half(x):
    return x / 2


@cuda.jit
def halves(n, x):
    place = cuda.grid(1)
    if place < n:
        x[place] = half(x[place])


def plain(x):
    return x[3]
"""
SIGNATURE = "void(int64, float64[::1])"


def test_neither_minirnn_nor_the_cpu_engine_imports_numbas_cuda():
    code = (
        "import sys, minirnn as mr, numpy as np; mr.engine('cpu'); mr.ops.tanh(np.ones(3))\n"
        "import minirnn.kernels.cuda.target, minirnn.kernels.cuda.device, minirnn.kernels.cuda.schedule\n"
        "print([name for name in sys.modules if name.startswith(('numba.cuda.', 'numba_cuda.'))])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_equal_texts_are_one_kernel():
    first = target.compiled(TEXT, "halves", SIGNATURE, 64)
    assert target.compiled(TEXT, "halves", SIGNATURE, 64) is first
    assert first.symbol in first.ptx() and ".maxntid 64" in first.ptx()
    assert not first.cooperative and [str(kind) for kind in first.argument_types][:1] == ["int64"]
    assert ".maxntid" not in target.compiled(TEXT, "halves", SIGNATURE).ptx()


def test_device_functions_are_compiled_without_a_device():
    modules = target.compiled(TEXT, "halves", SIGNATURE).modules
    assert len(modules) == 2 and "fdiv double" in modules[1]


def test_tracebacks_show_the_lines_of_the_text():
    with pytest.raises(IndexError) as found:
        target.function(TEXT, "plain")([1, 2])
    assert "return x[3]" in "".join(traceback.format_tb(found.value.__traceback__))


def test_errors_of_the_compiler_show_the_line():
    wrong = TEXT.replace("half(x[place])", "half(x[place], n)")
    with pytest.raises(target.cuda.core.errors.TypingError, match=r"x\[place\] = half\(x\[place\], n\)"):
        target.compiled(wrong, "halves", SIGNATURE)


def test_why_nothing_can_be_compiled(monkeypatch):
    assert target.missing() == ""
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    assert target.missing().startswith("the package numba-cuda is not installed: pip install 'minirnn[cuda]'")
    monkeypatch.undo()
    monkeypatch.setattr("cuda.bindings.nvvm.version", lambda: 1 / 0)
    assert target.missing().startswith("numba-cuda finds no libNVVM (division by zero): pip install")


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match=r"minirnn\.kernels\.cuda\.target.*no attribute 'cude'"):
        target.cude  # noqa: B018
