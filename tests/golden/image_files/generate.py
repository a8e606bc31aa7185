"""Draws image files of every kind that Pillow opens, and packs them with Pillow's pixels.

    python tests/golden/image_files/generate.py tests/golden/image_files.bin --count 400      # the stored set
    python tests/golden/image_files/generate.py /elsewhere/image_files.bin --count 4000 --seed 7

Needs what requirements.txt beside it names, and libtiff's tools (Debian's libtiff-tools).

The answer is what Pillow opens, upright, on white. Where Pillow departs from a format's own specification, it is
Pillow's answer to a twin of the file that says the same in another way; the drawing modules say where and why.

The file is one zlib stream of records: the length of a name and the name, the length of an image file and the file,
columns and rows (0 and 0 where Pillow refuses the file), and the pixels, RGB. Lengths have four bytes, the lowest first.
"""

import argparse
import random
import struct
import warnings
import zlib
from pathlib import Path

import draw_bmp
import draw_gif
import draw_png
import draw_tiff
import draw_webp
from common import rgb

# Of a hundred files.
SHARES = {draw_png: 22, draw_gif: 16, draw_bmp: 16, draw_tiff: 30, draw_webp: 16}


def record(name, data, pixels):
    height, width = (0, 0) if isinstance(pixels, str) else pixels.shape[:2]
    parts = [name.encode(), data]
    out = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    return out + struct.pack("<II", width, height) + (b"" if isinstance(pixels, str) else pixels.tobytes())


def main():
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    records = []
    for module, share in SHARES.items():
        rng = random.Random(f"{options.seed} {module.__name__}")
        for name, data, twin in module.variants(rng, options.count * share // 100):
            pixels = rgb(data)
            if twin and not isinstance(pixels, str):
                pixels = rgb(twin)
            records.append(record(name, data, pixels))
    options.file.write_bytes(zlib.compress(b"".join(records), 9))
    print(f"{len(records)} files, {options.file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
