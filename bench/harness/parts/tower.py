"""(a) The towers without a server: ours in each dtype beside the peers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..processes import Child
from ..quiet import quietly
from ..samples import Samples
from ..settings import BATCHES, BENCH, CHECKPOINT, EXPORTS, TOWER_SPEED, TOWERS, WORK, Settings
from . import peak

AGREEMENT_ROWS = 4
ANSWER_SECONDS = 900
"""Longest start, or measurement, of a peer: compiling three batch sizes is most of it."""


class Contender(Protocol):
    """Whatever can run a tower."""

    engine: str
    dtype: str

    def measure(self, batch: int, seconds: float, out: Path | None) -> dict[str, Any]:
        """Runs passes of `batch` rows; writes the rows of one to `out`."""

    def pids(self) -> list[int]:
        """The processes whose CPU time is its own."""

    def end(self) -> None:
        """Frees what it holds."""


@dataclass
class Ours:
    """This server's towers, through the example program, which loads them for every measurement."""

    dtype: str
    tower: str
    threads: int
    checkpoint: Path = CHECKPOINT
    engine: str = "siglip-server"
    ids: int | None = None
    """Of a text; as many as the model reads where it is None."""

    def measure(self, batch: int, seconds: float, out: Path | None) -> dict[str, Any]:
        command = [str(TOWER_SPEED), "--model", str(self.checkpoint), "--tower", self.tower, "--batch", str(batch)]
        command += ["--dtype", self.dtype, "--threads", str(self.threads), "--seconds", str(seconds)]
        if self.ids:
            command += ["--ids", str(self.ids)]
        if out:
            command += ["--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return values

    def pids(self) -> list[int]:
        return []

    def end(self) -> None:
        pass


class Peer:
    """A peer in a worker process, suspended between its measurements."""

    def __init__(
        self,
        engine: str,
        dtype: str,
        tower: str,
        threads: int,
        files: tuple[Path, Path] = (CHECKPOINT, EXPORTS),
    ) -> None:
        self.engine, self.dtype = engine, dtype
        command = [sys.executable, "-m", "harness.workers", engine, dtype, tower, *map(str, files)]
        environment = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(BENCH)}
        self.child = Child(
            [*command, str(threads)],
            environment,
            log=WORK / f"{engine}-{dtype}-{tower}-{files[0].name}.log",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._answer()
        self.child.suspend()

    def _answer(self) -> dict[str, Any]:
        stdout = self.child.process.stdout
        # A worker that hangs is ended, which ends the wait for its line.
        limit = threading.Timer(ANSWER_SECONDS, self.child.process.kill)
        limit.start()
        line = stdout.readline() if stdout else b""
        limit.cancel()
        if not line:
            raise RuntimeError(f"{self.engine} {self.dtype} ended: {self.child.last_words()}")
        values: dict[str, Any] = json.loads(line)
        return values

    def measure(self, batch: int, seconds: float, out: Path | None) -> dict[str, Any]:
        job = {"batch": batch, "seconds": seconds, "out": str(out) if out else None}
        stdin = self.child.process.stdin
        assert stdin is not None
        with self.child.awake():
            stdin.write(json.dumps(job).encode() + b"\n")
            stdin.flush()
            return self._answer()

    def pids(self) -> list[int]:
        return [self.child.pid]

    def end(self) -> None:
        self.child.end()


def contenders(tower: str, dtypes: list[str], peers: list[tuple[str, str]], threads: int) -> list[Contender]:
    """All that are measured; a peer that does not start is left out, aloud."""
    found: list[Contender] = [Ours(dtype, tower, threads) for dtype in dtypes]
    for engine, dtype in peers:
        try:
            found.append(Peer(engine, dtype, tower, threads))
        except (RuntimeError, json.JSONDecodeError) as error:
            print(f"{engine} {dtype} is left out: {error}", file=sys.stderr)
    return found


def agreement(rows: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """The worst cosine with the reference's rows, and the largest difference of a value."""
    scale = np.linalg.norm(rows, axis=1) * np.linalg.norm(reference, axis=1)
    cosines = (rows.astype(np.float64) * reference).sum(axis=1) / scale
    return float(cosines.min()), float(np.abs(rows - reference).max())


def warm_up(samples: Samples, tower: str, found: list[Contender]) -> None:
    """Every contender once at every batch size, for what it does once; and its agreement with torch in f32."""
    outputs: dict[tuple[str, str], np.ndarray] = {}
    for contender in list(found):
        out = WORK / f"rows-{contender.engine}-{contender.dtype}-{tower}.npy"
        try:
            contender.measure(AGREEMENT_ROWS, 0, out)
            if not isinstance(contender, Ours):
                for batch in set(BATCHES) - {AGREEMENT_ROWS}:
                    contender.measure(batch, 0, None)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"{contender.engine} {contender.dtype} is left out: {error}", file=sys.stderr)
            contender.end()
            found.remove(contender)
            continue
        outputs[contender.engine, contender.dtype] = np.load(out)
    reference = outputs.get(("torch", "f32"))
    if reference is None:
        raise RuntimeError("nothing to compare with: torch in f32 did not run")
    for (engine, dtype), rows in outputs.items():
        cosine, difference = agreement(rows, reference)
        # Six digits would hide what a cosine near 1 is about.
        samples.add(
            "agreement", tower=tower, engine=engine, dtype=dtype, one_minus_cosine=1 - cosine, max_abs=difference
        )


def measure(
    settings: Settings,
    samples: Samples,
    dtypes: list[str],
    peers: list[tuple[str, str]],
    peak_program: Path,
) -> None:
    """All rounds, one tower after the other: in each, every contender in turn at every batch size."""
    for place, tower in enumerate(TOWERS, start=1):
        found = contenders(tower, dtypes, peers, settings.threads)
        try:
            warm_up(samples, tower, found)
            for number in range(settings.rounds):
                if settings.time_is_up(number, place / len(TOWERS)):
                    print("the time is up", file=sys.stderr)
                    break
                peak.measure(settings, samples, peak_program, number)
                one_round(settings, samples, tower, (number, found))
        finally:
            for contender in found:
                contender.end()


def one_round(settings: Settings, samples: Samples, tower: str, turn: tuple[int, list[Contender]]) -> None:
    """Each contender at each batch size; another one begins every round."""
    number, found = turn
    start = number % len(found)
    for batch in BATCHES:
        for contender in found[start:] + found[:start]:
            values, others = quietly(
                settings, contender.pids, partial(contender.measure, batch, settings.seconds, None)
            )
            samples.add(
                "tower",
                round=number,
                tower=tower,
                batch=batch,
                engine=contender.engine,
                dtype=contender.dtype,
                items_per_second=values["items_per_second"],
                passes=values["passes"],
                others=others,
            )
