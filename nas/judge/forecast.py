"""Promotion by two forecasters: a trial's rank in its rung, and a model's forecast that has to earn its weight.

In go the results of a rung, the promotions made from it and the model's forecasts; out come the next promotion with
its reason, the weights of both forecasters, and how good the forecasts were. A forecast is the probability that a
trial, trained to the next rung, ends at or above the median of those promoted.

What was frozen when a trial was promoted, z (the normal score of its rank) and x (the clipped log-odds of the
forecast), is compared with what the next rung showed, in a Bayesian logistic regression of "at or above the median" on
z and x. Only promoted trials have an outcome, but which are promoted depends on z, x and a coin alone, so the selection
can be ignored and nothing is weighted. A model that is wrong gets the weight 0, which is the order of ranks.

While a model forecasts, a tenth of the promotions from the first rung go to a trial drawn at random, which keeps z and
x varied. Without forecasts everything here is `nas.judge.rungs`. Nothing is remembered here; the caller stores every
`Choice`. Deliberately absent: a forecast that forgoes a promotion, which lost up to 5 % in simulation to a model that
is right except about the very best, and weights from each forecaster's own log-loss, which leave a right model without
any, since among promoted trials the base rate is not that of all.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

import numpy as np

from nas.judge import rungs
from nas.judge.rungs import Result

Why = Literal["rank", "model", "random"]
"""Whose choice a promotion was: the rank's, the model's against the rank, or the coin's."""

CLIP = 3.0
"""Largest log-odds that a forecast may have, in both directions: probabilities of .047 and .953."""
CHANGED = 0.3
"""Share of a rung's promotions that the model may change."""
PROTECTED = 1 / 3
"""Share of a rung's slots, the best by rank, whose promotion the model may not put off."""
RANDOM = 0.1
"""Share of the promotions from the first rung that are drawn at random."""
REACH, RANDOM_REACH = 3, 2
"""The model chooses among the best `REACH` * n / eta only, and the coin among the best `RANDOM_REACH` * n / eta.

Where the best start slowly, a model that is always right gained 2.2 %, 3.8 % and 4.7 % with a reach of 2, 3 and 4, and
needed .89, .73 and .73 of the steps; with 4 no checkpoint could ever go (eta 4, 300 searches, standard error .6).
"""

B_MEAN, W_MEAN = 2.0, 0.5
"""Prior means of the weights of rank and model."""
B_LEAST = 0.3
"""Least weight of the rank."""
PRECISION = np.array([1.0, 1.0, 0.5]) ** -2
"""Prior precisions of a, b and w."""
OPEN = np.array([1.0, 30.0, 0.5]) ** -2
"""The same where b is left to the evidence, so that a copy of the ranks cannot mend a b that the prior holds back."""
CONVERGED = 1e-6
"""Length of the last step of Newton's method; what is left is about its square."""

SKILL_AFTER = 30
"""Resolved trials with forecasts before skill is judged."""
SKILL_AT = 1.28
"""Statistic that counts as skill when it is first judged; later less will do, as `has_skill` says."""
BINS = (0.2, 0.4, 0.6, 0.8)
"""Borders of the bins of a reliability table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One promotion, and what was known when it was decided.

    Attributes:
      trial: which trial is promoted.
      why: whose choice it was.
      displaced: the trial that rank alone would have promoted, if that is another.
      probability: of this choice: of the coin's side, and of the draw where it was drawn; 1 without a coin.
      z: normal score of the trial's rank.
      x: clipped log-odds of the model's forecast for it; None without one.
    """

    trial: int
    why: Why
    displaced: int | None = None
    probability: float = 1.0
    z: float
    x: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A resolved trial: promoted from a rung, for whatever reason, and measured at the next.

    Attributes:
      rung: the rung that it was promoted from.
      z: normal score of its rank when it was promoted.
      x: clipped log-odds of the forecast when it was promoted; None without one.
      y: whether its score at the next rung is at or above the median of the promoted.
    """

    rung: int
    z: float
    x: float | None
    y: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Coefficients of logit P(y) = a + b z + w x, with z and x centred in each rung.

    Attributes:
      a: intercept.
      b: weight of the rank, at least `B_LEAST`.
      w: weight of the model, never negative.
      resolved: how many trials with a forecast they rest on.
    """

    a: float = 0.0
    b: float = B_MEAN
    w: float = W_MEAN
    resolved: int = 0


PRIOR = Weights()
"""The weights before anything is resolved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Resolved trials whose forecast lies in [low, high): how many, the mean forecast, and the share that came true."""

    low: float
    high: float
    count: int
    forecast: float
    observed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How good the forecasts were, given promotion. Below the base rate's figure is good.

    Attributes:
      resolved: trials with a forecast that were promoted and measured.
      base_rate: share of them at or above the median of the promoted.
      brier: mean squared difference between forecast and outcome.
      brier_base: the same for the base rate as everybody's forecast.
      log_loss: mean of -log of the probability that was given to what happened [nats].
      log_loss_base: the same for the base rate.
      bins: those that are not empty, in order.
    """

    resolved: int
    base_rate: float
    brier: float
    brier_base: float
    log_loss: float
    log_loss_base: float
    bins: tuple[Bin, ...]


# ---- deciding


def log_odds(probability: float) -> float:
    """The forecast as log-odds, held within `CLIP`."""
    if not 0 <= probability <= 1:
        raise ValueError(f"forecast is {probability}; give a probability between 0 and 1")
    low = 1 / (1 + math.exp(CLIP))
    inside = min(max(probability, low), 1 - low)
    return math.log(inside / (1 - inside))


def next_promotion(
    results: Sequence[Result],
    promoted: Mapping[int, Why],
    forecasts: Mapping[int, float],
    weights: Weights,
    *,
    rung: int,
    eta: int,
    maximize: bool,
    rng: np.random.Generator,
    share: float = RANDOM,
) -> Choice | None:
    """Pick the trial that is to be resumed towards the next rung.

    The best by rank, unless the coin falls for a random one, or b z + w x puts another first and the model may have its
    way: with this change it has made at most `CHANGED` * (slots + 1) in this rung, and the trial that it puts off is
    not among the best third of as many as there are slots. What it puts off waits for the next slot like any other.

    Args:
      results: what is known of the rung, one result a trial, failures included.
      promoted: the trials that were promoted from this rung, and whose choice each was.
      forecasts: the model's latest probability for trials of this rung; a trial without one counts as the mean of the
        others. Without any, this is `rungs.next_promotion`.
      weights: of both forecasters.
      rung: the rung, from 0.
      eta: one in eta is promoted.
      maximize: whether a higher score is better.
      rng: of this decision alone.
      share: of random promotions from the first rung.
    Returns:
      The promotion, or None if no slot is free or nobody waits.
    """
    slots = rungs.slots(len(results), eta)
    if len(promoted) >= slots:
        return None
    ranked = [result.trial for result in rungs.ranked(results, maximize)]
    waiting = [trial for trial in ranked if trial not in promoted]
    if not waiting:
        return None
    normal = rungs.normal_scores([result.score for result in results], maximize)
    z = {result.trial: score for result, score in zip(results, normal, strict=True)}
    x = {trial: log_odds(forecasts[trial]) for trial in z if trial in forecasts}
    first = waiting[0]

    def choice(trial: int, why: Why, probability: float) -> Choice:
        displaced = None if trial == first else first
        return Choice(trial=trial, why=why, displaced=displaced, probability=probability, z=z[trial], x=x.get(trial))

    if not x:
        return choice(first, "rank", 1.0)
    share = share if rung == 0 else 0.0
    if rng.random() < share:
        able = [trial for trial in ranked[: RANDOM_REACH * len(results) // eta] if trial not in promoted]
        return choice(able[int(rng.integers(len(able)))], "random", share / len(able))
    if _may_change(promoted, slots) and ranked.index(first) + 1 > PROTECTED * slots:
        able = [trial for trial in ranked[: REACH * len(results) // eta] if trial not in promoted]
        mean = sum(x.values()) / len(x)
        best = max(able, key=lambda trial: weights.b * z[trial] + weights.w * (x.get(trial, mean) - mean))
        return choice(best, "rank" if best == first else "model", 1 - share)
    return choice(first, "rank", 1 - share)


def keep(
    results: Sequence[Result],
    promoted: Mapping[int, Why],
    n_to_come: int,
    *,
    rung: int,
    eta: int,
    maximize: bool,
    forecast: bool,
) -> set[int]:
    """Find the paused trials that `next_promotion` may still choose; the checkpoints of all others can go.

    A trial's rank among those known can only get worse, so what is beyond `REACH` * (n + m) / eta now is never chosen
    by the model, and likewise for the coin. By rank a trial is chosen only when all better ones were promoted, so its
    rank is within the slots. Where the model has no change left the coin's reach is enough, and without a coin
    `rungs.keep`.

    Args:
      results: what is known of the rung.
      promoted: the trials that were promoted from this rung, and whose choice each was.
      n_to_come: m, an upper bound on the results that will still arrive in this rung.
      rung: the rung, from 0.
      eta: one in eta is promoted.
      maximize: whether a higher score is better.
      forecast: whether a model may forecast from now on.
    Returns:
      Ids of trials.
    """
    n = len(results) + n_to_come
    slots = rungs.slots(n, eta)
    if len(promoted) >= slots:
        return set()
    if forecast and _may_change(promoted, slots):
        reach = REACH * n // eta
    elif forecast and rung == 0:
        reach = RANDOM_REACH * n // eta
    else:
        return rungs.keep(results, promoted, n_to_come, eta, maximize)
    return {result.trial for result in rungs.ranked(results, maximize)[:reach] if result.trial not in promoted}


def _may_change(promoted: Mapping[int, Why], slots: int) -> bool:
    """Whether one more change by the model keeps within its share."""
    changed = sum(why == "model" for why in promoted.values())
    return changed + 1 <= CHANGED * (slots + 1)


# ---- learning what the forecasts are worth


def resolved(rung: int, promotions: Iterable[Choice], results_next: Sequence[Result], maximize: bool) -> list[Evidence]:
    """Compare what was known at the promotions from a rung with what the next rung has shown.

    The median changes with every result, so this is done anew each time. Of trials that failed there, y is false.

    Args:
      rung: the rung promoted from.
      promotions: all of them; those not measured yet are left out.
      results_next: what is known of the next rung.
      maximize: whether a higher score is better.
    """
    losses = {result.trial: _loss(result.score, maximize) for result in results_next}
    if not losses:
        return []
    middle = median(losses.values())
    return [
        Evidence(rung=rung, z=choice.z, x=choice.x, y=math.isfinite(loss) and loss <= middle)
        for choice in promotions
        if (loss := losses.get(choice.trial)) is not None
    ]


def fit(evidence: Sequence[Evidence]) -> Weights:
    """The weights that are most probable given what was resolved.

    logit P(y) = a + b z + w x, z and x centred in each rung, rungs pooled, x = 0 without a forecast. Priors: a normal
    around the log-odds of the mean of y (half a success and half a failure added, so that they exist), b ~ N(2, 1)
    with b >= .3, w ~ N(.5, .5^2) with w >= 0. The log-posterior is strictly concave, so where the free maximum is
    outside of the bounds, the solution is the best of the maxima along them that is inside.
    """
    if not evidence:
        return PRIOR
    design, y = _regression(evidence)
    at = _maximum(design, y, [0, 1, 2])
    if not _allowed(at):
        along = [_maximum(design, y, free) for free in ([0, 1], [0, 2], [0])]
        at = max(filter(_allowed, along), key=lambda at: _height(design, y, at))
    a, b, w = at.tolist()
    return Weights(a=a, b=b, w=w, resolved=sum(e.x is not None for e in evidence))


def has_skill(evidence: Sequence[Evidence]) -> bool | None:
    """Whether the forecasts say more than the ranks; None until enough are resolved to tell.

    The score test of w = 0: the slope of the log-posterior along w, fitted without w, over its standard deviation. It
    does not lean on the prior of w, and what the forecasts share with the ranks is no skill. The search may ask after
    every result, so the bar falls with the number n of forecasts as `SKILL_AT` * `SKILL_AFTER` / n: chance alone would
    else stop a model that is right, sooner or later.

    Simulated at 30 resolved trials: of random forecasters .90 to .92 show no skill, of those with an AUC of .80 given
    promotion .89 to .97 do. In 300 searches of 200 trials in each of four populations (`benchmarks.curves`) random
    forecasters are stopped at the first judgement with .86 to .88 and in the end with .95 to .97, copies of the rank
    always. Forecasters of AUC .80 among all trials, which is .67 to .70 given promotion, since the promoted resemble
    each other in what made them so, pass the first with .57 to .77 and all with .39 to .68.
    """
    known = [e for e in evidence if e.x is not None]
    if len(known) < SKILL_AFTER:
        return None
    return skill(known) >= SKILL_AT * SKILL_AFTER / len(known)


def skill(evidence: Sequence[Evidence]) -> float:
    """The statistic of `has_skill`: about standard normal if the forecasts say nothing that the ranks do not say."""
    design, y = _regression(evidence)
    at = _maximum(design, y, [0, 1], OPEN)
    p = _sigmoid(design @ at)
    information = design.T @ (design * (p * (1 - p))[:, None])
    of_rank = information[:2, :2] + np.diag(OPEN[:2])
    variance = information[2, 2] - information[2, :2] @ np.linalg.solve(of_rank, information[:2, 2])
    return float(design[:, 2] @ (y - p) / math.sqrt(variance)) if variance > 0 else 0.0


def calibration(evidence: Sequence[Evidence]) -> dict[int | None, Calibration]:
    """How good the forecasts were, by rung, and over all rungs under None; forecasts are taken within `CLIP`.

    Given promotion: of trials that were not promoted nothing is known. Empty without resolved forecasts.
    """
    told = [(e.rung, 1 / (1 + math.exp(-e.x)), float(e.y)) for e in evidence if e.x is not None]
    groups: dict[int | None, list[tuple[float, float]]] = {}
    for rung, p, y in told:
        for group in (None, rung):
            groups.setdefault(group, []).append((p, y))
    return {group: _calibration(np.array(pairs)) for group, pairs in groups.items()}


def _calibration(pairs: np.ndarray) -> Calibration:
    p, y = pairs.T
    base = float(y.mean())
    entropy = -sum(share * math.log(share) for share in (base, 1 - base) if share > 0)
    borders = [0.0, *BINS, 1.0]
    bins = []
    for low, high in pairwise(borders):
        inside = (low <= p) & (p < high)
        if inside.any():
            forecast, observed = float(p[inside].mean()), float(y[inside].mean())
            bins.append(Bin(low=low, high=high, count=int(inside.sum()), forecast=forecast, observed=observed))
    return Calibration(
        resolved=len(y),
        base_rate=base,
        brier=float(((p - y) ** 2).mean()),
        brier_base=base * (1 - base),
        log_loss=float(-np.log(np.where(y == 1, p, 1 - p)).mean()),
        log_loss_base=entropy,
        bins=tuple(bins),
    )


def _regression(evidence: Sequence[Evidence]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (1, z, x), z and x centred in each rung, and y."""
    rung = np.array([e.rung for e in evidence])
    z = np.array([e.z for e in evidence])
    x = np.array([math.nan if e.x is None else e.x for e in evidence])
    for k in set(rung.tolist()):
        inside = rung == k
        z[inside] -= z[inside].mean()
        told = inside & ~np.isnan(x)
        x[told] -= x[told].mean() if told.any() else 0.0
    return np.stack([np.ones(len(z)), z, np.nan_to_num(x)], axis=1), np.array([float(e.y) for e in evidence])


def _maximum(design: np.ndarray, y: np.ndarray, free: Sequence[int], precision: np.ndarray = PRECISION) -> np.ndarray:
    """Where the log-posterior is highest over some of (a, b, w), with the others on their bounds.

    Newton's method with every step that does not climb halved: far from the maximum full steps overshoot, the next ones
    further, and against a forecaster that is sure and wrong they diverge.
    """
    at, inside = np.array([0.0, B_LEAST, 0.0]), np.ix_(free, free)
    at[free] = _prior_mean(y)[free]
    for _ in range(100):
        p = _sigmoid(design @ at)
        slope = design.T @ (y - p) - precision * (at - _prior_mean(y))
        curvature = design.T @ (design * (p * (1 - p))[:, None]) + np.diag(precision)
        step = np.zeros(3)
        step[free] = np.linalg.solve(curvature[inside], slope[free])
        if float(np.abs(step).max()) < CONVERGED:
            return at + step
        now = _height(design, y, at, precision)
        while _height(design, y, at + step, precision) < now and float(np.abs(step).max()) > CONVERGED:
            step /= 2
        at = at + step
    return at


def _height(design: np.ndarray, y: np.ndarray, at: np.ndarray, precision: np.ndarray = PRECISION) -> float:
    """The log-posterior of (a, b, w), up to a constant."""
    linear = design @ at
    return float(y @ linear - np.logaddexp(0, linear).sum() - precision @ (at - _prior_mean(y)) ** 2 / 2)


def _prior_mean(y: np.ndarray) -> np.ndarray:
    share = (y.sum() + 0.5) / (len(y) + 1)
    return np.array([math.log(share / (1 - share)), B_MEAN, W_MEAN])


def _allowed(at: np.ndarray) -> bool:
    return bool(at[1] >= B_LEAST and at[2] >= 0)


def _sigmoid(linear: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -linear))


def _loss(score: float | None, maximize: bool) -> float:
    """The score with its sign turned so that lower is better; infinite for a failure."""
    if score is None or not math.isfinite(score):
        return math.inf
    return -score if maximize else score
