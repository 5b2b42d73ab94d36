"""Tokens of Azure: of a service principal by its secret, or of this machine's managed identity.

Source: Microsoft's pages on client credentials, and on managed identities (IMDS).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlencode

from rage_net.cdn.answers import Request, exchange, judge_status, parse, refuse_token, said, text_of
from rage_net.cdn.provider import Verdict
from rage_net.config import cdn as config_cdn
from rage_net.web import Web

TOKEN_EARLY_S = 300.0
"""Before its end a token is not used any more."""
TOKEN_LEAST_S = 30.0
"""How long a token is used in any case: one that is given for less would be fetched for every call."""
TOKEN_S_MAX = 86_400.0
TOKEN_CHARS_MAX = 16 * 1024
IMDS_URL = "http://169.254.169.254"
"""Where a machine in Azure asks for the token of its managed identity."""

LOGIN_MENDS = ("see tenant_id, client_id and client_secret in cdn.yaml: a secret has an end, in App registrations",)
IDENTITY_MENDS = ("give this machine a managed identity, or set tenant_id, client_id and client_secret in cdn.yaml",)


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and until when it is used, in seconds since the epoch. Its repr shows neither."""

    text: str
    until: float

    def __repr__(self) -> str:
        return "Token(<set>)"


def ask_login(login_url: str, tenant_id: str, client_id: str, client_secret: str, api_url: str) -> Request:
    """A token for a service principal, by its secret."""
    form = {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_secret": client_secret,
        "scope": f"{api_url}/.default",
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    url = f"{login_url}/{quote(tenant_id, safe='')}/oauth2/v2.0/token"
    return Request("POST", url, headers, urlencode(form).encode())


def ask_identity(imds_url: str, client_id: str | None, api_url: str) -> Request:
    """A token for this machine's managed identity, or for the one of several that `client_id` names."""
    query = {"api-version": "2018-02-01", "resource": f"{api_url}/"} | ({"client_id": client_id} if client_id else {})
    url = f"{imds_url}/metadata/identity/oauth2/token?{urlencode(query)}"
    return Request("GET", url, {"Metadata": "true", "Accept": "application/json"})


def judge_token(
    status: int, headers: Mapping[str, str], body: bytes, now: float, secrets: Sequence[str] = ()
) -> Token | Verdict:
    """A token, or the verdict on why there is none."""
    plain = parse(body)
    if status == 200 and plain is not None:
        text, seconds = plain.get("access_token"), text_of(plain, "expires_in")
        if isinstance(text, str) and len(text) <= TOKEN_CHARS_MAX and refuse_token(text, "it") is None:
            lasts = float(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 9 else 0.0
            return Token(text, now + max(TOKEN_LEAST_S, min(lasts, TOKEN_S_MAX) - TOKEN_EARLY_S))
        return Verdict("queued", reason="Azure's login answers 200 without a token", code="cdn-answer")
    told = "" if plain is None else said(_login_told(plain), secrets)
    usual = judge_status(status, headers, told, now, "Azure's login", secrets)
    if usual.state == "queued" and not usual.is_too_large:
        return usual
    is_unknown = any(word in told for word in ("AADSTS90002", "AADSTS900023", "AADSTS700016", "unauthorized_client"))
    return Verdict(
        "failed", reason=usual.reason, code="cdn-config" if is_unknown else "cdn-credentials", mend=LOGIN_MENDS
    )


def _login_told(plain: Mapping[str, Any]) -> str:
    return ": ".join(it for it in (text_of(plain, "error"), text_of(plain, "error_description")) if it)


class Login:
    """The tokens of one provider, each used until shortly before its end. For any number of tasks.

    Args: keys: of cdn.yaml. api_url: for which they are. imds_url: where managed identities get theirs.
    """

    def __init__(self, keys: config_cdn.Azure, api_url: str, web: Web, now: Callable[[], float], imds_url: str) -> None:
        self._keys = keys
        self._api_url = api_url
        self._web = web
        self._now = now
        self._imds_url = imds_url
        self._secret = keys.client_secret.reveal() if keys.client_secret is not None else ""
        self._token: Token | None = None
        self._lock = asyncio.Lock()

    @property
    def secrets(self) -> Sequence[str]:
        """What no error may show."""
        return self._secret, self._token.text if self._token is not None else ""

    async def token(self, *, refused: Token | None = None) -> Token | Verdict:
        """A token that is good for a while, and not the refused one; fetched once for all that wait for it."""
        async with self._lock:
            held = self._token
            if held is not None and held is not refused and self._now() < held.until:
                return held
            keys = self._keys
            if keys.tenant_id is None:
                request = ask_identity(self._imds_url, keys.client_id, self._api_url)
            elif not keys.client_id or not self._secret:
                reason = "a service principal needs client_id and client_secret beside tenant_id"
                return Verdict("failed", reason=reason, code="cdn-config", mend=LOGIN_MENDS)
            else:
                login_url = keys.login_url.rstrip("/")
                request = ask_login(login_url, keys.tenant_id, keys.client_id, self._secret, self._api_url)
            answer = await exchange(self._web, request, self.secrets)
            if isinstance(answer, Verdict):
                return replace(answer, mend=(*answer.mend, *IDENTITY_MENDS)) if keys.tenant_id is None else answer
            token = judge_token(answer.status, answer.headers, answer.body, self._now(), self.secrets)
            if isinstance(token, Token):
                self._token = token
            return token
