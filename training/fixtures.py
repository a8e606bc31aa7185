"""Draws the sample images of tests/fixtures/images.

    python fixtures.py --packages work/node_modules --to ../tests/fixtures/images

They show drawings of Noto Emoji v1 and Fluent Emoji Flat, two of the styles that
the demo checkpoint was trained on, on backgrounds of our own.
"""

import argparse
from pathlib import Path

from PIL import Image

from data import PictureSource, load_concepts


def on_plain(picture: Image.Image, side: int, colour: str, left: int, top: int) -> Image.Image:
    """Places a drawing on a plain square."""
    canvas = Image.new("RGB", (side, side), colour)
    canvas.paste(picture, (left, top), picture)
    return canvas


def main() -> None:
    """Writes the eight files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, default=Path("work/node_modules"))
    parser.add_argument("--to", type=Path, default=Path("../tests/fixtures/images"))
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    concepts = {concept.en: concept for concept in load_concepts(args.packages)}
    noto = PictureSource(args.packages, "noto-v1")
    fluent = PictureSource(args.packages, "fluent-emoji-flat")

    def draw(source: PictureSource, name: str, size: int) -> Image.Image:
        return source.render(concepts[name], size)

    on_plain(draw(noto, "cat", 300), 384, "#cfe8ff", 40, 52).save(args.to / "cat.png", optimize=True)
    on_plain(draw(noto, "dog", 320), 400, "#f7e3c0", 46, 40).save(
        args.to / "dog.jpg", quality=88
    )
    on_plain(draw(fluent, "pizza", 300), 384, "#9fd8b4", 30, 44).save(
        args.to / "pizza.webp", quality=88
    )
    # Not square: a SigLIP server squashes it, it does not crop.
    wide = Image.new("RGB", (480, 360), "#e9edf2")
    car = draw(fluent, "automobile", 320)
    wide.paste(car, (80, 20), car)
    wide.save(args.to / "car.png", optimize=True)
    # Transparent: composited on white.
    draw(fluent, "red apple", 256).save(args.to / "apple-alpha.png", optimize=True)
    on_plain(draw(noto, "guitar", 240), 320, "#d9c8f0", 44, 40).convert("L").save(
        args.to / "guitar-grey.png", optimize=True
    )
    on_plain(draw(fluent, "sunflower", 220), 256, "#bfe3ff", 20, 20).save(
        args.to / "sunflower.jpg", quality=85, progressive=True
    )
    # Two frames; a still-image server takes the first.
    frames = [
        on_plain(draw(noto, "rocket", 180), 256, "#203060", 20 + 30 * step, 56 - 30 * step)
        for step in range(2)
    ]
    frames[0].save(
        args.to / "rocket-animated.gif", save_all=True, append_images=frames[1:], duration=400, loop=0
    )


if __name__ == "__main__":
    main()
