"""The configuration of an edge for nginx with ngx_cache_purge, written from cdn.yaml into `nginx_conf`'s text. Pure.

Source: cdn-apis 8; nginx.org, ngx_http_proxy_module, ngx_http_dav_module; tests/cdn run it in the real program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rage_net.cdn.edges import FORMATS
from rage_net.cdn.render.nginx_conf import CONF, FRONT
from rage_net.cdn.render.plan import (
    BROWSER_S_MAX,
    MISSING_S,
    OBJECT_BYTES_MAX,
    Plan,
    Rule,
    Tls,
    above,
    checked,
    checked_path,
    network,
    plan,
)
from rage_net.config.cdn import Cdn, Edge, Provider
from rage_net.errors import ConfigError

PUT_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NginxOptions:
    """What cdn.yaml does not know of an edge."""

    token_map: Path | str
    """On the edge: the file with the line that `render_token_map` gives; only nginx's master may read it."""
    callers: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses or networks from which purges, puts and deletes are taken."""
    tls: Tls | None = None
    """None: plain HTTP, for a front that terminates TLS on this machine."""
    listen: str = "80"
    """Address and port for plain HTTP; not used with `tls`."""
    inner: str = "127.0.0.1:8479"
    """A free address on this machine, where nginx asks itself."""
    cache_dir: Path | str = "/var/cache/nginx/rage"
    cache_bytes_max: str = "10g"
    dav_dir: Path | str = "/var/lib/rage-dav"
    """Where files lie that are put; used when cdn.yaml has `dav_path`."""
    object_bytes_max: int = OBJECT_BYTES_MAX
    put_bytes_max: int = PUT_BYTES_MAX
    access_log: Path | str | None = "/var/log/nginx/rage-cdn.log"
    """With the cache's own word on each request: what a hit ratio is counted from."""


def render_token_map(token: str) -> str:
    """The line of `token_map` for `auth_token`. It holds the secret. Raises: ConfigError."""
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]{1,512}", token):
        raise ConfigError(
            "the token cannot be written into nginx's configuration",
            why="letters, digits, -._~+/= can, 512 of them at most"
            if token
            else "auth_token of the provider is not set",
            mend=["openssl rand -hex 24", "set auth_token of the provider in cdn.yaml"],
        )
    # As a regular expression, for nginx compares plain texts without regard to case.
    return f'"~^Bearer {re.sub(r"[.+]", lambda found: chr(92) + found[0], token)}$" 1;\n'


def render_nginx(cdn: Cdn, provider: Provider, origin: str, options: NginxOptions) -> str:
    """A file for nginx's `http` context (conf.d). `origin`: http://HOST:PORT of the node. Raises: ConfigError."""
    shape = plan(cdn, provider, origin, options.callers)
    assert isinstance(provider.config, Edge)
    purge_path = _location(provider.config.purge_path, "purge_path")
    dav_path = None if provider.config.dav_path is None else _location(provider.config.dav_path, "dav_path")
    allowed = "".join(f"        allow {caller};\n" for caller in shape.callers) + "        deny all;\n"
    fields = {
        "name": provider.name,
        # The key has no host: an edge's own name, by which files are put, reads nothing else than public names do.
        "hosts": " ".join(dict.fromkeys((*shape.hosts, *(shape.own_hosts if dav_path else ())))),
        "origin": f"{shape.origin_host}:{shape.origin_port}",
        "origin_netloc": shape.origin_netloc,
        "token_map": checked_path(options.token_map, "the token's map"),
        "inner": checked(options.inner, "the inner address"),
        "cache_dir": checked_path(options.cache_dir, "the cache's directory"),
        "cache_bytes_max": checked(options.cache_bytes_max, "the cache's size"),
        "max_ttl": shape.max_ttl_s,
        "above_ttl": above(shape.max_ttl_s),
        "above_size": above(int(options.object_bytes_max)),
        "missing": MISSING_S,
        "formats": "".join(f"    {word} {word};\n" for word in FORMATS),
        "rule_ttl": _by_path(shape, lambda rule: str(rule.ttl_s) if rule.is_kept else "0", "0"),
        "rule_stale": _by_path(shape, lambda rule: str(rule.stale_s) if rule.is_kept else "0", "0"),
        "rule_browser": _by_path(shape, lambda rule: f'"{rule.browser}"', '"no-store"'),
        "listen": _listen(options),
        "certificate": _certificate(options),
        "log": "access_log off;"
        if options.access_log is None
        else f"access_log {checked_path(options.access_log, 'the log')} rage_cdn;",
        "purge_path": purge_path,
        "allowed": allowed,
        "dav": "" if dav_path is None else _dav(dav_path, allowed, options),
        "locations": "\n".join(_locations(shape, None if dav_path is None else options)),
    }
    return _filled(CONF, fields)


def _filled(text: str, fields: dict[str, object]) -> str:
    """`@name@` for its field: braces and dollars are nginx's."""
    return re.sub(r"@([a-z_]+)@", lambda found: str(fields[found[1]]), text)


def _location(path: str, what: str) -> str:
    text = checked(path.rstrip("/"), what)
    if not re.fullmatch(r"(?:/[A-Za-z0-9_-]+)+", text):
        raise ConfigError(
            f"{what} cannot be a location of nginx: {path!r}",
            why="letters, digits, _ and - between /",
            mend=[f'{what}: "/{what.partition("_")[0]}" in cdn.yaml'],
        )
    return text


def _listen(options: NginxOptions) -> str:
    if options.tls is None:
        return f"    listen {checked(options.listen, 'the address')}"
    return f"    listen {checked(options.tls.listen, 'the address')} ssl http2"


def _certificate(options: NginxOptions) -> str:
    """The lines of a certificate: both servers have it, since who calls an edge by its own name asks for a host too."""
    if options.tls is None:
        return ""
    return (
        f"    ssl_certificate {checked_path(options.tls.cert_file, 'the certificate')};\n"
        f"    ssl_certificate_key {checked_path(options.tls.key_file, 'the key')};\n"
        "    ssl_protocols TLSv1.2 TLSv1.3;\n"
        "    ssl_session_cache shared:rage_tls:1m;\n"
    )


def _by_path(shape: Plan, value: Callable[[Rule], str], otherwise: str) -> str:
    lines = [f'    "~{rule.regex}" {value(rule)};\n' for rule in shape.rules]
    return "".join(lines) + f"    default {otherwise};\n"


def _locations(shape: Plan, dav: NginxOptions | None) -> list[str]:
    return [_kept(rule, dav) if rule.is_kept else _passed(rule) for rule in shape.rules]


def _passed(rule: Rule) -> str:
    return f"""    # {rule.pattern}: never kept; every method goes to the origin.
    location ~ "{rule.regex}" {{
        proxy_pass http://rage_origin;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $rage_origin_host;
        # The node must not take every client for this machine.
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;
        proxy_hide_header Cache-Control;
        add_header Cache-Control $rage_browser always;
        add_header X-Cache-Status BYPASS always;
    }}
"""


def _kept(rule: Rule, dav: NginxOptions | None) -> str:
    if dav is None:
        source = "        try_files /dev/null/none @rage_cache;\n"
    else:
        kind = "application/vnd.ipld.raw" if rule.pattern.startswith("/ipfs/") else "application/octet-stream"
        source = f"""        root {checked_path(dav.dav_dir, "the directory of puts")};
        try_files $rage_file @rage_cache;
        types {{ }}
        default_type {kind};
        add_header Cache-Control "public, max-age={BROWSER_S_MAX}";
        add_header X-Content-Type-Options nosniff;
        add_header X-Cache-Status HIT;
"""
    return f"""    # {rule.pattern}
    location ~ "{rule.regex}" {{
        if ($request_method !~ ^(GET|HEAD)$) {{ return 405; }}
{source}    }}
"""


def _dav(path: str, allowed: str, options: NginxOptions) -> str:
    return f"""
    # Files that `rage cdn publish` puts and deletes; they are read at their own paths below.
    location ^~ {path}/ {{
{allowed}        if ($request_method !~ ^(GET|HEAD|PUT|DELETE)$) {{ return 405; }}
        if ($rage_may_write = 0) {{ return 401; }}
        alias {checked_path(options.dav_dir, "the directory of puts")}/;
        dav_methods PUT DELETE;
        create_full_put_path on;
        dav_access user:rw group:r all:r;
        client_max_body_size {int(options.put_bytes_max)};
    }}
"""


def render_tls_front(provider: Provider, behind: str, callers: Sequence[str], tls: Tls) -> str:
    """A file for nginx's `http` context: TLS before a Varnish at `behind` (HOST:PORT). Raises: ConfigError.

    It hides callers' addresses from Varnish, so that it refuses purges of others itself.
    """
    return _filled(
        FRONT,
        {
            "name": provider.name,
            "behind": checked(behind, "Varnish's address"),
            "callers": "".join(f"    {network(caller)} 1;\n" for caller in callers),
            "tls_listen": checked(tls.listen, "the address"),
            "cert_file": checked_path(tls.cert_file, "the certificate"),
            "key_file": checked_path(tls.key_file, "the key"),
        },
    )
