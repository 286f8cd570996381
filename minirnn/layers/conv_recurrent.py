"""ConvLSTM1D, ConvLSTM2D and ConvLSTM3D: an LSTM whose products are convolutions, over sequences of images."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..autodiff import ops, trees
from ..autodiff.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from . import registry
from .base import shape_text, units_of
from .cells import LSTMCell, product
from .sequences import SequenceForm
from .standard import CellLayer
from .states import TensorShape, checked_states

_FORMATS = ("channels_last", "channels_first")
_AXES = ("rows", "cols", "depth")
_PADDINGS = ("valid", "same")
# Options of an LSTMCell that have another name here, or no meaning.
_NOT_OPTIONS = ("units", "implementation")


@registry.register(kind="layer")
class ConvLSTMCell(LSTMCell):
    """One step of an LSTM whose products are convolutions over `rank` axes, 1 to 3 (Shi et al. 2015, arXiv:1506.04214).

    Inputs of a call are images (B, *S, C), the states h and c are (B, *P, filters), where P are the positions
    that the convolution of the input has with `strides`, `padding` ("valid" or "same") and `dilation_rate`;
    the convolution of h is always "same", with neither.  With data_format "channels_first" the channels
    stand behind the batch.  Columns in the order i, f, c, o.  Weights: kernel (*kernel_size, C, 4 * filters),
    recurrent_kernel (*kernel_size, filters, 4 * filters), bias (4 * filters,).  With dropout each gate drops
    elements of its own.  The other options are those of LSTMCell.

    Raises ArgumentError for a rank above 3, and for strides together with a dilation, ShapeError for images
    of unknown size.

    >>> cell = ConvLSTMCell(2, 4, (3, 5), padding="same")
    >>> cell.build((None, 8, 9, 1))
    >>> cell.state_size
    [TensorShape((8, 9, 4)), TensorShape((8, 9, 4))]
    """

    option_names = (
        "rank", "filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate",
        *(name for name in LSTMCell.option_names if name not in _NOT_OPTIONS),
    )  # fmt: skip

    def __init__(
        self,
        rank: int,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        **options: Any,
    ) -> None:
        name = options.get("name")
        filters = units_of(filters, type(self).__name__ + (f" {name!r}" if name else ""), "filters")
        super().__init__(filters, activation, recurrent_activation, use_bias, implementation=1, **options)
        self.rank = units_of(rank, self.label, "rank")
        if self.rank > 3:
            raise ArgumentError(f"{self.label}: rank", got=rank, expected="1, 2 or 3: the number of spatial axes")
        self.kernel_size = self._per_axis(kernel_size, "kernel_size")
        self.strides = self._per_axis(strides, "strides")
        self.dilation_rate = self._per_axis(dilation_rate, "dilation_rate")
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ArgumentError(
                f"{self.label}: `strides > 1` not supported in conjunction with `dilation_rate > 1`",
                got=f"strides {self.strides}, dilation_rate {self.dilation_rate}",
            )
        self.padding = self._one_of(_PADDINGS, str(padding).lower(), "padding")
        self.data_format = self._one_of(_FORMATS, data_format or _FORMATS[0], "data_format")
        self._positions: tuple[int | None, ...] = (None,) * self.rank

    def _per_axis(self, value: Any, what: str) -> tuple[int, ...]:
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * self.rank
        if len(values) != self.rank:
            raise ArgumentError(f"{self.label}: {what}", got=value, expected=f"a positive integer, or {self.rank}")
        return tuple(units_of(v, self.label, what) for v in values)

    def _one_of(self, known: tuple[str, ...], value: str, what: str) -> str:
        if value not in known:
            raise ArgumentError(f"{self.label}: {what}", got=repr(value), expected=" or ".join(map(repr, known)))
        return value

    @property
    def filters(self) -> int:
        """The number of channels of c, and of h unless it is projected."""
        return self.units

    @property
    def state_size(self) -> Any:
        """The shapes of h and c; their positions are known once the cell is built."""
        return [self._images(self._h_size, self._positions), self._images(self.units, self._positions)]

    @property
    def output_size(self) -> Any:
        """The shape of h."""
        return self._images(self._h_size, self._positions)

    def _images(self, channels: int, positions: tuple[int | None, ...]) -> TensorShape:
        return TensorShape((channels, *positions) if self._is_channels_first else (*positions, channels))

    @property
    def _is_channels_first(self) -> bool:
        return self.data_format == "channels_first"

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of an image's axes, in their order."""
        spatial = _AXES[: self.rank]
        return ("channels", *spatial) if self._is_channels_first else (*spatial, "channels")

    def _features_of(self, input_shape: Any) -> Any:
        self._positions = self.positions_of(input_shape)
        return input_shape[1 if self._is_channels_first else -1]

    def states_of(self, input_shape: Any) -> list[TensorShape]:
        """The shapes of h and c for a step of this shape; ShapeError if it is none for this cell."""
        positions = self.positions_of(input_shape)
        return [self._images(self._h_size, positions), self._images(self.units, positions)]

    def positions_of(self, input_shape: Any) -> tuple[int, ...]:
        """The sizes of the spatial axes of the states, for a step of this shape; ShapeError if it is none."""
        if len(input_shape) != self.rank + 2 or any(size is None for size in input_shape[1:]):
            raise ShapeError(
                f"{self.label}: a step of the input has to be images of known size",
                got=shape_text(input_shape, ("batch",)),
                expected=f"(batch, {', '.join(self.axes)})",
            )
        spatial = list(input_shape[2:] if self._is_channels_first else input_shape[1:-1])
        rates = zip(self.kernel_size, self.dilation_rate, strict=True)
        cut = [rate * (size - 1) if self.padding == "valid" else 0 for size, rate in rates]
        if any(n <= less for n, less in zip(spatial, cut, strict=True)):
            raise ShapeError(
                f"{self.label}: the kernel is larger than the images",
                got=f"images {spatial}, kernel_size {self.kernel_size}, dilation_rate {self.dilation_rate}",
                fix='padding="same"',
            )
        return tuple(-(-(n - less) // step) for n, less, step in zip(spatial, cut, self.strides, strict=True))

    def _kernel_shape(self, features: Any) -> tuple[int, ...]:
        return (*self.kernel_size, *super()._kernel_shape(features))

    def _x_product(self, xs: list[Any]) -> Any:
        return product(xs, self.kernel, lambda x, k: ops.conv(x, k, self.strides, self.padding, self.dilation_rate))

    def _h_product(self, hs: list[Any]) -> Any:
        return product(hs, self.recurrent_kernel, lambda h, k: ops.conv(h, k, padding="same"))

    def call(self, inputs: Any, states: Any, training: Any = False) -> tuple[Any, list[Any]]:
        """(B, *S, C) and [h, c] to (h, [h, c])."""
        if not self._is_channels_first:
            return super().call(inputs, states, training)
        rank = self.rank
        last, first = (0, *range(2, rank + 2), 1), (0, rank + 1, *range(1, rank + 1))
        inputs, *states = (ops.transpose(x, last) for x in (inputs, *states))
        _, states = super().call(inputs, states, training)
        h, c = (ops.transpose(x, first) for x in states)
        return h, [h, c]


class _Images(SequenceForm):
    """The form of a sequence of images, whose axes have names."""

    def __init__(self, form: SequenceForm, step_axes: tuple[str, ...]) -> None:
        super().__init__(form.label, form.time_major, form.rank)
        self._step_axes = step_axes

    def _checked_rank(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        try:
            return super()._checked_rank(shape)
        except ShapeError as error:
            missing = self.rank is not None and len(shape) == self.rank - 1
            raise ShapeError(
                error.what,
                expected=f"({', '.join((*self.axes, *self._step_axes))})",
                fix="one sequence is a batch of one: x[None]" if missing else None,
            ) from None


class _ConvLSTM(CellLayer):
    """What the three layers share; see ConvLSTMCell and RNN."""

    cell_class = ConvLSTMCell
    rank: ClassVar[int]

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(
            self.rank, filters, kernel_size, strides, padding, data_format, dilation_rate, activation,
            recurrent_activation, use_bias, **options,
        )  # fmt: skip
        self._form = _Images(self._form, self.cell.axes)

    def _check_first_call(self, inputs: Any, options: dict[str, Any]) -> None:
        super()._check_first_call(inputs, options)
        # The sizes of the states are those of these images.
        initial_state = options["initial_state"]
        if all(isinstance(leaf, (Tensor, np.ndarray)) for leaf in trees.flatten((inputs, initial_state))[0]):
            shapes, batch = self.cell.states_of((None, *inputs.shape[2:])), inputs.shape[self.batch_axis]
            if initial_state is not None:
                checked_states(initial_state, shapes, batch, self.label)
            elif self.stateful:
                self._held.check_against(shapes, batch)

    @property
    def filters(self) -> int:
        """The number of channels of the output and of each state."""
        return int(self.cell.filters)

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        del config["rank"]
        return config


@registry.register(kind="layer")
class ConvLSTM1D(_ConvLSTM):
    """An LSTM of convolutions over sequences (B, T, n, C); options of ConvLSTMCell and of RNN.

    >>> import numpy as np
    >>> ConvLSTM1D(4, 3, return_sequences=True)(np.ones((2, 5, 8, 1))).shape
    (2, 5, 6, 4)
    """

    rank, input_rank = 1, 4


@registry.register(kind="layer")
class ConvLSTM2D(_ConvLSTM):
    """An LSTM of convolutions over sequences of images (B, T, n, m, C); options of ConvLSTMCell and of RNN.

    >>> import numpy as np
    >>> ConvLSTM2D(4, (3, 5), padding="same")(np.ones((2, 5, 6, 7, 1))).shape
    (2, 6, 7, 4)
    """

    rank, input_rank = 2, 5


@registry.register(kind="layer")
class ConvLSTM3D(_ConvLSTM):
    """An LSTM of convolutions over sequences of volumes (B, T, n, m, k, C); options of ConvLSTMCell and of RNN.

    >>> import numpy as np
    >>> y, h, c = ConvLSTM3D(2, 2, return_state=True)(np.ones((1, 3, 4, 5, 6, 1)))
    >>> c.shape
    (1, 3, 4, 5, 2)
    """

    rank, input_rank = 3, 6
