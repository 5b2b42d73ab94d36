"""`python -m tests.sim SCENARIO SEED [DIRECTORY]`: play a scenario once; its digest comes first."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.sim.scenarios import SCENARIOS
from tests.sim.world import play

parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
parser.add_argument("scenario", choices=SCENARIOS)
parser.add_argument("seed", type=int)
parser.add_argument("directory", type=Path, nargs="?", help="for the homes; made, and left for you to look at")
options = parser.parse_args()
with tempfile.TemporaryDirectory() as scratch:
    played = play(SCENARIOS[options.scenario], options.seed, options.directory or Path(scratch))
print(played.digest)
print(f"{played.result} in {played.seconds:.3f} s, {played.writes} writes of {played.bytes} bytes")
