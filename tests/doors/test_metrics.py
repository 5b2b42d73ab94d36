"""What is counted, read back by Prometheus's own parser."""

from __future__ import annotations

import random
import subprocess
import sys
import threading

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from rage_net.metrics import LABEL_VALUES_MAX, OTHER, PEERS_MAX, Metrics

SPECIFIED = {
    "rage_network_peers_total": ("gauge", {"organization", "region"}),
    "rage_network_bytes_sent_total": ("counter", {"peer_id", "message_type"}),
    "rage_network_bytes_received_total": ("counter", {"peer_id", "message_type"}),
    "rage_network_latency_seconds": ("histogram", {"peer_id", "message_type"}),
    "rage_cdn_cache_hit_ratio": ("gauge", {"provider", "region"}),
    "rage_replication_lag_seconds": ("gauge", {"source_peer", "target_peer"}),
    "rage_chunk_retrieval_duration_seconds": ("histogram", {"source_type"}),
}


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = metrics.render()[0].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def test_the_specifications_metrics_have_their_names_types_and_labels() -> None:
    metrics = Metrics()
    metrics.peers.set(3, "acme", "eu")
    metrics.bytes_sent.add(10, "p", "chunk")
    metrics.bytes_received.add(10, "p", "chunk")
    metrics.latency.observe(0.02, "p", "ping")
    metrics.cdn_hit_ratio.set(0.5, "cloudflare", "eu")
    metrics.replication_lag.set(1, "a", "b")
    metrics.retrieval.observe(0.2, "p2p")
    text = metrics.render()[0].decode()
    for name, (kind, labels) in SPECIFIED.items():
        assert f"# TYPE {name} {kind}\n" in text
        found = {key for family in text_string_to_metric_families(text) for s in family.samples for key in s.labels
                 if s.name.startswith(name)}  # fmt: skip
        assert found - {"le"} == labels, name


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("rage_network_latency_seconds", ["0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1.0", "+Inf"]),
        ("rage_chunk_retrieval_duration_seconds", ["0.01", "0.05", "0.1", "0.5", "1.0", "5.0", "+Inf"]),
    ],
)
def test_the_specifications_buckets_are_kept(name: str, bounds: list[str]) -> None:
    metrics = Metrics()
    metrics.latency.observe(0, "p", "ping")
    metrics.retrieval.observe(0, "local")
    found = [dict(labels)["le"] for (sample, labels) in samples(metrics) if sample == f"{name}_bucket"]
    assert sorted(found, key=float) == bounds


def test_a_value_falls_into_the_bucket_whose_bound_it_equals() -> None:
    metrics = Metrics()
    for seconds in (0.01, 0.0100001, 0.05, 5.0, 6.0):
        metrics.retrieval.observe(seconds, "cdn")
    name = "rage_chunk_retrieval_duration_seconds"
    buckets = {le: value(metrics, f"{name}_bucket", source_type="cdn", le=le) for le in ("0.01", "0.05", "5.0", "+Inf")}
    assert buckets == {"0.01": 1, "0.05": 3, "5.0": 4, "+Inf": 5}
    assert value(metrics, f"{name}_count", source_type="cdn") == 5
    assert value(metrics, f"{name}_sum", source_type="cdn") == pytest.approx(11.0700001)


def test_counters_without_labels_exist_from_the_start() -> None:
    assert value(Metrics(), "rage_http_bytes_sent_total") == 0


def test_two_nodes_in_one_process_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.http_bytes.add(5)
    assert (value(one, "rage_http_bytes_sent_total"), value(other, "rage_http_bytes_sent_total")) == (5, 0)


def test_peers_beyond_the_limit_are_counted_together_and_nothing_is_lost() -> None:
    metrics = Metrics()
    for number in range(PEERS_MAX * 3):
        metrics.bytes_sent.add(1, f"peer-{number}", "chunk")
    name = "rage_network_bytes_sent_total"
    found = {dict(labels)["peer_id"]: v for (sample, labels), v in samples(metrics).items() if sample == name}
    assert len(found) == PEERS_MAX + 1
    assert found[OTHER] == 2 * PEERS_MAX
    assert sum(found.values()) == 3 * PEERS_MAX


def test_a_peer_that_left_makes_room_for_one_that_comes() -> None:
    metrics = Metrics()
    for number in range(PEERS_MAX):
        metrics.bytes_sent.add(2, f"peer-{number}", "chunk")
    metrics.forget_peer("peer-7")
    metrics.forget_peer("never seen")
    name = "rage_network_bytes_sent_total"
    assert value(metrics, name, peer_id="peer-7", message_type="chunk") == 2  # it stays while nobody needs the room
    metrics.bytes_sent.add(5, "newcomer", "chunk")
    assert value(metrics, name, peer_id="newcomer", message_type="chunk") == 5
    assert value(metrics, name, peer_id=OTHER, message_type="chunk") == 2
    metrics.bytes_sent.add(1, "one too many", "chunk")
    assert value(metrics, name, peer_id=OTHER, message_type="chunk") == 3


def test_the_sum_survives_any_order_of_counting_leaving_and_coming_back(rng: random.Random) -> None:
    metrics, total = Metrics(), 0
    names = [f"peer-{number}" for number in range(PEERS_MAX * 2)]
    for _ in range(5000):
        name = rng.choice(names)
        if rng.random() < 0.3:
            metrics.forget_peer(name)
        else:
            amount = rng.randrange(100)
            metrics.bytes_sent.add(amount, name, rng.choice(["chunk", "ping"]))
            total += amount
    cells = metrics.bytes_sent.read()
    assert sum(cell[0] for cell in cells.values()) == total
    assert len({peer for peer, _ in cells}) <= PEERS_MAX + 1


def test_every_label_is_bounded_and_a_replaced_gauge_adds_the_rest_up() -> None:
    metrics = Metrics()
    metrics.peers.set(9, "gone", "eu")
    metrics.peers.replace({(f"org-{number}", "eu"): 1.0 for number in range(LABEL_VALUES_MAX + 5)})
    cells = metrics.peers.read()
    assert len(cells) == LABEL_VALUES_MAX + 1
    assert cells[OTHER, "eu"] == [5.0]
    assert ("gone", "eu") not in cells


def test_hostile_label_values_are_escaped() -> None:
    metrics = Metrics()
    evil = 'a"b\\c\nrage_forged_total 1'
    metrics.peers.set(1, evil, "eu")
    assert value(metrics, "rage_network_peers_total", organization=evil, region="eu") == 1
    assert not any(name == "rage_forged_total" for name, _ in samples(metrics))


def test_labels_that_do_not_fit_the_metric_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="peer_id"):
        Metrics().bytes_sent.add(1, "only one")


def test_gauges_read_at_the_last_moment_are_fresh() -> None:
    metrics, chunks = Metrics(), [1]
    metrics.before_render(lambda: metrics.store_chunks.set(chunks[0]))
    chunks[0] = 42
    assert value(metrics, "rage_store_chunks") == 42


def test_openmetrics_is_spoken_to_those_who_ask_for_it() -> None:
    metrics = Metrics()
    metrics.bytes_sent.add(1, "p", "chunk")
    text, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert any(family.name == "rage_network_bytes_sent" for family in parse_openmetrics(text.decode()))
    assert metrics.render("*/*")[1].startswith("text/plain; version=0.0.4")


def test_threads_that_count_at_once_lose_nothing() -> None:
    metrics = Metrics()
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [metrics.bytes_sent.add(1, "p", "chunk") for _ in range(5000)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert metrics.bytes_sent.read() == {("p", "chunk"): [20_000.0]}


def test_counting_does_not_import_the_prometheus_client() -> None:
    code = (
        "import sys; from rage_net.metrics import Metrics; Metrics().http_bytes.add(1); "
        "sys.exit('prometheus_client' in sys.modules or 'asyncio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
