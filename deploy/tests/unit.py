"""The systemd unit: read by systemd itself, without a complaint, and its exposure judged."""

import re
import shutil
import sys

from common import BINARY, DEPLOY, OUT, check, run


def main():
    if not shutil.which("systemd-analyze"):
        sys.exit("FAILED: systemd-analyze is not here")
    unit = (DEPLOY / "systemd" / "siglip-server.service").read_text()
    path = OUT / "siglip-server.service"
    # The program is not installed where the unit looks for it.
    path.write_text(unit.replace("/usr/local/bin/siglip-server", str(BINARY)).replace("Documentation=", "#"))
    said = run(["systemd-analyze", "verify", path])
    check("siglip-server.service" not in said, f"systemd-analyze verify has nothing to say {said.strip()[:200]}")
    said = run(["systemd-analyze", "security", "--offline=yes", path])
    level = float(re.search(r"Overall exposure level for \S+: (\S+)", said)[1])
    check(level <= 2.0, f"the exposure is {level} of 10")


main()
