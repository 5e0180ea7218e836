"""The loop that joins proposing, admitting, training and judging.

The loop takes numbered slots in turn. At each it first learns the outcomes of the tasks up to `lookahead` slots ago,
in order, and then has the strategy decide one task or none from what it knows. The decision is stored before anything
runs; tasks run in parallel and end in any order. So what is decided depends on the seed and the lookahead, and not on
which worker was faster, and a run that was killed is continued by replaying its slots.
"""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from nas import inbox
from nas.execute import Event, Executor, Job
from nas.flows import Asking, Outcome, Place
from nas.history import entry_of
from nas.inbox import Message
from nas.judge import forecast
from nas.judge.rungs import slots
from nas.llm.desk import Answer, Desk
from nas.lookahead import Pace
from nas.progress import Snapshot, View
from nas.propose.mixture import DEFAULT, RANDOM, benched
from nas.records import Candidate, Failure, Trial, to_plain
from nas.store import Score, Task
from nas.strategy import BLIND, CLAUDE, Config, Decision, Strategy, is_asked

ADMITTING = ("trace", "check", "leaks")
"""Jobs of an admission, by the end of their ids; all others train."""
LISTEN_S = 0.5
"""How often messages are looked for [s]."""
REFRESH_S = 0.5
"""How often the view is given a new state [s]."""
FINALISTS = 8
"""Candidates whose weights at the top rung are kept."""


@dataclass(slots=True)
class _Running:
    """A task in flight: its flow, and the jobs it waits for with the events that have come."""

    task: Task
    flow: Asking[Outcome]
    began: float
    jobs: list[str] = field(default_factory=list)
    events: dict[str, Event] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=lambda: {"cpu_s": 0.0, "wall_s": 0.0, "peak_bytes": 0, "stages": {}})


@dataclass(frozen=True, slots=True)
class _Ended:
    """A task that has ended, and that the search may not know of yet."""

    task: Task
    outcome: dict[str, Any]
    scores: Sequence[Score] = ()
    trials: Sequence[Trial] = ()
    candidate: Candidate | None = None


class Search:
    """One run, new or continued. See the module's docstring.

    Args:
      place: space, store and platform.
      executor: where jobs run.
      config: budget, seed and order of decisions.
      view: what a person sees.
      deadline: `time.monotonic()` after which nothing new is decided; None is never.
    """

    def __init__(
        self, place: Place, executor: Executor | Desk, config: Config, view: View, deadline: float | None = None
    ) -> None:
        self.place, self.space, self.store = place, place.space, place.store
        self.executor, self.config, self.view, self.deadline = executor, config, view, deadline
        self.strategy = Strategy(place, config)
        self.history = self.strategy.history
        self.flying: dict[int, _Running] = {}
        self.by_job: dict[str, int] = {}
        self.ended: dict[int, _Ended] = {}
        self.unrevealed: list[int] = []
        self.said: set[str] = set()
        self.admitted: set[int] = set()
        self.swept: set[tuple[int, int]] = set()
        self.started, self.stopping = time.monotonic(), False
        self.drawn = self.counted = 0.0
        self.disk = 0
        self.listened = 0.0
        self.told: dict[int, list[Message]] = {}
        self.heard_before: dict[int, list[Message]] = {}
        self.lookahead = config.lookahead
        self.pace = Pace(executor.capacity().cpus, max(config.lookahead, config.most_lookahead))

    # ---- the loop

    def run(self) -> bool:
        """Go on until the budget is spent and every promotion is made, or until a stop.

        Returns:
          Whether the search came to its end.
        """
        slot = self._replay()
        while not self.stopping:
            self._learn(slot)
            if self.stopping:
                break
            self._hear(slot)
            decision = None if self._late() else self.strategy.decide(slot)
            if decision is not None:
                self._begin(decision)
            elif not self.unrevealed:
                self._say(slot)
                return not self._late()
            elif self.config.order == "arrival":
                self._pump(wait=True)
            slot += 1
            self._pump(wait=False)
        return False

    def _hear(self, slot: int) -> None:
        """Take in messages: those that were heard at this slot in the run that is replayed, and those that arrive."""
        for message in self.told.pop(slot, ()):
            self._heed(slot, message)
        for message in self.heard_before.pop(slot, ()):
            self._take(slot, message)
        if time.monotonic() > self.listened + LISTEN_S:
            self.listened = time.monotonic()
            inbox.take(self.store.folder, lambda message: self._take(slot, message), self.view.say)
        wanted = self.pace.wanted(self.lookahead)
        if wanted > self.lookahead:
            self._take(slot, inbox.message("lookahead", "the search", count=wanted))

    def _take(self, slot: int, message: Message) -> None:
        if self.store.hear(slot, to_plain(message)):
            self._heed(slot, message)
            self.view.event("message", slot=slot, what=message.kind, author=message.author)

    def _heed(self, slot: int, message: Message) -> None:
        if message.kind == "lookahead":
            self.lookahead = message.content["count"]
        else:
            self.strategy.steer(message, slot)

    def stop(self) -> None:
        """Decide nothing more, and leave what runs; it is run again when the run is continued."""
        self.stopping = True

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def _learn(self, slot: int) -> None:
        """Reveal outcomes: in the order of slots up to `lookahead` ago, waiting for them, or whatever has ended."""
        if self.config.order == "arrival":
            for ready in [s for s in self.unrevealed if s in self.ended and s < slot]:
                self._reveal(ready)
            while len(self.flying) > self.lookahead and not self.stopping:
                self._pump(wait=True)
            return
        while self.unrevealed and self.unrevealed[0] < slot - self.lookahead and not self.stopping:
            if self.unrevealed[0] in self.ended:
                self._reveal(self.unrevealed[0])
            else:
                self._pump(wait=True)

    def _pump(self, *, wait: bool) -> None:
        """Take what the executor has to tell and send it to the flows that wait for it."""
        for event in self.executor.poll(0.5 if wait else 0.0):
            slot = self.by_job.pop(event.job_id, None)
            if slot is None:
                continue
            running = self.flying[slot]
            running.events[event.job_id] = event
            _account(running.usage, event)
            if len(running.events) == len(running.jobs):
                events = [running.events[job] for job in running.jobs]
                self._advance(running, events)
        if time.monotonic() > self.drawn + REFRESH_S:
            self.drawn = time.monotonic()
            self.view.update(self.snapshot())

    def _advance(self, running: _Running, events: Sequence[Event] | None = None) -> None:
        """Start a flow, or send it the events that it waits for."""
        try:
            jobs = next(running.flow) if events is None else running.flow.send(events)
        except StopIteration as stop:
            self._finish(running, stop.value)
            return
        running.jobs, running.events = [job.id for job in jobs], {}
        for job in jobs:
            self.by_job[job.id] = running.task.slot
            if isinstance(job, Job):
                self.executor.submit(job)
            else:
                assert isinstance(self.executor, Desk), "a flow asks a model, and there is none"
                self.executor.submit(job)

    # ---- a task's life

    def _begin(self, decision: Decision) -> None:
        self._say(decision.task.slot)
        self.store.begin(decision.task, decision.entries, decision.trials)
        self.strategy.apply(decision.task, decision.entries, decision.trials)
        self.unrevealed.append(decision.task.slot)
        self._launch(decision.task, decision.flow)

    def _launch(self, task: Task, flow: Asking[Outcome]) -> None:
        running = _Running(task, flow, time.monotonic())
        self.flying[task.slot] = running
        self.view.event("start", slot=task.slot, task=task.kind, candidate=task.candidate)
        self._advance(running)

    def _finish(self, running: _Running, outcome: Outcome) -> None:
        """Store what came of a task. The search may not use it yet."""
        task = running.task
        plain = {
            "facts": to_plain(outcome.facts),
            "failure": to_plain(outcome.failure),
            "programs": {str(trial): facts for trial, facts in (outcome.programs or {}).items()},
        }
        for key in ("calls", "drafts", "claims", "forecasts"):
            if getattr(outcome, key):
                plain[key] = to_plain(getattr(outcome, key))
        if outcome.spent:
            running.usage["calls"] = to_plain(outcome.spent)
        written = [entry_of(outcome.candidate, task.slot)] if outcome.candidate else []
        self.store.finish(task.slot, plain, running.usage, outcome.scores, outcome.programs, outcome.trials, written)
        self.pace.ended(task.kind, running.usage)
        self.ended[task.slot] = _Ended(task, plain, outcome.scores, outcome.trials, outcome.candidate)
        del self.flying[task.slot]
        self._report(task, outcome, time.monotonic() - running.began)

    def _reveal(self, slot: int) -> None:
        """Let the search know what came of a task."""
        self.unrevealed.remove(slot)
        ended = self.ended.pop(slot)
        task, outcome = ended.task, ended.outcome
        facts = outcome["facts"]
        if task.kind == "admit" and facts is not None and task.candidate not in self.admitted:
            near = self.strategy.too_near(task, facts)
            if near is not None:
                outcome = outcome | {"facts": None, "failure": to_plain(near)}
        if task.kind in ("admit", "baseline"):
            failure = outcome["failure"]
            self.store.admit(task.candidate, Failure(**failure) if failure else None, outcome["facts"])
            if failure:
                self.view.event("rejected", candidate=task.candidate, **failure)
        self.strategy.learn(task, outcome, ended.scores, ended.trials, ended.candidate)
        self._sweep(task)

    def _sweep(self, task: Task) -> None:
        """Remove checkpoints that no promotion can need any more; the best of the top rung stay.

        Those below one that can be needed stay as well, in case it can't be read.
        """
        ladder, maximize = self.space.ladder, self.space.task.maximize
        stays: list[set[int]] = []
        to_come = self.strategy.first_rung_to_come()
        for rung, results in enumerate(self.history.results):
            if rung == ladder.top:
                stay = {result.trial for result in self.history.leaders(rung, FINALISTS)}
            else:
                able = self.history.able(rung, self.strategy.steering.vetoed)
                stay = forecast.keep(
                    able, self.history.choices(rung), to_come, rung=rung, eta=ladder.eta, maximize=maximize,
                    forecast=not self.strategy.no_forecasts,
                )  # fmt: skip
                stay |= self._being_promoted(rung)
                stay |= {result.trial for result in able if result.candidate in self.strategy.steering.pinned}
                to_come = max(0, slots(len(results) + to_come, ladder.eta) - len(self.history.results[rung + 1]))
            stays.append(stay)
        for rung, results in enumerate(self.history.results):
            stay = set[int]().union(stays[rung], *stays[rung + 1 : ladder.top])
            for result in results:
                if result.trial not in stay and (result.trial, rung) not in self.swept:
                    self.swept.add((result.trial, rung))
                    self.store.checkpoint_path(result.trial, rung).unlink(missing_ok=True)

    def _being_promoted(self, rung: int) -> set[int]:
        """Trials whose next rung has been decided and has not ended."""
        going = [running.task for running in self.flying.values() if running.task.kind == "promote"]
        return {task.decision["trial"] for task in going if task.decision["rung"] == rung + 1}

    # ---- deciding

    def _say(self, slot: int) -> None:
        """Say once, and store, what a person should know: an arm that keeps failing."""
        for text in self.strategy.remarks():
            if text not in self.said:
                self.said.add(text)
                self.store.note(slot, text)
                self.view.say(text)
        for arm in (RANDOM, "evolution", CLAUDE, BLIND):
            text = f"{DEFAULT.patience} proposals of the arm {arm} were rejected in a row; others go on, if any can"
            if text not in self.said and benched(self.history.attempts, arm, DEFAULT.patience):
                self.said.add(text)
                self.store.note(slot, text)
                self.view.say(text)

    # ---- continuing a run

    def _replay(self) -> int:
        """Take in every stored task as it was decided and revealed, and start again what was cut off.

        Returns:
          The slot to go on with.
        """
        tasks, entries, trials, scores = (
            self.store.tasks(),
            self.store.entries(),
            self.store.trials(),
            self.store.scores(),
        )
        self.said.update(self.store.notes())
        entry_at = {entry.slot: entry for entry in entries}
        # In order of arrival, which of two equal candidates came first is known from the verdicts alone.
        self.admitted = {entry.candidate.id for entry in entries if entry.program is not None}
        told = [(row.pop("slot"), Message(**row)) for row in self.store.messages()]
        told.sort(key=lambda pair: pair[0])  # one that was heard after a resume may stand at an earlier slot
        for task in tasks:
            while told and told[0][0] < task.slot:
                slot, message = told.pop(0)
                self._learn(slot)  # the lookahead may change after it
                self._heed(slot, message)
            self._learn(task.slot)
            while told and told[0][0] == task.slot:
                self._heed(*told.pop(0))
            made = [entry_at[task.slot]] if task.slot in entry_at else []
            asked = [trial for trial in trials if trial.id in task.decision.get("trials", [])]
            self.strategy.apply(dataclasses.replace(task, outcome=None), made, asked)
            self.unrevealed.append(task.slot)
            if task.outcome is None:
                self._launch(task, self.strategy.flow(task, made[0] if made else None, asked))
                continue
            extra = [trial for trial in trials if trial.id in task.decision.get("reserved", [])]
            measured = [score for score in scores if score.slot == task.slot]
            written = made[0].candidate if made and is_asked(task) else None
            self.pace.ended(task.kind, task.usage or {})
            self.ended[task.slot] = _Ended(task, dict(task.outcome), measured, extra, written)
        for slot, message in told:  # heard at slots that decided nothing; they come again
            self.told.setdefault(slot, []).append(message)
        return tasks[-1].slot + 1 if tasks else 0

    # ---- showing

    def _report(self, task: Task, outcome: Outcome, seconds: float) -> None:
        for score in outcome.scores:
            value = f"{score.point.score:.{self.space.task.decimals}f}" if score.point else str(score.failure)
            self.view.event("score", candidate=task.candidate, trial=score.trial, rung=score.rung, score=value)
        self.view.event("end", slot=task.slot, task=task.kind, candidate=task.candidate, seconds=round(seconds, 1))

    def snapshot(self) -> Snapshot:
        """The state of the run in a few numbers."""
        history, ladder, sign = self.history, self.space.ladder, 1 if self.space.task.maximize else -1
        best = None
        for rung in reversed(range(ladder.top + 1)):
            leader = next(iter(history.leaders(rung)), None)
            if leader is not None and leader.score is not None:
                best = (leader.candidate, history.known[leader.candidate].candidate.idea, leader.score, rung)
                break
        means = []
        for known, by_rung in history.baseline_scores.items():
            if by_rung[-1]:
                name = history.known[known].candidate.operator
                error = history.sigma(ladder.top) / len(by_rung[-1]) ** 0.5
                means.append((name, float(np.mean(by_rung[-1])), error))
        going = [running.task for running in self.flying.values()]
        counts = [
            (steps, len(history.results[rung]), sum(t.kind == "promote" and t.decision["rung"] == rung for t in going)
             if rung else sum(t.kind == "first" for t in going))
            for rung, steps in enumerate(ladder.steps)
        ]  # fmt: skip
        busy = [f"{running.task.kind} {running.task.candidate or ''}".strip() for running in self.flying.values()]
        return Snapshot(
            space=f"{self.space.name}@{self.space.version}",
            metric=self.space.task.metric,
            maximize=self.space.task.maximize,
            decimals=self.space.task.decimals,
            budget=self.config.budget,
            spent=sum(bool(k.scores) and k.candidate.arm != "baseline" for k in history.known.values()),
            best=best,
            baseline=max(means, key=lambda m: sign * m[1], default=None),
            rungs=tuple(counts),
            failures=dict(history.rejections),
            trials=len(history.trials),
            running=tuple(busy[: self.executor.capacity().cpus]),
            elapsed_s=time.monotonic() - self.started,
            left_s=self._left(),
            disk_bytes=self._disk(),
        )

    def _disk(self) -> int:
        """Bytes of the run's folder, counted twice a minute: there are thousands of files."""
        if time.monotonic() > self.counted + 30:
            self.counted, self.disk = time.monotonic(), self.store.disk_bytes()
        return self.disk

    def _left(self) -> float | None:
        """Seconds to go at the present pace; None before there is one."""
        spent = self.history.spent()
        trained = sum(bool(k.scores) and k.candidate.arm != "baseline" for k in self.history.known.values())
        if not trained or not spent:
            return None
        left = (time.monotonic() - self.started) * (self.config.budget - trained) / trained
        return min(left, self.deadline - time.monotonic()) if self.deadline else left


def _account(usage: dict[str, Any], event: Event) -> None:
    """Add what a job used, by stage."""
    if isinstance(event.result, Answer):
        return
    usage["cpu_s"] = round(usage["cpu_s"] + event.usage.cpu_s, 3)
    usage["wall_s"] = round(usage["wall_s"] + event.usage.wall_s, 3)
    usage["peak_bytes"] = max(usage["peak_bytes"], event.usage.peak_bytes)
    stages = usage["stages"]
    name = event.job_id.rsplit(".", 1)[-1]
    stage = name if name in ADMITTING else "trainer"
    stages[stage] = round(stages.get(stage, 0.0) + event.usage.cpu_s, 3)
    if isinstance(event.result, dict):
        for stage, seconds in event.result.get("spent", {}).items():
            stages[stage] = round(stages.get(stage, 0.0) + seconds, 3)
        if event.result.get("step_s") is not None:
            usage["step_s"] = min(usage.get("step_s", math.inf), event.result["step_s"])
            usage["device"] = event.result["device"]


class Stoppable(Protocol):
    """What can be asked to come to an end."""

    stopping: bool

    def stop(self) -> None:
        """Begin nothing more."""
        ...


@contextlib.contextmanager
def stop_on_signals(search: Stoppable, said: Any) -> Iterator[None]:
    """Ctrl-C and a request to terminate stop it cleanly; a second one is not waited for."""

    def handler(number: int, _: Any) -> None:
        if search.stopping:
            raise KeyboardInterrupt
        said("stopping; what runs now is run again when the run is continued")
        search.stop()

    before = {name: signal.signal(name, handler) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, old in before.items():
            signal.signal(name, old)
