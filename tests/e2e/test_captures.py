"""The console sessions in the pages are what the program prints.

`UPDATE_DOCS=1 bash tests/e2e/run BINARY -k captures` writes them again. Numbers may differ by one in the last digit or by 1e-4 of
their value, since processors round differently; those of a time, and all below a comment `<!-- numbers vary -->`, may be any.
"""

import os
import re
import subprocess

import pytest
from server_fixtures import ROOT
from test_pages import ADDRESS, BINARY, REACHABLE

PAGES = ["docs/command-line.md"]
SESSION = re.compile(r"(?P<vary><!-- numbers vary -->\n)?^```console\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def commands(session):
    return [line[2:] for line in session.splitlines() if line.startswith("$ ")]


def run(command, folder, server):
    command = command.replace(ADDRESS, server.http.removeprefix("http://"))
    ours = f'siglip-server() {{ env -i PATH="$PATH" SIGLIP_LOG_FILTER=error "{BINARY}" "$@"; }}'
    script = ["bash", "-euo", "pipefail", "-c", f"{ours}\n{command}"]
    done = subprocess.run(
        script, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def captured(session, folder, server):
    """The session with what its commands print now."""
    text = ""
    for command in commands(session):
        output = "\n".join(line.rstrip() for line in run(command, folder, server).splitlines())
        text += f"$ {command}\n" + (f"{output}\n" if output else "")
    return text


def close(printed, real, vary):
    """Whether two sessions say the same."""
    # Columns are as wide as their numbers.
    words = [re.sub(r"\s+", " ", NUMBER.sub("#", text)) for text in (printed, real)]
    if words[0] != words[1]:
        return False
    of_times = False
    for ours, theirs in zip(printed.splitlines(), real.splitlines()):
        of_times = "sigmoid, s" in ours or (of_times and ours.strip() != "")
        for one, other in zip(NUMBER.findall(ours), NUMBER.findall(theirs)):
            unit = max(10.0 ** -len(one.partition(".")[2]), abs(float(one)) * 1e-4)
            if not (vary or of_times) and abs(float(one) - float(other)) > unit * 1.01:
                return False
    return True


@pytest.mark.parametrize("page", PAGES)
def test_sessions_are_fresh(server, page, tmp_path):
    for name in REACHABLE:
        (tmp_path / name).symlink_to(ROOT / name)
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    found = list(SESSION.finditer(text))
    assert found
    fresh, end = "", 0
    stale = []
    for session in found:
        real = captured(session["text"], tmp_path, server)
        if not close(session["text"], real, session["vary"]):
            stale.append(real)
        begin, stop = session.span("text")
        fresh += text[end:begin] + real
        end = stop
    if stale and os.environ.get("UPDATE_DOCS"):
        path.write_text(fresh + text[end:], encoding="utf-8")
        return
    assert not stale, f"{page} is stale: UPDATE_DOCS=1 writes it again\n" + "\n".join(stale)
