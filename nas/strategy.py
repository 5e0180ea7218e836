"""What to do next, from what is known: the mind of a search.

At every slot the strategy decides one task or none: a baseline, a promotion, the first draws of an admitted candidate,
or a new proposal. It is a function of seed, slot, history and tuner, and changes only by `apply` (a decision was made)
and `learn` (an outcome may be used), which the loop calls in the order of slots, when it searches and when it replays
a stored run alike. Nothing runs and nothing is stored here; a decision carries the flow that carries it out.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas import flows, showing
from nas.admit.gate import check
from nas.flows import Asking, Outcome, Place
from nas.history import History, Known, ModelRecord, entry_of
from nas.inbox import Message
from nas.judge import forecast
from nas.judge.doubt import Doubt
from nas.judge.rungs import ranked, slots
from nas.judge.tuner import Tuner
from nas.propose import claude, evolution, grammar
from nas.propose.claude import Author, Others
from nas.propose.mixture import RANDOM, TUNE, next_arm, tunable
from nas.propose.prompt import KINDS, PAUSED, View, kind_for
from nas.records import Candidate, Failure, Trial, Value, defaults, to_plain
from nas.store import Entry, Score, Task

CROSS = 0.25
"""Share of evolution's proposals that cross two parents; the others mutate one."""
ELITE = 6
"""Fewest candidates that may become parents or be tuned, once there are so many."""
ONE_IN = 10
"""One in so many candidates, the best, may become parents or be tuned."""
CLAUDE, BLIND = "claude", "claude_blind"
"""The arms that ask a model: with all that the search knows, and, as a control, with nothing of it."""
CONTROL = "control"
"""The arm of a baseline's text in a run that does nothing but tune its numbers."""
TUNE_BEST = "tune-best-baseline"
"""The control that decides whether searching architectures paid at all."""
GUEST = "guest"
"""The arm of candidates that came by the door: from people, their agents, programs of their own."""
STREAMS = 4
"""Parallel streams of a model's proposals, each with another direction to start from."""
UNREAD = 3
"""Forecasts in a row that brought nothing, after which no more are asked for."""
NO_MODEL = "the model is asked no more"
"""Why there are no forecasts, while the model is given up."""
BATCH = 4
"""Fewest trials that a model is asked about at once, after the first time at a rung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a search was asked to do.

    Attributes:
      budget: candidates that are admitted to the first rung.
      seed: of every draw.
      lookahead: L; decision k uses the outcomes of tasks 0 … k−L−1.
      control: whose numbers are tuned while nothing else is done: `TUNE_BEST`, or `tune-` and a baseline's name; empty
        in a search.
      most_lookahead: L may grow up to this, if a model takes its time.
      order: `slots` (repeatable) or `arrival` (whatever has ended counts at once).
      author: how a model is asked; None asks none.
      forecasts: whether the model also forecasts.
      blind: whether the model also writes without knowing any results, as a control.
    """

    budget: int
    seed: int
    lookahead: int
    order: str = "slots"
    author: Author | None = None
    forecasts: bool = True
    blind: bool = False
    control: str = ""
    most_lookahead: int = 0


@dataclass(slots=True)
class Steering:
    """What people and other programs want, as far as it was heard.

    Attributes:
      notes: sentences for the prompts.
      kinds: kinds of change that are asked for, each of one proposal.
      pinned: candidates whose trials are promoted as soon as there is room, in the order of their pins.
      vetoed: candidates that are no parents and not promoted.
      proposals: candidates that came by the door and wait.
    """

    notes: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    pinned: dict[int, None] = field(default_factory=dict)
    vetoed: set[int] = field(default_factory=set)
    proposals: list[Message] = field(default_factory=list)

    def served(self, task: Task) -> None:
        """Drop what a decision has served."""
        if task.decision.get("asked"):
            self.kinds.pop(0)
        if "message" in task.decision:
            self.proposals = [m for m in self.proposals if m.id != task.decision["message"]]


@dataclass(frozen=True, slots=True)
class Decision:
    """A task with the flow that carries it out, and the candidates and trials that it makes."""

    task: Task
    flow: Asking[Outcome]
    entries: Sequence[Entry] = ()
    trials: Sequence[Trial] = ()


class Strategy:
    """See the module's docstring.

    Args:
      place: space, store and platform, for the flows.
      config: budget, seed and order of decisions.
    """

    def __init__(self, place: Place, config: Config) -> None:
        self.place, self.space, self.config = place, place.space, config
        self.history = History(self.space)
        self.tuner = Tuner(config.seed, self.space.recipe.tunables, self.space.task.maximize)
        self.numbers: dict[int, int] = {}
        self.next_candidate = self.next_trial = 1
        self.steering = Steering()
        self.no_forecasts = "" if config.author is not None and config.forecasts else "no model forecasts"

    # ---- what changes it

    def apply(self, task: Task, entries: Sequence[Entry], trials: Sequence[Trial]) -> None:
        """Take a decision into memory; the tuner has drawn its numbers, or is given them again."""
        candidates = [_draft(task)] if is_asked(task) else [entry.candidate for entry in entries]
        self.history.decided(task, candidates, trials)
        self.steering.served(task)
        self.next_candidate = max([self.next_candidate, *(candidate.id + 1 for candidate in candidates)])
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

    def learn(
        self,
        task: Task,
        outcome: Mapping[str, Any],
        scores: Sequence[Score],
        trials: Sequence[Trial],
        candidate: Candidate | None = None,
    ) -> None:
        """Take in what came of a task; `candidate` is what a model wrote in it."""
        self.history.revealed(task, outcome, scores, trials, candidate)
        self._judge_forecasts()
        self._tell(task, outcome, scores)

    def steer(self, message: Message, slot: int) -> None:
        """Take in what a person or another program wants, from the decision at this slot on."""
        candidate, text, steering = message.content.get("candidate", 0), message.content.get("text", ""), self.steering
        match message.kind:
            case "note":
                steering.notes.append(text)
            case "kind" if text in KINDS:
                steering.kinds.append(text)
            case "pin":
                steering.pinned[candidate] = None
            case "unpin":
                steering.pinned.pop(candidate, None)
            case "veto":
                steering.vetoed.add(candidate)
            case "unveto":
                steering.vetoed.discard(candidate)
            case "proposal":
                steering.proposals.append(message)
            case "model" if text == "off":
                self.history.model.given_up = f"the model is asked no more: {message.author} said so"
            case "model":
                self.history.model = ModelRecord(since=slot)
                if self.no_forecasts == NO_MODEL:
                    self.no_forecasts = ""
        self._judge_forecasts()

    def too_near(self, task: Task, facts: Mapping[str, Any]) -> Failure | None:
        """The rejection of an admitted program that others, revealed since it was decided on, have forestalled.

        What a model writes must differ by more than sizes; parallel streams may come upon the same thing.
        """
        history = self.history
        if task.decision.get("arm") == CONTROL:
            return None  # it is a baseline's text on purpose
        sketches = history.sketches if is_asked(task) else {}
        return Others(fingerprints=history.fingerprints, sketches=sketches).too_near(facts)

    def _judge_forecasts(self) -> None:
        """Stop paying for forecasts when the model is given up, or when they have turned out to say nothing."""
        if self.no_forecasts:
            return
        evidence = self.history.evidence()
        if self.history.model.given_up:
            self.no_forecasts = NO_MODEL
        elif self.history.unread >= UNREAD:
            self.no_forecasts = f"{UNREAD} forecasts in a row could not be read; the model is asked for no more"
        elif forecast.has_skill(evidence) is False:
            resolved = sum(one.x is not None for one in evidence)
            self.no_forecasts = (
                f"the model's forecasts of {resolved} trials said no more than their ranks; it is asked for no more"
            )

    def _tell(self, task: Task, outcome: Mapping[str, Any], scores: Sequence[Score]) -> None:
        """Tell the tuner. Baselines are trained to the top whatever they score, so it hears their first rung only."""
        told = {s.trial: s for s in scores if s.trial in self.numbers and (s.rung == 0 or task.kind != "baseline")}
        if task.kind == "forecast":
            return
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

    # ---- deciding

    def decide(self, slot: int) -> Decision | None:
        """The next task, from what is known. Pure in the history, the seed and the slot."""
        rng = np.random.default_rng([self.config.seed, slot])
        names = list(self.space.baselines)
        if self.next_candidate <= len(names):
            return self._baseline(slot, names[self.next_candidate - 1])
        promotion = self._pinned(slot) or self._promotion(slot)
        if promotion is not None:
            return promotion
        waiting = self.history.waiting()
        if waiting is not None:
            return self._first(slot, waiting, tune=False)
        if self.config.control:
            return self._control(slot)
        if self.history.spent() >= self.config.budget:
            return None
        if self.steering.proposals:
            return self._guest(slot, self.steering.proposals[0])
        return self._proposal(slot, rng)

    def _control(self, slot: int) -> Decision | None:
        """Further draws of one baseline, as many groups as the budget has candidates."""
        history = self.history
        known = next((k for k in history.known.values() if k.candidate.arm == CONTROL), None)
        if known is None:
            if any(k.status == "pending" or not history.results_known(k) for k in history.known.values()):
                return None  # which baseline is the best is not known yet
            baselines = (k for k in history.known.values() if k.candidate.arm == "baseline")
            named = (k for k in baselines if f"tune-{k.candidate.operator}" == self.config.control)
            chosen = history.best_baseline() if self.config.control == TUNE_BEST else next(named, None)
            if chosen is None:
                return None
            name, parents = chosen.candidate.operator, (chosen.candidate.id,)
            candidate = self._candidate(chosen.candidate.source, CONTROL, name, parents)
            entry, gated = self._gated(candidate, slot)
            task = Task(slot=slot, kind="admit", candidate=candidate.id, decision={"arm": CONTROL})
            return Decision(task, self.flow(task, entry, [], gated), [entry])
        groups = len(history.trials_of(known.candidate.id)) // self.space.ladder.draws
        if known.status != "admitted" or groups >= self.config.budget:
            return None
        return self._first(slot, known, tune=True)

    def _baseline(self, slot: int, name: str) -> Decision:
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
        return Decision(task, self.flow(task, entry, trials, gated), [entry], trials)

    def _promotion(self, slot: int) -> Decision | None:
        """The next promotion, by rank and forecasts; or the question about those that could be promoted."""
        if self.no_forecasts:
            found = self.history.next_promotion(self.steering.vetoed)
            return None if found is None else self._promote(slot, *found)
        history, ladder, maximize = self.history, self.space.ladder, self.space.task.maximize
        evidence = history.evidence()
        weights = forecast.fit(evidence)
        for rung in reversed(range(ladder.top)):
            if history.forecasting[rung]:
                continue  # what is asked decides this rung's promotions; others go on meanwhile
            asked = history.to_forecast(rung, self.steering.vetoed)
            if asked and (len(asked) >= BATCH or not history.asked[rung]):
                worth = {
                    "weights": _rounded(weights),
                    "calibration": _rounded(forecast.calibration(evidence).get(None)),
                }
                decision = {"rung": rung, "trials": asked[:PAUSED], **worth}
                task = Task(slot=slot, kind="forecast", candidate=0, decision=decision)
                return Decision(task, self.flow(task, None, []))
            choice = forecast.next_promotion(
                history.able(rung, self.steering.vetoed), history.choices(rung), history.forecasts[rung],
                weights, rung=rung, eta=ladder.eta, maximize=maximize,
                rng=np.random.default_rng([self.config.seed, slot, 2]),
            )  # fmt: skip
            if choice is not None:
                said = {"choice": to_plain(choice), "weights": _rounded(weights)}
                return self._promote(slot, choice.trial, rung + 1, **said)
        return None

    def _pinned(self, slot: int) -> Decision | None:
        """The promotion of a pinned candidate's best trial that waits, where a place is free."""
        history, ladder, maximize = self.history, self.space.ladder, self.space.task.maximize
        for rung in reversed(range(ladder.top)):
            if slots(len(history.results[rung]), ladder.eta) <= len(history.promoted[rung]):
                continue
            for result in ranked(history.able(rung, self.steering.vetoed), maximize):
                mine = {trial.id for trial in history.trials_of(result.candidate)}
                if result.candidate in self.steering.pinned and not mine & history.promoted[rung]:
                    return self._promote(slot, result.trial, rung + 1, pinned=True)
        return None

    def _guest(self, slot: int, message: Message) -> Decision:
        """A proposal that came by the door; it is a candidate like any other."""
        content = message.content
        parents = tuple(p for p in content.get("parents", ()) if p in self.history.known)
        candidate = self._candidate(content["source"], GUEST, f"{GUEST} {message.id}", parents)
        entry, gated = self._gated(candidate, slot)
        decision = {"arm": GUEST, "message": message.id}
        task = Task(slot=slot, kind="admit", candidate=candidate.id, decision=decision)
        return Decision(task, self.flow(task, entry, [], gated), [entry])

    def _promote(self, slot: int, trial: int, rung: int, **said: Any) -> Decision:
        decision = {"trial": trial, "rung": rung, **said, **self._doubt(rung)}
        candidate = self.history.trials[trial].candidate
        task = Task(slot=slot, kind="promote", candidate=candidate, decision=decision)
        return Decision(task, self.flow(task, None, []))

    def _asked(self, slot: int, arm: str, parents: Sequence[Known], rng: np.random.Generator) -> Decision:
        """A proposal that a model writes: what kind of change, from which parent, in which stream."""
        before = sum(attempt.arm == arm for attempt in self.history.attempts)
        number, stream = divmod(before, STREAMS)
        wanted = self.steering.kinds[0] if self.steering.kinds and arm == CLAUDE else None
        stalled = arm == CLAUDE and showing.stalled(self.history)  # the control arm is told nothing, not even that
        kind = kind_for(number, stream=stream, stalled=stalled, asked=wanted)
        chosen = [self._choose(parents, rng).candidate.id] if parents and arm == CLAUDE else []
        decision = {
            "arm": arm, "kind": kind, "parents": chosen, "stream": stream, "number": number,
            "asked": wanted is not None, "notes": len(self.steering.notes),
        }  # fmt: skip
        task = Task(slot=slot, kind="admit", candidate=self.next_candidate, decision=decision)
        return Decision(task, self.flow(task, None, []))

    def _first(self, slot: int, known: Known, *, tune: bool) -> Decision:
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
        decision: dict[str, Any] = {"tune": tune, "trials": [trial.id for trial in trials]}
        bar = self.history.bar()
        decision |= {"bar": dict(bar)} if bar else {}
        decision |= self._doubt(0)
        task = Task(slot=slot, kind="first", candidate=candidate.id, decision=decision)
        return Decision(task, self.flow(task, None, trials), (), trials)

    def _doubt(self, rung: int) -> dict[str, Any]:
        """What a decision says of scores that are too good to be believed at once."""
        found = self.history.doubt(rung)
        return {"doubt": to_plain(found)} if found is not None else {}

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

    def _proposal(self, slot: int, rng: np.random.Generator) -> Decision | None:
        parents = self._elite([k for k in self.history.scored() if k.candidate.id not in self.steering.vetoed])
        ours = [known.candidate.id for known in parents if known.candidate.arm != "baseline"]
        draws = self.space.ladder.draws
        may_tune = tunable(self.history.attempts, ours, draws=draws)
        arms = [RANDOM, *(["evolution"] if parents else []), *([TUNE] if may_tune else [])]
        if self.config.author is not None and not self.history.model.given_up:
            arms += [CLAUDE, *([BLIND] if self.config.blind else [])]
        arm = next_arm(self.history.attempts, self.config.budget, rng, arms, draws=draws)
        if arm is None:
            return None
        if arm == TUNE:
            return self._first(
                slot, self._choose([k for k in parents if k.candidate.id in set(may_tune)], rng), tune=True
            )
        if arm in (CLAUDE, BLIND):
            return self._asked(slot, arm, parents, rng)
        candidate = self._random(rng) if arm == RANDOM else self._evolved(parents, rng)
        entry, gated = self._gated(candidate, slot)
        task = Task(slot=slot, kind="admit", candidate=candidate.id, decision={"arm": candidate.arm})
        return Decision(task, self.flow(task, entry, [], gated), [entry])

    def _random(self, rng: np.random.Generator) -> Candidate:
        return self._candidate(grammar.sample(self.space, rng), RANDOM, "sample", ())

    def _evolved(self, parents: Sequence[Known], rng: np.random.Generator) -> Candidate:
        parent = self._choose(parents, rng)
        others = [known for known in parents if known is not parent]
        if others and rng.random() < CROSS:
            other = self._choose(others, rng)
            with contextlib.suppress(evolution.NoChild):
                child = evolution.cross(self._as_drawn(parent), self._as_drawn(other), self.space, rng)
                ids = (parent.candidate.id, other.candidate.id)
                return self._candidate(child.source, "evolution", child.operator, ids)
        with contextlib.suppress(evolution.NoChild):
            child = evolution.mutate(self._as_drawn(parent), self.space, rng)
            return self._candidate(child.source, "evolution", child.operator, (parent.candidate.id,))
        return self._random(rng)

    def _as_drawn(self, parent: Known) -> str:
        """A parent's text with the values of its best draw as defaults, since that is what it was chosen by."""
        mine = [result for result in self.history.results[0] if result.candidate == parent.candidate.id]
        best = next(iter(ranked(mine, self.space.task.maximize)), None)
        values = self.history.trials[best.trial].values if best else {}
        return evolution.at_values(parent.candidate.source, values, self.space.scope)

    def _elite(self, scored: Sequence[Known]) -> Sequence[Known]:
        """The best tenth by score at the first rung, at least `ELITE`."""
        sign = -1 if self.space.task.maximize else 1
        ordered = sorted(scored, key=lambda known: (sign * (self.history.best(known) or 0.0), known.candidate.id))
        return ordered[: max(ELITE, len(ordered) // ONE_IN)]

    def _choose(self, among: Sequence[Known], rng: np.random.Generator) -> Known:
        scores = np.array([self.history.best(known) for known in among], float)
        children = np.array([known.children for known in among])
        return among[evolution.choose_parent(scores, children, self.space.task.maximize, rng)]

    def _candidate(self, source: str, arm: str, operator: str, parents: tuple[int, ...]) -> Candidate:
        return Candidate(id=self.next_candidate, source=source, idea="", arm=arm, operator=operator, parents=parents)

    def _gated(self, candidate: Candidate, slot: int) -> tuple[Entry, Sequence[Failure]]:
        """The proposal with what its text says of it, and what the gate finds wrong with it."""
        gated = check(candidate.source, self.space.scope)
        candidate = dataclasses.replace(candidate, idea=gated.idea, tunables=gated.tunables)
        return entry_of(candidate, slot), gated.failures

    def remarks(self) -> list[str]:
        """What a person should know of the model: that it is given up, or that its forecasts are."""
        told = [self.history.model.given_up]
        if self.config.author is not None and self.config.forecasts and not self.history.model.given_up:
            told.append(self.no_forecasts)
        return [text for text in told if text]

    # ---- carrying out

    def flow(
        self, task: Task, entry: Entry | None, trials: Sequence[Trial], gated: Sequence[Failure] | None = None
    ) -> Asking[Outcome]:
        """What carries a task out; made anew for a task that was cut off.

        Args:
          task: the decision.
          entry: the candidate that it made.
          trials: the trials that it made.
          gated: what the gate found wrong with the candidate; None if it is to be asked again.
        """
        place, slot = self.place, task.slot
        if entry is not None:
            failures = check(entry.candidate.source, self.space.scope).failures if gated is None else gated
            if failures:
                return _rejected(failures[0])
        if task.kind == "promote":
            trial = self.history.trials[task.decision["trial"]]
            rung = task.decision["rung"]
            return flows.promotion(place, slot, self.history.program_of(trial), trial, rung, _doubted(task))
        if task.kind == "forecast":
            return self._forecast(task)
        if is_asked(task):
            return self._writing(task)
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
        bar = task.decision.get("bar")
        return flows.first_rung(place, slot, candidate.source, facts, at_defaults, trials, bar, _doubted(task))

    def _writing(self, task: Task) -> Asking[Outcome]:
        author, decision = self.config.author, task.decision
        assert author is not None, "a model was asked, and there is none"
        if decision["arm"] == BLIND:
            author = dataclasses.replace(author, switches=dataclasses.replace(author.switches, no_history=True))
            view = View(space=self.space, kind=decision["kind"], stream=decision["stream"], number=decision["number"])
        else:
            parent = self.history.known[decision["parents"][0]] if decision["parents"] else None
            view = showing.view(
                self.history, parent, kind=decision["kind"], stream=decision["stream"], number=decision["number"],
                notes=self.steering.notes[: decision["notes"]], vetoed=self.steering.vetoed,
            )  # fmt: skip
        weights = self._weights() if decision["arm"] == CLAUDE else {}
        others = Others(fingerprints=dict(self.history.fingerprints), sketches=dict(self.history.sketches))
        rng = np.random.default_rng([self.config.seed, task.slot, 1])
        return claude.write(self.place, task.slot, _draft(task), view, author, others, rng, weights)

    def _weights(self) -> dict[int, float]:
        """What the search thinks of each candidate as a parent."""
        known = [k for k in self.history.scored() if k.candidate.id not in self.steering.vetoed]
        if not known:
            return {}
        scores = np.array([self.history.best(k) for k in known], float)
        found = evolution.parent_weights(scores, np.array([k.children for k in known]), self.space.task.maximize)
        return {k.candidate.id: float(weight) for k, weight in zip(known, found, strict=True)}

    def _forecast(self, task: Task) -> Asking[Outcome]:
        author = self.config.author
        assert author is not None, "a model was asked, and there is none"
        paused = showing.paused(self.history, task.decision["trials"], task.decision["rung"])
        rng = np.random.default_rng([self.config.seed, task.slot, 1])
        return claude.forecast(task.slot, paused, self.space, author, rng)

    def _more_seeds(self, trial: Trial, reserved: Sequence[int]) -> list[Trial]:
        """Trials with a draw's numbers and other seeds."""
        made = []
        for number in reserved:
            made.append(dataclasses.replace(trial, id=number, seed=self._seed(number)))
        return made

    def first_rung_to_come(self) -> int:
        """At most so many more trials will be scored at the first rung."""
        draws = self.space.ladder.draws
        coming = (self.config.budget - self.history.spent()) * draws
        waiting = sum(k.waiting or k.status == "pending" for k in self.history.known.values()) * draws
        running = sum(a.trials for a in self.history.attempts if a.admitted is not False and a.rewarded is None)
        return coming + waiting + running + len(self.history.results[0]) // 2 + draws


def is_asked(task: Task) -> bool:
    """Whether a model writes the candidate, so that its text is not known at the decision."""
    return task.kind == "admit" and task.decision["arm"] in (CLAUDE, BLIND)


def _doubted(task: Task) -> Doubt | None:
    """Which scores of a task are trained again, as it was decided."""
    plain = task.decision.get("doubt")
    return Doubt(**plain) if plain else None


def _rounded(record: Any) -> dict[str, Any] | None:
    """A record of numbers for the store, with as many digits as mean something and without what it is made of."""
    if record is None:
        return None
    kept = {key: value for key, value in to_plain(record).items() if not isinstance(value, list)}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in kept.items()}


def _draft(task: Task) -> Candidate:
    """A candidate that is still to be written."""
    decision = task.decision
    return Candidate(
        id=task.candidate, source="", idea="", arm=decision["arm"], operator=decision["kind"],
        parents=tuple(decision["parents"]),
    )  # fmt: skip


def _rejected(failure: Failure) -> Asking[Outcome]:
    """The flow of a proposal that the gate turned away: no jobs."""
    return Outcome(failure=failure)
    yield  # a generator without a yield would be a function
