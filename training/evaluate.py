"""Measures the demo checkpoint, in transformers or through the HTTP API.

    python evaluate.py --packages work/node_modules --model ../models/demo
    python evaluate.py --packages work/node_modules --url http://127.0.0.1:8080

Seen styles: every picture of the trained emoji styles in a composition it was
not trained in (a plain coloured background, scale 55-95 %, any place, drawn by a
fixed seed). Held-out style: every OpenMoji drawing on white. A picture's right
name is its CLDR name, among those of all concepts unless said otherwise.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clients import LocalModel, Model, ServerModel
from compose import SEED, draw_all
from data import EMOJI_STYLES, HELD_OUT, load_concepts

BLOCKS, BLOCK = 40, 32


def ranks(scores: np.ndarray, names: Sequence[str], right: Sequence[int]) -> np.ndarray:
    """Returns how many wrong names score at least as high as the right one.

    Concepts of the same name share it: any of them is right.
    """
    out = []
    for row, concept in zip(scores, right, strict=True):
        same = np.array([name == names[concept] for name in names])
        out.append(int((row[~same] >= row[concept]).sum()))
    return np.array(out)


def recall(rank: np.ndarray, k: int) -> float:
    """The share of pictures whose right name is among the first k."""
    return float((rank < k).mean())


def among_twenty(scores: np.ndarray, right: Sequence[int]) -> float:
    """How often the right name beats 19 random others."""
    rng = random.Random(SEED)
    wins = []
    for row, concept in zip(scores, right, strict=True):
        others = rng.sample([i for i in range(scores.shape[1]) if i != concept], 19)
        wins.append(row[concept] > row[others].max())
    return float(np.mean(wins))


def pair_probabilities(
    model: Model, drawn: list[tuple[Image.Image, int, str]], names: Sequence[str]
) -> tuple[float, float]:
    """Scores blocks of 32 pictures and 32 names; returns the two figures."""
    rng = random.Random(SEED)
    matching, others = [], []
    for _ in range(BLOCKS):
        by_concept = {concept: image for image, concept, _ in rng.sample(drawn, len(drawn))}
        chosen = rng.sample(sorted(by_concept), BLOCK)
        block = model.probabilities([by_concept[c] for c in chosen], [names[c] for c in chosen])
        diagonal = np.eye(BLOCK, dtype=bool)
        matching.append(block[diagonal])
        others.append(block[~diagonal])
    return float(np.median(np.concatenate(matching))), float(np.concatenate(others).mean())


def main() -> None:
    """Prints the figures as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, default=Path("work/node_modules"))
    parser.add_argument("--model", type=Path, default=Path("../models/demo"))
    parser.add_argument("--url", help="measure a running server instead")
    parser.add_argument("--no-held-out", action="store_true", help="leave the held-out style alone")
    args = parser.parse_args()
    model: Model = ServerModel(args.url) if args.url else LocalModel(args.model)
    concepts = load_concepts(args.packages)
    english, korean = [c.en for c in concepts], [c.ko for c in concepts]
    english_vectors, korean_vectors = model.embed_texts(english), model.embed_texts(korean)

    drawn = draw_all(args.packages, EMOJI_STYLES, concepts)
    right = [concept for _, concept, _ in drawn]
    vectors = model.embed_images([image for image, _, _ in drawn])
    rank_en = ranks(vectors @ english_vectors.T, english, right)
    rank_ko = ranks(vectors @ korean_vectors.T, korean, right)
    median, mean = pair_probabilities(model, drawn, english)
    print(f"| measure ({'HTTP' if args.url else 'transformers'}) | target | figure |\n|---|---|---|")
    print(f"| seen styles, {len(drawn)} pictures: English R@1 | >= 0.60 | {recall(rank_en, 1):.3f} |")
    print(f"| English R@5 | >= 0.85 | {recall(rank_en, 5):.3f} |")
    print(f"| Korean R@1 | | {recall(rank_ko, 1):.3f} |")
    print(f"| Korean R@5 | >= 0.75 | {recall(rank_ko, 5):.3f} |")
    print(f"| pair probability 32 x 32: median of the matching | >= 0.5 | {median:.3f} |")
    print(f"| pair probability 32 x 32: mean of the others | <= 0.02 | {mean:.4f} |")
    if not args.no_held_out:
        unseen = draw_all(args.packages, [HELD_OUT], concepts)
        scores = model.embed_images([image for image, _, _ in unseen]) @ english_vectors.T
        right_unseen = [concept for _, concept, _ in unseen]
        rank = ranks(scores, english, right_unseen)
        print(
            f"| held-out style, {len(unseen)} pictures: right among 20 | >= 0.60 "
            f"| {among_twenty(scores, right_unseen):.3f} |"
        )
        print(f"| held-out English R@1 | | {recall(rank, 1):.3f} |")
        print(f"| held-out English R@5 | | {recall(rank, 5):.3f} |")
    print("\n| style | pictures | English R@1 | English R@5 |\n|---|---|---|---|")
    for style in EMOJI_STYLES:
        own = np.array([s == style for _, _, s in drawn])
        print(f"| {style} | {own.sum()} | {recall(rank_en[own], 1):.3f} | {recall(rank_en[own], 5):.3f} |")


if __name__ == "__main__":
    main()
