"""What forecasts do to a search, whoever makes them: `python -m benchmarks.forecasters --searches 300 --json FILE`.

Searches among trials whose learning curves are known (`benchmarks.curves`), nothing is trained. Trials arrive one after
another in random order, each promotion is decided by `nas.judge.forecast` as in a search, and forecasts end when they
have shown no skill. Searches are paired: one without a model and one with each forecaster see the same trials in the
same order.

    none           ranks alone
    wrong          .05 for what ends above the median of the promoted, .95 for the rest
    random         anything between .02 and .98
    overconfident  AUC .65, log-odds four times too large
    AUC .80        calibrated
    perfect        .95 or .05, always right
    exact          always right and graded: the further above the median, the higher
    sleeper        perfect, except that it calls the best 4 % of all hopeless

*Gain* is the true value of the choice, the best trial of the highest rung with results, minus the median of the
population. The change is that of the mean gain against no model, in percent of the latter, and its standard error that
of the paired differences. A loss is held against its limit as mean + 1.64 standard errors for the wrong and the
sleeper, and as the mean for others, whose effects are smaller than such an error. *Steps* is when the mean gain first
reaches the final one of no model, as a share of all steps, where curves cross (`slow_starters`). Where the first rung
is only noisy, the choice without a model is so near to the best of all that no forecaster could save as much.

Not simulated: proposals that learn from results, and outcomes that come late because many trials train at once.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from benchmarks import curves, report
from benchmarks.curves import ETA, Curves
from nas.judge import forecast, rungs
from nas.judge.forecast import Choice, Why
from nas.judge.rungs import Result

TAU = 0.55
"""Kendall's tau of the first rung of synthetic curves with the truth; NAS-Bench-NLP has .70, NAS-Bench-201 .64."""
BUDGETS = (60, 200)
LIMITS = {"wrong": 2.0, "sleeper": 3.0}
"""Largest loss [%], as mean + 1.64 standard errors."""
LIMIT = 1.0
"""Largest mean loss of the others [%]."""
STEPS = 0.75
"""Largest share of the steps in which those that are always right reach the final gain of no model."""
RIGHT = ("perfect", "exact")
SURE = 0.95
BEST = 0.04


# ---- forecasters


@dataclass(frozen=True, slots=True)
class Seen:
    """What a forecaster may know of the trials of one search: it is told the future and made to err.

    Attributes:
      above: whether a trial ends above the typical median of those promoted, for each rung below the top. Shape (n, 2).
      margin: how far above, in normal scores of the population. Shape (n, 2).
      top: whether it is among the truly best of the population. Shape (n, 1).
    """

    above: np.ndarray
    margin: np.ndarray
    top: np.ndarray


def _perfect(seen: Seen, rng: np.random.Generator) -> np.ndarray:
    return np.where(seen.above, SURE, 1 - SURE)


def _signal(auc: float, exaggeration: float) -> Callable[[Seen, np.random.Generator], np.ndarray]:
    """Normal evidence for the outcome, of which a share `auc` of pairs is in the right order."""
    distance = NormalDist().inv_cdf(auc) * math.sqrt(2)

    def opinions(seen: Seen, rng: np.random.Generator) -> np.ndarray:
        evidence = np.where(seen.above, distance / 2, -distance / 2) + rng.normal(size=seen.above.shape)
        return _sigmoid(exaggeration * distance * evidence)

    return opinions


def _sigmoid(log_odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-log_odds))


FORECASTERS: dict[str, Callable[[Seen, np.random.Generator], np.ndarray]] = {
    "wrong": lambda seen, rng: 1 - _perfect(seen, rng),
    "random": lambda seen, rng: rng.uniform(0.02, 0.98, seen.above.shape),
    "overconfident": _signal(0.65, 4.0),
    "AUC .80": _signal(0.80, 1.0),
    "perfect": _perfect,
    "exact": lambda seen, rng: _sigmoid(2 * seen.margin),
    "sleeper": lambda seen, rng: np.where(seen.top, 1 - SURE, _perfect(seen, rng)),
}
"""Each gives the probability of every trial at every rung below the top."""


class Population:
    """Curves with what has to be known of all of them."""

    def __init__(self, known: Curves) -> None:
        self.curves = known
        quantiles, typical = known.quantiles(), known.typical()
        normal = np.array([NormalDist().inv_cdf(q) for q in quantiles[:, 1:].ravel()]).reshape(-1, 2)
        self.margin = normal - [NormalDist().inv_cdf(q) for q in typical]
        self.top = known.value >= np.quantile(known.value, 1 - BEST)
        self.gain = known.value - np.median(known.value)

    def seen(self, trials: np.ndarray) -> Seen:
        """What there is to know of these trials."""
        margin = self.margin[trials]
        return Seen(above=margin >= 0, margin=margin, top=self.top[trials][:, None])


# ---- one search


class Search:
    """One search among known curves.

    Args:
      scores: of the trials, in the order of their arrival; NaN where they failed. Shape (n, 3).
      steps: that reach each rung.
      opinions: forecasts for them; None without a model. Shape (n, 2).
      seed: of the coins.
    """

    def __init__(self, scores: np.ndarray, steps: Sequence[int], opinions: np.ndarray | None, seed: int) -> None:
        self.scores = [[None if math.isnan(s) else s for s in row] for row in scores.tolist()]
        self.costs = np.diff(steps, prepend=0).tolist()
        self.forecasts = [dict(enumerate(column)) for column in opinions.T.tolist()] if opinions is not None else None
        self.seed = seed
        self.results: list[list[Result]] = [[], [], []]
        self.promoted: list[dict[int, Why]] = [{}, {}]
        self.choices: list[list[Choice]] = [[], []]
        self.weights, self.stale = forecast.PRIOR, False
        self.steps, self.best = [0], [-1]

    def run(self) -> "Search":
        """Let all trials arrive, and promote whenever there is a place, from the highest rung first."""
        for trial in range(len(self.scores)):
            self._train(trial, 0)
            while self._promote(1) or self._promote(0):
                pass
        return self

    def _train(self, trial: int, rung: int) -> None:
        self.results[rung].append(Result(trial=trial, candidate=trial, score=self.scores[trial][rung]))
        self.steps.append(self.steps[-1] + self.costs[rung])
        highest = max(k for k in range(3) if self.results[k])
        leader = self.best[-1]
        if rung == highest:
            leader = next((result.trial for result in rungs.ranked(self.results[rung], True)[:1]), leader)
        self.best.append(leader)

    def _promote(self, rung: int) -> bool:
        results, promoted = self.results[rung], self.promoted[rung]
        if len(promoted) >= rungs.slots(len(results), ETA):
            return False
        self._learn()
        rng = np.random.default_rng([self.seed, len(self.steps)])
        forecasts = self.forecasts[rung] if self.forecasts else {}
        choice = forecast.next_promotion(
            results, promoted, forecasts, self.weights, rung=rung, eta=ETA, maximize=True, rng=rng
        )
        if choice is None:
            return False
        promoted[choice.trial] = choice.why
        self.choices[rung].append(choice)
        self._train(choice.trial, rung + 1)
        self.stale = True
        return True

    def _learn(self) -> None:
        """Fit the weights to what has been resolved since, and end forecasts that have shown no skill."""
        if self.forecasts is None or not self.stale:
            return
        evidence = [
            e for rung in (0, 1) for e in forecast.resolved(rung, self.choices[rung], self.results[rung + 1], True)
        ]
        self.weights, self.stale = forecast.fit(evidence), False
        if forecast.has_skill(evidence) is False:
            self.forecasts = None


# ---- all of them


def compare(population: Population, budget: int, searches: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """Paired searches without a model and with each forecaster; one row a forecaster."""
    index = list(FORECASTERS)
    gains: dict[str, list[np.ndarray]] = {name: [] for name in ("none", *names)}
    facts: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in names}
    steps: np.ndarray = np.zeros(1)
    for seed in range(searches):
        order = np.random.default_rng([seed, 0]).permutation(len(population.gain))[:budget]
        seen, scores = population.seen(order), population.curves.scores[order]
        for name, curve in gains.items():
            opinions = None
            if name != "none":
                opinions = FORECASTERS[name](seen, np.random.default_rng([seed, 1, index.index(name)]))
            search = Search(scores, population.curves.steps, opinions, seed).run()
            curve.append(population.gain[order][search.best[1:]])
            steps = np.array(search.steps[1:])
            if name != "none":
                facts[name].append((_changed(search), search.weights.w, search.forecasts is None))
    return [_row(population, budget, name, gains, facts[name], steps) for name in names]


def _changed(search: Search) -> float:
    """Share of all promotions that the model changed."""
    whys = [why for promoted in search.promoted for why in promoted.values()]
    return sum(why == "model" for why in whys) / len(whys)


def _row(
    population: Population, budget: int, name: str, gains: dict[str, list[np.ndarray]],
    facts: Sequence[tuple[float, float, bool]], steps: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    none, model = (np.array([curve[-1] for curve in gains[which]]) for which in ("none", name))
    change = 100 * (model - none) / none.mean()
    mean, error = float(change.mean()), float(change.std(ddof=1) / math.sqrt(len(change)))
    loss = -mean + 1.64 * error if name in LIMITS else -mean
    limit = LIMITS.get(name, LIMIT)
    changed, w, stopped = (float(part) for part in np.mean(np.array(facts, float), axis=0))
    return {
        "curves": population.curves.name, "budget": budget, "forecaster": name, "searches": len(change),
        "gain_without": float(none.mean()), "change": mean, "error": error, "held": loss, "limit": limit,
        "reached": loss <= limit, "steps": _reaches(gains, name, steps), "changed": changed, "w": w, "stopped": stopped,
    }  # fmt: skip


def _reaches(gains: dict[str, list[np.ndarray]], name: str, steps: np.ndarray) -> float | None:
    """Share of the steps after which the mean gain reaches the final one of no model; None if it never does.

    Only where all searches train the same number of steps one after another, that is, where no trial fails.
    """
    curves_of = [gains["none"], gains[name]]
    if any(len(curve) != len(steps) for found in curves_of for curve in found):
        return None
    none, model = (np.mean(found, axis=0) for found in curves_of)
    there = np.flatnonzero(model >= none[-1])
    return float(steps[there[0]] / steps[-1]) if len(there) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, print the table and whether each line reached what it must; returns 1 if one did not."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.forecasters", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--searches", type=int, default=300, help="paired searches of each line (300)")
    parser.add_argument("--steps-searches", type=int, default=1_000, help="of the lines about steps (1000)")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS), help="trials of a search (60 200)")
    parser.add_argument("--forecasters", nargs="+", choices=list(FORECASTERS), default=list(FORECASTERS), help="(all)")
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data", help="folder of the tables")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parsed = parser.parse_args(arguments)
    began = time.process_time()
    slow = Population(curves.slow_starters(TAU))
    rows = []
    for population in [*_tables(parsed.data), slow, Population(curves.noisy(TAU))]:
        for budget in parsed.budgets:
            rows += compare(population, budget, parsed.searches, parsed.forecasters)
            print(f"{population.curves.name}, {budget}: {time.process_time() - began:.0f} s", file=sys.stderr)
    right = [name for name in RIGHT if name in parsed.forecasters]
    faster = compare(slow, max(parsed.budgets), parsed.steps_searches, right) if right else []
    for row in faster:
        row.update(limit=STEPS, held=row["steps"], reached=row["steps"] is not None and row["steps"] <= STEPS)
    _show(rows, faster)
    seconds = time.process_time() - began
    print(f"\n{seconds:.0f} s of CPU time")
    if parsed.json:
        settings = {name: value for name, value in vars(parsed).items() if not isinstance(value, Path)}
        figures = {"rows": rows, "steps": faster, "cpu_s": seconds}
        report.write(parsed.json, "forecasters", settings | {"tau": TAU}, figures)
    return 0 if all(row["reached"] for row in [*rows, *faster]) else 1


def _tables(folder: Path) -> list[Population]:
    missing = [name for name in curves.TABLES if not (folder / name).is_file()]
    if missing:
        print(f"{' and '.join(missing)} not in {folder}: synthetic curves only; give their folder with --data")
    return [Population(read(folder)) for name, read in curves.TABLES.items() if name not in missing]


def _show(rows: Sequence[dict[str, Any]], faster: Sequence[dict[str, Any]]) -> None:
    columns = [
        "curves, budget, forecaster",
        "change %",
        "error",
        "loss held",
        "limit",
        "reached",
        "changed",
        "w",
        "stopped",
    ]
    cells = [
        [f"{row['curves']}, {row['budget']}, {row['forecaster']}", row["change"], row["error"], row["held"],
         row["limit"], _word(row), row["changed"], row["w"], row["stopped"]]
        for row in rows
    ]  # fmt: skip
    print(report.table(columns, cells))
    if faster:
        cells = [
            [f"{row['curves']}, {row['budget']}, {row['forecaster']}", row["steps"], row["limit"], _word(row)]
            for row in faster
        ]
        print("\n" + report.table(["steps to the final gain of no model", "share", "limit", "reached"], cells))


def _word(row: dict[str, Any]) -> str:
    return "yes" if row["reached"] else "NO"


if __name__ == "__main__":
    sys.exit(main())
