"""How far the best candidate of some runs stands above the baselines when both are trained anew with fresh seeds.

    python -m benchmarks.headroom results/runs/searches/seed-0 results/runs/searches/seed-1

What a space's limits are for: without headroom no search has anything to find. The candidate is the one with the best
score at the top rung in any of the runs; it is trained again at the numbers it was found with. Every baseline is
trained at each of `--rates` and stands by its best mean: more than a search gives it, so the headroom is not made by a
weak baseline. All means and deviations are over the same number of fresh seeds, on validation. Sigma is the pooled
deviation of the candidate and the best baseline. The candidate's search score stands beside its mean: the difference
is the luck of having been chosen.
"""

import argparse
import itertools
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks import report
from benchmarks.behind_wall import drive_all
from nas.admit import Flow
from nas.admit.gate import check
from nas.execute import Event
from nas.execute.local import LocalExecutor
from nas.flows import Outcome, Place, admission, first_rung, preload
from nas.records import Trial, defaults
from nas.space import Ladder, load
from nas.standings import Records, Row, rank, read
from nas.store import Store, StoreError
from nas.train.job import prepare_job


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


def measure(records: Records, row: Row, seeds: int, rates: Sequence[float], workers: int) -> list[dict[str, Any]]:
    """Train the candidate and all baselines anew; a row each, the candidate's first."""
    reference = records.config["space"]
    space = load(reference)
    space = replace(space, ladder=Ladder(steps=space.ladder.steps[-1:], eta=space.ladder.eta))
    found = next(t for t in records.trials if t.id == row.trial)
    source = next(e.candidate.source for e in records.entries if e.candidate.id == row.candidate)
    wanted = [(f"candidate {row.candidate}", source, found.values, [dict(found.recipe)])]
    for name, text in space.baselines.items():
        recipes = [{"lr": rate, "wd": space.recipe.wd.default} for rate in rates]
        wanted.append((name, text, defaults(check(text, space.scope).tunables), recipes))
    numbers = itertools.count(1)
    with tempfile.TemporaryDirectory() as folder, LocalExecutor(workers, preload(space)) as executor:
        store = Store.create(Path(folder) / "run", {})
        examples = prepare_job(reference, str(store.folder / "data"))["validation"]
        place = Place(reference=reference, space=space, store=store, examples=examples)
        flows = []
        for slot, (_, text, values, recipes) in enumerate(wanted):
            trials = [
                Trial(id=next(numbers), candidate=slot, arm="baseline", values=values, recipe=recipe, seed=1_000 + seed)
                for recipe in recipes for seed in range(seeds)
            ]  # fmt: skip
            flows.append(_train(place, slot, text, trials))
        outcomes = drive_all(executor, flows, _say)
        store.close()
    return [_row(name, recipes, seeds, outcome, records.sign)
            for (name, _, _, recipes), outcome in zip(wanted, outcomes, strict=True)]  # fmt: skip


def _train(place: Place, slot: int, source: str, trials: Sequence[Trial]) -> Flow[Outcome]:
    admitted = yield from admission(place, slot, source, trials[0].values)
    if admitted.facts is None:
        return admitted
    trained = yield from first_rung(place, slot, source, admitted.facts, True, trials)
    return replace(trained, facts=admitted.facts)


def _row(name: str, recipes: Sequence[Mapping[str, float]], seeds: int, outcome: Outcome, sign: int) -> dict[str, Any]:
    """One network at its best recipe; trials that failed are left out."""
    if outcome.facts is None:
        raise StoreError(f"{name} could not be trained again: {outcome.failure}")
    scores = [score.point.score if score.point else None for score in outcome.scores]
    groups = [[s for s in scores[at * seeds : (at + 1) * seeds] if s is not None] for at in range(len(recipes))]
    best = max(range(len(recipes)), key=lambda at: sign * fmean(groups[at]) if len(groups[at]) > 1 else -math.inf)
    cost = outcome.facts["cost"]
    return {
        "name": name, "params": cost["params"], "flops": cost["flops"], "lr": recipes[best]["lr"],
        "scores": groups[best], "mean": fmean(groups[best]), "deviation": stdev(groups[best]),
    }  # fmt: skip


def _say(event: Event) -> None:
    print(f"{event.job_id}: {event.kind}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 if the runs cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.headroom", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="DIR", help="folders of finished runs")
    add("--seeds", type=int, default=8, metavar="N", help="fresh seeds of each (8)")
    add("--rates", type=float, nargs="+", default=[0.04, 0.08, 0.16], metavar="LR",
        help="learning rates of the baselines (0.04 0.08 0.16)")  # fmt: skip
    add("--workers", type=int, default=2, metavar="N", help="jobs at once (2)")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    parsed = parser.parse_args(arguments)
    try:
        records, row, tried = found(parsed.runs)
        rows = measure(records, row, parsed.seeds, parsed.rates, parsed.workers)
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
        report.write(parsed.json, "headroom", {"seeds": parsed.seeds, "rates": parsed.rates}, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
