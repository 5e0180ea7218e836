"""The figures behind the page's charts, from a run's records: plain arithmetic, nothing is drawn here.

Baselines are what others are compared with, so they are no part of the progress and the ladder's counts. Figures are
of scores that the search chose by, and claim nothing.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate

from nas.records import Failure
from nas.standings import Records, discredited, number, reason, untraced


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One result of the search, in the order in which the results were decided on.

    Attributes:
      trial: whose.
      candidate: of which candidate.
      rung: where.
      score: what it was.
      record: whether it was better than all before it at this rung.
    """

    trial: int
    candidate: int
    rung: int
    score: float
    record: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """How many trials came to a rung, and what became of them, without baselines.

    Attributes:
      steps: training steps.
      scored: trials with a score.
      failed: trials that ended without one.
      running: decided, and not ended.
      promoted: those that were sent on.
    """

    steps: int
    scored: int
    failed: int
    running: int
    promoted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why candidates or trials ended without a score: how often, and in the words of the first."""

    reason: str
    count: int
    example: str
    candidates: tuple[int, ...]


def progress(records: Records) -> list[Step]:
    """Every score of the search in the order of its decision, without those of candidates that were caught."""
    owner = {trial.id: trial.candidate for trial in records.trials}
    baselines = _baselines(records) | discredited(records)
    best: dict[int, float] = {}
    steps = []
    for score in sorted(records.scores, key=lambda score: (score.slot, score.trial, score.rung)):
        value = number(score)
        if value is None or owner.get(score.trial, 0) in {0} | baselines:
            continue
        record = records.sign * value > best.get(score.rung, -math.inf)
        if record:
            best[score.rung] = records.sign * value
        candidate = owner[score.trial]
        steps.append(Step(trial=score.trial, candidate=candidate, rung=score.rung, score=value, record=record))
    return steps


def ladder(records: Records) -> list[Level]:
    """The rungs with the number of trials that reached them."""
    baselines = _baselines(records)
    owner = {trial.id: trial.candidate for trial in records.trials}
    ours = [score for score in records.scores if owner.get(score.trial, 0) not in {0} | baselines]
    scored = Counter(score.rung for score in ours if number(score) is not None)
    failed = Counter(score.rung for score in ours if number(score) is None)
    failed[0] += len(untraced(records.tasks))
    reached, running = Counter[int](), Counter[int]()
    for task in records.tasks:
        if task.kind == "promote":
            reached[task.decision["rung"]] += 1
            running[task.decision["rung"]] += task.outcome is None
        elif task.kind == "first" and task.outcome is None:
            running[0] += len(task.decision.get("trials", ()))
    return [
        Level(steps=steps, scored=scored[rung], failed=failed[rung], running=running[rung], promoted=reached[rung + 1])
        for rung, steps in enumerate(records.config["ladder"]["steps"])
    ]


def rejections(records: Records) -> list[Reason]:
    """Why candidates were turned away, the most frequent reason first."""
    return _counted([(entry.candidate.id, entry.failure) for entry in records.entries if entry.failure is not None])


def failures(records: Records) -> list[Reason]:
    """Why trials ended without a further score, the most frequent reason first."""
    owner = {trial.id: trial.candidate for trial in records.trials}
    found = [(owner.get(score.trial, 0), score.failure) for score in records.scores if score.failure is not None]
    found += [(owner.get(trial, 0), failure) for trial, failure in untraced(records.tasks).items()]
    return _counted(found)


def promoted_by(records: Records) -> dict[str, int]:
    """How many promotions were made by rank, by the model, at random, and because someone pinned a candidate."""
    made = [task.decision for task in records.tasks if task.kind == "promote"]
    return dict(Counter(why(decision) for decision in made).most_common())


def why(decision: Mapping[str, object]) -> str:
    """Whose choice a promotion was: `rank`, `model`, `random` or `pin`."""
    choice = decision.get("choice")
    return "pin" if decision.get("pinned") else choice["why"] if isinstance(choice, dict) else "rank"


def stages(records: Records) -> dict[str, float]:
    """Seconds by stage over all tasks that ended; what a trainer does between its own stages is `other`.

    Tracing and checking are in processor time; the stages of a trainer are on its clock, which is the same where it has
    a core of its own.
    """
    total: dict[str, float] = {}
    for task in records.tasks:
        spent = dict((task.usage or {}).get("stages", {}))
        trainer = spent.pop("trainer", 0.0)
        inside = sum(seconds for stage, seconds in spent.items() if stage not in ("trace", "check", "leaks"))
        if trainer > inside:
            spent["other"] = trainer - inside
        for stage, seconds in spent.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return {stage: round(seconds, 3) for stage, seconds in total.items()}


def dollars(records: Records) -> list[tuple[int, Decimal]]:
    """(Slot, dollars so far) for every decision that a model was asked for, as far as its calls have a price.

    A call's id begins with the slot of its decision; one that does not, before the search, counts from the start.
    """
    asked: dict[int, Decimal] = {}
    for call in records.settled:
        head = call.request.partition(".")[0]
        slot = int(head) if head.isdecimal() else 0
        asked[slot] = asked.get(slot, Decimal(0)) + (call.usd or Decimal(0))
    return list(zip(sorted(asked), accumulate(asked[slot] for slot in sorted(asked)), strict=True))


def _counted(found: Sequence[tuple[int, Failure]]) -> list[Reason]:
    groups: dict[str, list[tuple[int, Failure]]] = {}
    for candidate, failure in found:
        groups.setdefault(reason(failure), []).append((candidate, failure))
    listed = [
        Reason(
            reason=name,
            count=len(group),
            example=group[0][1].message,
            candidates=tuple(dict.fromkeys(c for c, _ in group)),
        )
        for name, group in groups.items()
    ]
    return sorted(listed, key=lambda one: (-one.count, one.reason))


def _baselines(records: Records) -> set[int]:
    return {entry.candidate.id for entry in records.entries if entry.candidate.arm == "baseline"}
