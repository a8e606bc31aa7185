"""PyTorch running transformers' towers, matching head and captions: the reference, and what infinity runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval, CLIPModel, SiglipModel

from ..inputs import model_input

Array = NDArray[np.generic]


class Pooled(torch.nn.Module):
    """One tower, from its input to the pooled embedding."""

    def __init__(self, checkpoint: Path, tower: str, attention: str) -> None:
        super().__init__()
        kind = CLIPModel if AutoConfig.from_pretrained(checkpoint).model_type == "clip" else SiglipModel
        model = kind.from_pretrained(checkpoint, attn_implementation=attention).eval()
        self.tower = model.vision_model if tower == "vision" else model.text_model
        # CLIP's embeddings are projected; SigLIP's text tower has its head within.
        projection = "visual_projection" if tower == "vision" else "text_projection"
        self.projection = getattr(model, projection, torch.nn.Identity())
        self.eval()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """`[batch, hidden_size]`, unnormalised."""
        pooled: torch.Tensor = self.projection(self.tower(rows).pooler_output)
        return pooled


class Matched(torch.nn.Module):
    """BLIP's matching head on texts and one image, whose states are there."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.model = BlipForImageTextRetrieval.from_pretrained(checkpoint).eval()
        image = torch.from_numpy(model_input("vision", 1, checkpoint))
        self.states = self.model.vision_model(pixel_values=image).last_hidden_state

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """`[texts, 1]`: the logits that a text and the image belong together."""
        states = self.states.expand(len(ids), -1, -1)
        mask = torch.ones(states.shape[:2], dtype=torch.long)
        read = self.model.text_encoder(input_ids=ids, encoder_hidden_states=states, encoder_attention_mask=mask)
        logits: torch.Tensor = self.model.itm_head(read.last_hidden_state[:, 0])
        return logits[:, 1:] - logits[:, :1]


CAPTION_TOKENS = 20


class Captioned(torch.nn.Module):
    """BLIP's captions of images, by transformers' `generate` with its defaults."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.model = BlipForConditionalGeneration.from_pretrained(checkpoint).eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """`[images, tokens]`, as numbers."""
        ids: torch.Tensor = self.model.generate(pixel_values=pixels, max_new_tokens=CAPTION_TOKENS, do_sample=False)
        return ids.float()


def load(checkpoint: Path, tower: str, dtype: str, threads: int) -> Callable[[Array], Array]:
    """The tower as a function."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    module: torch.nn.Module
    match tower:
        case "match":
            module = Matched(checkpoint).to(kind)
        case "captions":
            module = Captioned(checkpoint).to(kind)
        case _:
            module = Pooled(checkpoint, tower, attention="sdpa").to(kind)

    def run(rows: Array) -> Array:
        tensor = torch.from_numpy(rows)
        if tensor.is_floating_point():
            tensor = tensor.to(kind)
        with torch.inference_mode():
            result: Array = module(tensor).float().numpy()
        return result

    return run
