"""How far a score moves when nothing but the seed changes, measured on the baselines' seeds."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, variance


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedNoise:
    """A standard deviation from seed to seed, and the degrees of freedom of all groups it was taken from."""

    sigma: float
    degrees: int


def seed_sigma(groups: Iterable[Sequence[float]]) -> SeedNoise | None:
    """Typical spread of scores over seeds: from the median of the groups' variances.

    Seeds do not scatter alike in all groups: one unstable baseline had five times the spread of the best one, and a
    pooled variance would be its alone. The median of k sample variances is too small on average; with more than two
    groups it is divided by (1 - 2 / (9 f))^3, f their mean degrees of freedom, which is the median of a chi-squared
    variable over its mean (Wilson and Hilferty, 1931) and a little too large a correction for few groups.

    Args:
      groups: scores that differ in nothing but the seed; a group of one says nothing.
    Returns:
      The standard deviation, or None if no group has two scores.
    """
    told = [group for group in groups if len(group) > 1]
    if not told:
        return None
    typical = median(variance(group) for group in told)
    if len(told) > 2:
        typical /= (1 - 2 / (9 * fmean(len(group) - 1 for group in told))) ** 3
    return SeedNoise(sigma=math.sqrt(typical), degrees=sum(len(group) - 1 for group in told))
