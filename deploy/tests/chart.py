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
# Values that are checked and rendered into no manifest.
OTHERS = {name: CHART / "ci" / f"{name}.yaml" for name in ("everything", "lazy")}
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
    (["rollout.maxSurge=ten"], "maxSurge"),
    (["model.load=later"], "load"),
    (["model.idle=10"], "idle"),
    (["traces.sample=2"], "sample"),
    (["traces.endpoint=collector:4317"], "endpoint"),
    (["admin.enabled=false", "auth.keysSecret=a", "monitoring.podMonitor=true"], "admin.enabled"),
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


def options_reach_the_pod(name, objects):
    """What the values of `lazy` turn on, in the pod and in the policy around it."""
    found = {it["kind"]: it for it in objects}
    env = dict(options_of(found["Deployment"]))
    check(env["SIGLIP_MODEL_LOAD"] == "lazy" and env["SIGLIP_MODEL_IDLE"] == "10m", f"{name}: models come and go")
    check(env["SIGLIP_TRACE_SAMPLE"] == "0.05" and "SIGLIP_ADMIN_LISTEN" not in env, f"{name}: traces, and one port")
    egress = [port["port"] for rule in found["NetworkPolicy"]["spec"]["egress"] for port in rule["ports"]]
    check(4318 in egress, f"{name}: the policy lets traces out")
    [container] = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    check(container["readinessProbe"]["httpGet"]["port"] == "http", f"{name}: probes ask the port for requests")
    check(found["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"] == "http", f"{name}: so does the monitoring")


def main():
    run([HELM, "lint", CHART, "--strict"])
    check(True, "helm lint finds nothing")
    rules = (DEPLOY / "prometheus" / "rules.yml").read_text()
    copy = CHART / "files" / "rules.yml"
    if "--write" in sys.argv:
        copy.write_text(rules)
    check(copy.read_text() == rules, "the chart has the rules of deploy/prometheus")
    for name, values in {"defaults": None, **MANIFESTS, **OTHERS}.items():
        text = rendered(values)
        objects = validate(name, text)
        known_to_the_server(name, objects)
        if name in MANIFESTS:
            path = DEPLOY / "kubernetes" / f"{name}.yaml"
            text = RENDERED + "\n".join(line for line in text.splitlines() if not line.startswith("# Source:")) + "\n"
            if "--write" in sys.argv:
                path.write_text(text)
            check(path.exists() and path.read_text() == text, f"deploy/kubernetes/{name}.yaml is what the chart renders")
        if name == "lazy":
            options_reach_the_pod(name, objects)
        if name == "keda":
            schemas_find_faults(objects)
    for settings, word in REFUSED:
        done = render(None, *settings)
        check(done.returncode != 0 and word in done.stderr, f"{settings} is refused")


main()
