"""Successive halving with pause and promotion: pure arithmetic on the results of one rung.

In go results, in any order; out come the next trial to promote, the checkpoints that may still be needed, and the
finalists. Of n results in a rung floor(n / eta) are promoted, trials and not candidates, the best at the time first.
Nothing is remembered here: the caller says which trials it has promoted, so a resumed run decides the same.
Deliberately absent: a rule that stops a trial inside a rung, and promotion of the top share of the moment without a
quota, which in simulation used a fifth more steps for nothing.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one trial did at one rung.

    Attributes:
      trial: the trial's id.
      candidate: the candidate's id.
      score: its score at the rung; None (or not finite) if it failed there, which counts among n and is never promoted.
    """

    trial: int
    candidate: int
    score: float | None


def slots(n: int, eta: int) -> int:
    """How many of n results in a rung are promoted in all: floor(n / eta)."""
    if eta < 1:
        raise ValueError(f"eta is {eta}; a rung promotes one in eta, so give 1 or more")
    return n // eta


def ranked(results: Sequence[Result], maximize: bool) -> list[Result]:
    """The results that have a score, best first; of equal scores the earlier trial."""
    scored = [result for result in results if _finite(result.score)]
    return sorted(scored, key=lambda result: (_loss(result, maximize), result.trial))


def next_promotion(results: Sequence[Result], promoted: Collection[int], eta: int, maximize: bool) -> int | None:
    """Pick the trial that is to be resumed towards the next rung.

    Args:
      results: what is known of the rung, one result a trial, failures included.
      promoted: ids of the trials that were promoted from this rung; they hold their slots, also if they failed later.
      eta: one in eta is promoted.
      maximize: whether a higher score is better.
    Returns:
      The id of the best trial that waits, or None if no slot is free or nobody waits.
    """
    if len(promoted) >= slots(len(results), eta):
        return None
    waiting = (result.trial for result in ranked(results, maximize) if result.trial not in promoted)
    return next(waiting, None)


def keep(results: Sequence[Result], promoted: Collection[int], n_to_come: int, eta: int, maximize: bool) -> set[int]:
    """Find the paused trials that may still be promoted; the checkpoints of all others can go.

    At most floor((n + m) / eta) - promoted more trials are promoted from the rung, whatever the m results to come are,
    and always the best that waits: so these are the best so many of those that wait, and no smaller set is safe.
    Checkpoints of trials that were promoted are not the rung's business: they are in use until the next rung.

    Args:
      results: what is known of the rung.
      promoted: ids of the trials that were promoted from this rung.
      n_to_come: m, an upper bound on the results that will still arrive in this rung.
      eta: one in eta is promoted.
      maximize: whether a higher score is better.
    Returns:
      Ids of trials.
    """
    left = max(0, slots(len(results) + n_to_come, eta) - len(promoted))
    waiting = [result.trial for result in ranked(results, maximize) if result.trial not in promoted]
    return set(waiting[:left])


def finalists(results_top: Sequence[Result], maximize: bool, count: int) -> list[Result]:
    """The best trial of each candidate at the top rung, best first, at most `count` of them."""
    best: dict[int, Result] = {}
    for result in ranked(results_top, maximize):
        best.setdefault(result.candidate, result)
    return list(best.values())[:count]


def normal_scores(scores: Sequence[float | None], maximize: bool) -> list[float]:
    """Ranks as quantiles of the standard normal: z = Phi^-1((rank from below - 1/2) / n).

    Equal scores share their mean rank; failures (None, not finite) are equal to each other and below all scores.
    Source: Blom-type scores with offset 1/2 (Hazen's plotting position).
    """
    losses = [_loss(Result(trial=0, candidate=0, score=score), maximize) for score in scores]
    order = sorted(range(len(losses)), key=lambda i: -losses[i])
    z = [0.0] * len(losses)
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and losses[order[stop]] == losses[order[start]]:
            stop += 1
        for i in order[start:stop]:
            z[i] = NormalDist().inv_cdf((start + stop) / 2 / len(order))
        start = stop
    return z


def _finite(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _loss(result: Result, maximize: bool) -> float:
    """The score with its sign turned so that lower is better; infinite for a failure."""
    if result.score is None or not math.isfinite(result.score):
        return math.inf
    return -result.score if maximize else result.score
