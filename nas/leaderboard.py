"""The leaderboard of one run: store → rows → a table in the terminal, Markdown, CSV or JSON; and its command line.

    python -m nas.leaderboard [RUN] --format table|markdown|csv|json [--top N] [--show ID]

In goes a run's store, read only, also while the search goes on; out come one row per candidate, by its best trial, with
the baselines among them by the mean over their seeds, and a caption that says how far the numbers can be trusted. The
same store gives the same bytes. Scores here are those that the search chose by, so the best of them is partly luck;
confirmation with fresh seeds on the test split is another stage, and nothing here claims an improvement.
"""

import argparse
import contextlib
import csv
import io
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NoReturn, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.judge.lift import Lift, Sample, lifts
from nas.judge.noise import SeedNoise, seed_sigma
from nas.progress import counts, duration, one_line, short, size, visible
from nas.records import Failure, Trial, Value
from nas.store import Entry, Score, Store, StoreError, Task

RESULTS = Path("results/runs")
"""Where runs are looked for by name."""

TOP = 20
"""Rows, besides the baselines, of a table made for reading, unless told otherwise."""

UNCONFIRMED = "search score, unconfirmed"
_CONFIG = ("space_name", "space_version", "metric", "maximize", "decimals", "ladder", "budget")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What scores at one rung are compared with: the best baseline there.

    Attributes:
      name: the baseline's.
      score: mean over its seeds.
      error: standard error of the mean, sigma / sqrt(seeds).
      seeds: how many.
      noise: over all baselines.
    """

    name: str
    score: float
    error: float
    seeds: int
    noise: SeedNoise


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A candidate on the leaderboard.

    Attributes:
      rank: place among all rows, from 1.
      candidate: its id.
      name: a baseline's name, else the idea; one line, safe to print.
      arm: who wrote it; `baseline` marks the baselines.
      rung: index of the highest rung at which it has a score.
      score: of its best trial there; of a baseline the mean over its seeds.
      error: standard error of a baseline's mean; None for one seed, or if the noise is not known.
      seeds: how many seeds the score is the mean of.
      delta: how much better than the best baseline at the same rung, in sigmas of a seed; None if not comparable.
      trial: whose score it is; of a baseline the first of its seeds.
      params: number of trainable numbers.
      flops: floating-point operations of one inference on one example.
      lr: learning rate of the trial.
      parents: ids of the candidates it was made from.
    """

    rank: int = 0
    candidate: int
    name: str
    arm: str
    rung: int
    score: float
    error: float | None = None
    seeds: int = 1
    delta: float | None = None
    trial: int
    params: int | None
    flops: int | None
    lr: float | None
    parents: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one proposer did: proposals, those rejected, draws it asked for, and its lift over `random` if known."""

    name: str
    proposed: int
    rejected: int
    draws: int
    lift: Lift | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """A run's tables in memory."""

    config: Mapping[str, Any]
    tasks: Sequence[Task]
    entries: Sequence[Entry]
    trials: Sequence[Trial]
    scores: Sequence[Score]

    @property
    def sign(self) -> int:
        """1 if a higher score is better, else -1."""
        return 1 if self.config["maximize"] else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A leaderboard with what its caption needs.

    Attributes:
      config: the run's configuration.
      rows: best first.
      references: the best baseline by rung, where there is one with several seeds.
      spent: candidates admitted to the first rung, without baselines.
      trials: number of trials.
      open_tasks: tasks without an outcome: they run, or were cut off.
      rejected: candidates rejected at admission, by reason.
      failed: trials that ended without a further score, by reason.
      arms: the proposers.
      cpu_s: processor time of the tasks that ended [s].
    """

    config: Mapping[str, Any]
    rows: Sequence[Row]
    references: Mapping[int, Reference]
    spent: int
    trials: int
    open_tasks: int
    rejected: Mapping[str, int]
    failed: Mapping[str, int]
    arms: Sequence[Arm]
    cpu_s: float


# ---- from the store to rows


def baseline_seeds(records: Records, rung: int) -> dict[int, dict[int, float]]:
    """Find the seeds of each baseline at a rung: its trials with the same numbers.

    Returns:
      For each baseline that has a score at the rung: score by trial id, of the numbers that were run with most seeds;
      of equally many, those with the better mean.
    """
    baselines = {entry.candidate.id for entry in records.entries if entry.candidate.arm == "baseline"}
    scores = {score.trial: score.point.score for score in records.scores if score.rung == rung and score.point}
    groups: dict[int, dict[str, dict[int, float]]] = {}
    for trial in records.trials:
        if trial.candidate in baselines and math.isfinite(scores.get(trial.id, math.nan)):
            numbers = json.dumps([trial.values, trial.recipe], sort_keys=True)
            groups.setdefault(trial.candidate, {}).setdefault(numbers, {})[trial.id] = scores[trial.id]
    return {
        candidate: max(found.values(), key=lambda seeds: (len(seeds), records.sign * fmean(seeds.values())))
        for candidate, found in sorted(groups.items())
    }


def reference(records: Records, rung: int) -> Reference | None:
    """The best baseline at a rung, of those with several seeds; None if there is none."""
    seeds = {c: list(found.values()) for c, found in baseline_seeds(records, rung).items() if len(found) > 1}
    noise = seed_sigma(seeds.values())
    if noise is None:
        return None
    best = max(seeds, key=lambda candidate: records.sign * fmean(seeds[candidate]))
    name = next(entry.candidate.operator for entry in records.entries if entry.candidate.id == best)
    count = len(seeds[best])
    error = noise.sigma / math.sqrt(count)
    return Reference(name=one_line(name), score=fmean(seeds[best]), error=error, seeds=count, noise=noise)


def rank(records: Records) -> tuple[Row, ...]:
    """Make the rows, best first: a higher rung comes before a better score, of equal scores the earlier candidate.

    Candidates without a score have no row.
    """
    trials = {trial.id: trial for trial in records.trials}
    best: dict[int, tuple[int, float, int]] = {}
    for score in records.scores:
        if score.point is not None and math.isfinite(score.point.score) and score.trial in trials:
            height = (score.rung, records.sign * score.point.score, -score.trial)
            candidate = trials[score.trial].candidate
            best[candidate] = max(best.get(candidate, height), height)
    rungs = {rung for rung, _, _ in best.values()}
    seeds = {rung: baseline_seeds(records, rung) for rung in rungs}
    references = {rung: reference(records, rung) for rung in rungs}
    rows = []
    for entry in records.entries:
        if entry.candidate.id in best:
            rung, score, trial = best[entry.candidate.id]
            row = _row(entry, trials[-trial], rung, records.sign * score)
            rows.append(_with_seeds(row, seeds[rung].get(row.candidate), references[rung]))
    rows.sort(key=lambda row: (-row.rung, -records.sign * row.score, row.candidate))
    return tuple(
        replace(row, rank=place, delta=_delta(row, references[row.rung], records.sign))
        for place, row in enumerate(rows, 1)
    )


def _row(entry: Entry, trial: Trial, rung: int, score: float) -> Row:
    candidate, cost = entry.candidate, (entry.program or {}).get("cost", {})
    name = candidate.operator if candidate.arm == "baseline" else candidate.idea or candidate.operator
    return Row(
        candidate=candidate.id,
        name=one_line(name),
        arm=one_line(candidate.arm),
        rung=rung,
        score=score,
        trial=trial.id,
        params=cost.get("params"),
        flops=cost.get("flops"),
        lr=trial.recipe.get("lr"),
        parents=candidate.parents,
    )


def _with_seeds(row: Row, seeds: Mapping[int, float] | None, against: Reference | None) -> Row:
    """A baseline's row, by all its seeds; another's as it is."""
    if seeds is None:
        return row
    error = against.noise.sigma / math.sqrt(len(seeds)) if against and len(seeds) > 1 else None
    return replace(row, score=fmean(seeds.values()), seeds=len(seeds), trial=min(seeds), error=error)


def _delta(row: Row, against: Reference | None, sign: int) -> float | None:
    if against is None or against.noise.sigma == 0:
        return None
    return sign * (row.score - against.score) / against.noise.sigma + 0.0  # -0.0 would be printed with its sign


def samples(records: Records) -> list[Sample]:
    """The draws that arms are compared by: all at the first rung but the baselines' and those that the machine lost.

    A draw counts for the arm that asked for it, so `tune` is an arm of its own.
    """
    trials = {trial.id: trial for trial in records.trials if trial.arm != "baseline"}
    return [
        Sample(
            arm=trials[score.trial].arm,
            candidate=trials[score.trial].candidate,
            lr=trials[score.trial].recipe["lr"],
            score=score.point.score if score.point else None,
        )
        for score in records.scores
        if score.rung == 0 and score.trial in trials and not (score.failure and score.failure.blame == "machine")
    ]


def read(store: Store) -> Records:
    """Read a run's tables, so that nothing in them refers to what is missing though a search may be writing.

    Raises:
      StoreError: the database cannot be read, or holds what this version does not understand.
    """
    try:
        tasks, scores, trials = store.tasks(), store.scores(), store.trials()  # first what refers to others
        config = store.config
        missing = [key for key in _CONFIG if key not in config]
        if missing:
            raise KeyError(f"run.json says nothing about {', '.join(missing)}")
        return Records(config=config, tasks=tasks, scores=scores, trials=trials, entries=store.entries())
    except (ValueError, KeyError, TypeError, OSError) as error:  # damage that the database itself does not notice
        reason = one_line(f"{type(error).__name__}: {error}")
        text = f"the run in '{store.folder}' holds what cannot be read ({reason}); mend or restore its files"
        raise StoreError(text) from error


def board(records: Records) -> Board:
    """Make the leaderboard of a run."""
    tried = {trial.candidate for trial in records.trials}
    ours = [entry for entry in records.entries if entry.candidate.arm != "baseline"]
    failures = [score.failure for score in records.scores if score.failure is not None]
    failures += _untraced(records.tasks).values()
    found = ((rung, reference(records, rung)) for rung in range(len(records.config["ladder"]["steps"])))
    return Board(
        config=records.config,
        rows=rank(records),
        references={rung: against for rung, against in found if against is not None},
        spent=sum(entry.program is not None and entry.candidate.id in tried for entry in ours),
        trials=len(records.trials),
        open_tasks=sum(task.outcome is None for task in records.tasks),
        rejected=Counter(_reason(entry.failure) for entry in records.entries if entry.failure is not None),
        failed=Counter(map(_reason, failures)),
        arms=_arms(records),
        cpu_s=sum((task.usage or {}).get("cpu_s", 0.0) for task in records.tasks),
    )


def _untraced(tasks: Sequence[Task]) -> dict[int, Failure]:
    """Trials whose drawn values gave no program, with the reason."""
    found = (item for task in tasks for item in ((task.outcome or {}).get("programs") or {}).items())
    return {int(trial): Failure(**facts["failure"]) for trial, facts in found if "failure" in facts}


def _reason(failure: Failure) -> str:
    return f"{failure.stage}/{failure.rule}"


def _arms(records: Records) -> list[Arm]:
    estimates = lifts(samples(records), records.config["maximize"])
    proposed = Counter(entry.candidate.arm for entry in records.entries)
    rejected = Counter(entry.candidate.arm for entry in records.entries if entry.failure is not None)
    draws = Counter(trial.arm for trial in records.trials)
    order = {name: place for place, name in enumerate(("baseline", "random", "evolution", "claude", "tune"))}
    names = sorted(proposed.keys() | draws.keys(), key=lambda name: (order.get(name, len(order)), name))
    return [
        Arm(name=n, proposed=proposed[n], rejected=rejected[n], draws=draws[n], lift=estimates.get(n)) for n in names
    ]


# ---- the caption


def summary(board: Board) -> str:
    """The best candidate against the best baseline, in one careful sentence."""
    ours = [row for row in board.rows if row.arm != "baseline"]
    if not ours:
        return "no candidate has a score yet"
    best, digits = ours[0], board.config["decimals"]
    against = board.references.get(best.rung)
    where = f"best candidate {best.candidate}: {best.score:.{digits}f} at {_steps(board)[best.rung]:,} steps"
    luck = f"one seed, chosen as the best of {len(ours)}: unconfirmed"
    if against is None:
        return f"{where}; no baseline has run as far with several seeds, so there is nothing to compare it with; {luck}"
    difference = best.score - against.score
    sigmas = f"{abs(difference) / against.noise.sigma:.1f}σ of a seed" if against.noise.sigma else "σ of a seed is 0"
    side = "above" if difference >= 0 else "below"
    mean = f"{against.score:.{digits}f} ± {against.error:.{digits}f} ({against.seeds} seeds)"
    return f"{where} is {difference:+.{digits}f} ({sigmas}) {side} the best baseline {against.name} {mean}; {luck}"


def caption(board: Board) -> list[str]:
    """What a reader must know to read the rows, in lines without markup."""
    config, digits = board.config, board.config["decimals"]
    head = f"{config['space_name']}@{config['space_version']} · run {config.get('name', 'without a name')}"
    head += f" · {board.spent} of {config['budget']} candidates · {board.trials} trials"
    head += f" · not finished: {board.open_tasks} tasks run or were cut off" if board.open_tasks else ""
    direction = "higher" if config["maximize"] else "lower"
    sigmas = (
        f"{against.noise.sigma:.{digits + 1}f} at {_steps(board)[rung]:,} steps ({against.noise.degrees} d.f.)"
        for rung, against in sorted(board.references.items())
    )
    arms = (
        f"{arm.name} "
        + ", ".join(([f"{arm.proposed} ({arm.rejected} rejected)"] if arm.proposed else []) + [f"{arm.draws} draws"])
        for arm in board.arms
    )
    lines = [
        head,
        summary(board),
        f"score: {config['metric']} on validation, {direction} is better; {UNCONFIRMED}. Candidates: best trial, one "
        "seed. Baselines: mean of n seeds ± σ/√n.",
        f"Δσ: better than the best baseline at the same rung by so many σ of a seed; σ {', '.join(sigmas) or '?'}",
        f"rungs: {', '.join(f'{_dots(rung, board)} {steps:,}' for rung, steps in enumerate(_steps(board)))} steps",
        f"rejected {counts(board.rejected)} · failed trials {counts(board.failed)}",
        f"arms: {'; '.join(arms) or 'none'}",
        f"lift over random: {_lifts(board.arms)}",
    ]
    return [one_line(line) for line in lines]


def _lifts(arms: Sequence[Arm]) -> str:
    known = [(arm.name, arm.lift) for arm in arms if arm.lift is not None]
    shown = (
        f"{name} {lift.lift:+.2f} [{lift.low:+.2f}, {lift.high:+.2f}]{'' if lift.shown else ' not shown'}"
        for name, lift in known
    )
    unit = "normal scores of the first rung's ranks, at equal lr, 95 % interval"
    return f"{', '.join(shown)} ({unit})" if known else "not shown (too few candidates)"


def _steps(board: Board) -> Sequence[int]:
    return board.config["ladder"]["steps"]


def _dots(rung: int, board: Board) -> str:
    return "●" * (rung + 1) + "○" * (len(_steps(board)) - rung - 1)


# ---- the formats


@dataclass(frozen=True, slots=True)
class _Column:
    key: str
    heading: str
    right: bool = True


_COLUMNS = (
    _Column("rank", "#"),
    _Column("candidate", "id"),
    _Column("name", "idea or name", right=False),
    _Column("arm", "arm", right=False),
    _Column("rung", "rung", right=False),
    _Column("score", "score"),
    _Column("error", "±"),
    _Column("seeds", "n"),
    _Column("delta", "Δσ"),
    _Column("params", "params"),
    _Column("flops", "FLOPs"),
    _Column("lr", "lr"),
    _Column("parents", "parents", right=False),
)
_DROPPED = ("parents", "lr", "flops", "error", "params", "seeds", "rank")
"""Columns that go, in this order, where the terminal is too narrow."""
_NAME_CELLS = 24
"""A column is dropped rather than names be cut shorter than this."""
_NAME_CHARACTERS = 100


def _cells(row: Row, board: Board) -> dict[str, str]:
    """A row as a person reads it."""
    digits = board.config["decimals"]
    return {
        "rank": str(row.rank),
        "candidate": str(row.candidate),
        "name": row.name or "(no idea given)",
        "arm": row.arm,
        "rung": _dots(row.rung, board),
        "score": f"{row.score:.{digits}f}",
        "error": "" if row.error is None else f"{row.error:.{digits}f}",
        "seeds": str(row.seeds),
        "delta": "–" if row.delta is None else f"{row.delta:+.1f}",
        "params": "–" if row.params is None else short(row.params),
        "flops": "–" if row.flops is None else short(row.flops),
        "lr": "–" if row.lr is None else f"{row.lr:.2g}",
        "parents": " ".join(map(str, row.parents)),
    }


_FACTS = (
    "rank", "candidate", "name", "arm", "rung", "steps", "search_score", "standard_error", "seeds", "delta_sigmas",
    "params", "flops", "lr", "trial", "parents",
)  # fmt: skip


def _facts(row: Row, board: Board) -> dict[str, Any]:
    """A row as a program reads it, with as many digits as mean something."""
    digits = board.config["decimals"]
    return {field: getattr(row, field) for field in _FACTS if field in Row.__slots__} | {
        "steps": _steps(board)[row.rung],
        "search_score": round(row.score, digits),
        "standard_error": None if row.error is None else round(row.error, digits + 1),
        "delta_sigmas": None if row.delta is None else round(row.delta, 2),
        "lr": None if row.lr is None else float(f"{row.lr:.6g}"),
        "parents": list(row.parents),
    }


def _chosen(board: Board, top: int | None) -> list[Row]:
    """The first `top` candidates, or all, and every baseline."""
    ours = [row.rank for row in board.rows if row.arm != "baseline"]
    last = math.inf if top is None or top >= len(ours) else ours[top - 1]
    return [row for row in board.rows if row.arm == "baseline" or row.rank <= last]


def _hidden(board: Board, rows: Sequence[Row]) -> list[str]:
    count = len(board.rows) - len(rows)
    return [f"{count} more candidates are not shown; --top all shows them"] if count else []


def write_table(board: Board, stream: TextIO, top: int | None = TOP) -> None:
    """Print the table for a terminal, or for a pipe as a terminal of 80 columns would have it."""
    console = _console(stream)
    head, *notes = caption(board)
    console.print(Text(f"{head} · {duration(board.cpu_s)} of processor time"))
    console.print(Text(notes[0]))
    rows = _chosen(board, top)
    if rows:
        console.print(_table(board, rows, console.width))
    for note in _hidden(board, rows) + notes[1:]:
        console.print(Text(note, style="dim"))


def _console(stream: TextIO) -> Console:
    return Console(file=stream, markup=False, highlight=False, emoji=False)


def _table(board: Board, rows: Sequence[Row], width: int) -> Table:
    cells = [_cells(row, board) for row in rows]
    widths = {c.key: max(cell_len(text) for text in (c.heading, *(row[c.key] for row in cells))) for c in _COLUMNS}
    shown = list(_COLUMNS)
    for key in _DROPPED:
        if _room(shown, widths, width) < min(_NAME_CELLS, widths["name"]):
            shown = [column for column in shown if column.key != key]
    widths["name"] = max(min(widths["name"], _room(shown, widths, width)), 1)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in shown:
        table.add_column(
            Text(column.heading),
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=widths[column.key],
        )
    for row, texts in zip(rows, cells, strict=True):
        table.add_row(*(Text(texts[c.key]) for c in shown), style="cyan" if row.arm == "baseline" else None)
    return table


def _room(shown: Sequence[_Column], widths: Mapping[str, int], width: int) -> int:
    """Cells that the other columns, two apart, leave to names."""
    return width - sum(widths[column.key] for column in shown if column.key != "name") - 2 * (len(shown) - 1)


def to_markdown(board: Board, top: int | None = TOP) -> str:
    """The leaderboard as Markdown: a table and its caption as a list."""
    rows = _chosen(board, top)
    head, *notes = caption(board)
    lines = [f"**{_markdown(head)}**", ""]
    lines += ["| " + " | ".join(c.heading for c in _COLUMNS) + " |"]
    lines += ["|" + "|".join("--:" if c.right else ":--" for c in _COLUMNS) + "|"]
    for row in rows:
        cells = _cells(row, board)
        cells["name"] = _cut(cells["name"])
        lines.append("| " + " | ".join(_markdown(cells[c.key]) for c in _COLUMNS) + " |")
    lines += ["", *(f"- {_markdown(note)}" for note in _hidden(board, rows) + notes)]
    return "\n".join(lines) + "\n"


def _cut(text: str) -> str:
    return text if len(text) <= _NAME_CHARACTERS else text[: _NAME_CHARACTERS - 1].rstrip() + "…"


_MARKDOWN = str.maketrans(
    {character: f"\\{character}" for character in "\\`*_[]|~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def _markdown(text: str) -> str:
    """Text without any markup, HTML, links or mentions of its own."""
    text = text.translate(_MARKDOWN).replace("://", "&#58;//")
    return re.sub(r"(?<!\w)@", "&#64;", text)


def to_csv(board: Board, top: int | None = None) -> str:
    """The rows as CSV; text that a spreadsheet would take for a formula is prefixed with an apostrophe."""
    out = io.StringIO()
    rows = [_facts(row, board) for row in _chosen(board, top)]
    digits = {
        "search_score": board.config["decimals"],
        "standard_error": board.config["decimals"] + 1,
        "delta_sigmas": 2,
    }
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_FACTS)
    writer.writerows([_csv_cell(row[key], digits.get(key)) for key in _FACTS] for row in rows)
    return out.getvalue()


def _csv_cell(value: Any, digits: int | None) -> Any:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, str):
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
    return value if value is None or digits is None else f"{value:.{digits}f}"


def to_json(board: Board, top: int | None = None) -> str:
    """Rows and caption as JSON with sorted keys."""
    config = board.config
    plain = {
        "run": config.get("name"),
        "space": config["space_name"],
        "space_version": config["space_version"],
        "metric": config["metric"],
        "maximize": config["maximize"],
        "score": UNCONFIRMED,
        "budget": config["budget"],
        "spent": board.spent,
        "trials": board.trials,
        "open_tasks": board.open_tasks,
        "rejected": dict(board.rejected),
        "failed": dict(board.failed),
        "caption": caption(board),
        "rows": [_facts(row, board) for row in _chosen(board, top)],
    }
    return json.dumps(plain, indent=1, sort_keys=True) + "\n"


# ---- one candidate


def write_candidate(records: Records, candidate: int, stream: TextIO) -> None:
    """Print a candidate's idea, program, failure, trials, lineage and source.

    Raises:
      StoreError: there is no such candidate.
    """
    entries = {entry.candidate.id: entry for entry in records.entries}
    if candidate not in entries:
        known = f"ids go from 1 to {max(entries)}" if entries else "it has none yet"
        raise StoreError(f"there is no candidate {candidate} in this run; {known}, see the table's column 'id'")
    entry, rows = entries[candidate], {row.candidate: row for row in rank(records)}
    console = _console(stream)
    title = f"candidate {_described(entry, rows.get(candidate), records)}"
    console.print(Text(title, style="bold"))
    for line in entry.candidate.idea.splitlines():
        console.print(Text(one_line(line)))
    console.print(Text(_program(entry)))
    _write_trials(console, records, candidate)
    _write_lineage(console, records, entries, rows, candidate)
    console.print(Text("\nsource", style="bold"))
    failed = entry.failure.line if entry.failure else None
    source = entry.candidate.source.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    for number, line in enumerate(source.split("\n"), 1):  # lines as Python counts them, which splitlines does not
        mark = ">" if number == failed else " "
        console.print(Text(f"{mark}{number:4}  {visible(line.expandtabs(4))}"), soft_wrap=True)


def _described(entry: Entry, row: Row | None, records: Records) -> str:
    """Id, arm, operator and score of a candidate in one line."""
    parts = [f"{entry.candidate.id} {entry.candidate.arm}", entry.candidate.operator]
    if row is not None:
        steps = records.config["ladder"]["steps"][row.rung]
        parts.append(f"{row.score:.{records.config['decimals']}f} at {steps:,} steps")
    elif entry.failure is not None:
        parts.append(f"rejected {_reason(entry.failure)}")
    else:
        parts.append("no score yet")
    return one_line(" · ".join(part for part in parts if part))


def _program(entry: Entry) -> str:
    if entry.failure is not None:
        return one_line(f"rejected: {entry.failure}")
    if entry.program is None:
        return "not admitted yet"
    cost = entry.program["cost"]
    parts = (
        f"{cost['params']:,} parameters",
        f"{short(cost['flops'])} FLOPs an example, {short(cost['train_flops'])} in training",
        f"{size(cost['memory_bytes'])} in training",
        f"{cost['ops']:,} operations",
        f"program {entry.program['fingerprint'][:12]}",
    )
    return one_line(" · ".join(parts))


def _write_trials(console: Console, records: Records, candidate: int) -> None:
    """Each trial with its numbers, and its curve: a line for each rung."""
    digits, steps = records.config["decimals"], records.config["ladder"]["steps"]
    trials = [trial for trial in records.trials if trial.candidate == candidate]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("trial", "arm", "steps", "train loss", "loss", "score", "seed", "numbers"):
        right = heading in ("trial", "steps", "train loss", "loss", "score", "seed")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "numbers")
    failures = []
    untraced = _untraced(records.tasks)
    for trial in trials:
        drawn = Text(" ".join(f"{one_line(key)}={_number(v)}" for key, v in {**trial.recipe, **trial.values}.items()))
        about: tuple[str | Text, ...] = (str(trial.seed), drawn)
        for score in (score for score in records.scores if score.trial == trial.id):
            if score.point is None:
                failures.append(f"trial {trial.id} failed before {steps[score.rung]:,} steps: {score.failure}")
                continue
            point = score.point
            losses = (f"{point.train_loss:.4f}", f"{point.loss:.4f}", f"{point.score:.{digits}f}")
            who = (str(trial.id), Text(one_line(trial.arm)))
            table.add_row(*(who if about else ("", "")), f"{point.step:,}", *losses, *about)
            about = ()
        if trial.id in untraced:
            failures.append(f"trial {trial.id} gave no program: {untraced[trial.id]}")
    console.print(Text("\ntrials" if trials else "\nno trials", style="bold"))
    if table.row_count:
        console.print(table)
    for text in failures:
        console.print(Text(one_line(text)))


def _number(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else one_line(str(value))


def _write_lineage(
    console: Console, records: Records, entries: Mapping[int, Entry], rows: Mapping[int, Row], candidate: int
) -> None:
    """What the candidate was made from, back to where it began, each ancestor once; and what was made from it."""
    console.print(Text("\nmade from", style="bold"))
    waiting, seen = [(parent, 1) for parent in reversed(entries[candidate].candidate.parents)], {candidate}
    if not waiting:
        console.print(Text("  nothing: a start of its own"))
    while waiting:
        number, depth = waiting.pop()
        again = number in seen
        text = _described(entries[number], rows.get(number), records) if number in entries else f"{number} (missing)"
        console.print(Text(f"{'  ' * min(depth, 8)}{text}{', see above' if again else ''}"))
        if not again and number in entries:
            waiting += [(parent, depth + 1) for parent in reversed(entries[number].candidate.parents)]
        seen.add(number)
    children = [entry for entry in records.entries if candidate in entry.candidate.parents]
    if children:
        console.print(Text("\nmade from it", style="bold"))
    for entry in children:
        console.print(Text(f"  {_described(entry, rows.get(entry.candidate.id), records)}"))


# ---- the command line


def find_run(run: str | None, results: Path) -> Path:
    """The folder of a run: a path, a name under `results`, or of None the run that was written to last.

    Raises:
      StoreError: there is none.
    """
    known = sorted(results.glob("*/run.json"), key=_written) if results.is_dir() else []
    if run is None:
        if not known:
            text = f"there is no run in '{results}'; start one with python -m nas.search, or say where with --results"
            raise StoreError(text)
        return known[-1].parent
    for folder in (Path(run), results / run):
        if (folder / "run.json").is_file():
            return folder
    names = ", ".join(sorted(path.parent.name for path in known[-5:])) or "none"
    raise StoreError(f"'{run}' is no run, neither a folder nor a name in '{results}' (the latest there: {names})")


def _written(config: Path) -> float:
    files = (config, config.with_name("run.db"), config.with_name("run.db-wal"))
    return max(file.stat().st_mtime for file in files if file.exists())


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        self.exit(2, f"nas.leaderboard: {one_line(message)}; --help lists what is allowed\n")


def _top(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of rows; give one from 1, or 'all'")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m nas.leaderboard", description="Print what a search has found.")
    parser.add_argument("run", nargs="?", metavar="RUN", help="folder or name of a run (default: the latest)")
    parser.add_argument("--format", choices=("table", "markdown", "csv", "json"), default="table")
    rows = f"candidates to print besides the baselines, or 'all' (default: {TOP} in table and markdown, else all)"
    parser.add_argument("--top", type=_top, metavar="N", default=0, help=rows)
    parser.add_argument("--show", type=int, metavar="ID", help="print one candidate: idea, trials, lineage, source")
    parser.add_argument("--results", type=Path, metavar="DIR", default=RESULTS, help=f"where runs are ({RESULTS})")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 with one line on standard error."""
    parsed = _parser().parse_args(arguments)
    reading = parsed.format in ("table", "markdown")
    top = parsed.top if parsed.top != 0 else (TOP if reading else None)
    writers: dict[str, Callable[[Board], Any]] = {
        "table": lambda made: write_table(made, sys.stdout, top),
        "markdown": lambda made: sys.stdout.write(to_markdown(made, top)),
        "csv": lambda made: sys.stdout.write(to_csv(made, top)),
        "json": lambda made: sys.stdout.write(to_json(made, top)),
    }
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        if parsed.show is not None and parsed.format != "table":
            raise StoreError(f"--show prints text only, not {parsed.format}; leave out --format")
        with contextlib.closing(Store(find_run(parsed.run, parsed.results))) as store:
            records = read(store)
        if parsed.show is not None:
            write_candidate(records, parsed.show, sys.stdout)
        else:
            writers[parsed.format](board(records))
        sys.stdout.flush()
    except StoreError as error:
        if parsed.debug:
            raise
        print(f"nas.leaderboard: {one_line(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
    return 0


if __name__ == "__main__":
    sys.exit(main())
