"""When a certificate is due: a node renews by itself at two thirds of its life, each at a moment of its own."""

from __future__ import annotations

from rage_net.cert.reading import NodeCertificate

DUE_AT = 2 / 3
"""Of the life: a third is left for an enrolment node that is away."""
SPREAD = 1 / 12
"""Of the life: nodes that were certified together do not come together."""


def renewal_time(certificate: NodeCertificate, jitter: float) -> float:
    """When to renew, seconds since the epoch. `jitter`: 0 to 1, drawn once a certificate."""
    life = certificate.not_after - certificate.not_before
    return certificate.not_before + life * (DUE_AT + SPREAD * jitter)


def renewal_due(certificate: NodeCertificate, now: float, jitter: float = 0.0) -> bool:
    """Whether the time to renew has come; so it stays once the certificate has expired."""
    return now >= renewal_time(certificate, jitter)
