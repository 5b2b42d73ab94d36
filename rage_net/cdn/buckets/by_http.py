"""What stores that are asked by plain HTTP have in common: one exchange with its deadline, and deletions one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rage_net.aws import hide
from rage_net.cdn.buckets.objects import check_key, parts_of
from rage_net.errors import RageError

if TYPE_CHECKING:
    from rage_net.web import Answer, Web

CALLS_MAX = 8
"""At once, where a call deletes one object."""
CALL_S = 30.0
BODY_BYTES_S_MIN = 200_000
"""A body that goes slower than this, over CALL_S, is given up."""
ERROR_BYTES_MAX = 64 * 1024
"""Of an answer that is no list."""


async def send(
    web: Web,
    method: str,
    url: str,
    secrets: Sequence[str],
    *,
    headers: Mapping[str, str],
    body: bytes | None,
    bytes_max: int,
) -> Answer:
    """One exchange, slower for a larger body; its errors without secrets, nor a cause that might have them."""
    timeout_s = CALL_S + len(body or b"") / BODY_BYTES_S_MIN
    try:
        return await web.send(method, url, headers=headers, body=body, timeout_s=timeout_s, bytes_max=bytes_max)
    except RageError as error:
        plain = type(error)(hide(error.message, secrets), why=hide(error.why, secrets), mend=error.mend, id=error.id)
    raise plain


async def each(
    keys: Sequence[str], delete_one: Callable[[str], Awaitable[RageError | None]]
) -> Mapping[str, RageError | None]:
    """Delete one by one, some at once: for each key None, or why it is there still."""
    outcomes: dict[str, RageError | None] = dict.fromkeys(map(check_key, keys))
    for part in parts_of(list(outcomes), CALLS_MAX):
        for key, outcome in zip(part, await asyncio.gather(*map(delete_one, part)), strict=True):
            outcomes[key] = outcome
    return outcomes


def length_of(answer: Answer) -> int:
    """Bytes of the object that an answer tells of; 0 where it does not say."""
    text = answer.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
