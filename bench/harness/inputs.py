"""Made-up inputs by a rule that `examples/tower_speed/rows.rs` follows too, so that embeddings can be compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TEXT_LENGTH = 64


def _hash(count: int) -> NDArray[np.uint64]:
    index = np.arange(count, dtype=np.uint64)
    return (index * np.uint64(2_654_435_761)) & np.uint64(0xFFFF_FFFF)


def pixels(rows: int, side: int = 224) -> NDArray[np.uint8]:
    """Pictures, `[rows, side, side, 3]`."""
    values = _hash(rows * side * side * 3) >> np.uint64(24)
    return values.astype(np.uint8).reshape(rows, side, side, 3)


def ids(rows: int, length: int = TEXT_LENGTH) -> NDArray[np.int64]:
    """Token ids, `[rows, length]`."""
    values = np.uint64(1) + (_hash(rows * length) >> np.uint64(8)) % np.uint64(1000)
    return values.astype(np.int64).reshape(rows, length)


def model_input(tower: str, rows: int) -> NDArray[np.generic]:
    """What the reference implementation takes: normalised `[rows, 3, 224, 224]`, or ids."""
    if tower == "text":
        return ids(rows)
    values = pixels(rows).astype(np.float32) / 255 * 2 - 1
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
