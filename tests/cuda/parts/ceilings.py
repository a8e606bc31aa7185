"""What the card does at most: a large product and a large copy, through PyTorch."""

from __future__ import annotations

from .setting import Outcome, Setting, Worker, has


def run(setting: Setting) -> Outcome:
    if not has("torch", "numpy"):
        return Outcome(skipped="needs torch")
    side, mib = (256, 8) if setting.tiny else (8192, 4096)
    worker = Worker(setting, setting.script("peaks", setting.device))
    name = worker.answer()
    product = worker.ask(what="product", size=side)
    copy = worker.ask(what="copy", size=mib)
    setting.note("ceilings", {"what": f"bf16 product, {side} cubed", **product})
    setting.note("ceilings", {"what": f"copy of {mib} MiB", **copy})
    headline = f"{name['name']}: {product['tflops']:.0f} TFLOP/s, {copy['gb_per_second']:.0f} GB/s"
    return Outcome(rows=setting.found.pop("ceilings"), headline=headline)
