"""`python -m nas.store check RUN` has nothing to say of a run that is whole, and finds and names each damage."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from nas import search
from nas.store import Store
from nas.store.__main__ import main
from nas.store.check import Finding, check

TOY = str(Path(__file__).with_name("spaces") / "toy_model.py")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a confirmation, as a search leaves it."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = ["--space", TOY, "--budget", "4", "--seed", "1", "--confirm", "1", "--results", str(folder)]
    assert search.main([*arguments, "--name", "run"]) == 0
    return folder / "run"


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def found(run: Path) -> list[Finding]:
    store = Store(run)
    try:
        return check(store)[1]
    finally:
        store.close()


def test_run_that_is_whole_has_nothing_to_say(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert found(run) == []
    assert main(["check", str(run)]) == 0
    assert "all is whole" in capsys.readouterr().out


def execute(statement: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        with sqlite3.connect(run / "run.db") as database:
            changed = database.execute(statement).rowcount
        database.close()
        assert changed > 0

    return damage


def edit(table: str, column: str, before: str, after: str) -> Callable[[Path], None]:
    return execute(f"UPDATE {table} SET {column} = replace({column}, '{before}', '{after}') WHERE {column} IS NOT NULL")


def first(pattern: str) -> Callable[[Path], Path]:
    return lambda run: next(path for path in sorted(run.glob(pattern)) if path.stat().st_size)


def cut(file: Callable[[Path], Path]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        path = file(run)
        path.write_bytes(path.read_bytes()[:-7])

    return damage


def remove(file: Callable[[Path], Path]) -> Callable[[Path], None]:
    return lambda run: file(run).unlink()


def reconfigure(run: Path) -> None:
    config = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(config | {"seed": 99}))


DAMAGES: dict[str, tuple[Callable[[Path], None], str, bool]] = {
    "a candidate gone": (execute("DELETE FROM nas_candidate WHERE id = 2"), "candidates 2 are missing", True),
    "a trial gone": (execute("DELETE FROM nas_trial WHERE id = 1"), "trials 1 are missing", True),
    "a task gone": (execute("DELETE FROM nas_task WHERE slot = 0"), "their task is missing", True),
    "a parent from the future": (execute("UPDATE nas_candidate SET parents = '[99]' WHERE id = 5"), "a parent", True),
    "a rung gone": (execute("DELETE FROM nas_score WHERE rung = 0"), "and none between", True),
    "neither score nor failure": (execute("UPDATE nas_score SET point = NULL WHERE rung = 0"), "neither", True),
    "a score at another step": (edit("nas_score", "point", '"step": 10', '"step": 11'), "which is not rung", True),
    "another seed in run.json": (reconfigure, "run.json is not what the run was begun with", False),
    "a source edited": (cut(first("candidates/*.py")), "is not what was stored", False),
    "a source gone": (remove(first("candidates/*.py")), "is missing", False),
    "a program cut": (cut(first("programs/*")), "missing or damaged", True),
    "a checkpoint cut": (cut(first("checkpoints/0*")), "checkpoint", False),
    "weights cut": (cut(first("checkpoints/seed-*")), "weights", True),
    "test scores gone": (remove(first("test/*.npz")), "not what was scored", True),
    "another test score": (edit("nas_retraining", "test", '"score": 0.', '"score": 1.'), "not what was scored", True),
    "a file half written": (lambda run: (run / "programs" / ".abc.123").touch(), "being written", False),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_says_what_to_do(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    damage, said, lost = DAMAGES[name]
    damage(run)
    findings = found(run)
    assert any(said in finding.what and finding.lost is lost and finding.remedy for finding in findings), findings
    assert main(["check", str(run)]) == 1
    assert said in capsys.readouterr().out


def test_database_whose_pages_are_overwritten_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((run / "run.db").read_bytes())
    content[8192:12288] = bytes(4096)
    (run / "run.db").write_bytes(content)
    assert main(["check", str(run)]) in (1, 2)
    told = capsys.readouterr()
    assert "damaged" in told.out or "cannot be" in told.err
