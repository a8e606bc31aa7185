"""A device without room, and one that breaks, under a server that has work."""

from __future__ import annotations

import json
import subprocess
import time

from .serving import load, side
from .setting import NoServer, Outcome, Row, Server, Setting

ROWS = 256
"""Of the batch that does not fit."""
LEAVE_MIB = 512


def _tower_out_of_memory(setting: Setting) -> Row:
    """The tower's own word for it, and that it works again afterwards."""
    arguments = ["--model", str(setting.checkpoints["base-224"]), "--device", setting.device]
    found = setting.kit("memory", *arguments, "--rows", str(ROWS), "--leave", str(LEAVE_MIB))[-1]
    return {"what": "a tower out of memory", **found}


def _server_out_of_memory(setting: Setting) -> Row:
    """Requests whose batch does not fit are answered all the same: the batch is halved until it does."""
    rows = 8 if setting.tiny else ROWS
    failpoint = {} if setting.on_cuda else {"SIGLIP_FAILPOINT": "memory:7"}
    # A batch waits until it is full: one row alone cannot be halved.
    flags = ["--batch-max-image-rows", str(rows), "--batch-max-wait", "200ms", "--limits-max-bytes-in-flight", "4GiB"]
    server = Server(setting, setting.checkpoints["base-224"], *flags, "--limits-max-body-bytes", "512MiB", **failpoint)
    hog = setting.start(
        [str(setting.program), "hog", "--leave", str(LEAVE_MIB)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert hog.stdout and hog.stdin
    hog.stdout.readline()
    options = {"width": side(setting), "height": side(setting), "items": rows, "clients": 1, "warm_up": 0}
    found = setting.kit(*load(setting, server, "pixels", seconds=0.5 if setting.tiny else 3, **options)[1:])[-1]
    ready = server.request("/health/ready")[0]
    hog.stdin.close()
    hog.wait(setting.left())
    server.stop()
    return {
        "what": "a server out of memory",
        "requests": found["requests"],
        "failed": found["failed"],
        "failure": found["failure"],
        "ready": ready,
        "passed": bool(found["requests"]) and not found["failed"] and ready == 200,
    }


def _embedding(server: Server) -> list[float]:
    answer = json.loads(server.request("/v1/embeddings", {"input": "a red house"})[1])
    found: list[float] = answer["data"][0]["embedding"]
    return found


def _broken_context(setting: Setting) -> Row:
    """Readiness turns red, and the worker, or the process, begins anew with the same embeddings."""
    told = setting.work / "break"
    how = {"KIT_BREAK": str(told)} if setting.on_cuda else {"SIGLIP_FAILPOINT": "broken:60:1"}
    checkpoint = setting.checkpoints["base-224"]
    server = Server(setting, checkpoint, **how)
    before = _embedding(server)
    sender = setting.start(load(setting, server, "texts", clients=2, seconds=20, warm_up=0), stdout=subprocess.PIPE)
    if setting.on_cuda:
        told.touch()
    begin = time.monotonic()
    red = green = exit_code = None
    while time.monotonic() - begin < min(25.0, setting.left() - 5) and green is None:
        exit_code = server.process.poll()
        if exit_code is not None:
            break
        status = server.request("/health/ready", timeout=1)[0]
        if status != 200 and red is None:
            red = time.monotonic() - begin
        if status == 200 and red is not None:
            green = time.monotonic() - begin
        time.sleep(0.005)
    sender.kill()
    restarts = server.metric("siglip_worker_restarts_total") if exit_code is None else None
    if exit_code is not None:
        # What its supervisor does.
        server = Server(setting, checkpoint)
    same = green is not None or exit_code is not None
    after = _embedding(server) if same else []
    server.stop()
    return {
        "what": "a broken context",
        "red_after_s": red,
        "green_after_s": green,
        "restarts": restarts,
        "exit_code": exit_code,
        "same_embedding": after == before,
        "passed": (red is not None or exit_code == 1) and after == before,
    }


def run(setting: Setting) -> Outcome:
    for kept in setting.torch.values():
        kept.kill()
    failures = []
    for check in (_server_out_of_memory, _broken_context, _tower_out_of_memory):
        try:
            row = setting.note("faults", check(setting))
        except NoServer as error:
            if setting.on_cuda:
                raise
            # On a processor faults are made up, by builds with debug assertions.
            row = setting.note("faults", {"what": check.__name__, "skipped": f"{error}"})
        except (RuntimeError, OSError, KeyError, ValueError, subprocess.TimeoutExpired) as error:
            row = setting.note("faults", {"what": check.__name__, "error": str(error), "passed": False})
        if not row.get("passed", True):
            failures.append(str(row["what"]))
        setting.end_processes()
    rows = setting.found.pop("faults")
    headline = ", ".join(f"{row['what']}: {'yes' if row.get('passed') else row.get('skipped', 'NO')}" for row in rows)
    return Outcome(rows=rows, failure=f"failed: {', '.join(failures)}" if failures else None, headline=headline)
