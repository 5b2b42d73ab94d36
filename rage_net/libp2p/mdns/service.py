"""The service: asks now and then, answers others, and tells who was heard. Timers and tasks.

What packets mean is in `records`, who is remembered in `neighbours`, sockets in `links`. Where multicast is impossible
(no interface, no permission, a network that takes no such packet) it is `unavailable` with a reason, says so once, and
looks again every few seconds: networks come and go.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from types import TracebackType

from rage_net.libp2p.errors import RemoteProtocolError
from rage_net.libp2p.mdns import records
from rage_net.libp2p.mdns.links import PORT, Group, Interface, read_interfaces
from rage_net.libp2p.mdns.neighbours import Neighbours
from rage_net.libp2p.multiaddr import Multiaddr
from rage_net.libp2p.peer_id import PeerId

log = logging.getLogger(__name__)

NAME_CHARS = 40
"""Of our name, drawn anew at each start: it says nothing. The specification wants 32 to 63."""
START_GAPS_S = (1.0, 2.0)
"""After the first question come others so much later (RFC 6762, 5.2), in case one was lost; then every `interval_s`."""
JITTER_S = (0.02, 0.12)
"""Answers, and the first question, wait so long, so that all peers of a link do not speak at once (RFC 6762, 6)."""
ANSWER_GAP_S = 1.0
"""From one answer to the next on one link; whoever asks in between has heard the last, or hears the next."""
LOOK_S = 5.0
"""How often interfaces and our own addresses are compared with those before."""
PACKETS_S_MAX = 400
"""Packets parsed in one second, and of one source a quarter of that; others are dropped. A parse takes up to 2 ms."""
PACKETS_SOURCE_S_MAX = 100

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"

Found = Callable[[PeerId, tuple[Multiaddr, ...]], None]


class Mdns:
    """Looks for peers on the local links and, with `announce`, is found there. Run it with `async with`.

    Args: addresses: where we listen, asked again and again; a wildcard stands for each interface's own addresses.
    on_found: called in the event loop with a peer and its addresses on the link (at most ADDRESSES_MAX, each with its
    peer id), when it is new or has moved, and every `interval_s` while it still answers; at most TOLD_S_MAX times a
    second. A hint: whether it is that peer, only a connection tells. random: draws our name and delays.
    service: another name keeps a private network apart. port, interfaces: others than mDNS's and all, for tests.
    """

    def __init__(
        self,
        peer_id: PeerId,
        addresses: Callable[[], Sequence[Multiaddr]],
        on_found: Found,
        *,
        interval_s: float,
        random: Random,
        announce: bool = True,
        service: str = records.SERVICE,
        port: int = PORT,
        interfaces: Callable[[], Sequence[Interface]] = read_interfaces,
    ) -> None:
        self.state = "off"
        """off, running or unavailable."""
        self.reason = ""
        """Why it is unavailable."""
        self.counts: Counter[str] = Counter()
        """What happened, by name: questions, answers_sent, heard, refused, own, off_link, packets_dropped, ..."""
        self.name = "".join(random.choices(_ALPHABET, k=NAME_CHARS))
        self._peer_id = peer_id
        self._addresses = addresses
        self._on_found = on_found
        self._interval_s = interval_s
        self._random = random
        self._announce = announce
        self._service = service.lower()
        self._group = Group(self._take, self.counts, port=port, interfaces=interfaces)
        self._neighbours = Neighbours(interval_s)
        self._task: asyncio.Task[None] | None = None
        self._judged = asyncio.Event()
        self._gaps: Iterator[float] = iter(())
        self._ask_at = 0.0
        self._seen: object = None  # interfaces and addresses at the last look
        self._answered: dict[tuple[str, str], float] = {}  # when, by interface and what
        self._due: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._second = 0
        self._packets: Counter[str] = Counter()  # in this second, by source

    @property
    def interfaces(self) -> list[str]:
        """The names of the interfaces it works on."""
        return [face.name for face in self._group.usable]

    def __len__(self) -> int:
        """Peers remembered: of each link apart."""
        return len(self._neighbours)

    async def wait_state(self) -> str:
        """The state, once a first question has been tried: a fraction of a second after the start."""
        await self._judged.wait()
        return self.state

    async def __aenter__(self) -> Mdns:
        self._seen = None
        self._judged.clear()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for handle in self._due.values():
            handle.cancel()
        self._due.clear()
        told = {name for name, what in self._answered if what == "peer"}
        for face in self._group.usable:
            if face.name in told:
                self._group.send(records.say_goodbye(self._service, self.name), face)
        self._group.close()
        self.state, self.reason = "off", ""

    # -- asking

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, importlib.import_module, "zeroconf")  # takes 0.1 s
        while True:
            try:
                self._look(loop.time())
                is_time = loop.time() >= self._ask_at
                if is_time:
                    self._ask()
                    self._ask_at = loop.time() + next(self._gaps, self._interval_s * self._random.uniform(0.9, 1.1))
                self._judge()
                if is_time:
                    self._judged.set()
            except Exception:  # a mistake of ours: mDNS is a convenience, the node lives without
                self.counts["task_errors"] += 1
                log.exception("a round of mDNS failed")
            await asyncio.sleep(max(min(self._ask_at - loop.time(), LOOK_S), 0.0))

    def _look(self, now: float) -> None:
        """Interfaces and addresses as they are now; when they changed, start anew, as after a start."""
        self._group.refresh()
        seen = (self._group.interfaces, tuple(self._addresses()))
        if seen != self._seen:
            self._seen = seen
            self._gaps = iter(START_GAPS_S)
            self._ask_at = now + self._random.uniform(*JITTER_S)

    def _ask(self) -> None:
        question = records.ask(self._service)
        for face in self._group.interfaces:
            if self._group.send(question, face):
                self.counts["questions"] += 1
                self._answer_soon(face, "peer")  # so that others find us without asking

    def _judge(self) -> None:
        """Running or unavailable; said once when it changes."""
        failures = self._group.failures
        if usable := self._group.usable:
            state, reason = "running", ""
        else:
            state = "unavailable"
            reason = "; ".join(f"{name}: {why}" if name else why for name, why in failures.items())
            reason = reason or "no network interface has an address"
        if state != self.state:
            names = ", ".join(face.name for face in usable)
            log.info("mDNS is %s: %s", state, reason or f"on {names}")
        self.state, self.reason = state, reason

    # -- answering

    def _answer_soon(self, face: Interface, what: str) -> None:
        """One answer is under way for each link, however many ask."""
        if not self._announce or (face.name, what) in self._due:
            return
        loop = asyncio.get_running_loop()
        last = self._answered.get((face.name, what), -ANSWER_GAP_S)
        at = max(loop.time() + self._random.uniform(*JITTER_S), last + ANSWER_GAP_S)
        self._due[face.name, what] = loop.call_at(at, self._answer, face, what)

    def _answer(self, face: Interface, what: str) -> None:
        self._due.pop((face.name, what), None)
        try:
            if what == "service":
                packet = records.announce_service(self._service)
            else:
                addresses = records.pick(self._addresses(), self._peer_id, face)
                if not addresses:
                    return  # nothing of ours can be reached there
                packet = records.announce(self._service, self.name, addresses)
        except Exception:
            self.counts["task_errors"] += 1
            log.exception("an answer of mDNS failed")
            return
        if self._group.send(packet, face):
            self.counts["answers_sent"] += 1
            self._answered[face.name, what] = asyncio.get_running_loop().time()

    # -- hearing

    def _take(self, data: bytes, face: Interface, source: str) -> None:
        """One packet: never raises, whatever it holds."""
        if not records.concerns(data, self._service):
            return
        if not self._may_parse(source):
            self.counts["packets_dropped"] += 1
            return
        try:
            message = records.read(data, self._service)
        except RemoteProtocolError:
            self.counts["refused"] += 1
            return
        if isinstance(message, records.Query):
            if (message.peers and self.name not in message.known) or self.name in message.names:
                self._answer_soon(face, "peer")
            if message.services:
                self._answer_soon(face, "service")
            return
        for answer in message:
            if answer.name != self.name:
                self._hear(answer, face, source)

    def _hear(self, answer: records.Answer, face: Interface, source: str) -> None:
        if not answer.texts and answer.ttl_s:
            return  # a name alone: whoever wants more asks, and we have
        if not answer.ttl_s:
            self._neighbours.forget((answer.name, face.name))
            return
        try:
            peer_id, said = records.peer_of(answer)
        except RemoteProtocolError:
            self.counts["refused"] += 1
            return
        if peer_id == self._peer_id:
            self.counts["own"] += 1
            return
        own = (str(net.ip) for other in self._group.interfaces for net in other.networks)
        addresses = records.believe(said, face, own)
        if not addresses:
            self.counts["off_link"] += 1
            return
        self.counts["heard"] += 1
        if not self._neighbours.hear((answer.name, face.name), (peer_id, addresses), source, answer.ttl_s, self._now()):
            return
        try:
            self._on_found(peer_id, addresses)
        except Exception:
            self.counts["callback_errors"] += 1
            log.exception("the callback of mDNS failed")

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _may_parse(self, source: str) -> bool:
        if int(self._now()) != self._second:
            self._second = int(self._now())
            self._packets.clear()
        if self._packets.total() >= PACKETS_S_MAX or self._packets[source] >= PACKETS_SOURCE_S_MAX:
            return False
        self._packets[source] += 1
        return True
