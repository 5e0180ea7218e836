"""How good the search is, measured without training: the real loop and its rivals on tables, at equal simulated cost.

    python -m benchmarks.strategy --table DATA/nb201.csv.gz --curves DATA/nbnlp_wt2.jsonl.gz --repeats 200 --json FILE
    python -m benchmarks.strategy --table DATA/nb201.csv.gz --sets cifar10 --epochs 2000 --repeats 50

A search of ours takes 3 to 4 s of CPU, one of Optuna with promotion half a second, the others next to nothing.

*Ours* is a whole search without a model (`benchmarks.untrained` says how a table becomes a space, and what is left
out): random, evolution and tuning by the mixture, promotions by rank, decisions that wait for eight slots. The rivals
are in `benchmarks.rivals`, what the tables know in `benchmarks.tables`.

*Cost* is epochs of training: 12 to the first rung, 188 more to the top. Every strategy runs once for the largest cost,
and what it would have chosen at a smaller one is read from the same run: the best of the highest rung by its score of
one seed. Ours opens with random candidates in proportion to its whole budget; `--epochs` with one cost gives it a
search of its own for that. *Truth* is the mean validation accuracy over the seeds at 200 epochs, in percent, with the
standard error over the repeats; *unseen*, in the JSON, leaves out the seed that was chosen by. Repeats are paired: one
repeat's strategies meet the same world. The difference is ours minus the rival's, with its 95 % interval.

On the learning curves of NAS-Bench-NLP there is nothing to evolve, since nothing is known of what is like what: there
all arms of ours draw at random, and what is measured is the judge in its loop. *Regret* is the test loss of the choice
minus that of the best of all runs [nats]; the difference is ours minus the rival's too, and lower is better.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

import numpy as np

from benchmarks import report, tables, untrained
from benchmarks.rivals import RIVALS
from benchmarks.tables import SETS, Table, Training

OURS = "ours"
EPOCHS = (2_000, 4_000, 7_000, 10_000)
EPOCHS_NLP = (250, 500, 1_000)
"""Costs on the learning curves; 1 000 epochs are 20 full trainings, or 131 first rungs with their promotions."""
WITHOUT_NEIGHBOURS = ("random", "random, promoted")
"""Rivals on the learning curves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One strategy under one seed.

    Attributes:
      truth: of the choice at each cost; NaN where nothing was chosen yet.
      unseen: the same by the seeds that it was not chosen by.
      arms: of ours, trials at the first rung by arm.
      seconds: of CPU.
    """

    truth: tuple[float, ...]
    unseen: tuple[float, ...]
    arms: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mean over repeats, with its standard error."""

    mean: float
    error: float

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.mean - NormalDist().inv_cdf(0.975) * self.error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.mean + NormalDist().inv_cdf(0.975) * self.error


def run(table: Table, strategy: str, seed: int, costs: Sequence[int]) -> Run:
    """Run one strategy once, until the largest cost."""
    began = time.process_time()
    training, arms = Training(table, seed, max(costs)), dict[str, int]()
    if strategy == OURS:
        made = untrained.search(training, seed)
        for trial in made.history.trials.values():
            arms[trial.arm] = arms.get(trial.arm, 0) + 1
    else:
        RIVALS[strategy](training, np.random.default_rng([seed, 3]))
    choices = [training.choice(cost) for cost in costs]
    return Run(
        truth=tuple(float(table.truth[choice.cell]) if choice else math.nan for choice in choices),
        unseen=tuple(training.unseen(choice) if choice else math.nan for choice in choices),
        arms=arms,
        seconds=time.process_time() - began,
    )


def mean(values: Iterable[float]) -> Mean:
    """The mean of at least two values; NaN if one of them is."""
    known = list(values)
    return Mean(mean=fmean(known), error=stdev(known) / math.sqrt(len(known)))


def compare(runs: Mapping[str, Sequence[Run]], costs: Sequence[int], best: float | None = None) -> list[dict[str, Any]]:
    """Rows of plain data: each strategy at each cost, and how far ours is from it.

    Args:
      runs: of each strategy, one a repeat, in the same order of seeds.
      costs: of the choices.
      best: truth of the best of all, for regrets in the place of truths.
    """

    def values(strategy: str, index: int, kind: str = "truth") -> list[float]:
        found = [getattr(one, kind)[index] for one in runs[strategy]]
        return found if best is None else [best - value for value in found]

    rows = []
    for strategy, of in runs.items():
        for index, cost in enumerate(costs):
            pairs = zip(values(OURS, index), values(strategy, index), strict=True)
            ahead = mean(ours - theirs for ours, theirs in pairs) if OURS in runs and strategy != OURS else None
            rows.append(
                {
                    "strategy": strategy,
                    "epochs": cost,
                    "truth" if best is None else "regret": asdict(mean(values(strategy, index))),
                    "unseen": asdict(mean(values(strategy, index, "unseen"))),
                    "ours_minus": asdict(ahead) | {"low": ahead.low, "high": ahead.high} if ahead else None,
                    "cpu_s_a_repeat": fmean(one.seconds for one in of),
                }
            )
    return rows


def show(rows: Sequence[Mapping[str, Any]], costs: Sequence[int], name: str) -> str:
    """The rows as text: strategies down, costs across, and the differences beside."""
    digits = 2 if name == "truth" else 3
    heads = ["strategy", *(f"{name} at {cost}" for cost in costs), *(f"ours minus, {cost}" for cost in costs)]
    cells = []
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        mine = [row for row in rows if row["strategy"] == strategy]
        line = [f"{row[name]['mean']:.{digits}f} ±{row[name]['error']:.{digits}f}" for row in mine]
        ahead = [row["ours_minus"] for row in mine]
        line += [
            f"{d['mean']:+.{digits}f} ({d['low']:+.{digits}f} to {d['high']:+.{digits}f})" if d else "" for d in ahead
        ]
        cells.append([strategy, *line])
    return report.table(heads, cells)


# ---- many runs


_held: dict[str, Table] = {}
"""Tables of a process that runs; read once in each, since they are too large to be sent with every run."""


def _read(table: Path | None, sets: Sequence[str], curves: Path | None) -> dict[str, Table]:
    read = {name: tables.nb201(table, name) for name in sets} if table else {}
    return read | ({"nlp": tables.nlp(curves)} if curves else {})


def _hold(table: Path | None, sets: Sequence[str], curves: Path | None) -> None:
    _held.update(_read(table, sets, curves))


def _one(of: str, strategy: str, seed: int, costs: Sequence[int]) -> Run:
    table = _held[of]
    if of == "nlp":
        table = tables.shuffled(table, np.random.default_rng([seed, 4]))
    return run(table, strategy, seed, costs)


def measure(
    arguments: tuple[Path | None, Sequence[str], Path | None], costs: Mapping[str, Sequence[int]],
    strategies: Mapping[str, Sequence[str]], repeats: int, processes: int,
) -> dict[str, dict[str, list[Run]]]:  # fmt: skip
    """Run every strategy on every table, each under the seeds 0, 1, ….

    Args:
      arguments: what the tables are read from: table of cells, its data sets, curves.
      costs: of the choices on each table.
      strategies: on each table.
      repeats: seeds.
      processes: at once.
    """
    wanted = [(of, name, seed) for of, names in strategies.items() for name in names for seed in range(repeats)]
    found: dict[str, dict[str, list[Run]]] = {of: {name: [] for name in names} for of, names in strategies.items()}
    calls = list(zip(*[(of, name, seed, costs[of]) for of, name, seed in wanted], strict=True))
    with contextlib.ExitStack() as stack:
        if processes == 1:
            _hold(*arguments)
            ended = map(_one, *calls)
        else:
            spawn = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_hold, initargs=arguments)
            ended = stack.enter_context(pool).map(_one, *calls)
        for number, ((of, name, _), one) in enumerate(zip(wanted, ended, strict=True), 1):
            found[of][name].append(one)
            if number % repeats == 0:
                print(f"{of}: {name}", file=sys.stderr, flush=True)
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.strategy", description="Search quality on tables.")
    add = made.add_argument
    add("--table", type=Path, metavar="FILE", help="NAS-Bench-201 (nb201.csv.gz)")
    add("--curves", type=Path, metavar="FILE", help="NAS-Bench-NLP (nbnlp_wt2.jsonl.gz)")
    add("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="data sets of the table (all three)")
    add("--rivals", nargs="*", choices=list(RIVALS), default=list(RIVALS), help="on the table (all)")
    add("--epochs", type=int, nargs="+", default=list(EPOCHS), metavar="N", help=f"costs on the table {EPOCHS}")
    add("--repeats", type=int, default=200, metavar="N", help="seeds (200)")
    add("--processes", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="at once (2)")
    add("--json", type=Path, metavar="FILE", help="write the figures there; those of other tables in it stay")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the strategies and print the figures; 2 if a table cannot be read."""
    parsed = parser().parse_args(arguments)
    if parsed.repeats < 2 or not (parsed.table or parsed.curves):
        print("benchmarks.strategy: give --table or --curves, and at least 2 --repeats", file=sys.stderr)
        return 2
    sets = parsed.sets if parsed.table else []
    try:
        read = _read(parsed.table, sets, parsed.curves)
    except (OSError, ValueError) as error:
        print(f"benchmarks.strategy: {error}", file=sys.stderr)
        return 2
    costs = {of: EPOCHS_NLP if of == "nlp" else sorted(parsed.epochs) for of in read}
    strategies = {of: [OURS, *(WITHOUT_NEIGHBOURS if of == "nlp" else parsed.rivals)] for of in read}
    runs = measure((parsed.table, sets, parsed.curves), costs, strategies, parsed.repeats, parsed.processes)
    figures = {}
    for of, found in runs.items():
        best = float(np.nanmax(read[of].truth))
        rows = compare(found, costs[of], best if of == "nlp" else None)
        arms = {arm: fmean(one.arms.get(arm, 0) for one in found[OURS]) for arm in ("random", "evolution", "tune")}
        figures[of] = {"best": best, "repeats": parsed.repeats, "first_rung_trials_by_arm": arms, "rows": rows}
        print(f"{of}: the best is {best:.3f}")
        print(show(rows, costs[of], "regret" if of == "nlp" else "truth") + "\n")
    if parsed.json:
        before = json.loads(parsed.json.read_text("utf-8"))["figures"] if parsed.json.exists() else {}
        report.write(parsed.json, "strategy", {"lookahead": untrained.LOOKAHEAD}, before | figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
