"""The directory of one edge, written by nginx's WebDAV module. Source: issue 6, B; cdn-apis 8 (DAV)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack
from urllib.parse import quote

from rage_net.cdn.buckets.by_http import ERROR_BYTES_MAX, each, length_of, send
from rage_net.cdn.buckets.objects import Found, Page, PutOutcome, Told, check_data, check_key, joined
from rage_net.cdn.retry import RETRIED
from rage_net.errors import ConfigError, RageError, StorageFullError, UnavailableError, UsageError

if TYPE_CHECKING:
    from rage_net.web import Answer, Web


class Dav:
    """The directory of one edge, written by nginx's WebDAV module. See `Bucket`.

    nginx knows no conditions: an object that is there is replaced at once, by the same bytes. It keeps no tags, and has
    no list.
    """

    def __init__(self, endpoint: str, path: str, *, web: Web, token: str | None) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._path = "/".join(quote(part, safe="~") for part in path.split("/") if part)
        self._web = web
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._secrets = (token,) if token else ()

    def __str__(self) -> str:
        return f"{self._endpoint}/{self._path}".rstrip("/")

    async def put(self, key: str, data: bytes, **told: Unpack[Told]) -> PutOutcome:
        """PUT. The rest is the edge's own configuration: it keeps nothing but bytes."""
        joined(told.get("tags", ()), told.get("metadata", {}))
        headers = {**self._headers, "Content-Type": told["content_type"]}
        answer = await self._send("PUT", key, headers=headers, body=check_data(data))
        if answer.status in (200, 201, 204):
            return PutOutcome(answer.status != 201)
        raise self._error(f"write {key}", answer)

    async def delete(self, keys: Sequence[str]) -> Mapping[str, RageError | None]:
        """DELETE for each, some at once."""

        async def delete_one(key: str) -> RageError | None:
            try:
                answer = await self._send("DELETE", key, headers=self._headers)
            except RageError as error:
                return error
            return None if answer.status in (200, 204, 404) else self._error(f"delete {key}", answer)

        return await each(keys, delete_one)

    async def head(self, key: str) -> Found | None:
        """HEAD."""
        answer = await self._send("HEAD", key, headers=self._headers, bytes_max=1 << 50)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._error(f"look at {key}", answer)
        return Found(
            length_of(answer),
            content_type=answer.headers.get("content-type", ""),
            cache_control=answer.headers.get("cache-control", ""),
        )

    async def page(self, prefix: str, marker: str | None = None) -> Page:
        """Refused."""
        raise UsageError(f"{self} cannot be listed", why="nginx's WebDAV module lists no directories")

    async def set_tags(self, key: str, tags: Sequence[str]) -> None:
        """Nothing: nginx neither keeps tags nor purges by them."""
        joined(tags, {})

    def close(self) -> None:
        """Nothing: connections are those of `web`."""

    async def _send(
        self,
        method: str,
        key: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        bytes_max: int = ERROR_BYTES_MAX,
    ) -> Answer:
        url = f"{self}/{check_key(key)}"
        return await send(self._web, method, url, self._secrets, headers=headers, body=body, bytes_max=bytes_max)

    def _error(self, doing: str, answer: Answer) -> RageError:
        message, why = f"cannot {doing} in {self}", f"nginx says {answer.status}"
        if answer.status in (401, 403):
            mend = ("see config.auth_token in cdn.yaml, and what the edge compares it with",)
            return ConfigError(message, why=why, mend=mend, id="objects-refused")
        if answer.status == 507:
            return StorageFullError(message, why=why, mend=("give the edge's disk more room",))
        if answer.status in RETRIED:
            return UnavailableError(message, why=why, id="objects-unavailable")
        mend = (DAV_MENDS.get(answer.status, "see config.dav_path and config.endpoints in cdn.yaml"),)
        return ConfigError(message, why=why, mend=mend, id="objects-setup")


DAV_MENDS = {
    405: "dav_methods PUT DELETE; in the location that config.dav_path names",
    409: "create_full_put_path on; in the location that config.dav_path names",
    413: "client_max_body_size 8m; in the location that config.dav_path names: chunks have up to 4 MiB",
}
"""By status: what nginx lacks."""
