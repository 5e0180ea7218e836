"""What waiting for a model costs, in virtual time: searches that end, repeat, and lose nothing to replies at once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import latency
from benchmarks.latency import Measured, Setting, simulate

RINGS = str(Path(__file__).parent / "spaces" / "rings.py")
SHORT = Setting(budget=16, lookahead=3, trials="flat")


@pytest.fixture(scope="module")
def slow() -> Measured:
    """A search whose model is slow."""
    return simulate(SHORT, RINGS)


def test_a_virtual_search_ends_and_asks_the_model(slow: Measured) -> None:
    assert slow.calls > 4 and slow.in_flight > 0
    assert slow.tasks["first"] >= 16 and slow.tasks["promote"] > 0
    parts = slow.parts
    assert parts["whole"].seconds == pytest.approx(sum(parts[name].seconds for name in ("start", "steady", "end")))
    assert parts["whole"].idle == pytest.approx(sum(slow.held.values()))
    assert parts["whole"].idle == pytest.approx(1 - slow.busy_s / (2 * parts["whole"].seconds))


def test_a_virtual_search_is_deterministic(slow: Measured) -> None:
    assert simulate(SHORT, RINGS) == slow


def test_a_slow_model_costs_time_and_changes_no_decision(slow: Measured) -> None:
    at_once = simulate(replace(SHORT, latency_s=0.0), RINGS)
    assert at_once.decided == slow.decided
    assert at_once.busy_s == pytest.approx(slow.busy_s)
    assert at_once.parts["whole"].seconds + 30 < slow.parts["whole"].seconds
    assert at_once.held.get("writing", 0.0) + at_once.held.get("forecast", 0.0) < slow.held["writing"]


def test_replies_at_once_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--space", RINGS, "--trials", "proportional", "--lookaheads", "2", "--latencies", "0", "30"]
    assert latency.main([*options, "--budgets", "14", "--json", str(tmp_path / "figures.json")]) == 0
    assert "lost %" in capsys.readouterr().out
    none, some = json.loads((tmp_path / "figures.json").read_text("utf-8"))["figures"]["searches"]
    assert set(none["lost"].values()) == {0.0} and none["longer"] == 0.0
    assert some["lost"]["whole"] > 0 and some["same"] is True


def test_jobs_start_by_priority_on_as_many_workers_as_there_are() -> None:
    clock, space = latency.Clock(), latency.load(RINGS)
    workers = latency.Workers(clock, Setting(workers=2, check_s=1.0), space)
    source = {"source": "", "values": {}}
    for priority in (3, 1, 2):
        workers.submit(latency.Job(id=str(priority), entry="a:trace_job", payload=source, priority=priority))
    assert [event.job_id for event in workers.poll(0.0)] == []
    assert [event.job_id for event in workers.poll(1.0)] == ["1", "2"]
    assert [event.job_id for event in workers.poll(1.0)] == ["3"]
    assert clock.now == 2.0
    with pytest.raises(RuntimeError, match="nothing is under way"):
        workers.poll(1.0)
