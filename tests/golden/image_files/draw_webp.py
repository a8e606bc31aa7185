"""WebP variants: what libwebp writes through Pillow, and the same with other headers."""

import io
import struct

import numpy as np
from PIL import Image

from common import drawing, size

ICC, ALPHA, EXIF, XMP, ANIMATION = 0x20, 0x10, 0x08, 0x04, 0x02


def chunks(data):
    at, out = 12, []
    while at + 8 <= len(data):
        length = struct.unpack("<I", data[at + 4 : at + 8])[0]
        out.append([data[at : at + 4], data[at + 8 : at + 8 + length]])
        at += 8 + length + length % 2
    return out


def container(parts):
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def variants(rng, count):
    for index in range(count):
        width, height = size(rng)
        alpha = rng.random() < 0.4
        picture = Image.fromarray(drawing(rng, width, height, 4 if alpha else 3))
        options = rng.choice([{"lossless": True, "exact": True}, {"lossless": True}, {"quality": 90}, {"quality": 30}, {"quality": 80, "alpha_quality": 50}])
        options = options | {"method": rng.choice([0, 4, 6])}
        animated = rng.random() < 0.15
        if animated:
            other = Image.fromarray(drawing(rng, width, height, 4 if alpha else 3))
            options |= {"save_all": True, "append_images": [other], "duration": 50, "background": tuple(rng.choice([0, 255]) for _ in range(4))}
        exif = Image.Exif()
        exif[0x0112] = rng.randint(1, 8)
        if rng.random() < 0.25:
            options["exif"] = exif.tobytes()
        if rng.random() < 0.2:
            options["xmp"] = b"<x:xmpmeta/>"
        if rng.random() < 0.2:
            options["icc_profile"] = b"not a profile"
        out = io.BytesIO()
        picture.save(out, "WEBP", **options)
        data = out.getvalue()
        parts = chunks(data)
        name = ("lossless" if options.get("lossless") else "lossy") + ("-alpha" if alpha else "") + ("-animated" if animated else "")
        fault = rng.choice([None, None, "flags", "flags", "case", "header", "trailer", "riff-length", "cut", "half", "unknown", "no-pad", "order", "double"])
        kinds = [kind for kind, _ in parts]
        if fault in ("flags", "case", "unknown", "order", "header") and kinds[0] != b"VP8X":
            canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
            parts.insert(0, [b"VP8X", bytes([ALPHA if alpha else 0, 0, 0, 0]) + canvas])
        head = parts[0]
        if fault == "flags":
            bit = rng.choice([ICC, ALPHA, EXIF, XMP, EXIF | XMP, 0x01, 0x40, 0x80])
            head[1] = bytes([head[1][0] ^ bit]) + head[1][1:]
            name += f"-{bit:x}"
        elif fault == "case":
            kind = rng.choice([b"Exif", b"exif", b"xmp ", b"Xmp ", b"XMP\0", b"EXIF"])
            parts.append([kind, exif.tobytes()])
            head[1] = bytes([head[1][0] | rng.choice([0, EXIF, XMP])]) + head[1][1:]
            name += "-" + kind.decode().strip("\0 ")
        elif fault == "unknown":
            parts.insert(rng.randint(1, len(parts)), [b"ABCD", b"123"])
        elif fault == "order" and len(parts) > 2:
            parts.append(parts.pop(1))
        elif fault == "double" and kinds[0] != b"VP8X":
            parts.append(parts[-1])
        if fault in ("flags", "case", "unknown", "order", "header", "double"):
            data = container(parts)
        if fault == "trailer":
            data += rng.choice([b"\0", b"trailer", data])
        elif fault == "riff-length":
            data = data[:4] + struct.pack("<I", struct.unpack("<I", data[4:8])[0] + rng.choice([-2, 1, 8, 100])) + data[8:]
        elif fault == "cut":
            data = data[: rng.randrange(20, len(data))]
        elif fault == "half":
            at = data.index(b"VP8L" if b"VP8L" in data else b"VP8 ")
            data = data[: at + 8 + (struct.unpack("<I", data[at + 4 : at + 8])[0]) // 2]
        elif fault == "no-pad" and len(parts[-1][1]) % 2:
            data = data[:-1]
        yield f"{index}-{name}" + (f"-{fault}" if fault else "") + ".webp", data, None
