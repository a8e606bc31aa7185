"""Every kernel of our own against its twin on the host, in each type, and under NVIDIA's sanitizer where there is one."""

from __future__ import annotations

import shutil
import subprocess

from .setting import Outcome, Setting

DTYPES = ("f32", "f16", "bf16")
TOOLS = ("memcheck", "racecheck")
WRONG = 9
"""What the sanitizer ends with if it found something."""
LEAST_SECONDS = 10
"""A tool is not begun with less than this."""


def _sanitized(setting: Setting, tool: str) -> str | None:
    """What a tool found wrong, or that it had no time."""
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(WRONG), str(setting.program), "twins"]
    command += ["--device", setting.device, "--dtype", "bf16", "--launches", "0"]
    process = setting.start(command, stdout=setting.log(f"sanitizer-{tool}"))
    try:
        code = process.wait(setting.left() - 1)
    except subprocess.TimeoutExpired:
        return f"{tool} had no time"
    return None if code == 0 else f"{tool} ended with {code}: see sanitizer-{tool}.log"


def run(setting: Setting) -> Outcome:
    outcome = Outcome()
    counts, failures = [], []
    for dtype in DTYPES:
        found = setting.kit("twins", "--device", setting.device, "--dtype", dtype)
        for row in found:
            setting.note("twins", {"dtype": dtype, **row})
        wrong = [row for row in found if not row["passed"]]
        counts.append(f"{dtype} {len(found) - len(wrong)}/{len(found)}")
        failures += [f"{dtype} {row['kernel']} {row['shape']}: {row['worst']}" for row in wrong]
    if setting.on_cuda and shutil.which("compute-sanitizer"):
        for tool in TOOLS:
            found_wrong = _sanitized(setting, tool) if setting.left() > LEAST_SECONDS else f"{tool} was left out"
            outcome.notes.append(found_wrong or f"{tool} found nothing")
            if found_wrong and "ended with" in found_wrong:
                failures.append(found_wrong)
    outcome.rows = setting.found.pop("twins", [])
    if not outcome.rows and not setting.on_cuda:
        outcome.skipped = "a processor runs none of them"
    elif not outcome.rows:
        outcome.failure = "the program has none of them"
    outcome.headline = ", ".join(counts)
    if failures:
        outcome.failure = f"{'; '.join(failures)[:400]} ({outcome.headline})"
    return outcome
