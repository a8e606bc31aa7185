"""Our client for TypeScript: its own tests, against the server."""

import os
import subprocess

from server_fixtures import IMAGES


def test_typescript(server):
    folder = os.environ["SIGLIP_E2E_TYPESCRIPT"]
    environment = os.environ | {"SIGLIP_URL": server.http, "SIGLIP_IMAGES": str(IMAGES)}
    command = ["node", "--test", "tests/"]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
