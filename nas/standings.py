"""What a run's store says, as rows to rank: one for each candidate, by its best trial, the baselines among them.

In goes a store, read only, also while a search writes it; out come frozen records. Nothing is printed here. Baselines
stand by the mean over their seeds; everything else by one trial, chosen because it was the best, which is partly luck.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np

from nas.costs import Costs, costs
from nas.judge.belief import Belief, Retrained, assess
from nas.judge.front import growth, pareto
from nas.judge.lift import Lift, Sample, lifts
from nas.judge.match import Curves, Match, match
from nas.judge.noise import SeedNoise, seed_sigma
from nas.judge.proxy import Proxy, proxies
from nas.judge.rungs import Result
from nas.llm.ledger import Settled
from nas.llm.transcript import Transcript
from nas.progress import one_line
from nas.records import Failure, Retraining, Trial
from nas.spending import Spending, spending
from nas.store import Entry, Score, Store, StoreError, Task

MEASURES = ("params", "flops", "step_us")
"""What quality is set against in a front: parameters, FLOPs and the time of a training step [microseconds], each of the
very trial that has the score: tunables may change the program."""
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
      values: of the candidate's own tunables in that trial.
      again: what the trial came to when it was trained again with other data, since its score was too good to be
        believed at once; None of the others.
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
    values: Mapping[str, Any] = field(default_factory=dict)
    again: float | None = None
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
    """A run's tables in memory; `tests` are scores on the test split, example by example, by candidate and seed."""

    config: Mapping[str, Any]
    tasks: Sequence[Task]
    entries: Sequence[Entry]
    trials: Sequence[Trial]
    scores: Sequence[Score]
    messages: Sequence[Mapping[str, Any]] = ()
    settled: Sequence[Settled] = ()
    retrainings: Sequence[Retraining] = ()
    tests: Mapping[tuple[int, int], np.ndarray] = field(default_factory=dict)
    accesses: Mapping[str, int] = field(default_factory=dict)

    @property
    def sign(self) -> int:
        """1 if a higher score is better, else -1."""
        return 1 if self.config["maximize"] else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """A candidate that was trained again with fresh seeds: its row of the search, and what the seeds say."""

    row: Row
    belief: Belief


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Quality against size at one rung: who is on the front, and how the area that it dominates grew.

    Attributes:
      rung: where scores are compared; those of two rungs never are.
      measure: one of `MEASURES`; less is better.
      sizes: of each candidate with a score, by its best trial there.
      points: (candidate, size, score) that no other beats in both, from the smallest to the best, baselines among them.
      reference: size and score from which the area is counted: twice the largest size, so that the largest counts too,
        and the worst baseline's score, or where there is none the worst of all.
      baselines: area of the baselines alone, in units of the score times doublings of the size.
      growth: (results of the search so far, trial, area) whenever the area grew, baselines included.
      results: of the search at the rung, in all.
    """

    rung: int
    measure: str
    sizes: Mapping[int, float]
    points: tuple[tuple[int, float, float], ...]
    reference: tuple[float, float]
    baselines: float
    growth: tuple[tuple[int, int, float], ...]
    results: int

    @property
    def candidates(self) -> tuple[int, ...]:
        """Ids of those on the front."""
        return tuple(candidate for candidate, _, _ in self.points)

    @property
    def hypervolume(self) -> float:
        """The area at the end."""
        return self.growth[-1][2] if self.growth else self.baselines


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
      spending: what a model cost and brought, if one was asked.
      messages: what people and other programs told the search, in order.
      confirmed: what fresh seeds and the test split say, best first.
      accesses: how often each split was looked at.
      control: what a control beside this run says, as a sentence; empty if nobody looked.
      proxy: how far each rung stands for each higher one, in the search's own trials.
      front: quality against size or time, by rung and measure.
      costs: what each candidate cost and how fast it runs.
      matches: of those confirmed, training until they are as good as the best baseline at its end.
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
    spending: Spending | None = None
    messages: Sequence[Mapping[str, Any]] = ()
    confirmed: Sequence[Confirmed] = ()
    accesses: Mapping[str, int] = field(default_factory=dict)
    control: str = ""
    proxy: Sequence[Proxy] = ()
    front: Sequence[Front] = ()
    costs: Costs = Costs()
    matches: Mapping[int, Match] = field(default_factory=dict)


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


def discredited(records: Records) -> set[int]:
    """Candidates of the search of which no score is believed, since one was a leak or did not come again."""
    trials = {trial.id: trial for trial in records.trials if trial.arm != "baseline"}
    return {
        trials[score.trial].candidate
        for score in records.scores
        if score.failure is not None and score.failure.discredits and score.trial in trials
    }


def rank(records: Records) -> tuple[Row, ...]:
    """Make the rows, best first: a higher rung comes before a better score, of equal scores the earlier candidate.

    Candidates without a score have no row, nor have those that were caught.
    """
    out = discredited(records)
    trials = {trial.id: trial for trial in records.trials if trial.candidate not in out}
    best: dict[int, tuple[int, float, int]] = {}
    for score in records.scores:
        if score.point is not None and math.isfinite(score.point.score) and score.trial in trials:
            height = (score.rung, records.sign * score.point.score, -score.trial)
            candidate = trials[score.trial].candidate
            best[candidate] = max(best.get(candidate, height), height)
    again = {(score.trial, score.rung): score.point.again for score in records.scores if score.point is not None}
    rungs = {rung for rung, _, _ in best.values()}
    seeds = {rung: baseline_seeds(records, rung) for rung in rungs}
    references = {rung: reference(records, rung) for rung in rungs}
    rows, sizes = [], costs_of_trials(records)
    for entry in records.entries:
        if entry.candidate.id in best:
            rung, score, trial = best[entry.candidate.id]
            row = _row(entry, trials[-trial], sizes[-trial], rung, records.sign * score, again[-trial, rung])
            rows.append(_with_seeds(row, seeds[rung].get(row.candidate), references[rung]))
    rows.sort(key=lambda row: (-row.rung, -records.sign * row.score, row.candidate))
    return tuple(
        replace(row, rank=place, delta=_delta(row, references[row.rung], records.sign))
        for place, row in enumerate(rows, 1)
    )


def own_programs(tasks: Sequence[Task]) -> dict[int, Mapping[str, Any]]:
    """Programs of the trials whose values are not the defaults, and so have one of their own."""
    found = (item for task in tasks for item in ((task.outcome or {}).get("programs") or {}).items())
    return {int(trial): facts["program"] for trial, facts in found if "program" in facts}


def costs_of_trials(records: Records) -> dict[int, Mapping[str, Any]]:
    """What the program of each trial costs, at the values that the trial has."""
    own, programs = own_programs(records.tasks), {entry.candidate.id: entry.program for entry in records.entries}
    return {
        trial.id: (own.get(trial.id) or programs.get(trial.candidate) or {}).get("cost", {}) for trial in records.trials
    }


def _row(entry: Entry, trial: Trial, cost: Mapping[str, Any], rung: int, score: float, again: float | None) -> Row:
    candidate = entry.candidate
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
        values=trial.values,
        again=again,
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
        again = store.retrainings()
        tests = {
            (row.candidate, row.place): np.load(store.test_path(row.candidate, row.place))["scores"]
            for row in again
            if row.test is not None
        }
        return Records(
            config=config, tasks=tasks, scores=scores, trials=trials, entries=store.entries(),
            messages=store.messages(), settled=Transcript(store.folder / "transcript").settled(),
            retrainings=again, tests=tests, accesses=store.accesses(),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, OSError) as error:  # damage that the database itself does not notice
        reason = one_line(f"{type(error).__name__}: {error}")
        text = f"the run in '{store.folder}' holds what cannot be read ({reason}); mend or restore its files"
        raise StoreError(text) from error


def board(records: Records) -> Board:
    """Make the leaderboard of a run."""
    tried = {trial.candidate for trial in records.trials}
    ours = [entry for entry in records.entries if entry.candidate.arm != "baseline"]
    failures = [score.failure for score in records.scores if score.failure is not None]
    failures += untraced(records.tasks).values()
    found = ((rung, reference(records, rung)) for rung in range(len(records.config["ladder"]["steps"])))
    first = reference(records, 0)
    rows = rank(records)
    spent = costs(records.tasks, records.trials, records.scores, records.retrainings)
    return Board(
        config=records.config,
        rows=rows,
        confirmed=confirmed(records, rows),
        accesses=records.accesses,
        proxy=proxy(records),
        front=fronts(records, spent),
        costs=spent,
        matches=matches(records),
        references={rung: against for rung, against in found if against is not None},
        spent=sum(entry.program is not None and entry.candidate.id in tried for entry in ours),
        trials=len(records.trials),
        open_tasks=sum(task.outcome is None for task in records.tasks),
        rejected=Counter(reason(entry.failure) for entry in records.entries if entry.failure is not None),
        failed=Counter(map(reason, failures)),
        arms=_arms(records),
        cpu_s=sum((task.usage or {}).get("cpu_s", 0.0) for task in records.tasks),
        spending=spending(
            records.tasks,
            records.entries,
            records.trials,
            records.scores,
            records.settled,
            sign=records.sign,
            sigma=first.noise.sigma if first else None,
        ),
        messages=records.messages,
    )


def retrained(records: Records, rows: Sequence[Row]) -> list[Retrained]:
    """Fresh seeds as `belief` takes them, in the order of the candidates; empty before a confirmation.

    Args:
      records: of the run.
      rows: of its search, as `rank` makes them; those that were not trained again are left out.
    """
    seeds: dict[int, list[Retraining]] = {}
    for row in records.retrainings:
        if row.purpose == "seeds":
            seeds.setdefault(row.candidate, []).append(row)
    size = max((len(scores) for scores in records.tests.values()), default=0)
    if not size:
        return []
    by_candidate, top = {row.candidate: row for row in rows}, len(records.config["ladder"]["steps"]) - 1
    return [
        Retrained(
            candidate=candidate,
            baseline=by_candidate[candidate].arm == "baseline",
            validation=np.array([one.point.score if one.point else math.nan for one in mine]),
            test=np.array([records.tests.get((candidate, one.place), np.full(size, math.nan)) for one in mine]),
            search=_search_score(by_candidate[candidate], top),
        )
        for candidate, mine in seeds.items()
        if candidate in by_candidate
    ]


def confirmed(records: Records, rows: Sequence[Row]) -> tuple[Confirmed, ...]:
    """What fresh seeds and the test split say, best first on the test split; arguments as of `retrained`."""
    by_candidate = {row.candidate: row for row in rows}
    beliefs = assess(retrained(records, rows), records.config["maximize"])
    told = [Confirmed(row=by_candidate[belief.candidate], belief=belief) for belief in beliefs]
    worst = -math.inf
    return tuple(
        sorted(told, key=lambda one: (-(records.sign * one.belief.test.value if one.belief.test else worst),
                                      one.row.candidate))
    )  # fmt: skip


def _search_score(row: Row, top: int) -> float | None:
    """The score that a finalist was chosen by, where fresh seeds can be compared with it: at the top rung."""
    return row.score if row.arm != "baseline" and row.rung == top else None


def by_rung(records: Records) -> dict[int, list[float | None]]:
    """Each candidate's score at every rung: of its best trial there, of a baseline the mean over its seeds."""
    owner = {trial.id: trial.candidate for trial in records.trials}
    rungs = range(len(records.config["ladder"]["steps"]))
    found: dict[int, list[float | None]] = {}
    for score in records.scores:
        value = number(score)
        if value is not None and score.trial in owner and score.rung in rungs:
            mine = found.setdefault(owner[score.trial], [None for _ in rungs])
            before = mine[score.rung]
            better = before is None or records.sign * (value - before) > 0
            mine[score.rung] = value if better else before
    for rung in rungs:
        for candidate, seeds in baseline_seeds(records, rung).items():
            found[candidate][rung] = fmean(seeds.values())
    return found


def matches(records: Records) -> dict[int, Match]:
    """Training until the best baseline's score is reached, of each candidate whose fresh seeds all came to the end."""
    found: dict[int, list[Retraining]] = {}
    for row in records.retrainings:
        if row.purpose == "seeds":
            found.setdefault(row.candidate, []).append(row)
    batch, curves = records.config.get("batch", 1), dict[int, Curves]()
    for candidate, rows in found.items():
        steps = [step for step, _ in rows[0].curve]
        if steps and all(row.point and [step for step, _ in row.curve] == steps for row in rows):
            scores = np.array([[score for _, score in row.curve] for row in rows])
            flops = rows[0].cost["train_flops"] * batch
            curves[candidate] = Curves(steps=np.array(steps), scores=scores, flops=flops)
    known = [e.candidate.id for e in records.entries if e.candidate.arm == "baseline" and e.candidate.id in curves]
    if not known:
        return {}
    best = max(known, key=lambda one: records.sign * curves[one].scores[:, -1].mean())
    return {one: match(mine, curves[best], records.config["maximize"]) for one, mine in curves.items()}


def fronts(records: Records, spent: Costs) -> tuple[Front, ...]:
    """Quality against size and time at every rung with a score, by each measure."""
    scores = by_rung(records)
    rungs = range(len(records.config["ladder"]["steps"]))
    found = []
    for measure in MEASURES:
        sizes = _sizes(records, measure, spent)
        found += [_front(records, scores, rung, measure, sizes) for rung in rungs] if sizes else []
    return tuple(sorted((one for one in found if one is not None), key=lambda one: one.rung))


def _front(
    records: Records, scores: Mapping[int, Sequence[float | None]], rung: int, measure: str, sizes: Mapping[int, float]
) -> Front | None:
    sign = records.sign
    baselines = {entry.candidate.id for entry in records.entries if entry.candidate.arm == "baseline"}
    owner = {trial.id: trial.candidate for trial in records.trials}
    results = [
        (score.trial, owner[score.trial], at)
        for score in sorted(records.scores, key=lambda score: (score.slot, score.trial))
        if score.rung == rung and score.trial in sizes and (at := number(score)) is not None
    ]
    best = {c: trial for trial, c, _ in sorted(reversed(results), key=lambda result: sign * result[2])}
    known = [(c, sizes[best[c]], at) for c in sorted(best) if (at := scores[c][rung]) is not None]
    means = [(size, at) for c, size, at in known if c in baselines]
    ours = [(trial, sizes[trial], at) for trial, c, at in results if c not in baselines]
    if not means and not ours:
        return None
    everyone = [*means, *((size, at) for _, size, at in ours)]
    reference = (
        2.0 * max(1, *(size for size, _ in everyone)),
        sign * min(sign * at for _, at in means or everyone),
    )
    points = [(math.log2(max(size, 1)), -sign * at) for size, at in everyone]
    areas = growth(points, (math.log2(reference[0]), -sign * reference[1]))
    before = areas[len(means) - 1] if means else 0.0
    grown = []
    for place, ((trial, _, _), area) in enumerate(zip(ours, areas[len(means) :], strict=True), 1):
        if area > (grown[-1][2] if grown else before):
            grown.append((place, trial, area))
    return Front(
        rung=rung,
        measure=measure,
        sizes={c: size for c, size, _ in known},
        points=tuple(known[i] for i in pareto([(size, -sign * at) for _, size, at in known])),
        reference=reference,
        baselines=before,
        growth=tuple(grown),
        results=len(ours),
    )


def _sizes(records: Records, measure: str, spent: Costs) -> dict[int, float]:
    """Of each trial."""
    if measure == "step_us":
        times = ((trial.id, spent.of(trial.candidate).step_at(trial.values)) for trial in records.trials)
        return {trial: 1e6 * seconds for trial, seconds in times if seconds is not None}
    known = ((trial, cost.get(measure)) for trial, cost in costs_of_trials(records).items())
    return {trial: size for trial, size in known if size is not None}


def proxy(records: Records) -> tuple[Proxy, ...]:
    """How far each rung stands for each higher one, in the trials of the search: baselines climb without selection."""
    owner = {trial.id: trial.candidate for trial in records.trials if trial.arm != "baseline"}
    rungs: list[list[Result]] = [[] for _ in records.config["ladder"]["steps"]]
    for score in records.scores:
        lost = score.failure is not None and score.failure.blame == "machine"
        if score.trial in owner and score.rung < len(rungs) and not lost:
            rungs[score.rung].append(Result(trial=score.trial, candidate=owner[score.trial], score=number(score)))
    return tuple(proxies(rungs, cut(records.config), records.config["maximize"]))


def cut(config: Mapping[str, Any]) -> int:
    """One in how many a rung sends on; of a run that sent all of them on, in how many one usually does."""
    eta = config["ladder"].get("eta") or 4
    return eta if eta > 1 else 4


def number(score: Score) -> float | None:
    """The score, if there is one that is a number."""
    return score.point.score if score.point is not None and math.isfinite(score.point.score) else None


def untraced(tasks: Sequence[Task]) -> dict[int, Failure]:
    """Trials whose drawn values gave no program, with the reason."""
    found = (item for task in tasks for item in ((task.outcome or {}).get("programs") or {}).items())
    return {int(trial): Failure(**facts["failure"]) for trial, facts in found if "failure" in facts}


def reason(failure: Failure) -> str:
    return f"{failure.stage}/{failure.rule}"


def _arms(records: Records) -> list[Arm]:
    estimates = lifts(samples(records), records.config["maximize"])
    proposed = Counter(entry.candidate.arm for entry in records.entries)
    rejected = Counter(entry.candidate.arm for entry in records.entries if entry.failure is not None)
    draws = Counter(trial.arm for trial in records.trials)
    order = {
        name: place
        for place, name in enumerate(("baseline", "random", "evolution", "claude", "claude_blind", "guest", "tune"))
    }
    names = sorted(proposed.keys() | draws.keys(), key=lambda name: (order.get(name, len(order)), name))
    return [
        Arm(name=n, proposed=proposed[n], rejected=rejected[n], draws=draws[n], lift=estimates.get(n)) for n in names
    ]
