import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.prefix) / "protos/bin/python"
PACKAGES = ("rage_net/libp2p/pb", "rage_net/pb")

pytestmark = pytest.mark.skipif(
    not TOOLS.exists() and os.environ.get("CI") != "true", reason="no protobuf generator: run `make deps`"
)


def test_the_generated_modules_are_what_the_contracts_give(tmp_path: Path) -> None:
    subprocess.run(["sh", "scripts/protos.sh", f"{sys.prefix}/bin", str(tmp_path)], cwd=ROOT, check=True, timeout=60)
    for package in PACKAGES:
        fresh = {path.name: path.read_bytes() for path in (tmp_path / package).glob("*.py*") if path.is_file()}
        kept = {path.name: path.read_bytes() for path in (ROOT / package).glob("*.py*") if path.is_file()}
        assert fresh == kept, f"{package} is stale: run `make protos`"


def test_the_generated_modules_load_under_the_oldest_protobuf_that_rage_allows() -> None:
    modules = [
        f"{package.replace('/', '.')}.{path.stem}"
        for package in PACKAGES
        for path in Path(ROOT, package).glob("*_pb2.py")
    ]
    program = f"import google.protobuf as g, {', '.join(modules)}; print(g.__version__)"
    done = subprocess.run(
        [TOOLS, "-W", "error", "-c", program], cwd=ROOT, check=True, timeout=30, capture_output=True, text=True
    )
    assert done.stdout.startswith("6.30.")
