"""A home whose chunks lie in an object store: the whole life of it, and what an operator reads when it is gone."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import aws_server

from .conftest import Home, Homes


@pytest.fixture
def proxy(aws_url: str) -> Iterator[object]:
    made = aws_server.Proxy(aws_url)
    yield made
    made.close()


def configured(homes: Homes, uri: str, endpoint: str) -> Home:
    home = homes.new(f"  store: {{uri: {uri}, endpoint: '{endpoint}', cache: 1MiB, grace: 0}}\n")
    home.environ.update(aws_server.KEYS, AWS_EC2_METADATA_DISABLED="true")
    home.environ.update(AWS_SHARED_CREDENTIALS_FILE=str(home.path / "none"), AWS_CONFIG_FILE=str(home.path / "none"))
    return home


def test_put_get_verify_gc_and_a_restart(homes: Homes, aws_url: str, rng: random.Random, tmp_path: Path) -> None:
    bucket = aws_server.make_bucket(aws_url)
    home = configured(homes, f"s3://{bucket}/a", aws_url)
    document = tmp_path / "document"
    document.write_bytes(rng.randbytes(5_000_000))
    home.start()
    put = home.ok("chunk", "put", str(document))
    assert not list((home.path / "store").glob("??/bafk*")), "no chunk is a file but in the cache"
    home.ok("chunk", "get", put["root"], "-o", str(tmp_path / "copy"))
    assert home.ok("chunk", "verify")["bad"] == []
    assert home.stop() == 0
    home.start()
    home.ok("chunk", "get", put["root"], "-o", str(tmp_path / "again"))
    for name in ("copy", "again"):
        assert (tmp_path / name).read_bytes() == document.read_bytes()
    assert sum(path.stat().st_size for path in (home.path / "store" / "cache").rglob("*") if path.is_file()) <= 1 << 20
    home.ok("chunk", "rm", put["doc_id"], "--yes")
    assert home.ok("chunk", "gc", "--yes")["chunks"] > 4
    assert home.stop() == 0
    second = configured(homes, f"s3://{bucket}/a", aws_url)
    refused = second.run("node", "start", "--json")
    assert refused.returncode == 9
    assert json.loads(refused.stderr.splitlines()[-1])["code"] == "objects-owned"


def test_a_store_that_is_gone_stops_a_start_with_words(homes: Homes, aws_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    home = configured(homes, "s3://chunks/a", f"http://127.0.0.1:{port}")
    for words in (("node", "start"), ("status",), ("chunk", "put", "-")):
        done = home.run(*words, data=b"x")
        said = done.stderr.decode()
        assert done.returncode == 7, said
        assert (
            said.startswith("error[objects-unavailable]: cannot read owner.json in s3://chunks/a") and "mend:" in said
        )
        assert "Traceback" not in said
    checked = home.run("doctor", "--only", "disk", "--json")
    assert checked.returncode == 6
    (check,) = json.loads(checked.stdout)["checks"]
    assert check["level"] == "error" and f"127.0.0.1:{port}" in check["why"]
    missing = configured(homes, "s3://no-such-bucket/a", aws_url)
    done = missing.run("node", "start")
    assert done.returncode == 10 and b"NoSuchBucket" in done.stderr and b"network.store.uri" in done.stderr


def test_a_node_says_that_its_store_is_out_of_reach_and_comes_back(
    homes: Homes,
    aws_url: str,
    proxy: aws_server.Proxy,
    rng: random.Random,  # type: ignore[name-defined]
) -> None:
    home = configured(homes, f"s3://{aws_server.make_bucket(aws_url)}", proxy.url)
    home.start()
    root = home.ok("chunk", "put", "-", data=rng.randbytes(3_000_000))["root"]
    assert home.ok("status")["problems"] == []
    proxy.fail(403)
    failed = home.run("chunk", "put", "-", "--json", data=rng.randbytes(100_000))
    assert failed.returncode == 10 and json.loads(failed.stderr.splitlines()[-1])["code"] == "objects-refused"
    status = home.run("status", "--json")
    (problem,) = json.loads(status.stdout)["problems"]
    assert status.returncode == 6
    assert "ExpiredToken" in problem
    shown = home.run("config", "show", "--json").stdout
    assert b"test-secret" not in shown + failed.stderr
    assert home.run("doctor", "--only", "disk").returncode == 6
    proxy.heal()
    assert home.run("doctor", "--only", "disk").returncode == 0
    assert home.run("chunk", "get", root).returncode == 0
    assert home.ok("chunk", "put", "-", data=rng.randbytes(100_000))["new_chunks"] == 1
    assert home.ok("status")["problems"] == []
