"""One attempt at a job, as the coordinator hears it: its socket, its stderr, its answer, its memory.

In goes what a process that may be hostile writes; out comes at most one `Event`. The answer's length is bounded,
decoding bounds the number of values and admits plain data only, and text is stripped of control characters. Whatever
is wrong with an answer makes the job an `error`; nothing here raises because of what a job did.
"""

import contextlib
import math
import os
import signal
import socket
from dataclasses import dataclass, field
from typing import Any

import msgpack

from nas.execute import Event, Job
from nas.execute.server import ERROR_LIMIT, FRAME_LIMIT_BYTES, HEADER

ENTRIES_LIMIT = 2_000_000
"""Values in the lists and dicts of one answer: 64 MiB of empty lists would decode into 4 GiB."""

STDERR_LIMIT_BYTES = 16 << 20
"""A job that writes more than this to stderr is ended: reading it costs the coordinator time."""

_TAIL_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_PLAIN = (type(None), bool, int, float, str, bytes, list, dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job in the queue.

    Attributes:
      order: priority and arrival; a retried job keeps its place.
      job: without its payload.
      frame: entry and payload, encoded.
      attempt: which attempt is to be made, from 1.
      servers: how many attempts ended because the server died.
    """

    order: tuple[int, int]
    job: Job
    frame: bytes
    attempt: int = 1
    servers: int = 0

    def event(self, kind: Any, *, result: Any = None, error: str = "") -> Event:
        """How this attempt ended."""
        return Event(job_id=self.job.id, kind=kind, result=result, error=error, attempt=self.attempt)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A job that was handed to the server.

    Attributes:
      number: by which server and coordinator speak of it.
      waiting: the place in the queue that it came from.
      given: accelerators that it holds.
      channel: our end of the job's socket.
      errors: reading end of its stderr.
      pid: its process, and its process group; 0 until the server has said so.
      started: when it began to run [s, monotonic].
      asked: since when an answer of the server is awaited; infinite if none is.
      looked: when its memory was last looked at.
      orphaned: when its server died; infinite if it did not.
      ending: nothing more is expected of it but to be reaped.
      heard_out: it has closed its socket.
      event: how it ended, once that is known; None at its end means that it was lost.
    """

    number: int
    waiting: Waiting
    given: tuple[str, ...]
    channel: socket.socket
    errors: int
    asked: float
    pid: int = 0
    started: float = math.inf
    looked: float = 0.0
    orphaned: float = math.inf
    ending: bool = False
    heard_out: bool = False
    event: Event | None = None
    _unsent: memoryview = field(init=False)
    _answer: bytearray = field(default_factory=bytearray)
    _tail: bytes = b""
    _written: int = 0

    def __post_init__(self) -> None:
        self._unsent = memoryview(self.waiting.frame)

    def push(self) -> bool:
        """Send what the socket takes of the call; say whether all has been sent."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.channel.send(self._unsent) :]
        except BlockingIOError:
            return False
        except OSError:  # it has died: the server will say so
            self._unsent = memoryview(b"")
        return True

    def pull(self) -> None:
        """Read what the job has answered so far; sets `event` if that is all of it, `heard_out` at the end."""
        while not self.heard_out:
            try:
                data = self.channel.recv(_CHUNK_BYTES)
            except BlockingIOError:
                return
            except OSError:  # reset: it died before it had read its call
                data = b""
            self.heard_out = not data
            if self.event is not None:  # what follows an answer is thrown away, one piece a call
                return
            self._answer += data
            self._understand()

    def pull_errors(self) -> bool:
        """Read what the job has written to stderr; say whether there may be more to come."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.errors, _CHUNK_BYTES):
                self._written += len(data)
                self._tail = (self._tail + data)[-_TAIL_BYTES:]
                if self._written > STDERR_LIMIT_BYTES:
                    self.settle("error", error=f"it wrote more than {STDERR_LIMIT_BYTES >> 20} MiB to stderr")
                    return False
            return False
        return True

    def settle(self, kind: Any, *, result: Any = None, error: str = "") -> None:
        """Say how it ended; what was said first holds."""
        if self.event is None:
            self.event = self.waiting.event(kind, result=result, error=error)
            self._answer.clear()

    def death(self, status: int) -> str:
        """A sentence for a process that ended with this wait status and gave no answer."""
        code = os.waitstatus_to_exitcode(status)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code} without an answer"
        return f"{how}: {last}" if (last := last_line(self._tail)) else how

    def close(self) -> None:
        """Close both descriptors."""
        self.channel.close()
        os.close(self.errors)

    def _understand(self) -> None:
        if len(self._answer) < HEADER.size:
            return
        size = HEADER.unpack_from(self._answer)[0]
        if size > FRAME_LIMIT_BYTES:
            self.settle("error", error=f"its answer has {size} bytes; at most {FRAME_LIMIT_BYTES} are allowed")
        elif len(self._answer) >= HEADER.size + size:
            try:
                answer = decode(bytes(memoryview(self._answer)[HEADER.size : HEADER.size + size]))
            except Exception as error:  # of many kinds, memory included, and all of them the job's doing
                self.settle(
                    "error", error=f"its answer cannot be read: {printable(f'{type(error).__name__}: {error}')}"
                )
            else:
                self._take(answer)

    def _take(self, answer: Any) -> None:
        match answer:
            case {"ok": result}:
                self.settle("done", result=result)
            case {"error": str(error)}:
                self.settle("error", error=printable(error))
            case _:
                self.settle("error", error="its answer is neither a result nor an error")


def decode(frame: bytes) -> Any:
    """Decode plain data of unknown origin. Raises an Exception of some kind if it is not plain, or too much of it."""
    entries = 0

    def count(values: list[Any]) -> None:
        nonlocal entries
        entries += len(values)
        if entries > ENTRIES_LIMIT:
            raise ValueError(f"more than {ENTRIES_LIMIT} values")
        for value in values:
            if type(value) not in _PLAIN:
                raise ValueError(f"{type(value).__name__} is no plain data")

    def check_list(values: list[Any]) -> list[Any]:
        count(values)
        return values

    def check_pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        count([part for pair in pairs for part in pair])
        return dict(pairs)

    return msgpack.unpackb(
        frame,
        strict_map_key=False,
        list_hook=check_list,
        object_pairs_hook=check_pairs,
        max_array_len=ENTRIES_LIMIT,
        max_map_len=ENTRIES_LIMIT,
    )


def printable(text: str) -> str:
    """Cut to a length that can be stored and shown, and without control characters."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text[:ERROR_LIMIT])


def last_line(written: bytes) -> str:
    """The last line that is not empty."""
    lines = written.decode(errors="replace").strip().splitlines()
    return printable(lines[-1].strip()) if lines else ""


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants [bytes], shared pages counted in each; 0 if it is gone.

    On Linux only; elsewhere 0. Processes that a descendant has left to the server are not found.
    """
    total = 0
    unseen = [pid]
    while unseen:
        folder = f"/proc/{unseen.pop()}"
        with contextlib.suppress(OSError):
            with open(f"{folder}/statm") as file:
                total += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for thread in os.listdir(f"{folder}/task"):
                with open(f"{folder}/task/{thread}/children") as file:
                    unseen.extend(int(child) for child in file.read().split())
    return total
