"""Whatever the bytes of a file: it is read, or FormatError comes out and nothing else."""

from __future__ import annotations

import io
import json
import os
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn import serialization
from minirnn.errors import ArgumentError, FormatError
from minirnn.serialization import read_file, write_file
from tests.reference.files import (
    DATA,
    HOSTILE,
    SCALARS,
    TREES,
    assert_same,
    entry,
    file_bytes,
    is_refused,
    mutants,
    read_bytes,
    small_file,
)

POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions, pipes and links are those of POSIX")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_and_named(path: Path, case: str) -> None:
    path.write_bytes(HOSTILE[case])
    with pytest.raises(FormatError) as caught:
        read_file(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_their_harmless_neighbours_are_read() -> None:
    arrays, metadata = read_bytes(
        file_bytes({"b": entry(offsets=[8, 16]), "__metadata__": {"[": "{"}, "a": entry()}, DATA * 2)
    )
    assert list(arrays) == ["a", "b"] and metadata == {"[": "{"}
    assert_same(arrays["b"], np.frombuffer(DATA, "f4"))
    nothing = {"a": entry(shape=[0, 2**40], offsets=[0, 0]), "b": entry("U8", [1] * 64, [0, 1])}
    assert read_bytes(file_bytes(nothing, b"\7"))[0]["a"].shape == (0, 2**40)


@pytest.mark.parametrize(
    ("check", "without", "cases"),
    [
        ("_check_layout", lambda entries, size: None, ["gap in front", "gap between", "overlap", "trailing byte"]),
        ("_unique_keys", dict, ["same name twice", "same key twice", "metadata twice"]),
        ("_json_depth", lambda raw: 0, ["deep list"]),
        ("_check_counts", lambda values, what: tuple(values), ["fraction as dimension", "true as dimension"]),
        ("_MAX_BYTES", 2**999, ["empty overflowing shape"]),
    ],
)
def test_a_check_left_out_is_noticed(
    monkeypatch: pytest.MonkeyPatch, check: str, without: Any, cases: list[str]
) -> None:
    outcomes = [outcome(HOSTILE[case]) for case in cases]
    monkeypatch.setattr(serialization, check, without)
    for case, former in zip(cases, outcomes):
        assert outcome(HOSTILE[case]) != former


def outcome(raw: bytes) -> str:
    try:
        read_bytes(raw)
    except Exception as error:
        return getattr(error, "what", type(error).__name__)
    return "read"


def test_every_change_of_one_byte_is_read_or_refused() -> None:
    raw = small_file()
    refused = [is_refused(mutant) for mutant in mutants(raw)]
    assert 0 < sum(refused) < len(refused)
    assert all(refused[: 8 * 255])  # no other length of the header is right


def test_every_truncation_and_extension_is_refused() -> None:
    raw = small_file()
    assert not is_refused(raw)
    for length in range(len(raw)):
        assert is_refused(raw[:length])
    assert is_refused(raw + b"\0") and is_refused(raw + raw)


@given(st.one_of(st.binary(), st.binary().map(file_bytes), st.binary().map(lambda raw: file_bytes(b"{" + raw + b"}"))))
def test_random_bytes_are_read_or_refused(raw: bytes) -> None:
    is_refused(raw)


COUNTS = st.sampled_from([0, 1, 2, 3, 4, 8, -1, 2**31, 2**62, 2**63, 2**64])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "BOOL", "F32", "F64", "F8_E4M3"]) | SCALARS,
        "shape": st.lists(COUNTS, max_size=4) | TREES,
        "data_offsets": st.lists(COUNTS, min_size=2, max_size=2) | TREES,
    }
)


@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRIES | TREES), st.binary(max_size=16))
def test_random_headers_are_read_or_refused(header: dict[str, Any], data: bytes) -> None:
    is_refused(file_bytes(header, data))


def test_a_trusting_reader_would_fail_these_tests() -> None:
    def trusting(raw: bytes) -> None:
        length = int.from_bytes(raw[:8], "little")
        for item in json.loads(raw[8 : 8 + length]).values():
            begin, end = item["data_offsets"]
            np.frombuffer(raw[8 + length :][begin:end], "f4").reshape(item["shape"])

    failures = 0
    for raw in HOSTILE.values():
        try:
            failures += not is_refused(raw, trusting)
        except Exception:
            failures += 1
    assert failures == len(HOSTILE)


@given(TREES)
def test_depth_is_that_of_the_brackets_outside_strings(tree: Any) -> None:
    def depth(value: Any) -> int:
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if children is None else 1 + max(map(depth, children), default=0)

    assert serialization._json_depth(json.dumps(tree).encode()) == depth(tree)
    quoted = json.dumps({json.dumps(tree): "[{" + "\\" * 3})
    assert serialization._json_depth(quoted.encode()) == 1


@pytest.mark.parametrize("case", ["huge header", "huge shape", "huge shape and offset", "empty overflowing shape"])
def test_no_memory_is_taken_for_mere_claims(case: str) -> None:
    tracemalloc.start()
    try:
        assert is_refused(HOSTILE[case])
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_missing_unreadable_and_shrinking_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        read_file(path)
    with pytest.raises(OSError):  # IsADirectoryError, on Windows PermissionError
        read_file(path.parent)
    raw = small_file()
    for length in range(8, len(raw)):
        with pytest.raises(FormatError, match="shorter"):
            serialization._read_stream(io.BytesIO(raw[:length]), len(raw))

    def no_memory(*_: object) -> np.ndarray:
        raise MemoryError

    path.write_bytes(raw)
    monkeypatch.setattr(np, "empty", no_memory)
    with pytest.raises(OSError, match="memory"):
        read_file(path)


@POSIX
def test_pipes_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(FormatError, match="not a regular file"):
            read_file(special)
        with pytest.raises(ArgumentError, match="only a regular file"):
            write_file(special, {})
    with pytest.raises(ArgumentError, match="only a regular file"):
        write_file(tmp_path, {})
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode) and os.listdir(tmp_path) == ["pipe"]


@given(
    st.text()
    | TREES.map(json.dumps)
    | st.sampled_from(["__tuple__", "__float__", "__dict__"]).flatmap(
        lambda tag: TREES.map(lambda tree: json.dumps({"a": {tag: tree}}))
    )
)
def test_random_values_are_read_or_refused(text: str) -> None:
    is_refused(text.encode("utf-8", "replace"), lambda raw: serialization._load_values({"a": raw.decode()}, "a"))
