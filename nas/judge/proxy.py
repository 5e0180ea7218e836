"""How far a low rung may be trusted: does it order trials as a higher rung does, and what would a cut there lose?

In go the results of all rungs; out comes a record for each pair of rungs. Three things keep it honest. Trials that
reached both rungs were selected on the lower one, and among survivors of a cut any correlation is weaker than among
all: tau is said to be of the survivors, and beside it stands an estimate for all, with its assumption. Trials of one
candidate are not independent, so intervals are as wide as if each candidate had one. And few survivors say little, so
"not known" is a verdict of its own, apart from "weak". Baselines are left to the caller to leave out: they were not
selected, and lie so far apart that any rung orders them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Literal

import numpy as np

from nas.judge.rungs import Result, normal_scores, slots

CONFIDENCE = 0.95
"""Of every interval here."""
FEWEST = 5
"""Candidates below which no interval is given: Fieller's variance has their number less four below the line."""
FIELLER = 0.437
"""Variance of the inverse hyperbolic tangent of tau, times n - 4 (Fieller, Hartley and Pearson, 1957)."""
WEAK = 0.5
"""Share of the best that a cut may lose; where it loses more, it loses more than it keeps."""

DISTANCES = 1000
"""Most distances between pairs that the estimate for all is made of; of more, so many quantiles stand for them."""

Verdict = Literal["sound", "weak", "not known"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """An estimate and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """How well a rung stands for a higher one.

    Attributes:
      lower: index of the rung that a trial is cut at.
      upper: index of the rung that is believed.
      trials: that have a score at both.
      candidates: of them.
      failed: trials that went on from the lower rung and failed later; they are in no figure here.
      tau: Kendall's tau-b of the trials that have a score at both; None if fewer than five candidates have.
      of_all: the same for all trials of the lower rung, as far as it can be told from the survivors; neighbouring
        rungs only.
      top: size of the best 1 / eta of the trials at the upper rung; 0 for fewer than eta.
      lost: how many of those are outside the best 1 / eta of the same trials at the lower rung.
      by_chance: how many a cut by lot would lose.
      loss: share of the best 1 / eta of all trials that a cut to 1 / eta at the lower rung loses; from `of_all`.
    """

    lower: int
    upper: int
    trials: int
    candidates: int
    failed: int
    tau: Range | None
    of_all: Range | None
    top: int
    lost: int
    by_chance: float
    loss: Range | None

    @property
    def verdict(self) -> Verdict:
        """`weak` or `sound` if the whole interval of `loss` is on that side of a half, else `not known`."""
        if self.loss is None or self.loss.low <= WEAK <= self.loss.high:
            return "not known"
        return "weak" if self.loss.low > WEAK else "sound"


def proxies(rungs: Sequence[Sequence[Result]], eta: int, maximize: bool) -> list[Proxy]:
    """Compare every pair of rungs that two trials or more have a score at.

    The interval of tau is tanh(atanh(tau) ± z sqrt(.437 / (candidates - 4))). Simulated, 500 runs each of 8 to 200
    candidates with one or three draws, the best quarter sent on, tau of all from .1 to .75, draws of a candidate
    correlated by .3 to .95: it held the mean tau of such survivors in .93 to 1.00 of the runs, and that of `of_all` the
    true tau in .94 to 1.00; both were lowest with one draw a candidate, and in nine of eleven cases .97 or more. With
    the number of trials for that of candidates it was .90 to .96; a jackknife over candidates held .91 to .97, no
    shorter where candidates were few.

    `of_all` takes the normal scores x of all trials at the lower rung as they are, and asks which correlation r of a
    bivariate normal would on average give survivors with these x the tau that was found; then tau = 2/pi asin(r). Each
    pair with distance d is in order with probability (1 + erf(d b / 2)) / 2, b = r / sqrt(1 - r^2). Nothing is assumed
    of the upper rung but that its ranks are those of such a normal, which the bulk, being unseen, cannot confirm; and
    that trials were selected on x. A forecast, pin or veto selects on more, and three rungs on the middle one too, so
    pairs that are no neighbours have none.
    Simulated with 30 of 120 sent on, 200 runs: t noise with 3 degrees of freedom, and noise twice as large in the upper
    half, cost little (the true tau was held in .94). A ceiling on which all survivors lie did: .17, since they order at
    random and the bulk, well ordered, is taken to be like them. Such a rung is called weak though it is not, of use
    only to those who want to tell survivors apart.

    Args:
      rungs: results at each rung, lowest first, one a trial, failures included.
      eta: one in eta is promoted.
      maximize: whether a higher score is better.
    Source: Fieller, Hartley and Pearson (1957), Biometrika 44; Kendall (1945) for ties; the estimate for all is ours.
    """
    found = (
        _compare(rungs, lower, upper, eta, maximize)
        for lower in range(len(rungs))
        for upper in range(lower + 1, len(rungs))
    )
    return [proxy for proxy in found if proxy is not None]


def kendall(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b: of pairs that are tied in neither, how many more are in order than not, corrected for ties.

    None if all x or all y are equal.
    """
    a, b = (np.sign(np.subtract.outer(v, v)) for v in (np.asarray(x, float), np.asarray(y, float)))
    pairs = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / pairs if pairs else None


def expected_loss(tau: float, eta: int) -> float:
    """Share of the best 1 / eta that a cut to the best 1 / eta by another, normal variable loses, given their tau."""
    r, cut = math.sin(math.pi * tau / 2), NormalDist().inv_cdf(1 - 1 / eta)
    if abs(r) > 1 - 1e-9:
        return 0.0 if r > 0 else 1.0
    # P(Y > cut | X = x) over quantiles of X above the cut, by the midpoint rule.
    quantiles = (1 - (i + 0.5) / (400 * eta) for i in range(400))
    rest = math.sqrt(1 - r * r)
    return 1 - sum(NormalDist().cdf((r * NormalDist().inv_cdf(q) - cut) / rest) for q in quantiles) / 400


def sentence(proxy: Proxy, steps: Sequence[int], eta: int) -> str | None:
    """What follows for pruning at the lower rung, in words; None for rungs that are no neighbours.

    Args:
      proxy: of two rungs.
      steps: training steps by rung.
      eta: one in eta is promoted.
    """
    if proxy.upper != proxy.lower + 1:
        return None
    at, best = f"{steps[proxy.lower]:,} steps", f"the best 1/{eta} at {steps[proxy.upper]:,}"
    if proxy.loss is None:
        return f"whether {at} can be pruned on is not known: too few candidates have a score at {steps[proxy.upper]:,}"
    told = f"about {_percent(proxy.loss.value)} % [{_percent(proxy.loss.low)}, {_percent(proxy.loss.high)}] of {best}"
    match proxy.verdict:
        case "weak":
            return f"{at} are too weak to prune on: a cut there loses {told}, more than it keeps; it needs more steps"
        case "sound":
            return f"{at} can be pruned on: a cut there loses {told}"
    return f"whether {at} can be pruned on is not known: a cut there loses {told}, and half would be too much"


def lines(found: Sequence[Proxy], steps: Sequence[int], eta: int) -> list[str]:
    """All that a reader should know of a ladder's rungs, one line a pair and one for what follows; no markup."""
    if len(steps) < 2:
        return []
    if not found:
        return [
            "proxy: no two trials of the search have scores at two rungs, so nothing is known of how far to trust one"
        ]
    told = [
        "proxy: Kendall's τ [95 %] of the trials with a score at both rungs. They were selected on the lower one, "
        "which weakens it; all: estimated for those not selected too, if scores are as normal there. Lost: of the best "
        f"1/{eta} at the higher rung, outside the best 1/{eta} of the same trials at the lower (by lot)."
    ]
    told += [f"{steps[one.lower]:,} → {steps[one.upper]:,} steps: {_figures(one)}" for one in found]
    return told + [f"{text}." for one in found if (text := sentence(one, steps, eta))]


def _figures(one: Proxy) -> str:
    count = f"{one.trials} trials of {one.candidates} candidate{'s' * (one.candidates != 1)}"
    count += f" ({one.failed} failed)" if one.failed else ""
    tau = "τ ?" if one.tau is None else f"τ {_told(one.tau)}"
    of_all = "" if one.of_all is None else f", all {_told(one.of_all)}"
    lost = f", lost {one.lost} of {one.top} ({one.by_chance:.1f})" if one.top else ""
    return f"{tau}{of_all}{lost}; {count}"


def _told(one: Range) -> str:
    return f"{one.value:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"


def _percent(share: float) -> int:
    return round(100 * share)


def _compare(rungs: Sequence[Sequence[Result]], lower: int, upper: int, eta: int, maximize: bool) -> Proxy | None:
    sign = 1.0 if maximize else -1.0
    z = normal_scores([result.score for result in rungs[lower]], maximize)
    below = {r.trial: (x, _number(r.score)) for r, x in zip(rungs[lower], z, strict=True)}
    both = [r for r in rungs[upper] if below.get(r.trial, (0, None))[1] is not None]
    told = sorted((r for r in both if _number(r.score) is not None), key=lambda r: r.trial)
    if len(told) < 2:
        return None
    x = [below[r.trial][0] for r in told]
    y = [sign * float(r.score or 0.0) for r in told]
    candidates = len({r.candidate for r in told})
    tau = _interval(kendall(x, y), len(told), candidates)
    of_all = _for_all(tau, x) if tau is not None and upper == lower + 1 else None
    top = slots(len(told), eta)
    kept, best = ({told[i].trial for i in _first(v, top)} for v in (x, y))
    return Proxy(
        lower=lower,
        upper=upper,
        trials=len(told),
        candidates=candidates,
        failed=len(both) - len(told),
        tau=tau,
        of_all=of_all,
        top=top,
        lost=len(best - kept),
        by_chance=top * (1 - top / len(told)),
        loss=of_all and _mapped(of_all, lambda one: expected_loss(one, eta)),
    )


def _number(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


def _first(values: Sequence[float], count: int) -> list[int]:
    """Indices of the largest; of equal ones the earlier."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]


def _interval(tau: float | None, trials: int, candidates: int) -> Range | None:
    """Fieller's interval, with the number of candidates for that of observations."""
    if tau is None or candidates < FEWEST:
        return None
    # A perfect order of few is as one with half a pair out of order, or its interval would be a point.
    most = min(1 - 2 / (1 + trials * (trials - 1) / 2), 0.99)
    middle = math.atanh(max(-most, min(most, tau)))
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(FIELLER / (candidates - 4))
    low, high = math.tanh(middle - half), math.tanh(middle + half)
    return Range(value=tau, low=min(low, tau), high=max(high, tau))


def _for_all(tau: Range, x: Sequence[float]) -> Range | None:
    """Tau of all trials from that of survivors with these normal scores; None if those are all equal."""
    distances = np.abs(np.subtract.outer(x, x))[np.triu_indices(len(x), 1)]
    distances = distances[distances > 0]
    if len(distances) > DISTANCES:
        distances = np.quantile(distances, (np.arange(DISTANCES) + 0.5) / DISTANCES)
    return _mapped(tau, lambda one: _unrestricted(one, distances)) if len(distances) else None


def _mapped(one: Range, by: Callable[[float], float]) -> Range:
    low, high = sorted((by(one.low), by(one.high)))
    return Range(value=by(one.value), low=low, high=high)


def _unrestricted(tau: float, distances: np.ndarray) -> float:
    """The tau of a bivariate normal whose pairs at these distances have the given tau; odd and increasing."""
    low, high = 0.0, 1000.0  # of b = r / sqrt(1 - r^2)
    for _ in range(50):
        middle = (low + high) / 2
        below = float(_erf(middle * distances / 2).mean()) < abs(tau)
        low, high = (middle, high) if below else (low, middle)
    return math.copysign(2 / math.pi * math.atan(low), tau)


def _erf(values: np.ndarray) -> np.ndarray:
    grid, at = _erf_table()
    return np.interp(values, grid, at)


@cache
def _erf_table() -> tuple[np.ndarray, np.ndarray]:
    grid = np.linspace(0.0, 6.0, 6001)
    return grid, np.array([math.erf(value) for value in grid])
