"""Random checkpoints of published shapes, made on the device from a seed."""

from __future__ import annotations

import subprocess

from .setting import DEMO, Outcome, Setting, has

NAMES = ("base-224", "so400m-384")


def run(setting: Setting) -> Outcome:
    """Where one cannot be made, the demo checkpoint is measured in the place of the first."""
    setting.checkpoints = {"base-224": DEMO}
    if not has("torch", "transformers", "safetensors"):
        return Outcome(skipped="needs torch and transformers; the demo checkpoint is measured")
    names = NAMES[:1] if setting.tiny else NAMES
    for name in names:
        folder = setting.work / name
        arguments = [name, str(folder), str(setting.tokenizer), setting.device, "tiny" if setting.tiny else ""]
        process = setting.start(setting.script("make_checkpoint", *arguments), stdout=subprocess.DEVNULL)
        if process.wait(setting.left()):
            raise RuntimeError(f"the checkpoint {name} could not be made: see processes.log")
        setting.checkpoints[name] = folder
    return Outcome(headline=", ".join(names))
