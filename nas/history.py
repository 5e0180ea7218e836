"""What a search knows at a decision: the tasks decided so far, and the outcomes that it may use.

Decision k is made from exactly the outcomes of tasks 0 … k−L−1; a task that ended sooner counts as running. So
everything here changes in two places only, `decided` and `revealed`, which the loop calls in the order of slots, when
it searches and when it replays a stored run alike. Nothing is trained, drawn or written here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nas.judge.noise import seed_sigma
from nas.judge.rungs import Result, finalists, next_promotion
from nas.propose.mixture import TUNE, Attempt
from nas.records import Candidate, Failure, Trial
from nas.space import SearchSpace
from nas.store import Entry, Score, Task


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
        self.programs: dict[int, Mapping[str, Any]] = {}
        self.results: list[list[Result]] = [[] for _ in space.ladder.steps]
        self.promoted: list[set[int]] = [set() for _ in space.ladder.steps]
        self.baseline_scores: dict[int, list[list[float]]] = {}
        self.fingerprints: dict[str, int] = {}
        self.rejections: Counter[str] = Counter()
        self.attempts: list[Attempt] = []
        self.tunes: dict[int, int] = {}
        self.running = 0

    # ---- the two places where it changes

    def decided(self, task: Task, candidates: Sequence[Candidate], trials: Sequence[Trial]) -> None:
        """Take in a decision, before anything of it has run."""
        self.running += 1
        for candidate in candidates:
            self.known[candidate.id] = Known(candidate=candidate)
            if candidate.arm != "baseline":
                self.known[candidate.id].attempt = self._attempt(candidate.arm, candidate.id)
        for trial in trials:
            self.trials[trial.id] = trial
        known = self.known[task.candidate]
        if task.kind == "first":
            known.waiting = False
            if task.decision["tune"]:
                self.tunes[task.slot] = self._attempt(TUNE, task.candidate)
            self._change(self._attempt_of(task), trials=len(trials))
        elif task.kind == "promote":
            self.promoted[task.decision["rung"] - 1].add(task.decision["trial"])

    def revealed(
        self, task: Task, outcome: Mapping[str, Any], scores: Sequence[Score], trials: Sequence[Trial]
    ) -> None:
        """Take in what came of a task."""
        self.running -= 1
        known = self.known[task.candidate]
        for trial in trials:
            self.trials[trial.id] = trial
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
            failure = failure or {"stage": "machine", "rule": "lost"}
            self.rejections[f"{failure['stage']}/{failure['rule']}"] += 1
            self._change(known.attempt, admitted=False)
            return
        known.status, known.facts, known.waiting = "admitted", facts, known.attempt is not None
        self.fingerprints.setdefault(facts["fingerprint"], known.candidate.id)
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

    # ---- what decisions read

    def duplicate_of(self, facts: Mapping[str, Any]) -> int | None:
        """The earlier candidate whose program at its defaults is the same, if there is one."""
        return self.fingerprints.get(facts["fingerprint"])

    def sigma(self, rung: int) -> float:
        """Standard deviation of a score at a rung from seed to seed, measured on the baselines; 0 if not known."""
        noise = seed_sigma(by_rung[rung] for by_rung in self.baseline_scores.values())
        return noise.sigma if noise else 0.0

    def spent(self) -> int:
        """How much of the budget is used or promised: candidates that are not rejected, without baselines."""
        return sum(k.status != "rejected" and k.candidate.arm != "baseline" for k in self.known.values())

    def best(self, known: Known) -> float | None:
        """A candidate's score: its best draw at the first rung."""
        if not known.scores:
            return None
        return max(known.scores) if self.space.task.maximize else min(known.scores)

    def next_promotion(self) -> tuple[int, int] | None:
        """(trial, rung to reach) of the next promotion, from the highest rung that has a free place."""
        ladder, maximize = self.space.ladder, self.space.task.maximize
        for rung in reversed(range(ladder.top)):
            trial = next_promotion(self.results[rung], self.promoted[rung], ladder.eta, maximize)
            if trial is not None:
                return trial, rung + 1
        return None

    def waiting(self) -> Known | None:
        """The admitted candidate that has waited longest for its first draws."""
        return next((known for known in self.known.values() if known.waiting), None)

    def scored(self) -> list[Known]:
        """Candidates that can be parents: admitted, with a score at the first rung; baselines too."""
        return [known for known in self.known.values() if known.status == "admitted" and known.scores]

    def program_of(self, trial: Trial) -> Mapping[str, Any]:
        """The program that a trial trains."""
        facts = self.programs.get(trial.id) or self.known[trial.candidate].facts
        assert facts is not None, f"trial {trial.id} has no program"
        return facts

    def leaders(self, rung: int, count: int = 1) -> list[Result]:
        """The best trials at a rung, one for each candidate."""
        return finalists(self.results[rung], self.space.task.maximize, count)

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
