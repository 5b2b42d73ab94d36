"""Keys set in files that people write."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rage_cli.commands.init import templates
from rage_net.config.edit import set_keys
from rage_net.errors import ConfigError
from rage_net.home import Home, init

KEYS = {"network.security.tls_cert": "certs/node.crt", "network.security.ca_cert": "certs/ca.crt"}


def changes(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def test_keys_of_a_fresh_file_are_uncommented_where_they_stand(tmp_path: Path) -> None:
    place = Home(tmp_path / "home")
    init(place, organization_id="acme", templates=templates())
    before = place.network_yaml.read_text()
    assert set_keys(place.network_yaml, KEYS)
    assert changes(before, place.network_yaml.read_text()) == [
        "-  #security:",
        "+  security:",
        "-    #tls_cert: null",
        '+    tls_cert: "certs/node.crt"',
        "-    #ca_cert: null",
        '+    ca_cert: "certs/ca.crt"',
    ]
    assert not set_keys(place.network_yaml, KEYS)
    assert place.network_yaml.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ["network:", "  security:", '    ca_cert: "x"', "  version: 1"]),
        ("network:\n  region: eu  # here\n", ["network:", "  security:", '    ca_cert: "x"', "  region: eu  # here"]),
        (
            "network:\n    security:\n        ca_cert: y   # ours\n        trust_model: explicit\n",
            ["network:", "    security:", '        ca_cert: "x"   # ours', "        trust_model: explicit"],
        ),
        ("a: 1\nnetwork:\n  version: 1", ["a: 1", "network:", "  security:", '    ca_cert: "x"', "  version: 1"]),
        (
            "network:\n  http:\n    tls_cert: q\n  security:\n    tls_cert: z\nother: {ca_cert: w}\n",
            [
                "network:",
                "  http:",
                "    tls_cert: q",
                "  security:",
                '    ca_cert: "x"',
                "    tls_cert: z",
                "other: {ca_cert: w}",
            ],
        ),
    ],
)
def test_nothing_else_of_a_file_changes(tmp_path: Path, before: str, after: list[str]) -> None:
    path = tmp_path / "network.yaml"
    path.write_text(before)
    assert set_keys(path, {"network.security.ca_cert": "x"})
    assert path.read_text().splitlines() == after


def test_a_file_that_is_not_there_is_made(tmp_path: Path) -> None:
    path = tmp_path / "config" / "network.yaml"
    assert set_keys(path, KEYS)
    assert yaml.safe_load(path.read_text())["network"]["security"]["ca_cert"] == "certs/ca.crt"


@pytest.mark.parametrize(
    "text",
    [
        "network: {security: {public_access: true}}\n",
        "network:\n  security: {public_access: true}\n",
        "network:\n  security: &s\n    public_access: true\n  copy: *s\n",
        "network:\n  security:\n    ca_cert: |\n      a\n      b\n",
        "network: [1]\n",
        ": : :\n",
        "- a\n",
    ],
)
def test_a_form_that_is_not_edited_is_left_alone_and_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "network.yaml"
    path.write_text(text)
    try:
        set_keys(path, KEYS)
    except ConfigError as error:
        assert error.id == "config-by-hand"
        assert any("network.security.ca_cert: certs/ca.crt" in line for line in error.mend)
        assert path.read_text() == text
    else:
        before, after = yaml.safe_load(text), yaml.safe_load(path.read_text())
        for key in KEYS:
            after["network"]["security"].pop(key.rpartition(".")[2])
        before["network"]["security"].pop("ca_cert", None)
        assert after == before


SCALARS = st.sampled_from(["1", "eu", '"a: b"', "true", "null", "'#x'", "7d  # why"])
NAMES = st.sampled_from(["security", "ca_cert", "tls_cert", "region", "http", "#security", "#ca_cert", "# words"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    lines, indent = ["network:"], 2
    for _ in range(draw(st.integers(0, 8))):
        name = draw(NAMES)
        if draw(st.booleans()) and not name.startswith("# "):
            lines.append(f"{' ' * indent}{name}:")
            indent += 2 if not name.startswith("#") else 0
        else:
            lines.append(f"{' ' * indent}{name}: {draw(SCALARS)}")
            indent = max(2, indent - 2 * draw(st.integers(0, 1)))
    return "\n".join(lines) + draw(st.sampled_from(["\n", "", "\n\nother:\n  ca_cert: 1\n"]))


@given(documents())
def test_either_exactly_the_keys_change_or_nothing(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "network.yaml"
        path.write_text(text)
        try:
            set_keys(path, KEYS)
        except ConfigError as error:
            assert error.id in ("config-by-hand", "config-invalid")
            assert path.read_text() == text
            return
        before = yaml.load(text, yaml.BaseLoader)
        after = yaml.load(path.read_text(), yaml.BaseLoader)
        network = before["network"] or {}
        network["security"] = {
            **(network.get("security") or {}),
            "tls_cert": "certs/node.crt",
            "ca_cert": "certs/ca.crt",
        }
        assert after == {**before, "network": network}
