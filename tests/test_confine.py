"""The kernel's locks on a sealed job: what it may do, what it may not, and that a lock that is missing is told.

Every attack runs as if gate, facade and program check were not there: as plain Python in the process where candidates
are traced. What it stole is in its answer, or what it did is seen from outside.
"""

import contextlib
import os
import platform
import shutil
import signal
import site
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from attack_corpus import STEALING, STOPPING, Attack
from attacks import attempt, attempt_as

from nas.execute import Event, Job, Need, confine
from nas.execute.confine import LAYERS
from nas.execute.local import LocalExecutor
from nas.report.snapshot import snapshot
from nas.standings import read
from nas.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these locks are Linux's")
numbered = pytest.mark.skipif(platform.machine() != "x86_64", reason="attacks name system calls by x86's numbers")

ATTEMPT = f"attacks:{attempt.__name__}"  # imported here, since a sealed job may read what its coordinator imported
SECRET, KEY = "loot of a file", "NAS_CANARY"


class Prey:
    """What there is to attack, and what has become of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.heard: list[str] = []
        self._sockets: list[socket.socket] = []
        (folder / "open").mkdir()
        (folder / "secret").mkdir()
        (folder / "secret" / "text").write_text(SECRET)
        (folder / "secret" / "stranger.py").write_text(f"loot = {SECRET!r}")
        self._labels()
        tcp = self._listen(socket.AF_INET, ("127.0.0.1", 0)).getsockname()[1]
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        threading.Thread(target=self._receive, args=(udp,), daemon=True).start()
        self._listen(socket.AF_UNIX, str(folder / "socket"))
        abstract = f"nas-{os.getpid()}"
        self._listen(socket.AF_UNIX, f"\0{abstract}")
        self.victim = self._victim()
        self.names: dict[str, Any] = {
            "SECRET": str(folder / "secret" / "text"), "LABELS": str(folder / "labels.npy"),
            "FOLDER": str(folder / "open"), "SITE": site.getsitepackages()[0], "TCP": tcp,
            "UDP": udp.getsockname()[1], "SOCKET": str(folder / "socket"), "ABSTRACT": abstract,
            "COORDINATOR": os.getpid(), "VICTIM": self.victim.pid, "KEY": KEY,
        }  # fmt: skip

    def effects(self) -> list[str]:
        """What was done since the last look; it is put right again."""
        found = list(self.heard)
        self.heard.clear()
        found += [f"made {entry.name}" for entry in self.folder.joinpath("open").iterdir()]
        shutil.rmtree(self.folder / "open")
        (self.folder / "open").mkdir()
        if self.labels != self._stat():
            found.append("labels changed")
            self._labels()
        for stray in (Path(self.names["SITE"]) / "nas-made.pth", Path("/dev/shm/nas-made"), Path("/tmp/nas-link")):
            if stray.exists() or stray.is_symlink():
                found.append(f"made {stray.name}" * (stray.name != "nas-link"))
                stray.unlink()
        state = Path(f"/proc/{self.victim.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state in "TtZX":
            found.append("victim killed or stopped")
            self._end()
            self.victim = self._victim()
            self.names["VICTIM"] = self.victim.pid
        return [effect for effect in found if effect]

    def close(self) -> None:
        self._end()
        for listener in self._sockets:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for it
            listener.close()

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.victim.pid, signal.SIGKILL)
        self.victim.wait()

    @staticmethod
    def _victim() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "600"], start_new_session=True)

    def _labels(self) -> None:
        np.save(self.folder / "labels.npy", np.arange(777_000, 777_100))
        self.labels = self._stat()

    def _stat(self) -> tuple[int, int] | None:
        with contextlib.suppress(FileNotFoundError):
            stat = (self.folder / "labels.npy").stat()
            return stat.st_size, stat.st_mtime_ns
        return None

    def _listen(self, family: int, address: Any) -> socket.socket:
        listener = socket.socket(family)
        listener.bind(address)
        listener.listen()
        self._sockets.append(listener)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0]:
                        self.heard.append(f"connected to {address}")

        threading.Thread(target=accept, daemon=True).start()
        return listener

    def _receive(self, udp: socket.socket) -> None:
        self._sockets.append(udp)
        with contextlib.suppress(OSError):
            while True:
                udp.recvfrom(99)
                self.heard.append("sent a packet")


@pytest.fixture(scope="module")
def prey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prey]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, "loot of the environment")
        prey = Prey(tmp_path_factory.mktemp("prey"))
        yield prey
        prey.close()


@pytest.fixture(scope="module")
def strict(prey: Prey) -> Iterator[LocalExecutor]:
    with LocalExecutor(1, ("numpy",), sandbox="strict") as executor:
        yield executor


def run(executor: LocalExecutor, entry: str, /, **fields: Any) -> Event:
    payload = fields.pop("payload", {})
    ident = f"{entry}.{next(_NUMBERS)}"
    executor.submit(Job(id=ident, entry=entry, payload=payload, sealed=True, attempts=1, **fields))
    while not (events := executor.poll(5)):
        pass
    return events[0]


_NUMBERS = iter(range(1 << 30))


def attacked(executor: LocalExecutor, prey: Prey, attack: Attack) -> list[str]:
    """What an attack got: what it answered if it is loot, and what it did."""
    need = Need(memory_bytes=1 << 30)
    event = run(executor, ATTEMPT, payload={"code": attack.code, "names": prey.names}, timeout_s=2, need=need)
    answer = str(event.result) if event.kind == "done" else ""
    return prey.effects() + ([answer] if "loot" in answer else [])


def test_every_lock_holds_here(strict: LocalExecutor) -> None:
    assert run(strict, "nas.execute.confine:report_job").result == dict.fromkeys(LAYERS, "")


def test_what_is_no_attack_runs(strict: LocalExecutor, prey: Prey) -> None:
    """So that an attack which gets nothing was tried."""
    code = "import threading, numpy\nmade = []\nthread = threading.Thread(target=made.append, args=('loot',))\n"
    code += "thread.start()\nthread.join()\nresult = made[0] * int(numpy.ones(1)[0])"
    assert attacked(strict, prey, Attack("none", "none", code)) == ["loot"]


@numbered
@pytest.mark.parametrize("attack", STEALING, ids=lambda a: f"{a.group}-{a.name}")
def test_attack_gets_nothing(strict: LocalExecutor, prey: Prey, attack: Attack) -> None:
    assert attacked(strict, prey, attack) == []


@pytest.mark.parametrize("attack", STOPPING, ids=lambda a: f"{a.group}-{a.name}")
def test_attack_ends_itself_only(strict: LocalExecutor, prey: Prey, attack: Attack) -> None:
    assert attacked(strict, prey, attack) == []
    assert run(strict, "nas.execute.confine:report_job").kind == "done"


@numbered
def test_attacks_are_alive_where_nothing_is_locked(prey: Prey) -> None:
    tried = [attack for attack in STEALING if attack.harmless]
    with LocalExecutor(1, ("numpy",), sandbox="off") as executor:
        got = {attack.name: attacked(executor, prey, attack) for attack in tried}
    failed = [name for name, loot in got.items() if not loot]
    assert len(failed) <= 0.4 * len(tried), failed


def written(executor: LocalExecutor, prey: Prey, folder: Path, code: str) -> str:
    """What becomes of a piece of Python in a job that may write to a folder, as a trainer may to some."""
    payload = {"code": code, "names": prey.names | {"OWN": str(folder)}}
    ident, folders = f"writer.{next(_NUMBERS)}", [str(folder)]
    executor.submit(Job(id=ident, entry=ATTEMPT, payload=payload, writable=folders, timeout_s=2, attempts=1))
    while not (events := executor.poll(5)):
        pass
    return str(events[0].result) if events[0].kind == "done" else ""


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
    ended = []
    with LocalExecutor(1, ("numpy",), sandbox="off") as executor:
        for attack in OF_EACH.values():
            payload = {"code": attack.code, "names": prey.names, "readable": readable, **how}
            event = run(executor, f"attacks:{attempt_as.__name__}", payload=payload, timeout_s=5)
            assert prey.effects() == []
            if event.kind == "done":
                assert event.result[0] == [] and "loot" not in event.result[1], (attack, event)
                ended.append(attack.group)
    assert len(ended) == len(OF_EACH)


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


def self_checked(*lacking: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nas.admit", "--self-check"]
    script = [sys.executable, WITHOUT, *map(str, lacking), "--", *command]
    return subprocess.run(script, capture_output=True, text=True, timeout=120)


@numbered
def test_self_check_says_what_is_open_and_what_is_not() -> None:
    whole, without = self_checked(), self_checked(LANDLOCK)
    assert whole.returncode == 0 and whole.stdout.count("holds") == len(LAYERS) and "YES" not in whole.stdout
    assert without.returncode == 1 and "no lock of files" in without.stdout
    opened = [line for line in without.stdout.splitlines() if line.endswith("YES")]
    assert any("read a file of yours" in line for line in opened)
    assert not any("network" in line or "program" in line for line in opened)


def main(asked: str) -> None:
    """Attack with some groups under the locks that there are, and print what was answered."""
    names, groups = msgpack.unpackb(Path(asked).read_bytes())
    with LocalExecutor(1, ("numpy",), sandbox="auto") as executor:
        for attack in (attack for attack in STEALING if attack.group in groups):
            event = run(executor, ATTEMPT, payload={"code": attack.code, "names": names}, timeout_s=2)
            if event.kind == "done" and "loot" in event.result:
                print(attack.name, event.result)


if __name__ == "__main__":
    main(sys.argv[1])
