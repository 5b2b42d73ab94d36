"""Configuration as a whole: the specification's files, layers, places, secrets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rage_net import config
from rage_net.config import audit
from rage_net.config.cdn import Azure, Cloudflare, CloudFront, Edge, Fastly, Http
from rage_net.config.values import Comparison, Secret
from rage_net.errors import ConfigError, NotFoundError

SENTINEL = "s3cret-Sentinel-7f3a"
SPECIFICATION = Path(__file__).parent / "specification"
TOKENS = {
    "CLOUDFLARE_TOKEN": f"{SENTINEL}-1",
    "FASTLY_API_KEY": f"{SENTINEL}-2",
    "AWS_ACCESS_KEY": f"{SENTINEL}-3",
    "AWS_SECRET_KEY": f"{SENTINEL}-4",
    "VARNISH_TOKEN": f"{SENTINEL}-5",
}

Load = Callable[..., config.Config]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the specification's three files as printed, and the certificates they name."""
    (tmp_path / "config").mkdir()
    (tmp_path / "certs").mkdir()
    for name in ("network", "cdn", "replication"):
        (tmp_path / "config" / f"{name}.yaml").write_bytes((SPECIFICATION / f"{name}.yaml").read_bytes())
    for name in ("node.crt", "node.key", "ca.crt"):
        (tmp_path / "certs" / name).write_text("-")
    return tmp_path


# --- the specification's files ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("parser")
def test_the_specifications_network_yaml_reads_key_for_key(home: Path) -> None:
    found = config.load(home, environ={})
    network = found.network
    assert network.node_id == "rage-node-1"
    assert [address.split("/")[3] for address in network.libp2p.listen_addresses] == ["tcp", "tcp", "udp"]
    assert len(network.libp2p.bootstrap_peers) == 2
    assert (network.libp2p.dht.enabled, network.libp2p.dht.mode) == (True, "server")
    assert network.libp2p.mdns.interval == 60
    assert network.libp2p.gossipsub.topics[1] == "rage.org.{organization_id}"
    assert network.discovery.servers[0] == "https://discovery1.rage.network"
    assert network.discovery.registration.heartbeat_interval == 30
    assert network.cdn.providers_config_file == home / "config" / "cdn.yaml"
    assert network.replication.default_factor == 3
    assert network.security.ca_cert == home / "certs" / "ca.crt"
    assert network.security.acl_enforcement == "strict"


def test_an_address_whose_transport_is_not_built_is_a_warning(home: Path) -> None:
    warning, idle = config.load(home, environ={}).warnings
    assert "cdn" in idle.message and "replication" not in idle.message
    assert not warning.is_error
    assert (warning.line, warning.key) == (10, "network.libp2p.listen_addresses[2]")


@pytest.mark.usefixtures("parser")
def test_the_specifications_cdn_yaml_reads_key_for_key(home: Path) -> None:
    cdn = config.load_cdn(config.load(home, environ={}), environ=TOKENS)
    cloudflare, fastly, cloudfront, varnish = cdn.providers
    assert cloudflare.config == Cloudflare(zone_id="abc123", api_token=Secret(f"{SENTINEL}-1"))
    assert fastly.config == Fastly(service_id="xyz789", api_key=Secret(f"{SENTINEL}-2"))
    assert isinstance(cloudfront.config, CloudFront)
    assert cloudfront.routing.regions == ("asia", "oceania")
    assert isinstance(varnish.config, Edge)
    assert (varnish.software, varnish.type, varnish.routing.priority) == ("varnish", "self-hosted", 0)
    assert (cdn.cache_policy.default_ttl, cdn.cache_policy.max_ttl) == (3600, 86_400)
    chunks, embeddings, api = cdn.cache_policy.rules
    assert (chunks.stale_while_revalidate, embeddings.immutable, api.cache, api.ttl) == (3600, True, False, 0)


@pytest.mark.usefixtures("parser")
def test_the_specifications_replication_yaml_reads_key_for_key(home: Path) -> None:
    replication = config.load_replication(config.load(home, environ={}), environ={})
    assert replication.default_factor == 3
    assert [(policy.name, policy.factor) for policy in replication.policies] == [
        ("critical", 5),
        ("ephemeral", 1),
        ("high-traffic", 7),
    ]
    assert replication.policies[0].selector.tags == ("compliance", "legal")
    assert replication.policies[1].selector.retention_days == Comparison("lt", 7)
    assert replication.policies[2].selector.query_count == Comparison("gt", 1000, 86_400)
    assert isinstance(replication.policies[2].selector.query_count, Comparison)
    assert replication.placement.strategy == "geographic_diversity"


@pytest.mark.usefixtures("parser")
def test_the_bare_query_count_is_told_to_be_quoted(home: Path) -> None:
    printed = (SPECIFICATION / "replication-as-printed.yaml").read_bytes()
    (home / "config" / "replication.yaml").write_bytes(printed)
    with pytest.raises(ConfigError) as caught:
        config.load_replication(config.load(home, environ={}), environ={})
    assert f"{home}/config/replication.yaml:18: query_count: a bare > begins a block" in caught.value.message
    assert caught.value.mend[0].startswith("quote it: query_count: ")


def test_query_count_may_be_a_mapping(home: Path) -> None:
    text = (SPECIFICATION / "replication.yaml").read_text().replace('"> 1000/day"', "{gt: 1000/day}")
    (home / "config" / "replication.yaml").write_text(text)
    replication = config.load_replication(config.load(home, environ={}), environ={})
    assert replication.policies[2].selector.query_count == Comparison("gt", 1000, 86_400)


def test_the_specifications_bandwidth_may_stand_beside_network_or_in_it(load: Load) -> None:
    text = (SPECIFICATION / "bandwidth.yaml").read_text()
    beside = load(text + "network:\n  region: a\n").network.bandwidth
    within = load("network:\n" + "".join(f"  {line}\n" for line in text.splitlines())).network.bandwidth
    assert beside == within
    assert (beside.limits.upload_mbps, beside.limits.download_mbps) == (100, 500)
    assert [lane.max_bandwidth for lane in beside.prioritization] == [0.8, 0.4, 0.2]


def test_bandwidth_twice_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match="there twice"):
        load("bandwidth: {}\nnetwork:\n  bandwidth: {}\n")


# --- layers -----------------------------------------------------------------------------------------------------------


def test_a_flag_wins_over_the_environment_and_that_over_the_file(load: Load) -> None:
    text = "network:\n  node_id: file\n"
    environ = {"RAGE_NODE_ID": "variable"}
    flags = {"network.node_id": "flag"}
    found = [load(text), load(text, environ), load(text, environ, flags=flags), load("")]
    assert [one.network.node_id for one in found] == ["file", "variable", "flag", ""]
    origins = [one.origins.get("network.node_id", "default") for one in found]
    assert origins[0].endswith("config/network.yaml:2")
    assert origins[1:] == ["env RAGE_NODE_ID", "flag network.node_id", "default"]


def test_the_specifications_variables_set_their_keys(tmp_path: Path) -> None:
    environ = {
        "RAGE_NODE_ID": "rage-node-prod-1",
        "RAGE_PEER_KEY_PATH": "/etc/rage/peer_key.pem",
        "RAGE_LISTEN_ADDRESS": "/ip4/0.0.0.0/tcp/4001",
        "RAGE_DISCOVERY_SERVERS": "https://discovery1.rage.network, https://discovery2.rage.network",
        "RAGE_AUTO_REGISTER": "false",
        "RAGE_CDN_ENABLED": "0",
        "RAGE_REPLICATION_FACTOR": "5",
        "RAGE_SYNC_INTERVAL": "300",
        "RAGE_ORG_ID": "org_acme_corp",
        "RAGE_TLS_CERT": "certs/node.crt",
        "RAGE_TLS_KEY": "/etc/rage/certs/node.key",
    }
    assert environ.keys() == config.ENVIRONMENT.keys()
    network = config.load(tmp_path, environ=environ, files=False).network
    assert network.node_id == "rage-node-prod-1"
    assert network.security.peer_key == Path("/etc/rage/peer_key.pem")
    assert network.libp2p.listen_addresses == ("/ip4/0.0.0.0/tcp/4001",)
    assert network.discovery.servers == ("https://discovery1.rage.network", "https://discovery2.rage.network")
    assert (network.discovery.registration.auto_register, network.cdn.enabled) == (False, False)
    assert (network.replication.default_factor, network.sync.interval) == (5, 300)
    assert network.organization_id == "org_acme_corp"
    assert (network.security.tls_cert, network.security.tls_key) == (
        tmp_path / "certs" / "node.crt",
        Path("/etc/rage/certs/node.key"),
    )


def test_an_empty_variable_sets_nothing(load: Load) -> None:
    assert load("network:\n  node_id: file\n", {"RAGE_NODE_ID": ""}).network.node_id == "file"


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path, environ={"RAGE_REPLICATION_FACTOR": "many"})
    assert caught.value.message.startswith("environment variable RAGE_REPLICATION_FACTOR: network.replication.")


def test_a_flag_may_give_a_list(tmp_path: Path) -> None:
    flags = {"network.libp2p.listen_addresses": ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]}
    found = config.load(tmp_path, environ={}, flags=flags)
    assert found.network.libp2p.listen_addresses == ("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0")


@pytest.mark.parametrize(
    ("outer", "inner", "environ", "factor"),
    [("", "", {}, 3), ("4", "", {}, 4), ("4", "6", {}, 6), ("4", "6", {"RAGE_REPLICATION_FACTOR": "2"}, 2)],
)
def test_replication_yaml_wins_over_network_yaml_and_the_environment_over_both(
    load: Load, tmp_path: Path, outer: str, inner: str, environ: dict[str, str], factor: int
) -> None:
    found = load(f"network:\n  replication: {{default_factor: {outer}}}\n" if outer else "", environ)
    text = f"replication:\n  default_factor: {inner or 'null'}\n"
    (tmp_path / "config" / "replication.yaml").write_text(text)
    assert config.load_replication(found, environ=environ).default_factor == factor


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_enabled_in_two_places_means_both(load: Load, tmp_path: Path, outer: bool, inner: bool) -> None:
    switch = f"{{enabled: {str(outer).lower()}}}"
    found = load(f"network:\n  cdn: {switch}\n  replication: {switch}\n")
    for name in ("cdn", "replication"):
        (tmp_path / "config" / f"{name}.yaml").write_text(f"{name}:\n  enabled: {str(inner).lower()}\n")
    assert config.load_cdn(found, environ={}).enabled is (outer and inner)
    assert config.load_replication(found, environ={}).enabled is (outer and inner)


# --- variables and secrets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "environ", "value"),
    [
        ("${REGION}", {"REGION": "a"}, "a"),
        ("eu-${N}", {"N": "1"}, "eu-1"),
        ("${REGION:-b}", {}, "b"),
        ("${REGION:-b}", {"REGION": ""}, "b"),
        ("'${REGION}'", {"REGION": "a"}, "a"),
    ],
)
def test_a_variable_is_filled_in(load: Load, text: str, environ: dict[str, str], value: str) -> None:
    assert load(f"network:\n  region: {text}\n", environ).network.region == value


def test_a_variable_is_read_as_its_key_wants(load: Load) -> None:
    text = "network:\n  sync: {interval: '${T}'}\n  libp2p: {listen_addresses: '${A}', dht: {enabled: '${B}'}}\n"
    network = load(text, {"T": "2m", "A": "/ip4/127.0.0.1/tcp/1,/ip4/127.0.0.1/tcp/2", "B": "no"}).network
    assert network.sync.interval == 120
    assert len(network.libp2p.listen_addresses) == 2
    assert network.libp2p.dht.enabled is False


def test_a_variable_may_come_from_a_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "region").write_text("a\n")
    assert load("network:\n  region: ${R}\n", {"R_FILE": str(tmp_path / "region")}).network.region == "a"
    with pytest.raises(ConfigError, match=r"R_FILE names .* cannot be read: no such file"):
        load("network:\n  region: ${R}\n", {"R_FILE": str(tmp_path / "nothing")})


@pytest.mark.parametrize("variable", ["CLOUDFLARE_TOKEN", "CLOUDFLARE_API_TOKEN"])
def test_either_name_of_cloudflares_token_will_do(home: Path, variable: str) -> None:
    environ = {**TOKENS, "CLOUDFLARE_TOKEN": "", variable: "x", "CLOUDFLARE_ZONE_ID": "zone"}
    cdn = config.load_cdn(config.load(home, environ={}), environ=environ)
    assert cdn.providers[0].config == Cloudflare(zone_id="zone", api_token=Secret("x"))


def test_a_secret_may_come_from_a_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    environ = {**TOKENS, "CLOUDFLARE_TOKEN": "", "CLOUDFLARE_TOKEN_FILE": str(tmp_path / "token")}
    cdn = config.load_cdn(config.load(home, environ={}), environ=environ)
    assert isinstance(cdn.providers[0].config, Cloudflare)
    assert cdn.providers[0].config.api_token.reveal() == "from-file"


def test_a_file_is_read_for_verbs_that_use_it_only(home: Path) -> None:
    (home / "config" / "cdn.yaml").write_text("\tbroken")
    found = config.load(home, environ={})
    assert config.load_replication(found, environ={}).enabled
    with pytest.raises(ConfigError):
        config.load_cdn(found, environ={})


def test_no_secret_shows_in_values_rows_or_problems(home: Path) -> None:
    found = config.load(home, environ=TOKENS)
    rows = audit.show(home, environ=TOKENS, file=None)
    shown = repr((found, config.load_cdn(found, environ=TOKENS), rows))
    assert "<set>" in shown
    assert SENTINEL not in shown


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('api_token: "${CLOUDFLARE_TOKEN}"', f"api_token: [{SENTINEL}]"),
        ('api_token: "${CLOUDFLARE_TOKEN}"', f"api_token: !x {SENTINEL}"),
        ('api_token: "${CLOUDFLARE_TOKEN}"', f"api_token: {'9' * 30}"),
        ('api_token: "${CLOUDFLARE_TOKEN}"', f"api_token: *{SENTINEL}"),
        ('regions: ["americas"]', 'regions: ["${CLOUDFLARE_TOKEN} /"]'),
        ("priority: 1", 'priority: "${CLOUDFLARE_TOKEN}"'),
        ("ttl: 7200", 'ttl: "${CLOUDFLARE_TOKEN}"'),
        ('type: "commercial"', 'type: "${CLOUDFLARE_TOKEN}"'),
        ('"https://cdn-edge-1.myorg.com"', f'"https://u:{SENTINEL}@cdn.example"'),
        ("purge_on_update: true", 'purge_on_update: "${CLOUDFLARE_TOKEN}"'),
        ("zone_id:", "zone_if:"),
    ],
)
@pytest.mark.usefixtures("parser")
def test_no_secret_shows_in_an_error(home: Path, old: str, new: str) -> None:
    file = home / "config" / "cdn.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        config.load_cdn(config.load(home, environ={}), environ=TOKENS)
    shown = f"{caught.value!r} {caught.value.to_plain()} {getattr(caught.value, 'problems', '')}"
    assert SENTINEL not in shown
    assert "9" * 30 not in shown
    assert caught.value.exit_code == 10


# --- what no single value tells ---------------------------------------------------------------------------------------


def test_a_ca_that_cannot_be_read_never_means_an_open_node(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"network.yaml:3: network.security.ca_cert: .*no such file"):
        load("network:\n  security:\n    ca_cert: certs/ca.crt\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http: {tls_cert: a}", "tls_cert is set and tls_key is not"),
        ("security: {tls_key: a}", "tls_key is set and tls_cert is not"),
        ("store: {split: {min_size: 2MiB}}", "min_size <= target_size"),
        ("store: {split: {target_size: 3MiB}}", "min_size <= target_size"),
        ("store: {split: {min_size: 1000}}", "multiples of 1 KiB"),
        ("store: {split: {max_size: 8MiB}}", "max_size at most 4MiB"),
        ("store: {uri: 'http://x'}", "s3://"),
        (
            "bandwidth: {prioritization: [{priority: 1, traffic: replication}, {priority: 2, traffic: replication}]}",
            "replication has two lanes",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(load: Load, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(f"network:\n  {text}\n")
    assert "network.yaml:2" in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "providers: [{name: cloudflare, type: commercial, config: {api_token: x}}]",
            "config.zone_id: this key is",
        ),
        ("providers: [{name: mine, type: commercial, config: {}}]", "say which `software` it is"),
        ("providers: [{name: nginx, type: commercial, config: {endpoints: []}}]", "nginx is self-hosted"),
        ("providers: [{name: fastly, type: commercial}]", "config: this key is missing"),
        ("providers: [{name: fastly, type: commercial, config: {zone_id: x}}]", "zone_id: unknown key"),
        ("providers: [{name: x, type: commercial, software: http}]", "public URLs, and none is given"),
        ("providers: [{name: x, type: commercial, software: http, config: {endpoints: []}}]", "endpoints: unknown key"),
        ("cache_policy: {max_ttl: 60}", "default_ttl: it is longer than max_ttl"),
        ("cache_policy: {rules: [{pattern: chunks}]}", "which begins with /"),
    ],
)
def test_a_cdn_that_cannot_work_is_refused(home: Path, text: str, message: str) -> None:
    (home / "config" / "cdn.yaml").write_text(f"cdn:\n  {text}\n")
    with pytest.raises(ConfigError) as caught:
        config.load_cdn(config.load(home, environ={}), environ={})
    assert message in f"{caught.value.message} {caught.value.why} {caught.value.mend}"


def test_a_provider_may_be_named_freely_with_its_software(home: Path) -> None:
    text = "{name: x, software: azure, type: commercial, config: {subscription_id: a, resource_group: b, "
    (home / "config" / "cdn.yaml").write_text(f"cdn:\n  providers: [{text}profile_name: c, endpoint_name: d}}}}]\n")
    cdn = config.load_cdn(config.load(home, environ={}), environ={})
    assert isinstance(cdn.providers[0].config, Azure)


@pytest.mark.parametrize("kind", ["commercial", "self-hosted"])
@pytest.mark.parametrize("more", ["", ", config: {}"])
def test_a_cdn_that_is_only_read_needs_no_keys_of_its_own(home: Path, kind: str, more: str) -> None:
    text = f'{{name: x, software: http, type: {kind}, public_urls: ["https://cdn.example"]{more}}}'
    (home / "config" / "cdn.yaml").write_text(f"cdn:\n  providers: [{text}]\n")
    (provider,) = config.load_cdn(config.load(home, environ={}), environ={}).providers
    assert isinstance(provider.config, Http) and not provider.config.purge_on_update


def test_a_newer_file_is_refused_before_its_keys_are_judged(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"yaml:2: network.version: version 2 is newer") as caught:
        load("network:\n  version: 2\n  new_key: 1\n")
    assert caught.value.why == ""


def test_a_named_file_must_exist(tmp_path: Path, load: Load) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        config.load(tmp_path, environ={}, file=tmp_path / "other.yaml")
    found = load("network:\n  cdn: {providers_config_file: my.yaml}\n")
    with pytest.raises(ConfigError, match=r"my\.yaml: no such file"):
        config.load_cdn(found, environ={})


def test_a_file_that_cannot_be_opened_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "config" / "network.yaml").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is a directory"):
        config.load(tmp_path, environ={})


def test_paths_are_relative_to_the_home(load: Load, tmp_path: Path) -> None:
    network = load("network:\n  store: {path: ../chunks}\n  security: {peer_key: /k}\n").network
    assert network.store.path == tmp_path / ".." / "chunks"
    assert network.security.peer_key == Path("/k")
    assert load("").network.store.path == tmp_path / "store"


def test_an_unknown_key_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        audit.show(tmp_path, environ={}, file=None, prefix="region")
    assert caught.value.mend == ("rage config show network.region",)


def test_a_home_without_files_loads_defaults_without_a_parser(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from rage_net import config; c = config.load(pathlib.Path(sys.argv[1]), environ={}); "
        "print(c.network.http.listen, sorted({'yaml', 'msgspec', 'asyncio', 'cryptography'} & set(sys.modules)))"
    )
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "network.yaml").write_text("# network:\n\n  #region: a\n")
    run = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.check_output(run, text=True) == "127.0.0.1:4080 []\n"
