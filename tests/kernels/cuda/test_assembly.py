"""Assembly for real targets: nothing but exactly rounded instructions, registers within a budget, no spills.

Nothing here has run on a device: the figures are the assembler's.
"""

from __future__ import annotations

import re

import pytest

from minirnn.kernels.cuda import target

from .assembly import CAPABILITIES, Figures, figures, inexact

MIXED = """
from minirnn.kernels.cuda.target import cuda
from minirnn.kernels.cuda.library import element, fma, put, sqrt, tanh_{bits}, sigmoid_{bits}, exp_{bits}


@cuda.jit
def mixed(x, out):
    place = cuda.grid(1)
    a, b, c = x[place], x[place + 1], x[place + 2]
    out[place] = a * b + c - tanh_{bits}(a) / sqrt(b * b) + sigmoid_{bits}(c) * exp_{bits}(a)
"""
PLAIN = """
from minirnn.kernels.cuda.target import cuda


@cuda.jit
def plain(x, out):
    place = cuda.grid(1)
    out[place] = x[place] * x[place + 1] + x[place + 2]
"""
MANY = """
from minirnn.kernels.cuda.target import cuda
from minirnn.kernels.cuda.library import chain, hold


@cuda.jit
def many(x, out):
    place = cuda.grid(1)
    held = hold(x, place, 7, 128, 128)
    for step in range(9):
        out[place + 1024 * step] = chain(held, 0, 128, x, 128 * step, 1)
"""


def signature(dtype: str) -> str:
    return f"void({dtype}[::1], {dtype}[::1])"


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("bits", [32, 64])
def test_only_exactly_rounded_instructions(bits, capability):
    compiled = target.compiled(MIXED.format(bits=f"f{bits}"), "mixed", signature(f"float{bits}"))
    ptx = compiled.ptx(capability)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert not inexact(ptx)
    for instruction in ("mul.rn", "add.rn", "div.rn", "sqrt.rn", "fma.rn"):
        assert f"{instruction}.f{bits}" in ptx


def test_products_and_sums_are_contracted_nowhere_but_would_be_by_default():
    ours = target.compiled(PLAIN, "plain", signature("float32"))
    assert "fma" not in ours.ptx() and "mul.rn.f32" in ours.ptx()
    function, types = target.function(PLAIN, "plain"), target.cuda.types.void(*ours.argument_types)
    theirs, _ = target.cuda.compile(function, types, device=False, abi="numba", cc=(9, 0))
    assert "fma.rn.f32" in theirs


@pytest.mark.parametrize(
    "instruction",
    ["mul.f32", "add.f64", "div.approx.f32", "div.full.f32", "sqrt.approx.ftz.f32", "fma.rn.ftz.f32", "tanh.approx.f32",
     "add.rz.f32", "mad.f32"],
)  # fmt: skip
def test_inexact_instructions_are_noticed(instruction):
    assert inexact(f"\tld.global.f32 %f1, [%rd1];\n\t{instruction} \t%f3, %f1, %f2;\n\t@%p1 bra LBB;") == {instruction}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_figures_and_a_spill_that_is_noticed(capability):
    enough = figures(target.compiled(MANY, "many", signature("float32"), 256), capability)
    assert 128 < enough.registers <= 255 and enough.spills == 0
    few = figures(target.compiled(MANY, "many", signature("float32"), 1024), capability)
    assert few.registers <= 64 and few.spills > 0


def test_shared_memory_is_counted():
    turned = (
        "    part = cuda.shared.array(96, cuda.types.float32)\n    part[place] = x[place]\n"
        "    cuda.syncthreads()\n    x[place] = part[95 - place]\n    out["
    )
    text = PLAIN.replace("    out[", turned)
    found = figures(target.compiled(text, "plain", signature("float32"), 96), (8, 0))
    assert found.shared == 4 * 96 and isinstance(found, Figures)


def test_machine_code_is_that_of_the_target():
    compiled = target.compiled(PLAIN, "plain", signature("float32"))
    for capability in CAPABILITIES:
        code = compiled.machine_code(capability)
        assert code[:4] == b"\x7fELF" and re.search(rb"plain", code)
