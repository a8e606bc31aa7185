"""Medians with their spread, and ratios taken round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

TIE = 0.08
"""Ratios nearer to 1 than this are ties: two runs of the same program differ by as much."""


@dataclass(frozen=True)
class Spread:
    """A median, and the least and the most of what was measured."""

    middle: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(median(values), min(values), max(values), len(values))

    def text(self, digits: int = 2) -> str:
        """`middle (least..most)`."""
        return f"{self.middle:.{digits}f} ({self.least:.{digits}f}..{self.most:.{digits}f})"


def ratio(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread | None:
    """Ours by theirs, each pair from one round, so that a slow minute slows both."""
    pairs = [mine / theirs[number] for number, mine in ours.items() if theirs.get(number, 0) > 0]
    return Spread.of(pairs) if pairs else None


def verdict(spread: Spread | None) -> str:
    """A ratio in words: ties are called ties."""
    if spread is None:
        return "-"
    words = f"{spread.middle:.2f}x ({spread.least:.2f}..{spread.most:.2f})"
    return f"{words} tie" if abs(spread.middle - 1) < TIE else words


def growth(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent `p` of `cost = c * size^p` between the first and the last point."""
    from math import log

    return log(costs[-1] / costs[0]) / log(sizes[-1] / sizes[0])
