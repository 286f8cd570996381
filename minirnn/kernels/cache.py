"""The folder where compiled kernels are kept, or the one that a process uses instead, and what is in them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from .. import config

_reported: list[str] = []


@functools.cache
def kept_folder() -> Path | None:
    """The cache folder, made if need be; None, and a line on stderr, if it cannot be used."""
    try:
        folder = config.cache_folder()
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        for path in (folder, folder / "__pycache__"):  # Numba puts machine code in the latter
            path.mkdir(mode=0o700, exist_ok=True)
            _check_privacy(path)
            tempfile.TemporaryFile(dir=path).close()
        return folder
    except OSError as error:
        report(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return None


def _check_privacy(path: Path) -> None:
    if hasattr(os, "geteuid"):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError(f"{path} belongs to another user")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError(f"{path} can be written to by other users")


@functools.cache
def own_folder() -> Path:
    """A folder that is this process's own and is gone after it.  Raises OSError if there is no place for one."""
    folder, process = Path(tempfile.mkdtemp(prefix="minirnn-")), os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == process else None)
    return folder


def report(why: str) -> None:
    """Say why kernels are not kept, the first time."""
    if not _reported:
        _reported.append(why)
        say(f"kernels are compiled for this process only ({why})")


def say(line: str) -> None:
    """Print a line for the person at the terminal, who may want the standard output for something else."""
    print(f"minirnn: {line}", file=sys.stderr, flush=True)


def write(path: Path, text: str) -> Path:
    """Make a file of this content, all at once; one that is right already is left as it is.  Returns its path."""
    content = text.encode()
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            return path
    file, temporary = tempfile.mkstemp(prefix=f"{path.name}.tmp.", dir=path.parent)
    try:
        with open(file, "wb") as opened:
            opened.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


class CacheInfo(NamedTuple):
    """What the cache folder holds: kernels, of which `stale` were written by other versions of minirnn, and bytes."""

    folder: Path
    kernels: int
    stale: int
    bytes: int


def cache_info() -> CacheInfo:
    """What the cache folder holds.  Raises OSError if it cannot be read."""
    files = list(config.cache_files())
    kernels = [file.name for file in files if file.name.endswith(".py") and "__library_" not in file.name]
    stale = [name for name in kernels if not name.startswith(config.CACHE_PREFIX)]
    size = sum(file.stat(follow_symlinks=False).st_size for file in files)
    return CacheInfo(config.cache_folder(), len(kernels), len(stale), size)


def cache_clear() -> int:
    """Remove the files that minirnn wrote into the cache folder, of any version; returns how many there were.

    Links, folders, files of another name and other users' files stay.  Raises OSError if one cannot be removed.
    """
    count = 0
    for file in list(config.cache_files()):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            os.unlink(file.path)
            count += 1
    return count
