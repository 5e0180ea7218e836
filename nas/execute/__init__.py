"""Where work runs: one small protocol of plain-data jobs, whatever the machine behind it.

In go jobs (`module:function` with a payload of plain data), out come events. A job that *fails* is the fault of what
it was given and is never retried; a job that is *lost* (killed, crashed, machine gone) is the machine's and is retried.
This module holds the protocol only; `local.py` is the backend for one machine.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

Sandbox = Literal["strict", "auto", "off"]
"""Whether a sealed job runs where the kernel lacks a lock: not at all, or with the others; `off` uses none."""


class Unlocked(Exception):
    """Sealed jobs would run without a lock that was asked for; the message says which."""


def chosen_sandbox(asked: Sandbox | None, of_the_run: Sandbox | None) -> Sandbox:
    """What a person asks for now, in words or by `NAS_SANDBOX`, comes before what a run was begun with."""
    return asked or (of_the_run if of_the_run and not os.environ.get("NAS_SANDBOX") else usual_sandbox())


def usual_sandbox() -> Sandbox:
    """What holds unless it is said otherwise: `NAS_SANDBOX`, or `strict` where there are such locks."""
    named = os.environ.get("NAS_SANDBOX") or ("strict" if sys.platform == "linux" else "auto")
    for known in get_args(Sandbox):
        if known == named:
            return known
    raise Unlocked(f"NAS_SANDBOX={named} is not known; set it to {', '.join(get_args(Sandbox))}, or to nothing")


class NoServer(RuntimeError):
    """Jobs cannot be run: what starts them does not start; the message ends with the last line that it wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a job occupies while it runs, or what an executor has in all.

    Attributes:
      cpus: processor cores.
      accelerators: whole GPUs or TPU chips; a job sees only those it was given.
      memory_bytes: resident memory above which the job is ended; 0 is no limit.
    """

    cpus: int = 1
    accelerators: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A call of one function in a process of its own.

    Attributes:
      id: unique among the jobs of an executor.
      entry: `module:function`; the function takes the payload's keys as keyword arguments and returns plain data.
      payload: plain data: None, bool, int, float, str, bytes, list, dict.
      need: what it occupies.
      timeout_s: wall-clock limit from the moment it starts to run [s]; then its whole process group is killed.
      attempts: how often it may be started if its process dies; one that went down with the server that forked it is
        started again beside that, ten times at most.
      priority: of the jobs that wait, the one with the lowest number starts first; equal numbers in order of arrival.
      sealed: run with an empty environment and no inherited descriptors, locked by the kernel (`nas.execute.confine`):
        for what executes candidate code.
      readable: files and folders that a sealed job may read besides Python and what was imported; it writes nowhere.
      writable: folders outside which a job that is not sealed writes nothing; it is then locked too, but for reading.
        None is no lock. A job that was given an accelerator has none: what a driver needs is not known.
    """

    id: str
    entry: str
    payload: Mapping[str, Any]
    need: Need = field(default_factory=Need)
    timeout_s: float = 3600.0
    attempts: int = 2
    priority: int = 0
    sealed: bool = False
    readable: Sequence[str] = ()
    writable: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a finished job used: CPU and wall-clock seconds, peak resident memory [bytes]."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """How a job ended.

    Attributes:
      kind: `done` (result holds what the function returned), `error` (it raised: error says what, the job's fault),
        `lost` (its process died in every attempt), `timeout`, `memory` (it passed its limit), or `cancelled`.
      attempt: which attempt this was, from 1.
    """

    job_id: str
    kind: Literal["done", "error", "lost", "timeout", "memory", "cancelled"]
    result: Any = None
    error: str = ""
    attempt: int = 1
    usage: Usage = field(default_factory=Usage)


class Executor(Protocol):
    """Runs jobs. One thread uses it; nothing in it blocks longer than `poll` was told to."""

    def capacity(self) -> Need:
        """What the executor has in all."""
        ...

    def submit(self, job: Job) -> None:
        """Queue a job. Raises ValueError if its id is known already or it needs more than there is."""
        ...

    def poll(self, timeout_s: float = 0.0) -> Sequence[Event]:
        """Events since the last call, at once if there are some, else after at most `timeout_s` seconds."""
        ...

    def cancel(self, job_id: str) -> None:
        """End a job, running or waiting; its event says `cancelled`. Unknown ids are ignored."""
        ...

    def close(self) -> None:
        """End every job and every process of the executor. May be called twice."""
        ...
