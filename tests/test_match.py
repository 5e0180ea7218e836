import numpy as np
import pytest

from nas.judge.match import Curves, match, reach

STEPS = np.array([100.0, 200.0, 400.0, 800.0])


def curves(*seeds: list[float], flops: float = 1.0) -> Curves:
    return Curves(steps=STEPS, scores=np.array(seeds), flops=flops)


def test_reach_lies_on_the_straight_line_between_looks() -> None:
    assert reach(STEPS, np.array([0.0, 0.5, 0.7, 0.9]), 0.6) == pytest.approx(300)
    assert reach(STEPS, np.array([0.6, 0.5, 0.7, 0.9]), 0.6) == 100  # an upper bound: it was not looked at before
    assert reach(STEPS, np.array([0.0, 0.5, 0.55, 0.59]), 0.6) is None


def test_a_baseline_matches_itself_at_a_ratio_of_one() -> None:
    baseline = curves([0.1, 0.4, 0.6, 0.8], [0.2, 0.4, 0.6, 0.7], [0.2, 0.5, 0.6, 0.7])
    assert match(baseline, baseline, maximize=True).ratio == 1.0


def test_flops_count_and_not_steps() -> None:
    baseline = curves([0.1, 0.4, 0.6, 0.8], flops=1e6)
    twice_as_quick = curves([0.4, 0.8, 0.9, 0.9], flops=8e6)
    found = match(twice_as_quick, baseline, maximize=True)
    assert (found.steps, found.flops, found.ratio) == (200, 1.6e9, 2.0)
    assert (found.low, found.high) == (None, None)  # one seed says nothing of noise


def test_a_score_that_shall_be_low_is_turned_round() -> None:
    baseline, quick = curves([2.0, 1.6, 1.4, 1.2]), curves([1.6, 1.2, 1.1, 1.1])
    assert match(quick, baseline, maximize=False).steps == 200
    assert match(quick, baseline, maximize=True).steps == 100


def test_who_never_matches_has_no_ratio() -> None:
    found = match(curves([0.1, 0.2, 0.3, 0.4]), curves([0.1, 0.4, 0.6, 0.8]), maximize=True)
    assert (found.steps, found.flops, found.ratio, found.low, found.high) == (None,) * 5


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Scores grow with log2(steps), the candidate's a third faster; every seed is a little higher or lower."""
    rng, slope = np.random.default_rng(3), np.log2(STEPS)

    def made(rate: float, seeds: int, noise: float) -> Curves:
        return Curves(steps=STEPS, scores=rate * slope + noise * rng.normal(size=(seeds, 1)), flops=1.0)

    truth = match(made(0.4, 1, 0.0), made(0.3, 1, 0.0), maximize=True).ratio
    found = [match(made(0.4, 6, 0.05), made(0.3, 10, 0.05), maximize=True) for _ in range(100)]
    assert truth is not None
    inside = sum(one.low is not None and one.high is not None and one.low <= truth <= one.high for one in found)
    assert 80 <= inside < 100
