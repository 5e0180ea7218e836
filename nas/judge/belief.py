"""Belief: which finalists beat the baselines, where each stands, and how much of a score was luck.

In go the scores of candidates that were trained again with fresh seeds, plain arrays; out come claims of improvement,
rank intervals and estimates with standard errors. Which split says what:

    search score, validation    chose the candidate, so it flatters; used for `luck` and nothing else
    fresh seeds, validation     decide who gets more seeds (`go_on`), free to be looked at often
    fresh seeds, test           decide claims and ranks; each seed is scored once

Deliberately absent: any look at the test split before the number of seeds is settled, pairing by seed (it loses power
unless seeds correlate strongly), shrinkage of unconfirmed scores (biased in simulation), and tests that may be looked
at while they run. `python -m benchmarks.belief` measures error rates and coverage of what is here.

A variance comes from two sources. Seeds: s_i, the deviation of row i's n_i scores, is moderated,

    v_i = max(s_i^2, ((n_i - 1) s_i^2 + w_i s_pool^2) / (n_i - 1 + w_i)),   f_i = n_i - 1 + w_i degrees of freedom,

s_pool^2 being the finalists' variances pooled, w_i = min(4, degrees of freedom of the pool that are not the row's own).
A finalist whose variance is more than 100 times their median is left out of the pool: one collapsed seed (.95 and .10
on mnist1d) is another distribution, and hid the gains of all others. The median of all of them in place of the pool
made too many false claims (.054 beside quiet baselines). Only finalists are pooled: baselines may be far weaker and
scatter differently (deviations of .0005 to .05 on mnist1d), and a few quiet ones would make every finalist's variance
too small. Moderation never lowers a variance, or the finalist that scatters most, and so leads most often by chance,
would be claimed too often. Examples: all rows share one test split of E of them, so for a weighted sum of rows' means
with weights c,

    v_test = max(0, Var_e(sum_i c_i m_ie) - sum_i c_i^2 rho_i / n_i) / E,

m_ie the mean over seeds of row i on example e, rho_i the mean over examples of the variance between seeds (0 for a row
of one seed: what is not known is not subtracted). Then with means x_i

    error^2 = sum_i c_i^2 v_i / n_i + v_test,   df = error^4 / sum_i (c_i^2 v_i / n_i)^2 / f_i   (Satterthwaite).

Examples count as independent draws; where they are not (windows of one text), give means over what is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Literal

import numpy as np

from nas.judge.lift import beta_cdf, t_quantile

LEVEL = 0.05
"""Share of leaderboards with a false claim, of those with a false rank, and of effects outside their interval."""
FIRST_SEEDS = 2
"""Seeds of every finalist, after which `go_on` decides. With 2 and then 5 instead of 5 at once the power to find three
seed deviations was the same in simulation, at two thirds of the training."""
SEEDS = 5
"""Seeds of a finalist that goes on; a claim needs them all."""
BASELINE_SEEDS = 10
"""Seeds of every baseline: they are compared with all finalists and can be kept for later searches."""
PRIOR_DEGREES = 4
"""Most degrees of freedom by which the pool counts beside a row's own variance; at 5 seeds as much as these do."""
OUTLYING = 100
"""Times the finalists' median variance beyond which one is not pooled: a row with three times the noise of the others,
the hardest case that is simulated, is rarely so far off, and a seed that collapsed always is."""
MAX_DEGREES = 1e5
"""Student's t with more degrees of freedom is taken at this number: without variance between seeds there is no end."""
MAX_T = 1e9
"""A larger ratio of difference and error is rounding: that no noise was seen does not show that there is none."""

Barred = Literal["", "seed failed", "too few seeds", "no baseline", "noise unknown"]
"""What forbids a claim whatever the scores are; empty if nothing does."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Retrained:
    """A candidate that was trained again with fresh seeds, at the numbers that the search found.

    A seed failed if its validation score or any of its test results is not finite: the candidate's fault, for instance
    divergence. Runs that the machine lost are left out by the caller, or run again.

    Attributes:
      candidate: its id.
      baseline: whether it is one; all others are finalists.
      validation: score of each seed on the validation split. Shape (n,).
      test: result of each seed on each example of the test split, whose mean is the score: right or wrong, or any
        other number. The same examples in the same order for all candidates. Shape (n, E).
      search: the score that it was chosen by.
    """

    candidate: int
    baseline: bool
    validation: np.ndarray
    test: np.ndarray
    search: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value in score units with its standard error; the error is None if the noise is not known."""

    value: float
    error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """How much better a finalist is than the best baseline on the test split.

    The best baseline is the one with the best test mean, which was partly luck of its own: the effect is a little too
    small.

    Attributes:
      against: the baseline's id.
      value: difference of the means in score units; positive is better, whatever the direction of the score.
      error: standard error.
      degrees: of freedom, of `error`.
      sigma: deviation from seed to seed, sqrt((v_F + v_B) / 2) of the two.
      shared_error: sqrt(v_test), the part of `error` that no further seed makes smaller.
    """

    against: int
    value: float
    error: float
    degrees: float
    sigma: float
    shared_error: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Ends of the interval of `value` that misses with probability `level`, whatever other finalists there are."""
        half = t_quantile(1 - level / 2, self.degrees) * self.error
        return self.value - half, self.value + half

    def in_sigmas(self, level: float = LEVEL) -> tuple[float, float, float] | None:
        """Value and interval over `sigma`, which is taken as known; None if it is 0."""
        if self.sigma == 0:
            return None
        low, high = self.interval(level)
        return self.value / self.sigma, low / self.sigma, high / self.sigma


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Whether a finalist is better than every baseline.

    Attributes:
      p: one-sided probability under equality, the largest over all baselines; 1 if the claim is barred.
      adjusted: the same after Holm's correction for the number of finalists.
      claimed: whether `adjusted` is at most the level.
      barred: why there can be no claim; empty if there can.
      effect: against the best baseline; None if there is none, or nothing is known of the noise.
    """

    p: float
    adjusted: float
    claimed: bool
    barred: Barred
    effect: Effect | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Belief:
    """What fresh seeds say of one candidate. What needs a finished seed is None without one.

    Attributes:
      candidate: its id.
      baseline: whether it is one.
      seeds: that finished; all estimates are of these.
      failed: seeds that did not.
      validation: mean over seeds; the error is the seeds' alone, since nothing is known per example.
      test: mean over seeds; the error has the sampling of the examples in it.
      luck: search score minus mean fresh validation, positive where the search score flattered. None without the score.
      split_reuse: (validation - test) minus the mean over baselines of the same, positive where the choice by the
        validation split flattered. None without a baseline, and for the only one.
      rank: first and last place that its test score allows among all rows with a finished seed, from 1.
      claim: None for a baseline.
    """

    candidate: int
    baseline: bool
    seeds: int
    failed: int
    validation: Estimate | None = None
    test: Estimate | None = None
    luck: Estimate | None = None
    split_reuse: Estimate | None = None
    rank: tuple[int, int] | None = None
    claim: Claim | None = None


def go_on(
    finalists: Mapping[int, Sequence[float]], baselines: Mapping[int, Sequence[float]], maximize: bool
) -> list[int]:
    """Find the finalists that are worth further seeds: mean fresh validation above the best baseline's.

    A finalist that is left out can never be claimed, and still counts in Holm's correction, so whatever is decided here
    adds no false claim. It was left out because two seeds were low: its own means are then a little too low as well.

    Args:
      finalists: validation scores of the first fresh seeds by candidate; one that is not finite failed, and rules the
        finalist out, since no claim can be made of it.
      baselines: the same of all baselines, of all their seeds; without a finished one they rule out nobody.
      maximize: whether a higher score is better.
    Returns:
      Ids of finalists, in the order given.
    """
    sign = 1 if maximize else -1
    means = [fmean(told) for scores in baselines.values() if (told := [sign * s for s in scores if math.isfinite(s)])]
    bar = max(means, default=-math.inf)
    return [
        candidate
        for candidate, scores in finalists.items()
        if len(scores) and all(map(math.isfinite, scores)) and sign * fmean(scores) > bar
    ]


def assess(rows: Sequence[Retrained], maximize: bool, seeds: int = SEEDS, level: float = LEVEL) -> list[Belief]:
    """Say of every row what its fresh seeds allow to be believed.

    Claim: for each finalist F and baseline B the statistic t = (x_F - x_B) / error (weights 1 and -1, see the module)
    gives a one-sided p with df degrees of freedom; the largest p over baselines is corrected after Holm over finalists.
    A finalist with a failed seed is not claimed, nor one with fewer than `seeds`; the survivors of a baseline stand for
    it, which flatters it and so makes no false claim.

    Rank: all pairs, two-sided, corrected after Holm over the pairs; [1 + rows that are significantly better, rows minus
    those significantly worse]. With probability 1 - level or more all intervals are right at once. A row with a failed
    seed is better than nobody. A lone best is often not "1": a claim is another family of tests, and has more power.

    Luck: error^2 = v_i / n_i, v_i of fresh validation. Split reuse: v_i of the seeds' differences, validation minus
    test, and v_test of the row against the mean over baselines; the validation split is as it is, and not sampled.

    Args:
      rows: all finalists and all baselines of one space and version; order is kept.
      maximize: whether a higher score is better.
      seeds: that a finalist must have finished to be claimed.
      level: of the claims together, and of the ranks together.
    Raises:
      ValueError: shapes do not fit together, or a candidate is there twice.
    Source: Welch (1947); Smyth (2004, "limma") for the variances, where our prior is fixed and may only raise; Holm
      (1979); Mohamad, Goeman and van Zwet (2019) for ranks from pairwise tests. The term v_test is ours.
    """
    _check(rows)
    finished = [np.isfinite(row.validation) & np.isfinite(row.test).all(axis=1) for row in rows]
    board = _Board([(row, told) for row, told in zip(rows, finished, strict=True) if told.any()], maximize)
    places = {row.candidate: i for i, row in enumerate(board.rows)}
    ranks, claims = board.ranks(level), _claims(board, rows, places, seeds, level)
    beliefs = []
    for row, told in zip(rows, finished, strict=True):
        i = places.get(row.candidate)
        belief = Belief(
            candidate=row.candidate,
            baseline=row.baseline,
            seeds=int(told.sum()),
            failed=int((~told).sum()),
            claim=claims.get(row.candidate),
        )
        if i is not None:
            belief = replace(
                belief,
                validation=board.validation(i),
                test=board.test(i),
                luck=board.luck(i),
                split_reuse=board.split_reuse(i),
                rank=ranks[i],
            )
        beliefs.append(belief)
    return beliefs


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values after Holm (1979): rejecting those at most alpha errs with probability alpha at most."""
    adjusted, largest = [1.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = largest
    return adjusted


# ---- all rows with a finished seed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """A weighted sum of means; error and degrees of freedom are None if nothing is known of the noise."""

    value: float
    error: float | None
    degrees: float | None
    shared_error: float

    @property
    def p(self) -> float | None:
        """One-sided probability if the true sum is 0; None without noise to compare it with."""
        if self.error is None or self.degrees is None or not abs(self.value) < MAX_T * self.error:
            return None
        return _upper_tail(self.value / self.error, self.degrees)


class _Seeds:
    """A number of every seed of every row: its mean by row, and its moderated variance v_i with f_i degrees of freedom.

    Where f_i is 0, v_i is not known.
    """

    def __init__(self, values: Sequence[np.ndarray], finalists: Sequence[int]) -> None:
        own = [len(row) - 1 for row in values]
        squares = [float(((row - row.mean()) ** 2).sum()) if np.ptp(row) else 0.0 for row in values]
        pool = _pool({i: squares[i] / own[i] for i in finalists if own[i]})
        degrees = sum(own[i] for i in pool)
        pooled = sum(squares[i] for i in pool) / max(degrees, 1)
        weights = [min(PRIOR_DEGREES, degrees - (n if i in pool else 0)) for i, n in enumerate(own)]
        self.mean = [float(row.mean()) for row in values]
        self.degrees = [n + weight for n, weight in zip(own, weights, strict=True)]
        self.variance = [
            max(square / max(n, 1), (square + weight * pooled) / max(n + weight, 1))
            for square, n, weight in zip(squares, own, weights, strict=True)
        ]


def _pool(variances: Mapping[int, float]) -> list[int]:
    """Finalists whose variances are pooled: all but those that are far above the others, of which there must be two."""
    limit = OUTLYING * median(variances.values()) if len(variances) > 2 else math.inf
    return [i for i, variance in variances.items() if variance <= limit or limit == 0]


class _Board:
    """Rows with a finished seed; inside, scores have their sign turned so that higher is better."""

    def __init__(self, told: Sequence[tuple[Retrained, np.ndarray]], maximize: bool) -> None:
        self.rows, self.sign = [row for row, _ in told], 1 if maximize else -1
        examples = [self.sign * np.asarray(row.test[finished], float) for row, finished in told]
        validation = [self.sign * np.asarray(row.validation[finished], float) for row, finished in told]
        test = [row.mean(axis=1) for row in examples]
        finalists = [i for i, row in enumerate(self.rows) if not row.baseline]
        self.baselines = [i for i, row in enumerate(self.rows) if row.baseline]
        self.n = [len(row) for row in examples]
        self.failed = [not finished.all() for _, finished in told]
        self.on_validation, self.on_test = _Seeds(validation, finalists), _Seeds(test, finalists)
        self.gap = _Seeds([v - t for v, t in zip(validation, test, strict=True)], finalists)
        # Of the mean results of each two rows between examples, and rho_i / n_i, the seeds' part of its diagonal.
        means = [row.mean(axis=0) for row in examples]
        self.covariance = np.atleast_2d(np.cov(means)).tolist() if told else []
        self.of_seeds = [_rho(row) / len(row) for row in examples]
        self.size = len(means[0]) if told else 0

    def total(self, weights: Mapping[int, float], seeds: _Seeds) -> _Sum:
        """The sum of rows' means with these weights, and its error."""
        c = list(weights.items())
        split = sum(a * b * self.covariance[i][j] for i, a in c for j, b in c)
        shared = max(0.0, split - sum(a * a * self.of_seeds[i] for i, a in c)) / self.size
        value = sum(a * seeds.mean[i] for i, a in c)
        if not all(seeds.degrees[i] for i, _ in c):
            return _Sum(value=value, error=None, degrees=None, shared_error=math.sqrt(shared))
        parts = {i: a * a * seeds.variance[i] / self.n[i] for i, a in c}
        square, spread = sum(parts.values()) + shared, sum(part**2 / seeds.degrees[i] for i, part in parts.items())
        return _Sum(
            value=value,
            error=math.sqrt(square),
            degrees=min(square**2 / spread, MAX_DEGREES) if spread > 0 else MAX_DEGREES,
            shared_error=math.sqrt(shared),
        )

    def difference(self, i: int, j: int) -> _Sum:
        """Test score of row i minus that of row j."""
        return self.total({i: 1.0, j: -1.0}, self.on_test)

    def validation(self, i: int) -> Estimate:
        return Estimate(value=self.sign * self.on_validation.mean[i], error=self._validation_error(i))

    def test(self, i: int) -> Estimate:
        found = self.total({i: 1.0}, self.on_test)
        return Estimate(value=self.sign * found.value, error=found.error)

    def luck(self, i: int) -> Estimate | None:
        search = self.rows[i].search
        if search is None or not math.isfinite(search):
            return None
        return Estimate(value=self.sign * search - self.on_validation.mean[i], error=self._validation_error(i))

    def split_reuse(self, i: int) -> Estimate | None:
        if self.baselines in ([], [i]):
            return None
        weights = dict.fromkeys(self.baselines, -1 / len(self.baselines))
        found = self.total(weights | {i: 1 + weights.get(i, 0.0)}, self.gap)
        return Estimate(value=found.value, error=found.error)

    def _validation_error(self, i: int) -> float | None:
        noise = self.on_validation
        return math.sqrt(noise.variance[i] / self.n[i]) if noise.degrees[i] else None

    def against_all(self, i: int) -> float | None:
        """The largest p of a row against a baseline; None if one of them is not known."""
        found = [self.difference(i, baseline).p for baseline in self.baselines]
        told = [p for p in found if p is not None]
        return max(told) if len(told) == len(found) else None

    def effect(self, i: int) -> Effect | None:
        if not self.baselines:
            return None
        best = max(self.baselines, key=lambda baseline: self.on_test.mean[baseline])
        found = self.difference(i, best)
        if found.error is None or found.degrees is None:
            return None
        return Effect(
            against=self.rows[best].candidate,
            value=found.value,
            error=found.error,
            degrees=found.degrees,
            sigma=math.sqrt((self.on_test.variance[i] + self.on_test.variance[best]) / 2),
            shared_error=found.shared_error,
        )

    def ranks(self, level: float) -> list[tuple[int, int]]:
        """First and last place of each row."""
        count = len(self.rows)
        order = sorted(range(count), key=lambda i: -self.on_test.mean[i])
        pairs = [(order[a], order[b]) for a in range(count) for b in range(a + 1, count)]
        adjusted = holm([self._two_sided(better, worse) for better, worse in pairs])
        shown = [pair for pair, p in zip(pairs, adjusted, strict=True) if p <= level]
        above, below = [0] * count, [0] * count
        for better, worse in shown:
            below[better] += 1
            above[worse] += 1
        return [(1 + above[i], count - below[i]) for i in range(count)]

    def _two_sided(self, better: int, worse: int) -> float:
        if self.failed[better]:
            return 1.0
        p = self.difference(better, worse).p
        return 1.0 if p is None else min(1.0, 2 * p)


def _claims(
    board: _Board, rows: Sequence[Retrained], places: Mapping[int, int], seeds: int, level: float
) -> dict[int, Claim]:
    """A claim for each finalist by its id, also for those without a finished seed."""
    finalists = [row for row in rows if not row.baseline]
    found: list[tuple[float, Barred]] = []
    for row in finalists:
        i = places.get(row.candidate)
        barred: Barred = ""
        if len(row.validation) < seeds:
            barred = "too few seeds"
        elif i is None or board.failed[i]:
            barred = "seed failed"
        elif not board.baselines:
            barred = "no baseline"
        p = board.against_all(i) if i is not None and not barred else 1.0
        found.append((1.0, "noise unknown") if p is None else (p, barred))
    claims = {}
    for row, (p, barred), adjusted in zip(finalists, found, holm([p for p, _ in found]), strict=True):
        i = places.get(row.candidate)
        claims[row.candidate] = Claim(
            p=p,
            adjusted=adjusted,
            claimed=adjusted <= level,
            barred=barred,
            effect=None if i is None else board.effect(i),
        )
    return claims


def _rho(results: np.ndarray) -> float:
    """Mean over examples of the variance between seeds; 0 for one seed."""
    return float(results.var(axis=0, ddof=1).mean()) if len(results) > 1 else 0.0


def _upper_tail(t: float, df: float) -> float:
    """P(T > t) of Student's t with `df` degrees of freedom."""
    tail = beta_cdf(df / (df + t * t), df / 2, 0.5) / 2
    return tail if t > 0 else 1.0 - tail


def _check(rows: Sequence[Retrained]) -> None:
    candidates = [row.candidate for row in rows]
    if len(set(candidates)) < len(candidates):
        raise ValueError(f"assess() got candidates {sorted(candidates)}; give each once, with all its seeds")
    for row in rows:
        n = row.validation.shape
        if len(n) != 1 or row.test.ndim != 2 or row.test.shape[0] != n[0]:
            raise ValueError(
                f"candidate {row.candidate} has validation of shape {n} and test of shape {row.test.shape}; "
                "give shapes (n,) and (n, E), with a NaN for a seed that failed"
            )
    sizes = sorted({row.test.shape[1] for row in rows})
    if len(sizes) > 1 or sizes and sizes[0] < 2:
        raise ValueError(
            f"assess() got test results on {' and '.join(map(str, sizes))} examples; "
            "give all rows the results on the same examples, two or more"
        )
