"""The peers: found, or installed where that can be done, and their versions.

Debian's packages are installed with apt-get when the user is root; js-libp2p, py-libp2p and Helia go below directories
that `make clean` removes. What cannot be installed is a line in the table, never a failure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from bench import foreign_stream
from bench.processes import environment

PEERS = Path(__file__).parent / "peers"
PACKAGES = {"nginx": "nginx-light", "curl": "curl", "restic": "restic", "borg": "borgbackup"}
VERSIONS = {"nginx": ["-v"], "curl": ["--version"], "restic": ["version"], "borg": ["--version"]}


class MissingError(Exception):
    """A peer is not here and cannot be installed: why, and what mends it."""


def need(*programs: str) -> list[str]:
    """The paths of programs, installed from Debian if need be. Raises MissingError."""
    missing = [name for name in programs if _find(name) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        # RUNLEVEL: a package that brings a service must not start it.
        env = environment(DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
        install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *(PACKAGES[name] for name in missing)]
        for command in (install, ["apt-get", "update", "-qq"], install):
            done = subprocess.run(command, env=env, capture_output=True, check=False)
            if done.returncode == 0 and command is install:
                break
    missing = [name for name in programs if _find(name) is None]
    if missing:
        packages = " ".join(PACKAGES[name] for name in missing)
        raise MissingError(f"{', '.join(missing)} not found; as root: apt-get install {packages}")
    return [str(_find(name)) for name in programs]


def need_libp2p() -> None:
    """js-libp2p and py-libp2p, where the tests have them too. Raises MissingError."""
    try:
        foreign_stream.install()
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingError(f"js-libp2p and py-libp2p could not be installed: {error}") from error


def need_helia(directory: Path) -> tuple[list[str], Path]:
    """The command that runs our Helia peer, and its working directory. Raises MissingError."""
    need_libp2p()  # brings Node
    where, node = directory / "helia", foreign_stream.PEERS / "node"
    where.mkdir(parents=True, exist_ok=True)
    wanted = (PEERS / "helia.package.json").read_text()
    if not (where / ".wanted").exists() or (where / ".wanted").read_text() != wanted:
        (where / "package.json").write_text(wanted)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        path = f"{node.parent}:{os.environ.get('PATH', '')}"
        _run([str(node), str(node.with_name("npm")), "install", *options], cwd=where, env=environment(PATH=path))
        (where / ".wanted").write_text(wanted)
    source = (PEERS / "helia.mjs").read_text()
    # Given as text, a module finds its packages from the working directory.
    return [str(node), "--input-type=module", "-e", source, "--"], where


def versions(directory: Path) -> dict[str, str]:
    """The versions of the peers that are here."""
    found = {}
    foreign = foreign_stream.PEERS
    commands = {
        **{name: [_find(name), *arguments] for name, arguments in VERSIONS.items()},
        "node": [str(foreign / "node"), "--version"],
        "py-libp2p": [
            str(foreign / "py/bin/python"),
            "-c",
            "import importlib.metadata as m; print(m.version('libp2p'))",
        ],
    }
    for name, command in commands.items():
        if command[0] and Path(command[0]).exists():
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found[name] = (done.stdout or done.stderr).splitlines()[0].split("(")[0].strip()
    modules = {"js-libp2p": foreign / "js/node_modules/libp2p", "helia": directory / "helia/node_modules/helia"}
    for name, module in modules.items():
        if (module / "package.json").exists():
            found[name] = json.loads((module / "package.json").read_text())["version"]
    return found


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")


def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no words"]
        raise MissingError(f"{Path(command[1]).name} failed: {last[0]}")
