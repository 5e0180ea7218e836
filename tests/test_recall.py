"""Recall: six tasks in one form, scored as said, at three scopes; and what the benchmark says of known mixers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import recall as benchmark
from benchmarks.report import versions
from nas.admit import gate
from nas.admit.program import check
from nas.admit.trace import trace
from nas.records import Failure, Program, defaults
from nas.search_spaces.recall import data
from nas.search_spaces.recall.space import MARGIN, SPACE, VARIANTS, loss, score
from nas.space import SearchSpace, Split, digest, load
from nas.testing import battery

COUNT = data.EXAMPLES["validation"]
SCOPES = {"Mixer": "recall", "Block": "recall:block", "Stack": "recall:stack"}


@pytest.fixture(scope="module")
def validation() -> Split:
    return SPACE.task.split("validation")


@pytest.fixture(scope="module")
def programs() -> dict[str, Program | Failure]:
    """Every mixer that is a baseline."""
    return traced(SPACE)


def traced(space: SearchSpace) -> dict[str, Program | Failure]:
    """Every baseline of a space, traced and checked."""
    found = {}
    for name, source in space.baselines.items():
        gated = gate.check(source, space.scope)
        assert not gated.failures, (name, gated.failures)
        program = trace(space, source, defaults(gated.tunables))
        assert not isinstance(program, Failure), (name, program)
        found[name] = check(*program, space.contract, space.recipe, "cpu")
    return found


def of_task(split: Split, task: str) -> Split:
    place = list(data.TASKS).index(task)
    return Split(*(np.split(np.asarray(array), len(data.TASKS))[place] for array in split))


def told(targets: np.ndarray, right: float = 1.0) -> np.ndarray:
    """Logits that give the answer in a share of the places, and elsewhere the token after it."""
    wrong = np.random.default_rng(0).random(targets.shape) >= right
    tokens = (np.maximum(targets, 0) + wrong) % SPACE.spec.vocab
    return 20 * np.eye(SPACE.spec.vocab, dtype=np.float32)[tokens]


def test_spaces_load_without_jax() -> None:
    code = (
        "import sys, json, nas.space as s\n"
        "[s.load(n) for n in ('recall', 'recall:block', 'recall:stack', 'recall@data=2', 'recall@width=2')]\n"
        "print(json.dumps(sorted({'jax', 'flax', 'anthropic'} & set(sys.modules))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == []


def test_split_has_as_many_examples_of_each_task_in_their_order(validation: Split) -> None:
    assert SPACE.task.parts == tuple(data.TASKS)
    assert validation.inputs.shape == (6 * COUNT, *SPACE.contract.input_shape)
    assert validation.targets.shape == (6 * COUNT, SPACE.contract.output_shape[0])
    assert {array.dtype for array in validation} == {np.dtype(np.int32)}
    for name, task in data.TASKS.items():
        mine, alone = of_task(validation, name), data.split(name, "validation")
        np.testing.assert_array_equal(mine.inputs, alone.inputs)
        if task.settings.reads == "each":
            np.testing.assert_array_equal(mine.targets[:, : data.LENGTH], alone.targets)
            assert (mine.targets[:, data.LENGTH :] == data.UNASKED).all()


def test_compression_alone_is_asked_after_the_last_position(validation: Split) -> None:
    inputs, targets = of_task(validation, "compression")
    settings = data.TASKS["compression"].settings
    assert (targets[:, : data.LENGTH] == data.UNASKED).all()
    np.testing.assert_array_equal(targets[:, data.LENGTH :].ravel(), inputs[inputs < settings.vocab - 2])
    assert SPACE.contract.output_shape == (data.LENGTH + data.DECODED, SPACE.spec.vocab)


@pytest.mark.parametrize("task", list(data.TASKS))
def test_score_is_the_share_of_answers_that_are_right(validation: Split, task: str) -> None:
    targets = of_task(validation, task).targets
    assert np.asarray(score(told(targets), targets)) == pytest.approx(1.0)
    assert np.asarray(score(told(targets, 0.0), targets)) == pytest.approx(0.0)
    half, asked = told(targets, 0.5), targets >= 0
    right = (half.argmax(axis=-1) == targets) & asked
    np.testing.assert_allclose(score(half, targets), right.sum(axis=1) / asked.sum(axis=1), rtol=1e-6)


def test_loss_is_the_mean_over_the_answers_of_an_example() -> None:
    targets = np.full((2, data.LENGTH + data.DECODED), data.UNASKED)
    targets[0, 3], targets[0, 9] = 5, 7
    outputs = np.random.default_rng(0).normal(size=(*targets.shape, SPACE.spec.vocab)).astype(np.float32)
    shares = np.exp(outputs[0, [3, 9]]) / np.exp(outputs[0, [3, 9]]).sum(axis=-1, keepdims=True)
    found = np.asarray(loss(outputs, targets))
    assert found[0] == pytest.approx(-np.log(shares[[0, 1], [5, 7]]).mean(), rel=1e-5)
    assert found[1] == 0 and np.asarray(score(outputs, targets))[1] == 0  # nothing is asked of it


def test_what_is_not_asked_has_no_gradient() -> None:
    import jax

    targets = np.full((1, data.LENGTH + data.DECODED), data.UNASKED)
    targets[0, 3] = 5
    outputs = np.zeros((*targets.shape, SPACE.spec.vocab), np.float32)
    gradient = np.asarray(jax.grad(lambda outputs: loss(outputs, targets).sum())(outputs))
    assert np.flatnonzero(np.abs(gradient).sum(axis=-1)[0]).tolist() == [3]


def test_limits_are_a_fifth_above_attention_or_a_little_less(programs: dict[str, Any]) -> None:
    cost, contract = programs["attention"].cost, SPACE.contract
    assert contract.max_params is not None and contract.max_flops is not None
    assert contract.max_params == round(MARGIN * cost.params)
    assert 0.9 * MARGIN < contract.max_flops / cost.flops <= MARGIN  # softmax and norms are not in the formula


def test_every_mixer_that_is_known_is_within_the_limits(programs: dict[str, Any]) -> None:
    assert len(programs) >= 7
    assert {name: str(found) for name, found in programs.items() if not isinstance(found, Program)} == {}


def test_every_axis_of_scale_makes_the_space_larger() -> None:
    wide, deep, long = (load(f"recall@{axis}=2") for axis in ("width", "depth", "steps"))
    assert (wide.spec.width, wide.spec.heads) == (2 * SPACE.spec.width, 2 * SPACE.spec.heads)
    assert deep.spec.depth == 2 * SPACE.spec.depth
    assert long.ladder.steps == tuple(2 * step for step in SPACE.ladder.steps)
    for larger in (wide, deep):
        assert (larger.contract.max_params or 0) > (SPACE.contract.max_params or 0)
        assert larger.contract.output_shape == SPACE.contract.output_shape


def test_a_stack_says_itself_how_deep_it_is() -> None:
    assert {"depth"} == SPACE.scale.keys() - VARIANTS["stack"].scale.keys()


def test_more_data_has_more_of_each_task_and_scores_on_the_same() -> None:
    few, more = (load(name).task.split for name in ("recall", "recall@data=2"))
    few_train, more_train = few("train"), more("train")
    for task in data.TASKS:
        one, two = of_task(few_train, task), of_task(more_train, task)
        assert len(two.inputs) == 2 * len(one.inputs)
        np.testing.assert_array_equal(two.inputs[: len(one.inputs)], one.inputs)
    np.testing.assert_array_equal(few("validation").inputs, more("validation").inputs)


def test_variants_differ_in_their_scope_and_share_the_tasks() -> None:
    assert VARIANTS["mixer"] is SPACE
    assert {space.scope for space in VARIANTS.values()} == set(SCOPES)
    assert len({digest(space) for space in VARIANTS.values()}) == 3
    assert {space.contract for space in VARIANTS.values()} == {SPACE.contract}


@pytest.mark.parametrize("scope", list(SCOPES))
def test_guidance_has_the_numbers_of_the_space(scope: str) -> None:
    space = load(SCOPES[scope])
    settings = data.TASKS["recall"].settings
    assert isinstance(settings, data.Recall)
    for said in (f"{settings.keys} keys of {settings.half}", f"{space.ladder.steps[-1]} at the last", "T = 64"):
        assert said in space.guidance
    assert "{" not in space.guidance


@pytest.mark.slow
def test_every_block_and_stack_that_is_known_is_within_the_limits() -> None:
    for space in (VARIANTS["block"], VARIANTS["stack"]):
        found = {name: str(one) for name, one in traced(space).items() if not isinstance(one, Program)}
        assert found == {}, space.name


@pytest.mark.slow
def test_space_passes_the_battery() -> None:
    assert [str(finding) for finding in battery("recall") if finding.problem] == []


# ---- benchmarks.recall ----


def row(baseline: str, task: str, mean: float, half: float | None = 1.0) -> dict[str, Any]:
    ends = {"low": None, "high": None} if half is None else {"low": mean - half, "high": mean + half}
    known = list(benchmark.published(baseline, task))
    return {"baseline": baseline, "task": task, "mean": mean, **ends, "published": known}


def test_space_of_one_task_has_its_examples(validation: Split) -> None:
    one = load("benchmarks.recall:memorisation")
    assert one.task.parts == ()
    for mine, other in zip(one.task.split("validation"), of_task(validation, "memorisation"), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_interval_is_students() -> None:
    assert benchmark.interval([1.0, 2.0, 3.0]) == pytest.approx({"mean": 2.0, "low": -0.4841, "high": 4.4841}, abs=1e-4)
    assert benchmark.interval([2.0]) == {"mean": 2.0, "low": None, "high": None}


def test_order_is_found_or_the_exception_is_named() -> None:
    good = {"attention": 99.0, "gated_delta_net": 98.0, "gated_linear_attention": 70.0, "long_convolution": 50.0}
    (line,) = benchmark.orders([row(name, "recall", mean) for name, mean in good.items()])
    assert "it came out" in line
    bad = good | {"gated_delta_net": 71.0}
    (line,) = benchmark.orders([row(name, "recall", mean) for name, mean in bad.items()])
    assert "gated_delta_net is below 95 %" in line
    assert "gated_delta_net is not ahead of gated_linear_attention" in line and "it came out" not in line


def test_only_an_interval_beside_the_papers_range_disagrees() -> None:
    inside, above = row("recurrence", "fuzzy_recall", 14.5), row("recurrence", "fuzzy_recall", 30.0)
    own = row("sliding_window", "recall", 3.0)  # of which there is no paper
    (line,) = benchmark.disagreements([inside, above, own])
    assert "30.0 [29.0, 31.0] is above the papers' 13.6" in line


@pytest.mark.parametrize("task", list(data.TASKS))
def test_difference_from_the_papers_is_said_with_the_settings(task: str) -> None:
    assert "{" not in benchmark.different(task) and "MAD" in benchmark.different(task)


def test_rows_that_a_file_has_are_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, asked = tmp_path / "recall.json", ["--steps", "125", "--baselines", "attention", "--tasks", "recall"]
    settings = benchmark._settings(benchmark._parser().parse_args(asked))
    known = row("attention", "recall", 42.0) | {"params": 1, "rate": 0.01, "validation": {"125": 40.0}}
    content = {"settings": settings, "versions": versions(), "figures": {"rows": [known]}}
    path.write_text(json.dumps(content))
    assert benchmark.main([*asked, "--json", str(path)]) == 0
    assert "42.0 [41.0, 43.0]" in capsys.readouterr().out
    assert benchmark.main([*asked, "--seeds", "3", "--json", str(path)]) == 2
    assert "other settings" in capsys.readouterr().err and json.loads(path.read_text()) == content


def test_steps_that_no_chunk_divides_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--steps", "10"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
