"""GIF variants, written block by block."""

import struct

from common import drawing, size


def lzw(indices, smallest):
    """Codes of the format's LZW, with tables."""
    clear, end = 1 << smallest, (1 << smallest) + 1
    out, used, width = 0, 0, smallest + 1
    table, following = {}, end + 1
    codes = []

    def emit(code):
        nonlocal out, used
        out |= code << used
        used += width

    emit(clear)
    prefix = None
    for index in indices:
        if prefix is None:
            prefix = (index,)
            continue
        longer = prefix + (index,)
        if longer in table:
            prefix = longer
            continue
        emit(prefix[0] if len(prefix) == 1 else table[prefix])
        table[longer] = following
        following += 1
        if following > (1 << width) and width < 12:
            width += 1
        elif following > 4095:
            emit(clear)
            table, following, width = {}, end + 1, smallest + 1
        prefix = (index,)
    if prefix is not None:
        emit(prefix[0] if len(prefix) == 1 else table[prefix])
        following += 1
        if following > (1 << width) and width < 12:
            width += 1
    emit(end)
    return out.to_bytes((used + 7) // 8, "little")


def blocks(data):
    return b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255)) + b"\0"


def interlaced(rows):
    return rows[0::8] + rows[4::8] + rows[2::4] + rows[1::2]


def ramp(bits):
    return b"".join(bytes([index] * 3) for index in range(1 << bits))


def table(rng, bits):
    if rng.random() < 0.1:
        return ramp(bits)
    # One that counts up but for its last colour would be left to chance.
    return bytes(rng.randrange(256) for _ in range((3 << bits) - 1)) + b"\7"


def control(rng, bits):
    transparent = rng.random() < 0.6
    flags = int(transparent) | rng.randrange(4) << 2
    return b"!\xf9\x04" + bytes([flags, 10, 0, rng.randrange((1 << bits) + 2) & 255, 0])


def frame(rng, extent, bits, cut):
    left, top, width, height = extent
    local = table(rng, bits) if rng.random() < 0.4 else b""
    out = control(rng, bits) if rng.random() < 0.6 else b""
    if rng.random() < 0.1:
        out += b"!\xfe" + blocks(b"a comment")
    rows = list((drawing(rng, width, height, 1)[:, :, 0] >> (8 - bits)).tolist())
    weave = rng.random() < 0.3
    out += b"," + struct.pack("<HHHH", left, top, width, height)
    out += bytes([(0x80 | bits - 1 if local else 0) | (0x40 if weave else 0)]) + local
    smallest = max(2, bits if rng.random() < 0.9 else min(8, bits + 2))
    data = lzw([index for row in (interlaced(rows) if weave else rows) for index in row], smallest)
    if cut:
        data = data[: len(data) // 2]
    return out + bytes([smallest]) + blocks(data), local


def variants(rng, count):
    for index in range(count):
        width, height = size(rng)
        bits = rng.randint(1, 8)
        kind = rng.choice(["same", "same", "same", "smaller", "larger", "beside", "no-screen", "half", "no-table", "two", "no-end"])
        left, top, screen = 0, 0, (width, height)
        if kind == "smaller":
            left, top = rng.randint(0, 9), rng.randint(0, 9)
            screen = (width + left + rng.randint(0, 9), height + top + rng.randint(0, 9))
        elif kind == "larger":
            screen = (rng.randint(1, width), rng.randint(1, height))
        elif kind == "beside":
            left, top = rng.randint(0, width + 9), rng.randint(0, height + 9)
        elif kind == "no-screen":
            screen = rng.choice([(0, 0), (width, 0), (0, height)])
        part, local = frame(rng, (left, top, width, height), bits, kind == "half")
        has_table = kind != "no-table" and (not local or rng.random() < 0.5)
        shorter = max(1, bits - (rng.random() < 0.15))
        out = rng.choice([b"GIF89a", b"GIF87a"]) + struct.pack("<HH", *screen)
        out += bytes([0x80 | shorter - 1 if has_table else 0, rng.randrange(1 << bits), 0])
        out += table(rng, shorter) if has_table else b""
        # Pillow takes the common table in place of a frame's own that only counts up.
        twin = out[:10] + b"\0" + out[11:13] + part + b";" if has_table and local == ramp(bits) else None
        if rng.random() < 0.1:
            out += b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
        out += part
        if kind == "two":
            out += frame(rng, (0, 0, width, height), bits, False)[0]
        out += b"" if kind == "no-end" else b";"
        yield f"{index}-{bits}-{kind}.gif", out, twin
