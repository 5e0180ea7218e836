"""A search of this project that trains nothing: its real loop, strategy, tuner and judge, with a table for a device.

How a table becomes a space. A candidate is a source text with one tunable for each part of a cell, and the first option
of each, its default, says which cell the candidate is; options have names that mean nothing. Then every arm does what
it is made for, by the code that it always runs:

    random     samples the grammar, whose heads are all cells
    evolution  has another option of a tunable come first than in the parent's best draw: one part of that cell
               changes, evenly drawn, as in Real et al. (arXiv 1802.01548)
    tune       has Optuna draw all parts; with three draws a candidate, TPE never begins

Of the other operators none applies, since there is no body to insert, delete or exchange; crossing finds nothing to
copy but the way in. Equal cells are equal programs, which admission rejects for free; cells that compute the same and
differ in their operations are not recognised, as the table trained them apart.

The executor answers the jobs that the flows submit (trace, check, train) one after another, in the order of slots, from
plain data only. Time is counted in epochs; one worker with the default lookahead of eight slots. The store keeps
nothing, since a run that is never resumed needs none of it and SQLite's fsync would be most of the time. Left out:
baselines (trained to the top in every search, whatever it decides), the model's arms, its forecasts (so that promotions
are by rank), and the recipe's learning rate and weight decay, which are drawn by TPE as ever and change nothing.
"""

import ast
import heapq
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.tables import Table, Training
from nas.execute import Event, Job, Need
from nas.flows import Place
from nas.loop import Search
from nas.progress import Snapshot
from nas.propose.source import Draft
from nas.records import ARTIFACTS, Choice, Failure, Value, hash_blobs, to_plain
from nas.space import Contract, Grammar, Ladder, Primitive, Recipe, SearchSpace, Spec, Task
from nas.store import Store
from nas.strategy import Config

LOOKAHEAD = 8
"""Slots that a decision waits for, the default of a search with one worker."""
_COST = {"params": 1, "flops": 1, "train_flops": 3, "memory_bytes": 1, "ops": 1}


class Cells(Sequence[Primitive]):
    """All cells of a table as heads of the grammar, each made when it is asked for.

    Args:
      table: gives the parts.
      names: of the options of each part.
    """

    def __init__(self, table: Table, names: Sequence[Sequence[str]]) -> None:
        self.table, self.names, self.numbers = table, names, table.cells()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        parts = self.table.parts(int(self.numbers[index]))
        tunables = [f"part_{i}" for i in range(len(parts))]
        return Primitive(
            name="cell",
            init=f"self.cell = ({', '.join(f'{{{name}}}' for name in tunables)})",
            call="return h * self.cell",
            choices={
                name: Choice((names[part], *names[:part], *names[part + 1 :]))
                for name, names, part in zip(tunables, self.names, parts, strict=True)
            },
        )


def space(table: Table, names: Sequence[Sequence[str]], ladder: Ladder | None = None) -> SearchSpace:
    """A table as a space that a search accepts; nothing of it is ever traced or trained.

    Args:
      table: gives the cells.
      names: of the options of each part.
      ladder: the rungs; the table's own, with one draw of a candidate, if None.
    """
    return SearchSpace(
        name="table",
        version=1,
        scope="Model",
        spec=Spec(length=1, channels=1, classes=1, width=1, depth=1),
        task=Task(split=_never, loss=_never, score=_never, metric="score"),
        contract=Contract(input_shape=(1,), output_shape=(1,)),
        recipe=Recipe(batch=1, eval_batch=1),
        ladder=ladder or Ladder(steps=table.steps, eta=table.eta, draws=1),
        grammar=Grammar(
            stem=(Primitive(name="input", call="h = x"),), body=(), head=Cells(table, names), blocks=(0, 0)
        ),
        baselines={},
        baseline_seeds=0,
    )


def _never(*_: Any) -> Any:
    raise RuntimeError("a search on a table trains nothing")


class Device:
    """An executor with one worker that trains nothing.

    Args:
      answer: the result of a job that is done.
    """

    def __init__(self, answer: Callable[[Job], dict[str, Any]]) -> None:
        self._answer = answer
        self._waiting: list[tuple[int, int, Job]] = []
        self._number = 0

    def capacity(self) -> Need:
        """One core."""
        return Need()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._number += 1
        heapq.heappush(self._waiting, (job.priority, self._number, job))

    def poll(self, timeout_s: float = 0.0) -> Sequence[Event]:
        """The next job's end, if the search waits for one; nothing ends while it does not."""
        if not timeout_s or not self._waiting:
            return []
        _, _, job = heapq.heappop(self._waiting)
        return [Event(job_id=job.id, kind="done", result=self._answer(job))]

    def cancel(self, job_id: str) -> None:
        """Not needed here."""

    def close(self) -> None:
        """Nothing to close."""


def checked(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a check: every program is sound, and equal only to what has the same bytes."""
    digest = hash_blobs(payload["blobs"])
    facts = {"digest": digest, "fingerprint": digest, "param_leaves": 1, "cost": _COST, "traits": [],
             "profile": {}, "sketch": []}  # fmt: skip
    return {"program": facts}


def point(step: int, score: float) -> Any:
    """A score in a training's answer."""
    return {"step": step, "train_loss": -score, "loss": -score, "score": score}, []


class Lookup:
    """Answers jobs from a table.

    Args:
      training: answers, and counts.
      names: of the options of each part.
    """

    def __init__(self, training: Training, names: Sequence[Sequence[str]]) -> None:
        self.training, self.names = training, names
        self._cells: dict[str, int] = {}

    def __call__(self, job: Job) -> dict[str, Any]:
        """The result of a job."""
        payload = job.payload
        if job.entry.endswith(":trace_job"):
            return self._trace(payload)
        if job.entry.endswith(":leak_job"):
            return {"failure": None}
        if job.entry.endswith(":check_job"):
            return checked(payload)
        return {"trials": [self._train(payload) for _ in payload["trials"]]}

    def _trace(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The cell that a candidate is at these values, as its program."""
        options = written(payload["source"], payload["values"])
        parts = [names.index(option) for names, option in zip(self.names, options, strict=True)]
        cell = self.training.table.cell(parts)
        if cell is None:
            return {"failure": to_plain(Failure(stage="trace", rule="table", message="no such cell; take another"))}
        blobs = {name: f"{name} {cell}".encode() for name in ARTIFACTS}
        self._cells[hash_blobs(blobs)] = cell
        return {"blobs": blobs, "param_leaves": 1}

    def _train(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """One trial's curve; where the table has no score, it failed there."""
        cell, steps = self._cells[payload["digest"]], self.training.table.steps
        below = steps.index(payload["start"]) if payload["start"] else -1
        points: list[Any] = []
        for stop in payload["stops"]:
            rung = steps.index(stop)
            score = self.training.train(cell, rung, below)
            below = rung
            if np.isnan(score):
                failure = Failure(stage="train", rule="diverged", message="the loss is not a number; take another")
                return {"points": points, "failure": to_plain(failure)}
            points.append(point(stop, score))
        return {"points": points}


def written(source: str, values: Mapping[str, Value]) -> list[str]:
    """The option of each part of the cell that a candidate is, as its text and the values of its tunables say.

    A part is `hp.part_3`, or an option that evolution wrote in its place.
    """
    made = (s.value for s in Draft(source, "Model").init.body if isinstance(s, ast.Assign))
    parts = next(value.elts for value in made if isinstance(value, ast.Tuple))
    spelled = {f"hp.{name}": str(value) for name, value in values.items()}
    return [spelled.get(text) or ast.literal_eval(text) for text in map(ast.unparse, parts)]


@dataclass(slots=True)
class Forgetful:
    """What a search asks of its store, with nothing kept.

    Attributes:
      folder: one that is there and stays empty.
    """

    folder: Path

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Keep nothing."""

    def _none(self, *_: Any) -> list[Any]:
        """There is nothing."""
        return []

    begin = finish = admit = note = _nothing
    tasks = entries = trials = scores = messages = notes = folders_of_trainers = _none

    def program_path(self, digest: str) -> Path:
        """A path that exists, so that nothing is written."""
        return self.folder

    def checkpoint_path(self, trial: int, rung: int) -> Path:
        """A path at which nothing is."""
        return self.folder / "none"

    def disk_bytes(self) -> int:
        """Nothing."""
        return 0


class Blind:
    """A view that shows nothing, and stops a search when all is over.

    Args:
      over: whether it is.
    """

    def __init__(self, over: Callable[[], bool]) -> None:
        self.over = over
        self.search: Search | None = None

    def event(self, kind: str, **fields: Any) -> None:
        """Look whether all is spent."""
        if self.search is not None and self.over():
            self.search.stop()

    def update(self, snapshot: Snapshot) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing to close."""


def search(training: Training, seed: int, *, lookahead: int = LOOKAHEAD) -> Search:
    """Run one search until the epochs are spent.

    Its budget is as many candidates as the epochs last for if none is tuned: a trial costs its first rung and its share
    of the promotions above.

    Args:
      training: where it trains.
      seed: of the search, and of the names of options.
      lookahead: slots that a decision waits for.
    Returns:
      The search, at its end.
    """
    table = training.table
    rng = np.random.default_rng([seed, 2])
    names = [[f"o{number}" for number in rng.permutation(count)] for count in table.shape]
    each = sum((now - before) / table.eta**rung for rung, (before, now) in enumerate(_legs(table.steps)))
    config = Config(budget=int(training.limit / each) + 1, seed=seed, lookahead=lookahead)
    return run(space(table, names), Device(Lookup(training, names)), config, lambda: training.over)


def run(of: SearchSpace, device: Device, config: Config, over: Callable[[], bool]) -> Search:
    """Run one search on a device that trains nothing, until its budget is spent or all is over."""
    with tempfile.TemporaryDirectory() as folder:
        store = cast(Store, Forgetful(Path(folder)))
        view = Blind(over)
        view.search = made = Search(Place(reference="table", space=of, store=store, examples=1), device, config, view)
        made.run()
    return made


def _legs(steps: Sequence[int]) -> list[tuple[int, int]]:
    """From which epoch to which each rung is trained."""
    return list(zip((0, *steps), steps, strict=False))
