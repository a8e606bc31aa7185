"""What all parts know and use: the program, the device, processes that end, and what a part gives."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
"""The repository, where this is run from it."""

DEMO = Path("demo")
"""The checkpoint inside the program."""

Row = dict[str, Any]


@dataclass
class Outcome:
    """What a part gives: rows of a table, and whether all was as it should be."""

    rows: list[Row] = field(default_factory=list)
    failure: str | None = None
    skipped: str | None = None
    headline: str = ""
    """Its line of the table at the end."""
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return self.failure is not None


@dataclass
class Setting:
    """What all parts know."""

    program: Path
    golden: Path
    tokenizer: Path
    device: str
    tiny: bool
    out: Path
    libraries: list[str]
    deadline: float = 0.0
    checkpoints: dict[str, Path] = field(default_factory=dict)
    found: dict[str, list[Row]] = field(default_factory=dict)
    """Rows of parts that are under way."""
    work: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="cuda-kit-")))
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    kept: list[subprocess.Popen[str]] = field(default_factory=list)
    """Processes that outlive the part that started them."""
    torch: dict[str, Worker] = field(default_factory=dict)
    """PyTorch's side of each checkpoint, which compiles while other parts run."""

    @property
    def on_cuda(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def dtype(self) -> str:
        """What speed is measured in."""
        return "bf16"

    def left(self) -> float:
        """Seconds that the part under way still has."""
        return max(self.deadline - time.monotonic(), 0.1)

    def environment(self, **more: str) -> dict[str, str]:
        paths = [*self.libraries, os.environ.get("LD_LIBRARY_PATH", "")]
        # The server refuses options of its own that it does not know.
        own = {name: value for name, value in os.environ.items() if not name.startswith("SIGLIP_")}
        return {
            **own,
            "LD_LIBRARY_PATH": ":".join(filter(None, paths)),
            "GOLDEN_FOLDER": str(self.golden),
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
            **more,
        }

    def start(self, command: list[str], keep: bool = False, **more: Any) -> subprocess.Popen[str]:
        """A process that ends with the part, or with the run."""
        more.setdefault("env", self.environment())
        more.setdefault("cwd", HERE)
        more.setdefault("stderr", self.log("processes"))
        process: subprocess.Popen[str] = subprocess.Popen(command, text=True, **more)
        (self.kept if keep else self.processes).append(process)
        return process

    def script(self, name: str, *arguments: str) -> list[str]:
        """The command of a script among the parts: as a module, since a folder of scripts hides others' modules."""
        return [sys.executable, "-B", "-m", f"parts.{name}", *arguments]

    def log(self, name: str) -> IO[str]:
        return open(self.out / f"{name}.log", "a", encoding="utf-8")

    def kit(self, *arguments: str, **environment: str) -> list[Row]:
        """Runs one of the program's commands to its end, and gives its lines."""
        process = self.start(
            [str(self.program), *arguments], stdout=subprocess.PIPE, env=self.environment(**environment)
        )
        text, _ = process.communicate(timeout=self.left())
        if process.returncode:
            raise RuntimeError(f"kit {' '.join(arguments)} ended with {process.returncode}: see processes.log")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def note(self, part: str, row: Row) -> Row:
        """Keeps a row, whatever becomes of the part, and shows it."""
        self.found.setdefault(part, []).append(row)
        shown = {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()}
        print("  ", " ".join(f"{key}={value}" for key, value in shown.items()), flush=True)
        return row

    def end_processes(self, kept: bool = False) -> None:
        for process in [*self.processes, *(self.kept if kept else [])]:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.processes.clear()

    def clean(self) -> None:
        self.end_processes(kept=True)
        shutil.rmtree(self.work, ignore_errors=True)


class Worker:
    """A process that answers each JSON line with one."""

    def __init__(self, setting: Setting, command: list[str], keep: bool = False) -> None:
        self._setting = setting
        self._process = setting.start(command, keep, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        # Read by a thread, so that who waits for an answer can stop waiting.
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def answer(self, until: float | None = None) -> Row:
        """Waits for the next line that is an object."""
        while True:
            left = self._setting.left() if until is None else max(0.0, until - time.monotonic())
            line = self._lines.get(timeout=min(left, self._setting.left()))
            if line is None:
                raise RuntimeError(f"{self._process.args!r} ended: see processes.log")
            if line.startswith("{"):
                found: Row = json.loads(line)
                return found

    def ask(self, **job: Any) -> Row:
        self.tell(**job)
        return self.answer()

    def tell(self, **job: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(self._setting.left())


class NoServer(RuntimeError):
    """The server ended before it served."""


class Server:
    """The program as a server on a free port."""

    def __init__(self, setting: Setting, checkpoint: Path, *flags: str, **environment: str) -> None:
        self._setting = setting
        command = [str(setting.program), "--listen", "127.0.0.1:0", "--model", str(checkpoint), "--model-name", "model"]
        command += ["--device", setting.device, "--cache-text-bytes", "0", "--drain-delay", "0s", *flags]
        command += ["--log-filter", "warn,siglip_server::batch=info"]
        self.process = setting.start(
            command, stdout=subprocess.PIPE, stderr=setting.log("server"), env=setting.environment(**environment)
        )
        self.address = self._announced()

    def _announced(self) -> str:
        assert self.process.stdout
        address = ""
        for line in self.process.stdout:
            if line.startswith("HTTP"):
                address = line.split("//")[1].split()[0]
            if line.startswith("try"):
                return address
        raise NoServer(f"the server ended with {self.process.wait()}: see server.log")

    def request(self, path: str, body: Row | None = None, timeout: float = 10.0) -> tuple[int, str]:
        """Status and body; status 0 where there was no answer."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"http://{self.address}{path}", data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metric(self, name: str) -> float:
        """The sum of a family's series."""
        lines = [line.rpartition(" ") for line in self.request("/metrics")[1].splitlines()]
        return sum(float(value) for series, _, value in lines if series.partition("{")[0] == name)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(self._setting.left())


def unpack(program: Path | None) -> tuple[Path, Path, Path]:
    """The program, the golden files and a tokenizer: as they are in the repository, or packed in the kit."""
    packed = HERE / "kit.gz"
    if not packed.exists():
        if program is None:
            raise SystemExit("name the program with --kit; tests/cuda/build packs it")
        return program.resolve(), ROOT / "tests/golden", ROOT / "models/demo"
    folder = Path(tempfile.gettempdir()) / f"cuda-kit-{packed.stat().st_mtime_ns}-{os.getuid()}"
    unpacked = folder / "kit"
    if not unpacked.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        with tarfile.open(HERE / "files.tar.gz") as files:
            if hasattr(tarfile, "data_filter"):
                files.extraction_filter = tarfile.data_filter
            files.extractall(folder)
        with gzip.open(packed) as source, open(folder / "kit.part", "wb") as target:
            shutil.copyfileobj(source, target)
        os.chmod(folder / "kit.part", 0o755)
        os.rename(folder / "kit.part", unpacked)
    return program or unpacked, folder / "golden", folder / "demo"


def find_libraries() -> list[str]:
    """Folders with the libraries that the program is linked with."""
    spec = importlib.util.find_spec("nvidia")
    wheels = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    folders = [folder for wheel in wheels for folder in (*sorted(wheel.glob("cu*/lib")), *sorted(wheel.glob("*/lib")))]
    system = [Path(place) for place in ("/usr/local/cuda/lib64", "/usr/local/nvidia/lib64", "/usr/local/nvidia/lib")]
    folders += [folder for folder in system if folder.exists()]
    wanted = ("libcublas.so.13", "libcudart.so.13", "libcurand.so.10", "libcuda.so.1", "libcupti.so.13")
    return [str(folder) for folder in dict.fromkeys(folders) if any((folder / name).exists() for name in wanted)]


def has(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)
