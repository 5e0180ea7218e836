"""What a run's model cost and what came of it: calls, tokens and dollars, per trial, candidate and improvement.

In go a run's tables and what its transcript says was billed; out come sums, and how good the forecasts were, given
promotion. Every call counts that may have cost something: those that were cut off, with the most that they may have
cost, and the one before the start that tries the key. An improvement is an admitted candidate whose best draw at the
first rung is better than its best parent's by more than a standard deviation between seeds: a count of what is likely
to be real, and no claim. Dollars are counted as the server reported its tokens; what has no price is said to have none.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from nas.judge import forecast
from nas.judge.forecast import Calibration, Choice
from nas.judge.rungs import Result
from nas.llm.ledger import Settled
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
      open_usd: of these, the most that calls may have cost whose end is not known, because they run or were cut off.
      prompt_tokens: that went in.
      cached_tokens: of these, read from the server's cache.
      output_tokens: that came out.
      drafts: answers that were sent back to be repaired.
      candidates: written and admitted.
      trials: of those.
      improvements: admitted candidates better than their best parent by more than a seed's deviation.
      forecasts: trials that were forecast.
      by_model: promotions that a forecast changed.
      calibration: of the forecasts, given promotion; None before any is resolved.
      weights: of rank and model in the order of the promotions that they were used for.
    """

    calls: Mapping[str, int]
    usd: Mapping[str, Decimal]
    open_usd: Decimal
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    drafts: int
    candidates: int
    trials: int
    improvements: int
    forecasts: int
    by_model: int
    calibration: Calibration | None
    weights: Sequence[tuple[float, float]]

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
    tasks: Sequence[Task], entries: Sequence[Entry], trials: Sequence[Trial], scores: Sequence[Score],
    settled: Sequence[Settled], *, sign: int, sigma: float | None,
) -> Spending | None:  # fmt: skip
    """Sum up what the model cost; None if none was asked.

    Args:
      tasks: of a run, like the other tables.
      entries: the candidates.
      trials: all of them.
      scores: all of them.
      settled: the calls of the run's transcript.
      sign: 1 if a higher score is better, else -1.
      sigma: a score's deviation between seeds at the first rung; None counts no improvements.
    """
    outcomes = [task.outcome or {} for task in tasks]
    calls = Counter(call["outcome"] for outcome in outcomes for call in outcome.get("calls", ()))
    if not calls and not settled:
        return None
    usages = [call.usage for call in settled if call.usage is not None]
    written = {e.candidate.id for e in entries if e.candidate.arm in ARMS and e.program is not None}
    return Spending(
        calls=dict(calls.most_common()),
        usd=_dollars(settled),
        open_usd=sum((call.usd for call in settled if call.usage is None and call.usd is not None), Decimal(0)),
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        cached_tokens=sum(usage.cache_read_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        drafts=sum(len(outcome.get("drafts", ())) for outcome in outcomes),
        candidates=len(written),
        trials=sum(trial.candidate in written for trial in trials),
        improvements=_improvements(entries, trials, scores, written, sign, sigma),
        forecasts=sum(len(outcome.get("forecasts", ())) for outcome in outcomes),
        by_model=sum(task.decision.get("choice", {}).get("why") == "model" for task in tasks),
        calibration=forecast.calibration(evidence(tasks, scores, maximize=sign > 0)).get(None),
        weights=[(w["b"], w["w"]) for task in tasks if task.kind == "promote" and (w := task.decision.get("weights"))],
    )


def evidence(tasks: Sequence[Task], scores: Sequence[Score], *, maximize: bool) -> list[forecast.Evidence]:
    """Compare the promotions that a forecaster took part in with what the next rung has shown, over a whole run."""
    choices: dict[int, list[Choice]] = {}
    for task in tasks:
        if "choice" in task.decision:
            choices.setdefault(task.decision["rung"], []).append(Choice(**task.decision["choice"]))
    searched = {task.slot for task in tasks if task.kind == "promote"}
    found = []
    for rung, promotions in sorted(choices.items()):
        results = [
            Result(trial=score.trial, candidate=0, score=score.point.score if score.point else None)
            for score in scores
            if score.rung == rung
            and score.slot in searched
            and not (score.failure and score.failure.blame == "machine")
        ]
        found += forecast.resolved(rung - 1, promotions, results, maximize)
    return found


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
    open_ = f", up to {_money(found.open_usd)} of it for calls without an end" if found.open_usd else ""
    said = [
        f"model: {calls or 'no'} calls, {_money(found.total_usd)}{open_}; {found.prompt_tokens:,} tokens in "
        f"({share:.0%} from the cache), {found.output_tokens:,} out; {found.drafts} drafts sent back; "
        f"{found.candidates} candidates, {found.improvements} better than their parent by over σ"
        + (f"; {', '.join(costs)}" if costs else "")
    ]
    if found.forecasts:
        said.append(f"forecasts: {found.forecasts} trials, {found.by_model} promotions changed by them{_worth(found)}")
    return said


def _worth(found: Spending) -> str:
    """How good the forecasts were and what weight they had, in words; empty before any was resolved."""
    if found.calibration is None:
        return ""
    known, text = found.calibration, ""
    if found.weights:
        (_, before), (rank, after) = found.weights[0], found.weights[-1]
        text = f"; weight {before:.2f} at first, {after:.2f} at last beside {rank:.2f} of the rank"
    base = f"{known.brier_base:.3f} if all were given the base rate"
    return f"; {known.resolved} resolved, Brier score {known.brier:.3f} ({base}){text}"


def _dollars(settled: Sequence[Settled]) -> dict[str, Decimal]:
    unknown = {call.role for call in settled if call.usd is None}
    sums: dict[str, Decimal] = {}
    for call in settled:
        if call.usd is not None and call.role not in unknown:
            sums[call.role] = sums.get(call.role, Decimal(0)) + call.usd
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
