"""HTTP over a Unix socket: `framing=raw` talks to a server that knows nothing of naru.

    python examples/http_over_unix.py

This is how the Docker daemon is spoken to. Here the server is Python's own http.server in a process
of its own, bound to a Unix socket; for Docker the address would be
unix:///var/run/docker.sock?framing=raw.
"""

from __future__ import annotations

import http.server
import json
import multiprocessing
import os
import socketserver
import sys
import tempfile

import naru


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"path": self.path, "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"  # a Unix client has no host and port

    def log_message(self, format: str, *args: object) -> None:
        """Silence: this example prints the client's side."""


def serve(path: str) -> None:
    with socketserver.UnixStreamServer(path, Answer) as server:
        server.handle_request()


def get(address: str, target: str) -> tuple[str, bytes]:
    """The status line and the body."""
    with naru.connect(address, timeout_s=10) as server:
        server.send(
            f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(server)  # bytes as they come, until the server closes
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.splitlines()[0].decode(), body


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/http.sock"
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(path,))
        process.start()
        status, body = get(f"unix://{path}?framing=raw", "/containers/json")
        process.join()
    print("status:", status)
    print("body:", json.loads(body))
    return process.exitcode or 0


if __name__ == "__main__":
    sys.exit(main())
