"""The count of false alarms: what is drawn, what is asked of it, and what is called an alarm."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import false_alarms
from benchmarks.false_alarms import Asked, Verdict, summary
from nas.records import Failure

MIXER = str(Path(__file__).parent / "spaces" / "toy_mixer.py")


@pytest.fixture(scope="module")
def asked() -> Asked:
    return Asked(MIXER, 10)


def test_baselines_come_first_and_half_of_the_others_are_mutations(asked: Asked) -> None:
    count = len(asked.space.baselines)
    drawn = list(itertools.islice(asked.drawn(np.random.default_rng(0)), count + 6))
    assert [source for _, source in drawn[:count]] == list(asked.space.baselines.values())
    assert [origin for origin, _ in drawn[count:]] == ["sample", "mutation"] * 3
    assert drawn == list(itertools.islice(asked.drawn(np.random.default_rng(0)), count + 6))


def test_leak_is_an_alarm_and_a_clean_program_none(asked: Asked) -> None:
    clean = asked.space.baselines["convolution"]
    fine = asked.verdict("baseline", clean, train=True)
    leaky = asked.verdict("sample", clean.replace("CAUSAL", "SAME"), train=True)
    assert fine.failure is None and fine.trained == "clean" and fine.alarm is None
    assert leaky.alarm is not None and leaky.alarm.rule == "time" and leaky.trained == ""
    figures = summary([fine, leaky])
    assert figures["asked_at_admission"] == 2 and figures["asked_with_trained_parameters"] == 1
    assert [alarm["origin"] for alarm in figures["alarms"]] == ["sample"]


def test_dead_network_is_counted_and_no_alarm(asked: Asked) -> None:
    dead = asked.space.baselines["shift"].replace("return self.out(", "return 0.0 * self.out(")
    verdict = asked.verdict("sample", dead, train=False)
    assert verdict.alarm is None
    assert summary([verdict])["alarms"] == []


def test_batch_norm_in_training_is_a_leak_and_no_false_alarm() -> None:
    told = Failure(stage="leak", rule="time", message="in training, the output at position 0 depends on …")
    with_it = Verdict(space="s", origin="mutation", source="self.norm = nnx.BatchNorm(D, rngs=rngs)", failure=told)
    without = dataclasses.replace(with_it, source="self.norm = nnx.RMSNorm(D, rngs=rngs)")
    figures = summary([with_it, without])
    assert figures["leaks_by_batch_norm"] == len(figures["alarms"]) == 1
    assert "RMSNorm" in figures["alarms"][0]["source"]


def test_as_many_are_drawn_as_come_to_the_leak_check(monkeypatch: pytest.MonkeyPatch) -> None:
    gated = Failure(stage="gate", rule="import", message="…")
    every_third = itertools.cycle([gated, None, Failure(stage="leak", rule="constant", message="…")])
    monkeypatch.setattr(
        Asked, "verdict", lambda *_, **__: Verdict(space="s", origin="sample", source="", failure=next(every_third))
    )
    monkeypatch.setattr(Asked, "drawn", lambda *_: itertools.repeat(("sample", "")))
    figures = summary(false_alarms.measure([MIXER], 6, 1, 10, 0))
    assert (figures["random_asked_at_admission"], figures["candidates"]) == (6, 9)
    monkeypatch.setattr(
        Asked, "verdict", lambda *_, **__: Verdict(space="s", origin="sample", source="", failure=gated)
    )
    assert summary(false_alarms.measure([MIXER], 6, 1, 10, 0))["candidates"] == 6 * false_alarms.MOST_DRAWN


def test_figures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--spaces", MIXER, "--candidates", "2", "--every", "2", "--steps", "10", "--json", str(file)]
    assert false_alarms.main(arguments) == 0
    figures = json.loads(file.read_text())["figures"]
    assert figures["random_asked_at_admission"] == 2 and figures["alarms"] == []
    assert "alarms" in capsys.readouterr().out
