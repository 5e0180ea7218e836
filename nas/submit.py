"""Submitting: from a confirmed candidate of a run to an entry on the board across runs; and its command line.

    python -m nas.submit RUN CANDIDATE [--name ENTRY] [--replace]
    python -m nas.submit --check FOLDER ...
    python -m nas.submit --regenerate FOLDER ...

In goes a run's store, read only; out comes a folder `results/<space>@<version>/<entry>/`, whose form is in
`nas/submitted.py`, and the README beside it, which `nas/across.py` makes. The entry has passed the check that anyone
can run before it takes its place. Nothing is trained here, and nothing leaves this machine.
"""

import argparse
import contextlib
import hashlib
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nas.across import README, check, read_folder, strangers, to_markdown
from nas.judge.belief import BASELINE_SEEDS, SEEDS
from nas.leaderboard import RESULTS, find_run
from nas.progress import one_line
from nas.records import CONFIRMING, Retraining, Value, defaults, to_plain
from nas.space import SearchSpace, SpaceError, digest, load
from nas.standings import Board, Confirmed, Records, board, read
from nas.store import Entry, Store, StoreError, locks, write_file
from nas.submitted import (
    FORMAT,
    LIMITS,
    RECORD,
    SOURCE,
    TESTS,
    EntryError,
    Submission,
    check_name,
    describe,
    folder_name,
    pack,
    parse,
    problems,
    to_json,
)

BOARDS = Path("results")
"""Where the folders of entries are."""


# ---- from a run to an entry's files


def entry_files(records: Records, candidate: int, space: SearchSpace, name: str) -> dict[str, bytes]:
    """Make the files of an entry.

    Args:
      records: of a run whose confirmation has ended.
      candidate: one of its finalists.
      space: the one that the run was made with.
      name: of the entry.
    Raises:
      EntryError: the candidate was not confirmed, or the confirmation has not ended.
    """
    made, entries = board(records), {entry.candidate.id: entry for entry in records.entries}
    _check_confirmed(records, made, candidate)
    tests = {
        one.row.candidate: [records.tests.get((row.candidate, row.place)) for row in _seeds(records, one.row.candidate)]
        for one in made.confirmed
    }
    files = {SOURCE: entries[candidate].candidate.source.encode(), TESTS: pack(tests)}
    config = records.config
    run = {key: config.get(key) for key in ("name", "seed", "budget", "created", "model", "control")}
    record = {
        "format": FORMAT,
        "entry": name,
        "candidate": candidate,
        "space": describe(space),
        "run": run,
        "rows": [_row(records, one, entries[one.row.candidate]) for one in made.confirmed],
        "baselines_left_out": _left_out(records, made),
        "accesses": dict(records.accesses),
        "versions": dict(config["versions"]),
        "machine": dict(config["machine"]),
        "sandbox": locks(config, records.messages),
        "confirmed_on": sorted({row.usage["device"] for row in records.retrainings if "device" in row.usage}),
        "cost": _cost(records, made, candidate),
        "files": {file: hashlib.sha256(content).hexdigest() for file, content in files.items()},
    }
    return files | {RECORD: to_json(record)}


def _check_confirmed(records: Records, made: Board, candidate: int) -> None:
    """Raise unless the candidate is a finalist with all its seeds, and all baselines have theirs."""
    entries = {entry.candidate.id: entry for entry in records.entries}
    again = "python -m nas.leaderboard RUN --confirm N confirms the best N candidates, and goes on where it was"
    if candidate not in entries:
        raise EntryError(f"there is no candidate {candidate} in this run; see the table's column 'id'")
    if entries[candidate].candidate.arm == "baseline":
        raise EntryError(f"candidate {candidate} is a baseline; baselines stand in the table beside every entry")
    if candidate not in {one.row.candidate for one in made.confirmed}:
        raise EntryError(f"candidate {candidate} was not confirmed; {again}")
    count = len(_seeds(records, candidate))
    if count < SEEDS:
        why = "two seeds ruled it out, or the confirmation was stopped"
        raise EntryError(f"candidate {candidate} has {count} fresh seeds, an entry wants {SEEDS}: {why}; {again}")
    for entry in _baselines(records):
        found = len(_seeds(records, entry.candidate.id))
        top = len(records.config["ladder"]["steps"]) - 1
        drawn = [row for row in records.retrainings if row.candidate == entry.candidate.id and row.purpose == "numbers"]
        # A baseline whose draws all failed, at the first rung or at the top, has no seeds and never will.
        failed = any(
            rows and all(row.point is None for row in rows)
            for rung in (0, top)
            for rows in [[row for row in drawn if row.rung == rung]]
        )
        if found < BASELINE_SEEDS and (found or not failed):
            name = one_line(entry.candidate.operator)
            raise EntryError(f"baseline {name} has {found} of {BASELINE_SEEDS} fresh seeds; {again}")


def _baselines(records: Records) -> list[Entry]:
    """Those that were admitted."""
    return [entry for entry in records.entries if entry.candidate.arm == "baseline" and entry.program is not None]


def _left_out(records: Records, made: Board) -> dict[str, str]:
    """Baselines without a confirmed row, with the reason."""
    found = {one.row.candidate for one in made.confirmed}
    return {
        entry.candidate.operator: "no draw of its numbers could be trained" if entry.program else "rejected"
        for entry in records.entries
        if entry.candidate.arm == "baseline" and entry.candidate.id not in found
    }


def _seeds(records: Records, candidate: int) -> list[Retraining]:
    return [row for row in records.retrainings if (row.candidate, row.purpose) == (candidate, "seeds")]


def _row(records: Records, one: Confirmed, entry: Entry) -> dict[str, Any]:
    """A confirmed row as an entry tells it."""
    candidate, seeds = entry.candidate, _seeds(records, one.row.candidate)
    top = len(records.config["ladder"]["steps"]) - 1
    baseline = candidate.arm == "baseline"
    return {
        "candidate": candidate.id,
        "baseline": baseline,
        "name": one.row.name,
        "idea": candidate.idea,
        "arm": candidate.arm,
        "operator": candidate.operator,
        "parents": list(candidate.parents),
        "values": to_plain(seeds[0].values),
        "recipe": to_plain(seeds[0].recipe),
        "program": _program(records, entry, seeds[0].values),
        "search": one.row.score if not baseline and one.row.rung == top else None,
        "seeds": [
            {
                "place": row.place,
                "seed": row.seed,
                "validation": row.point.score if row.point and math.isfinite(row.point.score) else None,
                "test": row.test["score"] if row.test else None,
                "failure": one_line(f"{row.failure.stage}/{row.failure.rule}") if row.failure else None,
            }
            for row in seeds
        ],
        "says": to_plain(one.belief),
    }


def _program(records: Records, entry: Entry, values: Mapping[str, Value]) -> dict[str, Any] | None:
    """Size of the program at these values of its tunables; None if the run did not keep it."""
    same = {str(t.id) for t in records.trials if t.candidate == entry.candidate.id and dict(t.values) == dict(values)}
    facts = None
    if dict(values) == defaults(entry.candidate.tunables):
        facts = entry.program
    for task in records.tasks:
        for trial, told in ((task.outcome or {}).get("programs") or {}).items():
            facts = told.get("program", facts) if trial in same else facts
    if facts is None:
        return None
    return {key: facts[key] for key in ("digest", "fingerprint")} | {k: facts["cost"][k] for k in LIMITS.values()}


def _cost(records: Records, made: Board, candidate: int) -> dict[str, Any]:
    """Device seconds and dollars, of the whole run and of the candidate."""
    search = {task.slot: (task.usage or {}).get("wall_s", 0.0) for task in records.tasks}
    own = [task.slot for task in records.tasks if task.candidate == candidate]
    again = [(r.candidate, r.usage.get("wall_s", 0.0)) for r in records.retrainings if r.purpose in CONFIRMING]
    paid = made.spending
    return {
        "candidate_search_s": round(sum(search[slot] for slot in own), 3),
        "candidate_seeds_s": round(sum(seconds for trained, seconds in again if trained == candidate), 3),
        "search_s": round(sum(search.values()), 3),
        "confirmation_s": round(sum(seconds for _, seconds in again), 3),
        "dollars": None if paid is None else float(round(paid.total_usd, 4)),
    }


# ---- into its place


def submit(run: Path, candidate: int, boards: Path = BOARDS, name: str | None = None, *, replace: bool = False) -> Path:
    """Write an entry and the README beside it.

    Args:
      run: the run's folder.
      candidate: a finalist's id.
      boards: where the folders of entries are.
      name: of the entry; None makes it of the run's name and the candidate's id.
      replace: put it in the place of another of the same name.
    Returns:
      The entry's folder.
    Raises:
      EntryError: the entry rule is not kept, or the place is taken or not fit for it.
      StoreError: the run cannot be read.
      SpaceError: its space cannot be loaded.
    """
    with contextlib.closing(Store(run)) as store:
        records = read(store)
    config = records.config
    name = check_name(name or f"{config.get('name') or run.resolve().name}-{candidate:04d}")
    space = load(config["space"])
    if digest(space) != config["space_digest"] or space.version != config["space_version"]:
        text = f"the space '{config['space_name']}' is not what it was when the run was made"
        raise EntryError(f"{text}; restore its file, or search anew with the one that is")
    files = entry_files(records, candidate, space, name)
    made = parse(files, name)
    folder = boards / folder_name(space.name, space.version)
    _check_place(folder, name)
    others = [other for other in _others(folder) if other.name != name]
    wrong = problems(made) or list(strangers(made, folder.name, others))
    if wrong:
        raise EntryError(f"candidate {candidate} cannot be entered: {wrong[0]}")
    _put(folder / name, files, replace=replace)
    write_file(folder / README, to_markdown([*others, made]).encode())
    return folder / name


def _check_place(folder: Path, name: str) -> None:
    """Raise if a link would lead what is written to another place."""
    for path in (folder, folder / name, folder / README):
        if path.is_symlink():
            raise EntryError(f"'{path}' is a symbolic link; remove it, entries are folders of their own")


def _others(folder: Path) -> Sequence[Submission]:
    if not folder.exists():
        return []
    others, wrong = read_folder(folder)
    if wrong:
        raise EntryError(f"the folder holds what is no entry ({wrong[0]}); mend or remove it first")
    return others


def _put(folder: Path, files: Mapping[str, bytes], *, replace: bool) -> None:
    """Write an entry's folder, whole or not at all."""
    if folder.exists():
        if all((folder / name).is_file() and (folder / name).read_bytes() == files[name] for name in files):
            return
        if not replace:
            raise EntryError(f"'{folder}' is another entry; give --replace to put this in its place, or another --name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (folder.with_name(f".{folder.name}.{part}.{os.getpid()}") for part in ("new", "old"))
    try:
        fresh.mkdir()
        for name, content in files.items():
            write_file(fresh / name, content)
        if folder.exists():
            folder.rename(old)
        try:
            fresh.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    finally:
        for rest in (fresh, old):
            shutil.rmtree(rest, ignore_errors=True)


def regenerate(folder: Path) -> None:
    """Write the README of a folder anew, as after entries of two branches came together.

    Raises:
      EntryError: an entry is not right.
    """
    if not folder.is_dir() or (folder / README).is_symlink():
        raise EntryError(f"'{folder}' is no folder of entries; give results/<space>@<version>")
    write_file(folder / README, to_markdown(_others(folder)).encode())


# ---- the command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        self.exit(2, f"nas.submit: {one_line(message)}; --help lists what is allowed\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m nas.submit", description="Enter a confirmed candidate on the board across runs, or check it."
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="folder or name of a run")
    parser.add_argument("candidate", nargs="?", type=int, metavar="CANDIDATE", help="id of a confirmed candidate")
    parser.add_argument("--name", metavar="ENTRY", help="name of the entry (default: the run's and the candidate's id)")
    parser.add_argument("--replace", action="store_true", help="put it in the place of an entry of the same name")
    folders = "check entries, or folders of them, from their files alone; 1 if something is wrong"
    parser.add_argument("--check", nargs="+", type=Path, metavar="FOLDER", help=folders)
    parser.add_argument("--regenerate", nargs="+", type=Path, metavar="FOLDER", help="write folders' READMEs anew")
    parser.add_argument("--results", type=Path, metavar="DIR", default=RESULTS, help=f"where runs are ({RESULTS})")
    parser.add_argument("--boards", type=Path, metavar="DIR", default=BOARDS, help=f"where entries go ({BOARDS})")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 1 if a check finds something wrong, or 2 with one line on standard error."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if sum([parsed.run is not None, parsed.check is not None, parsed.regenerate is not None]) != 1:
        parser.error("give RUN and CANDIDATE, or --check FOLDER, or --regenerate FOLDER")
    try:
        if parsed.check is not None:
            return _report(parsed.check)
        for folder in parsed.regenerate or ():
            regenerate(folder)
        if parsed.run is not None:
            if parsed.candidate is None:
                parser.error("CANDIDATE is missing: the id of a confirmed candidate")
            run = find_run(parsed.run, parsed.results)
            print(submit(run, parsed.candidate, parsed.boards, parsed.name, replace=parsed.replace))
    except (StoreError, SpaceError, EntryError, OSError) as error:
        if parsed.debug:
            raise
        print(f"nas.submit: {one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


def _report(folders: Sequence[Path]) -> int:
    found = [f"{one_line(str(folder))}: {problem}" for folder in folders for problem in check(folder)]
    for line in found:
        print(line)
    if not found:
        print(f"{len(folders)} folder{'s' * (len(folders) != 1)} checked, nothing is wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
