"""What was measured, one record a measurement, as it is kept beside the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass
class Samples:
    """All records of a run, by part, with what holds for the whole."""

    about: dict[str, Any] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    def add(self, part: str, **values: Any) -> None:
        """Keeps one measurement and shows it."""
        record = {"part": part, **{key: rounded(value) for key, value in values.items()}}
        self.records.append(record)
        print(" ", " ".join(f"{key}={value}" for key, value in record.items()), flush=True)

    def select(self, part: str, **values: Any) -> Iterator[Record]:
        """The records of a part that have these values."""
        for record in self.records:
            if record["part"] == part and all(record.get(key) == value for key, value in values.items()):
                yield record

    def parts(self) -> set[str]:
        """Which parts have records."""
        return {record["part"] for record in self.records}

    def replace_parts(self, other: Samples) -> None:
        """Takes the other's parts in the place of its own: a run of some parts leaves the rest as it was."""
        parts = other.parts()
        self.records = [record for record in self.records if record["part"] not in parts] + other.records
        when = f"{other.about['date']} at commit `{other.about['commit']}`"
        measured = {**self.about.get("measured", {}), **dict.fromkeys(sorted(parts), when)}
        self.about = {**self.about, **other.about, "measured": measured}

    def save(self, path: Path) -> None:
        """One record a line, so that a change is readable."""
        lines = ",\n".join(json.dumps(record) for record in self.records)
        about = json.dumps(self.about, indent=1, sort_keys=True)
        path.write_text(f'{{"about": {about},\n"records": [\n{lines}\n]}}\n')

    @classmethod
    def read(cls, path: Path) -> Samples:
        """What `save` wrote; nothing where there is no file."""
        if not path.exists():
            return cls()
        return cls(**json.loads(path.read_text()))


def rounded(value: Any) -> Any:
    """Five digits: what is behind them is noise."""
    return float(f"{value:.5g}") if isinstance(value, float) else value
