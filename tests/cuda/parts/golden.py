"""Every stage of every stored checkpoint against its reference, in each type, on the device."""

from __future__ import annotations

import json
import subprocess

from .setting import Outcome, Setting

DTYPES = ("f32", "f16", "bf16")


def run(setting: Setting) -> Outcome:
    # Beside each other: each is a process that waits for small kernels most of the time.
    arguments = [str(setting.program), "golden", "--device", setting.device, "--dtype"]
    started = {dtype: setting.start([*arguments, dtype], stdout=subprocess.PIPE) for dtype in DTYPES}
    outcome = Outcome()
    counts = []
    for dtype, process in started.items():
        passed = failed = 0
        assert process.stdout
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            row = {"dtype": dtype, **json.loads(line)}
            setting.found.setdefault("golden", []).append(row)
            passed += row["passed"]
            failed += not row["passed"]
            if not row["passed"]:
                print("   FAILED", dtype, row["check"], row["checkpoint"], row["error"] or row["over"], flush=True)
        counts.append(f"{dtype} {passed}/{passed + failed}")
        if process.wait() or failed:
            outcome.failure = f"{dtype}: {failed} failed, the program ended with {process.returncode}"
    outcome.rows = setting.found.pop("golden", [])
    outcome.headline = ", ".join(counts)
    if outcome.failure:
        outcome.failure += f" ({outcome.headline})"
    return outcome
