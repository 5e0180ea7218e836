"""The control of a search: a whole budget on the numbers of the best baseline."""

from pathlib import Path

import pytest

from nas.control import find, sentence
from nas.search import main
from nas.standings import Records, rank, read
from nas.store import Store

RINGS = str(Path(__file__).parent / "spaces" / "rings.py")
BUDGET = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search and a control beside it, both confirmed."""
    made = tmp_path_factory.mktemp("control")
    chosen = ["--space", RINGS, "--results", str(made), "--lookahead", "6", "--confirm", "1", "--proposer", "evolution"]
    assert main([*chosen, "--budget", "4", "--name", "search"]) == 0
    assert sentence(made / "search", read(Store(made / "search"))).startswith("control: none yet")
    more = ["--control", "tune-best-baseline", "--budget", str(BUDGET)]
    assert main([*chosen, *more, "--name", "control"]) == 0
    return made


@pytest.fixture(scope="module")
def control(folder: Path) -> Records:
    return read(Store(folder / "control"))


def test_control_spends_its_budget_on_the_best_baseline_alone(control: Records) -> None:
    (entry,) = [entry for entry in control.entries if entry.candidate.arm != "baseline"]
    rows = [row for row in rank(control) if row.arm == "baseline"]
    best = next(e for e in control.entries if e.candidate.id == rows[0].candidate)
    assert entry.candidate.source == best.candidate.source and entry.candidate.arm == "control"
    trials = [trial for trial in control.trials if trial.candidate == entry.candidate.id]
    assert len(trials) == BUDGET * control.config["ladder"]["draws"]
    assert len({trial.recipe["lr"] for trial in trials}) == len(trials)
    assert len({str(trial.values) for trial in trials}) > 1


def test_control_is_promoted_and_confirmed_like_any_other(control: Records) -> None:
    assert any(task.kind == "promote" for task in control.tasks)
    (finalist,) = {r.candidate for r in control.retrainings} - {e.candidate.id for e in control.entries
                                                              if e.candidate.arm == "baseline"}  # fmt: skip
    assert finalist == next(e.candidate.id for e in control.entries if e.candidate.arm == "control")


def test_search_says_what_the_control_found_and_whether_searching_paid(folder: Path) -> None:
    records = read(Store(folder / "search"))
    assert find(folder / "search", dict(records.config)) == folder / "control"
    text = sentence(folder / "search", records)
    assert f"control control, {BUDGET} groups of draws of mlp" in text
    assert "on the test split" in text and "better than that" in text and "shown" in text


def test_baseline_that_is_named_is_tuned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--space", RINGS, "--results", str(tmp_path), "--budget", "2", "--confirm", "0", "--name", "run"]
    assert main([*chosen, "--control", "tune-linear"]) == 0
    assert "baseline linear are tuned" in capsys.readouterr().err
    (entry,) = [e for e in read(Store(tmp_path / "run")).entries if e.candidate.arm != "baseline"]
    assert (entry.candidate.operator, entry.candidate.arm) == ("linear", "control")
    assert main([*chosen, "--control", "tune-nobody"]) == 2
    assert "give tune-best-baseline, tune-linear, tune-mlp" in capsys.readouterr().err


def test_control_of_another_state_of_the_space_is_no_control(folder: Path) -> None:
    config = dict(read(Store(folder / "search")).config)
    assert find(folder / "search", config | {"space_digest": "another"}) is None
    assert find(folder / "search", config | {"space_version": 2}) is None


def test_control_says_nothing_of_controls(folder: Path, control: Records) -> None:
    assert sentence(folder / "control", control) == ""


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"control": "tune-mlp", "budget": "many"}'])
def test_folder_beside_the_runs_that_is_damaged_is_passed_over(folder: Path, tmp_path: Path, text: str) -> None:
    config = dict(read(Store(folder / "search")).config)
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "run.json").write_text(text)
    assert find(tmp_path / "search", config) is None
    assert find(tmp_path / "search", {}) is None  # by which everything is of the same space
