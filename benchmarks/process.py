"""Runs a search as a person would and watches its processes: seconds, memory, what each kind of process used.

In goes a command line, out comes what the whole tree of processes used: the coordinator, the server of jobs, and the
jobs. It reads `/proc`, so Linux only. The CPU seconds of the whole tree come from the kernel, when it has ended; how
they divide, and the memory, are sampled.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas.store import StoreError

SAMPLE_S = 0.5
"""Time between two looks at the tree [s]."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one command used, from its start to its end.

    Attributes:
      status: exit status; negative for a signal.
      wall_s: wall-clock time [s].
      cpu_s: processor time of the whole tree [s].
      server_s: of it, the server of jobs itself: its imports and its forks [s].
      jobs_s: of it, the jobs, as the server knew it up to `SAMPLE_S` before the end [s].
      resident_bytes: highest sum of resident memory over the tree; pages that processes share count in each of them.
      proportional_bytes: the same, where a page that n processes share counts as 1/n in each: what the machine needs.
    """

    status: int
    wall_s: float
    cpu_s: float
    server_s: float
    jobs_s: float
    resident_bytes: int
    proportional_bytes: int


def search_command(*arguments: str) -> list[str]:
    """`python -m nas.search` with these arguments, in this interpreter, without a model unless they name one."""
    proposer = [] if {"--resume", "--proposer"} & set(arguments) else ["--proposer", "evolution"]
    confirm = [] if "--resume" in arguments else ["--confirm", "0"]  # what is measured is the search
    return [sys.executable, "-m", "nas.search", *proposer, *confirm, *arguments]


def measure(command: Sequence[str], output: Path, errors: Path) -> Measured:
    """Run a command to its end and measure it.

    Args:
      command: what to run.
      output: file to which its standard output is added.
      errors: file to which its standard error is added.
    """
    with output.open("ab") as out, errors.open("ab") as err:
        began = time.monotonic()
        # In a session of its own: Ctrl-C reaches this program alone, which passes it on.
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True)
    server_s = jobs_s = 0.0
    resident = proportional = 0
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            tree = [process.pid, *descendants(process.pid)]
            resident = max(resident, sum(map(resident_bytes, tree)))
            proportional = max(proportional, sum(map(proportional_bytes, tree)))
            for own, reaped in (cpu_seconds(pid) for pid in tree if is_server(pid)):
                server_s, jobs_s = max(server_s, own), max(jobs_s, reaped)
            time.sleep(SAMPLE_S)
    except BaseException:
        _end(process)
        raise
    process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would ask for a process that is gone
    return Measured(
        status=process.returncode,
        wall_s=time.monotonic() - began,
        cpu_s=_cpu(usage),
        server_s=server_s,
        jobs_s=jobs_s,
        resident_bytes=resident,
        proportional_bytes=proportional,
    )


def search_into(folder: Path, *arguments: str) -> None:
    """Search into this folder, and note beside it what was used; continue what was begun, leave what is finished.

    Args:
      folder: of the run; what it is called and where it lies is added to the arguments.
      arguments: of `python -m nas.search`, for a run that is not there yet.
    Raises:
      StoreError: the search ended with an error.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sessions = read_sessions(folder)
    if sessions and sessions[-1]["finished"]:
        print(f"{folder}: finished before", file=sys.stderr)
        return
    resumed = (folder / "run.json").exists()
    print(f"{folder}: {'continues' if resumed else 'begins'}", file=sys.stderr)
    fresh = (*arguments, "--results", str(folder.parent), "--name", folder.name)
    output, errors = _beside(folder, "out"), _beside(folder, "err")
    before = output.stat().st_size if output.exists() else 0
    measured = measure(search_command(*(("--resume", str(folder)) if resumed else fresh)), output, errors)
    told = output.read_bytes()[before:].decode(errors="replace")
    finished = measured.status in (0, 1) and "continue: " not in told
    sessions.append(asdict(measured) | {"resumed": resumed, "finished": finished})
    _sessions_path(folder).write_text(json.dumps(sessions, indent=2) + "\n", "utf-8")
    if measured.status not in (0, 1):
        lines = errors.read_text("utf-8", "replace").strip().splitlines()
        raise StoreError(f"a search into '{folder}' ended with {measured.status}: {lines[-1] if lines else ''}")
    print(f"{folder}: {measured.wall_s / 60:.1f} minutes", file=sys.stderr)


def event_lines(folder: Path) -> list[str]:
    """What a search said on standard error, line by line; nothing if it was not made here."""
    errors = _beside(folder, "err")
    return errors.read_text("utf-8", "replace").splitlines() if errors.exists() else []


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """What was measured of a run, one entry for each time that it was started; empty if it was not made here."""
    path = _sessions_path(folder)
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def _sessions_path(folder: Path) -> Path:
    return _beside(folder, "sessions.json")


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f"{folder.name}.{ending}")


def descendants(pid: int) -> list[int]:
    """Processes that descend from this one, nearest first; those that have left the tree are not found."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        folder = Path(f"/proc/{waiting.pop(0)}/task")
        with contextlib.suppress(OSError):
            children = [int(child) for task in folder.iterdir() for child in (task / "children").read_text().split()]
            found += children
            waiting += children
    return found


def is_server(pid: int) -> bool:
    """Whether this is the server of jobs, and not a job that was forked from it and still has its command line."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        parent = Path(f"/proc/{_status(pid)[1]}/cmdline").read_bytes().decode(errors="replace")
        return "execute/server.py" in command and "execute/server.py" not in parent
    return False


def cpu_seconds(pid: int) -> tuple[float, float]:
    """Processor time of a process itself, and of its descendants that it has reaped [s]; 0 if it is gone."""
    with contextlib.suppress(OSError):
        fields = _status(pid)
        return (fields[11] + fields[12]) / _TICKS, (fields[13] + fields[14]) / _TICKS
    return 0.0, 0.0


def resident_bytes(pid: int) -> int:
    """Resident memory of one process [bytes]; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    return 0


def proportional_bytes(pid: int) -> int:
    """A process's share of the memory that is resident [bytes]; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _status(pid: int) -> list[int]:
    """The numbers in /proc/PID/stat behind the name and the state: the second is the parent."""
    return [0, *map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1:])]


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def _end(process: subprocess.Popen[bytes]) -> None:
    """Have a search stop as after Ctrl-C, which leaves a run that can be continued."""
    process.send_signal(signal.SIGINT)
    process.wait()
