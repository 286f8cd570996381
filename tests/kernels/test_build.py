"""Compiled through the cache: once, and in a second process not at all, whatever state its files are in."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minirnn import config
from minirnn.kernels import build, cache

from .kernel_texts import DAMAGES, DOUBLE, ON_FLOATS, double, files, finish, helper, hits, linked, start

pytestmark = pytest.mark.skipif(build.JIT_OFF, reason="nothing is compiled")


# what is kept, and under which name ---------------------------------------------------------------------
def test_a_text_is_compiled_once_and_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = double()
    assert hits(first) == (0, 1)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("minirnn: compiled double in ") and err.endswith(" s (kept in the cache)\n")
    assert build.compiled(DOUBLE, "double", label="double", signature=ON_FLOATS) is first
    (path,) = files(folder, ".py")
    assert path.stem.startswith(config.CACHE_PREFIX + "double__") and first.__module__ == path.stem
    assert first.py_func.__qualname__.endswith(path.stem[-16:])
    before = path.stat().st_mtime_ns
    assert hits(double()) == (1, 0)
    assert capsys.readouterr() == ("", "") and path.stat().st_mtime_ns == before


def test_the_folder_is_private(folder: Path) -> None:
    double()
    if os.name == "posix":
        assert [path.stat().st_mode & 0o777 for path in (folder, folder / "__pycache__")] == [0o700, 0o700]


def test_other_types_are_refused_when_a_signature_was_given(folder: Path) -> None:
    with pytest.raises(TypeError):
        double()(np.zeros(2, "float32"), 2)


def test_without_a_signature_each_set_of_types_is_compiled_when_it_comes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function = double(signature=None)
    x = np.ones(2, "float32")
    function(x, 2)
    function(x, 2)
    assert x.tolist() == [4, 4] and capsys.readouterr().err.count("compiled double") == 2
    double(signature=None)
    assert capsys.readouterr().err == ""


def test_a_wrong_text_raises_numbas_error(folder: Path) -> None:
    from numba.core.errors import TypingError

    for _ in range(2):
        with pytest.raises(TypingError):
            build.compiled("@kernel\ndef f(x):\n    return x.nothing", "f", label="f", signature="void(float64)")


def placed(text: str = DOUBLE, more: str = "") -> str:
    return build._place(text, "double", more).name


def test_whatever_machine_code_depends_on_is_in_the_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    imports = "from minirnn.kernels.one import a\n"
    stamp = build._SOURCES["build"].stamp
    monkeypatch.setattr(build, "_stamp", lambda path: stamp)
    monkeypatch.setitem(build._SOURCES, "one", build._Source("from . import (\n    two,\n)\nx = 1", stamp))
    monkeypatch.setitem(build._SOURCES, "two", build._Source("x = 1", stamp))
    names = {placed(), placed(DOUBLE + "\n"), placed(more="void(float32)"), placed(imports)}
    assert len(names) == 4 and placed() in names
    for module in ("one", "two"):  # a helper, and a helper's helper
        with monkeypatch.context() as changed:
            changed.setitem(build._SOURCES, module, build._Source(build._SOURCES[module].text + "0", stamp))
            names.add(placed(imports))
            assert placed() in names
    assert len(names) == 6
    for owner, name, value in (
        (config, "__version__", "9.9"),
        (np, "__version__", "9.9"),
        (numba, "__version__", "9.9"),
        (numba.config, "CPU_NAME", "haswell"),
        (numba.config, "CPU_FEATURES", "+avx2"),
        (numba.config, "LOOP_VECTORIZE", 0),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(owner, name, value)
            build._machine.cache_clear()
            names.add(placed())
    build._machine.cache_clear()
    assert len(names) == 12 and placed() in names


def test_sources_that_change_while_minirnn_runs_reach_no_other_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(build._SOURCES, "lanes", build._SOURCES["lanes"]._replace(stamp=(0, 0)))
    double("from minirnn.kernels.lanes import load\n" + DOUBLE)
    double("from minirnn.kernels.lanes import store\n" + DOUBLE)
    err = capsys.readouterr().err
    assert err.count("the source of lanes changed") == 1 and err.count("(for this process only)") == 2
    assert files(folder, ".py") == []


# damage -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("ending", [".py", ".nbi", ".nbc"])
def test_damaged_files_are_made_anew(folder: Path, ending: str, damage: Callable[[Path], None]) -> None:
    double()
    (path,) = files(folder, ending)
    content = path.read_bytes()
    damage(path)
    assert hits(double()) == ((1, 0) if ending == ".py" else (0, 1))
    assert hits(double()) == (1, 0)
    assert ending != ".py" or path.read_bytes() == content


def test_a_foreign_file_in_place_of_a_kernel_is_not_run(folder: Path, tmp_path: Path) -> None:
    double()
    (path,) = files(folder, ".py")
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    double()
    assert not (tmp_path / "ran").exists() and "def double" in path.read_text()


def test_a_lock_that_another_process_does_not_let_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    double()
    monkeypatch.setattr(build, "_LOCK_SECONDS", 0.05)
    with open(folder / "minirnn.lock", "ab") as file:
        build._set_lock(file.fileno(), True)
        assert hits(double(DOUBLE + "\n")) == (0, 1)
        build._set_lock(file.fileno(), False)


def test_a_compilation_within_another_does_not_wait_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_LOCK_SECONDS", 1e9)
    function = double()
    cache.cache_clear()
    with build._one_process_at_a_time(folder / "outer.py", function):
        assert hits(double()) == (0, 1)


# helpers ------------------------------------------------------------------------------------------------
def test_helpers_are_compiled_once_for_all_kernels(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = helper(tmp_path, monkeypatch)
    linked(), linked("\n")
    assert hits(module.plus_one) == hits(module.plus_two) == (0, 1)
    assert Path(module.plus_one.py_func.__code__.co_filename).parent == folder
    assert Path(module.plus_one.stats.cache_path) == folder / "__pycache__"
    module = helper(tmp_path, monkeypatch)
    assert hits(linked("\n")) == (1, 0) and hits(module.plus_two) == (0, 0)
    assert hits(linked("\n\n")) == (0, 1) and hits(module.plus_two) == (1, 0)
    assert module.plus_two(1.5) == 3.5


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("ending", [".nbi", ".nbc", ".py"])
def test_damaged_files_of_helpers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, damage: Callable[[Path], None]
) -> None:
    helper(tmp_path, monkeypatch)
    linked()
    for path in files(folder, ending):
        if "library_a_helper" in path.name:
            damage(path)
    module = helper(tmp_path, monkeypatch)
    linked("\n")
    assert hits(module.plus_two)[1] == (ending != ".py")
    module = helper(tmp_path, monkeypatch)
    linked("\n\n")
    assert hits(module.plus_two) == (1, 0)


# threads and processes ----------------------------------------------------------------------------------
def test_threads_that_ask_at_once_get_one_compilation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    got: list[Any] = []
    together = threading.Barrier(4)

    def ask() -> None:
        together.wait()
        got.append(build.compiled(DOUBLE, "double", label="double", signature=ON_FLOATS))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4 and len(set(map(id, got))) == 1 and hits(got[0]) == (0, 1)
    assert capsys.readouterr().err.count("compiled") == 1


def test_processes_at_once_and_one_after_them(folder: Path) -> None:
    """The first two want the same helpers for different types, which Numba alone would mix up now and then."""
    code = "print(json.dumps([run('float64'), run('float32')]))"
    other = "print(json.dumps([run('float32'), run('float64')]))"
    both = [finish(process) for process in [start(folder, code), start(folder, other)]]
    assert sum(err.count("compiled add") for _, err in both) >= 2
    assert finish(start(folder, code)) == ([[1, 0], [1, 0]], "")
    # A further kernel links the helpers from the cache, for both types.
    code = """
results = [run(dtype, LINKED + "#") for dtype in ("float32", "float64")]
import a_helper
print(json.dumps([*results, [len(a_helper.plus_two.stats.cache_hits), len(a_helper.plus_two.stats.cache_misses)]]))
"""
    assert finish(start(folder, code))[0] == [[0, 1], [0, 1], [2, 0]]


def test_another_processor_has_files_of_its_own(folder: Path) -> None:
    for name in ("generic", ""):
        machine = {"NUMBA_CPU_NAME": name} if name else {}
        assert finish(start(folder, "print(json.dumps(run('float64')))", **machine))[0] == [0, 1]


def test_without_the_jit_nothing_is_written(folder: Path) -> None:
    code = "print(json.dumps([run('float64'), 'numba' in sys.modules]))"
    assert finish(start(folder, code, NUMBA_DISABLE_JIT="1")) == ([None, False], "")
    assert not folder.exists()


def test_a_processes_own_folder_is_gone_after_it(folder: Path, tmp_path: Path) -> None:
    folder.write_text("a file")
    (tmp_path / "temporary").mkdir()
    code = "run('float64'); print(json.dumps(len(list(cache.own_folder().iterdir()))))"
    count, err = finish(start(folder, code, TMPDIR=str(tmp_path / "temporary")))
    assert count == 4 and "for this process only" in err
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_while_another_thread_compiles(folder: Path) -> None:
    code = """
import threading, warnings
warnings.simplefilter("ignore")
original, compiling = build._compile, threading.Event()
def observed(*arguments):
    compiling.set()
    original(*arguments)
build._compile = observed
thread = threading.Thread(target=run, args=("float64",))
thread.start()
compiling.wait()
child = os.fork()
if child == 0:
    run("float64"), run("float32")
    os._exit(7)
thread.join()
print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""
    assert finish(start(folder, code))[0] == 7
