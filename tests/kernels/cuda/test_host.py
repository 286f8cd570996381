"""The executor of kernels on the host: right kernels run, in every order, and each kind of wrong one is named."""

from __future__ import annotations

import re

import numpy as np
import pytest

from .host import HostDevice, HostKernel, KernelError, host_kernel

THREADS, BLOCKS = 48, 3
SIGNATURE = "void(int64, float32[::1], float32[::1])"
# Each block turns its part of x around in shared memory; then each takes what the next block has made.
TEXT = """
from numba import float32
from minirnn.kernels.cuda.target import cuda


@cuda.jit(device=True)
def square(x):
    return x * x


@cuda.jit
def around(n, x, out):
    shared = cuda.shared.array(48, float32)
    grid = cuda.cg.this_grid()
    thread = cuda.threadIdx.x
    place = cuda.blockIdx.x * 48 + thread
    if place < n:
        shared[thread] = x[place]
    else:
        shared[thread] = float32(0)
    cuda.syncthreads()
    if place < n:
        out[place] = square(shared[47 - thread])
    grid.sync()
    value = out[(place + 48) % n]
    grid.sync()
    if place < n:
        out[place] = value + x[place]
"""


def kernel(*changes: tuple[str, str]) -> HostKernel:
    """The kernel, with parts of its text replaced."""
    text = TEXT
    for old, new in changes:
        assert text.count(old) > 0
        text = text.replace(old, new, 1)
    return host_kernel(text, "around", SIGNATURE, THREADS)


def run(wrong: HostKernel, n: int = THREADS * BLOCKS, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(4).standard_normal(n, dtype=np.float32)
    out = np.zeros(n, np.float32)
    wrong.run(BLOCKS, THREADS, n, x, out, seed=seed)
    return out


def expected(n: int) -> np.ndarray:
    x = np.random.default_rng(4).standard_normal(n, dtype=np.float32)
    padded = np.zeros(BLOCKS * THREADS, np.float32)
    padded[:n] = x
    squares = np.square(padded.reshape(BLOCKS, THREADS)[:, ::-1].reshape(-1)[:n])
    return squares[(np.arange(n) + THREADS) % n] + x


# right kernels ------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [THREADS * BLOCKS, THREADS * BLOCKS - 7])  # ragged: the last block is not full
def test_a_right_kernel_gives_the_same_in_every_order(seed, n):
    assert run(kernel(), n, seed).tobytes() == expected(n).tobytes()


def test_barriers_and_bytes_are_counted():
    out = np.zeros(THREADS * BLOCKS, np.float32)
    each = out.nbytes  # that every thread reads or writes one number
    assert kernel().run(BLOCKS, THREADS, out.size, out.copy(), out) == {
        "block barriers": BLOCKS, "grid barriers": 2, "read": 3 * each, "written": 2 * each,
        "shared read": each, "shared written": each,
    }  # fmt: skip


def test_dynamic_shared_memory():
    dynamic = kernel(("cuda.shared.array(48, float32)", "cuda.shared.array(0, float32)"))
    x = np.random.default_rng(4).standard_normal(THREADS * BLOCKS, dtype=np.float32)
    out = np.zeros_like(x)
    dynamic.run(BLOCKS, THREADS, x.size, x, out, shared=4 * THREADS)
    assert out.tobytes() == expected(x.size).tobytes()
    with pytest.raises(KernelError, match=r"out of bounds, next to shared memory .*\[40\]"):
        dynamic.run(BLOCKS, THREADS, x.size, x, out, shared=4 * 40)


def test_atomics_are_no_race():
    text = """
from minirnn.kernels.cuda.target import cuda

@cuda.jit
def counting(first, count):
    cuda.atomic.add(count, 0, 1)
    cuda.atomic.cas(count, 1, 0, first + cuda.grid(1))
"""
    count = np.zeros(2, np.int64)
    host_kernel(text, "counting", "void(int64, int64[::1])").run(BLOCKS, THREADS, 5, count)
    assert count.tolist() == [THREADS * BLOCKS, 5]


# wrong kernels, and what is said about them -------------------------------------------------------
_BLOCK = ("    cuda.syncthreads()\n", "")
_GRID = ("    grid.sync()\n", "")
_SECOND_GRID = ("    value = out[(place + 48) % n]\n    grid.sync()\n", "    value = out[(place + 48) % n]\n")
_NOT_ALL = ("    value = out", "    if thread < 31:\n        cuda.syncthreads()\n    value = out")
_TWO_LINES = (
    "    cuda.syncthreads()\n",
    "    if thread < 31:\n        cuda.syncthreads()\n    else:\n        cuda.syncthreads()\n",
)
_ENDED = ("    grid.sync()\n    value", "    if cuda.blockIdx.x == 1:\n        return\n    grid.sync()\n    value")
_WRITE = ("    if place < n:\n        out[place] = value + x[place]", "    out[place] = value")
_READ = ("value + x[place]", "value + x[place + 9]")
_SHARED = ("shared[47 - thread]", "shared[48 - thread]")
_UNWRITTEN = ("    else:\n        shared[thread] = float32(0)\n", "")


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_BLOCK, r"shared memory \S+ \(.*(no barrier is between them|which nothing has written)"),
        (_GRID, r"of block \d and thread \d+ of block \d access out\[\d+\] .*no barrier is between them"),
        (_SECOND_GRID, r"of block \d and thread \d+ of block \d access out\[\d+\] .*no barrier is between them"),
        (_NOT_ALL, r"the threads of block \d part: 31 wait at barrier 3, 17 wait for the grid"),
        (_TWO_LINES, r"the threads of block \d part: 31 wait at barrier 1, 17 wait at barrier 2"),
        (_ENDED, r"waits for ever: 1 of 3 blocks have ended"),
        (_WRITE, r"thread \d+ of block 2 accesses memory out of bounds, next to out\[1\d\d\] \(float32, 137 elements"),
        (_READ, r"block 2 accesses memory out of bounds, next to x\[1\d\d\]"),
        (_SHARED, r"thread 0 of block \d accesses memory out of bounds, next to shared memory \S+\[48\]"),
        (_UNWRITTEN, r"reads shared memory \S+ \(.*which nothing has written"),
    ],
    ids=["no barrier of the block", "no barrier of the grid", "no second barrier of the grid", "some of the threads",
         "two lines", "a block has ended", "write", "read", "shared", "unwritten"],
)  # fmt: skip
def test_a_wrong_kernel_is_refused(change, said, seed):
    with pytest.raises(KernelError, match=said):
        run(kernel(change), THREADS * BLOCKS - 7, seed)


@pytest.mark.parametrize(
    ("barrier", "change"), [(1, _BLOCK), (2, _GRID), (3, _SECOND_GRID)], ids=["block", "grid", "second"]
)
def test_a_barrier_left_out_is_as_one_that_is_not_in_the_text(barrier, change):
    said = []
    for wrong, without in ((kernel(change), 0), (kernel(), barrier)):
        out = np.zeros(THREADS * BLOCKS, np.float32)
        with pytest.raises(KernelError) as found:
            wrong.run(BLOCKS, THREADS, out.size, out.copy(), out, without=without)
        said.append(re.sub(r"_cudapy_smem_\d+", "", str(found.value)))
    assert kernel().barriers() == 3 and said[0] == said[1]


def test_memory_that_nothing_has_written_may_not_be_read():
    device = HostDevice()
    x, out = device.empty(THREADS * BLOCKS, np.float32), device.empty(THREADS * BLOCKS, np.float32)
    with pytest.raises(KernelError, match=r"reads x\[0\] \(float32, 144 elements\), which nothing has written"):
        kernel().run(BLOCKS, THREADS, x.size, x, out)


def test_what_a_device_does_in_its_own_way_is_refused():
    with pytest.raises(NotImplementedError, match="__nv_expf: a device's libdevice may give other bits"):
        run(kernel(("return x * x", "return math.exp(x)"), ("from numba", "import math\nfrom numba")))


def test_neighbours_that_are_read_together_are_aligned():
    text = """
from minirnn.kernels.cuda.target import cuda
from minirnn.kernels.cuda.library import chain_aligned, hold

@cuda.jit
def together(at, x, out):
    out[0] = chain_aligned(hold(x, 0, 1, 8, 8), 0, 8, x, at, 1)
"""
    together = host_kernel(text, "together", SIGNATURE)
    x, out = np.arange(1, 33, dtype=np.float32), np.zeros(1, np.float32)
    together.run(1, 1, 4, x, out)
    assert out[0] == x[:8] @ x[4:12]
    with pytest.raises(KernelError, match=r"at x\[6\] .*, which is not aligned for them"):
        together.run(1, 1, 6, x, out)


@pytest.mark.parametrize("alignment", ["", ", 16"])
def test_shared_memory_is_no_better_aligned_than_the_kernel_asks_for(alignment):
    text = f"""
from numba import float32
from minirnn.kernels.cuda.target import cuda
from minirnn.kernels.cuda.library import chain_aligned, hold

@cuda.jit
def together(at, x, out):
    shared = cuda.shared.array(8, float32{alignment})
    for k in range(8):
        shared[k] = x[k]
    out[0] = chain_aligned(hold(x, 0, 1, 8, 8), 0, 8, shared, at, 1)
"""
    x, out = np.arange(1, 33, dtype=np.float32), np.zeros(1, np.float32)
    together = host_kernel(text, "together", SIGNATURE)
    if alignment:
        together.run(1, 1, 0, x, out)
        assert out[0] == x[:8] @ x[:8]
    else:
        with pytest.raises(KernelError, match=r"at shared memory \S+\[0\] .*, which is not aligned for them"):
            together.run(1, 1, 0, x, out)


def test_the_results_of_the_very_first_kernel_are_kept_by_later_ones():
    """Engines own their machine; one that ends takes nothing from the others."""
    first = kernel()
    before = run(first)
    run(kernel(("x * x", "x * x * x")))
    assert run(first).tobytes() == before.tobytes()
