"""Search quality on tables: what the tables answer, a search that trains nothing, its rivals, and their comparison."""

import csv
import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import strategy, tables, untrained
from benchmarks.rivals import RIVALS
from benchmarks.strategy import Run, compare
from benchmarks.tables import Table, Training
from nas.loop import Search

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
LIMIT = 2_000


def hill(shape: tuple[int, ...] = (4, 4, 4)) -> Table:
    """Cells whose parts add up: the last options are best. The last seed of every other cell is missing."""
    worth = np.array([sum(parts) for parts in itertools.product(*map(range, shape))], float)
    top = worth[:, None] + np.array([0.0, 0.3, -0.3])
    top[::2, 2] = np.nan
    truth = np.nanmean(top, axis=1)
    return Table(name="hill", shape=shape, steps=(12, 200), eta=4, below=worth[:, None] - 5, top=top, truth=truth)


@pytest.fixture(scope="module")
def searched() -> tuple[Training, Search]:
    """A search on the hill."""
    training = Training(hill(), 0, LIMIT)
    return training, untrained.search(training, 0)


# ---- tables


def row(cell: tuple[str, ...], score: float, third: str = "") -> dict[str, str]:
    text = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*cell)
    found = {"arch": text}
    for prefix in tables.SETS.values():
        found |= {f"{prefix}_val_e12": str(score / 2), f"{prefix}_val_e200_s0": str(score)}
        found |= {f"{prefix}_val_e200_s1": str(score + 1), f"{prefix}_val_e200_s2": third}
    return found


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A table of 5 * 3^5 cells in the columns of NAS-Bench-201; convolutions are best."""
    cells = [(first, *rest) for first in OPERATIONS for rest in itertools.product(OPERATIONS[1:4], repeat=5)]
    rows = [row(cell, 10.0 * sum("conv" in operation for operation in cell)) for cell in cells]
    with gzip.open(tmp_path / "nb201.csv.gz", "wt", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "nb201.csv.gz"


def test_a_table_knows_its_cells_and_the_mean_of_their_seeds(small: Path) -> None:
    table = tables.nb201(small, "cifar100")
    cells = table.cells()
    assert len(cells) == 5 * 3**5 and len(table.truth) == 5**6
    best = int(cells[np.argmax(table.truth[cells])])
    assert table.truth[best] == 60.5 and table.below[best, 0] == 30.0
    assert np.isnan(table.top[best, 2])
    assert table.cell(table.parts(best)) == best
    assert len(table.neighbours(best)) == 4 + 5 * 2


def test_neighbours_differ_in_one_part() -> None:
    table = hill()
    for other in table.neighbours(27):
        assert sum(a != b for a, b in zip(table.parts(27), table.parts(other), strict=True)) == 1
    assert len(set(table.neighbours(27))) == 9


def test_another_table_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "nb201.csv.gz"
    with gzip.open(file, "wt") as other:
        other.write("arch,score\n|none~0|,1\n")
    assert strategy.main(["--table", str(file)]) == 2
    assert "c10_val_e12" in capsys.readouterr().err


def test_curves_fill_a_rectangle_and_failures_are_not_a_number(tmp_path: Path) -> None:
    runs = [{"val": [5.0] * 11 + [4.0 - n / 100] * 39, "test": [4.0 - n / 100]} for n in range(16)]
    runs.append({"val": [5.0] * 4, "test": [6.0]})
    with gzip.open(tmp_path / "nbnlp_wt2.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(run) + "\n" for run in runs)
    table = tables.nlp(tmp_path / "nbnlp_wt2.jsonl.gz")
    assert table.shape == (2, 15) and len(table.cells()) == 17
    assert table.truth[15] == -3.85 and np.isnan(table.top[16, 0])
    other = tables.shuffled(table, np.random.default_rng(0))
    assert not np.array_equal(other.truth, table.truth, equal_nan=True)
    assert np.array_equal(np.sort(other.truth), np.sort(table.truth), equal_nan=True)
    assert table.cell((1, 5)) is None and table.cell((0, 15)) is None


def test_going_on_from_a_rung_costs_the_difference() -> None:
    training = Training(hill(), 0, LIMIT)
    training.train(5, 0)
    training.train(5, 1, below=0)
    assert training.epochs == 200
    training.train(6, 1)
    assert training.epochs == 400


def test_training_again_shows_the_next_seed_and_worlds_agree() -> None:
    first, second = Training(hill(), 3, LIMIT), Training(hill(), 3, LIMIT)
    scores = [first.train(5, 1) for _ in range(4)]
    assert len(set(scores[:3])) == 3 and scores[3] == scores[0]
    second.train(6, 1)
    assert second.train(5, 1) == scores[0]


def test_the_choice_is_the_best_of_the_highest_rung_by_then() -> None:
    training = Training(hill(), 0, LIMIT)
    training.train(63, 0)
    assert training.choice(11) is None
    assert (chosen := training.choice(12)) and chosen.cell == 63
    training.train(1, 1)
    assert (chosen := training.choice(212)) and chosen.cell == 1
    training.train(60, 1)
    assert (chosen := training.choice(411)) and chosen.cell == 1
    assert (chosen := training.choice(412)) and chosen.cell == 60


def test_unseen_leaves_out_the_seed_that_was_chosen_by() -> None:
    table = hill()
    training = Training(table, 0, LIMIT)
    score = training.train(5, 1)
    choice = training.choice(LIMIT)
    assert choice is not None
    assert training.unseen(choice) == pytest.approx((table.top[5].sum() - score) / 2)


# ---- a search that trains nothing


def test_a_search_spends_its_epochs_and_uses_every_arm(searched: tuple[Training, Search]) -> None:
    training, made = searched
    assert LIMIT <= training.epochs < LIMIT + 200
    assert {"random", "evolution", "tune"} <= {trial.arm for trial in made.history.trials.values()}
    tops = [told for told in training.told if told.rung == 1]
    assert tops and len(tops) <= sum(told.rung == 0 for told in training.told) // 4


def test_a_search_is_deterministic(searched: tuple[Training, Search]) -> None:
    again = Training(hill(), 0, LIMIT)
    untrained.search(again, 0)
    assert again.told == searched[0].told


def test_children_differ_in_one_part_from_a_draw_of_their_parent(searched: tuple[Training, Search]) -> None:
    history = searched[1].history

    def cells(number: int) -> list[list[str]]:
        """The cell of each of a candidate's trials, the first one at its defaults."""
        source = history.known[number].candidate.source
        return [untrained.written(source, trial.values) for trial in history.trials_of(number)]

    def change(one: list[str], other: list[str]) -> int:
        return sum(a != b for a, b in zip(one, other, strict=True))

    from_defaults, from_draws = [], []
    for number, one in history.known.items():
        if one.candidate.arm == "evolution" and history.trials_of(number):
            own, parents = cells(number)[0], cells(one.candidate.parents[0])
            from_defaults.append(change(own, parents[0]))
            from_draws.append([change(own, other) for other in parents])
    assert len(from_draws) > 5 and all(1 in changes for changes in from_draws)
    assert max(from_defaults) > 1  # some parent was best at other values than its defaults


def test_all_parts_of_all_children_stay_tunable(searched: tuple[Training, Search]) -> None:
    assert {len(one.candidate.tunables) for one in searched[1].history.known.values()} == {3}


def test_no_cell_is_admitted_twice(searched: tuple[Training, Search]) -> None:
    admitted = [one for one in searched[1].history.known.values() if one.facts is not None]
    prints = [one.facts["fingerprint"] for one in admitted if one.facts is not None]
    assert len(prints) > 20 and len(set(prints)) == len(prints)


def test_what_is_no_cell_of_the_table_is_rejected_for_free(small: Path) -> None:
    training = Training(tables.nb201(small, "cifar10"), 0, 900)
    made = untrained.search(training, 0)
    assert made.history.rejections["trace/table"] > 0
    assert all(not np.isnan(told.score) for told in training.told)


# ---- rivals and their comparison


@pytest.mark.parametrize("name", list(RIVALS))
def test_a_rival_spends_its_epochs_and_is_deterministic(name: str) -> None:
    told = []
    for _ in range(2):
        training = Training(hill(), 1, LIMIT)
        RIVALS[name](training, np.random.default_rng(1))
        assert LIMIT <= training.epochs < LIMIT + 200
        assert training.choice(LIMIT) is not None
        told.append(training.told)
    assert told[0] == told[1]


@pytest.mark.parametrize("name", ["random, promoted", "evolution, promoted", "tpe, promoted"])
def test_one_in_eta_is_promoted_the_best_first(name: str) -> None:
    training = Training(hill(), 1, LIMIT)
    RIVALS[name](training, np.random.default_rng(1))
    first: list[float] = []
    tops = 0
    for told in training.told:
        if told.rung == 0:
            first.append(told.score)
            continue
        tops += 1
        assert tops == len(first) // 4
        score = training.table.below[told.cell, 0]
        assert sum(other > score for other in first) < tops


def test_local_search_climbs_to_the_top_of_the_hill() -> None:
    training = Training(hill((6, 6, 6)), 1, 9_600)  # a start, and at most three times its 15 neighbours
    RIVALS["local search"](training, np.random.default_rng(0))
    choice = training.choice(9_600)
    assert choice is not None and training.table.parts(choice.cell) == (5, 5, 5)


@pytest.mark.parametrize("name", ["evolution", "evolution, promoted", "tpe", "tpe, promoted"])
def test_a_rival_that_learns_proposes_better_cells_later(name: str) -> None:
    training = Training(hill((6, 6, 6)), 1, 10_000)
    RIVALS[name](training, np.random.default_rng(0))
    truths = [training.table.truth[told.cell] for told in training.told if told.rung == training.told[0].rung]
    assert np.mean(truths[-15:]) > np.mean(truths[:10]) + 2


def test_the_difference_is_ours_minus_the_rivals_and_paired() -> None:
    def runs(*truths: float) -> list[Run]:
        return [Run(truth=(t,), unseen=(t,), arms={}, seconds=1.0) for t in truths]

    rows = compare({"ours": runs(2.0, 4.0, 9.0), "random": runs(1.0, 3.5, 7.5)}, [100])
    assert rows[0]["ours_minus"] is None and rows[0]["truth"]["mean"] == 5.0
    ahead = rows[1]["ours_minus"]
    assert ahead["mean"] == 1.0 and ahead["error"] == pytest.approx(0.5 / 3**0.5)
    assert ahead["low"] == pytest.approx(1 - 1.96 * ahead["error"], abs=1e-4)
    regrets = compare({"ours": runs(2.0, 4.0), "random": runs(1.0, 3.0)}, [100], best=10.0)
    assert regrets[0]["regret"]["mean"] == 7.0 and regrets[1]["ours_minus"]["mean"] == -1.0


def test_the_program_writes_figures_without_paths(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--sets",
        "cifar10",
        "--rivals",
        "random",
        "--epochs",
        "300",
        "600",
        "--repeats",
        "2",
        "--processes",
        "1",
    ]
    (tmp_path / "figures.json").write_text(json.dumps({"figures": {"nlp": {"best": 1.0}}}))
    assert strategy.main(["--table", str(small), *options, "--json", str(tmp_path / "figures.json")]) == 0
    assert "ours minus, 600" in capsys.readouterr().out
    text = (tmp_path / "figures.json").read_text("utf-8")
    made = json.loads(text)["figures"]
    assert len(made["cifar10"]["rows"]) == 4 and made["cifar10"]["best"] == 60.5
    assert made["nlp"] == {"best": 1.0}
    assert str(tmp_path) not in text
