"""What a run does, and where its files are."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
CHECK = bool(os.environ.get("BENCH_CHECK"))
"""Whether only the harness is tried out, with a checkpoint of two small layers."""
WORK = BENCH / "work" / "check" if CHECK else BENCH / "work"
RESULTS = WORK if CHECK else BENCH / "results"
CHECKPOINT = WORK / "siglip-base-patch16-224"
EXPORTS = WORK / "exports"
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
SERVER = RELEASE / "siglip-server"
TOWER_SPEED = RELEASE / "examples" / "tower_speed"
TOWERS = ("vision", "text")
BATCHES = (1, 4, 8)

NOMINAL_GFLOP = {"vision": 35.417, "text": 11.024}
"""Two for each multiply-add of siglip-base-patch16-224's definition, for one item; savings do not count."""


FAMILIES = WORK / "families"
"""The checkpoints of the other families, and their exports."""


@dataclass(frozen=True)
class Settings:
    """How long and how often."""

    quick: bool
    rounds: int
    seconds: float
    """Of one measurement at tower level."""
    window: float
    """Of one measurement over HTTP; answers that come after it are awaited, and counted."""
    threads: int
    most_others: float
    """Cores that other processes may use while something is measured."""
    patience: float
    """Seconds to wait for them, before each measurement."""
    waiting: float
    """Seconds to wait for them, before all measurements together; then whatever comes is measured, and called noisy."""
    minutes: float
    """After the first, no round begins after this much measuring."""
    build: bool
    """Whether to build what is measured."""
    started: float = field(default_factory=time.monotonic)

    def time_is_up(self, number: int, share: float = 1.0) -> bool:
        """Whether a round is one too many: a share of the run's time is used up. The first never is."""
        return number > 0 and time.monotonic() - self.started > self.minutes * 60 * share

    def from_now(self) -> Settings:
        """The same, its time beginning now: what was built and prepared before takes none of it."""
        return replace(self, started=time.monotonic())


def checkpoint_of(side: int) -> Path:
    """The vision-only checkpoint for larger pictures."""
    return CHECKPOINT if side == 224 else WORK / f"siglip-base-patch16-{side}"
