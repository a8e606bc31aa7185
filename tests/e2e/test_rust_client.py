"""The recipe for Rust: the page has the example as it is, and the example runs."""

import subprocess

import pytest
from server_fixtures import IMAGES, ROOT
from test_pages import BINARY, blocks

NAMES = ["car.png", "pizza.webp", "cat.png"]


def test_the_page_has_the_example():
    code = [text for _, language, text in blocks("docs/recipes/rust.md") if language == "rust"]
    assert code == [(ROOT / "examples" / "rust_client.rs").read_text()]


def test_the_example_orders_images(server):
    program = BINARY.parent / "examples" / "rust_client"
    if not program.exists():
        pytest.skip("the example is not built: cargo build --example rust_client")
    images = [str(IMAGES / name) for name in NAMES]
    done = subprocess.run([program, server.http, "a pizza", *images], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[0].split()
    assert first[-1].endswith("pizza.webp") and float(first[1]) > 50
    done = subprocess.run([program, server.http, "a pizza", str(IMAGES / "README.md")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "images[0]" in done.stderr
