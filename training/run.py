"""What every phase needs: checkpoints, resuming and a compact log."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from model import MixedOptimizer

LOG_EVERY = 25


@dataclass(frozen=True)
class Resumed:
    """Where a phase goes on."""

    step: int
    strength: float


def save(
    path: Path,
    optimizer: MixedOptimizer,
    step: int,
    strength: float,
    locked: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes a checkpoint so that a kill at any time leaves a whole one.

    `locked` are weights that the phase does not train but the next one needs.
    """
    partial = path.with_suffix(".partial")
    state = {"step": step, "strength": strength, "optimizer": optimizer.state(), "locked": locked or {}}
    torch.save(state, partial)
    partial.replace(path)


def resume(path: Path, optimizer: MixedOptimizer) -> Resumed:
    """Loads the checkpoint if there is one, and seeds the rest of the run."""
    step, strength = 0, 0.0
    if path.exists():
        stored = torch.load(path, weights_only=True)
        optimizer.load(stored["optimizer"])
        step, strength = stored["step"], stored["strength"]
    torch.manual_seed(1000 + step)
    return Resumed(step, strength)


def averaged_weights(path: Path) -> dict[str, torch.Tensor]:
    """Reads a phase's model: its averaged weights and those it had locked.

    `path` may also be an exported folder: the state of the optimizer is not in
    it, but every phase starts with a new one anyway.
    """
    if path.is_dir():
        return {n: t.float() for n, t in load_file(path / "model.safetensors").items()}
    stored = torch.load(path, weights_only=True)
    weights = {**stored.get("locked", {}), **stored["optimizer"]["average"]}
    weights.pop("classes", None)
    return weights


def find(work: Path, name: str) -> Path:
    """Finds what `--start` names: an exported folder, or a checkpoint in `work`."""
    return Path(name) if Path(name).is_dir() else work / name


class Log:
    """Writes the mean of every `LOG_EVERY` steps as one CSV line."""

    def __init__(self, path: Path, header: str) -> None:
        self.file = path.open("a", encoding="utf-8")
        if self.file.tell() == 0:
            print(header, file=self.file, flush=True)
        self.rows: list[tuple[float, ...]] = []
        self.since = time.monotonic()

    def add(self, step: int, *values: float) -> None:
        """Takes one step's values, in the header's order without the seconds."""
        self.rows.append(values)
        if (step + 1) % LOG_EVERY:
            return
        means = [sum(column) / len(column) for column in zip(*self.rows, strict=True)]
        seconds = (time.monotonic() - self.since) / len(self.rows)
        cells = [str(step + 1), *(f"{mean:.5g}" for mean in means), f"{seconds:.2f}"]
        print(",".join(cells), file=self.file, flush=True)
        self.rows, self.since = [], time.monotonic()
