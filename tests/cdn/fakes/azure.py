"""ContractFakeAzure: login, managed identity, purges of Front Door and classic, and what a check reads."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from urllib.parse import parse_qsl

from tests.cdn.fakes.server import Bucket, ContractFake, Purged, Reply, Seen, contract, why_not

ENDPOINT = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft\.Cdn/profiles/([^/]+)/(afdEndpoints|endpoints)/"
    r"([^/]+)(/purge|/customDomains|/providers/Microsoft\.Authorization/permissions|)"
)
PROFILE = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft\.Cdn/profiles/([^/]+)"
    r"(/customDomains|/providers/Microsoft\.Insights/metrics)"
)


class ContractFakeAzure(ContractFake):
    """One endpoint: `kind` is afdEndpoints or endpoints. A purge ends `lasts_s` after it began, as `ends` says."""

    def __init__(self, now: Callable[[], float], *, secret: str = "azure-secret") -> None:
        super().__init__(now)
        self.tenant_id, self.client_id, self.secret = "t-1", "c-1", secret
        self.subscription_id, self.resource_group = "00000000-0000-0000-0000-000000000000", "rg"
        self.profile_name, self.endpoint_name, self.kind = "profile1", "endpoint1", "afdEndpoints"
        self.hosts = ["endpoint1-abc.z01.azurefd.net", "cdn.example.org"]
        self.actions = ["Microsoft.Cdn/profiles/*"]
        self.may_purge = True
        self.expires_in = 3600
        self.lasts_s = 0.0
        self.ends = "Succeeded"
        self.retry_after = 10
        self.tokens: dict[str, float] = {}
        """Tokens that are good, with their end."""
        self.logins = 0
        self.writes = Bucket(10, 200, now)
        self.series: list[dict[str, object]] = []
        self._operations: dict[str, float] = {}
        self._login = contract("azure", "login")
        self._purges = {
            "afdEndpoints": contract("azure", "AfdPurgeParameters"),
            "endpoints": contract("azure", "PurgeParameters"),
        }
        self._error, self._operation = contract("azure", "ErrorResponse"), contract("azure", "operation")

    def is_purge(self, seen: Seen) -> bool:
        match = ENDPOINT.fullmatch(seen.path)
        return match is not None and match[6] == "/purge"

    def issue(self, token: str) -> str:
        """Make a token good for an hour, as for the vendor's SDK with a credential of its own."""
        self.tokens[token] = self.now() + 3600
        return token

    def answer(self, seen: Seen) -> Reply:
        if seen.path.endswith("/oauth2/v2.0/token"):
            return self._answer_login(seen)
        if seen.path == "/metadata/identity/oauth2/token":
            return self._answer_identity(seen)
        scheme, _, token = seen.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            return self._fail(401, "InvalidAuthenticationToken", "The access token is invalid.")
        if self.tokens[token] <= self.now():
            return self._fail(
                401, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than now."
            )
        if seen.path.startswith("/operations/"):
            return self._answer_operation(seen)
        if not seen.query.get("api-version"):
            self.breaks("no api-version")
            return self._fail(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
        match = ENDPOINT.fullmatch(seen.path) or PROFILE.fullmatch(seen.path)
        if match is None:
            self.breaks(f"{seen.method} {seen.path}")
            return self._fail(404, "InvalidResourceType", "The resource type could not be found.")
        if match[1] != self.subscription_id:
            return self._fail(404, "SubscriptionNotFound", f"The subscription '{match[1]}' could not be found.")
        if match[2].lower() != self.resource_group:
            return self._fail(404, "ResourceGroupNotFound", f"Resource group '{match[2]}' could not be found.")
        if match[3] != self.profile_name:
            return self._fail(404, "ResourceNotFound", "The profile was not found.")
        if match.re is PROFILE:
            return self._answer_profile(seen, match[4])
        if match[4] != self.kind or match[5] != self.endpoint_name:
            return self._fail(404, "ResourceNotFound", f"The Resource '{match[4]}/{match[5]}' was not found.")
        match (seen.method, match[6]):
            case ("POST", "/purge"):
                return self._answer_purge(seen)
            case ("GET", ""):
                return Reply(200, {"name": self.endpoint_name, "properties": {"hostName": self.hosts[0]}})
            case ("GET", "/customDomains"):
                return self._custom_domains()
            case ("GET", _) if match[6].endswith("permissions"):
                return Reply(200, {"value": [{"actions": self.actions, "notActions": []}]})
        return self._fail(405, "MethodNotAllowed", self.breaks(f"{seen.method} {seen.path}"))

    def _answer_login(self, seen: Seen) -> Reply:
        form = dict(parse_qsl(seen.body.decode()))
        if seen.method != "POST" or (why := why_not(self._login, form)):
            self.breaks(f"login: {seen.method} {why}")
            return Reply(400, {"error": "invalid_request", "error_description": "AADSTS900144: parameter missing."})
        if seen.path != f"/{self.tenant_id}/oauth2/v2.0/token":
            told = "AADSTS90002: Tenant not found. Check to make sure you have the correct tenant ID."
            return Reply(400, {"error": "invalid_request", "error_description": told})
        if form["client_id"] != self.client_id:
            told = "AADSTS700016: Application with this identifier was not found in the directory."
            return Reply(400, {"error": "unauthorized_client", "error_description": told})
        if form["client_secret"] != self.secret:
            told = "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 1\r\nTimestamp: now"
            return Reply(401, {"error": "invalid_client", "error_description": told})
        if form["scope"] != f"{self.url}/.default":
            self.breaks(f"scope {form['scope']}")
        return self._token("login", self.expires_in)

    def _answer_identity(self, seen: Seen) -> Reply:
        if seen.headers.get("metadata") != "true" or seen.query.get("resource") != f"{self.url}/":
            self.breaks("identity: the header Metadata, or the resource")
            return Reply(
                400, {"error": "invalid_request", "error_description": "Required metadata header not specified"}
            )
        if seen.query.get("api-version") != "2018-02-01":
            self.breaks("identity: api-version")
        return self._token("identity", str(self.expires_in))

    def _token(self, of: str, expires_in: int | str) -> Reply:
        self.logins += 1
        token = f"{of}-token-{self.logins}"
        self.tokens[token] = self.now() + float(expires_in)
        return Reply(200, {"token_type": "Bearer", "expires_in": expires_in, "access_token": token})

    def _answer_purge(self, seen: Seen) -> Reply:
        if not self.may_purge:
            action = "Microsoft.Cdn/profiles/afdEndpoints/Purge/action"
            told = f"The client does not have authorization to perform action '{action}' over the scope."
            return self._fail(403, "AuthorizationFailed", told)
        body = seen.json()
        if seen.headers.get("content-type", "").partition(";")[0] != "application/json":
            return self._fail(400, "BadRequest", self.breaks("content type is not application/json"))
        if why := why_not(self._purges[self.kind], body):
            return self._fail(400, "BadRequest", self.breaks(why[:300]))
        wait = self.writes.take(1)
        if wait:
            headers = {"Retry-After": str(math.ceil(wait))}
            return self._fail(429, "TooManyRequests", "The request is being throttled.", headers)
        on = ",".join(body.get("domains", []))
        self.purged += [Purged(on, path) for path in body["contentPaths"]]
        id = f"op-{len(self._operations)}"
        self._operations[id] = self.now() + self.lasts_s
        where = f"{self.url}/operations/{id}?api-version=2025-06-01"
        name = "Azure-AsyncOperation" if self.kind == "afdEndpoints" else "Location"
        left = {"x-ms-ratelimit-remaining-subscription-writes": str(int(self.writes.left))}
        return Reply(202, None, {name: where, "Retry-After": str(self.retry_after), **left})

    def _answer_operation(self, seen: Seen) -> Reply:
        id = seen.path.rpartition("/")[2]
        if id not in self._operations:
            return self._fail(404, "NotFound", "The operation was not found.")
        is_over = self.now() >= self._operations[id]
        if self.kind == "endpoints":  # Location: 202 until the end
            return Reply(200, None) if is_over else Reply(202, None, {"Retry-After": str(self.retry_after)})
        body: dict[str, object] = {"status": self.ends if is_over else "InProgress"}
        if is_over and self.ends != "Succeeded":
            body["error"] = {"code": "InternalServerError", "message": "The purge did not reach all edges."}
        assert not why_not(self._operation, body)
        return Reply(200, body, {} if is_over else {"Retry-After": str(self.retry_after)})

    def _answer_profile(self, seen: Seen, what: str) -> Reply:
        if what == "/customDomains":
            return self._custom_domains()
        if seen.query.get("metricnames") != "ByteHitRatio" or "/" not in seen.query.get("timespan", ""):
            return self._fail(400, "BadRequest", self.breaks(f"metrics: {dict(seen.query)}"))
        return Reply(200, {"value": [{"name": {"value": "ByteHitRatio"}, "timeseries": self.series}]})

    def _custom_domains(self) -> Reply:
        return Reply(200, {"value": [{"name": host, "properties": {"hostName": host}} for host in self.hosts[1:]]})

    def _fail(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Reply:
        answer = {"error": {"code": code, "message": message}}
        assert not why_not(self._error, answer)
        return Reply(status, answer, headers or {})
