"""One candidate of a run, for `python -m nas.leaderboard RUN --show ID`: idea, source, failure, curve, lineage."""

from collections.abc import Mapping
from decimal import Decimal
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.progress import one_line, plain_console, short, size, visible
from nas.records import Failure, Point, Value
from nas.standings import Records, Row, rank, reason, untraced
from nas.store import Entry, StoreError

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
    console = plain_console(stream)
    title = f"candidate {_described(entry, rows.get(candidate), records)}"
    console.print(Text(title, style="bold"))
    for line in entry.candidate.idea.splitlines():
        console.print(Text(one_line(line)))
    console.print(Text(_program(entry)))
    for line in _written(records, entry):
        console.print(Text(one_line(line)))
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
        parts.append(f"rejected {reason(entry.failure)}")
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


def _written(records: Records, entry: Entry) -> list[str]:
    """What the model that wrote a candidate claimed for it, and what it took."""
    task = next((task for task in records.tasks if task.slot == entry.slot), None)
    outcome, usage = (task.outcome or {}, task.usage or {}) if task else ({}, {})
    said = [f"{name}: {text}" for name, text in outcome.get("claims", {}).items() if text]
    said += [f"sent back: {Failure(**draft['failure'])}" for draft in outcome.get("drafts", ())]
    calls = usage.get("calls", ())
    if calls:
        costs = [call["usd"] for call in calls]
        dollars = "at a price that is not known" if None in costs else f"for ${sum(map(Decimal, costs)):.4f}"
        said.append(f"written in {len(calls)} calls {dollars}")
    return said


def _write_trials(console: Console, records: Records, candidate: int) -> None:
    """Each trial with its numbers, and its curve: a line for each rung."""
    digits, steps = records.config["decimals"], records.config["ladder"]["steps"]
    trials = [trial for trial in records.trials if trial.candidate == candidate]
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("trial", "arm", "steps", "train loss", "loss", "score", "seed", "numbers"):
        right = heading in ("trial", "steps", "train loss", "loss", "score", "seed")
        table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "numbers")
    failures, by_task = [], list[str]()
    at_values = untraced(records.tasks)
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
            if point.again is not None:
                by_task.append(
                    f"trial {trial.id} at {point.step:,}: too good to be believed at once; trained again with other "
                    f"data it came to {point.again:.{digits}f}, so it counts"
                )
            by_task += _by_task(trial.id, point, digits, len(records.config.get("parts", ())))
        if trial.id in at_values:
            failures.append(f"trial {trial.id} gave no program: {at_values[trial.id]}")
    console.print(Text("\ntrials" if trials else "\nno trials", style="bold"))
    if table.row_count:
        console.print(table)
    for text in (*by_task, *failures):
        console.print(Text(one_line(text)))


def _by_task(trial: int, point: Point, digits: int, tasks: int) -> list[str]:
    """A point's scores of each task, as a line, where a space has several."""
    if not point.parts:
        return []
    scores = ", ".join(f"{name} {score:.{digits}f}" for name, score in point.parts.items())
    why = "; left there, and its score is what these let expect" if len(point.parts) < tasks else ""
    return [f"trial {trial} at {point.step:,}: {scores}{why}"]


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
