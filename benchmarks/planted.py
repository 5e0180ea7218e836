"""Does a search find the one candidate that is better? `python -m benchmarks.planted --json FILE`

Whole searches of the real loop, strategy, tuner and judge, without a model, in which nothing is trained: the share in
which one planted candidate becomes a finalist, that is, one of those that are confirmed.

*What is assumed.* All candidates are truly as good as the best baseline, whoever wrote them, but for one, which is
better by `--effect` deviations (3). A deviation, the unit of all scores here, is that from seed to seed at the top
rung. The planted one is the candidate at an even random place among those admitted, from the first of the opening to
the last; all its draws have its quality, its children are as good as all others, and values of tunables change nothing.
A score is quality plus normal noise, drawn anew for each trial and rung; lower rungs are noisier, and nothing else is
wrong with them. Three rungs, one in four promoted, one draw of a new candidate (`--draws`). Candidates are those of
`benchmarks.untrained`, cells of six parts with five options each, but only equal texts are equal programs.

By chance a candidate is among five of 200 in 1 of 40 searches. A single trial among 199 independent equals was found in
.92, .80 and .57 of simulated ladders at the three noises. Here the strategy adds further draws of what looks good: they
give the planted one another chance, and more of the others a lucky one.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report, untrained
from benchmarks.tables import Table
from nas.confirm import FINALISTS
from nas.execute import Job
from nas.records import ARTIFACTS, hash_blobs
from nas.space import Ladder
from nas.strategy import Config

NOISES = ((1.0, 1.0, 1.0), (1.5, 1.2, 1.0), (2.5, 1.5, 1.0))
"""Deviations of a score at each rung, in units of the last one."""
STEPS, ETA = (250, 1_000, 4_000), 4
SHAPE = (5,) * 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What became of the planted candidate in one search.

    Attributes:
      place: at which it was admitted, from 1.
      draws: trials that it had at the first rung.
      rung: the highest that one of them reached, from 0.
      finalist: whether it is one of those that are confirmed.
    """

    place: int
    draws: int
    rung: int
    finalist: bool


class Equals:
    """Answers jobs: every candidate is as good as every other, but for one.

    Args:
      place: of the planted candidate among those admitted, from 1.
      effect: by how much it is better.
      noise: deviation of a score at each rung.
      seed: of the noise.
    """

    def __init__(self, place: int, effect: float, noise: Sequence[float], seed: int) -> None:
        self.place, self.effect, self.noise, self.seed = place, effect, noise, seed
        self.order: dict[str, int] = {}
        self._sources: dict[str, str] = {}

    def __call__(self, job: Job) -> dict[str, Any]:
        """The result of a job."""
        payload = job.payload
        if job.entry.endswith(":trace_job"):
            text = f"{payload['source']} {sorted(payload['values'].items())}"
            blobs = {name: f"{name} {text}".encode() for name in ARTIFACTS}
            self._sources[hash_blobs(blobs)] = payload["source"]
            return {"blobs": blobs, "param_leaves": 1}
        if job.entry.endswith(":leak_job"):
            return {"failure": None}
        if job.entry.endswith(":check_job"):
            return untrained.checked(payload)
        # The first draws of candidates are trained in the order of admission, each before any of its further draws.
        number = self.order.setdefault(self._sources[payload["digest"]], len(self.order) + 1)
        quality = self.effect if number == self.place else 0.0
        return {"trials": [self._train(trial, payload["stops"], quality) for trial in payload["trials"]]}

    def _train(self, trial: Mapping[str, Any], stops: Sequence[int], quality: float) -> dict[str, Any]:
        points = []
        for stop in stops:
            rung = STEPS.index(stop)
            rng = np.random.default_rng([self.seed, trial["id"], rung])
            points.append(untrained.point(stop, float(quality + self.noise[rung] * rng.normal())))
        return {"points": points}


def search(seed: int, noise: Sequence[float], *, budget: int, effect: float, draws: int) -> Found:
    """Run one search and look for what was planted."""
    place = int(np.random.default_rng([seed, 5]).integers(1, budget + 1))
    answers = Equals(place, effect, noise, seed)
    nothing = np.zeros((math.prod(SHAPE), 1))
    table = Table(
        name="equals", shape=SHAPE, steps=STEPS, eta=ETA, below=np.zeros((len(nothing), len(STEPS) - 1)), top=nothing,
        truth=nothing[:, 0],
    )  # fmt: skip
    names = [[f"o{option}" for option in range(count)] for count in SHAPE]
    space = untrained.space(table, names, Ladder(steps=STEPS, eta=ETA, draws=draws))
    config = Config(budget=budget, seed=seed, lookahead=untrained.LOOKAHEAD)
    history = untrained.run(space, untrained.Device(answers), config, lambda: False).history
    source = next((text for text, number in answers.order.items() if number == place), None)
    planted = next((k.candidate.id for k in history.known.values() if k.facts and k.candidate.source == source), None)
    rungs = [rung for rung, results in enumerate(history.results) if any(r.candidate == planted for r in results)]
    return Found(
        place=place,
        draws=sum(result.candidate == planted for result in history.results[0]),
        rung=max(rungs, default=-1),
        finalist=planted in [result.candidate for result in history.leaders(len(STEPS) - 1, FINALISTS)],
    )


def interval(hits: int, of: int) -> tuple[float, float]:
    """95 % interval of a share. Source: Wilson, "Probable inference", JASA 22 (1927)."""
    z2 = 1.96**2
    middle, half = (hits + z2 / 2) / (of + z2), math.sqrt(z2 * (hits * (of - hits) / of + z2 / 4)) / (of + z2)
    return middle - half, middle + half


def summary(found: Sequence[Found]) -> dict[str, Any]:
    """Plain figures of the searches at one noise: the share with its interval, and where the others were lost."""
    hits = sum(one.finalist for one in found)
    low, high = interval(hits, len(found))
    lost = {f"rung {rung}": sum(one.rung == rung and not one.finalist for one in found) for rung in range(len(STEPS))}
    return {
        "finalist": hits / len(found), "low": low, "high": high, "lost_at": lost,
        "searches": [asdict(one) for one in found],
    }  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.planted", description="Does a search find the one?")
    add = made.add_argument
    add("--searches", type=int, default=50, metavar="N", help="at each noise (50)")
    add("--budget", type=int, default=200, metavar="N", help="of each (200)")
    add("--effect", type=float, default=3.0, metavar="X", help="how much better, in deviations from seed to seed (3)")
    add("--draws", type=int, default=1, metavar="N", help="draws of a new candidate at the first rung (1)")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the searches and print the shares; 2 if there is nothing to run."""
    parsed = parser().parse_args(arguments)
    if parsed.searches < 1 or parsed.budget < 1 or parsed.draws < 1:
        print("benchmarks.planted: --searches, --budget and --draws are at least 1", file=sys.stderr)
        return 2
    figures: dict[str, dict[str, Any]] = {}
    rows = []
    options = {"budget": parsed.budget, "effect": parsed.effect, "draws": parsed.draws}
    for noise in NOISES:
        name = ", ".join(map(str, noise))
        figures[name] = one = summary([search(seed, noise, **options) for seed in range(parsed.searches)])
        rows.append([name, one["finalist"], one["low"], one["high"], *one["lost_at"].values()])
        print(f"{name}: {one['finalist']:.2f}", file=sys.stderr, flush=True)
    heads = ["noise by rung", "finalist", "low", "high", *(f"lost at rung {rung}" for rung in range(len(STEPS)))]
    print(report.table(heads, rows))
    if parsed.json:
        settings = options | {"searches": parsed.searches, "finalists": FINALISTS, "lookahead": untrained.LOOKAHEAD}
        report.write(parsed.json, "planted", settings, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
