"""Pieces of the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .figures import Spread
from .samples import Record

QUIET_CORES = 0.5
"""A measurement during which others used more than this is noisy."""


def quiet_values(records: Iterable[Record], key: str) -> list[float]:
    """The values of the quiet measurements; of all, where none was quiet."""
    found = list(records)
    quiet = [record[key] for record in found if record.get("others", 0) <= QUIET_CORES]
    return quiet or [record[key] for record in found]


def by_round(records: Iterable[Record], key: str) -> dict[int, float]:
    """The values by their round: of the quiet measurements, or of all where none was quiet."""
    found = list(records)
    quiet = [record for record in found if record.get("others", 0) <= QUIET_CORES]
    return {record["round"]: record[key] for record in quiet or found}


def spread(records: Iterable[Record], key: str, digits: int = 2) -> str:
    """Median and spread, or a dash."""
    values = quiet_values(records, key)
    return Spread.of(values).text(digits) if values else "-"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table, the columns behind the first aligned to the right."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + "|".join(" --- " if index == 0 else " ---: " for index in range(len(header))) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
