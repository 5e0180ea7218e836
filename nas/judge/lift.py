"""Lift: how much better an arm's candidates do at the first rung than the control arm's, with an interval.

In go all first-rung draws of a run, failures included; out come differences in normal scores of the rank, adjusted for
the learning rate, since a draw's learning rate decides as much as its architecture and arms need not draw alike. Only
an estimate and its interval are given, no verdict: at 200 candidates half a standard deviation is mostly not shown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.judge.rungs import normal_scores

LR_ORIGIN = 0.02
"""Learning rate at which u = 0 in the adjustment; below it the score falls faster than quadratically."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One draw at the first rung.

    Attributes:
      arm: who wrote the candidate.
      candidate: the candidate's id; its draws are not independent of each other.
      lr: learning rate.
      score: at the first rung; None (or not finite) for a failure of the candidate's, which ranks last. Draws that the
        machine lost are left out by the caller.
    """

    arm: str
    candidate: int
    lr: float
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """An arm against the control arm.

    Attributes:
      arm: its name.
      lift: difference in normal scores at equal learning rate; positive is better than the control.
      error: standard error.
      low: lower end of the 95 % interval.
      high: upper end.
      candidates: of the arm.
      controls: candidates of the control arm.
      runs: runs that went in.
    """

    arm: str
    lift: float
    error: float
    low: float
    high: float
    candidates: int
    controls: int
    runs: int = 1

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def lifts(
    samples: Sequence[Sample], maximize: bool, control: str = "random", lr_origin: float = LR_ORIGIN
) -> dict[str, Lift]:
    """Estimate every arm's lift over the control arm in one run.

    Least squares of z, the normal score of a draw's rank, on arm + u + u^2 + min(u, 0)^3, u = ln lr - ln lr_origin.
    Draws of one candidate share its architecture, so standard errors are clustered by candidate (CR3, the jackknife;
    with one draw a candidate it is HC3), with t of one degree of freedom less than the smaller arm has candidates.
    That candidates descend from each other is not accounted for: for that, pool over runs.

    Args:
      samples: all draws of the run's first rung: baselines left out or under an arm of their own.
      maximize: whether a higher score is better.
      control: name of the control arm.
      lr_origin: learning rate at u = 0.
    Returns:
      A lift by arm, without the control; arms with fewer than two candidates, or whose lift the draws do not determine,
      are left out.
    Source: MacKinnon and White (1985) for HC3; Bell and McCaffrey (2002) for its clustered form.
    """
    sizes = {arm: len({s.candidate for s in samples if s.arm == arm}) for arm in sorted({s.arm for s in samples})}
    arms = [arm for arm, size in sizes.items() if size >= 2 and arm != control]
    if sizes.get(control, 0) < 2 or not arms:
        return {}
    z = np.array(normal_scores([sample.score for sample in samples], maximize))
    used = np.array([sample.arm == control or sample.arm in arms for sample in samples])
    rows = [sample for sample, use in zip(samples, used, strict=True) if use]
    u = np.log([sample.lr for sample in rows]) - math.log(lr_origin)
    columns = [*(np.array([float(sample.arm == arm) for sample in rows]) for arm in arms), np.ones(len(rows))]
    adjustment = [u, u**2, np.minimum(u, 0.0) ** 3]
    clusters = [sample.candidate for sample in rows]
    # Learning rates that do not determine the last terms, all on one side of the origin say, are adjusted without.
    designs = (np.stack(columns + adjustment[:terms], axis=1) for terms in (3, 2, 1, 0))
    fits = (_clustered_fit(design, z[used], clusters) for design in designs)
    fitted = next((fit for fit in fits if fit is not None), None)
    if fitted is None:
        return {}
    coefficients, errors = fitted
    return {
        arm: _interval(arm, coefficients[i], errors[i], min(sizes[arm], sizes[control]) - 1, sizes[arm], sizes[control])
        for i, arm in enumerate(arms)
    }


def pooled(estimates: Sequence[Lift]) -> Lift:
    """Pool an arm's lifts over runs: their mean, with the spread between runs as its error and t of runs - 1.

    Inside a run nothing is independent: evolution breeds from its own winners and all draws share one sampler. Between
    runs all is, so the run is the unit. Weights are equal since the runs have one budget; the standard errors inside
    runs are not used, as weights made of them would be made of their noise.

    Raises:
      ValueError: fewer than two lifts, or of different arms.
    """
    arms = {estimate.arm for estimate in estimates}
    if len(estimates) < 2 or len(arms) > 1:
        raise ValueError(
            f"pooled() got {len(estimates)} lifts of {sorted(arms)}; give those of one arm from two runs or more"
        )
    values = np.array([estimate.lift for estimate in estimates])
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    candidates, controls = sum(e.candidates for e in estimates), sum(e.controls for e in estimates)
    return _interval(arms.pop(), float(values.mean()), error, len(values) - 1, candidates, controls, len(values))


def t_quantile(p: float, df: float) -> float:
    """The value below which Student's t with `df` degrees of freedom lies with probability p.

    By bisection on its distribution function, P(|T| > t) = I_{df / (df + t^2)}(df / 2, 1 / 2).

    Raises:
      ValueError: p is not inside (0, 1), or df is not above 0.
    """
    if not 0.0 < p < 1.0 or not df > 0.0:
        raise ValueError(f"t_quantile({p}, {df}): give a probability inside (0, 1) and degrees of freedom above 0")
    if p < 0.5:
        return -t_quantile(1.0 - p, df)
    tail, low, high = 2.0 * (1.0 - p), 0.0, 1.0
    while beta_cdf(df / (df + high**2), df / 2, 0.5) > tail:
        low, high = high, 2.0 * high
    for _ in range(80):
        middle = (low + high) / 2.0
        if beta_cdf(df / (df + middle**2), df / 2, 0.5) > tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2.0


def _interval(arm: str, lift: float, error: float, df: float, candidates: int, controls: int, runs: int = 1) -> Lift:
    half = t_quantile(0.975, df) * error
    return Lift(
        arm=arm,
        lift=float(lift),
        error=float(error),
        low=float(lift - half),
        high=float(lift + half),
        candidates=candidates,
        controls=controls,
        runs=runs,
    )


def _clustered_fit(
    design: np.ndarray, response: np.ndarray, clusters: Sequence[int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Least squares with CR3 standard errors: (coefficients, errors), or None if some are not determined.

    CR3 is the sum over clusters of (b without the cluster - b) squared, hence needs b without each of them.
    """
    scale = np.abs(design).max(axis=0)
    if len(response) <= design.shape[1] or not scale.all():
        return None
    scaled = design / scale
    if np.linalg.matrix_rank(scaled) < design.shape[1]:
        return None
    bread = np.linalg.inv(scaled.T @ scaled)
    b = bread @ scaled.T @ response
    residuals = response - scaled @ b
    meat = np.zeros_like(bread)
    members: dict[int, list[int]] = {}
    for row, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(row)
    for rows in members.values():
        part = scaled[rows]
        left_out = np.eye(len(rows)) - part @ bread @ part.T
        if np.linalg.eigvalsh(left_out)[0] < 1e-9:
            return None
        change = bread @ part.T @ np.linalg.solve(left_out, residuals[rows])
        meat += np.outer(change, change)
    return b / scale, np.sqrt(np.diag(meat)) / scale


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by Lentz's continued fraction (DLMF 8.17.22)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - beta_cdf(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction, c, d = 1.0, 1.0, 0.0
    for i in range(300):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 / (1.0 + term * d)
        c = 1.0 + term / c
        fraction *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return math.exp(log_front) * (fraction - 1.0) / a
