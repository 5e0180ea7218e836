"""Does the fingerprint tell programs apart, and only programs? Evolved candidates against other spellings and mutants.

    python -m benchmarks.fingerprint --candidates 300 --json fingerprint.json

Evolution makes candidates from a space's baselines and random samples, as a search does but without scores: parents
are drawn evenly, a quarter of the children are crossings, and what the gate, the trace or the check turns away, or what
has a fingerprint that is known, is no candidate. Each is then compared with two others at its default values: with
another *spelling*, made by machine (`respelling.py`), whose fingerprint shall be equal, and with a *mutant* of one more
mutation, whose fingerprint shall differ.

What is true is not taken from how the pairs were made but found out by running them (`equality.py`): a mutation may
change nothing (dead code, two layers exchanged), and the respelling machine may have a fault. So:

    wrongly equal      pairs of one fingerprint whose numbers differ; also among all programs of the run, since every
                       program that shares a fingerprint with an earlier one is compared with it. Target 0.
    undecided          pairs of one fingerprint that could not be shown to be equal; to be read by a person.
    missed             spellings of another fingerprint, unless their numbers differ; a share of all spellings whose
                       numbers do not differ. Target: at most 2 %. For each, the techniques that alone suffice.
    machine's fault    spellings whose numbers differ; not counted as missed. Spellings that are no longer admitted, and
                       candidates without a mutant, are listed.
    same by numbers    mutants of another fingerprint in whose numbers no difference was found. Not an error: the
                       fingerprint claims nothing about other algebra, and numbers see no difference below rounding.

CPU seconds are given per program: of joining and hashing (the fingerprint proper), of the whole check that contains
it, and of the trace before it.
"""

import argparse
import dataclasses
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks import report
from benchmarks.respelling import OTHERS, TECHNIQUES, respell
from nas.admit import gate
from nas.propose import evolution, grammar
from nas.records import Failure, Program, defaults
from nas.space import SearchSpace, SpaceError, load

FOUNDERS = 20
"""Random samples that evolution begins with, beside the baselines."""
CROSS = 0.25
MUTANTS_TRIED = 10
ALLOWED_MISSED = 0.02


@dataclass(slots=True)
class Seconds:
    """CPU seconds by stage, one entry a program."""

    trace: list[float] = field(default_factory=list)
    check: list[float] = field(default_factory=list)
    fingerprint: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A candidate and another program.

    Attributes:
      kind: `spelling`, `mutant` or `collision` (two programs of the run that share a fingerprint).
      candidate: number of the candidate.
      what: how the other one was made.
      equal: whether the fingerprints are equal.
      numbers: what running both says: `equal`, `different`, `undecided`, or `unknown` if they were not run.
      reason: what the numbers showed.
      source: text of the other one.
    """

    kind: str
    candidate: int
    what: str
    equal: bool
    numbers: str
    reason: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What came of one candidate: its pairs, what could not be made a pair, programs by fingerprint, seconds."""

    pairs: Sequence[Pair]
    faults: Sequence[str]
    mutant: tuple[str, Program] | None
    seconds: Seconds


# ---- candidates


def admit(space: SearchSpace, source: str, seconds: Seconds, *, limits: bool = True) -> Program | Failure:
    """Gate, trace and check a candidate at its defaults, in this process.

    Args:
      space: the space.
      source: the candidate's text.
      seconds: to which what it took is added.
      limits: whether the space's limits on parameters and FLOPs hold.
    """
    from nas.admit import program
    from nas.admit.trace import trace

    gated = gate.check(source, space.scope)
    if gated.failures:
        return gated.failures[0]
    began = time.process_time()
    traced = trace(space, source, defaults(gated.tunables))
    seconds.trace.append(time.process_time() - began)
    if isinstance(traced, Failure):
        return traced
    contract = space.contract if limits else dataclasses.replace(space.contract, max_params=None, max_flops=None)
    spent: list[float] = []
    with (
        patch.object(program, "join", _timed(program.join, spent)),
        patch.object(program, "fingerprint", _timed(program.fingerprint, spent)),
    ):
        began = time.process_time()
        checked = program.check(*traced, contract, space.recipe)
    if isinstance(checked, Program):
        seconds.check.append(time.process_time() - began)
        seconds.fingerprint.append(sum(spent))
    return checked


def _timed(function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        began = time.process_time()
        result = function(*arguments)
        spent.append(time.process_time() - began)
        return result

    return timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Collision:
    """A program that has the fingerprint of an earlier one, which belongs to the candidate of this number."""

    candidate: int
    earlier: Program
    source: str
    program: Program


def evolve(
    space: SearchSpace, count: int, seed: int, seconds: Seconds
) -> tuple[list[tuple[str, Program]], list[Collision]]:
    """Make candidates by evolution: each with its source and its program; and what shared a fingerprint with one."""
    rng = np.random.default_rng(seed)
    parents = list(space.baselines.values())
    while len(parents) < len(space.baselines) + FOUNDERS:
        source = grammar.sample(space, rng)
        if isinstance(admit(space, source, seconds), Program):
            parents.append(source)
    found: list[tuple[str, Program]] = []
    collisions: list[Collision] = []
    known: dict[str, int] = {}
    while len(found) < count:
        child = _child(space, parents, rng)
        program = admit(space, child, seconds) if child is not None else None
        if child is None or not isinstance(program, Program):
            continue
        earlier = known.setdefault(program.fingerprint, len(found))
        if earlier < len(found):
            collisions.append(Collision(candidate=earlier, earlier=found[earlier][1], source=child, program=program))
            continue
        found.append((child, program))
        parents.append(child)
        if len(found) % 50 == 0:
            print(f"{len(found)} candidates", file=sys.stderr)
            _forget()
    return found, collisions


def _child(space: SearchSpace, parents: Sequence[str], rng: np.random.Generator) -> str | None:
    one, other = (parents[int(rng.integers(len(parents)))] for _ in range(2))
    try:
        if rng.random() < CROSS:
            return evolution.cross(one, other, space, rng).source
        return evolution.mutate(one, space, rng).source
    except evolution.NoChild:
        return None


# ---- pairs


def examine(space: str, seed: int, techniques: Sequence[str], case: tuple[int, str, Program]) -> Examined:
    """Compare one candidate with another spelling and with a mutant.

    Args:
      space: reference of the space.
      seed: of the run.
      techniques: of respelling.
      case: number, source and program of the candidate.
    """
    from benchmarks.equality import Runner

    loaded, (number, source, program) = load(space), case
    rng, seconds = np.random.default_rng([seed, number]), Seconds()
    pairs: list[Pair] = []
    faults: list[str] = []
    runner = Runner(program)
    written = respell(source, loaded.scope, rng, techniques)
    spelled = admit(loaded, written, seconds, limits=False)
    if isinstance(spelled, Failure):
        faults.append(f"candidate {number}: its other spelling is rejected, {spelled}")
    else:
        equal = spelled.fingerprint == program.fingerprint
        alone = (
            [] if equal else [name for name in techniques if _changes(loaded, source, program, name, [seed, number])]
        )
        what = f"changed by {', '.join(alone) or 'no technique alone'}" if not equal else "spelled otherwise"
        pairs.append(_pair("spelling", number, what, written, equal, runner, spelled))
    mutant = _mutant(loaded, source, rng, seconds)
    if mutant is None:
        faults.append(f"candidate {number}: no mutant in {MUTANTS_TRIED} attempts could be traced")
    else:
        what, text, other = mutant
        equal = other.fingerprint == program.fingerprint
        pairs.append(_pair("mutant", number, what, text, equal, runner, other))
    _forget()
    made = None if mutant is None else (mutant[1], mutant[2])
    return Examined(pairs=pairs, faults=faults, mutant=made, seconds=seconds)


def _pair(kind: str, number: int, what: str, text: str, equal: bool, runner: Any, other: Program) -> Pair:
    from benchmarks.equality import Runner, compare

    ran = compare(runner, Runner(other))
    return Pair(
        kind=kind, candidate=number, what=what, equal=equal, numbers=ran.verdict, reason=ran.reason, source=text
    )


def _mutant(
    space: SearchSpace, source: str, rng: np.random.Generator, seconds: Seconds
) -> tuple[str, str, Program] | None:
    """A mutation that can be traced: what was done, source, program."""
    for _ in range(MUTANTS_TRIED):
        try:
            child = evolution.mutate(source, space, rng)
        except evolution.NoChild:
            return None
        program = admit(space, child.source, seconds, limits=False)
        if isinstance(program, Program):
            return child.operator, child.source, program
    return None


def _changes(space: SearchSpace, source: str, program: Program, technique: str, seed: Sequence[int]) -> bool:
    """Whether one technique of respelling alone changes the fingerprint."""
    written = respell(source, space.scope, np.random.default_rng(seed), [technique])
    other = admit(space, written, Seconds(), limits=False)
    return not isinstance(other, Program) or other.fingerprint != program.fingerprint


def collide(collisions: Sequence[Collision]) -> list[Pair]:
    """Run every program that shares a fingerprint with an earlier one, and that one."""
    from benchmarks.equality import Runner

    pairs = []
    for one in collisions:
        pairs.append(
            _pair("collision", one.candidate, "made again", one.source, True, Runner(one.earlier), one.program)
        )
        _forget()
    return pairs


def _forget() -> None:
    import jax

    jax.clear_caches()


# ---- the whole


def run(space: str, count: int, seed: int, techniques: Sequence[str], workers: int) -> dict[str, Any]:
    """Make candidates and pairs, and count."""
    loaded, seconds = load(space), Seconds()
    candidates, collisions = evolve(loaded, count, seed, seconds)
    cases = [(number, *candidate) for number, candidate in enumerate(candidates)]
    examined: list[Examined] = []
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for done in pool.map(partial(examine, space, seed, techniques), cases):
            examined.append(done)
            if len(examined) % 25 == 0:
                print(f"{len(examined)} of {count} compared", file=sys.stderr)
    known = {program.fingerprint: (number, program) for number, (_, program) in enumerate(candidates)}
    for number, one in enumerate(examined):
        for name in ("trace", "check", "fingerprint"):
            getattr(seconds, name).extend(getattr(one.seconds, name))
        if one.mutant is not None:
            source, program = one.mutant
            owner, earlier = known.setdefault(program.fingerprint, (number, program))
            if owner != number:  # with its own parent it has been compared
                collisions.append(Collision(candidate=owner, earlier=earlier, source=source, program=program))
    pairs = [pair for one in examined for pair in one.pairs] + collide(collisions)
    return counted(pairs, [fault for one in examined for fault in one.faults], seconds) | {"candidates": count}


def counted(pairs: Sequence[Pair], faults: Sequence[str], seconds: Seconds) -> dict[str, Any]:
    """The figures: see the module's docstring for what counts as what."""
    spellings = [pair for pair in pairs if pair.kind == "spelling"]
    truly = [pair for pair in spellings if pair.numbers != "different"]
    mutants = [pair for pair in pairs if pair.kind == "mutant"]
    cases = {
        "wrongly_equal": [pair for pair in pairs if pair.equal and pair.numbers == "different"],
        "undecided": [pair for pair in pairs if pair.equal and pair.numbers == "undecided"],
        "missed": [pair for pair in truly if not pair.equal],
        "at_fault": [pair for pair in spellings if pair.numbers == "different"],
        "same_by_numbers": [pair for pair in mutants if not pair.equal and pair.numbers == "equal"],
    }
    # A spelling with the same fingerprint and other numbers counts as both: machine and fingerprint are at fault.
    return {
        "pairs": dict(Counter(pair.kind for pair in pairs)),
        "equal": dict(Counter(pair.kind for pair in pairs if pair.equal)),
        "shown_equal": dict(Counter(pair.kind for pair in pairs if pair.equal and pair.numbers == "equal")),
        "counts": {name: len(found) for name, found in cases.items()},
        "missed_share": len(cases["missed"]) / len(truly) if truly else 0.0,
        "cpu_s": {name: fmean(spent) for name, spent in asdict(seconds).items() if spent},
        "programs": len(seconds.fingerprint),
        "cases": {name: [asdict(pair) for pair in found] for name, found in cases.items()},
        "faults": list(faults),
    }


def show(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    kinds = [kind for kind in ("spelling", "mutant", "collision") if kind in figures["pairs"]]
    rows = [[kind, *(figures[key].get(kind, 0) for key in ("pairs", "equal", "shown_equal"))] for kind in kinds]
    lines = [report.table(["pairs", "number", "equal fingerprints", "of them shown equal"], rows), ""]
    counts = figures["counts"]
    lines.append(f"wrongly equal: {counts['wrongly_equal']} (target 0), undecided: {counts['undecided']}")
    lines.append(
        f"missed: {counts['missed']}, {100 * figures['missed_share']:.1f} % of spellings (target: at most 2 %)"
    )
    lines.append(f"machine's fault: {counts['at_fault']}, not made: {len(figures['faults'])}")
    lines.append(
        f"mutants of another fingerprint in whose numbers no difference was found: {counts['same_by_numbers']}"
    )
    cpu = figures["cpu_s"]
    lines.append(
        f"CPU seconds a program, over {figures['programs']}: fingerprint {cpu['fingerprint']:.3f}, "
        f"whole check {cpu['check']:.3f}, trace {cpu['trace']:.3f}"
    )
    for name, found in figures["cases"].items():
        lines += [f"{name}: candidate {p['candidate']}, {p['kind']}, {p['what']}; {p['reason']}" for p in found[:10]]
    return "\n".join([*lines, *figures["faults"][:10]])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.fingerprint", description="Try the fingerprint.")
    add = made.add_argument
    add("--candidates", type=int, default=300, metavar="N", help="evolved candidates (300)")
    add("--space", default="mnist1d", metavar="SPACE", help="from which they are made (mnist1d)")
    add("--seed", type=int, default=0, metavar="N", help="of every draw (0)")
    add("--techniques", choices=(*TECHNIQUES, *OTHERS), nargs="+", default=TECHNIQUES, metavar="NAME",
        help=f"of respelling, also {', '.join(OTHERS)} ({' '.join(TECHNIQUES)})")  # fmt: skip
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="processes (one a core)")
    add("--json", type=Path, metavar="FILE", help="write the figures and the sources of the cases there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 1 if a target is missed, 2 if the space cannot be used."""
    parsed = parser().parse_args(arguments)
    os.environ |= {"NPROC": "1", "JAX_PLATFORMS": "cpu"}
    try:
        figures = run(parsed.space, parsed.candidates, parsed.seed, parsed.techniques, parsed.workers)
    except SpaceError as error:
        print(f"benchmarks.fingerprint: {error}", file=sys.stderr)
        return 2
    print(show(figures))
    if parsed.json:
        settings = {key: getattr(parsed, key) for key in ("candidates", "space", "seed", "techniques", "workers")}
        report.write(parsed.json, "fingerprint", settings, figures)
    return 1 if figures["counts"]["wrongly_equal"] or figures["missed_share"] > ALLOWED_MISSED else 0


if __name__ == "__main__":
    sys.exit(main())
