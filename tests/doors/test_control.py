# ruff: noqa: SIM117
"""The control API, spoken to over real Unix sockets by a client library and by hand."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from conftest_doors import TIMEOUT_S, FakeEngine, Serve, client, pattern, raw_request

from rage_net import control as control_module
from rage_net.errors import from_plain
from rage_net.metrics import Metrics

pytestmark = pytest.mark.anyio


async def lines_of(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await response.read()).splitlines()]


def verb_header(**fields: Any) -> dict[str, str]:
    return {"X-Rage-Verb": base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()}


async def test_a_verb_is_answered_by_one_result_line(serve: Serve) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/test/echo", json={"text": "ho"}) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "application/x-ndjson"
            assert len(response.headers["X-Rage-Op"]) == 16
            assert await lines_of(response) == [{"type": "result", "result": {"text": "ho"}}]


async def test_no_header_tells_the_make_or_version_of_the_server(serve: Serve) -> None:
    async with serve() as control, client(control.path) as session:
        for path in ("/v1/test/echo", "/v1/test/fail", "/v1/none/such", "/"):
            async with session.post(path, json={"text": "ho"}) as response:
                assert response.headers["Server"] == "rage"


async def test_progress_lines_come_before_the_result(serve: Serve, engine: FakeEngine) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/test/change", json={}) as response:
            first = json.loads(await response.content.readline())
            assert first == {"type": "progress", "done": 1, "total": 2, "unit": "items", "label": ""}
            engine.release.set()
            assert await lines_of(response) == [{"type": "result", "result": {"text": "released"}}]


async def test_progress_told_a_million_times_is_not_a_million_lines(serve: Serve) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/test/echo", json={"text": "x", "times": 200_000}) as response:
            assert len(await lines_of(response)) < 50


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"{", "truncated"),
        (b"[]", "an object is wanted"),
        (b'{"text": 3}', "Echo.text"),
        (b"{}", "Echo.text: missing"),
        (b"\xff\xfe", "invalid"),
        (b"[" * 100_000, ""),
        (b'{"text": "\xff"}', "utf-8"),
    ],
)
async def test_a_body_that_is_no_verb_is_a_usage_error(serve: Serve, body: bytes, word: str) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/test/echo", data=body) as response:
            (error,) = await lines_of(response)
            assert (response.status, error["code"], error["exit"]) == (400, "usage", 2)
            assert word in error["message"].lower() or word in error["message"]
        async with session.post("/v1/test/echo", json={"text": "still here"}) as response:
            assert response.status == 200


async def test_a_verb_of_more_than_a_mebibyte_is_refused(serve: Serve) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.post(
            "/v1/test/echo", data=io.BytesIO(b" " * (control_module.JSON_BYTES_MAX + 1))
        ) as response:
            (error,) = await lines_of(response)
            assert (response.status, error["code"]) == (400, "usage")
            assert "1048576" in error["message"]


async def test_a_verb_nobody_knows_and_a_path_nobody_serves_are_not_found(serve: Serve) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/no/such", json={}) as response:
            assert (response.status, (await lines_of(response))[0]["code"]) == (404, "no-such-verb")
        for path in ("/", "/v2/test/echo", "/v1/test/echo/more", "/metrics", "/v1/op/0123456789abcdef"):
            async with session.get(path) as response:
                assert response.status == 404, path


async def test_another_method_is_told_which_one_works(serve: Serve, engine: FakeEngine) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.get("/v1/test/echo") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")
        async with session.post("/v1/op/1") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET")
    assert not engine.began.is_set()


async def test_an_error_before_the_first_byte_has_its_own_status_and_comes_whole(serve: Serve) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/test/fail", json={"how": "integrity"}) as response:
            assert response.status == 422
            assert response.headers["Content-Type"] == "application/json"
            error = from_plain((await lines_of(response))[0])
            assert (error.exit_code, error.why, error.mend) == (8, "a flipped bit", ("rage chunk verify",))
            op = response.headers["X-Rage-Op"]
        async with session.get(f"/v1/op/{op}") as response:
            assert (await lines_of(response))[0]["code"] == "integrity"


async def test_a_bug_in_a_verb_is_told_without_its_details_and_the_node_lives(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as control, client(control.path) as session:
        with caplog.at_level(logging.ERROR):
            async with session.post("/v1/test/fail", json={}) as response:
                (error,) = await lines_of(response)
        assert (response.status, error["code"], error["exit"]) == (500, "bug", 1)
        assert "KeyError" in error["message"]
        assert "secret" not in json.dumps(error)
        assert "a secret detail" in caplog.text
        async with session.post("/v1/test/echo", json={"text": "alive"}) as response:
            assert response.status == 200


@pytest.mark.parametrize("size", [0, 1, 99_999, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
async def test_octets_go_in_unchanged(serve: Serve, engine: FakeEngine, size: int, chunked: bool) -> None:
    data = pattern(size)[:size]

    async def pieces() -> Any:
        for at in range(0, size, 70_000):
            yield data[at : at + 70_000]

    async with serve() as control, client(control.path) as session:
        async with session.post(
            "/v1/test/take", data=pieces() if chunked else io.BytesIO(data), headers=verb_header(name="größe")
        ) as response:
            assert (await lines_of(response))[-1] == {"type": "result", "result": {"text": f"{size}:same"}}
    assert engine.recorded == [f"{size}:same"]


async def test_a_header_that_is_no_verb_is_a_usage_error(serve: Serve, engine: FakeEngine) -> None:
    async with serve() as control, client(control.path) as session:
        for bad in ("%%%", "AAA", base64.urlsafe_b64encode(b'{"name": 1}').decode()):
            async with session.post("/v1/test/take", data=b"x", headers={"X-Rage-Verb": bad}) as response:
                assert (response.status, (await lines_of(response))[0]["code"]) == (400, "usage")
    assert not engine.began.is_set()


async def test_a_header_beyond_the_limit_is_refused_and_the_node_lives(serve: Serve) -> None:
    async with serve() as control, client(control.path) as session:
        limit = control_module.HEAD_BYTES_MAX
        async with session.post("/v1/test/take", data=b"x", headers=verb_header(name="n" * (limit // 2))) as response:
            assert response.status == 200
        async with session.post("/v1/test/take", data=b"x", headers=verb_header(name="n" * limit)) as response:
            assert (response.status, (await lines_of(response))[0]["code"]) == (400, "usage")
        async with session.post("/v1/test/echo", json={"text": "alive"}) as response:
            assert response.status == 200


async def test_words_that_are_no_http_are_answered_in_json_and_the_connection_closed(serve: Serve) -> None:
    async with serve() as control:
        reader, writer = await asyncio.open_unix_connection(str(control.path))
        writer.write(b"\x16\x03\x01\x02\x00 what is this\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), TIMEOUT_S)
        writer.close()
        assert answer.startswith(b"HTTP/1.0 400")
        assert b'"code":"usage"' in answer
        assert b"aiohttp" not in answer


async def test_a_client_that_leaves_amid_its_octets_aborts_the_put_and_nothing_is_recorded(
    serve: Serve, engine: FakeEngine
) -> None:
    async with serve() as control:
        _, writer = await asyncio.open_unix_connection(str(control.path))
        writer.write(raw_request("test/take", pattern(300_000)[:300_000], length=1_000_000))
        await writer.drain()
        await asyncio.wait_for(engine.began.wait(), TIMEOUT_S)
        writer.close()
        await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
    assert engine.recorded == []
    assert [getattr(error, "id", error) for error in engine.errors] == ["client-left"]


@pytest.mark.parametrize("rest", [b"", b"5\r\nhel", b"zz no size\r\n", b"-1\r\n"])
async def test_a_chunked_body_that_breaks_off_or_turns_to_garbage_is_no_end(
    serve: Serve, engine: FakeEngine, rest: bytes
) -> None:
    async with serve(stall_s=0.1) as control:
        _, writer = await asyncio.open_unix_connection(str(control.path))
        head = b"POST /v1/test/take HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"5\r\nhello\r\n")
        await asyncio.wait_for(engine.began.wait(), TIMEOUT_S)
        writer.write(rest)
        await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
        writer.close()
    assert engine.recorded == []
    assert len(engine.errors) == 1


async def test_a_client_that_sends_nothing_more_is_given_up(serve: Serve, engine: FakeEngine) -> None:
    async with serve(stall_s=0.05) as control:
        reader, writer = await asyncio.open_unix_connection(str(control.path))
        writer.write(raw_request("test/take", b"a few", length=1000))
        answer = await asyncio.wait_for(reader.read(), TIMEOUT_S)
        writer.close()
    assert b'"code":"deadline"' in answer
    assert engine.recorded == []


async def test_a_body_is_read_no_faster_than_the_engine_takes_it(serve: Serve, engine: FakeEngine) -> None:
    engine.pause.clear()
    async with serve() as control:
        _, writer = await asyncio.open_unix_connection(str(control.path))
        total, block, size = 0, pattern(1 << 20)[: 1 << 20], 64 << 20
        writer.write(raw_request("test/take", length=size))
        while total < size:
            writer.write(block)
            total += len(block)
            try:
                await asyncio.wait_for(writer.drain(), 0.5)
            except TimeoutError:
                break
        writer.transport.abort()
        assert total < 8 << 20  # the connection's buffers and the kernel's, not the body


@pytest.mark.parametrize("size", [0, 1, 65_536, 10_000_000])
async def test_octets_come_out_with_their_length_and_the_result_is_told_after(serve: Serve, size: int) -> None:
    async with serve() as control, client(control.path) as session:
        for _ in range(2):  # the connection serves again
            async with session.post("/v1/test/give", json={"size": size}) as response:
                assert response.headers["Content-Type"] == "application/octet-stream"
                assert response.headers["Content-Length"] == str(size)
                assert await response.read() == pattern(size)[:size]
            async with session.get(f"/v1/op/{response.headers['X-Rage-Op']}") as after:
                assert (after.status, await lines_of(after)) == (200, [{"type": "result", "result": {"text": "given"}}])


async def test_an_error_before_the_octets_is_json_with_its_status(serve: Serve) -> None:
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/test/give", json={"size": 9, "fail_before": True}) as response:
            assert (response.status, (await lines_of(response))[0]["code"]) == (404, "not-found")


@pytest.mark.parametrize(
    ("how", "code"), [({"fail_after": 100_000}, "integrity"), ({"promise": 2_000_000}, "bug"), ({"promise": 5}, "bug")]
)
async def test_an_error_amid_octets_ends_the_connection_short_and_is_told_at_op(
    serve: Serve, how: dict[str, int], code: str
) -> None:
    async with serve() as control, client(control.path) as session:
        with pytest.raises(aiohttp.ClientPayloadError):
            async with session.post("/v1/test/give", json={"size": 1_000_000, **how}) as response:
                await response.read()
        async with session.get(f"/v1/op/{response.headers['X-Rage-Op']}") as after:
            assert (await lines_of(after))[0]["code"] == code


async def test_a_client_that_leaves_amid_what_it_reads_ends_the_reading(serve: Serve, engine: FakeEngine) -> None:
    async with serve() as control:
        reader, writer = await asyncio.open_unix_connection(str(control.path))
        writer.write(raw_request("test/give", b'{"size": 50000000}'))
        await reader.readexactly(10_000)
        assert not engine.ended.is_set()
        writer.transport.abort()
        await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)


async def test_a_client_that_reads_nothing_is_given_up(serve: Serve, engine: FakeEngine) -> None:
    async with serve(stall_s=0.05) as control:
        _, writer = await asyncio.open_unix_connection(str(control.path), limit=1024)
        writer.write(raw_request("test/give", b'{"size": 50000000}'))
        await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
        writer.transport.abort()
    assert [getattr(error, "id", error) for error in engine.errors] == ["deadline"]


async def test_a_client_that_leaves_cancels_a_read(serve: Serve, engine: FakeEngine) -> None:
    async with serve() as control:
        _, writer = await asyncio.open_unix_connection(str(control.path))
        writer.write(raw_request("test/hold", b"{}"))
        await asyncio.wait_for(engine.began.wait(), TIMEOUT_S)
        writer.close()
        await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
    assert (engine.cancelled, engine.recorded) == (["test/hold"], [])


async def test_a_client_that_leaves_never_cancels_a_change_and_its_result_can_be_asked_for(
    serve: Serve, engine: FakeEngine
) -> None:
    async with serve() as control:
        reader, writer = await asyncio.open_unix_connection(str(control.path))
        writer.write(raw_request("test/change", b"{}"))
        head = await reader.readuntil(b"\r\n\r\n")  # sent with the first progress
        op = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:] if line)["X-Rage-Op"]
        writer.transport.abort()
        while control._listener.connections():
            await asyncio.sleep(0)
        assert not engine.ended.is_set()
        engine.release.set()
        async with client(control.path) as session, session.get(f"/v1/op/{op}") as response:
            assert await lines_of(response) == [{"type": "result", "result": {"text": "released"}}]
    assert (engine.cancelled, engine.recorded) == ([], ["test/change"])


async def test_an_operation_that_runs_long_is_told_as_progress(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "OP_WAIT_S", 0.01)
    async with serve() as control, client(control.path) as session:
        async with session.post("/v1/test/change", json={}) as running:
            async with session.get(f"/v1/op/{running.headers['X-Rage-Op']}") as response:
                assert (response.status, (await lines_of(response))[0]["type"]) == (202, "progress")
            engine.release.set()
            await running.read()


async def test_operations_beyond_the_limit_are_told_to_come_again(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "OPERATIONS_MAX", 1)
    metrics = Metrics()
    async with serve(metrics=metrics) as control, client(control.path) as session:
        async with session.post("/v1/test/change", json={}):
            async with session.post("/v1/test/echo", json={"text": "me too"}) as response:
                (error,) = await lines_of(response)
                assert (response.status, error["code"], error["exit"], error["retryable"]) == (503, "busy", 7, True)
            engine.release.set()
    assert metrics.shed.read() == {("control-busy",): [1.0]}


async def test_leaving_waits_for_what_runs_and_cancels_it_only_at_the_deadline(
    serve: Serve, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(drain_s=0.05) as control:
        _, writer = await asyncio.open_unix_connection(str(control.path))
        writer.write(raw_request("test/change", b"{}"))
        await asyncio.wait_for(engine.began.wait(), TIMEOUT_S)
        await control._drain()
        await asyncio.wait_for(engine.ended.wait(), TIMEOUT_S)
        assert engine.cancelled == ["test/change"]
        assert "did not end" in caplog.text
        assert not control.path.exists()
        writer.close()


async def test_leaving_frees_a_verb_that_waits_for_octets_in_a_thread(serve: Serve, engine: FakeEngine) -> None:
    async with serve(drain_s=0.05) as control:
        _, writer = await asyncio.open_unix_connection(str(control.path))
        writer.write(raw_request("test/take", b"a few", length=1000))
        await asyncio.wait_for(engine.began.wait(), TIMEOUT_S)
    await asyncio.wait_for(asyncio.to_thread(engine.thread_ended.wait), TIMEOUT_S)
    writer.close()
    assert engine.recorded == []


async def test_what_runs_when_the_node_stops_is_answered_and_new_verbs_are_refused(
    serve: Serve, engine: FakeEngine
) -> None:
    async with serve() as control, client(control.path) as early, client(control.path) as late:
        async with late.post("/v1/test/echo", json={"text": "to open a connection"}) as response:
            await response.read()
        async with early.post("/v1/test/change", json={}) as running:
            stopping = asyncio.create_task(control._drain())
            while control.path.exists():
                await asyncio.sleep(0)
            async with late.post("/v1/test/echo", json={"text": "late"}) as response:
                assert (response.status, (await lines_of(response))[0]["code"]) == (503, "stopping")
            engine.release.set()
            assert (await lines_of(running))[-1] == {"type": "result", "result": {"text": "released"}}
            await stopping


async def test_twenty_clients_at_once_are_all_served(serve: Serve) -> None:
    async def one(path: Path, number: int) -> str:
        async with client(path) as session:
            async with session.post("/v1/test/echo", json={"text": str(number)}) as response:
                text: str = (await lines_of(response))[-1]["result"]["text"]
                return text

    async with serve() as control:
        assert await asyncio.gather(*(one(control.path, number) for number in range(20))) == [
            str(number) for number in range(20)
        ]
