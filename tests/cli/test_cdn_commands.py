"""rage cdn, without a CDN: what is written, what is refused, and what a person is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import Rage
from conftest_engine import FakeEngine
from conftest_terminal import Terminal, finish

from rage_net.cdn.render import NginxOptions
from rage_net.verbs import cdn

YAML = """\
cdn:
  providers:
    - name: nginx-edge
      type: self-hosted
      public_urls: ["http://cdn.example.org"]
      config: {endpoints: ["http://127.0.0.1:9"], auth_token: "a-token", dav_path: "/dav"}
    - name: varnish-edge
      type: self-hosted
      public_urls: ["http://cdn.example.org"]
      config: {endpoints: ["http://127.0.0.1:9"], auth_token: "a-token"}
"""

OF_NGINX = {
    "--cache-dir": ("/srv/cache", "proxy_cache_path /srv/cache "),
    "--cache-size": ("512m", "max_size=512m\n"),
    "--dav-dir": ("/srv/puts", "root /srv/puts;"),
    "--log": ("/srv/edge.log", "access_log /srv/edge.log rage_cdn;"),
    "--inner": ("127.0.0.1:9999", "listen 127.0.0.1:9999;"),
}


@pytest.fixture
def edges(home: Path) -> Path:
    (home / "config" / "cdn.yaml").write_text(YAML)
    return home


# --- render ---


def test_where_an_nginx_keeps_what_can_be_said_and_is_as_before_where_nobody_says(edges: Path, rage: Rage) -> None:
    plain = rage("cdn", "render", "nginx").stdout.decode()
    words = [word for name, (value, _) in OF_NGINX.items() for word in (name, value)]
    told = rage("cdn", "render", "nginx", *words).stdout.decode()
    for _, line in OF_NGINX.values():
        assert line in told and line not in plain
    options = NginxOptions("/x")
    defaults = {options.cache_dir, options.cache_bytes_max, options.dav_dir, options.access_log, options.inner}
    assert all(str(value) in plain for value in defaults)
    assert not any(str(value) in told for value in defaults - {options.cache_bytes_max})
    page = re.sub(r"\s+", " ", rage("cdn", "render", "--help").stdout.decode())
    assert all(f"Default: {value}." in page for value in defaults)
    assert "access_log /" not in rage("cdn", "render", "nginx", "--log", "off").stdout.decode()


@pytest.mark.parametrize("software", ["varnish", "token", "tls"])
def test_what_is_told_to_nginx_is_refused_for_others(edges: Path, rage: Rage, software: str) -> None:
    more = (
        ["--cert", "/c", "--key", "/k"] if software == "tls" else ["--provider", "nginx-edge"] * (software != "varnish")
    )
    said = rage("cdn", "render", software, *more, "--dav-dir", "/x", code=2).stderr.decode().splitlines()
    assert "--dav-dir" in said[0] and said[1].startswith("  why:") and "rage cdn render nginx" in said[2]


# --- status ---


@pytest.mark.usefixtures("edges")
def test_a_hit_ratio_that_nobody_counts_is_no_problem_but_a_hint(rage: Rage, terminal: Terminal) -> None:
    rows = json.loads(rage("cdn", "status", "--json").stdout)["items"]
    assert [(row["provider"], row["hit_ratio"], row["problem"]) for row in rows] == [
        ("nginx-edge", None, ""),
        ("varnish-edge", None, ""),
    ]
    assert "stats_name" in rows[1]["hint"] and "varnishd -n" in rows[1]["hint"]
    shown, code = finish(terminal("cdn", "status", "--color", "never", columns=80))
    lines = shown.splitlines()
    assert code == 0 and [line.split()[1] for line in lines[1:3]] == ["-", "-"]
    assert lines[1].rstrip().endswith("-"), "no problem"
    assert any(line.startswith("varnish-edge: no hit ratio: stats_name") for line in lines)


# --- test ---


def step(name: str, step: str, *, ok: bool, **more: Any) -> cdn.StepRow:
    return cdn.StepRow(name, "", step, ok, 0, "pending" if more.get("is_pending") else "done", 0.0, **more)


def test_a_purge_that_its_vendor_has_not_ended_is_pending_and_no_no(engine: FakeEngine, rage: Rage) -> None:
    done = step("varnish-edge", "purge", ok=True)
    late = step("azure", "purge", ok=False, is_pending=True, purge_id="t1")
    bad = step("fastly", "get", ok=False, reason="it answers 502")
    for rows, code, words in (((done,), 0, {"yes"}), ((done, late), 124, {"yes", "pending"}), ((late, bad), 6, {"no"})):
        engine.answer(cdn.TestCdn, cdn.TestCdnResult(rows))
        told = rage("cdn", "test", code=code)
        shown = [line.split("\t") for line in told.stdout.decode().splitlines()]
        assert [row[0] for row in shown] == [row.provider for row in rows]
        assert words <= {row[3] for row in shown}
    engine.answer(cdn.TestCdn, cdn.TestCdnResult((late,)))
    said = rage("cdn", "test", code=124).stderr.decode()
    assert "not ended within 1m 00s at azure" in said and "why:" in said
    assert "rage cdn journal t1" in said and "rage cdn test --timeout 30m" in said
    said = rage("cdn", "test", "--timeout", "20s", code=124).stderr.decode()
    assert engine.asked[-1].timeout_s == 20.0 and "within 20.0 s" in said and "--timeout 80s" in said


def test_rage_status_tells_how_many_cdns_and_what_waits(edges: Path, rage: Rage) -> None:
    assert "cdn        2 providers\n" in rage("status", "--format", "table").stdout.decode()
    assert json.loads(rage("status", "--json").stdout)["cdn"]["open"] == 0
    rage("cdn", "purge", "--prefix", "/chunks/", "--provider", "varnish-edge")
    assert "cdn        2 providers, 1 purge open\n" in rage("status", "--format", "table").stdout.decode()
    (edges / "config" / "cdn.yaml").unlink()
    assert "cdn" not in rage("status", "--format", "table").stdout.decode()
