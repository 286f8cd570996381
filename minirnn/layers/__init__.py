"""Layers, cells and what they are configured with."""

from __future__ import annotations

from . import activations, constraints, initializers, regularizers
from .attention import AttentionCell
from .base import Layer
from .cells import GRUCell, LSTMCell, SimpleRNNCell
from .conv_recurrent import ConvLSTM1D, ConvLSTM2D, ConvLSTM3D, ConvLSTMCell
from .core import Activation, Dense, Dropout, Embedding, Lambda, LayerNormalization
from .functional import Input, InputLayer
from .recurrent import RNN
from .registry import custom_object_scope, register
from .shaping import Add, Concatenate, Flatten, Masking, Multiply, Reshape
from .stacked import StackedRNNCells
from .standard import GRU, LSTM, SimpleRNN
from .states import TensorShape
from .time_distributed import TimeDistributed
from .wrappers import Bidirectional

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "Add",
    "AttentionCell",
    "Bidirectional",
    "Concatenate",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
    "ConvLSTMCell",
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
    "TimeDistributed",
    "activations",
    "constraints",
    "custom_object_scope",
    "initializers",
    "register",
    "regularizers",
]
