"""The kernel's locks on a sealed job: what it may do, what it may not, and that a lock that is missing is told.

Every attack runs as if gate, facade and program check were not there: as plain Python in the process where candidates
are traced. What it stole is in its answer, or what it did is seen from outside.
"""

import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from attack_corpus import STEALING, STOPPING, Attack
from attacks import attempt_as
from prey import ATTEMPT, SECRET, Prey, attacked, run

from nas import search
from nas.admit import __main__ as admit_command
from nas.execute import chosen_sandbox, confine, usual_sandbox
from nas.execute.confine import LAYERS
from nas.execute.local import LocalExecutor
from nas.report.snapshot import snapshot
from nas.space import load
from nas.standings import read
from nas.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these locks are Linux's")
numbered = pytest.mark.skipif(platform.machine() != "x86_64", reason="attacks name system calls by x86's numbers")


@pytest.fixture(scope="module")
def strict(prey: Prey) -> Iterator[LocalExecutor]:
    with LocalExecutor(1, ("numpy",), sandbox="strict") as executor:
        yield executor


def test_every_lock_holds_here(strict: LocalExecutor) -> None:
    assert run(strict, "nas.execute.confine:report_job").result == dict.fromkeys(LAYERS, "")


def test_what_is_no_attack_runs(strict: LocalExecutor, prey: Prey) -> None:
    """So that an attack which gets nothing was tried."""
    code = "import threading, numpy\nmade = []\nthread = threading.Thread(target=made.append, args=('loot',))\n"
    code += "thread.start()\nthread.join()\nresult = made[0] * int(numpy.ones(1)[0])"
    assert attacked(strict, prey, code) == ["loot"]


@numbered
@pytest.mark.parametrize("attack", STEALING, ids=lambda a: f"{a.group}-{a.name}")
def test_attack_gets_nothing(strict: LocalExecutor, prey: Prey, attack: Attack) -> None:
    assert attacked(strict, prey, attack.code) == []


@pytest.mark.parametrize("attack", STOPPING, ids=lambda a: f"{a.group}-{a.name}")
def test_attack_ends_itself_only(strict: LocalExecutor, prey: Prey, attack: Attack) -> None:
    assert attacked(strict, prey, attack.code) == []
    assert run(strict, "nas.execute.confine:report_job").kind == "done"


@numbered
def test_attacks_are_alive_where_nothing_is_locked(prey: Prey) -> None:
    tried = [attack for attack in STEALING if attack.harmless]
    with LocalExecutor(1, ("numpy",), sandbox="off") as executor:
        got = {attack.name: attacked(executor, prey, attack.code) for attack in tried}
    failed = [name for name, loot in got.items() if not loot]
    assert len(failed) <= 0.4 * len(tried), failed


def written(executor: LocalExecutor, prey: Prey, folder: Path, code: str) -> str:
    """What becomes of a piece of Python in a job that may write to a folder, as a trainer may to some."""
    payload = {"code": code, "names": prey.names | {"OWN": str(folder)}}
    event = run(executor, ATTEMPT, sealed=False, payload=payload, writable=[str(folder)], timeout_s=2)
    return str(event.result) if event.kind == "done" else ""


def test_trainer_writes_to_its_folders_and_nowhere_else(strict: LocalExecutor, prey: Prey, tmp_path: Path) -> None:
    code = "os.mkdir(OWN + '/new')\nwith open(OWN + '/new/a', 'w') as file: file.write(open(SECRET).read())\n"
    code += "os.replace(OWN + '/new/a', OWN + '/new/b')\nresult = open(OWN + '/new/b').read()\n"
    assert written(strict, prey, tmp_path, code + "os.unlink(OWN + '/new/b')\nos.rmdir(OWN + '/new')") == SECRET
    assert list(tmp_path.iterdir()) == []
    for attack in STEALING:
        if attack.group in ("writing", "network", "processes", "kernel", "undoing"):
            assert "loot" not in written(strict, prey, tmp_path, attack.code), attack
            assert prey.effects() == [], attack


# ---- elsewhere ----

OF_EACH = {attack.group: attack for attack in reversed(STEALING)}
"""One attack of each group, the first."""


@numbered
@pytest.mark.parametrize("how", [{"user": 65534}, *({"landlock": version} for version in range(1, 8))], ids=str)
def test_locks_hold_as_nobody_and_on_older_kernels(prey: Prey, how: dict[str, int]) -> None:
    if "user" in how and os.geteuid() != 0:
        pytest.skip("only root becomes somebody else")
    readable = [*confine.installation(), *confine.modules()]
    tried = [*OF_EACH.values(), *(attack for attack in STEALING if attack.name.startswith("truncate"))]
    ended = []
    with LocalExecutor(1, ("numpy",), sandbox="off") as executor:
        for attack in tried:
            payload = {"code": attack.code, "names": prey.names, "readable": readable, **how}
            event = run(executor, f"attacks:{attempt_as.__name__}", payload=payload, timeout_s=5)
            assert prey.effects() == []
            if event.kind == "done":
                assert event.result[0] == [] and "loot" not in event.result[1], (attack, event)
                ended.append(attack.group)
    assert len(ended) == len(tried)


@numbered
def test_nobody_gets_what_there_is_without_locks(prey: Prey) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes somebody else")
    payload = {"names": prey.names, "readable": [], "user": 65534, "locked": False}
    with LocalExecutor(1, ("numpy",), sandbox="off") as executor:
        read = {"code": "result = open(SECRET).read()", **payload}
        event = run(executor, f"attacks:{attempt_as.__name__}", payload=read, timeout_s=5)
        assert event.result == [[], SECRET]
        write = {"code": "open(FOLDER + '/made', 'w').write('x')", **payload}
        run(executor, f"attacks:{attempt_as.__name__}", payload=write, timeout_s=5)
        assert prey.effects() == ["made made"]


def test_space_that_reads_a_file_when_it_is_loaded_is_told_and_no_candidate_is_blamed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    read = "from pathlib import Path\nWORDS = (Path(__file__).parent / 'words.txt').read_text()\n"
    text = Path(TOY).read_text("utf-8")
    end = text.index('"""', 3) + 3
    (tmp_path / "words.txt").write_text("a b c")
    (tmp_path / "mine.py").write_text(text[:end] + "\n" + read + text[end:])
    arguments = ["--space", str(tmp_path / "mine.py"), "--budget", "1", "--results", str(tmp_path / "runs")]
    assert search.main(arguments) == 2
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("nas.search: ")]
    assert len(told) == 1 and "cannot be loaded there" in told[0] and "words.txt" in told[0]


def test_package_that_is_a_project_gives_what_was_imported_and_not_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plain_package", "whole_project"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("from . import part")
        (tmp_path / name / "part.py").write_text("")
    (tmp_path / "whole_project" / "results").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("plain_package", "whole_project"):
        importlib.import_module(name)
    found = [Path(path) for path in confine.modules() if path.startswith(str(tmp_path))]
    project = tmp_path / "whole_project"
    assert found == [tmp_path / "plain_package", project / "__init__.py", project / "part.py"]


# ---- where locks are missing ----


LANDLOCK, SECCOMP = 444, 317
WITHOUT = str(Path(__file__).with_name("without.py"))
TOY = str(Path(__file__).with_name("spaces") / "toy_model.py")


def searched(folder: Path, lacking: list[int], *arguments: str) -> subprocess.CompletedProcess[str]:
    """A search as on a kernel that lacks some calls."""
    command = [sys.executable, "-m", "nas.search", "--space", TOY, "--budget", "1", "--confirm", "0", "--workers", "1"]
    command += ["--results", str(folder), "--name", "run", *arguments]
    script = [sys.executable, WITHOUT, *map(str, lacking), "--", *command]
    return subprocess.run(script, capture_output=True, text=True, timeout=300)


@numbered
@pytest.mark.parametrize(("number", "layer"), [(LANDLOCK, "files"), (SECCOMP, "calls")])
def test_search_refuses_to_begin_without_a_lock(tmp_path: Path, number: int, layer: str) -> None:
    ended = searched(tmp_path, [number])
    told = [line for line in ended.stderr.splitlines() if not line.startswith("time=")]
    assert ended.returncode == 2 and len(told) == 1
    assert f"the sandbox has no lock of {layer} (" in told[0] and "ENOSYS" in told[0] and "--sandbox auto" in told[0]


@numbered
@pytest.mark.slow
def test_search_that_goes_on_says_what_a_candidate_could_do_and_notes_it(tmp_path: Path) -> None:
    ended = searched(tmp_path, [LANDLOCK], "--sandbox", "auto")
    assert ended.returncode == 0 and "SANDBOX auto: no lock of files" in ended.stderr
    assert "READ AND WRITE YOUR FILES" in ended.stderr
    assert "without these locks of its process (--sandbox auto): files" in " ".join(ended.stdout.split())
    page = snapshot(read(Store(tmp_path / "run")))
    assert any("--sandbox auto" in notice for notice in page["state"]["notices"])


@numbered
@pytest.mark.slow
@pytest.mark.parametrize(("number", "groups"), [(LANDLOCK, ("network", "processes")), (SECCOMP, ("reading",))])
def test_the_other_locks_hold_all_the_same(prey: Prey, tmp_path: Path, number: int, groups: tuple[str, ...]) -> None:
    """Without Landlock there is still no network and no process; without seccomp there are still no files."""
    (tmp_path / "asked").write_bytes(msgpack.packb([prey.names, groups]) or b"")
    script = [sys.executable, WITHOUT, str(number), "--", sys.executable, __file__, str(tmp_path / "asked")]
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    ended = subprocess.run(script, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path})
    assert ended.returncode == 0 and "loot" not in ended.stdout, ended.stdout + ended.stderr
    made = {"made made"} if number == LANDLOCK else set()  # a file is what Landlock would have kept it from
    assert set(prey.effects()) <= made


def self_checked(*lacking: int | str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nas.admit", "--self-check"]
    script = [sys.executable, WITHOUT, *map(str, lacking), "--", *command]
    return subprocess.run(script, capture_output=True, text=True, timeout=60)


OF_A_CONTAINER = [
    f"{number}:{error}"
    for error, numbers in {
        # unshare, mount, umount2, pivot_root, setns, bpf, ptrace, perf_event_open, userfaultfd, add_key, keyctl, reboot
        "EPERM": (272, 165, 166, 155, 308, 321, 101, 298, 323, 248, 250, 169),
        "ENOSYS": (435,),  # clone3, so that the older clone is used, whose flags can be looked at
    }.items()
    for number in numbers
]
"""What a container's usual filter forbids, namespaces of users among it."""


@numbered
@pytest.mark.parametrize("landlock", [True, False])
def test_locks_hold_in_a_container_or_say_what_is_missing(landlock: bool) -> None:
    """Older containers forbid Landlock's calls too, with another error than a kernel that lacks them."""
    ended = self_checked(*OF_A_CONTAINER, *([] if landlock else [f"{number}:EPERM" for number in (444, 445, 446)]))
    assert ended.returncode == (0 if landlock else 1), ended.stdout + ended.stderr
    assert ended.stdout.count("holds") == len(LAYERS) - (not landlock)
    assert ("no lock of files" in ended.stdout) != landlock


@numbered
def test_self_check_says_what_is_open_and_what_is_not() -> None:
    whole, without = self_checked(), self_checked(LANDLOCK)
    assert whole.returncode == 0 and whole.stdout.count("holds") == len(LAYERS) and "YES" not in whole.stdout
    assert without.returncode == 1 and "no lock of files" in without.stdout
    opened = [line for line in without.stdout.splitlines() if line.endswith("YES")]
    assert any("read a file of yours" in line for line in opened)
    assert not any("network" in line or "program" in line for line in opened)


@numbered
def test_single_candidate_is_refused_without_a_lock_unless_told_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "linear.py").write_text(load("mnist1d").baselines["linear"])
    for mode, status in (("strict", 2), ("auto", 0)):
        command = [sys.executable, "-m", "nas.admit", str(tmp_path / "linear.py"), "--sandbox", mode]
        script = [sys.executable, WITHOUT, str(LANDLOCK), "--", *command]
        ended = subprocess.run(script, capture_output=True, text=True, timeout=120)
        assert ended.returncode == status and ended.stderr.count("no lock of files") == ended.stderr.count("\n") == 1
        assert ended.stdout.endswith("admitted\n") == (mode == "auto")


@pytest.mark.parametrize("more", [["--json"], ["x.py"], ["--device", "tpu-v5e"]])
def test_self_check_takes_no_candidate_and_prints_text(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        admit_command.main(["--self-check", *more])
    assert stop.value.code == 2 and "--self-check tries no candidate" in capsys.readouterr().err


def test_sandbox_of_the_environment_is_one_that_there_is_or_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NAS_SANDBOX", "maybe")
    assert admit_command.main(["any.py"]) == 2
    error = capsys.readouterr().err
    assert "NAS_SANDBOX=maybe is not known; set it to strict, auto, off" in error and "--sandbox auto" not in error
    monkeypatch.setenv("NAS_SANDBOX", "")
    assert usual_sandbox() == ("strict" if sys.platform == "linux" else "auto")
    assert chosen_sandbox(None, "off") == "off"


def test_admission_that_is_interrupted_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "linear.py").write_text(load("mnist1d").baselines["linear"])
    monkeypatch.setattr(admit_command, "_verdict", interrupted)
    assert admit_command.main([str(tmp_path / "linear.py")]) == 130
    assert capsys.readouterr().err == "nas.admit: interrupted\n"


def test_admission_that_nobody_reads_ends_quietly(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import os\n")
    for unbuffered, status in (("", 1), ("1", 2)):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "nas.admit", str(tmp_path / "broken.py")]
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}  # the pipe is noticed at the flush, or at once
        ended = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, env=environment, check=False
        )
        os.close(writer)
        assert ended.stderr == "" and ended.returncode == status


# ---- other systems, as far as they can be tried from here ----


def test_rules_for_macos_name_every_path_and_quote_it() -> None:
    rules = confine.seatbelt_profile(["/opt/py thon/lib", '/a"b\\c'], ["/runs/one"])
    assert rules.count("(") == rules.count(")") and rules.startswith("(version 1)\n")
    assert '(subpath "/opt/py thon/lib")' in rules and '(subpath "/a\\"b\\\\c")' in rules
    lines = rules.splitlines()
    for denied, allowed in (
        ("(deny file-read-data", "(allow file-read-data"),
        ("(deny file-write*", "(allow file-write*"),
    ):
        (first,), (second,) = ([i for i, line in enumerate(lines) if line.startswith(s)] for s in (denied, allowed))
        assert first < second  # the last rule that fits holds
    assert "(allow file-write*" not in confine.seatbelt_profile(["/opt"])


def test_macos_without_its_lock_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    held = confine.confine([])
    assert held["files"] == held["calls"] == "this macOS has no sandbox_init"
    assert held["privileges"] == ""
    assert "READ AND WRITE YOUR FILES" in confine.sentence("files", held["files"])


def test_windows_is_told_of_wsl() -> None:
    code = "import sys; sys.platform = 'win32'\nimport nas"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1 and "on Windows run it in WSL" in ran.stderr.splitlines()[-1]


def main(asked: str) -> None:
    """Attack with some groups under the locks that there are, and print what was answered."""
    names, groups = msgpack.unpackb(Path(asked).read_bytes())
    with LocalExecutor(1, ("numpy",), sandbox="auto") as executor:
        assert run(executor, ATTEMPT, payload={"code": "result = 'here'", "names": names}).result == "here"
        for attack in (attack for attack in STEALING if attack.group in groups):
            event = run(executor, ATTEMPT, payload={"code": attack.code, "names": names}, timeout_s=2)
            if event.kind == "done" and "loot" in event.result:
                print(attack.name, event.result)


if __name__ == "__main__":
    main(sys.argv[1])
