"""10,000 CIDs purged over six CDNs at once by `rage cdn purge -`: python -m bench.cdn_purge [--cids N].

The six are contract fakes of Cloudflare (Enterprise), Fastly and Azure, a stub of CloudFront, and stand-ins for a
Varnish and an nginx, in this process; each keeps its vendor's quota and counts. rage is a process of its own. Its
quotas are the real ones, but for CloudFront: there 3,000 paths may be in progress, so that 10,000 tags take half an
hour; the stub ends each purge at once, and rage is told that a purge takes CLOUDFRONT_S instead of its real time. The
fewest calls are computed from the vendors' bounds, not by rage's planner; questions for a purge's end do not count.
Exit 1 when a target of issue 6 is missed: each quota kept, no word twice, 200 MiB, calls within 5 % of the fewest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rage_net import home as homes
from rage_net.home import Home
from tests.cdn.six import Six, fewest, serving, some_cids

HERE = Path(__file__).parent
CLOUDFRONT_S = 1.0
RESIDENT_MIB_MAX = 200
CALLS_MAX = 1.05
LOOK_S = 0.01
ENDS_S = 900.0
RAGE = f"""
from rage_net.cdn import cloudfront
cloudfront.PURGE_S = {CLOUDFRONT_S}
from rage_cli.__main__ import main
main()
"""


def rage(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-c", RAGE, "--home", str(home), *words]


def peak_mib(pid: int) -> float:
    """The most that a process had resident until now; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def purge(home: Path, names: str, scratch: Path) -> tuple[str, float, float]:
    """The command with CIDs on stdin. Returns: the purge's id, seconds, peak MiB."""
    (scratch / "cids").write_text(names)
    began = time.monotonic()
    peak = 0.0
    with (scratch / "cids").open() as cids, (scratch / "out").open("w+") as out:
        process = subprocess.Popen(rage(home, "cdn", "purge", "-", "--json"), stdin=cids, stdout=out)
        while process.poll() is None:
            peak = max(peak, peak_mib(process.pid))
            time.sleep(LOOK_S)
        took = time.monotonic() - began
        out.seek(0)
        return json.loads(out.read())["purge_id"], took, peak


def rest(home: Path, id: str) -> tuple[float, float, dict[str, str]]:
    """What the command left is sent while a node runs. Returns: seconds, the node's peak MiB, state by provider."""
    began = time.monotonic()
    shown = ["cdn", "journal", id, "--json"]
    node = subprocess.Popen(
        rage(home, "--json", "node", "start", "--listen", "/ip4/127.0.0.1/tcp/0"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert node.stdout is not None
    try:
        node.stdout.readline()
        while True:
            done = subprocess.run(rage(home, *shown), capture_output=True, check=True)
            states: dict[str, str] = {}
            for row in json.loads(done.stdout)["items"][0]["rows"]:
                states[row["provider"]] = f"{states.get(row['provider'], '')} {row['state']} {row['words']}".strip()
            is_open = any("queued" in state or "pending" in state for state in states.values())
            if not is_open or time.monotonic() - began > ENDS_S:
                return time.monotonic() - began, peak_mib(node.pid), states
            time.sleep(1)
    finally:
        node.terminate()
        node.wait(30)
        node.stdout.close()


def tell(six: Six, count: int, peak: float) -> bool:
    is_reached = True
    least = fewest(count, six.plan, some_cids(1, 1)[0])
    for name, figures in six.figures().items():
        is_good = (
            figures.calls <= least[name] * CALLS_MAX
            and not figures.again
            and not figures.refused
            and not figures.broken
        )
        is_reached &= is_good
        print(
            f"{name:10} {figures.calls:6} calls for {figures.words:6} words, the fewest {least[name]:6}"
            f" ({figures.calls / least[name] - 1:+.1%}; at most +5%); twice {figures.again} (0);"
            f" refused {dict(figures.refused) or 0} (0) {'reached' if is_good else 'MISSED'}"
        )
    is_small = peak <= RESIDENT_MIB_MAX
    print(f"resident, at most: {peak:.0f} MiB ({RESIDENT_MIB_MAX}) {'reached' if is_small else 'MISSED'}")
    return is_reached and is_small


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.cdn_purge", description=__doc__.partition("\n")[0])
    parser.add_argument("--cids", type=int, default=10_000)
    parser.add_argument("--plan", choices=("free", "enterprise"), default="enterprise", help="Cloudflare's")
    parser.add_argument("--hold", action="store_true", help="only serve, and say where the home is, until Enter")
    options = parser.parse_args()
    names = "".join(f"{cid}\n" for cid in some_cids(options.cids, 1))
    with tempfile.TemporaryDirectory(prefix="rage-bench-", dir=HERE) as directory, serving(options.plan) as six:
        scratch = Path(directory)
        home = Home(scratch / "home")
        homes.init(home)
        (home.config / "cdn.yaml").write_text(six.cdn_yaml)
        if options.hold:
            (scratch / "cids").write_text(names)
            input(f"{home.root} {scratch / 'cids'}\n")
            return 0
        id, took, peak = purge(home.root, names, scratch)
        more, node_peak, states = rest(home.root, id)
        print(f"{options.cids} CIDs on six CDNs: the command {took:.1f} s, the rest {more:.1f} s, {states}"
              f" (load {os.getloadavg()[0]:.1f})")  # fmt: skip
        print(f"the command {peak:.0f} MiB, the node that went on {node_peak:.0f} MiB")
        return 0 if tell(six, options.cids, max(peak, node_peak)) else 1


if __name__ == "__main__":
    sys.exit(main())
