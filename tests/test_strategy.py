"""What evolution starts from: the parent's best draw as the child's defaults, parents from the best tenth."""

from collections.abc import Callable

import numpy as np
import pytest
from test_evolution import GATED, MIXED, MODEL, PERCEPTRON
from test_strategy_benchmark import hill

from benchmarks import untrained
from benchmarks.tables import Training
from nas.admit import gate
from nas.propose import evolution, numbers
from nas.propose.evolution import at_values
from nas.propose.places import Context
from nas.propose.source import Draft
from nas.propose.widths import analyse
from nas.records import Choice, Value, defaults
from nas.strategy import ELITE, ONE_IN

RANGES = GATED.replace("choice(1, 2)", "integer(1, 5)")


@pytest.mark.parametrize("values", [{"kernel": 7}, {"kernel": 7, "growth": 2}, {"kernel": 3, "growth": 2}])
def test_a_parent_at_values_has_them_as_its_defaults(values: dict[str, Value]) -> None:
    before, text = gate.check(GATED, "Model"), at_values(GATED, values, "Model")
    after = gate.check(text, "Model")
    assert after.failures == () and after.idea == before.idea
    assert defaults(after.tunables) == defaults(before.tunables) | values
    for name, tunable in before.tunables.items():
        there = after.tunables[name]
        assert isinstance(tunable, Choice) and isinstance(there, Choice)
        assert sorted(map(repr, there.options)) == sorted(map(repr, tunable.options))


@pytest.mark.parametrize("values", [{}, {"kernel": 3}, {"kernel": 11}, {"other": 1}, {"kernel": 3.0}])
def test_a_parent_at_what_it_does_not_offer_stays_as_it_is(values: dict[str, Value]) -> None:
    assert at_values(GATED, values, "Model") == GATED


def test_a_range_keeps_its_middle_as_default() -> None:
    assert gate.check(RANGES, "Model").failures == ()
    assert at_values(RANGES, {"growth": 5}, "Model") == RANGES
    assert defaults(gate.check(at_values(RANGES, {"growth": 5, "kernel": 7}, "Model"), "Model").tunables) == {
        "kernel": 7,
        "growth": 3,
    }


@pytest.mark.parametrize("source", [GATED, MIXED, PERCEPTRON, RANGES])
@pytest.mark.parametrize("operator", dict.fromkeys(evolution._OPERATORS), ids=lambda operator: operator.__name__)
def test_an_operator_that_does_nothing_leaves_the_draft_as_it_was(
    source: str, operator: Callable[[Context], str | None]
) -> None:
    before = Draft(source, "Model").text()
    for seed in range(25):
        draft = Draft(source, "Model")
        context = Context(draft=draft, flow=analyse(draft, MODEL), space=MODEL, rng=np.random.default_rng(seed))
        if operator(context) is None:
            assert draft.text() == before


def test_what_is_read_otherwise_than_as_hp_is_not_fixed() -> None:
    """A value in the place of some of its reads would leave the tunable to decide the others."""
    source = GATED.replace("def __call__(self, x):", "def __call__(self, x):\n        x = x * self.other.kernel")
    for seed in range(60):
        draft = Draft(source, "Model")
        context = Context(draft=draft, flow=analyse(draft, MODEL), space=MODEL, rng=np.random.default_rng(seed))
        assert evolution._tunable(context) != "fix kernel"
        assert "hp.kernel" in draft.text()


def test_text_stays_tunable_and_numbers_may_be_fixed() -> None:
    text = GATED.replace("choice(1, 2)", "choice('SAME', 'VALID')").replace("hp.growth**i", "len(hp.growth)")
    told = []
    for seed in range(120):
        draft = Draft(text, "Model")
        assert isinstance(numbers.read_tunable(draft.tunables["growth"]).default, str)
        context = Context(draft=draft, flow=analyse(draft, MODEL), space=MODEL, rng=np.random.default_rng(seed))
        told.append(evolution._tunable(context))
    assert "fix kernel" in told and "fix growth" not in told


def test_parents_are_the_best_tenth() -> None:
    training = Training(hill((8, 8, 8)), 2, 8_000)
    strategy = untrained.search(training, 2).strategy
    scored = strategy.history.scored()
    elite = strategy._elite(scored)
    assert len(scored) >= 70 and len(elite) == max(ELITE, len(scored) // ONE_IN)
    worst = min(strategy.history.best(known) or 0.0 for known in elite)
    assert sum((strategy.history.best(known) or 0.0) > worst for known in scored) < len(elite)
    assert len(strategy._elite(scored[:30])) == ELITE and len(strategy._elite(scored[:4])) == 4
