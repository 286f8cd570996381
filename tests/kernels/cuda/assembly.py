"""What the assembler says of a kernel for a real target, and which of its instructions might give other bits.

nvJitLink of the package numba-cuda assembles and links as it does on a user's machine; it needs neither a
device nor a driver.  What it makes has not run on one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from minirnn.kernels.cuda.target import Compiled

CAPABILITIES = ((8, 0), (9, 0), (10, 0))


class Figures(NamedTuple):
    """What a kernel takes of a device, for each thread; shared memory for each block, in bytes."""

    registers: int
    spill_stores: int
    spill_loads: int
    shared: int

    @property
    def spills(self) -> int:
        """Bytes that go to memory and back because there are too few registers."""
        return self.spill_stores + self.spill_loads


def figures(compiled: Compiled, capability: tuple[int, int]) -> Figures:
    """What the assembler reports."""
    from cuda.bindings import nvjitlink
    from numba.cuda.cudadrv.libs import get_cudalib

    ptx = compiled.ptx(capability).encode()
    options = [f"-arch=sm_{capability[0]}{capability[1]}", "-verbose", "-Xptxas=-v"]
    link = nvjitlink.create(len(options), options)
    try:
        nvjitlink.add_data(link, nvjitlink.InputType.PTX, ptx, len(ptx), compiled.name)
        if compiled.cooperative:
            nvjitlink.add_file(link, nvjitlink.InputType.LIBRARY, get_cudalib("cudadevrt", static=True))
        nvjitlink.complete(link)
        log = bytearray(nvjitlink.get_info_log_size(link))
        nvjitlink.get_info_log(link, log)
    finally:
        nvjitlink.destroy(link)
    return _read(log.decode(), compiled.symbol)


def _read(log: str, symbol: str) -> Figures:
    """The figures of one function: the assembler's, but shared memory as the linker counts it."""
    assembled = log[log.index(f"Compiling entry function '{symbol}'") :]
    linked = log[log.rindex(symbol) :]

    def number(pattern: str, text: str) -> int:
        found = re.search(pattern, text)
        return int(found[1]) if found else 0

    return Figures(
        number(r"Used (\d+) registers", assembled),
        number(r"(\d+) bytes spill stores", assembled),
        number(r"(\d+) bytes spill loads", assembled),
        number(r"(\d+) bytes smem", linked),
    )


_FLOATING = re.compile(
    r"^\s*(?:@\S+\s+)?((?:mul|add|sub|fma|mad|div|sqrt|rcp|rsqrt|ex2|lg2|sin|cos|tanh)\.\S*f(?:16|32|64)\S*)", re.M
)
_ROUNDED = re.compile(r"(?:mul|add|sub|fma|div|rcp|sqrt)\.rn\.f(?:32|64)")


def inexact(ptx: str) -> set[str]:
    """Instructions on floats that are not rounded once to nearest: contracted at will, approximate, flushed to zero."""
    return {found for found in _FLOATING.findall(ptx) if not _ROUNDED.fullmatch(found)}
