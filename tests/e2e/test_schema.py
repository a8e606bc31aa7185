"""Requests made up from /openapi.json: none is answered 500, none with a status that is not documented."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Bounded: with what its other phases try, enough to reach each operation's own errors in a few minutes.
EXAMPLES = 10


def test_every_operation(server, tmp_path):
    arguments = [
        *("--config-file", HERE / "schemathesis.toml", "run", server.http + "/openapi.json"),
        *("--checks", "not_a_server_error,status_code_conformance"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES),
        *("--generation-deterministic", "--no-color", "--warnings", "off", "--request-timeout", 60),
    ]
    run = subprocess.run(
        [Path(sys.executable).absolute().with_name("schemathesis"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        # It leaves notes where it runs.
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    # Every operation of the document, none left out.
    assert "No operations" not in run.stdout and " passed" in run.stdout, run.stdout
