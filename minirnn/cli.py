"""The command `minirnn`: demo, train, generate, bench, source, cache, config."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import bench, config, layers
from .demo import charmodel, run
from .errors import ArgumentError, MinirnnError
from .kernels import cache
from .loop import COMPILED
from .models import load_model
from .version import __version__

_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
_LAYERS = ("SimpleRNN", "GRU", "LSTM")  # of which `minirnn source` knows an example
_INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 after an error, 2 for wrong usage, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # in a pipe, too, each line is seen at once; what Unicode lacks is escaped
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        if os.name == "posix":  # blocked where this command began anew
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if arguments is None and options.one_blas_thread:
            _begin_anew_with_one_blas_thread()
        if arguments is None and options.command is _bench and not bench.in_force(options.threads):
            _begin_anew(bench.environment(options.threads))
        options.command(options)
        sys.stdout.flush()
    except KeyboardInterrupt as error:
        return _failed(str(error) or "interrupted", _INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has seen enough, as in `minirnn generate MODEL | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still flushes at its end
        return 1
    except MemoryError:
        return _failed("error: there is not enough memory", 1)
    except OSError as error:
        return _failed(f"error: {error.filename}: {error.strerror}" if error.filename else f"error: {error}", 1)
    except MinirnnError as error:
        return _failed(f"error: {error}", 1)
    return 0


def _failed(message: str, code: int) -> int:
    sys.stdout.flush()
    print(f"minirnn: {message}", file=sys.stderr)
    return code


def _begin_anew_with_one_blas_thread() -> None:
    """Start this command once more, with BLAS told to use one thread, unless its threads are chosen already.

    A training step makes hundreds of small products.  Two threads gain little on them, and lose a hundredfold on
    cores that others use, too, because each product waits until both have run.  BLAS reads the setting when NumPy
    is imported, which is too early to change it here.
    """
    if not any(name in os.environ for name in _BLAS_THREADS):
        _begin_anew(dict.fromkeys(_BLAS_THREADS, "1"))


def _begin_anew(environment: dict[str, str]) -> None:
    """Start this command once more with these variables in its environment, where a process can do so."""
    if os.name == "posix" and sys.executable:
        # Ctrl-C waits until main can tell of it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **environment})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minirnn", description="Recurrent networks from one written step. `minirnn demo` shows what it does."
    )
    parser.add_argument("--version", action="version", version=f"minirnn {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)

    def command(
        name: str, f: Callable[[argparse.Namespace], None], text: str, trains: bool = False
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(command=f, one_blas_thread=trains)
        return made

    demo = command("demo", _demo, "train a character model on Python's own reference text, in a minute", trains=True)
    _add_training_options(demo, "minirnn-demo.safetensors")

    train = command("train", _train, "train a character model on a text file", trains=True)
    train.add_argument("--text", metavar="FILE", required=True, help="UTF-8 text; the last tenth is held out")
    train.add_argument("--resume", metavar="MODEL", help="go on with a model that was trained on this text")
    _add_training_options(train, "minirnn-NAME.safetensors, or MODEL of --resume")

    generate = command("generate", _generate, "let a character model write, one character at a time")
    generate.add_argument("model", metavar="MODEL", help="a file that demo or train saved")
    generate.add_argument("--prompt", help="the text to go on from")
    generate.add_argument("--length", type=_count, default=500, metavar="N", help="characters to write (500)")
    generate.add_argument(
        "--temperature", type=_not_negative, default=0.7, metavar="T",
        help="above 1 wilder, below 1 tamer, 0 always the likeliest character (0.7)",
    )  # fmt: skip
    generate.add_argument("--seed", type=_seed, metavar="N", help="an equal seed gives an equal text")

    _add_bench_options(command("bench", _bench, "time minirnn beside torch, onnxruntime and JAX, as far as installed"))

    source = command("source", _source, "print the loop that is compiled for a layer, or for those of a saved model")
    source.add_argument("what", metavar="LAYER|MODEL", help=f"{', '.join(_LAYERS)}, or a file that save wrote")
    source.add_argument("--backward", action="store_true", help="the loop of the gradient")
    source.add_argument("--engine", choices=COMPILED, default="cpu", help="whose loop: a processor's or a GPU's (cpu)")
    source.add_argument("--dtype", choices=config.FLOAT_DTYPES, help=f"of a layer ({config.current_dtype()})")

    kept = command("cache", _cache, "show what compiled kernels are kept, or remove them")
    kept.add_argument("action", choices=("info", "clear"), help="info: where, how many, how large; clear: remove them")

    command("config", lambda options: config.show_config(), "print versions, processor and settings")
    return parser


def _add_training_options(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("--out", metavar="MODEL", help=f"where to save the model ({out})")
    parser.add_argument("--overwrite", action="store_true", help="replace whatever file is there")
    parser.add_argument("--seed", type=_seed, default=1, metavar="N", help="an equal seed repeats a run (1)")
    parser.add_argument("--units", type=_count, metavar="N", help=f"size of the LSTM ({run.UNITS})")
    parser.add_argument("--seconds", type=_positive, metavar="S", help=f"time for training ({run.SECONDS:g})")
    parser.add_argument("--epochs", type=_positive, metavar="N", help="passes over the text, however long they take")


def _add_bench_options(parser: argparse.ArgumentParser) -> None:
    grids, figures = [*bench.GRIDS, "all"], ", ".join(f"--{name}" for name in bench.FIGURES)
    parser.add_argument("--grid", choices=grids, help=f"which table to make (all, but none beside {figures})")
    for name, text in bench.FIGURES.items():
        parser.add_argument(f"--{name}", action="append_const", dest="figures", const=name, help=text)
    parser.add_argument("--quick", action="store_true", help="only the smallest case of each cell, few rounds")
    parser.add_argument("--rounds", type=_count, metavar="N", help="turns of which the median counts (15; quick: 3)")
    parser.add_argument(
        "--threads", type=_count, default=bench.THREADS, metavar="N", help=f"of everyone ({bench.THREADS})"
    )
    parser.add_argument("--engine", choices=bench.ENGINES, help="time this engine of minirnn only; cuda: its schedules")
    parser.add_argument("--cells", nargs="+", choices=bench.CELLS, metavar="CELL", help=", ".join(bench.CELLS))
    parser.add_argument("--peers", nargs="*", choices=bench.PEERS, metavar="PEER", help=", ".join(bench.PEERS))
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--json", metavar="FILE", help="also write JSON; - prints it in place of the tables")


def _wishes(options: argparse.Namespace) -> run.Wishes:
    return run.Wishes(**{name: getattr(options, name) for name in run.Wishes._fields})


def _demo(options: argparse.Namespace) -> None:
    run.demo(_wishes(options))


def _train(options: argparse.Namespace) -> None:
    run.train(options.text, _wishes(options), options.resume)


def _generate(options: argparse.Namespace) -> None:
    model, vocabulary = charmodel.load(options.model)
    prompt = run.sample_prompt(vocabulary) if options.prompt is None else options.prompt
    written = charmodel.write(model, vocabulary, prompt, options.length, options.temperature, options.seed)
    print(run.printable(prompt), end="", flush=True)
    try:
        for character in written:
            print(run.printable(character), end="", flush=True)
    finally:  # after Ctrl-C too, so that what follows begins a line
        print()


def _bench(options: argparse.Namespace) -> None:
    asked = bench.Options.of(**{name: getattr(options, name) for name in bench.Options._fields})
    report = bench.run(asked, say=lambda line: print(line, file=sys.stderr))
    if options.json == "-":
        print(bench.as_json(report))
        return
    print(bench.as_markdown(report) if options.markdown else bench.as_text(report))
    if options.json is not None:
        Path(options.json).write_text(bench.as_json(report) + "\n", encoding="utf-8")


def _source(options: argparse.Namespace) -> None:
    pass_ = "backward" if options.backward else "forward"
    if options.what in _LAYERS:
        layer = getattr(layers, options.what)(8, return_sequences=True, dtype=options.dtype)
        layer.build((None, None, 5))
        print(layer.source(pass_, options.engine), end="")
        return
    recurrent = [layer for layer in load_model(options.what).layers if hasattr(layer, "source")]
    if not recurrent:
        raise ArgumentError("source: no layer of the model has a loop", got=options.what)
    print("\n".join(f"# {layer.name}\n{layer.source(pass_, options.engine)}" for layer in recurrent), end="")


def _cache(options: argparse.Namespace) -> None:
    if options.action == "clear":
        count = cache.cache_clear()
        print(f"Removed {count} file{'s' * (count != 1)} from {config.cache_folder()}.")
        return
    folder, kernels, stale, size = cache.cache_info()
    print(f"folder   {folder}")
    print(f"kernels  {kernels}, {stale} of them from other versions of minirnn")
    print(f"size     {size / 1e6:.1f} MB")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: a whole number of at least 1 is expected")
    return number


def _seed(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text}: a whole number of at least 0 is expected")
    return number


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: a positive number is expected")
    return number


def _not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: a number of at least 0 is expected")
    return number


if __name__ == "__main__":
    sys.exit(main())
