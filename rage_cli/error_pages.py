"""A page for every error id: its class, what it means, and what to do next.

Ids are a contract: scripts compare them. A test holds this table against every `id=` in the code. The classes' own ids
take their page from the class (`rage_net.errors`).
"""

from __future__ import annotations

from rage_net import errors
from rage_net.errors import (
    AccessDeniedError,
    CertificateError,
    ConfigError,
    ConflictError,
    DeadlineError,
    FindingsError,
    IntegrityError,
    NotFoundError,
    PeerProtocolError,
    RageError,
    UnavailableError,
    UsageError,
)

PAGES: dict[str, tuple[type[RageError], str, str]] = {
    "acl-contradicts-itself": (
        UsageError,
        "A file of rights says two things of one principal, or of the document.",
        "keep one of the two that it names",
    ),
    "acl-nothing-to-set": (
        UsageError,
        "`acl set` was told nothing to set, or two things.",
        "--visibility V, or -f FILE",
    ),
    "answer-too-large": (PeerProtocolError, "A server sent more than an answer may hold.", "is its address right?"),
    "answer-type": (
        PeerProtocolError,
        "What a server sent is not what was asked for: another program listens there, or a portal stands between.",
        "is its address right?",
    ),
    "archive-incomplete": (IntegrityError, "A CAR archive lacks blocks of its root.", "export it again, whole"),
    "archive-too-large": (
        UsageError,
        "The document has more blocks than the gateway sends in one archive.",
        "ask for its blocks one by one, or: rage chunk export",
    ),
    "bad-acl": (UsageError, "What was given is no list of rights.", "it says where; rage acl set --help"),
    "bad-action": (UsageError, "There is no such action.", "read, write, admin, query or replicate"),
    "bad-cdn": (
        UsageError,
        "There is no such way to CDNs.",
        "--cdn encrypted, or --cdn none",
    ),
    "bad-key-set": (
        IntegrityError,
        "What stands where an issuer's public keys should be is no key set (JWKS).",
        "curl the address of network.http.issuers",
    ),
    "bad-principal": (
        UsageError,
        "A name does not say whom it means, or could pass for another's.",
        "peer:ID, user:ORG/NAME, group:ORG/NAME, org:ORG, or anyone",
    ),
    "bug": (RageError, "Something that rage did not foresee.", "repeat with -vv and report what it prints"),
    "busy": (UnavailableError, "The node has as much under way as its limits allow.", "retry"),
    "bytes-to-terminal": (UsageError, "A document's bytes would go to a terminal.", "add -o FILE, or a pipe"),
    "ca-exists": (
        ConflictError,
        "This home has a CA of that kind already; making another would orphan what it signed.",
        "rage cert ca show; to replace it: rage cert ca rotate",
    ),
    "ca-missing": (
        NotFoundError,
        "The home has no CA, or no key of it.",
        "rage cert ca init --org ORG, or --home DIR where the CA is kept",
    ),
    "ca-none-retired": (
        NotFoundError,
        "No CA waits to be withdrawn.",
        "rage cert ca show",
    ),
    "ca-rotating": (
        ConflictError,
        "The CA was replaced before, and the one before it is still trusted.",
        "rage cert ca rotate --withdraw, once the nodes have renewed",
    ),
    "ca-unknown": (
        NotFoundError,
        "The home knows no CA that could vouch for the certificate.",
        "rage cert install CRT --ca FILE; rage cert ca show --pem prints FILE where the CA is kept",
    ),
    "ca-unusable": (
        ConfigError,
        "The file that network.security.ca_cert names is missing, or holds no CA of this organisation.",
        "rage config show network.security; rage cert ca show --pem    (where the CA is kept)",
    ),
    "cancelled": (UnavailableError, "The operation was cancelled before it was done.", "retry"),
    "car-invalid": (IntegrityError, "The file is no CAR archive, or a broken one.", "to store a file: rage chunk put"),
    "cdn-answer": (
        PeerProtocolError,
        "A CDN answered something that is no answer: another program, a portal, or wrong bytes.",
        "rage cdn check",
    ),
    "cdn-busy": (
        UnavailableError,
        "A CDN is busy, or does another operation; it is asked again.",
        "rage cdn journal --open",
    ),
    "cdn-config": (
        ConfigError,
        "What cdn.yaml says of a CDN is not so: an id, a host, a plan.",
        "rage cdn check",
    ),
    "cdn-credentials": (
        AccessDeniedError,
        "A CDN does not know the token or key that cdn.yaml gives.",
        "make a new one at the vendor; rage config show cdn --origin",
    ),
    "cdn-forbidden": (
        AccessDeniedError,
        "A CDN knows the token, which may not do this.",
        "give it the right to purge; rage cdn check",
    ),
    "cdn-impossible": (
        UsageError,
        "A CDN has no way to purge what was named.",
        "name it otherwise: --doc, --tag, --prefix",
    ),
    "cdn-no-bucket": (
        ConfigError,
        "No CDN reads a bucket: there is nowhere to publish.",
        "bucket of a provider in cdn.yaml; rage cdn warm",
    ),
    "cdn-none": (
        ConfigError,
        "cdn.yaml names no CDN, or none that can be purged; or CDNs are switched off.",
        "rage config show cdn",
    ),
    "cdn-not-found": (
        ConfigError,
        "A CDN has no zone, service, distribution or profile of that id.",
        "rage cdn check",
    ),
    "cdn-not-public": (
        AccessDeniedError,
        "Nothing that is not public goes to a CDN in the clear.",
        "rage acl set DOC --cdn encrypted; or --visibility public",
    ),
    "cdn-rate-limited": (
        UnavailableError,
        "A CDN's quota is used up; it is asked again when it says.",
        "rage cdn status",
    ),
    "cdn-refused": (
        AccessDeniedError,
        "A CDN refuses a URL that this node signed.",
        "is signing_key_id in its key group, and signing_key_file of that id? is the clock right?",
    ),
    "cdn-rejected": (
        UnavailableError,
        "A CDN refused a call as malformed.",
        "rage cdn journal; report it",
    ),
    "cdn-signing-key": (
        ConfigError,
        "The file signing_key_file in cdn.yaml holds no key that signs URLs: RSA of 2048 bits, not encrypted.",
        "openssl genrsa -out signing.pem 2048; its public half goes into the key group",
    ),
    "cdn-too-large": (
        UsageError,
        "The document has more blocks than are sealed for a CDN.",
        "put it in parts",
    ),
    "cdn-unknown": (
        NotFoundError,
        "No CDN of that name is configured.",
        "rage cdn status -q",
    ),
    "cdn-unsealed": (
        NotFoundError,
        "A sealed document is not in a bucket that came into cdn.yaml later, and another node sealed it.",
        "on the node that sealed it: rage cdn publish DOC",
    ),
    "cdn-unreachable": (
        UnavailableError,
        "A CDN or an edge does not answer; it is asked again until it does.",
        "rage cdn check",
    ),
    "cert-cross-own": (
        UsageError,
        "A CA is asked to vouch for one of its own organisation, or for one that names none.",
        "give the other organisation's CA with --ca",
    ),
    "cert-expired": (
        CertificateError,
        "A certificate, or a CA above it, is past its end, 60 s of leeway included.",
        "rage cert renew; of a CA: rage cert ca rotate; is the clock right?",
    ),
    "cert-file-missing": (
        NotFoundError,
        "The home has no certificate yet.",
        "rage cert request | rage cert sign - --yes | rage cert install -",
    ),
    "cert-malformed": (
        CertificateError,
        "The bytes are no certificate or CSR, or one with names or extensions that cannot be read.",
        "openssl x509 -text -noout -in FILE shows what it is",
    ),
    "cert-missing": (
        CertificateError,
        "A peer showed no certificate where one is needed.",
        "on that node: rage cert request, then rage cert install",
    ),
    "cert-name": (
        UsageError,
        "A name cannot be certified: organisations and regions are letters, digits, '.', '_' and '-', at most 64.",
        "choose another name",
    ),
    "cert-not-a-ca": (
        CertificateError,
        "The certificate is not that of a CA.",
        "rage cert show FILE",
    ),
    "cert-not-a-node": (
        CertificateError,
        "The certificate is not that of a node: it is a CA's, or names no peer or no organisation.",
        "rage cert show FILE",
    ),
    "cert-not-ed25519": (
        CertificateError,
        "The certificate, or its signature, is of another kind than Ed25519.",
        "rage cert ca init makes a CA that fits",
    ),
    "cert-not-yet-valid": (
        CertificateError,
        "A certificate's life has not begun, 60 s of leeway included; mostly a clock is wrong.",
        "date -u, here and where it was signed",
    ),
    "cert-other-peer": (
        CertificateError,
        "A certificate is shown by, or was made for, another peer than it names.",
        "rage cert request on the node itself",
    ),
    "cert-over-capabilities": (
        CertificateError,
        "A certificate has capabilities that a CA above it may not give.",
        "have it signed by the organisation's own CA",
    ),
    "cert-revoked": (
        CertificateError,
        "The certificate, its peer or a CA above it has been withdrawn.",
        "ask whoever keeps the CA; rage cert request",
    ),
    "cert-self-signed": (
        CertificateError,
        "Nobody but the node itself says who it is.",
        "rage cert request, and have it signed by the organisation's CA",
    ),
    "cert-target": (
        UsageError,
        "What is to be revoked is neither a serial nor a peer id.",
        "rage cert list",
    ),
    "cert-too-deep": (
        CertificateError,
        "Too many certificates stand between a node and its CA, or more than a CA above it allows.",
        "rage cert show FILE",
    ),
    "cert-trust-ended": (
        CertificateError,
        "The organisation was trusted until a time that is over.",
        "rage trust add ORG --ca FILE, with another end",
    ),
    "cert-unknown-critical": (
        CertificateError,
        "A certificate has a critical extension that rage does not know, so nobody can obey it.",
        "have it signed by rage",
    ),
    "cert-unreadable": (
        IntegrityError,
        "The file to be verified holds no certificate that can be read.",
        "openssl x509 -text -noout -in FILE shows what it is",
    ),
    "cert-untrusted": (
        CertificateError,
        "The certificate leads to no CA that is trusted here.",
        "rage trust list; rage trust add ORG --ca FILE",
    ),
    "cert-wrong-organization": (
        CertificateError,
        "A CA has signed for an organisation that it does not speak for.",
        "rage cert show FILE; rage trust list",
    ),
    "certificate-not-found": (
        NotFoundError,
        "The log knows no certificate with this serial.",
        "name the peer too: rage cert revoke SERIAL --peer 12D3KooW...",
    ),
    "chunk-denied": (
        AccessDeniedError,
        "A node of our own organisation has it, and its documents give this node no right to read it.",
        "on the owner's node: rage acl grant DOC peer:... read",
    ),
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
    "cid-differs": (
        IntegrityError,
        "A source sent other bytes than their CID names; they were dropped.",
        "another source is asked",
    ),
    "client-left": (UnavailableError, "The client went away before all octets were through.", "retry"),
    "config-by-hand": (
        ConfigError,
        "A configuration file is written in a form that rage does not edit; nothing was changed.",
        "set the keys that the error names by hand",
    ),
    "config-differs": (
        ConflictError,
        "init was asked for a value that the configuration contradicts.",
        "edit the file",
    ),
    "config-key-unknown": (NotFoundError, "There is no such configuration key.", "rage config show"),
    "config-missing": (ConfigError, "A configuration file that was named does not exist.", "rage config path"),
    "conflict-not-found": (
        NotFoundError,
        "No contradiction has this id: it is resolved, or another fact joined it and gave it a new one.",
        "rage sync conflicts --all",
    ),
    "copies-not-proved": (
        DeadlineError,
        "A put is stored, and fewer nodes than `--wait` wanted have proved in time that they hold it.",
        "rage replication audit --doc ROOT --prove; do not put it again",
    ),
    "csr-signature": (
        CertificateError,
        "A CSR was changed on its way, or made by another key than the one it names.",
        "rage cert request, on the node that asks",
    ),
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
    "drain-last-holder": (
        ConflictError,
        "Chunks of the node that is to be drained have no other node to go to.",
        "rage replication status --nodes; start a node that has room first",
    ),
    "enrol-unusable": (
        ConfigError,
        "The enrolment CA of this node, its key or its passphrase cannot be used.",
        "rage config show network.security.enrol --origin",
    ),
    "fact-not-found": (
        NotFoundError,
        "A contradiction has no such fact, or several that begin so.",
        "rage sync conflicts --json",
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
    "issuer-unreachable": (
        UnavailableError,
        "The public keys of a token's issuer cannot be had, so no token of it can be believed.",
        "retry; is the address of network.http.issuers right?",
    ),
    "key-exposed": (
        AccessDeniedError,
        "Others can read the private key of a CA.",
        "chmod 600 FILE; if somebody may have read it: rage cert ca rotate",
    ),
    "key-invalid": (
        ConfigError,
        "A key file holds no encrypted Ed25519 key.",
        "restore it from a backup",
    ),
    "key-not-found": (
        NotFoundError,
        "No node that may give it has the key of a sealed document.",
        "rage acl show DOC; is a node that sealed it there?",
    ),
    "list-too-long": (
        ConflictError,
        "The list of what was signed or revoked is longer than rage reads.",
        "move it away, and keep it",
    ),
    "listen-failed": (
        UnavailableError,
        "The node could open no listener.",
        "another --listen or --http, or free the port",
    ),
    "log-not-found": (
        NotFoundError,
        "There is no log of this organisation, here or at that peer for this node.",
        "rage sync status, rage trust list",
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
        ConfigError,
        "The home is open: it has no CA, keeps no log, and shares no metadata.",
        "rage cert ca init --org ORG; rage cert request | rage cert sign - --yes | rage cert install -",
    ),
    "no-enrolment": (
        UnavailableError,
        "No connected node renews certificates, or the one that does is out of order.",
        "rage peer list --cap enrol; rage cert request, and have it signed by a person",
    ),
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
    "no-such-route": (NotFoundError, "The control socket has no such route.", "client and node of one version"),
    "no-such-verb": (NotFoundError, "The node knows no such verb.", "client and node of one version"),
    "no-sync-peers": (
        UnavailableError,
        "Nobody is connected who may exchange metadata with this node.",
        "rage peer list, rage trust list, rage doctor",
    ),
    "no-usable-address": (
        IntegrityError,
        "A registration holds no address that others could dial from where the server stands.",
        "listen on an address that is reachable, or open the port",
    ),
    "node-gone": (UnavailableError, "The node went away before it had answered.", "rage node status; its log says why"),
    "node-not-found": (
        NotFoundError,
        "Placement knows no node whose id this is, begins or ends so, or several.",
        "rage replication status --nodes",
    ),
    "node-unreachable": (UnavailableError, "No node runs for this home.", "rage node start --detach"),
    "not-admin": (
        AccessDeniedError,
        "What this node would write would count nowhere: it neither owns the document nor has the capability admin.",
        "rage cert show; on the owner's node: rage acl grant DOC peer:... admin",
    ),
    "not-certified": (
        CertificateError,
        "The node has no certificate that its CA signed, or one that lets it write nothing.",
        "rage cert request, rage cert show",
    ),
    "not-confirmed": (UsageError, "The question was answered with no; nothing was changed.", "nothing to do"),
    "not-held": (
        UsageError,
        "The gateway was asked for what it holds alone, and does not hold it.",
        "ask without only-if-cached",
    ),
    "not-public": (
        AccessDeniedError,
        "The chunk is not known to be public, so that nobody outside the organisation was asked for it.",
        "name a holder with --peer",
    ),
    "objects-elsewhere": (
        ConfigError,
        "The chunks that index.db names are not where network.store says: in another bucket, or in files.",
        "network.store.uri; to move them: docs/DISTRIBUTED_DEPLOYMENT.md",
    ),
    "objects-owned": (
        ConflictError,
        "The prefix in the bucket is another home's, or nobody knows whose; two would delete each other's chunks.",
        "give each home a prefix of its own in network.store.uri",
    ),
    "objects-refused": (
        ConfigError,
        "The object store does not take our keys: wrong, expired, or without the rights they need.",
        "renew them; they are read again by themselves. Of a CDN's store: `bucket`, or `auth_token` of the edge",
    ),
    "objects-setup": (
        ConfigError,
        "The object store cannot be used as it is configured: no such bucket, another region, no S3 server.",
        "network.store.uri, endpoint, region. Of a CDN's store: `bucket` or `dav_path` of the provider in cdn.yaml",
    ),
    "objects-unavailable": (
        UnavailableError,
        "The object store does not answer, or is busy, after all attempts.",
        "retry; rage doctor --only disk",
    ),
    "own-certificate-old": (
        ConflictError,
        "The CA that is to be withdrawn signed this very node's certificate.",
        "rage cert renew",
    ),
    "passphrase-length": (
        UsageError,
        "A passphrase is shorter than 8 bytes or longer than 1024.",
        "openssl rand -base64 24 makes a good one",
    ),
    "passphrase-missing": (
        UsageError,
        "A CA's passphrase is wanted, and there is no terminal to ask on.",
        "--passphrase-file FILE, or RAGE_CA_PASSPHRASE_FILE",
    ),
    "passphrase-wrong": (
        AccessDeniedError,
        "A CA's key does not decrypt with the passphrase.",
        "give the right one; check RAGE_CA_PASSPHRASE and RAGE_CA_PASSPHRASE_FILE",
    ),
    "passphrases-differ": (
        UsageError,
        "The new passphrase was typed in two ways; nothing was changed.",
        "repeat",
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
    "pem-invalid": (
        CertificateError,
        "A file does not hold what was expected of it, certificates or a CSR.",
        "look at its first line",
    ),
    "plan-stale": (
        ConflictError,
        "A plan is not what would be done now: nodes or chunks came, went or were repaired since. Nothing was changed.",
        "plan again with --dry-run, and look",
    ),
    "policy-not-found": (
        NotFoundError,
        "No replication policy of this node's files has this name.",
        "rage replication policy list",
    ),
    "purge-not-found": (
        NotFoundError,
        "The journal of this home has no purge of that id.",
        "rage cdn journal; what ended is forgotten after 30 days",
    ),
    "rate-limited": (UnavailableError, "A server was asked too often from this address.", "wait, then retry"),
    "read-failed": (RageError, "A file could not be read to its end.", "look at the disk: dmesg"),
    "read-only": (
        AccessDeniedError,
        "network.sync.read_only is set: this node only reads.",
        "write on another node",
    ),
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
    "renew-refused": (
        CertificateError,
        "A renewal asks for more than the certificate had, or the time for renewing by oneself is over.",
        "rage cert request, and have it signed by a person",
    ),
    "replication-off": (
        UnavailableError,
        "The configuration takes no part in replication.",
        "set enabled in replication.yaml, and network.replication.enabled",
    ),
    "replication-short": (
        UnavailableError,
        "More copies are wanted than there are nodes that may hold one each.",
        "rage replication status --nodes; start more nodes, or ask for fewer copies",
    ),
    "revoke-self": (
        UsageError,
        "A node that revoked itself could never take it back.",
        "on another admin's node: rage cert revoke PEER",
    ),
    "runtime-directory-unsafe": (
        AccessDeniedError,
        "The directory of the node's socket is open to others.",
        "set XDG_RUNTIME_DIR to a directory of your own",
    ),
    "sealed-broken": (
        IntegrityError,
        "What a CDN holds of a sealed document does not open with its key.",
        "rage cdn purge --doc DOC",
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
    "timeout": (UnavailableError, "A server did not answer in time.", "retry"),
    "token-expired": (AccessDeniedError, "A bearer token's time is over.", "get a new one from its issuer"),
    "token-refused": (
        AccessDeniedError,
        "A bearer token proves nobody to this node: it says why.",
        "is its issuer in network.http.issuers, and its audience ours?",
    ),
    "topic-invalid": (UsageError, "It cannot be the name of a topic.", "rage topic list"),
    "topic-not-joined": (
        AccessDeniedError,
        "This node has not joined the topic.",
        "add it to network.libp2p.gossipsub.topics",
    ),
    "trust-not-found": (NotFoundError, "The organisation is not trusted here.", "rage trust list"),
    "trust-own": (
        UsageError,
        "Trust in one's own organisation is no matter of scopes: its CAs stand in a file.",
        "rage cert ca rotate; rage cert revoke",
    ),
    "untrusted-log": (
        AccessDeniedError,
        "A log of an organisation with which trust opens no sync.",
        "rage trust add ORG --ca FILE --scope sync",
    ),
    "write-failed": (RageError, "A file could not be written.", "look at the disk: dmesg"),
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
