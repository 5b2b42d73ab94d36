"""moto's server on loopback: real HTTP, XML and signing of S3, CloudFront and CloudWatch; and proxies before it.

Its state is the process's: all tests share it, and each makes a bucket of its own.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_DEFAULT_REGION": "us-east-1"}

ERRORS = {
    500: ("InternalError", "We encountered an internal error."),
    503: ("SlowDown", "Please reduce your request rate."),
    403: ("ExpiredToken", "The provided token has expired."),
    507: ("XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."),
    501: ("NotImplemented", "A header you provided implies functionality that is not implemented."),
}

Reply = tuple[int, Mapping[str, str], bytes]
"""Status, headers, body."""

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


def forget_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials anywhere but in what a test configures."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


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


class _Between(ABC):
    """Passes requests on, but for those that `take` spoils."""

    def __init__(self, url: str) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, url.removeprefix("http://")))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @abstractmethod
    def take(self, method: str, path: str, headers: dict[str, str], data: bytes) -> Reply | str | None:
        """What is answered instead; `drop` to close the connection, `cut` to close it amid the body, or `trim` to
        shorten the body and its length alike."""

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Recorder(_Between):
    """Keeps what was asked, with headers by lower-case name; `fault`, where set, is answered instead."""

    def __init__(self, url: str) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.fault: Reply | None = None
        super().__init__(url)

    def take(self, method: str, path: str, headers: dict[str, str], data: bytes) -> Reply | None:
        self.asked.append((method, path, {name.lower(): text for name, text in headers.items()}, data))
        return self.fault


class Proxy(_Between):
    """Fails as it is told to.

    `faults` maps (method, part of the path) to a list that is used up from its head: a status to answer, or a word of
    `take`.
    """

    def __init__(self, url: str) -> None:
        self.faults: dict[tuple[str, str], list[int | str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Lock()
        super().__init__(url)

    def fail(self, fault: int | str, *, method: str = "", path: str = "", times: int = 1_000_000) -> None:
        self.faults[method, path] = [fault] * times

    def heal(self) -> None:
        self.faults.clear()

    def take(self, method: str, path: str, headers: dict[str, str], data: bytes) -> Reply | str | None:
        with self._lock:
            self.asked.append((method, path))
            self.headers.append(headers)
            for (only, part), left in self.faults.items():
                if (not only or only == method) and part in path and left:
                    fault = left.pop()
                    return _refusal(fault) if isinstance(fault, int) else fault
        return None


def _refusal(status: int) -> Reply:
    code, message = ERRORS[status]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, {"Content-Type": "application/xml"}, body.encode()


def _handler(between: _Between, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def pass_on(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = dict(self.headers.items())
            fault = between.take(self.command, self.path, headers, data)
            if fault == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if isinstance(fault, tuple):
                self.answer(*fault, len(fault[2]))
                return
            connection = HTTPConnection(upstream, timeout=10)
            connection.request(self.command, self.path, data, headers)
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            hop = ("content-length", "connection", "transfer-encoding")
            told = {name: text for name, text in answer.headers.items() if name.lower() not in hop}
            length = int(answer.headers.get("Content-Length", 0)) if self.command == "HEAD" else len(body)
            if fault == "trim":
                body, length = body[: len(body) // 2], len(body) // 2
            if fault == "cut":
                body = body[: len(body) // 2]
                self.close_connection = True
            self.answer(answer.status, told, body, length)

        def answer(self, status: int, headers: Mapping[str, str], body: bytes, length: int) -> None:
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on

    return Handler
