"""The chart: linted and rendered by helm, valid against the schemas of Kubernetes 1.37 and of the operators, the
manifests of deploy/kubernetes up to date, and every option that it sets known to the server."""

import json
import subprocess
import sys

import kubernetes_validate
import yaml
from common import BINARY, DEPLOY, OUT, check, run

CHART = DEPLOY / "helm" / "siglip-server"
HELM = OUT / "venv" / "bin" / "helm"
MANIFESTS = {name: CHART / "ci" / f"{name}.yaml" for name in ("demo", "hub-model", "gpu", "keda")}
RENDERED = "# Rendered from the chart by deploy/tests/chart --write. Change the chart, not this file.\n"
# Custom resources, with a field whose type the schema of their operator holds. Those schemas allow unknown fields.
CUSTOM = {"ScaledObject": "triggers", "PodMonitor": "podMetricsEndpoints", "PrometheusRule": "groups"}
# What the chart must refuse: values and a word of the message.
REFUSED = [
    (["hpa.enabled=true", "keda.enabled=true"], "cannot both"),
    (["keda.enabled=true", "keda.minReplicas=0"], "wakeQuery"),
    (["gpu.enabled=true", "model.dtype=int8"], "int8"),
    (["ingress.enabled=true"], "ingress.host"),
    (["model.sources={google/siglip-base-patch16-224}"], "hub.enabled"),
    (["replica=3"], "replica"),
    (["model.dtype=float32"], "dtype"),
    (["settings.SIGLIP-THREADS=2"], "settings"),
]


def render(values=None, *settings):
    command = [HELM, "template", "siglip-server", CHART]
    command += ["--values", values] if values else []
    for setting in settings:
        command += ["--set", setting]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def rendered(values=None):
    done = render(values)
    check(done.returncode == 0, f"{values.name if values else 'the defaults'} can be rendered {done.stderr}")
    return done.stdout


def validate(name, text):
    objects = [it for it in yaml.safe_load_all(text) if it]
    for resource in objects:
        if resource["kind"] in CUSTOM:
            continue
        kubernetes_validate.validate(resource, "1.37", strict=True)
    custom = [it for it in objects if it["kind"] in CUSTOM]
    path = OUT / f"custom-{name}.json"
    path.write_text(json.dumps(custom))
    run(["node", "custom_resources.mjs", path], cwd=OUT / "node")
    check(True, f"{name}: {len(objects)} objects are valid, {len(custom)} of them custom resources")
    return objects


def schemas_find_faults(objects):
    """The validators are no ornament: each kind with a wrong field is refused."""
    for resource in objects:
        wrong = CUSTOM.get(resource["kind"], "replicaz")
        broken = {**resource, "spec": {**resource["spec"], wrong: 3}}
        if resource["kind"] in CUSTOM:
            path = OUT / "custom-broken.json"
            path.write_text(json.dumps([broken]))
            command = ["node", "custom_resources.mjs", path]
            refused = subprocess.run(command, cwd=OUT / "node", capture_output=True, check=False).returncode != 0
        else:
            try:
                kubernetes_validate.validate(broken, "1.37", strict=True)
                refused = False
            except kubernetes_validate.ValidationError:
                refused = True
        check(refused, f"a wrong `{wrong}` of {resource['kind']} is noticed")


def options_of(deployment):
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        for variable in container["env"]:
            if variable["name"].startswith("SIGLIP_"):
                yield variable["name"], variable.get("value", "2")


def known_to_the_server(name, objects):
    for deployment in (it for it in objects if it["kind"] == "Deployment"):
        env = dict(options_of(deployment))
        # A file that is not here, and a device of another build.
        env.pop("SIGLIP_API_KEYS", None)
        env.pop("SIGLIP_DEVICE", None)
        run([BINARY, "config"], env=env)
        check(True, f"{name}: the server takes all {len(env)} options")
        spec = deployment["spec"]["template"]["spec"]
        drain = [int(env[key].removesuffix("s")) for key in ("SIGLIP_DRAIN_DELAY", "SIGLIP_GRACE_PERIOD")]
        check(spec["terminationGracePeriodSeconds"] > sum(drain), f"{name}: the kill comes after the drain")


def main():
    run([HELM, "lint", CHART, "--strict"])
    check(True, "helm lint finds nothing")
    rules = (DEPLOY / "prometheus" / "rules.yml").read_text()
    copy = CHART / "files" / "rules.yml"
    if "--write" in sys.argv:
        copy.write_text(rules)
    check(copy.read_text() == rules, "the chart has the rules of deploy/prometheus")
    for name, values in {"defaults": None, **MANIFESTS, "everything": CHART / "ci" / "everything.yaml"}.items():
        text = rendered(values)
        objects = validate(name, text)
        known_to_the_server(name, objects)
        if name in MANIFESTS:
            path = DEPLOY / "kubernetes" / f"{name}.yaml"
            text = RENDERED + "\n".join(line for line in text.splitlines() if not line.startswith("# Source:")) + "\n"
            if "--write" in sys.argv:
                path.write_text(text)
            check(path.exists() and path.read_text() == text, f"deploy/kubernetes/{name}.yaml is what the chart renders")
        if name == "keda":
            schemas_find_faults(objects)
    for settings, word in REFUSED:
        done = render(None, *settings)
        check(done.returncode != 0 and word in done.stderr, f"{settings} is refused")


main()
