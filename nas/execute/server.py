"""The process from which jobs are forked: it has imported what they need, and holds no secret, no data, no device.

`local.py` starts it as a script of its own, with a scrubbed environment and in a session of its own. In come small
requests (fork a job, reap a job), out go small reports (started, exited, ended); what a job is given and what it
returns travels on a socket between the job and the coordinator and is never in this process, so that a job cannot
find in inherited memory what another one worked on. The server is single-threaded and opens no JAX backend: a fork of
a process with XLA's threads hangs.

Who may end a process, and when. The coordinator kills, the server reaps, and only when asked: a job that has ended
stays a zombie until the coordinator says that it is through with it. While it does, its number can be given to no
other process, so the coordinator may signal job and group at any time without looking, also when this process hangs.
What a job leaves behind in other groups or sessions is handed to the server by the kernel (it is a subreaper) and
killed when the job is reaped. If the coordinator dies, the server kills everything and leaves; if the server dies,
the kernel kills the jobs (parent-death signal). What neither covers: descendants that a job moved to a session of
their own, when the server is killed.

Deliberately not here: queue, priorities, limits on time and memory, retries. Those are the coordinator's.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import msgpack

from nas.execute import confine

HEADER = struct.Struct(">Q")
"""Every message is preceded by the number of its bytes."""

FRAME_LIMIT_BYTES = 64 << 20
"""The longest answer that a job may give."""

ERROR_LIMIT = 2000
"""Characters of an error's text."""

_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CHECK_S = 1.0
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A request to fork a job, as it travels to the server; two descriptors travel with it: its socket and its stderr.

    Attributes:
      number: the coordinator's number for this attempt.
      sealed: nothing but `environment` is set, the limits below hold, and the working directory is `/`.
      environment: variables to set.
      address_space_bytes: limit of virtual memory of a sealed job.
      cpu_s: limit of processor time of a sealed job [s].
      sandbox: `strict`, `auto` or `off`: whether the kernel locks the job, see `confine`, and whether it runs where a
        lock is missing; `off` for one that needs none.
      readable: what it may read.
      writable: where it may write.
    """

    number: int
    sealed: bool
    environment: Mapping[str, str]
    address_space_bytes: int
    cpu_s: int
    sandbox: str
    readable: Sequence[str]
    writable: Sequence[str]


def to_frame(message: Any) -> bytes:
    """Encode plain data with its length in front. Raises TypeError, ValueError or OverflowError if it is not plain."""
    body = cast(bytes, msgpack.packb(message))
    return HEADER.pack(len(body)) + body


def main() -> None:
    """Serve until the coordinator leaves. Arguments: socket's descriptor, coordinator's pid, modules to import."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    coordinator, preload = int(sys.argv[2]), sys.argv[3:]
    del sys.argv[1:]
    gc.disable()
    if _LINUX:  # to import takes seconds, in which nothing is heard; if the coordinator dies, so does this
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != coordinator:
            return
    for name in preload:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is imported stays shared: a collection in a job would copy its pages
    if _LINUX:  # from here on it has jobs to kill first
        _prctl(_PR_SET_PDEATHSIG, 0)
    _run(*_Server(channel, coordinator).serve())


@dataclass(slots=True)
class _Child:
    pid: int
    started: float
    ended: float = 0.0  # when its exit was noticed; 0 while it runs
    released: bool = False  # the coordinator is through with it


class _Server:
    """Forks and reaps; all that it knows about a job is its pid."""

    def __init__(self, channel: socket.socket, coordinator: int) -> None:
        self._channel = channel
        self._coordinator = coordinator
        self._pid = os.getpid()
        self._children: dict[int, _Child] = {}
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler must exist for the descriptor below to be written
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(channel, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        if _LINUX:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def serve(self) -> tuple[Start, int, int]:
        """Answer requests. Returns in a forked job only: what to run, its socket, its stderr."""
        self._send("ready", 0)
        while True:
            ready = {key.fileobj for key, _ in self._selector.select(_CHECK_S)}
            if self._wake in ready:
                self._wake.recv(4096)
            if self._channel in ready:
                request, descriptors = self._receive()
                if isinstance(request, Start):
                    if self._fork(request, descriptors):
                        return request, *descriptors
                else:
                    self._children[request].released = True
            # The socket says so when the coordinator is gone, unless a process that it forked still holds a copy.
            if os.getppid() != self._coordinator:
                self._leave()
            self._watch()

    def _receive(self) -> tuple[Start | int, tuple[int, int]]:
        head, descriptors, _, _ = socket.recv_fds(self._channel, HEADER.size, 2)
        if len(head) < HEADER.size:
            self._leave()
        message = msgpack.unpackb(_read(self._channel.fileno(), HEADER.unpack(head)[0]))
        if isinstance(message, int):
            return message, (-1, -1)
        return Start(**message), (descriptors[0], descriptors[1])

    def _send(self, what: str, number: int, **report: Any) -> None:
        try:
            self._channel.sendall(to_frame([what, number, report]))
        except OSError:
            self._leave()

    def _fork(self, start: Start, descriptors: tuple[int, int]) -> bool:
        """Fork; say whether this is the child."""
        try:
            pid = os.fork()
        except OSError as error:
            self._send("failed", start.number, error=f"cannot fork: {error.strerror}")
            pid = -1
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for handle in (self._selector, self._channel, self._wake, self._waker):
                handle.close()
            _leave_the_server(self._pid)
            return True
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            self._children[start.number] = _Child(pid, time.monotonic())
            self._send("started", start.number, pid=pid)
        return False

    def _watch(self) -> None:
        """Report jobs that have ended, and reap those that the coordinator is through with."""
        for number, child in list(self._children.items()):
            if child.released:
                pid, status, usage = os.wait4(child.pid, os.WNOHANG)
                if not pid:
                    continue
                del self._children[number]
                self._sweep()
                unit = 1024 if _LINUX else 1  # of ru_maxrss
                ended = child.ended or time.monotonic()
                used = {"cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": ended - child.started}
                self._send("ended", number, status=status, peak_bytes=usage.ru_maxrss * unit, **used)
            elif _LINUX and not child.ended and _has_exited(child.pid):
                child.ended = time.monotonic()
                self._send("exited", number)

    def _sweep(self) -> None:
        """Kill what ended jobs left behind: children of ours that belong to no job that is known."""
        known = {child.pid for child in self._children.values()}
        while strays := [pid for pid in _own_children() if pid not in known and os.getsid(pid) not in known]:
            for pid in strays:
                os.kill(pid, signal.SIGKILL)
            for pid in strays:
                os.waitpid(pid, 0)  # hands over its own children, if it had any: hence the loop

    def _leave(self) -> NoReturn:
        for child in self._children.values():
            kill_group(child.pid)
        for child in self._children.values():
            os.waitpid(child.pid, 0)
        self._children.clear()
        self._sweep()
        os._exit(0)


def kill_group(pid: int) -> None:
    """Kill a job and its process group; safe to call twice, and before the job has made its group.

    The caller knows that the job has not been reaped, so that the number still is its own.
    """
    for kill in (os.kill, os.killpg):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # gone, or (macOS) only zombies are left in the group
            pass


def _has_exited(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _own_children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # not Linux, or a kernel without this file: groups are all that is swept
        return []


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


# What follows runs in the job.


def _leave_the_server(server: int) -> None:
    """Begin a session of its own, in which Ctrl-C does not reach the job, and die when the server dies."""
    os.setsid()
    if _LINUX:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:  # it died before the line above
            os._exit(1)
    for number in (signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _run(start: Start, channel: int, errors: int) -> NoReturn:
    """Do one job and leave: read the call, make it, write the answer."""
    try:
        _arrange_descriptors(channel, errors)
        _apply(start)
        size = HEADER.unpack(_read(channel, HEADER.size))[0]
        call = msgpack.unpackb(_read(channel, size), strict_map_key=False)
        unsent = memoryview(_answer(call["entry"], call["payload"]))
        while unsent:
            unsent = unsent[os.write(channel, unsent) :]
    finally:
        os._exit(0)  # no clean-up of what was inherited, and no exit handlers of libraries


def _arrange_descriptors(channel: int, errors: int) -> None:
    """Keep the null device as 0 and 1, stderr as 2, and the socket; close all others."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(errors, 2)
    for descriptor in [int(name) for name in os.listdir("/dev/fd")]:
        if descriptor > 2 and descriptor != channel:
            try:
                os.close(descriptor)
            except OSError:  # the one that listed the folder
                pass
    os.set_inheritable(channel, False)


def _apply(start: Start) -> None:
    """Set environment, limits and locks: the job has not read its call yet."""
    _limit(resource.RLIMIT_CORE, 0)
    if _LINUX:  # when memory runs out, the kernel is to end a job, not the coordinator
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    if start.sealed:
        os.environ.clear()
        os.chdir("/")
        _limit(resource.RLIMIT_AS, start.address_space_bytes)
        _limit(resource.RLIMIT_CPU, start.cpu_s, start.cpu_s + 1)  # a signal that can be told apart, then SIGKILL
        _limit(resource.RLIMIT_FSIZE, 1 << 20)
        _limit(resource.RLIMIT_NOFILE, 256)
    os.environ.update(start.environment)
    if "jax" in sys.modules:  # it read the server's variable when it was imported
        sys.modules["jax"].config.update("jax_platforms", start.environment["JAX_PLATFORMS"])
    if start.sandbox != "off":
        held = confine.confine(start.readable, start.writable)
        missing = [f"{layer}: {why}" for layer, why in held.items() if why]
        if missing and start.sandbox == "strict":
            print(f"the sandbox lacks {'; '.join(missing)}", file=sys.stderr, flush=True)
            os._exit(1)
    gc.enable()


def _limit(kind: int, soft: int, hard: int | None = None) -> None:
    hard = soft if hard is None else hard
    ceiling = resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


def _answer(entry: str, payload: Mapping[str, Any]) -> bytes:
    """Call the job's function; its answer, or what it raised, as a frame."""
    try:
        module, _, function = entry.partition(":")
        result = getattr(importlib.import_module(module), function)(**payload)
        try:
            frame = to_frame({"ok": result})
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{entry} returned what is no plain data: {error}") from None
        if len(frame) > FRAME_LIMIT_BYTES + HEADER.size:
            raise ValueError(f"{entry} returned {len(frame)} bytes; at most {FRAME_LIMIT_BYTES} are allowed")
        return frame
    except BaseException as error:
        return to_frame({"error": _describe(error)})


def _describe(error: BaseException) -> str:
    """`Type: message (file:line)`: the innermost line outside installed packages, or else the innermost one."""
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [line for line in lines[1:] if "site-packages" not in line[0] and not line[0].startswith("<frozen")]
    file, number = (own or lines)[-1]
    text = f"{type(error).__name__}: {error}"[:ERROR_LIMIT]
    return f"{text} ({os.path.basename(file)}:{number})".encode(errors="replace").decode()


def _read(descriptor: int, size: int) -> bytes:
    """Exactly `size` bytes; waits for them. Raises EOFError if the other side leaves first."""
    data = bytearray()
    while len(data) < size:
        part = os.read(descriptor, min(size - len(data), _CHUNK_BYTES))
        if not part:
            raise EOFError(f"the other side left after {len(data)} of {size} bytes")
        data += part
    return bytes(data)


if __name__ == "__main__":
    main()
