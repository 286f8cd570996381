"""minirnn's files against the safetensors package: both write the same bytes and read each other's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minirnn.serialization import read_file, write_file
from tests.peers import Need
from tests.reference.files import (
    DTYPES,
    HOSTILE,
    NAMES,
    SHAPES,
    assert_same,
    is_refused,
    mutants,
    random_array,
    read_bytes,
    small_file,
)

pytestmark = pytest.mark.peers

# minirnn is stricter here: the specification forbids these, or does not mention them and no writer makes them.
ONLY_THEY_ACCEPT = {"space before header", "same name twice", "metadata key twice", "metadata null"}
ONLY_THEY_ACCEPT |= {"entry is a list", "unknown field", "bool of 2"}


def test_safetensors_writes_the_same_bytes_and_reads_ours(tmp_path: Path, need: Need) -> None:
    need("safetensors")
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    arrays = {f"{dtype} {name}": random_array(dtype, shape) for dtype in DTYPES for name, shape in SHAPES.items()}
    arrays |= {name: np.full(3, index) for index, name in enumerate(NAMES)}
    for metadata in ({}, {"config": '{"é": "\\n"}'}):
        path, theirs = tmp_path / "ours", tmp_path / "theirs"
        write_file(path, arrays, metadata)
        save_file(arrays, theirs, metadata or None)
        assert theirs.read_bytes() == path.read_bytes()
        loaded = load_file(path)
        assert loaded.keys() == arrays.keys()
        for name, array in read_file(theirs)[0].items():
            assert_same(array, arrays[name])
            assert_same(loaded[name], arrays[name])
        with safe_open(path, framework="numpy") as file:
            assert (file.metadata() or {}) == metadata == read_file(theirs)[1]


def test_what_safetensors_refuses_is_refused(need: Need) -> None:
    need("safetensors")
    from safetensors import SafetensorError
    from safetensors.numpy import load

    def accepted_by_them(raw: bytes) -> bool:
        try:
            load(raw)
        except (SafetensorError, ValueError):  # ValueError: NumPy's, for what no array can be
            return False
        return True

    assert {case for case, raw in HOSTILE.items() if accepted_by_them(raw)} == ONLY_THEY_ACCEPT
    for mutant in mutants(small_file()):
        if not is_refused(mutant):
            theirs, ours = load(mutant), read_bytes(mutant)[0]
            assert theirs.keys() == ours.keys()
            for name, array in ours.items():
                assert_same(theirs[name], array)
