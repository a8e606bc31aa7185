"""Our towers beside PyTorch's, eager and compiled, in the same type and in turns."""

from __future__ import annotations

import queue
import time
from statistics import median

from .setting import Outcome, Row, Setting, Worker, has

Case = tuple[str, int, tuple[str, ...]]

BOTH, EAGER = ("eager", "compile"), ("eager",)
CASES: dict[str, list[Case]] = {
    "base-224": [
        ("vision", 256, BOTH),
        ("vision", 1, BOTH),
        ("vision", 64, BOTH),
        ("vision", 128, EAGER),
        ("vision", 16, EAGER),
        ("text", 256, BOTH),
        ("text", 1, BOTH),
        ("text", 32, EAGER),
    ],
    "so400m-384": [
        ("vision", 128, BOTH),
        ("vision", 1, BOTH),
        ("vision", 32, EAGER),
        ("text", 256, EAGER),
        ("text", 1, EAGER),
    ],
}
"""In order of value: a compilation takes a quarter of a minute."""
TINY: list[Case] = [("vision", 2, BOTH), ("text", 2, EAGER)]
ROUNDS = 3
MOST_COMPILING = 100
"""Seconds that the comparison waits for the compiler."""
GFLOP = {("base-224", "vision"): 35.417, ("base-224", "text"): 11.024, ("so400m-384", "vision"): 671.0}
"""Of a row: twice its multiplications and additions."""
AGREEMENT_ROWS = 8


def _torch(setting: Setting, name: str) -> Worker:
    folder = str(setting.checkpoints[name])
    return Worker(setting, setting.script("torch_tower", folder, setting.device, setting.dtype), keep=True)


def _cases(setting: Setting, name: str) -> list[Case]:
    return TINY if setting.tiny else CASES[name]


def begin(setting: Setting) -> None:
    """Lets PyTorch compile while other parts run: compiling takes longer than measuring."""
    if not has("torch", "transformers", "numpy"):
        return
    for name in setting.checkpoints:
        worker = setting.torch[name] = _torch(setting, name)
        for tower, batch, ways in _cases(setting, name):
            if "compile" in ways:
                worker.tell(do="prepare", tower=tower, batch=batch, how="compile")


class Engines:
    """Both sides for one checkpoint."""

    def __init__(self, setting: Setting, name: str) -> None:
        self._setting, self.name = setting, name
        folder = str(setting.checkpoints[name])
        placed = ["--device", setting.device, "--dtype", setting.dtype]
        program = [str(setting.program), "speed", "--model", folder, *placed]
        self.ours = Worker(setting, program)
        # The same program with candle's operations alone.
        self.candle = Worker(setting, [*program, "--kernels", "candle"])
        self.loaded = self.ours.answer()
        self.candle.answer()
        self.compiled: dict[tuple[str, int], object] = {}
        self.note = ""
        self.torch = setting.torch.get(name)
        if self.torch:
            self._await_torch(self.torch)

    def _await_torch(self, worker: Worker) -> None:
        """Without PyTorch, or while it still compiles, our side is measured alone."""
        until = time.monotonic() + (300 if self._setting.tiny else MOST_COMPILING)
        try:
            worker.answer(until)
            for tower, batch, ways in _cases(self._setting, self.name):
                if "compile" in ways:
                    answer = worker.answer(until)
                    self.compiled[tower, batch] = answer.get("seconds", answer.get("error"))
        except (RuntimeError, queue.Empty) as error:
            worker.kill()
            self.torch = None
            self.note = f"{self.name}: PyTorch was left out: {error or 'it still compiled'}"

    def end(self) -> None:
        self.ours.end()
        self.candle.end()
        if self.torch:
            self.torch.end()

    def agreement(self, tower: str) -> Row:
        """The least cosine of rows with PyTorch's in f32: ours, and PyTorch's own in the same type."""
        if not self.torch:
            return {}
        import numpy as np

        rows = 2 if self._setting.tiny else AGREEMENT_ROWS
        files = {side: str(self._setting.work / f"{self.name}-{tower}-{side}.npy") for side in ("ours", "torch", "f32")}
        self.ours.ask(tower=tower, batch=rows, seconds=0.0, out=files["ours"])
        self.torch.ask(do="rows", tower=tower, batch=rows, dtype=self._setting.dtype, out=files["torch"])
        self.torch.ask(do="rows", tower=tower, batch=rows, dtype="f32", out=files["f32"])
        unit = {}
        for side, file in files.items():
            values = np.load(file).astype(np.float64)
            unit[side] = values / np.linalg.norm(values, axis=1, keepdims=True)
        cosines = {side: float((unit[side] * unit["f32"]).sum(axis=1).min()) for side in ("ours", "torch")}
        return {"cosine_ours": cosines["ours"], "cosine_torch": cosines["torch"]}


def _compare(setting: Setting, engines: Engines, case: Case) -> Row:
    tower, batch, ways = case
    seconds = 0.05 if setting.tiny else 0.8
    sides = {way: engines.torch for way in ways} if engines.torch else {}
    samples: dict[str, list[Row]] = {"ours": [], **{way: [] for way in sides}}
    if "compile" in ways:
        samples["candle"] = []
    for _ in range(ROUNDS):
        samples["ours"].append(engines.ours.ask(tower=tower, batch=batch, seconds=seconds))
        if "candle" in samples:
            samples["candle"].append(engines.candle.ask(tower=tower, batch=batch, seconds=seconds))
        for way, side in sides.items():
            if side:
                samples[way].append(side.ask(do="measure", tower=tower, batch=batch, how=way, seconds=seconds))
    row: Row = {"model": engines.name, "tower": tower, "batch": batch, "dtype": setting.dtype}
    row["kernels"] = engines.loaded.get("kernels")
    for side_name, found in samples.items():
        errors = [sample["error"] for sample in found if "error" in sample]
        if errors:
            row[f"{side_name}_error"] = errors[0]
            continue
        row[f"{side_name}_per_second"] = median(sample["items_per_second"] for sample in found)
        row[f"{side_name}_pass_ms"] = median(sample["median_pass_ms"] for sample in found)
    gflop = GFLOP.get((engines.name, tower))
    if gflop and "ours_per_second" in row and not setting.tiny:
        row["ours_tflops"] = row["ours_per_second"] * gflop / 1e3
    for way in [*sides, "candle"]:
        if f"{way}_per_second" in row and "ours_per_second" in row:
            row[f"ours_to_{way}"] = row["ours_per_second"] / row[f"{way}_per_second"]
    row["compile_seconds"] = engines.compiled.get((tower, batch))
    row["samples"] = samples
    return row


def run(setting: Setting) -> Outcome:
    if not setting.torch:
        begin(setting)
    outcome = Outcome()
    failures = []
    for name in setting.checkpoints:
        engines = Engines(setting, name)
        if reason := engines.loaded.get("kernels_reason"):
            outcome.notes.append(f"{name}: {engines.loaded['kernels']} kernels: {reason}")
        outcome.notes += [engines.note] if engines.note else []
        agreement = {tower: engines.agreement(tower) for tower in ("vision", "text")}
        for case in _cases(setting, name):
            row = _compare(setting, engines, case)
            row.update(agreement[case[0]])
            samples = row.pop("samples")
            setting.note("towers", row)["samples"] = samples
            if "ours_error" in row:
                failures.append(f"{name} {case[0]} {case[1]}: {row['ours_error']}")
        engines.end()
    outcome.rows = setting.found.pop("towers")
    if failures:
        outcome.failure = "; ".join(failures)[:500]
    if not setting.torch:
        outcome.notes.append("PyTorch and transformers are absent: only our side was measured")
    images = [row for row in outcome.rows if row["model"] == "base-224" and row["tower"] == "vision"]
    best = max(images, key=lambda row: row.get("ours_per_second", 0.0))
    outcome.headline = f"base-224 images: {best.get('ours_per_second', 0):.0f}/s at {best['batch']}"
    if "ours_to_compile" in best:
        outcome.headline += f", {best['ours_to_compile']:.2f} x compiled"
    return outcome
