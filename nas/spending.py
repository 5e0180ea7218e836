"""What a run's model cost and what came of it: calls, tokens and dollars, per trial, candidate and improvement.

In go a run's tables, out come sums. An improvement is an admitted candidate whose best draw at the first rung is
better than its best parent's by more than a standard deviation between seeds: a count of what is likely to be real, and
no claim. Dollars are counted as the server reported its tokens; what has no price is said to have none.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from nas.records import Trial
from nas.store import Entry, Score, Task

ARMS = ("claude", "claude_blind")
"""The arms whose candidates a model wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Sums over a run.

    Attributes:
      calls: how many there were, by outcome.
      usd: dollars by role; a role with a call that has no price is left out.
      prompt_tokens: that went in.
      cached_tokens: of these, read from the server's cache.
      output_tokens: that came out.
      drafts: answers that were sent back to be repaired.
      candidates: written and admitted.
      trials: of those.
      improvements: admitted candidates better than their best parent by more than a seed's deviation.
      forecasts: trials that were forecast.
      by_model: promotions that a forecast changed.
    """

    calls: Mapping[str, int]
    usd: Mapping[str, Decimal]
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    drafts: int
    candidates: int
    trials: int
    improvements: int
    forecasts: int
    by_model: int

    @property
    def total_usd(self) -> Decimal:
        """Dollars in all, as far as there are prices."""
        return sum(self.usd.values(), Decimal(0))

    @property
    def written_usd(self) -> Decimal:
        """Dollars for writing and repairing candidates."""
        return sum((self.usd[role] for role in ("propose", "repair") if role in self.usd), Decimal(0))

    def each(self, count: int) -> Decimal | None:
        """Dollars for writing, for each of so many; None if there is none."""
        return self.written_usd / count if count else None


def spending(
    tasks: Sequence[Task], entries: Sequence[Entry], trials: Sequence[Trial], scores: Sequence[Score], *, sign: int,
    sigma: float | None,
) -> Spending | None:  # fmt: skip
    """Sum up what the model cost; None if none was asked.

    Args:
      tasks: of a run, like the other tables.
      entries: the candidates.
      trials: all of them.
      scores: all of them.
      sign: 1 if a higher score is better, else -1.
      sigma: a score's deviation between seeds at the first rung; None counts no improvements.
    """
    outcomes = [task.outcome or {} for task in tasks]
    spent = [call for task in tasks for call in (task.usage or {}).get("calls", ())]
    calls = Counter(call["outcome"] for outcome in outcomes for call in outcome.get("calls", ()))
    if not calls:
        return None
    written = {e.candidate.id for e in entries if e.candidate.arm in ARMS and e.program is not None}
    return Spending(
        calls=dict(calls.most_common()),
        usd=_dollars(spent),
        prompt_tokens=sum(call["prompt_tokens"] for call in spent),
        cached_tokens=sum(call["cached_tokens"] for call in spent),
        output_tokens=sum(call["output_tokens"] for call in spent),
        drafts=sum(len(outcome.get("drafts", ())) for outcome in outcomes),
        candidates=len(written),
        trials=sum(trial.candidate in written for trial in trials),
        improvements=_improvements(entries, trials, scores, written, sign, sigma),
        forecasts=sum(len(outcome.get("forecasts", ())) for outcome in outcomes),
        by_model=sum(task.decision.get("choice", {}).get("why") == "model" for task in tasks),
    )


def lines(found: Spending) -> list[str]:
    """The sums in words, for a table's caption."""
    calls = ", ".join(f"{outcome} {count}" for outcome, count in found.calls.items())
    share = found.cached_tokens / found.prompt_tokens if found.prompt_tokens else 0.0
    costs = [
        f"{_money(each)} {what}"
        for what, count in (("a trial", found.trials), ("a candidate", found.candidates),
                            ("an improvement", found.improvements))
        if (each := found.each(count)) is not None
    ]  # fmt: skip
    said = [
        f"model: {calls} calls, {_money(found.total_usd)}; {found.prompt_tokens:,} tokens in ({share:.0%} from the "
        f"cache), {found.output_tokens:,} out; {found.drafts} drafts sent back; {found.candidates} candidates, "
        f"{found.improvements} better than their parent by over σ" + (f"; {', '.join(costs)}" if costs else "")
    ]
    if found.forecasts:
        said.append(f"forecasts: {found.forecasts} trials, {found.by_model} promotions changed by them")
    return said


def _dollars(spent: Sequence[Mapping[str, Any]]) -> dict[str, Decimal]:
    unknown = {call["role"] for call in spent if call["usd"] is None}
    sums: dict[str, Decimal] = {}
    for call in spent:
        if call["role"] not in unknown:
            sums[call["role"]] = sums.get(call["role"], Decimal(0)) + Decimal(call["usd"])
    return sums


def _improvements(
    entries: Sequence[Entry], trials: Sequence[Trial], scores: Sequence[Score], written: set[int], sign: int,
    sigma: float | None,
) -> int:  # fmt: skip
    if sigma is None:
        return 0
    owner = {trial.id: trial.candidate for trial in trials}
    best: dict[int, float] = {}
    for score in scores:
        if score.rung == 0 and score.point and score.trial in owner:
            value = sign * score.point.score
            best[owner[score.trial]] = max(best.get(owner[score.trial], value), value)
    count = 0
    for entry in entries:
        parents = [best[parent] for parent in entry.candidate.parents if parent in best]
        mine = best.get(entry.candidate.id)
        if entry.candidate.id in written and parents and mine is not None:
            count += mine > max(parents) + sigma
    return count


def _money(amount: Decimal) -> str:
    return f"${amount:.2f}" if amount >= 1 else f"${amount:.4f}"
