"""What the doctor can look at without a node and without the network: home, machine, and who holds the ports.

Each check takes what it needs and returns one `Check`; a broken home is a finding, never a crash. `check_home` makes
them all and opens nothing: no lock, no store, no engine. What needs the network is the engine's business; but for an
object store, without which there is no engine.

    place         the home, its secrets, its configuration
    machine       clock, disk, files
    objects       the object store, where chunks lie in one
    node          whether it answers, and its ports
    certificates  this node's certificate and the CAs, from files
    ledger        the log's file
    cdn           cdn.yaml, and the files with its secrets
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

from rage_net import config as configuration
from rage_net.checkup.cdn import check_cdn
from rage_net.checkup.certificates import check_ca, check_certificate
from rage_net.checkup.ledger import check_log
from rage_net.checkup.machine import check_clock, check_disk, check_files
from rage_net.checkup.node import Answer, ask_node, check_node, check_ports
from rage_net.checkup.objects import check_objects
from rage_net.checkup.outcomes import skipped
from rage_net.checkup.place import check_config, check_permissions, check_place
from rage_net.config import Config
from rage_net.home import Home
from rage_net.verbs.diagnose import Check

__all__ = [
    "Answer",
    "ask_node",
    "check_ca",
    "check_cdn",
    "check_certificate",
    "check_clock",
    "check_config",
    "check_disk",
    "check_files",
    "check_home",
    "check_log",
    "check_node",
    "check_objects",
    "check_permissions",
    "check_place",
    "check_ports",
]


def check_home(home: Home, environ: Mapping[str, str], now: float, *, file: str | None = None) -> list[Check]:
    """All checks of a home and its machine, in the order of `DOCTOR_CHECKS`.

    Blocking, for ANSWER_S at most, and for as long as an object store takes to answer once.

    Args: now: seconds since the epoch. file: the network.yaml that `--config` names.
    """
    named = Path(file) if file else None
    found = check_place(home)
    answer = ask_node(home)
    unread = ""
    if found.level == "error":
        config = configuration.defaults(home.root)
        unread = "there is no home to look into"
        kept = [skipped(name, unread) for name in ("permissions", "config")]
    else:
        config, check = check_config(home, environ, named)
        unread = "not looked at: config comes first" if check.level == "error" else ""
        kept = [check_permissions(home), check]
    network = config.network
    return [
        found,
        *kept,
        check_clock(now, _ages(home)),
        check_disk(home, network.store.path, network.store.reserve),
        *([] if unread or network.store.uri is None else [check_objects(home, network.store)]),
        check_files(
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            network.limits.connections + network.limits.http_connections + network.limits.control_connections,
        ),
        check_node(home, answer, now),
        check_ports(config, answer),
        *([skipped(name, unread) for name in _OF_TRUST] if unread else _check_trust(home, config, now, answer)),
        skipped("cdn", unread) if unread else check_cdn(config, environ),
    ]


_OF_TRUST = ("certificate", "ca", "log")


def _check_trust(home: Home, config: Config, now: float, answer: Answer) -> list[Check]:
    return [
        check_certificate(home, config, now),
        check_ca(home, config, now, runs=bool(answer.pid)),
        check_log(home, has_ca=config.network.security.ca_cert is not None),
    ]


def _ages(home: Home) -> list[tuple[str, float]]:
    """Files that a home writes to, and when it last did."""
    found = []
    for path in (home.identity, home.network_yaml, home.index, home.peers, home.lock_file):
        try:
            found.append((str(path), path.stat().st_mtime))
        except OSError:
            continue
    return found
