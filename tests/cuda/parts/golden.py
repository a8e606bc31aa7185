"""Every stage of every stored checkpoint against its reference, in each type, on the device, with both kinds of kernels."""

from __future__ import annotations

import json
import subprocess

from .setting import Outcome, Setting

DTYPES = ("f32", "f16", "bf16")
KERNELS = ("own", "candle")


def run(setting: Setting) -> Outcome:
    # Beside each other: each is a process that waits for small kernels most of the time.
    arguments = [str(setting.program), "golden", "--device", setting.device]
    ways = [(dtype, kernels) for kernels in KERNELS if setting.on_cuda or kernels == "own" for dtype in DTYPES]
    started = {
        (dtype, kernels): setting.start(
            [*arguments, "--dtype", dtype, "--kernels", kernels], stdout=subprocess.PIPE
        )
        for dtype, kernels in ways
    }
    outcome = Outcome()
    counts = []
    for (dtype, kernels), process in started.items():
        passed = failed = 0
        assert process.stdout
        for line in process.stdout:
            if not line.startswith("{"):
                continue
            row = {"dtype": dtype, "kernels": kernels, **json.loads(line)}
            setting.found.setdefault("golden", []).append(row)
            passed += row["passed"]
            failed += not row["passed"]
            if not row["passed"]:
                print("   FAILED", dtype, kernels, row["check"], row["checkpoint"], row["error"] or row["over"], flush=True)
        name = f"{dtype} {kernels}" if setting.on_cuda else dtype
        counts.append(f"{name} {passed}/{passed + failed}")
        if process.wait() or failed:
            outcome.failure = f"{name}: {failed} failed, the program ended with {process.returncode}"
    outcome.rows = setting.found.pop("golden", [])
    outcome.headline = ", ".join(counts)
    if outcome.failure:
        outcome.failure += f" ({outcome.headline})"
    return outcome
