"""The desk: an executor that also answers requests to a model, so that a flow waits for both in the same way.

Jobs go through to the executor. A request is answered from the run's transcript if it was answered before, from the
transcript of another run in a replay, and else by the client, which pays for it. Every answer is a file before the
flow that asked hears of it. What is not done here: deciding what to ask, and counting money (`ledger.py`).
"""

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from nas.execute import Event, Executor, Job, Need, Usage
from nas.llm import Reply, Request
from nas.llm.ledger import Ledger
from nas.llm.transcript import Call, Replay, Transcript

if TYPE_CHECKING:
    from concurrent.futures import Future

    from nas.llm.client import Client

_LOOK_S = 0.05
"""How often answers are looked for while jobs are waited for [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a flow is sent for a request, as the result of its event.

    Attributes:
      reply: what came of it.
      usd: what it cost in dollars, as a decimal number in a string; None if the price is not known.
    """

    reply: Reply
    usd: str | None


class Nobody:
    """Who answers in a run that goes on without its model: every call is one that will not do."""

    def answer(self, request: Request) -> Call:
        """No answer."""
        message = "the run goes on without the model"
        return Call(request=request, reply=Reply(outcome="halt", model=request.model, message=message), usd="0")


class Desk:
    """See the module's docstring.

    Args:
      executor: runs the jobs; whoever made it closes it.
      transcript: of this run.
      ledger: counts what the client spends, and knows what a reply cost.
      source: who answers what the transcript does not hold.
    """

    def __init__(
        self, executor: Executor, transcript: Transcript, ledger: Ledger, source: "Client | Replay | Nobody"
    ) -> None:
        self.executor, self.transcript, self.ledger, self.source = executor, transcript, ledger, source
        self._waiting: set[str] = set()
        self._ended: queue.SimpleQueue[tuple[Request, Reply, str | None, bool]] = queue.SimpleQueue()

    def capacity(self) -> Need:
        """What the executor has."""
        return self.executor.capacity()

    def submit(self, job: Job | Request) -> None:
        """Queue a job, or ask a question."""
        if isinstance(job, Job):
            self.executor.submit(job)
            return
        if job.id in self._waiting:
            raise ValueError(f"request '{job.id}' is asked already; give every request of a run its own id")
        self._waiting.add(job.id)
        known = self.transcript.find(job)
        if known is not None:
            self._ended.put((job, known.reply, known.usd, False))
        elif isinstance(self.source, Replay | Nobody):
            played = self.source.answer(job)
            self._ended.put((job, played.reply, played.usd, True))
        else:  # the ledger notes the call in the transcript when it gives money for it
            self.source.submit(job).add_done_callback(partial(self._arrived, job))

    def _arrived(self, request: Request, future: "Future[Reply]") -> None:
        """In the client's thread."""
        if future.cancelled():
            return
        try:
            reply = future.result()
        except Exception as error:  # a defect of the client must not leave a flow waiting
            reply = Reply(outcome="halt", model=request.model, message=f"{type(error).__name__}: {error}")
        self._ended.put((request, reply, self.ledger.cost(request, reply), True))

    def poll(self, timeout_s: float = 0.0) -> Sequence[Event]:
        """Events since the last call, at once if there are some, else after at most `timeout_s` seconds."""
        until = time.monotonic() + timeout_s
        while True:
            events = self._answers()
            left = max(0.0, until - time.monotonic())
            # Nothing wakes the executor when an answer comes, so it is not left alone for long.
            step = 0.0 if events else min(left, _LOOK_S) if self._waiting else left
            events += self.executor.poll(step)
            if events or left == 0.0:
                return events

    def cancel(self, job_id: str) -> None:
        """End a job; a request goes on, since it may have been paid for."""
        self.executor.cancel(job_id)

    def close(self) -> None:
        """Let go of what is being asked, and keep what was answered; a resumed run asks for the rest again."""
        close = getattr(self.source, "close", None)
        if close is not None:
            close()
        self._answers()

    def _answers(self) -> list[Event]:
        events = []
        while True:
            try:
                request, reply, usd, new = self._ended.get_nowait()
            except queue.Empty:
                return events
            if new:
                self.transcript.record(request, reply, usd)
            self._waiting.discard(request.id)
            usage = Usage(wall_s=reply.seconds)
            events.append(Event(job_id=request.id, kind="done", result=Answer(reply=reply, usd=usd), usage=usage))
