"""The program that minirnn began with: one time step, written out, becomes a layer over whole sequences.

`python examples/seed.py` runs it on random data and compares the container with the plain SimpleRNN layer
of the same weights.
"""

# ruff: noqa: I001 (the program stands here as it was written)
from minirnn.layers import SimpleRNN, Input
from minirnn.models import Model
from minirnn import RecurrentUnit, RecurrentContainer

x_in, h_in = Input(shape=(20,)), Input(shape=(10,))
x_out, h_out = RecurrentUnit(SimpleRNN(10))(x_in, states=h_in)
data_in = Input(shape=(None, 20))
container = RecurrentContainer(sequence_inputs=x_in, sequence_outputs=x_out, state_inputs=h_in, constant_outputs=h_out)
sequence, last = container(sequences=data_in)
model = Model(inputs=data_in, outputs=[sequence, last])

# What it does -------------------------------------------------------------------------------------
import numpy as np  # noqa: E402

data = np.random.default_rng(0).normal(size=(3, 7, 20)).astype("float32")
outputs, last_output = model.predict(data, verbose=0)

layer = SimpleRNN(10, return_sequences=True)
layer.build(data.shape)
layer.set_weights(model.get_weights())
expected = layer(data).numpy()

difference = max(np.abs(outputs - expected).max(), np.abs(last_output - expected[:, -1]).max())
if __name__ == "__main__":
    model.summary()
    print(f"data {data.shape} -> outputs {outputs.shape}, last output {last_output.shape}")
    print(f"largest difference from SimpleRNN with the same weights: {difference}")
