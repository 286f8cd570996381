"""Who is speaking?  Utterances of different lengths, read in both directions: the data set Japanese Vowels.

Nine men said two vowels in a row: 12 coefficients at each of 7 to 29 moments, 270 utterances to learn from and 370
to test (Kudo, Toyama and Shimbo 1999).  They go to the model as they are, in an `mr.Ragged`: each direction reads from
its own end of an utterance to the other, and padding counts nowhere.  `python examples/speakers.py` trains for some
seconds, names the speaker of about 97 % of the test utterances, prints a baseline beside that, and draws the data
with its mask, the accuracy and the confusions; `--size small` takes fewer epochs.

The data is part of the package sktime, of which nothing else is needed: `pip install --no-deps sktime`.
"""

import argparse
import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import minirnn as mr
from minirnn.layers import GRU, Bidirectional, Dense, Dropout, Input
from minirnn.models import Model


def utterances(part):
    """The sequences (time, 12) of "TRAIN" or "TEST" as a Ragged, and their speakers, 0 to 8."""
    package = importlib.util.find_spec("sktime")
    if package is None:
        raise SystemExit("the data is in the package sktime, which is not installed: pip install --no-deps sktime")
    name = "JapaneseVowels"
    path = Path(package.submodule_search_locations[0], "datasets", "data", name, f"{name}_{part}.ts")
    _, _, lines = path.read_text(encoding="utf-8").partition("@data\n")
    # A line holds the channels and the speaker, 1 to 9, with colons between; a channel's numbers have commas between.
    rows = [line.split(":") for line in lines.splitlines()]
    sequences = [np.array([channel.split(",") for channel in channels], "float32").T for *channels, _ in rows]
    return mr.Ragged(sequences), np.array([int(speaker) - 1 for *_, speaker in rows])


def nearest(known, speakers, new):
    """For each new utterance the speaker of the known one with the most similar mean."""
    means, new_means = (np.stack([row.mean(axis=0) for row in rows]) for rows in (known, new))
    distances = ((new_means[:, None] - means) ** 2).sum(axis=-1)
    return speakers[distances.argmin(axis=1)]


def draw(x, speakers, found, history, path):
    """A picture of some utterances with their mask, of the accuracy over the epochs, and of who is taken for whom."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", width_ratios=[1.2, 1, 1])
    rows = x[:: len(x) // 24]
    loudness = np.ma.array(rows.padded()[..., 0], mask=~rows.mask)
    axes[0].imshow(loudness, aspect="auto", interpolation="nearest")
    axes[0].set_facecolor("lightgray")
    axes[0].set(title="first coefficient; grey: masked", xlabel="time", ylabel="utterance")
    axes[1].plot(history["accuracy"], label="training, with dropout")
    axes[1].plot(history["val_accuracy"], label="test")
    axes[1].set(title="accuracy", xlabel="epoch", ylim=(0, 1))
    axes[1].legend()
    confusions = np.zeros((9, 9), int)
    np.add.at(confusions, (speakers, found), 1)
    axes[2].imshow(confusions, cmap="Blues", vmax=12)
    for (row, column), count in np.ndenumerate(confusions):
        if count:
            axes[2].text(column, row, count, ha="center", va="center", color="white" if count > 8 else "black")
    axes[2].set(title="test utterances", xlabel="speaker found", ylabel="speaker")
    axes[2].set(xticks=range(9), xticklabels=range(1, 10), yticks=range(9), yticklabels=range(1, 10))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(units=64, epochs=30, plot="speakers.png"):
    """Learn the speakers' voices; returns the share of the test utterances that are recognised."""
    mr.seed(1)
    x, y = utterances("TRAIN")
    test_x, test_y = utterances("TEST")
    print(f"to learn from: {x}\nto test: {test_x}")

    utterance = Input((None, 12))
    voice = Bidirectional(GRU(units, dropout=0.2))(utterance)
    model = Model(utterance, Dense(9)(Dropout(0.5)(voice)))
    rate = mr.schedules.CosineDecay(0.005, decay_steps=epochs * -(-len(x) // 16))
    loss = mr.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(mr.optimizers.Adam(rate, global_clipnorm=1.0), loss, metrics=["accuracy"])
    # The test data is looked at after each epoch for the picture only; nothing is chosen by it.
    history = model.fit(x, y, batch_size=16, epochs=epochs, validation_data=(test_x, test_y), verbose=2)

    found = model.predict(test_x).argmax(axis=-1)
    draw(test_x, test_y, found, history.history, plot)
    print(f"drawn: {plot}")
    accuracy = float((found == test_y).mean())
    baseline = (nearest(x, y, test_x) == test_y).mean()
    print(f"speakers recognised: {accuracy:.1%} of {len(test_y)} (nearest mean {baseline:.1%}, published 95 to 98%)")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=["full", "small"], default="full")
    parser.add_argument("--plot", default="speakers.png", help="the file to draw to")
    arguments = parser.parse_args()
    small = {"units": 24, "epochs": 8}
    main(plot=arguments.plot, **(small if arguments.size == "small" else {}))
