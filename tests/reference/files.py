"""Files for the tests of serialization: arrays of every kind, hostile bytes, and what reading them may do."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minirnn import serialization
from minirnn.errors import FormatError

DTYPES = ["bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))]
DTYPES += ["float16", "float32", "float64"]
SHAPES = {"0-d": (), "none": (0,), "one": (1,), "five": (5,), "2-d": (2, 3), "empty": (4, 0, 3), "4-d": (2, 3, 1, 5)}
NAMES = ["", "kernel", "lstm/kernel:0", "Gewicht é", "层", "\U0001f600", 'a "quoted"\\ name', "new\nline\x00", "\x7f"]

Reader = Callable[[bytes], Any]

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
TREES = st.recursive(SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3))


def random_array(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Any bit pattern of the dtype, NaN payloads and infinities among them."""
    raw = np.random.default_rng(seed).bytes(math.prod(shape) * np.dtype(dtype).itemsize)
    if dtype == "bool":
        return (np.frombuffer(raw, np.uint8) & 1).astype(bool).reshape(shape)
    return np.frombuffer(raw, dtype).reshape(shape)


def assert_same(got: np.ndarray, wanted: np.ndarray) -> None:
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    assert got.tobytes() == wanted.tobytes()


def file_bytes(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def read_bytes(raw: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return serialization._read_stream(io.BytesIO(raw), len(raw))


def is_refused(raw: bytes, read: Reader = read_bytes) -> bool:
    """Whether `read` raises FormatError; any other exception comes out, as it must never do."""
    try:
        read(raw)
    except FormatError:
        return True
    return False


def small_file() -> bytes:
    """About 200 bytes with everything that a header can hold."""
    arrays = {"w": np.float32([1.5, -2]), "é": np.array([[True], [False]]), "n": np.array(7, np.int16)}
    entries = serialization._place(arrays)
    header = serialization._header_bytes(entries, {"k": 'v"'})
    return file_bytes(header, b"".join(arrays[entry.name].tobytes() for entry in entries))


def mutants(raw: bytes) -> Iterator[bytes]:
    """Every change of a single byte."""
    for place, byte in enumerate(raw):
        for other in range(256):
            if other != byte:
                yield raw[:place] + bytes([other]) + raw[place + 1 :]


HUGE = 2**64 - 1


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


DATA = bytes(range(8))
DEEP = 100_000
HOSTILE = {
    "empty": b"",
    "length cut off": b"\x02\0\0\0\0\0\0",
    "header beyond the file": (3).to_bytes(8, "little") + b"{}",
    "huge header": HUGE.to_bytes(8, "little") + b"{}",
    "empty header": file_bytes(b""),
    "list as header": file_bytes(b"[]"),
    "space before header": file_bytes(b" {}"),
    "byte order mark": file_bytes(b"\xef\xbb\xbf{}"),
    "utf-16": file_bytes("{}".encode("utf-16")),
    "not utf-8": file_bytes(b'{"\xff": 1}'),
    "zeros after header": file_bytes(b"{}\0\0"),
    "two objects": file_bytes(b"{}{}"),
    "deep list": file_bytes(b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "deep object": file_bytes(b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "open brackets": file_bytes(b"{" * DEEP),
    "open string of escapes": file_bytes(b'{"' + rb"\"" * DEEP),
    "long integer": file_bytes(b'{"a":{"dtype":"F32","shape":[' + b"1" * DEEP + b'],"data_offsets":[0,8]}}', DATA),
    "NaN": file_bytes(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', DATA),
    "same name twice": file_bytes(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), DATA),
    "same key twice": file_bytes(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', DATA),
    "metadata twice": file_bytes(b'{"__metadata__":{"a":"1"},"__metadata__":{}}'),
    "metadata key twice": file_bytes(b'{"__metadata__":{"a":"1","a":"2"}}'),
    "metadata list": file_bytes({"__metadata__": ["a"]}),
    "metadata null": file_bytes({"__metadata__": None}),
    "metadata number": file_bytes({"__metadata__": {"a": 1}}),
    "metadata surrogate": file_bytes({"__metadata__": {"a": "\ud800"}}),
    "name surrogate": file_bytes({"\udc00": entry()}, DATA),
    "entry is a list": file_bytes({"a": ["F32", [2], [0, 8]]}, DATA),
    "no shape": file_bytes({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, DATA),
    "unknown field": file_bytes({"a": entry() | {"order": "F"}}, DATA),
    "unknown dtype": file_bytes({"a": entry("F128", [], [0, 8])}, DATA),
    "dtype in small letters": file_bytes({"a": entry("f32")}, DATA),
    "dtype is a list": file_bytes({"a": entry(["F32"])}, DATA),
    "negative dimension": file_bytes({"a": entry(shape=[-2])}, DATA),
    "fraction as dimension": file_bytes({"a": entry(shape=[2.0])}, DATA),
    "true as dimension": file_bytes({"a": entry(shape=[2, True])}, DATA),
    "number as shape": file_bytes({"a": entry(shape=2)}, DATA),
    "shape wraps to 8 bytes": file_bytes({"a": entry("U8", [HUGE, HUGE, 8])}, DATA),
    "huge shape": file_bytes({"a": entry(shape=[2**60])}, DATA),
    "huge shape and offset": file_bytes({"a": entry(shape=[2**50], offsets=[0, 2**52])}, DATA),
    "empty overflowing shape": file_bytes({"a": entry(shape=[0, HUGE, HUGE], offsets=[0, 0])}),
    "too many dimensions": file_bytes({"a": entry(shape=[1] * 65 + [2])}, DATA),
    "three offsets": file_bytes({"a": entry(offsets=[0, 8, 8])}, DATA),
    "no offsets": file_bytes({"a": entry(offsets=[])}, DATA),
    "offsets swapped": file_bytes({"a": entry(offsets=[8, 0])}, DATA),
    "negative offsets": file_bytes({"a": entry(offsets=[-8, 0])}, DATA),
    "offsets as text": file_bytes({"a": entry(offsets="08")}, DATA),
    "range too short": file_bytes({"a": entry(offsets=[0, 4])}, DATA[:4]),
    "gap in front": file_bytes({"a": entry(offsets=[4, 12])}, DATA + DATA[:4]),
    "gap between": file_bytes({"a": entry(), "b": entry(offsets=[12, 20])}, DATA * 2 + DATA[:4]),
    "overlap": file_bytes({"a": entry(), "b": entry(offsets=[4, 12])}, DATA + DATA[:4]),
    "same place": file_bytes({"a": entry(), "b": entry()}, DATA),
    "trailing byte": file_bytes({"a": entry()}, DATA + b"\0"),
    "data without arrays": file_bytes({}, b"\0"),
    "data cut off": file_bytes({"a": entry()}, DATA[:-1]),
    "bool of 2": file_bytes({"a": entry("BOOL", [2], [0, 2])}, b"\1\2"),
}
