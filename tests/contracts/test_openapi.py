"""`contracts/network-layer.yaml`: it is fresh, it names every path, and the real doors do as it says."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from rage_net import home as homes
from rage_net import verbs
from rage_net.acl import Principal
from rage_net.cid import Cid
from rage_net.control import Control
from rage_net.discovery import api
from rage_net.discovery import server as server_module
from rage_net.discovery.proofs import SIGNATURE
from rage_net.discovery.registry import Registry
from rage_net.discovery.server import Server
from rage_net.engine import Engine
from rage_net.env import SystemEnv
from rage_net.gate import Served
from rage_net.home import Home
from rage_net.http import Http
from rage_net.metrics import Metrics
from scripts import openapi
from tests.discovery.world import Dials, Peer

from .served import UnixAdapter, in_thread

DATA = b"hello, rage\n"
EXAMPLES_MAX = 20
READING = ("chunk/list", "chunk/stat", "chunk/verify", "node/status", "peer/list")
"""Verbs that only look, at this home alone."""

SCHEMA = schemathesis.openapi.from_path(openapi.PAGE)
OPERATIONS = {operation.label: operation for operation in (result.ok() for result in SCHEMA.get_all_operations())}
DOOR = [label for label in OPERATIONS if " /v1/" not in label]
REFUSING = [label for label in DOOR if label.partition(" ")[2].startswith(("/api", "/chunks", "/ipfs"))]
"""The others take nothing that could be wrong."""
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def test_the_generated_parts_are_fresh() -> None:
    text = openapi.PAGE.read_text("utf-8")
    assert openapi.document(text) == text, "stale: run `make openapi`"


def test_it_is_valid_and_names_every_path_and_every_verb() -> None:
    SCHEMA.validate()
    named = {(label.partition(" ")[2], label.partition(" ")[0]) for label in OPERATIONS}
    wanted = {(f"/v1/{route}", "POST") for route in verbs.registry()} | {("/v1/op/{id}", "GET")}
    wanted |= set(api.METHODS.items())
    wanted |= {(path, method) for path in ("/chunks/{cid}", "/ipfs/{cid}") for method in ("GET", "HEAD")}
    wanted |= {(f"/{name}", "GET") for name in ("healthz", "readyz", "metrics")}
    assert named == wanted
    ids = [operation.definition.raw["operationId"] for operation in OPERATIONS.values()]
    assert len(set(ids)) == len(ids)


def test_every_verb_and_result_of_the_code_fits_its_schema() -> None:
    """The generated schemas against what the dataclasses' own decoder takes: defaults fill the rest."""
    for kind in verbs.registry().values():
        name = kind.__name__
        plain: dict[str, Any] = {}
        for field, schema in SCHEMA.raw_schema["components"]["schemas"][name].get("properties", {}).items():
            if field in SCHEMA.raw_schema["components"]["schemas"][name].get("required", ()):
                plain[field] = {"string": "a", "integer": 1, "number": 1.5, "boolean": True, "array": []}[
                    schema["type"]
                ]
        validate(name, verbs.encode(verbs.decode(kind, plain)))


def validate(name: str, value: Any) -> None:
    """Raise when a value does not fit a schema of the document."""
    root = {"$ref": f"#/components/schemas/{name}", "components": SCHEMA.raw_schema["components"]}
    jsonschema_rs.Draft202012Validator(root).validate(json.loads(json.dumps(value)))


class Chunks:
    """One public chunk."""

    async def stat_served(self, cid: Cid, principal: Principal) -> Served | None:
        return Served(len(DATA), is_public=True) if cid == Cid.of(DATA) else None

    async def sizes_served(self, cids: Sequence[Cid], principal: Principal) -> list[int | None]:
        return [len(DATA) if cid == Cid.of(DATA) else None for cid in cids]

    async def read_served(self, cid: Cid, principal: Principal) -> bytes | None:
        return DATA if cid == Cid.of(DATA) else None


@pytest.fixture(scope="module")
def door() -> Iterator[str]:
    """The HTTP door with discovery and metrics; its URL. Floods have tests of their own."""

    async def serve(ready: Callable[[str], None], stop: asyncio.Event) -> None:
        env, metrics = SystemEnv(), Metrics()
        async with (
            Server(Registry(None), env, metrics, dial_back=Dials()) as server,
            Http(
                Chunks(),
                metrics,
                listen="127.0.0.1:0",
                metrics_listen="127.0.0.1:0",
                ready=list,
                discovery=server,
            ) as http,
        ):
            ready(http.addresses[0])
            await stop.wait()
        env.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_module, "QUERY_BURST", 1e9)
        patch.setattr(server_module, "REGISTER_BURST", 1e9)
        with in_thread(serve) as url:
            yield url


def fuzz(rng: random.Random, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Run `check` on examples of one seed."""

    @seed(rng.getrandbits(64))
    @settings(
        max_examples=EXAMPLES_MAX,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(case=strategy)
    def run(case: Any) -> None:
        check(case)

    run()


@pytest.mark.parametrize(
    ("label", "mode"),
    [
        (label, mode)
        for label in DOOR
        for mode in GenerationMode
        if mode == GenerationMode.POSITIVE or label in REFUSING
    ],
)
def test_the_http_door_does_as_the_document_says(
    door: str, rng: random.Random, label: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[label]
    with requests.Session() as session:

        def check(case: Any) -> None:
            response = case.call(base_url=door, session=session, timeout=20)
            # a body that is too large is refused as well, which schemathesis does not count
            is_held = label.endswith("register") and response.status_code != 413
            more = [negative_data_rejection] if is_held else []
            case.validate_response(response, checks=[*CHECKS, *more])

        fuzz(rng, operation.as_strategy(generation_mode=mode), check)


@pytest.mark.parametrize("label", DOOR)
def test_methods_that_the_document_does_not_name_are_refused(door: str, label: str) -> None:
    method, _, path = label.partition(" ")
    case = OPERATIONS[label].Case(path_parameters={"cid": str(Cid.of(DATA))} if "{cid}" in path else {})
    response = case.call(base_url=door, timeout=20, headers={"Content-Type": "application/json"})
    case.validate_response(response, checks=[unsupported_method])
    url = f"{door}{path.replace('{cid}', str(Cid.of(DATA)))}"
    for other in ("PUT", "DELETE", "PATCH", "OPTIONS", "GET" if method == "POST" else "POST"):
        answer = requests.request(other, url, timeout=20)
        assert (answer.status_code, method in answer.headers["Allow"]) == (405, True), other


def test_a_public_chunk_comes_whole_in_part_and_not_at_all_as_the_document_says(door: str) -> None:
    operation = OPERATIONS["GET /chunks/{cid}"]
    cid = str(Cid.of(DATA))
    assert cid in json.dumps(SCHEMA.raw_schema["components"]["parameters"]["Cid"])  # the example is a real one
    for headers, status in (
        ({}, 200),
        ({"Range": "bytes=0-3"}, 206),
        ({"Range": "bytes=99-"}, 416),
        ({"If-None-Match": f'"{cid}"'}, 304),
    ):
        case = operation.Case(path_parameters={"cid": cid}, headers=headers)
        response = case.call(base_url=door, timeout=20)
        assert response.status_code == status
        case.validate_response(response, checks=CHECKS)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_gateway_gives_a_block_and_an_archive_as_the_document_says(door: str, method: str) -> None:
    operation = OPERATIONS[f"{method} /ipfs/{{cid}}"]
    cid = str(Cid.of(DATA))
    for asked, query, headers, status in (
        (cid, {"format": "raw"}, {}, 200),
        (cid, {}, {"Accept": "application/vnd.ipld.raw"}, 200),
        (cid, {"format": "car", "dag-scope": "all"}, {}, 200),
        ("bafkqaaa", {"format": "car"}, {}, 200),
        (cid, {"format": "raw"}, {"If-None-Match": "*"}, 304),
        (cid, {"format": "car", "car-dups": "y"}, {}, 406),
        (cid, {}, {"Accept": "*/*"}, 400),
        (str(Cid.of(b"absent")), {"format": "raw"}, {}, 404),
        (str(Cid.of(b"absent")), {"format": "car"}, {"Cache-Control": "only-if-cached"}, 412),
    ):
        case = operation.Case(path_parameters={"cid": asked}, query=query, headers=headers)
        response = case.call(base_url=door, timeout=20)
        assert response.status_code == status, (asked, query, headers)
        case.validate_response(response, checks=CHECKS)


def test_a_signed_registration_and_what_lists_it_fit_the_document(door: str, rng: random.Random) -> None:
    env = SystemEnv()
    env.random = rng
    peers = [Peer(env) for _ in range(3)]  # type: ignore[arg-type]
    for peer in peers:
        body, signature = peer.signed(
            "/ip4/127.0.0.1/tcp/4001",
            "/ip4/224.0.0.1/tcp/1",
            audience=door,
            organization_id="org_123",
            region="us-west-2",
            capabilities=("storage",),
        )
        validate("Registration", json.loads(body))
        case = OPERATIONS[f"POST {api.REGISTER}"].Case(media_type="application/json", body=json.loads(body))
        headers = {SIGNATURE: signature, "Content-Type": "application/json"}
        response = requests.post(f"{door}{api.REGISTER}", data=body, headers=headers, timeout=20)
        assert response.status_code == 200, response.text
        case.validate_response(response, checks=CHECKS)
        again = requests.post(f"{door}{api.REGISTER}", data=body, headers=headers, timeout=20)
        assert again.status_code == 409
        case.validate_response(again, checks=[check for check in CHECKS if check is not not_a_server_error])
    for path, query in ((api.PEERS, {"limit": 2}), (api.PEERS, {"organization": "org_123"}), (api.BOOTSTRAP, {})):
        case = OPERATIONS[f"GET {path}"].Case(query=query)
        response = case.call(base_url=door, timeout=20)
        assert len(response.json()["peers"]) == query.get("limit", 3)
        case.validate_response(response, checks=CHECKS)
    env.close()


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[requests.Session]:
    """A session that speaks to the control socket of a real engine."""
    home = Home(tmp_path_factory.mktemp("control") / "home")
    homes.init(home)
    path = home.root / "node.sock"

    async def serve(ready: Callable[[None], None], stop: asyncio.Event) -> None:
        async with (
            Engine.open(home, serves=True) as engine,
            Control(engine, verbs.registry(), path, random=engine.env.random, metrics=engine.metrics),
        ):
            ready(None)
            await stop.wait()

    with in_thread(serve), requests.Session() as session:
        session.mount("http://", UnixAdapter(str(path)))
        yield session


def check_lines(operation: Any, text: str) -> None:
    """Every line of an NDJSON answer against the schema of a line."""
    content = operation.definition.raw["responses"]["200"]["content"]["application/x-ndjson"]
    root = {**content["x-rage-line"], "components": SCHEMA.raw_schema["components"]}
    validator = jsonschema_rs.Draft202012Validator(root)
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        validator.validate(line)
    assert [line["type"] for line in lines].count("progress") == len(lines) - 1
    assert lines[-1]["type"] in ("result", "error")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
@pytest.mark.parametrize("route", READING)
def test_the_control_door_does_as_the_document_says(
    control: requests.Session, rng: random.Random, route: str, mode: GenerationMode
) -> None:
    operation = OPERATIONS[f"POST /v1/{route}"]
    answered = []

    def check(case: Any) -> None:
        response = case.call(base_url="http://node", session=control, timeout=20)
        case.validate_response(response, checks=CHECKS)
        answered.append(response.status_code)
        if response.status_code == 200:
            check_lines(operation, response.text)
            told = control.get(f"http://node/v1/op/{response.headers['x-rage-op'][0]}", timeout=20)
            assert told.json() == json.loads(response.text.splitlines()[-1])

    fuzz(rng, operation.as_strategy(generation_mode=mode), check)
    assert mode == GenerationMode.NEGATIVE or 200 in answered or route == "chunk/stat"
