"""A discovery server as `rage discovery serve` runs it, with one line of JSON when it is ready."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from pathlib import Path

from rage_net import discoverer
from rage_net.home import Home

if __name__ == "__main__":
    asyncio.run(
        discoverer.run(
            Home(Path(sys.argv[1])),
            listen="127.0.0.1:0",
            metrics_listen="127.0.0.1:0",
            ready=lambda status: print(json.dumps(dataclasses.asdict(status)), flush=True),
        )
    )
