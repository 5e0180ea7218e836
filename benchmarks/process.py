"""Runs a search as a person would and watches its processes: seconds, memory, what each kind of process used.

In goes a command line, out comes what the whole tree of processes used: the coordinator, the server of jobs, and the
jobs. It reads `/proc`, so Linux only. The CPU seconds of the whole tree come from the kernel, when it has ended; how
they divide, and the memory, are sampled.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """`python -m nas.search` with these arguments, in this interpreter."""
    return [sys.executable, "-m", "nas.search", *arguments]


def measure(command: Sequence[str], output: Path, errors: Path) -> Measured:
    """Run a command to its end and measure it.

    Args:
      command: what to run.
      output: file to which its standard output is added.
      errors: file to which its standard error is added.
    """
    with output.open("ab") as out, errors.open("ab") as err:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
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
    """Whether this is the server of jobs, and not a job that was forked from it: it leads a session it was born to."""
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
