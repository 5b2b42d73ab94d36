"""The metadata of a node with a CA: its log and what is read from it, composed. It needs no network.

Opened with the engine.
    log        signed facts                                   sync
    authority  whom we believe, what authors may do           services
    access     rights, compiled                               services
    records    documents as facts, facts as documents         services
    cdns       what CDNs may hold of documents                services
    sealed     keys of documents that go there encrypted      cdn

Blocking throughout: reached through `env.blocking`. Source: design D6, D8; ARCHITECTURE.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rage_net import durable
from rage_net import home as homes
from rage_net.acl import AccessList, Strategy
from rage_net.cdn.keyfile import KeyFile
from rage_net.cert import verify_chain
from rage_net.chunk.documents import Documents
from rage_net.chunk.store import ChunkStore
from rage_net.config import Config
from rage_net.env import Env
from rage_net.errors import AccessDeniedError, CertificateError, ConfigError
from rage_net.home import Home
from rage_net.libp2p.peer_id import PeerId
from rage_net.replication.place import Candidate
from rage_net.services.ledger.access import Access
from rage_net.services.ledger.authority import Authority
from rage_net.services.ledger.cdns import Cdns
from rage_net.services.ledger.records import Records
from rage_net.services.trust import Files
from rage_net.sync import facts as kinds
from rage_net.sync.facts import Fact, New
from rage_net.sync.log import Log, open_log

if TYPE_CHECKING:
    from rage_net.cert import Anchor, NodeCertificate
    from rage_net.config.network import Conflicts
    from rage_net.services.trust.credentials import Stamp


class Metadata:
    """What an engine has beside its store once a CA is set. For trust it is the `TrustStore`."""

    def __init__(
        self, home: Home, config: Config, log: Log, own: PeerId, store: ChunkStore, documents: Documents, env: Env
    ) -> None:
        network = config.network
        self.organization = network.organization_id
        self.own = own
        self.log = log
        self.files = Files(
            network.security.ca_cert, network.security.tls_cert or home.certs / "node.crt", self.organization
        )
        self._stamp: Stamp = self.files.stamp()
        credentials = self.files.load()
        self.authority = Authority(log, self.organization, own, credentials.anchors, env.now)
        self.access = Access(log, self.authority, own, _strategies(network.sync.conflicts), env.now)
        self.records = Records(store, documents, log, self.access, self.organization, own, env)
        self.cdns = Cdns(log, self.access, self.authority, self.organization, own, env.now)
        self.sealed = KeyFile(home.sealed)
        self.is_read_only = network.sync.read_only
        self._home = home
        self.now = env.now
        self._agreed_at = _read_time(home)
        self._has_company = False
        self._judged_by: object = None

    # --- our own certificate ---

    def reload(self) -> list[Fact]:
        """Look at our certificate and CAs again, and tell the log of a certificate that it does not know.

        Others judge by that what we may write. Raises ConfigError for a CA file that cannot be used.
        """
        stamp = self.files.stamp()
        credentials = self.files.load()
        if stamp != self._stamp or credentials.anchors != self.authority.anchors:
            self._stamp, self.authority.anchors = stamp, credentials.anchors
        self.rejudge_if_due()
        chain = credentials.chain
        if not chain or self.authority.judge(self.organization, self.own, chain) is None:
            return []
        resource = f"peer:{self.own}"
        known = [fact.body for fact in self.log.facts(self.organization, resource) if fact.author == self.own]
        certificate = kinds.Certificate(chain)
        if certificate in known:
            return []
        judge = functools.partial(self.authority.judge, self.organization)
        facts = self.log.append(self.organization, [New(resource, certificate)], judge=judge)
        self.access.forget_all()
        return facts

    def proof(self) -> NodeCertificate:
        """Our certificate, if it proves now that we are of our organisation. Raises CertificateError, ConfigError."""
        chain = self.files.load().chain
        authority = self.authority
        is_revoked = authority.is_revoked
        return verify_chain(chain, authority.anchors, self.now(), peer_id=self.own, is_revoked=is_revoked).certificate

    def rejudge(self) -> None:
        """CAs have changed: judge every author anew, our own organisation's first, for its admins say whom we trust."""
        self.authority.refresh()
        for organization in sorted(self.log.organizations(), key=lambda each: each != self.organization):
            self.log.rejudge(organization, functools.partial(self.authority.judge, organization))
            self.authority.refresh()
        self.conclude()
        self._judged_by = self._believed()

    def conclude(self) -> None:
        """The log says otherwise whom to believe: forget what was concluded, and read what the event loop will ask."""
        self.authority.refresh()
        self.access.forget_all()
        self.authority.prepare()

    def rejudge_if_due(self) -> None:
        """As `rejudge`, where other CAs are believed than when that was last done: new, withdrawn, or ended ones."""
        self.authority.refresh()
        if self._believed() != self._judged_by:
            self.rejudge()

    def _believed(self) -> object:
        return self.authority.anchors, self.authority.foreign_anchors()

    def tell_of_node(self, region: str, zone: str) -> list[Fact]:
        """Write this node's record where it is new: what placement and whoever waits for this node go by."""
        capabilities = self.authority.capabilities(self.organization, self.own)
        if capabilities is None:
            return []
        resource = f"peer:{self.own}"
        known = [fact.body for fact in self.access.rights(self.organization, resource).in_force]
        records = [body for body in known if isinstance(body, kinds.NodeRecord)]
        record = kinds.NodeRecord(region, zone, 1, "active", tuple(sorted(capabilities)))
        if records == [record] or any(body.state != "active" for body in records):
            return []  # drained or lost is somebody's decision, and stays
        facts = self.log.append(self.organization, [New(resource, record)])
        self.access.forget(facts)
        return facts

    def set_node_state(self, node: Candidate, state: str) -> list[Fact]:
        """Write a node's record with another state: of ourselves, or as an admin. Raises AccessDeniedError."""
        is_admin = self.authority.is_admin(self.organization, self.own)
        if node.organization != self.organization or (node.peer_id != self.own and not is_admin):
            raise AccessDeniedError(
                f"this node may not say what becomes of {node.peer_id}",
                why="that is for the node itself, or for one whose certificate has the capability admin",
                mend=["run it on that node, or on one with admin", "rage cert show"],
                id="not-admin",
            )
        capabilities = self.authority.capabilities(self.organization, node.peer_id) or frozenset()
        record = kinds.NodeRecord(node.region, node.zone, node.weight, state, tuple(sorted(capabilities)))
        facts = self.log.append(self.organization, [New(f"peer:{node.peer_id}", record)])
        self.access.forget(facts)
        return facts

    def may_write(self) -> bool:
        """Whether facts of ours about documents would count anywhere."""
        capabilities = self.authority.capabilities(self.organization, self.own) or frozenset()
        return not self.is_read_only and bool(capabilities & {"storage", "admin"})

    def require_writer(self) -> None:
        """Pass where `may_write`. Raises AccessDeniedError, CertificateError."""
        if self.is_read_only:
            raise AccessDeniedError(
                "this node only reads",
                why="network.sync.read_only is set",
                mend=["write on another node", "set network.sync.read_only to false"],
                id="read-only",
            )
        if not self.may_write():
            raise CertificateError(
                "this node's certificate lets it write nothing",
                why="it has none that its CA signed, or one without the capability storage",
                mend=["rage cert request -o node.csr", "rage cert show"],
                id="not-certified",
            )

    def living_access(self, organization: str, doc_id: str) -> AccessList | None:
        """The rights of a document that was not removed; None where the log has none."""
        rights = self.access.rights(organization, f"doc:{doc_id}")
        return rights.access if rights.facts and not rights.is_dead else None

    # --- how fresh the log is ---

    @property
    def agreed_at(self) -> float:
        """When our log was last compared with another node's of our organisation; 0 never."""
        return self._agreed_at

    def note_agreed(self, now: float) -> None:
        """It was, now."""
        self._agreed_at = now

    def save_agreed(self) -> None:
        """Write it down for the next start. A memory aid: not synced."""
        with durable.file_errors(self._home.synced):
            durable.write_replacing(self._home.synced, f"{self._agreed_at:.0f}\n".encode())

    # --- the TrustStore ---

    def foreign(self) -> Sequence[Anchor]:
        """See `TrustStore`."""
        return self.authority.foreign_anchors()

    def is_revoked(self, organization: str, serial: str, peer: PeerId) -> bool:
        """See `TrustStore`."""
        return self.authority.is_revoked(organization, serial, peer)

    def synced_at(self) -> float | None:
        """See `TrustStore`. A node that never met another of its organisation lags behind nobody."""
        if not self._has_company:
            heads = self.log.heads(self.organization)
            self._has_company = any(head.chain.author != self.own for head in heads)
        return self._agreed_at if self._has_company else None


@contextmanager
def open_metadata(
    home: Home, config: Config, store: ChunkStore, documents: Documents, env: Env
) -> Iterator[Metadata | None]:
    """The metadata of a home; None on an open node, which has no CA and no log. Blocking. Raises RageError."""
    security = config.network.security
    if security.ca_cert is None:
        yield None
        return
    if not config.network.organization_id:
        raise ConfigError(
            "network.organization_id is not set, and network.security.ca_cert is",
            why="a CA certifies the nodes of one organisation",
            mend=["set network.organization_id to the organisation that the CA is of", "rage config check"],
        )
    key = homes.load_identity(security.peer_key)
    log = open_log(home.log, key=key, env=env)
    try:
        own = PeerId.from_public_key(key.public_key())
        metadata = Metadata(home, config, log, own, store, documents, env)
        try:
            metadata.rejudge()
            metadata.reload()
            yield metadata
        finally:
            metadata.sealed.close()
    finally:
        log.close()


def _strategies(conflicts: Conflicts) -> Mapping[str, Strategy]:
    return {"doc": conflicts.doc, "org": conflicts.org, "topic": conflicts.topic}


def _read_time(home: Home) -> float:
    with suppress(OSError, ValueError):
        return float(home.synced.read_text("ascii"))
    return 0.0
