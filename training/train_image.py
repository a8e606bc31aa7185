"""Phase 1: the image tower learns to tell the concepts apart.

A cosine classifier over the concepts is a stronger and cheaper signal than the
captions, and leaves the embeddings where the sigmoid loss wants them: on the
sphere, one direction a concept. Half of the patches are dropped in most steps,
the empty ones rather than the drawing's: half the cost, and a regulariser.
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F

import run
from augment import Composition, compose
from data import load_pictures
from model import (
    IMAGE_SIZE,
    PATCH,
    WIDTH,
    MixedOptimizer,
    add_dtype_option,
    build_model,
    embed_images,
    whiten_patches,
)

KEPT_PATCHES = 32
# Every so many steps the tower sees all patches, as it will when it is used.
ALL_PATCHES_EVERY = 8
WARM_UP = 100


def keep_patches(composition: Composition, count: int) -> torch.Tensor:
    """Chooses `count` patches of each picture, drawn-on ones first, roughly."""
    coverage = F.avg_pool2d(composition.coverage[:, None], PATCH).flatten(1)
    score = torch.rand_like(coverage) + 0.6 * (coverage * 4).clamp(0, 1)
    return score.topk(count, 1).indices


class Curriculum:
    """Raises the augmentation only as fast as the tower keeps up.

    A ramp over steps leaves the loss at chance: the plateau before the first
    concept is told apart has no fixed length.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.accuracy = 0.0

    def observe(self, accuracy: float) -> None:
        """Takes a step's accuracy and moves the strength."""
        self.accuracy += (accuracy - self.accuracy) * 0.05
        if self.accuracy > 0.4:
            self.strength = min(1.0, self.strength + 0.004)
        elif self.accuracy > 0.25:
            self.strength = min(1.0, self.strength + 0.0015)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to a thirtieth."""
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    progress = min(1.0, (step - WARM_UP) / max(1, steps - WARM_UP))
    return peak * (0.03 + 0.97 * (1 + math.cos(math.pi * progress)) / 2)


def main() -> None:
    """Runs or resumes the phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--peak", type=float, default=1e-3)
    add_dtype_option(parser)
    args = parser.parse_args()
    pictures = {k: torch.from_numpy(v) for k, v in load_pictures(args.work).items()}
    model = build_model(seed=1)
    sample = torch.randint(0, len(pictures["concept"]), (1500,))
    plain = compose(pictures["large"][sample], pictures["small"][sample], 0.5).pixel_values
    whiten_patches(model.vision_model, plain)
    model.to(args.dtype)
    # Short class vectors turn fast; their length plays no other part.
    classes = torch.nn.Parameter(
        0.05 * torch.randn(int(pictures["concept"].max()) + 1, WIDTH, dtype=args.dtype)
    )
    named = [(f"vision_model.{n}", p) for n, p in model.vision_model.named_parameters()]
    optimizer = MixedOptimizer([*named, ("classes", classes)], weight_decay=0.05, ema=0.998)
    state = run.resume(args.work / "image.pt", optimizer)
    log = run.Log(args.work / "image.csv", "step,strength,lr,loss,accuracy,grad_norm,seconds")
    curriculum = Curriculum(state.strength)
    patches = (IMAGE_SIZE // PATCH) ** 2
    for step in range(state.step, args.steps):
        strength = curriculum.strength
        chosen = torch.randint(0, len(pictures["concept"]), (args.batch,))
        composition = compose(pictures["large"][chosen], pictures["small"][chosen], strength)
        kept = patches if step % ALL_PATCHES_EVERY == 0 else KEPT_PATCHES
        indices = keep_patches(composition, kept) if kept < patches else None
        embeddings = embed_images(model, composition.pixel_values, indices).float()
        # What all embeddings share would drown their differences in the cosine.
        embeddings = F.normalize(embeddings - embeddings.mean(0), dim=-1)
        logits = 24.0 * embeddings @ F.normalize(classes.float(), dim=-1).T
        target = pictures["concept"][chosen]
        loss = F.cross_entropy(logits, target, label_smoothing=0.1)
        loss.backward()
        rate = learning_rate(step, args.steps, args.peak)
        norm = optimizer.step(rate)
        accuracy = (logits.argmax(-1) == target).float().mean()
        curriculum.observe(accuracy.item())
        log.add(step, strength, rate, loss.item(), accuracy.item(), norm)
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            run.save(args.work / "image.pt", optimizer, step + 1, curriculum.strength)


if __name__ == "__main__":
    main()
