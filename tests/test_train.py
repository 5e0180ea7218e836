"""The engine: what it computes, when it stops, and that stopping changes nothing."""

import dataclasses
import os
import shutil

os.environ["NPROC"] = "1"  # before any backend: CPU results depend on the number of threads

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import pytest
from flax import nnx
from jax import export

from nas.admit.trace import execute, trace
from nas.records import Failure, hash_blobs
from nas.space import load
from nas.train import checkpoint
from nas.train.engine import Engine, Plan, plan, rows_for
from nas.train.interpret import interpret
from nas.train.job import prepare_job, read_program, train_job

HEADER = '"""A model."""\nfrom nas.api import jax, jnp, lax, nnx\n'
MLP = (
    HEADER
    + """
class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.up = nnx.Linear(spec.length, 16, rngs=rngs)
        self.down = nnx.Linear(16, spec.classes, rngs=rngs)
    def __call__(self, x):
        return self.down(jnp.tanh(self.up(x.reshape(x.shape[0], -1))))
"""
)
CONV = (
    HEADER
    + """
class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.conv = nnx.Conv(1, 8, (3,), rngs=rngs)
        self.head = nnx.Linear(8, spec.classes, rngs=rngs)
    def __call__(self, x):
        return self.head(jax.nn.relu(self.conv(x)).mean(axis=1))
"""
)
EVERYTHING = (
    HEADER
    + """
class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.up = nnx.Linear(spec.length, 16, use_bias=False, rngs=rngs)  # a bias would have no gradient but rounding
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.down = nnx.Linear(16, spec.classes, rngs=rngs)
    def __call__(self, x):
        h = self.drop(jax.nn.relu(self.norm(self.up(x.reshape(x.shape[0], -1)))))
        return self.down(h), 0.1 * (h ** 2).mean()
"""
)
SOURCES = {"mlp": MLP, "conv": CONV, "everything": EVERYTHING}


REFERENCE = str(Path(__file__).parent / "spaces" / "rings.py")
SPACE = load(REFERENCE)
SCAN = Plan(mode="scan", chunk=20, train_level=1, eval_level=0, fusion_emitters=False)
LOOP = dataclasses.replace(SCAN, mode="loop")


def blobs_of(source: str) -> tuple[dict[str, bytes], int]:
    traced = trace(SPACE, source, {})
    assert not isinstance(traced, Failure), traced
    return traced


@pytest.fixture(scope="module")
def traced() -> dict[str, tuple[dict[str, bytes], int]]:
    return {name: blobs_of(source) for name, source in SOURCES.items()}


def engine(traced: tuple[dict[str, bytes], int], how: Plan = SCAN) -> Engine:
    return Engine(SPACE, *traced, SPACE.task.split("train"), SPACE.task.split("validation"), how)


def start(built: Engine, seed: int = 3) -> Any:
    return jax.tree.map(jnp.asarray, (*built.init(seed), np.uint32(0)))


def leaves(carry: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(carry)]


NUMBERS = {"lr": 0.03, "wd": 0.01, "seed": 3}


@pytest.mark.parametrize("name", SOURCES)
def test_train_loss_falls(traced: Any, name: str) -> None:
    built = engine(traced[name], LOOP if name == "conv" else SCAN)
    _, losses = built.train(NUMBERS, 0, 200, start(built))
    assert losses[-1] < losses[0] - 0.02


@pytest.mark.parametrize("name", SOURCES)
def test_resume_through_a_file_is_bit_identical(traced: Any, name: str, tmp_path: Path) -> None:
    built = engine(traced[name], LOOP if name == "conv" else SCAN)
    whole, _ = built.train(NUMBERS, 0, 60, start(built))
    half, _ = built.train(NUMBERS, 0, 20, start(built))
    checkpoint.save(tmp_path / "half", jax.tree.leaves(half), {"step": 20})
    arrays, _ = checkpoint.load(tmp_path / "half", jax.tree.leaves(start(built)), {"step": 20})
    again = jax.tree.unflatten(jax.tree.structure(half), [jnp.asarray(array) for array in arrays])
    resumed, _ = built.train(NUMBERS, 20, 60, again)
    for left, right in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(left, right)


def test_one_executable_serves_every_draw(traced: Any) -> None:
    built = engine(traced["mlp"])
    built.train(NUMBERS, 0, 20, start(built))
    first = built._step
    with jax.log_compiles(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_timed_compile", lambda *_: pytest.fail("compiled again"))
        carry, _ = built.train({"lr": 0.001, "wd": 0.3, "seed": 9}, 0, 40, start(built, 9))
    assert built._step is first
    assert int(carry[-1]) == 40


def test_draws_differ_in_what_they_learn(traced: Any) -> None:
    built = engine(traced["mlp"])
    one, _ = built.train(NUMBERS, 0, 20, start(built))
    for change in ({"lr": 0.01}, {"wd": 0.3}, {"seed": 4}):
        other, _ = built.train(NUMBERS | change, 0, 20, start(built))
        assert any((a != b).any() for a, b in zip(leaves(one), leaves(other), strict=True)), change


@pytest.mark.parametrize("name", SOURCES)
def test_training_across_the_wall_equals_training_without_it(traced: Any, name: str) -> None:
    built = engine(traced[name], LOOP)
    carry = start(built)
    wall, _ = built.train(NUMBERS, 0, 20, carry)
    plain = without_wall(SOURCES[name], built, NUMBERS, 20)
    for left, right in zip(leaves(wall[0]), plain, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=2e-5)


def without_wall(source: str, built: Engine, numbers: dict[str, Any], steps: int) -> list[np.ndarray]:
    """The same training written by hand on the module itself, with nnx and optax."""
    unit = execute(source, "Model")
    model = nnx.merge(*nnx.split(unit(SPACE.spec, None, rngs=nnx.Rngs(0))))
    model.train()
    definition, *parts = nnx.split(model, nnx.Param, nnx.RngState, ...)
    (_, param_tree), (keys, key_tree), (_, state_tree) = map(jax.tree.flatten, parts)
    values, state, _ = built.init(numbers["seed"])
    optimizer = optax.contrib.schedule_free_adamw(numbers["lr"], SPACE.recipe.warmup, weight_decay=numbers["wd"])
    train = SPACE.task.split("train")
    rows = rows_for(numbers["seed"], 0, steps, len(train.inputs), SPACE.recipe.batch)

    @jax.jit
    def update(params: Any, state: Any, opt: Any, x: Any, y: Any, seed: Any) -> Any:
        streams = [
            jnp.zeros_like(leaf) if leaf.dtype == jnp.uint32 else jax.random.fold_in(jax.random.key(seed), index)
            for index, leaf in enumerate(keys)
        ]

        def objective(params: Any) -> Any:
            trees = zip((param_tree, key_tree, state_tree), (params, streams, state), strict=True)
            module = nnx.merge(definition, *(jax.tree.unflatten(tree, part) for tree, part in trees))
            returned = module(x)
            outputs, extra = returned if isinstance(returned, tuple) else (returned, 0.0)
            _, _, _, after = nnx.split(module, nnx.Param, nnx.RngState, ...)
            return SPACE.task.loss(outputs, y).mean() + jnp.minimum(extra, SPACE.recipe.max_auxiliary), jax.tree.leaves(
                after
            )

        grads, state = jax.grad(objective, has_aux=True)(params)
        updates, opt = optimizer.update(grads, opt, params)
        return optax.apply_updates(params, updates), state, opt

    params = tuple(map(jnp.asarray, values))
    opt = optimizer.init(params)
    for step in range(steps):
        seed = np.uint32((numbers["seed"] * 0x9E3779B1 + step) % 2**32)
        params, state, opt = update(params, list(state), opt, train.inputs[rows[step]], train.targets[rows[step]], seed)
    return [np.asarray(leaf) for leaf in params]


def test_dropout_is_off_and_statistics_are_still_when_evaluating(traced: Any) -> None:
    built = engine(traced["everything"])
    carry, _ = built.train(NUMBERS, 0, 20, start(built))
    assert built.evaluate(carry) == built.evaluate(carry)
    assert any((a != b).any() for a, b in zip(leaves(carry[1]), leaves(start(built)[1]), strict=True))


def test_running_statistics_belong_to_the_averaged_weights(traced: Any) -> None:
    """Spoilt statistics are of little consequence to the score, and training goes on from its own."""
    built = engine(blobs_of(EVERYTHING.replace("BatchNorm(16,", "BatchNorm(16, momentum=0.9,")))
    carry, _ = built.train(NUMBERS, 0, 200, start(built))
    spoilt = jax.tree.map(lambda leaf: leaf + 3.0, carry[1])
    assert built.evaluate((carry[0], spoilt, *carry[2:]))[1] > built.evaluate(carry)[1] - 0.1
    before = leaves(carry[1])
    built.evaluate(carry)
    assert all((a == b).all() for a, b in zip(before, leaves(carry[1]), strict=True))


def test_auxiliary_loss_is_trained_on_but_bounded(traced: Any) -> None:
    weighted = EVERYTHING.replace("0.1 * (h ** 2)", "1000.0 + 0.1 * (h ** 2)")
    plain = EVERYTHING.replace("self.down(h), 0.1 * (h ** 2).mean()", "self.down(h)")
    carries = []
    for source in (EVERYTHING, weighted, plain):
        built = engine(blobs_of(source))
        carries.append(leaves(built.train(NUMBERS, 0, 20, start(built))[0][0]))
    assert any((a != b).any() for a, b in zip(carries[0], carries[2], strict=True))
    for above_the_bound, without in zip(carries[1], carries[2], strict=True):
        np.testing.assert_allclose(above_the_bound, without, atol=1e-6)


@pytest.mark.parametrize(
    ("traits", "platform", "mode"),
    [
        ({"convolution"}, "cpu", "loop"),
        ({"loop"}, "cpu", "scan"),
        (set(), "cpu", "scan"),
        ({"convolution"}, "cuda", "scan"),
    ],
)
def test_plan_steps_convolutions_from_python_on_cpu_only(traits: set[str], platform: str, mode: str) -> None:
    assert plan(frozenset(traits), 1000, SPACE, 20_000, platform).mode == mode


def test_plan_optimises_an_evaluation_that_is_large() -> None:
    levels = [plan(frozenset(), flops, SPACE, 20_000, "cpu").eval_level for flops in (1_000, 10_000_000)]
    assert levels == [0, 1]


def test_rows_depend_on_seed_and_step_alone() -> None:
    whole = rows_for(5, 0, 50, 400, 20)
    np.testing.assert_array_equal(whole[17:33], rows_for(5, 17, 33, 400, 20))
    assert sorted(whole[:20].ravel()) == list(range(400))
    assert (whole[:20] != whole[20:40]).any() and (whole != rows_for(6, 0, 50, 400, 20)).any()


@pytest.fixture
def job(traced: Any, tmp_path: Path) -> dict[str, Any]:
    """The payload of a training job of the small MLP."""
    blobs, count = traced["mlp"]
    (tmp_path / "program").write_bytes(msgpack.packb(blobs) or b"")
    prepare_job(REFERENCE, str(tmp_path / "data"))
    return {
        "space": REFERENCE,
        "program": str(tmp_path / "program"),
        "digest": hash_blobs(blobs),
        "param_leaves": count,
        "how": dataclasses.asdict(SCAN),
        "data": str(tmp_path / "data"),
        "cache": None,
        "start": 0,
        "stops": [20],
        "trials": [{"id": 1, **NUMBERS, "load": [], "save": str(tmp_path / "one")}],
    }


def run(job: dict[str, Any], **changes: Any) -> list[Any]:
    return train_job(**{**job, **changes})["trials"]


def test_job_promoted_equals_job_in_one_go(job: dict[str, Any], tmp_path: Path) -> None:
    whole = run(job, stops=[20, 60])[0]["points"]
    first = run(job)[0]["points"]
    trial = job["trials"][0] | {"load": [(str(tmp_path / "one"), 20)], "save": None}
    second = run(job, start=20, stops=[60], trials=[trial])[0]["points"]
    assert [point for point, _ in whole] == [point for point, _ in first + second]


def test_job_with_a_damaged_checkpoint_trains_again_to_the_same(job: dict[str, Any], tmp_path: Path) -> None:
    whole = run(job, stops=[20, 60])[0]["points"]
    (tmp_path / "one").write_bytes(b"torn")
    trial = job["trials"][0] | {"load": [(str(tmp_path / "one"), 20)], "save": None}
    again = run(job, start=20, stops=[60], trials=[trial])[0]["points"]
    assert again[0][0]["score"] == whole[1][0]["score"] and again[0][0]["loss"] == whole[1][0]["loss"]


def test_job_with_a_damaged_checkpoint_goes_on_from_the_one_before(
    job: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(job, stops=[20, 60, 100])[0]["points"]
    trained = list[tuple[int, int]]()
    train = Engine.train
    monkeypatch.setattr(Engine, "train", lambda *given: trained.append(given[2:4]) or train(*given))
    run(job)
    (tmp_path / "two").write_bytes(b"torn")
    trial = job["trials"][0] | {"load": [(str(tmp_path / "two"), 60), (str(tmp_path / "one"), 20)], "save": None}
    again = run(job, start=60, stops=[100], trials=[trial])[0]["points"]
    assert [point for point, _ in again] == [point for point, _ in whole[2:]]
    assert trained == [(0, 20), (20, 60), (60, 100)]


def test_job_that_diverges_fails_and_has_no_score(job: dict[str, Any]) -> None:
    wild = job["trials"][0] | {"lr": 1e30}
    result = run(job, trials=[wild])[0]
    assert result["points"] == [] and result["failure"]["rule"] == "diverged"


def test_job_refuses_other_bytes(job: dict[str, Any]) -> None:
    blobs = msgpack.unpackb(Path(job["program"]).read_bytes())
    Path(job["program"]).write_bytes(msgpack.packb(blobs | {"eval": blobs["eval"][:-1] + b"x"}) or b"")
    with pytest.raises(OSError, match="not the one that was admitted"):
        read_program(Path(job["program"]), job["digest"])


def test_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", [np.zeros(())], {})
    with pytest.raises(checkpoint.CheckpointError, match="holds arrays"):
        checkpoint.load(tmp_path / "c", [np.zeros((1,))], {})


@pytest.mark.parametrize("name", SOURCES)
def test_interpreter_draws_what_a_compiled_initialiser_draws(traced: Any, name: str) -> None:
    exported = export.deserialize(bytearray(traced[name][0]["init"]))
    ours = interpret(exported, [np.asarray(11, np.uint32)])
    theirs = jax.tree.leaves(jax.jit(exported.call)(np.uint32(11)))
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=2e-6)


def test_damage_on_the_disk_is_no_fault_of_a_candidate(job: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(job["data"], tmp_path / "damaged")
    path = tmp_path / "damaged" / "train.inputs.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"\[Errno 5\].*damaged; remove that folder"):
        train_job(**job | {"data": str(tmp_path / "damaged"), "trials": []})


def test_number_that_was_changed_on_the_disk_is_noticed(tmp_path: Path) -> None:
    path, arrays = tmp_path / "one.safetensors", [np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(2.0)]
    checkpoint.save(path, arrays, {"step": 3})
    assert checkpoint.unreadable(path) is None
    found, meta = checkpoint.load(path, arrays, {"step": 3})
    assert meta == {"step": 3} and all(np.array_equal(a, b) for a, b in zip(found, arrays, strict=True))
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    assert checkpoint.unreadable(path) is not None
    with pytest.raises(checkpoint.CheckpointError, match="other numbers"):
        checkpoint.load(path, arrays, {"step": 3})
