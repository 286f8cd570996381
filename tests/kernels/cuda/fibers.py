"""CUDA's threads as fibers of one host thread: stacks that take turns, and a check of every access to memory.

The native part is a few lines of LLVM IR and one Numba function.  `resume` runs fibers, one after another,
each until it waits at a barrier, ends or does something wrong; who may go on after that is decided in Python
(host.py).  `access` is called before each load and store of a kernel: it knows the arrays of the launch and, for
each of their elements, who wrote and who read it last.  Two accesses by different threads, at least one of them
a write, must have a barrier between them that both threads took part in: whether there is one does not depend
on the order in which the fibers happened to run.

All of it shares one block of integers, `state`, whose address is written into the code.  x86-64 only: the switch
from stack to stack is written in its assembly.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from enum import IntEnum

import llvmlite.binding as llvm
import numba
import numpy as np

from minirnn.kernels.pointers import int32_at, int64_at

SUPPORTED = platform.machine() in ("x86_64", "AMD64") and platform.system() != "Windows"
STACK = 32768  # bytes of a fiber's stack
_MANY = -1  # several readers
SHADOW = 8  # 32-bit integers that say who wrote and who read an element last
BY_HOST = -1  # "who wrote it" where the host did, before the launch


class State(IntEnum):
    """What each integer of the shared state is."""

    SCHEDULER = 0  # the stack pointer of the host's own stack while a fiber runs
    STACKS = 1  # the address of the fibers' stack pointers
    FIBER = 2  # which fiber runs: an index of its stack pointer
    REASON = 3  # why it stopped
    SITE = 4  # where: the number of its barrier or of its fault
    ENTRY = 5  # the address of the kernel without arguments
    TABLE = 6  # the address of the ranges of memory that the kernel may use
    RANGES = 7  # how many there are
    GRID_EPOCH = 8  # how many barriers of the grid, and launches, there have been
    BLOCK_EPOCH = 9  # how many barriers of the block
    BLOCK = 10  # the number of the running block
    FIRST_FIBER = 11  # the fiber of its thread 0
    ADDRESS = 12  # of a faulty access
    OTHER_BLOCK = 13  # who else accessed it, in a race
    OTHER_THREAD = 14
    STACK_BEGIN = 15  # the memory of all stacks
    STACK_END = 16
    BLOCK_X = 17
    BLOCK_Y = 18
    THREADS = 19
    BLOCKS_X = 20
    BLOCKS_Y = 21
    READ = 22  # bytes of device memory so far
    WRITTEN = 23
    SHARED_READ = 24
    SHARED_WRITTEN = 25
    GRID_SITE = 26  # the number of the barrier of the grid that comes next
    WITHOUT = 27  # the number of the barrier that threads pass by, as if it were not there


class Reason(IntEnum):
    """Why a fiber stopped."""

    DONE = 1
    BLOCK_BARRIER = 2
    GRID_BARRIER = 3
    FAULT = 4


class Fault(IntEnum):
    """What is wrong with an access."""

    OUT_OF_BOUNDS = 1
    UNWRITTEN = 2
    RACE = 3
    MISALIGNED = 4


class Kind(IntEnum):
    """What an access does."""

    READ = 0
    WRITE = 1
    ATOMIC = 2


state = np.zeros(len(State), np.int64)


def pointer_to(slot: State) -> str:
    """The address of an integer of the state, as LLVM IR writes it."""
    return f"inttoptr (i64 {state.ctypes.data + 8 * slot} to ptr)"


ROW = 5  # integers that describe a range of memory


# the check of an access ---------------------------------------------------------------------------
_TABLE, _RANGES, _ADDRESS = int(State.TABLE), int(State.RANGES), int(State.ADDRESS)
_GRID_EPOCH, _BLOCK_EPOCH, _BLOCK = int(State.GRID_EPOCH), int(State.BLOCK_EPOCH), int(State.BLOCK)
_FIBER, _FIRST_FIBER = int(State.FIBER), int(State.FIRST_FIBER)
_OTHER_BLOCK, _OTHER_THREAD = int(State.OTHER_BLOCK), int(State.OTHER_THREAD)
_STACK_BEGIN, _STACK_END = int(State.STACK_BEGIN), int(State.STACK_END)
_READ, _WRITE = int(Kind.READ), int(Kind.WRITE)
_OUT_OF_BOUNDS, _UNWRITTEN = int(Fault.OUT_OF_BOUNDS), int(Fault.UNWRITTEN)
_RACE, _MISALIGNED = int(Fault.RACE), int(Fault.MISALIGNED)


def _access(state, address, size, alignment, kind):  # type: ignore[no-untyped-def]  # Numba compiles it
    """0, or the fault of an access; remembers the access.

    A range of memory is five integers: its begin and end, the logarithm of an element's bytes, the address of
    its shadow, and where the state counts the bytes read.  The shadow of an element: epoch of the grid, block,
    epoch of the block and thread of the last write, and of the last read.
    """
    table = int64_at(state[_TABLE])
    low, high = 0, state[_RANGES]
    while low < high:  # ends with the number of ranges that begin at the address or before
        middle = (low + high) // 2
        if table[ROW * middle] <= address:
            low = middle + 1
        else:
            high = middle
    row = ROW * (low - 1)
    if low == 0 or address + size > table[row + 1]:
        if state[_STACK_BEGIN] <= address < state[_STACK_END]:
            return 0
        state[_ADDRESS] = address
        return _OUT_OF_BOUNDS
    if address % alignment:
        state[_ADDRESS] = address
        return _MISALIGNED
    state[table[row + 4] + (kind == _WRITE)] += size
    shadows, begin, shift = table[row + 3], table[row], table[row + 2]
    grid, block, epoch = state[_GRID_EPOCH], state[_BLOCK], state[_BLOCK_EPOCH]
    thread = state[_FIBER] - state[_FIRST_FIBER]
    for element in range((address - begin) >> shift, ((address + size - 1 - begin) >> shift) + 1):
        shadow = int32_at(shadows + 32 * element)
        if kind != _WRITE and shadow[0] == 0:
            state[_ADDRESS] = begin + (element << shift)
            return _UNWRITTEN
        for last in (0, 4):
            if last == 4 and kind == _READ or kind > _WRITE:
                continue
            if shadow[last] == grid and (
                shadow[last + 1] != block or (shadow[last + 2] == epoch and shadow[last + 3] != thread)
            ):
                state[_ADDRESS] = begin + (element << shift)
                state[_OTHER_BLOCK], state[_OTHER_THREAD] = shadow[last + 1], shadow[last + 3]
                return _RACE
        if kind == _WRITE:
            shadow[0], shadow[1], shadow[2], shadow[3] = grid, block, epoch, thread
        elif kind == _READ:
            if shadow[4] != grid:
                shadow[4], shadow[5], shadow[6], shadow[7] = grid, block, epoch, thread
            elif shadow[5] != block:
                shadow[5] = _MANY
            elif shadow[6] != epoch:
                shadow[6], shadow[7] = epoch, thread
            elif shadow[7] != thread:
                shadow[7] = _MANY
    return 0


# stacks that take turns ---------------------------------------------------------------------------
_NATIVE = """
; Leaves the stack whose pointer `from` is to keep, and goes on where the stack whose pointer is in `to` was left.
define void @switch(ptr %from, ptr %to) naked noinline {
  call void asm sideeffect "
    pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
    retq", "~{memory}"()
  unreachable
}

; A fiber stops here; it goes on when it is resumed.
define void @suspend(i64 %reason, i64 %site) noinline {
  store i64 %reason, ptr REASON
  store i64 %site, ptr SITE
  %fiber = load i64, ptr FIBER
  %stacks = load ptr, ptr STACKS
  %mine = getelementptr i64, ptr %stacks, i64 %fiber
  call void @switch(ptr %mine, ptr SCHEDULER)
  ret void
}

; A barrier.
define void @barrier(i64 %reason, i64 %site) {
  %without = load i64, ptr WITHOUT
  %pass = icmp eq i64 %site, %without
  br i1 %pass, label %go, label %stop
stop:
  call void @suspend(i64 %reason, i64 %site)
  ret void
go:
  ret void
}

; Where a fiber begins.
define void @begin() {
  %entry = load ptr, ptr ENTRY
  call void %entry()
  call void @suspend(i64 1, i64 0)
  unreachable
}

; Runs the fibers order[0], order[1], ... and says why and where each stopped, up to the first fault.
define i64 @resume(ptr %order, i64 %count, ptr %reasons, ptr %sites) {
start:
  %stacks = load ptr, ptr STACKS
  br label %each
each:
  %k = phi i64 [ 0, %start ], [ %next, %stopped ]
  %more = icmp slt i64 %k, %count
  br i1 %more, label %run, label %end
run:
  %at = getelementptr i64, ptr %order, i64 %k
  %fiber = load i64, ptr %at
  store i64 %fiber, ptr FIBER
  %its = getelementptr i64, ptr %stacks, i64 %fiber
  call void @switch(ptr SCHEDULER, ptr %its)
  %reason = load i64, ptr REASON
  %site = load i64, ptr SITE
  %reason_at = getelementptr i64, ptr %reasons, i64 %fiber
  store i64 %reason, ptr %reason_at
  %site_at = getelementptr i64, ptr %sites, i64 %fiber
  store i64 %site, ptr %site_at
  %fault = icmp eq i64 %reason, 4
  br i1 %fault, label %end, label %stopped
stopped:
  %next = add i64 %k, 1
  br label %each
end:
  ret i64 %k
}

; Called before a load or store of a kernel.
define void @checked(i64 %address, i64 %size, i64 %alignment, i64 %kind) {
  %fault = call i64 ACCESS(ptr STATE, i64 %address, i64 %size, i64 %alignment, i64 %kind)
  %bad = icmp ne i64 %fault, 0
  br i1 %bad, label %stop, label %go
stop:
  call void @suspend(i64 4, i64 %fault)
  unreachable
go:
  ret void
}
"""


class Native:
    """The native functions, compiled once in a process."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        self._access = numba.cfunc("int64(CPointer(int64), int64, int64, int64, int64)", nopython=True)(_access)
        text = _NATIVE.replace("ACCESS", f"inttoptr (i64 {self._access.address} to ptr)")
        text = text.replace("ptr STATE", f"ptr inttoptr (i64 {state.ctypes.data} to ptr)")
        for slot in sorted(State, key=lambda slot: -len(slot.name)):
            text = text.replace(f"ptr {slot.name}", f"ptr {pointer_to(slot)}")
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(text), self.machine())
        self._engine.finalize_object()
        address = self._engine.get_function_address
        self.begin = address("begin")
        self.barrier = f"inttoptr (i64 {address('barrier')} to ptr)"
        self.checked = f"inttoptr (i64 {address('checked')} to ptr)"
        words = [ctypes.c_int64] * 4
        self.resume = ctypes.CFUNCTYPE(ctypes.c_int64, *words)(address("resume"))

    def machine(self) -> llvm.TargetMachine:
        """This processor, for one engine, which will own it."""
        return llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
        )


@functools.cache
def native() -> Native:
    """The native functions."""
    return Native()


class Fibers:
    """As many fibers as a launch has threads at once, all at the beginning of the kernel."""

    def __init__(self, count: int, entry: int) -> None:
        words = STACK // 8
        self._memory = np.empty(count * words + 2, np.int64)
        skipped = self._memory.ctypes.data % 16 // 8  # stacks are aligned to 16 bytes
        stacks = self._memory[skipped : skipped + count * words].reshape(count, words)
        stacks[:, -8:-2] = 0  # six registers that `switch` takes from the stack
        stacks[:, -2] = native().begin  # and where it returns to
        stacks[:, :8] = _UNTOUCHED
        self._ends = stacks[:, :8]
        ends = stacks.ctypes.data + STACK * (1 + np.arange(count))
        self._pointers = (ends - 8 * 8).astype(np.int64)
        state[State.STACKS] = self._pointers.ctypes.data
        state[State.STACK_BEGIN], state[State.STACK_END] = stacks.ctypes.data, stacks.ctypes.data + stacks.nbytes
        state[State.ENTRY] = entry
        self.reasons = np.zeros(count, np.int64)
        self.sites = np.zeros(count, np.int64)

    def resume(self, order: np.ndarray) -> int | None:
        """Run these fibers, in this order, each until it stops; the one that did something wrong, if any."""
        order = np.ascontiguousarray(order, np.int64)
        ran = native().resume(order.ctypes.data, order.size, self.reasons.ctypes.data, self.sites.ctypes.data)
        return int(order[ran]) if ran < order.size else None

    def overflowed(self) -> bool:
        """Whether a stack was too small."""
        return bool((self._ends != _UNTOUCHED).any())


_UNTOUCHED = 0x5AFE5AFE5AFE5AFE
