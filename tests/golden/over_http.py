"""Compares a running server with transformers, on checkpoints that nobody has seen before.

    pip install -r tests/golden/requirements.txt
    cargo build --release
    python tests/golden/over_http.py --seeds 1-8               # small checkpoints of random shapes
    python tests/golden/over_http.py --preset base             # siglip-base-patch16-224 in size (800 MB)
    python tests/golden/over_http.py --preset so400m           # so400m-patch14-384 in size, fewer layers

Each checkpoint is made in a temporary folder, served by the given binary on a free port, and thrown away. Prints a row
for each comparison and fails on the first one out of bounds. Not among the quick tests: it starts a process a checkpoint.
"""

import argparse
import base64
import io
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, SiglipConfig, SiglipImageProcessor, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from generate import ROOT, randomise, tokenizer

TEXTS = ["a cat", "two dogs and a red car", "", "A CAT", "고양이", "a " * 90 + "cat", "red red red"]
DTYPES = [torch.float32, torch.float32, torch.float16, torch.bfloat16]
# Largest differences allowed, and the least cosine.
COSINE, BATCH, UNIT = 0.9999, 1e-5, 2e-4


def shapes(seed):
    """A configuration of unusual shape: (config, how it is stored)."""
    pick = random.Random(seed)

    def encoder():
        heads = pick.choice([1, 2, 3, 4, 5, 8])
        return dict(
            hidden_size=heads * pick.choice([4, 7, 8, 16, 24, 36, 72]),
            num_attention_heads=heads,
            num_hidden_layers=pick.randint(1, 4),
            intermediate_size=pick.randint(9, 170),
            hidden_act=pick.choice(["gelu_pytorch_tanh", "gelu_pytorch_tanh", "gelu"]),
            layer_norm_eps=pick.choice([1e-6, 1e-5]),
        )

    vision, text = encoder(), encoder()
    vision["patch_size"] = pick.choice([4, 5, 8, 14, 16])
    vision["image_size"] = vision["patch_size"] * pick.randint(1, 9) + pick.choice([0, 0, 1, 3])
    text["max_position_embeddings"] = pick.choice([5, 16, 33, 64])
    text["projection_size"] = vision["hidden_size"]
    stored = dict(dtype=pick.choice(DTYPES), shards=pick.random() < 0.4, resample=pick.choice([2, 3]))
    return dict(vision_config=vision, text_config=text), stored


def preset(name):
    """The size of a published checkpoint."""
    stored = dict(dtype=torch.float32, shards=False, resample=3)
    if name == "base":
        return dict(vision_config={}, text_config=dict(vocab_size=32000)), stored
    so400m = dict(hidden_size=1152, intermediate_size=4304, num_attention_heads=16, num_hidden_layers=6)
    vision = so400m | dict(image_size=384, patch_size=14)
    return dict(vision_config=vision, text_config=so400m | dict(vocab_size=32000)), stored


def write(folder, config, stored, seed):
    """Makes the checkpoint, and gives the model as it reads what was written, in f32."""
    config["text_config"].setdefault("vocab_size", tokenizer(folder, 64))
    config = SiglipConfig(**config, attn_implementation="eager")
    model = SiglipModel(config).eval()
    randomise(model, seed)
    model.to(stored["dtype"])
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size=size // 2 if stored["shards"] else 2 * size)
    side = config.vision_config.image_size
    processor = SiglipImageProcessorPil(size={"height": side, "width": side}, resample=stored["resample"])
    processor.save_pretrained(folder)
    return model.float(), processor


class Server:
    """The binary, serving a folder on a free port of the loopback."""

    def __init__(self, binary, folder, arguments):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # Without the cache, which would answer the second time a text comes.
        command = [binary, "--model", str(folder), "--listen", f"127.0.0.1:{self.port}", "--cache-text-bytes=0"]
        # A debug build on a busy machine takes its time over the large ones.
        command += ["--limits-request-timeout=10m", *arguments]
        self.log = folder / "server.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def __enter__(self):
        for _ in range(600):
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended with {self.process.returncode}; its log:\n{self.log.read_text()}")
            try:
                self.get("/health/ready")
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        raise SystemExit("the server is not ready after two minutes")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def post(self, path, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{path}: {error.code} {error.read().decode()}") from None

    def embed(self, items, **options):
        answer = self.post("/v1/embeddings", {"input": items, **options})
        return np.array([row["embedding"] for row in answer["data"]], np.float64)


def images(seed, side):
    """Pictures of mixed sizes, larger, smaller and of exactly the model's, as PNG."""
    rng = np.random.default_rng(seed)
    pictures = []
    for width, height in [(side, side), (3 * side + 1, side), (37, 90), (1, 1), (200, 131), (1700, 1100), (2500, 2), (3, 900)]:
        rough = rng.integers(0, 256, (max(height // 7, 1), max(width // 7, 1), 3), np.uint8)
        pictures.append(Image.fromarray(rough).resize((width, height), Image.BICUBIC))
    return pictures


def as_uri(picture):
    data = io.BytesIO()
    picture.save(data, "png")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Table:
    def __init__(self, variant):
        self.variant, self.failed = variant, False

    def row(self, stage, value, bound, at_least=False):
        good = value >= bound if at_least else value <= bound
        self.failed |= not good
        shown = f"{value:.7f}" if at_least else f"{value:.1e}"
        print(f"| {self.variant} | {stage} | {shown} | {'>=' if at_least else '<='} {bound:.4g} |{'' if good else ' FAILED'}", flush=True)


@torch.no_grad()
def compare(variant, server, model, processor, tok, seed):
    table = Table(variant)
    # torchvision resizes to other pixels than Pillow, so its bounds are wider.
    slack = 25 if isinstance(processor, SiglipImageProcessor) else 1
    length = model.config.text_config.max_position_embeddings
    pictures = images(seed, model.config.vision_config.image_size)
    ids = tok(TEXTS, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    # One picture a call: their sizes differ.
    pixels = torch.cat([processor(picture.convert("RGB"), return_tensors="pt").pixel_values for picture in pictures])
    reference = model(input_ids=ids, pixel_values=pixels)
    expected = {"text": reference.text_embeds.double().numpy(), "image": reference.image_embeds.double().numpy()}
    uris = [as_uri(picture) for picture in pictures]
    inputs = {"text": TEXTS, "image": [{"image": uri} for uri in uris]}
    for kind, items in inputs.items():
        rows, want = server.embed(items), unit(expected[kind])
        table.row(f"{kind} embeddings, cosine", float((rows * want).sum(1).min()), COSINE, at_least=True)
        table.row(f"{kind} embeddings, unit vectors", float(np.abs(rows - want).max()), UNIT * (slack if kind == "image" else 1))
        singles = np.concatenate([server.embed([item]) for item in items])
        table.row(f"{kind} embeddings, batch and singles", float(np.abs(rows - singles).max()), BATCH)
    mixed = server.embed([item for pair in zip(inputs["text"], inputs["image"]) for item in pair])
    table.row("mixed batch, texts", float(np.abs(mixed[::2] - server.embed(TEXTS)[: len(mixed) // 2]).max()), BATCH)
    scores = server.post("/v1/similarity", {"images": uris, "texts": TEXTS})
    logits = np.array(scores["logit"], np.float64).reshape(len(uris), len(TEXTS))
    scale = float(model.logit_scale.exp())
    table.row("logits", float(np.abs(logits - reference.logits_per_image.double().numpy()).max()), 1e-3 * scale * slack)
    probabilities = np.array(scores["probability"], np.float64).reshape(logits.shape)
    table.row("probabilities", float(np.abs(probabilities - torch.sigmoid(reference.logits_per_image).double().numpy()).max()), 1e-3 * slack)
    return table.failed


def run(variant, config, stored, seed, arguments):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model, processor = write(folder, config, stored, seed)
        if arguments.torchvision:
            processor = SiglipImageProcessor.from_pretrained(folder)
        tok = AutoTokenizer.from_pretrained(folder)
        with Server(arguments.binary, folder, arguments.option) as server:
            return compare(variant, server, model, processor, tok, seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "target/release/siglip-server"))
    parser.add_argument("--seeds", default=None, help="one seed, or FIRST-LAST")
    parser.add_argument("--preset", choices=["base", "so400m"])
    parser.add_argument("--torchvision", action="store_true", help="resize the reference's pictures with torchvision, not Pillow")
    parser.add_argument("--option", action="append", default=[], help="passed on to the server, once each: --option=--dtype=f16")
    arguments = parser.parse_args()
    print("| checkpoint | what | error | bound |\n|---|---|---|---|")
    failed = False
    if arguments.preset:
        config, stored = preset(arguments.preset)
        failed |= run(arguments.preset, config, stored, 1, arguments)
    if arguments.seeds or not arguments.preset:
        first, _, last = (arguments.seeds or "1-4").partition("-")
        for seed in range(int(first), int(last or first) + 1):
            config, stored = shapes(seed)
            print(f"seed {seed}: {config} {stored}", file=sys.stderr)
            failed |= run(f"seed {seed}", config, stored, seed, arguments)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
