"""Verbs as JSON: strict on types, lenient on what a newer peer adds."""

from __future__ import annotations

import dataclasses
import json

import pytest

from rage_net.verbs import DecodeError, decode, encode, registry
from rage_net.verbs.chunk import GetChunk, PutChunk, PutChunkResult, StoredChunk


def test_a_result_survives_json() -> None:
    result = PutChunkResult("root", "id", 3, (StoredChunk("cid", 3, 2),), 1, "")
    assert decode(PutChunkResult, json.loads(json.dumps(encode(result)))) == result


def test_fields_of_a_newer_peer_are_ignored_and_absent_ones_default() -> None:
    assert decode(PutChunk, {"name": "a", "from_the_future": 1}) == PutChunk(name="a")


@pytest.mark.parametrize(
    ("plain", "path"),
    [
        ({"name": 3}, "PutChunk.name"),
        ({"tags": "abc"}, "PutChunk.tags"),
        ({"tags": [1]}, r"PutChunk.tags\[0\]"),
        ({"visibility": "everyone"}, "PutChunk.visibility"),
        ({"retention_s": "7d"}, "PutChunk.retention_s"),
        ({"size": True}, "PutChunk.size"),
        ([], "PutChunk"),
    ],
)
def test_a_wrong_type_names_its_field(plain: object, path: str) -> None:
    with pytest.raises(DecodeError, match=path):
        decode(PutChunk, plain)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(DecodeError, match=r"GetChunk\.ref"):
        decode(GetChunk, {})


NOUNS = (
    "acl",
    "cdn",
    "cert",
    "chunk",
    "dht",
    "diagnose",
    "discovery",
    "node",
    "peer",
    "replication",
    "sync",
    "topic",
    "trust",
)


def test_every_verb_is_registered_under_its_noun_with_a_result() -> None:
    verbs = registry()
    assert len(verbs) >= 17
    for route, kind in verbs.items():
        noun, word = route.split("/")
        assert noun in NOUNS and word
        assert dataclasses.is_dataclass(kind) and dataclasses.is_dataclass(kind.result)
        assert kind.__doc__ and not (kind.octets_in and kind.octets_out)
