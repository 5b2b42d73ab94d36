"""kill -9 at seeded moments between asking, sending and hearing: nothing asked is forgotten, no call is lost or new."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rage_net.cdn import policy
from rage_net.cid import Cid
from tests.cdn.fakes.cloudfront_stub import Raw
from tests.cdn.six import Six, serving, some_cids
from tests.node.conftest import RAGE, Home

CIDS = 30
"""Of each purge: 90 calls to the nginx, a few to each of the others."""
COMMANDS, NODES = 8, 2
WITHIN_S = 30.0
HELD_S = 0.1
"""An answer of CloudFront is held so long: the purge is taken, and who asked for it may die before it hears."""


class Moments:
    """What has happened until now, of what a kill waits for."""

    def __init__(self, six: Six, database: Path) -> None:
        self.six = six
        self.database = database
        self.taken = 0
        self._changed = threading.Condition()
        self.answer = six.cloudfront.answer
        six.cloudfront.answer = self._held  # type: ignore[method-assign]

    def _held(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Raw:
        raw = self.answer(method, target, headers, body)
        if method == "POST":
            with self._changed:
                self.taken += 1
                self._changed.notify_all()
            time.sleep(HELD_S)
        return raw

    def asked(self) -> int:
        """Purges in the journal of whoever runs."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self.database)) as db:
            return int(db.execute("SELECT count(*) FROM purge").fetchone()[0])
        return 0

    def wait(self, of: Callable[[], int], until: int, process: subprocess.Popen[Any]) -> None:
        """Return when so much has happened, or nothing will."""
        ends = time.monotonic() + WITHIN_S
        while of() < until and process.poll() is None and time.monotonic() < ends:
            with self._changed:
                self._changed.wait(0.002)


@pytest.fixture
def six() -> Iterator[Six]:
    with serving() as made:
        yield made


def words_of(cids: list[Cid]) -> dict[str, set[str]]:
    """What each CDN must have been told for these, as the stand-ins name it."""
    tags = {policy.tag_for_cid(cid) for cid in cids}
    paths = {path for cid in cids for path in policy.paths_of(cid)}
    return {"fastly": tags, "varnish": tags, "cloudfront": {f"#{tag}" for tag in tags}, "nginx": paths}


def test_who_is_killed_again_and_again_forgets_nothing_and_repeats_calls_as_they_were(
    six: Six, tmp_path: Path, rng: random.Random
) -> None:
    home = Home(tmp_path / "home")
    home.init()
    (home.path / "config" / "cdn.yaml").write_text(six.cdn_yaml)
    moments = Moments(six, home.path / "cdn.db")
    nginx = six.nginx
    cids = some_cids(COMMANDS * CIDS, rng.getrandbits(32))
    kinds = ["asked", "taken", "taken", "told", "told", "told", "asked", "taken"]
    rng.shuffle(kinds)
    killed = 0
    for at, kind in enumerate(kinds[:COMMANDS]):
        command = [*RAGE, "--home", str(home.path), "cdn", "purge", "-", "--json"]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=home.environ
        )
        assert process.stdin is not None
        of: Callable[[], int]
        more = 1
        if kind == "asked":
            of = moments.asked
        elif kind == "taken":
            of = lambda: moments.taken  # noqa: E731
        else:
            of, more = (lambda: len(nginx.calls)), rng.randrange(1, 60)
        before = of()
        with process.stdin as stdin:
            stdin.write("".join(f"{cid}\n" for cid in cids[at * CIDS : (at + 1) * CIDS]).encode())
        moments.wait(of, before + more, process)
        killed += process.poll() is None
        process.kill()
        process.wait(WITHIN_S)
    for _ in range(NODES):
        home.start()
        assert home.node is not None
        before = len(nginx.calls)
        moments.wait(lambda: len(nginx.calls), before + rng.randrange(1, 40), home.node)
        killed += home.node.poll() is None
        home.stop(signal.SIGKILL)
    assert killed >= COMMANDS, "most were killed in the middle"

    home.start()
    try:
        items = until_ended(home)
    finally:
        home.stop()
    # One that was killed while it sent what others had left may never have asked its own: then nothing of it was sent.
    labels = " ".join(item["label"] for item in items)
    each = [cids[at : at + CIDS] for at in range(0, len(cids), CIDS)]
    asked = [cid for those in each if str(those[0]) in labels for cid in those]
    assert len(asked) == len(items) * CIDS >= len(cids) // 2
    assert {row["state"] for item in items for row in item["rows"]} <= {"accepted", "done"}
    told = {name: [it.word for it in fake.purged] for name, fake in six.fakes.items()}
    told["cloudfront"] = [word for purge in six.cloudfront.purges for word in purge.items]
    wanted = words_of(asked)
    for name, words in wanted.items():
        assert set(told[name]) == words, f"{name}: all that was asked, and nothing that was not"
    assert set(told["azure"]) == {path.partition("?")[0] for path in wanted["nginx"]}
    for name, fake in six.fakes.items():
        assert not fake.broken, name
        # A call that was sent and not heard is made again: of each edge at most as many as were under way.
        assert max(Counter(told[name]).values()) <= 1 + killed

    made = [call["InvalidationBatch"] for name, call in six.cloudfront.calls if name == "CreateInvalidation"]
    references = {(tuple(sorted(batch["Paths"]["Items"])), batch["CallerReference"]) for batch in made}
    assert len(references) == len(six.cloudfront.purges) < len(made), "what was made again had the same reference"
    assert max(Counter(told["cloudfront"]).values()) == 1, "and CloudFront purged nothing twice"


def until_ended(home: Home) -> list[Any]:
    ends = time.monotonic() + 2 * WITHIN_S
    while True:
        items = home.ok("cdn", "journal", "--limit", "100")["items"]
        if all(row["state"] not in ("queued", "pending") for item in items for row in item["rows"]):
            return list(items)
        assert time.monotonic() < ends, json.dumps(items)
        time.sleep(0.2)
