"""A door to a search for programs of one's own: what is known, what to try, what became of it. In plain Python.

    door = open_door(Path("results/runs/NAME"))
    asked = door.ask()                           # the task, its limits, the API page, the best so far, what is left
    ticket = door.tell(source, author="my program", parents=[7])
    result = door.wait(ticket, timeout_s=600)    # rejected and why, or admitted with its scores

`ask` and `tell` are public names. What is told enters the search like any other proposal: it is admitted, trained and
judged by the same rules, costs one candidate of the budget if it is admitted and nothing if not. The search may run,
or be resumed later; this process reads its store, read only, and leaves messages in its inbox. Nothing here trains,
asks a model or needs a key. All that is handed out has a bounded size, whatever was written into the run.
"""

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nas import inbox
from nas.admit import admit, drive
from nas.admit.gate import check
from nas.execute import Unlocked, chosen_sandbox
from nas.execute.local import LocalExecutor
from nas.history import failure_of_duplicate
from nas.progress import one_line, readable
from nas.propose.shown import text_of
from nas.records import Failure, Value, defaults
from nas.space import Contract, Ladder, Recipe, SearchSpace, Spec, load
from nas.standings import Records, Row, rank, read, untraced
from nas.store import Entry, Store, StoreError, Task

TOP = 10
"""Rows of the board unless more are asked for."""
ROWS = 50
"""Most rows of the board."""
PARENTS = 8
"""Most parents of a proposal."""
WAITING = 64
"""Most proposals that may wait for a search to take them up."""
TEXT_LENGTH = 2_000
"""Most characters of what is said beside a proposal."""
LINE_LENGTH = 300
"""Most characters of an idea, an author or a name that is handed out."""
MESSAGE_LENGTH = 1_500
"""Most characters of a failure's message that are handed out."""
SOURCE_LENGTH = 20_000
"""Most characters of a source that are handed out; the gate admits none that is longer."""
TRIALS = 20
"""Most trials of a candidate that are handed out, those that got furthest."""
CHILDREN = 50
"""Most children of a candidate that are handed out."""
NOTES = 5
"""Most notes of people that are handed out, the newest."""
POLL_S = 0.5
"""Time between two looks at the store while waiting [s]."""

_FACTS = ("cost", "traits", "profile", "fingerprint")
_TICKET = re.compile(r"[0-9a-f]{1,32}")


class Rejected(ValueError):
    """A proposal that the gate turned away, so that it was not sent; the message names each line and its remedy.

    Attributes:
      failures: what is wrong with it, in the order of lines.
    """

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__("\n".join(str(failure) for failure in failures))
        self.failures = tuple(failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What whoever proposes should know now.

    Attributes:
      space: name of the space.
      version: its version.
      scope: which class a candidate defines.
      guidance: a page on the task.
      metric: the score's name.
      maximize: whether a higher score is better.
      spec: the sizes that are fixed.
      contract: shapes and limits.
      recipe: how every candidate is trained.
      ladder: at which steps trials are scored, and how many go on.
      api: the page on how a candidate is written.
      best: the best candidates, best first, without baselines.
      baselines: the baselines.
      takes: whether the search takes proposals; it does while `left` is above 0.
      left: candidates that the budget still has room for; a rejected one gives its place back.
      budget: candidates that are admitted to the first rung in all.
      kind: name of the kind of change that was last asked for, a key of `nas.propose.prompt.KINDS`; empty if none was.
      notes: what people have said, the newest last.
    """

    space: str
    version: int
    scope: str
    guidance: str
    metric: str
    maximize: bool
    spec: Spec
    contract: Contract
    recipe: Recipe
    ladder: Ladder
    api: str
    best: Sequence[Row]
    baselines: Sequence[Row]
    takes: bool
    left: int
    budget: int
    kind: str
    notes: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a proposal.

    Attributes:
      ticket: which.
      status: `waiting` to be taken up or admitted, `rejected`, or `admitted`.
      settled: it was rejected, or its first rung has ended; before that nothing is decided.
      candidate: its id, once it is taken up.
      failure: why it was rejected; of an admitted one why a trial ended, if none has a score.
      scores: (training steps, best score of its trials there), for each rung that it has reached.
      rank: place on the board, from 1.
      of: rows on the board.
    """

    ticket: str
    status: Literal["waiting", "rejected", "admitted"]
    settled: bool = False
    candidate: int | None = None
    failure: Failure | None = None
    scores: Sequence[tuple[int, float]] = ()
    rank: int | None = None
    of: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What admission would say of a source.

    Attributes:
      admitted: whether it passes.
      facts: of one that passes: `cost`, `traits`, `profile` (share of FLOPs by operation), `fingerprint`.
      failures: of one that does not: each with rule, line and remedy.
    """

    admitted: bool
    facts: Mapping[str, Any]
    failures: Sequence[Failure] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A trial of a candidate.

    Attributes:
      trial: its id.
      numbers: its own tunables and the recipe's.
      curve: (training steps, training loss, validation loss, score), ascending.
      failure: why it ended, if it failed.
    """

    trial: int
    numbers: Mapping[str, Value]
    curve: Sequence[tuple[int, float, float, float]]
    failure: Failure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A candidate of the run.

    Attributes:
      candidate: its id.
      arm: who wrote it.
      operator: what the proposer did, or a baseline's name.
      idea: its docstring.
      source: its module.
      parents: what it was made from.
      children: what was made from it, the newest if there are many.
      facts: `cost`, `traits`, `profile` and `fingerprint` of its program; empty if it was not admitted.
      failure: why it was rejected.
      trials: those that got furthest first.
      rank: place on the board, from 1; None without a score.
    """

    candidate: int
    arm: str
    operator: str
    idea: str
    source: str
    parents: Sequence[int]
    children: Sequence[int]
    facts: Mapping[str, Any]
    failure: Failure | None
    trials: Sequence[Training]
    rank: int | None


def open_door(run: Path | str) -> "Door":
    """Open the door to a search in a run's folder, whether it runs or is resumed later.

    Raises:
      StoreError: the folder holds no run that can be read.
      SpaceError: the run's space cannot be loaded.
    """
    return Door(Path(run))


class Door:
    """See the module's docstring. Holds nothing open between calls; may be used by several threads.

    Every method may raise `StoreError`: the run is gone, damaged, or of another version.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        with self._store() as store:
            self.reference: str = read(store).config["space"]
        self.space: SearchSpace = load(self.reference)
        self._one_at_a_time = threading.Lock()

    # ---- what is known

    def ask(self, top: int = TOP) -> Asked:
        """What whoever proposes should know now.

        Args:
          top: most rows of the best candidates, 1 to `ROWS`.
        """
        if not 1 <= top <= ROWS:
            raise ValueError(f"top={top}: 1 to {ROWS} rows are handed out")
        with self._store() as store:
            records, heard = read(store), store.messages()
        space, rows = self.space, [replace(row, name=row.name[:LINE_LENGTH]) for row in rank(records)]
        said = {kind: [m["content"]["text"] for m in heard if m["kind"] == kind] for kind in ("note", "kind")}
        left = _left(records)
        return Asked(
            space=space.name,
            version=space.version,
            scope=space.scope,
            guidance=space.guidance.strip()[:SOURCE_LENGTH],
            metric=space.task.metric,
            maximize=space.task.maximize,
            spec=space.spec,
            contract=space.contract,
            recipe=space.recipe,
            ladder=space.ladder,
            api=text_of("candidate"),
            best=[row for row in rows if row.arm != "baseline"][:top],
            baselines=[row for row in rows if row.arm == "baseline"],
            takes=left > 0,
            left=left,
            budget=records.config["budget"],
            kind=one_line(said["kind"][-1])[:LINE_LENGTH] if said["kind"] else "",
            notes=[one_line(text)[:LINE_LENGTH] for text in said["note"][-NOTES:]],
        )

    def design(self, candidate: int) -> Design:
        """One candidate: idea, source, cost, curves, failure, lineage.

        Raises:
          ValueError: there is no such candidate.
        """
        with self._store() as store:
            records = read(store)
        entry = next((entry for entry in records.entries if entry.candidate.id == candidate), None)
        if entry is None:
            last = max((entry.candidate.id for entry in records.entries), default=0)
            raise ValueError(f"there is no candidate {candidate} in this run; it has 1 to {last} so far")
        found = entry.candidate
        children = [e.candidate.id for e in records.entries if candidate in e.candidate.parents]
        place = next((row.rank for row in rank(records) if row.candidate == candidate), None)
        return Design(
            candidate=candidate,
            arm=one_line(found.arm),
            operator=one_line(found.operator)[:LINE_LENGTH],
            idea=one_line(found.idea)[:LINE_LENGTH],
            source=readable(found.source)[:SOURCE_LENGTH],
            parents=found.parents[:PARENTS],
            children=children[-CHILDREN:],
            facts=_facts(entry.program or {}),
            failure=entry.failure and _short(entry.failure),
            trials=_trainings(records, candidate)[:TRIALS],
            rank=place,
        )

    # ---- what to try

    def admit(self, source: str) -> Checked:
        """Find out whether a source would be admitted; free, and nothing of it is kept.

        It passes the gate, is traced at its defaults in a confined process for the processor of this machine, and its
        program is checked and compared with those of the run: seconds, on one core. One source is tried at a time.

        Raises:
          StoreError: the run asks for locks that this machine lacks.
        """
        gated = check(source, self.space.scope)
        if gated.failures:
            return _refused(gated.failures)
        with self._store() as store:
            mode = chosen_sandbox(None, store.config.get("sandbox"))
        with self._one_at_a_time, LocalExecutor(workers=1, sandbox=mode) as executor:
            try:
                executor.missing_locks()
            except Unlocked as error:  # the candidate's fault otherwise
                raise StoreError(str(error)) from error
            found = drive(executor, admit(self.reference, source, defaults(gated.tunables)))
        if isinstance(found, Failure):
            return _refused([found])
        with self._store() as store:
            entries = store.entries()
        for entry in entries:
            if entry.program is not None and entry.program["fingerprint"] == found.facts["fingerprint"]:
                return _refused([failure_of_duplicate(entry.candidate.id)])
        return Checked(admitted=True, facts=_facts(found.facts))

    def tell(self, source: str, *, author: str, parents: Sequence[int] = (), text: str = "") -> str:
        """Propose a candidate to the search, which takes it up before its own ideas.

        Args:
          source: the module.
          author: who proposes; it is stored with the proposal.
          parents: ids of the candidates that it was made from.
          text: what else there is to say; stored, and shown to nobody.
        Returns:
          A ticket, by which `result` and `wait` find it, also from another process.
        Raises:
          Rejected: the gate turns it away; nothing was sent.
          ValueError: an argument is of no use, or the search takes no proposals: its budget is spent, or too many wait.
          OSError: the folder cannot be written.
        """
        gated = check(source, self.space.scope)
        if gated.failures:
            raise Rejected([_short(failure) for failure in gated.failures])
        who = one_line(author)[:LINE_LENGTH]
        if not who:
            raise ValueError(f"author {author!r} names nobody; say who proposes")
        if len(text) > TEXT_LENGTH:
            raise ValueError(f"text has {len(text):,} characters; at most {TEXT_LENGTH:,} are kept, so shorten it")
        waiting = len(self._in_inbox())
        with self._store() as store:
            records, heard = read(store), store.messages()
        _check_parents(parents, records)
        _check_room(records, waiting + len(_unserved(records, heard)))
        message = inbox.message("proposal", who, source=source, parents=list(parents), text=text)
        inbox.put(self.run, message)
        return message.id

    def result(self, ticket: str) -> Result:
        """What has become of a proposal by now.

        Raises:
          ValueError: no proposal of this run has the ticket.
        """
        left = _TICKET.fullmatch(ticket) is not None and ticket in self._in_inbox()  # looked at before the store
        with self._store() as store:
            records, heard = read(store), store.messages()
        if not left and not any(message["id"] == ticket and message["kind"] == "proposal" for message in heard):
            raise ValueError(f"ticket {ticket[:40]!r} is not known to this run; give one that `tell` has returned")
        task = next((task for task in records.tasks if task.decision.get("message") == ticket), None)
        entry = next((e for e in records.entries if task is not None and e.slot == task.slot), None)
        if task is None or entry is None:
            return Result(ticket=ticket, status="waiting")
        return _result(ticket, entry, records)

    def wait(self, ticket: str, timeout_s: float) -> Result:
        """Wait until a proposal is settled, and no longer than `timeout_s`; see `Result.settled`.

        Raises:
          ValueError: no proposal of this run has the ticket.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.result(ticket)
            left = deadline - time.monotonic()
            if found.settled or left <= 0:
                return found
            time.sleep(min(POLL_S, left))

    # ---- inside

    @contextmanager
    def _store(self) -> Iterator[Store]:
        store = Store(self.run)
        try:
            yield store
        finally:
            store.close()

    def _in_inbox(self) -> set[str]:
        """Ids of the messages that the search has not taken up."""
        try:
            names = os.listdir(self.run / "inbox")
        except OSError:
            return set()
        return {name[:-5].partition("-")[2] for name in names if name.endswith(".json") and name[0] != "."}


def _left(records: Records) -> int:
    """Candidates that the budget still has room for: those proposed count until they are rejected, as in the search."""
    entries = {entry.slot: entry for entry in records.entries}
    proposals = [task for task in records.tasks if task.kind == "admit"]
    return max(0, records.config["budget"] - sum(not _is_rejected(task, entries.get(task.slot)) for task in proposals))


def _is_rejected(task: Task, entry: Entry | None) -> bool:
    if entry is not None:
        return entry.failure is not None
    return task.outcome is not None and task.outcome.get("failure") is not None  # a model that wrote nothing


def _unserved(records: Records, heard: Sequence[Mapping[str, Any]]) -> set[str]:
    """Proposals that the search has heard of and has not taken up."""
    served = {task.decision.get("message") for task in records.tasks}
    return {message["id"] for message in heard if message["kind"] == "proposal"} - served


def _check_parents(parents: Sequence[int], records: Records) -> None:
    known = {entry.candidate.id for entry in records.entries}
    wrong = [parent for parent in parents if type(parent) is not int or parent not in known]
    if wrong:
        raise ValueError(
            f"parents {wrong[:PARENTS]}: the run has no such candidates; it has 1 to {max(known, default=0)}"
        )
    if len(parents) > PARENTS:
        raise ValueError(f"{len(parents)} parents are named; name at most {PARENTS}")


def _check_room(records: Records, waiting: int) -> None:
    if _left(records) <= 0:
        text = f"the budget of {records.config['budget']} candidates is given away, and no proposal is taken"
        raise ValueError(f"{text}; a place becomes free if one is rejected at admission; else start a new search")
    if waiting >= WAITING:
        raise ValueError(f"{waiting} messages wait for the search, which takes them up while it runs; wait for some")


def _result(ticket: str, entry: Entry, records: Records) -> Result:
    candidate = entry.candidate.id
    if entry.failure is not None:
        said = _short(entry.failure)
        return Result(ticket=ticket, status="rejected", settled=True, candidate=candidate, failure=said)
    if entry.program is None:
        return Result(ticket=ticket, status="waiting", candidate=candidate)
    first = [task for task in records.tasks if task.kind == "first" and task.candidate == candidate]
    trials, rows, steps = _trainings(records, candidate), rank(records), records.config["ladder"]["steps"]
    scores = {}
    for point in (point for trial in trials for point in trial.curve):
        best = max if records.config["maximize"] else min
        scores[point[0]] = best(point[3], scores.get(point[0], point[3]))
    return Result(
        ticket=ticket,
        status="admitted",
        settled=any(task.outcome is not None for task in first),
        candidate=candidate,
        failure=None if scores else next((trial.failure for trial in trials if trial.failure is not None), None),
        scores=[(step, scores[step]) for step in steps if step in scores],
        rank=next((row.rank for row in rows if row.candidate == candidate), None),
        of=len(rows),
    )


def _trainings(records: Records, candidate: int) -> list[Training]:
    """A candidate's trials, those that got furthest first."""
    trials = [trial for trial in records.trials if trial.candidate == candidate]
    found, without = [], untraced(records.tasks)
    for trial in trials:
        scores = [score for score in records.scores if score.trial == trial.id]
        points = [score.point for score in scores if score.point is not None]
        failure = next((score.failure for score in scores if score.failure is not None), without.get(trial.id))
        curve = [(point.step, point.train_loss, point.loss, point.score) for point in points]
        numbers = {one_line(key)[:LINE_LENGTH]: value for key, value in {**trial.values, **trial.recipe}.items()}
        found.append(Training(trial=trial.id, numbers=numbers, curve=curve, failure=failure and _short(failure)))
    sign = records.sign
    return sorted(found, key=lambda t: (-len(t.curve), -sign * t.curve[-1][3] if t.curve else 0.0, t.trial))


def _facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: facts[key] for key in _FACTS if key in facts}


def _refused(failures: Sequence[Failure]) -> Checked:
    return Checked(admitted=False, facts={}, failures=[_short(failure) for failure in failures])


def _short(failure: Failure) -> Failure:
    rule, message = one_line(failure.rule)[:LINE_LENGTH], one_line(failure.message)[:MESSAGE_LENGTH]
    return replace(failure, rule=rule, message=message)
