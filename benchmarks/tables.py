"""Tables that answer instead of a device: what a cell scores at each rung, at what cost, and what is true of it.

    NAS-Bench-201   15 625 cells of six edges with one of five operations each; 12 and 200 epochs, three data sets
    NAS-Bench-NLP   345 recurrent cells at 3, 12 and 50 epochs. Nothing is known of which are alike: a cell is a place
                    in a rectangle of 23 by 15, filled anew for every search, so that neighbours mean nothing

A cell is a number, its place in an array with one axis for each part; what it is called is nobody's business, and so
names that a language model would know cannot help. `Training` is one search's device: it answers, counts epochs, and
remembers what it has told. Every strategy under one seed meets the same world: the first full training of a cell has
one seed's score, drawn with the world, its repetition the next seed's. Going on from a rung costs the difference only.

Of NAS-Bench-201 only validation accuracies are at hand. The signal at 200 epochs is one seed's, and the truth is the
mean over the seeds, the seen one included; so the truth holds a third of the luck that a choice was made by. `unseen`
is the mean over the other seeds, without it. After 12 epochs there is one number, itself a mean of two seeds.
"""

import csv
import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks import curves

SETS = {"cifar10": "c10", "cifar100": "c100", "imagenet16-120": "in16"}
"""Data sets of NAS-Bench-201, and the prefixes of their columns."""
EPOCHS_201, ETA_201 = (12, 200), 8
ETA_NLP = 4
COLUMNS_NLP = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Everything that is known of the cells of a space.

    Attributes:
      name: of the data set.
      shape: options of each part of a cell.
      steps: epochs that reach each rung.
      eta: one in eta is promoted.
      below: score at each rung below the top, higher is better, NaN where it failed. Shape (N, rungs - 1).
      top: score at the top by seed, NaN where there is none. Shape (N, seeds).
      truth: what a choice is worth, higher is better; NaN where there is no such cell. Shape (N,).
    """

    name: str
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    eta: int
    below: np.ndarray
    top: np.ndarray
    truth: np.ndarray

    def cell(self, parts: Sequence[int]) -> int | None:
        """The cell that has these options, or None if there is none."""
        if len(parts) != len(self.shape) or any(not 0 <= p < n for p, n in zip(parts, self.shape, strict=True)):
            return None
        cell = int(np.ravel_multi_index(tuple(parts), self.shape))
        return None if np.isnan(self.truth[cell]) else cell

    def parts(self, cell: int) -> tuple[int, ...]:
        """The option of each part of a cell."""
        return tuple(int(part) for part in np.unravel_index(cell, self.shape))

    def cells(self) -> np.ndarray:
        """The numbers of all cells that there are."""
        return np.flatnonzero(~np.isnan(self.truth))

    def neighbours(self, cell: int) -> list[int]:
        """The cells that differ in one part."""
        parts = self.parts(cell)
        changed = [
            self.cell((*parts[:i], option, *parts[i + 1 :]))
            for i, count in enumerate(self.shape) for option in range(count) if option != parts[i]
        ]  # fmt: skip
        return [other for other in changed if other is not None]


def nb201(path: Path, data: str) -> Table:
    """NAS-Bench-201 on one of `SETS`.

    Raises:
      OSError: the file cannot be read.
      ValueError: it has other columns, or a cell of it is not of six edges.
    """
    with gzip.open(path, "rt", newline="") as lines:
        rows = list(csv.DictReader(lines))
    prefix, shape = SETS[data], (5,) * 6
    wanted = [f"{prefix}_val_e12", *(f"{prefix}_val_e200_s{seed}" for seed in range(3))]
    missing = {"arch", *wanted} - set(rows[0] if rows else ())
    if missing:
        raise ValueError(f"{path.name} has no columns {sorted(missing)}; give a table of NAS-Bench-201 that has them")
    cells = [re.findall(r"(\w+)~\d", row["arch"]) for row in rows]
    operations = sorted({operation for cell in cells for operation in cell})
    if any(len(cell) != 6 for cell in cells) or len(operations) > 5:
        raise ValueError(
            f"{path.name} has cells that are not six edges with one of five operations; give NAS-Bench-201"
        )
    scores = np.full((5**6, len(wanted)), np.nan)
    for cell, row in zip(cells, rows, strict=True):
        place = np.ravel_multi_index([operations.index(operation) for operation in cell], shape)
        scores[place] = [float(row[column] or "nan") for column in wanted]
    return Table(
        name=data, shape=shape, steps=EPOCHS_201, eta=ETA_201, below=scores[:, :1], top=scores[:, 1:],
        truth=_mean(scores[:, 1:]),
    )  # fmt: skip


def nlp(path: Path) -> Table:
    """NAS-Bench-NLP; scores are validation losses and the truth is the test loss, both with their signs turned."""
    if path.name != curves.NLP:
        raise ValueError(f"the curves are read from a file named {curves.NLP}, not {path.name}; give that one")
    known = curves.nlp(path.parent)
    rows = -(-len(known.value) // COLUMNS_NLP)
    scores = np.full((rows * COLUMNS_NLP, len(known.steps)), np.nan)
    truth = np.full(len(scores), np.nan)
    scores[: len(known.value)], truth[: len(known.value)] = known.scores, known.value
    return Table(
        name="nlp", shape=(rows, COLUMNS_NLP), steps=known.steps, eta=ETA_NLP, below=scores[:, :-1],
        top=scores[:, -1:], truth=truth,
    )  # fmt: skip


def shuffled(table: Table, rng: np.random.Generator) -> Table:
    """The same cells at other places, so that which differ in one part says nothing."""
    order = rng.permutation(len(table.truth))
    return replace(table, below=table.below[order], top=table.top[order], truth=table.truth[order])


@dataclass(frozen=True, slots=True)
class Told:
    """A score that a search was told: the epochs it had spent by then, the rung, the cell, its score and its seed."""

    epochs: int
    rung: int
    cell: int
    score: float
    seed: int


class Training:
    """The device of one search. See the module's docstring.

    Args:
      table: what answers.
      seed: of the world: which seed's score a cell shows first.
      limit: epochs to spend; a training that is begun is ended.
    """

    def __init__(self, table: Table, seed: int, limit: int) -> None:
        self.table, self.limit = table, limit
        self.epochs = 0
        self.told: list[Told] = []
        self._first = np.random.default_rng([seed, 1]).integers(0, 1 << 30, len(table.truth))
        self._times: dict[int, int] = {}

    @property
    def over(self) -> bool:
        """Whether everything is spent."""
        return self.epochs >= self.limit

    def train(self, cell: int, rung: int, below: int = -1) -> float:
        """Train a cell to a rung, from the checkpoint of the rung `below`, or from the start.

        Returns:
          Its score there; NaN if it failed.
        """
        steps = self.table.steps
        self.epochs += steps[rung] - (steps[below] if below >= 0 else 0)
        score, seed = float("nan"), -1
        if rung < len(steps) - 1:
            score = float(self.table.below[cell, rung])
        else:
            seeds = np.flatnonzero(~np.isnan(self.table.top[cell]))
            times = self._times.get(cell, 0)
            self._times[cell] = times + 1
            if len(seeds):
                seed = int(seeds[(self._first[cell] + times) % len(seeds)])
                score = float(self.table.top[cell, seed])
        self.told.append(Told(self.epochs, rung, cell, score, seed))
        return score

    def choice(self, epochs: int) -> Told | None:
        """The best of the highest rung with a score, from what was told until so many epochs were spent."""
        known = [told for told in self.told if told.epochs <= epochs and not np.isnan(told.score)]
        return max(known, key=lambda told: (told.rung, told.score, -told.epochs), default=None)

    def unseen(self, choice: Told) -> float:
        """What is true of a choice by the seeds that it was not made by; the truth where there are none."""
        others = (
            np.delete(self.table.top[choice.cell], choice.seed) if choice.seed >= 0 else self.table.top[choice.cell]
        )
        mean = float(_mean(others[None, :])[0])
        return float(self.table.truth[choice.cell]) if np.isnan(mean) else mean


def _mean(scores: np.ndarray) -> np.ndarray:
    """The mean over the seeds that there are; NaN where there are none."""
    counts = (~np.isnan(scores)).sum(axis=1)
    return np.where(counts > 0, np.nansum(scores, axis=1) / np.maximum(counts, 1), np.nan)
