"""README's examples, as they stand there: every command runs, and gives the response that is printed below it."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "127.0.0.1:8080"
ANY = ("…", "...")


def blocks():
    """The fenced blocks between the two headings: language and text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = text[text.index("## A picture's worth of examples") : text.index("## Speed")]
    return re.findall(r"^```(\w+)\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)


def examples():
    """Commands, each with the response that README prints, or None."""
    found = blocks()
    for place, (language, text) in enumerate(found):
        if language == "json":
            continue
        following = found[place + 1] if place + 1 < len(found) else ("", "")
        yield pytest.param(language, text, following[1] if following[0] == "json" else None, id=str(place))


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


@pytest.mark.parametrize(("language", "text", "printed"), list(examples()))
def test_an_example_gives_what_is_printed(server, language, text, printed):
    text = text.replace(ADDRESS, server.http.removeprefix("http://"))
    command = {"sh": ["bash", "-euo", "pipefail", "-c", text], "python": [sys.executable, "-c", text]}[language]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    if language == "sh":
        real = json.loads(ran.stdout)
        assert "error" not in real
        if printed is not None:
            printed = json.loads(re.sub(r",\s*\.\.\.\s*\]", ', "..."]', printed))
            assert agrees(printed, real), json.dumps(real, ensure_ascii=False, indent=1)
