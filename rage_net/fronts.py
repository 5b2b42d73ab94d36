"""The way in through CDNs: whether a root may be asked of them, their stages of a download, and filling them.

They are opened when a download first looks elsewhere, because cdn.yaml and an HTTP client cost more than a look into
the store. What is asked of a third party tells it what is looked for, so a node with a CA asks a CDN for public roots
alone, as it does the DHT; one of which nothing is known it asks for when it was told to look there and nowhere else.
The operator's own edges are no third party. A document that is there encrypted is asked for by its ciphertexts' names,
which tell nobody what is looked for.

Not here: requests, breakers (services.fronting). Source: seed, "Retrieval Flow"; issue 6, D; design D7.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rage_net import config as configuration
from rage_net import sealings, sharing
from rage_net.chunk import manifest
from rage_net.cid import Cid
from rage_net.errors import ConfigError, RageError, UnavailableError
from rage_net.services.retrieval import Source, Stage, Way, known
from rage_net.web import Web

if TYPE_CHECKING:
    from rage_net.cdn.probe import Probe
    from rage_net.cdn.sealing import Sealed
    from rage_net.cdn.signing import SigningKey
    from rage_net.config.cdn import Provider
    from rage_net.engine import Engine
    from rage_net.services.fronting import Fills, Front, Fronting

ASKED_S_MAX = 5.0
"""For a CDN to answer `rage why`."""
MakeWay = Callable[["Fronting", "Front", float], Way]

NONE_CONFIGURED = "no CDN is configured that serves this node"
NOT_PUBLIC = "not asked: the chunk is not known to be public"


class WaysIn:
    """The CDNs of one engine, opened when they are first needed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._opening = asyncio.Lock()
        self._is_open = False
        self._fronting: Fronting | None = None
        self._fills: Fills | None = None
        self._webs: dict[Path | None, Web] = {}
        self._closing = AsyncExitStack()

    async def open(self) -> Fronting | None:
        """The CDNs that serve this node; None where there is none. Raises ConfigError for what is wrong in cdn.yaml."""
        async with self._opening:
            if not self._is_open:
                self._fronting = await self._make()  # what is wrong may be mended while a node runs: it is tried again
                self._is_open = True
        return self._fronting

    async def close(self) -> None:
        """Keep what was learnt of the edges, and close connections."""
        if self._fronting is not None:
            await self._engine.env.blocking(self._fronting.save)
        await self._closing.aclose()

    async def _make(self) -> Fronting | None:
        engine = self._engine
        if not engine.config.network.cdn.enabled:
            return None
        cdn = await engine.env.blocking(lambda: engine.cdn_config)
        if not cdn.enabled or not cdn.providers:
            return None
        from rage_net.services.fronting import Fills, Fronting, fronts

        signing_keys = await engine.env.blocking(_signing_keys, cdn.providers)
        served = fronts(cdn.providers, engine.config.network.geo, signing_keys)
        if not served:
            return None
        made = Fronting(
            served,
            engine.env,
            engine.metrics,
            self.web,
            file=engine.home.edges,
            tells_public=engine.config.network.security.ca_cert is None,
        )
        await engine.env.blocking(made.load)
        blocks = functools.partial(manifest.blocks, load=engine.store.get)

        async def send(cid: Cid) -> bool:
            """Into the buckets that CDNs read, where this node has their keys; else by asking the CDNs for it."""
            return await engine.fill_buckets(cid) or await made.fill(cid)

        self._fills = Fills(engine.env, blocks, send)
        return made

    def web(self, ca_file: Path | None = None) -> Web:
        """A client that trusts the certificates of a file, or the system's."""
        found = self._webs.get(ca_file)
        if found is None:
            found = self._webs[ca_file] = Web(ca_file=ca_file)
            self._closing.push_async_exit(found)
        return found

    # --- downloads ---

    async def stages(self, root: Cid, sources: Sequence[str]) -> list[Stage]:
        """Stages of CDNs for a download, by priority; what is wrong in cdn.yaml is told as what they say.

        Raises: ConfigError, where nothing else may be asked.
        """
        is_named = "p2p" not in sources
        try:
            fronting = await self.open()
        except ConfigError as error:
            if is_named:
                raise
            return [_failed(error)]
        if fronting is None:
            return [known("cdn", (), NONE_CONFIGURED)] if is_named else []
        sealed = await sealings.readable(self._engine, root)
        own_only = not sealed and not await self.may_ask(root, is_named=is_named)  # a ciphertext's name tells nothing
        levels = fronting.levels(own_only=own_only)
        if not levels:
            return [known("cdn", (), NOT_PUBLIC)]
        way = functools.partial(_sealed_way, self._engine, sealed[0]) if sealed else _way
        return [stage(fronting, level, len(levels), way) for level in levels]

    async def may_ask(self, root: Cid, *, is_named: bool) -> bool:
        """Whether third parties may learn that this root is looked for. `is_named`: they alone were to be asked."""
        engine = self._engine
        if await engine.may_ask(root):
            return True
        assert engine.metadata is not None  # there is a CA
        visibilities = await engine.env.blocking(self._visibilities, root)
        return "public" in visibilities or (is_named and not visibilities)

    def _visibilities(self, root: Cid) -> set[str]:
        """Of the documents of catalogs that a root is. Blocking."""
        metadata = self._engine.metadata
        assert metadata is not None
        found = set()
        for row in sharing.catalog_rows(metadata, str(root)):
            access = metadata.access.access_of(row.organization, row.doc_id)
            found.add(access.visibility if access is not None and not row.is_dead else "")
        return found

    async def ask(self, root: Cid) -> list[tuple[Front, Probe]]:
        """What each CDN that may be asked answers to a request for a root, all at once; its breaker is not minded.

        Of a document that goes to CDNs encrypted, for the root page of its ciphertext. Raises: ConfigError.
        """
        fronting = await self.open()
        if fronting is None:
            return []
        from rage_net.cdn.probe import Place, probe

        sealed = await sealings.readable(self._engine, root)
        name = sealed[0].sealed if sealed else root
        may_ask = bool(sealed) or await self.may_ask(root, is_named=False)
        asked = [front for front in fronting.fronts if front.is_own or may_ask]
        found = await asyncio.gather(
            *(
                probe(
                    self.web(front.ca_file),
                    Place(front.provider, front.software, front.url, front.url),
                    f"/chunks/{name}",
                    cid=name,
                    timeout_s=ASKED_S_MAX,
                )
                for front in asked
            )
        )
        return list(zip(asked, found, strict=True))

    # --- filling ---

    def note_fill(self, root: Cid) -> None:
        """Peers had to give this public root: CDNs should have it. Queued; dropped where too many wait."""
        if self._fills is not None:
            self._fills.note(root)

    async def fill(self) -> None:
        """One round of what is queued: a node's job."""
        if self._fills is not None:
            await self._fills.round()


def stage(fronting: Fronting, level: Sequence[Front], levels: int, way: MakeWay | None = None) -> Stage:
    """Fronts of one priority, of so many levels: all of them together keep peers waiting for HEDGE_S at most."""
    patience_s = fronting.patience_s(level, levels)
    make = way or _way
    return known("cdn", [make(fronting, front, patience_s) for front in level], patience_s=patience_s)


def _way(fronting: Fronting, front: Front, hedge_s: float, *, is_ciphertext: bool = False) -> Way:
    from rage_net.services.fronting import Chunks

    async def reach() -> Source:
        fronting.check_asked(front)
        return Chunks(fronting, front, hedge_s, is_ciphertext=is_ciphertext)

    return Way(f"cdn {front.provider}", reach, is_holder=True, hedge_s=hedge_s)


def _sealed_way(engine: Engine, sealed: Sealed, fronting: Fronting, front: Front, hedge_s: float) -> Way:
    """The same CDN, where it has the root as ciphertext alone: where it wants signed URLs, these are."""
    reach = _way(fronting, front, hedge_s, is_ciphertext=True).reach
    return Way(f"cdn {front.provider}", sealings.way(engine, sealed, reach), is_holder=True, hedge_s=hedge_s)


def _signing_keys(providers: Sequence[Provider]) -> dict[str, SigningKey]:
    """By provider. Blocking. Raises: ConfigError, which names the key of cdn.yaml."""
    from rage_net.config.cdn import CloudFront

    found = {}
    for at, provider in enumerate(providers):
        config = provider.config
        if not isinstance(config, CloudFront) or not config.signing_key_id or config.signing_key_file is None:
            continue
        from rage_net.cdn.signing import load_key

        where = f"cdn.providers[{at}].config.signing_key_file"
        try:
            pem = configuration.read_bytes(config.signing_key_file, must_exist=True)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", mend=error.mend, id=error.id) from None
        found[str(provider.name)] = load_key(config.signing_key_id, pem, f"{where}, {config.signing_key_file},")
    return found


def _failed(error: RageError) -> Stage:
    async def reach() -> Source:
        raise UnavailableError(error.message, why=error.why, mend=error.mend)

    return known("cdn", [Way("cdn", reach)], patience_s=0.0)
