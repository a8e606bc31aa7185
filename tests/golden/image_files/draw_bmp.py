"""BMP variants, written field by field."""

import struct

import numpy as np

from common import drawing, size


def rle(rng, rows, bits):
    """Runs, and spans as they are; rows from the bottom."""
    out = bytearray()
    for row in rows:
        at = 0
        while at < len(row):
            run = 1
            while at + run < len(row) and row[at + run] == row[at] and run < 255:
                run += 1
            if run >= 2 or len(row) - at < 3 or rng.random() < 0.5:
                value = row[at]
                out += bytes([run, value if bits == 8 else value << 4 | value])
                at += run
            else:
                length = min(len(row) - at, rng.randint(3, 20))
                span = row[at : at + length]
                data = bytes(span) if bits == 8 else bytes((span + [0])[i] << 4 | (span + [0])[i + 1] for i in range(0, length, 2))
                out += bytes([0, length]) + data + b"\0" * (len(data) % 2)
                at += length
        out += b"\0\0"
    return bytes(out) + b"\0\1"


def variants(rng, count):
    for index in range(count):
        width, height = size(rng)
        header = rng.choice([12, 40, 40, 40, 52, 56, 64, 108, 124])
        bits = rng.choice([1, 4, 8, 16, 24, 24, 32, 32])
        down = header != 12 and rng.random() < 0.3
        compression, masks = 0, []
        if header >= 40 and header != 64:
            if bits in (4, 8) and not down and rng.random() < 0.4:
                compression = 1 if bits == 8 else 2
            elif bits == 16 and rng.random() < 0.6:
                compression, masks = 3, rng.choice([[0xF800, 0x7E0, 0x1F, 0], [0x7C00, 0x3E0, 0x1F, 0], [0x7C00, 0x3E0, 0x1F, 0x8000], [0xF00, 0xF0, 0xF, 0xF000]])
            elif bits == 32 and rng.random() < 0.7:
                compression, masks = 3, rng.choice([[0xFF0000, 0xFF00, 0xFF, 0xFF000000], [0xFF0000, 0xFF00, 0xFF, 0], [0xFF, 0xFF00, 0xFF0000, 0xFF000000],
                                                    [0xFF000000, 0xFF0000, 0xFF00, 0xFF], [0xFF000000, 0xFF0000, 0xFF00, 0], [0x3FF00000, 0xFFC00, 0x3FF, 0]])
        if bits == 16 and header in (12, 64):
            bits = 24
        if bits == 32 and header in (12, 64):
            bits = 24
        pad = lambda row: row + b"\0" * (-len(row) % 4)
        colours = []
        if bits <= 8:
            indices = drawing(rng, width, height, 1)[:, :, 0] >> (8 - bits)
            used = rng.choice([1 << bits, 1 << bits, int(indices.max()) + 1])
            if header == 12:
                used = 1 << bits
            grey = rng.random() < 0.2
            colours = [([i * 255 // max(1, (1 << bits) - 1)] * 3 if grey else [rng.randrange(256) for _ in range(3)]) for i in range(used)]
            rows = [list(map(int, row)) for row in indices]
            if not down:
                rows = rows[::-1]
            if compression:
                data = rle(rng, rows, bits)
            else:
                spread = lambda row: np.packbits(np.unpackbits(np.array(row, np.uint8)[:, None], axis=1)[:, 8 - bits :]).tobytes()
                data = b"".join(pad(spread(row)) for row in rows)
        else:
            samples = drawing(rng, width, height, bits // 8)
            if bits == 32 and rng.random() < 0.3:
                samples[:, :, 3] = rng.choice([0, 255])
            if not down:
                samples = samples[::-1]
            data = b"".join(pad(row.tobytes()) for row in samples)
        palette = b"".join(bytes(colour) + (b"" if header == 12 else b"\0") for colour in colours)
        if header == 12:
            info = struct.pack("<IHHHH", 12, width, height, 1, bits)
        else:
            info = struct.pack("<IiiHHIIiiII", 40, width, -height if down else height, 1, bits, compression, len(data), 2835, 2835, 0 if len(colours) == 1 << bits else len(colours), 0)
            if header >= 52 and header != 64:
                fields = masks or [0, 0, 0, 0]
                info += struct.pack("<IIII", *fields)[: 12 if header == 52 else 16]
            info = struct.pack("<I", header) + info[4:].ljust(header - 4, b"\0")
            if header == 40 and compression == 3:
                info += struct.pack("<III", *masks[:3])
        start = 14 + len(info) + len(palette)
        gap = rng.choice([0, 0, 0, 4])
        fault = rng.choice([None] * 6 + ["half", "trailer"])
        out = b"BM" + struct.pack("<IHHI", start + gap + len(data), 0, 0, start + gap) + info + palette + b"\0" * gap + data
        if fault == "half":
            out = out[: start + gap + len(data) // 2]
        if fault == "trailer":
            out += b"trailer"
        kind = "-".join(filter(None, [str(bits), f"header{header}", "down" if down else "", f"c{compression}", "m%x" % masks[0] if masks else "", fault or ""]))
        yield f"{index}-{kind}.bmp", out, None
