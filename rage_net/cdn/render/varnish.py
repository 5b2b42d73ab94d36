"""The VCL of an edge, for Varnish 7 with varnish-modules (xkey), written from cdn.yaml. Pure.

Source: cdn-apis 7; vcl(7), vmod_xkey(3), vmod_std(3); tests/cdn run it in the real program.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rage_net.cdn.edges import FORMATS
from rage_net.cdn.render.plan import MISSING_S, OBJECT_BYTES_MAX, Plan, Rule, checked_path, plan
from rage_net.config.cdn import Cdn, Provider


@dataclass(frozen=True, slots=True)
class VarnishOptions:
    """What cdn.yaml does not know of an edge."""

    token_file: Path | str
    """On the edge: the file with `auth_token`, alone; only varnishd's worker may read it (Debian: vcache)."""
    callers: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses or networks from which purges are taken, such as 192.0.2.0/24."""
    object_bytes_max: int = OBJECT_BYTES_MAX


def render_varnish(cdn: Cdn, provider: Provider, origin: str, options: VarnishOptions) -> str:
    """The whole VCL. `origin`: http://HOST:PORT of the node's HTTP door. Raises: ConfigError."""
    shape = plan(cdn, provider, origin, options.callers)
    return VCL.format(
        name=provider.name,
        origin_host=shape.origin_host,
        origin_port=shape.origin_port,
        origin_netloc=shape.origin_netloc,
        token_file=checked_path(options.token_file, "the token's file"),
        callers="\n".join(f"    {_acl_entry(caller)};" for caller in shape.callers),
        hosts=" && ".join(f'req.http.Host != "{host}"' for host in shape.hosts),
        recv_rules=_recv(shape),
        fetch_rules=_fetch(shape),
        max_ttl=shape.max_ttl_s,
        missing=MISSING_S,
        object_bytes_max=int(options.object_bytes_max),
        formats="|".join(FORMATS),
    )


def _acl_entry(network: str) -> str:
    address, _, bits = network.partition("/")
    return f'"{address}"/{bits}'


def _chain(branches: list[tuple[str, str]], otherwise: str) -> str:
    """An if, elseif and else of (condition, body) at one level of indentation."""
    text, word = "", "if"
    for condition, body in branches:
        text += f"    {word} ({condition}) {{\n{body}    }}"
        word = " elseif"
    return text.replace("     elseif", " elseif") + f" else {{\n{otherwise}    }}\n"


def _recv(shape: Plan) -> str:
    def body(rule: Rule) -> str:
        return f'        set req.http.X-Rage-Rule = "{"keep" if rule.is_kept else "pass"}";\n'

    branches = [(f'req.http.X-Rage-Path ~ "{rule.regex}"', body(rule)) for rule in shape.rules]
    return _chain(branches, '        return (synth(404, "Not served here"));\n')


def _fetch(shape: Plan) -> str:
    def body(rule: Rule) -> str:
        browser = f'        if (!beresp.http.Cache-Control) {{ set beresp.http.Cache-Control = "{rule.browser}"; }}\n'
        if not rule.is_kept:
            return browser + "        set beresp.uncacheable = true;\n"
        return browser + f"        set beresp.ttl = {rule.ttl_s}s;\n        set beresp.grace = {rule.stale_s}s;\n"

    branches = [(f'bereq.http.X-Rage-Path ~ "{rule.regex}"', body(rule)) for rule in shape.rules]
    chain = _chain(branches, "        set beresp.uncacheable = true;\n")
    return "".join(f"    {line}\n" if line else "\n" for line in chain.splitlines())


VCL = r"""# Varnish as the CDN edge "{name}" of a rage network. Written by `rage cdn render varnish`; edit and keep it.
#
# Needs Varnish 7 and varnish-modules (vmod xkey). Start it, for example, with
#   varnishd -a 127.0.0.1:6081,PROXY -f THIS_FILE -s malloc,1G -p vsl_mask=-Hash
# The token's file must be readable by the worker (Debian: `chown vcache`, mode 400). It is read once: after a change,
# restart varnishd; a reload keeps the old one.
# varnishlog shows request headers, the token among them: let only administrators into the group that may read the log.
#
# TLS: Varnish has none. Terminate it in front, with hitch:
#   frontend = "[*]:443"   backend = "[127.0.0.1]:6081"   write-proxy-v2 = on   pem-file = "/etc/hitch/edge.pem"
# and keep `,PROXY` in -a, so that the list of callers below sees who really calls. A front that does not speak the
# PROXY protocol (nginx as an HTTP proxy) makes every caller look like itself: then it must refuse PURGE and BAN from
# others, as the one does that `rage cdn render tls` writes.

vcl 4.1;

import std;
import purge;
import xkey;
import blob;

# The node's HTTP door. A name is resolved when this file is loaded.
backend origin {{
    .host = "{origin_host}";
    .port = "{origin_port}";
    .connect_timeout = 2s;
    .first_byte_timeout = 15s;
    .between_bytes_timeout = 15s;
}}

# Who may purge: rage nodes and administrators. The token is asked for as well.
acl callers {{
{callers}
}}

sub vcl_recv {{
    # These names are ours: nobody else sets them.
    unset req.http.X-Rage-Count;
    unset req.http.X-Rage-Banned;
    unset req.http.X-Rage-Error;
    unset req.http.X-Rage-Host;
    unset req.http.X-Rage-Rule;
    unset req.http.X-Rage-Pass;
    unset req.http.X-Rage-Status;

    # One spelling of a host: small letters, no port, no dot at its end. It is part of the key.
    set req.http.Host = regsub(regsub(std.tolower(req.http.Host), ":[0-9]+$", ""), "\.$", "");

    if (req.method == "PURGE" || req.method == "BAN") {{
        call rage_authorize;
    }} else {{
        unset req.http.X-Purge-Soft;
        unset req.http.xkey;
    }}

    # A host that is not ours has no objects here: a purge of it would find nothing and look well.
    if ({hosts}) {{
        set req.http.X-Rage-Error = "this edge does not serve the host " + req.http.Host;
        return (synth(421, "Misdirected Request"));
    }}

    if (req.method == "BAN") {{
        call rage_ban;
    }}
    if (req.method == "PURGE" && req.http.xkey) {{
        call rage_purge_tags;
    }}

    # Who asks with credentials gets an answer of their own, which is nobody else's.
    if (req.http.Authorization && req.method != "PURGE") {{
        set req.http.X-Rage-Pass = "credentials";
    }}

    set req.http.X-Rage-Path = regsub(req.url, "\?.*$", "");
    # What is served: the rules of cdn.yaml, first match first. Nothing else of the origin shows through.
{recv_rules}
    # One key for an object: of the query only the gateway's format counts, and what Accept says in its place. Else any
    # client could fill the cache with copies of one object, which a purge of its path would leave.
    if (req.http.X-Rage-Rule == "pass") {{
        # Nothing is kept: the query is the origin's.
    }} elseif (req.http.X-Rage-Path ~ "^/ipfs/" && req.url ~ "[?&](dag-scope|entity-bytes|car-[a-z]+)=") {{
        # A part of a graph, or a CAR of a special order: there are too many of them to keep.
        set req.http.X-Rage-Pass = "partial";
    }} elseif (req.url ~ "[?&]format=({formats})(&|$)") {{
        set req.url = req.http.X-Rage-Path + "?format=" + regsub(req.url, "^.*?[?&]format=({formats})(&.*)?$", "\1");
    }} elseif (req.url ~ "[?&]format=") {{
        set req.http.X-Rage-Pass = "format";
    }} elseif (req.http.X-Rage-Path ~ "^/ipfs/" && req.http.Accept ~ "(?i)application/vnd\.ipld\.raw") {{
        set req.url = req.http.X-Rage-Path + "?format=raw";
    }} elseif (req.http.X-Rage-Path ~ "^/ipfs/" && req.http.Accept ~ "(?i)application/vnd\.ipld\.car *($|,)") {{
        set req.url = req.http.X-Rage-Path + "?format=car";
    }} elseif (req.http.X-Rage-Path ~ "^/ipfs/" && req.http.Accept ~ "(?i)application/vnd\.ipld\.car") {{
        set req.http.X-Rage-Pass = "partial";
    }} else {{
        set req.url = req.http.X-Rage-Path;
    }}
    # %63 is the letter c: an object under another spelling of its path would outlive the purge of its path. What is
    # kept has only characters that every client sends alike.
    if (req.http.X-Rage-Path !~ "^[A-Za-z0-9/._~!$&'()*+,;=:@-]+$" || req.http.X-Rage-Path ~ "//|/\.") {{
        set req.http.X-Rage-Pass = "spelling";
    }}

    if (req.method == "PURGE") {{
        # By its URL, for a person with curl: rage names URLs as tags, many in one call.
        unset req.http.Authorization;
        set req.hash_ignore_busy = true;
        return (hash);
    }}
    if (req.http.X-Rage-Rule == "pass") {{
        return (pass);
    }}
    if (req.method != "GET" && req.method != "HEAD") {{
        return (synth(405, "Method Not Allowed"));
    }}
    if (req.http.X-Rage-Pass) {{
        return (pass);
    }}
    unset req.http.Cookie;
    unset req.http.Accept;
    unset req.http.Accept-Encoding;
    return (hash);
}}

sub vcl_hash {{
    hash_data(req.url);
    hash_data(req.http.Host);
    return (lookup);
}}

# --- Purges ---------------------------------------------------------------------------------------------------------

sub rage_authorize {{
    if (client.ip !~ callers) {{
        set req.http.X-Rage-Error = "this address may not purge";
        return (synth(403, "Forbidden"));
    }}
    if (!std.file_exists("{token_file}") || regsub(std.fileread("{token_file}"), "\s+$", "") == ""
        || req.http.Authorization != "Bearer " + regsub(std.fileread("{token_file}"), "\s+$", "")) {{
        set req.http.X-Rage-Error = "the token is missing or wrong";
        return (synth(401, "Unauthorized"));
    }}
    unset req.http.Authorization;
}}

sub rage_purge_tags {{
    # Tags of the origin, and paths as URL:%2F...; Varnish takes blanks and commas between them.
    if (req.http.X-Purge-Soft) {{
        set req.http.X-Rage-Count = xkey.softpurge(req.http.xkey);
    }} else {{
        set req.http.X-Rage-Count = xkey.purge(req.http.xkey);
    }}
    return (synth(200, "Purged"));
}}

sub rage_ban {{
    # Only conditions on headers that are stored with the object: the ban lurker works these off by itself.
    # Each text is literal, its special characters escaped by the caller, `|` between several. Blanks, quotes and `&`,
    # with which another condition could be added, are refused.
    if (req.http.X-Ban-All) {{
        if (!std.ban("obj.status != 0")) {{
            set req.http.X-Rage-Error = std.ban_error();
            return (synth(400, "Bad Request"));
        }}
    }} elseif (req.http.X-Ban-Prefix) {{
        if (req.http.X-Ban-Prefix !~ "^(?:[A-Za-z0-9/_~%:@=,;!|-]|\\[.+$()\[\]])++$") {{
            set req.http.X-Rage-Error = "X-Ban-Prefix takes literal text, its special characters escaped";
            return (synth(400, "Bad Request"));
        }}
        if (!std.ban("obj.http.X-Rage-Url ~ ^(?:" + req.http.X-Ban-Prefix + ")")) {{
            set req.http.X-Rage-Error = std.ban_error();
            return (synth(400, "Bad Request"));
        }}
    }} elseif (req.http.X-Ban-Host) {{
        if (req.http.X-Ban-Host !~ "^(?:[a-z0-9|-]|\\\.)++$") {{
            set req.http.X-Rage-Error = "X-Ban-Host takes names of hosts, their dots escaped";
            return (synth(400, "Bad Request"));
        }}
        if (!std.ban("obj.http.X-Rage-Host ~ ^(?:" + req.http.X-Ban-Host + ")$")) {{
            set req.http.X-Rage-Error = std.ban_error();
            return (synth(400, "Bad Request"));
        }}
    }} else {{
        set req.http.X-Rage-Error = "say what to ban: X-Ban-Prefix, X-Ban-Host or X-Ban-All";
        return (synth(400, "Bad Request"));
    }}
    set req.http.X-Rage-Banned = "1";
    return (synth(200, "Banned"));
}}

sub rage_purge_url {{
    if (req.http.X-Purge-Soft) {{
        set req.http.X-Rage-Count = purge.soft(0s);
    }} else {{
        set req.http.X-Rage-Count = purge.hard();
    }}
}}

sub vcl_hit {{
    if (req.method == "PURGE") {{
        call rage_purge_url;
        return (synth(200, "Purged"));
    }}
}}

sub vcl_miss {{
    if (req.method == "PURGE") {{
        call rage_purge_url;
        return (synth(200, "Purged"));
    }}
}}

# --- What the origin answers ----------------------------------------------------------------------------------------

sub vcl_backend_fetch {{
    set bereq.http.X-Rage-Host = bereq.http.Host;
    set bereq.http.Host = "{origin_netloc}";
    unset bereq.http.X-Rage-Rule;
    unset bereq.http.X-Rage-Pass;
    # Chunks are packed already: one form of each is kept.
    if (!bereq.uncacheable) {{
        unset bereq.http.Accept-Encoding;
    }}
}}

sub vcl_backend_response {{
    # An origin that fails does not replace what is still good enough to give.
    if (beresp.status >= 500 && bereq.is_bgfetch) {{
        return (abandon);
    }}

    # For bans, and for purges by path; gone again before the client sees them.
    set beresp.http.X-Rage-Url = bereq.url;
    set beresp.http.X-Rage-Host = bereq.http.X-Rage-Host;
    std.collect(beresp.http.xkey, " ");
    std.collect(beresp.http.Surrogate-Key, " ");
    if (!beresp.http.xkey) {{
        set beresp.http.xkey = beresp.http.Surrogate-Key;
    }}
    set beresp.http.xkey = "URL:" + blob.transcode(encoding=URL, case=UPPER, encoded=bereq.url)
        + " " + beresp.http.xkey;

    std.collect(beresp.http.Cache-Control);
    std.collect(beresp.http.CDN-Cache-Control);
    std.collect(beresp.http.Surrogate-Control);

    # How long: CDN-Cache-Control, else Surrogate-Control, else Cache-Control, else the rule of the path.
    if (beresp.http.CDN-Cache-Control ~ "(?i)(^|[,\s])max-age=[0-9]{{1,9}}\s*(,|$)") {{
        set beresp.http.X-Rage-Control = beresp.http.CDN-Cache-Control;
    }} elseif (beresp.http.Surrogate-Control ~ "(?i)(^|[,\s])max-age=[0-9]{{1,9}}\s*(,|$)") {{
        set beresp.http.X-Rage-Control = beresp.http.Surrogate-Control;
    }} elseif (beresp.http.Cache-Control ~ "(?i)(^|[,\s])(s-maxage|max-age)=[0-9]{{1,9}}\s*(,|$)") {{
        # Varnish has read it: s-maxage goes before max-age.
        set beresp.grace = 0s;
        if (beresp.http.Cache-Control ~ "(?i)(^|[,\s])stale-while-revalidate=[0-9]{{1,9}}\s*(,|$)") {{
            set beresp.grace = std.duration(regsub(beresp.http.Cache-Control,
                "(?i)^(?:.*[,\s])?stale-while-revalidate=([0-9]+).*$", "\1") + "s", 0s);
        }}
    }} elseif (beresp.http.Expires) {{
        set beresp.grace = 0s;
    }} else {{
{fetch_rules}    }}
    if (beresp.http.X-Rage-Control) {{
        set beresp.ttl = std.duration(regsub(beresp.http.X-Rage-Control,
            "(?i)^(?:.*[,\s])?max-age=([0-9]+).*$", "\1") + "s", 0s);
        set beresp.grace = 0s;
        if (beresp.http.X-Rage-Control ~ "(?i)(^|[,\s])stale-while-revalidate=[0-9]{{1,9}}\s*(,|$)") {{
            set beresp.grace = std.duration(regsub(beresp.http.X-Rage-Control,
                "(?i)^(?:.*[,\s])?stale-while-revalidate=([0-9]+).*$", "\1") + "s", 0s);
        }}
        if (beresp.http.X-Rage-Control ~ "(?i)(^|[,\s])no-cache") {{
            set beresp.uncacheable = true;
        }}
    }} elseif (beresp.http.Cache-Control ~ "(?i)(^|[,\s])no-cache") {{
        set beresp.uncacheable = true;
    }}
    unset beresp.http.X-Rage-Control;

    if (beresp.ttl > {max_ttl}s) {{
        set beresp.ttl = {max_ttl}s;
    }}
    if (beresp.grace > {max_ttl}s) {{
        set beresp.grace = {max_ttl}s;
    }}
    set beresp.keep = 0s;

    if (beresp.status == 404 || beresp.status == 410 || beresp.status == 451) {{
        # Published a moment later, it must be found soon.
        if (beresp.ttl > {missing}s) {{
            set beresp.ttl = {missing}s;
        }}
        set beresp.grace = 0s;
    }} elseif (beresp.status != 200) {{
        set beresp.uncacheable = true;
    }}

    # Private is private, whichever field says so and whatever another field says.
    if (bereq.http.Authorization || beresp.http.Set-Cookie || beresp.http.Vary ~ "(?i)\*|authorization|cookie"
        || beresp.http.Cache-Control ~ "(?i)(^|[,\s])(private|no-store)"
        || beresp.http.CDN-Cache-Control ~ "(?i)(^|[,\s])(private|no-store)"
        || beresp.http.Surrogate-Control ~ "(?i)(^|[,\s])(private|no-store)"
        || std.integer(beresp.http.Content-Length, 0) > {object_bytes_max}
        || (!beresp.http.Content-Length && beresp.http.Transfer-Encoding !~ "(?i)chunked")
        || beresp.ttl <= 0s) {{
        set beresp.uncacheable = true;
    }}
    if (beresp.uncacheable) {{
        # For so long, requests for it do not wait for each other.
        set beresp.ttl = 120s;
        set beresp.grace = 0s;
    }}
    return (deliver);
}}

sub vcl_backend_error {{
    set beresp.http.Content-Type = "text/plain; charset=utf-8";
    set beresp.http.Cache-Control = "no-store";
    set beresp.http.Retry-After = "5";
    set beresp.body = {{"the origin of this edge does not answer
"}};
    return (deliver);
}}

# --- What the client sees -------------------------------------------------------------------------------------------

sub vcl_deliver {{
    # X-Cache and Age are the evidence that `rage cdn purge --wait` judges; Cache-Status is RFC 9211.
    if (obj.hits > 0 && obj.ttl < 0s) {{
        # Outdated, given while a new one is fetched.
        set resp.http.X-Cache = "STALE";
        set req.http.X-Rage-Status = "hit; ttl=" + regsub(obj.ttl, "\..*$", "");
    }} elseif (obj.hits > 0) {{
        set resp.http.X-Cache = "HIT";
        set req.http.X-Rage-Status = "hit; ttl=" + regsub(obj.ttl, "\..*$", "");
    }} elseif (obj.uncacheable) {{
        set resp.http.X-Cache = "BYPASS";
        set req.http.X-Rage-Status = "fwd=bypass";
    }} else {{
        set resp.http.X-Cache = "MISS";
        set req.http.X-Rage-Status = "fwd=uri-miss; stored";
    }}
    set resp.http.X-Cache-Hits = obj.hits;
    if (resp.http.Cache-Status) {{
        set resp.http.Cache-Status = resp.http.Cache-Status + ", {name}; " + req.http.X-Rage-Status;
    }} else {{
        set resp.http.Cache-Status = "{name}; " + req.http.X-Rage-Status;
    }}

    # For edges, not for browsers, nor for caches behind us that nobody purges.
    if (resp.http.Cache-Control ~ "(?i)s-maxage") {{
        set resp.http.Cache-Control = regsub(regsub(resp.http.Cache-Control,
            "(?i)(^|,)\s*s-maxage=[^,]*", ""), "^\s*,\s*", "");
    }}
    unset resp.http.xkey;
    unset resp.http.Surrogate-Key;
    unset resp.http.Surrogate-Control;
    unset resp.http.CDN-Cache-Control;
    unset resp.http.X-Accel-Expires;
    unset resp.http.Cache-Tag;
    unset resp.http.x-amz-meta-cache-tag;
    unset resp.http.X-Accel-Expires;
    unset resp.http.X-Rage-Url;
    unset resp.http.X-Rage-Host;
    return (deliver);
}}

sub vcl_synth {{
    set resp.http.Content-Type = "text/plain; charset=utf-8";
    set resp.http.Cache-Control = "no-store";
    set resp.body = resp.reason + {{"
"}};
    if (req.http.X-Rage-Count && resp.status == 200) {{
        set resp.http.X-Purged = req.http.X-Rage-Count;
        set resp.body = resp.reason + ": " + req.http.X-Rage-Count + {{"
"}};
    }}
    if (req.http.X-Rage-Banned && resp.status == 200) {{
        set resp.http.X-Banned = "1";
    }}
    if (req.http.X-Rage-Error) {{
        set resp.http.X-Purge-Error = req.http.X-Rage-Error;
        set resp.body = req.http.X-Rage-Error + {{"
"}};
    }}
    if (resp.status == 401) {{
        set resp.http.WWW-Authenticate = "Bearer";
    }}
    if (resp.status == 405) {{
        set resp.http.Allow = "GET, HEAD";
    }}
    return (deliver);
}}
"""
