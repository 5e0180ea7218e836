"""Learning curves that are known beforehand, to search among without training: two public tables, and synthetic ones.

    slow_starters  synthetic; the curves cross, and the best of all are often hidden at the first rung
    noisy          synthetic; a rung is the truth and noise, and the best of all are rarely hidden
    nlp            NAS-Bench-NLP on WikiText-2: recurrent cells after 3, 12 and 50 epochs; truth is the test loss
    nb201          NAS-Bench-201 on CIFAR-10 after 12 and 200 epochs, of one seed; truth is the mean of the other seeds.
                   Between them lies a rung that was not measured: the mean of both ranks

Sources: Klyuchnikov et al., "NAS-Bench-NLP", arXiv 2006.07116; Dong & Yang, "NAS-Bench-201", arXiv 2001.00326.
"""

import csv
import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ETA = 4
STEPS = (250, 1_000, 4_000)
"""Of the rungs of synthetic curves."""
SYNTHETIC = 20_000
"""Curves in a synthetic population."""
SLOWNESS = 0.7
"""Correlation of what a trial is worth with the logarithm of how far it is behind at first.

Tau does not say how many of the best are hidden at the first rung, and that decides what a forecaster can save. At tau
.55 and correlations of .5, .6 and .7 the best quarter of the first rung holds .73, .63 and .48 of the best .5 % of all,
the choice without a model is worth .96, .95 and .91 of the best of 200, and a model that is always right and graded
needs .81, .81 and .65 of the steps (250 searches; at .7 it is .73 in 1,000).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """A population of trials with known curves.

    Attributes:
      name: of the population.
      scores: score of each trial at each of three rungs, higher is better; NaN where it failed. Shape (N, 3).
      value: what is true of each trial, higher is better. Shape (N,).
      steps: training that reaches each rung, from the beginning.
    """

    name: str
    scores: np.ndarray
    value: np.ndarray
    steps: tuple[int, int, int]

    def quantiles(self) -> np.ndarray:
        """Share of the population that is worse, of each trial at each rung; failures are below all. Shape (N, 3)."""
        return np.stack([_quantiles(column) for column in self.scores.T], axis=1)

    def typical(self) -> list[float]:
        """Median quantile at the next rung of those promoted from each, if the whole population were in the rung."""
        quantiles, inside, found = self.quantiles(), np.arange(len(self.value)), []
        for rung in range(2):
            order = inside[np.argsort(-quantiles[inside, rung], kind="stable")]
            inside = order[: len(order) // ETA]
            found.append(float(np.median(quantiles[inside, rung + 1])))
        return found


def slow_starters(tau: float, seed: int = 0) -> Curves:
    """Curves that cross, since what ends well tends to start slowly.

    The score after t steps is A - D (t / 250)^-1 + noise: A, what is true, is normal; log D is normal too, with a
    correlation of `SLOWNESS` with A; the noise of a seed is .05 (NAS-Bench-201: .3 points where trials differ by 6).
    D's scale is such that Kendall's tau of the first rung with the truth is `tau`.
    """
    rng = np.random.default_rng(seed)
    value = rng.normal(size=SYNTHETIC)
    slowness = np.exp(SLOWNESS * value + math.sqrt(1 - SLOWNESS**2) * rng.normal(size=SYNTHETIC))
    noise = 0.05 * rng.normal(size=(SYNTHETIC, 3))

    def scores(scale: float) -> np.ndarray:
        left = [STEPS[0] / at for at in STEPS]
        return value[:, None] - scale * slowness[:, None] * left + noise

    return Curves(name="slow starters", scores=scores(_solve(scores, value, tau)), value=value, steps=STEPS)


def noisy(tau: float, seed: int = 0) -> Curves:
    """Curves whose rungs are the truth and normal noise, independent of it: the best still start among the best.

    The noise of the three rungs is as 1 to .5 to .25, and what a rung adds to the next one's is independent of that.
    """
    rng = np.random.default_rng(seed)
    value = rng.normal(size=SYNTHETIC)
    added = rng.normal(size=(SYNTHETIC, 3)) * np.sqrt(np.array([1 - 1 / 4, 1 / 4 - 1 / 16, 1 / 16]))
    noise = np.cumsum(added[:, ::-1], axis=1)[:, ::-1]

    def scores(scale: float) -> np.ndarray:
        return value[:, None] + scale * noise

    return Curves(name="noisy", scores=scores(_solve(scores, value, tau)), value=value, steps=STEPS)


def _solve(scores: Callable[[float], np.ndarray], value: np.ndarray, tau: float) -> float:
    """The scale at which the first rung has this tau with the truth."""
    low, high = 0.0, 10.0
    for _ in range(15):
        middle = (low + high) / 2
        low, high = (middle, high) if kendall(scores(middle)[:, 0], value) > tau else (low, middle)
    return low


def kendall(a: np.ndarray, b: np.ndarray, group: int = 400) -> float:
    """Kendall's tau of two lists without equal values, over all pairs within groups of neighbours.

    Pairs in the same order minus pairs in the other, as a share; what does not fill a group is left out.
    """
    whole = len(a) // group * group
    a, b = a[:whole].reshape(-1, group), b[:whole].reshape(-1, group)
    agree = sum(float((np.sign(a - a[:, i, None]) * np.sign(b - b[:, i, None])).sum()) for i in range(group))
    return agree / (whole * (group - 1))


def nlp(folder: Path) -> Curves:
    """NAS-Bench-NLP. Runs that ended with a loss that is not a number have failed from there on."""
    scores, value = [], []
    with gzip.open(folder / NLP, "rt") as lines:
        for line in lines:
            run = json.loads(line)
            at = [run["val"][epoch - 1] if epoch <= len(run["val"]) else None for epoch in (3, 12, 50)]
            scores.append([math.nan if loss is None or not math.isfinite(loss) else -loss for loss in at])
            value.append(-run["test"][-1] if math.isfinite(scores[-1][-1]) else math.nan)
    worst = np.nanmin(value)
    return Curves(
        name="NAS-Bench-NLP", scores=np.array(scores), value=np.nan_to_num(value, nan=float(worst)), steps=(3, 12, 50)
    )


def nb201(folder: Path) -> Curves:
    """NAS-Bench-201, CIFAR-10."""
    with gzip.open(folder / NB201, "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))

    def column(name: str) -> np.ndarray:
        return np.array([float(row[name] or "nan") for row in rows])

    short, full = column("c10_val_e12"), column("c10_val_e200_s0")
    between = (_quantiles(short) + _quantiles(full)) / 2
    others = np.stack([column("c10_val_e200_s1"), column("c10_val_e200_s2")])
    scores = np.stack([short, between, full], axis=1)
    return Curves(name="NAS-Bench-201", scores=scores, value=np.nanmean(others, axis=0), steps=(12, 50, 200))


NLP, NB201 = "nbnlp_wt2.jsonl.gz", "nb201.csv.gz"
TABLES: dict[str, Callable[[Path], Curves]] = {NLP: nlp, NB201: nb201}
"""Reader of each file."""


def _quantiles(scores: np.ndarray) -> np.ndarray:
    """(rank from below - 1/2) / n; equal scores in the order of the table, NaN lowest."""
    order = np.argsort(np.nan_to_num(scores, nan=-math.inf), kind="stable")
    quantiles = np.empty(len(scores))
    quantiles[order] = (np.arange(len(scores)) + 0.5) / len(scores)
    return quantiles
