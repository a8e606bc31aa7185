"""PNG variants, written chunk by chunk."""

import struct
import zlib

import numpy as np

from common import drawing, size

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
SIGNATURE = b"\x89PNG\r\n\x1a\n"
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def chunk(kind, data, checksum=None):
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def packed(samples, depth):
    """Rows of bytes of an array of rows, columns and samples."""
    height = samples.shape[0]
    flat = samples.reshape(height, -1)
    if depth == 16:
        return [row.astype(">u2").tobytes() for row in flat]
    if depth == 8:
        return [row.astype(np.uint8).tobytes() for row in flat]
    bits = np.unpackbits(flat[:, :, None].astype(np.uint8), axis=2)[:, :, 8 - depth :]
    return [np.packbits(row).tobytes() for row in bits.reshape(height, -1)]


def filtered(rng, rows, step):
    """Each row behind the number of a filter."""
    out, above = b"", None
    for row in rows:
        above = above or bytes(len(row))
        kind = rng.randrange(5)
        line = bytearray()
        for index, value in enumerate(row):
            left = row[index - step] if index >= step else 0
            corner = above[index - step] if index >= step else 0
            up = above[index]
            if kind == 4:
                guess = left + up - corner
                near = sorted((abs(guess - p), i, p) for i, p in enumerate((left, up, corner)))
                predicted = near[0][2]
            else:
                predicted = (0, left, up, (left + up) // 2)[kind]
            line.append((value - predicted) & 255)
        out += bytes([kind]) + bytes(line)
        above = row
    return out


def image(rng, width, height, colour, depth, interlaced):
    """The samples, and the packed rows."""
    samples = drawing(rng, width, height, SAMPLES[colour]).astype(np.uint16)
    if depth == 16:
        samples = samples * 257 - samples % 7
    elif depth < 8:
        samples = samples >> (8 - depth)
    step = max(1, SAMPLES[colour] * depth // 8)
    passes = PASSES if interlaced else [(0, 0, 1, 1)]
    data = b""
    for left, top, right, down in passes:
        part = samples[top::down, left::right]
        if part.size:
            data += filtered(rng, packed(part, depth), step)
    return samples, data


def file(rng):
    width, height = size(rng)
    colour = rng.choice(list(DEPTHS))
    depth = rng.choice(DEPTHS[colour])
    interlaced = rng.random() < 0.3
    samples, data = image(rng, width, height, colour, depth, interlaced)
    stream = zlib.compress(data, rng.choice([0, 1, 9]))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    chunks = [[b"IHDR", header]]
    name = f"{colour}-{depth}" + ("-interlaced" if interlaced else "")
    if rng.random() < 0.3:
        chunks.append(rng.choice([[b"gAMA", struct.pack(">I", 45455)], [b"sRGB", b"\0"], [b"tEXt", b"Comment\0hello"],
                                  [b"pHYs", struct.pack(">IIB", 2835, 2835, 1)], [b"sBIT", b"\5" * (3 if colour == 3 else SAMPLES[colour])]]))
    if colour == 3:
        short = rng.random() < 0.1
        colours = max(1, (int(samples.max()) + 1) if not short else int(samples.max()))
        chunks.append([b"PLTE", bytes(rng.randrange(256) for _ in range(3 * colours))])
        name += "-short-palette" if short else ""
        if rng.random() < 0.5:
            alphas = [rng.choice([0, 255, rng.randrange(256)]) for _ in range(rng.randint(1, colours))]
            # Pillow looks for a lone 0 with a pattern that overlooks a last value of 10, since that is a line break.
            chunks.append([b"tRNS", bytes(11 if alpha == 10 else alpha for alpha in alphas)])
            name += "-transparent"
    elif colour in (0, 2) and rng.random() < 0.3:
        row, column = rng.randrange(height), rng.randrange(width)
        chunks.append([b"tRNS", b"".join(struct.pack(">H", int(value)) for value in samples[row, column])])
        name += "-transparent"
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([rng.randint(1, 8), 0, 0, 0, 0, 0, 0, 0])
    late = False
    if rng.random() < 0.15:
        late = rng.random() < 0.5
        name += "-oriented" + ("-late" if late else "")
        if not late:
            chunks.append([b"eXIf", exif])
    if rng.random() < 0.1:
        chunks.append([b"acTL", struct.pack(">II", 1, 0)])
        if rng.random() < 0.5:
            chunks.append([b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0)])
        name += "-animated"
    cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.choice([0, 0, 1, 3])))
    parts = [stream[a:b] for a, b in zip([0] + cuts, cuts + [len(stream)])]
    chunks += [[b"IDAT", part] for part in parts]
    if late:
        chunks.append([b"eXIf", exif])
    chunks.append([b"IEND", b""])
    twin = None
    if "-transparent" in name and colour != 3 and (depth == 16 or depth < 8):
        # Pillow compares the transparent colour, which has all its bits, with samples that it has made eight bits.
        clear = (samples == samples[row, column]).all(axis=2)
        shallow = samples >> 8 if depth == 16 else samples * (255 // ((1 << depth) - 1))
        rgb = np.repeat(shallow, 3, axis=2) if colour == 0 else shallow
        rgba = np.dstack([rgb, np.where(clear, 0, 255)])
        data = zlib.compress(b"".join(b"\0" + line for line in packed(rgba, 8)))
        kept = [chunk(kind, part) for kind, part in chunks if kind == b"eXIf"]
        twin = SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)) + b"".join(kept)
        twin += chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return name, chunks, twin


def variants(rng, count):
    for index in range(count):
        name, chunks, twin = file(rng)
        out = SIGNATURE
        fault = rng.choice([None, None, None, "no-end", "end-cut", "checksum", "all-checksums", "cut", "half", "trailer", "adler", "tail-cut"])
        if fault == "no-end":
            chunks = chunks[:-1]
        wrong = {"checksum": [rng.randrange(len(chunks))], "all-checksums": range(len(chunks))}.get(fault, [])
        if fault == "checksum":
            name += "-" + chunks[wrong[0]][0].decode()
        if fault == "adler":
            last = [chunk for chunk in chunks if chunk[0] == b"IDAT" and chunk[1]][-1]
            last[1] = last[1][:-1] + bytes([last[1][-1] ^ 85])
        for place, (kind, data) in enumerate(chunks):
            out += chunk(kind, data, 0 if place in wrong else None)
        if fault == "end-cut":
            out = out[: -rng.randint(1, 12)]
        if fault == "tail-cut":
            out = out[: -12 - rng.randint(1, 8)]
        if fault == "half":
            at = out.index(b"IDAT")
            parts = sum(len(data) for kind, data in chunks if kind == b"IDAT")
            out = out[: at + parts // 2]
        if fault == "cut":
            out = out[: rng.randrange(33, len(out) - 20)] if len(out) > 60 else out[:40]
        if fault == "trailer":
            out += rng.choice([b"\0", b"\xff" * 9, out])
        yield f"{index}-{name}" + (f"-{fault}" if fault else "") + ".png", out, twin
