"""The cache folder: worked around where it cannot be used, counted, and cleared of minirnn's files only."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minirnn import cli, config
from minirnn.kernels import build, cache

from .kernel_texts import DOUBLE, double, files, forget, helper, hits, linked

pytestmark = pytest.mark.skipif(build.JIT_OFF, reason="nothing is compiled")


# folders that cannot be used ----------------------------------------------------------------------------
def check_worked_around(capsys: pytest.CaptureFixture[str], why: str) -> None:
    """Kernels are compiled, it is said once why they are not kept, and the process's own folder is private."""
    capsys.readouterr()
    double()
    double(DOUBLE + "\n")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "compiled double" not in line] == [lines[0]] and why in lines[0]
    assert len(lines) == 3 and all("for this process only" in line for line in lines)
    own = cache.own_folder()
    assert own is not None and len(files(own, ".nbc")) == 2
    if os.name == "posix":
        assert own.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write_text("a file")
    monkeypatch.setenv("MINIRNN_CACHE", str(folder / "below"))
    check_worked_around(capsys, f"{folder}: File exists")
    assert folder.read_text() == "a file"


def test_a_read_only_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    double()
    original = tempfile.TemporaryFile

    def read_only(*arguments: Any, dir: Any = None, **options: Any) -> Any:
        if dir is not None and folder in (Path(dir), *Path(dir).parents):
            raise OSError(errno.EROFS, "Read-only file system", str(dir))
        return original(*arguments, dir=dir, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    forget()
    check_worked_around(capsys, "Read-only file system")


@pytest.mark.skipif(os.name != "posix", reason="elsewhere folders have no such owners and modes")
@pytest.mark.parametrize("below", ["", "__pycache__"])
def test_folders_of_others_or_for_others_to_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    (folder / "__pycache__").mkdir(parents=True)
    (folder / below).chmod(0o777)
    check_worked_around(capsys, "can be written to by other users")
    (folder / below).chmod(0o755)
    forget()
    with monkeypatch.context() as patched:
        patched.setattr(os, "geteuid", lambda: 12345)
        check_worked_around(capsys, f"{folder} belongs to another user")
    assert files(folder, ".*") == []


def test_a_link_in_the_place_of_machine_code_is_not_followed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir()
    (folder / "__pycache__").symlink_to(tmp_path / "elsewhere")
    check_worked_around(capsys, "__pycache__")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_home(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("MINIRNN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    check_worked_around(capsys, "there is no home folder")


def test_no_place_for_any_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setenv("MINIRNN_CACHE", str(Path(os.devnull) / "cache"))
    monkeypatch.setattr(tempfile, "mkdtemp", nowhere)
    assert hits(double()) == (0, 1)
    assert "(for this process only)" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".py", ".nbi", ".nbc", ""])
def test_a_full_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    module = helper(tmp_path, monkeypatch)
    original = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith(ending):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(source, target)

    monkeypatch.setattr(os, "replace", full)
    function = linked()
    assert hits(function)[0] == 0 and len(module.plus_one.signatures) == len(module.plus_two.signatures) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "No space left on device" in lines[0] and "for this process only" in lines[1]
    assert [path for path in folder.rglob("*") if ".tmp" in path.name] == []


# upgrades, information, clearing ------------------------------------------------------------------------
def test_an_upgraded_minirnn_leaves_old_files_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double()
    old = {path: path.read_bytes() for path in files(folder, ".*") if path.is_file()}
    with monkeypatch.context() as upgraded:
        upgraded.setattr(config, "CACHE_PREFIX", "minirnn__9_9__")
        upgraded.setattr(config, "__version__", "9.9")
        build._machine.cache_clear()
        assert hits(double()) == (0, 1)
        assert {path: path.read_bytes() for path in old} == old
        info = cache.cache_info()
        assert (info.folder, info.kernels, info.stale) == (folder, 2, 1)
        assert info.bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    build._machine.cache_clear()
    assert hits(double()) == (1, 0)


def test_clearing_removes_what_minirnn_wrote_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch)
    function = linked()
    count = len([path for path in folder.rglob("*") if path.is_file()])
    (own,) = (path for path in files(folder, ".py") if "library" not in path.name)
    elsewhere = tmp_path / own.name
    elsewhere.write_text("")
    kept = [folder / "notes.py", folder / "minirnn__mine.py", folder / "__pycache__" / "notes.nbi"]
    for path in kept:
        path.write_text("")
    links = [own.with_suffix(".link"), folder / "__pycache__" / own.with_suffix(".link").name]
    for link in links:
        link.symlink_to(elsewhere)
    (folder / f"{own.stem}.folder").mkdir()
    assert cache.cache_info().kernels == 1
    assert cache.cache_clear() == count and cache.cache_clear() == 0
    assert all(path.exists() for path in [*kept, *links, elsewhere, folder / f"{own.stem}.folder"])
    function(np.ones(1), 1)
    linked()
    if os.name == "posix":
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert cache.cache_clear() == 0 and own.exists()


def test_clearing_follows_no_links_to_folders(folder: Path, tmp_path: Path) -> None:
    double()
    (folder / "__pycache__").rename(tmp_path / "elsewhere")
    (folder / "__pycache__").symlink_to(tmp_path / "elsewhere")
    assert cache.cache_clear() == 2 and len(list((tmp_path / "elsewhere").iterdir())) == 2


def test_nothing_to_clear(folder: Path) -> None:
    assert cache.cache_clear() == 0 and cache.cache_info() == (folder, 0, 0, 0) and not folder.exists()


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    double()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    capsys.readouterr()
    assert cli.main(["cache", "info"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines == {
        "folder": str(folder),
        "kernels": "1, 0 of them from other versions of minirnn",
        "size": f"{size / 1e6:.1f} MB",
    }
    assert cli.main(["cache", "clear"]) == cli.main(["cache", "clear"]) == 0
    assert capsys.readouterr() == (f"Removed 4 files from {folder}.\nRemoved 0 files from {folder}.\n", "")
