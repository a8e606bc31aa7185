"""Feeds a LLaVA-OneVision projector with features from the server.

    pip install httpx numpy
    siglip-server --model google/siglip-so400m-patch14-384 &
    python examples/llava_features.py picture.png
    python examples/llava_features.py picture.png --projector projector.safetensors   # also: safetensors

The projector file holds `linear_1.weight`, `linear_1.bias`, `linear_2.weight` and `linear_2.bias`, as
`multi_modal_projector.*` does in the published checkpoints. Without one the weights are random: the shapes are
what this shows.
"""

import argparse
import io
from pathlib import Path

import httpx
import numpy as np


def features(server, picture, layer):
    """`[tokens, width]` f32, and the grid of patches as (rows, columns)."""
    answer = httpx.post(
        f"{server}/v1/features",
        params={"layer": layer, "dtype": "f16"},
        headers={"content-type": "application/octet-stream", "accept": "application/x-npy"},
        content=picture,
        timeout=120,
    )
    if answer.is_error:
        raise SystemExit(f"{answer.status_code}: {answer.text}")
    rows, columns = map(int, answer.headers["x-siglip-grid"].split("x"))
    maps = np.load(io.BytesIO(answer.content), allow_pickle=False)
    return maps[0].astype(np.float32), (rows, columns)


def random_projector(width, language_width):
    rng = np.random.default_rng(0)
    matrix = lambda rows, columns: rng.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)
    return {
        "linear_1.weight": matrix(language_width, width),
        "linear_1.bias": np.zeros(language_width, np.float32),
        "linear_2.weight": matrix(language_width, language_width),
        "linear_2.bias": np.zeros(language_width, np.float32),
    }


def gelu(x):
    """The tanh form; the exact one differs in the fourth digit."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def project(weights, tokens):
    """`[tokens, width]` to `[tokens, language_width]`."""
    hidden = gelu(tokens @ weights["linear_1.weight"].T + weights["linear_1.bias"])
    return hidden @ weights["linear_2.weight"].T + weights["linear_2.bias"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8080")
    parser.add_argument("--layer", type=int, default=-2, help="-1 for a tower whose last layer is cut off")
    parser.add_argument("--projector", type=Path, help="a safetensors file")
    parser.add_argument("--language-width", type=int, default=896, help="of the random projector")
    arguments = parser.parse_args()
    tokens, grid = features(arguments.server, arguments.picture.read_bytes(), arguments.layer)
    print(f"features  {tokens.shape} on a grid of {grid[0]} x {grid[1]}")
    if arguments.projector:
        from safetensors.numpy import load_file

        weights = load_file(arguments.projector)
    else:
        weights = random_projector(tokens.shape[1], arguments.language_width)
    projected = project(weights, tokens)
    print(f"projected {projected.shape}, finite: {bool(np.isfinite(projected).all())}")


if __name__ == "__main__":
    main()
