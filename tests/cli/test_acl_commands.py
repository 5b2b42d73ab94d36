"""rage acl in each form, against a node whose engine says what it is told to; and files of rights that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest_cli import Rage
from conftest_engine import ALICE, CID, FakeEngine

from rage_net.verbs import acl

DOC = "4nq7k2v5m6x3c2b6z7a7s6d5f4"
FACTS = (
    acl.AclFact("org:globex", "read", False, 0, "", True, ALICE, 7, "aa"),
    acl.AclFact("org:globex", "read", True, 0, "", False, ALICE, 6, "bb"),
    acl.AclFact("", "", False, 0, "private", True, ALICE, 5, "cc"),
)
SHOWN = acl.ShowAclResult(f"doc:{DOC}", "report", "acme", ALICE, "private", (), FACTS, 1)
CHANGED = acl.ChangeAclResult(f"doc:{DOC}", "report", (acl.AclChange("org:globex", "read", True, 0, "", 2),), False)
REASON = acl.AclReason(DOC, "acme", "private", False, "nothing allows it", ("operator", "owner"))
NO = acl.CheckAclResult(f"doc:{DOC}", "org:globex", "read", False, REASON.reason, REASON.rules, (REASON,))
ROW = acl.AclRow(f"doc:{DOC}", "report", "acme", "anyone", "read", True, 0)


@pytest.fixture(autouse=True)
def _answers(engine: FakeEngine) -> None:
    engine.answer(acl.ShowAcl, SHOWN)
    engine.answer(acl.SetAcl, CHANGED)
    engine.answer(acl.GrantAcl, CHANGED)
    engine.answer(acl.RevokeAcl, CHANGED)
    engine.answer(acl.CheckAcl, NO)
    engine.answer(acl.ListAcl, acl.ListAclResult((ROW,), True))


def test_show_says_what_is_in_force_and_what_was_overruled(rage: Rage) -> None:
    cells = rage("acl", "show", "report").stdout.decode().rstrip("\n").split("\t")
    assert cells[:3] == [f"doc:{DOC}", "report", "private"]
    assert cells[5] == "org:globex read denied,visibility private"
    assert cells[6] == f"org:globex read granted (by {ALICE})" and cells[7] == "1"
    assert json.loads(rage("acl", "show", "report", "--json").stdout)["facts"][1]["in_force"] is False


def test_changes_are_shown_and_a_dry_run_is_passed_on(rage: Rage, engine: FakeEngine) -> None:
    row = rage("acl", "grant", "report", "org:globex", "read").stdout.decode().rstrip("\n").split("\t")
    assert row[:3] == ["org:globex", "read", "granted"]
    rage("acl", "revoke", "report", "org:globex", "read", "--dry-run")
    rage("acl", "set", "report", "--visibility", "org")
    assert engine.asked == [
        acl.GrantAcl("report", "org:globex", "read"),
        acl.RevokeAcl("report", "org:globex", "read", dry_run=True),
        acl.SetAcl("report", visibility="org"),
    ]
    assert rage("acl", "grant", "report", "org:globex", "read", "-q").stdout.decode() == f"doc:{DOC}\n"


def test_an_end_is_a_day_or_a_duration(rage: Rage, engine: FakeEngine) -> None:
    rage("acl", "grant", "report", "org:globex", "read", "--until", "2099-01-31")
    rage("acl", "grant", "report", "org:globex", "read", "--until", "30d")
    rage("acl", "grant", "report", "org:globex", "read", "--until", "tomorrow", code=2)
    day, later = engine.asked
    assert day.until == 4_073_587_200
    assert later.until > 1_790_000_000 + 30 * 86_400


def test_a_no_is_6_and_every_rule_is_explained(rage: Rage, engine: FakeEngine) -> None:
    done = rage("acl", "check", "report", "org:globex", "read", code=6)
    assert done.stdout.decode() == "no\tnothing allows it\n"
    explained = rage("acl", "check", CID, "org:globex", "read", "--explain", code=6).stdout.decode()
    assert "operator,owner" in explained and f"no {DOC}: nothing allows it" in explained
    engine.answer(acl.CheckAcl, acl.CheckAclResult("r", "anyone", "read", True, "public", (), ()))
    assert rage("acl", "check", "report", "anyone", "read", "-q").stdout == b"yes\n"


def test_a_list_is_a_row_a_right(rage: Rage) -> None:
    row = rage("acl", "list").stdout.decode().rstrip("\n").split("\t")
    assert row[:5] == [f"doc:{DOC}", "report", "anyone", "read", "granted"]
    assert json.loads(rage("acl", "list", "--json").stdout)["more"] is True


YAML = b"""
visibility: private
users: [acme/alice]   # whose report it is
actions: [read]
expires_at: 2099-01-31T00:00:00Z
"""


@pytest.mark.parametrize("data", [YAML, b'[{"visibility": "private"}, {"users": ["acme/alice"], "actions": ["read"]}]'])
def test_rights_come_from_a_file_or_from_stdin(rage: Rage, engine: FakeEngine, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rights").write_bytes(data)
    rage("acl", "set", "report", "-f", tmp_path / "rights")
    rage("acl", "set", "report", "-f", "-", stdin=data)
    assert engine.asked[0] == engine.asked[1]
    assert any(one.users == ("acme/alice",) for one in engine.asked[0].rights)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{", "no YAML or JSON"),
        (b"\xff\xfe", "no YAML or JSON"),
        (b"[" * 5000, "no YAML or JSON"),
        (b"[" * 20 + b"]" * 20, "nested too deeply"),
        (b"a: &a [x]\nb: *a\n", "aliases"),
        (b"!!python/object/apply:os.system [id]", "no YAML or JSON"),
        (b"", "is nothing"),
        (b"visibility: galactic", "public, federated, org, private"),
        (b"users: [" + b"acme/a," * 20_000 + b"]\nactions: [read]", "20000 principals"),
        (b"users: [" + b"acme/a," * 1_000_000 + b"]\nactions: [read]", "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_none_is_refused_before_the_node_is_asked(
    rage: Rage, engine: FakeEngine, data: bytes, told: str
) -> None:
    done = rage("acl", "set", "report", "-f", "-", stdin=data, code=2)
    assert told in done.stderr.decode()
    assert engine.asked == []


def test_an_open_home_is_told_how_to_get_a_certificate(tmp_path: Path) -> None:
    from conftest_cli import runner

    from rage_net import home as homes

    place = homes.Home(tmp_path / "other")
    homes.init(place)
    alone = runner(place.root)
    (tmp_path / "report").write_text("report")
    alone("chunk", "put", tmp_path / "report")
    done = alone("acl", "grant", "report", "org:globex", "read", code=10)
    assert b"error[no-ca]" in done.stderr and b"rage cert ca init" in done.stderr
    assert alone("acl", "show", "report", "-q").stdout.startswith(b"doc:")
    assert alone("acl", "check", "report", "anyone", "read", "-q", code=6).stdout == b"no\n"
