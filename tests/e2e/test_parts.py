"""Frames of a video and pages of a PDF file, where ffmpeg and poppler-utils are installed."""

import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from server_fixtures import IMAGES, ROOT

BINARY = ROOT / os.environ.get("SIGLIP_E2E_BINARY", "target/release/siglip-server")
NAMES = ["car.png", "cat.png", "sunflower.jpg"]


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def embed(*arguments, code=0, path=None):
    env = {"PATH": os.environ["PATH"] if path is None else str(path)}
    done = subprocess.run(
        [BINARY, "embed", *arguments], capture_output=True, text=True, timeout=120, check=False, env=env
    )
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def stills(tmp_path):
    """The images on white, all of one size."""
    paths = []
    for number, name in enumerate(NAMES):
        with Image.open(IMAGES / name) as image:
            paths.append(tmp_path / f"still{number}.png")
            image.convert("RGB").resize((256, 256)).save(paths[-1])
    return paths


def assert_alike(lines, stills):
    """Each line has the embedding of the still image that it shows."""
    wanted = np.array([line["embedding"] for line in embed(*[str(path) for path in stills])])
    cosines = np.array([line["embedding"] for line in lines]) @ wanted.T
    assert (cosines.argmax(1) == np.arange(len(stills))).all() and cosines.diagonal().min() > 0.95, cosines


@needs("ffmpeg")
def test_frames_of_a_video_are_at_equal_distances(stills, tmp_path):
    clip = tmp_path / "a clip.mp4"
    command = ["ffmpeg", "-v", "error", "-framerate", "1/2", "-i", str(tmp_path / "still%d.png"), "-r", "10"]
    subprocess.run([*command, "-c:v", "mpeg4", "-q:v", "2", str(clip)], check=True)
    lines = embed(str(clip))
    assert [line["image"] for line in lines] == [f"{clip}#t={second}.0" for second in (0, 2, 4)]
    assert_alike(lines, stills)
    assert len(embed(str(clip), "--video-every", "500ms")) == 12
    # In a folder videos are read where they are asked for.
    folder = tmp_path / "folder"
    folder.mkdir()
    clip.rename(folder / "-clip.mp4")
    (folder / "broken.mkv").write_text("no video")
    shutil.copy(stills[0], folder / "z.png")
    assert len(embed(str(folder))) == 1
    lines = embed(str(folder), "--video-every", "2s", code=3)
    assert [line.get("image", line.get("row")) for line in lines] == [
        *[f"{folder}/-clip.mp4#t={second}.0" for second in (0, 2, 4)], f"{folder}/broken.mkv", f"{folder}/z.png"
    ]
    assert "ffprobe" in lines[3]["error"]["detail"]


@needs("ffmpeg")
def test_a_list_of_other_files_is_no_video(stills, tmp_path):
    listed = tmp_path / "list.mp4"
    listed.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/secret.ts\n")
    assert "error" in embed(str(listed), code=3)[0]


@needs("pdftoppm")
def test_pages_of_a_pdf_file(stills, tmp_path):
    paper = tmp_path / "paper.pdf"
    first, *others = [Image.open(path) for path in stills]
    first.save(paper, save_all=True, append_images=others)
    lines = embed(str(paper))
    assert [line["image"] for line in lines] == [f"{paper}#page={page}" for page in (1, 2, 3)]
    assert_alike(lines, stills)
    broken = tmp_path / "broken.pdf"
    broken.write_text("%PDF-1.4 and no more")
    out = tmp_path / "v.npy"
    embed(str(broken), str(paper), "--out", str(out), code=3)
    assert (tmp_path / "v.ids.txt").read_text().splitlines() == [f"{paper}#page={page}" for page in (1, 2, 3)]
    error = json.loads((tmp_path / "v.npy.errors.ndjson").read_text())
    assert error["id"] == str(broken) and "pdfinfo" in error["error"]["detail"]


def test_a_program_that_is_missing_is_told_of(tmp_path):
    for name in ("clip.mp4", "paper.pdf"):
        (tmp_path / name).write_bytes(b"")
    lines = embed(str(tmp_path / "clip.mp4"), str(tmp_path / "paper.pdf"), code=3, path=tmp_path)
    details = [line["error"]["detail"] for line in lines]
    assert all("is not installed: videos take ffmpeg, and PDF files poppler-utils" in detail for detail in details)
