"""From the LLVM IR that libNVVM would get to a function of the host, each access of which is checked.

Only what names the machine is changed: the target's name, the special registers, barriers, and shared memory,
which becomes an array of the host.  What a device would do in a way of its own (approximate functions, inline
assembly) is refused, not imitated.  After variables have become registers, a call of `checked` is put before
each load and store.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import llvmlite.binding as llvm

from minirnn.kernels.cuda.target import Compiled

from .fibers import Kind, Reason, State, native, pointer_to

_REGISTERS = {  # threads stand in one row, blocks in a plane
    "tid.x": "sub i64 FIBER, FIRST_FIBER", "ctaid.x": "BLOCK_X", "ctaid.y": "BLOCK_Y",
    "ntid.x": "THREADS", "nctaid.x": "BLOCKS_X", "nctaid.y": "BLOCKS_Y",
    "tid.y": "0", "tid.z": "0", "ctaid.z": "0", "ntid.y": "1", "ntid.z": "1", "nctaid.z": "1",
}  # fmt: skip
_BYTES = {"float": 4, "double": 8, "ptr": 8, "half": 2}
# libdevice's functions whose result is one number only, by definition: the host's own is the same
_EXACT = {"fma", "sqrt", "fabs", "floor", "ceil", "trunc", "rint", "copysign"}


class HostCode(NamedTuple):
    """A kernel as a function of the host without arguments, which stand in `arguments`."""

    address: int
    arguments: int  # address of its arguments, each 64 bits
    shared: list[tuple[str, int, int, int]]  # static and dynamic shared memory: name, address, bytes, element's bytes
    constants: list[tuple[int, int]]  # address and bytes of the module's constant tables
    barriers: int  # of blocks and of the grid, as numbered in the order of the text
    engine: Any  # owns the code


def host_code(compiled: Compiled, dynamic_shared: int = 0) -> HostCode:
    """The kernel on the host."""
    shared: dict[str, tuple[int, int, int]] = {}
    count = [0]
    modules = [llvm.parse_assembly(_retargeted(text, shared, dynamic_shared, count)) for text in compiled.modules]
    whole, *others = modules
    for module in others:
        whole.link_in(module)
    whole.link_in(llvm.parse_assembly(_surroundings(compiled, dynamic_shared)))
    for each in whole.functions:
        if not each.is_declaration and each.name != "host.entry":
            each.linkage = "internal"
    whole.verify()
    machine = native().machine()
    _simplify(whole, machine)
    text, constants = _instrumented(str(whole))
    module = llvm.parse_assembly(text)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    address = engine.get_global_value_address
    kept = {v.name for v in module.global_variables}
    return HostCode(
        engine.get_function_address("host.entry"),
        address("host.arguments"),
        [
            (name, address(f"{name}.room") + skipped, size, unit)
            for name, (size, unit, skipped) in shared.items()
            if f"{name}.room" in kept
        ],
        [(address(name), size) for name, size in constants],
        count[0],
        engine,
    )


def _simplify(module: Any, machine: Any) -> None:
    """Variables into registers, and little more: other passes may read what the kernel does not (two neighbours)."""
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_simplify_cfg_pass()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))


# before it is simplified --------------------------------------------------------------------------
def _retargeted(text: str, shared: dict[str, tuple[int, int, int]], dynamic_shared: int, count: list[int]) -> str:
    """A module's text for the host."""
    text = re.sub(r"^target (triple|datalayout) = .*$", "", text, flags=re.M)
    text = re.sub(r'^@"?llvm\.used"? = .*$|^!nvvm\S* = .*$|^!\d+ = !\{ void \(.*$', "", text, flags=re.M)
    text = text.replace('asm sideeffect "mov.u32 $0, %dynamic_smem_size;", "=r"', '@"host.dynamic"')
    if '@"host.dynamic"' in text:
        text += '\ndeclare i32 @"host.dynamic"()\n'
    if assembly := re.search(r'\basm\s+(?:sideeffect\s+)?"[^"]*"', text):
        raise NotImplementedError(f"a kernel has inline assembly, which the host can't run: {assembly[0]}")

    lengths: list[int] = []

    def place(match: re.Match[str]) -> str:
        name, elements, element = match[1], int(match[2]), match[3]
        unit = _size(element)
        size = elements * unit
        if not size:
            if 0 in lengths:
                raise NotImplementedError("a kernel has two dynamic arrays in shared memory: they would be one")
            size = dynamic_shared
        lengths.append(elements)
        skipped = int(match[4]) % 64  # so it is no better aligned than the module asks for
        shared[name] = size, unit, skipped
        room = f'@"{name}.room" = global [{skipped + max(size, 1)} x i8] zeroinitializer, align 64'
        return f'{room}\n@"{name}" = alias i8, i8* getelementptr (i8, i8* @"{name}.room", i64 {skipped})'

    # an address space less: shared memory is an ordinary array
    pattern = r'^@"?([\w.$]+)"? = (?:external |internal )?addrspace\(3\) global \[(\d+) x (\w+)\].* align (\d+)$'
    text = re.sub(pattern, place, text, flags=re.M)
    text = re.sub(r" addrspace\(\d\)", "", text).replace("addrspacecast", "bitcast")

    def numbered(match: re.Match[str]) -> str:
        count[0] += 1
        if match["block"]:
            return f'call void @"host.barrier"(i64 {count[0]})'
        return f"  store i64 {count[0]}, ptr {pointer_to(State.GRID_SITE)}\n{match[0]}"

    barrier = r'(?P<block>call void @"?llvm\.nvvm\.barrier0"?\(\))|^  \S+ = call i32 @"\w*grid_group_sync\w*"\(.*$'
    text = re.sub(barrier, numbered, text, flags=re.M)
    text = re.sub(r'^declare void @"?llvm\.nvvm\.barrier0"?\(\)', 'declare void @"host.barrier"(i64)', text, flags=re.M)
    text = re.sub(r"llvm\.nvvm\.read\.ptx\.sreg\.", "host.register.", text)
    text = re.sub(r"__nv_(\w+?)(f?)\b(?=\"?\()", _exact_function, text)
    if left := re.search(r"llvm\.nvvm\.[\w.]+", text):
        raise NotImplementedError(f"a kernel calls {left[0]}, which the host executor does not know")
    return text


def _exact_function(match: re.Match[str]) -> str:
    name, kind = match[1], "f32" if match[2] else "f64"
    if name not in _EXACT:
        raise NotImplementedError(f"a kernel calls {match[0]}: a device's libdevice may give other bits than the host")
    return f"llvm.{name}.{kind}"


def _size(kind: str) -> int:
    """Bytes of a number of this LLVM type."""
    if vector := re.fullmatch(r"[<\[](\d+) x (\w+)[>\]]", kind):
        return int(vector[1]) * _size(vector[2])
    if kind in _BYTES:
        return _BYTES[kind]
    if re.fullmatch(r"i\d+", kind):
        return max(1, int(kind[1:]) // 8)
    raise NotImplementedError(f"a kernel has {kind} in memory, whose size the host executor does not know")


def _surroundings(compiled: Compiled, dynamic_shared: int) -> str:
    """What a kernel calls, and an entry that takes its arguments from memory."""
    native_code = native()
    lines = []
    for name, what in _REGISTERS.items():
        lines.append(f'define i32 @"host.register.{name}"() alwaysinline {{')
        values = []
        for n, word in enumerate(re.findall(r"[A-Z_]{2,}", what)):
            lines.append(f"  %v{n} = load i64, ptr {pointer_to(State[word])}")
            values.append(f"%v{n}")
        if len(values) == 2:
            lines.append(f"  %v = sub i64 {values[0]}, {values[1]}")
        value = what if not values else "%v0" if len(values) == 1 else "%v"
        lines += [f"  %r = trunc i64 {value} to i32", "  ret i32 %r", "}"]
    lines += [
        'define void @"host.barrier"(i64 %site) alwaysinline {',
        f"  call void {native_code.barrier}(i64 {int(Reason.BLOCK_BARRIER)}, i64 %site)", "  ret void", "}",
        'define i32 @"host.dynamic"() alwaysinline {', f"  ret i32 {dynamic_shared}", "}",
        "define i64 @cudaCGGetIntrinsicHandle(i32 %scope) alwaysinline {", "  ret i64 1", "}",
        "define i32 @cudaCGSynchronize(i64 %group, i32 %flags) alwaysinline {",
        f"  %site = load i64, ptr {pointer_to(State.GRID_SITE)}",
        f"  call void {native_code.barrier}(i64 {int(Reason.GRID_BARRIER)}, i64 %site)", "  ret i32 0", "}",
    ]  # fmt: skip
    kinds: list[str] = []
    for kind in compiled.argument_types:
        if str(kind) == "int64":
            kinds.append("i64")
        elif hasattr(kind, "ndim"):  # owner, parent, size, bytes of an element, data, shape, strides
            kinds += ["ptr", "ptr", "i64", "i64", "ptr", *["i64"] * (2 * kind.ndim)]
        else:
            raise NotImplementedError(f"a kernel has an argument of type {kind}: int64 and arrays are known")
    name = f'@"{compiled.symbol}"'
    lines.append(f"declare void {name}({', '.join(kinds)})")
    lines.append(f'@"host.arguments" = global [{max(1, len(kinds))} x i64] zeroinitializer')
    lines.append('define void @"host.entry"() {')
    for n, kind in enumerate(kinds):
        lines.append(f'  %p{n} = getelementptr i64, ptr @"host.arguments", i64 {n}')
        lines.append(f"  %a{n} = load {kind}, ptr %p{n}")
    arguments = ", ".join(f"{kind} %a{n}" for n, kind in enumerate(kinds))
    lines += [f"  call void {name}({arguments})", "  ret void", "}"]
    return "\n".join(lines)


# after that ---------------------------------------------------------------------------------------
_LOAD = re.compile(
    r"^  (?:%\S+) = load (?:volatile |atomic )*(?P<kind>.+?), ptr (?P<at>.+?)(?:, align|, !|$| monotonic| seq_cst)"
)
_STORE = re.compile(
    r"^  store (?:volatile |atomic )*(?P<kind>[<\[].+?[>\]]|\S+) .+, ptr (?P<at>[^,]+(?:\(.*?\))?)(?:, align|, !|$)"
)
_ATOMIC = re.compile(r"^  (?:%\S+) = (?:atomicrmw|cmpxchg) .*?ptr (?P<at>[^,]+), (?P<kind>\S+) ")
_MOVE = re.compile(r"^  (?:tail )?call void @llvm\.mem(?P<what>set|cpy|move)\.\S+?\((?P<arguments>.*)\)")
_CONSTANT = re.compile(r'^@(?P<name>"[^"]+"|\S+) = .*?constant (?P<kind>\[\d+ x \w+\]|\w+) ', re.M)


def _instrumented(text: str) -> tuple[str, list[tuple[str, int]]]:
    """The text with a check before each access to memory that is no thread's own; and its tables of constants."""
    lines = []
    own: set[str] = set()
    for line in text.splitlines():
        if found := re.match(r"^  (%\S+) = alloca ", line):
            own.add(found[1])
        elif line.startswith("define "):
            own.clear()
        lines += _checks(line, own)
        lines.append(line)
    constants = []
    text = "\n".join(lines)
    for found in _CONSTANT.finditer(text):
        constants.append((found["name"].strip('"'), _size(found["kind"])))
    return text, constants


def _checks(line: str, own: set[str]) -> list[str]:
    """The calls that have to stand before a line."""
    if "@host.arguments" in line or "inttoptr (i64" in line and " call " not in line:
        return []  # the executor's own state
    for pattern, kind in ((_LOAD, Kind.READ), (_STORE, Kind.WRITE), (_ATOMIC, Kind.ATOMIC)):
        if found := pattern.match(line):
            size = _size(found["kind"])
            return _check(found["at"], size, size, kind, own)
    if found := _MOVE.match(line):
        operands = [operand.split(" ")[-1] for operand in found["arguments"].split(", ")]
        checks = _check(operands[0], operands[2], 1, Kind.WRITE, own)
        if found["what"] != "set":
            checks += _check(operands[1], operands[2], 1, Kind.READ, own)
        return checks
    if re.match(r"^  (%\S+ = )?(load|store|atomicrmw|cmpxchg) ", line):
        raise NotImplementedError(f"the host executor does not understand {line.strip()!r}")
    return []


_checks_made = 0


def _check(pointer: str, size: int | str, alignment: int, kind: Kind, own: set[str]) -> list[str]:
    global _checks_made
    if pointer in own:
        return []
    _checks_made += 1
    address = f"%host.address.{_checks_made}"
    return [
        f"  {address} = ptrtoint ptr {pointer} to i64",
        f"  call void {native().checked}(i64 {address}, i64 {size}, i64 {alignment}, i64 {int(kind)})",
    ]
