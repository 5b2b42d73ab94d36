"""The error tree: two codes each, and the way to the wire and back."""

from __future__ import annotations

import pytest

from rage_net import errors
from rage_net.errors import PartialError, RageError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RageError)]
DESIGN = {  # design 4.5
    "usage": 2,
    "denied": 4,
    "certificate": 4,
    "not-found": 5,
    "findings": 6,
    "unavailable": 7,
    "protocol": 7,
    "integrity": 8,
    "conflict": 9,
    "config-invalid": 10,
    "storage-full": 11,
    "deadline": 124,
}


def test_exit_codes_are_those_of_the_design() -> None:
    codes = {kind.id: kind.exit_code for kind in KINDS if kind not in (RageError, PartialError)}
    assert codes == DESIGN


@pytest.mark.parametrize("kind", [k for k in KINDS if k is not PartialError])
def test_an_error_survives_the_control_api(kind: type[RageError]) -> None:
    error = kind("what", why="because", mend=["rage doctor"], id="narrower")
    back = errors.from_plain(error.to_plain())
    assert back.to_plain() == error.to_plain()
    assert errors.from_plain(kind("what").to_plain()).__class__ in (kind, RageError)


@pytest.mark.parametrize("code", [400, 403, 404, 409, 422, 503, 504, 507])
def test_a_wire_status_becomes_the_class_it_stands_for(code: int) -> None:
    assert errors.from_wire(code, "x").wire_code == code


def test_an_unknown_wire_status_may_be_retried() -> None:
    assert errors.from_wire(299, "x").retryable


def test_partial_takes_the_code_that_all_failures_share() -> None:
    alike = [("a", errors.NotFoundError("x")), ("b", errors.NotFoundError("y"))]
    mixed = [*alike, ("c", errors.UnavailableError("z"))]
    assert PartialError("some failed", alike).exit_code == 5
    assert PartialError("some failed", mixed).exit_code == 3
    assert [row["target"] for row in PartialError("some", mixed).to_plain()["partial"]] == ["a", "b", "c"]


def test_a_partial_error_survives_the_control_api_with_its_failures() -> None:
    error = PartialError("2 of 3 failed", [("a", errors.NotFoundError("x")), ("b", errors.UnavailableError("y"))])
    back = errors.from_plain(error.to_plain())
    assert back.to_plain() == error.to_plain()
    assert isinstance(back, PartialError)
    assert [type(failure) for _, failure in back.failures] == [errors.NotFoundError, errors.UnavailableError]
