"""Who is on the network and who listens where, and what can be done to them: partitions, power cuts, stalls.

partition   groups that hear nothing of each other; links between them stall in silence until `heal`
vanish      a power cut: the host's links are silent, nothing answers; `restore` gives it its power back
pause       a process that stands still: its kernel takes what comes, nothing is read or sent until `resume`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Context
from random import Random
from typing import TYPE_CHECKING

from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.transport.memory.conditions import Conditions
from rage_net.libp2p.transport.memory.line import Line

if TYPE_CHECKING:
    from rage_net.libp2p.transport.memory.link import MemoryLink
    from rage_net.libp2p.transport.memory.transport import MemoryListener

FIRST_PORT = 49152
"""Ports that nobody chose are counted from here, and begin again above the last (RFC 6335)."""
LAST_PORT = 65535
LOOPBACKS = ("127.0.0.1", "::1")


class Host:
    """A place on the network, named by anything or by its IP address."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_gone = False
        self.is_paused = False
        self.up: Line | None = None
        self.down: Line | None = None
        self.ends: dict[MemoryLink, None] = {}
        """The ends of links that are here, in the order they were made."""
        self.kept: list[Callable[[], None]] = []
        """What waits for the end of a pause."""
        self._port = FIRST_PORT

    def next_port(self) -> str:
        """A port that nobody chose."""
        port, self._port = self._port, self._port + 1 if self._port < LAST_PORT else FIRST_PORT
        return str(port)


class MemoryNetwork:
    """Give each transport the same one."""

    def __init__(
        self,
        conditions: Conditions = Conditions(),  # noqa: B008 - frozen
        random: Random | None = None,
    ) -> None:
        self.conditions = conditions
        """Of every way, as long as `between` is not replaced."""
        self.between: Callable[[str, str], Conditions] = lambda here, there: self.conditions
        """Conditions of the way from one host to another, by their names."""
        self.observe: Callable[[MemoryLink, bytes], None] | None = None
        """Called with all that is written, and on which end."""
        self.random = random or Random(0)  # noqa: S311 - decides where bytes are cut, and what is late
        self.hosts: dict[str, Host] = {}
        self.listeners: dict[str, MemoryListener] = {}
        self.stalled: dict[MemoryLink, None] = {}
        """Ends whose bytes do not get through, in the order in which they stalled."""
        self.context = Context()
        """What the network itself does is nobody's doing."""
        self.next_port = 1
        self._groups: dict[str, int] = {}

    def host(self, name: str) -> Host:
        """The host of this name, made when it is new."""
        host = self.hosts.get(name)
        if host is None:
            host = self.hosts[name] = Host(name)
        return host

    def shape(self, name: str, *, up_bytes_s: float | None = None, down_bytes_s: float | None = None) -> None:
        """Give a host a line of so many bytes a second in each direction; None is without limit."""
        host = self.host(name)
        host.up = None if up_bytes_s is None else Line(up_bytes_s, self.context)
        host.down = None if down_bytes_s is None else Line(down_bytes_s, self.context)

    def reaches(self, here: Host, there: Host) -> bool:
        """Whether a packet gets from one host to the other now."""
        if here.is_gone or there.is_gone:
            return False
        groups = self._groups
        return not groups or groups.get(here.name, -1) == groups.get(there.name, -1)

    def partition(self, *groups: Iterable[str]) -> None:
        """Hosts hear those of their own group alone; hosts that no group names are one more."""
        self._groups = {name: number for number, group in enumerate(groups) for name in group}
        self._let_through()  # some may hear each other again

    def heal(self) -> None:
        """End all partitions. Links go on when their senders try again, which may be a while after a long silence."""
        self._groups = {}
        self._let_through()

    def vanish(self, name: str) -> None:
        """Take a host away without notice: nothing leaves it, nothing answers there, and nobody is told."""
        host = self.host(name)
        host.is_gone = True
        host.is_paused = False
        host.kept.clear()
        for key in [key for key, listener in self.listeners.items() if listener.host is host]:
            del self.listeners[key]
        for end in list(host.ends):
            end.cut()

    def restore(self, name: str) -> None:
        """A host that vanished is back, with nothing left of its links: whoever goes on sending there is told so."""
        self.host(name).is_gone = False
        self._let_through()

    def pause(self, name: str) -> None:
        """Let a host's process stand still."""
        self.host(name).is_paused = True

    def resume(self, name: str) -> None:
        """Let it go on with all that waits."""
        host = self.host(name)
        if host.is_paused:
            host.is_paused = False
            kept, host.kept = host.kept, []
            for do in kept:
                do()

    def find(self, address: Multiaddr, asker: Host) -> tuple[Host | None, MemoryListener | None]:
        """The host that an address leads to, and who listens there; a loopback address leads to the asker."""
        first, *rest = address.transport_parts()
        if first.protocol == "memory":
            listener = self.listeners.get(str(address.without_peer_id()))
            return (listener.host if listener else self.hosts.get(first.value)), listener
        host = asker if first.value in LOOPBACKS else self.hosts.get(first.value)
        if host is None:
            return None, None
        return host, self.listeners.get(str(Multiaddr((first._replace(value=host.name), *rest))))

    def _let_through(self) -> None:
        for end in list(self.stalled):
            end.recover()
