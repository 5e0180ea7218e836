"""`python -m nas.store check RUN` has nothing to say of a run that is whole, and finds and names each damage."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from nas import search
from nas.llm import Reply, Request
from nas.llm.transcript import Transcript
from nas.store import Store, StoreError
from nas.store.__main__ import main
from nas.store.check import Finding, check

TOY = Path(__file__).with_name("spaces") / "toy_model.py"
SHIFTED = """

import dataclasses
from pathlib import Path


def shifted(name: str) -> Split:
    made = split(name)
    return Split(made.inputs + np.float32(Path(__file__).with_name("shift.txt").read_text()), made.targets)


SPACE = dataclasses.replace(SPACE, task=dataclasses.replace(SPACE.task, split=shifted))
"""
"""What makes the toy space one whose data are made of a file beside it."""


@pytest.fixture(scope="module")
def shift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the data are made of; the space is beside it."""
    folder = tmp_path_factory.mktemp("space")
    (folder / "space.py").write_text(TOY.read_text("utf-8") + SHIFTED, "utf-8")
    (folder / "shift.txt").write_text("0.0")
    return folder / "shift.txt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shift: Path) -> Path:
    """A run with a confirmation, as a search leaves it."""
    folder, space = tmp_path_factory.mktemp("runs"), str(shift.with_name("space.py"))
    arguments = ["--space", space, "--budget", "4", "--seed", "1", "--confirm", "1", "--results", str(folder)]
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


def flip(file: Callable[[Path], Path]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        content = bytearray(file(run).read_bytes())
        content[-5] ^= 64
        file(run).write_bytes(content)

    return damage


def remove(file: Callable[[Path], Path]) -> Callable[[Path], None]:
    return lambda run: file(run).unlink()


def empty(file: Callable[[Path], Path]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        file(run).write_bytes(b"")

    return damage


def doubt(run: Path) -> None:
    """Make believe that a score had to be repeated, as if the check after it had been forgotten."""
    doubted = '{"beyond": 0.0, "enough": 0.0, "maximize": true}'
    execute(f"UPDATE nas_task SET decision = json_set(decision, '$.doubt', json('{doubted}'))")(run)


def other_size(run: Path) -> None:
    shutil.copytree(run / "data", run / "data" / "width-2")
    flip(first("data/width-2/train.inputs.npy"))(run)


def call(*endings: str) -> Callable[[Path], None]:
    """A call to a model whose files with these endings are cut."""

    def damage(run: Path) -> None:
        transcript = Transcript(run / "transcript")
        question = Request(id="a", role="propose", model="m", system=(), messages=(("user", "?"),), max_tokens=9)
        transcript.begin(question, Decimal("0.5"))
        transcript.record(question, Reply(outcome="ok", text="An answer."), Decimal("0.1"))
        for path in (run / "transcript").iterdir():
            if path.suffix in endings:
                path.write_bytes(path.read_bytes()[:-7])

    return damage


def reconfigure(run: Path) -> None:
    config = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(config | {"seed": 99}))


def forget(run: Path) -> None:
    config = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({key: config[key] for key in ("name", "created", "machine")}))


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
    "a byte of the data": (flip(first("data/train.inputs.npy")), "not what it was made as", False),
    "data gone": (remove(first("data/validation.targets.npy")), "is gone", False),
    "a checkpoint cut": (cut(first("checkpoints/0*")), "checkpoint", False),
    "weights cut": (cut(first("checkpoints/seed-*")), "weights", True),
    "test scores gone": (remove(first("test/*.npz")), "not what was scored", True),
    "another test score": (edit("nas_retraining", "test", '"score": 0.', '"score": 1.'), "not what was scored", True),
    "run.json cut": (cut(first("run.json")), "run.json' cannot be read", True),
    "run.json without its keys": (forget, "run.json' cannot be read (it lacks baseline_seeds, batch, budget)", True),
    "parents that are no JSON": (edit("nas_candidate", "parents", "]", ""), "row 1 of nas_candidate", True),
    "parents that are no list": (execute("UPDATE nas_candidate SET parents = '{}' WHERE id = 2"), "no list", True),
    "a point that is no JSON": (execute("UPDATE nas_score SET point = '{\"st' WHERE trial = 1"), "row 1 0 of", True),
    "an empty point": (execute("UPDATE nas_score SET point = '{}' WHERE trial = 1"), "row 1 0 of nas_score", True),
    "a point of words": (edit("nas_score", "point", '"step": 10', '"step": "x"'), "step of its point", True),
    "a decision that is no object": (execute("UPDATE nas_task SET decision = '[]' WHERE slot = 0"), "no object", True),
    "the note of the data empty": (empty(first("data/sizes.json")), "data/sizes.json is gone", False),
    "the note of the data cut": (cut(first("data/sizes.json")), "data/sizes.json is gone", False),
    "data of another size": (other_size, "data/width-2/train.inputs.npy is gone", False),
    "a trial of no task": (execute("UPDATE nas_trial SET slot = 99 WHERE id = 1"), "trials 1: their task", True),
    "scores before the end": (execute("UPDATE nas_task SET outcome = NULL"), "have scores and no outcome", True),
    "another score": (edit("nas_score", "point", '"score": 0.', '"score": 0.0'), "is not what was written", True),
    "another outcome": (execute("UPDATE nas_task SET outcome = '{}' WHERE slot = 0"), "stored of task 0 is not", True),
    "another fresh score": (
        execute("UPDATE nas_retraining SET point = json_set(point, '$.loss', 9.5) WHERE purpose = 'seeds'"),
        "is not what was written", True,
    ),
    "a doubtful score": (doubt, "was to be repeated with other data, and was not", True),
    "a reply cut": (call(".json"), "transcript", False),
    "a call that nothing tells the price of": (call(".json", ".begun"), "transcript", True),
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


@pytest.mark.parametrize(
    "name",
    [
        "run.json cut",
        "run.json without its keys",
        "parents that are no JSON",
        "an empty point",
        "a point that is no JSON",
    ],
)
def test_damage_ends_what_reads_it_with_one_line(run: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGES[name][0](run)
    assert search.main(["--resume", str(run)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("nas.search: ") and "cannot be read (" in line and "); " in line
    store = Store(run)
    with pytest.raises(StoreError, match="cannot be read"):
        _ = store.config, store.entries(), store.scores()
    store.close()


def test_dump_of_what_is_no_json_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGES["a point that is no JSON"][0](run)
    assert main(["dump", str(run)]) == 2
    assert "row 1 0 of nas_score" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a byte of the data", "the note of the data cut"])
def test_damaged_data_is_made_again_when_a_run_goes_on(run: Path, whole: Path, name: str) -> None:
    DAMAGES[name][0](run)
    assert search.main(["--resume", str(run), "--confirm", "1"]) == 0
    assert found(run) == [] and files(run / "data") == files(whole / "data")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["data gone", "the note of the data cut"])
def test_data_that_cannot_be_made_again_as_it_was_is_one_line(
    run: Path, shift: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What they are made of has changed, and no byte that is there does."""
    DAMAGES[name][0](run)
    before = files(run / "data")
    shift.write_text("1.0")
    try:
        assert search.main(["--resume", str(run), "--confirm", "1"]) == 2
    finally:
        shift.write_text("0.0")
    assert "is not what this run was begun with" in capsys.readouterr().err
    assert files(run / "data") == before
    assert search.main(["--resume", str(run), "--confirm", "1"]) == 0
    assert found(run) == []


def test_run_of_an_earlier_version_has_no_checksums_and_gets_them_when_it_goes_on(run: Path) -> None:
    with sqlite3.connect(run / "run.db") as database:
        database.execute("DROP TABLE nas_checksum")
    database.close()
    assert found(run) == []
    before = len(Store(run).retrainings())
    assert search.main(["--resume", str(run), "--confirm", "2"]) == 0
    assert len(Store(run).retrainings()) > before and found(run) == []
    edit("nas_retraining", "curve", "[", "[ ")(run)
    assert found(run) == []  # other text, the same content
    execute("UPDATE nas_retraining SET point = json_set(point, '$.loss', 9.5) WHERE purpose = 'seeds'")(run)
    (finding,) = found(run)
    assert "is not what was written" in finding.what


def test_database_whose_pages_are_overwritten_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((run / "run.db").read_bytes())
    content[8192:12288] = bytes(4096)
    (run / "run.db").write_bytes(content)
    assert main(["check", str(run)]) in (1, 2)
    told = capsys.readouterr()
    assert "damaged" in told.out or "cannot be" in told.err
