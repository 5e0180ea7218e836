"""What looks ahead or aside is refused at the door, and what only seems to is not; the programs: `leak_corpus.py`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import leak_corpus
import numpy as np
import optax
import pytest
from leak_corpus import Case

from nas.admit import Admitted, admit, drive, gate, leaks
from nas.admit.leaks import Leak, find, later
from nas.admit.program import check
from nas.admit.trace import trace
from nas.execute.local import LocalExecutor
from nas.flows import preload
from nas.records import Failure, Program, defaults
from nas.space import Contract, Grammar, Ladder, Recipe, SearchSpace, Spec, Split, Task, load

SPACES = Path(__file__).parent / "spaces"
SPACE = SearchSpace(
    name="causal",
    version=1,
    scope="Model",
    spec=Spec(length=32, vocab=16, classes=16, width=8, depth=1),
    task=Task(
        split=lambda name: Split(np.zeros((8, 32)), np.zeros((8, 32))),
        loss=lambda outputs, targets: outputs.sum(),
        score=lambda outputs, targets: outputs.sum(),
        metric="accuracy",
    ),
    contract=Contract(input_shape=(32,), input_dtype="int32", output_shape=(32, 16), causal=True),
    recipe=Recipe(batch=8, eval_batch=16),
    ladder=Ladder(steps=(10,)),
    grammar=Grammar(stem=(), body=(), head=()),
    baselines={},
)
FREE = dataclasses.replace(SPACE, contract=dataclasses.replace(SPACE.contract, causal=False))


def named(cases: list[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case.name.replace(" ", "_") for case in cases])


def at_the_door(space: SearchSpace, source: str, platform: str = "cpu", **facts: Any) -> Failure | None:
    """All that a candidate passes on its way in, in this process."""
    gated = gate.check(source, space.scope)
    assert not gated.failures
    traced = trace(space, source, defaults(gated.tunables), platform)
    assert not isinstance(traced, Failure), traced
    checked = check(*traced, space.contract, space.recipe, platform)
    assert isinstance(checked, Program), checked
    return leaks.check(space, *traced, platform, **{"flops": checked.cost.flops} | facts)


@named(leak_corpus.TIME + leak_corpus.TRAINING + leak_corpus.BATCH)
def test_leak_is_refused(case: Case) -> None:
    failure = at_the_door(SPACE, case.source)
    assert failure is not None
    assert (failure.stage, failure.rule) == ("leak", case.rule)
    assert failure.message.startswith("in training") == case.training


@named(leak_corpus.CLEAN + leak_corpus.NEGLIGIBLE)
def test_clean_program_passes(case: Case) -> None:
    assert at_the_door(SPACE, case.source) is None


def test_corpus_is_as_large_as_it_is_said_to_be() -> None:
    leaking = leak_corpus.TIME + leak_corpus.TRAINING + leak_corpus.BATCH
    cases = leaking + leak_corpus.CLEAN + leak_corpus.NEGLIGIBLE
    assert len({case.name for case in cases}) == len(cases)
    assert len(leaking) >= 90 and len(leak_corpus.CLEAN) >= 30


@pytest.mark.parametrize(
    "reference",
    [
        "mnist1d",
        *(str(SPACES / f"{name}.py") for name in ("rings", "toy_block", "toy_mixer", "toy_model", "toy_stack")),
    ],
    ids=lambda reference: Path(reference).stem,
)
def test_baselines_pass(reference: str) -> None:
    space = load(reference)
    for source in space.baselines.values():
        assert at_the_door(space, source) is None


def test_failure_says_which_position_moves_which_and_what_to_do() -> None:
    (case,) = (case for case in leak_corpus.TIME if case.name == "the next at position 19")
    failure = at_the_door(SPACE, case.source)
    assert failure is not None
    assert "the output at position 19 depends on the input at position 20" in failure.message
    assert "pad convolutions on the left" in failure.message


def test_batch_norm_passes_where_time_is_free() -> None:
    (case,) = (case for case in leak_corpus.TRAINING if case.name == "batch norm over time")
    assert at_the_door(FREE, case.source) is None


def test_later_positions_are_free_where_nothing_is_causal() -> None:
    assert at_the_door(FREE, leak_corpus.TIME[0].source) is None


def test_examples_are_alone_where_nothing_is_causal() -> None:
    failure = at_the_door(FREE, leak_corpus.BATCH[1].source)
    assert failure is not None
    assert failure.rule == "batch"


def test_outputs_that_only_seem_to_depend_on_the_input_are_refused() -> None:
    case = Case(name="nothing", init="self.bias = nnx.Param(jnp.ones((D,)))", call="h = 0.0 * h + self.bias[...]")
    failure = at_the_door(SPACE, case.source)
    assert failure is not None
    assert failure.rule == "constant"


def test_program_for_an_accelerator_is_run_here() -> None:
    clean, leaky = leak_corpus.CLEAN[0].source, leak_corpus.TIME[0].source
    assert at_the_door(SPACE, clean, "cuda") is None
    assert at_the_door(SPACE, leaky, "cuda") is not None


def test_costly_program_is_tried_at_some_cuts() -> None:
    failure = at_the_door(SPACE, leak_corpus.TIME[0].source, flops=10**12)
    assert failure is not None
    assert failure.rule == "time"


def test_effort_falls_with_the_cost_of_an_example() -> None:
    rng = np.random.default_rng(0)
    small, medium, large = (leaks._effort((16, 1024), work, rng) for work in (1e4, 1e8, 1e12))
    assert small[0] > medium[0] == large[0] == 1
    assert [len(cuts) for _, cuts in (small, medium, large)] == [1023, 1023, 16]


def test_ops_of_ours_are_tried_as_they_will_run() -> None:
    source = leak_corpus.CLEAN[0].source.replace(
        "h = h + jnp.tanh(self.dense(h))", "h = h + short_convolution(h, self.dense.kernel[...][:4])"
    )
    source = source.replace(
        "import jax, jnp, lax, nnx", "import jax, jnp, lax, nnx\nfrom nas.kernels import short_convolution"
    )
    assert at_the_door(SPACE, source) is None
    ahead = source.replace("short_convolution(h,", "short_convolution(h[:, ::-1],")
    failure = at_the_door(SPACE, ahead)
    assert failure is not None
    assert failure.rule == "time"


# ---- on functions that no candidate wrote ----

RNG = np.random.default_rng(0)
INPUTS, OTHERS = RNG.normal(size=(2, 6, 10, 3)).astype(np.float32)
WEIGHTS = RNG.normal(size=(3, 4)).astype(np.float32)


def found(function: Callable[[np.ndarray], np.ndarray], *, rows: int = 6, causal: bool = True) -> Leak | None:
    return find(function, INPUTS[:rows], OTHERS[:rows], causal=causal)


def test_running_sum_is_no_leak() -> None:
    assert found(lambda x: np.cumsum(x @ WEIGHTS, axis=1)) is None


def test_leak_names_output_input_and_rule() -> None:
    leak = found(lambda x: x @ WEIGHTS + (np.arange(10) == 4)[:, None] * np.roll(x @ WEIGHTS, -3, axis=1))
    assert leak is not None
    assert (leak.rule, leak.output, leak.input) == ("time", 4, 7)
    assert leak.moved > 0.01


def test_outputs_without_features_are_compared_by_position() -> None:
    assert found(lambda x: np.cumsum(x.sum(axis=2), axis=1)) is None
    leak = found(lambda x: np.cumsum(x.sum(axis=2)[:, ::-1], axis=1)[:, ::-1])
    assert leak is not None
    assert (leak.rule, leak.output, leak.input) == ("time", 0, 9)


def test_outputs_beyond_the_inputs_may_depend_on_all() -> None:
    def longer(x: np.ndarray) -> np.ndarray:
        outputs = np.cumsum(x @ WEIGHTS, axis=1)
        return np.concatenate([outputs, outputs[:, -1:]], axis=1)

    assert found(longer) is None
    assert found(lambda x: longer(x)[:, ::-1]) is not None


def test_outputs_that_differ_from_call_to_call_are_refused() -> None:
    rng = np.random.default_rng(1)
    leak = found(lambda x: x @ WEIGHTS + 1e-6 * rng.normal())
    assert leak is not None
    assert leak.rule == "nondeterministic"


def test_batch_of_one_cannot_mix() -> None:
    assert found(lambda x: np.cumsum(x - x.mean(axis=0) + x, axis=1), rows=1) is None


def test_infinite_outputs_are_no_leak() -> None:
    def overflowing(x: np.ndarray) -> np.ndarray:
        outputs = np.cumsum(x @ WEIGHTS, axis=1)
        outputs[:, 3:] = np.where(x[:, -1:, :1] > 0, np.nan, outputs[:, 3:])
        return outputs

    assert found(overflowing) is None


def test_infinity_that_tells_the_next_input_is_a_leak() -> None:
    def excluding(x: np.ndarray) -> np.ndarray:
        outputs = np.cumsum(x @ WEIGHTS, axis=1)
        return np.where(np.roll(x[:, :, :1], -1, axis=1) > 0, outputs, -np.inf)

    leak = found(excluding)
    assert leak is not None and leak.rule == "time"


def test_leak_behind_what_is_added_to_all_logits_is_found() -> None:
    def shifted(x: np.ndarray) -> np.ndarray:
        told = 20 * (np.roll(x[:, :, :1], -1, axis=1) > 0) * np.arange(WEIGHTS.shape[1])
        return (told + 6e7 * np.cos(17 * x[:, :, :1])).astype(np.float64)

    leak = found(shifted)
    assert leak is not None and leak.rule == "time"


def test_examples_that_depend_on_each_other_at_a_position_pass_if_they_may() -> None:
    def centred(x: np.ndarray) -> np.ndarray:
        return np.cumsum(x - x.mean(axis=0), axis=1)

    assert later(centred, INPUTS, OTHERS, mixing=True) is None
    assert later(lambda x: centred(x) + x.mean(axis=(0, 1)), INPUTS, OTHERS, mixing=True) is not None


def test_rounding_that_follows_the_row_is_no_leak() -> None:
    order = np.arange(6, dtype=np.float32)[:, None, None]
    assert found(lambda x: x @ WEIGHTS * (1 + 1e-7 * order), causal=False) is None
    assert found(lambda x: x @ WEIGHTS * (1 + 1e-1 * order), causal=False) is not None


@pytest.mark.parametrize("special", [0, 29, 63])
def test_one_row_of_a_large_batch_is_not_overlooked(special: int) -> None:
    inputs, others = RNG.normal(size=(2, 64, 10, 3)).astype(np.float32)

    def favouring(x: np.ndarray) -> np.ndarray:
        outputs = np.cumsum(x @ WEIGHTS, axis=1)
        outputs[special, 4] += x[special, 5] @ WEIGHTS
        return outputs

    leak = find(favouring, inputs, others, causal=True)
    assert leak is not None
    assert leak.rule == "batch"


def test_choice_that_rounding_turns_in_some_rows_is_no_leak() -> None:
    inputs, others = RNG.normal(size=(2, 64, 10, 3)).astype(np.float32)
    close = inputs[[7, 40], 0, 0]  # two examples whose choice is close, and turned in every other row

    def turning(x: np.ndarray) -> np.ndarray:
        turned = np.isin(x[:, 0, 0], close) & (np.arange(64) % 2 == 0)
        return x @ WEIGHTS * np.where(turned, 2.0, 1.0)[:, None, None]

    assert find(turning, inputs, others, causal=True) is None


# ---- through the executor ----


def test_flow_of_admission_ends_with_the_leak() -> None:
    reference = str(SPACES / "toy_mixer.py")
    space = load(reference)
    clean = space.baselines["convolution"]
    with LocalExecutor(workers=1, preload=preload(space)) as executor:
        assert isinstance(drive(executor, admit(reference, clean, {}, tag="clean")), Admitted)
        refused = drive(executor, admit(reference, clean.replace("CAUSAL", "SAME"), {}, tag="leaky"))
    assert isinstance(refused, Failure)
    assert (refused.stage, refused.rule) == ("leak", "time")


@pytest.mark.parametrize(("share", "worth"), [(1e-7, False), (1e-1, True)])
def test_negligible_leak_is_worth_less_than_a_millionth_of_a_nat(share: float, worth: bool) -> None:
    """Trained for the next token with a leak of this size, and with as much noise in its place, in double precision."""
    rng = np.random.default_rng(0)
    ids = rng.integers(8, size=(64, 13))

    def final_loss(leaking: bool) -> float:
        def loss(weights: tuple[jax.Array, ...], tokens: Any) -> jax.Array:
            embedding, head = weights
            h = embedding[tokens[:, :-1]]
            ahead = embedding[tokens[:, 1:]] if leaking else jnp.roll(h, 1, axis=0)  # of another example
            logits = (h + share * ahead) @ head
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1).mean()

        weights = tuple(jnp.asarray(np.random.default_rng(s).normal(size=(8, 8))) for s in (1, 2))
        optimiser = optax.adam(0.03)

        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            weights, state = carry
            updates, state = optimiser.update(jax.grad(loss)(weights, ids), state)
            return (optax.apply_updates(weights, updates), state), None

        (weights, _), _ = jax.lax.scan(step, (weights, optimiser.init(weights)), length=1000)
        return float(loss(weights, ids))

    with jax.enable_x64(True):
        gain = final_loss(False) - final_loss(True)
    assert (gain > 1e-2) if worth else (abs(gain) < 1e-6)
