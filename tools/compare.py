"""Compares a server with transformers on your own checkpoint: python tools/compare.py MODEL [--server URL]

It runs the same images and texts through both, and prints token ids, cosines and logits side by side. The exit code is 1
where they differ by more than the tolerances. MODEL is what you serve: a folder, or a hub id. Needs torch, transformers,
pillow, numpy and httpx (tools/requirements.txt).
"""

from __future__ import annotations

import argparse
import base64
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "tests" / "fixtures" / "images"
TEXTS = [
    "a photo of a cat",
    "This is a photo of a dog.",
    "Two red apples, on a table!",
    "고양이",
    "ein Auto im Regen",
    "a guitar",
]
START_TIMEOUT = 600


@dataclass(frozen=True)
class Scores:
    """What one side says. Rows are images, columns are texts."""

    images: np.ndarray
    texts: np.ndarray
    logits: np.ndarray


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def flat(image: Image.Image) -> Image.Image:
    """The image on white, as the server and newer versions of transformers put transparent ones."""
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image).convert("RGB")


def reference(model: str, images: list[Path], texts: list[str]) -> tuple[Scores, list[list[int]]]:
    """What transformers says, and the ids that its tokenizer makes of the texts."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    processor = AutoImageProcessor.from_pretrained(model)
    network = AutoModel.from_pretrained(model, torch_dtype=torch.float32).eval()
    opened = [flat(Image.open(path)) for path in images]
    length = network.config.text_config.max_position_embeddings
    written = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    if network.config.model_type.startswith("siglip"):
        # SigLIP was trained to read the padding, and its own tokenizer gives no mask; other tokenizer classes do.
        written.pop("attention_mask", None)
    pixels = processor(images=opened, return_tensors="pt")
    with torch.no_grad():
        found = network(**written, **pixels)
    scores = Scores(
        unit(found.image_embeds.double().numpy()),
        unit(found.text_embeds.double().numpy()),
        found.logits_per_image.double().numpy(),
    )
    return scores, written["input_ids"].tolist()


class Server:
    """The server's side of the comparison."""

    def __init__(self, url: str, key: str | None) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=600)
        self.model = self._get("/info")["models"][0]

    def _get(self, path: str) -> dict:
        return self._http.get(path).raise_for_status().json()

    def _post(self, path: str, body: dict) -> dict:
        answer = self._http.post(path, json=body | {"model": self.model["name"]})
        if not answer.is_success:
            raise SystemExit(f"{path}: {answer.text}")
        return answer.json()

    def scores(self, images: list[Path], texts: list[str]) -> Scores:
        sent = [base64.b64encode(path.read_bytes()).decode() for path in images]
        items = [{"image": image} for image in sent] + [{"text": text} for text in texts]
        rows = np.array([row["embedding"] for row in self._post("/v1/embeddings", {"input": items})["data"]])
        pairs = self._post("/v1/similarity", {"images": sent, "texts": texts, "scores": ["logit"]})
        return Scores(rows[: len(images)], rows[len(images) :], np.array(pairs["logit"]))

    def embeddings_of_ids(self, ids: list[list[int]]) -> np.ndarray:
        """Embeddings of token ids, past the server's own tokenizer."""
        tensor = {"name": "INPUT_IDS", "datatype": "INT64", "shape": [len(ids), len(ids[0])], "data": ids}
        answer = self._http.post(f"/v2/models/{self.model['name']}/infer", json={"inputs": [tensor]})
        found = answer.raise_for_status().json()["outputs"][0]
        return np.array(found["data"]).reshape(found["shape"])


@contextmanager
def serving(given: argparse.Namespace) -> Iterator[str]:
    """The address of a server on the checkpoint: the one that was named, or a fresh one."""
    if given.server:
        yield given.server
        return
    with tempfile.TemporaryFile("w+") as log:
        command = [given.binary, "--model", given.model, "--dtype", given.dtype, "--listen", "127.0.0.1:0", "--log-filter", "error"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            for line in process.stdout or ():
                if line.startswith("HTTP"):
                    yield line.split()[1]
                    return
            log.seek(0)
            raise SystemExit(f"the server did not start: {log.read()}")
        finally:
            process.terminate()
            process.wait(timeout=60)


def compare(given: argparse.Namespace, url: str) -> list[str]:
    """Prints both sides, and returns what is beyond the tolerances."""
    images = sorted(path for path in given.images.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
    texts = given.texts.read_text(encoding="utf-8").splitlines() if given.texts else TEXTS
    server = Server(url, os.environ.get("API_KEY"))
    theirs, ids = reference(given.model, images, texts)
    ours = server.scores(images, texts)
    by_ids = server.embeddings_of_ids(ids)
    faults = []
    print(f"{given.model}: {server.model['family']}, revision {server.model['revision']}, {server.model['dtype']}\n")

    print("text: equal ids, cosine of the embeddings")
    for place, text in enumerate(texts):
        # Embeddings of transformers' ids are those of the text only if the server's tokenizer makes the same ids.
        same = float(by_ids[place] @ ours.texts[place]) > 1 - 1e-6
        cosine = float(ours.texts[place] @ theirs.texts[place])
        print(f"  {'yes' if same else 'NO ':3}  {cosine:.7f}  {text}  {[one for one in ids[place] if one][:12]}")
        if not same:
            faults.append(f"other token ids: {text!r} (text_normalization is {server.model['text_normalization']!r})")
        if cosine < given.min_cosine:
            faults.append(f"cosine {cosine:.6f}: {text!r}")

    print("\nimage: cosine of the embeddings, largest difference of a logit")
    for place, path in enumerate(images):
        cosine = float(ours.images[place] @ theirs.images[place])
        apart = float(np.abs(ours.logits[place] - theirs.logits[place]).max())
        print(f"  {cosine:.7f}  {apart:.5f}  {path.name}")
        if cosine < given.min_cosine:
            faults.append(f"cosine {cosine:.6f}: {path.name}")
        if apart > given.max_logit:
            faults.append(f"a logit is {apart:.4f} apart: {path.name}")

    print("\nlogits: transformers / server")
    for path, left, right in zip(images, theirs.logits, ours.logits):
        print(f"  {path.name:20}", "  ".join(f"{a:8.3f} /{b:8.3f}" for a, b in zip(left, right)))
    return faults


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", help="a folder in Hugging Face's layout, or a hub id")
    arguments.add_argument("--server", help="a running server whose first model it is, with the key in $API_KEY; else one is started")
    arguments.add_argument("--binary", default="siglip-server", help="the server to start (default: siglip-server)")
    arguments.add_argument("--dtype", default="f32", help="the type of the server that is started (default: f32)")
    arguments.add_argument("--images", type=Path, default=IMAGES, help="a folder of images (default: the sample drawings)")
    arguments.add_argument("--texts", type=Path, help="a file with a text on each line")
    arguments.add_argument("--min-cosine", type=float, default=0.999, help="below it the exit code is 1 (default: 0.999)")
    arguments.add_argument("--max-logit", type=float, default=0.25, help="above it the exit code is 1 (default: 0.25)")
    given = arguments.parse_args()
    with serving(given) as url:
        faults = compare(given, url)
    print("\n" + ("\n".join(f"DIFFERS  {fault}" for fault in faults) if faults else "equal within the tolerances"))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
