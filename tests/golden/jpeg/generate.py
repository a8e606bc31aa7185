"""Draws JPEG files of every layout, and what Pillow makes of each.

    python3 tests/golden/jpeg/generate.py 400 tests/golden/jpeg/stored.bin   # the files that the tests read
    python3 tests/golden/jpeg/generate.py 4000 /somewhere/drawn.bin          # more of them

Needs Pillow, and `cjpeg` and `jpegtran` of libjpeg-turbo (Debian: libjpeg-turbo-progs). The same count gives the
same files. `src/preprocess/jpeg/tests.rs` compares them with what the server decodes; it reads another file than
the stored one where SIGLIP_JPEG_FILES names it.

The file is deflated by zlib. Inflated it is a sequence of records: the length of a name (u16, little endian) and
the name; the length of the JPEG (u32) and the JPEG; whether Pillow refuses it (u8); the width and the height of the
right image (u16 each, 0 where there is none) and its pixels, RGB. Right is what Pillow gives. It refuses files that
have every row and another end than the end marker: for those it is what Pillow gives with the end marker.
"""

import io
import random
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from PIL import Image

FACTORS = ["1x1", "2x1", "1x2", "2x2", "4x1", "1x4", "4x2", "2x4", "3x1", "1x3", "3x3", "3x2", "4x4"]
# Luma, then chroma: what is common, and what the standard allows besides.
COMMON = ["1x1", "2x1", "1x2", "2x2"]
SCANS = {
    "each": "0;\n1;\n2;\n",
    "luma-chroma": "0;\n1 2;\n",
    "chroma-first": "1;\n2;\n0;\n",
    "last-first": "2;\n1;\n0;\n",
    "pair-first": "0 1;\n2;\n",
    "chroma-pair-first": "1 2;\n0;\n",
    "all": "0 1 2;\n",
}
PROGRESSIVE = {
    "spectral": "0 1 2: 0-0, 0, 0;\n0: 1-63, 0, 0;\n1: 1-63, 0, 0;\n2: 1-63, 0, 0;\n",
    "bits": "0 1 2: 0-0, 0, 1;\n0: 1-63, 0, 2;\n1: 1-63, 0, 1;\n2: 1-63, 0, 1;\n0: 1-63, 2, 1;\n"
    "0 1 2: 0-0, 1, 0;\n0: 1-63, 1, 0;\n1: 1-63, 1, 0;\n2: 1-63, 1, 0;\n",
    "chroma-first": "2: 0-0, 0, 0;\n1: 0-0, 0, 0;\n0: 0-0, 0, 0;\n2: 1-63, 0, 0;\n1: 1-63, 0, 0;\n0: 1-63, 0, 0;\n",
    "unfinished": "0 1 2: 0-0, 0, 1;\n0: 1-5, 0, 2;\n",
}


def picture(draw, width, height):
    """A smooth image, a hard-edged one, or noise."""
    kind = draw.choice(["smooth"] * 4 + ["edges"] * 2 + ["noise"])
    image = Image.new("RGB", (width, height))
    a, b, c = (draw.randrange(256) for _ in range(3))
    pixels = []
    for y in range(height):
        for x in range(width):
            if kind == "smooth":
                pixels.append(((a + 3 * x) % 511, (b + 2 * y) % 511, (c + x + y) % 511))
            elif kind == "edges":
                pixels.append((255, a, 0) if (x // 7 + y // 5) % 2 else (0, b, c))
            else:
                pixels.append(tuple(draw.randrange(256) for _ in range(3)))
    image.putdata([tuple(v if v < 256 else 510 - v for v in pixel) for pixel in pixels])
    return image


def run(program, arguments, data):
    with tempfile.TemporaryDirectory() as folder:
        scans = Path(folder) / "scans"
        given = []
        for argument in arguments:
            if "\n" in argument:
                scans.write_text(argument)
                argument = str(scans)
            given.append(argument)
        done = subprocess.run([program, *given], input=data, capture_output=True, check=False)
        return done.stdout if done.returncode == 0 else None


def segments(data):
    """Marker, start and end of each segment before the first scan's data."""
    at, found = 2, []
    while True:
        code, (length,) = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])
        found.append((code, at, at + 2 + length))
        at += 2 + length
        if code == 0xDA:
            return found


def contradiction(draw):
    """A name and a file whose JFIF marker says luma and chroma where Adobe's says RGB, of a layout that is ordinary but
    for that, and large enough for any decoder."""
    width, height = draw.randint(17, 70), draw.randint(17, 70)
    factor = draw.choice(["1x1", "2x1", "2x2", "1x2"])
    ppm = io.BytesIO()
    picture(draw, width, height).save(ppm, "PPM")
    data = run("cjpeg", ["-quality", "90", "-sample", factor], ppm.getvalue())
    if data is None:
        return None, None
    place = segments(data)[0][2]
    return f"{width}x{height}-{factor}-jfif-adobe-0", with_segment(data, place, 0xEE, b"Adobe\0\x64\0\0\0\0\0")


def encoded(draw, number):
    """A name and a JPEG that an encoder wrote."""
    # Most are small, so that many fit in the repository; edges of blocks are drawn more often than the rest.
    side = lambda: draw.choice([draw.randint(1, 70), draw.randint(1, 34), draw.choice([1, 7, 8, 9, 15, 16, 17, 33])])
    width, height = side(), side()
    image = picture(draw, width, height)
    ppm = io.BytesIO()
    quality = str(draw.choice([20, 60, 75, 90, 100]))
    arguments, name = ["-quality", quality], [f"{width}x{height}", f"q{quality}"]
    kind = draw.choice(["colour"] * 8 + ["grey", "rgb", "cmyk", "ycck-like"])
    if kind in ("cmyk", "ycck-like"):
        data = io.BytesIO()
        image.convert("CMYK").save(data, "JPEG", quality=int(quality), progressive=draw.random() < 0.3)
        data = data.getvalue()
        if kind == "ycck-like":
            # The same data under the other transform.
            data = data.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\x02")
        return "-".join([kind, *name]), data
    if kind == "grey":
        arguments.append("-grayscale")
        name.append("grey")
        if draw.random() < 0.5:
            factor = draw.choice(FACTORS)
            arguments += ["-sample", factor]
            name.append(factor)
    else:
        if kind == "rgb":
            arguments.append("-rgb")
            name.append("rgb")
        if draw.random() < 0.5:
            luma, chroma = draw.choice(COMMON), ["1x1", "1x1"]
        else:
            luma, chroma = draw.choice(FACTORS), [draw.choice(FACTORS) for _ in range(2)]
        if kind == "rgb" and draw.random() < 0.7:
            luma = "1x1"
        factors = [luma, *chroma] if draw.random() < 0.3 or chroma != ["1x1", "1x1"] else [luma]
        arguments += ["-sample", ",".join(factors)]
        name.append("+".join(factors))
        script = draw.choice([None, None, None, "scans", "progressive", "progressive-script"])
        if script == "scans":
            chosen = draw.choice(list(SCANS))
            arguments += ["-scans", SCANS[chosen]]
            name.append(f"scans-{chosen}")
        elif script == "progressive":
            arguments.append("-progressive")
            name.append("progressive")
        elif script:
            chosen = draw.choice(list(PROGRESSIVE))
            arguments += ["-scans", PROGRESSIVE[chosen]]
            name.append(f"progressive-{chosen}")
    if draw.random() < 0.15:
        arguments.append("-arithmetic")
        name.append("arithmetic")
    elif draw.random() < 0.3:
        arguments.append("-optimize")
        name.append("optimised")
    if draw.random() < 0.35:
        interval = draw.choice(["1", "2", "1B", "3B", "5B", "64B"])
        arguments += ["-restart", interval]
        name.append(f"restart-{interval}")
    image.save(ppm, "PPM")
    data = run("cjpeg", arguments, ppm.getvalue())
    return "-".join(name), data


def with_segment(data, at, code, payload):
    return data[:at] + bytes([0xFF, code]) + struct.pack(">H", len(payload) + 2) + payload + data[at:]


def exif(orientation):
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">H", orientation) + b"\0\0\0\0\0\0"


def edit_markers(draw, data):
    """Other markers, or the same in another order: the data of the image stays."""
    found = segments(data)
    edit = draw.choice(["adobe", "adobe-alone", "bare", "exif", "comment", "fill", "order", "junk", "odd-app", "ids", "dnl", "split"])
    app0 = [part for part in found if part[0] == 0xE0]
    without = data[:2] + data[app0[0][2] :] if app0 else data
    if edit == "adobe":
        transform = draw.choice([0, 1, 2, 7])
        return f"{edit}-{transform}", with_segment(data, found[0][2], 0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))
    if edit == "adobe-alone":
        transform = draw.choice([0, 1, 2])
        return f"{edit}-{transform}", with_segment(without, 2, 0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))
    if edit == "bare":
        return edit, without
    if edit == "exif":
        return edit, with_segment(data, 2, 0xE1, exif(draw.randint(1, 8)))
    if edit == "comment":
        return edit, with_segment(data, draw.choice(found)[1], 0xFE, b"\xff\xd9\xff\xda words")
    if edit == "fill":
        at = draw.choice(found)[1]
        return edit, data[:at] + b"\xff" * draw.randint(1, 5) + data[at:]
    if edit == "order":
        tables = [data[a:b] for code, a, b in found if code in (0xDB, 0xC4, 0xDD)]
        rest = [data[a:b] for code, a, b in found if code not in (0xDB, 0xC4, 0xDD, 0xDA, 0xE0)]
        first = [data[a:b] for code, a, b in found if code == 0xE0]
        draw.shuffle(tables)
        middle = rest + tables if draw.random() < 0.5 else tables + rest
        scan = [data[a:b] for code, a, b in found if code == 0xDA]
        return edit, data[:2] + b"".join(first + middle + scan) + data[found[-1][2] :]
    if edit == "junk":
        at = draw.choice(found[1:])[1]
        return edit, data[:at] + bytes(draw.randrange(255) for _ in range(3)) + data[at:]
    if edit == "odd-app":
        return edit, with_segment(data, found[0][2], 0xE2, b"MPF\0" + bytes(30))
    if edit == "split":
        # Two tables that a segment holds in two segments: nothing changes.
        return edit, with_segment(data, found[-1][1], 0xE5, bytes(300))
    frame = next(part for part in found if 0xC0 <= part[0] <= 0xCF and part[0] not in (0xC4, 0xC8, 0xCC))
    if edit == "dnl":
        out = bytearray(data)
        out[frame[1] + 5 : frame[1] + 7] = b"\0\0"
        return edit, bytes(out)
    # Other names of the components.
    out, scan = bytearray(without), None
    shift = len(data) - len(without)
    names = draw.choice([b"RGB", b"\0\1\2", b"abc"])
    count = data[frame[1] + 9]
    if count != 3:
        return None, None
    old = [out[frame[1] - shift + 10 + 3 * i] for i in range(3)]
    for i in range(3):
        out[frame[1] - shift + 10 + 3 * i] = names[i]
    at = found[-1][1] - shift
    while at != -1:
        for i in range(out[at + 4]):
            out[at + 5 + 2 * i] = names[old.index(out[at + 5 + 2 * i])]
        at = out.find(b"\xff\xda", at + 2)
    return f"ids-{names.hex()}", bytes(out)


def edit_end(draw, data):
    """Another end, or none."""
    edit = draw.choice(["trailer", "zeros", "nothing", "vendor", "cut", "cut-ended", "cut-zeros", "after"])
    body = data[:-2]
    if edit == "trailer":
        return edit, body + b"SEFH\x6b\0\0\0" + bytes(range(1, 120)) + b"SEFT"
    if edit == "zeros":
        return edit, body + bytes(draw.choice([1, 2, 16, 500]))
    if edit == "nothing":
        return edit, body
    if edit == "vendor":
        return edit, body + b"\xff\xe9\x01vendor" + bytes(40) + data[: draw.randint(2, 200)]
    if edit == "after":
        return edit, data + b"\xff\xd8\xff" + bytes(100)
    start = segments(data)[-1][2]
    keep = start + int((len(body) - start) * draw.random() * 0.9)
    end = {"cut": b"", "cut-ended": b"\xff\xd9", "cut-zeros": bytes(len(data) - keep + 40)}[edit]
    return edit, data[:keep] + end


def damage(draw, data):
    """Bytes of the scan changed."""
    start = segments(data)[-1][2]
    out = bytearray(data)
    for _ in range(draw.choice([1, 1, 3])):
        out[draw.randrange(start, len(out) - 2) if len(out) - 2 > start else start] = draw.randrange(255)
    return "damaged", bytes(out)


def pillow(data):
    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG"])
        image.load()
        from PIL import ImageOps

        return ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # noqa: BLE001
        return None


def main():
    count, path = int(sys.argv[1]), Path(sys.argv[2])
    draw, records, number = random.Random(17), [], 0
    while number < count:
        contradicts = number % 25 == 24
        name, data = contradiction(draw) if contradicts else encoded(draw, number)
        if data is None:
            continue
        edit = draw.random()
        if contradicts:
            label, changed = None, data
        elif edit < 0.3:
            label, changed = edit_markers(draw, data)
        elif edit < 0.45:
            label, changed = edit_end(draw, data)
        elif edit < 0.52:
            label, changed = damage(draw, data)
        else:
            label, changed = None, data
        if changed is None:
            continue
        name = f"{number}-{name}" + (f"-{label}" if label else "")
        image = pillow(changed)
        refused = image is None
        if refused and label in ("trailer", "zeros", "nothing", "vendor"):
            image = pillow(data)
        width, height = image.size if image else (0, 0)
        encoded_name = name.encode()
        records.append(struct.pack("<H", len(encoded_name)) + encoded_name)
        records.append(struct.pack("<I", len(changed)) + changed)
        records.append(struct.pack("<BHH", refused, width, height) + (image.tobytes() if image else b""))
        number += 1
    path.write_bytes(zlib.compress(b"".join(records), 9))
    print(f"{number} files, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
