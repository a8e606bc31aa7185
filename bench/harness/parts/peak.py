"""(c) What the processor's instructions can do: the limit that the other parts are shares of."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ..quiet import quietly
from ..samples import Samples
from ..settings import Settings


def measure(settings: Settings, samples: Samples, program: Path, round_number: int) -> None:
    """One measurement of each instruction."""
    seconds = 0.5 if settings.quick else 1.0
    for threads in sorted({1, settings.threads}):

        def run(threads: int = threads) -> str:
            command = [str(program), str(threads), str(seconds)]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

        output, others = quietly(settings, list, run)
        for peak in json.loads(output)["peaks"]:
            values = {"type": peak["type"], "instruction": peak["instruction"], "gops": peak["gops"]}
            samples.add("peak", round=round_number, threads=threads, **values, others=others)
