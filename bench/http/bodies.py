"""Writes distinct request bodies for the load test.

Equal pictures in flight are computed once by the server, so a load of one picture repeated would measure
the cache. Each body here is the same picture with a different comment chunk: other bytes, equal cost.
Standard library only.
"""

from __future__ import annotations

import argparse
import json
import struct
import zlib
from pathlib import Path

SIGNATURE_BYTES = 8
"""Length of the PNG signature; the header chunk (25 bytes) follows it."""

IHDR_BYTES = 25


def commented(png: bytes, number: int) -> bytes:
    """The same picture with a text chunk that holds `number`, right behind the header chunk."""
    body = b"tEXt" + b"Comment\0" + str(number).encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    cut = SIGNATURE_BYTES + IHDR_BYTES
    return png[:cut] + chunk + png[cut:]


def main() -> None:
    """Writes `count` pictures and `count` text requests into `out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("png", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    args = parser.parse_args()
    picture = args.png.read_bytes()
    args.out.mkdir(parents=True, exist_ok=True)
    for number in range(args.count):
        (args.out / f"image-{number}").write_bytes(commented(picture, number))
        text = {"model": "demo", "input": f"a picture of thing number {number}"}
        (args.out / f"text-{number}").write_text(json.dumps(text))


if __name__ == "__main__":
    main()
