"""How fast an architecture's loss falls with compute: a power law through its trainings at several sizes.

In go pairs of compute and loss, one a training, out comes the exponent with its interval. A pure power law, without the
loss that no compute removes: two or three sizes cannot tell that one, and so the exponent is that of this range of
sizes alone and flattens beyond it. What grows along (width, depth, steps) is not told apart.

Source: Kaplan et al., "Scaling laws for neural language models", arXiv 2001.08361, equation 1.3 (L = (C0 / C)^b);
Hoffmann et al., arXiv 2203.15556, for why the irreducible part matters where there are sizes enough to fit it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A power law loss = a * compute^-exponent.

    Attributes:
      exponent: positive where more compute gives a lower loss.
      low: lower end of its 95 % interval.
      high: upper end.
      sizes: distinct amounts of compute.
      trainings: pairs that were fitted.
      apart: how far the means at the sizes lie from the line, root mean square of log loss.
    """

    exponent: float
    low: float
    high: float
    sizes: int
    trainings: int
    apart: float


def fit(compute: Sequence[float], losses: Sequence[float]) -> Fit | None:
    """Fit by least squares in logarithms; None with fewer than three trainings or two sizes, or nothing to fit.

    The interval is Student's, with the spread around the line, and so has in it both the noise of seeds and what a
    line does not describe. It takes trainings as independent, which those at one size are not of what bends the line.

    Args:
      compute: FLOPs of each training.
      losses: its validation loss, above 0; what is not finite is left out.
    """
    from scipy.stats import t

    pairs = [(c, v) for c, v in zip(compute, losses, strict=True) if math.isfinite(v) and v > 0 and c > 0]
    x, y = (np.log([pair[i] for pair in pairs]) if pairs else np.empty(0) for i in (0, 1))
    sizes = np.unique(x)
    if len(x) < 3 or len(sizes) < 2:
        return None
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    rest = y - y.mean() - slope * centred
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float(centred @ centred))
    half = float(t.ppf(0.975, len(x) - 2)) * error
    means = [rest[x == size].mean() for size in sizes]
    return Fit(
        exponent=-slope, low=-slope - half, high=-slope + half, sizes=len(sizes), trainings=len(x),
        apart=float(np.sqrt(np.mean(np.square(means)))),
    )  # fmt: skip
