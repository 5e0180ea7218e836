"""What a search is compared with on a table: strategies as they were published, at the same cost in epochs.

    random               full trainings of cells drawn without repetition
    random, promoted     first rungs, of which one in eta is promoted, the best first
    evolution            regularised evolution (Real et al., arXiv 1802.01548), full trainings; population 10, sample 3,
                         as for NAS-Bench-201 (Dong & Yang, arXiv 2001.00326)
    evolution, promoted  the same by the scores of the first rung, with promotions: what is nearest to ours
    evolution, 12 epochs the published protocol: first rungs only, the best is chosen by them and trained to the top
    local search         all neighbours of a cell are trained fully, then the best of them if it is better; a new start
                         at an optimum (White et al., arXiv 2005.02960)
    tpe                  Optuna 5 as it comes, full trainings
    tpe, promoted        Optuna 5 with promotion: a pause is told as PRUNED with its score, a promotion is a new trial
                         with the same parameters, the top is COMPLETE

Each is a function of a device (`Training`) and a random generator, and ends when the device's epochs are spent.
Strategies that choose by full trainings are sequential and know every result at once; ours waits for eight slots.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState, create_trial

from benchmarks.tables import Training
from nas.judge.rungs import Result, next_promotion

POPULATION, SAMPLE = 10, 3

Rival = Callable[[Training, np.random.Generator], None]


class Proposer(Protocol):
    """Proposes cells, and is told how each did at each rung."""

    def propose(self) -> int:
        """The next cell."""
        ...

    def tell(self, trial: int, rung: int, score: float) -> None:
        """How the cell that was proposed as number `trial`, from 0, did at a rung."""
        ...


def fully(training: Training, proposer: Proposer) -> None:
    """Train whatever is proposed to the top."""
    top, trial = len(training.table.steps) - 1, 0
    while not training.over:
        proposer.tell(trial, top, training.train(proposer.propose(), top))
        trial += 1


def promoted(training: Training, proposer: Proposer) -> None:
    """Train whatever is proposed to the first rung; promote one in eta from each, the best first."""
    table, top = training.table, len(training.table.steps) - 1
    cells: list[int] = []
    results: list[list[Result]] = [[] for _ in table.steps]
    gone: list[set[int]] = [set() for _ in table.steps]

    def next_rung() -> tuple[int, int]:
        for rung in reversed(range(top)):
            trial = next_promotion(results[rung], gone[rung], table.eta, maximize=True)
            if trial is not None:
                gone[rung].add(trial)
                return trial, rung + 1
        cells.append(proposer.propose())
        return len(cells) - 1, 0

    while not training.over:
        trial, rung = next_rung()
        score = training.train(cells[trial], rung, rung - 1)
        results[rung].append(Result(trial=trial, candidate=trial, score=None if np.isnan(score) else score))
        proposer.tell(trial, rung, score)


def first_rung(training: Training, proposer: Proposer) -> None:
    """Train whatever is proposed to the first rung, and in the end the best of it to the top.

    The choice at a cost is told as if that last training had been made, since it has to be paid for.
    """
    steps, trial = training.table.steps, 0
    last = steps[-1] - steps[0]
    training.epochs += last
    while not training.over:
        proposer.tell(trial, 0, training.train(proposer.propose(), 0))
        trial += 1


class Uniform:
    """Proposes every cell once, in random order."""

    def __init__(self, training: Training, rng: np.random.Generator) -> None:
        self._order: Iterator[int] = iter(rng.permutation(training.table.cells()).tolist())
        self._training = training

    def propose(self) -> int:
        """The next one; when there are no more, all is over."""
        cell = next(self._order, None)
        if cell is None:
            raise ValueError(f"all cells of {self._training.table.name} were drawn; give fewer epochs")
        return cell

    def tell(self, trial: int, rung: int, score: float) -> None:
        """Learn nothing."""


class Regularised:
    """Regularised evolution by the first score of each cell: the oldest dies, the best of a few has a child."""

    def __init__(self, training: Training, rng: np.random.Generator) -> None:
        self._training, self._rng = training, rng
        self._alive: deque[tuple[float, int]] = deque(maxlen=POPULATION)
        self._proposed: list[int] = []
        self._scored: set[int] = set()

    def propose(self) -> int:
        """A random cell until the population is full, then a child that differs in one part."""
        if len(self._alive) < POPULATION:
            cell = int(self._rng.choice(self._training.table.cells()))
        else:
            among = self._rng.choice(POPULATION, SAMPLE, replace=False)
            parent = max((self._alive[int(i)] for i in among), key=lambda one: one[0])[1]
            cell = int(self._rng.choice(self._training.table.neighbours(parent)))
        self._proposed.append(cell)
        return cell

    def tell(self, trial: int, rung: int, score: float) -> None:
        """Take a newcomer in; what higher rungs say changes nothing."""
        if trial not in self._scored:
            self._scored.add(trial)
            self._alive.append((-np.inf if np.isnan(score) else score, self._proposed[trial]))


class Optuna:
    """Optuna's TPE with its defaults over the parts of a cell."""

    def __init__(self, training: Training, rng: np.random.Generator) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._table = training.table
        sampler = optuna.samplers.TPESampler(seed=int(rng.integers(1 << 31)))
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._space: dict[str, BaseDistribution] = {
            f"part_{i}": CategoricalDistribution(tuple(f"o{option}" for option in range(count)))
            for i, count in enumerate(self._table.shape)
        }
        self._open: dict[int, optuna.Trial] = {}
        self._curves: dict[int, dict[int, float]] = {}
        self._number = -1

    def propose(self) -> int:
        """Ask until there is such a cell; what there is not is told as pruned without a score."""
        while True:
            trial = self._study.ask(self._space)
            cell = self._table.cell([int(trial.params[name][1:]) for name in self._space])
            if cell is not None:
                self._number += 1
                self._open[self._number], self._curves[self._number] = trial, {}
                return cell
            self._study.tell(trial, state=TrialState.PRUNED)

    def tell(self, trial: int, rung: int, score: float) -> None:
        """Report; above the first rung a trial is a new one with the same parameters."""
        opened, curve = self._open[trial], self._curves[trial]
        if curve:
            again = create_trial(state=TrialState.WAITING, params=opened.params, distributions=self._space)
            self._study.add_trial(again)
            self._open[trial] = opened = self._study.ask(self._space)
        if np.isnan(score):
            self._study.tell(opened, state=TrialState.PRUNED)
            return
        curve[self._table.steps[rung]] = score
        for step, value in curve.items():
            opened.report(value, step)
        if rung == len(self._table.steps) - 1:
            self._study.tell(opened, score)
        else:
            self._study.tell(opened, state=TrialState.PRUNED)


def local_search(training: Training, rng: np.random.Generator) -> None:
    """See the module's docstring."""
    table, top = training.table, len(training.table.steps) - 1
    known: dict[int, float] = {}

    def score(cell: int) -> float:
        if cell not in known and not training.over:
            known[cell] = np.nan_to_num(training.train(cell, top), nan=-np.inf)
        return known.get(cell, -np.inf)

    here = None
    while not training.over:
        if here is None:
            here = int(rng.choice(table.cells()))
            score(here)
        around = rng.permutation(table.neighbours(here)).tolist()
        best = max(around, key=score)
        here = best if score(best) > score(here) else None


def _joined(spend: Callable[[Training, Proposer], None], make: Callable[..., Proposer]) -> Rival:
    return functools.partial(_run, spend, make)


def _run(
    spend: Callable[[Training, Proposer], None], make: Callable[..., Proposer], training: Training,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    spend(training, make(training, rng))


RIVALS: dict[str, Rival] = {
    "random": _joined(fully, Uniform),
    "random, promoted": _joined(promoted, Uniform),
    "evolution": _joined(fully, Regularised),
    "evolution, promoted": _joined(promoted, Regularised),
    "evolution, 12 epochs": _joined(first_rung, Regularised),
    "local search": local_search,
    "tpe": _joined(fully, Optuna),
    "tpe, promoted": _joined(promoted, Optuna),
}
"""By name; see the module's docstring."""
