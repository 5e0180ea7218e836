"""Spaces of several tasks: each has parameters of its own, the score is the mean, and what is hopeless is left."""

import dataclasses
import io
import os

os.environ["NPROC"] = "1"  # before any backend: CPU results depend on the number of threads

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nas import search
from nas.admit.trace import trace
from nas.dossier import write_candidate
from nas.judge.parts import expected, hopeless
from nas.records import Failure, hash_blobs, to_plain
from nas.space import Split, load
from nas.standings import read
from nas.store import Store
from nas.train.engine import Engine, Plan
from nas.train.job import prepare_job, train_job

REFERENCE = f"{Path(__file__).parent / 'spaces' / 'rings.py'}:tasks"
SPACE = load(REFERENCE)
HOW = Plan(mode="scan", chunk=20, train_level=1, eval_level=0, fusion_emitters=False)


@pytest.fixture(scope="module")
def traced() -> tuple[dict[str, bytes], int]:
    found = trace(SPACE, SPACE.baselines["mlp"], {"hidden": 8})
    assert not isinstance(found, Failure), found
    return found


@pytest.fixture(scope="module")
def files(traced: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import msgpack

    folder = tmp_path_factory.mktemp("parts")
    prepare_job(REFERENCE, str(folder / "data"))
    (folder / "program").write_bytes(msgpack.packb(traced[0]) or b"")
    return {
        "space": REFERENCE, "program": str(folder / "program"), "digest": hash_blobs(traced[0]),
        "param_leaves": traced[1], "how": to_plain(HOW), "data": str(folder / "data"), "cache": None,
    }  # fmt: skip


def trial(**more: Any) -> dict[str, Any]:
    return {"id": 1, "seed": 3, "lr": 0.03, "wd": 0.01, "load": [], "save": None, **more}


def trained(files: dict[str, Any], start: int, stops: list[int], **more: Any) -> dict[str, Any]:
    (result,) = train_job(**files, start=start, stops=stops, trials=[trial(**more)])["trials"]
    return result


def test_each_task_is_learnt_as_if_it_were_alone(traced: tuple[dict[str, bytes], int], files: dict[str, Any]) -> None:
    (point, _), *_ = trained(files, 0, [40])["points"]
    train, validation = SPACE.task.split("train"), SPACE.task.split("validation")
    for index, name in enumerate(SPACE.task.parts):
        rows = slice(200 * index, 200 * (index + 1))
        alone = dataclasses.replace(SPACE, task=dataclasses.replace(SPACE.task, parts=()))
        mine, other = (Split(split.inputs[rows], split.targets[rows]) for split in (train, validation))
        engine = Engine(alone, traced[0], traced[1], mine, other, HOW)
        carry = jax.tree.map(jax.numpy.asarray, (*engine.init(3), np.uint32(0)))
        carry, _ = engine.train({"lr": 0.03, "wd": 0.01, "seed": 3}, 0, 40, carry)
        assert engine.evaluate(carry)[1] == point["parts"][name]
    assert point["score"] == pytest.approx(np.mean(list(point["parts"].values())))


def test_resumed_training_of_several_tasks_is_bit_identical(files: dict[str, Any], tmp_path: Path) -> None:
    whole = trained(files, 0, [60])["points"][-1][0]
    trained(files, 0, [20], save=str(tmp_path / "rung"))
    resumed = trained(files, 20, [60], load=[(str(tmp_path / "rung"), 20)])["points"][-1][0]
    assert resumed["parts"] == whole["parts"] and resumed["loss"] == whole["loss"]


def test_a_hopeless_trial_is_left_and_keeps_no_checkpoint(files: dict[str, Any], tmp_path: Path) -> None:
    bar = dict.fromkeys(SPACE.task.parts, 1.0)
    ((point, losses),) = trained(files, 0, [20], bar=bar, save=str(tmp_path / "rung"))["points"]
    assert len(point["parts"]) == 4 and losses
    assert point["score"] == pytest.approx(np.mean(list(point["parts"].values())))  # all of the bar are 1
    assert not (tmp_path / "rung").exists()


def test_a_trial_above_the_bar_is_trained_on_every_task(files: dict[str, Any]) -> None:
    ((point, _),) = trained(files, 0, [20], bar=dict.fromkeys(SPACE.task.parts, 0.0))["points"]
    assert point["parts"].keys() == {*SPACE.task.parts}


@pytest.mark.parametrize("maximize", [True, False])
def test_only_what_is_worse_on_every_task_is_hopeless(maximize: bool) -> None:
    bar = [0.1, 0.5, 0.9, 0.3, 0.7]
    worse, better = ([value - 0.05 for value in bar], [value + 0.05 for value in bar])
    low, high = (worse, better) if maximize else (better, worse)
    assert [hopeless(low[:count], bar, maximize=maximize) for count in range(1, 6)] == [False] * 3 + [True] * 2
    assert not any(hopeless(high[:count], bar, maximize=maximize) for count in range(1, 6))
    assert not hopeless([low[0], high[1], low[2], high[3]], bar, maximize=maximize)


def test_expected_score_is_one_that_a_task_could_have() -> None:
    assert expected({"a": 0.02, "b": 0.1}, {"a": 0.9, "b": 0.8, "c": 0.1}) == 0.02


def test_expected_score_differs_from_the_bar_as_the_tasks_so_far_do() -> None:
    assert expected({"a": 0.1, "b": 0.5}, {"a": 0.2, "b": 0.6, "c": 0.9}) == pytest.approx((0.2 + 0.6 + 0.9) / 3 - 0.1)


@pytest.mark.slow
def test_search_leaves_hopeless_trials_and_promotes_none_of_them(tmp_path: Path) -> None:
    options = ["--space", REFERENCE, "--budget", "14", "--workers", "2", "--confirm", "0", "--lookahead", "2"]
    assert search.main([*options, "--results", str(tmp_path), "--name", "run"]) == 0
    scores = Store(tmp_path / "run").scores()
    left = {s.trial for s in scores if s.point and len(s.point.parts) < len(SPACE.task.parts)}
    assert left
    assert not left & {score.trial for score in scores if score.rung > 0}
    assert any(score.rung > 0 and score.point for score in scores)
    trial = next(trial for trial in Store(tmp_path / "run").trials() if trial.id in left)
    stream = io.StringIO()
    write_candidate(read(Store(tmp_path / "run")), trial.candidate, stream)
    shown = " ".join(stream.getvalue().split())
    assert f"trial {trial.id} at 20: radius 1.8" in shown and "left there, and its score is what these let" in shown
