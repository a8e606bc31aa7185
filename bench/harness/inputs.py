"""Made-up inputs by a rule that `examples/tower_speed/rows.rs` follows too, so that embeddings can be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


PAIR_LENGTH = 16
"""Ids of a text that a matching head reads: those of a short sentence."""


CLIP_END = 1001
"""The last id of CLIP's texts, larger than all others."""


def described(checkpoint: Path | None) -> dict[str, Any]:
    """A checkpoint's configuration; nothing without one."""
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text()) if checkpoint else {}
    return config


def is_clip(checkpoint: Path | None) -> bool:
    """Whether it is a checkpoint of CLIP."""
    return described(checkpoint).get("model_type") == "clip"


def lengths(checkpoint: Path | None) -> tuple[int, int]:
    """The side of an image and the ids of a text: SigLIP's base model's, or a checkpoint's own."""
    config = described(checkpoint)
    if is_clip(checkpoint):
        return config["vision_config"].get("image_size", 224), config["text_config"].get("max_position_embeddings", 77)
    if config.get("model_type") == "blip":
        return config["vision_config"].get("image_size", 384), PAIR_LENGTH
    return 224, TEXT_LENGTH


def model_input(tower: str, rows: int, checkpoint: Path | None = None) -> NDArray[np.generic]:
    """What the reference implementation takes: normalised `[rows, 3, side, side]`, or ids for `text` and `match`."""
    side, length = lengths(checkpoint)
    if tower in ("text", "match"):
        texts = ids(rows, length)
        if tower == "text" and is_clip(checkpoint):
            # CLIP's text is read at its end token, the largest id.
            texts[:, -1] = CLIP_END
        return texts
    values = pixels(rows, side).astype(np.float32) / 255 * 2 - 1
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
