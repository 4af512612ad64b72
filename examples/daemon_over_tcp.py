"""A daemon that listens on a Unix socket only, spoken to over TCP: `naru proxy` between.

    python examples/daemon_over_tcp.py

This is how one reaches the Docker daemon with tools that know TCP alone:
naru proxy tcp://127.0.0.1:2375 unix:///var/run/docker.sock. Here the daemon is Python's own HTTP
server on a Unix socket, with a list, a creation and a stream of logs.
"""

from __future__ import annotations

import http.server
import json
import multiprocessing
import re
import signal
import socketserver
import subprocess
import sys
import tempfile
import urllib.request
from typing import Any

CONTAINERS = [{"Id": "4f1e", "Image": "web"}, {"Id": "9b20", "Image": "cache"}]


class Daemon(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.endswith("/logs"):
            self._stream()
        else:
            self._answer(200, CONTAINERS)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(201, {"Id": "c0de", **asked})

    def _answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        """Ends by closing: the proxy passes the end on."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(20_000):
            self.wfile.write(b"request %d served\n" % number)
        self.close_connection = True

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Silence: this example prints the client's side."""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def serve(path: str, ready: Any) -> None:
    with Server(path, Daemon) as server:
        ready.set()
        server.serve_forever()


def call(url: str, content: Any = None) -> Any:
    data = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=10) as answer:
        return answer.status, answer.read()


def main() -> int:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        socket_file, ready = f"{directory}/daemon.sock", context.Event()
        daemon = context.Process(target=serve, args=(socket_file, ready), daemon=True)
        daemon.start()
        ready.wait(10)
        command = ["proxy", "tcp://127.0.0.1:0", f"unix://{socket_file}"]
        with subprocess.Popen(
            [sys.executable, "-m", "naru.cli", *command], stderr=subprocess.PIPE, text=True
        ) as proxy:
            assert proxy.stderr is not None
            said = re.search(r"tcp://([\d.:]+)", proxy.stderr.readline())
            assert said is not None
            url = f"http://{said[1]}"
            status, body = call(f"{url}/containers/json")
            print("list:", status, [one["Image"] for one in json.loads(body)])
            status, body = call(f"{url}/containers/create", {"Image": "jobs"})
            print("create:", status, json.loads(body))
            status, body = call(f"{url}/containers/4f1e/logs")
            print("logs:", status, len(body.splitlines()), "lines")
            proxy.send_signal(signal.SIGTERM)
            print("proxy:", proxy.stderr.read().strip().splitlines()[-1])
        daemon.terminate()
        daemon.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
