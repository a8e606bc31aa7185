"""What shorter embeddings cost in search, measured on the demo checkpoint through the HTTP API.

    python short_vectors.py --packages work/node_modules --url http://127.0.0.1:8080

The images are the drawings of three trained emoji styles in compositions that were not trained on (`compose.py`, by a fixed seed), and the queries
are the CLDR names of all concepts. An image is relevant to the names of its concept. Images are ranked for each query by
the dot product of what the server sends; bits are ranked by the number of equal ones. Needs numpy, pillow and resvg_py.
"""

import argparse
import io
import json
import urllib.request
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
from PIL import Image

from compose import draw_all
from data import load_concepts

STYLES = ("noto", "twemoji", "emojione")
BATCH = 64
FORMS = [
    ("float", None),
    ("base64_f16", None),
    ("int8", None),
    ("uint8", None),
    ("binary", None),
    ("ubinary", None),
    ("float", 160),
    ("float", 128),
    ("float", 96),
    ("float", 64),
    ("float", 32),
]
BITS = {"float": 32, "base64_f16": 16, "int8": 8, "uint8": 8, "binary": 1, "ubinary": 1}


def image_item(image: Image.Image) -> dict[str, str]:
    """An image as the server reads it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"image": b64encode(buffer.getvalue()).decode("ascii")}


def embed(url: str, items: list[dict[str, str]], form: str, dimensions: int | None) -> np.ndarray:
    """Vectors for a dot product: bits as -1 and 1."""
    rows = []
    options = {"encoding_format": form} | ({"dimensions": dimensions} if dimensions else {})
    for start in range(0, len(items), BATCH):
        body = json.dumps({"input": items[start : start + BATCH]} | options).encode()
        request = urllib.request.Request(
            url.rstrip("/") + "/v1/embeddings", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=300) as response:
            rows += [row["embedding"] for row in json.load(response)["data"]]
    if form == "base64_f16":
        return np.stack([np.frombuffer(b64decode(row), "<f2") for row in rows]).astype(np.float64)
    values = np.array(rows, np.float64)
    if form in ("binary", "ubinary"):
        packed = (values + (128 if form == "binary" else 0)).astype(np.uint8)
        return np.unpackbits(packed, axis=1).astype(np.float64) * 2 - 1
    return values - 128 if form == "uint8" else values


def figures(images: np.ndarray, queries: np.ndarray, relevant: np.ndarray) -> tuple[float, float, float]:
    """R@1, R@10 and nDCG@10 over the queries that have an image."""
    # A stable order for equal scores, which bits have many of.
    order = np.argsort(-(queries @ images.T), axis=1, kind="stable")[:, :10]
    hits = np.take_along_axis(relevant, order, axis=1).astype(np.float64)
    discount = 1 / np.log2(np.arange(2, 12))
    ideal = np.array([discount[: min(10, count)].sum() for count in relevant.sum(axis=1)])
    return hits[:, 0].mean(), hits.any(axis=1).mean(), ((hits @ discount) / ideal).mean()


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, default=Path("work/node_modules"))
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    args = parser.parse_args()
    concepts = load_concepts(args.packages)
    drawn = draw_all(args.packages, STYLES, concepts)
    names = np.array([concept.en for concept in concepts])
    shown = np.array([names[concept] for _, concept, _ in drawn])
    relevant = names[:, None] == shown[None, :]
    asked = relevant.any(axis=1)
    images = [image_item(image) for image, _, _ in drawn]
    texts = [{"text": name} for name in names]
    print(f"{len(images)} images, {asked.sum()} queries\n")
    print("| `encoding_format` | `dimensions` | bits a vector | R@1 | R@10 | nDCG@10 |\n|---|---|---|---|---|---|")
    for form, dimensions in FORMS:
        rows = embed(args.url, images, form, dimensions)
        queries = embed(args.url, texts, form, dimensions)
        first, ten, gain = figures(rows, queries[asked], relevant[asked])
        size = rows.shape[1] * BITS[form]
        shown_dimensions = dimensions or "all"
        print(f"| `{form}` | {shown_dimensions} | {size} | {first:.3f} | {ten:.3f} | {gain:.3f} |")


if __name__ == "__main__":
    main()
