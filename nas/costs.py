"""What each candidate cost, and how fast it runs: seconds on the named device, dollars, time of a step.

In go a run's tables, out come plain numbers by candidate. Times were measured while the candidates were trained, each
the fastest of several, since whatever else the machine did made them slower. Times of two devices are not compared:
where a run moved, only those of the device that measured most are told.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from nas.records import CONFIRMING, Retraining, Trial
from nas.store import Score, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a candidate cost, and how fast it runs.

    Attributes:
      device_s: seconds for which its jobs held a worker: admission, training, scoring, and confirmation.
      usd: dollars of the calls that wrote it; None if none was made, or a price is not known.
      step_s: time of one training step, wall clock, at the values of each of its draws [s]; by those values as JSON.
      inference_s: time of one example in a large batch [s]; measured when it is confirmed.
    """

    device_s: float = 0.0
    usd: Decimal | None = None
    step_s: Mapping[str, float] = field(default_factory=dict)
    inference_s: float | None = None

    def step_at(self, values: Mapping[str, Any]) -> float | None:
        """Time of a training step with these values of its own tunables [s]."""
        return self.step_s.get(_text(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the candidates of a run cost.

    Attributes:
      device: on which the times were measured; empty if none was.
      others: times that are not told, since another device measured them.
      by_candidate: their costs.
    """

    device: str = ""
    others: int = 0
    by_candidate: Mapping[int, Cost] = field(default_factory=dict)

    def of(self, candidate: int) -> Cost:
        """A candidate's; nothing spent, if it is not known."""
        return self.by_candidate.get(candidate, Cost())


def costs(
    tasks: Sequence[Task], trials: Sequence[Trial], scores: Sequence[Score], retrainings: Sequence[Retraining]
) -> Costs:
    """Add up what a run's candidates cost; arguments are its tables."""
    retrainings = [row for row in retrainings if row.purpose in CONFIRMING]
    usages = [(task.candidate, task.usage or {}) for task in tasks] + [(r.candidate, r.usage) for r in retrainings]
    measured = Counter(usage["device"] for _, usage in usages if "step_s" in usage)
    device = min(measured, key=lambda name: (-measured[name], name), default="")
    steps = _steps(tasks, trials, scores, retrainings, device)
    inference: dict[int, float] = {}
    for row in retrainings:
        if row.usage.get("device") == device and "inference_s" in row.usage:
            inference[row.candidate] = min(row.usage["inference_s"], inference.get(row.candidate, float("inf")))
    seconds: Counter[int] = Counter()
    calls: dict[int, list[str | None]] = {}
    for candidate, usage in usages:
        if candidate is not None:
            seconds[candidate] += usage.get("wall_s", 0.0)
            calls.setdefault(candidate, []).extend(call["usd"] for call in usage.get("calls", ()))
    return Costs(
        device=device,
        others=measured.total() - measured[device],
        by_candidate={
            candidate: Cost(
                device_s=seconds[candidate],
                usd=_sum(calls[candidate]),
                step_s=steps.get(candidate, {}),
                inference_s=inference.get(candidate),
            )
            for candidate in sorted(calls)
        },
    )


def _steps(
    tasks: Sequence[Task], trials: Sequence[Trial], scores: Sequence[Score], retrainings: Sequence[Retraining],
    device: str,
) -> dict[int, dict[str, float]]:  # fmt: skip
    """The fastest step of each candidate on a device, by its values: they make the program."""
    told = {task.slot: (task.usage or {})["step_s"] for task in tasks if (task.usage or {}).get("device") == device}
    by_id = {trial.id: trial for trial in trials}
    found: list[tuple[int, Mapping[str, Any], float]] = [
        (by_id[score.trial].candidate, by_id[score.trial].values, told[score.slot])
        for score in scores
        if score.slot in told and score.trial in by_id
    ]
    found += [
        (row.candidate, row.values, row.usage["step_s"])
        for row in retrainings
        if row.usage.get("device") == device and "step_s" in row.usage
    ]
    fastest: dict[int, dict[str, float]] = {}
    for candidate, values, seconds in found:
        mine, key = fastest.setdefault(candidate, {}), _text(values)
        mine[key] = min(seconds, mine.get(key, seconds))
    return fastest


def _sum(prices: Iterable[str | None]) -> Decimal | None:
    known = list(prices)
    return sum(map(Decimal, known), Decimal(0)) if known and None not in known else None  # type: ignore[arg-type]


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), sort_keys=True)
