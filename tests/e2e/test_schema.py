"""Requests made up from /openapi.json: none is answered 500, none with a status that is not documented."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

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


def examples_of(schema: dict, schemas: dict):
    """The examples of a schema, or of those that it may be."""
    schema = schemas[schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema
    if "example" in schema:
        yield schema["example"]
    yield from schema.get("examples", [])
    for one in schema.get("oneOf", []):
        yield from examples_of(one, schemas)


def test_every_example_runs(server):
    document = httpx.get(server.http + "/openapi.json").json()
    schemas = document["components"]["schemas"]
    ran = 0
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        examples = list(examples_of(schema, schemas))
        assert examples or not schema, f"{path} has no example"
        for example in examples:
            url = server.http + path.replace("{model}", "demo").replace("{version}", "1")
            answer = httpx.post(url, json=example, timeout=60)
            if path == "/v1/captions":
                # The demo writes none: its refusal names the model, and so the rest was read.
                assert answer.json()["field"] == "model", f"{path} {example}: {answer.text}"
                continue
            assert answer.status_code == 200, f"{path} {example}: {answer.text}"
            ran += 1
    assert ran > 20


def test_keys_are_described(server):
    document = httpx.get(server.http + "/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert schemes["api_key"] == {"type": "apiKey", "in": "header", "name": "x-api-key"}
    assert document["paths"]["/health/ready"]["get"]["security"] == []
