"""The Dockerfile, built by buildah on a Debian made by debootstrap, around the binary under test; both images are started as user
10001 and asked. Needs root. The stage that compiles is not built here: it would take an hour on two cores."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from common import BINARY, OUT, ROOT, check, free_port, process, run, wait_for
from debian import debian

# The demo checkpoint as a folder, as a user has one.
MODEL = ROOT / "models" / "demo"
BASE = "docker.io/library/debian:bookworm-slim"
HOME = OUT / "image"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
SERVER = "/usr/local/bin/siglip-server"


def buildah(*arguments, seconds=600):
    """What buildah prints on standard output."""
    places = ["--root", HOME / "storage", "--runroot", HOME / "run", "--storage-driver", "vfs"]
    done = subprocess.run(["buildah", *places, *arguments], capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode != 0:
        sys.exit(f"FAILED: buildah {' '.join(map(str, arguments))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout.strip()


def base_image():
    """A minimal Debian under the name that the Dockerfile asks for."""
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, debian(), "/")
    buildah("commit", "--quiet", container, BASE)
    buildah("rm", container)


def build(folder, name, *options):
    """An image, with the binary under test in place of the stage that compiles."""
    stage = folder / "build"
    if not stage.exists():
        (stage / "out").mkdir(parents=True)
        shutil.copy(BINARY, stage / "out" / "siglip-server")
        (stage / AUTHORITIES.relative_to("/")).parent.mkdir(parents=True)
        shutil.copy(AUTHORITIES, stage / AUTHORITIES.relative_to("/"))
    common = ["--isolation", "chroot", "--pull-never", "--format", "docker", "--layers=false"]
    given = [*options, "--build-context", f"build={stage}", "--build-arg", "VERSION=0.1.0", "--build-arg", "SIGLIP_BUILD_COMMIT=abc"]
    buildah("bud", *common, *given, "--tag", name, ROOT)
    size = buildah("images", "--format", "{{.Size}}", name)
    check(True, f"{name} is built: {size} in all, {BINARY.stat().st_size / 1e6:.0f} MB of them the binary")


def described(name):
    """What the image says of itself."""
    found = json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"]
    check(found["User"] == "10001:10001", f"{name}: it runs as a user of its own, by number")
    check(found["Entrypoint"] == [SERVER] and found["StopSignal"] == "SIGTERM", f"{name}: the binary is process 1 and gets SIGTERM")
    check(found["Healthcheck"]["Test"] == ["CMD", SERVER, "healthcheck"], f"{name}: its health is asked by the binary")
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in found["Labels"].items()}
    check(labels["version"] == "0.1.0" and labels["revision"] == "abc" and labels["licenses"], f"{name}: its labels are OCI's")
    return dict(one.split("=", 1) for one in found["Env"])


def started(name, folder):
    """Runs an image's entry point in its own file system, without rights and with nothing that can be written."""
    env = described(name)
    container = buildah("from", name)
    root = Path(buildah("mount", container))
    written = sorted(path.name for path in root.iterdir())
    port = free_port()
    env |= {"SIGLIP_LISTEN": f"127.0.0.1:{port}", "SIGLIP_LOG_FILTER": "error"}
    # A new mount namespace, whose root can only be read; then the image's user, without capabilities.
    enter = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && mount -t proc proc "$1/proc" && shift && exec "$@"'
    inside = ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", enter, "sh", root]
    command += ["chroot", root, *inside, SERVER]
    clean = ["env", "-i", *(f"{key}={value}" for key, value in env.items())]
    log = folder / "log"
    with log.open("w") as output, process([*clean, *command], stdout=output, stderr=subprocess.STDOUT) as ran:
        begun = time.monotonic()
        try:
            wait_for("readiness", lambda: ran.poll() is not None or httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200, 120)
            if ran.poll() is not None:
                sys.exit(f"FAILED: {name} ended\n{log.read_text()[-2000:]}")
            check(True, f"{name}: ready after {time.monotonic() - begun:.1f} s")
            ask(name, port)
            healthy = ["chroot", "--userspec=10001:10001", root, SERVER, "healthcheck"]
            run(healthy, env=env)
            check(True, f"{name}: the health check says so")
            child = server_below(ran.pid)
            check(os.stat(f"/proc/{child}").st_uid == 10001, f"{name}: the process is user 10001's")
            os.kill(child, signal.SIGTERM)
            check(ran.wait(30) == 0, f"{name}: as process 1 it ends with 0 after SIGTERM")
        finally:
            if ran.poll() is None:
                os.kill(server_below(ran.pid), signal.SIGKILL)
    check(sorted(path.name for path in root.iterdir()) == written, f"{name}: it wrote nothing")
    buildah("umount", container)
    buildah("rm", container)


def server_below(pid):
    """The server's process outside of its namespace: the last child of what was started."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if os.readlink(f"/proc/{pid}/exe").endswith("siglip-server"):
            break
        pid = int(children[0])
    return pid


def ask(name, port):
    base = f"http://127.0.0.1:{port}"
    answer = httpx.post(f"{base}/v1/embeddings", json={"input": "a cat"}, timeout=60)
    check(answer.status_code == 200 and len(answer.json()["data"][0]["embedding"]) == 192, f"{name}: it embeds")
    [model] = httpx.get(f"{base}/info").json()["models"]
    wanted = "drawings" if "baked" in name else "demo"
    check(model["name"] == wanted, f"{name}: the model is {wanted}")


def main():
    debian()
    # This storage copies an image for each layer and container, which is many gigabytes.
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    with contextlib.ExitStack() as after, tempfile.TemporaryDirectory() as made:
        after.callback(shutil.rmtree, HOME, ignore_errors=True)
        folder = Path(made)
        base_image()
        build(folder, "localhost/siglip-server:test")
        started("localhost/siglip-server:test", folder)
        build(folder, "localhost/siglip-baked:test", "--target", "baked", "--build-context", f"model={MODEL}", "--build-arg", "MODEL_NAME=drawings")
        started("localhost/siglip-baked:test", folder)


main()
