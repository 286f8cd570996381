"""The text: where it comes from, its vocabulary, and which part of it is held out."""

from __future__ import annotations

import os
import stat
import unicodedata
import zlib
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArgumentError

SHORTEST = 1000  # characters; with fewer there is nothing to learn and next to nothing to measure on
LONGEST_HELD_OUT = 100_000  # characters; measuring on more would only cost time


class Vocabulary:
    """The characters of a text in the order of their code points; an id is a character's place.

    >>> vocabulary = Vocabulary.of("abracadabra")
    >>> vocabulary.characters, vocabulary.encode("cab").tolist(), vocabulary.decode([3, 0, 1])
    ('abcdr', [2, 0, 1], 'dab')
    """

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self._codes = _code_points(characters)
        if not characters or (np.diff(self._codes.astype(np.int64)) <= 0).any():
            raise ArgumentError("a vocabulary is a string of different characters in order", got=repr(characters[:40]))

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """The characters that occur in `text`."""
        return cls("".join(sorted(set(text))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32 of shape (characters,); ArgumentError names those that are not in the vocabulary."""
        ids, known = self._find(text)
        if not known.all():
            raise ArgumentError(
                "characters that the model does not know", got=shown(text, known), expected=shown(self.characters)
            )
        return ids

    def encode_known(self, text: str) -> np.ndarray:
        """The ids of those characters of a text that are in the vocabulary; the others are left out."""
        ids, known = self._find(text)
        return ids[known]

    def decode(self, ids: Any) -> str:
        """The text of some ids."""
        return "".join(self.characters[int(i)] for i in ids)

    def _find(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        codes = _code_points(text)
        ids = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        return ids.astype(np.int32), self._codes[ids] == codes


def _code_points(text: str) -> np.ndarray:
    # A prompt may hold lone surrogates, which is how Python passes on bytes that are no text.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def shown(text: str, known: np.ndarray | None = None) -> str:
    """The different characters of a text, those that `known` marks left out, as a message shows them.

    >>> shown("b\\na b")
    "'\\\\n', ' ', a, b"
    """
    found = sorted(set(text if known is None else (c for c, k in zip(text, known) if not k)))
    listed = [c if c.isprintable() and not c.isspace() and not unicodedata.combining(c) else repr(c) for c in found]
    return ", ".join(listed[:120]) + (f" and {len(listed) - 120} more" if len(listed) > 120 else "")


class Corpus(NamedTuple):
    """A text as ids: `training`, and the `held_out` end that nothing is learnt from.

    The vocabulary is that of the training part.  Held-out characters that are not in it have no
    probability under any model here; they are taken out (`unknown` says how many), for all models alike.
    """

    name: str
    characters: int
    vocabulary: Vocabulary
    training: np.ndarray
    held_out: np.ndarray
    unknown: int
    fingerprint: int  # of the whole text: what training can go on with


def split(name: str, text: str) -> Corpus:
    """The first nine tenths of a text for training, the last tenth held out (of that, at most 100,000 characters).

    Raises ArgumentError for a text below 1000 characters, and for one whose last tenth has no character in common
    with the rest.

    >>> corpus = split("digits", "0123456789" * 150 + "x")
    >>> len(corpus.training), len(corpus.held_out), corpus.unknown
    (1350, 150, 1)
    """
    if len(text) < SHORTEST:
        raise ArgumentError(
            f"{name}: the text is too short to learn from",
            got=f"{len(text)} characters",
            expected=f"at least {SHORTEST}",
        )
    at = len(text) * 9 // 10
    vocabulary = Vocabulary.of(text[:at])
    end = text[at:][:LONGEST_HELD_OUT]
    held_out = vocabulary.encode_known(end)
    if not len(held_out):
        raise ArgumentError(f"{name}: the last tenth of the text has no character in common with the rest")
    fingerprint = zlib.crc32(text.encode("utf-8"))
    training = vocabulary.encode(text[:at])
    return Corpus(name, len(text), vocabulary, training, held_out, len(end) - len(held_out), fingerprint)


def python_topics() -> Corpus:
    """The reference text behind Python's own `help("topics")`, in the order of the topics' names."""
    from pydoc_data.topics import topics

    return split("pydoc_data.topics", "\n\n".join(topics[name] for name in sorted(topics)))


def read_text(path: str | os.PathLike[str]) -> Corpus:
    """The text in a UTF-8 file; ArgumentError for what is no text, OSError for what cannot be read."""
    name = os.fspath(path)
    mode = os.stat(name).st_mode
    if not stat.S_ISREG(mode):
        raise ArgumentError(f"{name} is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'}", expected="a text")
    with open(name, "rb") as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArgumentError(
            f"{name} is no UTF-8 text",
            got=f"byte 0x{raw[error.start]:02x} at offset {error.start}",
            fix="if it is text in another encoding, convert it, for instance with iconv",
        ) from None
    if "\0" in text:
        raise ArgumentError(f"{name} is a binary file", got=f"a zero byte at offset {raw.index(0)}", expected="a text")
    if not text.strip():
        raise ArgumentError(f"{name} is empty", expected=f"a text of at least {SHORTEST} characters")
    return split(name, text.replace("\r\n", "\n"))
