import math

import numpy as np
import pytest
from scipy import stats

from nas.judge.lift import Lift, Sample, lifts, pooled, t_quantile
from nas.judge.rungs import normal_scores


def first_rung(
    seed: int, candidates: int = 60, controls: int = 18, draws: int = 3, effect: float = 0.0
) -> list[Sample]:
    """Scores with a candidate's part, a learning rate's part and noise; the sampler has learnt the rate by the end."""
    rng = np.random.default_rng(seed)
    samples = []
    for candidate in range(candidates):
        arm = "random" if candidate < controls else "evolution"
        quality = rng.normal() + effect * (arm != "random")
        for _ in range(draws):
            u = rng.uniform(-3.0, 1.6) if candidate < controls else np.clip(rng.normal(0.0, 0.7), -3.0, 1.6)
            score = quality - 0.3 * u**2 + 0.1 * min(u, 0.0) ** 3 + rng.normal(0.0, 0.5)
            failed = u > 1.2 and rng.random() < 0.3
            lr = 0.02 * math.exp(u)
            samples.append(Sample(arm=arm, candidate=candidate, lr=lr, score=None if failed else float(score)))
    return samples


def only(samples: list[Sample], maximize: bool = True) -> Lift:
    return lifts(samples, maximize)["evolution"]


def test_the_interval_covers_zero_without_a_lift() -> None:
    """Although arms draw other learning rates and a candidate's draws are not independent."""
    found = [only(first_rung(seed)) for seed in range(150)]
    assert 0.91 <= np.mean([lift.low <= 0.0 <= lift.high for lift in found]) <= 0.99
    assert abs(np.mean([lift.lift for lift in found])) < 0.06


def test_a_lift_is_found_with_its_sign() -> None:
    better = only(first_rung(1, candidates=150, controls=40, effect=1.5))
    worse = only(first_rung(1, candidates=150, controls=40, effect=-1.5))
    assert better.shown and better.low > 0.3 and worse.shown and worse.high < -0.3
    assert (better.candidates, better.controls, better.runs) == (110, 40, 1)


def test_turning_the_scores_and_the_direction_changes_nothing() -> None:
    samples = first_rung(2)
    turned = [
        Sample(arm=s.arm, candidate=s.candidate, lr=s.lr, score=None if s.score is None else -s.score) for s in samples
    ]
    assert only(turned, maximize=False) == only(samples)


def test_only_ranks_count() -> None:
    samples = first_rung(3)
    bent = [
        Sample(arm=s.arm, candidate=s.candidate, lr=s.lr, score=None if s.score is None else math.exp(s.score))
        for s in samples
    ]
    assert only(bent) == only(samples)


def jackknife(samples: list[Sample], terms: int = 3) -> tuple[float, float]:
    """Lift and standard error with so many terms of the learning rate, by leaving out each candidate in turn."""
    z = np.array(normal_scores([s.score for s in samples], True))
    u = np.array([math.log(s.lr / 0.02) for s in samples])
    arm = np.array([s.arm == "evolution" for s in samples], float)
    columns = [arm, np.ones_like(u), u, u**2, np.minimum(u, 0.0) ** 3]
    design = np.stack(columns[: 2 + terms], axis=1)
    whole = np.linalg.lstsq(design, z)[0][0]
    candidate = np.array([s.candidate for s in samples])
    left = [np.linalg.lstsq(design[candidate != c], z[candidate != c])[0][0] for c in set(candidate)]
    return whole, math.sqrt(sum((b - whole) ** 2 for b in left))


@pytest.mark.parametrize("draws", [1, 3])
def test_errors_are_the_jackknife_over_candidates(draws: int) -> None:
    samples = first_rung(4, candidates=20, controls=8, draws=draws)
    found = only(samples)
    assert (found.lift, found.error) == pytest.approx(jackknife(samples))
    assert found.high - found.lift == pytest.approx(stats.t.ppf(0.975, 7) * found.error)


def test_every_arm_is_compared_with_the_control() -> None:
    samples = first_rung(5)
    named = [
        Sample(arm="claude" if s.candidate > 40 else s.arm, candidate=s.candidate, lr=s.lr, score=s.score)
        for s in samples
    ]
    assert sorted(lifts(named, True)) == ["claude", "evolution"]
    assert sorted(lifts(named, True, control="claude")) == ["evolution", "random"]


@pytest.mark.parametrize(("candidates", "controls"), [(0, 0), (5, 0), (5, 1), (5, 4), (5, 5), (4, 2)])
def test_what_is_not_determined_is_left_out(candidates: int, controls: int) -> None:
    """No control, a single candidate on a side, or fewer numbers than coefficients."""
    found = lifts(first_rung(6, candidates, controls, draws=1), True)
    assert set(found) <= ({"evolution"} if min(controls, candidates - controls) > 1 else set())
    assert all(math.isfinite(lift.error) for lift in found.values())


def test_learning_rates_that_do_not_vary_are_no_obstacle() -> None:
    samples = first_rung(7)
    fixed = [Sample(arm=s.arm, candidate=s.candidate, lr=0.01, score=s.score) for s in samples]
    above = [Sample(arm=s.arm, candidate=s.candidate, lr=max(s.lr, 0.02), score=s.score) for s in samples]
    one_below = [
        Sample(arm=s.arm, candidate=s.candidate, lr=max(s.lr, 0.02) if s.candidate else 0.01, score=s.score)
        for s in samples
    ]
    for changed, terms in ((fixed, 0), (above, 2), (one_below, 2)):
        found = only(changed)
        assert (found.lift, found.error) == pytest.approx(jackknife(changed, terms))


def test_pooling_is_a_t_interval_over_runs() -> None:
    runs = [only(first_rung(seed, effect=0.8)) for seed in range(5)]
    values = [run.lift for run in runs]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    found = pooled(runs)
    assert (found.low, found.high, found.lift) == pytest.approx((low, high, np.mean(values)))
    assert (found.runs, found.candidates, found.controls, found.arm) == (5, 210, 90, "evolution")


def test_pooling_needs_two_runs_of_one_arm() -> None:
    run = only(first_rung(0))
    with pytest.raises(ValueError, match="pooled.. got 1 lifts"):
        pooled([run])


@pytest.mark.parametrize("df", [0.5, 1, 2, 3.7, 10, 39, 500, 1e5])
@pytest.mark.parametrize("p", [0.001, 0.3, 0.5, 0.6, 0.975, 0.9999])
def test_t_quantile_equals_scipy(p: float, df: float) -> None:
    assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(("p", "df"), [(0.0, 3), (1.0, 3), (0.5, 0), (math.nan, 3), (0.5, math.nan)])
def test_t_quantile_refuses_what_has_none(p: float, df: float) -> None:
    with pytest.raises(ValueError, match="give a probability"):
        t_quantile(p, df)
