"""Runs jobs on this machine: one supervised process for each, forked from a server that has imported JAX already.

The coordinator's side of `server.py`, whose docstring says how the three kinds of process share the work: the server
forks and reaps, the coordinator (this module, in the caller's process) queues, limits and kills. One job runs per
core, and one per accelerator where there are some. `launch.py` speaks with the server, `attempt.py` with the job.

Everything happens inside `poll`: between two calls no job is started and no limit is enforced, and a job whose
answer is longer than a socket's buffer (some 200 kB) waits. The exception is a sealed job's processor time and address
space, which the kernel limits. Memory is limited for a job and its descendants as they are found every 0.2 s, on Linux
only; it is not reserved, so that the limits of the jobs that run may add up to more than the machine has.
"""

import bisect
import contextlib
import itertools
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from nas.execute import Event, Job, Need, NoServer, Sandbox, Unlocked, Usage, confine, server, usual_sandbox
from nas.execute.attempt import Attempt, Waiting, last_line, resident_bytes
from nas.execute.launch import ServerProcess

PRELOAD = ("numpy", "jax", "jax.numpy", "jax.export", "flax.nnx", "optax", "safetensors.numpy")
"""Modules that the server imports by default."""

_VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "tpu": "TPU_VISIBLE_CHIPS"}
_TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1"}  # how libtpu wants a process's chips described

_BOOT_S = 300.0  # the server imports for seconds, on a cold network disk for minutes
_PATIENCE_S = 30.0  # to answer takes the server milliseconds; past this it hangs, and is replaced
_LAST_S = 1.0  # a server that has closed its socket is given this long to end by itself
_ORPHAN_S = 2.0  # a job whose server died is given this long to be gone before it is given up
_SERVERS = 10  # a job under which so many have died may be what kills them; and so often one is killed as it starts
_LOOK_S = 0.2
_LONGEST_WAIT_S = 60.0
_SPARE_CPU_S = 10
_ADDRESS_SPACE_BYTES = 6 << 30  # tracing takes about 1.5 GiB of it, most of which is never touched
_SPARE_BYTES = 4 << 30  # address space above resident memory


class LocalExecutor:
    """The executor for one machine; see `nas.execute.Executor` for what the methods promise.

    Jobs start in order of priority and arrival. One that waits for cores is overtaken by none; one that waits for
    an accelerator only by those that need none.

    Args:
      workers: how many cores to use, by default all that this process may use.
      preload: modules to import once, before jobs are forked. They must open no JAX backend and start no thread.
      sandbox: how sealed jobs are locked, see `nas.execute.Sandbox`; by default as `usual_sandbox` says.
      accelerators: the devices to hand out, `cuda:0` or `tpu:0` and so on, all of one kind; none by default. A job
        sees those that it was given, and JAX in a job that was given none runs on the CPU.

    Raises:
      ValueError: an argument is not one of those allowed.
    """

    def __init__(
        self,
        workers: int | None = None,
        preload: Sequence[str] = PRELOAD,
        accelerators: Sequence[str] | None = None,
        *,
        sandbox: Sandbox | None = None,
    ) -> None:
        self._workers = _cores() if workers is None else workers
        if self._workers < 1:
            raise ValueError(f"workers={workers}: at least 1 is needed; leave it out to use every core")
        self._accelerators = tuple(accelerators or ())
        self._platform = _platform(self._accelerators)
        self._preload = tuple(preload)
        self._sandbox: Sandbox = sandbox or usual_sandbox()
        self._imported: tuple[int, list[str]] = (0, [])
        self._free_cores = self._workers
        self._free_accelerators = list(self._accelerators)
        self._known: set[str] = set()
        self._waiting: list[Waiting] = []
        self._running: dict[int, Attempt] = {}
        self._events: list[Event] = []
        self._numbers = itertools.count(1)
        self._selector = selectors.DefaultSelector()
        self._closed = False
        self._killed_at_start = 0
        self._server: ServerProcess | None = self._launch()

    def capacity(self) -> Need:
        """Cores and accelerators; memory is limited but not reserved, hence 0."""
        return Need(cpus=self._workers, accelerators=len(self._accelerators))

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
          ValueError: its id is known already, it needs more than there is, or its payload is not plain data.
          RuntimeError: the executor is closed.
        """
        if self._closed:
            raise RuntimeError(f"job {job.id!r}: the executor is closed; make a new one")
        if job.id in self._known:
            raise ValueError(f"job {job.id!r} was submitted before; every job needs an id of its own")
        self._check(job)
        try:
            frame = server.to_frame({"entry": job.entry, "payload": dict(job.payload)})
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"job {job.id!r}: its payload must be plain data: {error}") from None
        self._known.add(job.id)
        self._enqueue(Waiting(order=(job.priority, len(self._known)), job=replace(job, payload={}), frame=frame))

    def poll(self, timeout_s: float = 0.0) -> Sequence[Event]:
        """Events since the last call, at once if there are some, else after at most `timeout_s` seconds.

        Raises:
          NoServer: the server cannot start; the message ends with the last line that it wrote.
        """
        if self._closed:
            return []
        deadline = time.monotonic() + timeout_s
        while True:
            due = self._enforce()
            self._start()
            wait = min(due, deadline) - time.monotonic()
            for key, mask in self._selector.select(0 if self._events else min(max(wait, 0), _LONGEST_WAIT_S)):
                key.data(mask)
            if self._events or time.monotonic() >= deadline:
                break
        self._start()  # so that no core idles until the next call
        events, self._events = self._events, []
        return events

    def missing_locks(self) -> dict[str, str]:
        """Find out which locks sealed jobs lack here, and why, by running one; nothing else may run or wait.

        Raises:
          Unlocked: they would not run.
        """
        if self._sandbox == "off":
            return dict.fromkeys(confine.LAYERS, "it is off")
        wanted, self._sandbox = self._sandbox, "auto"
        try:
            self.submit(Job(id="missing locks", entry="nas.execute.confine:report_job", payload={}, sealed=True))
            while not (events := self.poll(1.0)):
                pass
        finally:
            self._sandbox = wanted
        if events[0].kind != "done":
            raise Unlocked(f"a sealed job does not run here: {events[0].error or events[0].kind}")
        missing = {layer: why for layer, why in events[0].result.items() if why}
        if missing and wanted == "strict":
            raise Unlocked("; ".join(confine.sentence(layer, why) for layer, why in missing.items()))
        return missing

    def cancel(self, job_id: str) -> None:
        """End a job, running or waiting; its event says `cancelled`. Unknown ids, and jobs that ended, are ignored."""
        for waiting in self._waiting:
            if waiting.job.id == job_id:
                self._waiting.remove(waiting)
                self._events.append(waiting.event("cancelled"))
                return
        for attempt in self._running.values():
            if attempt.waiting.job.id == job_id:
                attempt.settle("cancelled")
                self._end(attempt)
                return

    def close(self) -> None:
        """End every job and every process of the executor. May be called twice."""
        if self._closed:
            return
        self._closed = True
        for attempt in self._running.values():
            if attempt.pid:
                server.kill_group(attempt.pid)
            attempt.close()
        if self._server is not None:
            self._server.stop()
        self._selector.close()
        self._running.clear()
        self._waiting.clear()
        self._events.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, job: Job) -> None:
        need = job.need
        if not (1 <= need.cpus <= self._workers and 0 <= need.accelerators <= len(self._accelerators)):
            raise ValueError(
                f"job {job.id!r} needs {need.cpus} cores and {need.accelerators} accelerators; this executor has "
                f"{self._workers} and {len(self._accelerators)}, and a job takes at least one core"
            )
        if job.sealed and need.accelerators:
            raise ValueError(f"job {job.id!r} is sealed and asks for an accelerator; sealed jobs are given none")
        if job.attempts < 1 or job.timeout_s <= 0:
            raise ValueError(f"job {job.id!r}: attempts={job.attempts} and timeout_s={job.timeout_s} must be above 0")

    # From the queue to the server.

    def _enqueue(self, waiting: Waiting) -> None:
        bisect.insort(self._waiting, waiting, key=lambda entry: entry.order)

    def _start(self) -> None:
        """Start what waits, as far as there is room."""
        if not self._waiting:
            return
        if self._server is None:
            self._server = self._launch()
        passed = False
        for waiting in list(self._waiting) if self._server.ready else ():
            need = waiting.job.need
            if need.cpus > self._free_cores:
                break
            if need.accelerators and (passed or need.accelerators > len(self._free_accelerators)):
                passed = True
                continue
            self._hand_over(waiting, self._server)
            self._waiting.remove(waiting)

    def _launch(self) -> ServerProcess:
        process = ServerProcess(self._preload, self._platform)
        self._selector.register(process.channel, selectors.EVENT_READ, partial(self._hear_server, process))
        self._selector.register(process.errors, selectors.EVENT_READ, partial(self._hear_server_errors, process))
        return process

    def _hand_over(self, waiting: Waiting, process: ServerProcess) -> None:
        """Have the server fork a job for it, and send the job its call."""
        channel, theirs = socket.socketpair()
        errors, writable = os.pipe()
        channel.setblocking(False)
        os.set_blocking(errors, False)
        need = waiting.job.need
        given = tuple(self._free_accelerators[: need.accelerators])
        attempt = Attempt(
            number=next(self._numbers),
            waiting=waiting,
            given=given,
            channel=channel,
            errors=errors,
            asked=time.monotonic(),
        )
        self._running[attempt.number] = attempt
        self._free_cores -= need.cpus
        del self._free_accelerators[: need.accelerators]
        process.send(asdict(self._request(attempt)), (theirs.fileno(), writable))
        theirs.close()
        os.close(writable)
        events = selectors.EVENT_READ if attempt.push() else selectors.EVENT_READ | selectors.EVENT_WRITE
        self._selector.register(channel, events, partial(self._hear_job, attempt))
        self._selector.register(errors, selectors.EVENT_READ, partial(self._hear_errors, attempt))

    def _request(self, attempt: Attempt) -> server.Start:
        job = attempt.waiting.job
        platform = f"{self._platform},cpu" if attempt.given else "cpu"
        # One thread pool of one thread: on the CPU, results depend on the number of threads.
        environment = {"NPROC": "1", "JAX_PLATFORMS": platform}
        if job.sealed:
            environment |= {"PATH": os.defpath, "HOME": "/nonexistent", "PYTHONHASHSEED": "0"}
        else:
            environment |= _visible(self._platform, attempt.given)
        memory = job.need.memory_bytes
        return server.Start(
            number=attempt.number,
            sealed=job.sealed,
            environment=environment,
            address_space_bytes=memory + _SPARE_BYTES if memory else _ADDRESS_SPACE_BYTES,
            # For when nobody polls; a job on several cores may use that many seconds in one.
            cpu_s=math.ceil(min(job.timeout_s * job.need.cpus, 1e9)) + _SPARE_CPU_S,
            sandbox=self._sandbox if job.sealed or job.writable is not None and not attempt.given else "off",
            readable=[*self._modules(), *map(os.path.realpath, job.readable)] if job.sealed else ["/"],
            writable=[] if job.sealed else [*map(os.path.realpath, job.writable or ()), os.devnull],
        )

    def _modules(self) -> list[str]:
        """Where Python and what was imported so far are read from: what a job may need of a space among it."""
        if self._imported[0] != len(sys.modules):
            self._imported = len(sys.modules), [*confine.installation(), *confine.modules()]
        return self._imported[1]

    # From a job's end to its event.

    def _end(self, attempt: Attempt) -> None:
        """Kill what is left of it, and have the server reap it; if it is not known yet as which process, later."""
        attempt.ending = True
        if attempt.pid and attempt.asked == math.inf and attempt.orphaned == math.inf:
            server.kill_group(attempt.pid)
            attempt.asked = time.monotonic()
            if self._server is not None:
                self._server.send(attempt.number)

    def _finish(self, attempt: Attempt, usage: Usage, death: str) -> None:
        """It is gone: free what it held, and report it or try again."""
        self._forget(attempt.channel)
        self._forget(attempt.errors)
        attempt.close()
        del self._running[attempt.number]
        self._free_cores += attempt.waiting.job.need.cpus
        self._free_accelerators.extend(attempt.given)
        waiting, servers = attempt.waiting, attempt.waiting.servers + (attempt.orphaned < math.inf)
        if attempt.event is None and servers < _SERVERS and waiting.attempt - servers < waiting.job.attempts:
            self._enqueue(replace(waiting, attempt=waiting.attempt + 1, servers=servers))
            return
        attempt.settle("lost", error=death)
        assert attempt.event is not None
        self._events.append(replace(attempt.event, usage=usage))

    def _enforce(self) -> float:
        """End what has passed a limit. Returns when to look again [s, monotonic]."""
        now = time.monotonic()
        due = math.inf
        if self._server is not None and not self._server.ready:
            due = self._server.launched + _BOOT_S
            if now >= due:
                self._server.process.kill()
        for attempt in list(self._running.values()):
            due = min(due, self._enforce_one(attempt, now))
        return due

    def _enforce_one(self, attempt: Attempt, now: float) -> float:
        job = attempt.waiting.job
        if attempt.orphaned < math.inf:
            if attempt.heard_out or now >= attempt.orphaned + _ORPHAN_S:
                self._finish(attempt, Usage(wall_s=max(attempt.orphaned - attempt.started, 0)), "its server died")
            return attempt.orphaned + _ORPHAN_S
        if attempt.asked < math.inf:
            if now >= attempt.asked + _PATIENCE_S and self._server is not None:
                self._server.process.kill()
            return attempt.asked + _PATIENCE_S
        if now >= attempt.started + job.timeout_s:
            attempt.settle("timeout", error=f"it ran longer than {job.timeout_s:g} s")
            self._end(attempt)
        elif job.need.memory_bytes and now >= attempt.looked + _LOOK_S:
            attempt.looked = now
            if (resident := resident_bytes(attempt.pid)) > job.need.memory_bytes:
                limit = job.need.memory_bytes
                attempt.settle("memory", error=f"{resident >> 20} MiB resident; {limit >> 20} MiB are allowed")
                self._end(attempt)
        look = attempt.looked + _LOOK_S if job.need.memory_bytes else math.inf
        return min(attempt.started + job.timeout_s, look)

    # What is heard.

    def _hear_job(self, attempt: Attempt, mask: int) -> None:
        if attempt.number not in self._running:
            return
        if mask & selectors.EVENT_WRITE and attempt.push():
            self._selector.modify(attempt.channel, selectors.EVENT_READ, partial(self._hear_job, attempt))
        if mask & selectors.EVENT_READ:
            attempt.pull()
            if attempt.heard_out:
                self._forget(attempt.channel)
            if attempt.event is not None or attempt.heard_out:
                self._end(attempt)

    def _hear_errors(self, attempt: Attempt, mask: int) -> None:
        if attempt.number in self._running and not attempt.pull_errors():
            self._forget(attempt.errors)
            if attempt.event is not None:
                self._end(attempt)

    def _hear_server_errors(self, process: ServerProcess, mask: int) -> None:
        if process is self._server and not process.pull_errors():
            self._forget(process.errors)

    def _hear_server(self, process: ServerProcess, mask: int) -> None:
        if process is not self._server:
            return
        messages = process.receive()
        for what, number, report in messages or ():
            if what == "ready":
                process.ready, self._killed_at_start = True, 0
            elif number in self._running:
                self._note(self._running[number], what, report)
        if messages is None:
            self._bury(process)

    def _note(self, attempt: Attempt, what: str, report: Mapping[str, Any]) -> None:
        """What the server says about a job."""
        if what == "started":
            attempt.pid, attempt.started, attempt.asked = report["pid"], time.monotonic(), math.inf
            if attempt.ending:
                self._end(attempt)
        elif what == "failed":
            self._finish(attempt, Usage(), report["error"])
        elif what == "exited":
            attempt.pull()
            self._end(attempt)
        elif what == "ended":
            attempt.pull_errors()
            if os.waitstatus_to_exitcode(report["status"]) == -signal.SIGXCPU:
                attempt.settle("timeout", error="it used more processor time than its limits allow")
            usage = Usage(cpu_s=report["cpu_s"], wall_s=report["wall_s"], peak_bytes=report["peak_bytes"])
            self._finish(attempt, usage, attempt.death(report["status"]))

    def _bury(self, process: ServerProcess) -> None:
        """The server has died: so do its jobs, which are lost; another one is started when there is work."""
        self._forget(process.channel)
        self._forget(process.errors)
        process.pull_errors()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.process.wait(_LAST_S)  # how it ended is told apart from what stop() would do to it
        process.stop()
        self._server = None
        for attempt in self._running.values():
            # From here on it is init that reaps. A number is not given away while its group has a member, so this
            # could hit a stranger only if the whole range of numbers had been used up within these milliseconds.
            if attempt.pid:
                server.kill_group(attempt.pid)
            attempt.ending, attempt.orphaned = True, min(attempt.orphaned, time.monotonic())
        if process.ready:
            return
        self._killed_at_start += 1
        in_time = time.monotonic() < process.launched + _BOOT_S
        if process.process.returncode < 0 and in_time and self._killed_at_start < _SERVERS:
            return  # somebody killed it, and not for being late
        last = last_line(process.tail) or f"exit status {process.process.returncode}"
        raise NoServer(f"the server of jobs, which imports {', '.join(self._preload)}, did not start: {last}")

    def _forget(self, handle: socket.socket | int) -> None:
        with contextlib.suppress(KeyError, ValueError):  # it is not registered, or closed
            self._selector.unregister(handle)


def _platform(accelerators: Sequence[str]) -> str:
    """JAX's name for the kind of accelerators, `cpu` if there are none."""
    kinds = {name.partition(":")[0] for name in accelerators} or {"cpu"}
    if len(kinds) > 1 or not kinds <= {"cpu", *_VISIBLE} or not all(name.partition(":")[2] for name in accelerators):
        raise ValueError(f"accelerators={list(accelerators)}: allowed are cuda:0, cuda:1, … or tpu:0, tpu:1, …")
    return kinds.pop()


def _visible(platform: str, given: Sequence[str]) -> dict[str, str]:
    """Variables by which a job sees the accelerators that it was given, and no others."""
    visible = dict.fromkeys(_VISIBLE.values(), "")
    if given:
        visible[_VISIBLE[platform]] = ",".join(name.partition(":")[2] for name in given)
    if platform == "tpu" and len(given) in _TPU_BOUNDS:
        visible |= {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": _TPU_BOUNDS[len(given)]}
    return visible


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
