"""The shipped files, the table of keys, and migration."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rage_net import config
from rage_net.config import migrate as module
from rage_net.config.migrate import migrate
from rage_net.config.reader import Reader, unwrap
from rage_net.config.section import Section, fields
from rage_net.config.table import ROOTS, all_keys, show
from rage_net.errors import ConfigError

ROOT = Path(__file__).parents[2]
SPECIFICATION = Path(__file__).parent / "specification"
READ = {"network": config.read_network, "cdn": config.read_cdn, "replication": config.read_replication}


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("root", list(READ))
def test_a_shipped_file_equals_the_defaults_in_code(root: str) -> None:
    path = ROOT / "config" / f"{root}.yaml"
    shipped = READ[root](path, path.read_bytes(), {}, ROOT)[0]
    assert shipped == READ[root](path, b"", {}, ROOT)[0]


@pytest.mark.parametrize("root", list(READ))
def test_a_shipped_file_sets_every_key_that_has_a_default(root: str) -> None:
    path = ROOT / "config" / f"{root}.yaml"
    origins = READ[root](path, path.read_bytes(), {}, ROOT)[2]
    wanted = {key.path for key in all_keys() if key.path.startswith(f"{root}.") and "[]" not in key.path}
    assert wanted <= origins.keys()


@pytest.mark.parametrize("root", list(READ))
def test_a_shipped_file_names_every_key_that_has_none(root: str) -> None:
    text = (ROOT / "config" / f"{root}.yaml").read_text()
    names = {key.path.rpartition(".")[2] for key in all_keys() if key.path.startswith(f"{root}.")}
    assert [name for name in sorted(names) if name not in text] == []


def test_every_key_says_what_it_means() -> None:
    assert [key.path for key in all_keys() if not key.doc.endswith((".", ")"))] == []


def test_every_environment_variable_stands_in_the_shipped_file() -> None:
    text = "".join((ROOT / "config" / name).read_text() for name in ("network.yaml", "cdn.yaml"))
    variables = (*config.ENVIRONMENT, "CLOUDFLARE_ZONE_ID", "CLOUDFLARE_API_TOKEN")
    assert [variable for variable in variables if variable not in text] == []
    keys = {key.path for key in all_keys()}
    assert set(config.ENVIRONMENT.values()) <= keys


def test_a_section_is_frozen_and_equal_by_value() -> None:
    network = config.Network()
    assert network == config.Network()
    assert network != config.Network(region="a")
    assert network.replace(region="a").region == "a"
    with pytest.raises(AttributeError):
        network.region = "b"  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.Network(regoin="a")  # type: ignore[call-arg]


def _leaves(section: type[Section], path: str) -> Iterator[tuple[str, Any, Any]]:
    for name, field in fields(section).items():
        kind = unwrap(field.kind)[0]
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _leaves(kind, f"{path}.{name}")
        elif not isinstance(field.default, tuple) and field.default is not None and field.default != "":
            yield f"{path}.{name}", field.kind, field.default


def test_every_default_is_within_its_own_bounds_and_reads_back() -> None:
    leaves = [leaf for name, (_, section) in ROOTS.items() for leaf in _leaves(section, name)]
    assert len(leaves) > 40
    reader = Reader("f", {})
    wrong = [path for path, kind, value in leaves if reader.from_text(kind, show(value), path, "", quote=True) != value]
    assert (wrong, reader.problems) == ([], [])


# --- migration --------------------------------------------------------------------------------------------------------


def bring(path: Path, *, dry_run: bool = False) -> module.MigratedFile | None:
    return migrate(path, path.stem, environ={}, home=path.parent, dry_run=dry_run)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "network.yaml"
    path.write_bytes((SPECIFICATION / "network.yaml").read_bytes())
    path.chmod(0o640)
    return path


def test_a_file_without_a_version_gets_one_and_a_backup(old: Path) -> None:
    before = old.read_text()
    done = bring(old)
    assert done == module.MigratedFile(str(old), 0, 1, f"{old}.v0.bak")
    assert old.read_text() == before.replace("network:\n", "network:\n  version: 1\n")
    assert Path(f"{old}.v0.bak").read_text() == before
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert bring(old) == module.MigratedFile(str(old), 1, 1, "")


def test_a_dry_run_writes_nothing(old: Path) -> None:
    before = old.read_bytes()
    done = bring(old, dry_run=True)
    assert done is not None
    assert (done.from_version, done.backup) == (0, f"{old}.v0.bak")
    assert old.read_bytes() == before
    assert list(old.parent.iterdir()) == [old]


def test_an_earlier_backup_is_kept(old: Path) -> None:
    Path(f"{old}.v0.bak").write_text("precious")
    done = bring(old)
    assert done is not None
    assert done.backup == f"{old}.v0.1.bak"
    assert Path(f"{old}.v0.bak").read_text() == "precious"


def test_comments_indents_and_line_ends_stay(tmp_path: Path) -> None:
    path = tmp_path / "cdn.yaml"
    path.write_bytes(b"# mine\r\n'cdn':  # all of it\r\n    # so deep\r\n    enabled: false\r\n")
    bring(path)
    expected = b"# mine\r\n'cdn':  # all of it\r\n    version: 1\r\n    # so deep\r\n    enabled: false\r\n"
    assert path.read_bytes() == expected


def test_a_form_that_cannot_be_edited_line_by_line_is_left_to_people(tmp_path: Path) -> None:
    path = tmp_path / "network.yaml"
    path.write_text("network: {region: a}\n")
    with pytest.raises(ConfigError, match="not on a line of its own") as caught:
        bring(path)
    assert caught.value.mend == ("write `version: 1` below `network:` by hand",)


def test_a_missing_an_empty_and_an_invalid_file_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "network.yaml"
    assert bring(path) is None
    path.write_text("# nothing\n")
    assert bring(path) is None
    path.write_text("network: {x: 1}\n")
    with pytest.raises(ConfigError, match="unknown key"):
        bring(path)
