"""Time to judge one chain of certificates, warm, one core: `python -m bench.verify_chain`. Below 1 ms is wanted."""

from __future__ import annotations

import random
import time

from rage_net import keys
from rage_net.cert import Anchor, issue, parse_ca, read_csr, verify_chain

ROUNDS = 1000
NOW = 1_800_000_000.0


def microseconds(chain: list[bytes], anchors: list[Anchor]) -> float:
    """The mean of a chain that is believed, in processor time: the machine may have other work."""
    for _ in range(20):
        verify_chain(chain, anchors, NOW, peer_id=None, is_revoked=lambda *_: False)
    started = time.process_time()
    for _ in range(ROUNDS):
        verify_chain(chain, anchors, NOW, peer_id=None, is_revoked=lambda *_: False)
    return (time.process_time() - started) / ROUNDS * 1e6


def main() -> None:
    """Print one line a case."""
    rng = random.Random(1)
    serials = (issue.draw_serial(rng) for _ in range(1000))
    cas = []
    for number in range(100):
        key = keys.generate(rng)
        cas.append((key, parse_ca(issue.make_ca(f"org{number}", key, now=NOW, serial=next(serials)))))
    (key, ca), capabilities = cas[0], frozenset({"storage"})
    enrol_key = keys.generate(rng)
    enrol = issue.make_intermediate(
        ca, key, enrol_key.public_key(), now=NOW, serial=next(serials), capabilities=capabilities
    )
    request = read_csr(issue.make_csr(keys.generate(rng), ca.organization, "eu-west", capabilities))
    by_ca = issue.sign(request, ca, key, now=NOW, serial=next(serials)).der
    by_enrol = issue.sign(request, parse_ca(enrol), enrol_key, now=NOW, serial=next(serials)).der
    for count in (1, 100):
        anchors = [Anchor(one.organization, one.der) for _, one in cas[:count]]
        direct, between = microseconds([by_ca], anchors), microseconds([by_enrol, enrol], anchors)
        print(f"{count:>3} anchors: by the CA {direct:.0f} us, by its enrolment CA {between:.0f} us")


if __name__ == "__main__":
    main()
