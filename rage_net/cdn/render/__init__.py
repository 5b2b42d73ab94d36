"""Configurations of self-hosted edges, written from cdn.yaml: text for an operator to read, keep and load."""

from rage_net.cdn.render.nginx import NginxOptions, render_nginx, render_tls_front, render_token_map
from rage_net.cdn.render.plan import Tls
from rage_net.cdn.render.varnish import VarnishOptions, render_varnish

__all__ = [
    "NginxOptions",
    "Tls",
    "VarnishOptions",
    "render_nginx",
    "render_tls_front",
    "render_token_map",
    "render_varnish",
]
