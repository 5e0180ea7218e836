"""The ablation receipt where training takes a blink: resumable, read again byte for byte, without the test split."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nas.ablate import Ablation, choose, main
from nas.ablated import worth
from nas.propose.resize import MATCHED
from nas.search import main as search
from nas.space import load
from nas.standings import rank, read
from nas.store import Store, dump
from nas.workplace import open_workplace
from tests.report_runs import UNPRINTABLE, assert_harmless_markdown, with_hostile_names

RINGS = str(Path(__file__).parent / "spaces" / "rings.py")
SEEDS = 2


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is not confirmed."""
    results = tmp_path_factory.mktemp("ablated")
    chosen = ["--space", RINGS, "--budget", "3", "--proposer", "evolution", "--lookahead", "6", "--confirm", "0"]
    assert search([*chosen, "--results", str(results), "--name", "first"]) == 0
    return results / "first"


@pytest.fixture(scope="module")
def winner(run: Path) -> int:
    return next(row.candidate for row in rank(read(Store(run))) if row.arm != "baseline")


@pytest.fixture(scope="module")
def done(run: Path, winner: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with its receipt made."""
    copied = tmp_path_factory.mktemp("done") / "first"
    shutil.copytree(run, copied)
    assert main(command(copied, winner)) == 0
    return copied


def command(run: Path, winner: int, *more: str) -> list[str]:
    return [str(run), str(winner), "--seeds", str(SEEDS), *more]


def trained(run: Path) -> list[str]:
    return [line for line in dump(Store(run)) if "nas_retraining" in line]


def test_every_piece_and_the_winner_are_trained_at_the_top_on_validation_alone(done: Path, winner: int) -> None:
    records = read(Store(done))
    rows = records.retrainings
    top = load(RINGS).ladder.top
    purposes = {row.purpose.removesuffix(" tune") for row in rows}
    assert len(purposes) > 1
    for purpose in purposes:
        tuned = [row for row in rows if row.purpose == f"{purpose} tune"]
        fresh = [row for row in rows if row.purpose == purpose]
        assert len(fresh) == SEEDS and 1 <= len(tuned) <= 3 and len({row.seed for row in tuned}) == 1
        best = max(tuned, key=lambda row: row.point.score if row.point else -1.0)
        assert all(row.recipe == best.recipe for row in fresh)
    assert len({row.seed for row in rows}) == (SEEDS + 1) * len(purposes)
    assert all(row.candidate == winner and row.rung == top and row.test is None for row in rows)
    assert all(row.cost["params"] > 0 and row.cost["flops"] > 0 for row in rows)
    assert records.accesses["test"] == 0
    used = {trial.seed for trial in records.trials}
    assert not used & {row.seed for row in rows}


def test_receipt_is_read_again_byte_for_byte_and_trains_nothing(
    done: Path, winner: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before, told = trained(done), []
    for _ in range(2):
        assert main(command(done, winner)) == 0
        captured = capsys.readouterr()
        told.append(captured.out)
        assert captured.err == ""
    assert told[0] == told[1] and trained(done) == before
    assert all(len(line.rstrip()) <= 80 for line in told[0].splitlines())
    assert "not confirmed" in told[0] and "test split is for confirmation alone" in " ".join(told[0].split())


def test_hostile_names_do_nothing(done: Path, winner: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = with_hostile_names(done, tmp_path / "run")
    assert main(command(run, winner)) == 0
    assert not UNPRINTABLE.search(text := capsys.readouterr().out) and "onerror=alert(1)" in " ".join(text.split())
    assert main(command(run, winner, "--format", "markdown")) == 0
    assert_harmless_markdown(capsys.readouterr().out)


def test_formats_agree(done: Path, winner: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(done, winner, "--format", "json")) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main(command(done, winner, "--format", "markdown")) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    control, *lines = plain["lines"]
    assert len(table) == 3 + len(lines) and control["number"] == 0 and plain["candidate"] == winner
    rows = [row for row in Store(done).retrainings() if not row.purpose.endswith("tune")]
    scores = {
        row.purpose: [one.point.score for one in rows if one.purpose == row.purpose and one.point] for row in rows
    }
    assert len(scores) == 1 + len(lines)
    for one in lines:
        assert any(one["scores"] == pytest.approx(mine, abs=1e-5) for mine in scores.values())
        value = worth(control["scores"], one["scores"], 1)
        assert value is not None and one["worth"]["value"] == pytest.approx(value.value, abs=1e-5)
        assert one["matched"] == (abs(one["params"] / control["params"] - 1) <= MATCHED)
        assert one["source"] and one["params"] <= 400


@pytest.mark.slow
def test_receipt_that_was_stopped_goes_on_and_ends_the_same(run: Path, done: Path, winner: int, tmp_path: Path) -> None:
    copied = tmp_path / "first"
    shutil.copytree(run, copied)
    space, store = load(RINGS), Store(copied, write=True)
    try:
        subject = choose(read(store), space, winner)
        work = Ablation(store, space, subject, SEEDS, lambda text: work.stop() if "seeds trained" in text else None)
        with open_workplace(store, space, 1) as (executor, place, _):
            assert not work.run(executor, place)
        assert 0 < len(store.retrainings()) < len(trained(done))
        assert not work.lines()[1]
    finally:
        store.close()
    assert main(command(copied, winner)) == 0
    assert trained(copied) == trained(done)


def test_more_seeds_and_damaged_traces_are_added_to_what_is_there(done: Path, winner: int, tmp_path: Path) -> None:
    copied = tmp_path / "first"
    shutil.copytree(done, copied)
    files = sorted((copied / "ablate").glob("*.json"))
    before = [file.read_text("utf-8") for file in files]
    files[0].write_text("{", "utf-8")
    assert main([str(copied), str(winner), "--seeds", str(SEEDS + 1)]) == 0
    assert [file.read_text("utf-8") for file in files] == before
    assert set(trained(done)) < set(trained(copied))
    assert {row.place for row in Store(copied).retrainings()} == set(range(SEEDS + 1))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "nothing is confirmed in this run"),
        (["1"], "is a baseline itself"),
        (["999"], "candidate 999 has no score"),
        (["x"], "invalid int value"),
        (["3", "--seeds", "1"], "give 2 seeds or more"),
    ],
)
def test_bad_argument_gives_one_line(run: Path, more: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([str(run), *more])
    except SystemExit as stop:  # the parser's own way out
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and told in error and error.count("\n") == 1


def test_worth_is_welchs_interval() -> None:
    rng = np.random.default_rng(0)
    winner, other = rng.normal(0.9, 0.01, 5).tolist(), rng.normal(0.85, 0.03, 4).tolist()
    for sign in (1, -1):
        found = worth(winner, other, sign)
        assert found is not None and found.low is not None and found.high is not None
        expected = stats.ttest_ind(winner, other, equal_var=False).confidence_interval(0.95)
        ends = sorted(sign * end for end in expected)
        assert [found.low, found.high] == pytest.approx(ends, abs=1e-9)
        assert found.value == pytest.approx(sign * (np.mean(winner) - np.mean(other)))
    assert worth([0.9], other, 1) is None
    same = worth([0.5, 0.5], [0.5, 0.5], 1)
    assert same is not None and same.low is None and same.value == 0.0


def test_stopped_before_and_between_trainings_ends_as_interrupted(
    done: Path, run: Path, winner: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, folder in (("nothing", run), ("some", done)):
        shutil.copytree(folder, tmp_path / name)
    monkeypatch.setattr(Ablation, "run", lambda *_: False)
    assert main(command(tmp_path / "nothing", winner)) == 130
    assert main(command(tmp_path / "some", winner, "--seeds", str(SEEDS + 1))) == 130
    assert main(command(tmp_path / "some", winner)) == 0  # of which nothing is missing


def test_output_without_unicode_has_the_receipt(done: Path, winner: int) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    whole = [sys.executable, "-m", "nas.ablate", *command(done, winner)]
    ended = subprocess.run(whole, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0 and "not confirmed" in ended.stdout, ended.stderr
