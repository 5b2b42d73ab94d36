"""What a node counts: the specification's metrics by their exact names, and a few that operators ask for first.

One `Metrics` belongs to one node: nothing here is global, so that several nodes live in one process. Counting is a
look-up in a dict under a lock, because one-shot commands count too and must not pay for `prometheus_client`, which is
imported by `render` alone and does nothing but the text. The number of series is bounded: each label keeps so many
values, and further ones are counted as "other", so that strangers with fresh peer ids cannot fill a node's memory.

Source: specification, "Network Metrics"; Prometheus, "Metric and label naming".
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

OTHER = "other"

LABEL_VALUES_MAX = 64
"""Distinct values of one label of one metric, where nothing else is said."""

PEERS_MAX = 200
"""Distinct peers of one metric: the connections a busy node keeps."""

_VALUES_MAX = {"peer_id": PEERS_MAX, "source_peer": PEERS_MAX, "target_peer": PEERS_MAX}

LATENCY_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
RETRIEVAL_BUCKETS_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0)

Labels = tuple[str, ...]


class _Family:
    """One metric: a cell for each combination of label values. A cell is a list of numbers, changed under the lock."""

    kind = ""
    _cell_size = 1

    def __init__(self, name: str, help_text: str, labels: Labels) -> None:
        self.name = name
        self.help = help_text
        self.labels = labels
        self._limits = tuple(_VALUES_MAX.get(label, LABEL_VALUES_MAX) for label in labels)
        self._values: tuple[set[str], ...] = tuple(set() for _ in labels)
        self._departed: tuple[dict[str, None], ...] = tuple({} for _ in labels)  # the longest gone first
        self._cells: dict[Labels, list[float]] = {}
        self._lock = threading.Lock()
        if not labels:
            self._cells[()] = self._new_cell()

    def _new_cell(self) -> list[float]:
        return [0.0] * self._cell_size

    def _enter(self, labels: Labels) -> list[float]:
        """The cell for labels that have none yet, or that of "other" where a label's values have run out."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {labels}")
        kept = tuple(self._admit(at, value) for at, value in enumerate(labels))
        return self._cells.setdefault(kept, self._new_cell())

    def _admit(self, at: int, value: str) -> str:
        known = self._values[at]
        if value in known or value == OTHER:
            return value
        if len(known) >= self._limits[at]:
            departed = self._departed[at]
            if not departed:
                return OTHER
            self._fold(at, next(iter(departed)))
        known.add(value)
        return value

    def _fold(self, at: int, value: str) -> None:
        """Count all of `value` as "other" from now on."""
        self._values[at].discard(value)
        del self._departed[at][value]
        for labels in [labels for labels in self._cells if labels[at] == value]:
            cell = self._cells.pop(labels)
            into = self._cells.setdefault((*labels[:at], OTHER, *labels[at + 1 :]), self._new_cell())
            for index, number in enumerate(cell):
                into[index] += number

    def depart(self, label: str, value: str) -> None:
        """A peer has gone: its series may be folded into "other" when a new one needs the room."""
        if label in self.labels:
            at = self.labels.index(label)
            with self._lock:
                if value in self._values[at]:
                    self._departed[at].pop(value, None)
                    self._departed[at][value] = None

    def read(self) -> dict[Labels, list[float]]:
        """A copy of all cells."""
        with self._lock:
            return {labels: list(cell) for labels, cell in self._cells.items()}


F = TypeVar("F", bound=_Family)


class Counter(_Family):
    """A number that only grows."""

    kind = "counter"

    def add(self, amount: float, *labels: str) -> None:
        """Add `amount`, not negative. Cheap enough for every chunk."""
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:
                cell = self._enter(labels)
            cell[0] += amount

    def follow(self, total: float, *labels: str) -> None:
        """Make it `total`, of a count that is kept elsewhere and only grows."""
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:
                cell = self._enter(labels)
            cell[0] = total


class Gauge(_Family):
    """A number that goes up and down."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Make it `value`."""
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:
                cell = self._enter(labels)
            cell[0] = value

    def replace(self, values: Mapping[Labels, float]) -> None:
        """Make these all the values there are. Those beyond a label's limit are added up as "other"."""
        with self._lock:
            self._cells.clear()
            for known, departed in zip(self._values, self._departed, strict=True):
                known.clear()
                departed.clear()
            for labels, value in values.items():
                self._enter(labels)[0] += value


class Histogram(_Family):
    """How often values fell into which bucket; `bounds` are upper and inclusive, the last bucket has none."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, labels: Labels, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self._cell_size = len(bounds) + 2  # the sum, a count for each bound, and one beyond
        super().__init__(name, help_text, labels)

    def observe(self, value: float, *labels: str) -> None:
        """Count one `value`."""
        index = bisect_left(self.bounds, value) + 1
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:
                cell = self._enter(labels)
            cell[0] += value
            cell[index] += 1


class Metrics:
    """All metrics of one node."""

    def __init__(self) -> None:
        self._families: list[_Family] = []
        self._before: list[Callable[[], None]] = []
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        # The specification's.
        self.peers = gauge("rage_network_peers_total", "Connected peers", "organization", "region")
        self.bytes_sent = counter("rage_network_bytes_sent_total", "Bytes sent to peers", "peer_id", "message_type")
        self.bytes_received = counter(
            "rage_network_bytes_received_total", "Bytes received from peers", "peer_id", "message_type"
        )
        self.latency = histogram(
            "rage_network_latency_seconds", "Round trip of a message", LATENCY_BUCKETS_S, "peer_id", "message_type"
        )
        self.cdn_hit_ratio = gauge("rage_cdn_cache_hit_ratio", "CDN cache hit ratio, 0 to 1", "provider", "region")
        self.replication_lag = gauge(
            "rage_replication_lag_seconds", "Replication lag between nodes", "source_peer", "target_peer"
        )
        self.retrieval = histogram(
            "rage_chunk_retrieval_duration_seconds", "Time to retrieve a chunk", RETRIEVAL_BUCKETS_S, "source_type"
        )
        # Ours.
        self.store_chunks = gauge("rage_store_chunks", "Chunks in the store")
        self.store_bytes = gauge("rage_store_bytes", "Bytes the store takes")
        self.store_free_bytes = gauge("rage_store_free_bytes", "Bytes free for the store: disk or quota")
        self.rot = counter(
            "rage_rot_total", "Chunks found rotten, unreadable or without their file, by what met them", "found_by"
        )
        self.scrub_bytes = counter("rage_scrub_bytes_total", "Plain bytes that the scrub has read again")
        self.scrub_age = gauge(
            "rage_scrub_age_seconds", "Since the scrub had last read the whole store, or since it began; 0 without one"
        )
        self.healing = counter(
            "rage_healing_total", "Attempts to bring back what was lost from a peer, by outcome", "outcome"
        )
        self.healing_waiting = gauge("rage_healing_waiting", "Chunks held here that are missing, as far as is known")
        self.failures = counter("rage_guard_failures_total", "Failures that a guard kept from spreading", "kind")
        self.shed = counter("rage_shed_total", "Requests, connections and streams refused for overload", "what")
        self.lane_bytes = counter(
            "rage_lane_bytes_total", "Bytes of chunks and of the log, by why they travelled", "lane", "direction"
        )
        self.lane_waiting = counter("rage_lane_waiting_seconds_total", "Time that bytes waited for their lane", "lane")
        self.swarm_events = counter("rage_swarm_events_total", "What the swarm refused, dropped or failed at", "event")
        self.gossip_events = counter("rage_gossip_events_total", "What gossip rejected, dropped or repeated", "event")
        self.dht_events = counter("rage_dht_events_total", "Look-ups, questions, records and failures", "event")
        self.mdns_events = counter("rage_mdns_events_total", "What was asked and heard by mDNS", "event")
        self.trust_events = counter("rage_trust_events_total", "Peers trusted, refused, cut; renewals", "event")
        self.certificate_expiry = gauge(
            "rage_certificate_expiry_seconds",
            "When this node's certificate expires, seconds since the epoch; 0 without one",
        )
        self.known_peers = gauge("rage_known_peers", "Peers as the failure detector sees them", "state")
        self.dht_contacts = gauge("rage_dht_contacts", "Peers in the DHT's routing table")
        self.announced_roots = gauge("rage_announced_roots", "Roots that this node announces to the DHT")
        self.sync_events = counter(
            "rage_sync_events_total", "Exchanges of metadata that failed, and what they refused", "event"
        )
        self.sync_facts = gauge("rage_sync_facts", "Facts of the log, by organisation", "organization")
        self.sync_agreed = gauge(
            "rage_sync_agreed_timestamp_seconds", "When this node last agreed with another of its organisation; 0 never"
        )
        self.sync_conflicts = gauge("rage_sync_conflicts", "Contradictions that wait for a person")
        self.audits = counter("rage_audit_proofs_total", "Proofs of possession asked for, by what came", "outcome")
        self.replication_events = counter(
            "rage_replication_events_total", "Replicas fetched, dropped, asked for, and what failed", "event"
        )
        self.replica_chunks = gauge(
            "rage_replica_chunks", "Chunks that are waited for, and coordinated ones by their state", "state"
        )
        self.denied = counter("rage_denied_total", "Requests refused for lack of rights", "door")
        self.http_requests = counter("rage_http_requests_total", "Answers of the HTTP door", "route", "code")
        self.http_bytes = counter("rage_http_bytes_sent_total", "Bytes of chunks sent by the HTTP door")
        self.discovery_peers = gauge(
            "rage_discovery_peers",
            "Peers registered at this discovery server, by whether they were reached",
            "reachable",
        )
        self.discovery_checks = counter(
            "rage_discovery_checks_total", "Peers dialled back by this discovery server, by outcome", "reachable"
        )
        self.build = gauge("rage_build_info", "1; the version is the label", "version")

    def before_render(self, update: Callable[[], None]) -> None:
        """Call `update` before each `render`: for gauges that are cheaper to read then than to keep."""
        self._before.append(update)

    def forget_peer(self, peer_id: str) -> None:
        """A peer has disconnected; what was counted for it stays until others need the room."""
        for family in self._families:
            for label in family.labels:
                if label in _VALUES_MAX:
                    family.depart(label, peer_id)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics as text and its content type, the one that `accept` (a request's header) prefers."""
        from prometheus_client.exposition import choose_encoder

        for update in self._before:
            update()
        encoder, content_type = choose_encoder(accept)
        return encoder(self), content_type

    def collect(self) -> Iterator[Metric]:
        """What `prometheus_client` turns into text."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for family in self._families:
            if isinstance(family, Histogram):
                histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
                for labels, (total, *counts) in family.read().items():
                    histogram.add_metric(labels, _cumulate(family.bounds, counts), total)
                yield histogram
                continue
            kind: Any = CounterMetricFamily if isinstance(family, Counter) else GaugeMetricFamily
            metric = kind(family.name, family.help, labels=family.labels)
            for labels, (value,) in family.read().items():
                metric.add_metric(labels, value)
            yield metric

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return self._keep(Counter(name, help_text, labels))

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return self._keep(Gauge(name, help_text, labels))

    def _histogram(self, name: str, help_text: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        return self._keep(Histogram(name, help_text, labels, bounds))

    def _keep(self, family: F) -> F:
        self._families.append(family)
        return family


def _cumulate(bounds: tuple[float, ...], counts: list[float]) -> list[tuple[str, float]]:
    """Prometheus's buckets: each counts all values up to its bound."""
    buckets, total = [], 0.0
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
