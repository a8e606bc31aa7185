"""The page at `/` in a browser: what people do on it, its looks, and what axe finds. Screenshots go below `target`."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from server_fixtures import IMAGES, ROOT, started

GOLDEN = ROOT / "tests" / "golden"
MODELS = {
    "demo": "demo",
    "naflex": GOLDEN / "naflex-down",
    "clip": GOLDEN / "clip-tiny",
    "blip": GOLDEN / "blip-captions",
    "match": GOLDEN / "blip-retrieval",
    "vision": GOLDEN / "vision-only",
}
SCREENSHOTS = ROOT / "target" / "page"
CHROMIUM = os.environ.get("SIGLIP_E2E_CHROMIUM") or shutil.which("chromium")
FLOWS = [
    "labels",
    "images",
    "search",
    "matrix",
    "other families",
    "captions",
    "keys",
    "failures",
    "code",
    "status",
    "keyboard",
    "settings",
    "looks",
]


@pytest.fixture(scope="module")
def outcome(server, tmp_path_factory):
    """What came of each flow."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    keys = tmp_path_factory.mktemp("page") / "keys"
    keys.write_text('[page]\nkey = "secret-of-the-test"\n')
    models = [f"--model={name}={place}" for name, place in MODELS.items() if name != "demo"]
    with started("--model=demo", *models) as many, started(f"--api-keys={keys}") as keyed:
        wanted = {
            "url": server.http,
            "many": many.http + "/",
            "keyed": keyed.http + "/",
            "chromium": CHROMIUM,
            "samples": str(ROOT / "src" / "rest" / "page" / "samples"),
            "screenshots": str(SCREENSHOTS),
            "python": sys.executable,
        }
        script = os.path.join(os.environ["SIGLIP_E2E_NODE"], "page.mjs")
        ended = subprocess.run(["node", script, json.dumps(wanted)], capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("flow", FLOWS)
def test_flow(outcome, flow):
    assert outcome[flow] == "ok", outcome[flow]


def test_every_flow_is_named_here(outcome):
    assert sorted(outcome) == sorted(FLOWS)


def test_the_samples_are_those_of_the_tests():
    page = ROOT / "src" / "rest" / "page" / "samples"
    names = {"apple.png": "apple-alpha.png", "guitar.png": "guitar-grey.png", "rocket.gif": "rocket-animated.gif"}
    for sample in page.iterdir():
        assert sample.read_bytes() == (IMAGES / names.get(sample.name, sample.name)).read_bytes(), sample.name
