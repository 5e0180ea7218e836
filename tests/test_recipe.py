"""What the recipe and the machine may vary without changing what is learnt: accumulation, Muon, several devices."""

import dataclasses
import os

os.environ["NPROC"] = "1"  # before any backend: CPU results depend on the number of threads

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from nas.admit.program import check
from nas.admit.trace import trace
from nas.records import Failure, Program
from nas.space import Recipe, SearchSpace, load
from nas.train.engine import Engine, Plan

REFERENCE = str(Path(__file__).parent / "spaces" / "rings.py")
SPACE = load(REFERENCE)
HOW = Plan(mode="scan", chunk=20, train_level=1, eval_level=0, fusion_emitters=False)
NUMBERS = {"lr": 0.03, "wd": 0.01, "seed": 3}


def with_recipe(**changes: Any) -> SearchSpace:
    return dataclasses.replace(SPACE, recipe=dataclasses.replace(SPACE.recipe, **changes))


def trained(space: SearchSpace, steps: int = 60, devices: int = 1) -> tuple[Any, Engine]:
    found = trace(space, space.baselines["mlp"], {"hidden": 8})
    assert not isinstance(found, Failure), found
    engine = Engine(space, *found, space.task.split("train"), space.task.split("validation"), HOW, devices)
    (carry,) = engine.placed([(*engine.init(3), np.uint32(0))])
    carry, losses = engine.train(NUMBERS, 0, steps, carry)
    assert losses[-1] < losses[0]
    return carry, engine


def largest_difference(one: Any, other: Any) -> float:
    leaves = zip(jax.tree.leaves(one[0]), jax.tree.leaves(other[0]), strict=True)
    return max(float(np.abs(np.asarray(left) - np.asarray(right)).max()) for left, right in leaves)


def test_accumulated_gradients_are_those_of_the_batch() -> None:
    whole, _ = trained(SPACE)
    parts, _ = trained(with_recipe(accumulate=4))
    assert 0 <= largest_difference(whole, parts) < 1e-4


def test_program_of_an_accumulated_batch_is_traced_for_a_part_of_it() -> None:
    costs = []
    for space in (SPACE, with_recipe(accumulate=4)):
        found = trace(space, space.baselines["mlp"], {"hidden": 8})
        assert not isinstance(found, Failure)
        program = check(*found, space.contract, space.recipe)
        assert isinstance(program, Program)
        costs.append(program.cost)
    whole, part = costs
    assert part.flops == whole.flops and part.memory_bytes < whole.memory_bytes + 4 * whole.params


def test_accumulation_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="divide batch=20"):
        Recipe(batch=20, eval_batch=20, accumulate=3)


def test_muon_moves_matrices_by_equal_steps_in_every_direction() -> None:
    """An orthogonalised update has singular values near one another; AdamW's of the same gradient has not."""
    spread = {}
    for optimizer in ("adamw", "muon"):
        space = dataclasses.replace(with_recipe(optimizer=optimizer, warmup=1), spec=SPACE.spec)
        found = trace(space, space.baselines["mlp"], {"hidden": 4})
        assert not isinstance(found, Failure)
        engine = Engine(space, *found, space.task.split("train"), space.task.split("validation"), HOW)
        params = [np.asarray(leaf) for leaf in engine.init(3)[0]]
        rng = np.random.default_rng(0)
        grads = tuple(rng.normal(size=leaf.shape).astype(np.float32) for leaf in params)
        made = engine.optimizer(1.0, 0.0)
        state = made.init(tuple(params))
        _, state = made.update(grads, state, tuple(params))  # the warmup begins at 0
        updates, _ = made.update(grads, state, tuple(params))
        (hidden,) = [np.asarray(update) for update in updates if update.shape == (8, 4)]
        values = np.linalg.svd(hidden, compute_uv=False)
        spread[optimizer] = values[0] / values[-1]
        (head,) = [np.asarray(update) for update in updates if update.shape == (4, 2)]
        spread[f"{optimizer} head"] = np.abs(head).max() / np.abs(head).min()
    assert spread["muon"] < 1.6 < spread["adamw"]
    assert spread["muon head"] == pytest.approx(spread["adamw head"], rel=0.01)  # a side of the classes: AdamW


def test_muon_trains_and_resumes_to_the_same_bits() -> None:
    space = with_recipe(optimizer="muon")
    whole, engine = trained(space, 40)
    (carry,) = engine.placed([(*engine.init(3), np.uint32(0))])
    half, _ = engine.train(NUMBERS, 0, 20, carry)
    template = jax.tree.leaves(engine.template())
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(half)] == [(t.shape, t.dtype) for t in template]
    resumed, _ = engine.train(NUMBERS, 20, 40, jax.tree.map(np.array, half))
    for left, right in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(left, right)


SHARDED = """
import json, sys
import numpy as np
from tests.test_recipe import SPACE, largest_difference, trained
one, alone = trained(SPACE)
two, engine = trained(SPACE, devices=2)
inputs, _ = engine._batch(engine.validation, 0)
places = len({str(shard.device) for shard in inputs.addressable_shards})
scores = [alone.evaluate(one)[1], engine.evaluate(two)[1]]
print(json.dumps([largest_difference(one, two), places, inputs.addressable_shards[0].data.shape[0], scores]))
"""


def test_batch_over_two_devices_learns_what_one_device_does() -> None:
    more = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "NPROC": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=os.environ | more, cwd=Path(__file__).parents[1],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    difference, places, rows, scores = json.loads(done.stdout)
    assert places == 2 and rows == 100
    assert difference < 1e-4 and scores[0] == pytest.approx(scores[1], abs=0.01)


def test_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="shall have 64 devices"):
        trained(SPACE, devices=64)
