"""Random checkpoints of CLIP's and BLIP's published shapes, in Hugging Face layout, and CLIP's towers for OpenVINO.

    python -m harness.prepare.families checkpoint FOLDER NAME        NAME: one of `SHAPES`
    python -m harness.prepare.families openvino CHECKPOINT OUT TOWER

Parameters are random and of a trained model's scale, as in `checkpoint`. Vocabularies have the published sizes; the tokenizer knows
a few words, which is enough for made-up texts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval, CLIPConfig, CLIPModel

from ..inputs import model_input
from ..settings import CHECK
from .checkpoint import randomise

WORDS = ["a", "photo", "of", "the", "thing", "with", "number", "cat", "dog", "red", "car", *map(str, range(10))]
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
TEXT_OF_LARGE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}

SHAPES: dict[str, dict[str, Any]] = {
    "clip-vit-base-patch16": {
        "projection_dim": 512,
        "vision": {"patch_size": 16, "image_size": 224},
        "text": {},
    },
    "clip-vit-large-patch14": {
        "projection_dim": 768,
        "vision": {"patch_size": 14, "image_size": 224, **LARGE},
        "text": TEXT_OF_LARGE,
    },
    "blip-itm-base": {"vision": {"patch_size": 16, "image_size": 384}, "text": {"num_attention_heads": 12}},
    "blip-captioning-base": {"vision": {"patch_size": 16, "image_size": 384}, "text": {"num_attention_heads": 12}},
}


def parts(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What differs from the configuration's defaults, of the vision and of the text tower."""
    shape = SHAPES[name]
    small = SMALL if CHECK else {}
    vision, text = shape["vision"] | small, shape["text"] | small
    return vision | ({"image_size": 2 * vision["patch_size"]} if CHECK else {}), text


def clip(folder: Path, name: str) -> None:
    """A CLIP checkpoint: legacy end token, quick GELU, 77 ids, as OpenAI's."""
    vision, text = parts(name)
    config = CLIPConfig(
        projection_dim=SHAPES[name]["projection_dim"],
        vision_config={**vision, "hidden_act": "quick_gelu"},
        text_config={**text, "hidden_act": "quick_gelu", "eos_token_id": 2},
    )
    model = CLIPModel(config).eval()
    randomise(model, seed=1)
    model.save_pretrained(folder)
    pieces = [*WORDS, *(word + "</w>" for word in WORDS), *(letter for letter in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    ends = config.text_config.vocab_size - 2
    vocabulary |= {"<|startoftext|>": ends, "<|endoftext|>": ends + 1}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    declared = {"tokenizer_class": "CLIPTokenizer", "model_max_length": config.text_config.max_position_embeddings}
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    side = config.vision_config.image_size
    preprocessor(folder, "CLIPImageProcessor", side, {"shortest_edge": side}, crop_size={"height": side, "width": side})


def blip(folder: Path, name: str) -> None:
    """A BLIP checkpoint: retrieval, or captioning with tied words."""
    vision, text = parts(name)
    # What stands in the files of the hub; the class's own defaults are others.
    text = {"vocab_size": 30524, "bos_token_id": 30522, "sep_token_id": 102, "eos_token_id": 2, **text}
    config = BlipConfig(vision_config=vision, text_config=text, image_text_hidden_size=256)
    config.architectures = [(BlipForImageTextRetrieval if "itm" in name else BlipForConditionalGeneration).__name__]
    kind = BlipForImageTextRetrieval if "itm" in name else BlipForConditionalGeneration
    model = kind(config).eval()
    randomise(model, seed=1)
    model.tie_weights()
    model.save_pretrained(folder)
    pieces = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [*WORDS, *(f"##{word}" for word in WORDS)]
    (folder / "vocab.txt").write_text("".join(piece + "\n" for piece in pieces))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512})
    )
    side = config.vision_config.image_size
    preprocessor(folder, "BlipImageProcessor", side, {"height": side, "width": side})


def preprocessor(folder: Path, kind: str, side: int, size: dict[str, int], **more: object) -> None:
    """The mean and the deviation are 0.5, so that `inputs.model_input` is what every engine reads."""
    processor = {"image_processor_type": kind, "size": size, "resample": 3, **more}
    processor |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def openvino(checkpoint: Path, out: Path, tower: str) -> None:
    """A tower in OpenVINO's format, traced from the reference implementation."""
    import openvino as ov

    from ..workers.torch_engine import Pooled

    example = torch.from_numpy(model_input(tower, 2, checkpoint))
    with torch.inference_mode():
        model = ov.convert_model(Pooled(checkpoint, tower, attention="sdpa"), example_input=(example,))
    ov.save_model(model, out, compress_to_fp16=False)


def main() -> None:
    """Makes a checkpoint, or a converted tower."""
    match sys.argv[1:]:
        case ["checkpoint", folder, name]:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (clip if name.startswith("clip") else blip)(Path(folder), name)
        case ["openvino", checkpoint, out, tower]:
            Path(out).mkdir(parents=True, exist_ok=True)
            openvino(Path(checkpoint), Path(out) / f"{tower}.xml", tower)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
