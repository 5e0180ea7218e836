"""The whole loop on a space that trains in a blink: equal, killed, resumed, stopped, and fed nonsense."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from nas.asking import settings_of
from nas.history import History
from nas.search import main, parser
from nas.space import load
from nas.standings import board, read
from nas.store import Store, dump
from tests.messages_server import MessagesServer
from tests.scripted import Scripted

RINGS = str(Path(__file__).parent / "spaces" / "rings.py")


def search(folder: Path, name: str, *more: str, budget: int = 14) -> list[str]:
    command = [
        "--space",
        RINGS,
        "--budget",
        str(budget),
        "--results",
        str(folder),
        "--name",
        name,
        "--lookahead",
        "6",
        "--confirm",
        "0",
    ]
    return [sys.executable, "-m", "nas.search", *command, *more]


def lines(run: Path) -> list[str]:
    store = Store(run)
    try:
        return list(dump(store))
    finally:
        store.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that ran undisturbed."""
    folder = tmp_path_factory.mktemp("runs")
    done = subprocess.run(search(folder, "whole"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "baseline" in done.stdout
    return folder / "whole"


def test_budget_is_spent_on_admitted_candidates_and_rungs_fill_by_quota(finished: Path) -> None:
    store = Store(finished)
    entries, scores = store.entries(), store.scores()
    ours = {e.candidate.id for e in entries if e.candidate.arm != "baseline"}
    admitted = {e.candidate.id for e in entries if e.program is not None} & ours
    assert len(admitted) == 14
    owner = {trial.id: trial.candidate for trial in store.trials()}
    counts = [sum(s.rung == rung and owner[s.trial] in ours for s in scores) for rung in range(3)]
    assert counts[0] >= 28 and counts[1] == counts[0] // 3 and counts[2] == counts[1] // 3


def test_a_candidate_is_rejected_with_a_reason_or_has_a_program(finished: Path) -> None:
    for entry in Store(finished).entries():
        assert (entry.failure is None) != (entry.program is None)
        assert (finished / "candidates" / f"{entry.candidate.id:04d}.py").read_text() == entry.candidate.source


def test_fingerprints_of_admitted_candidates_are_all_different(finished: Path) -> None:
    prints = [e.program["fingerprint"] for e in Store(finished).entries() if e.program is not None]
    assert len(set(prints)) == len(prints)


def test_only_checkpoints_that_can_be_needed_stay(finished: Path) -> None:
    kept = {path.name for path in (finished / "checkpoints").iterdir()}
    scores = Store(finished).scores()
    top = [score for score in scores if score.rung == 2]
    assert kept, "the finalists' weights stay"
    assert len(kept) <= len(top) + len(scores) // 3


@pytest.mark.slow
def test_another_number_of_workers_gives_the_same_store(finished: Path, tmp_path: Path) -> None:
    subprocess.run(search(tmp_path, "one", "--workers", "1"), capture_output=True, check=True)
    assert lines(tmp_path / "one") == lines(finished)


@pytest.mark.slow
def test_another_seed_gives_another_store(finished: Path, tmp_path: Path) -> None:
    subprocess.run(search(tmp_path, "other", "--seed", "1", budget=4), capture_output=True, check=True)
    theirs, ours = ({e.candidate.source for e in Store(run).entries()} for run in (tmp_path / "other", finished))
    assert theirs - ours


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_search_cut_off_three_times_and_resumed_gives_the_same_store(
    finished: Path, tmp_path: Path, number: signal.Signals
) -> None:
    rng, run = random.Random(int(number)), tmp_path / "cut"
    command = search(tmp_path, "cut")
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        deadline = time.monotonic() + 30
        while not (run / "run.db").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(rng.uniform(1.0, 5.0))
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
        if number == signal.SIGINT and process.returncode == 130:
            assert f"continue: python -m nas.search --resume {run}" in out
        command = [sys.executable, "-m", "nas.search", "--resume", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert lines(run) == lines(finished)


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before = lines(finished)
    done = subprocess.run(
        [sys.executable, "-m", "nas.search", "--resume", str(finished)], capture_output=True, check=True
    )
    assert done.stdout and lines(finished) == before


def test_two_processes_on_one_run_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(finished, write=True)
    try:
        assert main(["--resume", str(finished)]) == 2
        assert "in use by another search" in capsys.readouterr().err
    finally:
        store.close()


@pytest.mark.slow
def test_max_hours_ends_a_search_as_cleanly_as_the_budget(tmp_path: Path) -> None:
    done = subprocess.run(
        search(tmp_path, "short", "--max-hours", "0.0022", budget=500), capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1) and "--resume" in done.stdout
    assert all(task.outcome is not None for task in Store(tmp_path / "short").tasks())


def test_study_stands_in_the_same_file_and_optuna_reads_it(finished: Path) -> None:
    import optuna

    study = optuna.load_study(study_name="nas", storage=f"sqlite:///{finished / 'run.db'}")
    told = [trial for trial in study.trials if trial.intermediate_values]
    assert len(told) >= 28
    assert {"train/lr", "train/wd"} <= set(told[0].params)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "-3"], ["-3", "1 or more"]),
        (["--space", "nowhere"], ["nowhere", "mnist1d"]),
        (["--space", "missing.py"], ["missing.py", "no file"]),
        (["--workers", "0"], ["workers", "1 or more"]),
        (["--max-hours", "0"], ["max-hours", "above 0"]),
        (["--seed", "-1"], ["seed", "0 or more"]),
        (["--name", "../x"], ["../x", "plain folder name"]),
        (["--resume", "nothing-here"], ["nothing-here", "no run"]),
        (["--resume", "any", "--dry-run"], ["--dry-run", "leave out --resume"]),
        (["--data", ""], ["--data ''", "a file or a folder"]),
        (["--dry-run", "--max-usd", "-3"], ["--max-usd -3", "above 0"]),
        (["--dry-run", "--max-usd", "nan"], ["--max-usd nan", "above 0"]),
        (["--dry-run", "--max-calls", "-2"], ["--max-calls -2", "1 or more"]),
        (["--dry-run", "--price", "cheap"], ["'cheap'", "no price"]),
        (["--dry-run", "--base-url", "nowhere"], ["'nowhere'", "no address"]),
        (["--dry-run", "--base-url", ""], ["--base-url ''", "no address"]),
        (["--dry-run", "--proposer", "oracle"], ["'oracle'", "not known"]),
        (["--dry-run", "--model", "judge=x"], ["'judge'", "no role"]),
        (["--dry-run", "--model", "x", "--model", "y"], ["--model", "twice for all roles"]),
        (["--model", "x", "--model", "forecast=y", "--model", "forecast=z"], ["twice for forecast"]),
        (["--model", "x"], ["--model x needs a key", "ANTHROPIC_API_KEY"]),
    ],
)
def test_bad_arguments_are_one_line_and_status_two(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(word in error for word in words)


@pytest.mark.parametrize(
    "old, new, said", [("eval_batch=200", "eval_batch=300", "divisor"), ("batch=20,", "batch=5000,", "do not fill")]
)
def test_examples_that_do_not_fit_the_batches_end_a_search_before_it_begins(
    tmp_path: Path, old: str, new: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise some of them would be left out in silence."""
    text = Path(RINGS).read_text("utf-8")
    assert old in text
    (tmp_path / "own.py").write_text(text.replace(old, new, 1))
    assert (
        main(["--space", str(tmp_path / "own.py"), "--budget", "1", "--confirm", "0", "--results", str(tmp_path)]) == 2
    )
    told = capsys.readouterr().err
    assert said in told.splitlines()[-1] and "Traceback" not in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SPACE = 3\n", ["binds no SearchSpace"]),
        ("x = 1\nraise OSError('boom')\n", ["line 2", "boom"]),
        ("def f(:\n", ["line 1"]),
    ],
)
def test_a_space_file_with_an_error_names_the_line(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text(text)
    assert main(["--space", str(tmp_path / "broken.py"), "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(word in error for word in words)


def test_a_corrupted_database_is_one_line(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "torn"
    run.mkdir()
    (run / "run.json").write_text((finished / "run.json").read_text())
    (run / "run.db").write_bytes(b"this is no database" * 100)
    assert main(["--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "run.db" in error


@pytest.mark.parametrize("text", ["{}", "[]", "null"])
def test_a_folder_whose_configuration_is_none_is_one_line(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.json").write_text(text)
    assert main(["--resume", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "run.json' cannot be read" in error


def test_a_model_that_only_the_environment_names_needs_no_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_MODEL", "x")
    assert settings_of(parser().parse_args([])) is None


def test_output_without_unicode_has_the_table(finished: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "nas.search", "--resume", str(finished)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 and f"run: {finished}" in done.stdout, done.stderr


def test_a_run_of_another_schema_is_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sqlite3

    run = tmp_path / "newer"
    run.mkdir()
    (run / "run.json").write_text((finished / "run.json").read_text())
    with sqlite3.connect(run / "run.db") as db:
        db.execute("CREATE TABLE nas_run (id INTEGER PRIMARY KEY, schema INTEGER, config JSON)")
        db.execute("INSERT INTO nas_run VALUES (1, 99, '{}')")
    db.close()
    assert main(["--resume", str(run)]) == 2
    assert "schema 99" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["--space", RINGS, "--results", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_a_disk_that_fills_is_one_line_and_the_run_goes_on_later(finished: Path, tmp_path: Path) -> None:
    """A limit on the size of a file stands for a full disk: the database cannot grow past it."""
    command = search(tmp_path, "full")
    limit = "import resource, sys, nas.search; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1)); " + (
        "sys.exit(nas.search.main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", limit, *command[3:]], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "--resume" in done.stderr.splitlines()[-1]
    again = [sys.executable, "-m", "nas.search", "--resume", str(tmp_path / "full")]
    subprocess.run(again, capture_output=True, check=True)
    assert lines(tmp_path / "full") == lines(finished)


@pytest.mark.slow
def test_order_of_arrival_goes_on_after_a_kill(tmp_path: Path) -> None:
    command = search(tmp_path, "arrival", "--order", "arrival")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not list((tmp_path / "arrival" / "checkpoints").glob("*-1*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    again = [sys.executable, "-m", "nas.search", "--resume", str(tmp_path / "arrival")]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    entries = Store(tmp_path / "arrival").entries()
    assert sum(e.program is not None and e.candidate.arm != "baseline" for e in entries) == 14


@pytest.mark.slow
def test_a_proposer_that_fails_25_times_in_a_row_is_told_and_costs_nothing(tmp_path: Path) -> None:
    command = search(tmp_path, "hopeless", budget=4)
    command[command.index(RINGS)] = f"{RINGS}:hopeless"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    store = Store(tmp_path / "hopeless")
    ours = [entry for entry in store.entries() if entry.candidate.arm == "random"]
    assert len(ours) >= 25 and {entry.failure.rule for entry in ours if entry.failure} == {"flops"}
    assert sum(entry.failure is None and entry.candidate.arm == "evolution" for entry in store.entries()) <= 4
    assert any("25 proposals of the arm random" in note for note in store.notes())
    assert "25 proposals of the arm random" in done.stderr and "rejected" in done.stdout


def test_ladder_that_promotes_all_says_what_its_first_rung_is_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "all.py"
    file.write_text(
        "import dataclasses\nfrom nas.space import Ladder, load\n"
        f"SPACE = dataclasses.replace(load({RINGS!r}), name='all', ladder=Ladder(steps=(10, 20), eta=1))\n"
    )
    search = ["--space", str(file), "--budget", "6", "--confirm", "0", "--name", "run", "--results", str(tmp_path)]
    assert main(search) == 0
    store = Store(tmp_path / "run")
    kept = Counter(score.trial for score in store.scores() if score.failure is None)
    assert len(kept) >= 6 and set(kept.values()) == {2}
    assert "10 → 20 steps: τ" in capsys.readouterr().out


def test_dry_run_prints_ladder_trainings_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--space", RINGS, "--budget", "30", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "rung   steps  trials" in out and "minutes" in out
    assert "measuring a step of each of the" in err and "measuring" not in out


def test_decisions_use_only_outcomes_as_old_as_the_lookahead(finished: Path) -> None:
    """Replaying with outcomes withheld beyond the lookahead meets no decision that needed them."""
    store = Store(finished)
    tasks, lookahead = store.tasks(), json.loads((finished / "run.json").read_text())["lookahead"]
    scored_at = {(score.trial, score.rung): score.slot for score in store.scores()}
    for task in tasks:
        if task.kind == "promote":
            below = scored_at[(task.decision["trial"], task.decision["rung"] - 1)]
            assert below < task.slot - lookahead
    slots = {task.candidate: task.slot for task in tasks if task.kind == "admit"}
    for task in tasks:
        if task.kind == "first":
            assert slots[task.candidate] < task.slot - lookahead


def test_history_and_leaderboard_agree_on_the_noise_of_a_seed(finished: Path) -> None:
    store, space = Store(finished), load(RINGS)
    history = History(space)
    scores = store.scores()
    for task in store.tasks():
        made = [e.candidate for e in store.entries() if e.slot == task.slot]
        asked = [t for t in store.trials() if t.id in task.decision.get("trials", [])]
        extra = [t for t in store.trials() if t.id in task.decision.get("reserved", [])]
        history.decided(task, made, asked)
        assert task.outcome is not None
        history.revealed(task, task.outcome, [s for s in scores if s.slot == task.slot], extra)
    references = board(read(store)).references
    for rung in range(3):
        assert history.sigma(rung) == pytest.approx(references[rung].noise.sigma)


def test_environment_secrets_reach_no_candidate(tmp_path: Path) -> None:
    """The search runs with a key in its environment; no process that it starts may have it."""
    server = MessagesServer(Scripted(load(RINGS)))
    keys = {"ANTHROPIC_API_KEY": "sk-secret-canary", "NAS_API_KEY": "canary", "NAS_BASE_URL": server.url}
    command = search(tmp_path, "keyed", "--price", "0/0", budget=60)
    server.__enter__()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **keys}
    )
    seen = set()
    try:
        deadline = time.monotonic() + 12
        while time.monotonic() < deadline and process.poll() is None:
            for child in descendants(process.pid):
                try:
                    text = Path(f"/proc/{child}/environ").read_bytes()
                except OSError:
                    continue
                seen.add(child)
                if b"canary" in text:  # until it has become its own program, a new process shows what its parent has
                    time.sleep(0.5)
                    with contextlib.suppress(OSError):
                        assert b"canary" not in Path(f"/proc/{child}/environ").read_bytes()
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        server.__exit__(None, None, None)
    assert len(seen) > 3
    assert server.requests, "the key was used, and yet no child saw it"


def descendants(pid: int) -> list[int]:
    found, todo = [], [pid]
    while todo:
        try:
            children = [int(c) for c in Path(f"/proc/{todo[0]}/task/{todo.pop(0)}/children").read_text().split()]
        except OSError:
            continue
        found += children
        todo += children
    return found
