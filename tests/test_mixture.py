from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from nas.propose.mixture import DEFAULT, RANDOM, TUNE, Attempt, benched, choose, next_arm, opening, tunable

ARMS = ("random", "evolution", "claude", "tune")


def attempts(arm: str, count: int, admitted: bool | None = True, rewarded: bool | None = None) -> list[Attempt]:
    return [Attempt(arm=arm, admitted=admitted, rewarded=rewarded)] * count


def shares(arms: Sequence[str], outcomes: Sequence[tuple[str, bool]], draws: int = 2000) -> dict[str, float]:
    rng = np.random.default_rng(0)
    counts = Counter(choose(arms, outcomes, rng) for _ in range(draws))
    return {arm: counts[arm] / draws for arm in arms}


def run(budget: int, seed: int, rewards: dict[str, float], broken: str = "", lag: int = 16) -> list[Attempt]:
    """A search whose arms are rewarded at given rates; of the last `lag` attempts nothing is known."""
    truth, rng = [], np.random.default_rng(seed)
    while sum(a.arm != TUNE and a.admitted is not False for a in truth) < budget:
        history = truth[: max(0, len(truth) - lag)]
        history += [Attempt(arm=a.arm, candidate=a.candidate) for a in truth[len(history) :]]
        candidates = tunable(history, range(len(truth)))
        arm = next_arm(history, budget, rng, ARMS if candidates else ARMS[:3])
        assert arm is not None
        candidate = candidates[0] if arm == TUNE else len(truth)
        rewarded = bool(rng.random() < rewards.get(arm, 0.2))
        good = arm != broken
        truth.append(Attempt(arm=arm, admitted=good, rewarded=rewarded if good else None, candidate=candidate))
    return truth


def test_every_arm_keeps_the_floor_and_the_rewarded_one_gains() -> None:
    arms = ("a", "b", "c")
    even = shares(arms, [])
    assert all(0.28 < share < 0.39 for share in even.values())
    outcomes = [("a", True), ("b", False), ("c", False)] * 30
    biased = shares(arms, outcomes)
    assert biased["a"] > 0.75 and min(biased.values()) > 0.08


def test_old_outcomes_are_forgotten() -> None:
    old, recent = [("a", True), ("b", False)] * 40, [("a", False), ("b", True)] * 40
    assert shares(("a", "b"), old + recent)["b"] > 0.85


def test_outcomes_of_absent_arms_age_the_others() -> None:
    aged = [("a", True)] + [("gone", False)] * 300
    assert shares(("a", "b"), aged) == pytest.approx(shares(("a", "b"), []), abs=0.02)


def test_choose_needs_an_arm() -> None:
    with pytest.raises(ValueError, match="got no arms"):
        choose((), [], np.random.default_rng(0))


@pytest.mark.parametrize(("budget", "first"), [(5, 5), (12, 12), (60, 12), (200, 20), (205, 21)])
def test_the_random_arm_opens(budget: int, first: int) -> None:
    assert opening(budget) == first
    arms = [attempt.arm for attempt in run(budget, 0, {}) if attempt.arm != TUNE]
    assert arms[:first] == [RANDOM] * first


@pytest.mark.parametrize("seed", range(3))
def test_the_random_arm_keeps_a_tenth_after_the_opening(seed: int) -> None:
    """Also while another arm wins every time."""
    made = [a.arm for a in run(200, seed, {"evolution": 1.0, "random": 0.0}) if a.arm != TUNE and a.admitted]
    after = made[opening(200) :]
    for n in range(10, len(after) + 1, 10):
        assert after[:n].count(RANDOM) >= n // 10


@pytest.mark.parametrize("rewards", [{}, {"random": 1.0, "evolution": 0.0, "claude": 0.0, "tune": 0.0}])
def test_the_random_arm_has_no_more_than_its_tenth_while_another_can_propose(rewards: dict[str, float]) -> None:
    """Also while it wins every time: it is what the others are measured against."""
    made = [a.arm for a in run(200, 1, rewards) if a.arm != TUNE and a.admitted]
    after = made[opening(200) :]
    assert len(after) // 10 - 1 <= after.count(RANDOM) <= len(after) // 10 + 1
    history = attempts("random", 20) + attempts("evolution", 1)
    assert next_arm(history, 200, np.random.default_rng(0), [RANDOM]) == RANDOM


def test_further_draws_are_no_candidates_of_which_random_is_owed_a_tenth() -> None:
    history = attempts("random", 20) + attempts("evolution", 5) + attempts(TUNE, 9)
    picks = Counter(next_arm(history, 200, np.random.default_rng(i), ARMS[:3]) for i in range(100))
    assert picks["evolution"] > 10
    history += attempts("evolution", 4)
    assert all(next_arm(history, 200, np.random.default_rng(i), ARMS[:3]) == RANDOM for i in range(20))


@pytest.mark.parametrize("seed", range(3))
def test_tuning_stays_within_its_bounds(seed: int) -> None:
    """Also while it is the only arm that is rewarded."""
    truth = run(120, seed, {"tune": 1.0, "evolution": 0.0, "claude": 0.0, "random": 0.0})
    tuned = [attempt.candidate for attempt in truth if attempt.arm == TUNE]
    assert 0.15 * len(truth) < len(tuned) <= 0.25 * len(truth)
    assert max(Counter(tuned).values()) <= 3


def test_several_trials_of_a_candidate_raise_what_may_be_tuned() -> None:
    history = [Attempt(arm="random", admitted=True, trials=3, candidate=i) for i in range(12)]
    history += attempts(TUNE, 11)
    rng = np.random.default_rng(0)
    assert next_arm(history, 12, rng, [TUNE]) == TUNE  # the twelfth of 48
    assert next_arm([*history, *attempts(TUNE, 1)], 12, rng, [TUNE]) is None
    assert next_arm(history, 12, rng, [TUNE], draws=2) is None


def test_a_candidate_is_not_drawn_beyond_its_limit_by_several_at_once() -> None:
    history = [Attempt(arm=TUNE, admitted=True, candidate=1, trials=2), Attempt(arm=TUNE, admitted=False, candidate=2)]
    assert tunable(history, [1, 2, 3]) == [1, 2, 3]
    assert tunable(history, [1, 2, 3], draws=2) == tunable(history, [1, 2, 3], draws=3) == [2, 3]
    assert tunable(history, [1, 2, 3], draws=4) == []


def test_an_arm_that_fails_sits_out_and_comes_back() -> None:
    truth = [a.arm for a in run(200, 0, {}, broken="claude", lag=0)]
    first = truth.index("evolution")
    assert 25 <= truth[first:].count("claude") <= 25 + 200 // 25
    history = [*attempts("evolution", 1), *attempts("claude", 24, admitted=False)]
    assert not benched(history, "claude", 25)
    assert not benched(history + attempts("claude", 1, admitted=None), "claude", 25)
    history += attempts("claude", 1, admitted=None) + attempts("claude", 1, admitted=False)
    assert benched(history, "claude", 25) and not benched(history, "evolution", 25)
    assert benched(history + attempts("evolution", 24) + attempts(TUNE, 9), "claude", 25)
    back = history + attempts("evolution", 25)
    assert not benched(back, "claude", 25)
    assert benched(back + attempts("claude", 1, admitted=False), "claude", 25)
    assert not benched(back + attempts("claude", 1) + attempts("claude", 24, admitted=False), "claude", 25)


def test_nobody_is_picked_when_all_sit_out() -> None:
    history = attempts("random", 25, admitted=False)
    assert next_arm(history, 50, np.random.default_rng(0), ["random"]) is None
    assert next_arm(history, 50, np.random.default_rng(0), ["random", "evolution"]) == "evolution"
    assert next_arm([], 50, np.random.default_rng(0), []) is None


def test_rejections_and_unknown_outcomes_do_not_count_as_losses() -> None:
    base = attempts("random", 20)
    noise = attempts("evolution", 10, admitted=False) + attempts("claude", 10, admitted=None)
    picks = [
        [next_arm(history, 200, np.random.default_rng(i), ARMS[1:3]) for i in range(300)]
        for history in (base, base + noise)
    ]
    assert picks[0] == picks[1]


def test_the_same_history_and_seed_give_the_same_arm() -> None:
    assert run(80, 7, {"evolution": 0.5}) == run(80, 7, {"evolution": 0.5})
    assert DEFAULT.floor == 0.10
