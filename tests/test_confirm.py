"""Confirmation: fresh seeds, a test split that nothing else has seen, baselines that serve several runs."""

import csv
import dataclasses
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from nas import confirm
from nas.confirm import Confirmation, kept_folder
from nas.execute import Executor
from nas.flows import Place
from nas.judge.belief import BASELINE_SEEDS, FIRST_SEEDS, SEEDS
from nas.leaderboard import main as leaderboard
from nas.leaderboard import to_csv, to_json, to_markdown
from nas.records import baseline_seed, finalist_seed
from nas.search import main
from nas.space import digest, load
from nas.standings import Records, board, read
from nas.store import Store, dump

RINGS = str(Path(__file__).parent / "spaces" / "rings.py")


def command(folder: Path, name: str, *more: str) -> list[str]:
    chosen = ["--space", RINGS, "--budget", "5", "--proposer", "evolution", "--lookahead", "6", "--confirm", "2"]
    return [*chosen, "--results", str(folder), "--name", name, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was confirmed."""
    made = tmp_path_factory.mktemp("confirmed")
    assert main(command(made, "first")) == 0
    return made


@pytest.fixture(scope="module")
def records(folder: Path) -> Records:
    return read(Store(folder / "first"))


def test_finalists_and_baselines_are_trained_again_with_fresh_seeds(records: Records) -> None:
    seeds = [row for row in records.retrainings if row.purpose == "seeds"]
    baselines = {entry.candidate.id for entry in records.entries if entry.candidate.arm == "baseline"}
    counts = {candidate: sum(row.candidate == candidate for row in seeds) for candidate in {r.candidate for r in seeds}}
    finalists = counts.keys() - baselines
    assert len(finalists) == 2 and counts.keys() >= baselines
    assert all(counts[candidate] == BASELINE_SEEDS for candidate in baselines)
    assert all(counts[candidate] in (FIRST_SEEDS, SEEDS) for candidate in finalists)
    top = len(records.config["ladder"]["steps"]) - 1
    assert all(row.rung == top and row.test is not None for row in seeds if row.point is not None)
    names = {entry.candidate.id: entry.candidate.operator for entry in records.entries}
    for row in seeds:
        ours = finalist_seed(records.config["seed"], row.candidate, row.place)
        theirs = baseline_seed("rings", names[row.candidate], row.place)
        assert row.seed == (theirs if row.candidate in baselines else ours)
    used = {trial.seed for trial in records.trials}
    assert len({row.seed for row in seeds}) == len(seeds) and not used & {row.seed for row in seeds}


def test_finalist_has_the_numbers_that_the_search_found(records: Records) -> None:
    rows = {row.candidate: row for row in board(records).rows}
    trials = {trial.id: trial for trial in records.trials}
    for row in records.retrainings:
        if rows[row.candidate].arm != "baseline":
            assert row.recipe == trials[rows[row.candidate].trial].recipe


def test_baseline_had_as_many_draws_as_any_finalist(records: Records) -> None:
    found = [one.row for one in board(records).confirmed if one.row.arm != "baseline"]
    most = max(sum(trial.candidate == row.candidate for trial in records.trials) for row in found)
    for entry in records.entries:
        if entry.candidate.arm == "baseline":
            mine = [r for r in records.retrainings if r.candidate == entry.candidate.id and r.purpose == "numbers"]
            assert sum(row.rung == 0 for row in mine) >= most
            assert sum(row.rung > 0 for row in mine) >= 1 and all(row.test is None for row in mine)


def test_test_split_is_in_no_file_of_the_run_and_every_look_at_it_counts(folder: Path, records: Records) -> None:
    split = load(RINGS).task.split("test")
    for path in (folder / "first" / "data").glob("*.npy"):
        array = np.load(path)
        assert "test" not in path.name
        assert array.shape != split.inputs.shape or not np.array_equal(array, split.inputs)
    looks = [row for row in records.retrainings if row.test is not None]
    assert records.accesses["test"] == len(looks) == len(records.tests)
    points = sum(score.point is not None for score in records.scores)
    looked = sum(len(row.curve) or row.point is not None for row in records.retrainings)
    assert records.accesses["validation"] == points + looked


def test_fresh_training_is_looked_at_on_its_way_and_timed(records: Records) -> None:
    steps = load(RINGS).ladder.steps[-1]
    fresh = [row for row in records.retrainings if row.purpose == "seeds"]
    for row in fresh:
        at = [step for step, _ in row.curve]
        assert at == sorted(set(at)) and at[-1] == steps and len(at) > 4
        assert row.point is not None and row.curve[-1][1] == row.point.score
        assert row.cost["train_flops"] > 0 and row.usage["step_s"] > 0 and row.usage["device"]
    assert {row.candidate for row in fresh} == {row.candidate for row in fresh if "inference_s" in row.usage}
    for row in records.retrainings:
        assert row.purpose == "seeds" or not row.curve


def test_board_says_what_each_cost_and_how_fast_it_is(records: Records) -> None:
    made = board(records)
    assert made.costs.device
    for one in made.confirmed:
        cost = made.costs.of(one.row.candidate)
        mine = [row for row in records.retrainings if row.candidate == one.row.candidate and row.purpose == "seeds"]
        assert cost.inference_s == min(row.usage["inference_s"] for row in mine if "inference_s" in row.usage)
        assert (cost.step_at(mine[0].values) or 1.0) <= min(row.usage["step_s"] for row in mine)
        spent = sum((task.usage or {})["wall_s"] for task in records.tasks if task.candidate == one.row.candidate)
        assert cost.device_s > spent > 0
    best = [m for one in made.confirmed if one.row.arm == "baseline" and (m := made.matches[one.row.candidate]).ratio]
    assert 1.0 in [found.ratio for found in best]
    facts = {row["candidate"]: row for row in json.loads(to_json(made))["rows"]}
    for one in made.confirmed:
        assert facts[one.row.candidate]["inference_us"] > 0 and facts[one.row.candidate]["step_us"] > 0
        ratio = made.matches[one.row.candidate].ratio
        assert facts[one.row.candidate]["match_ratio"] == (ratio and pytest.approx(ratio, rel=1e-3))


def test_score_on_the_test_split_is_the_mean_of_its_examples(records: Records) -> None:
    for row in records.retrainings:
        if row.test is not None:
            scores = records.tests[row.candidate, row.place]
            assert row.test["examples"] == len(scores) == len(load(RINGS).task.split("test").inputs)
            assert row.test["score"] == pytest.approx(float(scores.mean(dtype=np.float64)), abs=1e-12)
            assert set(np.unique(scores)) <= {0.0, 1.0}


def test_every_format_says_what_is_confirmed(records: Records, capsys: pytest.CaptureFixture[str]) -> None:
    made = board(records)
    text = to_markdown(made)
    assert "| rank | id |" in text and "All of the search, search score, unconfirmed" in text
    rows = {int(row["candidate"]): row for row in csv.DictReader(io.StringIO(to_csv(made)))}
    for one in made.confirmed:
        told = rows[one.row.candidate]
        assert one.belief.test is not None
        assert float(told["test"]) == pytest.approx(one.belief.test.value, abs=1e-5)
        assert told["claim"].startswith(("yes", "no") if one.belief.claim else "")
    others = rows.keys() - {one.row.candidate for one in made.confirmed}
    assert others and all(rows[candidate]["claim"] == rows[candidate]["test"] == "" for candidate in others)
    plain = json.loads(to_json(made))
    assert plain["accesses"]["test"] == records.accesses["test"]


def test_luck_is_told_of_finalists_that_were_chosen_at_the_top_rung_alone(records: Records) -> None:
    top = len(records.config["ladder"]["steps"]) - 1
    for one in board(records).confirmed:
        assert (one.belief.luck is not None) == (one.row.arm != "baseline" and one.row.rung == top)


def test_seed_that_failed_forbids_the_claim(records: Records) -> None:
    finalist = next(one.row.candidate for one in board(records).confirmed if one.belief.claim is not None)
    broken = [
        dataclasses.replace(row, point=None, test=None) if (row.candidate, row.place) == (finalist, 1) else row
        for row in records.retrainings
    ]
    tests = {key: scores for key, scores in records.tests.items() if key != (finalist, 1)}
    found = board(dataclasses.replace(records, retrainings=broken, tests=tests)).confirmed
    (belief,) = [one.belief for one in found if one.row.candidate == finalist]
    assert belief.failed == 1 and belief.claim is not None and not belief.claim.claimed
    assert math.isfinite(belief.claim.p)


def test_confirming_again_trains_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(dump(Store(folder / "first")))
    assert leaderboard([str(folder / "first"), "--confirm", "2"]) == 0
    assert list(dump(Store(folder / "first"))) == before
    assert "confirmed" in capsys.readouterr().out or "no claim" in capsys.readouterr().out


def test_baselines_of_an_edited_space_or_of_other_data_are_not_taken(folder: Path, tmp_path: Path) -> None:
    """Nobody raises a version at every edit of a file of his own, and half of a gain may be the edit's."""

    def key(run: Path) -> str:
        store = Store(run)
        place = Place(reference=RINGS, space=load(RINGS), store=store, examples=0)
        return Confirmation(place, cast(Executor, None), 1, None, print)._key(1)

    texts = {name: Path(RINGS).read_text("utf-8") for name in ("same", "edited")}
    texts["edited"] = texts["edited"].replace("2.7", "1.7")
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert texts["edited"] != texts["same"]
    whole, same, edited = (digest(load(str(path))) for path in (RINGS, tmp_path / "same.py", tmp_path / "edited.py"))
    assert whole == same != edited
    shutil.copytree(folder / "first", tmp_path / "run")
    note = Store(tmp_path / "run").data_note
    before = key(tmp_path / "run")
    known = json.loads(note.read_text("utf-8"))
    note.write_text(json.dumps(known | {"sha256": dict.fromkeys(known["sha256"], "0" * 64)}), "utf-8")
    assert key(folder / "first") == before != key(tmp_path / "run")


@pytest.mark.slow
def test_baselines_serve_the_next_run_and_what_is_damaged_is_trained_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(confirm, "SAY_S", 0.0)
    results = tmp_path / "runs"
    shutil.copytree(folder, results)
    (broken,) = kept_folder(results / "first").glob("*/linear")
    (broken / "03.npz").unlink()
    assert main(command(results, "second", "--seed", "1")) == 0
    one, other = (read(Store(results / name)) for name in ("first", "second"))
    names = {e.candidate.id: e.candidate.operator for e in other.entries if e.candidate.arm == "baseline"}
    for candidate, name in names.items():
        mine, theirs = ([r for r in told.retrainings if r.candidate == candidate] for told in (other, one))
        assert [(r.seed, r.point, r.test) for r in mine] == [(r.seed, r.point, r.test) for r in theirs]
        assert all(bool(row.usage.get("cached")) == (name != "linear") for row in mine)
    assert (broken / "03.npz").exists()
    said = [int(share) for share in re.findall(r"confirmation: (\d+)% of the steps", capsys.readouterr().err)]
    assert len(said) >= 3 and said == sorted(said) and 30 < said[0] < said[-1] <= 100  # one was taken


def test_what_is_kept_for_other_runs_holds_no_training_at_another_size(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "first", tmp_path / "run")
    store = Store(tmp_path / "run", write=True)
    row = next(row for row in store.retrainings() if row.purpose == "seeds")
    store.retrain([dataclasses.replace(row, purpose="scale width=2", test=None)])
    place = Place(reference=RINGS, space=load(RINGS), store=store, examples=400)
    Confirmation(place, cast(Executor, None), 0, tmp_path, print)._keep(row.candidate, tmp_path / "kept")
    kept = json.loads((tmp_path / "kept" / "trainings.json").read_text("utf-8"))
    assert {one["purpose"] for one in kept} == {"numbers", "seeds"}
    store.close()


@pytest.mark.slow
def test_confirmation_that_was_killed_goes_on_and_ends_the_same(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "first"
    shutil.copytree(folder / "first", run)
    assert main(command(tmp_path, "killed", "--confirm", "0")) == 0
    start = [sys.executable, "-m", "nas.leaderboard", str(tmp_path / "killed"), "--confirm", "2"]
    for count in (3, 20):
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(Store(tmp_path / "killed").retrainings()) < count:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(start, check=False, capture_output=True).returncode == 0
    rows = [line for line in dump(Store(tmp_path / "killed")) if "nas_retraining" in line]
    assert rows == [line for line in dump(Store(run)) if "nas_retraining" in line]


def test_run_without_a_score_has_nothing_to_confirm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(command(tmp_path, "empty", "--max-hours", "1e-9"))
    capsys.readouterr()
    assert leaderboard([str(tmp_path / "empty"), "--confirm", "2"]) == 2
    assert "nothing to confirm" in capsys.readouterr().err
