"""A page for every error id: its class, what it means, and what to do next.

Ids are a contract: scripts compare them. A test holds this table against every `id=` in the code. The classes' own ids
take their page from the class (`rage_net.errors`).
"""

from __future__ import annotations

from rage_net import errors
from rage_net.errors import (
    AccessDeniedError,
    ConfigError,
    ConflictError,
    FindingsError,
    IntegrityError,
    NotFoundError,
    PeerProtocolError,
    RageError,
    UnavailableError,
    UsageError,
)

PAGES: dict[str, tuple[type[RageError], str, str]] = {
    "answer-too-large": (PeerProtocolError, "A server sent more than an answer may hold.", "is its address right?"),
    "answer-type": (
        PeerProtocolError,
        "What a server sent is not what was asked for: another program listens there, or a portal stands between.",
        "is its address right?",
    ),
    "archive-incomplete": (IntegrityError, "A CAR archive lacks blocks of its root.", "export it again, whole"),
    "bug": (RageError, "Something that rage did not foresee.", "repeat with -vv and report what it prints"),
    "busy": (UnavailableError, "The node has as much under way as its limits allow.", "retry"),
    "bytes-to-terminal": (UsageError, "A document's bytes would go to a terminal.", "add -o FILE, or a pipe"),
    "ca-unusable": (
        ConfigError,
        "The file that network.security.ca_cert names is missing, or holds no CA of this organisation.",
        "rage config show network.security; rage cert ca show --pem    (where the CA is kept)",
    ),
    "cancelled": (UnavailableError, "The operation was cancelled before it was done.", "retry"),
    "car-invalid": (IntegrityError, "The file is no CAR archive, or a broken one.", "to store a file: rage chunk put"),
    "chunk-missing": (
        NotFoundError,
        "The index names a chunk whose file is gone.",
        "rage chunk verify; fetch it again with rage chunk get --peer",
    ),
    "chunk-not-found": (
        NotFoundError,
        "Neither this store nor a peer gives the chunk. A peer says not found, too, where it may not serve.",
        "on a node that has it: is its visibility public, or are we in its trusted_peers? Else name another --peer",
    ),
    "client-left": (UnavailableError, "The client went away before all octets were through.", "retry"),
    "config-differs": (
        ConflictError,
        "init was asked for a value that the configuration contradicts.",
        "edit the file",
    ),
    "config-key-unknown": (NotFoundError, "There is no such configuration key.", "rage config show"),
    "config-missing": (ConfigError, "A configuration file that was named does not exist.", "rage config path"),
    "dht-empty": (
        UnavailableError,
        "The DHT's table holds nobody who could be asked.",
        "rage peer discover --connect, or name bootstrap peers",
    ),
    "dht-off": (
        UnavailableError,
        "The configuration takes no part in the DHT.",
        "set network.libp2p.dht.enabled",
    ),
    "discovery-off": (
        UnavailableError,
        "The configuration asks no discovery servers.",
        "set network.discovery.enabled",
    ),
    "document-not-found": (
        NotFoundError,
        "What was given is no CID, and no id or name of a document here. Names are known on their own node only.",
        "rage chunk list; from elsewhere, fetch by CID",
    ),
    "document-too-large": (UsageError, "The document has more chunks than a manifest can name.", "split the file"),
    "enrol-unusable": (
        ConfigError,
        "The enrolment CA of this node, its key or its passphrase cannot be used.",
        "rage config show network.security.enrol --origin",
    ),
    "file-missing": (NotFoundError, "There is no such file.", "look at the path"),
    "foreign-address": (
        IntegrityError,
        "A registration names an address that ends in another peer's id.",
        "correct the addresses that the node announces",
    ),
    "home-foreign": (ConflictError, "The directory holds something else.", "choose an empty directory with --home"),
    "home-locked": (
        ConflictError,
        "Another process works on the home, and kept it for longer than --timeout.",
        "wait, or stop the process it names",
    ),
    "home-missing": (NotFoundError, "There is no home at this place.", "rage init, or the right --home or RAGE_HOME"),
    "home-owner": (AccessDeniedError, "The home belongs to another user.", "run it as that user, as the mend says"),
    "home-unusable": (ConfigError, "The home's directory cannot be used.", "choose another --home"),
    "identity-exposed": (AccessDeniedError, "Others can read the identity key.", "chmod 600 it"),
    "identity-invalid": (ConfigError, "The identity key's file holds no key.", "restore identity.key from a backup"),
    "identity-missing": (NotFoundError, "The home has no identity key.", "restore it from a backup, or rage init"),
    "index-damaged": (
        IntegrityError,
        "index.db is damaged.",
        "restore index.db from a backup; the chunks are in store/",
    ),
    "index-missing": (
        IntegrityError,
        "index.db is missing or empty, though store/ holds chunks.",
        "restore index.db from a backup, or move store/ away to begin anew",
    ),
    "listen-failed": (
        UnavailableError,
        "The node could open no listener.",
        "another --listen or --http, or free the port",
    ),
    "manifest-invalid": (IntegrityError, "A manifest breaks its rules.", "get the document elsewhere"),
    "mdns-off": (
        UnavailableError,
        "The local network cannot be asked: mDNS is off, or there is no multicast here.",
        "rage doctor --only mdns",
    ),
    "message-too-large": (
        UsageError,
        "A message is larger than a topic carries.",
        "rage chunk put it, and publish its CID",
    ),
    "needs-yes": (
        UsageError,
        "It deletes something, and there is no terminal to ask on.",
        "add --yes, or look with --dry-run",
    ),
    "newer-store": (ConflictError, "A newer rage wrote this store; it was left alone.", "upgrade rage"),
    "no-ca": (
        UsageError,
        "The home is open: it has no CA, so there is nobody to tell apart.",
        "rage cert ca init --org ORG",
    ),
    "no-enrolment": (
        UnavailableError,
        "No connected node renews certificates, or the one that does is out of order.",
        "rage peer list --cap enrol; rage cert request, and have it signed by a person",
    ),
    "no-log": (UnavailableError, "This home keeps no log of metadata to write to.", "rage sync status"),
    "no-peers-found": (
        FindingsError,
        "Every way to discover peers was tried, and none named anybody.",
        "rage doctor; a longer --for",
    ),
    "no-providers": (
        NotFoundError,
        "Nobody that was asked has it, or names somebody who has.",
        "rage why names the link that is missing",
    ),
    "no-servers": (NotFoundError, "No discovery server is configured.", "set network.discovery.servers"),
    "no-usable-address": (
        IntegrityError,
        "A registration holds no address that others could dial from where the server stands.",
        "listen on an address that is reachable, or open the port",
    ),
    "no-such-route": (NotFoundError, "The control socket has no such route.", "client and node of one version"),
    "no-such-verb": (NotFoundError, "The node knows no such verb.", "client and node of one version"),
    "node-gone": (UnavailableError, "The node went away before it had answered.", "rage node status; its log says why"),
    "node-unreachable": (UnavailableError, "No node runs for this home.", "rage node start --detach"),
    "not-confirmed": (UsageError, "The question was answered with no; nothing was changed.", "nothing to do"),
    "not-public": (
        AccessDeniedError,
        "The chunk is not known to be public, so that nobody outside the organisation was asked for it.",
        "name a holder with --peer",
    ),
    "peer-banned": (AccessDeniedError, "The peer is banned here.", "rage peer unban"),
    "peer-gone": (UnavailableError, "The connection to a peer broke.", "retry"),
    "peer-id-needed": (
        UsageError,
        "A part of a peer id was given where the whole one is needed: nobody known has an id like it.",
        "rage peer list --known",
    ),
    "peer-mismatch": (
        UnavailableError,
        "Another peer than the one wanted answers there.",
        "ask its operator for rage node id",
    ),
    "peer-not-banned": (NotFoundError, "There is no ban to lift.", "rage peer list --state banned"),
    "peer-not-found": (NotFoundError, "No peer of that id, or beginning of an id, is known.", "rage peer list --known"),
    "peer-not-trusted": (
        AccessDeniedError,
        "One of the two ends does not trust the other's certificate.",
        "rage trust test PEER",
    ),
    "peer-unreachable": (UnavailableError, "A peer cannot be dialled.", "is it running, and its port open to us?"),
    "rate-limited": (UnavailableError, "A server was asked too often from this address.", "wait, then retry"),
    "read-failed": (RageError, "A file could not be read to its end.", "look at the disk: dmesg"),
    "record-invalid": (IntegrityError, "A registration breaks a rule; the message names the field.", "correct it"),
    "redirected": (
        PeerProtocolError,
        "A server sends us elsewhere; redirects are not followed.",
        "configure the address it names, if that is right",
    ),
    "registry-damaged": (
        IntegrityError,
        "A discovery server's registry is damaged.",
        "restart it: the file is put aside, and nodes register anew",
    ),
    "registry-foreign": (
        IntegrityError,
        "discovery.db is another program's.",
        "run the discovery server in a home of its own",
    ),
    "runtime-directory-unsafe": (
        AccessDeniedError,
        "The directory of the node's socket is open to others.",
        "set XDG_RUNTIME_DIR to a directory of your own",
    ),
    "server-unreachable": (
        UnavailableError,
        "A server cannot be reached: nobody listens there, or the way is closed.",
        "retry; is its address right?",
    ),
    "signature-invalid": (
        IntegrityError,
        "A registration is not signed by the peer it speaks of.",
        "register with the node's own key",
    ),
    "size-differs": (
        IntegrityError,
        "More or fewer bytes came than were promised.",
        "repeat when nobody writes to the file",
    ),
    "socket-note-invalid": (ConfigError, "node.sock holds no path of a socket.", "remove the file"),
    "source-changed": (ConflictError, "The file changed while it was read; nothing was recorded.", "repeat"),
    "source-device": (UsageError, "A device or socket is no document.", "read it through a pipe to put -"),
    "source-directory": (UsageError, "A directory is no document.", "put a tar of it, as the mend says"),
    "sources-unreachable": (
        UnavailableError,
        "No peer that may have the chunk could be asked.",
        "retry; rage peer ping",
    ),
    "stale-registration": (
        ConflictError,
        "A registration is older than what the server has, or was signed at another time than now.",
        "set the clock; give each node a key of its own",
    ),
    "stalled": (UnavailableError, "A peer sent nothing for too long.", "retry"),
    "stopping": (UnavailableError, "The node is about to end.", "retry when it runs again"),
    "storage-unavailable": (UnavailableError, "The disk under the store fails.", "dmesg; look at the disk"),
    "trust-not-found": (NotFoundError, "The organisation is not trusted here.", "rage trust list"),
    "trust-own": (
        UsageError,
        "Trust in one's own organisation is no matter of scopes: its CAs stand in a file.",
        "rage cert ca rotate; rage cert revoke",
    ),
    "write-failed": (RageError, "A file could not be written.", "look at the disk: dmesg"),
    "timeout": (UnavailableError, "A server did not answer in time.", "retry"),
    "topic-invalid": (UsageError, "It cannot be the name of a topic.", "rage topic list"),
    "topic-not-joined": (
        AccessDeniedError,
        "This node has not joined the topic.",
        "add it to network.libp2p.gossipsub.topics",
    ),
    "wrong-audience": (
        AccessDeniedError,
        "A registration was signed for another server than the one it came to.",
        "the server's operator names its host name in network.http.hosts",
    ),
    "wrong-bytes": (IntegrityError, "Every peer that answered sent wrong bytes.", "name another --peer"),
}
"""Id -> (class, meaning, what to do next)."""


def classes() -> dict[str, type[RageError]]:
    """Every class of errors by its own id."""
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, RageError)]
    return {kind.id: kind for kind in kinds if kind is not RageError}
