"""What a machine may do to a search, with the real fault: it survives, or stops with one line and goes on later.

Whatever happens, the run ends with the store of one that was left alone. Most tests begin with a copy of a run that was
killed when its first rung was trained and its promotions were not, so that little is left to do.
"""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.kill import KINDS, Process, processes
from nas.execute import Event, Job
from nas.execute.local import LocalExecutor
from nas.flows import without_answer
from nas.judge.tuner import Tuner
from nas.propose import mixture
from nas.search import main
from nas.space import load
from nas.store import Store, StoreError, dump
from nas.store.check import check
from nas.train import checkpoint
from tests.messages_server import MessagesServer
from tests.scripted import Scripted
from tests.test_claude import Interrupting, reach
from tests.test_claude import lines as lines_with_model

TOY = str(Path(__file__).parent / "spaces" / "toy_model.py")
RINGS = str(Path(__file__).parent / "spaces" / "rings.py")
BUDGET = "4"
GONE_S = 2.0
"""What must go with a process that was killed is gone by then [s]."""
HANGS_S = 120.0


# ---- searches


def begin(folder: Path, name: str, *more: str) -> list[str]:
    chosen = ["--space", TOY, "--budget", BUDGET, "--lookahead", "4", "--proposer", "evolution", "--confirm", "0"]
    return [*chosen, "--results", str(folder), "--name", name, *more]


def command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "nas.search", *arguments]


def start(arguments: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    before = options.pop("before", [])
    return subprocess.Popen([*before, *command(arguments)], **pipes, text=True, **options)


def resume(run: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    process = start(["--resume", str(run)], **options)
    out, errors = process.communicate(timeout=HANGS_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)


def lines(run: Path) -> list[str]:
    store = Store(run)
    try:
        return list(dump(store))
    finally:
        store.close()


def ended(run: Path) -> int:
    """Tasks that have an outcome."""
    if not (run / "run.db").exists():
        return 0
    try:
        with contextlib.closing(Store(run)) as store:
            return sum(task.outcome is not None for task in store.tasks())
    except StoreError:  # its tables are not made yet
        return 0


def wait_for(condition: Callable[[], Any], process: "subprocess.Popen[str] | None" = None) -> Any:
    end = time.monotonic() + HANGS_S
    while not (value := condition()):
        assert process is None or process.poll() is None, "the search has ended"
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
    return value


def assert_gone(found: Sequence[Process]) -> None:
    end = time.monotonic() + GONE_S
    while any(process.alive() for process in found) and time.monotonic() < end:
        time.sleep(0.02)
    assert not [process for process in found if process.alive()]


def assert_whole(run: Path) -> None:
    """Nothing was counted twice, nothing is left without an outcome, and every file is what it should be."""
    store = Store(run)
    with contextlib.closing(store):
        assert all(task.outcome is not None for task in store.tasks())
        assert [finding for finding in check(store)[1] if finding.lost] == []


def assert_one_line(errors: str, *words: str) -> None:
    """The last line says what to do, and no traceback stands before it."""
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("nas.search: ") and all(word in last for word in words), errors


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The store of a search that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command(begin(folder, "run")), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return lines(folder / "run")


def cut_at(folder: Path, tasks: int) -> Path:
    """A run that was killed when so many tasks had ended."""
    process = start(begin(folder, "run"))
    wait_for(lambda: ended(folder / "run") >= tasks, process)
    process.kill()
    process.communicate()
    return folder / "run"


@pytest.fixture(scope="module")
def cut_early(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed when its baselines had ended: everything else is still to be traced and trained."""
    return cut_at(tmp_path_factory.mktemp("early"), 2)


@pytest.fixture(scope="module")
def cut_late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Killed when its first rung was trained: promotions are left."""
    return cut_at(tmp_path_factory.mktemp("late"), 10)


@pytest.fixture
def run(cut_late: Path, tmp_path: Path) -> Path:
    shutil.copytree(cut_late, tmp_path / "run")
    return tmp_path / "run"


# ---- killed


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_process_that_is_killed_takes_its_own_with_it_and_the_search_ends_the_same(
    kind: str, cut_early: Path, tmp_path: Path, whole: list[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(cut_early, run)
    process = start(["--resume", str(run)])
    if kind in ("coordinator", "server"):  # with jobs that have to die with it
        wait_for(lambda: len([p for k in ("tracer", "trainer") for p in processes(process.pid)[k]]) > 1, process)
    found = wait_for(lambda: (now := processes(process.pid))[kind] and now, process)
    os.kill(found[kind][0].pid, signal.SIGKILL)
    if kind == "coordinator":
        process.communicate()
        assert_gone([one for each in found.values() for one in each])
        done = resume(run)
        status, errors = done.returncode, done.stderr
    else:
        assert_gone([*found["tracer"], *found["trainer"]] if kind == "server" else found[kind][:1])
        status, errors = process.wait(HANGS_S), process.communicate()[1]
    assert status == 0, errors
    assert lines(run) == whole
    assert_whole(run)


def test_server_killed_while_the_search_starts_is_replaced(run: Path, whole: list[str]) -> None:
    process = start(["--resume", str(run)])
    found = wait_for(lambda: processes(process.pid)["server"], process)
    os.kill(found[0].pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=HANGS_S)
    assert process.returncode == 0, errors
    assert lines(run) == whole


SLOW_SERVER = """
import sys
from nas.execute.local import LocalExecutor
executor = LocalExecutor(workers=1, preload=("imports_for_a_minute",), sandbox="off")
print(executor._server.process.pid, flush=True)
while True:
    executor.poll(10)
"""


def test_server_does_not_outlive_the_coordinator_while_it_imports(tmp_path: Path) -> None:
    (tmp_path / "imports_for_a_minute.py").write_text(
        f"open({str(tmp_path / 'begun')!r}, 'w')\nimport time\ntime.sleep(60)"
    )
    coordinator = subprocess.Popen(
        [sys.executable, "-c", SLOW_SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )  # fmt: skip
    wait_for(lambda: (tmp_path / "begun").exists(), coordinator)
    found = processes(coordinator.pid)
    coordinator.kill()
    coordinator.communicate()
    assert len(found["server"]) == 1
    assert_gone(found["server"])


def struck(monkeypatch: pytest.MonkeyPatch, ending: str, **fields: Any) -> list[str]:
    """Have the first job whose id ends like this do something else; its id, once it was submitted."""
    submit, found = LocalExecutor.submit, list[str]()

    def instead(self: LocalExecutor, job: Job) -> None:
        if job.id.endswith(ending) and not found:
            found.append(job.id)
            job = replace(job, **fields)
        submit(self, job)

    monkeypatch.setattr(LocalExecutor, "submit", instead)
    return found


@pytest.mark.parametrize(
    ("rule", "blame", "fields"),
    [
        ("memory", "candidate", {"entry": "jobs:hold", "payload": {"size": 400 << 20}}),
        ("lost", "machine", {"entry": "jobs:die", "payload": {}}),
        ("timeout", "candidate", {"entry": "jobs:hang", "timeout_s": 1.5}),
    ],
)
def test_trainer_that_grows_or_hangs_or_is_always_killed_fails_its_own_trial_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, blame: str, fields: dict[str, Any]
) -> None:
    pids = tmp_path / "pids"
    fields = {"payload": {"pids": str(pids)}, "writable": None} | fields
    need = replace(Job(id="", entry="", payload={}).need, memory_bytes=(200 << 20) if rule == "memory" else 0)
    found = struck(monkeypatch, ".next", need=need, **fields)
    assert main(["--resume", str(run)]) == 0
    store = Store(run)
    with contextlib.closing(store):
        failed = [score for score in store.scores() if score.failure is not None]
        assert [(score.slot, score.failure.rule, score.failure.blame) for score in failed if score.failure] == [
            (int(found[0].partition(".")[0]), rule, blame)
        ]
    assert_whole(run)
    if pids.exists():  # it ignored every polite signal, and so did its child
        assert not [pid for pid in map(int, pids.read_text().split()) if Path(f"/proc/{pid}").exists()]


def test_draws_that_shared_a_process_that_died_are_trained_again_alone(
    cut_early: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[str]
) -> None:
    """Nobody can know which of them it was, and none fails for another."""
    run = tmp_path / "run"
    shutil.copytree(cut_early, run)
    found = struck(monkeypatch, ".first", entry="jobs:die", payload={}, writable=None)
    assert main(["--resume", str(run)]) == 0
    assert found and lines(run) == whole


@pytest.mark.slow
def test_tracer_that_is_killed_once_is_run_again(
    cut_early: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: list[str]
) -> None:
    """By somebody else, as the kernel does when memory is short everywhere."""
    run = tmp_path / "run"
    shutil.copytree(cut_early, run)
    killed = list[int]()

    def kill_one() -> None:
        killed.extend([tracer.pid for tracer in wait_for(lambda: jobs_of_this_process()["tracer"])[:1]])
        os.kill(killed[0], signal.SIGKILL)

    def jobs_of_this_process() -> dict[str, list[Process]]:
        return processes(os.getpid()) if ended(run) > 2 else dict.fromkeys(KINDS, [])

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        assert main(["--resume", str(run)]) == 0
    finally:
        killer.join()
    assert killed and lines(run) == whole


# ---- disks


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A disk of its own."""
    folder = Path(tempfile.mkdtemp())
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True)
    try:
        if made.returncode:
            text = f"a disk of its own needs the right to mount ({made.stderr.decode().strip()})"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(text)
        yield folder
    finally:
        if not made.returncode:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.parametrize("room", [0, 30_000, pytest.param(150_000, marks=pytest.mark.slow)])
def test_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    cut_late: Path, whole: list[str], room: int
) -> None:
    with small_disk("64m") as disk:
        run, ballast = disk / "run", disk / "ballast"
        shutil.copytree(cut_late, run)
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize - room
        ballast.write_bytes(bytes(free))
        done = resume(run)
        assert done.returncode == 2, done.stderr
        assert_one_line(done.stderr, "--resume")
        ballast.unlink()
        done = resume(run)
        assert done.returncode == 0, done.stderr
        assert lines(run) == whole
        assert_whole(run)


LOWER = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, out of what a program may be given
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@contextlib.contextmanager
def somebody() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder, and how to be somebody whom its permissions bind: root without what puts root above them."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder, {"before": [sys.executable, "-c", LOWER]} if os.geteuid() == 0 else {}
    finally:
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o777)
        shutil.rmtree(folder)


def test_results_folder_that_is_read_only_is_one_line_before_anything_is_made(tmp_path: Path) -> None:
    with somebody() as (folder, who):
        folder.chmod(0o555)
        process = start(begin(folder, "run"), **who)
        _, errors = process.communicate(timeout=HANGS_S)
        assert process.returncode == 2 and list(folder.iterdir()) == []
        assert errors.count("\n") == 1
        assert_one_line(errors, "cannot be written", "--results")


@pytest.mark.parametrize("part", ["", "checkpoints", pytest.param("cache", marks=pytest.mark.slow)])
def test_folder_that_becomes_read_only_stops_the_search_or_is_not_needed(
    cut_late: Path, whole: list[str], part: str
) -> None:
    with somebody() as (folder, who):
        run = folder / "run"
        shutil.copytree(cut_late, run)
        process = start(["--resume", str(run)], **who)
        wait_for(lambda: processes(process.pid)["server"], process)
        before = {path: path.stat().st_mode for path in (run / part).rglob("*")} | {
            run / part: (run / part).stat().st_mode
        }
        for path in before:
            path.chmod(0o555 if path.is_dir() else 0o444)
        _, errors = process.communicate(timeout=HANGS_S)
        assert "Traceback" not in errors
        if process.returncode:
            assert process.returncode == 2, errors
            assert_one_line(errors, "--resume")
        for path in before:
            if path.exists():
                path.chmod(before[path])
        done = resume(run, **who)
        assert done.returncode == 0, done.stderr
        assert lines(run) == whole


# ---- files that cannot be read


@pytest.mark.parametrize(
    ("error", "files"),
    [
        ("OSError: [Errno 28] No space left on device", True),
        ("PermissionError: [Errno 13] Permission denied: 'data/train.inputs.npy'", True),
        ("SpaceError: the text has changed", True),
        ("ValueError: a custom call named '[Errno 28] SpaceError: '", False),
        ("XlaRuntimeError: INTERNAL: OSError: [Errno 28] said the program", False),
    ],
)
def test_error_of_files_stops_the_search_and_its_words_in_a_program_do_not(error: str, files: bool) -> None:
    event = Event(job_id="a", kind="error", error=error)
    if files:
        with pytest.raises(StoreError, match="see to it, then --resume"):
            without_answer(event)
    else:
        failure = without_answer(event)
        assert failure is not None and failure.blame == "candidate"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut short": cut_short,
    "empty": empty,
    "garbage": garbage,
    "gone": Path.unlink,
}


@pytest.mark.parametrize(
    "damage",
    [name if name in ("cut short", "garbage") else pytest.param(name, marks=pytest.mark.slow) for name in DAMAGES],
)
def test_checkpoints_that_cannot_be_read_are_trained_again_to_the_same_bits(
    run: Path, whole: list[str], damage: str
) -> None:
    found = sorted((run / "checkpoints").glob("[0-9]*-0.safetensors"))
    assert found
    for path in found:
        DAMAGES[damage](path)
    done = resume(run)
    assert done.returncode == 0, done.stderr
    assert lines(run) == whole


def test_checkpoint_that_may_not_be_read_is_trained_again(cut_late: Path, whole: list[str]) -> None:
    with somebody() as (folder, who):
        run = folder / "run"
        shutil.copytree(cut_late, run)
        for path in (run / "checkpoints").glob("*"):
            path.chmod(0o000)
        done = resume(run, **who)
        assert done.returncode == 0, done.stderr
        assert lines(run) == whole


def test_checkpoint_with_any_damage_to_its_head_is_an_error_of_its_own(tmp_path: Path) -> None:
    """A thousand of them: cut anywhere, and with bytes of the head, where names and shapes are, replaced."""
    leaves = [np.arange(6.0, dtype=np.float32).reshape(2, 3), np.float32(1.0)]
    path, meta, rng = tmp_path / "a.safetensors", {"digest": "d", "step": 10}, random.Random(0)
    checkpoint.save(path, leaves, meta)
    good = path.read_bytes()
    head = 8 + int.from_bytes(good[:8], "little")
    for _ in range(1000):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(head)] = rng.randrange(256)
        path.write_bytes(bytes(bad[: rng.randrange(len(good))] if rng.random() < 0.3 else bad))
        with contextlib.suppress(checkpoint.CheckpointError):
            read, _ = checkpoint.load(path, leaves, meta)
            assert all(map(np.array_equal, read, leaves))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut short", "garbage"])
def test_compiled_programs_that_cannot_be_read_are_compiled_again(run: Path, whole: list[str], damage: str) -> None:
    found = [path for path in (run / "cache").rglob("*") if path.is_file()]
    assert found
    for path in found:
        DAMAGES[damage](path)
    done = resume(run)
    assert done.returncode == 0, done.stderr
    assert lines(run) == whole


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut short", "garbage", "gone"])
def test_calls_to_a_model_that_cannot_be_read_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Of a run that was interrupted: the files of the last calls, which no task has used yet."""
    arguments = ["--space", RINGS, "--budget", "8", "--lookahead", "4", "--price", "2/10", "--confirm", "0"]
    arguments += ["--seed", "2", "--results", str(tmp_path)]
    monkeypatch.setattr(mixture, "opening", lambda *_: 3)  # so that a small budget gets to the model
    with MessagesServer(Scripted(load(RINGS))) as server:
        reach(server, monkeypatch)
        assert main([*arguments, "--name", "whole"]) == 0
        asked = len(server.requests)
    with MessagesServer(Interrupting(8)) as server:
        reach(server, monkeypatch)
        assert main([*arguments, "--name", "cut"]) == 130
        transcript = tmp_path / "cut" / "transcript"
        (transcript / ".1.code-x.json.77").write_text('{"request": {"id": "1.co')  # as a kill leaves it
        last = sorted(transcript.glob("[0-9]*.json"), key=lambda path: path.stat().st_mtime)[-2:]
        for path in last:
            DAMAGES[damage](path)
        assert main(["--resume", str(tmp_path / "cut")]) == 0
    assert asked and lines_with_model(tmp_path / "cut") == lines_with_model(tmp_path / "whole")


# ---- the database


@contextlib.contextmanager
def held(run: Path, *statements: str) -> Iterator[Callable[[], None]]:
    """The database in the hands of another process; what is given lets it go."""
    script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    script += "for s in sys.argv[2:]: c.execute(s).fetchone()\nprint(flush=True); sys.stdin.readline()"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(run / "run.db"), *statements],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        yield lambda: (holder.communicate("\n"), None)[1]
    finally:
        holder.kill()
        holder.communicate()


def test_reader_that_holds_the_database_stops_nothing(run: Path, whole: list[str]) -> None:
    with held(run, "BEGIN", "SELECT * FROM nas_task"):
        done = resume(run)
    assert done.returncode == 0, done.stderr
    assert lines(run) == whole


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["at the start", "at work"])
def test_writer_that_holds_the_database_for_seconds_is_waited_for(run: Path, whole: list[str], moment: str) -> None:
    if moment == "at the start":
        with held(run, "BEGIN EXCLUSIVE") as release:
            process = start(["--resume", str(run)])
            time.sleep(4)
            release()
    else:
        process = start(["--resume", str(run)])
        wait_for(lambda: processes(process.pid)["trainer"], process)
        with held(run, "BEGIN EXCLUSIVE") as release:
            time.sleep(5)
            release()
    _, errors = process.communicate(timeout=HANGS_S)
    assert process.returncode == 0, errors
    assert lines(run) == whole


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["at the start", "at work"])
def test_writer_that_never_lets_go_is_one_line_and_the_run_goes_on_afterwards(
    run: Path, whole: list[str], moment: str
) -> None:
    with contextlib.ExitStack() as until_it_has_ended:
        if moment == "at the start":
            until_it_has_ended.enter_context(held(run, "BEGIN EXCLUSIVE"))
        process = start(["--resume", str(run)])
        if moment == "at work":
            wait_for(lambda: processes(process.pid)["trainer"], process)
            until_it_has_ended.enter_context(held(run, "BEGIN EXCLUSIVE"))
        _, errors = process.communicate(timeout=HANGS_S)
    assert process.returncode == 2
    assert_one_line(errors, "locked", "wait", "--resume")
    done = resume(run)
    assert done.returncode == 0, done.stderr
    assert lines(run) == whole


def test_copy_of_the_study_that_cannot_be_written_is_a_warning(
    run: Path, whole: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sync = Tuner.sync

    def while_held(self: Tuner, url: str, name: str) -> int:
        with contextlib.closing(sqlite3.connect(run / "run.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            return sync(self, url, name)

    monkeypatch.setattr(Tuner, "sync", while_held)
    assert main(["--resume", str(run)]) == 0
    assert "could not be written (database is locked)" in capfd.readouterr().err
    assert lines(run) == whole
    monkeypatch.undo()
    assert main(["--resume", str(run)]) == 0
    with contextlib.closing(sqlite3.connect(run / "run.db")) as database:
        assert database.execute("SELECT count(*) FROM trials").fetchone()[0] > 0


# ---- clocks

JUMPING = """
import itertools, time
_real, _count = time.time, itertools.count()
time.time = lambda: _real() + (86_400, -86_400, 0, 3e8)[next(_count) % 4]
time.time_ns = lambda: int(time.time() * 1e9)
"""


@pytest.mark.slow
def test_clock_that_jumps_by_days_at_every_look_changes_nothing(tmp_path: Path, whole: list[str]) -> None:
    """In the coordinator, the server and every job; `--max-hours` is counted by a clock that does not jump."""
    (tmp_path / "sitecustomize.py").write_text(JUMPING)
    arguments = begin(tmp_path, "run", "--max-hours", "0.1")
    process = start(arguments, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    _, errors = process.communicate(timeout=HANGS_S)
    assert process.returncode == 0, errors
    stamps = [line.split()[0] for line in errors.splitlines() if line.startswith("time=")]
    assert stamps != sorted(stamps), "the clock did not jump"
    assert lines(tmp_path / "run") == whole


# ---- Ctrl-C


INTERRUPTED = (130, -signal.SIGINT)
"""Exit statuses; a shell says 130 in both cases. The other one is that of a Python that has all but ended."""


def interrupt(process: "subprocess.Popen[str]", *, twice: bool = False) -> tuple[str, list[Process]]:
    """Press it once or twice, and wait for the end; what was said, and the processes that there were."""
    found = [one for each in processes(process.pid).values() for one in each]
    process.send_signal(signal.SIGINT)
    if twice:
        time.sleep(0.2)
        found += [one for each in processes(process.pid).values() for one in each]
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANGS_S)
    return errors, found


@pytest.mark.parametrize("twice", [False, True])
def test_interrupt_while_it_starts_says_nothing_of_its_own(tmp_path: Path, twice: bool) -> None:
    """From where its own module is read; while the package is, the interrupt is Python's."""
    rng = random.Random(0)
    for number in range(4):
        process = start(begin(tmp_path, f"run{number}"))
        wait_for(lambda pid=process.pid: "msgpack" in Path(f"/proc/{pid}/maps").read_text(), process)
        time.sleep(rng.uniform(0.0, 1.0))
        errors, found = interrupt(process, twice=twice)
        assert process.returncode in INTERRUPTED and "Traceback" not in errors, errors
        assert_gone(found)


@pytest.mark.slow
def test_interrupted_again_and_again_the_search_ends_the_same(tmp_path: Path, whole: list[str]) -> None:
    """Once and twice, from its first line to its last; a run that has ended is interrupted too."""
    rng, run = random.Random(5), tmp_path / "run"
    for number in range(14):
        process = start(["--resume", str(run)] if (run / "run.json").exists() else begin(tmp_path, "run"))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(1.0, 7.0))
        errors, found = interrupt(process, twice=number % 2 == 1)
        assert process.returncode in (0, *INTERRUPTED) and "Traceback" not in errors, errors
        assert_gone(found)
    done = resume(run)
    assert done.returncode == 0, done.stderr
    assert lines(run) == whole
    assert_whole(run)


@pytest.mark.slow
def test_confirmation_interrupted_twice_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        folder = tmp_path / name  # of its own: what a confirmation trains of baselines is kept beside the runs
        process = start([*begin(folder, "run"), "--confirm", "1"])
        for twice in (False, True) if name == "cut" else ():
            wait_for(lambda folder=folder: retrained(folder / "run") >= (1 + 10 * twice), process)  # noqa: B023
            errors, found = interrupt(process, twice=twice)
            assert process.returncode in INTERRUPTED and "Traceback" not in errors, errors
            assert_gone(found)
            process = start(["--resume", str(folder / "run")])
        _, errors = process.communicate(timeout=2 * HANGS_S)
        assert process.returncode == 0, errors
    assert lines(tmp_path / "cut" / "run") == lines(tmp_path / "whole" / "run")


def retrained(run: Path) -> int:
    with contextlib.suppress(StoreError):
        with contextlib.closing(Store(run)) as store:
            return len(store.retrainings())
    return 0
