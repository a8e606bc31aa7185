"""What .ci/release makes of a binary: the same bytes twice, checksums that hold, a bill of materials that is valid and whole, and a
package that installs on a bare Debian, serves, and leaves nothing behind. Needs root."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

import httpx
from common import BINARY, ROOT, check, free_port, process, run, wait_for
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from debian import debian


def release(binary, out, *options):
    done = subprocess.run(["bash", ".ci/release", "--binary", binary, "--out", out, *options], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        sys.exit(f"FAILED: .ci/release\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return {path.name: path.read_bytes() for path in out.iterdir()}


def checksums(files):
    said = dict(reversed(line.split()) for line in files["SHA256SUMS"].decode().splitlines())
    real = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "SHA256SUMS"}
    check(said == real and len(said) == 3, f"the checksums of {', '.join(said)}")


def bill(text):
    """The bill of materials against CycloneDX's schema and Cargo.lock."""
    fault = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
    check(fault is None, f"the bill of materials is valid {fault or ''}")
    found = json.loads(text)
    crates = [part for part in found["components"] if part["type"] == "library"]
    in_binary = {part["name"] for part in crates if part["scope"] == "required"}
    only_built = {part["name"] for part in crates} - in_binary
    check({"tokio", "candle-core", "mozjpeg-sys", "siglip-kernels"} <= in_binary, f"its {len(in_binary)} crates of the binary")
    check({"cc", "tonic-prost-build", "serde_derive"} <= only_built, f"and {len(only_built)} that only built it")
    check(not {"insta", "proptest", "loom"} & (in_binary | only_built), "none that only tests need")
    referred = {one for edge in found["dependencies"] for one in [edge["ref"], *edge["dependsOn"]]}
    check(referred <= {part["bom-ref"] for part in [*crates, found["metadata"]["component"]]}, "its references lead somewhere")
    check(all(part.get("licenses") for part in found["components"]), "each has a licence")
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    known = {(one["name"], one["version"]): one.get("checksum") for one in lock["package"]}
    sums = {(part["name"], part["version"]): part.get("hashes", [{}])[0].get("content") for part in crates}
    check(all(known[key] == value for key, value in sums.items()), "checksums are those of Cargo.lock")


def archive(data, folder, name):
    path = folder / name
    path.write_bytes(data)
    with tarfile.open(path) as packed:
        check({(one.uid, one.gid) for one in packed} == {(0, 0)}, "the archive's files belong to root")
        packed.extractall(folder, filter="tar")
    root = folder / name.removesuffix(".tar.gz")
    said = run([root / "siglip-server", "--version"])
    check(said.startswith("siglip-server "), f"the archive's binary runs: {said.strip()}")
    for shell in ("bash", "zsh", "fish"):
        check((root / "completions" / f"siglip-server.{shell}").stat().st_size > 1000, f"completions of {shell}")
    run(["bash", "-n", root / "completions" / "siglip-server.bash"])
    text = (root / "THIRD-PARTY-LICENSES.txt").read_text()
    check("tokio 1" in text and "Permission is hereby granted" in text, f"licence texts, {len(text) // 1024} KiB")
    check((root / "man" / "siglip-server.1").exists() and (root / "LICENSE-MIT").exists(), "manual pages and the licence")


def package(data, folder):
    root = folder / "debian"
    # A copy that keeps devices what they are: reading one would never end.
    run(["cp", "--archive", debian(), root])
    before = {path for path in files_of(root)}
    (root / "package.deb").write_bytes(data)
    inside = ["chroot", root, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"]
    run([*inside, "dpkg", "--install", "/package.deb"])
    (root / "package.deb").unlink()
    check(run([*inside, "dpkg", "--verify", "siglip-server"]) == "", "the package installs, and dpkg finds every file")
    unit = (root / "lib" / "systemd" / "system" / "siglip-server.service").read_text()
    check("ExecStart=/usr/bin/siglip-server" in unit and unit.startswith("[Unit]"), "its unit starts its own binary")
    port = free_port()
    command = ["chroot", "--userspec=65534:65534", root, "/usr/bin/siglip-server", "--listen", f"127.0.0.1:{port}", "--log-filter", "error"]
    with process(command, stdout=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]}):
        wait_for("readiness", lambda: httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200, 60)
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/embeddings", json={"input": "a cat"}, timeout=30)
        check(answer.status_code == 200, "it serves on a bare Debian")
    run([*inside, "dpkg", "--purge", "siglip-server"])
    left = {path for path in files_of(root) if "siglip" in path} - before
    check(not {path for path in left if "/var/lib/dpkg/" not in path}, f"after a purge nothing is left {sorted(left)[:5]}")


def files_of(root):
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not os.path.islink(os.path.join(place, name))]
        yield from (os.path.join(place, name) for name in names)


def main():
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        # A debug build's symbols would only take time.
        binary = folder / "siglip-server"
        run(["strip", "-o", binary, BINARY])
        files = release(binary, folder / "first")
        again = release(binary, folder / "second", "--without-deb")
        again.pop("SHA256SUMS")
        check(again and all(files[name] == data for name, data in again.items()), f"a second run makes the same bytes: {', '.join(f'{name} {len(data) / 1e6:.1f} MB' for name, data in files.items())}")
        checksums(files)
        by_ending = {name.rpartition(".")[2]: name for name in files}
        bill(files[by_ending["json"]].decode())
        archive(files[by_ending["gz"]], folder, by_ending["gz"])
        package(files[by_ending["deb"]], folder)


main()
