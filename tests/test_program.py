"""The checks on an exported program: honest ones pass with their true cost, forged ones fail and never raise."""

import dataclasses
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forged_programs import ATTACKS, HARMLESS, evaluating, exported, f32, honest, loop, serialized
from jax import export, lax

from nas.admit import admit, stablehlo
from nas.admit import program as checks
from nas.admit.cost import count
from nas.admit.program import check, check_job
from nas.admit.stablehlo import Reader
from nas.admit.trace import trace
from nas.execute import Event
from nas.records import ARTIFACTS, Failure, Program, to_plain
from nas.space import Contract, Grammar, Ladder, Recipe, SearchSpace, Spec, Split, Task

CONTRACT = Contract(input_shape=(4,), output_shape=(3,))
RECIPE = Recipe(batch=2, eval_batch=4)
SPACE = SearchSpace(
    name="series",
    version=1,
    scope="Model",
    spec=Spec(length=6, channels=2, classes=3, width=4, depth=2),
    task=Task(
        split=lambda name: Split(np.zeros((8, 6, 2)), np.zeros(8)),
        loss=lambda outputs, targets: outputs.sum(-1),
        score=lambda outputs, targets: outputs.sum(-1),
        metric="accuracy",
    ),
    contract=Contract(input_shape=(6, 2), output_shape=(3,)),
    recipe=Recipe(batch=5, eval_batch=10),
    ladder=Ladder(steps=(10,)),
    grammar=Grammar(stem=(), body=(), head=()),
    baselines={},
)
DENSE = """
from nas.api import jax, jnp, lax, nnx

class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.first = nnx.Linear(12, 8, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        h = x.reshape(x.shape[0], -1)
        h = nnx.relu(self.first(h))
        return self.last(h)
"""
MIXED = """
from nas.api import jax, jnp, lax, nnx

class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.conv = nnx.Conv(2, 4, (3,), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.inner = nnx.Linear(4, 4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        h = self.norm(self.conv(x))
        h = nnx.remat(lambda model, h: model.drop(model.inner(h)))(self, h)
        return self.head(h.mean(axis=1)), (h**2).mean()
"""


@cache
def traced(source: str) -> tuple[dict[str, bytes], int]:
    found = trace(SPACE, source, {})
    assert not isinstance(found, Failure), found
    return found


def checked(source: str, **limits: Any) -> Program | Failure:
    return check(*traced(source), dataclasses.replace(SPACE.contract, **limits), SPACE.recipe)


def verdict(**replaced: export.Exported) -> Program | Failure:
    return check(serialized(**replaced), 1, CONTRACT, RECIPE)


@pytest.mark.parametrize("name", ATTACKS)
def test_check_of_forged_program_fails(name: str) -> None:
    rule, attack = ATTACKS[name]
    found = verdict(**attack())
    assert isinstance(found, Failure)
    assert (found.stage, found.rule) == ("program", rule), found
    assert len(found.message) <= 400 and found.message.isprintable()


def test_there_are_many_kinds_of_forgeries() -> None:
    assert len(ATTACKS) >= 100
    assert {artifact for _, attack in ATTACKS.values() for artifact in attack()} == set(ARTIFACTS)


@pytest.mark.parametrize("name", HARMLESS)
def test_check_of_what_nobody_reads_finds_the_same_program(name: str) -> None:
    found, expected = verdict(**HARMLESS[name]()), verdict()
    assert isinstance(found, Program) and isinstance(expected, Program), found
    assert found.fingerprint == expected.fingerprint
    assert dataclasses.replace(found.cost, ops=0) == dataclasses.replace(expected.cost, ops=0)


def test_check_of_memory_that_nobody_wrote_fails() -> None:
    artifacts = evaluating(lambda w, x: x @ w + lax.empty((4, 3), jnp.float32), platforms=["cuda"])
    others = {
        name: dataclasses.replace(honest()[name], platforms=("cuda",)) for name in ("init", "forward", "backward")
    }
    found = check(serialized(**others, **artifacts), 1, CONTRACT, RECIPE, "cuda")
    assert isinstance(found, Failure) and found.rule == "custom_call", found


def test_check_of_too_many_operations_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stablehlo, "MAX_OPERATIONS", 50)
    found = verdict()
    assert isinstance(found, Failure) and found.rule == "ops", found


def test_check_of_honest_program_written_by_hand_passes() -> None:
    found = verdict()
    assert isinstance(found, Program), found
    assert found.cost.params == 12
    assert found.cost.flops == 2 * 4 * 3
    assert found.cost.train_flops == 2 * (2 * 4 * 3)


def test_check_of_counted_loop_written_by_hand_multiplies() -> None:
    found = verdict(**loop("LT, %i, %n", "%i, %two; %n, %n"))
    assert isinstance(found, Program), found
    each = 12 + 1 + 1  # the doubling, the counter, the comparison
    assert found.cost.flops == math.ceil((2 * 4 * 4 * 3 + 63 * each + 12) / 4)


@pytest.mark.parametrize(
    "param_leaves, blobs",
    [
        (0, {}),
        (2, {}),
        (-1, {}),
        (True, {}),
        ("1", {}),
        (1, {"eval": b""}),
        (1, {"eval": b"\x00" * 1000}),
        (1, {"eval": "text"}),
        (1, {"eval": bytes(9 << 20)}),
        (1, {"extra": b""}),
        (1, {"forward": None}),
    ],
)
def test_check_of_other_arguments_fails(param_leaves: Any, blobs: dict[str, Any]) -> None:
    given: dict[str, Any] = serialized()
    found = check(given | blobs, param_leaves, CONTRACT, RECIPE)
    assert isinstance(found, Failure)
    assert found.rule in ("signature", "malformed", "size")


def test_check_of_missing_artifact_fails() -> None:
    given = {name: blob for name, blob in serialized().items() if name != "backward"}
    found = check(given, 1, CONTRACT, RECIPE)
    assert isinstance(found, Failure) and found.rule == "malformed"


CHECK_EACH = """
import pickle, signal, sys
from nas.admit.program import check
cases, contract, recipe = pickle.load(open(sys.argv[1], "rb"))
for case in cases:
    signal.alarm(10)
    print(type(check(case, 1, contract, recipe)).__name__, flush=True)
"""


def test_check_of_mutated_bytes_never_raises(tmp_path: Path) -> None:
    """Some mutations crash the parser or keep it busy for ever, which is why a check runs in a process of its own."""
    good = serialized()
    rng = np.random.default_rng(7)
    cases = []
    for index in range(40):
        name = ARTIFACTS[index % 4]
        blob = bytearray(good[name])
        if index % 5 == 0:
            blob = blob[: rng.integers(len(blob))]
        for _ in range(rng.integers(1, 8)):
            blob[rng.integers(len(blob))] = rng.integers(256)
        cases.append(good | {name: bytes(blob)})
    path, done = tmp_path / "cases", 0
    while done < len(cases):
        path.write_bytes(pickle.dumps((cases[done:], CONTRACT, RECIPE)))
        command = [sys.executable, "-c", CHECK_EACH, str(path)]
        ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
        assert ran.returncode <= 0, ran.stderr  # it came to its end, or a signal ended it
        assert set(ran.stdout.split()) <= {"Failure", "Program"}
        done += len(ran.stdout.split()) + (ran.returncode < 0)


@pytest.mark.parametrize(
    "limits, rule, start",
    [
        ({"max_params": 130}, "params", "131 parameters; the space allows 130:"),
        ({"max_flops": 200}, "flops", "259 FLOPs for one example; the space allows 200:"),
        ({"max_memory_bytes": 2000}, "memory", "2,696 bytes for one training step; the space allows 2,000:"),
    ],
)
def test_check_beyond_a_limit_says_by_how_much(limits: dict[str, int], rule: str, start: str) -> None:
    found = checked(DENSE, **limits)
    assert isinstance(found, Failure)
    assert found.rule == rule
    assert found.message.startswith(start), found.message


def test_check_at_the_limit_passes() -> None:
    assert isinstance(checked(DENSE, max_params=131, max_flops=259, max_memory_bytes=2696), Program)


def test_check_of_state_dropout_remat_and_auxiliary_loss_passes() -> None:
    found = checked(MIXED)
    assert isinstance(found, Program), found
    assert found.traits == {"convolution"}  # the loop that makes random bits is none that decides anything
    assert found.cost.params == (3 * 2 * 4 + 4) + (4 + 4) + (4 * 4 + 4) + (4 * 3 + 3)


def test_check_of_recurrent_model_has_trait_loop() -> None:
    source = DENSE.replace("h = nnx.relu(self.first(h))", "h = lax.map(lambda a: nnx.relu(self.first(a)), h)")
    found = checked(source)
    assert isinstance(found, Program), found
    assert found.traits == {"loop"}


def test_check_of_orthogonal_initializer_names_the_remedy() -> None:
    found = checked(DENSE.replace("12, 8,", "12, 8, kernel_init=nnx.initializers.orthogonal(),"))
    assert isinstance(found, Failure)
    assert found.rule == "custom_call" and "recurrent_kernel_init" in found.message


MODELS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "dense": (lambda a, b, x: jnp.tanh(x @ a) @ b, (f32(12, 32), f32(32, 3), f32(10, 12))),
    "convolution": (
        lambda k, x: jax.nn.relu(lax.conv_general_dilated(x, k, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))),
        (f32(5, 3, 8), f32(10, 40, 3)),
    ),
    "grouped and dilated convolution": (
        lambda k, x: lax.conv_general_dilated(
            x, k, (1, 1), "SAME", rhs_dilation=(2, 3), feature_group_count=4, dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        (f32(3, 3, 1, 8), f32(2, 9, 12, 4)),
    ),
    "attention": (
        lambda w, x: jax.nn.softmax((x @ w) @ x.swapaxes(1, 2) / 4, axis=-1) @ x,
        (f32(16, 16), f32(4, 20, 16)),
    ),
    "norm and gelu": (
        lambda s, x: jax.nn.gelu((x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-6) * s),
        (f32(32), f32(8, 10, 32)),
    ),
    "pooling": (
        lambda s, x: s * lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 1), (1, 2, 1), "VALID").sum(1),
        (f32(4), f32(8, 21, 4)),
    ),
}


def ours(function: Callable[..., Any], avals: tuple[Any, ...]) -> int:
    return count(Reader(1 << 30).read(exported(function, *avals).mlir_module_serialized)).flops


def compilers(function: Callable[..., Any], avals: tuple[Any, ...]) -> float:
    cost: Any = jax.jit(function).lower(*avals).cost_analysis()
    return cost["flops"] + cost.get("transcendentals", 0)


def pulled_back(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: jax.vjp(function, *args[:-1])[1](args[-1])


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_flops_without_loops_agree_with_the_compilers(name: str, gradient: bool) -> None:
    function, avals = MODELS[name]
    if gradient:
        function, avals = pulled_back(function), (*avals, jax.eval_shape(function, *avals))
    assert ours(function, avals) == pytest.approx(compilers(function, avals), rel=0.05)


def recurrence(unroll: int | bool) -> Callable[..., Any]:
    def run(w: Any, x: Any) -> Any:
        def step(h: Any, now: Any) -> Any:
            h = jnp.tanh(now + h @ w)
            return h, None

        return lax.scan(step, jnp.zeros(x.shape[1:]), x, unroll=unroll)[0]

    return run


@pytest.mark.parametrize("gradient", [False, True])
def test_flops_of_a_loop_are_those_of_the_unrolled_program(gradient: bool) -> None:
    avals = (f32(16, 16), f32(12, 5, 16))
    looped, unrolled = recurrence(1), recurrence(True)
    if gradient:
        avals = (*avals, jax.eval_shape(looped, *avals))
        looped, unrolled = pulled_back(looped), pulled_back(unrolled)
    assert ours(looped, avals) == pytest.approx(compilers(unrolled, avals), rel=0.05)
    assert compilers(looped, avals) < 0.5 * compilers(unrolled, avals)  # why we count ourselves


def test_flops_of_loops_in_loops_multiply() -> None:
    def run(w: jax.Array) -> jax.Array:
        return lax.fori_loop(0, 7, lambda _, h: lax.fori_loop(2, 5, lambda _, g: g @ w, h), w)

    assert ours(run, (f32(16, 16),)) == pytest.approx(7 * 3 * 2 * 16**3, rel=0.01)


def test_flops_of_branches_are_those_of_the_dearest() -> None:
    def run(p: jax.Array, x: jax.Array) -> jax.Array:
        return lax.cond(p.sum() > 0, lambda a: a @ a, lambda a: a + 1, x)

    assert ours(run, (f32(), f32(16, 16))) == pytest.approx(2 * 16**3, rel=0.01)


SPACE_FILE = """
from nas.space import Contract, Grammar, Ladder, Recipe, SearchSpace, Spec, Task

def nothing(*args):
    raise AssertionError("a check needs no data")

SPACE = SearchSpace(
    name="toy", version=1, scope="Model", spec=Spec(length=4, classes=3, width=4, depth=1),
    task=Task(split=nothing, loss=nothing, score=nothing, metric="accuracy"),
    contract=Contract(input_shape=(4,), output_shape=(3,), max_params=LIMIT), recipe=Recipe(batch=2, eval_batch=4),
    ladder=Ladder(steps=(10,)), grammar=Grammar(stem=(), body=(), head=()), baselines={},
)
"""


@pytest.mark.parametrize("limit, key", [(12, "program"), (11, "failure")])
def test_job_returns_as_plain_data_what_check_returns(tmp_path: Path, limit: int, key: str) -> None:
    path = tmp_path / "toy.py"
    path.write_text(SPACE_FILE.replace("LIMIT", str(limit)))
    plain = check_job(str(path), serialized(), 1)
    expected = to_plain(check(serialized(), 1, dataclasses.replace(CONTRACT, max_params=limit), RECIPE))
    expected.pop("blobs", None)
    assert plain == {key: expected} == json.loads(json.dumps(plain))


def test_import_needs_no_jax() -> None:
    code = f"import sys; import {checks.__name__}; assert not {{'jax', 'flax', 'jaxlib'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("said", [None, [1], {}, {"failure": {"oops": 1}}, {"blobs": 3}, {"failure": {"rule": 1}}])
def test_tracer_that_answers_nonsense_is_the_candidates_failure(said: Any) -> None:
    flow = admit("mnist1d", "", {})
    (job,) = next(flow)
    with pytest.raises(StopIteration) as stop:
        flow.send([Event(job_id=job.id, kind="done", result=said)])
    assert isinstance(stop.value.value, Failure) and stop.value.value.rule == "malformed"


@pytest.mark.parametrize(
    "changed",
    [
        {"cost": 3},
        {"cost": {"params": "1", "flops": 1, "train_flops": 1, "memory_bytes": 1, "ops": 1}},
        {"cost": {"flops": 1}},
        {"fingerprint": "\x1b[2J"},
        {"param_leaves": -1},
        {"param_leaves": True},
        {"traits": {"loop": 1}},
        {"sketch": [None]},
        {"profile": {"matmul": "all"}},
        {"profile": {"matmul": float("nan")}},
        {"profile": {"\x1b]0;x\x07": 1.0}},
        {"traits": ["\x1b[2J"]},
        {"sketch": [10**30]},
        {"more": 1},
    ],
)
def test_check_that_answers_nonsense_is_the_candidates_failure(changed: dict[str, Any]) -> None:
    blobs, leaves = traced(DENSE)
    program = check(blobs, leaves, SPACE.contract, SPACE.recipe)
    honest = {name: value for name, value in to_plain(program).items() if name != "blobs"}

    def sent(facts: dict[str, Any]) -> Any:
        """What admission makes of these facts: its verdict, or the job that comes next."""
        flow = admit("mnist1d", DENSE, {})
        (job,) = next(flow)
        (job,) = flow.send([Event(job_id=job.id, kind="done", result={"blobs": blobs, "param_leaves": leaves})])
        try:
            return flow.send([Event(job_id=job.id, kind="done", result={"program": facts})])[0]
        except StopIteration as stop:
            return stop.value

    assert sent(honest).entry == "nas.admit.leaks:leak_job"
    refused = sent(honest | changed)
    assert isinstance(refused, Failure) and refused.rule == "malformed"


def test_tracer_cannot_blame_the_machine_or_tell_a_novel() -> None:
    flow = admit("mnist1d", "", {})
    (job,) = next(flow)
    told = {
        "stage": "machine",
        "rule": "shape\x1b]0;owned\x07",
        "message": "\x1b[2J" + 10_000 * "a",
        "line": 3,
        "blame": "machine",
    }
    with pytest.raises(StopIteration) as stop:
        flow.send([Event(job_id=job.id, kind="done", result={"failure": told})])
    failure = stop.value.value
    assert (failure.stage, failure.blame, failure.line) == ("trace", "candidate", 3)
    assert len(failure.message) == 400 and failure.message.isprintable() and failure.rule.isprintable()


@pytest.mark.parametrize(
    "changed, start",
    [
        ({"TRAINING_FACTOR": 1}, "FLOPs for one example of a training step"),
        ({"INIT_FLOPS": 1, "INIT_FLOPS_PER_PARAM": 1}, "FLOPs to make the parameters"),
    ],
)
def test_training_and_parameters_cost_so_much_and_no_more(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, int], start: str
) -> None:
    assert isinstance(checked(DENSE, max_flops=259), Program)
    for name, value in changed.items():
        monkeypatch.setattr(checks, name, value)
    found = checked(DENSE, max_flops=259)
    assert isinstance(found, Failure) and found.rule == "flops" and start in found.message


MOVING = """
from nas.api import jax, jnp, lax, nnx

@jax.custom_vjp
def held(x):
    return x

def kept(x):
    return x, None

def turned(_, g):
    return (lax.fori_loop(0, 100_000, lambda i, a: jnp.flip(a, 0), jnp.tile(g, (5, 1_000)))[: g.shape[0], :12],)

held.defvjp(kept, turned)

class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.last = nnx.Linear(12, 3, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(12))

    def __call__(self, x):
        h = x.reshape(x.shape[0], -1) * self.scale[...]
        return self.last(held(h))
"""


def test_moving_data_is_limited_where_it_costs_no_flops() -> None:
    found = checked(MOVING, max_flops=30_000)
    assert isinstance(found, Failure) and found.rule == "traffic" and "by a training step" in found.message
    once = checked(MOVING.replace("100_000", "1"), max_flops=30_000)
    assert isinstance(once, Program)
    everywhere = checked(MOVING.replace("self.last(held(h))", "self.last(held(turned(None, h)[0]))"), max_flops=30_000)
    assert isinstance(everywhere, Failure) and "by an evaluation" in everywhere.message


ROWS, ROW = 1_000, 8 * 4


def filled(x: Any, looked: bool) -> Any:
    """A loop that fills an array row by row; each stage of it may be looked at."""

    def turn(i: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        whole, seen = state
        new = whole.at[i].set(x)
        return new, seen + whole[0, 0] if looked else seen

    return lax.fori_loop(0, ROWS, turn, (jnp.zeros((ROWS, 8)), 0.0))


def changed_in_vain(x: Any, looked: bool) -> Any:
    """A loop that changes the same array in each turn, or what it came to."""
    start = jnp.tile(x, (ROWS, 1))

    def turn(whole: Any, i: Any) -> tuple[Any, Any]:
        new = lax.dynamic_update_index_in_dim(start if looked else whole, x + i, 0, 0)
        return new, None

    return lax.scan(turn, start, jnp.arange(ROWS, dtype=jnp.float32))[0]


@pytest.mark.parametrize("program", [filled, changed_in_vain])
def test_changing_part_of_an_array_moves_the_whole_only_if_that_is_needed_still(program: Callable[..., Any]) -> None:
    def written(looked: bool) -> int:
        blob = exported(lambda x: program(x, looked), f32(8)).mlir_module_serialized
        return count(Reader(1 << 30).read(blob)).written

    assert written(False) < 10 * ROWS * ROW
    assert written(True) > ROWS * ROWS * ROW


def swapped(x: Any, turns: int) -> Any:
    return lax.fori_loop(0, turns, lambda i, state: (state[1], state[0]), (x, x + 1))


def chosen(x: Any, turns: int) -> Any:
    def turn(i: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        return lax.cond(i % 2 == 0, lambda a, b: (b, a), lambda a, b: (a, b), *state)

    return lax.fori_loop(0, turns, turn, (x, x + 1))


def looked_at(x: Any, turns: int) -> Any:
    return lax.fori_loop(0, turns, lambda i, c: lax.reduce(x, c + 1, lambda p, q: q, (0, 1)), 0.0)


def begun_again(x: Any, turns: int) -> Any:
    def turn(i: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
        inner = lax.fori_loop(0, 2, lambda j, a: a.at[0, 0].add(1.0), state[0])
        return state[0], state[1] + inner[0, 0]

    return lax.fori_loop(0, turns, turn, (x, 0.0))


def twice(x: Any, turns: int) -> Any:
    return lax.fori_loop(0, turns, lambda i, s: (jnp.reshape(s[0][:1] + x, x.shape),) * 2, (x, x))


@pytest.mark.parametrize("program", [swapped, chosen, looked_at, begun_again, twice])
def test_what_loops_and_branches_copy_and_reductions_read_is_counted(program: Callable[..., Any]) -> None:
    array = f32(1_000, 1_000)
    blob = exported(lambda x: program(x, 500), array).mlir_module_serialized
    assert count(Reader(1 << 30).read(blob)).written > 500 * array.size * 4


def test_process_that_somebody_killed_is_not_held_against_the_candidate() -> None:
    def ended(error: str) -> Failure:
        flow = admit("space", "source", {}, tag="a")
        next(flow)
        with pytest.raises(StopIteration) as stop:
            flow.send([Event(job_id="a.trace", kind="lost", error=error)])
        return stop.value.value

    assert ended("killed by SIGKILL").blame == ended("its server died").blame == "machine"
    assert ended("killed by SIGSEGV: killed by SIGKILL").blame == "candidate"
