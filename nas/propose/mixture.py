"""Mixture: which arm makes the next proposal, a pure function of what the arms have done.

In go the attempts so far, in order, with what is known of them; out comes the name of an arm. Rules come first: the
random arm opens the run and keeps a tenth, so that the others can be measured against it, and has no more than that
while another can propose; tuning is bounded; an arm that keeps failing sits out. Among the others a Thompson bandit
decides. Nothing is remembered here, so a resumed run decides the same; what may be known at a decision (rewards and
admissions of late jobs) is the caller's to say. No rule was found to beat even shares reliably: this one is simple and
promises nothing.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

RANDOM = "random"
"""The control arm: samples the space's grammar afresh."""

TUNE = "tune"
"""The arm that draws new numbers for a candidate that is there; its attempts make no candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Constants of the mixture.

    Attributes:
      prior: Beta prior of an arm's rate of reward.
      discount: weight that an outcome loses with every later one, of whichever arm.
      floor: smallest probability of each arm in a choice of the bandit, at most one over the number of arms.
      opening: candidates that the random arm makes first, or a tenth of the budget if that is more.
      control: share of later candidates that the random arm makes, more only if no other arm can.
      tuning: largest share of first-rung trials that are further draws.
      draws: further draws that a candidate gets at most.
      patience: rejected attempts in a row after which an arm sits out, until others brought as many candidates.
    """

    prior: tuple[float, float] = (1.0, 3.0)
    discount: float = 0.97
    floor: float = 0.10
    opening: int = 12
    control: float = 0.10
    tuning: float = 0.25
    draws: int = 3
    patience: int = 25


DEFAULT = Mixture()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What one call of an arm came to, as far as it may be known at the decision. Baselines are no attempts.

    Attributes:
      arm: its name.
      admitted: whether it passed admission; None while that is unknown, and then it counts as admitted for every quota.
      rewarded: whether its best draw was among the best of the first rung at the time; None while unknown, and for
        what was rejected.
      candidate: for `tune`, the candidate that was drawn again; for others the candidate that was made, if any.
      trials: trials that it brought to the first rung.
    """

    arm: str
    admitted: bool | None = None
    rewarded: bool | None = None
    candidate: int | None = None
    trials: int = 1


def next_arm(
    history: Sequence[Attempt],
    budget: int,
    rng: np.random.Generator,
    available: Sequence[str],
    mixture: Mixture = DEFAULT,
    *,
    draws: int = 1,
) -> str | None:
    """Pick the arm for the next attempt.

    Args:
      history: all attempts so far, in order.
      budget: candidates that the run admits.
      rng: of this decision alone.
      available: arms that could propose now: evolution once there are parents, `tune` once a candidate may be tuned.
      mixture: the constants.
      draws: first-rung trials that an attempt of `tune` would bring.
    Returns:
      One of `available`, or None if all of them sit out or only `tune` is left and has used its share.
    """
    arms = [arm for arm in available if not benched(history, arm, mixture.patience)]
    if TUNE in arms and not _may_tune(history, draws, mixture.tuning):
        arms.remove(TUNE)
    if not arms:
        return None
    if RANDOM in arms and _random_is_due(history, budget, mixture):
        return RANDOM
    # A control that competed got a third of the trials for its wide posterior, and paid for nothing with them.
    competing = [arm for arm in arms if arm != RANDOM] or arms
    outcomes = [(attempt.arm, attempt.rewarded) for attempt in history if attempt.rewarded is not None]
    return choose(competing, outcomes, rng, mixture)


def choose(
    arms: Sequence[str],
    outcomes: Sequence[tuple[str, bool]],
    rng: np.random.Generator,
    mixture: Mixture = DEFAULT,
) -> str:
    """Pick an arm by discounted Thompson sampling, each with at least the floor's probability.

    Args:
      arms: at least one.
      outcomes: (arm, rewarded), in order; arms that are not among `arms` age the others and are else ignored.
      rng: of this decision alone.
      mixture: the constants.
    Source: discounted Thompson sampling of Raj and Kalyani, "Taming non-stationary bandits: a Bayesian approach", arXiv
      1707.09727; the floor is our change.
    """
    if not arms:
        raise ValueError("choose() got no arms; give at least one")
    won, lost = mixture.prior
    a, b = np.full(len(arms), won), np.full(len(arms), lost)
    for age, (arm, rewarded) in enumerate(reversed(outcomes)):
        if arm in arms:
            (a if rewarded else b)[arms.index(arm)] += mixture.discount**age
    best = int(np.argmax(rng.beta(a, b)))
    other = int(rng.integers(len(arms)))
    floor = min(1.0, mixture.floor * len(arms))
    return arms[other if rng.random() < floor else best]


def benched(history: Sequence[Attempt], arm: str, patience: int) -> bool:
    """Whether an arm sits out: its last `patience` attempts were rejected, and others brought fewer candidates since.

    After its rest it has one attempt; another rejection benches it again, an admission clears it.
    """
    rejected = since = 0
    for attempt in reversed(history):
        if attempt.arm != arm:
            since += rejected == 0 and attempt.admitted is True and attempt.arm != TUNE
        elif attempt.admitted is True:
            break
        elif attempt.admitted is False:
            rejected += 1
    return rejected >= patience and since < patience


def tunable(
    history: Iterable[Attempt], candidates: Iterable[int], mixture: Mixture = DEFAULT, *, draws: int = 1
) -> list[int]:
    """Those of the candidates that may still be drawn again, `draws` times at once."""
    drawn: dict[int | None, int] = {}
    for attempt in history:
        if attempt.arm == TUNE and attempt.admitted is not False:
            drawn[attempt.candidate] = drawn.get(attempt.candidate, 0) + attempt.trials
    return [candidate for candidate in candidates if drawn.get(candidate, 0) + draws <= mixture.draws]


def opening(budget: int, mixture: Mixture = DEFAULT) -> int:
    """How many candidates the random arm makes first."""
    return min(budget, max(mixture.opening, math.ceil(budget / 10)))


def _random_is_due(history: Sequence[Attempt], budget: int, mixture: Mixture) -> bool:
    """Whether the opening is not over, or the random arm is behind its share of what came after."""
    made = [attempt.arm for attempt in history if attempt.arm != TUNE and attempt.admitted is not False]
    first, random = opening(budget, mixture), made.count(RANDOM)
    if random < first:
        return True
    after = len(made) - first
    return random - first < math.floor(mixture.control * (after + 1))


def _may_tune(history: Sequence[Attempt], draws: int, share: float) -> bool:
    """Whether further draws, so many more included, keep within their share of the first-rung trials."""
    trials = [attempt for attempt in history if attempt.admitted is not False]
    tuned = sum(attempt.trials for attempt in trials if attempt.arm == TUNE)
    return tuned + draws <= share * (sum(attempt.trials for attempt in trials) + draws)
