"""The Unix socket of the control API: bound by us with the right mode, and the kernel's word on who connects.

Not here: what is said over it (`control`), where it lies (`home.socket_path`). The mode is set between `bind` and
`listen`, so there is no moment at which anybody else can connect, and no process-wide umask to race with other threads.

Source: design D8; unix(7), SO_PEERCRED and SO_PEERGROUPS; Darwin's `struct xucred`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from rage_net.errors import AccessDeniedError, ConfigError, ConflictError, UnavailableError

BACKLOG = 128
"""Connections the kernel holds before we accept them: twenty scripts at once are common, a hundred are not."""

CONNECT_TIMEOUT_S = 1.0
"""How long an old socket may take to show that a process listens on it."""

_SO_PEERGROUPS = 59
"""Linux 4.13; Python has no name for it."""

_GROUP_BYTES_MAX = 1024
"""Python's own limit on `getsockopt`: 256 groups."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who is on the other end, as the kernel knows it: effective user and all groups."""

    uid: int
    groups: frozenset[int]


def bind(path: Path, *, gid: int | None = None) -> socket.socket:
    """Bind and listen at `path`, mode 0600, or 0660 for the group `gid`; a socket that nobody serves is replaced.

    Raises: ConflictError when a process answers there or something else than a socket lies there; ConfigError when the
    path is too long or its directory cannot be written; AccessDeniedError when the group may not be given to the file.
    """
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            raise _bind_error(path, error) from error
        try:
            if gid is not None:
                os.chown(path, -1, gid)
            path.chmod(0o600 if gid is None else 0o660)
        except PermissionError as error:
            path.unlink(missing_ok=True)
            raise AccessDeniedError(
                f"the control socket {path} cannot be given to group {gid}",
                why=str(error),
                mend=["run the node as a member of that group, or unset network.control.group"],
            ) from error
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def unlink(path: Path, identity: tuple[int, int]) -> None:
    """Remove the socket file if it is still the one that `file_identity` gave; another node's stays."""
    with contextlib.suppress(FileNotFoundError):
        if file_identity(path) == identity:
            path.unlink(missing_ok=True)


def file_identity(path: Path) -> tuple[int, int]:
    """Device and inode of the file itself."""
    found = path.lstat()
    return found.st_dev, found.st_ino


def peer_credentials(connection: socket.socket) -> Credentials:
    """Who connected: user and groups at the time of `connect`. Raises UnavailableError where the kernel cannot tell."""
    if sys.platform == "linux":
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
        _, uid, gid = struct.unpack("iII", raw)
        groups = {gid}
        # Before Linux 4.13, or with more groups than fit, the primary group alone counts: fewer rights, never more.
        with contextlib.suppress(OSError):
            listed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUP_BYTES_MAX)
            groups.update(struct.unpack(f"{len(listed) // 4}I", listed))
        return Credentials(uid, frozenset(groups))
    if sys.platform == "darwin":
        xucred = "IIh2x16I"  # version, uid, count, groups; SOL_LOCAL is 0, LOCAL_PEERCRED is 1
        _, uid, count, *listed_groups = struct.unpack(xucred, connection.getsockopt(0, 1, struct.calcsize(xucred)))
        return Credentials(uid, frozenset(listed_groups[: max(0, count)]))
    raise UnavailableError(f"{sys.platform} does not tell who connects to a Unix socket")


def is_allowed(who: Credentials, *, uid: int, gid: int | None) -> bool:
    """Whether `who` may operate a node of user `uid`: that user, root, and members of `gid` where one is configured."""
    return who.uid in (uid, 0) or (gid is not None and gid in who.groups)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _bind_error(path, error) from error
    if not stat.S_ISSOCK(mode):
        raise ConflictError(
            f"{path} is in the way of the control socket",
            why="it is no socket, so it is left alone",
            mend=[f"mv {path} {path}.old"],
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_TIMEOUT_S)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # busy, or not ours to connect to: somebody is there
    raise ConflictError(
        f"a node already answers on {path}", why="one process serves one home", mend=["rage node status"]
    )


def _bind_error(path: Path, error: OSError) -> ConfigError | ConflictError:
    if error.errno == errno.EADDRINUSE:
        return ConflictError(f"the control socket {path} appeared while we started", mend=["rage node status"])
    why = error.strerror or f"a Unix socket's path has at most about 100 characters, this has {len(os.fspath(path))}"
    return ConfigError(f"the control socket cannot be made at {path}", why=why, mend=["rage config path"])
