"""What the generators of image variants share: drawing, and Pillow's answer."""

import io
import random
import re
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps


def drawing(rng, width, height, channels):
    """Gradients with noise and a few hard edges: every byte matters, and most of it packs well."""
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for _ in range(channels):
        a, b, c = rng.uniform(-9, 9), rng.uniform(-9, 9), rng.uniform(0, 255)
        plane = a * x + b * y + c
        if rng.random() < 0.5:
            plane = plane + np.array([rng.uniform(-30, 30) for _ in range(width * height)]).reshape(height, width)
        left, top = rng.randrange(width), rng.randrange(height)
        plane[top : top + 5, left : left + 7] = rng.choice([0, 255])
        planes.append(np.abs(plane) % 511)
    picture = np.dstack(planes)
    return np.where(picture > 255, 510 - picture, picture).clip(0, 255).astype(np.uint8)


def size(rng):
    """Mostly small, often odd; one pixel at times."""
    return rng.choice([(1, 1), (1, 9), (9, 1)] + [(rng.randint(1, 40), rng.randint(1, 40)) for _ in range(20)])


def rgb(data):
    """Upright RGB on white, as transformers makes it of what Pillow opens: an array, or a reason why there is none."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            # Pillow clips deep grey to white; the upper byte is what it does to deep colour.
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            if "A" in upright.getbands() or upright.info.get("transparency") is not None:
                upright = upright.convert("RGBA")
                white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
                upright = Image.alpha_composite(white, upright)
            return np.asarray(upright.convert("RGB"))
    except Exception as error:  # Pillow raises what it likes
        return re.sub(r"<.*>", "it", f"{type(error).__name__}: {error}")[:90].replace("\n", " ").replace("\t", " ")
