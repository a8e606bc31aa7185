"""Embeds a folder or Parquet files of images on a Ray cluster, through one siglip-server for each node.

    python examples/ray_bulk_embed.py photos/ vectors/ --binary siglip-server -- --model google/siglip-base-patch16-224
    python examples/ray_bulk_embed.py 's/*.parquet' vectors/ --socket /run/siglip/siglip.sock

Needs `pip install "ray[data]" httpx numpy ./clients/python`, and the images, the output folder and the server's program at the same
place on every node.

The images are cut into parts, and a part becomes one file of `vectors/`. A worker writes a part under another name and renames it
when it is whole. So a part is there as a whole or not at all: if a worker or a node dies, Ray gives its part to another one, and a
second run of the command makes only the parts that are missing. Nothing is lost, and nothing is doubled.

The columns are `id` (the path below the folder, or the column `id` of the Parquet file), `embedding` (32-bit floats, null for an image
that failed) and `error` (why it failed). `model`, `revision`, `dtype`, `preprocessing_version` and `dimensions` are in the metadata of
each file, as `siglip-server embed` writes them. Parts of another model, or of other images, are refused.
"""

import argparse
import glob
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from siglip_client import Client

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif", ".jxl")
PLAN = "plan.json"
START_SECONDS, HANDOVER_SECONDS = 1800, 60
WRONG_OPTION = 2


def client(socket):
    """A client of the node's server."""
    return Client("http://node", transport=httpx.HTTPTransport(uds=socket), timeout=600)


def stamp(socket):
    """What makes vectors comparable, as the server says it."""
    with client(socket) as asked:
        [model, *_] = asked.models()
    fields = ("dtype", "preprocessing_version", "revision")
    return {"model": model.name, "dimensions": str(model.dimension), **{name: str(model.raw[name]) for name in fields}}


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Node:
    """Keeps a server running on its node. It is started again with this actor, if that dies."""

    def __init__(self, binary, socket, options):
        self.command = [binary, "--listen", "127.0.0.1:0", "--listen-unix", socket, *options]
        begun = time.monotonic()
        self.start()
        with client(socket) as asked:
            while not asked.is_ready():
                if (code := self.server.poll()) is not None:
                    # The server of an actor that died may still be on its way out, with the socket.
                    if code == WRONG_OPTION or time.monotonic() - begun > HANDOVER_SECONDS:
                        raise RuntimeError(f"{binary} ended with {code}; its log is beside Ray's own")
                    self.start()
                if time.monotonic() - begun > START_SECONDS:
                    raise RuntimeError(f"{binary} was not ready within {START_SECONDS} s")
                time.sleep(0.5)

    def start(self):
        self.server = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, preexec_fn=end_with_parent)

    def ready(self):
        return self.server.pid

    def stop(self):
        self.server.terminate()
        self.server.wait()


def end_with_parent():
    """Lets the kernel end the server when the process that started it ends, even if it was killed (Linux)."""
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Embed:
    """Makes parts. Each of these actors has a connection to the server of its node."""

    def __init__(self, out, socket, expected):
        self.out, self.expected = Path(out), expected
        self.client = client(socket)
        self.socket = socket

    def __call__(self, part):
        if not (self.out / part["name"]).exists():
            self.make(part["name"], json.loads(part["source"]))
        return {"name": part["name"]}

    def make(self, name, source):
        # A restarted server may have another model: a cluster where nodes differ must not mix vectors.
        if stamp(self.socket) != self.expected:
            raise RuntimeError(f"this node's server is {stamp(self.socket)}, the others' {self.expected}")
        ids, images = read(source)
        vectors = [None] * len(ids)
        errors = ["null: the row has no image" if image is None else None for image in images]
        places = [place for place, image in enumerate(images) if image is not None]
        for row in self.client.embed_each(images[place] for place in places):
            place = places[row.index]
            if row.failure is not None:
                errors[place] = f"{row.failure.code}: {row.failure.message}"
            else:
                vectors[place] = row.vector
        write(self.out / name, ids, vectors, errors, self.expected)


def read(source):
    """The ids and the images of a part."""
    if "paths" in source:
        return source["paths"], [Path(source["folder"], path) for path in source["paths"]]
    table = pq.ParquetFile(source["file"]).read_row_group(source["group"], columns=source["columns"])
    identity, image = (table.column(name).to_pylist() for name in source["columns"])
    return [str(one) for one in identity], [one["bytes"] if isinstance(one, dict) else one for one in image]


def write(path, ids, vectors, errors, meta):
    """Writes a part so that it is there as a whole or not at all."""
    size = int(meta["dimensions"])
    valid = np.array([vector is not None for vector in vectors])
    values = np.concatenate([np.zeros(size, np.float32) if vector is None else vector for vector in vectors])
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(values), size, mask=pa.array(~valid))
    table = pa.table({"id": pa.array(ids, pa.string()), "embedding": embedding, "error": pa.array(errors, pa.string())})
    file, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    os.close(file)
    pq.write_table(table.replace_schema_metadata(meta), temporary)
    os.replace(temporary, path)


def plan(source, rows):
    """The parts of the input: their names, and what is in them."""
    if Path(source).is_dir():
        found = sorted(Path(place, name) for place, _, names in os.walk(source) for name in names)
        paths = [str(path.relative_to(source)) for path in found if path.suffix.lower() in SUFFIXES]
        sources = [{"folder": source, "paths": paths[at : at + rows]} for at in range(0, len(paths), rows)]
    else:
        sources = []
        for file in sorted(glob.glob(source)):
            read_from = pq.ParquetFile(file)
            columns = ["id", "image"]
            if missing := set(columns) - set(read_from.schema_arrow.names):
                sys.exit(f"{file} has no column {', '.join(sorted(missing))}")
            sources += [{"file": file, "group": group, "columns": columns} for group in range(read_from.num_row_groups)]
    if not sources:
        sys.exit(f"{source}: no images")
    return [{"name": f"part-{number:06}.parquet", "source": json.dumps(one)} for number, one in enumerate(sources)]


def check_plan(out, parts, meta):
    """Refuses a folder that holds parts of other images or of another model."""
    said = {"parts": hashlib.sha256(json.dumps(parts).encode()).hexdigest(), "stamp": meta}
    path = out / PLAN
    if path.exists() and json.loads(path.read_text()) != said:
        sys.exit(f"{path} is of other images or another model: choose another folder, or delete this one")
    path.write_text(json.dumps(said))


def start_servers(binary, socket, options):
    """One server for each node, where none runs yet."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    place = lambda node: NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    servers = [Node.options(scheduling_strategy=place(node)).remote(binary, socket, options) for node in nodes]
    ray.get([server.ready.remote() for server in servers])
    return servers


def embed(given):
    """Makes the parts that are missing."""
    meta = stamp(given.socket)
    parts = plan(given.source, given.rows)
    check_plan(given.out, parts, meta)
    missing = [part for part in parts if not (given.out / part["name"]).exists()]
    print(f"{len(parts)} parts, {len(missing)} of them to be made", flush=True)
    if not missing:
        return
    # Ray Data starts a worker that died again, and gives its part to another one.
    nodes = sum(node["Alive"] for node in ray.nodes())
    made = ray.data.from_items(missing, override_num_blocks=len(missing)).map(
        Embed,
        fn_constructor_args=(str(given.out.resolve()), given.socket, meta),
        concurrency=max(1, min(given.workers * nodes, len(missing))),
        num_cpus=0.5,
    )
    begun = time.monotonic()
    for count, row in enumerate(made.iter_rows(), 1):
        print(f"{row['name']}: {count} of {len(missing)}, {time.monotonic() - begun:.0f} s", flush=True)


def main():
    own, options = sys.argv[1:], []
    if "--" in own:
        at = own.index("--")
        own, options = own[:at], own[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a folder of images, or a pattern of Parquet files with the columns `id` and `image`")
    parser.add_argument("out", type=Path, help="the folder for the parts")
    parser.add_argument("--socket", default="/tmp/siglip-ray.sock", help="the Unix socket of each node's server")
    parser.add_argument("--binary", help="start this server on each node, with the options after `--`")
    parser.add_argument("--rows", type=int, default=1024, help="images of a part of a folder (Parquet: a row group is a part)")
    parser.add_argument("--workers", type=int, default=2, help="workers on each node")
    given = parser.parse_args(own)
    given.out.mkdir(parents=True, exist_ok=True)
    ray.init(ignore_reinit_error=True)
    servers = start_servers(given.binary, given.socket, options) if given.binary else []
    try:
        embed(given)
    finally:
        ray.get([server.stop.remote() for server in servers])


if __name__ == "__main__":
    main()
