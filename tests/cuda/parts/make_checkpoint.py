"""Writes one random checkpoint in Hugging Face layout.

    python make_checkpoint.py NAME FOLDER TOKENIZER_FOLDER DEVICE [tiny]

Every parameter is random and of a trained model's scale: what is 0 or 1 costs less in some engines, and narrow types
look better than they are.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import SiglipConfig, SiglipModel

Sizes = dict[str, int]

SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
SHAPES: dict[str, tuple[Sizes, Sizes, torch.dtype]] = {
    # The defaults of transformers are those of google/siglip-base-patch16-224.
    "base-224": ({}, {}, torch.float32),
    # Stored in 16 bits, which halves what is written and read.
    "so400m-384": (SO400M, {**SO400M, "patch_size": 14, "image_size": 384}, torch.bfloat16),
}


def values(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator, device=generator.device)
    if name == "logit_scale":
        return torch.full_like(noise, 4.7)
    if name == "logit_bias":
        return torch.full_like(noise, -12.9)
    if len(shape) == 1:
        return 1 + 0.2 * noise if "norm" in name and name.endswith("weight") else 0.1 * noise
    if ("embedding" in name and "patch" not in name) or name.endswith("probe"):
        return 0.5 * noise
    return noise / noise[0].numel() ** 0.5


def main() -> None:
    name, folder, tokenizer, device = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    text, vision, dtype = SHAPES[name]
    if "tiny" in sys.argv[5:]:
        text, vision = TINY, {**TINY, "image_size": 32}
    config = SiglipConfig(text_config={**text, "projection_size": text.get("hidden_size", 768)}, vision_config=vision)
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in SiglipModel(config).named_parameters()}
    generator = torch.Generator(device).manual_seed(1)
    folder.mkdir(parents=True)
    tensors = {name: values(name, shapes[name], generator).to(dtype).cpu() for name in sorted(shapes)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["SiglipModel"]
    config.save_pretrained(folder)
    for file in ("tokenizer.json", "special_tokens_map.json"):
        shutil.copy(tokenizer / file, folder / file)
    declared = json.loads((tokenizer / "tokenizer_config.json").read_text())
    declared["model_max_length"] = config.text_config.max_position_embeddings
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    side = config.vision_config.image_size
    processor = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": side, "width": side},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


if __name__ == "__main__":
    main()
