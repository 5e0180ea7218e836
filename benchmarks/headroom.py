"""How far the best candidate of some runs stands above the baselines when both are trained anew with fresh seeds.

    python -m benchmarks.headroom results/runs/searches/seed-0 results/runs/searches/seed-1

What a space's limits are for: without headroom no search has anything to find. The candidate is the one with the best
score at the top rung in any of the runs; it is trained again at the numbers it was found with. Every baseline first
gets `--draws` draws of learning rate and weight decay, spread over the whole range and trained to the top rung, of
which the best is trained again: more than a search gives it, so the headroom is not made by a weak baseline. Means and
deviations are over fresh seeds alone, on validation. Sigma is the pooled deviation of the candidate and the best
baseline. The candidate's search score stands beside its mean: the difference is the luck of having been chosen.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.behind_wall import drive_all
from nas.admit.gate import check
from nas.execute import Event
from nas.execute.local import LocalExecutor
from nas.flows import Place, baseline, preload
from nas.records import Trial, Value, defaults
from nas.space import Ladder, SearchSpace, load
from nas.standings import Records, Row, rank, read
from nas.store import Store, StoreError
from nas.train.engine import prepare_job


def found(folders: Sequence[Path]) -> tuple[Records, Row, int]:
    """The run with the best candidate at the top rung, that candidate's row, and the number of candidates in all runs.

    Raises:
      StoreError: a run cannot be read, the runs are of different spaces, or no candidate has reached the top rung.
    """
    tables = []
    for folder in folders:
        store = Store(folder)
        tables.append(read(store))
        store.close()
    if len({(t.config["space"], t.config["space_version"]) for t in tables}) > 1:
        raise StoreError("the runs are of different spaces; give runs of one")
    top = len(tables[0].config["ladder"]["steps"]) - 1
    rows = [(t, row) for t in tables for row in rank(t) if row.arm != "baseline" and row.rung == top]
    if not rows:
        raise StoreError("no candidate has reached the top rung; give a run that has gone further")
    records, row = max(rows, key=lambda pair: pair[0].sign * pair[1].score)
    tried = sum(len({t.candidate for t in table.trials if t.arm != "baseline"}) for table in tables)
    return records, row, tried


def draws(space: SearchSpace, count: int, first: int, values: Mapping[str, Value]) -> list[Trial]:
    """Trials whose learning rates are evenly spread over the space's range, on its scale, weight decay at random."""
    rng = np.random.default_rng(0)
    lr, wd = space.recipe.lr, space.recipe.wd
    made = []
    for index in range(count):
        recipe = {"lr": _between(lr, (index + 0.5) / count), "wd": _between(wd, rng.random())}
        made.append(Trial(id=first + index, candidate=0, arm="baseline", values=values, recipe=recipe, seed=index))
    return made


def _between(number: Any, share: float) -> float:
    low, high = (math.log(number.low), math.log(number.high)) if number.log else (number.low, number.high)
    value = low + share * (high - low)
    return math.exp(value) if number.log else value


def measure(records: Records, row: Row, seeds: int, count: int, workers: int) -> list[dict[str, Any]]:
    """Train the candidate and all baselines anew; a row each, the candidate's first."""
    reference = records.config["space"]
    space = load(reference)
    space = replace(space, ladder=Ladder(steps=space.ladder.steps[-1:], eta=space.ladder.eta, draws=count))
    trial = next(t for t in records.trials if t.id == row.trial)
    source = next(e.candidate.source for e in records.entries if e.candidate.id == row.candidate)
    jobs = [(f"candidate {row.candidate}", source, [replace(trial, id=0)])]
    for name, text in space.baselines.items():
        jobs.append((name, text, draws(space, count, 0, defaults(check(text, space.scope).tunables))))
    with tempfile.TemporaryDirectory() as folder, LocalExecutor(workers, preload(space)) as executor:
        store = Store.create(Path(folder) / "run", {})
        examples = prepare_job(reference, str(store.folder / "data"))["validation"]
        place = Place(reference=reference, space=space, store=store, examples=examples)
        flows = []
        for slot, (_, text, trials) in enumerate(jobs):
            first = 1 + slot * (count + seeds)
            numbered = [replace(t, id=first + index) for index, t in enumerate(trials)]
            flows.append(baseline(
                place, slot, text, numbered[0].values, numbered,
                lambda best, at=first + len(trials): [
                    replace(best, id=at + n, seed=1_000 + n) for n in range(seeds)
                ],
            ))  # fmt: skip
        outcomes = drive_all(executor, flows, _say)
        store.close()
    made = []
    for (name, _, _), outcome in zip(jobs, outcomes, strict=True):
        if outcome.failure:
            raise StoreError(f"{name} could not be trained again: {outcome.failure}")
        repeated = {t.id for t in outcome.trials}
        scores = [s.point.score for s in outcome.scores if s.trial in repeated and s.point]
        lr = outcome.trials[0].recipe["lr"]
        cost = outcome.facts["cost"]
        made.append({"name": name, "params": cost["params"], "flops": cost["flops"], "lr": lr, "scores": scores,
                     "mean": fmean(scores), "deviation": stdev(scores)})  # fmt: skip
    return made


def _say(event: Event) -> None:
    print(f"{event.job_id}: {event.kind}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 if the runs cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.headroom", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="DIR", help="folders of finished runs")
    add("--seeds", type=int, default=5, metavar="N", help="fresh seeds of each (5)")
    add("--draws", type=int, default=12, metavar="N", help="draws of each baseline, at the top rung (12)")
    add("--workers", type=int, default=2, metavar="N", help="jobs at once (2)")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    parsed = parser.parse_args(arguments)
    try:
        records, row, tried = found(parsed.runs)
        rows = measure(records, row, parsed.seeds, parsed.draws, parsed.workers)
    except StoreError as error:
        print(f"benchmarks.headroom: {error}", file=sys.stderr)
        return 2
    sign = records.sign
    ours, best = rows[0], max(rows[1:], key=lambda found: sign * found["mean"])
    sigma = math.sqrt((ours["deviation"] ** 2 + best["deviation"] ** 2) / 2)
    figures = {
        "candidates": tried, "search_score": row.score, "rows": rows, "best_baseline": best["name"], "sigma": sigma,
        "as_found": sign * (row.score - best["mean"]) / sigma, "fresh": sign * (ours["mean"] - best["mean"]) / sigma,
    }  # fmt: skip
    cells = [[r["name"], r["params"], r["flops"], r["lr"], f"{r['mean']:.4f}", f"{r['deviation']:.4f}"] for r in rows]
    print(report.table(["network", "parameters", "FLOPs", "lr", "fresh mean", "deviation"], cells))
    print(
        f"\nbest of {tried} candidates: {row.score:.4f} as it was found, {ours['mean']:.4f} with fresh seeds; above "
        f"{best['name']} {figures['as_found']:+.1f} and {figures['fresh']:+.1f} sigma (sigma {sigma:.4f})"
    )
    if parsed.json:
        report.write(parsed.json, "headroom", {"seeds": parsed.seeds, "draws": parsed.draws}, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
