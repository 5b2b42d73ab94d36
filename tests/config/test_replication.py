"""replication.yaml: what is refused, and what is warned of, each with file, line, key and the mend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rage_net import config
from rage_net.config import InvalidConfigError
from rage_net.config.reader import Problem
from rage_net.config.replication import Replication

SPECIFICATION = Path(__file__).parent / "specification"

Read = Callable[[str], tuple[Replication, tuple[Problem, ...]]]


def read(text: str) -> tuple[Replication, tuple[Problem, ...]]:
    """A replication.yaml of these lines below `replication:`."""
    data = f"replication:\n{text}".encode()
    return config.read_replication(Path("replication.yaml"), data, {}, Path("/"))[:2]


def refused(text: str) -> Problem:
    with pytest.raises(InvalidConfigError) as caught:
        read(text)
    assert caught.value.exit_code == 10
    (problem,) = caught.value.problems
    return problem


def policies(*rows: str) -> str:
    return "  policies:\n" + "".join(f"    - {{name: {row}}}\n" for row in rows)


def warnings(*rows: str) -> list[tuple[int, str, str]]:
    """Line, key below `replication.policies` and message of what is warned of."""
    _, found = read(policies(*rows))
    assert not any(problem.is_error for problem in found)
    assert all(problem.mend for problem in found)
    return [(one.line, one.key.removeprefix("replication.policies"), one.message) for one in found]


def test_the_specifications_file_is_read_without_a_warning() -> None:
    path = SPECIFICATION / "replication.yaml"
    assert config.read_replication(path, path.read_bytes(), {}, Path("/"))[1] == ()


def test_the_keys_beside_it_have_their_defaults_and_can_be_set() -> None:
    found, _ = read("")
    assert (found.default_min, found.grace, found.audit_period) == (None, 30, 7 * 86_400)
    text = "  default_min: 2\n  grace: 2m\n  audit_period: 0\n  placement: {strategy: zone_diversity}\n"
    found, _ = read(text + policies("a, factor: 4, min: 3, selector: {tags: [x]}"))
    assert (found.default_min, found.grace, found.audit_period) == (2, 120, 0)
    assert (found.placement.strategy, found.policies[0].min) == ("zone_diversity", 3)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("row", "key", "message", "mend"),
    [
        ("a, factor: 0", "factor", "it must be from 1 to 32 (found '0')", ""),
        ("a, factor: 33", "factor", "it must be from 1 to 32 (found '33')", ""),
        ("a, factor: 3, min: 0", "min", "it must be from 1 to 32 (found '0')", ""),
        ("a, factor: 3, min: 4", "min", "4 copies are wanted at least, and 3 are made", "min: 3, or a higher factor"),
        ("a", "factor", "this key is missing", "add it below line 4"),
        ("default, factor: 3", "name", "`default` stands for documents under no policy", "rename it"),
        ("a, factor: 3, selector: {tags: x}", "selector.tags", "a list is wanted", "begin each"),
        ("a, factor: 3, selector: {tag: [x]}", "selector.tag", "unknown key", "did you mean `tags`?"),
        ("a, factor: 3, selector: {retention_days: soon}", "selector.retention_days", "a bound is wanted", ""),
        ('a, factor: 3, selector: {retention_days: "< -1"}', "selector.retention_days", "a bound is wanted", ""),
        ('a, factor: 3, selector: {retention_days: "< 7 > 3"}', "selector.retention_days", "a bound is wanted", ""),
        (
            'a, factor: 3, selector: {retention_days: "< 7/week"}',
            "selector.retention_days",
            "a number of days is wanted, not a rate",
            'retention_days: "< 7"',
        ),
        ('a, factor: 3, selector: {query_count: "> 9/year"}', "selector.query_count", "a bound is wanted", ""),
        (
            'a, factor: 3, selector: {query_count: "> 1000"}',
            "selector.query_count",
            "a rate is wanted: so many in what time?",
            'query_count: "> 1000/day"',
        ),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused(row: str, key: str, message: str, mend: str) -> None:
    problem = refused(policies("first, factor: 2, selector: {tags: [first]}", row))
    assert (problem.file, problem.line) == ("replication.yaml", 4)
    assert problem.key == f"replication.policies[1].{key}"
    assert problem.message.startswith(message)
    assert problem.mend.startswith(mend)


@pytest.mark.parametrize(
    ("text", "line", "key", "message", "mend"),
    [
        ("  default_factor: 33\n", 2, "default_factor", "it must be from 1 to 32", ""),
        (
            "  default_factor: 2\n  default_min: 3\n",
            3,
            "default_min",
            "3 copies are wanted at least, and 2",
            "default_min: 2",
        ),
        (
            "  placement: {strategy: zone}\n",
            2,
            "placement.strategy",
            "one of geographic_diversity, zone_",
            "did you mean",
        ),
        ("  grace: soon\n", 2, "grace", "a duration is wanted", ""),
        ("  audit_period: -1\n", 2, "audit_period", "a duration is wanted", ""),
    ],
)
def test_other_keys_that_cannot_be_are_refused(text: str, line: int, key: str, message: str, mend: str) -> None:
    problem = refused(text)
    assert (problem.line, problem.key) == (line, f"replication.{key}")
    assert problem.message.startswith(message)
    assert problem.mend.startswith(mend)


def test_two_policies_of_one_name_are_refused() -> None:
    problem = refused(policies("a, factor: 2, selector: {tags: [x]}", "a, factor: 3, selector: {tags: [y]}"))
    assert (problem.line, problem.key, problem.mend) == (4, "replication.policies[1].name", "rename one")


@pytest.mark.parametrize(
    ("row", "key", "message"),
    [
        (
            'a, factor: 2, selector: {retention_days: "< 0"}',
            ".retention_days",
            "it can never match: no document is kept < 0",
        ),
        (
            'a, factor: 2, selector: {retention_days: "= 0"}',
            ".retention_days",
            "it can never match: no document is kept = 0",
        ),
        (
            'a, factor: 2, selector: {query_count: "< 0/day"}',
            ".query_count",
            "it can never match: no measured rate is < 0/day",
        ),
        (
            'a, factor: 2, selector: {query_count: "5/day"}',
            ".query_count",
            "it can never match: no measured rate is = 5/day",
        ),
        ('a, factor: 2, selector: {tags: [" "]}', ".tags", "a tag without a letter can never match"),
        ("a, factor: 2", "", "without a bound it is for no document but those whose record names it"),
        (
            "a, factor: 2, selector: {tags: []}",
            "",
            "without a bound it is for no document but those whose record names it",
        ),
    ],
)
def test_a_selector_that_can_never_match_is_warned_of(row: str, key: str, message: str) -> None:
    ((line, found, words),) = warnings(row)
    assert (line, found) == (3, f"[0].selector{key}")
    assert words.startswith(message)


@pytest.mark.parametrize(
    ("rows", "at", "weak", "strong"),
    [
        (("all, factor: 5, selector: {tags: [x, y]}", "some, factor: 2, selector: {tags: [x]}"), 1, "some", "all"),
        (("some, factor: 2, selector: {tags: [x]}", "all, factor: 5, selector: {tags: [x, y]}"), 0, "some", "all"),
        (("all, factor: 5, selector: {tags: [x]}", "some, factor: 5, selector: {tags: [x]}"), 1, "some", "all"),
        (
            (
                'all, factor: 5, selector: {retention_days: "< 7"}',
                'some, factor: 2, selector: {retention_days: "<= 6", tags: [x]}',
            ),
            1,
            "some",
            "all",
        ),
    ],
)
def test_a_policy_that_another_always_outdoes_is_warned_of(
    rows: tuple[str, ...], at: int, weak: str, strong: str
) -> None:
    ((line, key, words),) = warnings(*rows)
    assert (line, key) == (at + 3, f"[{at}].selector")
    assert words.startswith(f"the selector of {weak} can never count: what it matches, {strong} matches too")


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("tags: [x]", "tags: [y]", True),  # a document may have both
        ("tags: [x]", 'retention_days: "< 7"', True),
        ("tags: [x]", 'query_count: "> 9/day"', True),
        ('retention_days: "< 7"', 'retention_days: "> 7"', False),
        ('retention_days: "<= 7"', 'retention_days: ">= 7"', True),
        ('retention_days: "< 7"', 'retention_days: ">= 7"', False),
        ('query_count: "> 9/day"', 'query_count: "> 5/day"', False),  # a record names one
    ],
)
def test_policies_of_one_factor_that_may_both_match_are_warned_of(one: str, other: str, overlap: bool) -> None:
    found = warnings(f"first, factor: 4, selector: {{{one}}}", f"second, factor: 4, selector: {{{other}}}")
    words = "first and second may both match, with the same factor: first wins, as it stands first"
    assert found == ([(4, "[1].factor", words)] if overlap else [])
    assert warnings(f"first, factor: 4, selector: {{{one}}}", f"second, factor: 5, selector: {{{other}}}") == []
