"""Random checkpoints of google/siglip-base-patch16-224's shape, in Hugging Face layout.

    python -m harness.prepare.checkpoint FOLDER TOKENIZER_FOLDER [IMAGE_SIZE]

With an image size other than 224 only the vision tower is made: what the cost of larger pictures needs.
Every parameter is random and of a trained model's scale: what is 0 or 1 costs less in some engines, and
quantisation looks better than it is.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import SiglipConfig, SiglipModel, SiglipVisionConfig, SiglipVisionModel

from ..settings import CHECK

IMAGE_SIZE = 224
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2} if CHECK else {}
"""What trying out the harness changes in both towers."""


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Overwrites all parameters, in the order of their names."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "logit_scale":
                parameter.fill_(4.7)
            elif name == "logit_bias":
                parameter.fill_(-12.9)
            elif parameter.ndim == 1 and "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * noise)
            elif ("embedding" in name and "patch" not in name) or name.endswith("probe"):
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


def write(folder: Path, tokenizer: Path, image_size: int) -> None:
    """Makes the checkpoint; the tokenizer is any that fits the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    model: torch.nn.Module
    if image_size == IMAGE_SIZE:
        config = SiglipConfig(text_config=SMALL, vision_config=SMALL)
        # The published length and vocabulary; a text is padded to 64 whatever the tokenizer.
        model = SiglipModel(config).eval()
        for file in ("tokenizer.json", "special_tokens_map.json"):
            shutil.copy(tokenizer / file, folder / file)
        declared = json.loads((tokenizer / "tokenizer_config.json").read_text())
        declared["model_max_length"] = config.text_config.max_position_embeddings
        (folder / "tokenizer_config.json").write_text(json.dumps(declared, indent=2) + "\n")
    else:
        model = SiglipVisionModel(SiglipVisionConfig(image_size=image_size, **SMALL)).eval()
    randomise(model, seed=1)
    model.save_pretrained(folder)
    processor = {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "SiglipProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else IMAGE_SIZE)
