from decimal import Decimal
from typing import Any

from nas.costs import costs
from nas.records import Point, Retraining, Trial
from nas.store import Score, Task

TIMED: dict[str, Any] = {"wall_s": 2.0, "step_s": 3e-4, "device": "chip"}


def task(slot: int, candidate: int, **usage: object) -> Task:
    return Task(slot=slot, kind="first", candidate=candidate, decision={}, outcome={}, usage=usage)


def trial(number: int, candidate: int, **values: int) -> Trial:
    return Trial(id=number, candidate=candidate, arm="random", values=values, recipe={"lr": 0.1}, seed=number)


def score(number: int, slot: int) -> Score:
    point = Point(step=1, train_loss=1.0, loss=1.0, score=0.5)
    return Score(trial=number, rung=0, slot=slot, point=point, failure=None)


def again(candidate: int, purpose: str = "seeds", **usage: object) -> Retraining:
    return Retraining(
        candidate=candidate, purpose=purpose, place=0, rung=0, values={"k": 3}, recipe={}, seed=0, usage=usage
    )


def test_seconds_and_dollars_of_all_that_was_done_are_added() -> None:
    calls = [{"usd": "0.10"}, {"usd": "0.025"}]
    tasks = [task(0, 1, wall_s=2.0, calls=calls), task(1, 1, wall_s=1.5), task(2, 2, wall_s=4.0)]
    made = costs(tasks, [], [], [again(1, wall_s=5.0), again(1, "scale width=2", wall_s=7.0)])
    assert (made.of(1).device_s, made.of(1).usd) == (8.5, Decimal("0.125"))
    assert (made.of(2).device_s, made.of(2).usd, made.of(3).device_s) == (4.0, None, 0.0)
    assert costs([task(0, 1, calls=[{"usd": "0.1"}, {"usd": None}])], [], [], []).of(1).usd is None


def test_step_is_the_fastest_at_the_same_values() -> None:
    trials = [trial(1, 1, k=3), trial(2, 1, k=5)]
    tasks = [task(0, 1, **TIMED), task(1, 1, **TIMED | {"step_s": 1e-4}), task(2, 1, **TIMED | {"step_s": 9e-4})]
    made = costs(tasks, trials, [score(1, 0), score(1, 2), score(2, 1)], [])
    assert made.of(1).step_at({"k": 3}) == 3e-4
    assert made.of(1).step_at({"k": 5}) == 1e-4
    assert made.of(1).step_at({"k": 7}) is None
    faster = again(1, "seeds", **TIMED | {"step_s": 2e-4, "inference_s": 1e-6})
    other_size = again(1, "scale width=2", **TIMED | {"step_s": 1e-5, "inference_s": 1e-9})
    made = costs(tasks, trials, [score(1, 0)], [faster, other_size])
    assert (made.of(1).step_at({"k": 3}), made.of(1).inference_s) == (2e-4, 1e-6)


def test_times_of_two_devices_are_not_told_together() -> None:
    tasks = [task(slot, slot, **TIMED) for slot in (1, 2)] + [
        task(3, 3, **TIMED | {"device": "another", "step_s": 1e-9})
    ]
    made = costs(tasks, [trial(n, n) for n in (1, 2, 3)], [score(n, n) for n in (1, 2, 3)], [])
    assert (made.device, made.others) == ("chip", 1)
    assert made.of(1).step_at({}) == 3e-4 and made.of(3).step_at({}) is None
