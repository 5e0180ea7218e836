"""What there is to attack: a file, an array, listeners, a process; and what has become of it."""

import contextlib
import itertools
import os
import shutil
import signal
import site
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
from attacks import attempt

from nas.execute import Event, Job, Need
from nas.execute.local import LocalExecutor

ATTEMPT = f"attacks:{attempt.__name__}"  # imported here, since a sealed job may read what its coordinator imported
SECRET, KEY = "loot of a file", "NAS_CANARY"
_NUMBERS = itertools.count()


class Prey:
    """What there is to attack, and what has become of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.heard: list[str] = []
        self._sockets: list[socket.socket] = []
        folder.chmod(0o755)  # nobody may look in, and write to "open"
        self._open()
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
        self._open()
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

    def _open(self) -> None:
        (self.folder / "open").mkdir()
        (self.folder / "open").chmod(0o777)

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


def run(executor: LocalExecutor, entry: str, /, *, sealed: bool = True, **fields: Any) -> Event:
    """What becomes of a job, tried once."""
    payload, ident = fields.pop("payload", {}), f"{entry}.{next(_NUMBERS)}"
    executor.submit(Job(id=ident, entry=entry, payload=payload, sealed=sealed, attempts=1, **fields))
    while not (events := executor.poll(5)):
        pass
    return events[0]


def attacked(executor: LocalExecutor, prey: Prey, code: str, entry: str = ATTEMPT, within_s: float = 2) -> list[str]:
    """What a piece of Python got: what it answered if it is loot, and what it did."""
    need = Need(memory_bytes=1 << 30)
    event = run(executor, entry, payload={"code": code, "names": prey.names}, timeout_s=within_s, need=need)
    answer = str(event.result) if event.kind == "done" else ""
    return prey.effects() + ([answer] if "loot" in answer else [])
