"""The data directory of a node: where things lie in it, how it is made, and who may work in it.

What a client needs to find a running node (location, socket, lock) is standard library only, because it runs before
every command. What the files mean is other modules' business. Source: design 4.1 and D8.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rage_net.durable import SECRET, describe, file_errors, sync_directory, write_new, write_replacing
from rage_net.errors import AccessDeniedError, ConfigError, ConflictError, NotFoundError, RageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SOCKET_PATH_BYTES_MAX = 100
"""Of a Unix socket's path: macOS takes 103 with the final NUL, Linux 107."""
LOCK_POLL_S = 0.02
"""Between two tries for the lock: short beside any verb, rare enough to cost nothing."""
NOTE_BYTES_MAX = 4096
"""Read at most of `node.lock` and of a `node.sock` that is a text file."""

PLAIN_TEMPLATE = 'network:\n  version: 1\n  organization_id: ""\n  region: ""\n'
"""network.yaml where the caller brings none."""

_MODE_HOME = 0o700


@dataclass(frozen=True, slots=True)
class Home:
    """A data directory by its absolute path; the properties name what lies in it, there or not."""

    root: Path

    @property
    def identity(self) -> Path:
        """The Ed25519 key, PKCS#8 PEM, 0600."""
        return self.root / "identity.key"

    @property
    def config(self) -> Path:
        """The directory of network.yaml, cdn.yaml and replication.yaml."""
        return self.root / "config"

    @property
    def network_yaml(self) -> Path:
        """The node's configuration; `--config` names another."""
        return self.config / "network.yaml"

    @property
    def certs(self) -> Path:
        """Certificates and the CA's."""
        return self.root / "certs"

    @property
    def store(self) -> Path:
        """Chunk files."""
        return self.root / "store"

    @property
    def index(self) -> Path:
        """The SQLite index."""
        return self.root / "index.db"

    @property
    def socket(self) -> Path:
        """The Unix socket of the node, or a text file that holds its path: ask `socket_path`."""
        return self.root / "node.sock"

    @property
    def lock_file(self) -> Path:
        """What `lock` holds; its content says who."""
        return self.root / "node.lock"

    @property
    def peers(self) -> Path:
        """Peers this home knows, as text."""
        return self.root / "peers.txt"

    @property
    def bans(self) -> Path:
        """Banned peers, as text."""
        return self.root / "bans"

    @property
    def dht(self) -> Path:
        """The DHT's routing table, as text."""
        return self.root / "dht"

    @property
    def discovered(self) -> Path:
        """The last good answer of discovery servers."""
        return self.root / "discovered"

    @property
    def edges(self) -> Path:
        """What is known of the health of CDNs' edges: JSON."""
        return self.root / "edges.json"

    @property
    def log(self) -> Path:
        """The signed log of metadata: SQLite."""
        return self.root / "log.db"

    @property
    def purges(self) -> Path:
        """The journal of purges at CDNs: SQLite."""
        return self.root / "cdn.db"

    @property
    def inventory(self) -> Path:
        """What is known of chunks and their holders; made anew when it is gone."""
        return self.root / "replicas.db"

    @property
    def sealed(self) -> Path:
        """Keys of documents that go to CDNs encrypted: SQLite, 0600."""
        return self.root / "sealed.db"

    @property
    def synced(self) -> Path:
        """When the log was last compared with another node's of the organisation; text, seconds since the epoch."""
        return self.root / "synced"

    @property
    def logs(self) -> Path:
        """Log files of a detached node."""
        return self.root / "logs"


def locate(flag: str | None, environ: Mapping[str, str]) -> Home:
    """The home that `--home`, else `RAGE_HOME`, else the platform names; it need not exist.

    The platform's data directory is `$XDG_DATA_HOME/rage` or `~/.local/share/rage`, on macOS
    `~/Library/Application Support/rage`: platformdirs' answers (a test compares), without its 9 ms.
    """
    named = flag or environ.get("RAGE_HOME")
    if named:
        return Home(Path(named).expanduser().absolute())
    if sys.platform == "darwin":
        return Home(Path("~/Library/Application Support/rage").expanduser())
    data = environ.get("XDG_DATA_HOME", "").strip()
    return Home((Path(data) if data.startswith("/") else Path("~/.local/share").expanduser()) / "rage")


def require(home: Home) -> None:
    """Pass when `rage init` has made this home, and this user did.

    Raises: NotFoundError with the command that makes it; AccessDeniedError `home-owner` for root in another's home,
        where it would leave files that the home's own node cannot read.
    """
    if not home.identity.exists():
        raise NotFoundError(
            f"no rage home at {home.root}",
            why="identity.key is missing there" if home.root.exists() else "the directory does not exist",
            mend=[f"rage --home {home.root} init"],
            id="home-missing",
        )
    owner = _owner(home.identity)
    if owner != os.geteuid() == 0:
        raise AccessDeniedError(
            f"{home.root} belongs to another user",
            why=f"its key is that of user {owner}, whose node could not read what root leaves there",
            mend=[f"sudo -u '#{owner}' rage --home {home.root} status"],
            id="home-owner",
        )


def _owner(path: Path) -> int:
    return path.stat().st_uid


@dataclass(frozen=True, slots=True)
class InitResult:
    """What `init` made and what it found and left alone, as paths within the home."""

    created: tuple[str, ...]
    kept: tuple[str, ...]


def init(
    home: Home,
    *,
    organization_id: str = "",
    region: str = "",
    settings: Mapping[str, object] | None = None,
    templates: Mapping[str, str] | None = None,
    generator: random.Random | None = None,
) -> InitResult:
    """Make the home, or what is missing of it; what exists is never changed.

    `organization_id`, `region` and `settings` (by dotted key below `network`) go into a new network.yaml. `templates`
    are texts of `config/*.yaml` by file name; they are written with every key commented out, so that the files show the
    defaults and later versions may improve them. The key comes from `generator`, the system's randomness by default.

    Raises: ConflictError when the directory holds other things, or an existing network.yaml says otherwise than the
        arguments; AccessDeniedError, StorageFullError, ConfigError for what the file system says.
    """
    created: list[str] = []
    kept: list[str] = []

    def note(made: bool, name: str) -> None:
        (created if made else kept).append(name)

    with file_errors(home.root):
        note(_make_root(home), ".")
        for directory in (home.config, home.certs, home.store, home.logs):
            note(_make_directory(directory), f"{directory.name}/")
        from rage_net import keys

        if home.identity.exists():
            note(False, home.identity.name)
        else:
            key = keys.generate(generator or random.SystemRandom())
            note(write_new(home.identity, keys.encode_pem(key)), home.identity.name)
        _agree(home, organization_id, region)
        texts = {"network.yaml": PLAIN_TEMPLATE, **(templates or {})}
        for name, text in texts.items():
            chosen: dict[str, object] = {}
            if name == "network.yaml":
                chosen = {"organization_id": organization_id, "region": region, **(settings or {})}
            path = home.config / name
            note(write_new(path, starter(text, chosen).encode()), f"config/{name}")
    return InitResult(tuple(created), tuple(kept))


def starter(template: str, settings: Mapping[str, object]) -> str:
    """A first configuration file: `template` with every key commented out by a `#`, but those in `settings`.

    `settings` are values by dotted key below `network`; empty ones are left out.
    """
    chosen = {f"network.{name}": json.dumps(value) for name, value in settings.items() if value not in ("", None)}
    above = {name[:at] for name in chosen for at, char in enumerate(name) if char == "."}
    above |= {"network.version"} if chosen else set()
    lines = ["# Keys are commented out at their defaults. To set one, remove the # right before it and before those it"]
    lines += ["# stands under. `rage config check` reads this file, `rage config show` says what holds.", ""]
    path: list[str] = []
    for line in template.splitlines():
        bare = line.lstrip()
        if not bare or bare.startswith("#"):
            lines.append(line)
            continue
        indent = line[: len(line) - len(bare)]
        if not bare.startswith("- "):
            path = [*path[: len(indent) // 2], bare.partition(":")[0]]
        key = ".".join(path)
        if key in chosen:  # what the template lists below it is the default that was replaced
            lines += [] if bare.startswith("- ") else [f"{indent}{path[-1]}: {chosen[key]}"]
        elif key in above:
            lines.append(line)
        else:
            lines.append(f"{indent}#{bare}")
    return "\n".join(lines) + "\n"


def _make_root(home: Home) -> bool:
    try:
        home.root.mkdir(mode=_MODE_HOME, parents=True)
    except FileExistsError:
        if not home.root.is_dir():
            raise
        foreign = any(home.root.iterdir()) and not home.identity.exists() and not home.config.is_dir()
        if foreign:  # a slip such as `--home ~` must not close the user's own directory
            raise ConflictError(
                f"{home.root} is not empty and no rage home",
                mend=[f"rage --home {home.root / 'rage'} init"],
                id="home-foreign",
            ) from None
        home.root.chmod(_MODE_HOME)
        return False
    home.root.chmod(_MODE_HOME)  # whatever the umask
    sync_directory(home.root.parent)
    return True


def _make_directory(path: Path) -> bool:
    try:
        path.mkdir(mode=_MODE_HOME)
    except FileExistsError:
        if not path.is_dir():
            raise
        return False
    sync_directory(path.parent)
    return True


def _agree(home: Home, organization_id: str, region: str) -> None:
    if not (organization_id or region) or not home.network_yaml.exists():
        return
    from rage_net import config

    network = config.load(home.root, environ={}, files=False).network
    for key, wanted in (("organization_id", organization_id), ("region", region)):
        found = getattr(network, key)
        if wanted and found != wanted:
            raise ConflictError(
                f"{home.network_yaml} says {key} {found!r}, not {wanted!r}",
                why="init never changes a file that exists",
                mend=[f"edit {key} under `network:` in {home.network_yaml}"],
                id="config-differs",
            )


def load_identity(path: Path) -> Ed25519PrivateKey:
    """The node's key from `path` (`Home.identity`, or what `network.security.peer_key` names).

    Raises: NotFoundError when it is missing, AccessDeniedError when it cannot be read or others can read it,
        ConfigError when it holds no Ed25519 key.
    """
    from rage_net import keys

    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            pem = file.read(keys.PEM_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFoundError(f"no identity key at {path}", mend=["rage init"], id="identity-missing") from None
    except OSError as error:
        raise AccessDeniedError(f"cannot read the identity key {path}", why=describe(error)) from None
    if status.st_mode & 0o077:
        raise AccessDeniedError(
            f"others can read the identity key {path}",
            why=f"its mode is {stat.S_IMODE(status.st_mode):04o}; whoever reads it can act as this node",
            mend=[f"chmod 600 {path}"],
            id="identity-exposed",
        )
    try:
        return keys.decode_pem(pem)
    except keys.KeyFormatError as error:
        raise ConfigError(
            f"{path} holds no identity key",
            why=str(error),
            mend=["restore it from a backup, or move it away and run `rage init` for a new identity"],
            id="identity-invalid",
        ) from None


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a home. `since` is seconds since the epoch; `kind` says what it is, such as `node`."""

    pid: int
    kind: str
    since: float


@contextlib.contextmanager
def lock(
    home: Home,
    *,
    timeout_s: float,
    kind: str,
    now: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """Hold the home alone for the length of the block, waiting up to `timeout_s` for another process.

    An flock: it dies with its process however that ends, and the file stays. Blocking: not for an event loop.

    Raises: ConflictError `home-locked` naming the holder; NotFoundError without a home.
    """
    require(home)
    with file_errors(home.lock_file):
        handle = os.open(home.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, SECRET)
    try:
        _take(handle, home, monotonic() + timeout_s, now, monotonic, sleep)
        note = json.dumps({"pid": os.getpid(), "kind": kind, "since": round(now(), 3)}).encode()
        with file_errors(home.lock_file):
            os.ftruncate(handle, 0)
            with contextlib.suppress(OSError):  # a full disk must not forbid the verb that frees space
                os.pwrite(handle, note, 0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def _take(
    handle: int,
    home: Home,
    deadline: float,
    now: Callable[[], float],
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            left = deadline - monotonic()
            if left <= 0:
                raise _held(home, now()) from None
            sleep(min(LOCK_POLL_S, left))


def _held(home: Home, now: float) -> ConflictError:
    holder = read_holder(home)
    if holder is None:
        who, mend = "another process", [f"fuser -v {home.lock_file}"]
    else:
        who = f"{holder.kind} (pid {holder.pid}, for {max(0, round(now - holder.since))} s)"
        mend = [f"rage --home {home.root} node stop"] if holder.kind == "node" else ["repeat with a longer --timeout"]
    return ConflictError(f"{home.root} is in use by {who}", why="one process at a time", mend=mend, id="home-locked")


def read_holder(home: Home) -> Holder | None:
    """Who says to hold the lock; None when nobody does or the note cannot be read. For words, not for decisions."""
    try:
        note = json.loads(_read_note(home.lock_file))
        return Holder(int(note["pid"]), str(note["kind"]), float(note["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def socket_path(home: Home) -> Path:
    """Where a client connects. The path when `node.sock` is the socket or missing, else the one it holds.

    Raises: AccessDeniedError when the directory it points to could have been made by another user.
    """
    try:
        if not stat.S_ISREG(home.socket.lstat().st_mode):
            return home.socket
        path = Path(os.fsdecode(_read_note(home.socket).strip()))
    except FileNotFoundError:
        return home.socket
    except OSError as error:
        raise AccessDeniedError(f"cannot read {home.socket}", why=describe(error)) from None
    if not path.is_absolute():
        raise ConfigError(
            f"{home.socket} holds no path of a socket", mend=[f"rm {home.socket}"], id="socket-note-invalid"
        )
    if path.parent.exists():
        _check_private(path.parent)
    return path


def free_bytes(directory: Path) -> int:
    """What the file system of a directory has left for this user."""
    with file_errors(directory):
        status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def claim_socket_path(home: Home, environ: Mapping[str, str], gid: int | None = None) -> Path:
    """Where a node that holds the lock binds its socket, at most 100 bytes; what an earlier node left there is removed.

    A home with a longer path gets a socket in a private runtime directory (`$XDG_RUNTIME_DIR/rage`, else
    `/tmp/rage-<uid>`), and `node.sock` becomes a text file that holds its path. Members of the group `gid` may pass
    through the directories that lead to the socket, and see nothing else in them.
    """
    with file_errors(home.socket):
        home.socket.unlink(missing_ok=True)
        _let_pass(home.root, gid)
        if len(os.fsencode(home.socket)) <= SOCKET_PATH_BYTES_MAX:
            return home.socket
        path = _runtime_socket(home, environ)
        path.unlink(missing_ok=True)
        write_replacing(home.socket, os.fsencode(path) + b"\n", mode=SECRET if gid is None else 0o640)
        if gid is not None:
            os.chown(home.socket, -1, gid)
            _let_pass(path.parent, gid)
        return path


def _let_pass(directory: Path, gid: int | None) -> None:
    if gid is not None:
        os.chown(directory, -1, gid)
    directory.chmod(_MODE_HOME if gid is None else 0o710)


def release_socket_path(home: Home) -> None:
    """Remove the socket, and the note that led to it, when a node ends. Silent when they are gone."""
    with contextlib.suppress(OSError, RageError):
        socket_path(home).unlink(missing_ok=True)
        home.socket.unlink(missing_ok=True)


def _runtime_socket(home: Home, environ: Mapping[str, str]) -> Path:
    from hashlib import blake2b

    name = blake2b(os.fsencode(home.root), digest_size=10).hexdigest() + ".sock"
    places = [Path(f"/tmp/rage-{os.getuid()}")]  # noqa: S108  made 0700 and checked
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.access(runtime, os.W_OK | os.X_OK):
        places.insert(0, Path(runtime) / "rage")
    directory = next(place for place in places if len(os.fsencode(place / name)) <= SOCKET_PATH_BYTES_MAX)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=_MODE_HOME)
    _check_private(directory)
    return directory / name


def _check_private(directory: Path) -> None:
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (os.getuid(), 0) or status.st_mode & 0o022:
        raise AccessDeniedError(
            f"{directory} is not private to this user",
            why="someone else could listen there in the node's place",
            mend=[f"ls -ld {directory}", "set XDG_RUNTIME_DIR to a directory of your own"],
            id="runtime-directory-unsafe",
        )


def _read_note(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(NOTE_BYTES_MAX)
