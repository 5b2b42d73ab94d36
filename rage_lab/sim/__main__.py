"""`python -m rage_lab.sim SCENARIO SEED [DIRECTORY]`: play a scenario once; its digest comes first."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rage_lab.sim.scenarios import SCENARIOS
from rage_lab.sim.world import play

parser = argparse.ArgumentParser(prog="python -m rage_lab.sim", description=__doc__)
parser.add_argument("scenario", choices=SCENARIOS)
parser.add_argument("seed", type=int)
parser.add_argument("directory", type=Path, nargs="?", help="for the homes; made, and left for you to look at")
options = parser.parse_args()
with tempfile.TemporaryDirectory() as scratch:
    played = play(SCENARIOS[options.scenario], options.seed, options.directory or Path(scratch))
sys.stdout.write(
    f"{played.digest}\n{played.result} in {played.seconds:.3f} s, {played.writes} writes of {played.bytes} bytes\n"
)
