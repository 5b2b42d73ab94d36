"""Varnish and nginx for the shared suite of providers: the real programs, one of each for a whole run."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rage_net.cdn.nginx import Nginx
from rage_net.cdn.provider import Call, Verdict
from rage_net.cdn.varnish import Varnish
from rage_net.config.values import Secret
from rage_net.web import Web
from tests.cdn import servers
from tests.cdn.clouds import SENTINEL, Case

_running: dict[str, Any] = {}


def _started(software: str) -> Any:
    """The one server of this process; the suite asks for it in many tests, and changes nothing on it."""
    if software not in _running:
        where = Path(tempfile.mkdtemp(prefix="rage-edge-"))
        atexit.register(shutil.rmtree, where, ignore_errors=True)
        start: Callable[..., Any] = servers.start_varnish if software == "varnish" else servers.start_nginx
        _running[software] = start(where, "http://127.0.0.1:9", token=SENTINEL)
        atexit.register(_running[software].close)
    return _running[software]


class FirstEdgeVarnish(Varnish):
    """The suite's calls name no edge."""

    async def purge(self, call: Call) -> Verdict:
        return await super().purge(replace(call, edge=call.edge or self.edges[0]))


class FirstEdgeNginx(Nginx):
    async def purge(self, call: Call) -> Verdict:
        return await super().purge(replace(call, edge=call.edge or self.edges[0]))


def _varnish(url: str, web: Web, now: Callable[[], float], *, token: str = SENTINEL) -> Varnish:
    return FirstEdgeVarnish(servers.settings("varnish", [url], auth_token=Secret(token)), web, now)


def _nginx(url: str, web: Web, now: Callable[[], float], *, token: str = SENTINEL) -> Nginx:
    return FirstEdgeNginx(servers.settings("nginx", [url], auth_token=Secret(token)), web, now)


def _serve(software: str, program: str) -> Callable[[Callable[[], float]], Any]:
    @asynccontextmanager
    async def serve(now: Callable[[], float]) -> AsyncIterator[Any]:
        servers.need(program, os.environ.get("CI") == "true")
        yield _started(software)

    return serve


EDGES = [Case("varnish", _serve("varnish", "varnishd"), _varnish), Case("nginx", _serve("nginx", "nginx"), _nginx)]
