"""Child processes that are stopped while others are measured, and ended by their own id."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

_running: list[Child] = []


class Child:
    """One process. Between measurements it is suspended, so that no thread of it spins or wakes."""

    def __init__(
        self,
        command: Sequence[str],
        environment: dict[str, str] | None = None,
        log: Path | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
    ) -> None:
        self.log = log
        sink = log.open("wb") if log else subprocess.DEVNULL
        self.process = subprocess.Popen(
            list(command),
            env=os.environ | (environment or {}),
            stdin=stdin,
            stdout=sink if stdout is None else stdout,
            stderr=sink,
        )
        self._suspended = False
        _running.append(self)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def suspend(self) -> None:
        """Takes it off the processor."""
        if not self._suspended and self.alive():
            self.process.send_signal(signal.SIGSTOP)
            self._suspended = True

    def resume(self) -> None:
        """Lets it go on."""
        if self._suspended and self.alive():
            self.process.send_signal(signal.SIGCONT)
            self._suspended = False

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Lets it run inside the block only."""
        self.resume()
        try:
            yield
        finally:
            self.suspend()

    def end(self) -> None:
        """Asks it to stop, and makes it."""
        self.resume()
        if self.alive():
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout=15)
        if self in _running:
            _running.remove(self)

    def last_words(self) -> str:
        """The end of its log."""
        if self.log is None or not self.log.exists():
            return ""
        return self.log.read_text(errors="replace")[-2000:]


@atexit.register
def end_all() -> None:
    """Ends whatever still runs."""
    for child in list(_running):
        child.end()
