"""The ablation receipt of a winner: each piece that its nearest baseline has not, put back alone, and what it is worth.

    python -m nas.ablate RUN [CANDIDATE] --seeds 5 --format table|markdown|json

In go a run's store and one of its candidates; out comes a line for every piece: the score of the winner with this piece
as in the baseline, at the winner's number of parameters as nearly as whole features allow, and the difference. The
winner is trained anew by the same protocol and is the control. All scores are of validation: the test split is for
confirmation alone and is not looked at here. What is traced and trained is kept, so a receipt that was stopped goes on
where it was, and one that is complete is only read. `propose/pieces.py` finds the pieces, `propose/resize.py` the
sizes; what the scores come to is said in `ablated.py`.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from nas.ablated import Receipt, Subject, Variant, receipt, to_json, to_markdown, write_table
from nas.admit import Flow, Stopped, drive_all
from nas.confirm import measured
from nas.execute import Event, Executor
from nas.flows import Place, admission, training
from nas.leaderboard import RESULTS, find_run
from nas.loop import stop_on_signals
from nas.progress import drop_output, one_line, print_any_text
from nas.propose.align import distance
from nas.propose.pieces import Piece, fixed, pieces
from nas.propose.resize import TOO_LARGE, Size, nearest_size
from nas.records import Failure, Retraining, Value, defaults, seed_of, to_plain
from nas.space import SearchSpace, SpaceError, digest, load
from nas.standings import Confirmed, Records, board, rank, read
from nas.store import Entry, Store, StoreError, write_file

T = TypeVar("T")

SEEDS = 5
"""Fresh seeds of the winner and of every variant, unless told otherwise."""
RATES = (1.0, 0.5, 2.0)
"""Times the winner's learning rate, one seed each: which of them a variant is trained with."""

# ---- who, and against whom


def choose(records: Records, space: SearchSpace, candidate: int | None) -> Subject:
    """Find the candidate to ablate, its numbers and its nearest baseline.

    Args:
      records: of the run.
      space: its space.
      candidate: an id; None takes the best claimed finalist, or else the best confirmed one.
    Raises:
      StoreError: there is none, or it cannot be ablated.
    """
    entries = {entry.candidate.id: entry for entry in records.entries}
    finalists = [one for one in board(records).confirmed if one.belief.claim is not None]
    claimed = [one for one in finalists if one.belief.claim and one.belief.claim.claimed]
    if candidate is None:
        if not finalists:
            raise StoreError(
                "nothing is confirmed in this run, so there is no winner; confirm with python -m nas.leaderboard RUN "
                "--confirm 5, or name a candidate: python -m nas.ablate RUN ID"
            )
        candidate = (claimed or finalists)[0].row.candidate
    row = next((row for row in rank(records) if row.candidate == candidate), None)
    if row is None:
        raise StoreError(f"candidate {candidate} has no score in this run; the table of nas.leaderboard lists ids")
    if row.arm == "baseline":
        raise StoreError(f"candidate {candidate} is a baseline itself; give one that a search has found")
    trial = next(trial for trial in records.trials if trial.id == row.trial)
    mine = entries[candidate].candidate
    source = fixed(mine.source, {**defaults(mine.tunables), **trial.values}, space.scope)
    found = [entry for entry in records.entries if entry.candidate.arm == "baseline" and entry.program is not None]
    ancestors = _ancestors(entries, candidate)
    descended = [entry for entry in found if entry.candidate.id in ancestors]
    sources = {entry.candidate.id: _baseline_source(records, entry, space) for entry in descended or found}
    if not sources:
        raise StoreError("this run has no baseline that was admitted, so there is nothing to put back")
    closest = min(sources, key=lambda other: (distance(source, sources[other], space), other))
    return Subject(
        row=row, entry=entries[candidate], values=trial.values, recipe=trial.recipe, source=source,
        baseline=entries[closest], ancestor=bool(descended), against=sources[closest],
        standing=_standing(candidate, finalists),
        gain=[r.point.score for r in _retrained(records.retrainings, closest, "seeds") if r.point is not None],
    )  # fmt: skip


def _ancestors(entries: Mapping[int, Entry], candidate: int) -> set[int]:
    seen, queue = set[int](), [candidate]
    while queue:
        for parent in entries[queue.pop()].candidate.parents:
            if parent in entries and parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return seen


def _baseline_source(records: Records, entry: Entry, space: SearchSpace) -> str:
    """A baseline at the numbers that it was confirmed with, or else at its defaults."""
    confirmed = _retrained(records.retrainings, entry.candidate.id, "seeds")
    values = {**defaults(entry.candidate.tunables), **(confirmed[0].values if confirmed else {})}
    return fixed(entry.candidate.source, values, space.scope)


def _standing(candidate: int, finalists: Sequence[Confirmed]) -> str:
    claim = next((one.belief.claim for one in finalists if one.row.candidate == candidate), None)
    if claim is None:
        return "not confirmed: it may not be better than the baseline at all"
    return "confirmed: it is claimed to beat every baseline" if claim.claimed else "confirmed, without a claim"


def _retrained(rows: Sequence[Retraining], candidate: int, purpose: str) -> list[Retraining]:
    return [row for row in rows if (row.candidate, row.purpose) == (candidate, purpose)]


# ---- tracing and training


class Ablation:
    """The trainings behind a receipt.

    Args:
      store: of the run, open for writing if anything may be trained.
      space: of the run.
      subject: what is ablated.
      seeds: of the winner and of every variant.
      said: is told what happens, in sentences.
    """

    def __init__(
        self, store: Store, space: SearchSpace, subject: Subject, seeds: int, said: Callable[[str], None]
    ) -> None:
        self.store, self.space, self.subject, self.seeds, self.said = store, space, subject, seeds, said
        self.place: Place | None = None
        self.stopping = False
        self._taken: set[str] = set()

    def stop(self) -> None:
        """Leave what is not trained yet for the next time."""
        self.stopping = True

    def run(self, executor: Executor, place: Place) -> bool:
        """Trace and train what is not yet.

        Returns:
          Whether all of it was done.
        Raises:
          StoreError: the run's files cannot be used.
        """
        self.place = place
        try:
            drive_all(executor, [self._winner()], lambda: self.stopping)
            (found,) = drive_all(executor, [self._pieces()], lambda: self.stopping)
            name = self.subject.baseline.candidate.operator
            self.said(f"{len(found)} piece{'s' * (len(found) != 1)} against baseline {name}")
            flows = [self._trained(number, piece) for number, piece in enumerate([None, *found])]
            drive_all(executor, flows, lambda: self.stopping)
        except Stopped:
            return False
        return True

    def lines(self) -> tuple[list[Variant], bool]:
        """The lines as far as they are traced, with what they are trained to, and whether that is all of it."""
        made: list[Variant] = []
        try:
            found = [None, *_without_jobs(self._pieces())]
        except Untraced:
            return [], False
        for number, piece in enumerate(found):
            with contextlib.suppress(Untraced):
                made.append(_without_jobs(self._variant(number, piece)))
        done = [one for one in made if one.reason or len(one.scores) + one.failed >= self.seeds]
        return made, len(done) == len(found)

    # ---- pieces

    def _pieces(self) -> Flow[list[Piece]]:
        """Find the pieces; what the tracer refuses is joined with what is beside it, until nothing new is refused."""
        refused: dict[str, str] = {}
        while True:
            found = pieces(self.subject.source, self.subject.against, self.space, refused)
            before = len(refused)
            for piece in found:
                if piece.source and piece.source not in refused:
                    traced = yield from self._traced(piece.source, {}, "piece")
                    if isinstance(traced, Failure) and traced.rule not in TOO_LARGE:
                        refused[piece.source] = str(traced)
            if len(refused) == before:
                return found

    def _traced(self, source: str, values: Mapping[str, Value], by: str) -> Flow[Mapping[str, Any] | Failure]:
        """What a source is as a program, or why it is none; looked up if it was traced before."""
        platform = self.place.platform if self.place else None
        text = json.dumps([source, dict(values)], sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:24]
        path = self.store.folder / "ablate" / f"{name}.json"
        try:
            known = json.loads(path.read_text("utf-8"))
            if platform in (None, known["platform"]):
                return Failure(**known["failure"]) if known["failure"] else known["facts"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not there, or not whole: trace again
        if self.place is None:
            raise Untraced
        found = yield from admission(self.place, 0, source, values, tag=f"ablate.{by}.{name}")
        if found.failure is not None and found.failure.blame == "machine":
            raise StoreError(f"a variant could not be traced: {found.failure.message}; the same command tries again")
        plain = {"platform": platform, "facts": found.facts, "failure": to_plain(found.failure)}
        path.parent.mkdir(exist_ok=True)
        write_file(path, json.dumps(plain, sort_keys=True, indent=1).encode())
        if found.failure is not None:
            return found.failure
        assert found.facts is not None, "a trace without an answer"
        return found.facts

    # ---- one variant

    def _variant(self, number: int, piece: Piece | None) -> Flow[Variant]:
        """A variant at the size that is trained, with what it was trained to so far."""
        winner = yield from self._winner()
        if piece is None:
            size = Size(source=self.subject.entry.candidate.source, factor=1.0, facts=winner)
            return self._measured(Variant(number=0, piece=None, size=size))
        if not piece.source:
            return Variant(number=number, piece=piece, reason=piece.reason)
        traced = partial(self._traced, values={}, by=f"{number}")
        found = yield from nearest_size(piece.source, winner["cost"]["params"], self.space, traced)
        if isinstance(found, Failure):
            return Variant(number=number, piece=piece, reason=str(found))
        return self._measured(Variant(number=number, piece=piece, size=found))

    def _winner(self) -> Flow[Mapping[str, Any]]:
        """The winner as it is, at the values of its best trial."""
        own = self.subject.entry.candidate
        found = yield from self._traced(own.source, {**defaults(own.tunables), **self.subject.values}, "winner")
        if isinstance(found, Failure):
            raise StoreError(f"candidate {own.id} cannot be traced any more: {found}")
        return found

    def _measured(self, made: Variant) -> Variant:
        """A variant with what its fresh seeds gave."""
        rows = [row for row in self._rows(self._purpose(made)) if row.place < self.seeds]
        scores = [row.point.score for row in rows if row.point is not None and math.isfinite(row.point.score)]
        lr = rows[0].recipe["lr"] if rows else None
        return dataclasses.replace(made, lr=lr, scores=scores, failed=len(rows) - len(scores))

    def _purpose(self, made: Variant) -> str:
        """What a variant's trainings are stored under: a hash of what is trained, whatever number its piece has."""
        known_by = [made.size.source if made.size else "", self._values(made), dict(self.subject.recipe)]
        return f"ablate {hashlib.sha256(json.dumps(known_by, sort_keys=True).encode()).hexdigest()[:12]}"

    def _values(self, made: Variant) -> dict[str, Value]:
        """Of its tunables: a variant has none."""
        return dict(self.subject.values) if made.piece is None else {}

    def _rows(self, purpose: str) -> list[Retraining]:
        return _retrained(self.store.retrainings(), self.subject.row.candidate, purpose)

    def _trained(self, number: int, piece: Piece | None) -> Flow[None]:
        """Choose a variant's learning rate with one seed, and train it with fresh ones."""
        made = yield from self._variant(number, piece)
        if made.size is None:
            return
        purpose, lr, allowed = self._purpose(made), self.subject.recipe["lr"], self.space.recipe.lr
        if purpose in self._taken:  # of two equal statements, either gives the same variant
            return
        self._taken.add(purpose)
        rates = [lr, *(r * lr for r in RATES if r != 1.0 and allowed.low <= r * lr <= allowed.high)]
        yield from self._train(made, f"{purpose} tune", [(rate, "tune") for rate in rates])
        tuned = self._rows(f"{purpose} tune")
        if len(tuned) < len(rates):
            return  # the machine lost it
        sign = 1 if self.space.task.maximize else -1
        best = max(tuned, key=lambda row: sign * row.point.score if row.point else -math.inf)
        yield from self._train(made, purpose, [(best.recipe["lr"], f"{place}") for place in range(self.seeds)])
        what = f"piece {number} put back" if number else "the winner itself"
        self.said(f"{what}: {len(self._measured(made).scores)} of {self.seeds} seeds trained")

    def _train(self, made: Variant, purpose: str, wanted: Sequence[tuple[float, str]]) -> Flow[None]:
        """Train and store what is wanted, by learning rate and name of the seed, and not stored; not what is lost."""
        assert made.size is not None
        known = {row.place for row in self._rows(purpose)}
        rows = [
            Retraining(
                candidate=self.subject.row.candidate, purpose=purpose, place=place, rung=self.space.ladder.top,
                values=self._values(made), recipe={**self.subject.recipe, "lr": lr},
                seed=seed_of(f"{purpose.removesuffix(' tune')} {self.store.config['seed']} {seed}"),
                cost={**made.size.facts["cost"], "factor": made.size.factor},
            )
            for place, (lr, seed) in enumerate(wanted)
            if place not in known
        ]  # fmt: skip
        if not rows:
            return
        assert self.place is not None, "trainings need a place"
        trials = [
            {"id": row.place, "seed": row.seed, "lr": row.recipe["lr"], "wd": row.recipe["wd"], "load": [],
             "save": None}
            for row in rows
        ]  # fmt: skip
        name = f"{purpose.replace(' ', '.')}.{made.number}.{rows[0].place}"
        (event,) = yield [training(self.place, name, made.size.facts, [self.space.ladder.steps[-1]], trials)]
        self._store(rows, event)

    def _store(self, rows: Sequence[Retraining], event: Event) -> None:
        made = measured(rows, event)
        if isinstance(made, Failure):
            self.said(f"{rows[0].purpose}: {made.message}; the same command repeats it")
        else:
            self.store.retrain(made)


class Untraced(Exception):
    """Something is not traced or trained yet, and nothing may be started."""


def _without_jobs(flow: Flow[T]) -> T:
    """Run a flow that has nothing left to do."""
    try:
        next(flow)
    except StopIteration as stop:
        return stop.value
    raise Untraced


# ---- the command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        self.exit(2, f"nas.ablate: {one_line(message)}; --help lists what is allowed\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m nas.ablate", description="Put each piece of a winner back alone, and train it.")
    parser.add_argument("run", metavar="RUN", help="folder or name of a run")
    parser.add_argument("candidate", nargs="?", type=int, metavar="CANDIDATE", help="id (default: the best claimed)")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help=f"fresh seeds of each ({SEEDS})")
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table")
    parser.add_argument("--workers", type=int, metavar="N", help="jobs at once (as in a search)")
    parser.add_argument("--results", type=Path, metavar="DIR", default=RESULTS, help=f"where runs are ({RESULTS})")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    return parser


def ablate(
    run: Path, candidate: int | None, seeds: int, workers: int | None, said: Callable[[str], None]
) -> Receipt | None:
    """Make the receipt of a candidate, training what is not trained yet.

    Args:
      run: folder of the run.
      candidate: its id; None takes the best claimed, or else the best confirmed one.
      seeds: fresh seeds of the winner and of every variant.
      workers: jobs at once; None as many as a search has.
      said: is told what happens.
    Returns:
      The receipt as far as it is trained; None if it was stopped before anything was.
    Raises:
      StoreError: the run is in use or cannot be used, or there is nothing to ablate.
    """
    with contextlib.closing(Store(run)) as store:
        config = store.config
        space = load(config["space"])
        if config["space_digest"] != digest(space):
            raise StoreError(f"'{run}' was made with another state of space '{space.name}'; restore the space's file")
        records = read(store)
        subject = choose(records, space, candidate)
        lines, whole = Ablation(store, space, subject, seeds, said).lines()
        if whole:
            return receipt(records, subject, lines, seeds)
    return _trained(run, space, subject, seeds, workers, said)


def _trained(
    run: Path, space: SearchSpace, subject: Subject, seeds: int, workers: int | None, said: Callable[[str], None]
) -> Receipt | None:
    from nas.workplace import default_workers, open_workplace

    with contextlib.closing(Store(run, write=True)) as store:
        work = Ablation(store, space, subject, seeds, said)
        with open_workplace(store, space, workers or default_workers()) as (executor, place, warnings):
            for text in warnings:
                said(text)
            with stop_on_signals(work, said):
                whole = work.run(executor, place)
                if not whole:
                    said(f"stopped; the same command goes on where it was, with {run}")
        work.place = None
        lines, _ = work.lines()
        if not lines or lines[0].number:
            return None
        return dataclasses.replace(receipt(read(store), subject, lines, seeds), stopped=not whole)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0, 2 with one line on standard error, or 130 after Ctrl-C."""
    parsed = _parser().parse_args(arguments)

    def said(text: str) -> None:
        print(one_line(text), file=sys.stderr, flush=True)

    print_any_text()
    try:
        if parsed.seeds < 2 or parsed.workers is not None and parsed.workers < 1:
            told = f"--seeds {parsed.seeds}, --workers {parsed.workers}"
            raise StoreError(f"{told}: give 2 seeds or more, and 1 worker or more")
        made = ablate(find_run(parsed.run, parsed.results), parsed.candidate, parsed.seeds, parsed.workers, said)
        if made is not None:
            if parsed.format == "table":
                write_table(made, sys.stdout)
            else:
                sys.stdout.write(to_markdown(made) if parsed.format == "markdown" else to_json(made))
        sys.stdout.flush()
        return 130 if made is None or made.stopped else 0
    except (StoreError, SpaceError) as error:
        if parsed.debug:
            raise
        print(f"nas.ablate: {one_line(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        drop_output()
        return 0
    except KeyboardInterrupt:
        print("nas.ablate: interrupted; nothing that was stored is lost, the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
