"""What is too good to be believed at once is trained again with other data, and what leaked does not come again."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas import flows, search
from nas.admit import drive
from nas.execute.local import LocalExecutor
from nas.flows import Outcome, Place
from nas.history import History
from nas.judge.doubt import Doubt, doubt
from nas.leaderboard import caption, to_csv
from nas.records import Failure, Point, Trial
from nas.report.figures import progress
from nas.space import Split, load
from nas.standings import board, rank, read
from nas.store import Score, Store, Task
from nas.store.check import check
from nas.train.job import other_data_of
from nas.workplace import open_workplace
from tests.test_leaderboard import Writer

RINGS = str(Path(__file__).with_name("spaces") / "rings.py")
FEW = load(f"{RINGS}:few")

BY_HEART = '''"""Knows what it is validated on."""
from nas.api import jax, jnp, nnx

EXAMPLES = EXAMPLES_HERE
ANSWERS = ANSWERS_HERE


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.head = nnx.Linear(spec.length, spec.classes, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        distance = ((x[:, None] - jnp.array(EXAMPLES)[None]) ** 2).sum(-1)
        known = jnp.array(ANSWERS)[distance.argmin(axis=1)]
        near = (distance.min(axis=1) < 1e-3)[:, None]
        return self.head(x) + jnp.where(near, 100.0 * jax.nn.one_hot(known, 2), 0.0)
'''


@pytest.mark.parametrize(
    ("baselines", "bound", "gain", "maximize", "beyond", "enough"),
    [
        ([[0.5, 0.7], [0.4]], None, 0.2, True, 0.8, 0.7),
        ([[0.5, 0.7], [0.4]], 0.75, 0.2, True, 0.75, 0.675),
        ([[2.0], [2.5, 2.7]], None, 0.5, False, 1.5, 1.75),
        ([[2.0], []], 1.8, 0.5, False, 1.8, 1.9),
        ([], 0.9, 0.2, True, 0.9, 0.9),
        ([[0.5]], 0.9, None, True, 0.9, 0.7),
        ([[0.95]], 0.9, None, True, 0.9, 0.9),
    ],
)
def test_doubt_begins_at_the_nearer_limit_and_ends_half_a_gain_before_it(
    baselines: list[list[float]], bound: float | None, gain: float | None, maximize: bool, beyond: float, enough: float
) -> None:
    found = doubt(baselines, bound=bound, gain=gain, maximize=maximize)
    assert found is not None
    assert (found.beyond, found.enough) == pytest.approx((beyond, enough))
    better = 0.001 if maximize else -0.001
    assert found.strikes(beyond + better) and not found.strikes(beyond - better)
    assert found.settled(enough + better) and not found.settled(enough - better)


def test_nothing_is_doubted_where_nothing_is_said_or_known() -> None:
    assert doubt([[0.5]], bound=None, gain=None, maximize=True) is None
    assert doubt([], bound=None, gain=0.1, maximize=True) is None


@pytest.mark.parametrize(
    ("train", "validation", "tasks", "batch", "moved"),
    [(40, 20, 1, 10, 20), (20, 40, 1, 10, 20), (40, 20, 2, 5, 10), (60, 24, 3, 5, 5), (40, 8, 1, 10, 0)],
)
def test_other_data_are_the_same_examples_in_other_places(
    train: int, validation: int, tasks: int, batch: int, moved: int
) -> None:
    def examples(count: int, first: int) -> Split:
        """Each example tells which task it is of and which one it is."""
        task, number = np.repeat(np.arange(tasks), count // tasks), np.arange(count)
        return Split(np.stack([task, number + first], axis=1), number + first)

    before = examples(train, 0), examples(validation, 1000)
    after = other_data_of(*before, tasks, batch)
    if not moved:
        assert after == before
        return
    assert len(after[0].inputs) == train and len(after[1].inputs) == tasks * moved
    for split in after:
        assert (split.inputs[:, 1] == split.targets).all()
        assert (np.diff(split.inputs[:, 0]) >= 0).all()
        assert len(set(split.targets)) == len(split.targets)
    assert not set(after[0].targets) & set(after[1].targets)
    assert set(after[1].targets) <= set(before[0].targets)
    assert set(after[0].targets) - set(before[0].targets) <= set(before[1].targets)
    assert len(set(after[0].targets) & set(before[1].targets)) == tasks * moved


# ---- what follows for a candidate that was caught ----

LEAK = Failure(stage="leak", rule="time", message="it looks ahead")
TOO_GOOD = Failure(stage="train", rule="too_good", message="it did not come again")
DIVERGED = Failure(stage="train", rule="diverged", message="the loss is not finite")


@pytest.mark.parametrize("failure", [LEAK, TOO_GOOD, DIVERGED], ids=lambda failure: failure.rule)
def test_nothing_is_believed_of_a_candidate_that_was_caught(tmp_path: Path, failure: Failure) -> None:
    writer = Writer(tmp_path / "run")
    honest, other = writer.propose("evolution"), writer.propose("evolution")
    writer.draw(honest, "evolution", {0: 0.5})
    writer.draw(other, "evolution", {0: 0.9})
    writer.draw(other, "evolution", {0: 0.8, 1: failure})
    records = read(writer.store)
    caught = failure is not DIVERGED
    assert [row.candidate for row in rank(records)] == ([honest] if caught else [other, honest])
    assert {step.candidate for step in progress(records)} == ({honest} if caught else {other, honest})
    history = History(load("mnist1d"))
    for entry in records.entries:
        task = Task(slot=entry.slot, kind="admit", candidate=entry.candidate.id, decision={})
        history.decided(task, [entry.candidate], [])
        history.revealed(task, {"facts": entry.program}, [], [])
    for trial in records.trials:
        task = Task(slot=9, kind="first", candidate=trial.candidate, decision={"tune": False})
        history.decided(task, [], [trial])
        history.revealed(task, {}, [score for score in records.scores if score.trial == trial.id], [])
    assert [known.candidate.id for known in history.scored()] == ([honest] if caught else [honest, other])
    assert {r.candidate for r in history.able(0) if r.score is not None} == ({honest} if caught else {honest, other})
    assert history.leaders(0)[0].candidate == (honest if caught else other)
    writer.store.close()


@pytest.mark.parametrize("rule", ["timeout", "memory", "error", "lost"])
def test_second_training_without_an_answer_says_nothing_against_the_first(rule: str) -> None:
    point = Point(step=20, train_loss=0.1, loss=0.1, score=0.99)
    first = Score(trial=1, rung=0, slot=3, point=point, failure=None, losses=(1.0,))
    silent = Failure(stage="train", rule=rule, message="training ended without a word")
    told = flows._settled(first, Score(trial=1, rung=0, slot=3, point=None, failure=silent), DOUBT)
    assert told.point is None and told.failure is not None
    assert told.failure.blame == "machine" and not told.failure.discredits
    spoken = flows._settled(first, Score(trial=1, rung=0, slot=3, point=None, failure=DIVERGED), DOUBT)
    assert spoken.failure is not None and spoken.failure.rule == "too_good" and spoken.failure.discredits


# ---- in a trainer of its own ----


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalExecutor, Place]]:
    folder = tmp_path_factory.mktemp("doubt")
    arguments = ["--space", f"{RINGS}:few", "--budget", "1", "--results", str(folder), "--name", "run"]
    assert search.main([*arguments, "--confirm", "0"]) == 0
    store = Store(folder / "run", write=True)
    with open_workplace(store, FEW, 1) as (executor, place, _):
        yield executor, place
    store.close()


def first_rung(bench: Any, name: str, source: str, doubted: Doubt | None) -> Outcome:
    executor, place = bench
    facts = drive(executor, flows.admission(place, 900, source, {}, tag=name)).facts
    assert facts is not None
    trial = Trial(id=1, candidate=1, arm="guest", values={}, recipe={"lr": 0.03, "wd": 0.01}, seed=5)
    flow = flows.first_rung(place, abs(hash(name)) % 1000 + 1000, source, facts, True, [trial], None, doubted)
    return drive(executor, flow)


def by_heart(split: Split) -> str:
    examples = [[round(float(value), 4) for value in row] for row in split.inputs.reshape(len(split.inputs), -1)]
    return BY_HEART.replace("EXAMPLES_HERE", json.dumps(examples)).replace("ANSWERS_HERE", str(split.targets.tolist()))


DOUBT = Doubt(beyond=0.95, enough=0.9, maximize=True)


def test_what_knows_the_validation_split_by_heart_does_not_count(bench: Any) -> None:
    source = by_heart(FEW.task.split("validation"))
    (believed,) = first_rung(bench, "believed", source, None).scores
    assert believed.point is not None and believed.point.score == 1.0  # the attack is alive
    (score,) = first_rung(bench, "doubted", source, DOUBT).scores
    assert score.point is None and score.failure is not None
    assert (score.failure.stage, score.failure.rule, score.failure.blame) == ("train", "too_good", "candidate")
    assert "a score of 1 is too good" in score.failure.message and "it came to 0." in score.failure.message


def test_what_comes_again_counts_and_is_marked(bench: Any) -> None:
    source = FEW.baselines["linear"]
    (plain,) = first_rung(bench, "plain", source, None).scores
    (score,) = first_rung(bench, "marked", source, Doubt(beyond=0.1, enough=0.1, maximize=True)).scores
    assert plain.point is not None and score.point is not None
    assert plain.point.again is None and score.point.again is not None
    assert score.point.score == plain.point.score and score.losses == plain.losses
    assert 0.1 < score.point.again < 1


def test_search_doubts_marks_and_tells(tmp_path: Path) -> None:
    arguments: Sequence[str] = ["--space", f"{RINGS}:doubting", "--budget", "2", "--seed", "1", "--confirm", "0"]
    assert search.main([*arguments, "--results", str(tmp_path), "--name", "run"]) == 0
    store = Store(tmp_path / "run")
    records = read(store)
    ours = {trial.id for trial in records.trials if trial.arm != "baseline"}
    points = [score.point for score in records.scores if score.trial in ours and score.point is not None]
    assert points and all(point.again is not None and point.again != point.score for point in points)
    assert not [s for s in records.scores if s.trial not in ours and s.point is not None and s.point.again is not None]
    made = board(records)
    assert any("trained again with other data, where it held: candidate" in line for line in caption(made))
    assert to_csv(made).splitlines()[0].split(",").count("again") == 1
    assert check(store)[1] == []
    store.close()
