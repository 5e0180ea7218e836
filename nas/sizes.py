"""Which trainings a transfer report asks for: whom, at which sizes of the space, with which numbers and seeds.

In go a run's records and what is asked for; out comes how far each row has come at each size, from what is stored. The
protocol is one for all rows and sizes, ×1 too: the learning rate is found anew, then a few fresh seeds are trained to
the last rung. A training is known by its seed, which holds everything that it depends on and that can be hashed; so
what was trained under another state of the space, or with other numbers, is not taken for it. Nothing is trained here.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from nas.progress import one_line
from nas.records import Retraining, Value, seed_of
from nas.space import SearchSpace, SpaceError, digest, load
from nas.standings import Records, confirmed, rank

TRIED = (0.5, 1.0, 2.0)
"""Multiples of a row's learning rate that are tried at each size: what suits a network changes with its width and with
how long it is trained, and who kept the old one would be compared by luck."""
FURTHER = 2
"""Rates that are tried beyond, each half or twice the last, while the best of all is the one at that end."""
SEEDS_TRIED = 2
"""Seeds of each of them. A row keeps its own rate unless every seed of another is better than the mean of its own: the
best of three by one seed each is luck two times in three. Two do not always tell either: the cnn of mnist1d had .88 and
.90 at its own rate, .90 and .90 at twice that, and there .89, .89 and .64 with fresh seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A size of the space: `factor` times as large along `axis`, or without an axis as it was searched."""

    axis: str = ""
    factor: int = 1

    @property
    def purpose(self) -> str:
        """Of the trainings at this size in the store; those that find the learning rate have ` tune` after it."""
        return f"scale {self.axis}={self.factor}" if self.axis else "scale 1"

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.axis} ×{self.factor}" if self.axis else "×1"


def sizes(space: SearchSpace, factors: Sequence[int], axes: Sequence[str] | None) -> list[Size]:
    """×1, and every factor along every axis, or along all that the space has.

    Raises:
      SpaceError: the space has no scale.
    """
    if not space.scale:
        raise SpaceError(
            f"space '{space.name}' does not say how it is made larger; give its SearchSpace a scale, for instance "
            "scale={'width': wider}, and check it with python -m nas.testing"
        )
    chosen = list(space.scale) if axes is None else list(dict.fromkeys(axes))
    return [Size(), *(Size(axis=axis, factor=factor) for axis in chosen for factor in sorted({*factors} - {1}))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a report is about: a finalist or a baseline, with the numbers that were found for it.

    Attributes:
      candidate: its id.
      name: a baseline's name, else the idea; one line, safe to print.
      baseline: whether it is one.
      source: its text.
      values: of its own tunables.
      recipe: of the space's training tunables.
    """

    candidate: int
    name: str
    baseline: bool
    source: str
    values: Mapping[str, Value]
    recipe: Mapping[str, float]

    @property
    def title(self) -> str:
        """A baseline's name, or the number of a candidate."""
        return self.name if self.baseline else f"candidate {self.candidate}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Whom a report is about.

    Attributes:
      subjects: finalists, the best first, then baselines.
      how: how the finalists were chosen, in words.
      left_out: names of baselines of which no numbers are known.
      weaker: names of baselines that were not asked for.
    """

    subjects: Sequence[Subject]
    how: str
    left_out: Sequence[str]
    weaker: Sequence[str] = ()

    @property
    def finalists(self) -> list[Subject]:
        """Without the baselines."""
        return [one for one in self.subjects if not one.baseline]


def choose(records: Records, top: int, baselines: int | None = None) -> Choice:
    """Take the best `top` of the confirmed finalists on the test split, or of the search, and the best baselines.

    Of baselines all are taken if `baselines` is None. Numbers are those that confirmation found or used; where there
    are none, those of the search.
    """
    rows, entries = rank(records), {entry.candidate.id: entry.candidate for entry in records.entries}
    told = [one.row for one in confirmed(records, rows) if one.belief.claim is not None and one.belief.test is not None]
    ours = [row for row in told or rows if row.arm != "baseline"][:top]
    theirs = [row for row in rows if row.arm == "baseline"]
    seeds = {row.candidate: row for row in records.retrainings if row.purpose == "seeds"}
    trials = {trial.id: trial for trial in records.trials}
    found = []
    for row in [*ours, *theirs[:baselines]]:
        numbers = seeds.get(row.candidate) or trials[row.trial]
        found.append(
            Subject(
                candidate=row.candidate, name=row.name, baseline=row.arm == "baseline",
                source=entries[row.candidate].source, values=numbers.values, recipe=numbers.recipe,
            )
        )  # fmt: skip
    known = {row.candidate for row in theirs}
    return Choice(
        subjects=found,
        how="the best of those confirmed, by the test split" if told else "the best of the search, unconfirmed",
        left_out=[one_line(c.operator) for c in entries.values() if c.arm == "baseline" and c.id not in known],
        weaker=[row.name for row in theirs[len(theirs[:baselines]) :]],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How far a row has come at a size.

    Attributes:
      tuned: what is stored of finding its learning rate.
      to_tune: what is to be trained for that.
      recipe: its numbers with the learning rate that was found, once all were tried; None if none can be trained with.
      trained: what is stored of its fresh seeds.
      to_train: what is to be trained of them.
      later: how many follow once the learning rate is found, if none beyond those is tried.
    """

    tuned: Sequence[Retraining]
    to_tune: Sequence[Retraining] = ()
    recipe: Mapping[str, float] | None = None
    trained: Sequence[Retraining] = ()
    to_train: Sequence[Retraining] = ()
    later: int = 0

    @property
    def missing(self) -> int:
        """Trainings that are to be made, but for those of rates beyond."""
        return len(self.to_tune) + len(self.to_train) + self.later


class Protocol:
    """Which trainings a report asks for, and which of them are still to be made.

    Args:
      records: of the run.
      space: that the run was made with.
      top: how many finalists.
      asked: the sizes, ×1 first.
      seeds: of each row at each size.
      baselines: how many of them, the best first; None is all.
    Raises:
      SpaceError: the space cannot be made larger so.
    """

    def __init__(
        self, records: Records, space: SearchSpace, top: int, asked: Sequence[Size], seeds: int,
        baselines: int | None = None,
    ) -> None:  # fmt: skip
        self.run_seed, self.sign = records.config["seed"], records.sign
        self.choice, self.sizes, self.seeds = choose(records, top, baselines), asked, seeds
        found = records.config["space"]
        self.references = {one: f"{found}@{one.axis}={one.factor}" if one.axis else found for one in asked}
        self.spaces = {one: load(self.references[one]) if one.axis else space for one in asked}

    def state(self, stored: Sequence[Retraining], subject: Subject, size: Size) -> State:
        """How far a row has come at a size, `stored` being all trainings after the search."""
        own = subject.recipe["lr"]
        rates = [*dict.fromkeys(self._within(times * own, size) for times in TRIED)]
        most = len(rates) + FURTHER
        while True:
            tuned, to_tune = self._split(stored, self._tunings(subject, size, rates))
            if any(row.failure is not None and row.failure.stage != "train" for row in tuned):
                return State(tuned=tuned)  # it has no program at this size
            if to_tune:
                return State(tuned=tuned, to_tune=to_tune, later=self.seeds)
            recipe = self._best(tuned, self._within(own, size))
            if recipe is None:
                return State(tuned=tuned)
            beyond = self._beyond(recipe["lr"], rates, size)
            if beyond in rates or len(rates) == most:
                break
            rates.append(beyond)
        trained, to_train = self._split(stored, self._fresh(subject, size, recipe))
        return State(tuned=tuned, recipe=recipe, trained=trained, to_train=to_train)

    def _beyond(self, best: float, rates: Sequence[float], size: Size) -> float:
        """The rate to try next to the best, if that is at an end of those tried; else it itself."""
        if len(rates) == 1 or best not in (min(rates), max(rates)):
            return best
        return self._within(best * (2 if best == max(rates) else 0.5), size)

    def _best(self, tuned: Sequence[Retraining], own: float) -> Mapping[str, float] | None:
        """The recipe to go on with, see `SEEDS_TRIED`; None if every rate failed with a seed."""
        found: dict[float, list[float]] = {}
        for row in tuned:
            score = self.sign * row.point.score if row.point is not None else -math.inf
            found.setdefault(row.recipe["lr"], []).append(score)
        better = [lr for lr in sorted(found) if min(found[lr]) > fmean(found[own])]
        lr = max(better, key=lambda one: min(found[one]), default=own)
        recipe = next(row.recipe for row in tuned if row.recipe["lr"] == lr)
        return recipe if math.isfinite(min(found[lr])) else None

    def _within(self, rate: float, size: Size) -> float:
        """A learning rate, within the range that the space allows at a size."""
        allowed = self.spaces[size].recipe.lr
        return min(max(rate, allowed.low), allowed.high)

    def missing(self, stored: Sequence[Retraining]) -> int:
        """How many trainings are to be made, but for those of rates beyond the first ones."""
        return sum(self.state(stored, subject, size).missing for size in self.sizes for subject in self.choice.subjects)

    def _tunings(self, subject: Subject, size: Size, rates: Sequence[float]) -> list[Retraining]:
        """The trainings that find a row's learning rate at a size among some."""
        recipes = [{**subject.recipe, "lr": rate} for rate in rates]
        purpose, numbers = f"{size.purpose} tune", range(SEEDS_TRIED)
        return [self._row(subject, size, purpose, recipe, number) for number in numbers for recipe in recipes]

    def _fresh(self, subject: Subject, size: Size, recipe: Mapping[str, float]) -> list[Retraining]:
        """The trainings with fresh seeds."""
        return [self._row(subject, size, size.purpose, recipe, number) for number in range(self.seeds)]

    def _row(self, subject: Subject, size: Size, purpose: str, recipe: Mapping[str, float], number: int) -> Retraining:
        space = self.spaces[size]
        who = ["baseline", subject.name] if subject.baseline else [self.run_seed, subject.candidate]
        known_by = [purpose, digest(space), who, dict(subject.values), dict(recipe), number]
        return Retraining(
            candidate=subject.candidate, purpose=purpose, place=-1, rung=space.ladder.top, values=subject.values,
            recipe=recipe, seed=seed_of(json.dumps(known_by, sort_keys=True)),
        )  # fmt: skip

    @staticmethod
    def _split(stored: Sequence[Retraining], wanted: Sequence[Retraining]) -> tuple[list[Retraining], list[Retraining]]:
        """Those that are stored, and those that are not, each with a place that is free."""
        first = wanted[0]
        mine = [row for row in stored if (row.candidate, row.purpose) == (first.candidate, first.purpose)]
        found, free = {row.seed: row for row in mine}, max((row.place for row in mine), default=-1) + 1
        lacking = [row for row in wanted if row.seed not in found]
        return (
            [found[row.seed] for row in wanted if row.seed in found],
            [replace(row, place=free + number) for number, row in enumerate(lacking)],
        )
