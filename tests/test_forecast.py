import json
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from benchmarks import forecasters
from benchmarks.curves import Curves, kendall, noisy, slow_starters
from nas.judge import forecast, rungs
from nas.judge.forecast import (
    CHANGED,
    PRIOR,
    RANDOM,
    RANDOM_REACH,
    REACH,
    Choice,
    Evidence,
    Weights,
    Why,
    calibration,
    fit,
    has_skill,
    keep,
    log_odds,
    next_promotion,
    resolved,
)
from nas.judge.rungs import Result

BELIEVER = Weights(a=0.0, b=0.3, w=3.0, resolved=50)
"""Weights that let the model change whatever it may."""


def some_results(rng: random.Random, count: int) -> list[Result]:
    """Scores with ties and failures."""
    scores = [rng.choice([None, math.nan, 0.2, 0.4, *(rng.random() for _ in range(6))]) for _ in range(count)]
    return [Result(trial=i + 1, candidate=i, score=score) for i, score in enumerate(scores)]


def some_evidence(rng: np.random.Generator, count: int, b: float, w: float, signal: float = 1.0) -> list[Evidence]:
    """Outcomes that follow the model, with two rungs and, here and there, no forecast."""
    found = []
    for i in range(count):
        z, x = rng.normal(1.0, 0.5), float(np.clip(signal * rng.normal(), -3, 3))
        y = rng.random() < 1 / (1 + math.exp(-(b * (z - 1.0) + w * x)))
        found.append(Evidence(rung=i % 2, z=float(z), x=None if i % 7 == 6 else x, y=bool(y)))
    return found


def signed(rng: np.random.Generator, count: int, auc_distance: float) -> list[Evidence]:
    """Forecasts whose log-odds are two normals apart by outcome; ranks that say nothing."""
    found = []
    for _ in range(count):
        y = bool(rng.random() < 0.5)
        x = float(np.clip(rng.normal(auc_distance / 2 if y else -auc_distance / 2), -3, 3))
        found.append(Evidence(rung=0, z=float(rng.normal()), x=x, y=y))
    return found


def search(seed: int, eta: int, maximize: bool, rung: int, count: int = 60) -> Iterable[
    tuple[list[Result], dict[int, Why], Choice]
]:  # fmt: skip
    """Every promotion of a history: results in bursts, forecasts that come and change, weights for the model."""
    rng = random.Random(seed)
    everything = some_results(rng, count)
    promoted: dict[int, Why] = {}
    forecasts: dict[int, float] = {}
    n = 0
    while n < count:
        n = min(count, n + rng.randrange(1, 6))
        forecasts |= {result.trial: rng.random() for result in everything[:n] if rng.random() < 0.7}
        for step in range(rng.randrange(1, 4)):
            coin = np.random.default_rng([seed, n, step])
            choice = next_promotion(
                everything[:n], promoted, forecasts, BELIEVER, rung=rung, eta=eta, maximize=maximize, rng=coin
            )
            if choice is not None:
                yield everything[:n], promoted, choice
                promoted = {**promoted, choice.trial: choice.why}


# ---- deciding


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("told", [False, True])
def test_without_a_model_or_its_weight_promotion_is_that_of_ranks(seed: int, told: bool) -> None:
    """Without forecasts the coin has no part; with forecasts of no weight, if the coin is off."""
    rng = random.Random(seed)
    eta, maximize = rng.choice([2, 3, 4]), rng.random() < 0.5
    promoted: dict[int, Why] = {}
    everything = some_results(rng, 30)
    for n in range(1, 31):
        results = everything[:n]
        forecasts = {result.trial: rng.random() for result in results} if told else {}
        weights, share = (Weights(w=0.0), 0.0) if told else (BELIEVER, RANDOM)
        while True:
            coin = np.random.default_rng(n)
            choice = next_promotion(
                results, promoted, forecasts, weights, rung=0, eta=eta, maximize=maximize, rng=coin, share=share
            )
            expected = rungs.next_promotion(results, promoted, eta, maximize)
            assert (choice.trial if choice else None) == expected
            if choice is None:
                break
            assert (choice.why, choice.displaced, choice.probability) == ("rank", None, 1.0)
            promoted[choice.trial] = choice.why
    assert promoted


@pytest.mark.parametrize("rung", [0, 1])
@pytest.mark.parametrize("seed", range(25))
def test_model_changes_within_its_share_and_puts_off_none_of_the_top_third(seed: int, rung: int) -> None:
    eta, maximize = random.Random(seed).choice([2, 3, 4]), seed % 2 == 0
    for results, promoted, choice in search(seed, eta, maximize, rung):
        slots = len(results) // eta
        order = [result.trial for result in rungs.ranked(results, maximize)]
        best = next(trial for trial in order if trial not in promoted)
        assert choice.displaced == (None if choice.trial == best else best)
        assert choice.trial not in promoted and len(promoted) < slots
        if choice.why == "model":
            assert sum(why == "model" for why in promoted.values()) + 1 <= CHANGED * (slots + 1)
            assert order.index(best) + 1 > slots / 3
            assert order.index(choice.trial) < REACH * len(results) // eta
        elif choice.why == "rank":
            assert choice.trial == best


def test_model_does_change_promotions_where_it_may() -> None:
    whys = [choice.why for seed in range(20) for _, _, choice in search(seed, 4, True, 1)]
    assert 0.1 < whys.count("model") / len(whys) <= 0.3
    assert "random" not in whys


def test_a_random_tenth_of_first_promotions_is_marked_and_within_reach() -> None:
    whys, drawn = [], []
    for seed in range(150):
        for results, promoted, choice in search(seed, 4, True, 0):
            whys.append(choice.why)
            order = [result.trial for result in rungs.ranked(results, True)]
            able = [trial for trial in order[: RANDOM_REACH * len(results) // 4] if trial not in promoted]
            if choice.why == "random":
                assert choice.trial in able
                assert choice.probability == pytest.approx(RANDOM / len(able))
                drawn.append(able.index(choice.trial) / len(able))
            elif choice.x is not None:
                assert choice.probability == 1 - RANDOM
    share = whys.count("random") / len(whys)
    assert abs(share - RANDOM) < 3 * math.sqrt(RANDOM * (1 - RANDOM) / len(whys))
    assert 0.3 < np.mean(drawn) < 0.55


def test_choice_depends_on_the_generator_alone() -> None:
    first, again = ([choice for _, _, choice in search(3, 4, False, 0)] for _ in range(2))
    assert first == again


def test_choice_holds_what_was_known() -> None:
    results = [Result(trial=i, candidate=i, score=i / 8) for i in range(1, 9)]
    found = next_promotion(
        results, {}, {8: 0.7}, PRIOR, rung=1, eta=4, maximize=True, rng=np.random.default_rng(0)
    )  # fmt: skip
    assert found is not None
    assert (found.trial, found.why) == (8, "rank")
    assert found.z == pytest.approx(1.534120544)
    assert found.x == pytest.approx(math.log(0.7 / 0.3))


def test_trial_without_a_forecast_counts_as_the_mean_of_the_others() -> None:
    """The best that waits is 2; 12 is out of the model's reach."""
    results = [Result(trial=i, candidate=i, score=-float(i)) for i in range(1, 13)]

    def chosen(forecasts: dict[int, float]) -> int:
        weights = Weights(a=0.0, b=0.3, w=1.0, resolved=9)
        coin = np.random.default_rng(0)
        choice = next_promotion(
            results, {1: "rank"}, forecasts, weights, rung=1, eta=4, maximize=True, rng=coin
        )  # fmt: skip
        assert choice is not None
        return choice.trial

    assert chosen({2: 0.1, 4: 0.9}) == 4
    assert chosen({2: 0.1, 12: 0.4}) == 3
    assert chosen({2: 0.1, 12: 0.1}) == 2


def test_log_odds_are_clipped_and_must_come_from_a_probability() -> None:
    assert [log_odds(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([-3.0, 0.0, 3.0])
    with pytest.raises(ValueError, match="forecast is 1.2"):
        log_odds(1.2)
    with pytest.raises(ValueError, match="forecast is nan"):
        log_odds(math.nan)


# ---- checkpoints


@pytest.mark.parametrize("rung", [0, 1])
@pytest.mark.parametrize("seed", range(40))
def test_keep_never_drops_what_is_promoted_later(seed: int, rung: int) -> None:
    """A model whose weights and forecasts change at every decision, late and partial promotion, fewer results."""
    rng = random.Random(seed)
    eta, maximize, count = rng.choice([2, 3, 4]), rng.random() < 0.5, 40
    everything = rng.sample(some_results(rng, count), count)
    promoted: dict[int, Why] = {}
    dropped, n = set[int](), 0
    while n < count:
        n = min(count, n + rng.randrange(1, 6))
        known = everything[:n]
        for _ in range(rng.randrange(3)):
            forecasts = {result.trial: rng.random() ** 3 for result in known if rng.random() < 0.8}
            weights = Weights(a=0.0, b=rng.uniform(0.3, 3.0), w=rng.choice([0.0, 1.0, 9.0]), resolved=9)
            coin = np.random.default_rng([seed, n, rng.randrange(99)])
            choice = next_promotion(
                known, promoted, forecasts, weights, rung=rung, eta=eta, maximize=maximize, rng=coin, share=0.4
            )
            if choice is not None:
                assert choice.trial not in dropped
                promoted[choice.trial] = choice.why
        kept = keep(known, promoted, count - n, rung=rung, eta=eta, maximize=maximize, forecast=True)
        dropped |= {result.trial for result in known} - kept - set(promoted)
    assert dropped


def test_keep_holds_only_what_the_model_or_the_coin_can_choose() -> None:
    """Every trial that it keeps of a full rung is chosen by some forecast or some coin; no other is."""
    results = [Result(trial=i, candidate=i, score=-float(i)) for i in range(1, 41)]
    by_rank: dict[int, Why] = dict.fromkeys(range(1, 10), "rank")
    by_model: dict[int, Why] = dict.fromkeys(range(1, 10), "model")

    def chosen(promoted: dict[int, Why], rung: int) -> set[int]:
        found = set()
        for favourite in range(10, 41):
            for seed in range(5):
                forecasts = {trial: 0.99 if trial == favourite else 0.01 for trial in range(1, 41)}
                coin = np.random.default_rng([favourite, seed])
                choice = next_promotion(
                    results, promoted, forecasts, BELIEVER, rung=rung, eta=4, maximize=True, rng=coin, share=0.5
                )
                assert choice is not None
                found.add(choice.trial)
        return found

    def kept(promoted: dict[int, Why], rung: int) -> set[int]:
        return keep(results, promoted, 0, rung=rung, eta=4, maximize=True, forecast=True)

    assert chosen(by_rank, 0) == kept(by_rank, 0) == set(range(10, 31))
    assert chosen(by_model, 0) == kept(by_model, 0) == set(range(10, 21))
    assert chosen(by_model, 1) == kept(by_model, 1) == {10}


def test_keep_without_a_model_is_that_of_ranks() -> None:
    rng = random.Random(0)
    results = some_results(rng, 30)
    promoted: dict[int, Why] = {4: "rank", 9: "model"}
    expected = rungs.keep(results, promoted, 10, 4, False)
    assert keep(results, promoted, 10, rung=0, eta=4, maximize=False, forecast=False) == expected
    full: dict[int, Why] = dict.fromkeys(range(100, 110), "rank")
    assert keep(results, full, 10, rung=0, eta=4, maximize=False, forecast=True) == set()


# ---- evidence


def test_resolved_compares_with_the_median_of_the_promoted() -> None:
    choices = [Choice(trial=i, why="rank", z=float(i), x=None) for i in range(1, 6)]
    after = [Result(trial=i, candidate=i, score=score) for i, score in enumerate([0.1, 0.5, 0.4, None], start=1)]
    found = resolved(0, choices, after, True)
    assert [(e.z, e.y) for e in found] == [(1.0, False), (2.0, True), (3.0, True), (4.0, False)]
    assert [e.y for e in resolved(0, choices, after, False)] == [True, False, True, False]
    assert [e.y for e in resolved(0, choices, after[:3], True)] == [False, True, True]
    assert resolved(0, choices, [], True) == []
    assert [e.y for e in resolved(0, choices, [Result(trial=1, candidate=1, score=None)], True)] == [False]


# ---- the regression


def height(evidence: list[Evidence], at: np.ndarray) -> float:
    """The log-posterior as it is stated, in loops."""
    share = (sum(e.y for e in evidence) + 0.5) / (len(evidence) + 1)
    total = -((at[0] - math.log(share / (1 - share))) ** 2 + (at[1] - 2) ** 2 + (at[2] - 0.5) ** 2 / 0.25) / 2
    for e in evidence:
        z = e.z - np.mean([o.z for o in evidence if o.rung == e.rung])
        x = 0.0 if e.x is None else e.x - np.mean([o.x for o in evidence if o.rung == e.rung and o.x is not None])
        linear = at[0] + at[1] * z + at[2] * x
        total -= np.logaddexp(0, -linear if e.y else linear)
    return float(total)


@pytest.mark.parametrize(
    ("b", "w", "count"), [(2, 1, 40), (2, 0, 15), (2, -2, 40), (-3, 1, 30), (-3, -2, 30), (0, 4, 25), (1, 1, 1)]
)
def test_fit_is_the_maximum_that_a_general_optimiser_finds(b: float, w: float, count: int) -> None:
    evidence = some_evidence(np.random.default_rng(count), count, b, w)
    found = fit(evidence)
    best = minimize(
        lambda at: -height(evidence, at), [0.0, 2.0, 0.5], bounds=[(None, None), (0.3, None), (0, None)], tol=1e-12
    )
    assert [found.a, found.b, found.w] == pytest.approx(best.x, abs=1e-4)
    assert height(evidence, np.array([found.a, found.b, found.w])) >= -best.fun - 1e-9
    assert found.resolved == sum(e.x is not None for e in evidence)


def test_full_newton_steps_diverge_where_halved_ones_do_not() -> None:
    """A forecaster that is sure and mostly wrong: the curvature where the priors are is next to nothing."""
    diverged = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.choice([-3.0, 3.0], 40)
        wrong = zip(rng.normal(1.2, 0.6, 40), x, rng.random(40) < np.where(x > 0, 0.15, 0.85), strict=True)
        evidence = [Evidence(rung=0, z=float(z), x=float(x), y=bool(y)) for z, x, y in wrong]
        design, y = forecast._regression(evidence)
        mean = forecast._prior_mean(y)
        best = minimize(lambda at, evidence=evidence: -height(evidence, at), mean, tol=1e-10).x
        assert forecast._maximum(design, y, [0, 1, 2]) == pytest.approx(best, abs=1e-4)
        at = mean
        with np.errstate(over="ignore"):
            for _ in range(50):
                p = 1 / (1 + np.exp(-design @ at))
                slope = design.T @ (y - p) - forecast.PRECISION * (at - mean)
                curvature = design.T @ (design * (p * (1 - p))[:, None]) + np.diag(forecast.PRECISION)
                at = at + np.linalg.solve(curvature, slope)
        diverged += np.abs(at - best).max() > 0.1
    assert diverged > 3


@pytest.mark.parametrize("seed", range(30))
def test_weight_of_the_model_is_never_negative_and_the_rank_keeps_some(seed: int) -> None:
    rng = np.random.default_rng(seed)
    evidence = some_evidence(rng, int(rng.integers(1, 60)), b=float(rng.normal(0, 3)), w=float(rng.normal(0, 3)))
    found = fit(evidence)
    assert found.w >= 0 and found.b >= 0.3


def test_wrong_forecaster_loses_its_weight_and_a_right_one_gains() -> None:
    rng = np.random.default_rng(1)
    assert fit(some_evidence(rng, 40, b=2, w=-1)).w == 0.0
    assert fit(some_evidence(rng, 80, b=2, w=1.5)).w > 0.8
    assert fit([]) == PRIOR
    assert fit([Evidence(rung=0, z=1.0, x=None, y=True)] * 5).resolved == 0


def test_weight_does_not_depend_on_the_level_of_the_forecasts_in_a_rung() -> None:
    evidence = [Evidence(rung=e.rung, z=e.z, x=e.x, y=e.y) for e in some_evidence(np.random.default_rng(2), 40, 2, 1)]
    shifted = [
        Evidence(rung=e.rung, z=e.z + e.rung, x=None if e.x is None else e.x - 2 * e.rung, y=e.y) for e in evidence
    ]
    assert fit(shifted).w == pytest.approx(fit(evidence).w, abs=1e-9)


# ---- how good the forecasts were


def test_skill_is_judged_after_thirty_forecasts() -> None:
    evidence = signed(np.random.default_rng(0), 30, 2.0)
    assert has_skill(evidence[:29]) is None
    assert has_skill([*evidence[:29], Evidence(rung=0, z=0.0, x=None, y=True)]) is None
    assert has_skill(evidence) is True


def test_random_forecasters_rarely_show_skill_and_right_ones_mostly_do() -> None:
    """AUC .80 is a distance of 1.19 standard deviations."""
    rates = {
        distance: np.mean([bool(has_skill(signed(np.random.default_rng(seed), 30, distance))) for seed in range(300)])
        for distance in (0.0, 1.19)
    }
    assert rates[0.0] < 0.14
    assert rates[1.19] > 0.9


def test_copy_of_the_rank_is_no_skill() -> None:
    """However much the rank says: here far more than the prior of b would have."""
    for seed in range(30):
        told = some_evidence(np.random.default_rng(seed), 60, b=8, w=0)
        assert has_skill([Evidence(rung=e.rung, z=e.z, x=e.z, y=e.y) for e in told]) is False


def test_calibration_compares_with_the_base_rate() -> None:
    right = [Evidence(rung=i % 2, z=0.0, x=3.0 if i < 6 else -3.0, y=i < 6) for i in range(10)]
    found = calibration([*right, Evidence(rung=1, z=0.0, x=None, y=True)])
    assert set(found) == {None, 0, 1}
    pooled = found[None]
    assert (pooled.resolved, pooled.base_rate, pooled.brier_base) == (10, 0.6, pytest.approx(0.24))
    p = 1 / (1 + math.exp(-3))
    assert pooled.brier == pytest.approx((1 - p) ** 2)
    assert pooled.log_loss == pytest.approx(-math.log(p))
    assert pooled.log_loss_base == pytest.approx(-0.6 * math.log(0.6) - 0.4 * math.log(0.4))
    assert [(bin.low, bin.count, bin.observed) for bin in pooled.bins] == [(0.0, 4, 0.0), (0.8, 6, 1.0)]
    assert found[0].resolved == found[1].resolved == 5
    assert calibration([Evidence(rung=1, z=0.0, x=None, y=True)]) == {}


# ---- the benchmark


@pytest.mark.parametrize("make", [slow_starters, noisy])
def test_synthetic_curves_have_the_tau_that_was_asked_for(make: Callable[[float], Curves]) -> None:
    made = make(0.55)
    taus = [kendall(made.scores[:, rung], made.value, group=500) for rung in range(3)]
    assert taus[0] == pytest.approx(0.55, abs=0.005)
    assert taus == sorted(taus)


def test_benchmark_says_what_is_missing_and_writes_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    file = tmp_path / "figures.json"
    sizes = ["--searches", "3", "--steps-searches", "2", "--budgets", "16", "--forecasters", "wrong", "exact"]
    ended = forecasters.main([*sizes, "--data", str(tmp_path), "--json", str(file)])
    printed = capsys.readouterr().out
    assert f"nbnlp_wt2.jsonl.gz and nb201.csv.gz not in {tmp_path}" in printed
    assert "slow starters, 16, wrong" in printed and "steps to the final gain" in printed
    figures = json.loads(file.read_text("utf-8"))["figures"]
    assert len(figures["rows"]) == 4 and len(figures["steps"]) == 1
    assert ended == (0 if all(row["reached"] for row in [*figures["rows"], *figures["steps"]]) else 1)


def test_searches_without_a_model_promote_as_ranks_do() -> None:
    scores = np.random.default_rng(0).normal(size=(40, 3))
    made = forecasters.Search(scores, (1, 4, 16), None, 0).run()
    assert made.promoted[0] == dict.fromkeys(made.promoted[0], "rank") and len(made.promoted[0]) == 10
    assert made.steps[-1] == 40 + 10 * 3 + 2 * 12
    best = max(made.promoted[1], key=lambda trial: scores[trial, 2])
    assert made.best[-1] == best
