"""A minimal Debian by debootstrap, which the tests share."""

import os
import shutil
import subprocess
import sys

from common import OUT

RELEASE = "bookworm"


def debian():
    """The folder of a minimal Debian; it is made once. It needs root."""
    if os.geteuid() != 0:
        sys.exit("FAILED: this test needs root, for debootstrap and chroot")
    root = OUT / "debian"
    if not (root / "etc" / "debian_version").exists() or (root / "debootstrap").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", RELEASE, root]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
        if done.returncode != 0:
            sys.exit(f"FAILED: debootstrap\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return root
