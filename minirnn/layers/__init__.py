"""Layers, cells and what they are configured with."""

from __future__ import annotations

from . import activations, constraints, initializers, regularizers
from .base import Layer
from .cells import GRUCell, LSTMCell, SimpleRNNCell, StackedRNNCells
from .core import Activation, Dense, Dropout, Embedding, Lambda, LayerNormalization
from .functional import Input, InputLayer
from .recurrent import GRU, LSTM, RNN, SimpleRNN
from .registry import custom_object_scope, register
from .shaping import Add, Concatenate, Flatten, Masking, Multiply, Reshape
from .states import TensorShape

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "Add",
    "Concatenate",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "Input",
    "InputLayer",
    "LSTMCell",
    "Lambda",
    "Layer",
    "LayerNormalization",
    "Masking",
    "Multiply",
    "Reshape",
    "SimpleRNN",
    "SimpleRNNCell",
    "StackedRNNCells",
    "TensorShape",
    "activations",
    "constraints",
    "custom_object_scope",
    "initializers",
    "register",
    "regularizers",
]
