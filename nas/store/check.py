"""Whether a run is whole: every reference, checksum and invariant of its database and its files.

In goes a run, open for reading; out come findings, each with what to do about it. Nothing is changed here. A run that
was killed at any moment has none but files that were being written; see `nas.store` for what is kept where.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from nas.judge.doubt import Doubt
from nas.llm import LlmError
from nas.llm.transcript import Transcript
from nas.records import Point, hash_blobs
from nas.store import DamagedError, Store, StoreError, repeatable
from nas.train import checkpoint

TOLERANCE = 1e-6
"""By how much a score on the test split may differ from the mean of what its file holds: it has single precision."""

COPY = "Take a copy of the folder."
RECOVER = "save what can be read with `sqlite3 run.db .recover`, or take a copy of the folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
      what: in a sentence.
      remedy: how to mend it, or what follows.
      lost: whether something is gone that the run cannot make again.
    """

    what: str
    remedy: str
    lost: bool = False


def check(store: Store) -> tuple[dict[str, int], list[Finding]]:
    """Look at everything that a run has stored.

    Returns:
      How many of each kind there are, and what was found, the worst first.
    Raises:
      StoreError: the database cannot be read at all.
    """
    looks: Sequence[Callable[[Store], Iterator[Finding]]] = (
        _database, _configuration, _numbers, _references, _slots, _scores, _checksums, _sources, _programs, _data,
        _checkpoints, _retrainings, _transcript, _leftovers,
    )  # fmt: skip
    tables = {
        "tasks": "nas_task", "candidates": "nas_candidate", "trials": "nas_trial", "scores": "nas_score",
        "fresh trainings": "nas_retraining",
    }  # fmt: skip
    try:
        found = dict.fromkeys(finding for look in looks for finding in _looked(look, store))
        counted = {name: _column(store, f"SELECT count(*) FROM {table}")[0] for name, table in tables.items()}
    except DatabaseError as error:
        text = f"the database {store.path} cannot be read ({' '.join(str(error.orig).split())}); {RECOVER}"
        raise StoreError(text) from error
    return counted, sorted(found, key=lambda finding: not finding.lost)


def _looked(look: Callable[[Store], Iterator[Finding]], store: Store) -> Iterator[Finding]:
    """What a look found, and what kept it from seeing the rest, which other looks may find as well."""
    try:
        yield from look(store)
    except DamagedError as error:
        yield Finding(what=error.what, remedy=f"{error.remedy[0].upper()}{error.remedy[1:]}.", lost=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        what = f"the look at {look.__name__.removeprefix('_')} came to no end ({reason})"
        yield Finding(what=what, remedy="Mend what else is found, then look again.", lost=True)


def _column(store: Store, query: str) -> list[Any]:
    """The first column of what a query gives."""
    with store.engine.connect() as connection:
        return [row[0] for row in connection.execute(sa.text(query))]


def _database(store: Store) -> Iterator[Finding]:
    if not store.url.startswith("sqlite"):
        return
    with store.engine.connect() as connection:
        for (said,) in connection.execute(sa.text("PRAGMA integrity_check")):
            if said != "ok":
                yield Finding(what=f"the database is damaged: {said}", remedy=f"{RECOVER}.", lost=True)


def _configuration(store: Store) -> Iterator[Finding]:
    with store.engine.connect() as connection:
        kept = connection.execute(sa.text("SELECT config FROM nas_run")).scalar()
    if kept is None:
        yield Finding(what="the run was never begun", remedy="Start a new one; nothing is in it.")
    elif (json.loads(kept) if isinstance(kept, str) else kept) != repeatable(store.config):
        remedy = "Put run.json back as it was; the table nas_run has its content."
        yield Finding(what="run.json is not what the run was begun with", remedy=remedy)


def _numbers(store: Store) -> Iterator[Finding]:
    """Numbers have no holes but those that a task holds for what it may still make, or never made."""
    tasks = store.tasks()
    held = {"candidates": {task.candidate for task in tasks if task.outcome is None}}
    held["trials"] = {trial for task in tasks for trial in task.decision.get("reserved", ())}
    for name, ids in {
        "candidates": [entry.candidate.id for entry in store.entries()],
        "trials": [trial.id for trial in store.trials()],
    }.items():
        absent = sorted(set(range(1, max(ids, default=0) + 1)) - set(ids) - held[name])
        if absent:
            yield Finding(what=f"{name} {_some(absent)} are missing", remedy=COPY, lost=True)


def _references(store: Store) -> Iterator[Finding]:
    """Rows name rows that are there, and that were there before them."""
    slots, candidates = {task.slot for task in store.tasks()}, {entry.candidate.id for entry in store.entries()}
    trials = {trial.id: trial for trial in store.trials()}

    def broken(kind: str, rows: Iterable[Any], why: str) -> Iterator[Finding]:
        if found := sorted(rows):
            yield Finding(what=f"{kind} {_some(found)}: {why}", remedy=COPY, lost=True)

    entries = store.entries()
    yield from broken("candidates", (e.candidate.id for e in entries if e.slot not in slots), "their task is missing")
    later = (e.candidate.id for e in entries if any(not 0 < p < e.candidate.id for p in e.candidate.parents))
    yield from broken("candidates", later, "a parent is none that was there before")
    yield from broken("trials", (t.id for t in trials.values() if t.candidate not in candidates), "no such candidate")
    tasks = [task for task in store.tasks() if task.candidate and task.kind != "admit"]
    yield from broken("tasks", (task.slot for task in tasks if task.candidate not in candidates), "no such candidate")
    scores = store.scores()
    yield from broken("scores of trials", {s.trial for s in scores if s.trial not in trials}, "no such trial")
    yield from broken("scores of trials", {s.trial for s in scores if s.slot not in slots}, "their task is missing")
    rows = store.retrainings()
    yield from broken(
        "fresh trainings of", {r.candidate for r in rows if r.candidate not in candidates}, "no such candidate"
    )


def _slots(store: Store) -> Iterator[Finding]:
    """A trial has a task, and a task that is not over has no scores: both are stored at once."""
    lone = _column(store, "SELECT id FROM nas_trial WHERE slot NOT IN (SELECT slot FROM nas_task) ORDER BY id")
    if lone:
        yield Finding(what=f"trials {_some(lone)}: their task is missing", remedy=COPY, lost=True)
    scored = {score.slot for score in store.scores()}
    early = [task.slot for task in store.tasks() if task.outcome is None and task.slot in scored]
    if early:
        what = f"tasks {_some(early)} have scores and no outcome"
        yield Finding(what=what, remedy=f"It cannot be run again beside them. {COPY}", lost=True)


def _checksums(store: Store) -> Iterator[Finding]:
    """Scores and outcomes are those that were stored."""
    if parts := store.changed():
        more = f" and {len(parts) - 5} more" if len(parts) > 5 else ""
        what = f"what was stored of {', '.join(parts[:5])}{more} is not what was written"
        yield Finding(what=what, remedy=f"Do not believe its scores. {COPY}", lost=True)


def _scores(store: Store) -> Iterator[Finding]:
    """A trial has a score at every rung below one that it has a score at, in ascending steps, and of either kind."""
    steps = store.config["ladder"]["steps"]
    rungs: dict[int, list[tuple[int, Point | None]]] = {}
    for score in store.scores():
        rungs.setdefault(score.trial, []).append((score.rung, score.point))
        if (score.point is None) == (score.failure is None):
            what = f"trial {score.trial} at rung {score.rung} has {'neither' if score.point is None else 'both'}"
            yield Finding(what=f"{what} a score and a failure", remedy=COPY, lost=True)
        elif score.point is not None and (not 0 <= score.rung < len(steps) or score.point.step != steps[score.rung]):
            what = f"trial {score.trial} was scored at {score.point.step} steps, which is not rung {score.rung}"
            yield Finding(what=what, remedy=COPY, lost=True)
    for trial, rung in _undoubted(store):
        what = f"trial {trial} has a score at rung {rung} that was to be repeated with other data, and was not"
        yield Finding(what=what, remedy="Do not believe it; take a copy of the folder.", lost=True)
    for trial, found in rungs.items():
        places = [rung for rung, _ in found]
        if places != list(range(len(places))):
            what = f"trial {trial} has scores at rungs {_some(places)} and none between"
            yield Finding(what=what, remedy=COPY, lost=True)


def _undoubted(store: Store) -> list[tuple[int, int]]:
    """Trial and rung of the scores that were too good to be believed at once, and yet were."""
    plain = {task.slot: task.decision.get("doubt") for task in store.tasks()}
    fields = {"beyond", "enough", "maximize"}
    doubts = {slot: Doubt(**doubt) for slot, doubt in plain.items() if doubt and set(doubt) == fields}
    return [
        (score.trial, score.rung)
        for score in store.scores()
        if score.slot in doubts and score.point is not None
        and doubts[score.slot].strikes(score.point.score)
        and (score.point.again is None or not doubts[score.slot].settled(score.point.again))
    ]  # fmt: skip


def _sources(store: Store) -> Iterator[Finding]:
    for entry in store.entries():
        path = store.source_path(entry.candidate.id)
        try:
            same = path.read_bytes() == entry.candidate.source.encode()
        except OSError:
            same = False
        if not same:
            what = f"{path.name} is missing or is not what was stored"
            remedy = f"The database has it: `python -m nas.leaderboard {store.folder} --show {entry.candidate.id}`."
            yield Finding(what=what, remedy=remedy)


def _programs(store: Store) -> Iterator[Finding]:
    trained = [task.outcome.get("programs", {}).values() for task in store.tasks() if task.outcome]
    known = {facts["program"]["digest"] for each in trained for facts in each if "program" in facts}
    known |= {entry.program["digest"] for entry in store.entries() if entry.program is not None}
    for digest in sorted(known):
        path = store.program_path(digest)
        try:
            whole = hash_blobs(msgpack.unpackb(path.read_bytes())) == digest
        except (OSError, ValueError, KeyError, TypeError, msgpack.UnpackException):
            whole = False
        if not whole:
            what = f"programs/{digest[:12]}… is missing or damaged"
            remedy = "Its trials can be neither promoted nor confirmed; scores that it has stay. Take it from a copy."
            yield Finding(what=what, remedy=remedy, lost=True)


def _checkpoints(store: Store) -> Iterator[Finding]:
    for path in sorted((store.folder / "checkpoints").glob("[0-9]*.safetensors")):
        if (why := checkpoint.unreadable(path)) is not None and path.exists():
            remedy = "Remove it: if the trial is promoted, it is trained again from the rung before, to the same bits."
            yield Finding(what=f"checkpoint {path.name} cannot be read: {why}", remedy=remedy)


def _retrainings(store: Store) -> Iterator[Finding]:
    """What fresh seeds scored on the test split is in their files."""
    again = (
        f"Remove it and `python -m nas.leaderboard {store.folder} --confirm N`; the split is then looked at once more."
    )
    for row in store.retrainings():
        if row.test is not None:
            path = store.test_path(row.candidate, row.place)
            try:
                scores = np.load(path)["scores"]
                mean = float(scores.mean(dtype=np.float64))
                same = len(scores) == row.test["examples"] and abs(mean - row.test["score"]) <= TOLERANCE * max(
                    1, abs(mean)
                )
            except (OSError, ValueError, KeyError, EOFError):
                same = False
            if not same:
                what = f"test/{path.name} is missing, damaged, or not what was scored"
                yield Finding(what=what, remedy=again, lost=True)
        weights = store.weights_path(row.candidate, row.place)
        if row.purpose == "seeds" and weights.exists() and (why := checkpoint.unreadable(weights)) is not None:
            remedy = "This seed cannot be exported; its scores stay. Export another one, or take the file from a copy."
            yield Finding(what=f"weights {weights.name} cannot be read: {why}", remedy=remedy, lost=True)


def _data(store: Store) -> Iterator[Finding]:
    for folder in store.data_folders():
        when = "run is resumed" if folder == store.data_note.parent else "same `python -m nas.scale` is run again"
        for name in store.damaged_data(folder):
            what = f"{(folder / name).relative_to(store.folder)} is gone or not what it was made as"
            remedy = f"It is made again when the {when}. What was trained in between was trained on what is there."
            yield Finding(what=what, remedy=remedy)


def _transcript(store: Store) -> Iterator[Finding]:
    transcript = Transcript(store.folder / "transcript")
    try:
        transcript.settled()
    except LlmError as error:
        remedy = "What that call cost is not known, so the model is asked no more; mend or remove the file."
        yield Finding(what=str(error), remedy=remedy, lost=True)
    for text in transcript.damaged:
        yield Finding(what=text, remedy="That call is made again if the run is resumed before it was acted upon.")


def _leftovers(store: Store) -> Iterator[Finding]:
    """Files under a temporary name: `.name.pid` of a process that was killed while it wrote."""
    folders = ("candidates", "programs", "data", "checkpoints", "test", "transcript")
    found = [
        path for part in folders for path in (store.folder / part).rglob(".*") if re.search(r"\.[0-9]+$", path.name)
    ]
    if found:
        names = ", ".join(str(path.relative_to(store.folder)) for path in sorted(found)[:3])
        what = f"{len(found)} files were being written when something was killed ({names}{', …' * (len(found) > 3)})"
        yield Finding(what=what, remedy="Nothing reads them; remove them when no search is at work there.")


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
