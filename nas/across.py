"""The board across runs: the README of a folder of submitted candidates, and the check of the folder.

    results/<space>@<version>/
      README.md     a function of the entries alone: the same entries give the same bytes
      <entry>/      see `nas/submitted.py`

In go entries that are right, out comes a table with their confirmations' baselines; one that was cached and so served
several confirmations stands there once. A claim is the one of the entry's own confirmation. Places are of the table:
all pairs on the test split, after Holm. Times stand in a table for each machine, and no two machines share one.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.judge.belief import BASELINE_SEEDS, LEVEL, SEEDS, Effect, Retrained, assess
from nas.progress import duration, one_line, short
from nas.submitted import (
    RECORD,
    SOURCE,
    EntryError,
    Submission,
    folder_name,
    plain,
    problems,
    read_entry,
    to_json,
)
from nas.tables import cut, markdown

README = "README.md"


# ---- checking


def check(folder: Path) -> list[str]:
    """Check an entry, or a folder of them with its README; what is wrong, in one line each, nothing if all is well."""
    if (folder / RECORD).exists():
        return _check_one(folder)
    if not folder.is_dir():
        return [f"{folder}: there is no such folder; give results/<space>@<version>, or an entry in it"]
    return check_folder(folder)


def _check_one(folder: Path) -> list[str]:
    """Check one entry; beside what is in it, that it stands where it belongs, if it stands in a folder of entries."""
    parent = folder.resolve().parent.name
    try:
        entry = read_entry(folder)
        wrong = problems(entry) or _unprintable(entry)
        wrong = wrong or list(strangers(entry, parent, []) if "@" in parent else [])
    except EntryError as error:
        wrong = [str(error)]
    return [f"{plain(folder.name)}: {problem}" for problem in wrong]


def check_folder(folder: Path) -> list[str]:
    """Check a folder's entries, that they may share a table, and that the README is the one that they give."""
    good, found = read_folder(folder)
    readme = folder / README
    if not good and not found:
        return [f"{plain(folder.name)}: holds no entry"]
    if readme.is_symlink() or not readme.is_file():
        found.append(f"{README}: is missing, or no file of its own; --regenerate writes it")
    elif not found and readme.read_bytes() != to_markdown(good).encode():
        found.append(f"{README}: is not what the entries give; --regenerate writes it anew")
    return found


def read_folder(folder: Path) -> tuple[list[Submission], list[str]]:
    """The entries of a folder that are right, by name, and what is wrong with the others, in one line each."""
    good: list[Submission] = []
    found: list[str] = []
    # What its owner hides is not looked at: no table is made of it.
    for path in sorted(path for path in folder.iterdir() if path.name != README and not path.name.startswith(".")):
        try:
            entry = read_entry(path)
            wrong = problems(entry) or list(strangers(entry, folder.resolve().name, good)) or _unprintable(entry)
        except EntryError as error:
            wrong = [str(error)]
        else:
            good += [] if wrong else [entry]
        found += [f"{plain(path.name)}: {problem}" for problem in wrong]
    return good, found


def strangers(entry: Submission, folder: str, others: Sequence[Submission]) -> Iterator[str]:
    """Why an entry that is right may not stand in a folder of this name, beside these others."""
    space = entry.record["space"]
    expected = folder_name(space["name"], space["version"])
    if folder != expected:
        yield f"is of {plain(expected)} and stands in {plain(folder)}; two versions of a space never share a table"
    for other in others[:1]:
        keys = [key for key in sorted(space) if space[key] != other.record["space"].get(key)]
        if keys:
            yield f"its space differs from that of {other.name} in {', '.join(keys)}; raise the space's version"
    for other in others:
        mine, its = entry.record["files"], other.record["files"]
        if entry.name != other.name and (entry.record["candidate"], mine) == (other.record["candidate"], its):
            yield f"repeats {other.name}"


def _unprintable(entry: Submission) -> list[str]:
    try:
        to_markdown([entry])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        return [f"{RECORD} is not an entry's record: {plain(f'{type(error).__name__}: {error}')}"]
    return []


# ---- the README


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A row of the table: of an entry, or of a baseline, which has no entry's name."""

    entry: str
    row: Mapping[str, Any]
    told: Retrained
    baselines: Mapping[int, str]


def to_markdown(entries: Sequence[Submission]) -> str:
    """The README of a folder, of entries that are right and may share it; byte-stable, whatever their order."""
    entries = sorted(entries, key=lambda entry: entry.name)
    if not entries:
        return "No entry yet.\n"
    space = entries[0].record["space"]
    direction = "higher" if space["maximize"] else "lower"
    title = folder_name(space["name"], space["version"])
    looks = {to_json(entry.record["run"]): entry.record["accesses"]["test"] for entry in entries}
    head = [
        f"# {markdown(title)}",
        "",
        f"Score: {markdown(space['metric'])} on the {space['test_split']['examples']:,} examples of the test split, "
        f"{direction} is better, after {space['steps'][-1]:,} training steps. Limits: {_limits(space['contract'])}. "
        "Other versions of this space have tables of their own.",
        "",
    ]
    notes = [
        "",
        f"- Each row was trained again with n fresh seeds ({SEEDS} or more; baselines {BASELINE_SEEDS} or more) and "
        "scored once on the test split: mean ± standard error.",
        f"- Claim: better than every baseline of its own confirmation, p ≤ {LEVEL:g} after Holm over all its "
        "finalists, also those that are not here. Over: against the best of these baselines, with the interval that "
        "misses one in twenty.",
        "- Place: what the test score allows among all rows of this table, all pairs, Holm. Entries were submitted "
        "after their test scores were known, and the best of many is partly luck.",
        "- Luck: score of the search minus fresh validation. Reuse: validation minus test, less the baselines' mean "
        f"of the same. The runs looked at the test split {sum(looks.values()):,} times.",
        "- Baselines: their numbers come from draws of their own; several rows of one name are of several "
        "confirmations.",
        f"- This page is made from the entries; `python -m nas.submit --check results/{title}` repeats their sums "
        "from the results on single examples. That the trainings took place is shown only by repeating them.",
    ]
    return "\n".join([*head, *_results(entries), *notes, *_costs(entries), *_details(entries)]) + "\n"


def _limits(contract: Mapping[str, Any]) -> str:
    names = {"max_params": "parameters", "max_flops": "FLOPs of an inference", "max_memory_bytes": "bytes of a step"}
    told = [f"{contract[key]:,} {name}" for key, name in names.items() if contract.get(key) is not None]
    return ", ".join(told) or "none"


def _lines(entries: Sequence[Submission]) -> list[_Line]:
    """The entries' own rows, and each different row of a baseline once."""
    own, others = [], {}
    for entry in entries:
        baselines = {row["candidate"]: row["name"] for row in entry.record["rows"] if row["baseline"]}
        for row, told in zip(entry.record["rows"], entry.rows, strict=True):
            line = _Line(entry=entry.name, row=row, told=told, baselines=baselines)
            if row is entry.own:
                own.append(line)
            elif row["baseline"]:
                trained = {key: row[key] for key in ("operator", "values", "recipe", "seeds")}
                key = hashlib.sha256(to_json(trained) + told.test.tobytes()).hexdigest()
                others.setdefault(key, replace(line, entry=""))
    return own + [others[key] for key in sorted(others)]


def _results(entries: Sequence[Submission]) -> list[str]:
    """The table, best first on the test split."""
    space, lines = entries[0].record["space"], _lines(entries)
    numbered = [replace(line.told, candidate=number) for number, line in enumerate(lines)]
    ranks = [belief.rank for belief in assess(numbered, space["maximize"])]
    sign = 1 if space["maximize"] else -1

    def height(number: int) -> tuple[bool, float, int]:
        test = lines[number].row["says"]["test"]
        return test is None, -sign * test["value"] if test else 0.0, number

    columns = (
        "place", "entry", "idea or name", "claim", "p", "test", "±", "over", "fresh val", "±", "n", "luck", "±",
        "reuse", "±", "params", "FLOPs", "arm",
    )  # fmt: skip
    left = ("place", "entry", "idea or name", "claim", "over", "arm")
    table = ["| " + " | ".join(columns) + " |", "|" + "|".join(":--" if c in left else "--:" for c in columns) + "|"]
    for number in sorted(range(len(lines)), key=height):
        cells = _cells(lines[number], ranks[number], space["decimals"])
        table.append("| " + " | ".join(cells) + " |")
    return table


def _cells(line: _Line, rank: tuple[int, int] | None, digits: int) -> list[str]:
    row, says = line.row, line.row["says"]
    first, last = rank or (None, None)
    claim = says["claim"]
    failed = f" ({says['failed']} failed)" if says["failed"] else ""
    return [
        "–" if first is None else f"{first}" if first == last else f"{first}–{last}",
        f"[{line.entry}]({line.entry}/{SOURCE})" if line.entry else "",
        markdown(cut(one_line(str(row["name"])))) or "(no idea given)",
        _claim(claim),
        "" if claim is None else f"{claim['adjusted']:.2g}",
        *_estimate(says["test"], digits),
        _over(claim, line.baselines, digits),
        *_estimate(says["validation"], digits),
        f"{says['seeds']}{failed}",
        *_estimate(says["luck"], digits, "+"),
        *_estimate(says["split_reuse"], digits, "+"),
        _count(row["program"], "params"),
        _count(row["program"], "flops"),
        "baseline" if row["baseline"] else markdown(one_line(str(row["arm"]))),
    ]


def _claim(claim: Mapping[str, Any] | None) -> str:
    if claim is None:
        return "–"
    return "**yes**" if claim["claimed"] else f"no: {claim['barred']}" if claim["barred"] else "no"


def _estimate(estimate: Mapping[str, Any] | None, digits: int, sign: str = "") -> tuple[str, str]:
    if estimate is None:
        return "–", "–"
    error = estimate["error"]
    return f"{estimate['value']:{sign}.{digits}f}", "–" if error is None else f"{error:.{digits}f}"


def _over(claim: Mapping[str, Any] | None, baselines: Mapping[int, str], digits: int) -> str:
    effect = claim["effect"] if claim else None
    if effect is None:
        return ""
    low, high = (f"{end:+.{digits}f}" for end in Effect(**effect).interval())
    name = markdown(one_line(str(baselines[effect["against"]])))
    return f"{name} {effect['value']:+.{digits}f} \\[{low}, {high}\\]"


def _count(program: Mapping[str, Any] | None, key: str) -> str:
    return "–" if program is None else short(program[key])


def _costs(entries: Sequence[Submission]) -> list[str]:
    """What the entries' runs cost, in a table for each machine."""
    machines: dict[str, list[Submission]] = {}
    for entry in entries:
        machines.setdefault(device(entry.record), []).append(entry)
    lines = ["", "## Cost"]
    for name in sorted(machines):
        lines += ["", f"On {markdown(name)}:", ""]
        lines += ["| entry | candidate's search | its seeds | whole search | whole confirmation | dollars |"]
        lines += ["|:--|--:|--:|--:|--:|--:|"]
        for entry in machines[name]:
            cost = entry.record["cost"]
            keys = ("candidate_search_s", "candidate_seeds_s", "search_s", "confirmation_s")
            dollars = "–" if cost["dollars"] is None else f"{float(cost['dollars']):.2f}"
            lines.append(f"| {entry.name} | " + " | ".join([*(duration(cost[key]) for key in keys), dollars]) + " |")
    return [
        *lines,
        "",
        "Device time: seconds in which a job held a core or an accelerator. What was cached is not in it.",
    ]


def device(record: Mapping[str, Any]) -> str:
    """The machine and the versions of an entry in words; only times of the same one are compared."""
    kept = {key: value for key, value in record["machine"].items() if key not in ("nproc_per_trial", "workers")}
    told = [str(kept.pop(key, "")) for key in ("device", "processor", "system")]
    told += [f"python {kept.pop('python')}"] if "python" in kept else []
    told += [f"{name} {version}" for name, version in sorted(record["versions"].items())]
    mark = hashlib.sha256(to_json(kept)).hexdigest()[:6]  # vector instructions, too long to print
    return one_line(", ".join([*(text for text in told if text), f"features {mark}"]))


def _details(entries: Sequence[Submission]) -> list[str]:
    """What can be said of each entry in a few lines."""
    lines = ["", "## Entries"]
    for entry in entries:
        record, row = entry.record, entry.own
        run, parents = record["run"], ", ".join(map(str, row["parents"])) or "none"
        finalists = sum(not other["baseline"] for other in record["rows"])
        numbers = {**row["recipe"], **row["values"]}
        told = ", ".join(f"{key} {_value(value)}" for key, value in sorted(numbers.items())) or "none"
        model = f", model {run['model']}" if run.get("model") else ""
        lost = ", ".join(f"{name}: {why}" for name, why in sorted(record["baselines_left_out"].items()))
        lines += ["", f"### {entry.name}", ""]
        lines += [
            f"- {markdown(one_line(text))}"
            for text in (
                row["idea"] or "(no idea given)",
                f"By {row['arm']} ({row['operator'] or 'no operator'}); made from candidates: {parents}",
                f"Numbers: {told}",
                f"Run {run['name']}: seed {run['seed']}, {run['budget']:,} candidates{model}; {finalists} finalists",
                f"Sandbox: {record.get('sandbox') or 'how candidates were locked was not kept'}",
                f"Rank in its confirmation: {_rank(row['says']['rank'])} of {len(record['rows'])}",
                *([f"Baselines that could not be confirmed: {lost}"] if lost else []),
            )
        ]
    return lines


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rank(rank: Sequence[int] | None) -> str:
    return "none" if rank is None else f"{rank[0]}" if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}"
