import itertools
import math
import random
from statistics import NormalDist

import pytest

from nas.judge.rungs import Result, finalists, keep, next_promotion, normal_scores, slots

FAILED = (None, math.nan, math.inf, -math.inf)


def result(trial: int, score: float | None, candidate: int = 0) -> Result:
    return Result(trial=trial, candidate=candidate, score=score)


def some_results(rng: random.Random, count: int, first: int = 1) -> list[Result]:
    """Scores with many ties and failures."""
    scores = [rng.choice([*FAILED, 0.1, 0.2, 0.3, 0.4, rng.random()]) for _ in range(count)]
    return [result(first + i, score, candidate=rng.randrange(5)) for i, score in enumerate(scores)]


def promote_all(results: list[Result], promoted: set[int], eta: int, maximize: bool) -> set[int]:
    """Promote until there is nobody left, as the search does after every result."""
    while (trial := next_promotion(results, promoted, eta, maximize)) is not None:
        assert trial not in promoted
        promoted = promoted | {trial}
    return promoted


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize("seed", range(30))
def test_promotion_equals_brute_force(seed: int, maximize: bool) -> None:
    rng = random.Random(seed)
    results = some_results(rng, 12)
    promoted = set(rng.sample(range(1, 13), rng.randrange(4)))
    eta = rng.choice([2, 3, 4])

    def beats(a: Result, b: Result) -> bool:
        assert a.score is not None and b.score is not None
        if a.score == b.score:
            return a.trial < b.trial
        return a.score > b.score if maximize else a.score < b.score

    able = [r for r in results if r.trial not in promoted and r.score is not None and math.isfinite(r.score)]
    best = [r.trial for r in able if not any(beats(other, r) for other in able)]
    expected = best[0] if best and len(promoted) < 12 // eta else None
    assert next_promotion(results, promoted, eta, maximize) == expected


@pytest.mark.parametrize("seed", range(20))
def test_quota_is_never_exceeded_while_results_arrive(seed: int) -> None:
    rng = random.Random(seed)
    results, promoted = some_results(rng, 40), set[int]()
    for n in range(1, 41):
        promoted = promote_all(results[:n], promoted, 4, True)
        assert len(promoted) <= n // 4
        assert all(math.isfinite(r.score or 0.0) and r.score is not None for r in results if r.trial in promoted)


def test_quota_counts_a_promoted_trial_that_failed_later() -> None:
    results = [result(i, i / 10) for i in range(1, 5)]
    assert next_promotion(results, {1}, 4, True) is None
    assert next_promotion(results, set(), 4, True) == 4


def test_promotion_of_two_draws_of_one_candidate_is_allowed() -> None:
    results = [result(i, i / 10, candidate=7) for i in range(1, 9)]
    assert promote_all(results, set(), 4, True) == {7, 8}


@pytest.mark.parametrize("seed", range(20))
def test_promotion_does_not_depend_on_the_order_of_arrival(seed: int) -> None:
    rng = random.Random(seed)
    results = some_results(rng, 15)
    shuffled = rng.sample(results, len(results))
    assert promote_all(results, set(), 3, False) == promote_all(shuffled, set(), 3, False)
    assert keep(results, {2}, 5, 3, False) == keep(shuffled, {2}, 5, 3, False)


def test_equal_scores_promote_the_earlier_trial() -> None:
    assert next_promotion([result(i, 0.5) for i in (4, 2, 3, 1)], set(), 4, True) == 1


def test_one_in_eta_has_a_slot_and_all_where_eta_is_one() -> None:
    assert [slots(n, 4) for n in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]
    assert slots(5, 1) == 5
    with pytest.raises(ValueError, match="eta is 0"):
        slots(5, 0)


def test_keep_is_exactly_what_some_future_can_promote() -> None:
    """Every order of four known results, each continued by every pattern of three later ones."""
    levels = (None, 0.05, 0.15, 0.25, 0.45)
    for scores in itertools.product([None, 0.1, 0.2, 0.3], repeat=4):
        known = [result(i + 1, score) for i, score in enumerate(scores)]
        promoted = promote_all(known, set(), 2, True)
        kept = keep(known, promoted, 3, 2, True)
        reached = set[int]()
        for later in itertools.product(levels, repeat=3):
            results, now = list(known), promoted
            for i, score in enumerate(later):
                results.append(result(5 + i, score))
                now = promote_all(results, now, 2, True)
            reached |= {trial for trial in now - promoted if trial <= 4}
        assert reached == kept


@pytest.mark.parametrize("seed", range(40))
def test_keep_never_drops_what_is_promoted_later(seed: int) -> None:
    """Arrival in bursts, promotion late and partial, later trials with lower ids, fewer results than announced."""
    rng = random.Random(seed)
    eta, maximize = rng.choice([2, 3, 4]), rng.random() < 0.5
    everything = rng.sample(some_results(rng, 30), 30)
    promoted, dropped = set[int](), set[int]()
    n = 0
    while n < 30:
        n = min(30, n + rng.randrange(1, 6))
        known = everything[:n]
        for _ in range(rng.randrange(3)):
            trial = next_promotion(known, promoted, eta, maximize)
            if trial is not None:
                assert trial not in dropped
                promoted.add(trial)
        kept = keep(known, promoted, 30 - n, eta, maximize)
        dropped |= {r.trial for r in known} - kept - promoted
    assert len(keep(everything, promoted, 0, eta, maximize)) <= 30 // eta - len(promoted)


def test_finalists_are_the_best_trial_of_each_candidate() -> None:
    top = [result(1, 0.7, 1), result(2, 0.9, 1), result(3, 0.8, 2), result(4, None, 3), result(5, 0.6, 4)]
    assert [r.trial for r in finalists(top, True, 5)] == [2, 3, 5]
    assert [r.trial for r in finalists(top, False, 2)] == [5, 1]


def test_normal_scores_share_ranks_and_put_failures_last() -> None:
    z = normal_scores([0.3, None, 0.9, 0.3, math.nan], maximize=True)
    expected = [NormalDist().inv_cdf(p) for p in (0.6, 0.2, 0.9, 0.6, 0.2)]
    assert z == pytest.approx(expected)
    assert normal_scores([0.9, 0.3], maximize=False) == pytest.approx([-0.6744897502, 0.6744897502])
