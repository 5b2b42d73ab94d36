"""CDNs as sources of chunks: which of them serve this node, in which order, and what is known of each edge's health.

A CDN is asked for a chunk by its plain address, `{public URL}/chunks/{cid}`, without a question before: absence is a
404. What comes is believed by nobody: it enters through the store's gate like a stranger's bytes. An edge that gives
none of use is left alone by its breaker, whose state lies in a small file of the home, so that a script of a hundred
`rage chunk get` pays once for a dead CDN. Filling CDNs with what peers gave is queued and never waited for.

    Front      an address where one CDN gives chunks
    Fronting   all of them, their breakers, the file
    Chunks     a front as a source of one download
    Fills      the queue of roots that CDNs should have

Not here: stages of a download, whether a root may be asked for at all (fronts); purging. Source: seed, "Retrieval
Flow"; issue 6, D.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rage_net.cdn.breaker import Breaker
from rage_net.cdn.probe import is_page
from rage_net.cdn.signing import SigningKey, sign
from rage_net.chunk.source import Received
from rage_net.cid import BLOCK_BYTES_MAX, Cid
from rage_net.config.cdn import Edge, Provider
from rage_net.durable import write_replacing
from rage_net.env import Env
from rage_net.errors import (
    AccessDeniedError,
    ConfigError,
    IntegrityError,
    NotFoundError,
    PeerProtocolError,
    RageError,
    UnavailableError,
)
from rage_net.messages import ChunkHeader, Traffic
from rage_net.web import Answer, Web

if TYPE_CHECKING:
    from rage_net.metrics import Metrics

HEDGE_S = 0.12
"""A CDN that has given nothing for so long is hedged by peers, and one that they outrun then is left alone: with what
beginning to ask them costs, a dead one costs 150 ms at most."""
CONNECT_S_MAX = 1.5
"""For a connection to an edge, TLS with it: edges are near, and where there is nothing else to ask this is the wait."""
CHUNK_S_MAX = 20.0
"""For one chunk: a cold one comes from the origin through the edge; 4 MiB at 210 KB/s."""
ABSENT_MAX = 3
"""Chunks in a row that an edge lacks, and has given none: it is taken to lack the rest of the document."""
FRONTS_MAX = 32
FILE_BYTES_MAX = 64 << 10
FILLS_MAX = 256
"""Roots that wait to be filled in; more are dropped, they are only warmth."""
ROUND_CHUNKS_MAX = 64
"""Chunks of one root that one round of filling asks for."""


@dataclass(frozen=True, slots=True)
class Front:
    """An address where a CDN gives chunks. `key` names it in the breakers' file."""

    provider: str
    url: str
    priority: int
    is_own: bool
    """The operator's own edge: asking it tells no third party."""
    software: str = "http"
    ca_file: Path | None = None
    signing_key: SigningKey | None = field(default=None, repr=False, compare=False)
    """Signs the URLs of ciphertexts, and of nothing else; None: they are asked for as everything is."""

    @property
    def key(self) -> str:
        """Who it is, over processes: a provider's name alone may come to mean another address."""
        return f"{self.provider} {self.url}"


def fronts(
    providers: Iterable[Provider], geo: str, signing_keys: Mapping[str, SigningKey] | None = None
) -> tuple[Front, ...]:
    """Where chunks are read by a node in the part of the world `geo`: priority 0 first, then as configured.

    Args: signing_keys: of the providers that want signed URLs, by name.

    A provider with regions serves those alone; a node that does not say where it is is served by all. Self-hosted edges
    without public URLs are asked by their endpoints.
    """
    found = []
    for provider in providers:
        regions = {str(region).lower() for region in provider.routing.regions}
        if regions and geo and geo.lower() not in regions:
            continue
        config = provider.config
        edge = config if isinstance(config, Edge) else None
        urls = provider.public_urls or (edge.endpoints if edge is not None else ())
        for url in dict.fromkeys(str(url).rstrip("/") for url in urls):
            ca_file = edge.ca_file if edge is not None else None
            is_own = provider.type == "self-hosted"
            name, priority = str(provider.name), provider.routing.priority
            key = (signing_keys or {}).get(name)
            found.append(Front(name, url, priority, is_own, provider.software, ca_file, key))
    return tuple(sorted(found, key=lambda front: front.priority)[:FRONTS_MAX])


class Fronting:
    """The CDNs that serve this node. Args: file: where breakers are kept over processes; None: nowhere.

    web_of: a client that trusts a CA file besides, or the system's for None. tells_public: chunks from a CDN count as
    public here, as in an open network, where nothing else says so.
    """

    def __init__(
        self,
        served: Sequence[Front],
        env: Env,
        metrics: Metrics,
        web_of: Callable[[Path | None], Web],
        *,
        file: Path | None = None,
        tells_public: bool = True,
    ) -> None:
        self.fronts = tuple(served)
        self.env = env
        self.metrics = metrics
        self.tells_public = tells_public
        self._web_of = web_of
        self._file = file
        self._breakers = {front.key: Breaker() for front in served}
        self._is_changed = False

    # --- breakers ---

    def breaker(self, front: Front) -> Breaker:
        """The state of one edge."""
        return self._breakers[front.key]

    def load(self) -> None:
        """Read what earlier processes learnt of the edges. A file that cannot be read says nothing. Blocking."""
        if self._file is None:
            return
        with suppress(OSError, ValueError, RecursionError):
            with self._file.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
            plain = json.loads(data) if len(data) <= FILE_BYTES_MAX else None
            if isinstance(plain, Mapping):
                for key in self._breakers:
                    self._breakers[key] = Breaker.load(plain.get(key))

    def save(self) -> None:
        """Keep what was learnt, when it changed. Best effort: nobody fails for it. Blocking."""
        if self._file is None or not self._is_changed:
            return
        self._is_changed = False
        plain = {key: told for key, breaker in self._breakers.items() if (told := breaker.dump())}
        with suppress(OSError, RageError):
            write_replacing(self._file, json.dumps(plain, indent=1).encode() + b"\n")

    # --- asking ---

    def levels(self, *, own_only: bool = False) -> list[list[Front]]:
        """The fronts to ask now, those of one priority together; of a cloud's public URLs the first that is not open.

        Those of a level that are all open are in it too: whoever reaches for one is told why it is not asked.
        """
        now = self.env.now()
        levels: dict[int, dict[str, list[Front]]] = {}
        for front in self.fronts:
            if front.is_own or not own_only:
                levels.setdefault(front.priority, {}).setdefault(front.provider, []).append(front)
        return [[one for each in level.values() for one in self._choose(each, now)] for level in levels.values()]

    def _choose(self, same: list[Front], now: float) -> list[Front]:
        """Of one provider: every edge of our own, as each is a cache; of a cloud one address."""
        if same[0].is_own:
            return same
        return [next((front for front in same if self.breaker(front).state(now) != "open"), same[0])]

    def patience_s(self, level: Sequence[Front], levels: int) -> float:
        """For how long others wait for a level alone: not at all where its edges are only tried again."""
        now = self.env.now()
        is_sound = any(self.breaker(front).state(now) == "closed" for front in level)
        return HEDGE_S / levels if is_sound else 0.0

    def check_asked(self, front: Front) -> None:
        """Raises UnavailableError while its breaker is open."""
        now = self.env.now()
        breaker = self.breaker(front)
        if breaker.state(now) == "open":
            raise UnavailableError(
                f"not asked for {breaker.left_s(now):.0f} s more: {breaker.reason}", id="cdn-unreachable"
            )

    async def fetch(
        self, front: Front, cid: Cid, size_max: int, patience_s: float = HEDGE_S, *, is_ciphertext: bool = False
    ) -> bytes:
        """One chunk, not verified. Given up after `patience_s`, the edge is one that others outran.

        Args: is_ciphertext: of a sealed document; the URL is signed where the front has a key, as no other is.
        Raises: NotFoundError, AccessDeniedError where the edge gives it not to us; UnavailableError, PeerProtocolError
        where the edge is of no use now; IntegrityError for a web page, and `size-differs` for more than `size_max`.
        """
        self.check_asked(front)
        breaker = self.breaker(front)
        url, key = f"{front.url}/chunks/{cid}", front.signing_key if is_ciphertext else None
        if key is not None:
            url = sign(key, url, self.env.now())
        if not breaker.admit(self.env.now()):  # another ask tries whether it is there again
            raise UnavailableError("another chunk is asked of it first", id="cdn-busy")
        began = self.env.monotonic()
        try:
            answer = await self._web_of(front.ca_file).send(
                "GET",
                url,
                timeout_s=CHUNK_S_MAX,
                connect_s=CONNECT_S_MAX,
                bytes_max=size_max,
            )
            return self._judge(front, cid, answer, is_signed=key is not None)
        except asyncio.CancelledError:
            if self.env.monotonic() - began >= patience_s * 0.9:
                self._change(front, lambda now: breaker.outrun(now, "it gave nothing while others did"))
            else:
                breaker.let_go()
            raise
        except PeerProtocolError as error:
            if error.id == "answer-too-large":
                breaker.let_go()
                if size_max >= BLOCK_BYTES_MAX:
                    raise IntegrityError(f"it gives more than a chunk has for {cid}") from error
                raise IntegrityError(error.message, id="size-differs") from error
            self._fail(front, error.message)
            raise
        except UnavailableError as error:
            if error.id != "cdn-busy":
                self._fail(front, error.message)
            raise UnavailableError(error.message, why=error.why, id="cdn-unreachable") from error
        except (IntegrityError, NotFoundError, AccessDeniedError):
            raise
        except RageError as error:  # its certificate, its address
            self._fail(front, error.message)
            raise UnavailableError(error.message, why=error.why, mend=error.mend, id="cdn-unreachable") from error
        except Exception:  # a bug: nothing is known of the edge, and whoever comes next may try it
            breaker.let_go()
            raise

    def _judge(self, front: Front, cid: Cid, answer: Answer, *, is_signed: bool) -> bytes:
        status = answer.status
        if status == 200:
            if is_page(answer.headers.get("content-type", ""), answer.body) and not cid.matches(answer.body):
                said = "it answers with a web page instead of the chunk: a login, or an error with 200"
                self.distrust(front, said)
                raise IntegrityError(said)
            self._answered(front)
            return answer.body
        if status in (404, 410):
            self._answered(front)
            raise NotFoundError("not found")
        if status in (401, 403, 451):  # object stores that may not be listed answer so for what they lack
            self._answered(front)
            if is_signed:
                raise AccessDeniedError(
                    f"it answers {status} to a signed URL: its key groups lack signing_key_id, the key file is not of"
                    " that id, this machine's clock is wrong, or it has no such object",
                    id="cdn-refused",
                )
            raise AccessDeniedError(f"it answers {status}")
        if 300 <= status < 400:
            raise PeerProtocolError(f"it answers {status}: redirects are not followed", id="redirected")
        if status in (408, 425, 429) or status >= 500:
            text = answer.headers.get("retry-after", "").strip()
            pause_s = float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
            said = f"it answers {status}"
            self._change(front, lambda now: self.breaker(front).failed(now, said, pause_s))
            raise UnavailableError(said, id="cdn-busy")
        raise PeerProtocolError(f"it answers {status}", id="cdn-answer")

    def distrust(self, front: Front, reason: str) -> None:
        """It sent wrong bytes."""
        self._change(front, lambda now: self.breaker(front).distrust(now, reason))

    def _answered(self, front: Front) -> None:
        if self.breaker(front).answered(self.env.now()):
            self._is_changed = True

    def _fail(self, front: Front, reason: str) -> None:
        self._change(front, lambda now: self.breaker(front).failed(now, reason))

    def _change(self, front: Front, change: Callable[[float], None]) -> None:
        change(self.env.now())
        self._is_changed = True

    async def fill(self, cid: Cid) -> bool:
        """Ask the first front of each provider for a chunk so that its edge gets it; whether any has it now."""
        is_there = False
        for front in (one for level in self.levels() for one in level):
            with suppress(RageError):
                data = await self.fetch(front, cid, BLOCK_BYTES_MAX)
                if cid.matches(data):
                    is_there = True
                else:
                    self.metrics.failures.add(1, "wrong_bytes")
                    self.distrust(front, f"it sent bytes that are not {cid}")
        return is_there


class Chunks:
    """A front as a source of one download. Args: is_ciphertext: of a sealed document's."""

    kind: Literal["cdn"] = "cdn"

    def __init__(self, fronting: Fronting, front: Front, patience_s: float, *, is_ciphertext: bool = False) -> None:
        self._fronting = fronting
        self._front = front
        self._patience_s = patience_s
        self._is_ciphertext = is_ciphertext
        self._absent = 0
        self._has_given = False

    @property
    def key(self) -> str:
        """Who it is."""
        return f"cdn {self._front.key}"

    @property
    def name(self) -> str:
        """For people."""
        return f"cdn {self._front.provider}"

    async def have(self, cids: Sequence[Cid], traffic: Traffic = "user") -> Sequence[bool]:
        """Yes, without a question: to ask costs as much as to fetch. No, once it lacked all it was asked for."""
        return [self._has_given or self._absent < ABSENT_MAX] * len(cids)

    async def fetch(self, cid: Cid, size_max: int, traffic: Traffic = "user") -> Received:
        """See `Fronting.fetch`."""
        try:
            data = await self._fronting.fetch(
                self._front, cid, size_max, self._patience_s, is_ciphertext=self._is_ciphertext
            )
        except (NotFoundError, AccessDeniedError):
            self._absent += 1
            raise
        self._has_given = True
        header = ChunkHeader(len(data), len(data), "raw", self._fronting.tells_public)
        return Received(header, [data])

    async def drop(self, reason: str) -> None:
        """Leave it alone for an hour, in other processes too."""
        self._fronting.distrust(self._front, reason)


class Fills:
    """Roots that CDNs should have, because peers had to give them: bounded, each once, worked off bit by bit.

    Args: blocks: the CIDs of a root that are here, in order; blocking. send: brings one to the CDNs; False when that
    was no use, which ends its root.
    """

    def __init__(
        self, env: Env, blocks: Callable[[Cid], Iterable[Cid]], send: Callable[[Cid], Awaitable[bool]]
    ) -> None:
        self._env = env
        self._blocks = blocks
        self._send = send
        self._waiting: OrderedDict[Cid, int] = OrderedDict()  # and how many chunks of it were sent
        self.dropped = 0
        """Roots for which there was no room."""

    def __len__(self) -> int:
        return len(self._waiting)

    def note(self, root: Cid) -> None:
        """Peers gave this public root."""
        if root in self._waiting:
            return
        if len(self._waiting) >= FILLS_MAX:
            self.dropped += 1
            return
        self._waiting[root] = 0

    async def round(self) -> None:
        """Send up to ROUND_CHUNKS_MAX chunks of the root that has waited longest; the rest of it comes after others."""
        if not self._waiting:
            return
        root, begun = self._waiting.popitem(last=False)
        try:
            cids = await self._env.blocking(self._slice, root, begun)
        except (ConfigError, IntegrityError, NotFoundError, UnavailableError):
            return  # it went meanwhile
        for cid in cids:
            if not await self._send(cid):
                return
        if len(cids) == ROUND_CHUNKS_MAX:
            self._waiting[root] = begun + len(cids)

    def _slice(self, root: Cid, begun: int) -> list[Cid]:
        return list(islice(self._blocks(root), begun, begun + ROUND_CHUNKS_MAX))
