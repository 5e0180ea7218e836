"""Starts the server of jobs and speaks with it: what it may see, how it is asked, what it reports.

In go the modules that it is to import and the platform of its accelerators; out come the reports of `server.py`. Its
environment is built from an allow-list and not copied, since a job can read the environment of the server that it was
forked from.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack

from nas.execute import server

_KEPT = ("PATH", "TMPDIR", "LD_LIBRARY_PATH")
_KEPT_FOR_ACCELERATORS = ("CUDA_", "NVIDIA_", "NCCL_", "TPU_", "LIBTPU_", "XLA_", "JAX_")  # beginnings of names
_SECRET = re.compile("KEY|TOKEN|SECRET|PASS|CREDENTIAL", re.IGNORECASE)
_DEVICE_MEMORY = "0.75"
"""Share of a device's memory that a job may take, if nobody says otherwise; more is that job's failure."""


class ServerProcess:
    """The server as the coordinator sees it: a process, a socket, and what it has written to stderr."""

    def __init__(self, preload: Sequence[str], platform: str) -> None:
        self.channel, theirs = socket.socketpair()
        self.errors, writable = os.pipe()
        os.set_blocking(self.errors, False)
        self.launched = time.monotonic()
        self.ready = False
        self.tail = b""
        self._inbox = bytearray()
        # -s: no packages from a home folder. -P: the script's folder is no place to import from. -B: jobs write no
        # byte code. Not -I, which would ignore PYTHONHASHSEED: the bytes of a traced program depend on it.
        script = [sys.executable, "-s", "-P", "-B", server.__file__, str(theirs.fileno()), str(os.getpid())]
        self.process = subprocess.Popen(
            [*script, *preload],
            env=_environment(platform),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=writable,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        os.close(writable)
        self.channel.setblocking(False)

    def send(self, message: Any, descriptors: Sequence[int] = ()) -> None:
        """Send a request. A server that does not take it is dead or hangs, and is killed; its socket then says so."""
        frame = server.to_frame(message)
        try:
            sent = socket.send_fds(self.channel, [frame], list(descriptors))
        except OSError:
            sent = 0
        if sent < len(frame):
            self.process.kill()

    def receive(self) -> list[tuple[str, int, Mapping[str, Any]]] | None:
        """The reports that have arrived; None if the server is gone."""
        try:
            data = self.channel.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            return None
        self._inbox += data
        reports = []
        start = server.HEADER.size
        while len(self._inbox) >= start and len(self._inbox) >= (
            end := start + server.HEADER.unpack_from(self._inbox)[0]
        ):
            reports.append(tuple(msgpack.unpackb(self._inbox[start:end])))
            del self._inbox[:end]
        return reports

    def pull_errors(self) -> bool:
        """Read what it has written to stderr; say whether there may be more to come."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.errors, 1 << 16):
                self.tail = (self.tail + data)[-4096:]
            return False
        return True

    def stop(self) -> None:
        """Leave it: it kills its jobs and exits. One that is still importing, or hangs, is killed."""
        self.channel.close()
        if not self.ready:
            self.process.kill()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.errors)


def _environment(platform: str) -> dict[str, str]:
    """The server's environment, by an allow-list, so that no secret of the coordinator's is ever in it."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    if platform != "cpu":
        kept |= {"XLA_PYTHON_CLIENT_MEM_FRACTION": _DEVICE_MEMORY}
        kept |= {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_KEPT_FOR_ACCELERATORS) and not _SECRET.search(name)
        }
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    fixed = {
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join(_import_path()),
        "JAX_PLATFORMS": "cpu" if platform == "cpu" else f"{platform},cpu",
    }
    return kept | threads | fixed


def _import_path() -> list[str]:
    """Where the coordinator imports from, in its order, and this package's folder, so that jobs import the same."""
    folders = [str(Path(entry or ".").resolve()) for entry in sys.path]
    folders.append(str(Path(server.__file__).resolve().parents[2]))
    return [folder for folder in dict.fromkeys(folders) if Path(folder).exists()]
