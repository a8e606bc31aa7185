"""Writes small random LLaVA checkpoints, and what transformers makes of their vision towers and of images in tiles.

    pip install -r tests/golden/requirements.txt
    python tests/golden/generate_llava.py

Everything is seeded: a second run writes the same values.
"""

import json
import shutil

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from generate import HERE, encoder, pictures, randomise, save

TEXT = dict(hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, vocab_size=32)
SIX = [[rows, columns] for rows in range(1, 7) for columns in range(1, 7)]
# Height and width of images that are cut: each has another grid, and some have odd padding.
SHAPES = [(16, 16), (8, 8), (9, 12), (17, 17), (20, 27), (37, 43), (45, 80), (4, 83), (83, 4), (96, 96), (61, 33), (1, 90)]


def times(side):
    """The sizes of SIX in pixels."""
    return [[rows * side, columns * side] for rows, columns in SIX]


def variants():
    """name -> classes, vision config, options."""
    siglip = dict(model_type="siglip_vision_model", vision_use_head=False)
    clip = dict(model_type="clip_vision_model", projection_dim=12)
    small = dict(image_size=16, patch_size=8)
    onevision = (LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, LlavaOnevisionImageProcessorPil)
    # As on the hub: the names of transformers 4, 16-bit values, several files.
    yield "llava-onevision", onevision, siglip | encoder(24, 28, 2, 3) | small, {
        "from": "", "to": "vision_model.", "dtype": torch.float16, "shards": True, "processor": "preprocessor_config.json"}
    # As transformers 5 writes it.
    yield "llava-onevision-bare", onevision, siglip | encoder(30, 29, 3, 1) | dict(image_size=30, patch_size=14), {
        "from": "", "to": "", "processor": "processor_config.json"}
    # The names between the two, with values of a language model that nothing here can read.
    yield "llava-onevision-inner", onevision, siglip | encoder(24, 28, 2) | small, {
        "from": "model.", "to": "vision_model.", "dtype": torch.bfloat16, "unreadable": True, "processor": "preprocessor_config.json"}
    yield "llava-next", (LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextImageProcessorPil), clip | encoder(24, 28, 2) | small, {
        "from": "model.", "to": "", "processor": "preprocessor_config.json"}
    yield "llava-clip", (LlavaConfig, LlavaForConditionalGeneration, None), clip | encoder(24, 28, 2) | small, {
        "from": "", "to": "vision_model.", "processor": "preprocessor_config.json"}


def renamed(name, options):
    """A name of the model's state as a file has it: `model.vision_tower.embeddings...` is where they begin."""
    place = "model.vision_tower."
    if name.startswith(place):
        return options["from"] + "vision_tower." + options["to"] + name.removeprefix(place)
    return name if options["from"] else name.removeprefix("model.")


def write_weights(folder, stored, options):
    if options.get("unreadable"):
        # Only towers are read, so that the type of all else is nobody's matter.
        stored = {key: value if "vision_tower" in key else value.to(torch.float8_e4m3fn) for key, value in stored.items()}
    if not options.get("shards"):
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(stored, key=lambda name: ("vision_tower" in name, name))
    # The second file begins in the language model and ends in the tower.
    cut = next(index for index, name in enumerate(names) if "vision_tower" in name)
    parts = [names[: cut - 4], names[cut - 4 : cut + 9], names[cut + 9 :]]
    weight_map = {}
    for index, part in enumerate(parts, 1):
        file = f"model-{index:05}-of-00003.safetensors"
        save_file({key: stored[key] for key in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}, indent=1) + "\n")


def write_processor(folder, processor, side, options):
    if processor is None:
        files = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side},
                 "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    else:
        files = {key: value for key, value in processor.to_dict().items() if key != "processor_class"}
        # The class of the reference is the same on another library.
        files["image_processor_type"] = type(processor).__name__.removesuffix("Pil")
    if options["processor"] == "processor_config.json":
        files = {"image_processor": files, "processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 4}
    (folder / options["processor"]).write_text(json.dumps(files, indent=2, default=str) + "\n")
    return files.get("image_processor", files)


def views(processor, image, **options):
    # As an image: an array of 4 rows would be taken for one of 4 channels.
    return processor(images=Image.fromarray(image), return_tensors="np", **options).pixel_values[0]


@torch.no_grad()
def checkpoint(name, classes, vision, options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config_class, model_class, processor_class = classes
    side = vision["image_size"]
    text = TEXT | dict(model_type="qwen2" if config_class is LlavaOnevisionConfig else "llama")
    more = {} if processor_class is None else {"image_grid_pinpoints": times(side)}
    config = config_class(vision_config=vision, text_config=text, image_token_index=31, **more)
    config._attn_implementation = "eager"
    model = model_class(config)
    model.eval()
    randomise(model, seed=sum(map(ord, name)))
    dtype = options.get("dtype", torch.float32)
    stored = {key: value.to(dtype).clone() for key, value in model.state_dict().items() if "position_ids" not in key}
    model.load_state_dict({key: value.float() for key, value in stored.items()}, strict=False)
    write_weights(folder, {renamed(key, options): value for key, value in stored.items()}, options)
    keep = ("model_type", "vision_feature_layer", "vision_feature_select_strategy", "image_grid_pinpoints", "vision_config")
    written = {key: value for key, value in config.to_dict().items() if key in keep}
    written["vision_config"] = vision
    (folder / "config.json").write_text(json.dumps(written, indent=1) + "\n")
    size = {"height": side, "width": side} if config_class is LlavaOnevisionConfig else {"shortest_edge": side}
    settings = dict(size=size, image_grid_pinpoints=times(side))
    if config_class is LlavaOnevisionConfig:
        settings |= dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    else:
        settings |= dict(crop_size={"height": side, "width": side})
    processor = None if processor_class is None else processor_class(**settings)
    files = write_processor(folder, processor, side, options)

    pixels = pictures(side)
    mean, std = torch.tensor(files["image_mean"]).double(), torch.tensor(files["image_std"]).double()
    values = ((torch.from_numpy(pixels).double() / 255 - mean) / std).permute(0, 3, 1, 2).float().contiguous()
    tower = model.model.vision_tower
    seen = tower(pixel_values=values, output_hidden_states=True)
    expected = {"pixels": torch.from_numpy(pixels)}
    expected |= {f"vision.hidden_state.{index}": state for index, state in enumerate(seen.hidden_states)}
    expected["vision.last_hidden_state"] = seen.last_hidden_state
    expected["vision.pooled"] = seen.last_hidden_state.mean(1) if seen.pooler_output is None else seen.pooler_output
    if processor is not None:
        for index, (height, width) in enumerate(SHAPES):
            image = pictures(max(height, width), 1)[0][:height, :width].copy()
            tiles = torch.from_numpy(views(processor, image)).float()
            feature = tower(pixel_values=tiles, output_hidden_states=True).hidden_states[config.vision_feature_layer]
            levels = views(processor, image, do_rescale=False, do_normalize=False)
            expected |= {
                f"image.{index}": torch.from_numpy(image),
                f"views.{index}": torch.from_numpy(levels.transpose(0, 2, 3, 1).astype("uint8").copy()),
                f"features.{index}": feature,
            }
    save(folder, expected, [])


def inner_size(image, best):
    """Rows and columns of the image in its tiles, as the processor's own method says."""
    processor = LlavaOnevisionImageProcessorPil()
    sizes = []
    processor.resize = lambda image, size, resample: sizes.append([size.height, size.width])
    processor._resize_for_patching(np.broadcast_to(np.uint8(0), (3, *image)), best, None)
    return sizes[0]


def formula(height, width):
    """A large image that needs no file: the test computes the same."""
    rows, columns, channels = np.ogrid[0:height, 0:width, 0:3]
    return (((rows * 7 + columns * 13 + channels * 29) ^ (rows * columns >> 6)) & 255).astype(np.uint8)


def tiles():
    """Which size is chosen for images of all shapes, in both orders, and one large image whose side is rounded up."""
    rng = np.random.default_rng(7)
    shapes = np.exp(rng.uniform(0, np.log(6000), (400, 2))).astype(np.int64)
    # Whole tiles, whole multiples of 47 and one pixel beside them, where a rounding decides.
    near = [[rows * side + rest, columns * side] for rows, columns in SIX for side in (47, 384) for rest in (-1, 0, 1)]
    shapes = np.concatenate([shapes, near, [[2934, 2445], [2445, 2934], [1, 100_000], [100_000, 1]]])
    next_sizes = [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]]
    orders = {"rows": times(384), "reversed": times(384)[::-1], "columns": sorted(times(384), key=lambda size: size[::-1]),
              "next": next_sizes, "wide": next_sizes[:2], "tall": next_sizes[1::-1], "one": [[768, 768]]}
    expected = {"images": torch.from_numpy(shapes.copy())}
    for name, sizes in orders.items():
        chosen = [select_best_resolution(tuple(shape), sizes) for shape in shapes.tolist()]
        inner = [inner_size(shape, best) for shape, best in zip(shapes.tolist(), chosen)]
        expected |= {f"sizes.{name}": torch.tensor(sizes), f"chosen.{name}": torch.tensor(chosen), f"inner.{name}": torch.tensor(inner)}
    processor = LlavaOnevisionImageProcessorPil(image_grid_pinpoints=[[768, 768]])
    for name, shape in [("wide", (2445, 2934)), ("tall", (2934, 2445))]:
        levels = views(processor, formula(*shape), do_rescale=False, do_normalize=False).astype("uint8")
        # Some rows are enough: 5 views of 384 x 384.
        expected[f"large.{name}"] = torch.from_numpy(levels.transpose(0, 2, 3, 1)[:, [0, 62, 63, 64, 200, 319, 320, 383]].copy())
    folder = HERE / "llava-tiles"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, folder / "expected.safetensors")


def main():
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    for variant in variants():
        checkpoint(*variant)
    tiles()


if __name__ == "__main__":
    main()
