"""(e) The other families: CLIP's towers beside PyTorch and OpenVINO, BLIP's matching head, and its captions beside
transformers' `generate`."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import load, servers
from ..inputs import PAIR_LENGTH, lengths, pixels
from ..load import Outcome, Request
from ..prepare import build
from ..quiet import quietly
from ..samples import Samples
from ..settings import FAMILIES, TOWERS, WORK, Settings
from .tower import Contender, Ours, Peer, agreement

CLIPS = ("clip-vit-base-patch16", "clip-vit-large-patch14")
MATCHING, CAPTIONS = "blip-itm-base", "blip-captioning-base"
BATCHES = (1, 8)
PAIRS = (1, 16, 64)
"""Texts of one image."""
CLIENTS = (1, 16)
CAPTION_TOKENS = 20
IMAGES = 64
"""Different images, more than clients: equal ones that are under way are encoded once."""

Named = tuple[str, Contender]


def prepare() -> dict[str, list[str]]:
    """Makes the checkpoints; says which of a CLIP checkpoint's towers are there for OpenVINO."""
    for name in (MATCHING, CAPTIONS):
        build.family(name)
    return {name: build.family(name, TOWERS) for name in CLIPS}


def files(name: str) -> tuple[Path, Path]:
    """A checkpoint, and its exports."""
    return FAMILIES / name, FAMILIES / f"{name}-openvino"


def measure(settings: Settings, samples: Samples, dtypes: list[str], converted: dict[str, list[str]]) -> None:
    """All rounds of the towers, then of the pairs, then of the captions."""
    for name in CLIPS:
        for tower in TOWERS:
            _clip(settings, samples, (name, tower), (dtypes, tower in converted.get(name, [])))
    _pairs(settings, samples, dtypes)
    _captions(settings, samples, dtypes)


def _peer(engine: str, tower: str, settings: Settings, name: str) -> list[Contender]:
    """A peer in f32; none if it does not start."""
    try:
        return [Peer(engine, "f32", tower, settings.threads, files(name))]
    except (RuntimeError, json.JSONDecodeError) as error:
        print(f"{engine} is left out: {error}", file=sys.stderr)
        return []


def _compare(samples: Samples, what: dict[str, Any], found: list[Contender], rows: int) -> None:
    """Every contender once, and how far its rows are from those of PyTorch."""
    outputs: dict[tuple[str, str], np.ndarray] = {}
    for contender in list(found):
        out = WORK / f"families-{contender.engine}-{contender.dtype}.npy"
        try:
            contender.measure(rows, 0, out)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"{contender.engine} {contender.dtype} is left out: {error}", file=sys.stderr)
            contender.end()
            found.remove(contender)
            continue
        outputs[contender.engine, contender.dtype] = np.load(out)
    reference = outputs.get(("torch", "f32"))
    if reference is None:
        raise RuntimeError("nothing to compare with: torch in f32 did not run")
    for (engine, dtype), values in outputs.items():
        values = values.reshape(reference.shape)
        # A single number per row, as a matching head's logit, has no direction.
        both = [value if value.shape[1] > 1 else value.reshape(1, -1) for value in (values, reference)]
        cosine, difference = agreement(both[0], both[1])
        samples.add(
            "families", **what, kind="agreement", engine=engine, dtype=dtype, one_minus_cosine=1 - cosine, max_abs=difference
        )


def _rounds(
    settings: Settings, samples: Samples, what: dict[str, Any], found: list[Named], batches: tuple[int, ...]
) -> None:
    """Each contender at each number of rows in turn; another one begins every round."""
    for number in range(settings.rounds):
        if settings.time_is_up(number):
            print("the time is up", file=sys.stderr)
            break
        start = number % len(found)
        for batch in batches:
            for way, contender in found[start:] + found[:start]:
                run = partial(contender.measure, batch, settings.seconds, None)
                values, others = quietly(settings, contender.pids, run)
                samples.add(
                    "families",
                    **what,
                    kind=way,
                    round=number,
                    batch=batch,
                    engine=contender.engine,
                    dtype=contender.dtype,
                    items_per_second=values["items_per_second"],
                    others=others,
                )


def _clip(settings: Settings, samples: Samples, which: tuple[str, str], engines: tuple[list[str], bool]) -> None:
    (name, tower), (dtypes, has_openvino) = which, engines
    found: list[Contender] = [Ours(dtype, tower, settings.threads, files(name)[0]) for dtype in dtypes]
    try:
        found += _peer("torch", tower, settings, name)
        found += _peer("openvino", tower, settings, name) if has_openvino else []
        what = {"model": name, "tower": tower}
        _compare(samples, what, found, BATCHES[-1])
        _rounds(settings, samples, what, [("rate", contender) for contender in found], BATCHES)
    finally:
        for contender in found:
            contender.end()


def _pairs(settings: Settings, samples: Samples, dtypes: list[str]) -> None:
    """Pairs of one image with several texts: with the image's keys and values once for all, and once per text."""
    folder = files(MATCHING)[0]
    ours = {
        tower: [Ours(dtype, tower, settings.threads, folder, ids=PAIR_LENGTH) for dtype in dtypes]
        for tower in ("match", "match-apart")
    }
    found: list[Contender] = [*ours["match"]]
    try:
        found += _peer("torch", "match", settings, MATCHING)
        what = {"model": MATCHING, "tower": "match"}
        _compare(samples, what, found, PAIRS[-1])
        named: list[Named] = [("shared" if contender in ours["match"] else "apart", contender) for contender in found]
        named += [("apart", contender) for contender in ours["match-apart"]]
        _rounds(settings, samples, what, named, PAIRS)
    finally:
        for contender in found:
            contender.end()


def _images(side: int) -> list[str]:
    """Images of the model's own size as data URIs."""
    uris = []
    for number, values in enumerate(pixels(4, side)):
        for turn in range(IMAGES // 4):
            out = io.BytesIO()
            Image.fromarray(np.roll(values, 5 * turn + number, axis=0)).save(out, "PNG", compress_level=1)
            uris.append("data:image/png;base64," + base64.b64encode(out.getvalue()).decode())
    return uris


def _captions(settings: Settings, samples: Samples, dtypes: list[str]) -> None:
    """Captions over HTTP by several clients, beside `generate` on as many images at once, which are prepared already."""
    folder = files(CAPTIONS)[0]
    bodies = [
        json.dumps({"model": "bench", "images": [image], "max_new_tokens": CAPTION_TOKENS}).encode()
        for image in _images(lengths(folder)[0])
    ]
    peers = _peer("torch", "captions", settings, CAPTIONS)
    found = []
    try:
        for dtype in dtypes:
            server = servers.ours(dtype, folder)
            found.append(server)
            outcome = load.run(server.port, 1, 0.01, lambda _: Request("/v1/captions", bodies[0]))
            if outcome.errors:
                raise RuntimeError(f"captions: {outcome.first_error}")
            server.child.suspend()
        for number in range(settings.rounds):
            if settings.time_is_up(number):
                print("the time is up", file=sys.stderr)
                break
            for clients in CLIENTS:
                what = {"model": CAPTIONS, "tower": "captions", "kind": "rate", "round": number, "batch": clients}
                for server in found:

                    def run(server: servers.Server = server, clients: int = clients) -> Outcome:
                        with server.child.awake():
                            body = lambda n: Request("/v1/captions", bodies[n % IMAGES])  # noqa: E731
                            return load.run(server.port, clients, settings.window, body)

                    outcome, others = quietly(settings, lambda server=server: [server.child.pid], run)
                    if outcome.errors:
                        raise RuntimeError(f"captions: {outcome.first_error}")
                    ours = {"engine": server.name, "dtype": server.dtype, "p50_ms": outcome.percentile_ms(50)}
                    samples.add("families", **what, **ours, items_per_second=outcome.rate, others=others)
                for peer in peers:
                    run_peer = partial(peer.measure, clients, settings.seconds, None)
                    values, others = quietly(settings, peer.pids, run_peer)
                    theirs = {"engine": peer.engine, "dtype": peer.dtype}
                    rate = values["items_per_second"]
                    samples.add("families", **what, **theirs, items_per_second=rate, others=others)
    finally:
        for server in found:
            server.child.end()
        for peer in peers:
            peer.end()
