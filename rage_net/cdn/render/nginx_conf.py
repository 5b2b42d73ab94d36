"""nginx's configuration of an edge, and of TLS before a Varnish, as texts with `@name@` for what `nginx` fills in."""

FRONT = r"""# TLS before the Varnish edge "@name@" of a rage network. Written by `rage cdn render`; edit and keep it.
# Varnish sees every caller as this machine: who may purge is decided here as well, and the Varnish behind, which
# listens for this machine alone, is rendered with `--caller 127.0.0.1`.

geo $rage_caller {
    default 0;
@callers@}
map "$request_method|$rage_caller" $rage_refused {
    default "";
    "~^(?:PURGE|BAN)\|0$" 1;
}
upstream rage_varnish {
    server @behind@;
    keepalive 16;
}
server {
    listen @tls_listen@ ssl http2 default_server;
    server_name _;
    ssl_certificate @cert_file@;
    ssl_certificate_key @key_file@;
    ssl_protocols TLSv1.2 TLSv1.3;
    server_tokens off;
    location / {
        if ($rage_refused) { return 403; }
        proxy_pass http://rage_varnish;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_buffering off;
        proxy_request_buffering off;
        proxy_connect_timeout 2s;
        proxy_read_timeout 30s;
    }
}
"""


CONF = r"""# nginx as the CDN edge "@name@" of a rage network. Written by `rage cdn render nginx`; edit and keep it.
#
# For the http context, such as /etc/nginx/conf.d/rage-cdn.conf. Needs nginx 1.22 and the module ngx_cache_purge
# (Debian: libnginx-mod-http-cache-purge, which loads itself). Its short form `proxy_cache_purge PURGE from ..` ends the
# worker with a fault in that build: only the form below, a location of its own, is safe.
# Purges are by path, one in a call. The module knows no prefix, tag or host, and marks nothing as stale. Slices are not
# used: each would be an object of its own, and a purge of the path would leave them.
# The file @token_map@ holds one line with the token; let only root read it:
#   "~^Bearer THE-TOKEN$" 1;          (before each . or + of the token stands a backslash)

map $http_authorization $rage_may_write {
    default 0;
    include @token_map@;
}

# nginx reads neither CDN-Cache-Control nor Surrogate-Control, and compares no numbers. So it asks itself: the inner
# server reads them and says in X-Accel-Expires how long the outer one keeps the answer, at most max_ttl.
map $upstream_http_cdn_cache_control $rage_cdn_ttl {
    default "";
    "~*(?:^|[,\s])max-age=0*@above_ttl@\s*(?:,|$)" @max_ttl@;
    "~*(?:^|[,\s])max-age=0*(?<rage_a>[0-9]{1,9})\s*(?:,|$)" $rage_a;
}
map $upstream_http_surrogate_control $rage_surrogate_ttl {
    default "";
    "~*(?:^|[,\s])max-age=0*@above_ttl@\s*(?:,|$)" @max_ttl@;
    "~*(?:^|[,\s])max-age=0*(?<rage_b>[0-9]{1,9})\s*(?:,|$)" $rage_b;
}
map $upstream_http_cache_control $rage_shared_ttl {
    default "";
    "~*(?:^|[,\s])s-maxage=0*@above_ttl@\s*(?:,|$)" @max_ttl@;
    "~*(?:^|[,\s])s-maxage=0*(?<rage_c>[0-9]{1,9})\s*(?:,|$)" $rage_c;
}
map $upstream_http_cache_control $rage_plain_ttl {
    default "";
    "~*(?:^|[,\s])max-age=0*@above_ttl@\s*(?:,|$)" @max_ttl@;
    "~*(?:^|[,\s])max-age=0*(?<rage_d>[0-9]{1,9})\s*(?:,|$)" $rage_d;
}
# For answers whose origin says nothing: the rules of cdn.yaml, first match first.
map $uri $rage_rule_ttl {
@rule_ttl@}
map $uri $rage_rule_stale {
@rule_stale@}
map $uri $rage_rule_browser {
@rule_browser@}
map "$rage_cdn_ttl|$rage_surrogate_ttl|$rage_shared_ttl|$rage_plain_ttl" $rage_told_ttl {
    default "";
    "~^(?<rage_e>[0-9]+)\|" $rage_e;
    "~^\|(?<rage_f>[0-9]+)\|" $rage_f;
    "~^\|\|(?<rage_g>[0-9]+)\|" $rage_g;
    "~^\|\|\|(?<rage_h>[0-9]+)$" $rage_h;
}
map $rage_told_ttl $rage_ttl {
    "" $rage_rule_ttl;
    default $rage_told_ttl;
}
# Private is private, whichever field says so and whatever another field says; too large is not kept either.
map "$upstream_http_cache_control,$upstream_http_cdn_cache_control,$upstream_http_surrogate_control" $rage_private {
    default "";
    "~*(?:^|[,\s])(?:private|no-store)" 1;
}
map "$rage_cdn_ttl$rage_surrogate_ttl|$upstream_http_cache_control" $rage_no_cache {
    default "";
    "~*^\|(?:.*[,\s])?no-cache" 1;
}
map "$upstream_http_cdn_cache_control,$upstream_http_surrogate_control" $rage_no_edge {
    default "";
    "~*(?:^|[,\s])no-cache" 1;
}
map $upstream_http_content_length $rage_large {
    default "";
    "~^@above_size@$" 1;
}
map $upstream_http_vary $rage_varies {
    default "";
    "~*\*|authorization|cookie" 1;
}
map "$rage_private$rage_varies$rage_no_cache$rage_no_edge$rage_large$upstream_http_set_cookie" $rage_unkept {
    "" "";
    default 1;
}
map "$rage_unkept|$status" $rage_expires {
    default 0;
    "|200" $rage_ttl;
    "~^\|(?:404|410|451)$" $rage_missing_ttl;
}
# "Not here" is kept for a few seconds at most: published a moment later, it must be found soon.
map $rage_ttl $rage_missing_ttl {
    default @missing@;
    "~^[0-@missing@]$" $rage_ttl;
}
map $upstream_http_cdn_cache_control $rage_cdn_stale {
    default "";
    "~*(?:^|[,\s])stale-while-revalidate=(?<rage_i>[0-9]{1,9})\s*(?:,|$)" $rage_i;
}
map $upstream_http_surrogate_control $rage_surrogate_stale {
    default "";
    "~*(?:^|[,\s])stale-while-revalidate=(?<rage_j>[0-9]{1,9})\s*(?:,|$)" $rage_j;
}
map $upstream_http_cache_control $rage_plain_stale {
    default "";
    "~*(?:^|[,\s])stale-while-revalidate=(?<rage_k>[0-9]{1,9})\s*(?:,|$)" $rage_k;
}
# The time for a stale answer comes from the field that gave the time for a fresh one.
map "$rage_cdn_ttl|$rage_surrogate_ttl|$rage_shared_ttl$rage_plain_ttl" $rage_stale {
    default $rage_rule_stale;
    "~^[0-9]" $rage_cdn_stale;
    "~^\|[0-9]" $rage_surrogate_stale;
    "~^\|\|[0-9]" $rage_plain_stale;
}
map "$status|$rage_stale" $rage_swr {
    default "";
    "~^200\|0*[1-9]" "stale-while-revalidate=$rage_stale";
}
map $upstream_http_cache_control $rage_browser {
    "" $rage_rule_browser;
    default $upstream_http_cache_control;
}

map "" $rage_origin_host {
    default @origin_netloc@;
}

# s-maxage is for edges, not for caches behind us that nobody purges.
map $upstream_http_x_rage_browser $rage_shown {
    default $upstream_http_x_rage_browser;
    "~*^(?<rage_m>.*?),\s*s-maxage=[^,]*(?<rage_n>.*)$" $rage_m$rage_n;
    "~*^s-maxage=[^,]*,?\s*(?<rage_o>.*)$" $rage_o;
}

# Of the query only the gateway's format is part of the key, and what Accept says in its place.
map $arg_format $rage_asked {
    "" $rage_accepted;
@formats@    default other;
}
map "$uri|$http_accept" $rage_accepted {
    default "";
    "~*^/ipfs/.*\|.*application/vnd\.ipld\.raw" raw;
    "~*^/ipfs/.*\|.*application/vnd\.ipld\.car *($|,)" car;
    "~*^/ipfs/.*\|.*application/vnd\.ipld\.car" other;
}
map $arg_format $rage_purge_format {
    default "";
@formats@}
# A file that was put is the plain object: a CAR of it comes from the origin.
map $rage_asked $rage_file {
    default $uri;
    car /dev/null/none;
    other /dev/null/none;
}
# A part of a graph, or a CAR of a special order: there are too many of them to keep.
map "$uri?$args" $rage_partial {
    default "";
    "~^/ipfs/.*[?&](dag-scope|entity-bytes|car-[a-z]+)=" 1;
}
map "$rage_partial|$rage_asked" $rage_uncommon {
    "~^1" 1;
    "~other$" 1;
    default "";
}
map "$rage_uncommon|$rage_asked" $rage_args {
    "~^1" $args;
    "~^\|$" "";
    default "format=$rage_asked";
}
map "$rage_uncommon|$http_accept" $rage_accept {
    "~^1\|(?<rage_l>.*)$" $rage_l;
    default "*/*";
}
# Who asks with credentials gets an answer of their own, which is nobody else's.
map "$http_authorization$rage_uncommon" $rage_bypass {
    "" "";
    default 1;
}
map $upstream_cache_status $rage_cache_status {
    default "fwd=bypass";
    HIT "hit";
    STALE "hit; detail=stale";
    UPDATING "hit; detail=updating";
    REVALIDATED "hit; detail=revalidated";
    MISS "fwd=uri-miss";
    EXPIRED "fwd=stale";
}
# What a purge location says of its own answer: 200 and 404 are the module's.
map $status $rage_purged {
    default "";
    200 1;
    404 0;
}

log_format rage_cdn '$remote_addr [$time_iso8601] "$request" $status $body_bytes_sent $upstream_cache_status';

proxy_cache_path @cache_dir@ levels=1:2 keys_zone=rage_cdn:10m max_size=@cache_bytes_max@
                 inactive=@max_ttl@s use_temp_path=off;

# The node's HTTP door. A name is resolved when this file is loaded.
upstream rage_origin {
    server @origin@;
    keepalive 8;
}
upstream rage_inner {
    server @inner@;
    keepalive 8;
}

# The inner server: nothing but the translation of the origin's words.
server {
    listen @inner@;
    allow 127.0.0.1;
    allow ::1;
    deny all;
    access_log off;
    client_max_body_size 0;

    location / {
        proxy_pass http://rage_origin;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $rage_origin_host;
        proxy_connect_timeout 2s;
        proxy_read_timeout 15s;
        proxy_max_temp_file_size 0;
        proxy_request_buffering off;
        proxy_buffer_size 16k;
        proxy_buffers 8 16k;
        # An origin does not steer this nginx.
        proxy_ignore_headers X-Accel-Redirect X-Accel-Expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;
        proxy_hide_header Cache-Control;
        proxy_hide_header Expires;
        proxy_hide_header CDN-Cache-Control;
        proxy_hide_header Surrogate-Control;
        proxy_hide_header Surrogate-Key;
        proxy_hide_header xkey;
        proxy_hide_header Cache-Tag;
        proxy_hide_header x-amz-meta-cache-tag;
        # In this order: after X-Accel-Expires, nginx 1.22 reads no stale-while-revalidate.
        add_header Cache-Control $rage_swr always;
        add_header X-Accel-Expires $rage_expires always;
        add_header X-Rage-Browser $rage_browser always;
    }
}

# Every other host: it has no objects here, and a purge of it would find nothing and look well.
server {
@listen@ default_server;
@certificate@    server_name _;
    access_log off;
    return 421;
}

server {
@listen@;
@certificate@    server_name @hosts@;
    @log@
    server_tokens off;
    default_type application/octet-stream;

    # Purges: POST @purge_path@/PATH with the token. The module would act at any method; the key is that of the cache.
    location ~ "^@purge_path@(?<rage_path>/.*)$" {
@allowed@        if ($request_method != POST) { return 405; }
        if ($rage_may_write = 0) { return 401; }
        add_header X-Purged $rage_purged always;
        add_header Cache-Control no-store always;
        proxy_cache_purge rage_cdn "$rage_path|$rage_purge_format";
    }
@dav@
    # What is served: the rules of cdn.yaml, first match first. Nothing else of the origin shows through.
@locations@
    location / {
        return 404;
    }

    location @rage_cache {
        set $args $rage_args;
        proxy_pass http://rage_inner;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header Accept $rage_accept;
        proxy_set_header Accept-Encoding "";
        proxy_set_header Cookie "";
        proxy_connect_timeout 2s;
        proxy_read_timeout 30s;
        proxy_max_temp_file_size 0;
        proxy_buffer_size 16k;
        proxy_buffers 8 16k;
        proxy_cache rage_cdn;
        proxy_cache_key "$uri|$rage_asked";
        proxy_cache_bypass $rage_bypass;
        proxy_no_cache $rage_bypass;
        proxy_force_ranges on;
        proxy_cache_lock on;
        proxy_cache_lock_timeout 15s;
        # Stale answers only for as long as stale-while-revalidate allows.
        proxy_cache_use_stale off;
        proxy_cache_background_update on;
        # One object has one key: the headers of a request choose no variants, which a purge would leave.
        proxy_ignore_headers Vary;
        proxy_hide_header Cache-Control;
        proxy_hide_header X-Rage-Browser;
        add_header Cache-Control $rage_shown always;
        add_header X-Cache-Status $upstream_cache_status always;
        add_header Cache-Status "@name@; $rage_cache_status" always;
    }
}
"""
