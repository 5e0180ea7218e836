"""Compute to match: how much training a candidate needs to be as good as the best baseline at its end.

In go validation scores on the way of fresh trainings, several seeds each; out comes the ratio of training FLOPs to the
baseline's own, by the same rule: until the mean over seeds first reaches the baseline's mean at its end, on straight
lines between looks. A look is a look at validation, so the end is as noisy as that; the interval resamples seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
"""Bootstrap resamples of the seeds behind an interval."""
FEWEST = 3
"""Seeds of each side below which no interval is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """A candidate's fresh trainings.

    Attributes:
      steps: at which validation was looked at, ascending. Shape (P,).
      scores: of each seed there. Shape (n, P).
      flops: of one training step.
    """

    steps: np.ndarray
    scores: np.ndarray
    flops: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a candidate needs to match the best baseline.

    Attributes:
      steps: training steps until it is as good; None if it never is.
      flops: the same in training FLOPs.
      ratio: of `flops` to those of the baseline until it reaches its own mean at the end.
      low: end of the ratio's 95 % interval; None if it never matches, or there are too few seeds.
      high: the other end; None also if more than a fortieth of the resamples never match.
    """

    steps: float | None
    flops: float | None
    ratio: float | None
    low: float | None = None
    high: float | None = None


def match(ours: Curves, baseline: Curves, maximize: bool) -> Match:
    """Compare a candidate with the best baseline; see the module's docstring."""
    sign = 1.0 if maximize else -1.0
    mine, theirs = sign * ours.scores, sign * baseline.scores
    steps, ratio = _ratio(ours, baseline, mine.mean(axis=0), theirs.mean(axis=0))
    if steps is None:
        return Match(steps=None, flops=None, ratio=None)
    low = high = None
    if min(len(mine), len(theirs)) >= FEWEST:
        rng = np.random.default_rng(0)
        ratios = []
        for _ in range(RESAMPLES):
            means = (side[rng.integers(len(side), size=len(side))].mean(axis=0) for side in (mine, theirs))
            ratios.append(_ratio(ours, baseline, *means)[1])
        low, high = (float(end) for end in np.quantile(ratios, (0.025, 0.975), method="inverted_cdf"))
        low, high = (None if np.isinf(end) else end for end in (low, high))
    return Match(steps=steps, flops=steps * ours.flops, ratio=ratio, low=low, high=high)


def _ratio(ours: Curves, baseline: Curves, mine: np.ndarray, theirs: np.ndarray) -> tuple[float | None, float]:
    """Steps until we match, and the ratio of FLOPs, infinite if we never do."""
    target = float(theirs[-1])
    own = reach(baseline.steps, theirs, target)
    steps = reach(ours.steps, mine, target)
    assert own is not None, "the last of these scores is the target"
    return steps, float("inf") if steps is None else steps * ours.flops / (own * baseline.flops)


def reach(steps: np.ndarray | Sequence[float], scores: np.ndarray, target: float) -> float | None:
    """Steps at which a curve first reaches a target, on straight lines between its points; None if it never does.

    What is above it at the first look already is said to reach it there, which is an upper bound.
    """
    above = np.flatnonzero(scores >= target)
    if not len(above):
        return None
    first = int(above[0])
    if first == 0:
        return float(steps[0])
    share = (target - scores[first - 1]) / (scores[first] - scores[first - 1])
    return float(steps[first - 1] + share * (steps[first] - steps[first - 1]))
