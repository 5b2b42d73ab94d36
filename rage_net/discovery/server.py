"""The discovery server: takes signed registrations, checks once that their peer can be reached, tells who is there.

What a server must never do: list a peer under a key that did not sign; hand out first what cannot be reached; name an
address to somebody who cannot use it, such as a private one to the world; dial anything but who asked for it.

    scope     Addresses are taken from, and told to, a place from which they can be reached: loopback ones on this
              machine, private ones in private networks. A request that came through a proxy counts as from afar.
    private   A private registration is told to peers that prove, with a signed query, to be registered here with the
              same organisation, and are among its `members` where it names some. An organisation is a claim until
              certificates prove it: till then this hides a peer from passers-by, not from who lies.
    limits    Registrations and queries of one source address (an IPv6 /64), registrations of an address, a site, an
              organisation and in all (`registry`), dial-backs (`dial_back`), pages.

Not here: HTTP (the door), the file (`registry`), signatures (`proofs`). Source: specification, "Discovery Server API";
design D7.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl

from rage_net.discovery import api
from rage_net.discovery.api import Answer, Request
from rage_net.discovery.dial_back import DialBack, DialBacks, dialable
from rage_net.discovery.proofs import SIGNATURE, Place, verify_query, verify_registration
from rage_net.discovery.records import (
    ADDRESSES_LISTED_MAX,
    ListedPeer,
    RecordError,
    Registration,
    clamp_ttl_s,
    encode_listed,
    is_name,
    visible_from,
    why_unusable,
)
from rage_net.discovery.registry import UNREACHED, UNTRIED, Entry, Filter, Registry, RegistryFullError
from rage_net.discovery.selection import Candidate, choose
from rage_net.env import Env
from rage_net.errors import NotFoundError, UnavailableError, UsageError
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PEER_ID_BYTES_MAX, PeerId
from rage_net.libp2p.rates import Rates
from rage_net.libp2p.scope import HOST_PREFIX_BITS, IpAddress, Scope, prefix, scope_of, scope_of_ip
from rage_net.metrics import Metrics

REGISTER_BURST, REGISTER_RATE_S = 128.0, 5.0
"""Registrations of one source address: at once, and a second after that. 128 nodes behind one gateway beat 4.3 times a
second."""
QUERY_BURST, QUERY_RATE_S = 60.0, 2.0
"""Queries of one source address."""
SOURCES_KEPT = 8192
"""Source addresses whose rates are kept."""
FULL_RETRY_S = 60
"""When whoever found no room may come again."""
RECHECK_S = 900.0
"""After so long, a heartbeat of a peer that could not be reached has it tried again: firewalls are mended."""
FORWARDED = ("forwarded", "x-forwarded-for", "via")
"""Headers of a request that came through a proxy."""

_NO_STORE = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class _Asker:
    """Who asks: from how near, and as whom, where that was proved."""

    scope: Scope
    peer_id: PeerId | None
    organization: str

    def may_see(self, entry: Entry) -> bool:
        """Whether the entry is for this one."""
        if not entry.private or entry.peer_id == self.peer_id:
            return True
        if not self.organization or entry.organization_id != self.organization:
            return False
        return not entry.members or self.peer_id in entry.members


class Server:
    """What answers on `/api/v1/network`; an async context manager: entered it dials back, left it has stopped.

    Args: hosts: names this server goes by: what is signed for another server is refused. dial_back: None checks nobody.
    """

    def __init__(
        self,
        registry: Registry,
        env: Env,
        metrics: Metrics,
        *,
        hosts: Collection[str] = (),
        dial_back: DialBack | None = None,
    ) -> None:
        self._registry = registry
        self._env = env
        self._metrics = metrics
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._registering = Rates(burst=REGISTER_BURST, rate_s=REGISTER_RATE_S, names_max=SOURCES_KEPT)
        self._asking = Rates(burst=QUERY_BURST, rate_s=QUERY_RATE_S, names_max=SOURCES_KEPT)
        self.dial_backs = DialBacks(dial_back, self._note_check, clock=env.monotonic) if dial_back is not None else None
        self._tasks = asyncio.TaskGroup()
        self._worker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Server:
        await self._tasks.__aenter__()
        if self.dial_backs is not None:
            self._worker = self._tasks.create_task(self.dial_backs.work())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def handle(self, request: Request) -> Answer:
        """The answer to a request on one of the routes.

        Raises: IntegrityError, AccessDeniedError, ConflictError for what is not signed as it must be; UsageError,
        NotFoundError; UnavailableError, StorageFullError when the registry cannot be used.
        """
        is_register = request.path == api.REGISTER
        wait_s = self._wait_s(self._registering if is_register else self._asking, request.source)
        if wait_s:
            self._metrics.shed.add(1, "discovery-rate")
            return _come_again(wait_s)
        if is_register:
            return await self._register(request)
        if request.path in (api.BOOTSTRAP, api.PEERS):
            return await self._list(request)
        raise NotFoundError("no such route")

    async def sweep(self) -> None:
        """Forget what has long expired, and keep the gauges. Call it now and then."""
        now = self._env.now()
        await self._env.blocking(self._registry.sweep, now)
        for found, count in (await self._env.blocking(self._registry.counts, now)).items():
            self._metrics.discovery_peers.set(count, found)

    # --- register ---

    async def _register(self, request: Request) -> Answer:
        now = self._env.now()
        registration = verify_registration(
            request.body, request.headers.get(SIGNATURE, ""), now=now, place=self._place(request)
        )
        source, is_direct = request.source, _is_direct(request)
        if source is None:
            raise UsageError("a registration comes over IP")
        scope = _scope(source) if is_direct else Scope.WORLD
        kept, dropped = _sort_addresses(registration, source, scope)
        is_leaving = registration.ttl_s == 0
        if not kept and not is_leaving:
            raise RecordError(
                "no address in it can be used from here",
                why="; ".join(f"{address}: {why}" for address, why in dropped) or "it names none",
                mend=["set network.libp2p.listen_addresses, or open the port that others are to reach"],
                id="no-usable-address",
            )
        ttl_s = 0.0 if is_leaving else clamp_ttl_s(registration.ttl_s)
        put = functools.partial(
            self._registry.put,
            replace(registration, addresses=kept),
            source=source,
            now=now,
            ttl_s=ttl_s,
            draw=self._env.random.getrandbits(62),
        )
        try:
            entry, old = await self._env.blocking(put)
        except RegistryFullError as error:
            self._metrics.shed.add(1, "discovery-full")
            return Answer(error.wire_code, error.to_plain(), {**_NO_STORE, "Retry-After": str(FULL_RETRY_S)})
        is_checking = not is_leaving and is_direct and self._check_soon(entry, source, now)
        replaced = old is not None and old.instance != entry.instance
        return Answer(
            200,
            {
                "registered": not is_leaving,
                "peer_id": str(entry.peer_id),
                "addresses": [str(address) for address in entry.addresses],
                "dropped": [{"address": str(address), "why": why} for address, why in dropped],
                "observed": str(source) if is_direct else None,
                "ttl_s": ttl_s,
                "expires_at": entry.expires_at,
                "organization_proven": False,
                "reachable": entry.reachable,
                "checking": is_checking,
                "previous": _previous(old, entry) if replaced and old is not None else None,
            },
            _NO_STORE,
        )

    def _check_soon(self, entry: Entry, source: IpAddress, now: float) -> bool:
        """Have a new peer dialled back, and one that was tried in vain long ago."""
        is_due = entry.rank == UNTRIED or (
            entry.rank == UNREACHED and entry.checked_at is not None and now - entry.checked_at > RECHECK_S
        )
        return (
            is_due
            and self.dial_backs is not None
            and self.dial_backs.ask(entry.peer_id, entry.addresses, source, entry.instance)
        )

    async def _note_check(self, peer_id: PeerId, instance: str, source: str, is_reachable: bool) -> None:
        await self._env.blocking(self._registry.note_check, peer_id, instance, source, is_reachable, self._env.now())
        self._metrics.discovery_checks.add(1, "yes" if is_reachable else "no")

    # --- list ---

    async def _list(self, request: Request) -> Answer:
        words = _words(request.query)
        asker = await self._asker(request)
        if request.path == api.BOOTSTRAP:
            count = _number(words, "limit", api.SAMPLE_DEFAULT, api.SAMPLE_MAX)
            wanted = Filter(scope=asker.scope, asker=asker.organization)
            pool = functools.partial(
                self._registry.pool, wanted, now=self._env.now(), count=count, draw=self._env.random.getrandbits(62)
            )
            candidates = [
                Candidate(entry, entry.rank, entry.region, entry.site)
                for entry in await self._env.blocking(pool)
                if asker.may_see(entry)
            ]
            chosen = choose(candidates, count, self._env.random)
            return Answer(200, {"peers": [_show(entry, asker.scope) for entry in chosen]}, _NO_STORE)
        wanted = Filter(
            organization=_word(words, "organization"),
            region=_word(words, "region"),
            capability=_word(words, "capability"),
            scope=asker.scope,
            asker=asker.organization,
        )
        page = functools.partial(
            self._registry.page,
            wanted,
            now=self._env.now(),
            limit=_number(words, "limit", api.LIMIT_DEFAULT, api.LIMIT_MAX),
            after=_decode_cursor(words.get("cursor", "")),
        )
        entries, more = await self._env.blocking(page)
        plain = {
            "peers": [_show(entry, asker.scope) for entry in entries if asker.may_see(entry)],
            "next": _encode_cursor(more),
        }
        return Answer(200, plain, _NO_STORE)

    async def _asker(self, request: Request) -> _Asker:
        source = request.source
        scope = _scope(source) if source is not None and _is_direct(request) else Scope.WORLD
        now = self._env.now()
        peer_id = verify_query(
            request.headers,
            method=request.method,
            path=request.path,
            query=request.query,
            now=now,
            place=self._place(request),
        )
        entry = None if peer_id is None else await self._env.blocking(self._registry.get, peer_id, now)
        return _Asker(scope, peer_id, entry.organization_id if entry is not None else "")

    # --- both ---

    def _wait_s(self, rates: Rates, source: IpAddress | None) -> float:
        name = prefix(source, HOST_PREFIX_BITS) if source is not None else ""
        return rates.take(name, self._env.monotonic())

    def _place(self, request: Request) -> Place:
        return Place(self._hosts, *request.local)


def _sort_addresses(
    registration: Registration, source: IpAddress, scope: Scope
) -> tuple[tuple[Multiaddr, ...], list[tuple[Multiaddr, str]]]:
    """The addresses that are listed, those at the source first; and the others with the reason."""
    kept, dropped = [], []
    for address in registration.addresses:
        why = why_unusable(address)
        if why is None and scope_of(address) < scope:
            why = f"it reaches its {scope_of(address).name.lower()} alone, and this came from farther away"
        if why is None:
            kept.append(address)
        else:
            dropped.append((address, why))
    proved = dialable(kept, source)
    ordered = tuple(dict.fromkeys((*proved, *kept)))
    dropped += [(address, "there are enough before it") for address in ordered[ADDRESSES_LISTED_MAX:]]
    return ordered[:ADDRESSES_LISTED_MAX], dropped


def _previous(old: Entry, new: Entry) -> dict[str, Any]:
    """What another process with the same key had registered, for the client to judge."""
    return {
        "instance": old.instance,
        "addresses": [str(address) for address in old.addresses],
        "source": old.source,
        "source_differs": old.source != new.source,
        "seen_at": old.seen_at,
    }


def _show(entry: Entry, scope: Scope) -> dict[str, Any]:
    return encode_listed(
        ListedPeer(
            peer_id=entry.peer_id,
            addresses=visible_from(entry.addresses, scope),
            organization_id=entry.organization_id,
            region=entry.region,
            zone=entry.zone,
            capabilities=entry.capabilities,
            private=entry.private,
            reachable=entry.reachable,
            expires_at=round(entry.expires_at, 3),
        )
    )


def _scope(source: IpAddress) -> Scope:
    return scope_of_ip(source) or Scope.WORLD


def _is_direct(request: Request) -> bool:
    """Whether the source address is that of who asks, and not of a proxy between."""
    return not any(name in request.headers for name in FORWARDED)


def _come_again(wait_s: float) -> Answer:
    seconds = str(max(1, math.ceil(wait_s)))
    error = UnavailableError("too many requests from this address", why=f"come again in {seconds} s", id="rate-limited")
    return Answer(429, error.to_plain(), {**_NO_STORE, "Retry-After": seconds})


def _words(query: str) -> dict[str, str]:
    if len(query) > api.QUERY_CHARS_MAX:
        raise UsageError(f"a query has at most {api.QUERY_CHARS_MAX} characters")
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=False, max_num_fields=16))
    except ValueError as error:
        raise UsageError("the query cannot be read") from error


def _word(words: Mapping[str, str], name: str) -> str:
    text = words.get(name, "")
    if text and not is_name(text):
        raise UsageError(f"{name} is no name", why="letters, digits, `.`, `_`, `-`, at most 64")
    return text


def _number(words: Mapping[str, str], name: str, default: int, limit: int) -> int:
    text = words.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= limit):
        raise UsageError(f"{name} is 1 to {limit}")
    return int(text)


def _encode_cursor(at: tuple[int, bytes] | None) -> str | None:
    return None if at is None else base64.urlsafe_b64encode(bytes((at[0],)) + at[1]).decode("ascii").rstrip("=")


def _decode_cursor(text: str) -> tuple[int, bytes] | None:
    if not text:
        return None
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise UsageError("the cursor is none that this server gave") from error
    if not 1 < len(raw) <= 1 + PEER_ID_BYTES_MAX:
        raise UsageError("the cursor is none that this server gave")
    return raw[0], raw[1:]
