"""The fuzzer: some hundred damaged programs end as they may, and what must not be is seen."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fuzz
from nas.execute import Event
from nas.records import ARTIFACTS

pytestmark = pytest.mark.slow
SMALL = (("mnist1d", "linear"), ("mnist1d", "mlp"))


@pytest.fixture(scope="module")
def subjects() -> Sequence[fuzz.Subject]:
    return fuzz.trace_subjects(SMALL)


def test_damaged_programs_end_as_programs_or_refusals(subjects: Sequence[fuzz.Subject], tmp_path: Path) -> None:
    figures = fuzz.fuzz(subjects, range(126), 11, 2, tmp_path)
    assert figures["wrong"] == []
    assert set(figures["counts"]) == set(fuzz.KINDS)
    assert sum(sum(count.values()) for count in figures["counts"].values()) == figures["mutants"] == 126
    assert figures["different"] > 2 == figures["runs"]
    assert "126 mutants" in fuzz.show(json.loads(json.dumps(figures)))


def test_mutants_are_a_function_of_seed_and_number(subjects: Sequence[fuzz.Subject]) -> None:
    for number in (0, 7, 8, 9, 15, 16, 17):
        one, same, other = (fuzz.make(subjects, seed, number) for seed in (1, 1, 2))
        assert one == same != other
        original = subjects[one.subject]
        changed = [name for name in ARTIFACTS if one.blobs[name] != original.blobs[name]]
        assert changed == [one.artifact] if one.artifact else one.param_leaves != original.param_leaves


class Answers:
    """A checker that answers what it was told to."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._answer = answer

    def __call__(self, *arguments: Any) -> "Answers":
        return self

    def check(self, number: int) -> dict[str, Any]:
        return dict(self._answer)

    def close(self) -> None: ...


@pytest.mark.parametrize(
    "answer, wrong",
    [
        ({"ended": "signal 11", "made": True}, False),
        ({"ended": "hang", "made": True}, False),
        ({"ended": "status 1", "made": True}, True),
        ({"made": True}, True),
        ({"raised": "KeyError('x')"}, True),
        ({"failure": {"stage": "program", "rule": "op", "message": "no"}}, False),
        ({"failure": {"stage": "program", "rule": "op", "message": "\x1b[2J"}}, True),
        ({"failure": {"stage": "train", "rule": "op", "message": "no"}}, True),
        ({"program": {"cost": 0}, "subject": 0, "same_text": True, "text": ""}, True),
    ],
)
def test_what_must_not_be_is_wrong(
    subjects: Sequence[fuzz.Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, wrong: bool
) -> None:
    monkeypatch.setattr(fuzz, "Checker", Answers(answer))
    assert bool(fuzz.fuzz(subjects, [3], 0, 0, tmp_path)["wrong"]) is wrong


def test_a_check_that_raises_is_caught(subjects: Sequence[fuzz.Subject], tmp_path: Path) -> None:
    """The process that checks says so itself, and lives on."""
    broken = [subject._replace(space="no_such_space") for subject in subjects]
    import msgpack

    (tmp_path / "subjects").write_bytes(msgpack.packb([list(subject) for subject in broken]) or b"")
    checker = fuzz.Checker(tmp_path / "subjects", 0, fuzz.LIMIT_S)
    answers = [checker.check(number) for number in (0, 1)]
    checker.close()
    assert ["no_such_space" in answer["raised"] for answer in answers] == [True, True]


POINT = {"train_loss": 0.7, "loss": 0.6, "score": 0.5}


@pytest.mark.parametrize(
    "trained, hand, begins",
    [
        ({"points": [[POINT, []]]}, POINT, "the same"),
        ({"points": [[POINT, []]]}, POINT | {"score": 0.6}, "WRONG: score"),
        ({"points": [[POINT, []]]}, POINT | {"loss": 0.7}, "WRONG: loss"),
        ({"points": [[POINT, []]]}, POINT | {"train_loss": float("nan")}, "WRONG: train_loss"),
        ({"points": [], "failure": {}}, POINT, "WRONG: diverged"),
        ({"points": [], "failure": {}}, POINT | {"loss": float("nan")}, "not finite"),
        ({"points": [[POINT, []]]}, None, "WRONG: by hand"),
        (None, POINT, "WRONG: the trainer raised"),
        (None, None, "not compiled"),
    ],
)
def test_a_score_that_is_not_the_programs_is_wrong(trained: Any, hand: Any, begins: str) -> None:
    def event(result: Any) -> Event:
        return Event(job_id="1", kind="error" if result is None else "done", result=result)

    assert fuzz.agreement(event(trained and {"trials": [trained]}), event(hand)).startswith(begins)


def test_a_trainer_that_dies_is_wrong() -> None:
    done = Event(job_id="2", kind="done", result=POINT)
    for kind in ("lost", "timeout", "memory"):
        assert fuzz.agreement(Event(job_id="1", kind=kind), done).startswith("WRONG")
