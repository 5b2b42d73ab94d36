"""Bans: in force until they end, kept as text that is obeyed or refused."""

from __future__ import annotations

import random

import pytest

from rage_net import bans, keys
from rage_net.bans import Ban, Bans
from rage_net.errors import ConfigError, UnavailableError
from rage_net.libp2p.peer_id import PeerId


def peer(number: int) -> PeerId:
    return PeerId.from_public_key(keys.generate(random.Random(number)).public_key())


def test_a_ban_holds_until_it_ends_or_is_lifted() -> None:
    held = Bans()
    held.add(Ban(peer(1), 100.0, "spam"), 0.0)
    held.add(Ban(peer(2), None), 0.0)
    assert held.get(peer(1), 99.0) == Ban(peer(1), 100.0, "spam")
    assert held.get(peer(1), 100.0) is None and held.get(peer(3), 0.0) is None
    assert [ban.peer_id for ban in held.listed(100.0)] == [peer(2)]
    assert held.lift(peer(2)) == Ban(peer(2), None)
    assert held.lift(peer(2)) is None and held.get(peer(2), 0.0) is None


def test_what_is_written_is_read_back_whatever_the_reason_holds() -> None:
    held = Bans()
    held.add(Ban(peer(1), 100.0, "two words\nand a line \x1b[31m" + "x" * 500), 0.0)
    held.add(Ban(peer(2), None), 0.0)
    text = held.to_text()
    assert len(text.splitlines()) == 2 and "\x1b" not in text
    again = Bans.from_text(text, "bans")
    assert again.listed(0.0) == held.listed(0.0)
    assert Bans.from_text("", "bans").listed(0.0) == []


@pytest.mark.parametrize(
    "line", ["nobody - x", f"{peer(1)} soon x", f"{peer(1)} nan x", f"{peer(1)} inf x", f"{peer(1)}", "\0"]
)
def test_a_line_that_cannot_be_read_is_an_error_not_a_ban_less(line: str) -> None:
    with pytest.raises(ConfigError, match="bans, line 2"):
        Bans.from_text(f"{peer(2)} - fine\n{line}\n", "bans")


def test_bans_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bans, "BANS_MAX", 3)
    held = Bans()
    for number in range(3):
        held.add(Ban(peer(number), 10.0), 0.0)
    with pytest.raises(UnavailableError):
        held.add(Ban(peer(9), None), 5.0)
    held.add(Ban(peer(9), None), 11.0)
