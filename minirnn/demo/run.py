"""The runs behind the commands: train on Python's own reference text or on a file, go on, and tell what happens."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from .. import serialization
from ..autodiff import random
from ..errors import ArgumentError, FormatError
from ..training.progress import ProgressLine
from . import charmodel
from .baselines import SMOOTHING, ngram_bits
from .corpus import Corpus, Vocabulary, python_topics, read_text

SECONDS = 50.0  # of training; the rest of the minute goes to what stands before and after
UNITS = 128
# What two shared cores manage even when others use them, too.  A plan made of it, and not of the speed at
# hand, is the same on every machine that is not slower, and so is the trained model.
STEPS_PER_SECOND = 30
ROUNDS, SHORTEST_ROUND, LONGEST_ROUND = 6, 50, 500  # the held-out text is measured after each round
LEAST_RATE = 0.05  # the share of the learning rate that is left at the end
DEMO, TRAIN = "minirnn demo", "minirnn train"
SAMPLE_LENGTH, SAMPLE_TEMPERATURE, SAMPLE_WIDTH = 300, 0.7, 100


class Wishes(NamedTuple):
    """What the command line asked for; None is the default."""

    out: str | None = None
    overwrite: bool = False
    seed: int = 1
    units: int | None = None
    epochs: float | None = None  # passes over the text
    seconds: float | None = None


class Pace:
    """How far training is to go, and whether the time suffices: `goal` is the step it will end at.

    While the time suffices the goal is the plan's, and a run depends on its seed alone.  Where the machine turns out
    too slow the goal is what it can reach, so that the learning rate has come down by then.
    """

    def __init__(self, first: int, planned: int, seconds: float | None, clock: Any = time.monotonic) -> None:
        self.first, self.planned, self.seconds, self.clock = first, planned, seconds, clock
        self.goal = planned
        self._begin = clock()

    def goes_on(self, step: int) -> bool:
        """Whether another step is to follow when `step` are done; looks at the clock and adapts the goal."""
        if self.seconds is not None and step > self.first:
            elapsed = self.clock() - self._begin
            if elapsed >= self.seconds:
                return False
            if elapsed >= self.seconds / 10:  # the first steps, which prepare the others, tell too little
                reachable = self.first + int((step - self.first) * self.seconds / elapsed)
                self.goal = min(self.planned, max(reachable, step + 1))
        return step < self.goal

    def learning_rate(self, step: int) -> float:
        """Falls along a line from the full rate at step 0 to a twentieth of it at the goal."""
        return charmodel.LEARNING_RATE * max(1 - step / self.goal, LEAST_RATE)


def learn(model: Any, corpus: Corpus, pace: Pace) -> Iterator[float]:
    """Train until the pace ends, in rounds; yields the held-out bits per character after each."""
    windows = charmodel.Windows(corpus.training)
    step = model.optimizer.iterations
    length = min(max(-(-(pace.planned - pace.first) // ROUNDS), SHORTEST_ROUND), LONGEST_ROUND)
    number = 0
    goes_on = pace.goes_on(step)
    while goes_on:
        number += 1
        line = ProgressLine(f"Round {number}", min(length, pace.goal - step))
        done, bits = 0, 0.0
        try:
            while goes_on and done < length:
                if step % windows.per_pass == 0:
                    model.reset_states()
                model.optimizer.learning_rate = pace.learning_rate(step)
                bits += model.train_on_batch(*windows.batch(step)) / math.log(2)
                step, done = step + 1, done + 1
                goes_on = pace.goes_on(step)
                line.update(done, {"training": bits / done})
            held_out = measure(model, corpus)
        except BaseException:
            line.abandon()
            raise
        line.total = done
        line.finish({"training": bits / done, "held-out": held_out})
        yield held_out


def measure(model: Any, corpus: Corpus) -> float:
    """The bits per character on the held-out text."""
    return charmodel.bits_per_character(model, corpus.training, corpus.held_out)


def demo(wishes: Wishes) -> None:
    """Train on Python's reference text, show what comes of it, and save the model."""
    out = wishes.out or "minirnn-demo.safetensors"
    check_out(out, wishes.overwrite, replaceable=DEMO)
    try:
        corpus = python_topics()
        baselines = _describe(corpus)
        model = _new_model(corpus, wishes, DEMO)
        print("\nBefore training it writes:\n")
        _show_sample(model, corpus.vocabulary, wishes.seed)
        pace = _pace(0, corpus, wishes)
        print(f"\n{_announced(pace)}")
        for _ in learn(model, corpus, pace):
            pass
        _conclude(model, corpus, baselines, pace, wishes.seed)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; no model was saved") from None
    save(model, out)
    _next_commands(out, corpus.vocabulary)
    print(f"  {TRAIN} --text FILE")


def train(text: str, wishes: Wishes, resume: str | None = None) -> None:
    """Train on a text file, anew or going on with the model in the file `resume`; save it after each round."""
    corpus = read_text(text)
    stem = os.path.splitext(os.path.basename(text))[0]
    out = wishes.out or resume or f"minirnn-{stem}.safetensors"
    check_out(out, wishes.overwrite or out == resume)
    model, first = (None, 0) if resume is None else _resumed(resume, corpus, wishes)
    baselines = _describe(corpus)
    if model is None:
        model = _new_model(corpus, wishes, TRAIN)
        pace = _pace(0, corpus, wishes)
    else:
        pace = _pace(first, corpus, wishes, model.metadata["planned_steps"])
        print(f"Model: {resume}, trained for {first} steps")
    model.metadata["planned_steps"] = pace.planned
    print(f"\n{_announced(pace)}")
    go_on = f"{TRAIN} --text {shlex.quote(text)} --resume {shlex.quote(out)}"
    try:
        for _ in learn(model, corpus, pace):
            model.save(out)
    except KeyboardInterrupt:
        model.save(out)
        step = model.optimizer.iterations
        told = f"interrupted after step {step} of {pace.planned}; the model so far is in {out}\n  to go on: {go_on}"
        raise KeyboardInterrupt(told) from None
    _conclude(model, corpus, baselines, pace, wishes.seed)
    save(model, out)
    _next_commands(out, corpus.vocabulary)
    print(f"  {go_on}" + (" --epochs N" if model.optimizer.iterations >= pace.planned else ""))


def check_out(path: str, overwrite: bool, replaceable: str | None = None) -> None:
    """Whether a model can be saved there; ArgumentError, before any work is done, if not.

    An existing file is replaced only with `overwrite`, or if it is a model that the command `replaceable` made.
    """
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise ArgumentError(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ArgumentError(f"{path} cannot be written: no permission to write in {folder}")
    if not os.path.exists(path):
        return
    if not os.path.isfile(path):
        raise ArgumentError(f"{path} cannot be written: it is no regular file")
    if not overwrite and (replaceable is None or _made_by(path) != replaceable):
        raise ArgumentError(f"{path} exists already, and is left as it is", fix="--out OTHER, or --overwrite")


def save(model: Any, path: str) -> None:
    """Save the model and say so."""
    model.save(path)
    print(f"\nSaved {path} ({os.path.getsize(path) / 1e6:.1f} MB).")


def _made_by(path: str) -> Any:
    try:
        metadata = serialization.load_state(path).extra.get("metadata")
    except (FormatError, OSError):
        return None
    return metadata.get("made_by") if isinstance(metadata, dict) else None


def _new_model(corpus: Corpus, wishes: Wishes, made_by: str) -> Any:
    random.seed(wishes.seed)
    units = UNITS if wishes.units is None else wishes.units
    model = charmodel.build(len(corpus.vocabulary), units)
    model.metadata = {
        "characters": corpus.vocabulary.characters,
        "made_by": made_by,
        "text": corpus.name,
        "fingerprint": corpus.fingerprint,
    }
    print(f"Model: embedding of {max(units // 2, 1)}, LSTM of {units} units, a score for each of "
          f"{len(corpus.vocabulary)} characters; {model.count_params():,} weights, seed {wishes.seed}")  # fmt: skip
    return model


def _resumed(path: str, corpus: Corpus, wishes: Wishes) -> tuple[Any, int]:
    """The model to go on with and the steps it has made; errors if it cannot go on, or not with this text."""
    if wishes.units is not None:
        raise ArgumentError("--units is for a new model", fix="leave out either --units or --resume")
    model, _ = charmodel.load(path)
    metadata = model.metadata
    planned = metadata.get("planned_steps")
    if model.optimizer is None or not isinstance(planned, int):
        raise FormatError("its training cannot be gone on with", where=path, expected=f"a model of `{TRAIN}`")
    if metadata.get("fingerprint") != corpus.fingerprint:
        raise ArgumentError(
            f"{path} was trained on another text", got=corpus.name, expected=f"the text {metadata.get('text')}"
        )
    first = model.optimizer.iterations
    if planned <= first and wishes.epochs is None and wishes.seconds is None:
        fix = "say how much more: --epochs or --seconds"
        raise ArgumentError(f"{path} has made all of its {planned} steps", fix=fix)
    return model, first


def _pace(first: int, corpus: Corpus, wishes: Wishes, planned: int | None = None) -> Pace:
    """From step `first`: for the wished epochs or seconds, else to the step `planned`, else for a minute."""
    seconds = wishes.seconds
    if wishes.epochs is not None:
        more = max(round(wishes.epochs * charmodel.Windows(corpus.training).per_pass), 1)
    elif planned is not None and seconds is None:
        more = planned - first
    else:
        seconds = SECONDS if seconds is None else seconds
        more = max(round(seconds * STEPS_PER_SECOND), 1)
    return Pace(first, first + more, seconds)


def _announced(pace: Pace) -> str:
    limit = "" if pace.seconds is None else f", {pace.seconds:g} s at most"
    return (
        f"Training: {pace.planned - pace.first} steps{limit}; training and held-out text in bits per character "
        "(a step is 32 windows of 32 characters)"
    )


def _describe(corpus: Corpus) -> dict[str, float]:
    """Print what the text is and what n-grams make of it; returns their bits per character."""
    vocabulary = corpus.vocabulary
    print(f"Text: {corpus.name}, {corpus.characters:,} characters, {len(vocabulary)} different ones; "
          f"held out: {len(corpus.held_out):,} from the last tenth")  # fmt: skip
    if corpus.unknown:
        print(f"  {corpus.unknown} held-out characters that the rest of the text never has are left out")
    named = {"unigram": 1, "trigram": 3}
    found = {
        name: ngram_bits(corpus.training, corpus.held_out, order, len(vocabulary)) for name, order in named.items()
    }
    listed = ", ".join(f"{name} {bits:.3f}" for name, bits in found.items())
    print(f"To beat on the held-out text, in bits per character: {listed} (additive smoothing {SMOOTHING})")
    return found


def _conclude(model: Any, corpus: Corpus, baselines: dict[str, float], pace: Pace, seed: int) -> None:
    """Print how the model does on the held-out text, beside the baselines, and a sample."""
    step = model.optimizer.iterations
    if step < pace.planned:
        print(f"The time was up after step {step} of {pace.planned}.")
    bits = measure(model, corpus)
    print("\nBits per character on the held-out text:")
    for name, value in [*baselines.items(), ("this LSTM", bits)]:
        print(f"  {name:<10} {value:.3f}")
    gain = baselines["trigram"] - bits
    print(f"It beats the trigram by {gain:.3f}." if gain > 0 else "It does not beat the trigram.")
    print("\nAfter training it writes:\n")
    _show_sample(model, corpus.vocabulary, seed)


def _show_sample(model: Any, vocabulary: Vocabulary, seed: int) -> None:
    prompt = sample_prompt(vocabulary)
    written = charmodel.write(model, vocabulary, prompt, SAMPLE_LENGTH, SAMPLE_TEMPERATURE, seed)
    for line in printable(prompt + "".join(written)).split("\n"):
        for at in range(0, max(len(line), 1), SAMPLE_WIDTH):
            print(f"  | {line[at : at + SAMPLE_WIDTH]}".rstrip())


def sample_prompt(vocabulary: Vocabulary) -> str:
    """Something to begin a text with that the vocabulary has.

    >>> sample_prompt(Vocabulary.of("abc"))
    'a'
    """
    for prompt in ("The ", "\n", " "):
        if set(prompt) <= set(vocabulary.characters):
            return prompt
    return vocabulary.characters[0]


def printable(text: str) -> str:
    """Text without the control characters that could change a terminal's state.

    >>> printable("a\\tb\\x1b[2J")
    'a\\tb\\ufffd[2J'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def _next_commands(out: str, vocabulary: Vocabulary) -> None:
    prompt = "The " if sample_prompt(vocabulary) == "The " else "..."
    print("\nGo on with")
    print(f"  minirnn generate {shlex.quote(out)} --prompt {shlex.quote(prompt)} --temperature 0.7 --seed 1")
