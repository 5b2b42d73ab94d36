"""What mDNS packets say, as values: questions, answers, and which addresses belong on a link. No socket, no clock.

A peer answers with `<service> PTR <name>.<service>`, and its addresses as `dnsaddr=` strings in the TXT records of
`<name>.<service>`, wherever in the packet these stand. Source: libp2p/specs discovery/mdns; RFC 6763, section 6.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.multiaddr import Multiaddr, MultiaddrError, Part
from rage_net.libp2p.peer_id import PeerId
from rage_net.libp2p.scope import ip_of

if TYPE_CHECKING:
    from zeroconf import DNSIncoming

    from rage_net.libp2p.mdns.links import Interface

SERVICE = "_p2p._udp.local."
"""What every libp2p peer answers to."""
META_SERVICE = "_services._dns-sd._udp.local."
"""What tools ask to learn which services there are."""
TTL_S = 120
"""How long others may remember our answer: two rounds of the default interval."""
NAME_CHARS_MAX = 63
"""Of a label (RFC 1035)."""
STRING_BYTES_MAX = 255
"""Of one string in a TXT record (RFC 1035)."""
NAMES_MAX = 8
"""Peers named in one packet; libp2p's have one."""
TXT_BYTES_MAX = 4096
"""Of one peer's TXT records: forty addresses. More is refused."""
STRINGS_MAX = 64
"""Strings of one peer's TXT records; more are refused."""
ADDRESSES_MAX = 16
"""Addresses of one peer that are kept: the first on the link."""
ANNOUNCED_BYTES_MAX = 1200
"""Our TXT record: name and record must come in one packet of an Ethernet frame's size."""

_PTR, _TXT, _ANY, _IN, _IN_UNIQUE = 12, 16, 255, 1, 0x8001
_QUERY, _RESPONSE = 0x0000, 0x8400
_KEY = "dnsaddr="


@dataclass(frozen=True, slots=True)
class Query:
    """What a packet asks: for all peers or for the details of `names`; for the list of services."""

    peers: bool
    services: bool
    names: frozenset[str]
    known: frozenset[str]
    """Names that the asker knows already, and wants no answer from."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a packet says of one peer; with a `ttl_s` of 0, that it goes."""

    name: str
    ttl_s: int
    texts: tuple[bytes, ...]
    """The TXT records, as they came."""


def concerns(data: bytes, service: str) -> bool:
    """Whether a packet can be about the service at all; most in a network are about printers."""
    folded = data.lower()
    return any(_first_label(name) in folded for name in (service, META_SERVICE))


def ask(service: str) -> bytes:
    """The question for all peers."""
    from zeroconf import DNSOutgoing, DNSQuestion

    out = DNSOutgoing(_QUERY)
    out.add_question(DNSQuestion(service, _PTR, _IN))
    return out.packets()[0]


def announce(service: str, name: str, addresses: Iterable[Multiaddr]) -> bytes:
    """That `name` is a peer, and where: addresses as `pick` has chosen them."""
    from zeroconf import DNSOutgoing, DNSPointer, DNSText

    out = DNSOutgoing(_RESPONSE)
    full = f"{name}.{service}"
    strings = [f"{_KEY}{address}".encode() for address in addresses]
    text = b"".join(bytes((len(string),)) + string for string in strings)
    out.add_answer_at_time(DNSPointer(service, _PTR, _IN, TTL_S, full), 0)
    # One record with several strings: go-libp2p keeps only the last record of a name.
    out.add_additional_answer(DNSText(full, _TXT, _IN_UNIQUE, TTL_S, text))
    return out.packets()[0]


def announce_service(service: str) -> bytes:
    """That the service exists. In a packet of its own: js-libp2p takes a packet's last PTR for the peer."""
    from zeroconf import DNSOutgoing, DNSPointer

    out = DNSOutgoing(_RESPONSE)
    out.add_answer_at_time(DNSPointer(META_SERVICE, _PTR, _IN, TTL_S, service), 0)
    return out.packets()[0]


def say_goodbye(service: str, name: str) -> bytes:
    """That `name` goes. Without addresses: js-libp2p knows no goodbye, and would take it for an answer."""
    from zeroconf import DNSOutgoing, DNSPointer

    out = DNSOutgoing(_RESPONSE)
    out.add_answer_at_time(DNSPointer(service, _PTR, _IN, 0, f"{name}.{service}"), 0)
    return out.packets()[0]


def read(data: bytes, service: str) -> Query | list[Answer]:
    """What a packet says about the service: a question, or answers, perhaps none. Raises RemoteProtocolError."""
    from zeroconf import DNSIncoming

    packet = DNSIncoming(data)
    if not packet.valid:
        raise RemoteProtocolError("a packet is no DNS message")
    return _read_query(packet, service) if packet.is_query() else _read_answers(packet, service)


def peer_of(answer: Answer) -> tuple[PeerId, list[Multiaddr]]:
    """Who an answer is about, and all its addresses that can be read.

    Raises: RemoteProtocolError when it names no peer or more than one, or is larger than any peer's.
    """
    if sum(map(len, answer.texts)) > TXT_BYTES_MAX:
        raise RemoteProtocolError(f"a peer says more than {TXT_BYTES_MAX} bytes of itself")
    addresses: list[Multiaddr] = []
    strings = [string for text in answer.texts for string in _strings(text)]
    if len(strings) > STRINGS_MAX:
        raise RemoteProtocolError(f"a peer says more than {STRINGS_MAX} things of itself")
    for string in strings:
        if string.startswith(_KEY.encode()):
            try:
                addresses.append(Multiaddr.parse(string[len(_KEY) :].decode()))
            except (MultiaddrError, UnicodeDecodeError):
                continue  # of a transport that is not in our table
    peers = {address.peer_id for address in addresses}
    peer_id = peers.pop() if len(peers) == 1 else None
    if peer_id is None:
        raise RemoteProtocolError("an answer names no peer, or more than one")
    return peer_id, addresses


def believe(addresses: Sequence[Multiaddr], interface: Interface, own: Iterable[str]) -> tuple[Multiaddr, ...]:
    """Those of a peer's addresses that lie on the link they were heard on: nobody can send us elsewhere.

    Args: own: every IP address of this machine, all of which can be reached through the loopback interface.
    """
    own = frozenset(own)
    kept = (address for address in addresses if _is_on_link(address, interface, own))
    return tuple(dict.fromkeys(kept))[:ADDRESSES_MAX]


def pick(addresses: Iterable[Multiaddr], peer_id: PeerId, interface: Interface) -> tuple[Multiaddr, ...]:
    """Those of our addresses to announce on a link, each naming us; a wildcard stands for the link's own addresses."""
    picked: dict[Multiaddr, None] = {}
    room = ANNOUNCED_BYTES_MAX
    for address in addresses:
        for concrete in _expand(address, interface):
            named = concrete.with_peer_id(peer_id)
            size = 1 + len(_KEY) + len(str(named))
            if named not in picked and size - 1 <= STRING_BYTES_MAX and size <= room and len(picked) < ADDRESSES_MAX:
                picked[named] = None
                room -= size
    return tuple(picked)


def _read_query(packet: DNSIncoming, service: str) -> Query:
    asked: dict[str, set[int]] = {}
    for question in packet.questions:
        asked.setdefault(question.name.lower(), set()).add(question.type)
    known = frozenset(
        answer.name for answer in _read_answers(packet, service) if answer.ttl_s > TTL_S // 2
    )  # RFC 6762, 7.1
    return Query(
        peers=bool(asked.get(service, set()) & {_PTR, _ANY}),
        services=bool(asked.get(META_SERVICE, set()) & {_PTR, _ANY}),
        names=frozenset(
            name for full, types in asked.items() if types & {_TXT, _ANY} and (name := _name_in(full, service))
        ),
        known=known,
    )


def _read_answers(packet: DNSIncoming, service: str) -> list[Answer]:
    named: dict[str, int] = {}
    texts: dict[str, list[bytes]] = {}
    for record in packet.answers():
        owner = record.name.lower()
        if record.type == _PTR and owner == service:
            name = _name_in(record.alias.lower(), service)  # type: ignore[attr-defined]
            if name and len(named) < NAMES_MAX:
                named[name] = record.ttl
        elif record.type == _TXT and (name := _name_in(owner, service)):
            texts.setdefault(name, []).append(record.text)  # type: ignore[attr-defined]
    return [Answer(name, ttl, tuple(texts.get(name, ()))) for name, ttl in named.items()]


def _name_in(full: str, service: str) -> str:
    """The peer's name in `<name>.<service>`; empty when it is none."""
    name = full.removesuffix("." + service)
    return name if name != full and len(name) <= NAME_CHARS_MAX and "." not in name else ""


def _strings(text: bytes) -> Iterable[bytes]:
    """The strings of a TXT record; a last one that is cut off is left out."""
    at = 0
    while at < len(text) and at + text[at] < len(text):
        yield text[at + 1 : at + 1 + text[at]]
        at += 1 + text[at]


def _first_label(name: str) -> bytes:
    label = name.partition(".")[0].lower().encode()
    return bytes((len(label),)) + label


def _is_on_link(address: Multiaddr, interface: Interface, own: frozenset[str]) -> bool:
    ip = ip_of(address)
    if ip is None or any(part.protocol == "p2p-circuit" for part in address.parts):
        return False
    if interface.is_loopback:
        return ip.is_loopback or str(ip) in own
    # A link-local IPv6 address needs the zone of who dials, which a multiaddr of another cannot have.
    if ip.is_loopback or ip.is_multicast or ip.is_unspecified or (ip.version == 6 and ip.is_link_local):
        return False
    return any(ip in net.network and (ip.version == 6 or ip not in _ends(net.network)) for net in interface.networks)


def _ends(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[object, ...]:
    """The two addresses of a network that are no host's: a packet to the broadcast address reaches everyone."""
    return () if network.prefixlen >= 31 else (network.network_address, network.broadcast_address)


def _expand(address: Multiaddr, interface: Interface) -> list[Multiaddr]:
    """The address as it can be reached on a link: itself, the link's own for a wildcard, or nothing."""
    ip = ip_of(address)
    if ip is None:
        return []
    on_link = [
        net.ip
        for net in interface.networks
        if net.version == ip.version and not (net.version == 6 and net.ip.is_link_local)
    ]
    if ip.is_unspecified:
        return [Multiaddr((Part(f"ip{ip.version}", str(own)), *address.parts[1:])) for own in on_link]
    if interface.is_loopback:
        return [address]  # this machine's own, whatever interface has it
    return [address] if ip in on_link else []
