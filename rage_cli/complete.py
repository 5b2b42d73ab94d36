"""`rage __complete`: what may come next on a command line, with the standard library only.

The shells' scripts send the words up to the cursor; the answer is one candidate a line, `word<TAB>description`, or
`:files` or `:dirs`, with which the shell completes paths itself. The tree of commands is a generated table (`_tree`);
documents and CIDs come from the home's index, read-only; peers from the file of known peers, policies from
replication.yaml. Whatever goes wrong, the answer is empty: nobody wants a traceback at the prompt.

Not here: how the table is made (`completions`). Nothing is imported that is not needed: this runs at every TAB.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CUTOFF_S = 0.15
"""For reading the index: a person waits."""

CANDIDATES_MAX = 200
"""More are no help at a prompt."""

PEERS_BYTES_MAX = 1024 * 1024
POLICIES_BYTES_MAX = 1024 * 1024

CHECKS = (
    *("home", "permissions", "config", "clock", "disk", "files", "node", "ports"),
    *("certificate", "ca", "log", "addresses", "bootstrap", "discovery", "dht", "mdns", "trust", "acl", "sync"),
    *("cdn", "purges"),
)
"""The doctor's, as `rage_net.verbs.diagnose` has them; a test compares, since that import takes too long here."""

TOPICS = ("rage.acl.updates", "rage.global")
"""That every node joins, unless its configuration says otherwise."""

SCRIPTS = {"bash": "rage.bash", "zsh": "_rage", "fish": "rage.fish"}

_CID_BYTES = 36
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"

Node = tuple[str, dict[str, tuple[str, str]], tuple[str, ...], "dict[str, Node] | None"]
"""Summary, options (metavar or "" for a flag, help), metavars of arguments, members of a group."""


def complete(words: list[str]) -> None:
    """Print the candidates for the last of `words`, which may be empty; the words begin after `rage`."""
    try:
        sys.stdout.write("".join(f"{line}\n" for line in candidates(words or [""])[:CANDIDATES_MAX]))
        sys.stdout.flush()
    except Exception:  # noqa: S110  silent by design, as the head of this file says
        pass


def candidates(words: list[str]) -> list[str]:
    """The lines of the answer."""
    from rage_cli._tree import GLOBALS, TREE

    node: Node = TREE
    home, waiting, positional, only_arguments = "", "", 0, False
    for word in words[:-1]:
        options = {**GLOBALS, **node[1]}
        if waiting:
            home = word if waiting == "--home" else home
            waiting = ""
        elif word == "--":
            only_arguments = True
        elif word.startswith("-") and len(word) > 1 and not only_arguments:
            name, equals, value = word.partition("=")
            home = value if name == "--home" else home
            waiting = name if not equals and options.get(name, ("", ""))[0] else ""
        elif node[3] is not None and word in node[3]:
            node = node[3][word]
        else:
            positional += 1
    last, options = words[-1], {**GLOBALS, **node[1]}
    if waiting:
        return _values(options[waiting][0], last, home)
    if last.startswith("--") and "=" in last and not only_arguments:
        name, _, value = last.partition("=")
        found = _values(options.get(name, ("", ""))[0], value, home)
        return [line if line.startswith(":") else f"{name}={line}" for line in found]
    if last.startswith("-") and not only_arguments:
        return _matching(last, [(name, text) for name, (_, text) in node[1].items()]) or _matching(
            last, [(name, text) for name, (_, text) in GLOBALS.items()]
        )
    if node[3] is not None:
        return [] if positional else _matching(last, [(name, member[0]) for name, member in node[3].items()])
    arguments = node[2]
    if not arguments:
        return []
    metavar = arguments[min(positional, len(arguments) - 1)]
    return _values(metavar, last, home) if positional < len(arguments) or metavar.endswith("...") else []


def _matching(start: str, pairs: list[tuple[str, str]]) -> list[str]:
    return [f"{word}\t{text}" if text else word for word, text in pairs if word.startswith(start)]


def _values(metavar: str, start: str, home: str) -> list[str]:
    """Candidates for a value, by its metavar: `CID|DOC`, `PEER`, `POLICY`, `PATH|-`, or choices, in small letters."""
    parts = metavar.strip("[].").replace(",", "|").split("|")
    found = []
    if "CID" in parts:
        found += _tried(lambda: _documents(start, home, names="DOC" in parts))
    if "PEER" in parts or "NODE" in parts or "MULTIADDR" in parts:
        found += _tried(lambda: _peers(start, home, addresses="MULTIADDR" in parts and "PEER" not in parts))
    if found or {"CID", "PEER", "NODE", "MULTIADDR"} & set(parts):
        return found
    if "POLICY" in parts:
        return [name for name in _tried(lambda: _policies(home)) if name.startswith(start)]
    if "CHECK" in parts:
        return [check for check in CHECKS if check.startswith(start)]
    if "TOPIC" in parts:
        return [topic for topic in TOPICS if topic.startswith(start)]
    if "PATH" in parts or "FILE" in parts:
        return [":files"]
    if "DIR" in parts:
        return [":dirs"]
    if "," in metavar:  # several of them, by commas: the last is at hand
        before, comma, start = start.rpartition(",")
        named = before.split(",")
        return [before + comma + part for part in parts if part.startswith(start) and part not in named]
    return [part for part in parts if part == part.lower() and part.startswith(start)]


def _tried(look: "Callable[[], list[str]]") -> list[str]:
    """What there is to find; nothing where the file cannot be read, so that the other file still counts."""
    try:
        return look()
    except Exception:
        return []


def home_directory(flag: str, environment: "os._Environ[str] | dict[str, str]") -> str:
    """As `rage_net.home.locate` has it, without what that imports; a test compares the two."""
    named = flag or environment.get("RAGE_HOME", "")
    if named:
        return os.path.abspath(os.path.expanduser(named))  # noqa: PTH100, PTH111
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Application Support/rage")  # noqa: PTH111
    data = environment.get("XDG_DATA_HOME", "").strip()
    return os.path.join(data if data.startswith("/") else os.path.expanduser("~/.local/share"), "rage")  # noqa: PTH111, PTH118


def _documents(start: str, home: str, *, names: bool) -> list[str]:
    """Names that begin so, if they are wanted, then roots: the index is read without a lock, and never waited for."""
    import sqlite3
    import time

    path = os.path.join(home_directory(home, os.environ), "index.db")  # noqa: PTH118
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    index = sqlite3.connect(f"file:{quoted}?mode=ro", uri=True, timeout=CUTOFF_S)
    deadline = time.monotonic() + CUTOFF_S
    index.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
    found = []
    try:
        if names:
            rows = index.execute(
                "SELECT name, size FROM document WHERE name >= ? AND name < ? ORDER BY name LIMIT ?",
                (start, start + "\U0010ffff", CANDIDATES_MAX),
            )
            found = [f"{name}\t{size} bytes" for name, size in rows if name and name.isprintable()]
        if start.startswith("baf"):
            low, high = _cid_range(start)
            rows = index.execute(
                "SELECT DISTINCT root, name FROM document WHERE root BETWEEN ? AND ? LIMIT ?",
                (low, high, CANDIDATES_MAX),
            )
            texts = ((_cid_text(root), name) for root, name in rows)
            found += [f"{cid}\t{name if name.isprintable() else ''}" for cid, name in texts if cid.startswith(start)]
    finally:
        index.close()
    return found


def _cid_range(start: str) -> tuple[bytes, bytes]:
    """The binary CIDs between which every CID lies whose text begins so."""
    bits = "".join(f"{_BASE32.index(char):05b}" for char in start[1:60])
    whole = len(bits) // 8
    low = int(bits[: whole * 8] or "0", 2).to_bytes(whole, "big")
    return low.ljust(_CID_BYTES, b"\x00"), low.ljust(_CID_BYTES, b"\xff")


def _cid_text(raw: bytes) -> str:
    number = int.from_bytes(raw, "big") << 2  # 36 bytes are 288 bits; 58 letters hold 290
    return "b" + "".join(_BASE32[number >> shift & 31] for shift in range(285, -1, -5))


def _peers(start: str, home: str, *, addresses: bool) -> list[str]:
    """Known peers, newest first: a line each, `id seconds addresses`."""
    path = os.path.join(home_directory(home, os.environ), "peers.txt")  # noqa: PTH118
    with open(path, encoding="ascii") as file:  # noqa: PTH123
        lines = [line.split() for line in file.read(PEERS_BYTES_MAX).splitlines()]
    found = []
    for parts in lines:
        if len(parts) == 3 and not addresses and parts[0].startswith(start):
            found.append(f"{parts[0]}\t{parts[2].split(',')[0]}")
        elif len(parts) == 3 and addresses:
            texts = (_with_peer(address, parts[0]) for address in parts[2].split(","))
            found += [text for text in texts if text.startswith(start)]
    return found


def _policies(home: str) -> list[str]:
    """Names in replication.yaml as it is mostly written, `- name: "critical"`; no YAML is read here."""
    path = os.path.join(home_directory(home, os.environ), "config", "replication.yaml")  # noqa: PTH118
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        lines = [line.strip() for line in file.read(POLICIES_BYTES_MAX).splitlines()]
    names = [
        line.removeprefix("- name:").partition("#")[0].strip().strip("\"'") for line in lines if line[:7] == "- name:"
    ]
    return [name for name in (*names, "default") if name and name.isprintable()]


def _with_peer(address: str, peer_id: str) -> str:
    return address if "/p2p/" in address else f"{address}/p2p/{peer_id}"


def script(shell: str) -> str:
    """The completion script of `shell` as shipped."""
    package = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    shipped = os.path.join(package, "_data", "completions")  # noqa: PTH118
    directory = shipped if os.path.isdir(shipped) else os.path.join(os.path.dirname(package), "completions")  # noqa: PTH112, PTH118, PTH120
    with open(os.path.join(directory, SCRIPTS[shell]), encoding="utf-8") as file:  # noqa: PTH118, PTH123
        return file.read()
