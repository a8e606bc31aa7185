"""Writes the dashboards in dashboards/*.json: python3 deploy/grafana/generate.py [--check]

Every panel is a row of the tables below, so that a query stands once and a test can run each of them against a real
Prometheus (deploy/tests/prometheus). With --check nothing is written and the exit code is 1 if a file is stale.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent / "dashboards"
WIDTH = 24
# What the variables at the top of a dashboard choose.
TARGET = 'job=~"$job", instance=~"$instance"'
MODEL = TARGET + ', model=~"$model"'
ROUTES = 'route!~"/health/.*|/metrics|/grpc\\\\.health.*|unmatched"'
OVERLOADED = TARGET + ', code="overloaded"'
FAULTS = TARGET + ', code=~"internal|device_failed"'
QUEUE, FORWARD, DECODE = (f'{TARGET}, stage="{stage}"' for stage in ("queue", "forward", "decode"))


def rate(metric, labels=TARGET):
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def quantile(q, metric, by, labels):
    return f"histogram_quantile({q}, sum by (le, {by}) ({rate(metric + '_bucket', labels)}))"


def mean(metric, by, labels):
    total = f"sum by ({by}) ({rate(metric + '_sum', labels)})"
    return f"{total} / (sum by ({by}) ({rate(metric + '_count', labels)}) > 0)"


# (title, kind, unit, width, [(query, legend)], description)
OVERVIEW = [
    ("Serving", [
        ("Ready", "stat", "none", 3, [(f"sum(siglip_ready{{{TARGET}}})", "ready")],
         "Number of replicas that are ready for traffic."),
        ("Replicas", "stat", "none", 3, [(f"count(siglip_ready{{{TARGET}}})", "replicas")],
         "Number of replicas that answer their scrape."),
        ("Requests", "stat", "reqps", 3, [(f"sum({rate('siglip_requests_total', TARGET + ', ' + ROUTES)})", "requests")],
         "Requests per second, without probes and scrapes."),
        ("Images", "stat", "ops", 3, [(f"sum({rate('siglip_images_total', MODEL)})", "images")],
         "Images embedded per second."),
        ("Texts", "stat", "ops", 3, [(f"sum({rate('siglip_texts_total', MODEL)})", "texts")],
         "Texts embedded per second."),
        ("p99", "stat", "s", 3, [(f"histogram_quantile(0.99, sum by (le) ({rate('siglip_request_duration_seconds_bucket', TARGET + ', ' + ROUTES)}))", "p99")],
         "99 % of the requests take less than this."),
        ("Refused", "stat", "percentunit", 3,
         [(f"(sum({rate('siglip_requests_total', OVERLOADED)}) or vector(0)) / sum({rate('siglip_requests_total', TARGET + ', ' + ROUTES)})", "refused")],
         "Share of requests refused because there was no room."),
        ("Server errors", "stat", "reqps", 3,
         [(f"sum({rate('siglip_requests_total', FAULTS)}) or vector(0)", "errors")],
         "Requests per second that failed through a fault of the server."),
    ]),
    ("Requests", [
        ("Requests per second by code", "timeseries", "reqps", 12,
         [(f"sum by (code) ({rate('siglip_requests_total', TARGET + ', ' + ROUTES)})", "{{code}}")],
         "`ok`, or the error code of the response. `client_closed` is a client that left before its response."),
        ("Requests per second by route", "timeseries", "reqps", 12,
         [(f"sum by (route) ({rate('siglip_requests_total', TARGET + ', ' + ROUTES)})", "{{route}}")], ""),
        ("Duration", "timeseries", "s", 12,
         [(f"histogram_quantile({q}, sum by (le) ({rate('siglip_request_duration_seconds_bucket', TARGET + ', ' + ROUTES)}))", f"p{label}")
          for q, label in ((0.5, 50), (0.9, 90), (0.99, 99))],
         "From a request's head to the last byte of its response."),
        ("p99 by route", "timeseries", "s", 12,
         [(quantile(0.99, "siglip_request_duration_seconds", "route", TARGET + ", " + ROUTES), "{{route}}")], ""),
        ("Mean time of an item by stage", "timeseries", "s", 12,
         [(mean("siglip_stage_duration_seconds", "stage", TARGET), "{{stage}}")],
         "`queue` and `forward` grow together when the towers are the limit; `decode` alone grows with large images."),
        ("Refused items by reason", "timeseries", "ops", 12,
         [(f"sum by (reason) ({rate('siglip_rejected_total')}) > 0", "{{reason}}")], "Items refused on arrival."),
    ]),
    ("Throughput and resources", [
        ("Images per second by model", "timeseries", "ops", 8,
         [(f"sum by (model) ({rate('siglip_images_total', MODEL)})", "{{model}}")], ""),
        ("Texts per second by model", "timeseries", "ops", 8,
         [(f"sum by (model) ({rate('siglip_texts_total', MODEL)})", "{{model}}")], ""),
        ("Requests in flight", "timeseries", "none", 8,
         [(f"siglip_requests_in_flight{{{TARGET}}}", "{{instance}}")], ""),
        ("Resident memory", "timeseries", "bytes", 8,
         [(f"process_resident_memory_bytes{{{TARGET}}}", "{{instance}}")], "Without the decode processes."),
        ("Processors in use", "timeseries", "none", 8,
         [(rate("process_cpu_seconds_total"), "{{instance}}")], "Without the decode processes."),
        ("Open file descriptors", "timeseries", "none", 8,
         [(f"process_open_fds{{{TARGET}}}", "{{instance}}")], ""),
        ("Requests per second by API key", "timeseries", "reqps", 12,
         [(f"sum by (key) ({rate('siglip_key_requests_total')})", "{{key}}")], "The names of keys, never keys."),
        ("Workers", "timeseries", "none", 12,
         [(f"sum by (model, state) (siglip_worker_state{{{MODEL}}}) > 0", "{{model}} {{state}}"),
          (f"sum by (model) (increase(siglip_worker_restarts_total{{{MODEL}}}[$__rate_interval]))", "{{model}} restarts")],
         "Number of replicas whose worker is in each state, and replacements."),
    ]),
]

BATCHING = [
    ("Queues", [
        ("Rows that wait", "timeseries", "none", 12,
         [(f"sum by (model, tower, priority) (siglip_queue_rows{{{MODEL}}})", "{{model}} {{tower}} {{priority}}")], ""),
        ("Age of the oldest row", "timeseries", "s", 12,
         [(f"max by (model, tower) (siglip_queue_oldest_seconds{{{MODEL}}})", "{{model}} {{tower}}")],
         "Scale on this: it says directly that there is too little capacity."),
        ("Time in the queue", "timeseries", "s", 12,
         [(f"histogram_quantile({q}, sum by (le) ({rate('siglip_stage_duration_seconds_bucket', QUEUE)}))", f"p{label}")
          for q, label in ((0.5, 50), (0.99, 99))], ""),
        ("Rows dropped before their forward pass", "timeseries", "ops", 12,
         [(f"sum by (reason) ({rate('siglip_dropped_total')})", "{{reason}}")],
         "`cancelled`: the client left. `expired`: the deadline passed."),
    ]),
    ("Batches", [
        ("Rows of a batch", "timeseries", "none", 8,
         [(mean("siglip_batch_rows", "model, tower", MODEL), "{{model}} {{tower}}")], "Mean."),
        ("Fill", "timeseries", "percentunit", 8,
         [(f"avg by (model, tower) (siglip_batch_fill_ratio{{{MODEL}}})", "{{model}} {{tower}}")],
         "Rows of the last batch over the most that a batch may have."),
        ("Batches per second", "timeseries", "ops", 8,
         [(f"sum by (model, tower) ({rate('siglip_batch_rows_count', MODEL)})", "{{model}} {{tower}}")], ""),
        ("Sizes of batches", "heatmap", "none", 12,
         [(f"sum by (le) (increase(siglip_batch_rows_bucket{{{MODEL}}}[$__rate_interval]))", "{{le}}")], ""),
        ("Time of a forward pass", "timeseries", "s", 12,
         [(f"histogram_quantile({q}, sum by (le) ({rate('siglip_stage_duration_seconds_bucket', FORWARD)}))", f"p{label}")
          for q, label in ((0.5, 50), (0.99, 99))], "As each of its rows sees it."),
    ]),
    ("Before the towers", [
        ("Time to decode and resize an image", "timeseries", "s", 8,
         [(f"histogram_quantile({q}, sum by (le) ({rate('siglip_stage_duration_seconds_bucket', DECODE)}))", f"p{label}")
          for q, label in ((0.5, 50), (0.99, 99))], ""),
        ("Pixels decoded per second", "timeseries", "short", 8,
         [(f"sum by (instance) ({rate('siglip_pixels_decoded_total')})", "{{instance}}")], ""),
        ("Decode processes", "timeseries", "none", 8,
         [(f"sum by (state) (siglip_decode_processes{{{TARGET}}})", "{{state}}"),
          (f"sum by (reason) (increase(siglip_decode_ended_total{{{TARGET}}}[$__rate_interval])) > 0", "ended: {{reason}}")], ""),
        ("Share of inputs answered from the cache", "timeseries", "percentunit", 8,
         [(f"sum by (cache) ({rate('siglip_cache_hits_total')}) / (sum by (cache) ({rate('siglip_cache_hits_total')}) + sum by (cache) ({rate('siglip_cache_misses_total')}) > 0)", "{{cache}}")], ""),
        ("Bytes held by the cache", "timeseries", "bytes", 8,
         [(f"sum by (cache) (siglip_cache_bytes{{{TARGET}}})", "{{cache}}")], ""),
        ("Texts that were cut", "timeseries", "ops", 8,
         [(f"sum by (instance) ({rate('siglip_truncated_texts_total')})", "{{instance}}")],
         "They were longer than the model reads."),
    ]),
    ("Models", [
        ("Models", "table", "none", 12,
         [(f"count by (model, revision, dtype, device) (siglip_model_info{{{MODEL}}})", "")],
         "Number of replicas with each model. Two revisions of one model are a rolling upgrade, or a fault."),
        ("Bytes of weights", "timeseries", "bytes", 12,
         [(f"max by (model) (siglip_device_memory_bytes{{{MODEL}}})", "{{model}}")], ""),
        ("Towers in memory", "timeseries", "none", 8,
         [(f"sum by (model, tower) (siglip_towers_loaded{{{MODEL}}})", "{{model}} {{tower}}")],
         "Number of replicas that have the tower in memory."),
        ("Loads and unloads", "timeseries", "none", 8,
         [(f"sum by (model, result) (increase(siglip_model_loads_total{{{MODEL}}}[$__rate_interval]))", "{{model}} load {{result}}"),
          (f"sum by (model, reason) (increase(siglip_tower_unloads_total{{{MODEL}}}[$__rate_interval]))", "{{model}} unload {{reason}}")],
         "Of towers that come and go. Many of them mean that --max-resident-bytes is too low or `idle` too short."),
        ("Time of a load", "timeseries", "s", 8,
         [(mean("siglip_model_load_duration_seconds", "model", MODEL), "{{model}}")], "Mean. Requests wait that long."),
    ]),
]


def panel(number, place, kind, spec):
    title, _, unit, _, queries, description = spec
    made = {
        "id": number,
        "title": title,
        "type": kind,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": query,
                "legendFormat": legend,
                "range": kind not in ("stat", "table"),
                "instant": kind in ("stat", "table"),
                "format": {"table": "table", "heatmap": "heatmap"}.get(kind, "time_series"),
            }
            for index, (query, legend) in enumerate(queries)
        ],
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
    }
    if description:
        made["description"] = description
    if kind == "timeseries":
        made["fieldConfig"]["defaults"]["custom"] = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"}
        made["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    elif kind == "stat":
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "none"}
    elif kind == "heatmap":
        made["options"] = {"calculate": False, "yAxis": {"unit": "none"}, "color": {"scheme": "Blues", "mode": "scheme"}}
    return made


def variable(name, query, label):
    return {
        "name": name, "label": label, "type": "query", "multi": True, "includeAll": True, "allValue": ".*",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "sort": 1,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard(uid, title, sections):
    panels, number, y = [], 1, 0
    for name, specs in sections:
        panels.append({"id": number, "type": "row", "title": name, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        number, y, x = number + 1, y + 1, 0
        for spec in specs:
            _, kind, _, width, _, _ = spec
            height = 4 if kind == "stat" else 8
            if x + width > WIDTH:
                x, y = 0, y + height
            panels.append(panel(number, {"x": x, "y": y, "w": width, "h": height}, kind, spec))
            number, x = number + 1, x + width
        y += height
    return {
        "uid": uid, "title": title, "tags": ["siglip-server"], "schemaVersion": 39, "version": 1, "editable": True,
        "time": {"from": "now-1h", "to": "now"}, "refresh": "30s", "timezone": "",
        "links": [{"type": "dashboards", "tags": ["siglip-server"], "title": "siglip-server", "asDropdown": False,
                   "includeVars": True, "keepTime": True}],
        "templating": {"list": [
            {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
             "current": {"text": "Prometheus", "value": "prometheus"}},
            variable("job", "label_values(siglip_ready, job)", "Job"),
            variable("instance", 'label_values(siglip_ready{job=~"$job"}, instance)', "Instance"),
            variable("model", 'label_values(siglip_model_info{job=~"$job", instance=~"$instance"}, model)', "Model"),
        ]},
        "panels": panels,
    }


ALL = {
    "siglip-overview.json": dashboard("siglip-overview", "siglip-server: overview", OVERVIEW),
    "siglip-batching.json": dashboard("siglip-batching", "siglip-server: batching", BATCHING),
}


def queries():
    """Every query of every panel: (dashboard, panel, query)."""
    for name, board in ALL.items():
        for made in board["panels"]:
            for target in made.get("targets", []):
                yield name, made["title"], target["expr"]


def main():
    stale = []
    for name, board in ALL.items():
        text = json.dumps(board, indent=1, ensure_ascii=False) + "\n"
        path = HERE / name
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale.append(name)
        else:
            path.write_text(text)
    if stale:
        sys.exit(f"stale, run python3 deploy/grafana/generate.py: {', '.join(stale)}")


if __name__ == "__main__":
    main()
