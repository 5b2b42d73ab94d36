"""Bad input, one test each: every complaint names file, line and key, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.config import reader as module
from rage_net.config.network import Network
from rage_net.config.reader import Problem, Reader

SENTINEL = "s3cret-Sentinel-7f3a"

pytestmark = pytest.mark.usefixtures("parser")

Problems = Callable[..., tuple[Problem, ...]]


def only(problems: tuple[Problem, ...]) -> Problem:
    (problem,) = problems
    assert problem.file.endswith("config/network.yaml")
    return problem


def test_an_unknown_key_is_refused_with_the_nearest_one(problems: Problems) -> None:
    found = only(problems("network:\n  libp2p:\n    dht:\n      enabeld: true\n"))
    assert (found.line, found.key, found.message) == (4, "network.libp2p.dht.enabeld", "unknown key")
    assert found.mend == "did you mean `enabled`?"


def test_a_key_in_the_wrong_section_is_told_its_place(problems: Problems) -> None:
    assert only(problems("network:\n  listen_addresses: []\n")).mend == "it belongs under `network.libp2p`"


def test_a_key_that_is_like_no_other_is_told_those_there_are(problems: Problems) -> None:
    assert only(problems("network:\n  control:\n    qqqqq: 1\n")).mend == "known here: group"


@pytest.mark.parametrize(
    ("line", "key", "message", "mend"),
    [
        ("node_id: 7", "node_id", "text is wanted, and this reads as a number", 'quote it: node_id: "7"'),
        ("region: no", "region", "text is wanted, and this reads as true or false", 'quote it: region: "no"'),
        ("region: 2024-01-01", "region", "text is wanted, and this reads as a date", 'quote it: region: "2024-01-01"'),
        ("region:", "region", "it has no value", "give it one, or remove the key for the default"),
        ("region: a/b", "region", "a name is wanted", ""),
        ("region: [a]", "region", "one value is wanted, not a list", ""),
        ("region: {a: b}", "region", "one value is wanted, not a section", ""),
        (
            "libp2p: 7",
            "libp2p",
            "keys are wanted below it",
            "one of listen_addresses, announce_addresses, bootstrap_peers",
        ),
        ("libp2p: {listen_addresses: /ip4/0.0.0.0/tcp/1}", "libp2p.listen_addresses", "a list is wanted", "begin each"),
        ("libp2p: {listen_addresses: [x]}", "libp2p.listen_addresses[0]", "does not begin with /", ""),
        (
            "libp2p: {dht: {mode: sever}}",
            "libp2p.dht.mode",
            "one of server, client is wanted",
            "did you mean `server`?",
        ),
        ("libp2p: {dht: {enabled: maybe}}", "libp2p.dht.enabled", "true or false is wanted (found 'maybe')", ""),
        ('libp2p: {dht: {enabled: "true"}}', "libp2p.dht.enabled", "it is text", "remove the quotes"),
        ("replication: {default_factor: 3.5}", "replication.default_factor", "a whole number is wanted", ""),
        ("replication: {default_factor: 010}", "replication.default_factor", "a whole number is wanted", ""),
        ("replication: {default_factor: 0}", "replication.default_factor", "it must be from 1 to 32 (found '0')", ""),
        ("replication: {default_factor: '3'}", "replication.default_factor", "it is text", "remove the quotes"),
        ("sync: {interval: 5 minutes}", "sync.interval", "a duration is wanted", ""),
        ("sync: {interval: 1:30}", "sync.interval", "a duration is wanted", ""),
        ("store: {quota: lots}", "store.quota", "a size is wanted", ""),
        ("store: {path: 7}", "store.path", "text is wanted", 'quote it: path: "7"'),
        ("http: {listen: 4080}", "http.listen", "text is wanted", "quote it"),
        ("region: !!python/object:os.system x", "region", "tags (!name) are not allowed", "remove the tag"),
        ("region: !secret x", "region", "tags (!name) are not allowed", "remove the tag"),
        ("<<: {region: a}", "", "a plain key is wanted", "write the keys out"),
        ("? [a]\n  : b", "", "a plain key is wanted", "write the keys out"),
    ],
)
def test_a_wrong_value_is_refused(problems: Problems, line: str, key: str, message: str, mend: str) -> None:
    found = only(problems(f"network:\n  {line}\n"))
    assert (found.line, found.key) == (2, f"network.{key}".rstrip("."))
    assert message in found.message
    assert found.mend.startswith(mend)


def test_a_tab_is_named_as_such(problems: Problems) -> None:
    found = only(problems("network:\n  sync:\n\tinterval: 5\n"))
    assert (found.line, found.key) == (3, "interval")
    assert found.message.startswith("a tab;")


def test_a_bare_bound_is_told_to_be_quoted(problems: Problems) -> None:
    found = only(problems("network:\n  region: > 1000/day\n"))
    assert (found.line, found.key) == (2, "region")
    assert found.message == "a bare > begins a block of text in YAML"
    assert found.mend.startswith("quote it: region: ")


@pytest.mark.parametrize("value", ["@x", "`x`", "%x", "*x", "[a", "{a"])
def test_a_value_that_yaml_cannot_read_names_its_line(problems: Problems, value: str) -> None:
    found = only(problems(f"network:\n  region: {value}\n  zone: a\n"))
    assert found.line in (2, 3)
    assert found.mend


def test_a_missing_variable_names_file_line_and_key(problems: Problems) -> None:
    found = only(problems("network:\n\n  region: ${REGION}\n"))
    assert (found.line, found.key) == (3, "network.region")
    assert found.message == "the variable REGION is not set"
    assert found.mend == "export REGION=..., or REGION_FILE=/path, or write ${REGION:-default}"


def test_a_dollar_brace_that_names_nothing_is_refused(problems: Problems) -> None:
    assert "names no variable" in only(problems("network:\n  region: ${}\n")).message


def test_a_key_given_twice_is_refused_with_both_lines(problems: Problems) -> None:
    found = only(problems("network:\n  region: a\n  zone: b\n  region: c\n"))
    assert (found.line, found.key) == (4, "network.region")
    assert found.message == "the key is there twice, first in line 2"


def test_several_problems_are_found_at_once(problems: Problems) -> None:
    found = problems("network:\n  regoin: a\n  sync: {interval: soon}\n  http:\n    listen: x\n")
    assert [problem.line for problem in found] == [2, 3, 5]


def test_an_unknown_root_is_refused(problems: Problems) -> None:
    found = only(problems("netwrok:\n  region: a\n"))
    assert (found.line, found.key, found.mend) == (1, "netwrok", "did you mean `network`?")


@pytest.mark.parametrize("text", ["- a\n", "just words\n", "7\n"])
def test_a_file_that_is_no_mapping_is_refused(problems: Problems, text: str) -> None:
    assert "must begin with `network:`" in only(problems(text)).message


def test_two_documents_in_one_file_are_refused(problems: Problems) -> None:
    assert only(problems("network:\n  region: a\n---\nnetwork: {}\n")).line == 3


def test_a_deeply_nested_file_is_refused_before_it_is_composed(problems: Problems) -> None:
    assert "nested deeper" in only(problems("network: " + "[" * 100_000)).message


def test_aliases_cannot_make_a_small_file_huge(problems: Problems, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NODES_MAX", 100)
    hosts = ", ".join(["a"] * 60)
    found = problems(f"network:\n  http:\n    hosts: &h [{hosts}]\n  discovery:\n    servers: *h\n")
    assert sum("more than 100 values" in problem.message for problem in found) == 1


def test_an_alias_that_holds_itself_ends(problems: Problems) -> None:
    assert problems("network: &n\n  libp2p: *n\n")


def test_a_file_that_is_too_large_is_refused(problems: Problems) -> None:
    assert "larger than 1024 KiB" in only(problems("#" * (1 << 20) + "\n#")).message


def test_bytes_that_are_no_text_name_their_line() -> None:
    reader = Reader("f", {})
    assert reader.read(b"network:\n  region: \xff\n", {"network": Network}) == {}
    assert str(reader.problems[0]) == "f:2: the file is no UTF-8 text"


def test_characters_that_yaml_forbids_are_refused(problems: Problems) -> None:
    assert only(problems("network:\n  region: \x07\n"))


@pytest.mark.parametrize(
    "text",
    [
        f"network:\n  region: *{SENTINEL}\n",
        f"network:\n  region: !{SENTINEL} a\n",
        f"network:\n  region: &{SENTINEL} [\n",
        f"network:\n  region: '{SENTINEL}\n",
        f'network:\n  region: "\\q{SENTINEL}"\n',
        f"network:\n  region: a: {SENTINEL}\n",
        f"network:\n  region: @{SENTINEL}\n",
        f"network:\n  region: | {SENTINEL}\n",
        f"%{SENTINEL} x\nnetwork: {{}}\n",
    ],
)
def test_a_line_that_is_no_yaml_is_never_quoted(problems: Problems, text: str) -> None:
    assert SENTINEL not in repr(problems(text))


@given(
    lines=st.lists(
        st.text(st.sampled_from("network:rgion- \t>|{}[]&*!%@`'\"#?,$\\\n01~"), max_size=30) | st.just("network:"),
        max_size=8,
    )
)
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    reader = Reader("f", {})
    drafts = reader.read("\n".join(lines).encode(), {"network": Network})
    if "network" in drafts:
        reader.build(drafts["network"], "network")
    assert all(problem.message for problem in reader.problems)
