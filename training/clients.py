"""Two ways to the same model: transformers, and the server's HTTP API."""

import base64
import io
import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

MAX_ITEMS = 64


class Model(Protocol):
    """What the measurements ask of a model."""

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Returns unit vectors `[images, d]`."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns unit vectors `[texts, d]`."""

    def probabilities(self, images: Sequence[Image.Image], texts: Sequence[str]) -> np.ndarray:
        """Returns pair probabilities `[images, texts]`."""


class LocalModel:
    """The checkpoint in transformers, in f32."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoProcessor

        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        parts = []
        for start in range(0, len(images), MAX_ITEMS):
            batch = list(images[start : start + MAX_ITEMS])
            inputs = self.processor(images=batch, return_tensors="pt")
            parts.append(self.model.vision_model(**inputs).pooler_output)
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1).numpy()

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        inputs = self.processor(
            text=list(texts), padding="max_length", truncation=True, return_tensors="pt"
        )
        pooled = self.model.text_model(input_ids=inputs["input_ids"]).pooler_output
        return torch.nn.functional.normalize(pooled, dim=-1).numpy()

    @torch.inference_mode()
    def probabilities(self, images: Sequence[Image.Image], texts: Sequence[str]) -> np.ndarray:
        inputs = self.processor(
            text=list(texts),
            images=list(images),
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        return self.model(**inputs).logits_per_image.sigmoid().numpy()


class ServerModel:
    """A running server."""

    def __init__(self, url: str, name: str = "demo") -> None:
        self.url = url.rstrip("/")
        self.name = name

    def _post(self, path: str, body: dict) -> dict:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)

    def _embed(self, items: list[dict[str, str]]) -> np.ndarray:
        rows = []
        for start in range(0, len(items), MAX_ITEMS):
            answer = self._post(
                "/v1/embeddings",
                {
                    "model": self.name,
                    "input": items[start : start + MAX_ITEMS],
                    "encoding_format": "base64",
                },
            )
            rows += [
                np.frombuffer(base64.b64decode(entry["embedding"]), "<f4")
                for entry in sorted(answer["data"], key=lambda entry: entry["index"])
            ]
        return np.stack(rows)

    def embed_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        return self._embed([{"image": data_uri(image)} for image in images])

    def embed_files(self, paths: Sequence[Path]) -> np.ndarray:
        """Sends files as they are, so that the server decodes them."""
        return self._embed(
            [{"image": base64.b64encode(path.read_bytes()).decode()} for path in paths]
        )

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._embed([{"text": text} for text in texts])

    def probabilities(self, images: Sequence[Image.Image], texts: Sequence[str]) -> np.ndarray:
        body = {
            "model": self.name,
            "images": [data_uri(image) for image in images],
            "texts": list(texts),
        }
        return np.array(self._post("/v1/similarity", body)["probability"])


def data_uri(image: Image.Image) -> str:
    """Encodes a picture losslessly."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
