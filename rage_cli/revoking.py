"""`rage cert revoke`: the CA's own list first, which holds whatever comes, then the log that tells the nodes."""

from __future__ import annotations

from rage_cli import authorities
from rage_cli.certificates import here
from rage_cli.options import options
from rage_net.errors import NotFoundError, RageError
from rage_net.verbs.cert import RevokeCertificate, RevokeCertificateResult


def revoke(serial: str, peer_id: str, reason: str, publish: bool) -> RevokeCertificateResult:
    """Record it where a CA is kept, and publish it where this node is certified.

    Raises: NotFoundError `ca-missing` where neither is so; what the node says to the publication, when it is recorded.
    """
    _, network, files = here()
    is_certified = network.security.ca_cert is not None and publish
    has_ca = files.ca_certificate.exists() or files.new_certificate.exists()
    if not (has_ca or is_certified):
        raise NotFoundError(
            "nothing here can revoke",
            why="no CA is kept in this home, and it belongs to no organisation's network",
            mend=["--home DIR    (where the CA is kept, or of a node with the capability admin)"],
            id="ca-missing",
        )
    if options.dry_run:
        return RevokeCertificateResult(serial, peer_id, reason, False)
    is_recorded = authorities.record(serial, peer_id, reason)
    if not is_certified:
        return RevokeCertificateResult(serial, peer_id, reason, False)
    from rage_cli.session import run

    try:
        return run(RevokeCertificate(serial, peer_id, reason))
    except RageError as error:
        if is_recorded:
            error.why = f"{error.why}; the CA here has recorded it, and the nodes do not know yet".removeprefix("; ")
        raise
