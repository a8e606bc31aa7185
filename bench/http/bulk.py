"""Sends many rows through one bulk stream and watches the server's memory.

    siglip-server --listen 127.0.0.1:8080 &
    python bench/http/bulk.py --pid $! --rows 100000

Standard library only. One thread writes, one reads, as the route asks for; a third samples the resident set.
`--slow` reads nothing for some seconds in the middle: the writer must come to a stand, and memory with it.
"""

import argparse
import json
import socket
import threading
import time


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


class Stream:
    """One HTTP/1.1 exchange with a chunked body in each direction."""

    def __init__(self, host, port, query):
        self.socket = socket.create_connection((host, port), timeout=300)
        head = f"POST /v1/bulk/embeddings{query} HTTP/1.1\r\nhost: {host}\r\n"
        head += "content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
        self.socket.sendall(head.encode())
        self.reader = self.socket.makefile("rb", buffering=1 << 16)
        self.sent = 0

    def write(self, rows, distinct, text_bytes):
        filler = "x" * max(text_bytes - 32, 0)
        block = []
        for row in range(rows):
            block.append(f'{{"id": {row}, "text": "text number {row % distinct} {filler}"}}\n')
            if len(block) == 64 or row == rows - 1:
                data = "".join(block).encode()
                self.socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))
                self.sent = row + 1
                block.clear()
        self.socket.sendall(b"0\r\n\r\n")

    def lines(self):
        status = self.reader.readline()
        if b" 200 " not in status:
            raise SystemExit(status.decode() + self.reader.read(4096).decode(errors="replace"))
        while self.reader.readline().strip():
            pass
        rest = b""
        while size := int(self.reader.readline(), 16):
            rest += self.reader.read(size)
            self.reader.readline()
            *whole, rest = rest.split(b"\n")
            yield from whole


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--pid", type=int, required=True, help="of the server")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--distinct", type=int, default=0, metavar="N", help="texts that differ; the rest is cached")
    parser.add_argument("--text-bytes", type=int, default=32)
    parser.add_argument("--query", default="?encoding_format=base64_f16")
    parser.add_argument("--slow", type=float, default=0, metavar="SECONDS", help="a pause of the reader")
    parser.add_argument("--limit-mib", type=float, default=64, help="most growth of the resident set")
    arguments = parser.parse_args()
    # What the first rows cost (buffers, threads' stacks, the cache's own tables) is no growth.
    stream = Stream(arguments.host, arguments.port, arguments.query)
    rows = (arguments.rows, arguments.distinct or arguments.rows, arguments.text_bytes)
    writer = threading.Thread(target=stream.write, args=rows, daemon=True)
    writer.start()
    samples, done = [], threading.Event()

    def sample():
        while not done.wait(0.2):
            samples.append((time.monotonic(), resident_mib(arguments.pid)))

    threading.Thread(target=sample, daemon=True).start()
    begin = time.monotonic()
    answered = failed = 0
    warm = None
    for line in stream.lines():
        answer = json.loads(line)
        if "done" in answer:
            end = answer
            continue
        if answer["index"] != answered or answer["id"] != answered:
            raise SystemExit(f"out of order: {line[:200]}")
        answered += 1
        failed += "error" in answer
        if answered == arguments.rows // 10:
            warm = resident_mib(arguments.pid)
        if arguments.slow and answered == arguments.rows // 2:
            time.sleep(arguments.slow / 2)
            first = stream.sent
            time.sleep(arguments.slow / 2)
            print(f"paused    writer at row {first}, then {stream.sent}, of which {answered} are answered")
    seconds = time.monotonic() - begin
    done.set()
    most = max(mib for _, mib in samples)
    print(f"rows      {answered} ({failed} failed) in {seconds:.1f} s: {answered / seconds:.0f} rows/s")
    print(f"end       {json.dumps(end)}")
    print(f"resident  {warm:.1f} MiB after a tenth, at most {most:.1f} MiB")
    if answered != arguments.rows or not end["done"] or most - warm > arguments.limit_mib:
        raise SystemExit("FAILED: rows are missing, or memory grew")


if __name__ == "__main__":
    main()
