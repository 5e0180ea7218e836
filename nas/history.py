"""What a search knows at a decision: the tasks decided so far, and the outcomes that it may use.

Decision k is made from exactly the outcomes of tasks 0 … k−L−1; a task that ended sooner counts as running. So
everything here changes in two places only, `decided` and `revealed`, which the loop calls in the order of slots, when
it searches and when it replays a stored run alike. Nothing is trained, drawn or written here.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from nas.judge import forecast
from nas.judge.doubt import Doubt, doubt
from nas.judge.forecast import Choice, Evidence, Why
from nas.judge.noise import seed_sigma
from nas.judge.rungs import Result, finalists, next_promotion, ranked, slots
from nas.propose.mixture import TUNE, Attempt
from nas.records import Candidate, Failure, Point, Trial
from nas.space import SearchSpace
from nas.store import Entry, Score, Task

REFUSALS = 5
"""Fewest refusals after which the model is given up, if they are more than half of its calls."""
FAILURES = 10
"""The same for calls that brought nothing, if they are more than four in five."""


@dataclass(slots=True, kw_only=True)
class ModelRecord:
    """How the calls to a model went, as far as it is revealed.

    Attributes:
      outcomes: how many calls ended how.
      refusals: by category.
      given_up: why the model is asked no more, as a sentence; empty while it is. What ends later changes nothing.
      since: slot of the first task that counts: after somebody has put things right, the old trouble does not.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    given_up: str = ""
    since: int = 0

    def count(self, calls: Sequence[Mapping[str, Any]], slot: int) -> None:
        """Take in the calls of the task at this slot."""
        for call in calls if slot >= self.since else ():
            self.outcomes[call["outcome"]] += 1
            if call["outcome"] == "refused":
                self.refusals[call["category"] or "no category"] += 1
            if not self.given_up:
                self.given_up = self._reason(call)

    def _reason(self, last: Mapping[str, Any]) -> str:
        refused, calls = self.outcomes["refused"], self.outcomes.total()
        failed = self.outcomes["again"] + self.outcomes["stop"] + self.outcomes["cut"]
        reason = ""
        if last["outcome"] == "halt":
            reason = last["message"] or "it cannot be reached"
        elif refused >= REFUSALS and refused > calls / 2:
            categories = ", ".join(f"{name} {count}" for name, count in self.refusals.most_common())
            reason = f"it declined {refused} of {calls} requests ({categories})"
        elif failed >= FAILURES and failed > 0.8 * calls:
            reason = (
                f"{failed} of {calls} requests brought nothing, the last one because {last['message'] or 'of that'}"
            )
        return f"the model is asked no more: {reason}; the other arms go on" if reason else ""


@dataclass(slots=True, kw_only=True)
class Known:
    """A candidate as the search knows it.

    Attributes:
      candidate: the record.
      status: `pending` until its admission is revealed, then `admitted` or `rejected`.
      facts: its program at its defaults.
      waiting: whether it is admitted and has had no draws.
      scores: its scores at the first rung, revealed ones.
      children: how many admitted candidates were made from it.
      attempt: place in `History.attempts` of the proposal that made it; baselines have none.
    """

    candidate: Candidate
    status: str = "pending"
    facts: Mapping[str, Any] | None = None
    waiting: bool = False
    scores: list[float] = field(default_factory=list)
    children: int = 0
    attempt: int | None = None


class History:
    """The search's memory. See the module's docstring.

    Args:
      space: gives ladder and direction.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.known: dict[int, Known] = {}
        self.trials: dict[int, Trial] = {}
        self._by_candidate: dict[int, list[Trial]] = {}
        self.programs: dict[int, Mapping[str, Any]] = {}
        self.results: list[list[Result]] = [[] for _ in space.ladder.steps]
        self.promoted: list[set[int]] = [set() for _ in space.ladder.steps]
        self.baseline_scores: dict[int, list[list[float]]] = {}
        self.fingerprints: dict[str, int] = {}
        self.rejections: Counter[str] = Counter()
        self.attempts: list[Attempt] = []
        self.tunes: dict[int, int] = {}
        self.running = 0
        self.curves: dict[int, list[Point]] = {}
        self.left: set[int] = set()
        self.discredited: set[int] = set()
        self.sketches: dict[int, Sequence[int]] = {}
        self.failures: dict[int, Failure] = {}
        self.model = ModelRecord()
        self.promotions: list[list[Choice]] = [[] for _ in space.ladder.steps]
        self.forecasts: list[dict[int, float]] = [{} for _ in space.ladder.steps]
        self.asked: list[set[int]] = [set() for _ in space.ladder.steps]
        self.forecasting: Counter[int] = Counter()
        self.unread = 0

    # ---- the two places where it changes

    def decided(self, task: Task, candidates: Sequence[Candidate], trials: Sequence[Trial]) -> None:
        """Take in a decision, before anything of it has run."""
        self.running += 1
        if task.kind == "forecast":
            self.asked[task.decision["rung"]] |= set(task.decision["trials"])
            self.forecasting[task.decision["rung"]] += 1
            return
        for candidate in candidates:
            self.known[candidate.id] = Known(candidate=candidate)
            if candidate.arm != "baseline":
                self.known[candidate.id].attempt = self._attempt(candidate.arm, candidate.id)
        self._take(trials)
        known = self.known[task.candidate]
        if task.kind == "first":
            known.waiting = False
            if task.decision["tune"]:
                self.tunes[task.slot] = self._attempt(TUNE, task.candidate)
            self._change(self._attempt_of(task), trials=len(trials))
        elif task.kind == "promote":
            below = task.decision["rung"] - 1
            self.promoted[below].add(task.decision["trial"])
            if "choice" in task.decision:
                self.promotions[below].append(Choice(**task.decision["choice"]))

    def revealed(
        self,
        task: Task,
        outcome: Mapping[str, Any],
        scores: Sequence[Score],
        trials: Sequence[Trial],
        candidate: Candidate | None = None,
    ) -> None:
        """Take in what came of a task; `candidate` is what a model wrote in it."""
        self.running -= 1
        self.model.count(outcome.get("calls", ()), task.slot)
        if task.kind == "forecast":
            rung = task.decision["rung"]
            self.forecasting[rung] -= 1
            told = outcome.get("forecasts") or {}
            self.unread = 0 if told else self.unread + 1
            self.forecasts[rung] |= {int(trial): one["probability"] for trial, one in told.items()}
            return
        known = self.known[task.candidate]
        if candidate is not None:
            known.candidate = candidate
        for score in scores:
            if score.failure is not None and score.failure.discredits and known.candidate.arm != "baseline":
                self.discredited.add(known.candidate.id)
            if score.point is not None:
                self.curves.setdefault(score.trial, []).append(score.point)
                if score.point.parts.keys() != {*self.space.task.parts}:
                    self.left.add(score.trial)
        self._take(trials)
        if task.kind in ("admit", "baseline"):
            self._admitted(known, outcome)
        if task.kind == "baseline":
            self._baseline(known, scores)
            return
        programs = outcome.get("programs") or {}
        self.programs |= {int(t): facts["program"] for t, facts in programs.items() if "program" in facts}
        if task.kind == "first" and outcome.get("failure"):  # only drawn values can fail to trace, and it costs nothing
            self._change(self._attempt_of(task), admitted=False)
            return
        for score in scores:
            value = score.point.score if score.point else None
            if score.failure is not None and score.failure.blame == "machine":
                continue
            self.results[score.rung].append(Result(trial=score.trial, candidate=task.candidate, score=value))
            if score.rung == 0 and value is not None:
                known.scores.append(value)
        if task.kind == "first":
            self._change(self._attempt_of(task), rewarded=self._rewarded(known, scores))

    def _admitted(self, known: Known, outcome: Mapping[str, Any]) -> None:
        facts, failure = outcome.get("facts"), outcome.get("failure")
        if facts is None:
            known.status = "rejected"
            found = Failure(**failure) if failure else Failure(stage="machine", rule="lost", message="it was lost")
            self.rejections[f"{found.stage}/{found.rule}"] += 1
            self.failures[known.candidate.id] = found
            self._change(known.attempt, admitted=False)
            return
        known.status, known.facts, known.waiting = "admitted", facts, known.attempt is not None
        self.fingerprints.setdefault(facts["fingerprint"], known.candidate.id)
        self.sketches[known.candidate.id] = facts.get("sketch", ())
        self._change(known.attempt, admitted=True)
        for parent in known.candidate.parents:
            if parent in self.known:
                self.known[parent].children += 1

    def _baseline(self, known: Known, scores: Sequence[Score]) -> None:
        """Group the scores of the draw that was repeated with other seeds, by rung."""
        top = [score.trial for score in scores if score.rung == self.space.ladder.top and score.point]
        by_rung = [
            [s.point.score for s in scores if s.point and s.rung == rung and s.trial in top]
            for rung in range(len(self.space.ladder.steps))
        ]
        self.baseline_scores[known.candidate.id] = by_rung
        known.scores = [score.point.score for score in scores if score.point and score.rung == 0]

    def _take(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self.trials[trial.id] = trial
            self._by_candidate.setdefault(trial.candidate, []).append(trial)

    # ---- what decisions read

    def trials_of(self, candidate: int) -> Sequence[Trial]:
        """A candidate's trials, in order."""
        return self._by_candidate.get(candidate, ())

    def sigma(self, rung: int) -> float:
        """Standard deviation of a score at a rung from seed to seed, measured on the baselines; 0 if not known."""
        noise = seed_sigma(by_rung[rung] for by_rung in self.baseline_scores.values())
        return noise.sigma if noise else 0.0

    def results_known(self, known: Known) -> bool:
        """Whether a baseline's seeds have been revealed, or its rejection."""
        return known.status == "rejected" or known.candidate.id in self.baseline_scores

    def best_baseline(self) -> Known | None:
        """The baseline with the best mean over its seeds at the top rung; None if none has got there."""
        sign = 1 if self.space.task.maximize else -1
        means = {c: sign * fmean(by_rung[-1]) for c, by_rung in self.baseline_scores.items() if by_rung[-1]}
        return self.known[max(means, key=lambda c: (means[c], -c))] if means else None

    def spent(self) -> int:
        """How much of the budget is used or promised: candidates that are not rejected, without baselines."""
        return sum(k.status != "rejected" and k.candidate.arm != "baseline" for k in self.known.values())

    def best(self, known: Known) -> float | None:
        """A candidate's score: its best draw at the first rung."""
        if not known.scores:
            return None
        return max(known.scores) if self.space.task.maximize else min(known.scores)

    def able(self, rung: int, vetoed: Collection[int] = ()) -> Sequence[Result]:
        """The results of a rung; those of candidates that are vetoed or were caught, and of trials left, only count."""
        if not vetoed and not self.left and not self.discredited:
            return self.results[rung]
        out = {*vetoed, *self.discredited}
        return [
            replace(result, score=None) if result.candidate in out or result.trial in self.left else result
            for result in self.results[rung]
        ]

    def bar(self) -> Mapping[str, float]:
        """Each task's score of the last trial that the first rung would promote now; empty if it would promote none.

        What is worse than that one on every task is seldom promoted later, when places are added; so it need not be
        trained on all of them.
        """
        results = self.results[0]
        whole = [result for result in ranked(results, self.space.task.maximize) if result.trial not in self.left]
        place = min(slots(len(results), self.space.ladder.eta), len(whole))
        return self.curves[whole[place - 1].trial][0].parts if place and whole[place - 1].score is not None else {}

    def doubt(self, rung: int) -> Doubt | None:
        """Which scores at a rung are too good to be believed at once, as far as baselines are known."""
        baselines = [by_rung[rung] for by_rung in self.baseline_scores.values()]
        task = self.space.task
        return doubt(baselines, bound=task.bound, gain=self.space.credible_gain, maximize=task.maximize)

    def next_promotion(self, vetoed: Collection[int] = ()) -> tuple[int, int] | None:
        """(trial, rung to reach) of the next promotion, from the highest rung that has a free place."""
        ladder, maximize = self.space.ladder, self.space.task.maximize
        for rung in reversed(range(ladder.top)):
            trial = next_promotion(self.able(rung, vetoed), self.promoted[rung], ladder.eta, maximize)
            if trial is not None:
                return trial, rung + 1
        return None

    def waiting(self) -> Known | None:
        """The admitted candidate that has waited longest for its first draws."""
        return next((known for known in self.known.values() if known.waiting), None)

    def evidence(self) -> list[Evidence]:
        """Promotions that a forecaster took part in, compared with what the next rung has shown."""
        found = []
        for rung in range(self.space.ladder.top):
            after = self.results[rung + 1]
            found += forecast.resolved(rung, self.promotions[rung], after, self.space.task.maximize)
        return found

    def to_forecast(self, rung: int, vetoed: Collection[int] = ()) -> list[int]:
        """Trials of a rung that could be promoted and have not been asked about, if a place is free; best first."""
        eta = self.space.ladder.eta
        results = self.able(rung, vetoed)
        if slots(len(results), eta) <= len(self.promoted[rung]):
            return []
        reach = ranked(results, self.space.task.maximize)[: forecast.REACH * len(results) // eta]
        waiting = [r.trial for r in reach if r.score is not None and r.trial not in self.promoted[rung]]
        return [trial for trial in waiting if trial not in self.asked[rung]]

    def choices(self, rung: int) -> dict[int, Why]:
        """Whose choice each promotion from a rung was."""
        by_rank: dict[int, Why] = dict.fromkeys(sorted(self.promoted[rung]), "rank")
        by_rank.update((choice.trial, choice.why) for choice in self.promotions[rung])
        return by_rank

    def scored(self) -> list[Known]:
        """Candidates that can be parents: admitted, with a score at the first rung, and never caught; baselines too."""
        return [
            known for known in self.known.values()
            if known.status == "admitted" and known.scores and known.candidate.id not in self.discredited
        ]  # fmt: skip

    def program_of(self, trial: Trial) -> Mapping[str, Any]:
        """The program that a trial trains."""
        facts = self.programs.get(trial.id) or self.known[trial.candidate].facts
        assert facts is not None, f"trial {trial.id} has no program"
        return facts

    def leaders(self, rung: int, count: int = 1) -> list[Result]:
        """The best trials at a rung, one for each candidate."""
        return finalists(
            [result for result in self.results[rung] if result.candidate not in self.discredited],
            self.space.task.maximize, count,
        )  # fmt: skip

    # ---- attempts and rewards of the arms

    def _attempt(self, arm: str, candidate: int) -> int:
        self.attempts.append(Attempt(arm=arm, admitted=True if arm == TUNE else None, candidate=candidate, trials=0))
        return len(self.attempts) - 1

    def _attempt_of(self, task: Task) -> int | None:
        return self.tunes.get(task.slot, self.known[task.candidate].attempt)

    def _change(self, attempt: int | None, **fields: Any) -> None:
        if attempt is not None:
            self.attempts[attempt] = replace(self.attempts[attempt], **fields)

    def _rewarded(self, known: Known, scores: Sequence[Score]) -> bool:
        """Whether the best of these draws is among the best 1/eta of all candidates' scores so far.

        One yardstick for every arm. Measured against its own parent, which is good, evolution was paid for a tenth of
        its proposals, and random sampling, measured against the median, for almost half.
        """
        sign = 1 if self.space.task.maximize else -1
        mine = max((sign * score.point.score for score in scores if score.point), default=None)
        others = [
            sign * best for other in self.scored() if other is not known and (best := self.best(other)) is not None
        ]
        if mine is None:
            return False
        return sum(other >= mine for other in others) < max(1, len(others) // self.space.ladder.eta)


def failure_of_duplicate(other: int) -> Failure:
    """The rejection of a candidate that is an earlier one spelled differently."""
    message = f"the same program as candidate {other}; change what it computes, not how it is written"
    return Failure(stage="duplicate", rule="duplicate", message=message)


def entry_of(candidate: Candidate, slot: int, failure: Failure | None = None) -> Entry:
    """A proposal as it enters the store."""
    return Entry(candidate=candidate, slot=slot, failure=failure, program=None)
