"""Who sends a request to the HTTP door: `Authorization: Bearer`, proven by the keys of a configured issuer.

An issuer's keys come from a file of the home or over HTTPS; they are kept for KEYS_S, and read anew when a token names
one that is not among them, at most once in RETRY_S, whatever tokens strangers invent. While an issuer cannot be
reached, its old keys serve for STALE_S more. Proven tokens are remembered for a minute, so that a page of many chunks
costs one signature.

Not here: what a token must say (tokens), what a user may do (acl).
Source: issue 4, C.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from rage_net import tokens
from rage_net.acl import Principal, check_name
from rage_net.config.network import Issuer as Keys
from rage_net.env import Env
from rage_net.errors import IntegrityError, RageError, UnavailableError
from rage_net.tokens import Key, TokenError, UnknownKeyError
from rage_net.web import Web

log = logging.getLogger("rage.bearer")

FETCH_S_MAX = 10.0
KEYS_S = 900.0
"""A key that its issuer has withdrawn is taken for no longer than this."""
STALE_S = 4 * 3600.0
"""And this longer while the issuer does not answer."""
RETRY_S = 60.0
PROVEN_S = 60.0
PROVEN_MAX = 1024
"""Tokens remembered; the one not seen for the longest is forgotten."""


class Bearer:
    """Proves tokens. Args: home: against which paths of key sets are resolved."""

    def __init__(self, issuers: Sequence[Keys], home: Path, web: Web, env: Env) -> None:
        self._issuers = {
            keys.issuer: tokens.Issuer(
                keys.issuer,
                keys.organization,
                keys.audience,
                frozenset(keys.algorithms),
                keys.groups_claim,
                keys.secret.reveal().encode() if keys.secret is not None else None,
            )
            for keys in issuers
        }
        self._sets = {keys.issuer: _KeySet(keys.jwks, home, web, env) for keys in issuers}
        self._env = env
        self._proven: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    async def principal(self, header: str) -> Principal:
        """The user whom an `Authorization` header proves.

        Raises: TokenError when it proves nobody; UnavailableError when the issuer's keys cannot be had.
        """
        scheme, _, token = header.strip().partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise TokenError("a bearer token is wanted")
        if len(token) > tokens.TOKEN_BYTES_MAX:
            raise TokenError(f"the token is longer than {tokens.TOKEN_BYTES_MAX} bytes")
        name, now = sha256(token.encode()).digest(), self._env.now()
        known = self._proven.get(name)
        if known is not None and now < known[1]:
            self._proven.move_to_end(name)
            return known[0]
        parsed = tokens.parse(token, self._issuers)
        keys = self._sets[parsed.issuer.issuer]
        needs_keys = parsed.issuer.secret is None
        try:
            claims = tokens.verify(parsed, await keys.get() if needs_keys else {}, now)
        except UnknownKeyError:
            claims = tokens.verify(parsed, await keys.get(anew=True), now)
        found = _principal(claims)
        self._proven[name] = found, min(now + PROVEN_S, claims.expires_at + tokens.LEEWAY_S)
        if len(self._proven) > PROVEN_MAX:
            self._proven.popitem(last=False)
        return found


def _principal(claims: tokens.Claims) -> Principal:
    """A user with the groups that a fact could name; others would be of no use to anybody."""
    if check_name(claims.subject):
        raise TokenError("the token's subject is no name that a right could be given to")
    organization = claims.organization
    groups = frozenset(f"{organization}/{name}" for name in claims.groups if not check_name(name))
    return Principal("user", f"{organization}/{claims.subject}", organization, groups)


class _KeySet:
    """The keys of one issuer."""

    def __init__(self, place: str, home: Path, web: Web, env: Env) -> None:
        self._place = place
        self._home = home
        self._web = web
        self._env = env
        self._keys: Mapping[str, Key] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading = asyncio.Lock()

    async def get(self, *, anew: bool = False) -> Mapping[str, Key]:
        """The keys; `anew` because one was missing. Raises UnavailableError while there are none."""
        if anew or self._age() > KEYS_S:
            async with self._reading:  # one reads for all that wait
                if self._may_read(KEYS_S if not anew else 0.0):
                    await self._read()
        if self._age() > KEYS_S + STALE_S:
            raise UnavailableError("the keys of the token's issuer cannot be had", id="issuer-unreachable")
        return self._keys

    def _age(self) -> float:
        return float("inf") if self._read_at is None else self._env.monotonic() - self._read_at

    def _may_read(self, older_than_s: float) -> bool:
        has_waited = self._tried_at is None or self._env.monotonic() - self._tried_at >= RETRY_S
        return has_waited and self._age() > older_than_s

    async def _read(self) -> None:
        self._tried_at = self._env.monotonic()
        try:
            if self._place.startswith("https://"):
                answer = await self._web.get(
                    self._place, timeout_s=FETCH_S_MAX, bytes_max=tokens.JWKS_BYTES_MAX, content_type=None
                )
                data = answer.body
            else:
                data = await self._env.blocking(_read_file, self._home / self._place)
            self._keys = await self._env.blocking(tokens.parse_jwks, data)
        except (RageError, OSError) as error:
            log.warning("the keys of an issuer cannot be read from %s: %s", self._place, error)
        else:
            self._read_at = self._env.monotonic()


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(tokens.JWKS_BYTES_MAX + 1)
    if len(data) > tokens.JWKS_BYTES_MAX:
        raise IntegrityError(f"{path} is larger than {tokens.JWKS_BYTES_MAX} bytes", id="bad-key-set")
    return data
