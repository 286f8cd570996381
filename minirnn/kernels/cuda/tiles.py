"""The tiles of a large product, known to what prints and launches kernels and to the device library."""

from __future__ import annotations

TILE = 64  # rows and columns
TILE_THREADS = 256  # of a block that computes a tile
TILE_DEPTH = 32  # contracted indices that are on the chip at a time
TILE_SHARED = 2 * TILE_DEPTH * TILE  # elements of shared memory


def tile_count(rows: int, columns: int) -> int:
    """How many tiles a matrix has."""
    return (rows + TILE - 1) // TILE * ((columns + TILE - 1) // TILE)
