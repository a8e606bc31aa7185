"""Phases 2 to 4: pictures and captions with the sigmoid loss.

    text     the text tower learns against the locked image tower
    picture  the image tower learns against the locked text tower
    joint    both towers learn
    fit      scale and bias alone, on batches like those that are served

Each starts from the averaged weights of the one before.
"""

import argparse
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

import run
from augment import compose
from data import load_concepts, load_pictures
from loss import sigmoid_loss
from model import MixedOptimizer, add_dtype_option, build_model, embed_images, embed_texts
from text import Captions, encode, train_tokenizer
from train_image import KEPT_PATCHES, keep_patches

WARM_UP = 50
CHUNK = 256
# Every so many joint steps the image tower sees all patches.
ALL_PATCHES_EVERY = 4


def start_from(model: torch.nn.Module, path: Path) -> None:
    """Loads the averaged weights that a phase left."""
    unexpected = model.load_state_dict(run.averaged_weights(path), strict=False).unexpected_keys
    assert not unexpected, unexpected


def cached(path: Path | None, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Computes a tensor, or reads it from `path` if it was stored there before."""
    if path is None:
        return compute()
    if not path.exists():
        torch.save(compute(), path)
    return torch.load(path, weights_only=True)


@torch.no_grad()
def image_features(
    model: torch.nn.Module, pictures: dict[str, torch.Tensor], rounds: int, strength: float
) -> torch.Tensor:
    """Embeds every picture in `rounds` compositions, `[rounds, pictures, d]`."""
    count = len(pictures["concept"])
    out = []
    for _ in range(rounds):
        for part in torch.arange(count).split(256):
            composed = compose(pictures["large"][part], pictures["small"][part], strength)
            out.append(embed_images(model, composed.pixel_values).float())
    return torch.cat(out).reshape(rounds, count, -1)


def centre_images(model: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Moves the image embeddings' mean into the head's bias; returns the moved.

    Phase 1 compared embeddings less their batch's mean; the last bias of the
    pooling head can hold that difference, since nothing follows it.
    """
    mean = features.reshape(-1, features.shape[-1]).mean(0)
    with torch.no_grad():
        bias = model.vision_model.head.mlp.fc2.bias
        bias.copy_((bias.float() - mean).to(bias.dtype))
    return features - mean


def steady(features: torch.Tensor, concepts: torch.Tensor, share: float) -> torch.Tensor:
    """Pulls each picture's embedding towards its concept's mean.

    While the text tower learns the names, the pictures' spread only slows it
    down; once it knows them, the spread is what is left to learn.
    """
    unit = F.normalize(features, dim=-1)
    sums = torch.zeros(int(concepts.max()) + 1, unit.shape[-1])
    for composed in unit:
        sums.index_add_(0, concepts, composed)
    return (1 - share) * unit + share * F.normalize(sums, dim=-1)[concepts]


class Batches:
    """Draws pictures and captions.

    Pictures come with a caption each, and with further captions as negatives.
    Cached features cost nothing, so there a batch has pictures of every concept.
    """

    def __init__(self, args: argparse.Namespace, pictures: dict[str, torch.Tensor]) -> None:
        self.pictures = pictures
        self.captions = Captions(load_concepts(args.packages))
        self.tokenizer = train_tokenizer(self.captions.corpus())
        self.args = args
        # The newest emoji are drawn in no style yet.
        self.of_concept = [
            torch.nonzero(pictures["concept"] == concept)[:, 0]
            for concept in pictures["concept"].unique().tolist()
        ]

    def draw(
        self, rng: random.Random, richness: float
    ) -> tuple[torch.Tensor, torch.Tensor, Callable[[int, int], torch.Tensor]]:
        """Returns picture indices, text ids and the targets between them."""
        others = torch.randint(0, len(self.captions.concepts), (self.args.more_texts,))
        if self.args.phase == "text":
            drawn = (self.args.per_concept,)
            chosen = torch.cat([own[torch.randint(0, len(own), drawn)] for own in self.of_concept])
            captioned = others
        else:
            chosen = torch.randint(0, len(self.pictures["concept"]), (self.args.batch,))
            captioned = torch.cat([self.pictures["concept"][chosen], others])
        concepts = self.pictures["concept"][chosen]
        stated = [self.captions.draw(concept, rng, richness) for concept in captioned.tolist()]
        ids = encode(self.tokenizer, [caption.text for caption in stated])
        table = self.captions.targets(stated)
        return chosen, ids, lambda a, b: table[concepts[a:b]]


@torch.no_grad()
def name_vectors(
    model: torch.nn.Module, batches: Batches
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeds every name once; returns the unit vectors and who they hold for.

    The locked text tower makes them free: a picture meets all names in each step.

    * returns `[names, d]` and targets `[concepts, names]`
    """
    captions = batches.captions
    stated = [captions.name(i, lang) for i in range(len(captions.concepts)) for lang in ("en", "ko")]
    ids = encode(batches.tokenizer, [caption.text for caption in stated])
    vectors = torch.cat([embed_texts(model, part).float() for part in ids.split(256)])
    return F.normalize(vectors, dim=-1), captions.targets(stated)


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth as `progress` goes to 1."""
    warm = min(1.0, (step + 1) / WARM_UP)
    return peak * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


def trained_names(model: torch.nn.Module, phase: str) -> list[tuple[str, torch.nn.Parameter]]:
    """Returns what a phase trains."""
    scalars = ("logit_scale", "logit_bias")
    wanted = {
        "text": ("text_model.", *scalars),
        "picture": ("vision_model.", *scalars),
        "joint": ("",),
        "fit": scalars,
    }[phase]
    return [(n, p) for n, p in model.named_parameters() if n.startswith(wanted)]


def main() -> None:
    """Runs or resumes one phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("phase", choices=("text", "picture", "joint", "fit"))
    parser.add_argument(
        "--start",
        nargs="+",
        required=True,
        help="checkpoints in --work or exported folders; a later one's weights win",
    )
    parser.add_argument("--packages", type=Path, default=Path("work/node_modules"))
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="end earlier, the rate decayed by the clock"
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--more-texts", type=int, default=192)
    parser.add_argument("--peak", type=float, default=1e-3)
    parser.add_argument("--plain", type=int, default=150, help="steps with plain names alone")
    parser.add_argument("--ramp", type=int, default=300, help="further steps to every caption")
    parser.add_argument("--strength", type=float, default=0.8)
    parser.add_argument(
        "--vision-rate", type=float, default=0.2, help="the image tower's part of the rate"
    )
    parser.add_argument(
        "--steady", type=float, default=0.67, help="how near cached pictures are to their mean"
    )
    parser.add_argument(
        "--first-scale", type=float, default=20.0, help="scale at the start of the text phase"
    )
    parser.add_argument(
        "--per-concept", type=int, default=1, help="pictures of a concept in a step of the text phase"
    )
    parser.add_argument("--rounds", type=int, default=2, help="cached compositions a picture")
    parser.add_argument(
        "--features", type=Path, help="where the image features are kept for another run"
    )
    add_dtype_option(parser)
    args = parser.parse_args()
    pictures = {k: torch.from_numpy(v) for k, v in load_pictures(args.work).items()}
    if args.phase == "fit":
        # Two numbers need no more than this to be fitted.
        part = torch.randperm(len(pictures["concept"]), generator=torch.Generator().manual_seed(3))
        pictures = {name: values[part[:2000]] for name, values in pictures.items()}
    model = build_model(seed=1)
    for name in args.start:
        start_from(model, run.find(args.work, name))
    model.to(args.dtype)
    torch.manual_seed(7)
    features = None
    if args.phase in ("text", "fit"):
        features = cached(
            args.features, lambda: image_features(model, pictures, args.rounds, args.strength)
        )
        if args.phase == "text":
            features = centre_images(model, features)
            features = steady(features, pictures["concept"], args.steady)
        features = F.normalize(features, dim=-1)
    if args.phase in ("text", "picture"):
        with torch.no_grad():
            # Phase 1 compared at a scale of 24, and one side of the batch is now every concept.
            model.logit_scale.fill_(math.log(args.first_scale))
            model.logit_bias.fill_(-math.log(float(pictures["concept"].max())))
    # Scale and bias are trained in f32: in bf16 the bias moves in steps of 1/16.
    model.logit_scale.data, model.logit_bias.data = (
        model.logit_scale.data.float(),
        model.logit_bias.data.float(),
    )
    batches = Batches(args, pictures)
    names = None
    if args.phase == "picture":
        names, table = name_vectors(model, batches)
    optimizer = MixedOptimizer(
        trained_names(model, args.phase), weight_decay=0.02, ema=0.98, vision_rate=args.vision_rate
    )
    # Locked weights go along, so that each checkpoint is a whole model.
    trained = {n for n, _ in optimizer.named}
    locked = {n: p.detach().float() for n, p in model.named_parameters() if n not in trained}
    path = args.work / f"{args.phase}.pt"
    state = run.resume(path, optimizer)
    log = run.Log(
        args.work / f"{args.phase}.csv", "step,richness,lr,loss,right,scale,bias,grad_norm,seconds"
    )
    rng = random.Random(state.step)
    started = time.monotonic()
    for step in range(state.step, args.steps):
        elapsed = (time.monotonic() - started) / 60 / args.minutes
        progress = max((step + 1) / args.steps, elapsed)
        richness = min(1.0, max(0.0, (step - args.plain) / max(1, args.ramp)))
        if names is None:
            chosen, ids, targets = batches.draw(rng, richness)
        else:
            chosen = torch.randint(0, len(pictures["concept"]), (args.batch,))
            concepts = pictures["concept"][chosen]
            targets = lambda a, b, own=concepts: table[own[a:b]]
        if features is not None:
            images = features[torch.randint(0, len(features), (len(chosen),)), chosen]
        else:
            composed = compose(pictures["large"][chosen], pictures["small"][chosen], args.strength)
            whole = step % ALL_PATCHES_EVERY == 0
            kept = None if whole else keep_patches(composed, KEPT_PATCHES)
            images = F.normalize(embed_images(model, composed.pixel_values, kept).float(), dim=-1)
        if names is not None:
            texts = names
        elif args.phase == "fit":
            with torch.no_grad():
                texts = F.normalize(embed_texts(model, ids).float(), dim=-1)
        else:
            texts = F.normalize(embed_texts(model, ids).float(), dim=-1)
        loss = sigmoid_loss(images, texts, model.logit_scale, model.logit_bias, targets, CHUNK)
        loss.backward()
        rate = learning_rate(step, progress, args.peak)
        norm = optimizer.step(rate)
        with torch.no_grad():
            judged = targets(0, len(images))
            if names is None:
                best = (images @ texts.T).argmax(0)
                right = (judged[best, torch.arange(len(texts))] > 0).float().mean()
            else:
                best = (images @ texts.T).argmax(1)
                right = (judged[torch.arange(len(images)), best] > 0).float().mean()
        log.add(
            step,
            richness,
            rate,
            loss.item(),
            right.item(),
            model.logit_scale.exp().item(),
            model.logit_bias.item(),
            norm,
        )
        if (step + 1) % 50 == 0 or progress >= 1:
            run.save(path, optimizer, step + 1, args.strength, locked)
        if progress >= 1:
            break


if __name__ == "__main__":
    main()
