"""Writes the small random CLIP checkpoints, and what transformers and open_clip make of them.

    pip install -r tests/golden/requirements.txt
    python tests/golden/generate_clip.py

Everything is seeded: a second run writes the same values.
"""

import json
import shutil

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torchvision.transforms import CenterCrop, InterpolationMode, Resize
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from generate import HERE, encoder, pictures, randomise, save

TEXTS = [
    "a cat", "A  CAT", "two dogs and a red car", "", "caf\u00e9 \uace0\uc591\uc774!", "it's 24 cats, don't",
    "cat " * 40 + "dog", "\u201cna\u00efve\u201d cats\u00a0& dogs...",
]
START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 14
# Height and width of images, and the surplus of the crop: none, 1, 2, 3, 7, and a thread of pixels.
SHAPES = [(16, 16), (16, 17), (18, 16), (16, 19), (23, 16), (40, 61), (61, 40), (9, 13), (2, 300), (300, 1)]


def vocabulary():
    """The bytes, alone and at a word's end, a few merges, and the two control tokens at the end."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("r", "e"), ("re", "d</w>"), ("a", "n"), ("an", "d</w>")]
    pieces = letters + [letter + "</w>" for letter in letters] + ["".join(merge) for merge in merges]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    vocab |= {START: len(vocab), END: len(vocab) + 1}
    return vocab, merges


def tokenizer_files(folder, form):
    vocab, merges = vocabulary()
    if form == "vocab":
        (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False) + "\n")
        lines = "".join(f"{left} {right}\n" for left, right in merges)
        (folder / "merges.txt").write_text("#version: 0.2\n" + lines)
    tok = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)
    if form != "vocab":
        tok.backend_tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "pad_token": "!" if form == "vocab" else END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tok, len(vocab)


def variants():
    """name -> vision config, text config or None, options."""
    small = encoder(24, 28, 2)
    picture = dict(image_size=16, patch_size=8)
    yield "clip-tiny", small | picture, encoder(20, 36, 2), {"dim": 28}
    # The first checkpoints: the end token of 2, the exact GELU, heads of 80 values, a remainder that fills no patch.
    yield "clip-legacy-end", encoder(160, 37, 2, 1, image_size=30, patch_size=14, hidden_act="gelu"), encoder(30, 29, 3, 1, hidden_act="gelu", eos_token_id=2), {
        "dim": 16, "dtype": torch.float16, "form": "vocab", "end": 2}
    # The old objects win over the new ones, with their defaults.
    yield "clip-config-dict", small | picture, encoder(24, 28, 2), {"dim": 24, "dict": True, "dtype": torch.bfloat16}
    yield "clip-vision-only", small | picture, None, {"dim": 12}
    yield "clip-vision-prefixed", small | picture, None, {"dim": 12, "prefixed": True}


def stages(prefix, output, pooled):
    tensors = {f"{prefix}.hidden_state.{index}": state for index, state in enumerate(output.hidden_states)}
    return tensors | {f"{prefix}.last_hidden_state": output.last_hidden_state, f"{prefix}.pooled": pooled}


def prepared(processor, shapes):
    """Images, and the 8-bit pixels that the processor makes of them."""
    tensors = {}
    for index, (height, width) in enumerate(shapes):
        image = pictures(max(height, width), 1)[0][:height, :width]
        values = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np").pixel_values[0]
        tensors[f"image.{index}"] = torch.from_numpy(image.copy())
        tensors[f"prepared.{index}"] = torch.from_numpy(values.transpose(1, 2, 0).astype("uint8").copy())
    return tensors


@torch.no_grad()
def checkpoint(name, vision, text, options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    side, dim = vision["image_size"], options["dim"]
    if text is None:
        model = CLIPVisionModelWithProjection(CLIPVisionConfig(**vision, projection_dim=dim, attn_implementation="eager"))
    else:
        tok, count = tokenizer_files(folder, options.get("form"))
        text |= dict(vocab_size=count, max_position_embeddings=LENGTH, bos_token_id=count - 2)
        text["eos_token_id"] = options.get("end", count - 1)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim, attn_implementation="eager"))
    model.eval()
    randomise(model, seed=sum(map(ord, name)))
    dtype = options.get("dtype", torch.float32)
    stored = {key: value.to(dtype).clone() for key, value in model.state_dict().items() if "position_ids" not in key}
    model.load_state_dict({key: value.float() for key, value in stored.items()}, strict=False)
    if text is None and not options.get("prefixed"):
        stored = {key.removeprefix("vision_model."): value for key, value in stored.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    keep = ("model_type", "projection_dim", "text_config", "vision_config") if text is not None else tuple(config)
    config = {key: value for key, value in config.items() if key in keep}
    if options.get("dict"):
        # As in OpenAI's files: the full description is in the old object, and the new one says other things.
        old = {key: value for key, value in config["text_config"].items() if key in text}
        config |= {"text_config_dict": old, "text_config": config["text_config"] | {"hidden_act": "gelu", "hidden_size": 7}}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    files = {"size": side, "crop_size": side, "do_center_crop": True, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor",
             "image_mean": processor.image_mean, "image_std": processor.image_std}
    (folder / "preprocessor_config.json").write_text(json.dumps(files, indent=2) + "\n")

    pixels = pictures(side)
    mean, std = torch.tensor(processor.image_mean).double(), torch.tensor(processor.image_std).double()
    values = ((torch.from_numpy(pixels).double() / 255 - mean) / std).permute(0, 3, 1, 2).float().contiguous()
    seen = model.vision_model(pixel_values=values, output_hidden_states=True)
    expected = {"pixels": torch.from_numpy(pixels)}
    expected |= stages("vision", seen, model.visual_projection(seen.pooler_output))
    if text is not None:
        encoded = tok(TEXTS, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        ids, mask = encoded.input_ids, encoded.attention_mask
        read = model.text_model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        expected |= stages("text", read, model.text_projection(read.pooler_output))
        whole = model(input_ids=ids, attention_mask=mask, pixel_values=values)
        expected |= {
            "ids": ids, "lengths": mask.sum(1, keepdim=True), "logits": whole.logits_per_image,
            "probabilities": whole.logits_per_image.softmax(1),
        }
    save(folder, expected | prepared(processor, SHAPES if side == 16 else []), TEXTS if text is not None else [])


def small_crop():
    """Images that are smaller than the crop after the resize, and crops that surpass it by an odd number."""
    folder = HERE / "clip-crops"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    expected = {}
    for name, shortest, crop in [("small", 9, 14), ("odd", 20, 13)]:
        processor = CLIPImageProcessorPil(size={"shortest_edge": shortest}, crop_size={"height": crop, "width": crop})
        expected |= {f"{name}.{key}": value for key, value in prepared(processor, SHAPES[:8]).items()}
    save_file(expected, folder / "expected.safetensors")


def open_clip_variants():
    """name -> model's settings, options."""
    vision = dict(image_size=16, layers=2, width=24, head_width=12, patch_size=8, mlp_ratio=1.5)
    text = dict(context_length=LENGTH, width=20, heads=2, layers=2, mlp_ratio=2.0)
    yield "clip-open-clip", dict(embed_dim=28, vision_cfg=vision, text_cfg=text), {}
    yield "clip-open-clip-quick", dict(embed_dim=16, quick_gelu=True, custom_text=True, vision_cfg=vision, text_cfg=text), {
        "prefix": "module.", "squash": True, "mean": [0.5] * 3, "std": [0.5] * 3, "scale": (1,)}
    scaled = dict(ls_init_value=0.1)
    yield "clip-open-clip-scaled", dict(embed_dim=20, vision_cfg=vision | scaled, text_cfg=text | scaled), {"squash": True}


@torch.no_grad()
def open_clip_checkpoint(name, model_cfg, options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    tok, count = tokenizer_files(folder, None)
    model_cfg["text_cfg"] = model_cfg["text_cfg"] | dict(vocab_size=count)
    arguments = {key: value for key, value in model_cfg.items() if key != "custom_text"}
    model = (open_clip.CustomTextCLIP if model_cfg.get("custom_text") else open_clip.CLIP)(**arguments)
    model.eval()
    randomise(model, seed=sum(map(ord, name)))
    stored = {key: value.clone() for key, value in model.state_dict().items() if not key.endswith("attn_mask")}
    stored["logit_scale"] = stored["logit_scale"].reshape(options.get("scale", ()))
    prefix = options.get("prefix", "")
    save_file({prefix + key: value for key, value in stored.items()}, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    squash = options.get("squash", False)
    preprocess = {"resize_mode": "squash"} if squash else {}
    preprocess |= {key: options[key] for key in ("mean", "std") if key in options}
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=model_cfg, preprocess_cfg=preprocess), indent=2) + "\n")

    mean = options.get("mean", open_clip.constants.OPENAI_DATASET_MEAN)
    std = options.get("std", open_clip.constants.OPENAI_DATASET_STD)
    pixels = pictures(16)
    scaled = (torch.from_numpy(pixels).double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    values = scaled.permute(0, 3, 1, 2).float().contiguous()
    texts = [text for text in TEXTS if "\u201c" not in text]
    ids = tok([open_clip.tokenizer.get_clean_fn("lower")(text) for text in texts], padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    lengths, ids = ids.attention_mask.sum(1, keepdim=True), ids.input_ids
    images, captions = model.encode_image(values), model.encode_text(ids)
    normed = torch.nn.functional.normalize
    logits = model.logit_scale.exp() * normed(images, dim=-1) @ normed(captions, dim=-1).T
    expected = {
        "pixels": torch.from_numpy(pixels), "ids": ids, "lengths": lengths, "vision.pooled": images, "text.pooled": captions,
        "logits": logits, "probabilities": logits.softmax(1),
    }
    if not squash:
        for index, (height, width) in enumerate(SHAPES):
            image = pictures(max(height, width), 1)[0][:height, :width].copy()
            crop = CenterCrop(16)(Resize(16, interpolation=InterpolationMode.BICUBIC)(Image.fromarray(image)))
            expected[f"image.{index}"] = torch.from_numpy(image)
            expected[f"prepared.{index}"] = torch.from_numpy(np.array(crop))
    save(folder, expected, texts)


def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for variant in variants():
        checkpoint(*variant)
    small_crop()
    for variant in open_clip_variants():
        open_clip_checkpoint(*variant)


if __name__ == "__main__":
    main()
