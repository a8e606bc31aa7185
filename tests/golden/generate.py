"""Writes the reference outputs that tests/it/golden.rs compares the towers with.

    pip install -r tests/golden/requirements.txt
    python tests/golden/generate.py            # small random checkpoints, resize and decode vectors
    python tests/golden/generate.py --demo     # models/demo and the sample images, after a retraining
    python tests/golden/generate.py --full-size FOLDER   # a random siglip-base of 800 MB, with outputs

Everything is seeded: a second run writes the same values.
"""

import argparse
import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    Siglip2Config,
    Siglip2Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.image_transforms import convert_to_rgb
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TEXTS = ["a cat", "A CAT", "two dogs and a red car", "", "고양이", "a " * 40 + "cat"]


def tokenizer(folder, length):
    """A unigram tokenizer of forty pieces, lower-casing, with pad 0 and the end token 1."""
    pieces = "▁ ▁a ▁cat ▁dog ▁red ▁car ▁two ▁and s a b c d e g n o r t u w 고 양 이".split()
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(piece, -1.0 - 0.25 * rank) for rank, piece in enumerate(pieces)]
    tok = Tokenizer(models.Unigram(vocab, unk_id=2))
    tok.normalizer = normalizers.Lowercase()
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tok.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tok.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return len(vocab)


def gemma_tokenizer(folder, length):
    """The kind that SigLIP 2 has: BPE that knows no case, pad 0, end 1, and a space as `▁`."""
    characters = "▁ a b c d e g n o r s t w 고 양 이".split()
    words = ["ca", "cat", "▁cat", "▁a", "do", "dog", "▁dog"]
    vocab = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *characters, *words]
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat"), ("▁", "a"), ("d", "o"), ("do", "g"), ("▁", "dog")]
    ids = {piece: index for index, piece in enumerate(vocab)}
    tok = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tok.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tok.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"])
    tok.save(str(folder / "tokenizer.json"))
    config = {
        # As published. transformers 5 puts the lower-casing Siglip2Tokenizer in its place.
        "tokenizer_class": "GemmaTokenizer",
        "model_max_length": length,
        "padding_side": "right",
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return len(vocab)


def randomise(model, seed):
    """Overwrites every parameter: initialisers leave biases, norms and the scores' scale at 0 or 1, and
    what is 0 or 1 can be dropped without a trace."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if name == "logit_scale":
                parameter.fill_(2.1)
            elif name == "logit_bias":
                parameter.fill_(-3.7)
            elif parameter.ndim == 1 and "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.3 * noise)
            elif "embedding" in name and "patch" not in name or name.endswith("probe"):
                parameter.copy_(0.7 * noise)
            else:
                parameter.copy_(noise * 1.5 / parameter[0].numel() ** 0.5)


def pictures(side, count=3):
    """Noise on gradients: smooth enough to look like a picture, rough enough to show a swapped axis."""
    rng = np.random.default_rng(5)
    rows, columns = np.mgrid[0:side, 0:side] / max(side - 1, 1)
    ramps = np.stack([rows, columns, rows * columns], axis=-1) * 160
    noise = rng.integers(0, 96, (count, side, side, 3))
    return np.clip(ramps[None] * np.arange(1, count + 1)[:, None, None, None] / count + noise, 0, 255).astype(np.uint8)


def normalised(pixels):
    values = (torch.from_numpy(pixels).double() / 255 - 0.5) / 0.5
    return values.permute(0, 3, 1, 2).float().contiguous()


def stages(prefix, output):
    tensors = {f"{prefix}.hidden_state.{index}": state for index, state in enumerate(output.hidden_states)}
    tensors[f"{prefix}.last_hidden_state"] = output.last_hidden_state
    if output.pooler_output is not None:
        tensors[f"{prefix}.pooled"] = output.pooler_output
    return tensors


@torch.no_grad()
def reference(model, pixels, ids):
    """Every stage of both towers, and of the scores between them."""
    expected = {"pixels": torch.from_numpy(pixels)}
    vision_model = model.vision_model if isinstance(model, SiglipModel) else model
    vision = vision_model(pixel_values=normalised(pixels), output_hidden_states=True)
    expected |= stages("vision", vision)
    if vision.pooler_output is None:
        # What transformers' image classifier makes of a tower without a head.
        expected["vision.pooled"] = vision.last_hidden_state.mean(1)
    if ids is not None:
        text = model.text_model(input_ids=ids, output_hidden_states=True)
        count = min(len(pixels), len(ids))
        square = model(input_ids=ids[:count], pixel_values=normalised(pixels[:count]), return_loss=True)
        whole = model(input_ids=ids, pixel_values=normalised(pixels))
        expected |= stages("text", text)
        expected |= {
            "ids": ids,
            "logits": whole.logits_per_image,
            "probabilities": torch.sigmoid(whole.logits_per_image),
            "loss": square.loss.reshape(1),
        }
    return expected


def save(folder, expected, texts):
    tensors = {name: tensor.contiguous().clone() for name, tensor in expected.items()}
    metadata = {"texts": json.dumps(texts, ensure_ascii=False)}
    save_file(tensors, folder / "expected.safetensors", metadata=metadata)


def encoder(hidden, inner, heads, layers=2, **more):
    return dict(
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        **more,
    )


def variants():
    """name -> (vision config, text config or None, options)."""
    small = encoder(24, 28, 2)
    picture = dict(image_size=16, patch_size=8)
    text = dict(max_position_embeddings=12)
    yield "tiny", small | picture, small | text, {}
    yield "odd-shapes", encoder(72, 37, 1, 1, image_size=30, patch_size=14), encoder(30, 29, 3, 1) | text | dict(projection_size=72), {"dtype": torch.float16}
    yield "text-length-16", small | picture, small | dict(max_position_embeddings=16), {"dtype": torch.bfloat16}
    yield "giant-like", encoder(36, 20, 2) | picture, small | text | dict(projection_size=36), {"shards": True}
    yield "erf-gelu", small | picture | dict(hidden_act="gelu"), small | text | dict(hidden_act="gelu"), {}
    yield "identity-text-head", small | picture, small | text, {"identity_head": True}
    yield "vision-only", small | picture, None, {}
    # The tower that LLaVA-OneVision reads through, in small: 27 layers, of which it takes 26, and no head.
    tall = encoder(8, 8, 2, 27, image_size=30, patch_size=14, vision_use_head=False)
    yield "headless-27", tall, None, {"prefixed": True}
    yield "vision-headless", small | picture | dict(vision_use_head=False), None, {"prefixed": True}


@torch.no_grad()
def mistakes(folder, model, ids):
    """What servers get wrong with the first text: each of these is another vector."""
    text, used = model.text_model, int((ids[0] != 0).sum())
    ones = torch.where(ids == 0, 1, ids)
    pooled = {
        "unpadded": text(input_ids=ids[:1, :used]).pooler_output,
        "masked": text(input_ids=ids[:1], attention_mask=(ids[:1] != 0).long()).pooler_output,
        "padded_with_one": text(input_ids=ones[:1]).pooler_output,
    }
    save_file({f"text.pooled.{name}": value for name, value in pooled.items()}, folder / "mistakes.safetensors")


def checkpoint(name, vision, text, options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if text is None:
        model = SiglipVisionModel(SiglipVisionConfig(**vision, attn_implementation="eager"))
    else:
        text["vocab_size"] = tokenizer(folder, text["max_position_embeddings"])
        # The declared ids are as wrong as in the published files: nothing may read them.
        text |= dict(pad_token_id=1, bos_token_id=5, eos_token_id=6)
        config = SiglipConfig(text_config=text, vision_config=vision, attn_implementation="eager")
        model = SiglipModel(config)
    model.eval()
    randomise(model, seed=sum(map(ord, name)))
    if options.get("identity_head"):
        with torch.no_grad():
            model.text_model.head.weight.copy_(torch.eye(text["hidden_size"]))
            model.text_model.head.bias.zero_()
    dtype = options.get("dtype", torch.float32)
    stored = {key: value.to(dtype).clone() for key, value in model.state_dict().items()}
    # The reference computes in f32 with the very values that the file holds.
    model.load_state_dict({key: value.float() for key, value in stored.items()})
    if options.get("prefixed"):
        stored = {f"vision_model.{key}": value for key, value in stored.items()}
    if options.get("shards"):
        names = sorted(stored)
        halves = [names[: len(names) // 2], names[len(names) // 2 :]]
        weight_map = {}
        for index, part in enumerate(halves, 1):
            file = f"model-{index:05}-of-00002.safetensors"
            save_file({key: stored[key] for key in part}, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    else:
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.to_json_file(folder / "config.json", use_diff=True)
    side = vision["image_size"]
    SiglipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    texts, ids = [], None
    if text is not None:
        texts = TEXTS
        tok = AutoTokenizer.from_pretrained(folder)
        length = text["max_position_embeddings"]
        ids = tok(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    save(folder, reference(model, pictures(side), ids), texts)
    if name == "tiny":
        mistakes(folder, model, ids)


def naflex_variants():
    """name -> (vision config, text config or None, patches of a picture, options)."""
    small = encoder(24, 20, 2)
    text = small | dict(max_position_embeddings=12)
    # Smaller grids than the stored one of 8 x 8, where positions without antialiasing go wrong.
    yield "naflex-down", small | dict(num_patches=64, patch_size=4), text, 12, {}
    # Larger ones than 3 x 3, and a text tower of another width.
    yield "naflex-up", encoder(28, 20, 2, 1) | dict(num_patches=9, patch_size=3), text | dict(num_hidden_layers=1, projection_size=28), 18, {"dtype": torch.bfloat16}
    yield "naflex-vision-only", small | dict(num_patches=16, patch_size=4), None, 17, {"dtype": torch.float16}


def mixed_pictures():
    """Landscape, portrait, square, both extremes, one pixel, and one that is exact without a resize."""
    shapes = [(30, 41), (41, 23), (25, 25), (3, 90), (90, 2), (1, 1), (12, 16)]
    return [pictures(max(shape), 1)[0][: shape[0], : shape[1]] for shape in shapes]


@torch.no_grad()
def naflex_reference(model, inputs, ids):
    """Every stage on padded patches: where the mask is 0, there is nothing to compare."""
    expected = {name: tensor for name, tensor in inputs.items()}
    vision_model = model.vision_model if isinstance(model, Siglip2Model) else model
    vision = vision_model(**inputs, output_hidden_states=True)
    expected |= stages("vision", vision)
    # What two mistakes give, to be far from.
    unmasked = inputs | {"pixel_attention_mask": torch.ones_like(inputs["pixel_attention_mask"])}
    expected["mistake.unmasked"] = vision_model(**unmasked).pooler_output
    antialiased = torch.nn.functional.interpolate
    torch.nn.functional.interpolate = lambda *a, antialias, **k: antialiased(*a, antialias=False, **k)
    expected["mistake.not_antialiased"] = vision_model(**inputs).pooler_output
    torch.nn.functional.interpolate = antialiased
    if ids is not None:
        text = model.text_model(input_ids=ids, output_hidden_states=True)
        count = min(len(ids), len(inputs["pixel_values"]))
        first = {name: tensor[:count] for name, tensor in inputs.items()}
        square = model(input_ids=ids[:count], **first, return_loss=True)
        whole = model(input_ids=ids, **inputs)
        expected |= stages("text", text)
        expected |= {
            "ids": ids,
            "logits": whole.logits_per_image,
            "probabilities": torch.sigmoid(whole.logits_per_image),
            "loss": square.loss.reshape(1),
        }
    return expected


def naflex_checkpoint(name, vision, text, patches, options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    texts, ids = [], None
    if text is None:
        model = Siglip2VisionModel(Siglip2VisionConfig(**vision, attn_implementation="eager"))
    else:
        text["vocab_size"] = gemma_tokenizer(folder, text["max_position_embeddings"])
        model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision, attn_implementation="eager"))
    model.eval()
    randomise(model, seed=sum(map(ord, name)))
    dtype = options.get("dtype", torch.float32)
    stored = {key: value.to(dtype).clone() for key, value in model.state_dict().items()}
    model.load_state_dict({key: value.float() for key, value in stored.items()})
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.to_json_file(folder / "config.json", use_diff=True)
    processor = Siglip2ImageProcessorPil(patch_size=vision["patch_size"], max_num_patches=patches)
    processor.save_pretrained(folder)
    if text is not None:
        texts = TEXTS
        tok = AutoTokenizer.from_pretrained(folder)
        length = text["max_position_embeddings"]
        ids = tok(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    sources = mixed_pictures()
    # Said aloud: three rows of pixels look like three channels.
    layout = dict(input_data_format="channels_last", return_tensors="pt")
    inputs = dict(processor(sources, **layout))
    expected = naflex_reference(model, inputs, ids)
    # The sizes that a request may choose: pixels of the same pictures, and their pooled outputs.
    for other in (1, patches // 2, patches * 3):
        inputs = dict(processor(sources, max_num_patches=other, **layout))
        vision_model = model.vision_model if text else model
        with torch.no_grad():
            expected[f"pooled_at.{other}"] = vision_model(**inputs).pooler_output
    expected |= {f"source.{index}": torch.from_numpy(np.ascontiguousarray(p)) for index, p in enumerate(sources)}
    save(folder, expected, texts)


def resized(picture, size, resample):
    """Upright RGB on white, resized: what the image processor does before it normalises."""
    rgb = Image.fromarray(convert_to_rgb(ImageOps.exif_transpose(picture), return_numpy=True))
    return np.asarray(rgb.resize(size, resample))


def resize_vectors():
    """Pillow's own pixels: up, down and extreme shapes, both filters."""
    rng = np.random.default_rng(9)
    tensors = {}
    for width, height in [(97, 61), (5, 7), (200, 3), (2, 190), (1, 1), (64, 40)]:
        soft = pictures(max(width, height), 1)[0][:height, :width]
        hard = rng.choice(np.array([0, 255], np.uint8), (height, width, 3))
        for kind, source in {"soft": soft, "hard": hard}.items():
            tensors[f"{kind}.{width}x{height}"] = source
            for side in (24, 48):
                for label, resample in [("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR)]:
                    out = resized(Image.fromarray(source), (side, side), resample)
                    tensors[f"{kind}.{width}x{height}.{side}.{label}"] = out
    save_numpy({k: np.ascontiguousarray(v) for k, v in tensors.items()}, HERE / "resize.safetensors")


def png(samples, colour, bits):
    """A PNG of a kind that Pillow does not write: `samples` has rows, columns and channels."""
    height, width = samples.shape[:2]
    if bits == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        flat = samples.reshape(height, -1)
        spread = np.unpackbits(flat[:, :, None].astype(np.uint8), axis=2)[:, :, 8 - bits :]
        rows = np.packbits(spread.reshape(height, -1), axis=1)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def hand_made(folder, base):
    """Files that Pillow reads and does not write."""
    deep = base.astype(np.uint16) * 257 - (base % 7 * 13).astype(np.uint16)
    alpha = deep[:, ::-1, :1]
    (folder / "rgb-16.png").write_bytes(png(deep, 2, 16))
    (folder / "rgba-16.png").write_bytes(png(np.dstack([deep, alpha]), 6, 16))
    (folder / "grey-alpha-16.png").write_bytes(png(np.dstack([deep[:, :, :1], alpha]), 4, 16))
    (folder / "grey-2.png").write_bytes(png(base[:, :, :1] >> 6, 0, 2))
    (folder / "grey-4.png").write_bytes(png(base[:, :, :1] >> 4, 0, 4))
    # Adobe's marker says how the four inks are coded: not at all (0), or as luma and chroma (2).
    adobe = (folder / "cmyk.jpg").read_bytes()
    at = adobe.index(b"Adobe\0") + 11
    assert adobe[at] == 0
    (folder / "ycck.jpg").write_bytes(adobe[:at] + b"\2" + adobe[at + 1 :])
    start = adobe.index(b"\xff\xee")
    (folder / "cmyk-unmarked.jpg").write_bytes(adobe[:start] + adobe[start + 16 :])


def whole_jpegs(folder):
    """JPEGs that are compared pixel by pixel, not resized: a decoder of Pillow's arithmetic has all of them equal."""
    picture = Image.fromarray(pictures(45, 1)[0][:35])
    exif = Image.Exif()
    files = {
        "444": {"subsampling": 0},
        "422": {"subsampling": 1},
        "420": {"subsampling": 2},
        "rough": {"subsampling": 2, "quality": 20},
        "progressive": {"subsampling": 2, "progressive": True},
        "restarts": {"subsampling": 2, "restart_marker_blocks": 2},
        "restarts-progressive": {"subsampling": 1, "progressive": True, "restart_marker_rows": 1},
        "rgb": {"keep_rgb": True},
    }
    for orientation in range(2, 9):
        exif[0x0112] = orientation
        files[f"orientation-{orientation}"] = {"exif": exif.tobytes()}
    for name, options in files.items():
        picture.save(folder / f"whole-{name}.jpg", **{"quality": 90} | options)
    picture.convert("L").save(folder / "whole-grey.jpg", quality=90)
    picture.crop((0, 0, 1, 1)).save(folder / "whole-dot.jpg", quality=90)
    picture.crop((0, 0, 3, 17)).save(folder / "whole-strip.jpg", quality=90)


def decode_vectors():
    """One small file of every kind, and the pixels that Pillow and transformers make of it."""
    folder = HERE / "decode"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    base = pictures(28, 1)[0][:20]
    rgb = Image.fromarray(base)
    alpha = Image.fromarray(np.dstack([base, base[:, ::-1, 1]]))
    other = rgb.rotate(180)
    exif = Image.Exif()
    files = {
        "rgb.png": (rgb, {}),
        "rgba.png": (alpha, {}),
        "grey-alpha.png": (alpha.convert("LA"), {}),
        "palette.png": (rgb.quantize(16), {}),
        "palette-transparent.png": (rgb.quantize(16), {"transparency": 3}),
        "one-bit.png": (rgb.convert("1"), {}),
        "grey-transparent.png": (rgb.convert("L"), {"transparency": 90}),
        "rgb.bmp": (rgb, {}),
        "palette.bmp": (rgb.quantize(16), {}),
        "lzw.tiff": (rgb, {"compression": "tiff_lzw"}),
        "grey.tiff": (rgb.convert("L"), {}),
        "lossless.webp": (alpha, {"lossless": True, "exact": True}),
        "still.gif": (rgb, {}),
        "animated.gif": (rgb.quantize(32), {"save_all": True, "append_images": [other.quantize(32)]}),
        "animated.png": (rgb, {"save_all": True, "append_images": [other]}),
        "animated.webp": (rgb, {"save_all": True, "append_images": [other], "lossless": True}),
        "rgb.jpg": (rgb, {"quality": 90}),
        "progressive.jpg": (rgb, {"quality": 90, "progressive": True, "subsampling": 0}),
        "grey.jpg": (rgb.convert("L"), {"quality": 90}),
        "cmyk.jpg": (rgb.convert("CMYK"), {"quality": 90, "subsampling": 0}),
        "colour-transparent.png": (rgb, {"transparency": tuple(int(value) for value in base[3, 4])}),
        "palette-4.png": (rgb.quantize(9), {"bits": 4}),
        "rgba.bmp": (alpha, {}),
        "grey.bmp": (rgb.convert("L"), {}),
        "one-bit.bmp": (rgb.convert("1"), {}),
        "rgba.tiff": (alpha, {}),
        "one-bit.tiff": (rgb.convert("1"), {"compression": "group4"}),
        "deflate.tiff": (rgb, {"compression": "tiff_adobe_deflate"}),
        "packbits.tiff": (rgb, {"compression": "packbits"}),
        "cmyk.tiff": (rgb.convert("CMYK"), {}),
        "lossy.webp": (rgb, {"quality": 90}),
        "lossy-alpha.webp": (alpha, {"quality": 90, "exact": True}),
        "transparent.gif": (rgb.quantize(16), {"transparency": 3}),
        "adobe-rgb.jpg": (rgb, {"quality": 90, "keep_rgb": True}),
        "subsampled.jpg": (rgb, {"quality": 90, "subsampling": 2}),
        "optimised.jpg": (rgb, {"quality": 90, "optimize": True, "restart_marker_blocks": 1}),
    }
    deep = base.astype(np.uint16) * 257
    files["grey-16.png"] = (Image.fromarray(deep[:, :, 0]), {})
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        files[f"orientation-{orientation}.png"] = (rgb, {"exif": exif.tobytes()})
    for name, options in {"oriented.jpg": {"quality": 90}, "oriented.webp": {"lossless": True}, "oriented.tiff": {}}.items():
        exif[0x0112] = 6
        files[name] = (rgb, {"exif": exif.tobytes()} | options)
    for name, (picture, options) in files.items():
        picture.save(folder / name, **options)
    hand_made(folder, base)
    whole_jpegs(folder)
    tensors = {}
    for name in sorted(path.name for path in folder.iterdir()):
        with Image.open(folder / name) as opened:
            if opened.mode == "I;16":
                # Pillow clips deep grey to white; the high byte is what it does to deep colour.
                opened = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
            size = ImageOps.exif_transpose(opened).size if name.startswith("whole-") else (12, 16)
            tensors[name] = resized(opened, size, Image.BICUBIC)
    save_numpy({k: np.ascontiguousarray(v) for k, v in tensors.items()}, HERE / "decode.safetensors")


@torch.no_grad()
def demo():
    """The demo checkpoint on the sample images: all stages of the first items, the results of all."""
    folder = ROOT / "models/demo"
    model = SiglipModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tok = AutoTokenizer.from_pretrained(folder)
    side = model.config.vision_config.image_size
    length = model.config.text_config.max_position_embeddings
    suffixes = {".png", ".jpg", ".webp", ".gif"}
    names = sorted(p.name for p in (ROOT / "tests/fixtures/images").iterdir() if p.suffix in suffixes)
    processor = SiglipImageProcessorPil.from_pretrained(folder)
    pixels = []
    for name in names:
        with Image.open(ROOT / "tests/fixtures/images" / name) as picture:
            pixels.append(resized(picture, (side, side), Image.BICUBIC))
            values = processor(ImageOps.exif_transpose(picture), return_tensors="pt").pixel_values
            assert torch.allclose(values, normalised(pixels[-1][None]), atol=1e-6), name
    texts = ["a cat", "A CAT", "a photo of a dog", "pizza", "a red car on the street", "", "고양이", "빨간 자동차", "기타와 해바라기 🌻", "one two three " * 20]
    ids = tok(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    expected = reference(model, np.stack(pixels), ids)
    for key in list(expected):
        if "hidden_state" in key:
            # The whole of every row would be megabytes; row 0 stands for the others, whose results
            # are all compared.
            expected[key] = expected[key][: 1 if key.startswith("vision") else 2]
    out = HERE / "demo"
    out.mkdir(exist_ok=True)
    expected = {name: tensor.contiguous().clone() for name, tensor in expected.items()}
    metadata = {"texts": json.dumps(texts, ensure_ascii=False), "images": json.dumps(names)}
    save_file(expected, out / "expected.safetensors", metadata=metadata)


@torch.no_grad()
def full_size(folder):
    """google/siglip-base-patch16-224 in shape, random in content; for the test that is run by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    model = SiglipModel(SiglipConfig(attn_implementation="eager")).eval()
    randomise(model, seed=1)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models/demo" / file, folder / file)
    SiglipImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(folder)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 32000, (4, 64)))
    pixels = pictures(224, 4)
    expected = {"pixels": torch.from_numpy(pixels), "ids": ids}
    expected["vision.pooled"] = model.get_image_features(pixel_values=normalised(pixels)).pooler_output
    expected["text.pooled"] = model.get_text_features(input_ids=ids).pooler_output
    save(folder, expected, [])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true", help="only the outputs of models/demo")
    parser.add_argument("--full-size", type=Path, metavar="FOLDER", help="only a full-size checkpoint")
    arguments = parser.parse_args()
    if arguments.full_size:
        full_size(arguments.full_size)
        return
    # One thread, so that sums have one order and a second run writes the same bytes.
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    if arguments.demo:
        demo()
        return
    for name, vision, text, options in variants():
        checkpoint(name, vision, text, options)
    for name, vision, text, patches, options in naflex_variants():
        naflex_checkpoint(name, vision, text, patches, options)
    resize_vectors()
    decode_vectors()


if __name__ == "__main__":
    main()
