"""A real Prometheus scrapes the running server: its page is well formed, the rules load and pass their tests, and every
query of the dashboards, of the recording rules and of the autoscaler returns data."""

import base64
import shutil
import sys

import httpx
import yaml
from common import BINARY, DEPLOY, IMAGES, KEY, OUT, ROOT, address, check, free_port, process, run, server, wait_for

sys.path.insert(0, str(DEPLOY / "grafana"))
import generate  # noqa: E402

RULES = DEPLOY / "prometheus"
# Nothing is refused or ended in this test, so there is nothing to show: these return no row, as they should.
EMPTY = {"Refused items by reason", "Decode processes"}
# The second model is loaded while Prometheus watches.
MODELS = "demo;late=demo,load=lazy"
# What the variables of a dashboard stand for.
VARIABLES = {"$job": ".*", "$instance": ".*", "$model": ".*", "$__rate_interval": "30s"}


def traffic(base):
    """Some requests of each kind, twice, so that the cache answers too."""
    client = httpx.Client(base_url=base, headers={"authorization": f"Bearer {KEY}"}, timeout=60)
    images = [base64.b64encode(path.read_bytes()).decode() for path in sorted(IMAGES.glob("*.jpg"))[:3]]
    check(images, "there are images to send")
    for _ in range(2):
        texts = ["a cat", "a pizza", "word " * 400]
        answer = client.post("/v1/embeddings", json={"input": [*texts, *({"image": it} for it in images)]})
        check(answer.status_code == 200, "an embedding request is answered")
        answer = client.post("/v1/similarity", json={"images": images, "texts": texts})
        check(answer.status_code == 200, "a similarity request is answered")
    check(client.post("/v1/embeddings", json={"input": 3}).status_code == 400, "a wrong request is refused")


def ask(prometheus, query):
    answer = prometheus.get("/api/v1/query", params={"query": query}).json()
    if answer["status"] != "success":
        sys.exit(f"FAILED: {query}: {answer}")
    return answer["data"]["result"]


def has_series(prometheus):
    """Two scrapes after the traffic and the load: a rate needs two samples."""
    loads = ask(prometheus, 'rate(siglip_model_load_duration_seconds_count[30s]) > 0')
    return loads and ask(prometheus, 'rate(siglip_images_total[30s]) > 0')


def dashboards(prometheus):
    count = 0
    for board, panel, query in generate.queries():
        for name, value in VARIABLES.items():
            query = query.replace(name, value)
        rows = ask(prometheus, query)
        if panel not in EMPTY:
            check(rows, f"{board}: {panel}")
        count += 1
    check(count > 40, f"{count} queries of dashboards run")


def recorded(prometheus):
    groups = yaml.safe_load((RULES / "rules.yml").read_text())["groups"]
    for rule in groups[0]["rules"]:
        wait_for(rule["record"], lambda: ask(prometheus, rule["record"]), 40)
        check(True, f"the rule {rule['record']} has data")
    loaded = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    bad = [it["name"] for group in loaded for it in group["rules"] if it["health"] == "err"]
    check(not bad, "no rule fails")
    firing = [it["labels"]["alertname"] for it in prometheus.get("/api/v1/alerts").json()["data"]["alerts"] if it["state"] == "firing"]
    check(not firing, "no alert fires on a healthy server")


def autoscaler(prometheus):
    objects = yaml.safe_load_all((DEPLOY / "kubernetes" / "keda.yaml").read_text())
    scaled = next(it for it in objects if it and it["kind"] == "ScaledObject")
    for trigger in scaled["spec"]["triggers"]:
        if trigger["name"] == "wake":
            # A metric of the ingress controller, which is not here.
            continue
        query = trigger["metadata"]["query"]
        # A pod's labels come from Kubernetes.
        query = query.replace('{namespace="default",pod=~"siglip-server-.*"}', "")
        check("{" not in query and ask(prometheus, query), f"the trigger {trigger['name']} has data")


def main():
    run(["python3", DEPLOY / "grafana" / "generate.py", "--check"])
    check(True, "the dashboards are up to date")
    print(run(["promtool", "check", "rules", RULES / "rules.yml"]).strip())
    print(run(["promtool", "test", "rules", "rules.test.yml"], cwd=RULES).strip())
    run(["promtool", "check", "config", "prometheus.yml"], cwd=RULES)
    operations = (ROOT / "docs" / "operations.md").read_text().lower()
    for rule in yaml.safe_load((RULES / "rules.yml").read_text())["groups"][1]["rules"]:
        check(f"\n### {rule['alert'].lower()}\n" in operations, f"docs/operations.md has an entry for {rule['alert']}")

    keys = OUT / "keys.toml"
    keys.write_text(f'[tests]\nkey = "{KEY}"\n')
    with server("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--api-keys", keys, "--model", MODELS) as (_, said):
        admin = address(said, "admin").removesuffix("/metrics")
        traffic(f"http://{address(said, 'HTTP')}")
        page = httpx.get(f"http://{admin}/metrics").text
        (OUT / "metrics.txt").write_text(page)
        with open(OUT / "metrics.txt") as text:
            run(["promtool", "check", "metrics"], stdin=text)
        check(True, "promtool finds nothing in the page of metrics")

        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(RULES / "rules.yml")]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [admin]
        config["scrape_configs"] = config["scrape_configs"][:1]
        (OUT / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.rmtree(OUT / "tsdb", ignore_errors=True)
        port = free_port()
        command = ["prometheus", f"--config.file={OUT}/prometheus.yml", f"--storage.tsdb.path={OUT}/tsdb",
                   f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        with process(command), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as prometheus:
            wait_for("the first scrape", lambda: ask(prometheus, "siglip_ready"))
            traffic(f"http://{address(said, 'HTTP')}")
            check(httpx.post(f"http://{admin}/admin/models/late/load").status_code == 200, "a lazy model is loaded")
            wait_for("the second scrape", lambda: has_series(prometheus))
            dashboards(prometheus)
            recorded(prometheus)
            autoscaler(prometheus)


print(f"binary: {BINARY}")
main()
