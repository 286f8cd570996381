from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minirnn.demo.corpus import LONGEST_HELD_OUT, Vocabulary, python_topics, read_text, shown, split
from minirnn.errors import ArgumentError

PROSE = "The quick brown fox jumps over the lazy dog; “naïve” — 7 ≠ 8.\n" * 40


def test_vocabulary_goes_both_ways() -> None:
    vocabulary = Vocabulary.of(PROSE)
    ids = vocabulary.encode(PROSE)
    assert ids.dtype == np.int32 and vocabulary.decode(ids) == PROSE
    assert len(vocabulary) == len(set(PROSE)) and list(vocabulary.characters) == sorted(set(PROSE))
    assert vocabulary.encode("").shape == (0,)


def test_characters_beyond_the_basic_plane_are_one_character() -> None:
    vocabulary = Vocabulary.of("a😀b")
    assert vocabulary.encode("😀b😀").tolist() == [2, 1, 2]


@pytest.mark.parametrize("text", ["Ω", "\udcff", "\U0010ffff", "\x00"])
def test_unknown_characters_are_named(text: str) -> None:
    with pytest.raises(ArgumentError, match="does not know") as caught:
        Vocabulary.of("abc").encode("a" + text)
    assert caught.value.got == shown(text) and caught.value.expected == "a, b, c"
    assert Vocabulary.of("abc").encode_known("c" + text + "a").tolist() == [2, 0]


@pytest.mark.parametrize("characters", ["", "ba", "aab"])
def test_a_vocabulary_is_sorted_and_without_repeats(characters: str) -> None:
    with pytest.raises(ArgumentError):
        Vocabulary(characters)


def test_shown_is_short_and_leaves_no_control_characters() -> None:
    text = shown("".join(map(chr, range(2000))))
    assert text.isprintable() and "'\\x1b'" in text and text.endswith("more") and len(text) < 2000


def test_split_holds_out_the_last_tenth() -> None:
    corpus = split("prose", PROSE)
    whole = np.concatenate([corpus.training, corpus.held_out])
    assert corpus.vocabulary.decode(whole) == PROSE
    assert len(corpus.training) == len(PROSE) * 9 // 10 and corpus.characters == len(PROSE)
    assert corpus.unknown == 0 and split("other", PROSE + ".").fingerprint != corpus.fingerprint


def test_characters_seen_only_in_the_held_out_part_are_taken_out_of_it() -> None:
    corpus = split("prose", PROSE + "ЖЖ" + "x" * 30)
    assert "Ж" not in corpus.vocabulary.characters and corpus.unknown == 2
    assert len(corpus.held_out) == len(PROSE) + 32 - len(corpus.training) - 2


def test_a_long_text_holds_out_no_more_than_can_be_measured() -> None:
    assert len(split("long", "0123456789" * 120_000).held_out) == LONGEST_HELD_OUT


def test_texts_that_cannot_be_used() -> None:
    with pytest.raises(ArgumentError, match="too short"):
        split("short", "a" * 999)
    with pytest.raises(ArgumentError, match="no character in common"):
        split("two halves", "a" * 900 + "b" * 100)


def test_python_topics_are_there_and_in_one_order() -> None:
    corpus = python_topics()
    assert corpus.characters > 400_000 and len(corpus.vocabulary) > 80
    assert corpus.vocabulary.decode(corpus.training[:200]).isascii()


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + PROSE.replace("\n", "\r\n").encode("utf-8"))
    corpus = read_text(path)
    assert corpus.vocabulary.decode(corpus.training) == PROSE[: len(PROSE) * 9 // 10]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n" * 700, "is empty"),
        (b"short", "too short"),
        (b"text\x00" * 500, "binary file"),
        (b"\x89PNG\r\n" * 500, "no UTF-8 text"),
        ("é".encode("latin-1") * 2000, "no UTF-8 text"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ArgumentError, match=message) as caught:
        read_text(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "missing")
    with pytest.raises(ArgumentError, match="a folder"):
        read_text(tmp_path)
    with pytest.raises(ArgumentError, match="no regular file"):
        read_text("/dev/null")
