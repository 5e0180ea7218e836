import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from nas.judge.rungs import Result, next_promotion
from nas.judge.tuner import Draw, Tuner
from nas.records import Choice, Integer, Real, Tunable

RECIPE: dict[str, Tunable] = {"lr": Real(1e-3, 1e-1, log=True), "wd": Real(1e-4, 1e-1, log=True)}
STEPS = (250, 1000, 4000)


def new(seed: int = 0, maximize: bool = True) -> Tuner:
    return Tuner(seed, RECIPE, maximize)


def hill(draw: Draw, peak: float = 0.01) -> float:
    """A score that is best at one learning rate and far from flat elsewhere."""
    return 1.0 - abs(math.log10(draw.recipe["lr"] / peak))


def declared(candidate: int) -> dict[str, Tunable]:
    """Names that candidates share but declare differently."""
    kinds: list[dict[str, Tunable]] = [
        {},
        {"width": Integer(4, 64, log=True), "kind": Choice(("a", "b"))},
        {"width": Choice((1, True, 1.0)), "lr": Real(0.0, 1.0)},
    ]
    return kinds[candidate % 3]


def copy_of(tuner: Tuner, path: Path, name: str = "study") -> list[dict[str, Any]]:
    """What Optuna itself reads from the copy of the study in a database."""
    url = f"sqlite:///{path}"
    tuner.sync(url, name)
    storage = optuna.storages.RDBStorage(url)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    storage.remove_session()
    storage.engine.dispose()
    fields = ("number", "state", "value", "params", "distributions", "intermediate_values", "user_attrs", "constraints")
    return [{field: getattr(trial, field) for field in fields} for trial in trials]


class Search:
    """A scripted search: three draws a candidate, eight trials in flight, promotions, failures, lost trials.

    `log` is the store: `Search(log)` replays it into a new tuner, and goes on from there.
    """

    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        self.log, self.tuner = log, new(seed=3)
        self.results: list[list[Result]] = [[], [], []]
        self.promoted: list[set[int]] = [set(), set(), set()]
        self.flying: list[tuple[int, int]] = []
        self.drawn: dict[int, Draw] = {}
        for call in list(log):
            self.apply(*call)

    def apply(self, verb: str, *args: Any) -> None:
        if verb == "ask":
            candidate, values, recipe, number = args
            draw = self.tuner.ask(candidate, declared(candidate), values=values, recipe=recipe)
            assert (draw.number, draw.values, draw.recipe) == (number, values, recipe)
            self.opened(draw)
        elif verb == "promote":
            parent, rung, number = args
            assert self.tuner.promote(parent) == number
            self.promoted[rung].add(parent)
            self.drawn[number] = self.drawn[parent]
            self.flying.append((number, rung + 1))
        else:
            number, rung, score, constraints = args
            self.flying.remove((number, rung))
            if verb == "lose":
                self.tuner.lose(number)
            else:
                self.results[rung].append(Result(trial=number, candidate=0, score=score))
                self.tuner.tell(number, STEPS[rung], score, final=rung == 2, constraints=constraints)

    def opened(self, draw: Draw) -> None:
        self.drawn[draw.number] = draw
        self.flying.append((draw.number, 0))

    def step(self) -> None:
        k = len(self.log)
        rng = random.Random(k)
        for rung in (1, 0):
            trial = next_promotion(self.results[rung], self.promoted[rung], 2, True)
            if trial is not None:
                number = self.tuner.promote(trial)
                self.log.append(("promote", trial, rung, number))
                self.promoted[rung].add(trial)
                self.drawn[number] = self.drawn[trial]
                self.flying.append((number, rung + 1))
                return
        if len(self.flying) < 8 or rng.random() < 0.3:
            candidate = k // 6
            given: Mapping[str, Any] | None = {"kind": "b"} if candidate % 3 == 1 and rng.random() < 0.5 else None
            draw = self.tuner.ask(candidate, declared(candidate), values=given)
            self.log.append(("ask", candidate, draw.values, draw.recipe, draw.number))
            self.opened(draw)
            return
        number, rung = self.flying[0]
        score = rng.choice([None, math.nan, *[hill(self.drawn[number]) + rung] * 6])
        verb = "lose" if rng.random() < 0.1 else "tell"
        self.log.append((verb, number, rung, score, {"params": rng.random() - 0.8}))
        self.apply(*self.log[-1])


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = Search([])
    for _ in range(120):
        whole.step()
    log: list[tuple[Any, ...]] = []
    for steps in (21, 39, 60):
        part = Search(log)
        for _ in range(steps):
            part.step()
        parts = copy_of(part.tuner, tmp_path / "parts.db")
    assert repr(log) == repr(whole.log)
    assert parts == copy_of(whole.tuner, tmp_path / "whole.db")
    lost = [call[1] for call in log if call[0] == "lose"]
    failed = [trial["user_attrs"]["number"] for trial in parts if trial["state"] == optuna.trial.TrialState.FAIL]
    assert lost == failed != []
    assert any(call[0] == "promote" for call in log)
    assert any(max(trial["constraints"].values(), default=0) > 0 for trial in parts)


def test_seeds_and_trials_draw_different_numbers() -> None:
    drawn = [new(seed).ask(1, {}).recipe["lr"] for seed in range(4)]
    tuner = new()
    drawn += [tuner.ask(1, {}).recipe["lr"] for _ in range(8)]
    assert len(set(drawn)) == len(drawn) - 1  # seed 0, number 0 is there twice


def test_the_recipe_is_learnt_across_candidates() -> None:
    tuner = new()
    for i in range(60):
        draw = tuner.ask(i, declared(i))
        tuner.tell(draw.number, 250, hill(draw))
    off = [abs(math.log10(tuner.ask(1000 + i, declared(i)).recipe["lr"] / 0.01)) for i in range(20)]
    assert sorted(off)[10] < 0.25  # at random it would be 0.5


@pytest.mark.parametrize("maximize", [True, False])
def test_a_candidates_own_tunables_are_learnt(maximize: bool) -> None:
    tuner = new(maximize=maximize)
    missed = []
    for _ in range(80):
        draw = tuner.ask(5, {"ratio": Real(0.0, 1.0)})
        missed.append(abs(float(draw.values["ratio"]) - 0.7))
        tuner.tell(draw.number, 250, -missed[-1] if maximize else missed[-1])
    assert sum(missed[40:]) / 40 < 0.15  # at random it would be 0.29


def test_numbers_that_crash_are_avoided() -> None:
    tuner = new()
    for i in range(60):
        draw = tuner.ask(i, {})
        crashes = draw.recipe["lr"] > 0.01
        tuner.tell(draw.number, None if crashes else 250, None if crashes else random.Random(i).random())
    assert sum(tuner.ask(100 + i, {}).recipe["lr"] > 0.01 for i in range(20)) <= 4


def test_a_crash_after_promotion_leaves_no_good_score_behind(tmp_path: Path) -> None:
    tuner = new()
    tuner.tell(tuner.ask(1, {}).number, 250, 0.9)
    tuner.tell(tuner.promote(0), None, None)
    lower, upper = copy_of(tuner, tmp_path / "study.db")
    assert lower["value"] == 0.9 and lower["intermediate_values"] == {250: 0.9}
    assert upper["value"] is None and upper["intermediate_values"] == {}
    with pytest.raises(ValueError, match=r"trial 1 \(pruned\) is not paused with a score"):
        tuner.promote(1)


def test_a_climb_has_its_curve_and_lineage(tmp_path: Path) -> None:
    tuner = new()
    draw = tuner.ask(7, {"width": Integer(1, 9)}, values={"width": 4})
    tuner.tell(draw.number, 250, 0.5, constraints={"params": -0.5})
    middle = tuner.promote(draw.number)
    tuner.tell(middle, 1000, 0.6, constraints={"params": -0.5})
    top = tuner.promote(middle)
    tuner.tell(top, 4000, 0.7, final=True)
    last = copy_of(tuner, tmp_path / "study.db")[-1]
    assert last["intermediate_values"] == {250: 0.5, 1000: 0.6, 4000: 0.7}
    assert last["value"] == 0.7 and last["state"] == optuna.trial.TrialState.COMPLETE
    assert last["user_attrs"] == {"candidate": 7, "rung": 2, "parent": middle, "number": top}
    assert last["params"] == {"train/lr": draw.recipe["lr"], "train/wd": draw.recipe["wd"], "c7/width": 4}
    assert last["constraints"] == {"params": -0.5}


def test_given_numbers_are_kept_and_the_rest_is_drawn_within_range() -> None:
    tuner = new()
    tunables: dict[str, Tunable] = {"width": Integer(4, 64, log=True), "kind": Choice(("a", "b")), "one": Choice((3,))}
    for i in range(30):
        draw = tuner.ask(2, tunables, values={"kind": "b"}, recipe={"lr": 0.02})
        assert draw.recipe["lr"] == 0.02 and 1e-4 <= draw.recipe["wd"] <= 1e-1
        assert draw.values["kind"] == "b" and draw.values["one"] == 3
        assert type(draw.values["width"]) is int and 4 <= draw.values["width"] <= 64
        tuner.tell(draw.number, 250, i / 30)


def test_options_that_compare_equal_stay_apart() -> None:
    tuner = new()
    tunables = {"n": Choice((1, True, 1.0, "1"))}
    for option in (1, True, 1.0, "1"):
        value = tuner.ask(1, tunables, values={"n": option}).values["n"]
        assert (type(value), value) == (type(option), option)
    assert len({repr(tuner.ask(1, tunables).values["n"]) for _ in range(40)}) == 4


def test_only_declared_parameters_are_sampled(tmp_path: Path) -> None:
    tuner = new()
    for candidate in range(15):
        draw = tuner.ask(candidate, declared(candidate))
        tuner.tell(draw.number, 250, hill(draw))
    for trial in copy_of(tuner, tmp_path / "study.db"):
        candidate = trial["user_attrs"]["candidate"]
        own = {f"c{candidate}/{name}" for name in declared(candidate)}
        assert set(trial["params"]) == own | {"train/lr", "train/wd"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"values": {"depth": 3}}, "a value for 'depth' is given; declared are"),
        ({"values": {"width": 99}}, r"'width' is given as 99; its range is \[4, 64\]"),
        ({"values": {"kind": "c"}}, "'kind' is given as 'c'; its options are"),
        ({"recipe": {"lr": math.nan}}, "'lr' is given as nan"),
        ({"recipe": {"lr": "fast"}}, "'lr' is given as 'fast'"),
    ],
)
def test_numbers_that_were_not_declared_are_refused(given: dict[str, Any], words: str) -> None:
    tuner = new()
    with pytest.raises(ValueError, match=words):
        tuner.ask(1, declared(1), **given)
    assert tuner.ask(1, declared(1)).number == 0


def test_misuse_is_refused() -> None:
    tuner = new()
    first = tuner.ask(1, {}).number
    with pytest.raises(ValueError, match="candidate 1 declares"):
        tuner.ask(1, declared(1))
    with pytest.raises(ValueError, match="not paused with a score"):
        tuner.promote(first)
    with pytest.raises(ValueError, match="Give the step of its rung"):
        tuner.tell(first, None, 0.5)
    tuner.tell(first, 250, 0.5)
    with pytest.raises(ValueError, match="does not run; running are"):
        tuner.tell(first, 250, 0.5)
    second = tuner.promote(first)
    with pytest.raises(ValueError, match="promoted already"):
        tuner.promote(first)
    with pytest.raises(ValueError, match="above those"):
        tuner.tell(second, 250, 0.6)
    tuner.lose(second)
    with pytest.raises(ValueError, match="does not run"):
        tuner.lose(second)
    with pytest.raises(ValueError, match="trial 99 .unknown."):
        tuner.promote(99)


def test_sync_appends_and_rewrites_a_copy_that_is_ahead(tmp_path: Path) -> None:
    url, tuner = f"sqlite:///{tmp_path / 'study.db'}", new()
    for i in range(4):
        tuner.ask(i, {})
    for number in (2, 0):
        tuner.tell(number, 250, 0.5)
    assert [tuner.sync(url, "s"), tuner.sync(url, "s")] == [2, 0]
    tuner.lose(1)
    assert tuner.sync(url, "s") == 1
    assert [trial["user_attrs"]["number"] for trial in copy_of(tuner, tmp_path / "study.db", "s")] == [2, 0, 1]
    shorter = new()
    shorter.tell(shorter.ask(1, {}).number, 250, 0.5)
    assert [trial["number"] for trial in copy_of(shorter, tmp_path / "study.db", "s")] == [0]
    assert [trial["number"] for trial in copy_of(tuner, tmp_path / "study.db", "other")] == [0, 1, 2]


def test_the_copy_can_be_continued_by_optuna_itself(tmp_path: Path) -> None:
    """Optuna's own way of adding a trial finds the tables as if it had written them."""
    tuner = new()
    tuner.tell(tuner.ask(1, declared(1)).number, 250, 0.5)
    ours = copy_of(tuner, tmp_path / "study.db")
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    study = optuna.load_study(study_name="study", storage=storage)
    study.add_trial(study.trials[0])
    added = study.trials[1]
    storage.remove_session()
    storage.engine.dispose()
    assert added.number == 1 and added.params == ours[0]["params"] and added.value == ours[0]["value"]
    assert added.user_attrs == ours[0]["user_attrs"]


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tuner = new()
    tuner.tell(tuner.ask(1, declared(1)).number, 250, 0.5)
    tuner.tell(tuner.promote(0), 1000, 0.5, final=True)
    tuner.sync(f"sqlite:///{tmp_path / 'study.db'}", "s")
    assert capfd.readouterr() == ("", "")
