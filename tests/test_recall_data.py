"""The six tasks of recall: who reads the rule answers all, who guesses does not, and no answer is given away."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nas.search_spaces.recall import data
from nas.search_spaces.recall.data import TASKS, UNASKED

NAMES = list(TASKS)


def make(name: str, seed: int = 3, examples: int = 200) -> tuple[np.ndarray, np.ndarray]:
    inputs, targets = TASKS[name].make(seed, examples, TASKS[name].settings)
    return inputs, targets


def look_up(prefix: list[int], settings: data.Recall | data.FuzzyRecall) -> int | None:
    """What follows, by a dictionary of the pairs that the prefix has; None if it has not been seen."""
    known: dict[tuple[int, ...], tuple[int, ...]] = {}
    key: tuple[int, ...] = ()
    value: tuple[int, ...] = ()
    for token in prefix:
        if token < settings.half and value:
            known[key] = value
            key, value = (), ()
        if token < settings.half:
            key += (token,)
        elif token < 2 * settings.half:
            value += (token,)
    answer = known.get(key, ())
    return answer[len(value)] if len(value) < len(answer) else None


def oracle(name: str, prefix: list[int]) -> int | None:
    """The answer at the last position of a prefix, by the rule alone."""
    settings = TASKS[name].settings
    if isinstance(settings, data.Recall | data.FuzzyRecall):
        return look_up(prefix, settings)
    if isinstance(settings, data.SelectiveCopying):
        at = prefix.index(settings.vocab - 1)
        return [token for token in prefix[:at] if token < settings.vocab - 2][len(prefix) - at - 2]
    if isinstance(settings, data.Memorisation):
        return TABLE[prefix[-3], prefix[-2]]
    raise AssertionError(name)


def facts(inputs: np.ndarray, targets: np.ndarray) -> list[tuple[tuple[int, int], int]]:
    """Keys and values of memorisation, as its examples show them."""
    keys = zip(inputs[:, 0:63:3].ravel().tolist(), inputs[:, 1:63:3].ravel().tolist(), strict=True)
    return list(zip(keys, targets[:, 2::3].ravel().tolist(), strict=True))


def _table() -> dict[tuple[int, int], int]:
    """Read off the training split, as a model has to."""
    return dict(facts(*data.split("memorisation", "train")))


TABLE = _table()


@pytest.mark.parametrize("name", [n for n in NAMES if TASKS[n].settings.reads == "each"])
def test_rule_read_off_the_prefix_answers_every_question(name: str) -> None:
    """That the answer follows from the prefix says, too, that a causal model can know it."""
    inputs, targets = make(name, examples=60)
    for row, asked in zip(inputs.tolist(), targets.tolist(), strict=True):
        wrong = [t for t, label in enumerate(asked) if label != UNASKED and oracle(name, row[: t + 1]) != label]
        assert wrong == []


def test_compression_asks_for_its_own_tokens_and_is_read_at_the_marker() -> None:
    inputs, targets = make("compression")
    settings = TASKS["compression"].settings
    np.testing.assert_array_equal(targets[targets >= 0], inputs[inputs < settings.vocab - 2])
    assert (inputs[:, -1] == settings.vocab - 1).all() and (inputs[:, :-1] < settings.vocab - 1).all()
    assert settings.reads == "last"


@pytest.mark.parametrize("name", NAMES)
def test_guessers_score_near_chance(name: str) -> None:
    """The most frequent answer so far, and the answer that was last in the input, against knowing the rule."""
    inputs, targets = make(name)
    lowest = min(targets[targets >= 0])
    frequent = Counter(targets[targets >= 0].tolist()).most_common(1)[0][0]
    right = {"frequent": 0, "frequent here": 0, "last": 0}
    for row, asked in zip(inputs.tolist(), targets.tolist(), strict=True):
        for t, label in enumerate(asked):
            if label != UNASKED:
                past = [token for token in row[:t] if token in ANSWERS[name]] or [lowest]
                right["frequent"] += label == frequent
                right["frequent here"] += label == Counter(past).most_common(1)[0][0]
                right["last"] += label == past[-1]
    for guesser, count in right.items():
        assert count / (targets >= 0).sum() < 2.5 * TASKS[name].chance, guesser


ANSWERS = {name: set(np.unique(make(name, seed=4)[1]).tolist()) - {UNASKED} for name in NAMES}


@pytest.mark.parametrize("name", [n for n in NAMES if TASKS[n].settings.reads == "each"])
def test_answer_is_not_in_the_input_where_it_is_asked(name: str) -> None:
    inputs, targets = make(name)
    same = (inputs == targets)[targets >= 0].mean()
    assert same <= TASKS[name].chance if name == "fuzzy_recall" else same == 0


@pytest.mark.parametrize("name", NAMES)
def test_seed_decides_the_examples(name: str) -> None:
    for one, again, other in zip(make(name), make(name), make(name, seed=4), strict=True):
        np.testing.assert_array_equal(one, again)
        assert one.dtype == np.int32 and one.shape == (200, data.LENGTH)
        assert not (one == other).all()


@pytest.mark.parametrize("name", NAMES)
def test_tokens_lie_in_the_vocabulary_and_use_it(name: str) -> None:
    inputs, targets = make(name, examples=2_000)
    vocab = TASKS[name].settings.vocab
    assert inputs.min() == 0 and inputs.max() == vocab - 1
    assert targets.min() == UNASKED and targets.max() < vocab <= data.VOCAB


@pytest.mark.parametrize("name", NAMES)
def test_share_of_questions_is_as_said(name: str) -> None:
    _, targets = make(name, examples=5_000)
    assert (targets >= 0).mean() == pytest.approx(TASKS[name].asked, abs=0.004)


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_example(name: str) -> None:
    rows = {part: {row.tobytes() for row in data.split(name, part).inputs} for part in data.SEEDS}
    assert {part: len(found) for part, found in rows.items()} == data.EXAMPLES
    assert len(set.union(*rows.values())) == sum(data.EXAMPLES.values())


def test_memorisation_has_one_table_that_its_own_seed_decides() -> None:
    task = TASKS["memorisation"]
    assert len(TABLE) == 63**2 and Counter(TABLE.values()) == dict.fromkeys(range(63, 126), 63)
    for part in data.SEEDS:
        assert {TABLE[key] == value for key, value in facts(*data.split("memorisation", part))} == {True}
    other = task.make(3, 200, replace(task.settings, table=1))
    np.testing.assert_array_equal(other.inputs, make("memorisation")[0])
    assert (other.targets != make("memorisation")[1])[:, 2::3].mean() > 0.9
    short = data.memorisation(0, 50, data.Memorisation(length=8, vocab=11, key_length=1))
    assert len(set(zip(short.inputs[:, 0::2].flat, short.targets[:, 1::2].flat, strict=True))) == 5


def test_more_training_examples_begin_with_the_fewer() -> None:
    few, more = data.split("recall", "train"), data.split("recall", "train", times=2)
    assert len(more.inputs) == 2 * len(few.inputs)
    np.testing.assert_array_equal(more.inputs[: len(few.inputs)], few.inputs)
    assert len({row.tobytes() for row in more.inputs}) == len(more.inputs)


def test_noise_has_its_exact_share_and_is_never_asked_for() -> None:
    settings = data.Recall(length=40, vocab=20, keys=4, noise_vocab=4, noise=0.4)
    inputs, targets = data.recall(0, 100, settings)
    np.testing.assert_array_equal((inputs >= 16).sum(axis=1), 16)
    assert (targets < 16).all() and (inputs[targets >= 0] < 8).all()


def test_recall_has_the_keys_it_is_told_to_have() -> None:
    inputs, _ = data.recall(0, 50, data.Recall(length=400, vocab=40, keys=5))
    assert {len(set(row[0::2].tolist())) for row in inputs} == {5}
    sets = {tuple(sorted(set(row[0::2].tolist()))) for row in inputs}
    assert len(sets) > 45  # of 15,504


def test_fuzzy_keys_have_all_lengths() -> None:
    settings = TASKS["fuzzy_recall"].settings
    inputs, _ = make("fuzzy_recall")
    runs = Counter()
    for row in inputs < settings.vocab // 2:
        edges = np.flatnonzero(np.diff(np.r_[False, row, False]))
        runs.update((edges[1::2] - edges[0::2]).tolist()[:-1])
    assert set(runs) == {1, 2, 3, 4} and min(runs.values()) > 0.22 * runs.total()


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (data.Recall, {"keys": 17}, r"keys=17.*1 to 16"),
        (data.Recall, {"length": 7}, "even"),
        (data.Recall, {"noise": 0.5}, "noise_vocab=0"),
        (data.Recall, {"noise": 1.0, "noise_vocab": 4}, "below 1"),
        (data.FuzzyRecall, {"keys": 9, "vocab": 4}, "1 to 8"),
        (data.SelectiveCopying, {"tokens": 32}, "1 to 31"),
        (data.Compression, {"tokens": 64}, "1 to 63"),
        (data.Memorisation, {"vocab": 4}, "at least 5"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(kind: type, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        kind(**fields)
    assert "\n" not in str(caught.value)


def test_unknown_task_and_split_are_named() -> None:
    with pytest.raises(ValueError, match="no task 'copy'.*selective_copying"):
        data.split("copy", "train")
    with pytest.raises(ValueError, match="no split 'valid'.*validation"):
        data.split("recall", "valid")


def test_generators_leave_the_global_streams_alone() -> None:
    np.random.seed(7)
    before = (str(np.random.get_state()), random.getstate())
    for name in NAMES:
        make(name, examples=5)
    assert before == (str(np.random.get_state()), random.getstate())
