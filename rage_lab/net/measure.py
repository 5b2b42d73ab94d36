"""How fast a link of the lab carries one TCP stream: python -m rage_lab.net.measure [DELAY_S] [WAY]. Not a test.

Prints MB/s and the processor time the link's process took for each MB. Both ends run on the same machine.
"""

from __future__ import annotations

import sys
import time

from rage_lab.net.lab import Lab

SECONDS = 4.0
SINK = "import socket,sys;s=socket.create_server(('', 5001));print('up',flush=True);c=s.accept()[0];n=0\n"
SINK += "b=bytearray(1<<20)\nwhile k:=c.recv_into(b):n+=k\nprint(n)"
SOURCE = "import socket,sys,time;s=socket.create_connection((sys.argv[1],5001));b=bytes(1<<18);e=time.time()+{}\n"
SOURCE += "while time.time()<e:s.sendall(b)"


def main() -> None:
    """One stream from end to end."""
    delay_s = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    way = sys.argv[2] if len(sys.argv) > 2 else "tun"
    with Lab() as lab:
        a, b = lab.host("a"), lab.host("b")
        lab.link(a, b, delay_s=delay_s, way=way)
        lab.route()
        for host in (a, b):
            host.set("ipv4/tcp_rmem", "4096 1048576 33554432")
            host.set("ipv4/tcp_wmem", "4096 1048576 33554432")
        sink = b.spawn([sys.executable, "-c", SINK], stdout=-1, text=True)
        assert sink.stdout is not None and sink.stdout.readline() == "up\n"
        began = time.monotonic()
        a.run([sys.executable, "-c", SOURCE.format(SECONDS), b.address])
        received = int(sink.stdout.readline())
        seconds = time.monotonic() - began
        sys.stdout.write(f"{way}, {delay_s * 1000:g} ms: {received / seconds / 1e6:.0f} MB/s over {seconds:.1f} s\n")


if __name__ == "__main__":
    main()
