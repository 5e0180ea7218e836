"""Transfer: a run's finalists and baselines at larger sizes, by one protocol, told with intervals, and resumable."""

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nas import scale
from nas.execute import Event
from nas.files import sha256
from nas.flows import Place
from nas.records import Failure, Point, Retraining
from nas.scale import Scaling, scale_run
from nas.scaled import Report, notes, report, to_json, verdict
from nas.search import main as search
from nas.sizes import FURTHER, SEEDS_TRIED, TRIED, Protocol, Size, Subject, choose, sizes
from nas.space import SearchSpace, SpaceError, canonical, digest, load
from nas.standings import Records, rank, read
from nas.store import Store, StoreError, dump
from nas.train.job import prepare_job
from tests.report_runs import UNPRINTABLE, assert_harmless_markdown, with_hostile_names

SPACES = Path(__file__).parent / "spaces"
RINGS = str(SPACES / "rings.py")
GROWING = f"{RINGS}:growing"
AXES = ["width"]
FACTORS = [2, 5]
TUNINGS = len(TRIED) * SEEDS_TRIED


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, and a copy of it that nothing is done to."""
    folder = tmp_path_factory.mktemp("scale")
    chosen = ["--space", GROWING, "--budget", "2", "--proposer", "evolution", "--lookahead", "6", "--confirm", "0"]
    assert search([*chosen, "--results", str(folder), "--name", "run"]) == 0
    shutil.copytree(folder / "run", folder / "before")
    return folder


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def told(made: Path, said: list[str]) -> Report:
    """The report of that run, stopped when the first row was done, and continued.

    At five times the width the baseline that reads it has no program.
    """

    def interrupt(text: str) -> None:
        said.append(text)
        if "learning rate ×" in text:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = scale_run(made / "run", 1, FACTORS, AXES, 2, None, interrupt)
    assert stopped.stopped and 0 < stopped.missing < 9 * (TUNINGS + 2) and any("stopping" in text for text in said)
    assert "the same command goes on" in to_json(stopped) and "not trained yet" in to_json(stopped)
    before = [row for row in read(Store(made / "run")).retrainings]
    report = scale_run(made / "run", 1, FACTORS, AXES, 2, None, said.append)
    assert all(row in read(Store(made / "run")).retrainings for row in before)
    return report


@pytest.fixture(scope="module")
def records(made: Path, told: Report) -> Records:
    return read(Store(made / "run"))


def of(records: Records, purpose: str) -> list[Retraining]:
    return [row for row in records.retrainings if row.purpose == purpose]


# ---- the space made larger


def test_suffix_gives_the_space_made_larger_and_nothing_else_changes() -> None:
    space, wide = load(GROWING), load(f"{GROWING}@width=3")
    assert wide.spec.width == 3 * space.spec.width and wide.name == "rings:growing@width=3"
    parts = {field.name for field in dataclasses.fields(SearchSpace)} - {"name", "spec"}
    assert all(getattr(wide, part) is getattr(space, part) for part in parts)


def test_suffixes_of_two_axes_follow_each_other() -> None:
    both = load(f"{RINGS}@width=2@steps=3")
    assert (both.spec.width, both.ladder.steps) == (16, (60, 180, 360)) and both.name == "rings@width=2@steps=3"


def test_factor_of_one_is_the_space_itself() -> None:
    assert load(f"{RINGS}@width=1") is load(RINGS)


def test_canonical_reference_keeps_the_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SPACES)
    assert canonical("rings.py:growing@width=2") == f"{SPACES / 'rings.py'}:growing@width=2"
    assert canonical("rings.py@width=2@data=3") == f"{SPACES / 'rings.py'}@width=2@data=3"
    assert canonical("mnist1d:block@depth=4") == "mnist1d:block@depth=4"
    assert load(canonical("rings.py@data=2")).name == "rings@data=2"


def test_path_with_an_at_sign_is_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "me@width=2"
    folder.mkdir()
    shutil.copy(RINGS, folder / "rings.py")
    assert load(str(folder / "rings.py")).spec.width == 8
    assert load(str(folder / "rings.py") + "@width=2").spec.width == 16


def test_scale_is_no_part_of_the_digest_and_what_it_makes_has_another() -> None:
    space = load(RINGS)
    assert digest(dataclasses.replace(space, scale={})) == digest(space)
    larger = {digest(load(f"{RINGS}@{axis}=2")) for axis in space.scale}
    assert len(larger) == len(space.scale) and digest(space) not in larger


def test_larger_data_begin_with_the_smaller_and_are_scored_on_the_same() -> None:
    space, more = load(RINGS).task.split, load(f"{RINGS}@data=2").task.split
    assert len(more("train").inputs) == 2 * len(space("train").inputs)
    assert (more("train").inputs[: len(space("train").inputs)] == space("train").inputs).all()
    assert all((a == b).all() for name in ("validation", "test") for a, b in zip(more(name), space(name), strict=True))


WRONG = {
    f"{RINGS}@depth=2": "does not say how its depth grows; its scale has data, steps, width",
    f"{SPACES}/toy_model.py@width=2": "no axis at all",
    f"{RINGS}@width=0": "whole factor from 1",
    f"{RINGS}@width=two": "whole factor from 1",
    f"{RINGS}@=2": "whole factor from 1",
    "no_such_space@width=2": "not known",
}


@pytest.mark.parametrize("reference", WRONG)
def test_wrong_suffix_is_told_in_one_line(reference: str) -> None:
    with pytest.raises(SpaceError) as error:
        load(reference)
    assert WRONG[reference] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("code, text", [("1 / 0", "ZeroDivisionError"), ("None", "returns NoneType")])
def test_scale_that_fails_is_told_in_one_line(tmp_path: Path, code: str, text: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(
        Path(RINGS)
        .read_text("utf-8")
        .replace("    task = dataclasses.replace(space", f"    return {code}\n    task = dataclasses.replace(space")
    )
    with pytest.raises(SpaceError, match=text):
        load(f"{path}@data=2")


# ---- what is trained


def test_every_row_has_the_same_protocol_at_every_size(told: Report, records: Records) -> None:
    space = load(GROWING)
    assert [level.size.label for level in told.levels] == ["×1", "width ×2", "width ×5"]
    assert len(told.choice.subjects) == 3 and told.missing == 0
    for level in told.levels:
        for row in level.rows:
            tuned = [r for r in of(records, f"{level.size.purpose} tune") if r.candidate == row.subject.candidate]
            rates = {
                min(max(times * row.subject.recipe["lr"], space.recipe.lr.low), space.recipe.lr.high) for times in TRIED
            }
            if row.problem:
                assert (row.subject.name, level.size.label) == ("wide", "width ×5")
                continue
            tried = {r.recipe["lr"] for r in tuned}
            assert rates <= tried and len(tried) <= len(rates) + FURTHER
            assert len({r.seed for r in tuned}) == len(tuned) == SEEDS_TRIED * len(tried)
            inside = row.lr is not None and min(tried) < row.lr < max(tried)
            assert inside or row.lr in (space.recipe.lr.low, space.recipe.lr.high) or len(tried) == len(rates) + FURTHER
            seeds = [r for r in of(records, level.size.purpose) if r.candidate == row.subject.candidate]
            assert [r.place for r in seeds] == [0, 1] and {r.recipe["lr"] for r in seeds} == {row.lr}
            assert row.scores == tuple(r.point.score for r in seeds if r.point)


OWN = {
    "all seeds of another are better than its mean": ([0.5, 0.6], [0.56, 0.7], [0.4, 0.9], 2.0),
    "one seed of each other is not": ([0.5, 0.6], [0.54, 0.9], [0.4, 0.9], 1.0),
    "of two the one with the better worst seed": ([0.5, 0.6], [0.61, 0.9], [0.7, 0.71], 0.5),
    "its own fails with a seed": ([0.5, None], [0.4, 0.4], [0.3, 0.9], 2.0),
    "every rate fails with a seed": ([0.5, None], [0.4, None], [None, 0.9], None),
}


@pytest.mark.parametrize("case", OWN)
def test_own_learning_rate_is_kept_unless_every_seed_of_another_is_better(records: Records, case: str) -> None:
    own, double, half, expected = OWN[case]
    space = load(GROWING)
    protocol = Protocol(records, space, 1, sizes(space, FACTORS, AXES), 2)
    subject, size = dataclasses.replace(protocol.choice.subjects[0], recipe={"lr": 0.01, "wd": 0.001}), Size()
    stored = tuned(protocol, subject, size, {0.01: own, 0.02: double, 0.005: half})
    found = protocol.state(stored, subject, size)
    assert found.recipe == (None if expected is None else {"lr": 0.01 * expected, "wd": 0.001})
    assert found.missing == (0 if expected is None else 2)


def tuned(
    protocol: Protocol, subject: Subject, size: Size, scores: Mapping[float, Sequence[float | None]]
) -> list[Retraining]:
    """The trainings that find a learning rate, with these scores by rate, or a bad one."""
    stored, seen = list[Retraining](), Counter[float]()
    while rows := protocol.state(stored, subject, size).to_tune:
        for row in rows:
            lr = row.recipe["lr"]
            told = scores.get(lr, [0.1] * SEEDS_TRIED)[seen[lr]]
            seen[lr] += 1
            point = None if told is None else Point(step=120, train_loss=0.1, loss=0.1, score=told)
            failure = Failure(stage="train", rule="diverged", message="") if told is None else None
            stored.append(dataclasses.replace(row, point=point, failure=failure))
    return stored


@pytest.mark.parametrize(
    "best, expected",
    [
        (0.01, [0.005, 0.01, 0.02]),
        (0.02, [0.005, 0.01, 0.02, 0.04]),
        (0.005, [0.0025, 0.005, 0.01, 0.02]),
        (0.08, [0.005, 0.01, 0.02, 0.04, 0.08]),
        (9.0, [0.005, 0.01, 0.02, 0.04, 0.08]),
    ],
)
def test_rates_beyond_an_end_are_tried_while_the_best_is_there(
    records: Records, best: float, expected: list[float]
) -> None:
    space = load(GROWING)
    protocol = Protocol(records, space, 1, sizes(space, FACTORS, AXES), 2)
    subject, size = dataclasses.replace(protocol.choice.subjects[0], recipe={"lr": 0.01, "wd": 0.001}), Size()
    found = tuned(protocol, subject, size, {lr: [-abs(math.log(lr / best))] * SEEDS_TRIED for lr in expected})
    assert sorted({row.recipe["lr"] for row in found}) == pytest.approx(expected)
    assert all(space.recipe.lr.low <= row.recipe["lr"] <= space.recipe.lr.high for row in found)


def test_trainings_have_seeds_of_their_own_and_no_look_at_the_test_split(records: Records) -> None:
    mine = [row for row in records.retrainings if row.purpose.startswith("scale ")]
    others = {row.seed for row in records.retrainings if row not in mine} | {trial.seed for trial in records.trials}
    assert len({row.seed for row in mine}) == len(mine) and not others & {row.seed for row in mine}
    assert all(row.test is None for row in mine)
    assert records.accesses["test"] == 0


def test_programs_and_steps_grow_with_the_space(told: Report, made: Path) -> None:
    base, wide = told.levels[0], told.levels[1]
    name = next(one.candidate for one in told.choice.subjects if one.name == "wide")
    linear = next(one.candidate for one in told.choice.subjects if one.name == "linear")
    assert (base.row(name).cost["params"], wide.row(name).cost["params"]) == (90, 178)
    assert base.row(linear).cost == wide.row(linear).cost


def test_training_stored_is_the_training_that_the_size_asks_for(records: Records, made: Path) -> None:
    for row in records.retrainings:
        if row.purpose.startswith("scale ") and row.point is not None:
            assert row.rung == 2 and row.point.step == 120 and row.cost["params"] > 0
            assert row.usage["cpu_s"] > 0 and row.usage["wall_s"] > 0
    assert not [path for path in (made / "before" / "data").iterdir() if path.is_dir()]


def test_one_seed_gives_no_interval(records: Records) -> None:
    space = load(GROWING)
    found = report(records, Protocol(records, space, 1, sizes(space, FACTORS, AXES), 1))
    assert found.missing == 0 and not any(level.gains for level in found.levels)
    assert all(row.mean is None or row.mean.error is None for level in found.levels for row in level.rows)
    assert "no interval can be given" in to_json(found)


@pytest.mark.slow
def test_more_steps_data_and_seeds_are_trained(made: Path, told: Report, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    found = scale_run(run, 1, [2], ["steps", "data"], 3, None, lambda text: None)
    rows = read(Store(run)).retrainings
    for purpose, step in (("scale steps=2", 240), ("scale data=2", 120)):
        assert {row.point.step for row in rows if row.purpose == purpose and row.point} == {step}
    assert len(np.load(run / "data" / "data-2" / "train.inputs.npy")) == 800
    assert not (run / "data" / "steps-2").exists() and not (run / "data" / "width-2").exists()
    for row in found.levels[0].rows:
        before = told.levels[0].row(row.subject.candidate)
        assert len(row.scores) == 3 and row.scores[:2] == before.scores and row.lr == before.lr


def test_data_of_a_size_that_are_damaged_are_made_again_as_they_were_or_not_at_all(tmp_path: Path) -> None:
    store, size = Store.create(tmp_path / "run", {}), Size(axis="data", factor=2)
    scaling = object.__new__(Scaling)
    scaling.store, scaling.place = store, Place(reference=RINGS, space=load(RINGS), store=store, examples=1)
    spaces, references = {size: load(f"{RINGS}@data=2")}, {size: f"{RINGS}@data=2"}
    scaling.protocol = SimpleNamespace(spaces=spaces, references=references)  # pyright: ignore[reportAttributeAccessIssue]
    folder = store.folder / "data" / "data-2"

    def ground(change: str = "") -> list[str]:
        """What was made; `change` is another content of the arrays' files."""
        flow, made = scaling._ground(size), list[str]()
        with contextlib.suppress(StopIteration):
            (job,) = next(flow)
            result = prepare_job(**job.payload)
            for name in result["sha256"] if change else ():
                made_in = Path(job.payload["folder"]) / name
                made_in.write_text(change)
                result["sha256"][name] = sha256(made_in)
            made = list(result["sha256"])
            flow.send((Event(job_id=job.id, kind="done", result=result),))
        return made

    def held() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    assert len(ground()) == 4 and ground() == [] and store.damaged_data(folder) == []
    before = held()
    (folder / "train.targets.npy").write_bytes(before["train.targets.npy"][:-1] + b"\1")
    damaged = held()
    assert store.damaged_data(folder) == ["train.targets.npy"] and store.damaged_data() == []
    with pytest.raises(StoreError, match="not what this run was begun with"):
        ground("other data")
    assert held() == damaged
    assert len(ground()) == 4 and held() == before
    (folder / "sizes.json").write_text('{"val')
    assert store.damaged_data(folder) == ["sizes.json"]
    with pytest.raises(StoreError, match="not what this run was begun with"):
        ground("other data")
    assert len(ground()) == 4 and held() == before
    store.close()


def test_row_without_a_program_at_a_size_is_said_and_the_rest_goes_on(told: Report, said: list[str]) -> None:
    level = told.levels[2]
    (row,) = [row for row in level.rows if row.problem]
    assert "442 parameters" in row.problem and row.mean is None and level.rows[-1] is row
    assert any("width ×5, wide: not admitted at this size, program/params" in text for text in said)
    text = to_json(told)
    assert "but without wide, which has no score here" in text and "width \\u00d75, wide: program/params" in text


def test_number_of_trainings_is_said_before_any_is_made(said: list[str]) -> None:
    whole = 3 * 3 * (TUNINGS + 2)
    assert said[0].startswith(f"{whole} trainings to make: 1 candidate and 2 baselines at ×1, width ×2, width ×5")
    assert any(re.fullmatch(r"\d+ of \d+ · ×1, wide: learning rates ×0.5, ×1, ×2 tried", text) for text in said)


def test_best_of_the_search_are_taken_at_their_numbers_where_nothing_is_confirmed(records: Records) -> None:
    choice, rows = choose(records, 2), rank(records)
    assert choice.how == "the best of the search, unconfirmed"
    best = [row for row in rows if row.arm != "baseline"][:2]
    assert [one.candidate for one in choice.finalists] == [row.candidate for row in best]
    trials = {trial.id: trial for trial in records.trials}
    for row, one in zip(best, choice.finalists, strict=True):
        assert (one.values, one.recipe) == (trials[row.trial].values, trials[row.trial].recipe)


def test_best_baselines_alone_may_be_taken_and_the_others_are_named(records: Records) -> None:
    choice, rows = choose(records, 1, 1), [row for row in rank(records) if row.arm == "baseline"]
    assert [one.candidate for one in choice.subjects if one.baseline] == [rows[0].candidate]
    assert list(choice.weaker) == [row.name for row in rows[1:]] and not choice.left_out
    space = load(GROWING)
    made = report(records, Protocol(records, space, 1, sizes(space, FACTORS, AXES), 1, 1))
    assert any(f"perhaps better elsewhere: {rows[1].name}" in note for note in notes(made))


def test_confirmed_are_taken_by_the_test_split_at_the_numbers_of_confirmation(records: Records) -> None:
    ours, theirs = choose(records, 3).finalists, [one for one in choose(records, 3).subjects if one.baseline]
    assert len(ours) >= 2
    worst = {one.candidate: 0.2 for one in ours} | {ours[-1].candidate: 0.9} | {one.candidate: 0.1 for one in theirs}
    rows, tests = [], {}
    for one in [*ours, *theirs]:
        for place in range(2):
            point = Point(step=120, train_loss=0.1, loss=0.1, score=0.5)
            rows.append(
                Retraining(
                    candidate=one.candidate, purpose="seeds", place=place, rung=2, values=one.values,
                    recipe={"lr": 0.0123, "wd": 0.001}, seed=place, point=point, test={"score": 0.0},
                )
            )  # fmt: skip
            tests[one.candidate, place] = np.array([worst[one.candidate], worst[one.candidate] - 0.01 * place])
    choice = choose(dataclasses.replace(records, retrainings=rows, tests=tests), 1)
    assert choice.how == "the best of those confirmed, by the test split"
    assert [one.candidate for one in choice.finalists] == [ours[-1].candidate]
    assert all(one.recipe == {"lr": 0.0123, "wd": 0.001} for one in choice.subjects)


# ---- going on


def test_what_is_stored_is_not_trained_again(made: Path, told: Report) -> None:
    before, said = list(dump(Store(made / "run"))), list[str]()
    again = scale_run(made / "run", 1, FACTORS, AXES, 2, None, said.append)
    assert said == [] and list(dump(Store(made / "run"))) == before and to_json(again) == to_json(told)


@pytest.mark.slow
def test_stopped_and_continued_is_as_never_stopped(made: Path, told: Report, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "before", run)
    assert to_json(scale_run(run, 1, FACTORS, AXES, 2, None, lambda text: None)) == to_json(told)
    rows, others = (
        [line for line in dump(Store(folder)) if '"scale 1' in line or '"scale width=' in line]
        for folder in (run, made / "run")
    )
    assert len(rows) >= 8 * (TUNINGS + 2) + 1 and rows == others


def test_other_state_of_the_scale_is_trained_anew(made: Path, told: Report, records: Records) -> None:
    space = load(GROWING)
    protocol = Protocol(records, space, 1, sizes(space, FACTORS, AXES), 2)
    assert protocol.missing(records.retrainings) == 0
    size = Size(axis="width", factor=2)
    other = dataclasses.replace(protocol.spaces[size], recipe=dataclasses.replace(space.recipe, batch=40))
    protocol.spaces[size] = other
    subject = protocol.choice.subjects[0]
    state = protocol.state(records.retrainings, subject, size)
    tried = (subject.candidate, f"{size.purpose} tune")  # others may have followed their rates further
    known = max(row.place for row in records.retrainings if (row.candidate, row.purpose) == tried) + 1
    assert [row.place for row in state.to_tune] == list(range(known, known + TUNINGS))
    assert report(records, protocol).missing == 3 * (TUNINGS + 2)


# ---- what is said


def with_scores(records: Records, scores: dict[tuple[int, str], list[float]]) -> Records:
    """The records, with other scores of fresh seeds by candidate and purpose."""
    changed = []
    for row in records.retrainings:
        told = scores.get((row.candidate, row.purpose))
        if told is not None and row.point is not None:
            row = dataclasses.replace(row, point=dataclasses.replace(row.point, score=told[row.place]))
        changed.append(row)
    return dataclasses.replace(records, retrainings=changed)


@pytest.mark.parametrize(
    "small, large, expected",
    [
        (0.9, 0.9, ("shown", "remains")),
        (0.9, 0.1, ("shown", "lost")),
        (0.9, 0.5, ("shown", "not shown")),
        (0.5, 0.9, ("not shown", "shown here")),
        (0.1, 0.1, ("below", "lost")),
    ],
)
def test_verdict_follows_the_interval(records: Records, small: float, large: float, expected: tuple[str, str]) -> None:
    space = load(GROWING)
    protocol = Protocol(records, space, 1, sizes(space, [2], ["width"]), 2)
    scores: dict[tuple[int, str], list[float]] = {}
    for one in protocol.choice.subjects:
        for purpose, mine in (("scale 1", small), ("scale width=2", large)):
            level = 0.5 if one.baseline else mine
            scores[one.candidate, purpose] = [level - 0.004, level + 0.004]
    found = report(with_scores(records, scores), protocol)
    (finalist,) = found.choice.finalists
    assert tuple(verdict(found, level, finalist.candidate) for level in found.levels) == expected


def test_gain_of_a_finalist_with_a_failed_seed_is_not_shown(records: Records) -> None:
    space = load(GROWING)
    protocol = Protocol(records, space, 1, sizes(space, [2], ["width"]), 2)
    (finalist,) = protocol.choice.finalists
    broken = [
        dataclasses.replace(row, point=None)
        if (row.candidate, row.purpose, row.place) == (finalist.candidate, "scale 1", 1)
        else row
        for row in records.retrainings
    ]
    found = report(dataclasses.replace(records, retrainings=broken), protocol)
    assert verdict(found, found.levels[0], finalist.candidate) in ("seed failed", "not known")
    assert found.levels[0].row(finalist.candidate).failed == 1


@pytest.fixture
def printed(made: Path, told: Report, capsys: pytest.CaptureFixture[str]) -> Iterator[dict[str, str]]:
    arguments = [str(made / "run"), "--top", "1", "--factors", "2,5", "--axis", "width", "--seeds", "2"]
    shown = {}
    for name in ("table", "markdown", "json"):
        assert scale.main([*arguments, "--format", name]) == 0
        shown[name] = capsys.readouterr().out
        assert scale.main([*arguments, "--format", name]) == 0
        assert capsys.readouterr().out == shown[name]
    yield shown


def test_every_format_has_the_same_bytes_again_and_the_table_fits(printed: dict[str, str]) -> None:
    lines = printed["table"].splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("rings:growing@1 · run run · 1 candidate and 2 baselines at 3 sizes, 2 fresh")
    flat = " ".join(printed["table"].split())
    for text in ("on validation, higher is better", "The test split is for confirmation alone", "2 seeds say little"):
        assert text in flat and text in printed["markdown"]
    plain = json.loads(printed["json"])
    assert [(size["axis"], size["factor"]) for size in plain["sizes"]][:3] == [(None, 1), ("width", 2), ("width", 5)]
    assert plain["split"] == "validation" and all(len(size["rows"]) == 3 for size in plain["sizes"])


def test_hostile_names_do_nothing(made: Path, told: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = with_hostile_names(made / "run", tmp_path / "run")
    arguments = [str(run), "--top", "1", "--factors", "2,5", "--axis", "width", "--seeds", "2"]
    assert scale.main(arguments) == 0
    assert not UNPRINTABLE.search(capsys.readouterr().out)
    assert scale.main([*arguments, "--format", "markdown"]) == 0
    assert_harmless_markdown(capsys.readouterr().out)


ERRORS = {
    "--axis=": "no list of axes",
    "--axis ,": "no list of axes",
    "--axis width,": "no list of axes",
    "--axis depth": "does not say how its depth grows",
    "--factors 2,x": "no list of factors",
    "--factors 1": "no list of factors",
    "--top 0": "not a whole number",
    "--seeds none": "not a whole number",
}


@pytest.mark.parametrize("arguments", ERRORS)
def test_bad_argument_gives_one_line(made: Path, arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = scale.main([str(made / "before"), *arguments.split()])
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("nas.scale: ") and ERRORS[arguments] in captured.err


def test_run_or_scale_that_is_not_there_is_told(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["nothing", "--results", str(made)]) == 2
    assert "is no run" in capsys.readouterr().err
    with pytest.raises(SpaceError, match="does not say how it is made larger"):
        sizes(load(f"{SPACES}/toy_model.py"), [2], None)


def test_space_that_has_changed_since_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "before", tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"space_digest": "another"}), "utf-8")
    with pytest.raises(StoreError, match="another state of space"):
        scale_run(tmp_path / "run", 1, [2], None, 2, None, lambda text: None)


def test_run_without_a_score_has_nothing_to_make_larger(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / "before", tmp_path / "run")
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "run.db")) as connection, connection:
        connection.executescript("DELETE FROM nas_score; DELETE FROM nas_retraining;")
    assert scale.main([str(tmp_path / "run")]) == 2
    assert "nothing to make larger" in capsys.readouterr().err


def test_command_that_was_stopped_prints_what_is_known_and_ends_as_interrupted(
    told: Report, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "scale_run", lambda *_: dataclasses.replace(told, stopped=True))
    assert scale.main([str(made / "run")]) == 130
    assert "rings:growing@1" in capsys.readouterr().out
