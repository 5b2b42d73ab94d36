"""What `rage lab run` knows to run, and how its rows come about. Listing is cheap: what runs is imported then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rage_lab.checker import Judgement, Violation

REAL_S = 25.0
"""Of harm in one trial of real processes."""
QUICK_SEEDS = 16
SEEDS = 1000
RUNS = 1
SOAK_MINUTES = 60.0
MIXED = ("partition", "one-way", "kill", "pause", "clock", "full-disk", "slow-disk", "bit-flip", "add", "destroy")
WORDS_MAX = 20
"""Violations that are told; the counts are of all."""

Tell = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario: how often it ran, what was done, and what came of it. Of times the longest is given."""

    scenario: str
    runs: int = 0
    faults: int = 0
    operations: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    excused: int = 0
    """Documents that as many holders lost as were waited for: nothing is promised of them."""
    peeks: int = 0
    """Attempts of an outsider."""
    violations: int = 0
    converged_s: float = 0.0
    """From the end of the faults until all was well: the longest."""
    seconds: float = 0.0
    left_out: tuple[str, ...] = ()
    """What this machine cannot do, and why."""

    def with_run(
        self, judged: Judgement, faults: int, seconds: float, left_out: Sequence[str] = (), runs: int = 1
    ) -> Row:
        """One run more."""
        return replace(
            self,
            runs=self.runs + runs,
            faults=self.faults + faults,
            operations=self.operations + judged.operations,
            acknowledged=self.acknowledged + judged.acknowledged,
            refused=self.refused + judged.refused,
            unknown=self.unknown + judged.unknown,
            excused=self.excused + judged.excused,
            peeks=self.peeks + judged.peeks,
            violations=self.violations + len(judged.violations),
            converged_s=max(self.converged_s, judged.seconds),
            seconds=self.seconds + seconds,
            left_out=tuple(dict.fromkeys((*self.left_out, *left_out))),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """A run that broke a promise, and the command that repeats it."""

    scenario: str
    seed: int
    words: tuple[str, ...]
    repeat: str
    kept: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run was asked for."""

    seed: int
    seeds: int = SEEDS
    runs: int = RUNS
    jobs: int = 2
    minutes: float = SOAK_MINUTES
    seconds: float = REAL_S
    out: Path = Path()
    is_quick: bool = False


Outcome = tuple[Row, list[Found]]
Runner = Callable[[str, Options, Tell, Progress], Iterator[Outcome]]
"""Gives the row as it is after each run, with what was found in that run."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One that can be asked for by name. `is_default`: part of a run of everything."""

    name: str
    words: str
    run: Runner
    is_default: bool = True


def found(scenario: str, seed: int, violations: Sequence[Violation], more: str = "", kept: str = "") -> list[Found]:
    """What to tell of a run; nothing where nothing was broken."""
    words = tuple(str(violation) for violation in violations[:WORDS_MAX])
    return [Found(scenario, seed, words, f"rage lab run {scenario} --seed {seed}{more}", kept)] if words else []


# --- runners; what they need is imported when they run ---


def _simulate(name: str, options: Options, tell: Tell, progress: Progress) -> Iterator[Outcome]:
    from rage_lab.seeds import play_many

    row = Row(name)
    for done, run in enumerate(play_many(options.seed, options.seeds, options.jobs), 1):
        row = row.with_run(run.judgement, run.faults, run.cpu_s)
        progress(done, options.seeds)
        yield row, found(name, run.seed, run.judgement.violations, " --seeds 1")


def _copy(name: str, options: Options, tell: Tell, progress: Progress) -> Iterator[Outcome]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from rage_lab.sim.copies import try_copies

    row = Row(name)
    seeds = range(options.seed, options.seed + options.seeds)
    # Not by fork: a process that has threads may hold a lock when it is copied.
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        for done, run in enumerate(pool.map(try_copies, seeds, chunksize=8), 1):
            violations = tuple(
                Violation("lost" if words.startswith("lost") else "short", "", words) for words in run.broken
            )
            judged = Judgement(violations, run.puts, run.acknowledged, 0, 0, 0, 0, run.settled_s)
            row = row.with_run(judged, run.faults, run.cpu_s)
            progress(done, options.seeds)
            yield row, found(name, run.seed, violations, " --seeds 1")


def _torment(name: str, options: Options, tell: Tell, progress: Progress) -> Iterator[Outcome]:
    from rage_lab.trial import Plan, lacking, play

    row = Row(name)
    plan = Plan(name, (name,), options.seconds)
    if name == "mix":
        plan = Plan(name, MIXED, options.seconds * 2, at_once=2)
    if len(plan.faults) == 1 and (why := lacking(name)):
        yield replace(row, left_out=(f"{name}: {why}",)), []
        return
    for number in range(options.runs):
        seed = options.seed + number
        tell(f"{name}, seed {seed}")
        trial = play(plan, seed, lambda words: tell(f"{name}: {words}"))
        row = row.with_run(trial.judgement, trial.faults, trial.seconds, trial.left_out)
        progress(number + 1, options.runs)
        yield row, found(name, seed, trial.judgement.violations, "", trial.kept)


def _quick(name: str, options: Options, tell: Tell, progress: Progress) -> Iterator[Outcome]:
    from rage_lab.trial import Plan, play

    row, faults = Row(name), ("partition", "kill", "pause", "bit-flip", "slow-disk", "full-disk", "clock", "destroy")
    plan = Plan(name, faults, 20.0, at_once=2, hold_s=(2.0, 4.0), within_s=60.0, replaced=1.0)
    trial = play(plan, options.seed, lambda words: tell(f"{name}: {words}"))
    row = row.with_run(trial.judgement, trial.faults, trial.seconds, trial.left_out)
    yield row, found(name, options.seed, trial.judgement.violations, "", trial.kept)


def _rungs(name: str, options: Options, tell: Tell, progress: Progress) -> Iterator[Outcome]:
    from rage_lab.rungs import QUICK, RUNGS, climb, missing

    if why := missing():
        yield Row(name, left_out=(f"{name}: {why}",)), []
        return
    rungs = QUICK if options.is_quick else RUNGS
    for number, rung in enumerate(rungs):
        label = f"{name} {rung.name}"
        trial = climb(rung, options.seed, lambda words, label=label: tell(f"{label}: {words}"))  # type: ignore[misc]
        row = Row(label).with_run(trial.judgement, trial.faults, trial.seconds, trial.left_out)
        progress(number + 1, len(rungs))
        yield row, found(name, options.seed, trial.judgement.violations, "", trial.kept)


def _soak(name: str, options: Options, tell: Tell, progress: Progress) -> Iterator[Outcome]:
    from rage_lab.soak import soak

    done = soak(options.minutes, options.seed, options.out, tell)
    row = Row(name).with_run(done.judgement, done.faults, done.seconds, done.left_out)
    for one in done.memory:
        tell(f"{one.node}: {one.warm >> 20} MiB warm, {one.last >> 20} MiB at the end, {one.most >> 20} MiB at most")
    tell(f"samples: {done.csv}; picture: {done.svg}")
    yield row, found(name, options.seed, done.judgement.violations, f" --minutes {options.minutes:g}", done.kept)


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("sim", "whole engines in virtual time, all faults, thousands of seeds", _simulate),
        Scenario("copies", "replication alone in virtual time, ten thousand seeds", _copy),
        Scenario("partition", "real nodes: a minority is parted from the others", _torment),
        Scenario("one-way", "real nodes: what some send no longer reaches the others", _torment),
        Scenario("kill", "real nodes: kill -9, and a start from the disk it had", _torment),
        Scenario("pause", "real nodes: SIGSTOP and SIGCONT", _torment),
        Scenario("clock", "real nodes: a wall clock jumps by up to a day, and back", _torment),
        Scenario("full-disk", "real nodes: a disk has no byte left", _torment),
        Scenario("slow-disk", "real nodes: writing to a disk stands still in bursts", _torment),
        Scenario("bit-flip", "real nodes: bits of chunk files rot", _torment),
        Scenario("add", "real nodes: a node joins", _torment),
        Scenario("drain", "real nodes: a node gives away what it holds", _torment),
        Scenario("destroy", "real nodes: a node and its disk are gone for good", _torment),
        Scenario("mix", "real nodes: two of these at a time, drawn at random", _torment),
        Scenario("rungs", "real nodes over worse and worse networks: latency, loss, bursts", _rungs),
        Scenario("quick", "real nodes: two faults at a time, for half a minute", _quick, is_default=False),
        Scenario("soak", "real nodes for an hour under use and churn, their memory sampled", _soak, is_default=False),
    )
}
QUICK = ("sim", "quick", "rungs")
"""What `--quick` runs."""
