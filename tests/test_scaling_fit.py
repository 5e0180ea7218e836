"""The power law through trainings at several sizes: exact where there is one, and an interval that holds it."""

import math

import numpy as np
import pytest

from nas.judge.scaling import fit

COMPUTE = np.repeat([1e9, 4e9, 16e9], 3)


def test_exact_power_law_is_found() -> None:
    found = fit(list(COMPUTE), list(7.0 * COMPUTE**-0.2))
    assert found is not None and (found.sizes, found.trainings) == (3, 9)
    assert found.exponent == pytest.approx(0.2) and found.low == pytest.approx(found.high)
    assert found.apart == pytest.approx(0.0, abs=1e-9)


def test_interval_holds_the_exponent_in_95_of_100() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(1_000):
        found = fit(list(COMPUTE), list(np.exp(1 - 0.1 * np.log(COMPUTE) + 0.02 * rng.normal(size=9))))
        assert found is not None
        held += found.low <= 0.1 <= found.high
    assert 930 <= held <= 970


def test_what_no_line_describes_widens_the_interval_and_is_said() -> None:
    bent = fit(list(COMPUTE), list(2.0 + 7.0 * (COMPUTE / 1e9) ** -1.0))
    assert bent is not None and bent.high - bent.low > 0.1 and bent.apart > 0.05


@pytest.mark.parametrize("losses", [[1.0, 1.0], [1.0, math.nan, math.inf], [1.0, 0.9, 0.8]])
def test_too_little_is_not_fitted(losses: list[float]) -> None:
    assert fit([1e9] * len(losses), losses) is None
