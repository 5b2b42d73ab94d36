"""Issuers of tokens in network.yaml: what cannot be meant is refused before a token comes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rage_net import config
from rage_net.config.reader import Problem

GOOD = {"issuer": "https://login.acme.org", "organization": "acme", "audience": "rage", "jwks": "keys.json"}


def text(*issuers: dict[str, str]) -> str:
    entries = "".join(
        "\n    - " + "\n      ".join(f"{key}: {value}" for key, value in issuer.items()) for issuer in issuers
    )
    return f"network:\n  http:\n    issuers:{entries}\n"


def test_an_issuer_is_read_and_an_open_node_is_told_that_it_is_of_no_use(load: Callable[..., config.Config]) -> None:
    found = load(text(GOOD))
    (issuer,) = found.network.http.issuers
    assert issuer.algorithms == ("EdDSA", "ES256", "RS256") and issuer.organization == "acme"
    assert any("without a CA the node is open" in str(warning) for warning in found.warnings)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"jwks": '""'}, "either jwks or a secret"),
        ({"jwks": "http://login.acme.org/keys"}, "a path or an https:// address"),
        ({"audience": '""'}, "audience is empty"),
        ({"algorithms": "[HS256]"}, "HS256 needs a secret"),
        ({"algorithms": "[none]"}, "none"),
        ({"algorithms": "[]"}, "no algorithm"),
        ({"secret": "x" * 32}, "either jwks or a secret"),
        ({"secret": "x" * 32, "jwks": '""'}, "HS256, HS384 and HS512 alone"),
        ({"secret": "x" * 32, "jwks": '""', "algorithms": "[HS256, RS256]"}, "HS256, HS384 and HS512 alone"),
        ({"secret": "short", "jwks": '""', "algorithms": "[HS256]"}, "shorter than 32 bytes"),
        ({"secret": "x" * 32, "jwks": '""', "algorithms": "[HS512]"}, "shorter than 64 bytes"),
    ],
)
def test_an_issuer_that_cannot_be_meant_is_refused(
    problems: Callable[..., tuple[Problem, ...]], change: dict[str, str], told: str
) -> None:
    assert any(told in str(problem) for problem in problems(text({**GOOD, **change})) if problem.is_error)


def test_an_issuer_speaks_for_one_organisation(problems: Callable[..., tuple[Problem, ...]]) -> None:
    found = problems(text(GOOD, {**GOOD, "organization": "globex"}))
    assert any("two entries" in str(problem) for problem in found if problem.is_error)
