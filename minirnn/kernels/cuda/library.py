"""What printed kernels import: every name of the device library."""

from __future__ import annotations

from . import elementary
from .products import (
    argmax_chain,
    chain_element,
    max_chain,
    product_element,
    sum_chain,
    sum_of_blocks,
    tile_count,
    tiled_product,
)
from .scalars import (
    absolute,
    as_bool,
    as_float32,
    as_float64,
    as_int32,
    as_int64,
    element,
    fma,
    logical_not,
    maximum,
    minimum,
    negative,
    put,
    select,
    sqrt,
)  # fmt: skip
from .tiles import TILE_SHARED, TILE_THREADS
from .weights import chain, chain_aligned, hold

__all__ = [
    "TILE_SHARED", "TILE_THREADS", "absolute", "argmax_chain", "as_bool", "as_float32", "as_float64", "as_int32",
    "as_int64", "chain", "chain_aligned", "chain_element", "element", "fma", "hold", "logical_not", "max_chain",
    "maximum", "minimum", "negative", "product_element", "put", "select", "sqrt", "sum_chain", "sum_of_blocks",
    "tile_count", "tiled_product", *elementary.FUNCTIONS,
]  # fmt: skip

globals().update(elementary.FUNCTIONS)
