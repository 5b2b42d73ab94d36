"""cdn.yaml from outside: whose secrets are read from where, and whether others on this machine can read them, too.

Nobody is asked; whether CDNs answer is the engine's to look at. Source: issue 6, B.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rage_net import config as configuration
from rage_net.checkup.outcomes import failed, ok, skipped
from rage_net.config import Config
from rage_net.config.cdn import Cdn, CloudFront
from rage_net.config.reader import files_of
from rage_net.config.section import Section, fields
from rage_net.config.values import Secret
from rage_net.durable import describe
from rage_net.errors import RageError
from rage_net.verbs.diagnose import Check

OTHERS = stat.S_IROTH | stat.S_IWOTH


def check_cdn(config: Config, environ: Mapping[str, str]) -> Check:
    """Whether cdn.yaml parses, and each file with a secret can be read by this user, and by no stranger."""
    path = config.network.cdn.providers_config_file
    try:
        cdn = configuration.load_cdn(config, environ=environ)
        text = configuration.read_bytes(path, must_exist=False).decode("utf-8", "replace")
    except RageError as error:
        return failed("cdn", error)
    if not cdn.providers:
        return skipped("cdn", "no CDN is configured")
    if not cdn.enabled:
        return skipped("cdn", "CDNs are switched off")
    files = dict.fromkeys(files_of(text, environ))
    files |= dict.fromkeys(_keys_of(cdn))
    if any(secret.reveal() in text for secret in _secrets_of(cdn) if secret.reveal()):
        files[path] = None
    unread, open_ = [], []
    for file in files:
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
        except OSError as error:
            unread.append((file, describe(error)))
            continue
        if not os.access(file, os.R_OK):
            unread.append((file, "this user may not read it"))
        elif mode & OTHERS and _is_reached(file):
            open_.append((file, f"it has mode {mode:04o}"))
    if not unread and not open_:
        return ok("cdn", f"{len(cdn.providers)} in {path.name}, {len(files)} files with secrets, open to no stranger")
    which = "a file" if len(unread) == 1 else f"{len(unread)} files"
    return Check(
        "cdn",
        "error",
        f"{which} with secrets of CDNs cannot be read" if unread else "secrets of CDNs are open to others",
        "; ".join(f"{file}: {why}" for file, why in (*unread, *open_)),
        (*(f"ls -l {file}" for file, _ in unread), *(f"chmod o-rwx {file}" for file, _ in open_)),
    )


def _is_reached(file: Path) -> bool:
    """Whether strangers get as far as the file: through every folder above it."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in file.resolve().parents)


def _keys_of(cdn: Cdn) -> Iterator[Path]:
    """Files with keys that cdn.yaml names itself."""
    for provider in cdn.providers:
        if isinstance(provider.config, CloudFront) and provider.config.signing_key_file is not None:
            yield provider.config.signing_key_file


def _secrets_of(section: Any) -> Iterator[Secret]:
    if isinstance(section, Secret):
        yield section
    elif isinstance(section, tuple):
        for item in section:
            yield from _secrets_of(item)
    elif isinstance(section, Section):
        for name in fields(type(section)):
            yield from _secrets_of(getattr(section, name))
