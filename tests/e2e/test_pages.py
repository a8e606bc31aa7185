"""Every command of README and of the pages, as it stands there, against a server with the demo model.

The blocks of a page run one after the other in a folder of their own, in which the repository's files are reachable. A
comment `<!-- not run: why -->` before a block leaves it out; those are listed below, so that none is left out unseen. A
response that is printed below a command in README is compared with the real one.
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / os.environ.get("SIGLIP_E2E_BINARY", "target/release/siglip-server")
ADDRESS = "127.0.0.1:8080"
ANY = ("…", "...")
PAGES = [
    "README.md",
    "README.ko.md",
    "docs/capacity.md",
    "docs/choose-a-model.md",
    "docs/coming-from.md",
    "docs/command-line.md",
    "docs/compare.md",
    "docs/curl.md",
    "docs/faq.md",
    "docs/probabilities-and-thresholds.md",
    "docs/recipes/README.md",
    "docs/recipes/immich.md",
    "docs/recipes/lancedb.md",
    "docs/recipes/llava.md",
    "docs/recipes/meilisearch.md",
    "docs/recipes/pgvector.md",
    "docs/recipes/qdrant.md",
    "docs/recipes/weaviate.md",
    "docs/search-your-photos.md",
    "docs/storage.md",
]
REACHABLE = ["README.md", "clients", "docs", "examples", "models", "tests", "tools"]
NOT_RUN = {
    "README.md": ["needs Docker", "starts the server", "needs the network"],
    "README.ko.md": ["needs Docker", "starts the server"],
    "docs/capacity.md": ["takes minutes"],
    "docs/choose-a-model.md": ["needs the network"],
    "docs/coming-from.md": ["needs a published checkpoint", "needs a published checkpoint", "needs an infinity server"],
    "docs/compare.md": ["needs the network"],
    "docs/recipes/README.md": ["starts the server"],
    "docs/recipes/immich.md": ["needs Docker"],
    "docs/recipes/llava.md": ["starts the server"],
    "docs/search-your-photos.md": ["starts the server", "needs PostgreSQL with pgvector"],
}
BLOCK = re.compile(r"(?:^<!-- not run: (?P<why>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """The fenced blocks of a page: why it is not run, language and text."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(found["why"], found["language"], found["text"]) for found in BLOCK.finditer(text)]


def agrees(printed, real):
    """Whether a response is the printed one: numbers are cut there, and `...` stands for what is left out."""
    if isinstance(printed, str) and printed in ANY:
        return True
    if isinstance(printed, dict):
        return isinstance(real, dict) and all(
            key in real and agrees(value, real[key]) for key, value in printed.items()
        )
    if isinstance(printed, list):
        if printed and printed[-1] in ANY:
            return len(real) >= len(printed) and all(map(agrees, printed[:-1], real))
        return len(printed) == len(real) and all(map(agrees, printed, real))
    if isinstance(printed, float):
        # One in the last of four significant digits.
        unit = 10 ** (math.floor(math.log10(abs(printed))) - 3) if printed else 1e-4
        return isinstance(real, float) and abs(printed - real) <= unit * 1.01
    return printed == real


def run(server, folder, language, text):
    """What a block prints."""
    text = text.replace(ADDRESS, server.http.removeprefix("http://"))
    if language == "sh":
        # A refusal is a failure here, whatever the command shows of it.
        # The program takes variables for its options, and those of the tests are none.
        ours = f'siglip-server() {{ env -i PATH="$PATH" "{BINARY}" "$@"; }}'
        theirs = 'curl() { command curl --fail-with-body "$@"; }'
        command = ["bash", "-euo", "pipefail", "-c", f"{ours}\n{theirs}\n{text}"]
    else:
        command = [sys.executable, "-c", text]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT / "clients" / "python" / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return ran


@pytest.mark.parametrize("page", PAGES)
def test_every_command_runs(server, page, tmp_path):
    check_page(server, page, tmp_path)


def check_page(server, page, tmp_path):
    """Runs the blocks of a page, one after the other, in a folder."""
    for name in REACHABLE:
        (tmp_path / name).symlink_to(ROOT / name)
    found = blocks(page)
    ran = 0
    for place, (why, language, text) in enumerate(found):
        if why or language not in ("sh", "python"):
            continue
        done = run(server, tmp_path, language, text)
        following = found[place + 1] if place + 1 < len(found) else (None, "", "")
        printed = following[2] if following[1] == "json" else None
        refused = printed is not None and '"status"' in printed
        assert done.returncode == 0 or refused, f"{text}\n{done.stdout[-800:]}\n{done.stderr[-2000:]}"
        if language == "sh" and printed is not None:
            printed = json.loads(re.sub(r",\s*\.\.\.\s*\]", ', "..."]', printed))
            real = json.loads(done.stdout)
            assert agrees(printed, real), json.dumps(real, ensure_ascii=False, indent=1)
        ran += 1
    assert ran or page in ("docs/capacity.md", "docs/recipes/meilisearch.md", "docs/compare.md", "docs/recipes/README.md")


@pytest.mark.parametrize("page", PAGES)
def test_what_is_left_out_is_listed(page):
    assert [why for why, *_ in blocks(page) if why] == NOT_RUN.get(page, [])


def test_the_table_of_models_is_fresh():
    subprocess.run([sys.executable, ROOT / "tools" / "model_table.py"], check=True)


def test_the_curves_of_capacity_are_fresh(tmp_path):
    subprocess.run(["bash", ROOT / "docs" / "capacity" / "draw", tmp_path], check=True)
    for name in ("batches.svg", "types.svg"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / "capacity" / name).read_text(), "bash docs/capacity/draw"


def test_parameters_are_counted_as_the_server_counts_them(server):
    sys.path.insert(0, str(ROOT / "tools"))
    from model_table import Checkpoint, Tower

    shape = json.loads((ROOT / "models" / "demo" / "config.json").read_text())
    vision, text = (
        Tower(one["hidden_size"], one["num_hidden_layers"], one["intermediate_size"])
        for one in (shape["vision_config"], shape["text_config"])
    )
    demo = Checkpoint("demo", 64, 8, vision, text, shape["text_config"]["vocab_size"], 16, "")
    assert demo.parameters() == httpx.get(server.http + "/info").json()["models"][0]["parameters"]


def test_links_lead_somewhere():
    for page in [*PAGES, "docs/README.md", "docs/glossary.md", "clients/python/README.md", "clients/typescript/README.md"]:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


# Headings of the FAQ, and a request that is answered so.
CAT = str(ROOT / "tests" / "fixtures" / "images" / "cat.png")
MESSAGES = {
    "this string is a data URI, not a text": {"input": ["data:image/png;base64,iVBORw0KGgo="]},
    "this string is a URL, not a text": {"input": ["https://example.com/cat.png"]},
    "the image looks like a file path: the server reads no files": {"input": [{"image": "/home/me/cat.png"}]},
    "the image is not valid base64: unexpected ... at position ...": {"input": [{"image": "iVBORw0K*Ggo"}]},
    "this is an HTML page": {"input": [{"image": "PCFET0NUWVBFIGh0bWw+PGh0bWw+"}]},
    "this is a PDF document": {"input": [{"image": "JVBERi0xLjQK"}]},
    "unknown field; did you mean `dimensions`?": {"input": "a", "dimension": 8},
    "1025 items, more than the limit of 1024 (`limits.max_items`); split the request": {"input": ["a"] * 1025},
    "the model `...` is not served here": {"input": "a", "model": "gpt"},
}


@pytest.mark.parametrize("heading", MESSAGES)
def test_a_heading_of_the_faq_is_what_the_server_says(server, heading):
    assert f"### {heading}\n" in (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    answer = httpx.post(server.http + "/v1/embeddings", json=MESSAGES[heading])
    message = answer.json()["error"]["message"]
    assert re.search(re.escape(heading).replace(re.escape("..."), ".+"), message), message
