"""A team: threads that help one kernel with its products, each with columns of its own.

A recurrent kernel that outgrows a core's cache comes from far away at every step, and a single row leaves nothing
else to share out.  So one thread runs the time loop alone; where it comes to a product, it writes down which one
and takes the first share of the columns; its helpers look out for products, and each takes the share that is its
own at every step.  Its part of the weights stays in the cache of its core.

Nobody waits for a helper to come: a share that none has claimed when the first thread is through with its own
becomes its own, too.  So helpers may come late, leave, or be held up between products.  A number counts the
products; whoever changes a share's claim from the last number to this one computes it.  Only a helper whose core
goes to another process while it computes is waited for, some milliseconds, and after that the kernel goes on alone.

What they write to one another stands in a few int64, on cache lines by who writes: the product's number (-1: there
will be no more), the number of shares, the multiply-adds below which a product is not shared; the product's
operands, and how many in turn no helper came for; for each share its claim and what is done.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .build import library_function
from .pointers import int64_at
from .tile import move
from .waiting import number_at, rest

_NUMBER, _SHARES, _LEAST, _OPERANDS, _MISSED, _CLAIMS = 0, 1, 2, 8, 20, 24
_LINE = 8  # int64 on a cache line
_DONE = 1  # after a share's claim
OVER = -1
# Looks at memory, some 2 ns each, after which a thread lets others have its core: the one it waits for may be there.
_PATIENCE = 4_000
# Looks for a share that a helper has claimed after which its core is plainly taken: 2 ms, because the first share comes
# from far away and may take 0.2.
_TOO_MANY_LOOKS = 1_000_000
# Products in turn without a helper after which only one in some steps is shared, lest a helper come late.
_TOO_MANY_MISSED, _SELDOM = 32, 16
_NOTHING_IS_SHARED = 2**62  # multiply-adds


class Team:
    """The memory of a team: `address` is what its kernel is given."""

    def __init__(self, shares: int, least: int) -> None:
        size = _CLAIMS + shares * _LINE
        self.memory = np.zeros(size + _LINE, np.int64)
        start = -self.memory.ctypes.data // 8 % _LINE
        self.memory = self.memory[start : start + size]
        self.memory[_SHARES], self.memory[_LEAST] = shares, least
        self.address = self.memory.ctypes.data

    @property
    def held_up(self) -> bool:
        """Whether helpers had no core: one was away with a share that it had claimed, or none came in the end."""
        return bool(self.memory[_LEAST] == _NOTHING_IS_SHARED or self.memory[_MISSED] > _TOO_MANY_MISSED)

    def leave(self) -> None:
        """Tell the helpers that there will be no more products."""
        self.memory[_NUMBER] = OVER


# for compiled functions: atomic, and in order with what is read and written around it --------------------
@intrinsic
def tell(typing: Any, address: Any, number: Any) -> Any:
    """Set the int64 at an address, after all that was written before."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store_atomic(args[1], builder.inttoptr(args[0], args[0].type.as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def claim(typing: Any, address: Any, before: Any, after: Any) -> Any:
    """Change the int64 at an address from `before` to `after`, and say whether it was `before`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], args[0].type.as_pointer())
        made = builder.cmpxchg(pointer, args[1], args[2], "acq_rel", "acquire")
        return builder.extract_value(made, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def give_way(typing: Any) -> Any:
    """Let another thread have this core, where the system has a function for it that is called so."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if binding.address_of_symbol("sched_yield"):
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def address_of(typing: Any, pointer: Any) -> Any:
    """A pointer as an integer."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(pointer), codegen


@intrinsic
def pointer_like(typing: Any, example: Any, address: Any) -> Any:
    """An integer as a pointer to what `example` points to."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[1], args[0].type)

    return example(example, types.int64), codegen


# products ----------------------------------------------------------------------------------------
@library_function
def post(
    team: int, a: Any, a_row: int, a_step: int, panels: Any, out: Any, out_row: int, rows: int, inner: int,
    columns: int, turn: int,
) -> int:  # fmt: skip
    """Write down the next product for the helpers to see; its number, 0 if it is too small for them or none comes.

    Shares that one thread computes in turn fit its cache worse than the whole: 100 steps took 17 ms so, 12 alone.
    """
    memory = int64_at(team)
    is_alone = memory[_MISSED] > _TOO_MANY_MISSED and turn % _SELDOM != 0
    if is_alone or rows * inner * columns < memory[_LEAST]:
        return 0
    number, operands = memory[_NUMBER] + 1, move(memory, _OPERANDS)
    operands[0], operands[1], operands[2] = address_of(a), address_of(panels), address_of(out)
    operands[3], operands[4], operands[5], operands[6] = a_row, a_step, out_row, rows
    operands[7], operands[8], operands[9] = inner, columns, turn
    tell(team, number)
    return number


@library_function
def operands_of(team: int, like: Any) -> Any:
    """The operands of the product that a team is at, as they were written down."""
    given = move(int64_at(team), _OPERANDS)
    a, panels, out = pointer_like(like, given[0]), pointer_like(like, given[1]), pointer_like(like, given[2])
    return a, given[3], given[4], panels, out, given[5], given[6], given[7], given[8], given[9]


@library_function
def shares_of(team: int) -> int:
    """How many shares of columns there are."""
    return int64_at(team)[_SHARES]


@library_function
def claim_share(team: int, share: int, number: int) -> bool:
    """Whether nobody else computes this share of the product of this number, and from now on the caller does."""
    return claim(team + 8 * (_CLAIMS + share * _LINE), number - 1, number)


@library_function
def take_over(team: int, share: int, number: int) -> bool:
    """`claim_share` by the thread that runs the loop, which counts for how long it has missed its helpers."""
    memory = int64_at(team)
    is_missed = claim_share(team, share, number)
    memory[_MISSED] = memory[_MISSED] + 1 if is_missed else 0
    return is_missed


@library_function
def finish_share(team: int, share: int, number: int) -> None:
    """Tell that a share has been computed."""
    tell(team + 8 * (_CLAIMS + share * _LINE + _DONE), number)


@library_function
def await_share(team: int, share: int, number: int) -> None:
    """Wait until a share that a helper has claimed has been computed; if that takes long, nothing more is shared."""
    looks = 0
    while number_at(team + 8 * (_CLAIMS + share * _LINE + _DONE)) != number:
        looks = look_again(looks)
    if looks > _TOO_MANY_LOOKS:
        int64_at(team)[_LEAST] = _NOTHING_IS_SHARED


@library_function
def look_again(looks: int) -> int:
    """One look more at memory; how many it makes.

    A short rest at times leaves something to the core's other thread.  Resting each time, a thread is seen to be
    idle by what runs a virtual machine, which takes its core away for microseconds: 1.3 ms became 1.1 so.
    """
    if looks % 64 == 63:
        rest()
    if looks % _PATIENCE == _PATIENCE - 1:
        give_way()
    return looks + 1
