"""Error rates and power of confirmation: `python -m benchmarks.belief --leaderboards 5000 --planted 2000 --json FILE`.

Simulated leaderboards go through `nas.judge.belief` as those of a search do: every finalist has 2 fresh seeds, `go_on`
decides by their validation who gets 5, baselines have 10, and `assess` says the rest. Nothing is trained. A network is
right on example e of the test split if

    level_i + difficulty_e + own_ie + seed_is + chance_ise > 0,

all terms normal: difficulty is shared by all networks, `own` by the seeds of one row, so that two architectures differ
on this test split by more than their seeds do, and seed is what a training run is worth everywhere. Levels are set so
that equal rows have exactly equal accuracy in the population, noisy ones included. Validation is another sample of as
many examples, drawn by its first two moments. Sigma is the deviation of a score from seed to seed. Two seeds of one row
disagree on 9 % of the examples, two rows on 12 %.

    null      finalists equal to the best baseline: the share of leaderboards with any claim is at most .05
    planted   one finalist is three sigma better: it is claimed in at least .90
    columns   finalists are the best five of 200 by their search score, whose true accuracies spread by 0, 1 or 3 sigma:
              bias, coverage of 1.96 standard errors, and how often all rank intervals are right at once

*Without* is the share of leaderboards with a false claim (in `planted`: about another finalist) if the term of the
shared test split is left out. *Shared* is the square root of that term in sigma, *runs* the mean number of trainings of
finalists. A share stands with its 95 % interval (Wilson); the limit is held against the share itself. Lines without a
limit are contrasts: a single finalist has nobody to borrow a variance from, the best of four equal baselines is better
than they are, and a noisy finalist raises the variance of all.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import numpy as np

from benchmarks import report
from nas.judge import belief
from nas.judge.belief import Belief, Estimate, Retrained

ACCURACY = 0.9
"""Of the best baseline, in the population of examples."""
SEED_DEVIATION = 0.006
"""Deviation of a network's accuracy in the population from seed to seed; small, so that the shared split matters."""
DIFFICULTY, OWN = 0.6, 0.2
"""Shares of the variance on an example that all networks have in common, and that one row's seeds have besides."""
NOISY = 3.0
"""How many times the seed deviation of the others the noisy row has."""
EFFECT = 3.0
"""Sigma by which the planted finalist is better."""
FINALISTS = 5
TRIED = 200
LARGEST_FALSE, LEAST_POWER = 0.05, 0.90
NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What a split of some size does to scores.

    Attributes:
      examples: how many it has.
      seed: deviation of a score that comes from the seed's chance on each example.
      own: deviation of a row's score that comes from its own strengths on these examples.
      shared: deviation that all rows have together.
    """

    examples: int
    seed: float
    own: float
    shared: float

    @property
    def sigma(self) -> float:
        """Deviation of a score from seed to seed."""
        return math.hypot(SEED_DEVIATION, self.seed)


def split_of(examples: int) -> Split:
    """The deviations that follow from the shares of the variance."""
    both, same = _both_right(DIFFICULTY), _both_right(DIFFICULTY + OWN)
    variances = ACCURACY - same, same - both, both - ACCURACY**2
    seed, own, shared = (math.sqrt(variance / examples) for variance in variances)
    return Split(examples=examples, seed=seed, own=own, shared=shared)


def _both_right(share: float) -> float:
    """Probability that two networks with this share of the variance in common are both right."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    level = NORMAL.inv_cdf(ACCURACY)
    right = [NORMAL.cdf((level + math.sqrt(share) * x) / math.sqrt(1 - share)) for x in nodes]
    return float(np.square(right) @ weights / weights.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One row's truth.

    Attributes:
      accuracy: in the population of examples, mean over seeds.
      noise: its seed deviation over that of the others.
      reuse: what the validation split is worth to it in particular; drawn afresh if None.
      search: the score that it was chosen by.
    """

    accuracy: float = ACCURACY
    noise: float = 1.0
    reuse: float | None = None
    search: float | None = None


class Leaderboard:
    """Rows over one pair of splits, to be trained for as many seeds as asked."""

    def __init__(self, networks: Sequence[Network], split: Split, rng: np.random.Generator) -> None:
        self.split, self.rng = split, rng
        self.networks = [
            network if network.reuse is not None else replace(network, reuse=split.own * rng.normal())
            for network in networks
        ]
        self.difficulty = math.sqrt(DIFFICULTY) * self._normal(split.examples)
        self.validation_shift = split.shared * rng.normal()

    def train(self, i: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
        """Validation scores and the seeds themselves, which `test` takes."""
        network = self.networks[i]
        level = NORMAL.inv_cdf(network.accuracy)
        deviation = network.noise * SEED_DEVIATION / NORMAL.pdf(level)
        levels = level * math.hypot(1, deviation) + deviation * self.rng.normal(size=seeds)
        accuracy = np.array([NORMAL.cdf(x) for x in levels])
        chance = self.split.seed * self.rng.normal(size=seeds)
        return accuracy + chance + self.validation_shift + (network.reuse or 0.0), levels

    def test(self, levels: np.ndarray) -> np.ndarray:
        """Whether each seed is right on each example; once for a row. Shape (n, E)."""
        own = math.sqrt(OWN) * self._normal(self.split.examples)
        chance = self._normal((len(levels), self.split.examples))
        bar = -(self.difficulty + own) / math.sqrt(1 - DIFFICULTY - OWN)
        return chance > bar - (levels / math.sqrt(1 - DIFFICULTY - OWN)).astype(np.float32)[:, None]

    def _normal(self, shape: int | tuple[int, int]) -> np.ndarray:
        return self.rng.standard_normal(shape, dtype=np.float32)


def confirm(board: Leaderboard, baselines: int, futility: bool = True) -> list[Retrained]:
    """Train, decide who goes on, train those further, and score everything once; finalists stand before baselines."""
    count = len(board.networks)
    finalists, others = range(count - baselines), range(count - baselines, count)
    trained = {i: board.train(i, belief.FIRST_SEEDS) for i in finalists}
    trained |= {i: board.train(i, belief.BASELINE_SEEDS) for i in others}
    scores = {i: validation.tolist() for i, (validation, _) in trained.items()}
    chosen = belief.go_on({i: scores[i] for i in finalists}, {i: scores[i] for i in others}, maximize=True)
    for i in chosen if futility else finalists:
        further = board.train(i, belief.SEEDS - belief.FIRST_SEEDS)
        trained[i] = tuple(np.concatenate(pair) for pair in zip(trained[i], further, strict=True))  # type: ignore
    return [
        Retrained(
            candidate=i,
            baseline=i in others,
            validation=validation,
            test=board.test(levels),
            search=board.networks[i].search,
        )
        for i, (validation, levels) in trained.items()
    ]


def without_split(rows: Iterable[Retrained]) -> list[Retrained]:
    """The same seeds' scores with nothing known of examples, so that v_test is 0."""
    return [replace(row, test=np.repeat(row.test.mean(axis=1, keepdims=True), 2, axis=1)) for row in rows]


# ---- claims


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Leaderboards of one kind. A network's accuracy is filled in from `effects`.

    Attributes:
      name: what is special.
      examples: of the test split, and of validation.
      noise: of each finalist.
      baselines: noise of each baseline that is equal to the best.
      weak: further baselines with an accuracy of .5 and a twentieth of the noise.
      effect: sigma by which the first finalist is better.
      held: whether the share is held against the limit; else it is shown for contrast.
    """

    name: str
    examples: int
    noise: tuple[float, ...] = (1.0,) * FINALISTS
    baselines: tuple[float, ...] = (1.0,)
    weak: int = 0
    effect: float = 0.0
    held: bool = True

    def networks(self, sigma: float) -> list[Network]:
        """Finalists first."""
        effects = [self.effect, *[0.0] * (len(self.noise) - 1)]
        finalists = [Network(accuracy=ACCURACY + e * sigma, noise=n) for e, n in zip(effects, self.noise, strict=True)]
        equal = [Network(noise=noise) for noise in self.baselines]
        return [*finalists, *equal, *[Network(accuracy=0.5, noise=0.05)] * self.weak]


ONE_NOISY = (NOISY, *[1.0] * (FINALISTS - 1))
NULLS = [
    case
    for size in (2_000, 10_000)
    for case in (
        Case(name="one finalist noisy", examples=size, noise=ONE_NOISY),
        Case(name="baseline noisy", examples=size, baselines=(NOISY,)),
        Case(name="all equal", examples=size),
        Case(name="one finalist noisy, 4 equal baselines", examples=size, noise=ONE_NOISY, baselines=(1.0,) * 4),
        Case(name="one finalist noisy, 4 weak quiet baselines", examples=size, noise=ONE_NOISY, weak=4),
        Case(name="only finalist, noisy", examples=size, noise=(NOISY,), held=False),
    )
]
PLANTED = [
    case
    for size in (2_000, 10_000)
    for case in (
        Case(name="one baseline", examples=size, effect=EFFECT),
        Case(name="4 equal baselines", examples=size, baselines=(1.0,) * 4, effect=EFFECT, held=False),
        Case(name="4 weak quiet baselines", examples=size, weak=4, effect=EFFECT),
        Case(name="one other finalist noisy", examples=size, noise=(1.0, *ONE_NOISY[:-1]), effect=EFFECT, held=False),
    )
]


def claims(case: Case, leaderboards: int, seed: int) -> dict[str, Any]:
    """Share of leaderboards with a false claim, or if one is planted with a true one; and what it cost."""
    split = split_of(case.examples)
    networks, count = case.networks(split.sigma), len(case.noise)
    told: list[tuple[bool, bool, bool, int, float]] = []
    for number in range(leaderboards):
        board = Leaderboard(networks, split, np.random.default_rng([seed, number]))
        rows = confirm(board, len(networks) - count)
        found = [b.claim for b in belief.assess(rows, maximize=True)[:count]]
        plain = [b.claim for b in belief.assess(without_split(rows), maximize=True)[:count]]
        first = 1 if case.effect else 0
        told.append(
            (
                any(c.claimed for c in found[first:] if c),
                any(c.claimed for c in plain[first:] if c),
                bool(found[0] and found[0].claimed),
                sum(len(row.validation) for row in rows[:count]),
                fmean(c.effect.shared_error for c in found if c and c.effect) / split.sigma,
            )
        )
    false, without, claimed, runs, shared = zip(*told, strict=True)
    hits = sum(claimed) if case.effect else sum(false)
    low, high = _wilson(hits, leaderboards)
    limit = LEAST_POWER if case.effect else LARGEST_FALSE
    share = hits / leaderboards
    reached = share >= limit if case.effect else share <= limit
    return {
        "case": case.name, "examples": case.examples, "leaderboards": leaderboards, "share": share, "low": low,
        "high": high, "limit": limit if case.held else None, "reached": reached if case.held else None,
        "without": sum(without) / leaderboards, "runs": fmean(runs), "shared": fmean(shared),
    }  # fmt: skip


def _wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927)."""
    z, share = NORMAL.inv_cdf(0.975), hits / n
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


# ---- columns and ranks

BASELINES = (0.0, -3.0, -10.0)
"""Accuracies of the baselines beside the columns, in sigma from `ACCURACY`."""


def chosen(split: Split, spread: float, rng: np.random.Generator) -> list[Network]:
    """The best of many by a search score on validation, one seed each."""
    accuracy = np.minimum(ACCURACY + spread * split.sigma * rng.normal(size=TRIED), 0.995)
    reuse = split.own * rng.normal(size=TRIED)
    score = accuracy + reuse + split.sigma * rng.normal(size=TRIED)
    return [
        Network(accuracy=float(accuracy[i]), reuse=float(reuse[i]), search=float(score[i]))
        for i in np.argsort(-score)[:FINALISTS]
    ]


def columns(examples: int, spread: float, futility: bool, leaderboards: int, seed: int) -> dict[str, Any]:
    """Bias and coverage of luck, split reuse and test over all finalists, and of all rank intervals at once."""
    split = split_of(examples)
    known = [Network(accuracy=ACCURACY + effect * split.sigma) for effect in BASELINES]
    told: dict[str, list[tuple[float, ...]]] = {"luck": [], "split_reuse": [], "test": []}
    right, width = [], []
    for number in range(leaderboards):
        rng = np.random.default_rng([seed, number])
        board = Leaderboard([*chosen(split, spread, rng), *known], split, rng)
        beliefs = belief.assess(confirm(board, len(known), futility), maximize=True)
        truths = [network.accuracy for network in board.networks]
        places = [(1 + sum(t > own for t in truths), sum(t >= own for t in truths)) for own in truths]
        ranks = [b.rank for b in beliefs if b.rank]
        right.append(all(r[0] <= p[0] and p[1] <= r[1] for r, p in zip(ranks, places, strict=True)))
        width.append(fmean(high - low + 1 for low, high in ranks[:FINALISTS]))
        reuse = [(network.reuse or 0.0) for network in board.networks]
        shift, typical = board.validation_shift, fmean(reuse[FINALISTS:])
        for i, network in enumerate(board.networks[:FINALISTS]):
            on_validation = network.accuracy + reuse[i]
            _note(told["luck"], beliefs[i], beliefs[i].luck, (network.search or 0.0) - on_validation - shift)
            _note(told["split_reuse"], beliefs[i], beliefs[i].split_reuse, reuse[i] - typical)
            _note(told["test"], beliefs[i], beliefs[i].test, network.accuracy, ACCURACY)
    low, high = _wilson(sum(right), leaderboards)
    return {
        "examples": examples, "spread": spread, "futility": futility, "leaderboards": leaderboards,
        "ranks_right": sum(right) / leaderboards, "ranks_low": low, "ranks_high": high, "rank_width": fmean(width),
        **{name: _column(values, split.sigma) for name, values in told.items()},
    }  # fmt: skip


def _note(into: list[tuple[float, ...]], of: Belief, found: Estimate | None, truth: float, origin: float = 0.0) -> None:
    if found is None or found.error is None:
        raise ValueError(f"a finalist of {of.seeds} seeds has no estimate")
    into.append((found.value - origin, truth - origin, found.error, of.seeds))


def _column(values: Sequence[tuple[float, ...]], sigma: float) -> dict[str, Any]:
    """Means in sigma; of the bias also by the number of seeds."""
    value, truth, error, seeds = np.array(values).T
    miss = (value - truth) / sigma
    by_seeds = {int(n): float(miss[seeds == n].mean()) for n in np.unique(seeds)}
    return {
        "estimate": float(value.mean()) / sigma, "truth": float(truth.mean()) / sigma, "bias": float(miss.mean()),
        "bias_error": float(miss.std(ddof=1) / math.sqrt(len(miss))), "bias_by_seeds": by_seeds,
        "coverage": float((np.abs(value - truth) <= 1.96 * error).mean()), "error": float(error.mean()) / sigma,
    }  # fmt: skip


# ---- all of them


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the tables and whether each line reached what it must; returns 1 if one did not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.belief", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--leaderboards", type=int, default=5_000, help="without a better finalist, of each line (5000)"
    )
    parser.add_argument("--planted", type=int, default=2_000, help="with one, of each line (2000)")
    parser.add_argument("--columns", type=int, default=1_000, help="of each line about columns and ranks (1000)")
    parser.add_argument("--examples", type=int, nargs="+", default=[2_000, 10_000], help="test splits (2000 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parsed = parser.parse_args(arguments)
    began = time.process_time()

    def tell(what: str) -> None:
        print(f"{what}: {time.process_time() - began:.0f} s", file=sys.stderr)

    nulls = _all(NULLS, parsed.examples, lambda case: claims(case, parsed.leaderboards, parsed.seed), tell)
    planted = _all(PLANTED, parsed.examples, lambda case: claims(case, parsed.planted, parsed.seed), tell)
    kinds = [(e, spread, futility) for e in parsed.examples for spread in (0.0, 1.0, 3.0) for futility in (False, True)]
    told = []
    for examples, spread, futility in kinds:
        told.append(columns(examples, spread, futility, parsed.columns, parsed.seed))
        tell(f"columns, {examples} examples, spread {spread:.0f}")
    _show(nulls, planted, told)
    seconds = time.process_time() - began
    print(f"\n{seconds:.0f} CPU seconds")
    if parsed.json:
        settings = {name: value for name, value in vars(parsed).items() if name != "json"}
        figures = {"null": nulls, "planted": planted, "columns": told, "cpu_s": seconds}
        report.write(parsed.json, "belief", settings, figures)
    return 0 if all(row["reached"] is not False for row in [*nulls, *planted]) else 1


def _all(
    cases: Sequence[Case], sizes: Sequence[int], run: Callable[[Case], dict[str, Any]], tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    rows = []
    for case in cases:
        if case.examples in sizes:
            rows.append(run(case))
            tell(f"{case.name}, {case.examples} examples")
    return rows


def _show(nulls: Sequence[Mapping], planted: Sequence[Mapping], told: Sequence[Mapping]) -> None:
    head = ["share", "low", "high", "limit", "reached", "without", "runs", "shared"]
    for title, rows in (("false claims", nulls), ("planted", planted)):
        cells = [[f"{row['case']}, {row['examples']}", *_cells(row)] for row in rows]
        print(report.table([title, *head], cells) + "\n")
    head = ["estimate", "truth", "bias", "bias by seeds", "coverage", "error"]
    for name in ("luck", "split_reuse", "test"):
        print(
            report.table([f"{name} [sigma]", *head], [[_kind(row), *_column_cells(row[name])] for row in told]) + "\n"
        )
    cells = [
        [_kind(row), *(f"{row[key]:.3f}" for key in ("ranks_right", "ranks_low", "ranks_high")), row["rank_width"]]
        for row in told
    ]
    print(report.table(["rank intervals", "all right", "low", "high", "width"], cells))


def _cells(row: Mapping[str, Any]) -> list[Any]:
    shares = [f"{row[key]:.4f}" for key in ("share", "low", "high")]
    reached = {True: "yes", False: "NO", None: None}[row["reached"]]
    return [*shares, row["limit"], reached, f"{row['without']:.4f}", row["runs"], row["shared"]]


def _column_cells(column: Mapping[str, Any]) -> list[Any]:
    parts = " ".join(f"{n}: {bias:+.2f}" for n, bias in column["bias_by_seeds"].items())
    bias = f"{column['bias']:+.3f} ± {column['bias_error']:.3f}"
    return [column["estimate"], column["truth"], bias, parts, f"{column['coverage']:.3f}", column["error"]]


def _kind(row: Mapping[str, Any]) -> str:
    return f"{row['examples']}, spread {row['spread']:.0f}, {'2 or 5' if row['futility'] else '5'} seeds"


if __name__ == "__main__":
    sys.exit(main())
