"""moto's server on loopback: real HTTP, XML and signing of CloudFront, S3 and CloudWatch; and a recorder before it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


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


class Recorder:
    """Passes requests on and keeps them; `fault`, where set, is answered instead: (status, headers, body)."""

    def __init__(self, url: str) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.fault: tuple[int, Mapping[str, str], bytes] | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, url.removeprefix("http://")))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(recorder: Recorder, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def pass_on(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = dict(self.headers.items())
            recorder.asked.append(
                (self.command, self.path, {name.lower(): text for name, text in headers.items()}, data)
            )
            if recorder.fault is not None:
                status, told, body = recorder.fault
                length = str(len(body))
            else:
                connection = HTTPConnection(upstream, timeout=10)
                connection.request(self.command, self.path, data, headers)
                answer = connection.getresponse()
                status, body = answer.status, answer.read()
                hop = ("content-length", "connection", "transfer-encoding")
                told = {name: text for name, text in answer.headers.items() if name.lower() not in hop}
                length = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
                connection.close()
            self.send_response(status)
            for name, text in told.items():
                self.send_header(name, text)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on

    return Handler
