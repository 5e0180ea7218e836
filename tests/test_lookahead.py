"""How many decisions are in flight: it follows from the measured times, within bounds."""

from typing import Any

import pytest

from nas.lookahead import ENOUGH, Pace


def pace(asked_s: float, work_s: float, *, proposals: int = ENOUGH, workers: int = 2, most: int = 32) -> Pace:
    found = Pace(workers, most)
    for _ in range(proposals):
        calls: list[dict[str, Any]] = [{"seconds": asked_s / 2}, {"seconds": asked_s / 2}]
        found.ended("admit", {"wall_s": 1.0, "calls": calls})
        found.ended("first", {"wall_s": 2 * work_s - 1.0})
    return found


def test_decisions_in_flight_keep_the_workers_busy_while_a_proposal_is_written() -> None:
    assert pace(asked_s=60.0, work_s=5.0).wanted(16) == 24


@pytest.mark.parametrize(("asked_s", "wanted"), [(1.0, 16), (40.0, 16), (47.0, 16), (50.0, 20), (1e6, 32)])
def test_it_grows_when_that_is_worth_a_record_and_never_beyond_the_most(asked_s: float, wanted: int) -> None:
    assert pace(asked_s, work_s=5.0).wanted(16) == wanted


def test_it_never_falls_and_waits_for_enough_proposals() -> None:
    assert pace(asked_s=1.0, work_s=5.0).wanted(24) == 24
    assert pace(asked_s=60.0, work_s=5.0, proposals=ENOUGH - 1).wanted(16) == 16


def test_baselines_and_forecasts_are_no_measure_of_proposals() -> None:
    found = pace(asked_s=60.0, work_s=5.0)
    found.ended("baseline", {"wall_s": 1e6})
    found.ended("forecast", {"wall_s": 5.0, "calls": [{"seconds": 1e6}]})
    assert found.wanted(16) == 24


def test_work_that_takes_no_time_wants_the_most() -> None:
    found = Pace(2, 32)
    for _ in range(ENOUGH):
        found.ended("admit", {"calls": [{"seconds": 1.0}]})
    assert found.wanted(16) == 32
