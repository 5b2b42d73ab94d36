"""ContractFakeCloudflare: zones, purges, tokens and figures after Cloudflare's published contract."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from tests.cdn.fakes.server import Bucket, ContractFake, Purged, Reply, Seen, contract, why_not

PURGE = re.compile(r"/client/v4/zones/([^/]+)/(purge_cache|invalidate_cache)")
PLANS = {"free": (5 / 60, 25, 800), "pro": (5, 25, 1500), "business": (10, 50, 1500), "enterprise": (50, 500, 3000)}


class ContractFakeCloudflare(ContractFake):
    """One zone. `permissions` are the token's; `url_limit`, `item_limit` are those of one call."""

    def __init__(self, now: Callable[[], float], *, plan: str = "free", token: str = "cf-token") -> None:
        super().__init__(now)
        per_s, burst, urls = PLANS[plan]
        self.token = token
        self.zone_id = "0123456789abcdef0123456789abcdef"
        self.domain = "example.org"
        self.permissions = ["#zone:read", "#cache_purge:edit"]
        self.token_status = "active"
        self.is_account_token = False
        self.sporadic: list[Reply] = []
        """Answers to the next requests of any kind, as when a good token is refused now and then."""
        self.url_limit = 500 if plan == "enterprise" else 100
        self.item_limit = 100
        self.tags_in_plan = True
        self.buckets = {"others": Bucket(per_s, burst, now), "urls": Bucket(urls, urls, now)}
        self.rows: list[dict[str, object]] = []
        self.figures_error = ""
        self._purge, self._graphql = contract("cloudflare", "purge"), contract("cloudflare", "graphql")
        self._accepted, self._failure = contract("cloudflare", "accepted"), contract("cloudflare", "failure")

    @property
    def api_url(self) -> str:
        return f"{self.url}/client/v4"

    def is_purge(self, seen: Seen) -> bool:
        return PURGE.fullmatch(seen.path) is not None

    def answer(self, seen: Seen) -> Reply:
        authorization = seen.headers.get("authorization", "")
        if not authorization.startswith("Bearer ") or authorization == "Bearer ":
            return self._fail(400, 6003, "Invalid request headers", 6103, "Invalid format for X-Auth-Key header")
        if authorization != f"Bearer {self.token}":
            return self._fail(401, 10000, "Authentication error")
        if self.sporadic:
            return self.sporadic.pop(0)
        match = PURGE.fullmatch(seen.path)
        if match is not None:
            return self._answer_purge(seen, match[1], soft=match[2] == "invalidate_cache")
        if seen.method == "GET" and seen.path == "/client/v4/user/tokens/verify":
            if self.is_account_token:
                return self._fail(401, 1000, "Invalid API Token")
            result = {"id": "f" * 32, "status": self.token_status}
            return Reply(200, {"success": True, "errors": [], "messages": [], "result": result}, self._limits())
        if seen.method == "GET" and (zone := re.fullmatch("/client/v4/zones/([^/]+)", seen.path)):
            if (wrong := self._zone(zone[1])) is not None:
                return wrong
            if "#zone:read" not in self.permissions:
                return self._fail(403, 9109, "Unauthorized to access requested resource")
            result = {"id": self.zone_id, "name": self.domain, "status": "active", "permissions": self.permissions}
            return Reply(200, {"success": True, "errors": [], "messages": [], "result": result}, self._limits())
        if seen.method == "POST" and seen.path == "/client/v4/graphql":
            return self._answer_figures(seen)
        return self._fail(404, 7000, self.breaks(f"No route for that URI: {seen.method} {seen.path}"))

    def _zone(self, zone_id: str) -> Reply | None:
        if not re.fullmatch("[0-9a-f]{32}", zone_id):
            return self._fail(
                404,
                7003,
                f"Could not route to /client/v4/zones/{zone_id}, perhaps your object identifier is invalid?",
                7000,
                "No route for that URI",
            )
        if zone_id != self.zone_id:
            return self._fail(403, 9109, "Unauthorized to access requested resource")
        return None

    def _answer_purge(self, seen: Seen, zone_id: str, *, soft: bool) -> Reply:
        if seen.method != "POST":
            return self._fail(405, 10405, self.breaks(f"Method {seen.method} not allowed for this resource"))
        if (wrong := self._zone(zone_id)) is not None:
            return wrong
        if "#cache_purge:edit" not in self.permissions:
            return self._fail(401, 10000, "Authentication error")
        body = seen.json()
        keys = {"files", "tags", "hosts", "prefixes", "purge_everything"}
        if not isinstance(body, dict) or not body.keys() & keys:
            self.breaks("none of the five keys")
            return self._fail(400, 1012, "Request must contain one of purge_everything, files, tags, hosts or prefixes")
        if any(not isinstance(body[key], list) for key in body.keys() & keys - {"purge_everything"}):
            return self._fail(400, 1014, self.breaks("Invalid type for key: an array is wanted"))
        if seen.headers.get("content-type", "").partition(";")[0] != "application/json":
            return self._fail(400, 6003, self.breaks("content type is not application/json"))
        if why := why_not(self._purge, body):
            return self._fail(400, 1016, self.breaks(why[:300]))
        [(kind, words)] = body.items()
        if kind == "tags" and not self.tags_in_plan:
            return self._fail(400, 1107, "Only enterprise zones can purge by tag.")
        most = self.url_limit if kind == "files" else self.item_limit
        if kind != "purge_everything" and len(words) > most:
            return self._fail(400, 1094, self.breaks(f"You may only purge up to {most} {kind} in one call"))
        name = "urls" if kind == "files" else "others"
        wait = self.buckets[name].take(len(words) if kind == "files" else 1)
        if wait:
            headers = {**self._limits(name), "Retry-After": str(math.ceil(wait))}
            return self._fail(
                429, 10429, "Rate limited. Please wait and consider throttling your speed", headers=headers
            )
        named = ["*"] if kind == "purge_everything" else [it["url"] if isinstance(it, dict) else it for it in words]
        self.purged += [Purged(kind, word, soft) for word in named]
        answer = {"success": True, "errors": [], "messages": [], "result": {"id": zone_id}}
        assert not why_not(self._accepted, answer)
        return Reply(200, answer, self._limits(name))

    def _answer_figures(self, seen: Seen) -> Reply:
        body = seen.json()
        if why := why_not(self._graphql, body):
            return Reply(200, {"data": None, "errors": [{"message": self.breaks(why[:300])}]})
        if self.figures_error:
            return Reply(200, {"data": None, "errors": [{"message": self.figures_error, "path": None}]})
        return Reply(200, {"data": {"viewer": {"zones": [{"httpRequestsAdaptiveGroups": self.rows}]}}, "errors": None})

    def _limits(self, name: str = "others") -> dict[str, str]:
        bucket = self.buckets[name]
        left, full = int(bucket.left), math.ceil((bucket.burst - bucket.left) / bucket.per_s)
        window = math.ceil(bucket.burst / bucket.per_s)
        return {
            "Ratelimit": f'"{name}";r={left};t={full}',
            "Ratelimit-Policy": f'"{name}";q={bucket.burst};w={window}',
        }

    def _fail(
        self, status: int, code: int, message: str, cause: int = 0, why: str = "", headers: dict[str, str] | None = None
    ) -> Reply:
        error: dict[str, object] = {"code": code, "message": message}
        if cause:
            error["error_chain"] = [{"code": cause, "message": why}]
        answer = {"success": False, "errors": [error], "messages": [], "result": None}
        assert not why_not(self._failure, answer)
        return Reply(status, answer, headers or {})
