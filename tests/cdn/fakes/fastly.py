"""ContractFakeFastly: purges, tokens, a service and its figures after Fastly's published contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from tests.cdn.fakes.server import Bucket, ContractFake, Purged, Reply, Seen, contract, why_not

PURGE = re.compile(r"/service/([^/]+)/purge(?:/([^/]+))?|/service/([^/]+)/(purge_all)|/purge/(.+)")


class ContractFakeFastly(ContractFake):
    """One service. `scope` and `services` are the token's; the service answers for `domains`."""

    def __init__(self, now: Callable[[], float], *, token: str = "fastly-token") -> None:
        super().__init__(now)
        self.token = token
        self.service_id = "SU1Z0isxPaozGVKXdv0eY"
        self.scope = "global"
        self.services: list[str] = []
        self.domains = ["cdn.example.org", "*.example.net"]
        self.keys = Bucket(100_000 / 3600, 100_000, now)
        self.writes = Bucket(1000 / 3600, 1000, now)
        self.realtime: list[dict[str, object]] = []
        self.history: list[dict[str, object]] = []
        self._contracts = {name: contract("fastly", name) for name in ("keys", "key", "one", "many", "all", "failure")}
        self._purges = 0

    def is_purge(self, seen: Seen) -> bool:
        return seen.method == "POST" and PURGE.fullmatch(seen.path) is not None

    def answer(self, seen: Seen) -> Reply:
        if seen.headers.get("fastly-key") != self.token:
            return self._fail(401, "Provided credentials are missing or invalid")
        match = PURGE.fullmatch(seen.path)
        if match is not None and seen.method == "POST":
            return self._answer_purge(seen, match)
        if seen.method != "GET":
            return self._fail(405, self.breaks(f"Method not allowed: {seen.method} {seen.path}"))
        if seen.path == "/tokens/self":
            token = {"id": "5Yo3XXnrQpjc20u0ybrf2g", "name": "rage", "user_id": "u", "scope": self.scope}
            return Reply(200, {**token, "services": self.services, "expires_at": "2030-01-01T00:00:00Z"})
        if "global" not in self.scope.split() and "global:read" not in self.scope.split():
            return self._fail(403, "You are not authorized to perform this action")
        match seen.path.strip("/").split("/"):
            case ["service", service_id] if service_id == self.service_id:
                return Reply(200, {"id": service_id, "name": "rage", "type": "vcl", "customer_id": "c"})
            case ["service", service_id, "domain"] if service_id == self.service_id:
                return Reply(200, [{"name": name, "service_id": service_id, "version": 1} for name in self.domains])
            case ["v1", "channel", service_id, "ts", "h"] if service_id == self.service_id:
                return Reply(200, {"Data": self.realtime, "Timestamp": int(self.now()), "AggregateDelay": 5})
            case ["stats", "service", service_id] if service_id == self.service_id:
                if seen.query.get("by") not in ("minute", "hour", "day") or "from" not in seen.query:
                    return self._fail(400, "Bad request", self.breaks(f"query {dict(seen.query)}"))
                return Reply(200, {"status": "success", "msg": None, "meta": {}, "data": self.history})
        return self._fail(404, "Record not found", "Couldn't find Service")

    def _answer_purge(self, seen: Seen, match: re.Match[str]) -> Reply:
        service_id, key = match[1] or match[3], match[2]
        if match[5] is not None:
            return self._answer_url(seen, unquote(match[5]))
        if unquote(service_id) != self.service_id or (self.services and service_id not in self.services):
            return self._fail(404, "Record not found", f"Couldn't find Service '{service_id}'")
        soft = "fastly-soft-purge" in seen.headers
        if match[4]:
            if soft:
                self.breaks("purge_all is never soft")
            if not set(self.scope.split()) & {"global", "purge_all"}:
                return self._fail(403, "You are not authorized to perform this action")
            if self.writes.take(1):
                return self._limited()
            self.purged.append(Purged("all", "*"))
            return self._ok("all", {"status": "ok"})
        if not set(self.scope.split()) & {"global", "purge_select"}:
            return self._fail(403, "You are not authorized to perform this action")
        if key is not None:
            if seen.body or why_not(self._contracts["key"], unquote(key)):
                return self._fail(400, "Bad request", self.breaks(f"one key: {key[:60]}"))
            return self._purge("key", [unquote(key)], soft)
        keys = seen.json()["surrogate_keys"] if seen.body and isinstance(seen.json(), dict) else None
        if seen.body and (why := why_not(self._contracts["keys"], seen.json())):
            return self._fail(400, "Bad request", self.breaks(why[:300]))
        if seen.body and seen.headers.get("content-type", "").partition(";")[0] != "application/json":
            return self._fail(400, "Bad request", self.breaks("content type is not application/json"))
        keys = keys or seen.headers.get("surrogate-key", "").split()
        if not 1 <= len(keys) <= 256:
            return self._fail(400, "Bad request", self.breaks(f"{len(keys)} keys"))
        return self._purge("keys", keys, soft)

    def _answer_url(self, seen: Seen, cached_url: str) -> Reply:
        host, slash, _ = cached_url.partition("/")
        if "://" in cached_url or not slash or seen.body:
            self.breaks(f"URL {cached_url[:80]}")
            return self._fail(404, "Record not found", "Cannot find service")
        if host not in self.domains and f"*.{host.partition('.')[2]}" not in self.domains:
            return self._fail(404, "Record not found", "Cannot find service")
        return self._purge("url", [cached_url], "fastly-soft-purge" in seen.headers)

    def _purge(self, kind: str, words: list[str], soft: bool) -> Reply:
        if self.keys.take(len(words)):
            return self._limited()
        self.purged += [Purged("url" if kind == "url" else "key", word, soft) for word in words]
        ids = []
        for _ in words:
            self._purges += 1
            ids.append(f"108-1391560174-{self._purges}")
        if kind == "keys":
            return self._ok("many", dict(zip(words, ids, strict=True)))
        return self._ok("one", {"status": "ok", "id": ids[0]})

    def _ok(self, name: str, answer: dict[str, str]) -> Reply:
        assert not why_not(self._contracts[name], answer)
        return Reply(200, answer, self._limits())

    def _limits(self) -> dict[str, str]:
        reset = int(self.now() + (1000 - self.writes.left) / self.writes.per_s) + 1
        return {"Fastly-RateLimit-Remaining": str(int(self.writes.left)), "Fastly-RateLimit-Reset": str(reset)}

    def _limited(self) -> Reply:
        answer = {"msg": "You have exceeded your hourly rate limit"}
        return Reply(429, answer, {**self._limits(), "Fastly-RateLimit-Remaining": "0"})

    def _fail(self, status: int, msg: str, detail: str = "") -> Reply:
        answer = {"msg": msg} | ({"detail": detail} if detail else {})
        assert not why_not(self._contracts["failure"], answer)
        return Reply(status, answer)
