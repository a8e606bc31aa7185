"""Writes the checkpoint in Hugging Face's layout.

    python export.py --packages work/node_modules --work work --to ../models/demo
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from data import load_concepts
from model import EOS_ID, IMAGE_SIZE, PAD_ID, TEXT_LENGTH, UNK_ID, build_model
from run import averaged_weights
from text import Captions, train_tokenizer

TOKENS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def write_json(path: Path, content: dict) -> None:
    """Writes one indented JSON file."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def tokenizer_files(folder: Path) -> None:
    """Writes what `AutoTokenizer` reads beside tokenizer.json."""
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": TEXT_LENGTH,
            "padding_side": "right",
            "truncation_side": "right",
            "model_input_names": ["input_ids"],
            "clean_up_tokenization_spaces": False,
            "added_tokens_decoder": {
                str(i): {
                    "content": token,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "single_word": False,
                    "special": True,
                }
                for i, token in ((PAD_ID, "<pad>"), (EOS_ID, "</s>"), (UNK_ID, "<unk>"))
            },
            **TOKENS,
        },
    )
    write_json(folder / "special_tokens_map.json", TOKENS)


def preprocessor_file(folder: Path) -> None:
    """Writes what `AutoImageProcessor` reads."""
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "SiglipProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )


def main() -> None:
    """Exports the averaged weights of the last phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, default=Path("work/node_modules"))
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--weights", default="joint.pt", help="the phase's checkpoint in --work")
    parser.add_argument("--to", type=Path, default=Path("../models/demo"))
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    model = build_model(seed=1)
    stored = args.work / args.weights
    if stored.exists():
        trained = averaged_weights(stored)
        missing, unexpected = model.load_state_dict(trained, strict=False)
        assert not unexpected, unexpected
        print(f"{stored}: {len(trained)} tensors, {len(missing)} left as initialised")
    else:
        print(f"{stored} does not exist: exporting untrained weights")
    config = model.config.to_dict()
    config.update(architectures=["SiglipModel"], dtype="float16")
    write_json(args.to / "config.json", config)
    weights = {n: t.detach().half().contiguous() for n, t in model.state_dict().items()}
    save_file(weights, args.to / "model.safetensors", metadata={"format": "pt"})
    (args.to / "model.safetensors").chmod(0o644)
    tokenizer = train_tokenizer(Captions(load_concepts(args.packages)).corpus())
    tokenizer.save(str(args.to / "tokenizer.json"))
    tokenizer_files(args.to)
    preprocessor_file(args.to)
    size = (args.to / "model.safetensors").stat().st_size
    print(f"{sum(t.numel() for t in weights.values()):,} parameters, {size:,} bytes")


if __name__ == "__main__":
    main()
