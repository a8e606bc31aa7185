"""PyTorch running transformers' towers: the reference, and what infinity runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import SiglipModel

Array = NDArray[np.generic]


class Pooled(torch.nn.Module):
    """One tower, from its input to the pooled embedding."""

    def __init__(self, checkpoint: Path, tower: str, attention: str) -> None:
        super().__init__()
        model = SiglipModel.from_pretrained(checkpoint, attn_implementation=attention).eval()
        self.tower = model.vision_model if tower == "vision" else model.text_model
        self.eval()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """`[batch, hidden_size]`, unnormalised."""
        pooled: torch.Tensor = self.tower(rows).pooler_output
        return pooled


def load(checkpoint: Path, tower: str, dtype: str, threads: int) -> Callable[[Array], Array]:
    """The tower as a function."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    module = Pooled(checkpoint, tower, attention="sdpa").to(kind)

    def run(rows: Array) -> Array:
        tensor = torch.from_numpy(rows)
        if tensor.is_floating_point():
            tensor = tensor.to(kind)
        with torch.inference_mode():
            result: Array = module(tensor).float().numpy()
        return result

    return run
