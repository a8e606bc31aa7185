"""The manifest for KServe, against the types of KServe's own Python SDK: each field is one that its type has, and of the right kind.
Containers are checked against the schema of Kubernetes. KServe itself does not run here."""

import copy
import importlib.util
import re
import sys
import types

import kubernetes_validate
import yaml
from common import DEPLOY, check

PLAIN = {"str": str, "int": (int, str), "bool": bool, "float": (int, float), "object": object}
KUBERNETES = "1.37"


def kserve_models():
    """The types, without the rest of the package, which wants a web server and much more."""
    stub = types.ModuleType("kserve")
    stub.__path__ = list(importlib.util.find_spec("kserve").submodule_search_locations)
    sys.modules["kserve"] = stub
    import kserve.models

    return kserve.models


MODELS = kserve_models()


def faults(kind, value, place):
    """What is wrong with a value of that type; a type of Kubernetes is left to the other check."""
    if listed := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{place} is no list"]
        return [fault for number, one in enumerate(value) for fault in faults(listed[1], one, f"{place}[{number}]")]
    if mapped := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return [fault for key, one in value.items() for fault in faults(mapped[1], one, f"{place}.{key}")]
    if kind in PLAIN:
        return [] if isinstance(value, PLAIN[kind]) else [f"{place} is no {kind}"]
    model = getattr(MODELS, kind, None)
    if model is None or not hasattr(model, "attribute_map"):
        return []
    if not isinstance(value, dict):
        return [f"{place} is no object"]
    names = {written: name for name, written in model.attribute_map.items()}
    found = [f"{place}.{key} is no field of {kind}" for key in value if key not in names]
    for key in value.keys() & names.keys():
        found += faults(model.openapi_types[names[key]], value[key], f"{place}.{key}")
    return found


def of(resource):
    """Everything that is wrong with a resource, `metadata` aside."""
    kind = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}[resource["kind"]]
    return faults(kind, resource, resource["kind"])


def container_is_valid(container):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": {"containers": [container]}}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def main():
    runtime, service = yaml.safe_load_all((DEPLOY / "kubernetes" / "kserve.yaml").read_text())
    for resource in (runtime, service):
        check(not of(resource), f"{resource['kind']} has no field that KServe does not know {of(resource)}")
    [container] = runtime["spec"]["containers"]
    container_is_valid(container)
    check(container["name"] == "kserve-container", "the container has the name that KServe looks for")
    formats = {one["name"] for one in runtime["spec"]["supportedModelFormats"]}
    model = service["spec"]["predictor"]["model"]
    check(model["modelFormat"]["name"] in formats and model["runtime"] == runtime["metadata"]["name"], "the service fits the runtime")
    check(model["protocolVersion"] in runtime["spec"]["protocolVersions"], "so does its protocol")
    # The check is no ornament.
    for change in (("spec", "predictor", "replicas"), ("spec", "predictor", "model", "storageURI")):
        broken = copy.deepcopy(service)
        inner = broken
        for key in change[:-1]:
            inner = inner[key]
        inner[change[-1]] = 1
        check(of(broken), f"a wrong field {'.'.join(change)} is noticed")


main()
