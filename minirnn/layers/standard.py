"""SimpleRNN, GRU and LSTM: an RNN over one of the standard cells, configured by the cell's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from . import registry
from .cells import GRUCell, LSTMCell, SimpleRNNCell
from .keras_configs import in_our_words
from .recurrent import RNN


class CellLayer(RNN):
    """An RNN over a cell of one class, configured by the cell's options; `sizes` are the cell's first arguments."""

    input_rank = 3
    ignores_constants = True
    cell_class: ClassVar[Any]

    def __init__(self, *sizes: Any, **options: Any) -> None:
        own = {name: options.pop(name) for name in self.cell_class.option_names if name in options}
        name, dtype = options.get("name"), options.get("dtype")
        super().__init__(self.cell_class(*sizes, dtype=dtype, name=name or type(self).__name__, **own), **options)
        self.cell.trainable = self.trainable

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("state_size", *cls.cell_class.option_names):
            if not hasattr(cls, name):
                setattr(cls, name, _of_cell(name))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "trainable" and "cell" in vars(self):
            self.cell.trainable = value

    def get_config(self) -> dict[str, Any]:
        cell = self.cell.get_config()
        config = {key: value for key, value in super().get_config().items() if key != "cell"}
        return {**config, **{name: cell[name] for name in self.cell_class.option_names}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: dict[str, Any] | None = None) -> Any:
        return super().from_config(dict(in_our_words(config, cls.cell_class.option_names)), custom_objects)


def _of_cell(name: str) -> property:
    """An option of the cell as one of the layer."""
    return property(
        lambda self: getattr(self.cell, name),
        lambda self, value: setattr(self.cell, name, value),
        doc=f"The cell's `{name}`.",
    )


@registry.register(kind="layer")
class SimpleRNN(CellLayer):
    """`h = activation(x @ kernel + bias + h @ recurrent_kernel)` over time; options of SimpleRNNCell and of RNN.

    >>> import numpy as np
    >>> SimpleRNN(4, return_sequences=True)(np.ones((2, 5, 3))).shape
    (2, 5, 4)
    """

    cell_class = SimpleRNNCell

    def __init__(self, units: int, activation: Any = "tanh", use_bias: bool = True, **options: Any) -> None:
        super().__init__(units, activation=activation, use_bias=use_bias, **options)


@registry.register(kind="layer")
class GRU(CellLayer):
    """Gated recurrent units over time; options of GRUCell and of RNN.

    >>> import numpy as np
    >>> GRU(4, reset_after=False)(np.ones((2, 5, 3))).shape
    (2, 4)
    """

    cell_class = GRUCell

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            units, activation=activation, recurrent_activation=recurrent_activation, use_bias=use_bias, **options
        )


@registry.register(kind="layer")
class LSTM(CellLayer):
    """Long short-term memory over time; options of LSTMCell and of RNN.

    >>> import numpy as np
    >>> y, h, c = LSTM(4, return_state=True)(np.ones((2, 5, 3)))
    >>> y.shape, c.shape
    ((2, 4), (2, 4))
    """

    cell_class = LSTMCell

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            units, activation=activation, recurrent_activation=recurrent_activation, use_bias=use_bias, **options
        )
