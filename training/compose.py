"""The images that the checkpoint is measured on: drawings in compositions that it was not trained in."""

import colorsys
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from data import HELD_OUT, Concept, PictureSource

CANVAS = 128
SEED = 20240


def new_composition(source: PictureSource, concept: Concept) -> Image.Image:
    """Places a drawing anywhere on a plain colour, by a seed of its own."""
    rng = random.Random(f"{SEED}/{source.style}/{concept.hexcode}")
    colour = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.2, 0.8), rng.uniform(0.6, 1.0))
    canvas = Image.new("RGB", (CANVAS, CANVAS), tuple(round(255 * c) for c in colour))
    size = round(CANVAS * rng.uniform(0.55, 0.95))
    picture = source.render(concept, size)
    place = (rng.randint(0, CANVAS - size), rng.randint(0, CANVAS - size))
    canvas.paste(picture, place, picture)
    return canvas


def on_white(source: PictureSource, concept: Concept) -> Image.Image:
    """Draws a picture on white, as large as it is."""
    picture = source.render(concept, CANVAS)
    canvas = Image.new("RGB", picture.size, "white")
    canvas.paste(picture, (0, 0), picture)
    return canvas


def draw_all(
    packages: Path, styles: Sequence[str], concepts: Sequence[Concept]
) -> list[tuple[Image.Image, int, str]]:
    """Composes every picture of the styles: image, concept, style."""
    drawn = []
    for style in styles:
        source = PictureSource(packages, style)
        compose = on_white if style == HELD_OUT else new_composition
        drawn += [
            (compose(source, concept), i, style)
            for i, concept in enumerate(concepts)
            if source.has(concept)
        ]
    return drawn
