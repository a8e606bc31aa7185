"""examples/ray_bulk_embed.py on a local Ray cluster: a worker is killed on the way, then the whole job; after a second run every
row is there once, with the server's own vector."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import BINARY, IMAGES, ROOT, check, server
from PIL import Image
from siglip_client import Client

IMAGES_MADE = 600
MARK = f"siglip-test-{uuid.uuid4()}"


def noise(number):
    """An image file that is like no other."""
    values = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).resize((320, 240)).save(file, "PNG")
    return file.getvalue()


def make_images(folder):
    (folder / "more").mkdir(parents=True)
    for number in range(IMAGES_MADE):
        (folder / ("more" if number % 3 else ".") / f"{number:04}.png").write_bytes(noise(number))
    (folder / "broken.png").write_text("words")
    shutil.copy(IMAGES / "cat.png", folder / "cat.png")
    (folder / "notes.txt").write_text("words")


def make_parquet(path):
    images = [noise(number) for number in range(20)] + [None, b"words"]
    table = pa.table({"id": [f"row-{number}" for number in range(22)], "image": pa.array(images, pa.binary()), "other": [0] * 22})
    pq.write_table(table, path, row_group_size=6)


def command(source, out, socket):
    return [
        *(sys.executable, ROOT / "examples" / "ray_bulk_embed.py", source, out),
        *("--rows", "10", "--socket", socket, "--binary", BINARY, "--", "--log-filter", "error"),
    ]


def environment():
    # The server refuses variables that look like options of its own and are none.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SIGLIP_")}
    return inherited | {"TEST_MARK": MARK, "PYTHONPATH": str(ROOT / "clients" / "python" / "src"), "RAY_USAGE_STATS_ENABLED": "0"}


def marked(name):
    """The processes of this test's cluster whose title begins so."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if MARK.encode() in (process / "environ").read_bytes() and (process / "cmdline").read_bytes().startswith(name):
                found.append(int(process.name))
    return found


def end_cluster():
    """Ends what a killed job leaves behind; Ray's own processes notice by themselves, but only after a while."""
    for pid in marked(b""):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def wait_for_parts(job, out, count, log):
    until = time.monotonic() + 240
    while len(list(out.glob("part-*"))) < count:
        if job.poll() is not None or time.monotonic() > until:
            sys.exit(f"FAILED: {count} parts did not come\n{log.read_text()[-4000:]}")
        time.sleep(0.01)


def run(source, out, socket, log, interrupt=None):
    with log.open("w") as written:
        job = subprocess.Popen(command(source, out, socket), stdout=written, stderr=subprocess.STDOUT, env=environment())
        try:
            if interrupt:
                interrupt(job)
            code = job.wait(280)
        finally:
            job.kill()
            job.wait()
            end_cluster()
    return code, log.read_text()


def kill_twice(out, log):
    """Kills a worker after some parts, and the job after some more."""

    def interrupt(job):
        wait_for_parts(job, out, 5, log)
        workers = marked(b"ray::MapWorker")
        check(workers, f"{len(workers)} workers run")
        os.kill(workers[0], signal.SIGKILL)
        before = len(list(out.glob("part-*")))
        wait_for_parts(job, out, before + 8, log)
        check(workers[0] not in marked(b"ray::MapWorker"), f"a worker was killed after {before} parts, and others went on")
        job.kill()

    return interrupt


def rows_of(out):
    """Every row of all parts, by its id."""
    found, count, stamps = {}, 0, set()
    for path in sorted(out.glob("part-*.parquet")):
        table = pq.read_table(path)
        stamps.add(tuple(sorted(table.schema.metadata.items())))
        for row in table.to_pylist():
            found[row["id"]] = row
            count += 1
    check(count == len(found), f"no row is doubled among {count}")
    check(len(stamps) == 1, "all parts have one stamp")
    return found, {key.decode(): value.decode() for key, value in stamps.pop()}


def compare(found, stamp, images):
    """Rows against what a server says by itself."""
    with server("--listen", "127.0.0.1:0") as (_, said), Client("http://" + said.split("http://")[1].split()[0]) as client:
        [model] = client.models()
        expected = client.embed(list(images.values()))
    names = ("revision", "preprocessing_version", "dtype")
    check({name: stamp[name] for name in names} == {name: str(model.raw[name]) for name in names}, f"the stamp is {stamp}")
    got = np.array([found[name]["embedding"] for name in images], np.float32)
    check(np.abs(got - expected).max() < 2e-5, f"{len(images)} vectors are the server's own")


def folder(base):
    photos, out, log = base / "photos", base / "vectors", base / "log"
    make_images(photos)
    code, _ = run(photos, out, base / "socket", log, kill_twice(out, log))
    check(code == -signal.SIGKILL, "the job was killed")
    parts = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    code, said = run(photos, out, base / "socket", log)
    if code != 0:
        sys.exit(f"FAILED: the second run ended with {code}\n{said[-4000:]}")
    check(f"{61 - len(parts)} of them to be made" in said, f"a second run makes what is missing beside {len(parts)} parts")
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*") if path.name in parts}
    check(kept == parts, "what was there was not made again")
    found, stamp = rows_of(out)
    wanted = {str(path.relative_to(photos)) for path in photos.rglob("*.png")}
    check(set(found) == wanted and len(wanted) == IMAGES_MADE + 2, f"no row of {len(wanted)} is lost")
    failed = {name: row["error"] for name, row in found.items() if row["embedding"] is None}
    check(list(failed) == ["broken.png"] and failed["broken.png"].startswith("undecodable_image"), "the broken one says why")
    sample = {name: photos / name for name in ["cat.png", *sorted(wanted - {"broken.png", "cat.png"})[::25]]}
    compare(found, stamp, sample)
    code, said = run(IMAGES, out, base / "socket", log)
    check(code != 0 and "other images" in said, "other images do not go into the same folder")


def parquet(base):
    make_parquet(base / "rows.parquet")
    out = base / "of-parquet"
    code, said = run(f"{base}/*.parquet", out, base / "socket", base / "log")
    if code != 0:
        sys.exit(f"FAILED: {said[-4000:]}")
    found, _ = rows_of(out)
    check(set(found) == {f"row-{number}" for number in range(22)}, "every row of a Parquet file is there")
    failed = {name: row["error"] for name, row in found.items() if row["embedding"] is None}
    check(failed["row-20"].startswith("null") and failed["row-21"].startswith("undecodable") and len(failed) == 2, f"{failed}")


def main():
    # Not below the folder of the repository: a path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory() as base:
        folder(Path(base))
        parquet(Path(base))


main()
