"""X.509 of this network: node certificates, the CAs that sign them, and `verify_chain`, which says whom to believe.

    words     limits, object identifiers, what names and capabilities may look like
    reading   one certificate or CSR: strict DER in, frozen values out
    chain     from a node's certificate to an anchor that is trusted under one organisation's name
    issue     CAs, CSRs, certificates, renewals, cross-signatures, CRLs
    renewal   when a certificate is due
    secret    private keys encrypted under a passphrase

Certificates, CSRs and CAs are Ed25519 throughout. The key that a node certificate certifies is the node's identity key,
so the peer id that Noise proves is the one that the certificate names. Organisation, peer id and region stand in URIs
of the subject's alternative names (`rage:org:acme`); capabilities and the end of renewals in two extensions of our own,
which `openssl x509 -text` prints as text.

Pure: bytes, `now`, serials and keys come in, values go out; no file, clock or randomness. Loads `cryptography.x509`, so
commands import it when they need it. Not here: which CAs are trusted and who is revoked (`services.trust`), files
(`certfiles`). Sources: design D7; RFC 5280, RFC 2986, RFC 8410.
"""

from rage_net.cert.chain import Anchor, Verified, verify_chain
from rage_net.cert.reading import CaCertificate, NodeCertificate, Request, parse, parse_ca, read_csr

__all__ = [
    "Anchor",
    "CaCertificate",
    "NodeCertificate",
    "Request",
    "Verified",
    "parse",
    "parse_ca",
    "read_csr",
    "verify_chain",
]
