"""Organisations of a simulated world: each a CA that certifies its nodes, as `rage cert` would."""

from __future__ import annotations

import random
import ssl
from collections.abc import Sequence
from typing import Any

from rage_lab.sim.env import EPOCH_S
from rage_net import home as homes
from rage_net import keys
from rage_net.cert import issue, parse_ca, read_csr
from rage_net.home import Home

DAYS = 30.0


class Organization:
    """One organisation. Its certificates lie in the homes of its nodes."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.random = random.Random(f"{seed}:{name}")
        self.key = keys.generate(self.random)
        serial = issue.draw_serial(self.random)
        self.der = issue.make_ca(name, self.key, now=EPOCH_S - 86_400, serial=serial)
        self.pem = ssl.DER_cert_to_PEM_cert(self.der)

    def flags(self) -> dict[str, Any]:
        """What network.yaml says on its nodes."""
        return {"network.organization_id": self.name, "network.security.ca_cert": "certs/ca.crt"}

    def certify(self, home: Home, *, region: str, capabilities: Sequence[str], now: float, days: float = DAYS) -> None:
        """Write the CA and a node's certificate into its home, unless it has one."""
        home.certs.mkdir(exist_ok=True)
        (home.certs / "ca.crt").write_text(self.pem)
        certificate = home.certs / "node.crt"
        if certificate.exists():
            return
        csr = issue.make_csr(homes.load_identity(home.identity), self.name, region, frozenset(capabilities))
        made = issue.sign(
            read_csr(csr), parse_ca(self.der), self.key, now=now, serial=issue.draw_serial(self.random), days=days
        )
        certificate.write_text(ssl.DER_cert_to_PEM_cert(made.der))
