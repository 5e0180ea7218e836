"""The planted candidate: who it is, what is assumed of the others, and whether it is counted when it is found."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import planted, untrained
from benchmarks.planted import Equals, Found, interval, search, summary
from benchmarks.tables import Table
from nas.loop import Search
from nas.space import Ladder
from nas.strategy import Config

QUIET = (0.1, 0.1, 0.1)


def run(answers: Equals, budget: int = 30) -> Search:
    """A search among equals, with two draws of a new candidate."""
    nothing = np.zeros((5**6, 1))
    table = Table(
        name="equals", shape=planted.SHAPE, steps=planted.STEPS, eta=4, below=nothing, top=nothing, truth=nothing[:, 0]
    )
    space = untrained.space(table, [list("abcde")] * 6, Ladder(steps=planted.STEPS, eta=4, draws=2))
    return untrained.run(space, untrained.Device(answers), Config(budget=budget, seed=0, lookahead=8), lambda: False)


def test_all_draws_of_one_admitted_candidate_are_better_and_nothing_else_is() -> None:
    history = run(Equals(17, 100.0, QUIET, 0)).history
    admitted = [k.candidate.id for k in history.known.values() if k.facts is not None]
    better = {r.candidate for results in history.results for r in results if (r.score or 0) > 50}
    assert better == {admitted[16]}
    scores = [r.score for results in history.results for r in results if r.candidate == admitted[16]]
    assert len(scores) > 2 and all(score is not None and abs(score - 100) < 1 for score in scores)
    children = [k for k in history.known.values() if admitted[16] in k.candidate.parents and k.scores]
    assert children  # it has become a parent, and they are no better than others


def test_noise_is_that_of_the_rung_and_new_for_each_trial() -> None:
    history = run(Equals(1, 0.0, (5.0, 1.0, 0.2), 3), budget=60).history
    first, second, third = ([r.score or 0.0 for r in results] for results in history.results)
    assert len(set(first)) == len(first) >= 120
    assert np.std(first) == pytest.approx(5.0, rel=0.25)
    assert 0.5 < np.std(second) < 1.5 and np.std(third) < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_a_large_effect_is_found_and_none_is_found_by_chance_only(seed: int) -> None:
    found = search(seed, QUIET, budget=40, effect=50.0, draws=1)
    assert found.finalist and found.rung == 2 and 1 <= found.place <= 40
    hopeless = search(seed, QUIET, budget=40, effect=-50.0, draws=1)
    assert not hopeless.finalist and hopeless.rung == 0 and hopeless.draws == 1


def test_a_search_is_deterministic() -> None:
    assert search(4, (2.5, 1.5, 1.0), budget=25, effect=3.0, draws=1) == search(
        4, (2.5, 1.5, 1.0), budget=25, effect=3.0, draws=1
    )


def test_the_share_has_an_interval_and_says_where_the_others_were_lost() -> None:
    one = [
        Found(place=1, draws=1, rung=rung, finalist=finalist) for rung, finalist in ((2, True), (2, False), (0, False))
    ]
    told = summary(one)
    assert told["finalist"] == pytest.approx(1 / 3) and told["lost_at"] == {"rung 0": 1, "rung 1": 0, "rung 2": 1}
    low, high = interval(46, 50)
    assert (round(low, 3), round(high, 3)) == (0.812, 0.968)  # as tables of Wilson's interval have it


def test_the_program_writes_figures_without_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planted.main(["--searches", "2", "--budget", "12", "--json", str(tmp_path / "figures.json")]) == 0
    text = (tmp_path / "figures.json").read_text("utf-8")
    figures = json.loads(text)["figures"]
    assert len(figures) == 3 and all(len(one["searches"]) == 2 for one in figures.values())
    assert str(tmp_path) not in text and "lost at rung 0" in capsys.readouterr().out
    assert planted.main(["--searches", "0"]) == 2
