"""Vectors of a folder of images, kept on disk as they come, so that a run that broke off goes on where it was."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import numpy as np

from ._answers import ModelInfo, Row
from ._errors import ServerError, SiglipError
from ._retry import RETRIED, Retries

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl")
"""Names of files that are taken for images."""

Progress = Union[bool, Callable[[int, int, int], None]]
"""Whether progress goes to standard error, or what is called with the numbers done, in all, and failed."""

STREAM_ENDED = 200
"""The status of a stream that the server ended before it had read all rows, because it drains or its worker broke."""

ROWS, VALUES, ABOUT = "rows.jsonl", "rows.f32", "about.json"
FIELDS = ("name", "revision", "preprocessing_version", "dtype", "dimension", "text_normalization", "max_num_patches")


@dataclass(frozen=True)
class Folder:
    """The vectors of a folder's images."""

    names: list[str]
    """Paths below the folder, with `/`, sorted."""
    vectors: np.ndarray
    """`float32 [len(names), dimension]`."""
    about: dict[str, Any]
    """What made the vectors: the model, its revision, how images were prepared, and the options."""
    failures: dict[str, str] = field(default_factory=dict)
    """Files that are no images or could not be read in this run, and why. They are tried again by the next one."""


def about(models: list[ModelInfo], wanted: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """What has to be equal for vectors to be comparable.

    Raises:
        ValueError: for a model that the server does not have.
    """
    model = next((model for model in models if wanted in (None, model.name, *model.raw["aliases"])), None)
    if model is None:
        raise ValueError(f"the server has no model {wanted!r}")
    return {name: model.raw.get(name) for name in FIELDS} | {"options": options}


def options(dimensions: int | None, normalized: bool, max_num_patches: int | None) -> dict[str, Any]:
    """The options of a run that vectors depend on."""
    return {"dimensions": dimensions, "normalized": normalized, "max_num_patches": max_num_patches}


def files(folder: Path, recursive: bool, suffixes: Iterable[str]) -> list[Path]:
    """The images of a folder, sorted; hidden files and folders are left out.

    Raises:
        NotADirectoryError: for what is no folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    wanted = tuple(suffix.lower() for suffix in suffixes)
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        found += [Path(place, name) for name in names if name.lower().endswith(wanted) and not name.startswith(".")]
    return sorted(found)


class Store:
    """The rows of a folder on disk: a line for each (`rows.jsonl`) and its values (`rows.f32`), appended together."""

    def __init__(self, place: Path, made_by: dict[str, Any]) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self._place = place
        self._about = made_by
        self._size = int(made_by["options"].get("dimensions") or made_by["dimension"])
        self._known: dict[str, tuple[int, int, int]] = {}
        described = place / ABOUT
        if described.exists():
            old = json.loads(described.read_text(encoding="utf-8"))
            differing = sorted(key for key in made_by if old.get(key) != made_by[key])
            if differing:
                raise ValueError(
                    f"{place} has vectors that cannot be mixed with new ones: {', '.join(differing)} differ "
                    f"({described}); choose another folder, or delete this one"
                )
            self._read()
        described.write_text(json.dumps(made_by, indent=1, ensure_ascii=False), encoding="utf-8")
        self._lines = (place / ROWS).open("a", encoding="utf-8")
        self._values = (place / VALUES).open("ab")

    def _read(self) -> None:
        """Reads what is whole, and cuts off what a run that was killed left half written."""
        lines, values = self._place / ROWS, self._place / VALUES
        whole = values.stat().st_size // (4 * self._size) if values.exists() else 0
        kept = 0
        count = 0
        if lines.exists():
            for line in lines.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n") or count >= whole:
                    break
                name, size, changed = json.loads(line)
                self._known[name] = (size, changed, count)
                kept += len(line)
                count += 1
            os.truncate(lines, kept)
        if values.exists():
            os.truncate(values, count * 4 * self._size)
        self._count = count

    _count = 0

    def missing(self, folder: Path, paths: list[Path]) -> list[Path]:
        """Files that have no vector, or changed since they got theirs."""
        return [path for path in paths if self._known.get(_name(folder, path), ())[:2] != _stamp(path)]

    def add(self, folder: Path, path: Path, vector: np.ndarray) -> None:
        """Appends a vector. The values go first: a line without them would promise too much."""
        size, changed = _stamp(path) or (0, 0)
        self._values.write(vector.astype("<f4").tobytes())
        self._values.flush()
        self._lines.write(json.dumps([_name(folder, path), size, changed], ensure_ascii=False) + "\n")
        self._lines.flush()
        self._known[_name(folder, path)] = (size, changed, self._count)
        self._count += 1

    def close(self) -> None:
        self._lines.close()
        self._values.close()

    def finished(self, folder: Path, paths: list[Path], failures: dict[str, str]) -> Folder:
        """Writes `names.txt` and `vectors.npy` of the files that are there now."""
        self.close()
        names = [name for name in (_name(folder, path) for path in paths) if name in self._known and name not in failures]
        values = np.fromfile(self._place / VALUES, "<f4").reshape(-1, self._size)
        vectors = values[[self._known[name][2] for name in names]]
        np.save(self._place / "vectors.npy", vectors)
        (self._place / "names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        return Folder(names, vectors, self._about, failures)


class Work:
    """The files of a folder that have no vector yet, and what came of them. It sends nothing itself.

    Args:
        folder: where the images are.
        store: where their vectors go.
        paths: the images.
        progress: see `Progress`.
    """

    def __init__(self, folder: Path, store: Store, paths: list[Path], progress: Progress) -> None:
        self._folder = folder
        self._store = store
        self._paths = paths
        self._failures: dict[str, str] = {}
        self._say = _printer() if progress is True else progress
        self._done = len(paths) - len(store.missing(folder, paths))

    def missing(self) -> list[Path]:
        """The files that are still to be sent: after a stream that broke off, those without an outcome."""
        return [path for path in self._store.missing(self._folder, self._paths) if self._called(path) not in self._failures]

    def take(self, row: Row) -> None:
        """Keeps the outcome of a file."""
        path = Path(str(row.item))
        if row.vector is not None:
            self._store.add(self._folder, path, row.vector)
        elif row.failure is not None:
            self._failures[self._called(path)] = row.failure.message
        self._done += 1
        if self._say:
            self._say(self._done, len(self._paths), len(self._failures))

    def finished(self) -> Folder:
        """Writes the vectors of all files."""
        return self._store.finished(self._folder, self._paths, self._failures)

    def close(self) -> None:
        self._store.close()

    def _called(self, path: Path) -> str:
        return _name(self._folder, path)


class Tries:
    """How often a stream that broke off is opened again: as often as a request is sent again, counted from the last
    row that came."""

    def __init__(self, max_retries: int, timeout: float) -> None:
        self._limits = (max_retries, timeout)
        self.moved()

    def moved(self) -> None:
        """A row came."""
        self._retries = Retries(*self._limits)

    def pause(self, error: SiglipError) -> float | None:
        """Seconds until the next try; None if there is none."""
        if isinstance(error, ServerError) and error.status not in (STREAM_ENDED, *RETRIED):
            return None
        return self._retries.pause(None)


def load_vectors(place: str | os.PathLike[str]) -> Folder:
    """What `embed_folder` wrote.

    Raises:
        FileNotFoundError: if no run was finished there.
    """
    where = Path(place)
    names = (where / "names.txt").read_text(encoding="utf-8").splitlines()
    described = json.loads((where / ABOUT).read_text(encoding="utf-8"))
    return Folder(names, np.load(where / "vectors.npy"), described)


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _stamp(path: Path) -> tuple[int, int] | None:
    """The size and the time of the last change; None where the file is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _printer() -> Callable[[int, int, int], None]:
    """Progress on standard error, a line at most twice a second."""
    start = time.monotonic()
    said = 0.0
    first: list[int] = []

    def say(done: int, total: int, failed: int) -> None:
        nonlocal said
        if not first:
            first.append(done - 1)
        now = time.monotonic()
        if done < total and now - said < 0.5:
            return
        said = now
        rate = (done - first[0]) / max(now - start, 1e-3)
        end = "\n" if done == total else ""
        print(f"\r{done}/{total} images, {rate:.1f} per second, {failed} failed ", end=end, file=sys.stderr, flush=True)

    return say
