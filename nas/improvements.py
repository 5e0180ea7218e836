"""The history of one run's confirmed improvements: what changed, by how much, which file.

In go a run's tables after a confirmation; out come the claimed candidates whose mean on the test split exceeds the
record before them, in the order in which they were proposed. The first record is the best baseline. A claim is made
against the baselines; what a candidate gains over the record before it is an estimate with its error, and no claim.
"""

import ast
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from rich.text import Text

from nas.judge.belief import Effect, Estimate, Retrained, assess
from nas.progress import one_line, plain_console
from nas.standings import Board, Confirmed, Records, board, retrained
from nas.store import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Improvement:
    """A confirmed candidate that was better than the record before it.

    Attributes:
      candidate: its id.
      name: its idea; one line, safe to print.
      arm: who wrote it.
      operator: what the proposer did.
      change: how its source differs from its nearest parent's, in one line.
      test: mean over its fresh seeds on the test split.
      seeds: how many these are.
      before: id of the record before it.
      before_name: that one's name, or idea.
      gain: how much better it is than that one; None if nothing is known of the noise.
      file: its source in the run's folder.
    """

    candidate: int
    name: str
    arm: str
    operator: str
    change: str
    test: Estimate
    seeds: int
    before: int
    before_name: str
    gain: Effect | None
    file: str


def improvements(records: Records) -> list[Improvement]:
    """Find the confirmed improvements of a run, in the order of the candidates' numbers; empty if there are none."""
    made = board(records)
    entries = {entry.candidate.id: entry for entry in records.entries}
    best = _best_baseline(made, records.sign)
    if best is None:
        return []
    again, found = retrained(records, made.rows), []
    for one in sorted(made.confirmed, key=lambda one: one.row.candidate):
        claim, test = one.belief.claim, one.belief.test
        if claim is None or not claim.claimed or test is None or not _better(one, best, records.sign):
            continue
        entry = entries[one.row.candidate]
        found.append(
            Improvement(
                candidate=one.row.candidate,
                name=one.row.name,
                arm=one.row.arm,
                operator=one_line(entry.candidate.operator),
                change=change(entry, entries),
                test=test,
                seeds=one.belief.seeds,
                before=best.row.candidate,
                before_name=best.row.name,
                gain=_gain(again, one.row.candidate, best.row.candidate, maximize=records.config["maximize"]),
                file=f"candidates/{one.row.candidate:04d}.py",
            )
        )
        best = one
    return found


def change(entry: Entry, entries: Mapping[int, Entry]) -> str:
    """How a candidate's source differs from that of its nearest parent, in one line; docstrings are not compared."""
    mine = _code(entry.candidate.source)
    told = []
    for parent in entry.candidate.parents:
        if parent in entries:
            lines = list(difflib.ndiff(_code(entries[parent].candidate.source), mine))
            added = [line[2:].strip() for line in lines if line.startswith("+ ")]
            gone = [line[2:].strip() for line in lines if line.startswith("- ")]
            told.append((len(added) + len(gone), parent, added, gone))
    if not told:
        return "a start of its own"
    count, parent, added, gone = min(told)
    if not count:
        return f"the code of {parent}"
    first = f"+ {added[0]}" if added else f"- {gone[0]}"
    return one_line(f"+{len(added)} -{len(gone)} lines against {parent}: {first}{' …' if count > 1 else ''}")


def _code(source: str) -> list[str]:
    """The lines that are not empty, after the module's docstring."""
    lines = source.splitlines()
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        body = []
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        lines = lines[body[0].end_lineno or 0 :]
    return [line for line in lines if line.strip()]


def _best_baseline(made: Board, sign: int) -> Confirmed | None:
    told = [one for one in made.confirmed if one.row.arm == "baseline" and one.belief.test is not None]
    return max(told, key=lambda one: sign * one.belief.test.value if one.belief.test else -math.inf, default=None)


def _better(one: Confirmed, other: Confirmed, sign: int) -> bool:
    if one.belief.test is None or other.belief.test is None:
        return False
    return sign * (one.belief.test.value - other.belief.test.value) > 0


def _gain(rows: Sequence[Retrained], candidate: int, before: int, *, maximize: bool) -> Effect | None:
    """The difference to another row as if that one were the only baseline, the variances pooled as they always are."""
    told = [row for row in rows if not row.baseline or row.candidate == before]
    told = [replace(row, baseline=row.candidate == before) for row in told]
    (claim,) = [belief.claim for belief in assess(told, maximize) if belief.candidate == candidate]
    return claim.effect if claim else None


# ---- printing


def lines(found: Sequence[Improvement], made: Board) -> list[tuple[str, ...]]:
    """Each improvement in lines without markup: who, what changed, by how much, which file."""
    digits = made.config["decimals"]
    return [
        (
            f"{one.candidate}  {one.name or '(no idea given)'}",
            " · ".join(part for part in (one.arm, one.operator, one.change) if part),
            f"test {_estimate(one.test, digits)} ({one.seeds} seeds), {_gained(one, digits)}",
            one.file,
        )
        for one in found
    ]


def _estimate(estimate: Estimate, digits: int) -> str:
    error = "" if estimate.error is None else f" ± {estimate.error:.{digits}f}"
    return f"{estimate.value:.{digits}f}{error}"


def _gained(one: Improvement, digits: int) -> str:
    over = f"over {one.before} ({one.before_name or 'no idea given'})"
    if one.gain is None:
        return f"better by an amount whose error is not known, {over}"
    low, high = one.gain.interval()
    return f"{one.gain.value:+.{digits}f} ± {one.gain.error:.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] {over}"


def write_improvements(records: Records, stream: TextIO) -> None:
    """Print the history of confirmed improvements for a terminal, or 80 columns of a pipe."""
    made, console = board(records), plain_console(stream)
    config = made.config
    console.print(
        Text(f"{config['space_name']}@{config['space_version']} · run {config.get('name', 'without a name')}")
    )
    found = improvements(records)
    for first, *more in lines(found, made):
        console.print(Text(one_line(first), style="bold", no_wrap=True, overflow="ellipsis"))
        for text in more:
            console.print(Text.assemble("   ", one_line(text)))
    if found:
        ends = (
            "Claims are against every baseline; what is gained over the record before is an estimate, ± its standard "
        )
        console.print(Text(f"{ends}error and the interval that misses one in twenty.", style="dim"))
    elif made.confirmed:
        console.print(Text("no confirmed improvement: no finalist is shown to beat every baseline on the test split"))
    else:
        console.print(Text("nothing is confirmed yet; --confirm 5 trains the best with fresh seeds"))
