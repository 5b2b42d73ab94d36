"""A real S3 server on loopback (moto's), one bucket a test, and a proxy before it that fails as it is told to."""

from __future__ import annotations

import itertools
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_DEFAULT_REGION": "us-east-1"}

ERRORS = {
    500: ("InternalError", "We encountered an internal error."),
    503: ("SlowDown", "Please reduce your request rate."),
    403: ("ExpiredToken", "The provided token has expired."),
    507: ("XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."),
    501: ("NotImplemented", "A header you provided implies functionality that is not implemented."),
}

_numbers = itertools.count()


@contextmanager
def serving() -> Iterator[str]:
    """The URL of an empty server."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def make_bucket(url: str) -> str:
    """A new bucket, by a bare request: moto looks at no signature."""
    name = f"chunks-{next(_numbers)}"
    connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
    connection.request("PUT", f"/{name}")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == 200
    return name


class Proxy:
    """Passes requests on, but for those that a rule spoils.

    `faults` maps (method, part of the path) to a list that is used up from its head: a status to answer, `drop` to
    close the connection, `cut` to close it amid the body, or `trim` to shorten the body and its length alike.
    """

    def __init__(self, url: str) -> None:
        self.faults: dict[tuple[str, str], list[int | str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, url.removeprefix("http://")))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, fault: int | str, *, method: str = "", path: str = "", times: int = 1_000_000) -> None:
        self.faults[method, path] = [fault] * times

    def heal(self) -> None:
        self.faults.clear()

    def take(self, method: str, path: str, headers: dict[str, str]) -> int | str | None:
        with self._lock:
            self.asked.append((method, path))
            self.headers.append(headers)
            for (only, part), left in self.faults.items():
                if (not only or only == method) and part in path and left:
                    return left.pop()
        return None

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(proxy: Proxy, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def pass_on(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.take(self.command, self.path, dict(self.headers.items()))
            if fault == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if isinstance(fault, int):
                code, message = ERRORS[fault]
                body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
                self.answer(fault, {"Content-Type": "application/xml"}, body, len(body))
                return
            connection = HTTPConnection(upstream, timeout=10)
            connection.request(self.command, self.path, data, dict(self.headers.items()))
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            hop = ("content-length", "connection", "transfer-encoding")
            headers = {name: text for name, text in answer.headers.items() if name.lower() not in hop}
            length = int(answer.headers.get("Content-Length", 0)) if self.command == "HEAD" else len(body)
            if fault == "trim":
                body, length = body[: len(body) // 2], len(body) // 2
            if fault == "cut":
                body = body[: len(body) // 2]
                self.close_connection = True
            self.answer(answer.status, headers, body, length)

        def answer(self, status: int, headers: dict[str, str], body: bytes, length: int) -> None:
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on

    return Handler
