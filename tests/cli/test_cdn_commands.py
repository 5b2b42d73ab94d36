"""rage cdn, without a CDN: what is written, what is refused, and what a person is told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest_cli import Rage
from conftest_engine import FakeEngine
from conftest_terminal import Terminal, finish

from rage_cli import cdns
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


# --- errors ---

READ_ONLY = """\
    - name: http-shop
      type: commercial
      public_urls: ["https://shop.example.org"]
"""
CID = "bafkr4ihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
WRONG = {
    "purge": (2, "nothing to purge", "rage cdn purge --tag TAG"),
    "purge nonsense": (2, "is no CID", "rage cdn purge --doc nonsense"),
    f"purge https://cdn.example.org/chunks/{CID}": (2, "is no CID", f"rage cdn purge {CID}"),
    "purge /api/v1": (2, "is no CID", "rage cdn purge --prefix /api/v1"),
    "purge --prefix chunks/": (2, "is no path's begin", "rage cdn purge --prefix /chunks/"),
    "purge --host https://x/y": (2, "is no host name", "rage cdn purge --host cdn.example.org"),
    "purge --tag=": (2, "a tag is empty", "rage cdn purge --tag=legal"),
    "purge --doc nope": (5, "no document 'nope'", "rage chunk list"),
    "purge --failed --all --yes": (2, "--failed names all", "rage cdn purge --failed"),
    "purge --all --yes --provider varnish": (5, "no CDN provider 'varnish'", "--provider varnish-edge"),
    "purge --all --yes --provider http-shop": (10, "nothing can be purged at http-shop", "--provider nginx-edge"),
    f"purge {CID} --wait 30d": (2, "a wait is 0 to", "--wait 2m"),
    "purge --prefix /x --provider nginx-edge": (2, "did not purge", "rage cdn purge CID"),
    "status --hours 0": (2, "figures of 0 hours back", "rage cdn status --hours 24"),
    "status --hours 721": (2, "figures of 721 hours back", "rage cdn status --hours 24"),
    "journal nope": (5, "no purge 'nope'", "rage cdn journal"),
    "rules show chunks/x": (2, "is no path", "rage cdn rules show /chunks/x"),
    "rules show https://cdn.example.org/chunks/x": (2, "is no path", "rage cdn rules show /chunks/x"),
    "render apache": (2, "is not one of", "rage cdn render varnish"),
    "render ngnix": (2, "is not one of", "rage cdn render nginx"),
    "render varnish --provider nope": (5, "no varnish provider 'nope'", "rage config show cdn"),
    "render token": (2, "2 providers are meant", "rage cdn render token --provider nginx-edge"),
    "render nginx --cert /c": (2, "TLS needs", "--key /etc/ssl/edge.key"),
    "render nginx --cache-dir x": (10, "no absolute path", "rage cdn render --help"),
    "render nginx --caller example.org": (10, "may purge", "rage cdn render nginx --caller 10.0.0.5"),
    "render nginx --origin https://x": (10, "cannot fetch from", "http://HOST:PORT"),
    "render nginx --inner ;": (10, "cannot be written", "rage cdn render --help"),
    "check --provider nope": (5, "no CDN provider 'nope'", "rage cdn status"),
    "warm nope": (5, "nope", "rage "),
    "publish nope": (5, "nope", "rage "),
    "test --provider nope": (5, "no CDN provider 'nope'", "rage cdn test --provider"),
}


@pytest.mark.parametrize("words", WRONG)
def test_each_error_says_what_why_and_what_mends_it(edges: Path, rage: Rage, words: str) -> None:
    (edges / "config" / "cdn.yaml").write_text(YAML + READ_ONLY)
    code, what, mend = WRONG[words]
    said = rage("cdn", *words.split(" "), code=None)
    lines = said.stderr.decode().splitlines()
    assert said.returncode == code, lines
    assert lines[0].startswith("error[") and what in lines[0], lines
    has_why = any(line.startswith("  why:  ") for line in lines)
    assert has_why or "error[cdn-impossible]" in " ".join(lines) or "is not one of" in lines[0], lines
    assert lines[-1].startswith("  mend: ") and mend in lines[-1], lines


@pytest.mark.parametrize("words", ["purge --all --yes", "check", "test", "warm x", "publish x", "render varnish"])
def test_without_a_cdn_each_command_says_so(home: Path, rage: Rage, words: str) -> None:
    said = rage("cdn", *words.split(" "), code=None)
    lines = said.stderr.decode().splitlines()
    assert said.returncode in (5, 10) and lines[0].startswith(("error[cdn-none]", "error[cdn-unknown]")), lines
    assert lines[1].startswith("  why:  ") and lines[2].startswith("  mend: rage config show cdn"), lines


# --- journal ---


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_name_of_a_purge_is_shown_whole_to_be_copied(engine: FakeEngine, terminal: Terminal, columns: int) -> None:
    name = "o5029b6002e6014eae107bbdf-buckets"
    row = cdn.PurgeRow("varnish-edge", "http://127.0.0.1:9", "queued", 1, 1)
    purge = cdn.PurgeResult(name, "document pliw3ismsdxajrmynmmqbs4nzu was removed", 1e9, "removed", (row,))
    engine.answer(cdn.ListPurges, cdn.ListPurgesResult((purge,)))
    shown, code = finish(terminal("cdn", "journal", "--color", "never", columns=columns))
    assert code == 0 and name in shown
    assert all(len(line) <= columns for line in shown.splitlines())
    assert "1 queued" in shown, "rather than when it was asked and what it is"
    assert ("2001-09-0" in shown, "document" in shown) == (columns == 120, columns >= 80)


# --- publish ---


def test_a_sealed_document_that_has_not_changed_is_told_as_it_is(
    engine: FakeEngine, rage: Rage, terminal: Terminal
) -> None:
    there = cdn.PublishRow("fastly", "s3://chunks", 0, 7, 0, 0)
    engine.answer(cdn.PublishCdn, cdn.PublishCdnResult("r", 7, 900, (there,), False, is_current=True))
    assert rage("cdn", "publish", "plan.md").stdout.decode().split("\t")[:5] == ["fastly", "s3://chunks", "0", "7", "0"]
    shown, code = finish(terminal("cdn", "publish", "plan.md", "--color", "never"))
    assert code == 0 and "unchanged since it was sealed: nothing was put" in shown
    lacks = cdn.PublishRow("late", "s3://late", 0, 0, 7, 0, "it came later", "cdn-unsealed")
    engine.answer(cdn.PublishCdn, cdn.PublishCdnResult("r", 7, 900, (there, lacks), False, is_current=True))
    said = rage("cdn", "publish", "plan.md", code=3).stderr.decode()
    assert (
        "late s3://late: error[cdn-unsealed]" in said and "on the node that sealed it: rage cdn publish plan.md" in said
    )


# --- words ---


def test_what_is_rendered_is_one_of_four_and_tls_wants_its_files(edges: Path, rage: Rage) -> None:
    said = rage("cdn", "render", "ngnx", code=2).stderr.decode()
    assert "is not one of varnish, nginx, tls, token" in said and "mend: rage cdn render nginx" in said
    said = rage("cdn", "render", "tls", code=2).stderr.decode()
    assert "why:" in said and "mend: rage cdn render tls --cert" in said


def test_help_names_both_ways_of_a_flag_and_one_ellipsis(rage: Rage) -> None:
    assert "--soft, --hard" in rage("cdn", "purge", "--help").stdout.decode()
    assert "rage cdn warm [OPTIONS] DOC...\n" in rage("cdn", "warm", "--help").stdout.decode()
    said = rage("replication", "policy", "--help").stdout.decode().splitlines()[-2:]
    assert said == ["Each command: rage replication policy COMMAND --help", "Global options: rage --help"]


def test_a_mend_is_said_once_for_all_edges(engine: FakeEngine, terminal: Terminal) -> None:
    rows = tuple(cdn.CheckRow("edge", f"http://10.0.0.{n}", False, "no", "cdn-config", ("do this",)) for n in (1, 2))
    engine.answer(cdn.CheckCdn, cdn.CheckCdnResult(rows))
    shown, code = finish(terminal("cdn", "check"))
    assert code == 6 and shown.count("edge: do this") == 1


def test_what_no_cdn_has_a_way_to_purge_is_told_with_what_has(engine: FakeEngine, rage: Rage) -> None:
    row = cdn.PurgeRow("nginx", "", "failed", 0, 0, reason="it has no way", code="cdn-impossible", mend=("mend this",))
    found = cdn.PurgeResult("p1", "tag x", 1.0, "manual", (), (), (row,))
    engine.answer(cdn.PurgeCdn, found)
    assert "mend: mend this\n" in rage("cdn", "purge", "--tag", "x", code=2).stderr.decode()
    assert cdns.states_in_words(found) == "1 not possible"


def test_a_plan_says_for_how_long_its_calls_wait(engine: FakeEngine) -> None:
    row = cdn.PurgeRow("varnish", "e", "planned", 2, 1)
    plan = cdn.PurgeResult("", "tag x", 1.0, "manual", (row,), dry_run=True)
    assert list(cdns.purge_in_words(plan)) == ["tag x: 1 call"]
    assert list(cdns.purge_in_words(replace(plan, rows=(row, row)))) == ["tag x: 2 calls, all at once"]
    late = replace(plan, rows=(row, row), seconds=90.0)
    assert list(cdns.purge_in_words(late)) == ["tag x: 2 calls, the last in 1m 30s, by the quotas"]
