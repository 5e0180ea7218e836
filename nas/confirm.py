"""Confirmation: what a search found is trained again with fresh seeds, and scored once on a split that nobody has seen.

In go a run's store and an executor; out come rows in the store, which `judge/belief.py` turns into claims. Finalists
are the best candidates of the board, each at the numbers of its best trial. A baseline has numbers of its own, from at
least as many draws as any finalist had, by a protocol that depends on the space alone: so its trainings are kept beside
the runs, and serve every later run of this version of the space on this kind of machine. Finalists have two fresh
seeds, and five if their fresh validation does not rule them out; the test split decides nothing here. A confirmation
that was stopped goes on where it was.
"""

import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from nas.admit import Flow, Stopped, drive_all
from nas.execute import Event, Executor
from nas.flows import Place, admission, training, without_answer
from nas.judge.belief import BASELINE_SEEDS, FIRST_SEEDS, SEEDS, go_on
from nas.loop import stop_on_signals
from nas.machine import machine
from nas.progress import duration
from nas.records import (
    CONFIRMING,
    Choice,
    Failure,
    Integer,
    Point,
    Retraining,
    Tunable,
    Value,
    baseline_seed,
    defaults,
    finalist_seed,
    seed_of,
    to_plain,
)  # fmt: skip
from nas.space import SearchSpace, digest, file_name, load
from nas.standings import Records, Row, own_programs, rank, read
from nas.store import Entry, Store, StoreError, write_file
from nas.workplace import open_workplace

FINALISTS = 5
"""Candidates that are confirmed, unless told otherwise."""
GROUPS = 4
"""Fewest groups of draws that a baseline's numbers come from; a group shares the baseline's own values."""
SEEDS_OF_NUMBERS = 3
"""Seeds by whose mean a baseline's numbers are chosen at the top rung. With one, the gru of mnist1d was given a
learning rate at which it collapses with most seeds: .71 when it was chosen, .36 afterwards."""
SEEDS_A_JOB = 5
"""Fresh seeds that one compiled program serves in one job."""
SAY_S = 60.0
"""Shortest time between two sentences about how far a confirmation is [s]."""
LOOKS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16)
"""Sixteenths of a fresh training at which validation is looked at, to see when it reaches another's score."""


class Confirmation:
    """The confirmation of one run.

    Args:
      place: the run, its store open for writing.
      executor: where trainings run.
      finalists: how many candidates are confirmed.
      kept: folder in which baselines' trainings are kept for other runs; None keeps none.
      said: is told what happens, in sentences.
    """

    def __init__(
        self, place: Place, executor: Executor, finalists: int, kept: Path | None, said: Callable[[str], None]
    ) -> None:
        self.place, self.space, self.store = place, place.space, place.store
        self.executor, self.finalists, self.kept, self.said = executor, finalists, kept, said
        self.stopping = False
        self._traced: dict[str, Mapping[str, Any] | None] = {}
        self._asked = self._before = 0  # steps: of all trainings at most, and of those that were stored at the start
        self._whom: set[int] = set()
        self._began = self._told = time.monotonic()

    def stop(self) -> None:
        """Leave what is not trained yet for the next time."""
        self.stopping = True

    def run(self) -> bool:
        """Train what is not trained yet.

        Returns:
          Whether all of it was done.
        Raises:
          StoreError: the run's files cannot be used.
        """
        records = read(self.store)
        chosen = _finalists(records, self.finalists)
        baselines = [e for e in records.entries if e.candidate.arm == "baseline" and e.program is not None]
        groups = max([GROUPS, *(_groups(records, row.candidate, self.space.ladder.draws) for row in chosen)])
        self.said(
            f"confirming {len(chosen)} candidates against {len(baselines)} baselines with fresh seeds on the test split"
        )
        self._asked = (
            len(baselines) * self._steps_of_baseline(groups) + len(chosen) * SEEDS * self.space.ladder.steps[-1]
        )
        self._whom = {row.candidate for row in chosen} | {entry.candidate.id for entry in baselines}
        self._before, self._began = self._trained(), time.monotonic()
        try:
            flows = [self._baseline(entry, groups) for entry in baselines]
            flows += [self._finalist(records, row, range(FIRST_SEEDS)) for row in chosen]
            drive_all(self.executor, flows, lambda: self.stopping)
            fresh = [row for row in chosen if row.candidate in self._worth_more(chosen, baselines)]
            more = [self._finalist(records, row, range(FIRST_SEEDS, SEEDS)) for row in fresh]
            drive_all(self.executor, more, lambda: self.stopping)
        except Stopped:
            return False
        return True

    def _worth_more(self, chosen: Sequence[Row], baselines: Sequence[Entry]) -> list[int]:
        """Finalists whose fresh validation does not rule them out."""
        rows = [row for row in self.store.retrainings() if row.purpose == "seeds"]
        found = {
            e: [row.point.score if row.point else math.nan for row in rows if row.candidate == e]
            for e in [*(row.candidate for row in chosen), *(entry.candidate.id for entry in baselines)]
        }
        first = {row.candidate: found[row.candidate][:FIRST_SEEDS] for row in chosen}
        against = {entry.candidate.id: found[entry.candidate.id] for entry in baselines}
        return go_on(first, against, self.space.task.maximize)

    # ---- finalists

    def _finalist(self, records: Records, row: Row, places: range) -> Flow[None]:
        """Train a finalist with fresh seeds, at the numbers of its best trial."""
        trial = next(trial for trial in records.trials if trial.id == row.trial)
        facts = self._program(records, row)
        seeds = {place: finalist_seed(self.store.config["seed"], row.candidate, place) for place in places}
        yield from self._seeds(row.candidate, facts, trial.values, trial.recipe, seeds, weights=True)

    def _program(self, records: Records, row: Row) -> Mapping[str, Any]:
        """The program that a row's trial trained: its own, where it was at values of its own."""
        own = own_programs(records.tasks).get(row.trial)
        return own or next(
            e.program for e in records.entries if e.candidate.id == row.candidate and e.program is not None
        )

    # ---- baselines

    def _baseline(self, entry: Entry, groups: int) -> Flow[None]:
        """Find a baseline's numbers, and train it with fresh seeds; or take both from where they are kept."""
        candidate, facts = entry.candidate, entry.program
        assert facts is not None, "a baseline that was rejected is not confirmed"
        folder = None if self.kept is None else self.kept / self._key(groups) / f"{candidate.operator}"
        if self._mine(candidate.id, "seeds", BASELINE_SEEDS):
            return
        if folder is not None and self._take(candidate.id, folder):
            self.said(f"baseline {candidate.operator}: taken from {folder}")
            return
        yield from self._numbers(entry, groups)
        drawn = [row for row in self.store.retrainings() if row.candidate == candidate.id and row.purpose == "numbers"]
        best = self._best([row for row in drawn if row.rung == self.space.ladder.top])
        if best is None:
            self.said(f"baseline {candidate.operator}: no draw of its numbers could be trained to the end")
            return
        values, facts = best.values, (yield from self._at(entry, best.values))
        if facts is None:
            return
        yield from self._seeds(
            candidate.id, facts, values, best.recipe,
            {place: baseline_seed(self.space.name, candidate.operator, place) for place in range(BASELINE_SEEDS)},
        )  # fmt: skip
        if folder is not None and self._mine(candidate.id, "seeds", BASELINE_SEEDS):
            self._keep(candidate.id, folder)

    def _numbers(self, entry: Entry, groups: int) -> Flow[None]:
        """Train a baseline's draws to the first rung, and the best one in eta of them to the top with several seeds."""
        candidate, ladder = entry.candidate.id, self.space.ladder
        draws = _draws(self.space, entry, groups)
        for group in range(groups):
            part = draws[group * ladder.draws : (group + 1) * ladder.draws]
            facts = yield from self._at(entry, part[0].values)
            if facts is not None:
                yield from self._train(facts, part, f"numbers{group}")
        first = [r for r in self.store.retrainings() if (r.candidate, r.purpose, r.rung) == (candidate, "numbers", 0)]
        if not ladder.top:
            return
        for row in _ranked(first, self.space.task.maximize)[: max(1, len(first) // ladder.eta)]:
            facts = yield from self._at(entry, row.values)
            again = [
                dataclasses.replace(
                    row, rung=ladder.top, place=row.place + number * len(draws), point=None, usage={},
                    seed=seed_of(f"numbers {self.space.name} {entry.candidate.operator} {row.place} {number}"),
                )
                for number in range(SEEDS_OF_NUMBERS)
            ]  # fmt: skip
            if facts is not None:
                yield from self._train(facts, again, f"top{row.place}")

    def _best(self, rows: Sequence[Retraining]) -> Retraining | None:
        """A row with the numbers whose mean over seeds is the best; those of which a seed failed come last."""
        sign, groups = 1 if self.space.task.maximize else -1, dict[str, list[Retraining]]()
        for row in rows:
            groups.setdefault(json.dumps([row.values, row.recipe], sort_keys=True), []).append(row)

        def height(group: list[Retraining]) -> tuple[int, float, int]:
            scores = [sign * row.point.score for row in group if row.point is not None]
            return len(scores), fmean(scores) if scores else -math.inf, -group[0].place

        best = max(groups.values(), key=height, default=None)
        return best[0] if best and height(best)[0] else None

    def _at(self, entry: Entry, values: Mapping[str, Value]) -> Flow[Mapping[str, Any] | None]:
        """A baseline's program at values of its own tunables; None if they give none."""
        if dict(values) == defaults(entry.candidate.tunables):
            return entry.program
        tag = f"confirm.{entry.candidate.id}.{seed_of(json.dumps(dict(values), sort_keys=True))}"
        if tag not in self._traced:
            found = yield from admission(self.place, 0, entry.candidate.source, values, tag=tag)
            self._traced[tag] = found.facts
        return self._traced[tag]

    # ---- training

    def _seeds(
        self, candidate: int, facts: Mapping[str, Any], values: Mapping[str, Value], recipe: Mapping[str, float],
        seeds: Mapping[int, int], *, weights: bool = False,
    ) -> Flow[None]:  # fmt: skip
        top = self.space.ladder.top
        rows = [
            Retraining(
                candidate=candidate, purpose="seeds", place=place, rung=top, values=values, recipe=recipe,
                seed=seed,
            )
            for place, seed in seeds.items()
        ]  # fmt: skip
        for index in range(0, len(rows), SEEDS_A_JOB):
            part = rows[index : index + SEEDS_A_JOB]
            yield from self._train(facts, part, f"seeds{part[0].place}", last=True, weights=weights)

    def _train(
        self, facts: Mapping[str, Any], rows: Sequence[Retraining], name: str, *, last: bool = False,
        weights: bool = False,
    ) -> Flow[None]:  # fmt: skip
        """Train and store rows that share a program, those that are not stored yet; what the machine lost is not.

        Args:
          facts: of the program.
          rows: without what is to be measured.
          name: of the job.
          last: whether these are the trainings that count: looked at on their way, timed, scored on the test split.
          weights: whether they are kept.
        """
        known = {_key(row) for row in self.store.retrainings()}
        rows = [row for row in rows if _key(row) not in known]
        if not rows:
            return
        trials = [
            {
                "id": row.place, "seed": row.seed, "lr": row.recipe["lr"], "wd": row.recipe["wd"], "load": [],
                "save": str(self.store.weights_path(row.candidate, row.place)) if weights else None,
                "test": str(self.store.test_path(row.candidate, row.place)) if last else None,
                "inference": last and row is rows[0],
            }
            for row in rows
        ]  # fmt: skip
        steps = self.space.ladder.steps[rows[0].rung]
        stops = _stops(steps, facts["plan"]["chunk"]) if last else [steps]
        (event,) = yield [training(self.place, f"confirm.{rows[0].candidate}.{name}", facts, stops, trials)]
        self._store([dataclasses.replace(row, cost=facts["cost"]) for row in rows], event)

    def _store(self, rows: Sequence[Retraining], event: Event) -> None:
        made = measured(rows, event)
        if isinstance(made, Failure):
            self.said(f"candidate {rows[0].candidate}: {made.message}; confirm again to repeat it")
        else:
            self.store.retrain(made)
        self._tell()

    def _tell(self) -> None:
        """Say how far it is, once in a while, as if all finalists needed all seeds and steps their time so far."""
        now, done = time.monotonic(), self._trained()
        if now - self._told < SAY_S or done <= self._before:
            return
        self._told = now
        left = (self._asked - done) * (now - self._began) / (done - self._before)
        self.said(f"confirmation: {done / self._asked:.0%} of the steps are trained, about {duration(left)} left")

    def _trained(self) -> int:
        """Steps of the trainings that are stored."""
        rows = (row for row in self.store.retrainings() if row.candidate in self._whom)
        return self._steps([row for row in rows if row.purpose in CONFIRMING])

    def _steps(self, rows: Sequence[Retraining]) -> int:
        return sum(self.space.ladder.steps[row.rung] for row in rows)

    def _steps_of_baseline(self, groups: int) -> int:
        ladder, draws = self.space.ladder, groups * self.space.ladder.draws
        chosen = max(1, draws // ladder.eta) * SEEDS_OF_NUMBERS if ladder.top else 0
        return draws * ladder.steps[0] + (chosen + BASELINE_SEEDS) * ladder.steps[-1]

    def _mine(self, candidate: int, purpose: str, count: int) -> bool:
        rows = [row for row in self.store.retrainings() if (row.candidate, row.purpose) == (candidate, purpose)]
        return len(rows) >= count

    # ---- what is kept for other runs

    def _key(self, groups: int) -> str:
        """Names everything that a baseline's trainings depend on."""
        config = self.store.config
        on = {key: value for key, value in machine().items() if key != "nproc_per_trial"}
        protocol = [groups, SEEDS_OF_NUMBERS, BASELINE_SEEDS, LOOKS]
        protocol += [self.place.devices] if self.place.devices > 1 else []
        protocol += [sorted((self.store.data_known() or {}).get("sha256", {}).items())]  # whatever made the arrays
        text = json.dumps([digest(self.space), protocol, config["versions"], on, self.place.platform], sort_keys=True)
        return f"{file_name(self.space.name)}@{self.space.version}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def _take(self, candidate: int, folder: Path) -> bool:
        """Take a baseline's trainings from those that are kept; False if they are not there, or not whole."""
        try:
            plain = json.loads((folder / "trainings.json").read_text("utf-8"))
            rows = [_from_plain(one | {"candidate": candidate}) for one in plain]
            for row in rows:
                if row.test is not None:
                    target = self.store.test_path(candidate, row.place)
                    target.parent.mkdir(exist_ok=True)
                    shutil.copyfile(folder / f"{row.place:02d}.npz", target)
        except (OSError, ValueError, TypeError, KeyError):
            return False
        known = {_key(row) for row in self.store.retrainings()}
        timed = ("step_s", "inference_s", "device")
        taken = [
            dataclasses.replace(row, usage={k: row.usage[k] for k in timed if k in row.usage} | {"cached": True})
            for row in rows
            if _key(row) not in known
        ]
        self.store.retrain(taken)
        self._before += self._steps(taken)
        return True

    def _keep(self, candidate: int, folder: Path) -> None:
        rows = [row for row in self.store.retrainings() if row.candidate == candidate and row.purpose in CONFIRMING]
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows:
            if row.test is not None:
                shutil.copyfile(self.store.test_path(candidate, row.place), folder / f"{row.place:02d}.npz")
        # Last, so that what is named by it is there.
        write_file(folder / "trainings.json", json.dumps([to_plain(row) for row in rows], indent=1).encode())


def measured(rows: Sequence[Retraining], event: Event) -> list[Retraining] | Failure:
    """What a training job says of its rows.

    Args:
      rows: without what was to be measured, in the order of the job's trials.
      event: how the job ended.
    Returns:
      The rows with points, failures, curves and usage; or the failure, if it is the machine's: then nothing is known.
    Raises:
      StoreError: its files could not be used.
    """
    failure = without_answer(event)
    if failure is not None and failure.blame == "machine":
        return failure
    usage: dict[str, Any] = {"cpu_s": event.usage.cpu_s / len(rows), "wall_s": event.usage.wall_s / len(rows)}
    if failure is None:
        usage |= {key: event.result[key] for key in ("step_s", "device") if event.result.get(key) is not None}
    results = [{"points": [], "failure": to_plain(failure)}] * len(rows) if failure else event.result["trials"]
    made = []
    for row, result in zip(rows, results, strict=True):
        points = [Point(**point) for point, _ in result["points"]]
        failed = Failure(**result["failure"]) if "failure" in result else None
        timed = {key: result[key] for key in ("inference_s",) if key in result}
        made.append(
            dataclasses.replace(
                row, point=None if failed or not points else points[-1], failure=failed, test=result.get("test"),
                curve=[(point.step, point.score) for point in points] if len(points) > 1 else (), usage=usage | timed,
            )
        )  # fmt: skip
    return made


def _finalists(records: Records, count: int) -> list[Row]:
    """The best candidates of the board, one trial each; and those that were confirmed before, whatever they are now."""
    rows = [row for row in rank(records) if row.arm != "baseline"]
    before = {row.candidate for row in records.retrainings if row.purpose == "seeds"}
    return [row for place, row in enumerate(rows) if place < count or row.candidate in before]


def _groups(records: Records, candidate: int, draws: int) -> int:
    """How many groups of draws a candidate had."""
    return math.ceil(sum(trial.candidate == candidate for trial in records.trials) / draws)


def _draws(space: SearchSpace, entry: Entry, groups: int) -> list[Retraining]:
    """A baseline's draws, a function of the space and the baseline's name alone. The first is in the middle."""
    name, ladder, drawn = entry.candidate.operator, space.ladder, []
    for group in range(groups):
        rng = np.random.default_rng(seed_of(f"numbers {space.name} {name} {group}"))
        tunables = entry.candidate.tunables
        values = {key: _sample(tunables[key], rng) for key in sorted(tunables)} if group else defaults(tunables)
        for _ in range(ladder.draws):
            place = len(drawn)
            recipe = {key: float(_sample(space.recipe.tunables[key], rng)) for key in sorted(space.recipe.tunables)}
            middle = {key: float(value) for key, value in defaults(space.recipe.tunables).items()}
            drawn.append(
                Retraining(
                    candidate=entry.candidate.id, purpose="numbers", place=place, rung=0, values=values,
                    recipe=recipe if place else middle, seed=seed_of(f"numbers {space.name} {name} seed {place}"),
                )
            )  # fmt: skip
    return drawn


def _sample(tunable: Tunable, rng: np.random.Generator) -> Any:
    """A value at random."""
    if isinstance(tunable, Choice):
        return tunable.options[int(rng.integers(len(tunable.options)))]
    low, high = (math.log(tunable.low), math.log(tunable.high)) if tunable.log else (tunable.low, tunable.high)
    drawn = rng.uniform(low, high)
    value = math.exp(drawn) if tunable.log else float(drawn)
    return round(value) if isinstance(tunable, Integer) else value


def _ranked(rows: Sequence[Retraining], maximize: bool) -> list[Retraining]:
    """Those with a score, best first."""
    sign = -1 if maximize else 1
    scored = [row for row in rows if row.point is not None]
    return sorted(scored, key=lambda row: (sign * row.point.score if row.point else 0.0, row.place))


def _stops(steps: int, chunk: int) -> list[int]:
    """Steps at which a fresh training is looked at: whole chunks, ascending, the end the last."""
    return sorted({*(steps * part // 16 // chunk * chunk for part in LOOKS), steps} - {0})


def _key(row: Retraining) -> tuple[int, str, int, int]:
    return row.candidate, row.purpose, row.place, row.rung


def _from_plain(plain: Mapping[str, Any]) -> Retraining:
    point, failure = plain["point"], plain["failure"]
    made = {"point": Point(**point) if point else None, "failure": Failure(**failure) if failure else None}
    return Retraining(**{**plain, **made})


def kept_folder(run: Path) -> Path:
    """Where the trainings of baselines are kept: beside the runs."""
    return run.parent / "baselines"


def confirm_run(folder: Path, finalists: int, workers: int, said: Callable[[str], None]) -> bool:
    """Confirm what a run has found so far, or go on with it; Ctrl-C stops it cleanly.

    Args:
      folder: of the run.
      finalists: how many candidates.
      workers: jobs at once.
      said: is told what happens.
    Returns:
      Whether all of it was done.
    Raises:
      StoreError: the run is in use, cannot be used, or has nothing to confirm.
    """
    store = Store(folder, write=True)
    try:
        if not _finalists(read(store), finalists):
            raise StoreError(f"'{folder}' has no candidate with a score yet, so there is nothing to confirm")
        with open_workplace(store, load(store.config["space"]), workers) as (executor, place, warnings):
            for text in warnings:
                said(text)
            confirmation = Confirmation(place, executor, finalists, kept_folder(folder), said)
            with stop_on_signals(confirmation, said):
                return confirmation.run()
    finally:
        store.close()
