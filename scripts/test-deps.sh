#!/bin/sh
# Install what the tests need besides Python packages: sh scripts/test-deps.sh VENV
# System packages where the user is root on Debian, the protobuf generator, js-libp2p and py-libp2p.
set -eu
cd "$(dirname "$0")/.."
bin=$(cd "$1/bin" && pwd)

# command, header or module to look for, and the Debian package that has it
needs='cc:gcc openssl:openssl fish:fish zsh:zsh tmux:tmux gmp.h:libgmp-dev ip:iproute2 nft:nftables ping:iputils-ping
varnishd:varnish varnishstat:varnish libvmod_xkey.so:varnish-modules gcc:gcc stdlib.h:libc6-dev nginx:nginx
ngx_http_cache_purge_module.so:libnginx-mod-http-cache-purge'
# gcc and libgmp-dev: py-libp2p compiles a C extension. fish and zsh: their completions are tried in the shells themselves.
# iproute2, nftables and iputils-ping: the networks of tests/lab, which root alone may make. varnish and nginx: the edges
# of tests/cdn, each in a directory and on a port of its own; varnishd compiles its rules with gcc when it starts.

# Servers are where an ordinary user's PATH does not look.
PATH=$PATH:/usr/sbin:/sbin

missing=
for need in $needs; do
  name=${need%%:*}
  case $name in
    *.h) found=$(find /usr/include /usr/local/include /opt/homebrew/include -name "$name" 2>/dev/null | head -n 1) ;;
    *.so) found=$(find /usr/lib /usr/lib64 /usr/local/lib /usr/share/nginx -name "$name" 2>/dev/null | head -n 1) ;;
    *) found=$(command -v "$name" || true) ;;
  esac
  [ -n "$found" ] || missing="$missing ${need#*:}"
done
headers=$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
[ -e "$headers" ] || missing="$missing python3-dev"

if [ -n "$missing" ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    # The tests start servers of their own: the packages must not start any, on the ports that everybody uses.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod 755 "$policy"
    fi
    # shellcheck disable=SC2086 # one argument a package
    apt-get install -qq -y --no-install-recommends $missing >/dev/null ||
      { apt-get update -qq && apt-get install -qq -y --no-install-recommends $missing >/dev/null; }
  else
    echo "tests: some will be skipped or fail; as root: apt-get install$missing" >&2
  fi
fi

# A test without its foreign program fails in CI and is skipped elsewhere, so only in CI is it an error to go without.
failed=0
sh scripts/protos.sh "$bin" --install || failed=$?
sh scripts/foreign-peers.sh tests/foreign/.peers "$bin/python" || failed=$?
if [ "$failed" != 0 ]; then
  echo "tests: the protobuf generator, js-libp2p or py-libp2p could not be installed; their tests will be skipped" >&2
  [ "${CI:-}" != true ] || exit "$failed"
fi
