"""The spread from seed to seed."""

import numpy as np
import pytest

from nas.judge.noise import seed_sigma


def test_seed_sigma_of_single_seeds_is_unknown() -> None:
    assert seed_sigma([[1.0], [2.0]]) is None


def test_seed_sigma_of_one_group_is_its_standard_deviation() -> None:
    found = seed_sigma([[1.0, 2.0, 3.0], [5.0]])
    assert found is not None and found.sigma == pytest.approx(1.0) and found.degrees == 2


def test_seed_sigma_is_not_moved_by_one_unstable_group() -> None:
    calm = [[0.0, 1.0, 2.0]] * 4
    wild = seed_sigma([*calm, [0.0, 100.0, 200.0]])
    assert wild == seed_sigma([*calm, [0.0, 2.0, 4.0]])


@pytest.mark.parametrize("seeds", [3, 5])
def test_seed_sigma_is_right_on_average_for_five_equal_groups(seeds: int) -> None:
    rng = np.random.default_rng(0)
    found = [seed_sigma(rng.normal(size=(5, seeds)).tolist()) for _ in range(2000)]
    assert np.mean([noise.sigma**2 for noise in found if noise]) == pytest.approx(1.05, abs=0.08)
