"""Dates as people write them, to dates as computers do: an encoder, attention, and a decoder that reads what it wrote.

"Friday, 3 March 1987", "Mar 3, 1987" and "3.3.1987" all become "1987-03-03".  The encoder reads the letters in both
directions.  The decoder writes one character a step: it looks where in the date to read, with weights that depend on
its state, and gets back the character that it wrote before; in training that is the right one (teacher forcing).
`python examples/dates.py` learns it in half a minute, and then has more than 99 % of days that it has never seen right
in every character; it draws where the decoder looked.  `--size small` takes some seconds and gets a part of them right.
"""

import argparse
import datetime
import random

import matplotlib.pyplot as plt
import numpy as np

import minirnn as mr
from minirnn import RecurrentContainer, RecurrentUnit
from minirnn.layers import GRU, Bidirectional, Concatenate, Dense, Embedding, Input, Lambda
from minirnn.models import Model

FORMS = ["{d} {month} {y}", "{d} {mon} {y}", "{month} {d}, {y}", "{weekday}, {d} {month} {y}", "{d}.{m}.{y}"]
LETTERS = " ,.0123456789abcdefghijklmnopqrstuvwxyz"  # what dates are written in; 0 is padding, so the first is 1
CHARACTERS = "-0123456789"  # what they are turned into
LONGEST, LENGTH = len("wednesday, 30 september 2000"), len("2000-09-30")
ONE_HOT = np.eye(len(CHARACTERS), dtype="float32")


def dates(count, draw):
    """Pairs of texts, of random days from 1900 to 2099."""
    first, last = (datetime.date(year, 1, 1).toordinal() for year in (1900, 2100))
    for _ in range(count):
        day = datetime.date.fromordinal(draw.randrange(first, last))
        names = {"month": f"{day:%B}", "mon": f"{day:%b}", "weekday": f"{day:%A}"}
        yield draw.choice(FORMS).format(d=day.day, m=day.month, y=day.year, **names), day.isoformat()


def encoded(pairs):
    """Ids of letters (N, LONGEST), padded with 0, and of characters (N, LENGTH)."""
    ids = np.zeros((len(pairs), LONGEST), int)
    for row, (text, _) in zip(ids, pairs):
        row[: len(text)] = [LETTERS.index(letter) + 1 for letter in text.lower()]
    return ids, np.array([[CHARACTERS.index(character) for character in written] for _, written in pairs])


def decoder_of(units):
    """The decoder: reads a memory (LONGEST, 2 * units), and returns scores of characters and where it looked."""
    memory, absent = Input((LONGEST, 2 * units)), Input((LONGEST,))
    before, h = Input((len(CHARACTERS),)), Input((units,))
    match = mr.ops.contract("bd,bkd->bk", Dense(2 * units)(h), memory) / np.sqrt(2 * units)
    look = mr.ops.softmax(match - 1e9 * absent)
    seen = mr.ops.contract("bk,bkd->bd", look, memory)
    y, next_h = RecurrentUnit(GRU(units))(Concatenate()([before, seen]), states=h)
    scores = Dense(len(CHARACTERS))(Concatenate()([y, seen]))
    one_hot = Lambda(lambda scores: mr.ops.one_hot(mr.ops.argmax(scores, axis=-1), scores.shape[-1], scores.dtype))
    return RecurrentContainer(
        constant_inputs=[memory, absent],
        state_inputs=[before, h],
        state_outputs=[one_hot(scores), next_h],
        sequence_outputs=[scores, look],
        output_length=LENGTH,
        teacher=before,
    )


def draw(pairs, looks, found, path):
    """A picture of where the decoder looked, a date a panel."""
    figure, axes = plt.subplots(1, len(pairs), figsize=(12, 6), layout="constrained")
    for plot, (text, _), look, written in zip(axes, pairs, looks, found):
        plot.imshow(look[:, : len(text)].T, cmap="magma", vmin=0, aspect="auto")
        plot.set_yticks(range(len(text)), text, family="monospace")
        plot.set_xticks(range(LENGTH), written, family="monospace")
    figure.suptitle("where the decoder looked (rows) when it wrote each character (columns)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(units=64, samples=12_000, epochs=3, plot="dates.png"):
    """Learn to rewrite dates; returns the share of new dates that are right in every character."""
    mr.seed(1)
    source = random.Random(1)
    known, new = list(dates(samples, source)), list(dates(1000, source))
    learnt = {written for _, written in known}
    new = [pair for pair in new if pair[1] not in learnt]  # days that it has seen in no form

    text, right = Input((LONGEST,), dtype="int64"), Input((LENGTH, len(CHARACTERS)))
    vectors = Embedding(len(LETTERS) + 1, 32, mask_zero=True)(text)
    both = Bidirectional(GRU(units, return_sequences=True, return_state=True))(vectors)
    constants = [both[0], mr.ops.cast(mr.ops.equal(text, 0), "float32")]
    states = [None, *both.backward_state]  # which has read the date's beginning last
    decoder = decoder_of(units)
    scores, _ = decoder(constants=constants, states=states, teacher=right)
    student = Model([text, right], scores)
    writer = Model(text, decoder(constants=constants, states=states))  # the same layers, without a teacher

    x, y = encoded(known)
    rate = mr.schedules.CosineDecay(0.005, decay_steps=epochs * -(-len(x) // 64), alpha=0.02)
    loss = mr.losses.SparseCategoricalCrossentropy(from_logits=True)
    student.compile(mr.optimizers.Adam(rate, global_clipnorm=1.0), loss, metrics=["accuracy"])
    student.fit([x, ONE_HOT[y]], y, batch_size=64, epochs=epochs, verbose=2)

    x, y = encoded(new)
    scores, looks = writer.predict(x, batch_size=250)
    found = scores.argmax(axis=-1)
    for (written, _), ids in zip(new[:8], found):
        print(f"{written:28} -> {''.join(CHARACTERS[i] for i in ids)}")
    draw(new[:4], looks, [[CHARACTERS[i] for i in ids] for ids in found], plot)
    print(f"drawn: {plot}")
    accuracy = float((found == y).all(axis=1).mean())
    print(f"dates right in every character: {accuracy:.1%} of {len(new)} new days")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=["full", "small"], default="full")
    parser.add_argument("--plot", default="dates.png", help="the file to draw to")
    arguments = parser.parse_args()
    small = {"units": 32, "samples": 6000, "epochs": 2}
    main(plot=arguments.plot, **(small if arguments.size == "small" else {}))
