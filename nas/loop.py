"""The loop that joins proposing, admitting, training and judging.

The loop takes numbered slots in turn. At each it first learns the outcomes of the tasks up to `lookahead` slots ago,
in order, and then decides one task or none from what it knows: a baseline, a promotion, the first draws of an admitted
candidate, or a new proposal. The decision is stored before anything runs; tasks run in parallel and end in any order.
So what is decided depends on the seed and the lookahead, and not on which worker was faster, and a run that was killed
is continued by replaying its slots.
"""

import contextlib
import dataclasses
import hashlib
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas import flows
from nas.admit import Flow
from nas.admit.gate import check
from nas.execute import Event, Executor
from nas.flows import Outcome, Place
from nas.history import History, Known, entry_of, failure_of_duplicate
from nas.judge import rungs
from nas.judge.tuner import Tuner
from nas.progress import Snapshot, View
from nas.propose import evolution, grammar
from nas.propose.mixture import DEFAULT, RANDOM, TUNE, benched, next_arm, tunable
from nas.records import Candidate, Failure, Trial, Value, defaults, to_plain
from nas.store import Entry, Score, Task

CROSS = 0.25
"""Share of evolution's proposals that cross two parents; the others mutate one."""
ELITE = 6
"""Fewest candidates that may become parents or be tuned, once there are so many."""
REFRESH_S = 0.5
"""How often the view is given a new state [s]."""
FINALISTS = 8
"""Candidates whose weights at the top rung are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a search was asked to do.

    Attributes:
      budget: candidates that are admitted to the first rung.
      seed: of every draw.
      lookahead: L; decision k uses the outcomes of tasks 0 … k−L−1.
      order: `slots` (repeatable) or `arrival` (whatever has ended counts at once).
    """

    budget: int
    seed: int
    lookahead: int
    order: str = "slots"


@dataclass(slots=True)
class _Running:
    """A task in flight: its flow, and the jobs it waits for with the events that have come."""

    task: Task
    flow: Flow[Outcome]
    began: float
    jobs: list[str] = field(default_factory=list)
    events: dict[str, Event] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=lambda: {"cpu_s": 0.0, "wall_s": 0.0, "peak_bytes": 0, "stages": {}})


@dataclass(frozen=True, slots=True)
class _Decision:
    task: Task
    flow: Flow[Outcome]
    entries: Sequence[Entry] = ()
    trials: Sequence[Trial] = ()


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
        self, place: Place, executor: Executor, config: Config, view: View, deadline: float | None = None
    ) -> None:
        self.place, self.space, self.store = place, place.space, place.store
        self.executor, self.config, self.view, self.deadline = executor, config, view, deadline
        self.history = History(self.space)
        self.tuner = Tuner(config.seed, self.space.recipe.tunables, self.space.task.maximize)
        self.numbers: dict[int, int] = {}
        self.flying: dict[int, _Running] = {}
        self.by_job: dict[str, int] = {}
        self.ended: dict[int, tuple[Task, dict[str, Any], list[Score], list[Trial]]] = {}
        self.unrevealed: list[int] = []
        self.next_candidate = self.next_trial = 1
        self.said: set[str] = set()
        self.admitted: set[int] = set()
        self.swept: set[tuple[int, int]] = set()
        self.started, self.stopping = time.monotonic(), False
        self.drawn = self.counted = 0.0
        self.disk = 0

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
            decision = None if self._late() else self._decide(slot)
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
            while len(self.flying) > self.config.lookahead and not self.stopping:
                self._pump(wait=True)
            return
        while self.unrevealed and self.unrevealed[0] < slot - self.config.lookahead and not self.stopping:
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
            self.executor.submit(job)

    # ---- a task's life

    def _begin(self, decision: _Decision) -> None:
        self._say(decision.task.slot)
        self.store.begin(decision.task, decision.entries, decision.trials)
        self._apply(decision.task, decision.entries, decision.trials)
        self._launch(decision.task, decision.flow)

    def _launch(self, task: Task, flow: Flow[Outcome]) -> None:
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
        self.store.finish(task.slot, plain, running.usage, outcome.scores, outcome.programs, outcome.trials)
        self.ended[task.slot] = (task, plain, list(outcome.scores), list(outcome.trials))
        del self.flying[task.slot]
        self._report(task, outcome, time.monotonic() - running.began)

    def _apply(self, task: Task, entries: Sequence[Entry], trials: Sequence[Trial]) -> None:
        """Take a decision into memory; the tuner has drawn its numbers, or is given them again."""
        self.history.decided(task, [entry.candidate for entry in entries], trials)
        self.unrevealed.append(task.slot)
        self.next_candidate = max([self.next_candidate, *(entry.candidate.id + 1 for entry in entries)])
        reserved = task.decision.get("reserved", [])
        self.next_trial = max([self.next_trial, *(trial.id + 1 for trial in trials), *(r + 1 for r in reserved)])
        for trial in trials:
            if trial.id not in self.numbers:
                tunables = self.history.known[trial.candidate].candidate.tunables
                draw = self.tuner.ask(trial.candidate, tunables, values=trial.values, recipe=trial.recipe)
                self.numbers[trial.id] = draw.number
        if task.kind == "promote":
            trial = task.decision["trial"]
            self.numbers[trial] = self.tuner.promote(self.numbers[trial])

    def _reveal(self, slot: int) -> None:
        """Let the search know what came of a task."""
        self.unrevealed.remove(slot)
        task, outcome, scores, trials = self.ended.pop(slot)
        facts = outcome["facts"]
        if task.kind == "admit" and facts is not None and task.candidate not in self.admitted:
            other = self.history.duplicate_of(facts)
            if other is not None:
                outcome = outcome | {"facts": None, "failure": to_plain(failure_of_duplicate(other))}
        if task.kind in ("admit", "baseline"):
            failure = outcome["failure"]
            self.store.admit(task.candidate, Failure(**failure) if failure else None, outcome["facts"])
            if failure:
                self.view.event("rejected", candidate=task.candidate, **failure)
        self.history.revealed(task, outcome, scores, trials)
        self._tell(task, outcome, scores)
        self._sweep(task)

    def _tell(self, task: Task, outcome: Mapping[str, Any], scores: Sequence[Score]) -> None:
        """Tell the tuner. Baselines are trained to the top whatever they score, so it hears their first rung only."""
        told = {s.trial: s for s in scores if s.trial in self.numbers and (s.rung == 0 or task.kind != "baseline")}
        asked = task.decision.get("trials", [task.decision["trial"]] if task.kind == "promote" else [])
        for trial in asked:
            score = told.get(trial)
            if score is not None and score.failure is not None and score.failure.blame == "machine":
                self.tuner.lose(self.numbers[trial])
                continue
            point = score.point if score is not None else None
            final = point is not None and score is not None and score.rung == self.space.ladder.top
            step, value = (point.step, point.score) if point else (None, None)
            self.tuner.tell(self.numbers[trial], step, value, final, constraints=self._excess(trial))

    def _excess(self, trial: int) -> dict[str, float]:
        """How far a trial's program is above the contract's limits, as Optuna counts constraints."""
        known = self.history.known[self.history.trials[trial].candidate]
        if known.facts is None:
            return {}
        contract, cost = self.space.contract, known.facts["cost"]
        limits = {"params": contract.max_params, "flops": contract.max_flops}
        return {name: cost[name] / limit - 1 for name, limit in limits.items() if limit}

    def _sweep(self, task: Task) -> None:
        """Remove checkpoints that no promotion can need any more; the best of the top rung stay."""
        ladder, maximize = self.space.ladder, self.space.task.maximize
        to_come = self._first_rung_to_come()
        for rung, results in enumerate(self.history.results):
            if rung == ladder.top:
                stay = {result.trial for result in self.history.leaders(rung, FINALISTS)}
            else:
                stay = rungs.keep(results, self.history.promoted[rung], to_come, ladder.eta, maximize)
                stay |= self._being_promoted(rung)
                to_come = max(0, rungs.slots(len(results) + to_come, ladder.eta) - len(self.history.results[rung + 1]))
            for result in results:
                if result.trial not in stay and (result.trial, rung) not in self.swept:
                    self.swept.add((result.trial, rung))
                    self.store.checkpoint_path(result.trial, rung).unlink(missing_ok=True)

    def _being_promoted(self, rung: int) -> set[int]:
        """Trials whose next rung has been decided and has not ended."""
        going = [running.task for running in self.flying.values() if running.task.kind == "promote"]
        return {task.decision["trial"] for task in going if task.decision["rung"] == rung + 1}

    def _first_rung_to_come(self) -> int:
        """At most so many more trials will be scored at the first rung."""
        draws = self.space.ladder.draws
        coming = (self.config.budget - self.history.spent()) * draws
        waiting = sum(k.waiting or k.status == "pending" for k in self.history.known.values()) * draws
        running = sum(a.trials for a in self.history.attempts if a.admitted is not False and a.rewarded is None)
        return coming + waiting + running + len(self.history.results[0]) // 2 + draws

    # ---- deciding

    def _decide(self, slot: int) -> _Decision | None:
        """The next task, from what is known. Pure in the history, the seed and the slot."""
        rng = np.random.default_rng([self.config.seed, slot])
        names = list(self.space.baselines)
        if self.next_candidate <= len(names):
            return self._baseline(slot, names[self.next_candidate - 1])
        promotion = self.history.next_promotion()
        if promotion is not None:
            return self._promotion(slot, *promotion)
        waiting = self.history.waiting()
        if waiting is not None:
            return self._first(slot, waiting, tune=False)
        if self.history.spent() >= self.config.budget:
            return None
        return self._proposal(slot, rng)

    def _baseline(self, slot: int, name: str) -> _Decision:
        candidate = self._candidate(self.space.baselines[name], "baseline", name, ())
        entry, gated = self._gated(candidate, slot)
        candidate = entry.candidate
        values = defaults(candidate.tunables)
        middle = defaults(self.space.recipe.tunables)
        trials = [
            self._draw(candidate, "baseline", values, middle if index == 0 else {}, self.next_trial + index)
            for index in range(self.space.ladder.draws)
        ]
        reserved = [self.next_trial + len(trials) + i for i in range(self.space.baseline_seeds - 1)]
        decision = {"name": name, "trials": [trial.id for trial in trials], "reserved": reserved}
        task = Task(slot=slot, kind="baseline", candidate=candidate.id, decision=decision)
        return _Decision(task, gated or self._flow(task, entry, trials), [entry], trials)

    def _promotion(self, slot: int, trial: int, rung: int) -> _Decision:
        decision = {"trial": trial, "rung": rung}
        candidate = self.history.trials[trial].candidate
        task = Task(slot=slot, kind="promote", candidate=candidate, decision=decision)
        return _Decision(task, self._flow(task, None, []))

    def _first(self, slot: int, known: Known, *, tune: bool) -> _Decision:
        """First draws of a candidate, at its default values; or, to tune it, further draws at values from Optuna.

        The draws share the candidate's own values, so that one compiled program serves them all.
        """
        candidate = known.candidate
        values: Mapping[str, Value] = {} if tune else defaults(candidate.tunables)
        trials: list[Trial] = []
        for index in range(self.space.ladder.draws):
            arm = TUNE if tune else candidate.arm
            trials.append(self._draw(candidate, arm, values, {}, self.next_trial + index))
            values = trials[0].values
        decision = {"tune": tune, "trials": [trial.id for trial in trials]}
        task = Task(slot=slot, kind="first", candidate=candidate.id, decision=decision)
        return _Decision(task, self._flow(task, None, trials), (), trials)

    def _draw(
        self, candidate: Candidate, arm: str, values: Mapping[str, Value], recipe: Mapping[str, Value], number: int
    ) -> Trial:
        draw = self.tuner.ask(candidate.id, candidate.tunables, values=values, recipe=recipe)
        self.numbers[number] = draw.number
        return Trial(
            id=number,
            candidate=candidate.id,
            arm=arm,
            values=dict(draw.values),
            recipe=dict(draw.recipe),
            seed=self._seed(number),
        )

    def _seed(self, trial: int) -> int:
        """Seed of a trial: a function of the run's seed and the trial's number."""
        return int.from_bytes(hashlib.sha256(f"{self.config.seed}:{trial}".encode()).digest()[:4], "little")

    def _proposal(self, slot: int, rng: np.random.Generator) -> _Decision | None:
        parents = self._elite(self.history.scored())
        ours = [known.candidate.id for known in parents if known.candidate.arm != "baseline"]
        draws = self.space.ladder.draws
        may_tune = tunable(self.history.attempts, ours, draws=draws)
        arms = [RANDOM, *(["evolution"] if parents else []), *([TUNE] if may_tune else [])]
        arm = next_arm(self.history.attempts, self.config.budget, rng, arms, draws=draws)
        if arm is None:
            return None
        if arm == TUNE:
            return self._first(
                slot, self._choose([k for k in parents if k.candidate.id in set(may_tune)], rng), tune=True
            )
        candidate = self._random(rng) if arm == RANDOM else self._evolved(parents, rng)
        entry, gated = self._gated(candidate, slot)
        task = Task(slot=slot, kind="admit", candidate=candidate.id, decision={"arm": candidate.arm})
        return _Decision(task, gated or self._flow(task, entry, []), [entry])

    def _random(self, rng: np.random.Generator) -> Candidate:
        return self._candidate(grammar.sample(self.space, rng), RANDOM, "sample", ())

    def _evolved(self, parents: Sequence[Known], rng: np.random.Generator) -> Candidate:
        parent = self._choose(parents, rng)
        others = [known for known in parents if known is not parent]
        if others and rng.random() < CROSS:
            other = self._choose(others, rng)
            with contextlib.suppress(evolution.NoChild):
                child = evolution.cross(parent.candidate.source, other.candidate.source, self.space, rng)
                ids = (parent.candidate.id, other.candidate.id)
                return self._candidate(child.source, "evolution", child.operator, ids)
        with contextlib.suppress(evolution.NoChild):
            child = evolution.mutate(parent.candidate.source, self.space, rng)
            return self._candidate(child.source, "evolution", child.operator, (parent.candidate.id,))
        return self._random(rng)

    def _elite(self, scored: Sequence[Known]) -> Sequence[Known]:
        """The best quarter by score at the first rung, at least `ELITE`."""
        sign = -1 if self.space.task.maximize else 1
        ranked = sorted(scored, key=lambda known: (sign * (self.history.best(known) or 0.0), known.candidate.id))
        return ranked[: max(ELITE, len(ranked) // 4)]

    def _choose(self, among: Sequence[Known], rng: np.random.Generator) -> Known:
        scores = np.array([self.history.best(known) for known in among], float)
        children = np.array([known.children for known in among])
        return among[evolution.choose_parent(scores, children, self.space.task.maximize, rng)]

    def _candidate(self, source: str, arm: str, operator: str, parents: tuple[int, ...]) -> Candidate:
        return Candidate(id=self.next_candidate, source=source, idea="", arm=arm, operator=operator, parents=parents)

    def _gated(self, candidate: Candidate, slot: int) -> tuple[Entry, Flow[Outcome] | None]:
        """The proposal with what its text says of it; and, if the gate turns it away, a flow that says so."""
        gated = check(candidate.source, self.space.scope)
        candidate = dataclasses.replace(candidate, idea=gated.idea, tunables=gated.tunables)
        return entry_of(candidate, slot), _rejected(gated.failures[0]) if gated.failures else None

    def _flow(self, task: Task, entry: Entry | None, trials: Sequence[Trial]) -> Flow[Outcome]:
        """What carries a task out; made anew for a task that was cut off."""
        place, slot = self.place, task.slot
        if task.kind == "promote":
            trial = self.history.trials[task.decision["trial"]]
            return flows.promotion(place, slot, self.history.program_of(trial), trial, task.decision["rung"])
        candidate = entry.candidate if entry else self.history.known[task.candidate].candidate
        values = defaults(candidate.tunables)
        if task.kind == "admit":
            return flows.admission(place, slot, candidate.source, values)
        if task.kind == "baseline":
            reserved = task.decision["reserved"]
            return flows.baseline(
                place, slot, candidate.source, values, trials, lambda t: self._more_seeds(t, reserved)
            )
        facts = self.history.known[candidate.id].facts
        assert facts is not None, f"candidate {candidate.id} was not admitted"
        at_defaults = dict(trials[0].values) == values
        return flows.first_rung(place, slot, candidate.source, facts, at_defaults, trials)

    def _more_seeds(self, trial: Trial, reserved: Sequence[int]) -> list[Trial]:
        """Trials with a draw's numbers and other seeds."""
        made = []
        for number in reserved:
            made.append(dataclasses.replace(trial, id=number, seed=self._seed(number)))
        return made

    def _say(self, slot: int) -> None:
        """Say once, and store, what a person should know: an arm that keeps failing."""
        for arm in (RANDOM, "evolution"):
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
        for task in tasks:
            self._learn(task.slot)
            made = [entry_at[task.slot]] if task.slot in entry_at else []
            asked = [trial for trial in trials if trial.id in task.decision.get("trials", [])]
            self._apply(dataclasses.replace(task, outcome=None), made, asked)
            if task.outcome is None:
                gated = check(made[0].candidate.source, self.space.scope).failures if made else ()
                flow = _rejected(gated[0]) if gated else self._flow(task, made[0] if made else None, asked)
                self._launch(task, flow)
                continue
            extra = [trial for trial in trials if trial.id in task.decision.get("reserved", [])]
            measured = [score for score in scores if score.slot == task.slot]
            self.ended[task.slot] = (task, dict(task.outcome), measured, extra)
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
        busy = [f"{running.task.kind} {running.task.candidate}" for running in self.flying.values()]
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


def _rejected(failure: Failure) -> Flow[Outcome]:
    """The flow of a proposal that the gate turned away: no jobs."""
    return Outcome(failure=failure)
    yield  # a generator without a yield would be a function


def _account(usage: dict[str, Any], event: Event) -> None:
    """Add what a job used, by stage."""
    usage["cpu_s"] = round(usage["cpu_s"] + event.usage.cpu_s, 3)
    usage["wall_s"] = round(usage["wall_s"] + event.usage.wall_s, 3)
    usage["peak_bytes"] = max(usage["peak_bytes"], event.usage.peak_bytes)
    stages = usage["stages"]
    name = event.job_id.rsplit(".", 1)[-1]
    stages["trace" if name == "trace" else "check" if name == "check" else "trainer"] = round(
        stages.get(name if name in ("trace", "check") else "trainer", 0.0) + event.usage.cpu_s, 3
    )
    if isinstance(event.result, dict):
        for stage, seconds in event.result.get("spent", {}).items():
            stages[stage] = round(stages.get(stage, 0.0) + seconds, 3)


@contextlib.contextmanager
def stop_on_signals(search: Search, said: Any) -> Iterator[None]:
    """Ctrl-C and a request to terminate stop the search cleanly; a second one is not waited for."""

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
