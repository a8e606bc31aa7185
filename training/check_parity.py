"""Compares a running server's embeddings with those of transformers.

    python check_parity.py --url http://127.0.0.1:8080 --model ../models/demo

Exits with 1 when any cosine is below 0.9999.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from clients import LocalModel, ServerModel

LEAST = 0.9999
TEXTS = (
    "a cat",
    "A Cat",
    "dog face",
    "This is a photo of a pizza.",
    "guitar, music, instrument",
    "a picture of a hot-air balloon",
    "고양이",
    "강아지 얼굴",
    "피자 사진",
    "이것은 자동차 사진입니다.",
    "",
    "a text that is far longer than the sixteen tokens which the demo checkpoint can read at once",
)


def opened(path: Path) -> Image.Image:
    """Decodes a file upright, on white where it is transparent."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    canvas = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(canvas, image).convert("RGB")


def main() -> int:
    """Prints every cosine; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", type=Path, default=Path("../models/demo"))
    parser.add_argument("--images", type=Path, default=Path("../tests/fixtures/images"))
    args = parser.parse_args()
    reference, server = LocalModel(args.model), ServerModel(args.url)
    paths = sorted(p for p in args.images.iterdir() if p.suffix != ".md")
    expected = np.concatenate(
        [reference.embed_images([opened(p) for p in paths]), reference.embed_texts(TEXTS)]
    )
    got = np.concatenate([server.embed_files(paths), server.embed_texts(TEXTS)])
    cosines = (expected * got).sum(-1) / np.linalg.norm(got, axis=-1)
    for name, cosine in zip([*(p.name for p in paths), *map(repr, TEXTS)], cosines, strict=True):
        print(f"{cosine:.6f}  {name}")
    print(f"least {cosines.min():.6f}, needed {LEAST}")
    return int(cosines.min() < LEAST)


if __name__ == "__main__":
    sys.exit(main())
