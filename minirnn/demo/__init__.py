"""What `minirnn demo`, `train` and `generate` do: a character-level LSTM on a text, measured against n-grams."""
