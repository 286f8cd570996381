"""A character model on one page: one step, run over a text to learn it, then on its own output to write.

`python examples/char_model.py` trains for half a minute on the reference text that every Python carries,
with `--size small` for a second.  `minirnn demo` does the same with a stateful layer, and saves the model.
"""

import argparse
import math
from pydoc_data.topics import topics

import numpy as np

import minirnn as mr
from minirnn import RecurrentContainer, RecurrentUnit
from minirnn.layers import LSTM, Dense, Embedding, Input, Lambda, Reshape
from minirnn.models import Model


def windows(ids, length):
    """The ids cut into windows (N, length, 1), and for each place the id that follows."""
    count = (len(ids) - 1) // length * length
    return ids[:count].reshape(-1, length, 1), ids[1 : count + 1].reshape(-1, length, 1)


def draw(scores):
    """One character for each row, drawn from softmax(2 * scores): the largest after Gumbel noise is added."""
    noise = -mr.ops.log(-mr.ops.log(mr.random.uniform(scores.shape, scores.dtype) + 1e-9))
    return mr.ops.expand_dims(mr.ops.argmax(2.0 * scores + noise, axis=-1), -1)


def main(characters=None, units=128, epochs=3):
    """Learn the first `characters` of the text, all but the last tenth; returns the bits per held-out character."""
    mr.seed(1)
    text = "\n\n".join(topics[name] for name in sorted(topics))[:characters]
    vocabulary = sorted(set(text))
    ids = np.searchsorted(vocabulary, list(text))
    split = len(ids) * 9 // 10

    # One step: a character and the LSTM's state become scores of the next character, and the next state.
    char, h, c = Input((1,), dtype="int64"), Input((units,)), Input((units,))
    vector = Embedding(len(vocabulary), 64, embeddings_initializer=mr.initializers.RandomNormal(stddev=1.0))(char)
    y, next_h, next_c = RecurrentUnit(LSTM(units))(Reshape((64,))(vector), states=[h, c])
    scores = Dense(len(vocabulary))(y)

    # Run over a text it is a network to train.
    reader = RecurrentContainer(
        sequence_inputs=char, state_inputs=[h, c], state_outputs=[next_h, next_c], sequence_outputs=scores
    )
    sequence = Input((None, 1), dtype="int64")
    model = Model(sequence, reader(sequences=sequence))
    loss = mr.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(mr.optimizers.Adam(0.01, global_clipnorm=1.0), loss)
    model.fit(*windows(ids[:split], 32), batch_size=32, epochs=epochs, verbose=2)

    # With the drawn character fed back it writes.  Both containers share the step's weights.
    next_char = Lambda(draw)(scores)
    writer = RecurrentContainer(
        state_inputs=[char, h, c],
        state_outputs=[next_char, next_h, next_c],
        sequence_outputs=next_char,
        output_length=300,
    )
    written = writer(states=[ids[:1, None], None, None])
    print("".join(vocabulary[i] for i in np.asarray(written).ravel()))

    bits = model.evaluate(*windows(ids[split:], 256), verbose=0) / math.log(2)
    share = np.bincount(ids[:split], minlength=len(vocabulary)) + 0.01
    unigram = -np.log2(share / share.sum())[ids[split:]].mean()
    print(f"bits per character on held-out text: {bits:.3f} (unigram {unigram:.3f})")
    return bits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=["full", "small"], default="full")
    small = {"characters": 20_000, "units": 24, "epochs": 3}
    main(**(small if parser.parse_args().size == "small" else {}))
