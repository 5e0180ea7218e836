"""What is said of a rung as a stand-in for a higher one, against brute force, simulation and hand-made ladders."""

import math
from collections.abc import Mapping
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from nas.judge.proxy import Proxy, Range, expected_loss, kendall, proxies, sentence
from nas.judge.rungs import Result

STEPS = (250, 1000, 4000)


def results(scores: Mapping[int, float | None], draws: int = 1) -> list[Result]:
    return [Result(trial=trial, candidate=trial // draws, score=score) for trial, score in scores.items()]


def ladder(rng: np.random.Generator, correlation: float, candidates: int, draws: int = 3, alike: float = 0.9,
           eta: int = 4) -> tuple[list[Result], list[Result]]:  # fmt: skip
    """Two rungs with bivariate normal scores, the best 1 / eta sent on, the draws of a candidate alike."""

    def scores() -> np.ndarray:
        shared, own = rng.normal(size=(candidates, 1)), rng.normal(size=(candidates, draws))
        return (math.sqrt(alike) * shared + math.sqrt(1 - alike) * own).ravel()

    x, rest = scores(), scores()
    y = correlation * x + math.sqrt(1 - correlation**2) * rest
    promoted = np.argsort(-x)[: len(x) // eta]
    return (
        results({i: float(x[i]) for i in range(len(x))}, draws),
        results({int(i): float(y[i]) for i in promoted}, draws),
    )


def one(low: list[Result], high: list[Result], *, maximize: bool = True) -> Proxy:
    (found,) = proxies([low, high], 4, maximize)
    return found


@pytest.mark.parametrize("levels", [4, 1000])
def test_tau_is_that_of_scipy_ties_included(levels: int) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(levels, size=40), rng.integers(levels, size=40)
    assert kendall(x.tolist(), y.tolist()) == pytest.approx(np.asarray(stats.kendalltau(x, y))[0])


def test_tau_of_equal_scores_is_none() -> None:
    assert kendall([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_interval_holds_what_it_promises() -> None:
    rng, rho = np.random.default_rng(1), 0.7
    found = [one(*ladder(rng, rho, 20)) for _ in range(250)]
    told = [(p.tau, p.of_all) for p in found if p.tau and p.of_all]
    assert len(told) == 250
    mean, true = fmean(tau.value for tau, _ in told), 2 / math.pi * math.asin(rho)
    assert mean < true - 0.1, "survivors of a cut are less correlated than all"
    assert fmean(tau.low <= mean <= tau.high for tau, _ in told) >= 0.92
    assert fmean(of_all.low <= true <= of_all.high for _, of_all in told) >= 0.92


def test_restriction_of_range_is_undone_in_the_middle() -> None:
    rng, rho = np.random.default_rng(2), 0.6
    values = sorted(p.of_all.value for p in (one(*ladder(rng, rho, 60, alike=0.5)) for _ in range(80)) if p.of_all)
    assert values[len(values) // 2] == pytest.approx(2 / math.pi * math.asin(rho), abs=0.08)


def test_loss_is_that_of_counting() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=400_000)
    y = 0.6 * x + 0.8 * rng.normal(size=len(x))
    best = y > np.quantile(y, 0.75)
    counted = float((x[best] <= np.quantile(x, 0.75)).mean())
    assert expected_loss(2 / math.pi * math.asin(0.6), 4) == pytest.approx(counted, abs=0.005)


@pytest.mark.parametrize(("tau", "loss"), [(1.0, 0.0), (0.0, 0.75), (-1.0, 1.0)])
def test_loss_of_a_perfect_a_blind_and_a_reversed_rung(tau: float, loss: float) -> None:
    assert expected_loss(tau, 4) == pytest.approx(loss, abs=1e-6)


def test_lost_are_counted_among_trials_that_reached_both() -> None:
    low = {t: float(t) for t in range(40)}
    high = {t: float(t) for t in range(30, 38)}
    high[30], high[37] = high[37], high[30]
    found = one(results(low), results(high))
    assert (found.trials, found.top, found.lost, found.by_chance) == (8, 2, 1, 1.5)


def test_lower_is_better_is_the_same_turned_round() -> None:
    low, high = ladder(np.random.default_rng(5), 0.5, 20)
    down, up = (
        [Result(trial=r.trial, candidate=r.candidate, score=-(r.score or 0)) for r in rung] for rung in (low, high)
    )
    assert one(down, up, maximize=False) == one(low, high)


def test_order_of_the_results_changes_nothing() -> None:
    low, high = ladder(np.random.default_rng(6), 0.5, 20)
    assert one(low[::-1], high[::-1]) == one(low, high)


def test_failures_are_counted_and_left_out() -> None:
    low: dict[int, float | None] = {t: float(t) for t in range(40)}
    high: dict[int, float | None] = {t: float(t) for t in range(30, 40)}
    clean = one(results(low), results(high))
    failing = one(results(low | {40: None}), results(high | {29: None, 28: math.nan}))
    assert (failing.trials, failing.failed, failing.tau) == (10, 2, clean.tau)


def test_draws_of_a_candidate_do_not_narrow_the_interval() -> None:
    low, high = ladder(np.random.default_rng(7), 0.7, 40, draws=1)

    def again(rung: list[Result]) -> list[Result]:
        return [Result(trial=3 * r.trial + i, candidate=r.candidate, score=(r.score or 0) + 1e-6 * i)
                for r in rung for i in range(3)]  # fmt: skip

    single, triple = one(low, high).tau, one(again(low), again(high)).tau
    assert single and triple and triple.high - triple.low > 0.9 * (single.high - single.low)


def test_fewer_than_five_candidates_have_no_interval() -> None:
    low = {t: float(t) for t in range(40)}
    found = one(results(low, draws=10), results({t: float(t) for t in range(40)}, draws=10))
    assert found.candidates == 4 and found.tau is None and found.loss is None and found.verdict == "not known"
    assert "too few candidates" in str(sentence(found, STEPS, 4))


def test_pairs_of_rungs_are_all_there_and_only_neighbours_are_extrapolated() -> None:
    low, high = ladder(np.random.default_rng(8), 0.7, 60)
    top = [Result(trial=r.trial, candidate=r.candidate, score=r.score) for r in high[:30]]
    found = proxies([low, high, top], 4, True)
    assert [(p.lower, p.upper) for p in found] == [(0, 1), (0, 2), (1, 2)]
    assert found[1].tau and found[1].of_all is None and sentence(found[1], STEPS, 4) is None


@pytest.mark.parametrize("rungs", [[], [[]], [[], [], []], [results({1: 0.5}), results({1: 0.6})]])
def test_rungs_without_two_trials_have_no_proxy(rungs: list[list[Result]]) -> None:
    assert proxies(rungs, 4, True) == []


def test_perfect_order_of_few_is_no_proof() -> None:
    low = {t: float(t) for t in range(20)}
    found = one(results(low), results({t: float(t) for t in range(15, 20)}))
    assert found.tau and found.tau.value == 1.0 and found.tau.low < 0.2 and found.tau.high == 1.0
    assert found.verdict == "not known"


@pytest.mark.parametrize(
    ("loss", "verdict", "words"),
    [
        (Range(value=0.7, low=0.6, high=0.75), "weak", "too weak to prune on"),
        (Range(value=0.3, low=0.2, high=0.45), "sound", "250 steps can be pruned on"),
        (Range(value=0.4, low=0.2, high=0.7), "not known", "not known: a cut there loses about 40 % [20, 70] of"),
    ],
)
def test_verdict_needs_the_whole_interval_on_one_side(loss: Range, verdict: str, words: str) -> None:
    found = Proxy(lower=0, upper=1, trials=20, candidates=20, failed=0, tau=None, of_all=None, top=5, lost=1,
                  by_chance=3.75, loss=loss)  # fmt: skip
    assert found.verdict == verdict and words in str(sentence(found, STEPS, 4))


def test_useless_rung_is_found_weak_and_a_good_one_sound() -> None:
    rng = np.random.default_rng(9)
    assert one(*ladder(rng, -0.2, 150)).verdict == "weak"
    assert one(*ladder(rng, 0.95, 150)).verdict == "sound"
