"""Writes the seeds of the corpus (fuzz/corpus): python fuzz/make_corpus.py. Needs Pillow.

What fuzzing found is kept beside them and is not touched.
"""

import base64
import io
import json
import struct
import zlib
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "tests" / "golden"
FORMATS = HERE.parent / "tests" / "fixtures" / "formats"
AVIF = ["alpha-irot-1.avif", "chroma-420-bits-10.avif", "grid.avif", "one-pixel.avif"]


def put(target: str, name: str, data: bytes) -> None:
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def picture(mode: str = "RGB", size: tuple[int, int] = (7, 5)) -> Image.Image:
    grey = Image.new("L", size)
    grey.putdata([(x * 7 + y * 13) % 256 for y in range(size[1]) for x in range(size[0])])
    return grey.convert(mode)


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (7, 5), **options) -> bytes:
    out = io.BytesIO()
    picture(mode, size).save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def images() -> dict[str, bytes]:
    frames = [picture("P", (6, 6)), picture("P", (6, 6)).rotate(90)]
    found = {
        "rgb.png": encoded("PNG"),
        "palette.png": encoded("PNG", "P"),
        "alpha.png": encoded("PNG", "RGBA"),
        "grey-alpha.png": encoded("PNG", "LA"),
        "bits.png": encoded("PNG", "1"),
        "deep.png": encoded("PNG", "I;16"),
        "rgb.jpeg": encoded("JPEG"),
        "grey.jpeg": encoded("JPEG", "L"),
        "cmyk.jpeg": encoded("JPEG", "CMYK"),
        "progressive.jpeg": encoded("JPEG", size=(20, 20), progressive=True),
        "lossy.webp": encoded("WEBP"),
        "lossless.webp": encoded("WEBP", "RGBA", lossless=True),
        "one.gif": encoded("GIF", "P"),
        "rgb.bmp": encoded("BMP"),
        "palette.bmp": encoded("BMP", "P"),
        "bits.bmp": encoded("BMP", "1"),
        "rgb.tiff": encoded("TIFF"),
        "deflate.tiff": encoded("TIFF", compression="tiff_adobe_deflate"),
        "lzw.tiff": encoded("TIFF", "L", compression="tiff_lzw"),
        "cmyk.tiff": encoded("TIFF", "CMYK"),
        "pixel.png": encoded("PNG", size=(1, 1)),
        "pixel.webp": encoded("WEBP", size=(1, 1)),
        "large-header.png": png(65535, 65535, 8, 2, b""),
        "no-pixels.png": png(0, 0, 8, 2, zlib.compress(b"")),
        "bomb.png": png(1, 1, 8, 2, zlib.compress(bytes(1 << 20))),
        "page.html": b"<!doctype html><img src=x onerror=alert(1)>",
        "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    }
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    found["animated.gif"] = out.getvalue()
    out = io.BytesIO()
    frames[0].convert("RGB").save(
        out, "WEBP", save_all=True, append_images=[frames[1].convert("RGB")]
    )
    found["animated.webp"] = out.getvalue()
    found["truncated.png"] = found["rgb.png"][:-20]
    exif = Image.Exif()
    exif[0x0112] = 6
    found["turned.jpeg"] = encoded("JPEG", exif=exif)
    found["polyglot.gif"] = b"GIF89a/*\0\0\0*/=1;alert(1)//"
    return found


def jsons() -> dict[str, bytes]:
    pixel = base64.b64encode(encoded("PNG", size=(1, 1))).decode()
    floats = base64.b64encode(struct.pack("<4f", 1, 2, 3, float("nan"))).decode()
    bodies = {
        "text": {"input": "a cat"},
        "texts": {"input": ["a cat", "a dog"], "model": "demo", "encoding_format": "base64_f16"},
        "mixed": {
            "input": [{"text": "a"}, {"image": f"data:image/png;base64,{pixel}"}],
            "dimensions": 8,
            "normalized": True,
            "truncate": False,
            "max_num_patches": 16,
            "on_error": "item",
            "user": "u",
        },
        "images": {"input": [pixel, "https://example.com/a.png"], "modality": "image"},
        "similarity": {"images": [pixel], "texts": ["a"], "scores": ["cosine", "logit"]},
        "rows": {"image_embeddings": [[1, 0.5, -1e-3]], "text_embeddings": [floats]},
        "classify": {"images": [pixel], "labels": ["cat", "dog"], "templates": ["a {}"], "top_k": 1},
        "features": {"images": [pixel], "outputs": ["pooled", "layer:2"]},
        "messages": {
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": pixel}}]}]
        },
        "cohere": {
            "images": [pixel],
            "embedding_types": ["float", "ubinary"],
            "output_dimension": 8,
            "truncate": "NONE",
        },
        "rerank": {"query": {"image": pixel}, "documents": ["a", {"text": "b"}], "top_n": 1},
        "rerank-texts": {"query": "a", "texts": ["b"], "raw_scores": True, "return_text": True},
        "score": {"queries": ["a"], "documents": {"content": [{"type": "text", "text": "b"}]}},
        "voyage": {"inputs": [{"content": [{"type": "image_base64", "image_base64": pixel}]}]},
        "task": {"inputs": pixel, "parameters": {"candidate_labels": ["cat", "dog"]}},
        "sentences": {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {}},
        "vectorize": {"texts": ["a"], "images": [pixel]},
        "nested": {"input": [[[[[[]]]]]]},
    }
    found = {name: json.dumps(body).encode() for name, body in bodies.items()}
    found["surrogate"] = b'{"input": "\\ud800"}'
    found["twice"] = b'{"input": "a", "input": "b"}'
    found["utf-8"] = b'{"input": "\xff\xfe"}'
    found["number"] = b'{"input": "a", "dimensions": 1e400}'
    found["query"] = b"model=demo&dimensions=3&normalized=true&max_num_patches=%31&on_error=item"
    return found


def inferences() -> dict[str, bytes]:
    def tensor(name: str, datatype: str, shape: list[int], **rest) -> dict:
        return {"name": name, "datatype": datatype, "shape": shape} | rest

    def body(inputs: list[dict], raw: bytes = b"", **rest) -> bytes:
        head = json.dumps({"inputs": inputs} | rest).encode()
        return struct.pack("<H", len(head)) + head + raw

    def element(data: bytes) -> bytes:
        return struct.pack("<I", len(data)) + data

    def size(data: bytes) -> dict:
        return {"parameters": {"binary_data_size": len(data)}}

    picture, pixels = element(encoded("PNG", size=(1, 1))), struct.pack("<18f", *[0.5] * 18)
    ids = struct.pack("<4q", 5, 1, 1, -1)
    texts = element(b"a cat") + element(b"\xff")
    outputs = [{"name": "EMBEDDING", "parameters": {"binary_data": True}}, {"name": "LOGIT"}]
    return {
        "raw": body(
            [tensor("IMAGE", "BYTES", [1], **size(picture)), tensor("TEXT", "BYTES", [2, 1], **size(texts))],
            picture + texts,
            id="7",
            outputs=outputs,
            parameters={"binary_data_output": True, "normalized": False},
        ),
        "pixels": body([tensor("PIXEL_VALUES", "FP32", [1, 3, 2, 3], **size(pixels))], pixels),
        "ids": body([tensor("INPUT_IDS", "INT64", [2, 2], **size(ids))], ids),
        "json": b"\xff\xff"
        + body(
            [
                tensor("TEXT", "BYTES", [2], data=[["a"], ["b"]]),
                tensor("PIXEL_VALUES", "FP32", [1, 3, 4, 4], data=[0.5] * 48),
            ]
        )[2:],
        "json-ids": b"\xff\xff" + body([tensor("INPUT_IDS", "INT32", [1, 3], data=[5, 1.5, 1e300])])[2:],
        "cut": body([tensor("IMAGE", "BYTES", [1], **size(picture))], picture)[:-3],
        "long-element": body(
            [tensor("TEXT", "BYTES", [1], **size(b"12345678"))], struct.pack("<I", 0xFFFFFFFF) + b"abcd"
        ),
        "huge-shape": body([tensor("INPUT_IDS", "INT64", [1 << 62, 1 << 62], data=[1])]),
        "negative-shape": body([tensor("TEXT", "BYTES", [-1], data=["a"])]),
        "long-head": b"\xfe\xff{}",
        "mixed": b"\xff\xff" + body([tensor("TEXT", "BYTES", [2], data=["a", 1])])[2:],
    }


def forms() -> dict[str, bytes]:
    def part(head: str, body: bytes) -> bytes:
        return f"--X\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + body + b"\r\n"

    end = b"--X--\r\n"
    file = part('name="image"; filename="a.png"', encoded("PNG", size=(1, 1)))
    typed = b'--X\r\nContent-Disposition: form-data; name="images"\r\nContent-Type: image/png\r\n\r\nx\r\n'
    return {
        "file": b"\xff" + file + part('name="text"', b"a cat") + end,
        "options": b"\x10"
        + b"".join(
            part(f'name="{name}"', value)
            for name, value in [
                ("model", b"demo"),
                ("dimensions", b"3"),
                ("normalized", b"true"),
                ("encoding_format", b"int8"),
                ("on_error", b"item"),
            ]
        )
        + end,
        "classify": b"\x40" + typed + part('name="label"', b"cat") + end,
        "similarity": b"\x40" + typed + part('name="text"', b"\xff") + end,
        "cut": b"\x03" + file,
        "empty": b"\x01" + end,
    }


def bulks() -> dict[str, bytes]:
    def frame(number: int, kind: int, payload: bytes) -> bytes:
        return struct.pack("<IQB", 9 + len(payload), number, kind) + payload

    lines = b'{"id": "a", "text": "a cat"}\n\n{"id": 7, "image": "AAAA"}\r\n{"id": {}, "text": 5}\nx'
    return {
        "lines": b"\x05\x80" + lines,
        "long-lines": b"\x02\x08" + lines,
        "frames": b"\x07\x40" + frame(1, 1, b"a cat") + frame(2, 2, b"x" * 20) + frame(3, 9, b""),
        "long-frames": b"\x03\x04" + frame(1, 1, b"a cat") + frame(2, 1, b"b"),
        "short-frame": b"\x01\x04" + struct.pack("<I", 3) + b"abc" + frame(2, 1, b"b"),
        "cut-frame": b"\x09\x40" + frame(1, 1, b"a cat")[:-2],
        "huge-frame": b"\x09\x40" + struct.pack("<IQB", 0xFFFFFFFF, 1, 1) + b"rest",
    }


TEXTS = {
    "plain": "A cat, on a mat.",
    "long": "word " * 40,
    "empty": "",
    "control": "<pad></s><unk>\0\x1b[31m",
    "emoji": "\U0001f469‍\U0001f469‍\U0001f467\U0001f3f3️‍\U0001f308",
    "right-to-left": "שלום مرحبا \u202eabc\u202c",
    "marks": "é\u0301\u0301ﬁ㎏Å",
    "korean": "고양이 한 마리",
    "entities": "&amp;lt;b&gt; &#x41;&#0;&nbsp;",
    "cases": "İıſßΣςẞǅ",
    "spaces": " \t\u00a0\u2003\u3000_a_ ",
}

URLS = {
    "name": "https://example.com:8443/a.png?b=c#d\n../e",
    "address": "https://127.0.0.1/\n//10.0.0.1/",
    "octal": "https://0177.0.0.1/\nhttps://1.1.1.1",
    "number": "https://2130706433/",
    "mapped": "https://[::ffff:7f00:1]:8443/",
    "translated": "https://[64:ff9b::7f00:1]/",
    "wide": "https://127。0。0。1/",
    "user": "https://user:secret@example.com/\nhttps://u@b",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "file": "file:///etc/passwd",
    "idn": "https://bücher.example/\nhttps://[fe80::1%25eth0]/",
    "redirect": "https://1.1.1.1/a/b\n\\\\127.0.0.1\\",
}


def checkpoints() -> dict[str, bytes]:
    tiny = GOLDEN / "tiny"
    tensor = {"logit_scale": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(tensor).encode()
    found = {
        "config": b"\0" + (tiny / "config.json").read_bytes(),
        "preprocessor": b"\1" + (tiny / "preprocessor_config.json").read_bytes(),
        "tokenizer-config": b"\2" + (tiny / "tokenizer_config.json").read_bytes(),
        "special-tokens": b'\3{"pad_token": {"content": "<pad>"}, "eos_token": "</s>"}',
        "weights": b"\4" + struct.pack("<Q", len(header)) + header + struct.pack("<f", 1.0),
        "weights-cut": b"\4" + struct.pack("<Q", 1 << 40) + header,
        "tokenizer": b"\5" + (tiny / "tokenizer.json").read_bytes(),
        "sentencepiece": b"\6" + (GOLDEN / "sentencepiece/plain/spiece.model").read_bytes(),
        "open-clip": b"\7" + (GOLDEN / "open-clip-tanh/open_clip_config.json").read_bytes(),
        "processor": b'\x08{"image_processor": {"size": {"height": 8, "width": 8}}}',
        "index": b'\x09{"weight_map": {"a": "../b.safetensors", "c": "model.safetensors"}}',
    }
    large = json.loads((tiny / "config.json").read_text())
    large["text_config"]["vocab_size"] = 1 << 62
    found["config-large"] = b"\0" + json.dumps(large).encode()
    return found


def main() -> None:
    seeds = {
        "image": images(),
        "avif": {name: (FORMATS / name).read_bytes() for name in AVIF},
        "json": jsons(),
        "inference": inferences(),
        "multipart": forms(),
        "bulk": bulks(),
        "text": {name: text.encode() for name, text in TEXTS.items()},
        "url": {name: text.encode() for name, text in URLS.items()},
        "checkpoint": checkpoints(),
    }
    for target, files in seeds.items():
        for name, data in files.items():
            put(target, name, data)


if __name__ == "__main__":
    main()
