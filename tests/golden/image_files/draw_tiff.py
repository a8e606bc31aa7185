"""TIFF variants, written tag by tag; faxes and JPEG streams come from libtiff, through Pillow and its own tools."""

import io
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from common import drawing, size

KINDS = {1: "B", 3: "H", 4: "I", 5: "II", 7: "B", 16: "Q"}
COMPRESSIONS = {"none": 1, "lzw": 5, "deflate": 8, "deflate-old": 32946, "packbits": 32773}


def packbits(rows):
    return b"".join(bytes(imagecodecs.packbits_encode(row)) for row in rows)


def compressed(name, rows):
    data = b"".join(rows)
    if name == "none":
        return data
    if name == "lzw":
        return bytes(imagecodecs.lzw_encode(data))
    if name == "packbits":
        return packbits(rows)
    return zlib.compress(data)


def tags_to_file(tags, chunks, order, big, counts_right=True):
    """A file of one directory. `tags`: tag to (type, values); strips or tiles are `chunks`."""
    e = "<" if order == "II" else ">"
    out = order.encode() + (struct.pack(e + "HHHQ", 43, 8, 0, 0) if big else struct.pack(e + "HI", 42, 0))
    offsets = []
    for chunk in chunks:
        offsets.append(len(out))
        out += chunk + b"\0" * (len(chunk) % 2)
    tiled = 322 in tags
    tags = dict(tags)
    wide = 16 if big else 4
    tags[324 if tiled else 273] = (wide, offsets)
    tags[325 if tiled else 279] = (wide, [len(chunk) if counts_right else 0 for chunk in chunks])
    entries, behind = [], []
    entry_size, inline = (20, 8) if big else (12, 4)
    start = len(out)
    at = start + (8 if big else 2) + entry_size * len(tags) + (8 if big else 4)
    for tag, (kind, values) in sorted(tags.items()):
        data = b"".join(struct.pack(e + KINDS[kind], *(value if kind == 5 else (value,))) for value in values)
        if len(data) > inline:
            place = struct.pack(e + ("Q" if big else "I"), at)
            behind.append(data + b"\0" * (len(data) % 2))
            at += len(behind[-1])
        else:
            place = data.ljust(inline, b"\0")
        entries.append(struct.pack(e + "HH" + ("Q" if big else "I"), tag, kind, len(values)) + place)
    out += struct.pack(e + ("Q" if big else "H"), len(entries)) + b"".join(entries) + b"\0" * (8 if big else 4) + b"".join(behind)
    if big:
        return out[:8] + struct.pack(e + "Q", start) + out[16:]
    return out[:4] + struct.pack(e + "I", start) + out[8:]


def bit_rows(samples, bits, order):
    """Rows of bytes of an array of rows, columns and samples."""
    flat = samples.reshape(samples.shape[0], -1)
    if bits == 16:
        return [row.astype("<u2" if order == "II" else ">u2").tobytes() for row in flat]
    if bits == 8:
        return [row.astype(np.uint8).tobytes() for row in flat]
    spread = np.unpackbits(flat[:, :, None].astype(np.uint8), axis=2)[:, :, 8 - bits :]
    return [np.packbits(row).tobytes() for row in spread.reshape(len(flat), -1)]


def predicted(samples, bits):
    out = samples.astype(np.int64)
    out[:, 1:] -= samples[:, :-1]
    return (out & ((1 << bits) - 1)).astype(np.uint16)


def reversed_bits(data):
    return bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)


# Name: photometric interpretation, samples, bits that there are, extra samples.
COLOURS = {
    "white-is-0": (0, 1, (1, 2, 4, 8), []),
    "black-is-0": (1, 1, (1, 2, 4, 8, 16), []),
    "grey-alpha": (1, 2, (8,), [2]),
    "grey-extra": (1, 2, (8,), [0]),
    "grey-associated": (1, 2, (8,), [1]),
    "rgb": (2, 3, (8, 8, 16), []),
    "rgba": (2, 4, (8, 16), [2]),
    "rgbx": (2, 4, (8, 16), [0]),
    "rgb-associated": (2, 4, (8, 16), [1]),
    "rgb-untold": (2, 4, (8, 16), []),
    "rgb-associated-extra": (2, 5, (8,), [1, 0]),
    "rgba-extra": (2, 5, (8,), [2, 0]),
    "rgbxx": (2, 5, (8,), [0, 0]),
    "palette": (3, 1, (1, 2, 4, 8), []),
    "palette-alpha": (3, 2, (8,), [2]),
    "palette-extra": (3, 2, (8,), [0]),
    "cmyk": (5, 4, (8, 16), []),
    "cmyk-extra": (5, 5, (8,), [0]),
    "ycbcr": (6, 3, (8,), []),
    "lab": (8, 3, (8,), []),
}


def blocks(data, down, across, tiles):
    """The strips or tiles of an array."""
    for top in range(0, data.shape[0], down):
        for left in range(0, data.shape[1], across):
            block = data[top : top + down, left : left + across]
            if tiles:
                block = np.pad(block, ((0, down - block.shape[0]), (0, across - block.shape[1]), (0, 0)), mode="edge")
            yield block


def written(rng):
    width, height = size(rng)
    label = rng.choice(list(COLOURS))
    photometric, samples, depths, extra = COLOURS[label]
    bits = rng.choice(depths)
    order, big = rng.choice(["II", "MM"]), rng.random() < 0.25
    compression = rng.choice(list(COMPRESSIONS))
    planar = samples > 1 and rng.random() < 0.35
    tiled = rng.random() < 0.35
    reverse = rng.random() < 0.2
    predictor = compression in ("lzw", "deflate") and bits >= 8 and rng.random() < 0.4
    data = drawing(rng, width, height, samples).astype(np.uint16)
    if 1 in extra[:1]:
        data[:, :, : samples - len(extra)] = data[:, :, : samples - len(extra)] * data[:, :, -len(extra)][:, :, None] // 255
    if bits == 16:
        data = data * 257 - data % 7
    elif bits < 8:
        data = data >> (8 - bits)
    tags = {256: (rng.choice([3, 4]), [width]), 257: (3, [height]), 258: (3, [bits] * samples), 259: (3, [COMPRESSIONS[compression]]),
            262: (3, [photometric]), 277: (3, [samples])}
    if extra:
        tags[338] = (3, extra)
    if planar or rng.random() < 0.5:
        tags[284] = (3, [2 if planar else 1])
    if photometric == 3:
        tags[320] = (3, [rng.randrange(65536) for _ in range(3 << bits)])
    if photometric == 6:
        tags[530] = (3, [1, 1])
    if reverse:
        tags[266] = (3, [2])
    elif rng.random() < 0.2:
        tags[266] = (3, [1])
    if predictor:
        tags[317] = (3, [2])
    if rng.random() < 0.2:
        tags[274] = (3, [rng.randint(1, 8)])
    if rng.random() < 0.2:
        tags[339] = (3, [1] * samples)
    if tiled:
        across, down = 16 * rng.randint(1, 2), 16 * rng.randint(1, 2)
        tags[322], tags[323] = (3, [across]), (4, [down])
    else:
        across, down = width, rng.randint(1, height)
        tags[278] = (rng.choice([3, 4]), [down])
    tiles = (down, across) if tiled else None
    chunks = []
    for plane in range(samples) if planar else [None]:
        part = data if plane is None else data[:, :, plane : plane + 1]
        for block in blocks(part, down, across, tiles):
            block = predicted(block, bits) if predictor else block
            packed = compressed(compression, bit_rows(block, bits, order))
            chunks.append(reversed_bits(packed) if reverse else packed)
    out = tags_to_file(tags, chunks, order, big)
    twin = None
    # Pillow reads planes of 16 bits or of reversed bits as if they were neither, where they are not compressed, and
    # passes over an alpha in a plane of its own where they are.
    misread = bits == 16 or reverse if compression == "none" else label in ("grey-alpha", "palette-alpha")
    if planar and misread:
        plain = {tag: value for tag, value in tags.items() if tag not in (266, 284, 317)} | {259: (3, [1])}
        twin = tags_to_file(plain, [b"".join(bit_rows(block, bits, order)) for block in blocks(data, down, across, tiles)], order, big)
    name = "-".join(filter(None, [label, str(bits), order, "big" if big else "", compression, "planar" if planar else "", "tiled" if tiled else "",
                                  "reversed" if reverse else "", "predictor" if predictor else "", "oriented" if 274 in tags else ""]))
    if rng.random() < 0.04 and compression != "none" and not tiled and min(map(len, chunks)) > 60:
        # All strips and tiles, the tags as they were.
        short = [chunk[: len(chunk) // 2] for chunk in chunks]
        return name + "-half", tags_to_file(tags, short, order, big), None
    if rng.random() < 0.04:
        out = out[: rng.randrange(len(out))]
        name += "-cut"
    return name, out, twin


def saved(rng):
    """What Pillow writes through libtiff."""
    width, height = size(rng)
    mode = rng.choice(["1", "L", "RGB", "RGBA", "CMYK", "YCbCr", "P", "LA", "I;16"])
    picture = Image.fromarray(drawing(rng, width, height, 3))
    if mode == "I;16":
        picture = Image.fromarray((np.asarray(picture.convert("L")).astype(np.uint16) * 257))
    elif mode == "P":
        picture = picture.quantize(rng.choice([2, 16, 200]))
    else:
        picture = picture.convert(mode)
    names = ["group3", "group4", "tiff_ccitt"] if mode == "1" else []
    names += ["jpeg"] * 3 if mode in ("L", "RGB", "YCbCr", "CMYK") else []
    names += ["tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd", "webp", None]
    compression = rng.choice(names)
    info = {} if rng.random() < 0.5 else {278: rng.randint(1, height)}
    out = io.BytesIO()
    options = {"compression": compression} if compression else {}
    if compression == "jpeg" and rng.random() < 0.5:
        options["quality"] = rng.choice([40, 75, 95])
    try:
        picture.save(out, "TIFF", tiffinfo=info, big_tiff=rng.random() < 0.2, **options)
    except Exception:
        return None, None, None
    return f"saved-{mode.replace(';', '')}-{compression}", out.getvalue(), None


def tool(rng, folder):
    """What libtiff's own tools write: faxes in two dimensions, coarser chroma, tiles of JPEG streams."""
    source, target = folder / "in.tif", folder / "out.tif"
    width, height = size(rng)
    if rng.random() < 0.5:
        Image.fromarray(drawing(rng, width, height, 3)).convert("1").save(source, compression="tiff_lzw")
        coding = rng.choice(["g3:1d", "g3:2d", "g3:1d:fill", "g3:2d:fill", "g4"])
        command = ["tiffcp", "-c", coding]
        command += ["-r", str(rng.randint(1, height))] if rng.random() < 0.5 else []
        command += ["-f", rng.choice(["lsb2msb", "msb2lsb"])]
        name = coding.replace(":", "-")
    elif rng.random() < 0.5:
        Image.fromarray(drawing(rng, width, height, 3)).save(source)
        coding, h, v = rng.choice(["none", "lzw", "zip", "packbits"]), rng.choice([1, 2, 4]), rng.choice([1, 2, 4])
        v = min(v, h)
        command = ["rgb2ycbcr", "-c", coding, "-h", str(h), "-v", str(v)]
        name = f"ycbcr-{h}{v}-{coding}"
    else:
        Image.fromarray(drawing(rng, width, height, 3)).save(source)
        colour = rng.choice(["", ":r"])
        command = ["tiffcp", "-c", f"jpeg{colour}:{rng.choice([50, 90])}"]
        command += ["-t", "-w", "16", "-l", "32"] if rng.random() < 0.5 else ["-r", str(rng.choice([8, 16]))]
        command += ["-p", "separate"] if rng.random() < 0.2 else []
        name = "jpeg" + colour.replace(":", "-") + ("-tiled" if "-t" in command else "") + ("-planar" if "-p" in command else "")
    target.unlink(missing_ok=True)
    subprocess.run([*command, source, target], capture_output=True, check=False)
    if not target.exists() or not target.stat().st_size:
        return None, None, None
    return "tool-" + name, target.read_bytes(), None


def variants(rng, count):
    tools = shutil.which("tiffcp") and shutil.which("rgb2ycbcr")
    with tempfile.TemporaryDirectory() as folder:
        for index in range(count):
            kind = rng.random()
            if kind < 0.6:
                name, data, twin = written(rng)
            elif kind < 0.8 or not tools:
                name, data, twin = saved(rng)
            else:
                name, data, twin = tool(rng, Path(folder))
            if data:
                yield f"{index}-{name}.tiff", data, twin
