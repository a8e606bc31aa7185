"""From the command line to the report."""

from __future__ import annotations

import argparse
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from . import ceilings, checkpoints, faults, golden, growth, kernels, report, serving, towers, twins
from .setting import HERE, Outcome, Setting, find_libraries, unpack

Part = Callable[[Setting], Outcome]

PARTS: dict[str, tuple[Part, int]] = {
    "ceilings": (ceilings.run, 30),
    "twins": (twins.run, 60),
    "golden": (golden.run, 110),
    "towers": (towers.run, 220),
    "kernels": (kernels.run, 60),
    "serving": (serving.run, 90),
    "faults": (faults.run, 70),
    "growth": (growth.run, 80),
}
"""In order of value, but for the ceilings: nothing else may run beside them, and PyTorch compiles beside all that comes
before the towers. Each has the most seconds that it may take; together they are more than there are: few take all of
theirs, and the last are cut short or left out where they do."""

WHOLE_SECONDS = 555
"""Of all parts together. What the machine's lender allows is ten minutes for everything."""
LEAST_SECONDS = 8
"""A part is not begun with less than this."""


class TooLong(Exception):
    """A part has had its time."""


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise TooLong


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this; may be repeated")
    parser.add_argument("--device", default="cuda:0", help="as the server's --device")
    parser.add_argument("--tiny", action="store_true", help="a small model and fractions of a second")
    parser.add_argument("--seconds", type=int, default=WHOLE_SECONDS, help="of all parts together")
    parser.add_argument("--kit", type=Path, help="the program, where it is not packed beside this script")
    parser.add_argument("--out", type=Path, help="where results go, instead of $OUT or the folder `results`")
    return parser.parse_args()


def _run(name: str, part: Part, setting: Setting, seconds: float) -> Outcome:
    """One part, whatever becomes of it."""
    begin = time.monotonic()
    setting.deadline = begin + seconds
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        outcome = part(setting)
    except TooLong:
        outcome = Outcome(failure=f"it took more than {seconds:.0f} s")
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome(failure=f"{type(error).__name__}: {error}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        setting.end_processes()
    # What was found before it failed is kept.
    outcome.rows = outcome.rows or setting.found.pop(name, [])
    outcome.seconds = time.monotonic() - begin
    return outcome


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGALRM, _too_long)
    begin = time.monotonic()
    out = arguments.out or Path(os.environ.get("OUT") or HERE / "results")
    out.mkdir(parents=True, exist_ok=True)
    program, golden_folder, tokenizer = unpack(arguments.kit)
    setting = Setting(
        program=program,
        golden=golden_folder,
        tokenizer=tokenizer,
        device=arguments.device,
        tiny=arguments.tiny,
        out=out,
        libraries=find_libraries(),
    )
    outcomes: dict[str, Outcome] = {}
    try:
        wanted = arguments.part or list(PARTS)
        if set(wanted) - {"twins", "golden", "ceilings"}:
            outcomes["checkpoints"] = _run("checkpoints", checkpoints.run, setting, 60)
        for name, (part, most) in PARTS.items():
            if name not in wanted:
                continue
            left = arguments.seconds - (time.monotonic() - begin)
            if left < LEAST_SECONDS:
                outcomes[name] = Outcome(failure="there was no time left")
            else:
                if name != "ceilings" and "towers" in wanted and not setting.torch:
                    towers.begin(setting)
                print(f"== {name}", flush=True)
                outcomes[name] = _run(name, part, setting, min(most, left))
            report.write(setting, outcomes, time.monotonic() - begin)
    finally:
        setting.clean()
    print(report.summary(setting, outcomes, time.monotonic() - begin), flush=True)
    return int(any(outcome.failed for outcome in outcomes.values()))
