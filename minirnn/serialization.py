"""One safetensors file: weights, configuration, optimizer and random state.

`write_file` and `read_file` keep named arrays and string metadata in the safetensors format
(https://github.com/huggingface/safetensors, section "Format"): eight bytes with the length of the header, a
JSON header that gives each array's dtype, shape and place, then the bytes of the arrays. `save_state` and
`load_state` are what minirnn puts there: groups of arrays, told by the first part of their names
("weights/...", "optimizer/..."), and plain values as JSON in the metadata.

A file is never trusted. Nothing in it is executed, its claims are checked against its true size before
anything is allocated, and the only errors that come out are FormatError (the bytes) and OSError (the disk).
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import reprlib
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import ArgumentError, DtypeError, FormatError
from .version import __version__

Array = npt.NDArray[Any]
Path = str | os.PathLike[str]

FORMAT_VERSION = 1

# Widest items first. Arrays lie in a file in this order, so that each is aligned to its own item size.
_DTYPES = {
    name: np.dtype({"U": "<u", "I": "<i", "F": "<f"}[name[0]] + str(int(name[1:]) // 8))
    for name in ("U64", "I64", "F64", "F32", "U32", "I32", "F16", "U16", "I16", "I8", "U8")
} | {"BOOL": np.dtype("?")}
_METADATA = "__metadata__"

_MAX_DIMENSIONS = 64  # NumPy's own limit
_MAX_BYTES = 2**63 - 1  # of one array, were its empty dimensions 1: NumPy counts in signed 64-bit integers
_MAX_INTEGER_BITS = 2000  # Python refuses to read back some 4300 digits, and can be told to refuse 640
_MAX_HEADER, _HEADER_DEPTH = 100_000_000, 3  # the format's limit in bytes; all arrays, one array, its shape
_MAX_VALUES, _VALUES_DEPTH = 16_000_000, 200  # of "config" and "extra" as JSON

_QUOTE = 2
_MARKS = bytes.maketrans(b'[{]}"', bytes([1, 1, 255, 255, _QUOTE]))  # as signed bytes 1, 1, -1, -1
_UNMARKED = bytes(set(range(256)) - set(b'[{]}"'))

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 80
_short = _shortener.repr  # a file's own text in a message: control characters escaped, cut to size


class _Entry(NamedTuple):
    """Where one array lies in the data that follows the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SavedState(NamedTuple):
    """What `load_state` returns: configuration, groups of arrays by name, and the extra values."""

    config: dict[str, Any]
    groups: dict[str, dict[str, Array]]
    extra: dict[str, Any]


def write_file(path: Path, arrays: Mapping[str, npt.ArrayLike], metadata: Mapping[str, str] | None = None) -> None:
    """Write named arrays and string metadata to one safetensors file, whole or not at all.

    The bytes go to a temporary file in the same folder, to the disk, and only then under `path`. Until then
    a former file stays as it was, and whatever goes wrong (Ctrl-C too) removes the temporary file. A former
    file's permissions are kept; a symbolic link stays a link. Equal arguments give equal bytes.

    Arrays of any shape, byte order and memory layout; dtypes bool, int8 to int64, uint8 to uint64, float16
    to float64. Raises DtypeError for others, ArgumentError for names or metadata that the format cannot hold
    and for a path that is no regular file, OSError from the disk.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(f"{folder}/a.safetensors", {"kernel": np.eye(2)}, {"note": "identity"})
    ...     arrays, metadata = read_file(f"{folder}/a.safetensors")
    >>> arrays["kernel"].tolist(), metadata
    ([[1.0, 0.0], [0.0, 1.0]], {'note': 'identity'})
    """
    values = {name: np.asarray(value) for name, value in arrays.items()}
    entries = _place(values)
    header = _header_bytes(entries, metadata or {})

    def write(file: BinaryIO) -> None:
        file.write(len(header).to_bytes(8, "little") + header)
        for entry in entries:
            plain = np.ascontiguousarray(values[entry.name], dtype=_DTYPES[entry.dtype])
            file.write(plain.reshape(-1).view(np.uint8).data)

    _replace_file(path, write)


def read_file(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Read the arrays and the metadata of a safetensors file that may be damaged or hostile.

    Returns fresh, writable arrays in this machine's byte order, in the order of the file, and the metadata.
    Raises FormatError for anything but a whole and consistent file of the dtypes that `write_file` knows
    (bool items must be 0 or 1), OSError (FileNotFoundError, PermissionError, ...) where it cannot be read.

    >>> read_file(os.devnull)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    minirnn.errors.FormatError: not a regular file
      where: ...
    """
    with _named(path):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would block in open; a folder fails there
            raise FormatError("not a regular file")
        with open(path, "rb") as file:
            return _read_stream(file, os.fstat(file.fileno()).st_size)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors that leave the block name the file; a lack of memory becomes the OSError that callers expect."""
    try:
        yield
    except FormatError as error:
        what, got, expected, fix = error.what, error.got, error.expected, error.fix
        raise FormatError(what, got=got, expected=expected, where=os.fspath(path), fix=fix) from error.__cause__
    except MemoryError as error:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), os.fspath(path)) from error


def _place(values: Mapping[str, Array]) -> list[_Entry]:
    """The arrays in the order of the file, each with its place."""
    names, dtypes = list(_DTYPES), list(_DTYPES.values())
    found = []
    for name, value in values.items():
        dtype = value.dtype.newbyteorder("<")
        if not isinstance(name, str) or name == _METADATA:
            expected = f"a string other than {_METADATA!r}"
            raise ArgumentError("not a name for an array", got=_short(name), expected=expected)
        if dtype not in dtypes:
            expected = ", ".join(known.name for known in dtypes)
            raise DtypeError(f"array {_short(name)} cannot be saved", got=f"dtype {value.dtype}", expected=expected)
        found.append((dtypes.index(dtype), name))
    entries, end = list[_Entry](), 0
    for rank, name in sorted(found):
        begin, end = end, end + values[name].nbytes
        entries.append(_Entry(name, names[rank], values[name].shape, begin, end))
    return entries


def _header_bytes(entries: Iterable[_Entry], metadata: Mapping[str, str]) -> bytes:
    if not all(isinstance(text, str) for item in metadata.items() for text in item):
        raise ArgumentError("metadata must map strings to strings", got=_short(metadata))
    tree: dict[str, object] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    for name, dtype, shape, begin, end in entries:
        tree[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    try:
        header = json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ArgumentError("a name or metadata is no Unicode text", got=error) from error
    header += b" " * (-len(header) % 8)  # the data start at a multiple of 8
    if len(header) > _MAX_HEADER:
        raise ArgumentError("too much metadata", got=f"{len(header)} bytes", expected=f"at most {_MAX_HEADER}")
    return header


def _replace_file(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Call `write(file)` on a temporary file and put that under `path`, whole or not at all."""
    target = os.path.realpath(path)
    former_mode = _former_mode(target)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "no such folder", folder)
    temporary = os.path.join(folder, f".minirnn-{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:  # like any new file, it gets what the umask allows
            if former_mode is not None:
                os.chmod(temporary, former_mode)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:  # KeyboardInterrupt too
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    with contextlib.suppress(OSError):  # the rename itself to disk, where folders can be synchronised
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _former_mode(target: str) -> int | None:
    """The permissions of the file that will be replaced, None if there is none, an error if it must stay."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):  # renaming over /dev/null would take the device away
        raise ArgumentError("only a regular file can be replaced", got=target)
    if not os.access(target, os.W_OK):  # renaming would ignore the write protection
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), target)
    return stat.S_IMODE(mode) & 0o777


def _read_stream(file: BinaryIO, size: int) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a safetensors file of `size` bytes from its start."""
    header = _read_header(file, size)
    tree = _parse_json(header, "the header", _HEADER_DEPTH)
    metadata = _check_metadata(tree.pop(_METADATA, {}))
    entries = sorted((_check_entry(*item) for item in tree.items()), key=lambda entry: (entry.begin, entry.end))
    _check_layout(entries, size - 8 - len(header))
    try:  # JSON can spell lone surrogates, which no other program accepts and no terminal prints
        "".join([*tree, *metadata.keys(), *metadata.values()]).encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("a name or metadata is no Unicode text", got=error) from error
    return {entry.name: _read_array(file, entry) for entry in entries}, metadata


def _read_header(file: BinaryIO, size: int) -> bytes:
    if size < 8:
        raise FormatError("too short for a safetensors file", got=f"{size} bytes")
    length = int.from_bytes(file.read(8), "little")
    limit = min(size - 8, _MAX_HEADER)
    if length > limit:
        what = "the header's length exceeds the file" if limit < _MAX_HEADER else "the header is too long"
        raise FormatError(what, got=f"{length} bytes", expected=f"at most {limit}")
    header = file.read(length)
    if len(header) != length:
        raise FormatError("the file became shorter while it was read")
    if not header.startswith(b"{"):
        raise FormatError("not a safetensors file: its header is no JSON object", got=_short(header[:8]))
    return header


def _parse_json(raw: bytes, what: str, depth: int) -> Any:
    """Strict JSON: no duplicate keys, no NaN, no overflowing number, nesting bounded before the parser recurses."""
    deepest = _json_depth(raw)
    if deepest > depth:
        raise FormatError(f"{what} is nested too deeply", got=f"{deepest} levels", expected=f"at most {depth}")
    try:
        text = raw.decode("utf-8")
        return json.loads(text, object_pairs_hook=_unique_keys, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise FormatError(f"{what} is not acceptable JSON", got=error) from error


def _json_depth(raw: bytes) -> int:
    """How deeply brackets nest outside strings; linear in time and memory, whatever the bytes."""
    without_escapes = raw.replace(rb"\\", b"").replace(rb"\"", b"")
    marks = np.frombuffer(without_escapes.translate(_MARKS, _UNMARKED), np.int8)
    in_string = np.logical_xor.accumulate(marks == _QUOTE)
    steps = np.where(in_string | (marks == _QUOTE), np.int8(0), marks)
    return int(steps.cumsum(dtype=np.int32).max(initial=0))


def _unique_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"key {_short(counts.most_common(1)[0][0])} stands twice in one object")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {_short(text)} is not finite")
    return value


def _check_metadata(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError("the metadata does not map strings to strings", got=_short(metadata))
    return metadata


def _check_entry(name: str, fields: object) -> _Entry:
    """One array of the header; its dtype, shape and place must fit each other."""
    what = f"array {_short(name)}"
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{what} needs exactly dtype, shape and data_offsets", got=_short(fields))
    dtype = fields["dtype"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise FormatError(f"{what} has an unknown dtype", got=_short(dtype), expected=", ".join(_DTYPES))
    shape = _check_counts(fields["shape"], f"the shape of {what}")
    offsets = _check_counts(fields["data_offsets"], f"data_offsets of {what}")
    if len(shape) > _MAX_DIMENSIONS:
        raise FormatError(f"{what} has too many dimensions", got=len(shape), expected=f"at most {_MAX_DIMENSIONS}")
    itemsize = _DTYPES[dtype].itemsize
    if math.prod(max(count, 1) for count in shape) * itemsize > _MAX_BYTES:
        raise FormatError(f"the shape of {what} overflows", got=_short(shape))
    needed = math.prod(shape) * itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != needed:
        got = f"data_offsets {_short(offsets)} for shape {_short(shape)}"
        raise FormatError(f"{what} does not fill its place", got=got, expected=f"{needed} bytes")
    return _Entry(name, dtype, shape, *offsets)


def _check_counts(values: object, what: str) -> tuple[int, ...]:
    # `type` and not `isinstance`: true and false are no counts
    if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
        raise FormatError(f"{what} is no list of non-negative integers", got=_short(values))
    return tuple(values)


def _check_layout(entries: Iterable[_Entry], size: int) -> None:
    """In the order of their places, arrays must fill the data exactly: no gap, no overlap, nothing behind."""
    end = 0
    for entry in entries:
        if entry.begin != end:
            kind = "a gap before" if entry.begin > end else "an overlap at"
            raise FormatError(f"{kind} array {_short(entry.name)}", got=f"offset {_short(entry.begin)}", expected=end)
        end = entry.end
    if end != size:
        what = "bytes after the last array" if end < size else "the file is cut off"
        raise FormatError(what, got=f"{size} bytes of data", expected=f"{end} bytes")


def _read_array(file: BinaryIO, entry: _Entry) -> Array:
    array = np.empty(entry.shape, _DTYPES[entry.dtype])
    raw = array.reshape(-1).view(np.uint8)
    if file.readinto(raw.data) != raw.size:  # type: ignore[attr-defined]
        raise FormatError("the file became shorter while it was read")
    if entry.dtype == "BOOL" and raw.max(initial=0) > 1:
        raise FormatError(f"bool array {_short(entry.name)} holds bytes other than 0 and 1")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def save_state(
    path: Path,
    *,
    config: Mapping[str, Any],
    groups: Mapping[str, Mapping[str, npt.ArrayLike]],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Save a configuration, groups of named arrays and extra plain values as one minirnn file.

    `groups` maps a group's name (without "/") to its arrays: {"weights": {"lstm/kernel": ...}}. `config` and
    `extra` hold None, bools, integers, floats (infinities and NaN too), strings, lists, tuples and dicts, and
    come back equal and with these types; NumPy scalars become Python numbers. Written as `write_file` writes.
    Raises ArgumentError, with its place, for any other value (arrays belong in groups), and what `write_file` raises.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/model.safetensors"
    ...     save_state(path, config={"units": (3, 4)}, groups={"weights": {"w": np.ones(2)}}, extra={"epoch": 5})
    ...     state = load_state(path)
    >>> state.config, state.groups["weights"]["w"].tolist(), state.extra
    ({'units': (3, 4)}, [1.0, 1.0], {'epoch': 5})
    """
    arrays: dict[str, npt.ArrayLike] = {}
    for group, members in groups.items():
        if not isinstance(group, str) or "/" in group:
            raise ArgumentError("not a name for a group", got=_short(group), expected="a string without '/'")
        arrays |= {f"{group}/{name}": value for name, value in members.items()}
    metadata = {
        "format": "minirnn",
        "version": str(FORMAT_VERSION),
        "minirnn": __version__,
        "groups": _dump_values({group: list(members) for group, members in groups.items()}, "groups"),
        "config": _dump_values(config, "config"),
        "extra": _dump_values(extra or {}, "extra"),
    }
    write_file(path, arrays, metadata)


def load_state(path: Path) -> SavedState:
    """Load what `save_state` saved: a named tuple of config, groups and extra.

    Groups and their arrays come back in the order in which they were saved. Raises FormatError for a damaged
    or hostile file, a safetensors file that is not minirnn's, and one of a newer format version; OSError
    where the file cannot be read. Nothing in the file is executed or imported.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(f"{folder}/a.safetensors", {"w": np.ones(2)})
    ...     load_state(f"{folder}/a.safetensors")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    minirnn.errors.FormatError: a safetensors file, but not one that minirnn saved
      got: format None
      expected: format 'minirnn' in its metadata
      where: ...a.safetensors
      fix: read_file gives the arrays of any safetensors file
    """
    arrays, metadata = read_file(path)
    with _named(path):
        _check_version(metadata)
        groups = _split_groups(arrays, _load_values(metadata, "groups"))
        return SavedState(_load_values(metadata, "config"), groups, _load_values(metadata, "extra"))


def _split_groups(arrays: dict[str, Array], names: dict[Any, Any]) -> dict[str, dict[str, Array]]:
    """The arrays by group and name, in the order of `names`, which must name each array once."""
    left, groups = dict(arrays), {}
    try:
        for group, members in names.items():
            groups[group] = {name: left.pop(group + "/" + name) for name in members}
    except (TypeError, KeyError) as error:  # TypeError: not a list, or not of strings
        raise FormatError("the metadata's 'groups' names arrays that are missing", got=_short(names)) from error
    if left:
        raise FormatError("arrays belong to no group", got=_short(list(left)), expected=_short(names))
    return groups


def _check_version(metadata: Mapping[str, str]) -> None:
    kind, version = metadata.get("format"), metadata.get("version", "")
    if kind != "minirnn":
        what, expected = "a safetensors file, but not one that minirnn saved", "format 'minirnn' in its metadata"
        fix = "read_file gives the arrays of any safetensors file"
        raise FormatError(what, got=f"format {_short(kind)}", expected=expected, fix=fix)
    if not re.fullmatch("[1-9][0-9]{0,8}", version):
        raise FormatError("the format's version is no number", got=_short(version))
    if int(version) > FORMAT_VERSION:
        got = f"version {version}, by minirnn {_short(metadata.get('minirnn'))}"
        expected = f"version {FORMAT_VERSION}, which minirnn {__version__} reads"
        raise FormatError("saved in a newer format", got=got, expected=expected, fix="upgrade minirnn")


def _dump_values(values: Mapping[str, Any], what: str) -> str:
    try:
        text = json.dumps(_encode(values, what), allow_nan=False, separators=(",", ":"))
    except RecursionError as error:
        raise ArgumentError(f"{what} contains itself, or is nested too deeply to be saved") from error
    if len(text) > _MAX_VALUES or _json_depth(text.encode()) > _VALUES_DEPTH:
        expected = f"at most {_MAX_VALUES} characters and {_VALUES_DEPTH} levels as JSON"
        raise ArgumentError(f"{what} is too large to be saved", expected=expected)
    return text


def _load_values(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    what, text = f"the metadata's {key!r}", metadata.get(key, "")
    if len(text) > _MAX_VALUES:
        raise FormatError(f"{what} is too long", got=f"{len(text)} characters", expected=f"at most {_MAX_VALUES}")
    tree = _parse_json(text.encode("utf-8"), what, _VALUES_DEPTH)
    try:
        values = _decode(tree)
    except (TypeError, ValueError, RecursionError) as error:  # TypeError: a list as a key
        raise FormatError(f"{what} holds something unknown", got=error) from error
    if not isinstance(values, dict):
        raise FormatError(f"{what} is no JSON object", got=_short(values))
    return values


# What JSON lacks is an object with one key, the tag. A dict that looks like such an object, or has keys that
# are not strings, is the list of its items under the third tag.
_TUPLE, _FLOAT, _DICT = _TAGS = ("__tuple__", "__float__", "__dict__")


def _encode(value: Any, place: str) -> Any:
    """Plain values as JSON can hold them. Tuples of a subclass are refused: they would come back as mere tuples."""
    if isinstance(value, np.generic) and value.dtype.newbyteorder("<") in _DTYPES.values():
        value = value.item()
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and value.bit_length() <= _MAX_INTEGER_BITS:
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: str(float(value))}
    if isinstance(value, list):
        return [_encode(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if type(value) is tuple:
        return {_TUPLE: _encode(list(value), place)}
    if isinstance(value, Mapping):
        items = [(_encode(key, f"a key of {place}"), _encode(item, f"{place}[{key!r}]")) for key, item in value.items()]
        plain = all(isinstance(key, str) for key in value) and not (len(value) == 1 and set(value) <= set(_TAGS))
        return dict(items) if plain else {_DICT: items}
    expected = "None, bool, int, float, str, list, tuple or dict"
    raise ArgumentError(f"{place} cannot be saved", got=_short(value), expected=expected)


def _decode(value: Any) -> Any:
    """The inverse of `_encode`."""
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag, content = next(iter(value.items())) if len(value) == 1 else ("", None)
    if tag == _TUPLE and isinstance(content, list):
        return tuple(_decode(content))
    if tag == _FLOAT and content in ("inf", "-inf", "nan"):
        return float(content)
    if tag == _DICT and isinstance(content, list) and all(isinstance(p, list) and len(p) == 2 for p in content):
        return _unique_keys([(_decode(key), _decode(item)) for key, item in content])
    if tag in _TAGS:
        raise ValueError(f"{tag} with {_short(content)}")
    return {key: _decode(item) for key, item in value.items()}
