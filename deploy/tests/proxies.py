"""nginx and Caddy in front of two servers, with the configurations of deploy/proxies: errors reach the client as the
server wrote them, bulk streams answer while they are sent, gRPC passes, and a server that drains loses no request."""

import concurrent.futures
import json
import os
import signal
import socket
import sys

import grpc
import h2.connection
import h2.events
import httpx
from common import BINARY, DEPLOY, OUT, address, check, free_port, process, server, wait_for
from grpc_health.v1 import health_pb2, health_pb2_grpc

PROXIES = {
    # nginx takes its pid file away when it ends, so that is a file of its own.
    "nginx": ("nginx.conf", lambda path: ["nginx", "-e", "stderr", "-g", f"daemon off; pid {path}.pid;", "-c", path]),
    "caddy": ("Caddyfile", lambda path: ["caddy", "run", "--config", path, "--adapter", "caddyfile"]),
}
OPTIONS = ["--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0", "--drain-delay", "2s"]
MIB = 1 << 20


def answers(base):
    answer = httpx.post(f"{base}/v1/embeddings", json={"input": "a cat"}, timeout=30)
    check(answer.status_code == 200 and len(answer.json()["data"]) == 1, "an embedding")
    check(httpx.get(f"{base}/metrics").status_code == 404, "the metrics stay inside")


def errors(base):
    answer = httpx.post(f"{base}/v1/embeddings", json={"input": "x" * (2 * MIB)}, timeout=30)
    check(answer.status_code in (400, 413) and "error" in answer.json(), "a body of 2 MiB meets the server's own limit")
    answer = httpx.post(f"{base}/v1/embeddings", content=b" " * (65 * MIB), headers={"content-type": "application/json"}, timeout=60)
    check(answer.status_code == 413, "a body of 65 MiB is too large")
    answer = httpx.post(f"{base}/v1/embeddings", json={"input": "a cat"}, headers={"x-request-timeout": "1ms"}, timeout=30)
    check(answer.status_code in (200, 400, 504), "a deadline of a millisecond")


def read_until(connection, wanted):
    got = b""
    while wanted not in got:
        more = connection.recv(65536)
        if not more:
            sys.exit(f"FAILED: the connection ended after {got[-300:]!r}")
        got += more
    return got


def bulk(base):
    """Sends a row, reads its answer, and only then sends the next one."""
    host, port = base.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/bulk/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-ndjson\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for row in ("first", "second"):
            line = json.dumps({"id": row, "text": "a cat"}).encode() + b"\n"
            connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
            read_until(connection, b'"%s"' % row.encode())
            check(True, f"the {row} row of a bulk stream is answered before the next one is sent")
        connection.sendall(b"0\r\n\r\n")


def bulk_over_http2(base):
    """The same over HTTP/2: Caddy 2.6 answers over HTTP/1.1 only once it has read all of a request."""
    host, port = base.removeprefix("http://").split(":")
    wire = h2.connection.H2Connection()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        wire.initiate_connection()
        head = [(":method", "POST"), (":path", "/v1/bulk/embeddings"), (":scheme", "http"), (":authority", host)]
        wire.send_headers(1, [*head, ("content-type", "application/x-ndjson")])
        for row in ("first", "second"):
            wire.send_data(1, json.dumps({"id": row, "text": "a cat"}).encode() + b"\n")
            connection.sendall(wire.data_to_send())
            got = b""
            while b'"%s"' % row.encode() not in got:
                for event in wire.receive_data(connection.recv(65536)):
                    if isinstance(event, h2.events.DataReceived):
                        got += event.data
                        wire.acknowledge_received_data(event.flow_controlled_length, 1)
                connection.sendall(wire.data_to_send())
            check(True, f"the {row} row of a bulk stream over HTTP/2 is answered before the next one is sent")
        wire.end_stream(1)
        connection.sendall(wire.data_to_send())


def grpc_passes(target):
    with grpc.insecure_channel(target) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    check(answer.status == health_pb2.HealthCheckResponse.SERVING, "gRPC passes")


def drain(base, drained):
    """Eight clients send one request after the other while a server goes away."""

    def client(number):
        codes = []
        with httpx.Client(base_url=base, timeout=30) as session:
            for turn in range(60):
                body = {"input": f"client {number}, turn {turn}"}
                codes.append(session.post("/v1/embeddings", json=body).status_code)
                if number == 0 and turn == 10:
                    drained.send_signal(signal.SIGTERM)
        return codes

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        codes = [code for client_codes in pool.map(client, range(8)) for code in client_codes]
    check(codes == [200] * 480, f"480 requests while a server drains: {sorted(set(codes))}")
    check(drained.wait(30) == 0, "the drained server lost nothing")
    answers(base)


def tried(name):
    file, command = PROXIES[name]
    print(f" {name}")
    with server(*OPTIONS) as (first, said_first), server(*OPTIONS) as (_, said_second):
        ports = {"8090": free_port(), "8091": free_port()}
        for said, (http, rpc) in ((said_first, ("8080", "8081")), (said_second, ("8180", "8181"))):
            ports[http] = address(said, "HTTP").rsplit(":", 1)[1].split()[0]
            ports[rpc] = address(said, "gRPC").rsplit(":", 1)[1].split()[0]
        config = (DEPLOY / "proxies" / file).read_text()
        for old, new in ports.items():
            config = config.replace(f"127.0.0.1:{old}", f"127.0.0.1:<{new}>")
        path = OUT / file
        path.write_text(config.replace("<", "").replace(">", ""))
        base = f"http://127.0.0.1:{ports['8090']}"
        quiet = open(OUT / f"{name}.log", "w")
        with process(command(str(path)), stdout=quiet, stderr=quiet, env={**os.environ, "HOME": str(OUT)}):
            wait_for(f"{name}", lambda: httpx.get(f"{base}/health/ready").status_code == 200)
            answers(base)
            errors(base)
            (bulk_over_http2 if name == "caddy" else bulk)(base)
            grpc_passes(f"127.0.0.1:{ports['8091']}")
            drain(base, first)


print(f"binary: {BINARY}")
for each in sys.argv[1:] or PROXIES:
    tried(each)
