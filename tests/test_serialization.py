"""What is saved comes back, and a failed save changes nothing."""

from __future__ import annotations

import builtins
import collections
import io
import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn import serialization
from minirnn.errors import ArgumentError, DtypeError, FormatError
from minirnn.serialization import load_state, read_file, save_state, write_file
from tests.reference.files import (
    DTYPES,
    NAMES,
    SCALARS,
    SHAPES,
    assert_same,
    file_bytes,
    random_array,
    read_bytes,
)

POSIX = pytest.mark.skipif(os.name != "posix", reason="permissions, pipes and links are those of POSIX")

Writer = Callable[[Path, dict[str, np.ndarray]], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_back_bit_for_bit(path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    wanted = random_array(dtype, shape)
    write_file(path, {"a": wanted})
    arrays, metadata = read_file(path)
    assert_same(arrays["a"], wanted)
    assert arrays["a"].flags.writeable and arrays["a"].flags.aligned and metadata == {}


@pytest.mark.parametrize("dtype", ["bool", "int16", "float32", "float64"])
def test_memory_layout_and_byte_order_do_not_matter(path: Path, dtype: str) -> None:
    base = random_array(dtype, (4, 6, 5))
    read_only = base.copy()
    read_only.flags.writeable = False
    layouts = {
        "transposed": base.T,
        "fortran": np.asfortranarray(base),
        "strided": base[::2, 1:5:3],
        "reversed": base[::-1, :, ::-1],
        "broadcast": np.broadcast_to(base[0, 0], (3, 5)),
        "0-d": base[1, 2, 3],
        "read-only": read_only,
        "big-endian": base.astype(base.dtype.newbyteorder(">")),
    }
    write_file(path, layouts)
    for name, array in read_file(path)[0].items():
        assert array.dtype.isnative
        assert_same(array, np.ascontiguousarray(layouts[name], base.dtype).reshape(layouts[name].shape))


TEXTS = st.text(st.characters(codec="utf-8"))
ARRAYS = npst.arrays(st.sampled_from(DTYPES), npst.array_shapes(max_side=4))


@given(st.dictionaries(TEXTS.filter(lambda name: name != "__metadata__"), ARRAYS), st.dictionaries(TEXTS, TEXTS))
def test_any_names_arrays_and_metadata_come_back(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    entries = serialization._place(arrays)
    data = b"".join(arrays[entry.name].tobytes() for entry in entries)
    got, got_metadata = read_bytes(file_bytes(serialization._header_bytes(entries, metadata), data))
    assert got_metadata == metadata and got.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_same(got[name], array)


def test_names_and_metadata_may_be_any_text(path: Path) -> None:
    write_file(path, {name: np.full(3, index) for index, name in enumerate(NAMES)}, dict(zip(NAMES, reversed(NAMES))))
    arrays, metadata = read_file(path)
    assert {name: int(array[0]) for name, array in arrays.items()} == {name: i for i, name in enumerate(NAMES)}
    assert metadata == dict(zip(NAMES, reversed(NAMES)))


def test_equal_content_gives_equal_bytes_with_every_array_aligned(path: Path) -> None:
    arrays = {f"{dtype} {name}": random_array(dtype, (3,)) for dtype in DTYPES for name in "ba"}
    write_file(path, arrays, {"b": "1", "a": "2"})
    raw = path.read_bytes()
    write_file(path, dict(reversed(arrays.items())), {"a": "2", "b": "1"})
    assert path.read_bytes() == raw
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0 and list(header.pop("__metadata__")) == ["a", "b"]
    assert all(entry["data_offsets"][0] % arrays[name].itemsize == 0 for name, entry in header.items())


def test_a_file_may_hold_nothing(path: Path) -> None:
    write_file(path, {})
    assert path.read_bytes() == file_bytes(b"{}      ")
    assert read_file(path) == ({}, {})


@pytest.mark.parametrize(
    ("arrays", "metadata", "error"),
    [
        ({"a": np.array([None])}, {}, DtypeError),
        ({"a": np.ones(2, complex)}, {}, DtypeError),
        ({"a": np.array(["text"])}, {}, DtypeError),
        ({"a": np.array(["2024-01-01"], "M8[D]")}, {}, DtypeError),
        ({"a": np.zeros(2, [("field", "f4")])}, {}, DtypeError),
        ({1: np.ones(2)}, {}, ArgumentError),
        ({"__metadata__": np.ones(2)}, {}, ArgumentError),
        ({"lone \ud800": np.ones(2)}, {}, ArgumentError),
        ({}, {"lone": "\udfff"}, ArgumentError),
        ({}, {"number": 1}, ArgumentError),
        ({}, {1: "number"}, ArgumentError),
    ],
)
def test_what_the_format_cannot_hold_is_refused_before_the_disk_is_touched(
    path: Path, arrays: Any, metadata: Any, error: type[Exception]
) -> None:
    path.write_bytes(b"former")
    with pytest.raises(error):
        write_file(path, arrays, metadata)
    assert path.read_bytes() == b"former" and os.listdir(path.parent) == [path.name]


class FailingFile(io.FileIO):
    """A file on a disk that is full after ten bytes, or whose writer is interrupted there."""

    error: BaseException

    def write(self, data: Any) -> int:
        super().write(bytes(data)[:10])
        raise self.error


def survives(write: Writer, path: Path, former: bytes | None) -> bool:
    """Whether a failing `write` leaves the folder as it was."""
    if former is not None:
        path.write_bytes(former)
    with pytest.raises((OSError, KeyboardInterrupt), match="planted"):
        write(path, {"a": np.arange(3.0)})
    kept = path.read_bytes() if path.exists() else None
    return kept == former and os.listdir(path.parent) == ([] if former is None else [path.name])


@pytest.mark.parametrize("former", [None, b"former"])
@pytest.mark.parametrize("error", [OSError("planted"), KeyboardInterrupt("planted")])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_failed_write_leaves_the_folder_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException, former: bytes | None
) -> None:
    real_open = builtins.open

    def fail(*_: object, **__: object) -> None:
        raise error

    def open_failing(name: Any, mode: str) -> FailingFile:
        real_open(name, mode).close()  # "open": interrupted when the file exists already
        if call == "open":
            raise error
        file = FailingFile(name, "w")
        file.error = error
        return file

    def careless(path: Path, arrays: dict[str, np.ndarray]) -> None:
        with serialization.open(path, "wb") as file:  # type: ignore[attr-defined]
            file.write(bytes(100))
            os.fsync(file.fileno())
        os.replace(path, path)

    if call in ("open", "write"):
        monkeypatch.setattr(serialization, "open", open_failing, raising=False)
    else:
        monkeypatch.setattr(serialization, "open", real_open, raising=False)
        monkeypatch.setattr(os, call, fail)
    assert survives(write_file, path, former)
    assert not survives(careless, path, former)


def test_a_folder_that_is_missing_is_named(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder.*missing"):
        write_file(path.parent / "missing" / "a.safetensors", {})


@POSIX
def test_permissions_and_links_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former_mask = os.umask(0o027)
    try:
        write_file(path, {})
    finally:
        os.umask(former_mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    link = path.with_name("link")
    link.symlink_to(path.name)
    write_file(link, {"a": np.ones(2)})
    assert link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o604
    assert list(read_file(path)[0]) == ["a"]
    monkeypatch.setattr(os, "access", lambda name, mode: mode != os.W_OK)  # who runs tests as root may write anything
    with pytest.raises(PermissionError):
        write_file(path, {})
    assert list(read_file(path)[0]) == ["a"]


Point = collections.namedtuple("Point", "x y")
KEYS = st.text(max_size=3) | st.integers() | st.sampled_from(["__tuple__", "__float__", "__dict__"])
VALUES = st.recursive(
    SCALARS,
    lambda x: st.lists(x, max_size=3) | st.lists(x, max_size=3).map(tuple) | st.dictionaries(KEYS, x, max_size=2),
)


@given(st.dictionaries(KEYS, VALUES))
def test_plain_values_come_back_with_their_types(values: dict[Any, Any]) -> None:
    text = serialization._dump_values(values, "config")
    assert repr(serialization._load_values({"config": text}, "config")) == repr(values)  # repr tells NaN, -0.0, types


def test_a_state_comes_back_in_order(path: Path) -> None:
    groups = {
        "weights": {"10": random_array("float32", (2, 3)), "9": random_array("float64", (2,)), "a/b": np.array(True)},
        "random": {},
        "optimizer": {"": np.array(5)},
    }
    config = {"units": 3, "shape": (3, None), "rate": math.inf, "inverse": {0: "a", 1: "b"}, "tag": {"__tuple__": [1]}}
    extra = {"epoch": np.int64(3), "loss": np.float32(0.5), "flag": np.bool_(True), "state": 2**128 - 1}
    save_state(path, config=config, groups=groups, extra=extra)
    state = load_state(path)
    assert repr(state.config) == repr(config)
    assert repr(state.extra) == repr({"epoch": 3, "loss": 0.5, "flag": True, "state": 2**128 - 1})
    assert {group: list(arrays) for group, arrays in state.groups.items()} == {g: list(a) for g, a in groups.items()}
    for group, arrays in groups.items():
        for name, array in arrays.items():
            assert_same(state.groups[group][name], array)
    save_state(path, config={}, groups={})
    assert load_state(path) == ({}, {}, {})


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"layers": [{"f": abs}]}, r"config\['layers'\]\[0\]\['f'\] cannot be saved"),
        ({"a": (np.ones(2),)}, r"config\['a'\]\[0\] cannot be saved"),
        ({"a": {Point(1, 2): 1}}, r"a key of config\['a'\]"),
        ({"a": Point(1, 2)}, "Point"),
        ({"a": {1}}, "cannot be saved"),
        ({"a": b"raw"}, "cannot be saved"),
        ({"a": 1j}, "cannot be saved"),
        ({"a": 1 << 3000}, "cannot be saved"),
        (nested(200), "too large"),
        ({"a": "x" * 16_000_000}, "too large"),
    ],
)
def test_other_values_are_refused_with_their_place(path: Path, value: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        save_state(path, config=value, groups={})
    assert not path.exists()


def test_values_that_contain_themselves_are_refused(path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["a"] = [endless]
    with pytest.raises(ArgumentError, match="contains itself"):
        save_state(path, config=endless, groups={})


@pytest.mark.parametrize("group", ["a/b", 1])
def test_group_names_are_checked(path: Path, group: Any) -> None:
    with pytest.raises(ArgumentError, match="name for a group"):
        save_state(path, config={}, groups={group: {}})


GOOD = {"format": "minirnn", "version": "1", "minirnn": "0", "groups": '{"g":["a"]}', "config": "{}", "extra": "{}"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": None}, "not one that minirnn saved"),
        ({"format": "pt"}, "not one that minirnn saved"),
        ({"version": "2", "minirnn": "9.0\x1b[2J"}, r"newer format(.|\n)*by minirnn '9.0\\x1b\[2J'(.|\n)*upgrade"),
        ({"version": None}, "no number"),
        ({"version": "0"}, "no number"),
        ({"version": "١"}, "no number"),
        ({"version": "9" * 5000}, "no number"),
        ({"config": None}, "'config' is not acceptable JSON"),
        ({"config": "[]"}, "'config' is no JSON object"),
        ({"config": "{]"}, "'config' is not acceptable JSON"),
        ({"config": '{"a":1,"a":2}'}, "key 'a' stands twice"),
        ({"config": '{"a":NaN}'}, "number 'NaN' is not finite"),
        ({"config": '{"a":1e999}'}, "number '1e999' is not finite"),
        ({"config": '{"a":%s}' % ("[" * 200 + "]" * 200)}, "nested too deeply"),
        ({"config": '{"a":"%s"}' % ("x" * 16_000_000)}, "too long"),
        ({"extra": '{"__tuple__":[]}'}, "'extra' is no JSON object"),
        ({"extra": '{"a":{"__tuple__":1}}'}, "unknown(.|\n)*__tuple__ with 1"),
        ({"extra": '{"a":{"__float__":"1.5"}}'}, "unknown"),
        ({"extra": '{"a":{"__float__":["inf"]}}'}, "unknown"),
        ({"extra": '{"a":{"__dict__":["ab"]}}'}, "unknown"),
        ({"extra": '{"a":{"__dict__":[[[1],2]]}}'}, "unknown"),
        ({"extra": '{"a":{"__dict__":[[1,2],[1,3]]}}'}, "stands twice"),
        ({"groups": "{}"}, "belong to no group"),
        ({"groups": '{"g":[]}'}, "belong to no group"),
        ({"groups": '{"g":["a","b"]}'}, "missing"),
        ({"groups": '{"g":["a","a"]}'}, "missing"),
        ({"groups": '{"g":1}'}, "missing"),
        ({"groups": '{"g":[1]}'}, "missing"),
        ({"groups": '{"__dict__":[[1,["a"]]]}'}, "missing"),
    ],
)
def test_other_metadata_is_refused_with_its_reason(path: Path, changes: dict[str, Any], message: str) -> None:
    write_file(path, {"g/a": np.ones(2)}, GOOD)
    assert load_state(path).groups["g"]["a"].tolist() == [1, 1]
    write_file(path, {"g/a": np.ones(2)}, {key: text for key, text in (GOOD | changes).items() if text is not None})
    with pytest.raises(FormatError, match=message) as caught:
        load_state(path)
    assert str(path) in str(caught.value)
