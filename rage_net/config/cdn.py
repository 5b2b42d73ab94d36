"""Every key of cdn.yaml with its type, default, unit and meaning. Read only by verbs that use a CDN."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from rage_net.config.network import VERSION, is_loopback
from rage_net.config.section import Section
from rage_net.config.values import Between, Name, Seconds, Secret, Url


class Cloudflare(Section):
    """Credentials and habits of Cloudflare."""

    zone_id: str
    """The zone; CLOUDFLARE_ZONE_ID wins."""
    api_token: Secret
    """An API token that may purge; CLOUDFLARE_API_TOKEN or CLOUDFLARE_TOKEN win."""
    purge_on_update: bool = True
    """Purge a name that moves to other bytes as soon as it does; what may be read no more is purged in any case."""
    plan: Literal["free", "pro", "business", "enterprise"] = "free"
    """The zone's plan: it says how many calls and URLs the API takes in a second."""
    api_url: Url = Url("https://api.cloudflare.com/client/v4")
    """Where its API is."""


class Fastly(Section):
    """Credentials and habits of Fastly."""

    service_id: str
    """The service."""
    api_key: Secret
    """An API key that may purge."""
    soft_purge: bool = True
    """Mark as stale instead of deleting, where nobody asks for one or the other."""
    purge_on_update: bool = True
    """As for Cloudflare."""
    api_url: Url = Url("https://api.fastly.com")
    """Where its API is."""
    stats_url: Url = Url("https://rt.fastly.com")
    """Where its figures in real time are."""


class CloudFront(Section):
    """Credentials and habits of AWS CloudFront."""

    distribution_id: str
    """The distribution."""
    access_key_id: Secret | None = None
    """AWS access key; null leaves it to the usual AWS chain (environment, profile, role)."""
    secret_access_key: Secret | None = None
    """The secret of that key."""
    purge_on_update: bool = True
    """As for Cloudflare."""
    cache_tags: bool = False
    """The distribution has `CacheTagConfig` with the header x-amz-meta-cache-tag: purges go by tag."""
    api_url: Url | None = None
    """Where its API and CloudWatch's are, instead of AWS."""
    signing_key_id: Name | None = None
    """Id of a public key in the distribution's key group: ciphertext is asked for by signed URLs. All else is not."""
    signing_key_file: Path | None = None
    """Its private key, RSA of 2048 bits, PEM, 0600. Goes with signing_key_id; every node that reads needs it."""


class Azure(Section):
    """Credentials and place of an Azure CDN or Front Door endpoint."""

    subscription_id: str
    """The subscription."""
    resource_group: str
    """The resource group."""
    profile_name: str
    """The CDN profile."""
    endpoint_name: str
    """The endpoint in the profile."""
    tenant_id: str | None = None
    """Directory of the service principal; null leaves it to a managed identity."""
    client_id: str | None = None
    """The service principal."""
    client_secret: Secret | None = None
    """The secret of the service principal."""
    purge_on_update: bool = True
    """As for Cloudflare."""
    classic: bool = False
    """The profile is Azure CDN classic, whose purge is at another address, instead of Front Door."""
    api_url: Url = Url("https://management.azure.com")
    """Where the resource manager is."""
    login_url: Url = Url("https://login.microsoftonline.com")
    """Where tokens are given."""


class Edge(Section):
    """Self-hosted edges: Varnish or Nginx."""

    endpoints: tuple[Url, ...]
    """Addresses of the edges; each is purged on its own."""
    auth_token: Secret | None = None
    """What a purge request carries as `Authorization: Bearer`; null sends none."""
    purge_on_update: bool = True
    """As for Cloudflare."""
    ca_file: Path | None = None
    """PEM file of the CA of the edges' certificates; null: the system's."""
    purge_path: str = "/purge"
    """nginx: the location of the purge module, before the path that is purged."""
    dav_path: str | None = None
    """nginx: the location where files are put and deleted (WebDAV); null: there is none."""
    stats_name: str | None = None
    """varnish: the instance on this machine whose counters give the hit ratio (`varnishd -n`); null: none is."""


class Http(Section):
    """Any CDN, for who reads from it alone: chunks are got at its public URLs, and nothing is purged there."""

    @property
    def purge_on_update(self) -> bool:
        """As of all the others: never."""
        return False


class Bucket(Section):
    """Where `rage cdn publish` puts objects."""

    uri: str
    """`s3://bucket/prefix`, or `https://ACCOUNT.blob.core.windows.net/CONTAINER/prefix`."""
    endpoint: Url | None = None
    """S3: another service than AWS (R2, Fastly Object Storage, MinIO)."""
    region: str | None = None
    """S3: its region; `auto` for R2."""
    access_key_id: Secret | None = None
    """S3: an access key; null leaves it to the usual AWS chain."""
    secret_access_key: Secret | None = None
    """The secret of that key."""
    sas_token: Secret | None = None
    """Azure Blob: a shared access signature that may write and delete."""


class Routing(Section):
    """Which clients a provider serves."""

    regions: tuple[Name, ...] = ()
    """Parts of the world, compared with `network.geo`; none means all."""
    priority: Annotated[int, Between(0, 1000)] = 1
    """Order of providers; 0 goes first."""


SOFTWARE: dict[str, type[Section]] = {
    "cloudflare": Cloudflare,
    "fastly": Fastly,
    "cloudfront": CloudFront,
    "azure": Azure,
    "varnish": Edge,
    "nginx": Edge,
    "http": Http,
}
"""What the words of `software` mean for `config`."""


class Provider(Section):
    """One CDN."""

    name: Name
    """Its name in commands, metrics and logs; unique."""
    type: Literal["commercial", "self-hosted"]
    """Who runs it."""
    software: Literal["cloudflare", "fastly", "cloudfront", "azure", "varnish", "nginx", "http"]
    """What it is; when left out, the one of these words that `name` begins with. http is any, for reading alone."""
    config: Cloudflare | Fastly | CloudFront | Azure | Edge | Http
    """Credentials and habits; the keys depend on `software`, and http has none."""
    routing: Routing = Routing()
    """Which clients it serves."""
    public_urls: tuple[Url, ...] = ()
    """Where clients get the objects, such as https://cdn.example.org: purges name these hosts. None given, self-hosted
    edges are asked by their endpoints."""
    bucket: Bucket | None = None
    """The object store that this CDN reads, where objects are pushed instead of pulled from the node."""

    @classmethod
    def _variants(cls, words: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
        named = next((word for word in SOFTWARE if words.get("name", "").lower().startswith(word)), None)
        software = words.get("software", named)
        assumed: dict[str, Any] = {"software": named} if named is not None and "software" not in words else {}
        if software == "http":
            assumed["config"] = Http()
        return assumed, {"config": SOFTWARE[software]} if software in SOFTWARE else {}


class CacheRule(Section):
    """How long paths of one form are kept."""

    pattern: str
    """A path where `*` stands for anything; the first rule that matches counts."""
    ttl: Seconds | None = None
    """Time for which edges keep the answer; null takes default_ttl. Browsers keep it a minute at most."""
    stale_while_revalidate: Seconds = Seconds(0)
    """Time for which an outdated answer may be given while a new one is fetched."""
    immutable: bool = False
    """Tell clients that the answer never changes. Chunks say so for documents with the tag `permanent` alone."""
    cache: bool = True
    """False: edges must not keep it at all."""


class CachePolicy(Section):
    """How long edges keep answers."""

    default_ttl: Seconds = Seconds(3600)
    """Time where no rule says otherwise."""
    max_ttl: Seconds = Seconds(86_400)
    """No rule goes above this."""
    rules: tuple[CacheRule, ...] = (
        CacheRule(pattern="/chunks/*", ttl=Seconds(86_400), stale_while_revalidate=Seconds(3600)),
        CacheRule(pattern="/embeddings/*", ttl=Seconds(7200), immutable=True),
        CacheRule(pattern="/api/*", ttl=Seconds(0), cache=False),
    )
    """Rules by path."""


class Cdn(Section):
    """All of cdn.yaml."""

    version: int = VERSION
    """Version of the file's keys."""
    enabled: bool = True
    """Use CDNs; `network.cdn.enabled` must hold too."""
    providers: tuple[Provider, ...] = ()
    """The CDNs."""
    cache_policy: CachePolicy = CachePolicy()
    """How long edges keep answers."""


def check(cdn: Cdn) -> Iterator[tuple[str, str, str, bool]]:
    """What no single value tells: (key, message, mend, whether it is an error rather than a warning)."""
    names = [provider.name for provider in cdn.providers]
    for at, provider in enumerate(cdn.providers):
        if provider.name in names[:at]:
            yield f"cdn.providers[{at}].name", f"two providers are named {provider.name}", "rename one", True
        hosted = "self-hosted" if isinstance(provider.config, Edge) else "commercial"
        if isinstance(provider.config, Http):
            if not provider.public_urls:
                where = f"cdn.providers[{at}].public_urls"
                yield where, "http is read at public URLs, and none is given", "public_urls: [https://...]", True
        elif provider.type != hosted:
            yield f"cdn.providers[{at}].type", f"{provider.software} is {hosted}", f"type: {hosted}", True
        if isinstance(provider.config, CloudFront) and (
            (provider.config.access_key_id is None) != (provider.config.secret_access_key is None)
        ):
            yield f"cdn.providers[{at}].config", "an access key needs both its id and its secret", "", True
        if isinstance(provider.config, CloudFront):
            yield from _check_signing(f"cdn.providers[{at}]", provider, provider.config)
    policy = cdn.cache_policy
    if policy.default_ttl > policy.max_ttl:
        yield "cdn.cache_policy.default_ttl", "it is longer than max_ttl", "raise max_ttl", True
    for at, rule in enumerate(policy.rules):
        key = f"cdn.cache_policy.rules[{at}]"
        if not rule.pattern.startswith("/"):
            yield f"{key}.pattern", "a path is wanted, which begins with /", "", True
        if rule.ttl is not None and rule.ttl > policy.max_ttl:
            yield f"{key}.ttl", "it is longer than max_ttl", "raise max_ttl", True


def _check_signing(where: str, provider: Provider, config: CloudFront) -> Iterator[tuple[str, str, str, bool]]:
    if bool(config.signing_key_id) != (config.signing_key_file is not None):
        key = "signing_key_file" if config.signing_key_id else "signing_key_id"
        yield f"{where}.config.{key}", "signed URLs need both a key's id and its file", "", True
    elif config.signing_key_id and any(
        url.startswith("http://") and not is_loopback(url) for url in provider.public_urls
    ):
        message = "http:// shows signed URLs to whoever is on the way, who may use them"
        yield f"{where}.public_urls", message, "https://", False
