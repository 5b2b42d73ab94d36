from __future__ import annotations

import contextlib
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rage_net.config import values
from rage_net.config.values import Comparison, Secret


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5h", 5400), ("5m", 300), ("7d", 604_800), ("0", 0), (" 60s ", 60)],
)
def test_a_duration_is_seconds_or_has_a_unit(text: str, seconds: float) -> None:
    assert values.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1w", "1 m 2", "1:30", "5 minutes", "4000d", "1e3", "nan", "inf"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration is wanted|ten years"):
        values.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("256KiB", 262_144), ("1MiB", 1 << 20), ("1.5GiB", 3 << 29), ("20MB", 20_000_000), ("1kb", 1000)],
)
def test_a_size_is_bytes_or_has_a_unit(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1PiB", "1 MiB 2", "0x10", "99999999TiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size is wanted|larger than"):
        values.parse_size(text)


@pytest.mark.parametrize(("text", "share"), [("80%", 0.8), ("0.8", 0.8), ("100%", 1), ("1", 1)])
def test_a_share_is_a_percentage_or_a_fraction(text: str, share: float) -> None:
    assert values.parse_share(text) == share


@pytest.mark.parametrize("text", ["0%", "0", "101%", "1.1", "-5%", "half", "%"])
def test_a_share_is_above_nothing_and_at_most_all(text: str) -> None:
    with pytest.raises(ValueError, match="share"):
        values.parse_share(text)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("< 7", Comparison("lt", 7)),
        (">=2.5", Comparison("ge", 2.5)),
        ("> 1000/day", Comparison("gt", 1000, 86_400)),
        ("7", Comparison("eq", 7)),
    ],
)
def test_a_bound_has_a_sign_a_number_and_perhaps_a_period(text: str, bound: Comparison) -> None:
    assert values.parse_comparison(text) == bound
    assert values.parse_comparison(str(bound)) == bound


@pytest.mark.parametrize(
    ("text", "below", "equal", "above"),
    [("< 7", 1, 0, 0), ("<= 7", 1, 1, 0), ("= 7", 0, 1, 0), (">= 7", 0, 1, 1), ("> 7", 0, 0, 1)],
)
def test_a_bound_holds_as_its_sign_says(text: str, below: int, equal: int, above: int) -> None:
    bound = values.parse_comparison(text)
    assert [bound.holds(number) for number in (6, 7, 8)] == [bool(below), bool(equal), bool(above)]


@pytest.mark.parametrize("text", ["127.0.0.1:4080", "[::1]:0", "localhost:80", "[fe80::1%eth0]:443"])
def test_an_endpoint_keeps_its_text(text: str) -> None:
    assert values.parse_endpoint(text) == text


@pytest.mark.parametrize("text", ["4080", "127.0.0.1", "::1:80", "host:65536", "host:-1", "a b:1", ":80"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        values.parse_endpoint(text)


def test_an_endpoint_splits_into_host_and_port() -> None:
    assert values.split_endpoint(values.parse_endpoint("[::1]:4080")) == ("::1", 4080)
    assert values.split_endpoint(values.parse_endpoint("localhost:0")) == ("localhost", 0)


def test_an_address_with_credentials_is_refused_without_showing_them() -> None:
    with pytest.raises(ValueError, match="credentials") as caught:
        values.parse_url("https://user:pa55word@example.org/")
    with pytest.raises(ValueError, match="65535"):
        values.parse_url("https://example.org:65536/")
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize("text", ["ftp://example.org", "example.org", "https://", "https://a b"])
def test_what_is_no_web_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="https"):
        values.parse_url(text)


@pytest.mark.parametrize("text", ["a/b", "a|b", " a", "-a", "a" * 65, "ä"])
def test_a_name_holds_nothing_that_principals_use(text: str) -> None:
    with pytest.raises(ValueError, match="name"):
        values.parse_name(text)


def test_a_bootstrap_address_must_name_its_peer() -> None:
    with pytest.raises(ValueError, match="/p2p/"):
        values.parse_peer_address("/ip4/192.0.2.1/tcp/4001")


def test_only_tcp_and_memory_are_ready() -> None:
    ready = ["/ip4/0.0.0.0/tcp/4001", "/dns4/a.example/tcp/1/p2p/x", "/memory/1"]
    waiting = ["/ip4/0.0.0.0/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/80/ws", "/unix/tmp/x"]
    assert [values.is_wire_ready(address) for address in (*ready, *waiting)] == [True] * 3 + [False] * 3


def test_a_secret_shows_itself_to_reveal_alone() -> None:
    secret = Secret("hunter2")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>9}", repr({"a": [secret]})]
    assert not any("hunter2" in text for text in shown)
    assert secret.reveal() == "hunter2"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)


@pytest.mark.parametrize("kind", list(values.PARSERS), ids=lambda kind: kind.__name__)
@given(text=st.text(max_size=60))
def test_any_text_is_read_or_refused_by_value_error(kind: object, text: str) -> None:
    with contextlib.suppress(ValueError):
        values.PARSERS[kind](text)
