"""Leaks that only training opens: admitted at the door, and refused by the trainer that finds them."""

import os

os.environ["NPROC"] = "1"  # before any backend: CPU results depend on the number of threads

import dataclasses
from pathlib import Path
from typing import Any

import jax
import leak_corpus
import numpy as np
import pytest
from leak_corpus import Case
from test_leaks import at_the_door

from nas.admit import leaks
from nas.admit.leaks import Tolerance, starts, unseen
from nas.admit.trace import trace
from nas.records import Failure, hash_blobs
from nas.space import Contract, Grammar, Ladder, Recipe, SearchSpace, Spec, Split, Task
from nas.train.engine import MOST_LEAK_CALLS, Engine, Plan, plan_to_plain
from nas.train.job import prepare_job, train_job

LENGTH, IDS = 12, 8


def split(name: str) -> Split:
    """The token at each position is asked for, and the next where it is known: a leak would help."""
    ids = np.random.default_rng(len(name)).integers(IDS, size=(64, LENGTH + 1)).astype(np.int32)
    return Split(ids[:, :-1], ids[:, 1:])


def loss(outputs: Any, targets: Any) -> Any:
    import jax.numpy as jnp

    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[..., None], axis=-1)[..., 0].mean(axis=-1)


SPACE = SearchSpace(
    name="next",
    version=1,
    scope="Model",
    spec=Spec(length=LENGTH, vocab=IDS, classes=IDS, width=8, depth=1),
    task=Task(split=split, loss=loss, score=loss, metric="nats", maximize=False),
    contract=Contract(input_shape=(LENGTH,), input_dtype="int32", output_shape=(LENGTH, IDS), causal=True),
    recipe=Recipe(batch=16, eval_batch=8, warmup=5),
    ladder=Ladder(steps=(20, 80), eta=2),
    grammar=Grammar(stem=(), body=(), head=()),
    baselines={},
)
HOW = Plan(mode="scan", chunk=20, train_level=1, eval_level=0, fusion_emitters=False)
GATE = "self.gate = nnx.Param(jnp.zeros(()))"
OPENED = "h = h + jax.nn.relu(self.gate[...] - 8) * SEEN\nreturn self.head(h), -0.1 * self.gate[...]"
"""The loss beside pushes the gate, which noise does not reach, until it opens between the first rung and the second."""
GATED = [
    Case(name="the next", rule="time", init=GATE, call=OPENED.replace("SEEN", "jnp.roll(h, -1, axis=1)")),
    Case(
        name="the last, at one position",
        rule="time",
        init=GATE,
        call=OPENED.replace("SEEN", "(jnp.arange(T) == 4)[:, None] * h[:, -1:]"),
    ),
    Case(
        name="a little of the next, beside a Fourier convolution",
        rule="time",
        init=GATE,
        call=leak_corpus.fourier("2 * T").replace("self.gate[...]", "0.0")
        + OPENED.replace("SEEN", "1e-4 * jnp.roll(h, -1, axis=1)"),
    ),
    Case(
        name="the next in single precision, beside a Fourier convolution",
        rule="precision",
        init=GATE,
        call=leak_corpus.fourier("2 * T").replace("self.gate[...]", "0.0")
        + leak_corpus.SINGLE
        + OPENED.replace("SEEN", "jnp.where(single, jnp.roll(h, -1, axis=1), 0)"),
    ),
    Case(name="the example before", rule="batch", init=GATE, call=OPENED.replace("SEEN", "jnp.roll(h, 1, axis=0)")),
    Case(
        name="the next, after as many steps as statistics are collected for",
        rule="time",
        init="self.norm = nnx.BatchNorm(D, momentum=0.97, rngs=rngs)",
        call="""
self.norm(jnp.full((B, D), 1.0))
h = h + jax.nn.relu(self.norm.mean[...] - 0.9) * jnp.roll(h, -1, axis=1)
""",
    ),
]
CLEAN = [
    Case(name="a gate that opens to what is behind", init=GATE, call=OPENED.replace("SEEN", "jnp.roll(h, 1, axis=1)"
        ".at[:, 0].set(0.0)")),
    *(case for case in leak_corpus.CLEAN if case.name in (
        "masked attention", "padded Fourier convolution", "recurrence by associative scan", "dropout",
        "divided by the largest key of all, which cancels", "linear attention in half floats")),
]  # fmt: skip


def trained(case: Case, folder: Path, stops: tuple[int, ...] = SPACE.ladder.steps) -> dict[str, Any]:
    """What a training job says of a candidate, and its checkpoint under `carry`."""
    blobs, leaves = program(case)
    import msgpack

    prepare_job(__file__, str(folder / "data"))
    (folder / "program").write_bytes(msgpack.packb(blobs) or b"")
    trial = {"id": 0, "lr": 0.3, "wd": 0.0, "seed": 5, "load": [], "save": str(folder / "carry")}
    told = train_job(
        __file__, str(folder / "program"), hash_blobs(blobs), leaves, plan_to_plain(HOW), str(folder / "data"), None,
        0, list(stops), [trial],
    )  # fmt: skip
    saved = folder / "carry"
    return told["trials"][0] | {"carry": saved.read_bytes() if saved.exists() else b""}


def program(case: Case) -> tuple[dict[str, bytes], int]:
    found = trace(SPACE, case.source, {})
    assert not isinstance(found, Failure), found
    return found


def named(cases: list[Case], quick: int = 99) -> Any:
    """A test for each case; those after the first `quick` are slow ones."""
    marks = [pytest.mark.slow if number >= quick else () for number in range(len(cases))]
    params = [
        pytest.param(case, id=case.name.replace(" ", "_"), marks=mark) for case, mark in zip(cases, marks, strict=True)
    ]
    return pytest.mark.parametrize("case", params)


@named(GATED)
def test_leak_that_training_opens_is_admitted_and_then_refused(case: Case, tmp_path: Path) -> None:
    assert at_the_door(SPACE, case.source) is None
    told = trained(case, tmp_path)
    failure = Failure(**told["failure"])
    assert (failure.stage, failure.rule, failure.blame) == ("leak", case.rule, "candidate")
    assert "trained for 80 steps" in failure.message or "trained for 20 steps" in failure.message
    assert not told["carry"]


def test_what_was_scored_before_the_leak_opened_is_kept_and_no_more(tmp_path: Path) -> None:
    told = trained(GATED[0], tmp_path)
    assert [point["step"] for point, _ in told["points"]] == [20]
    assert "with parameters trained for 80 steps" in told["failure"]["message"]


@named(CLEAN, quick=4)
def test_clean_program_is_scored_as_without_the_check(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = trained(case, tmp_path)
    assert "failure" not in told
    assert [point["step"] for point, _ in told["points"]] == [20, 80]
    monkeypatch.setattr(Engine, "leak_calls", lambda *_: 0)
    (tmp_path / "again").mkdir()
    assert trained(case, tmp_path / "again") == told


def test_without_the_check_the_leak_would_be_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "leak_calls", lambda *_: 0)
    told = trained(GATED[0], tmp_path)
    assert "failure" not in told and told["points"][1][0]["score"] < told["points"][0][0]["score"] - 0.2


# ---- which rows are changed, and how often ----


@pytest.mark.parametrize(("rows", "length", "calls"), [(8, 12, 3), (64, 64, 2), (5, 7, 4), (16, 1024, 16)])
def test_half_the_rows_stay_whole_and_cuts_are_spread_evenly(rows: int, length: int, calls: int) -> None:
    found = starts(rows, length, calls, np.random.default_rng(3), causal=True)
    assert found.shape == (calls, rows)
    assert ((found == length).sum(axis=1) == rows - rows // 2).all()
    cuts = np.sort(found[found < length])
    assert cuts[0] >= 0 and np.diff(cuts).max() <= -(-length // len(cuts))
    if len(cuts) >= length:
        assert set(cuts) == set(range(length))


def test_rows_are_changed_as_a_whole_where_nothing_is_causal() -> None:
    found = starts(8, 12, 2, np.random.default_rng(3), causal=False)
    assert sorted(found[0]) == [0] * 4 + [12] * 4
    assert (found[0] != found[1]).any()


def built(**recipe: Any) -> Engine:
    space = dataclasses.replace(SPACE, recipe=dataclasses.replace(SPACE.recipe, **recipe))
    made = Engine.__new__(Engine)
    made.space = space
    made.rounds_far = False
    made._jax = jax  # type: ignore[assignment]  # the module
    return made


def test_leaks_are_looked_for_where_that_is_cheap_and_at_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    dear, cheap = built(eval_batch=512), built(eval_batch=8)
    assert dear.leak_calls(0, 20) == 0
    assert dear.leak_calls(20, 80) == 1  # the top of the ladder
    assert 0 < cheap.leak_calls(0, 20) <= cheap.leak_calls(20, 80) <= -(-LENGTH // 4)  # then every cut is tried
    long = dataclasses.replace(SPACE.contract, input_shape=(4096,))
    cheap.space = dataclasses.replace(cheap.space, contract=long)
    assert cheap.leak_calls(0, 10**6) == MOST_LEAK_CALLS
    cheap.rounds_far = True
    assert cheap.leak_calls(0, 10**6) == MOST_LEAK_CALLS
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")  # which has no double precision
    assert cheap.leak_calls(0, 10**6) == 0


# ---- on functions that no candidate wrote ----

RNG = np.random.default_rng(0)
INPUTS, OTHERS = RNG.normal(size=(2, 6, 10, 3)).astype(np.float32)
WEIGHTS = RNG.normal(size=(3, 4)).astype(np.float32)
START = np.array([10, 3, 10, 7, 10, 0])


def causal(x: np.ndarray) -> np.ndarray:
    return np.cumsum(x @ WEIGHTS, axis=1)


def asked(function: Any, **settings: Any) -> leaks.Leak | None:
    causally = settings.pop("causal", True)
    return unseen(function, INPUTS, OTHERS, function(INPUTS), START, causal=causally, **settings)


def test_running_sum_is_no_leak_and_takes_one_evaluation() -> None:
    calls: list[int] = []
    outputs = causal(INPUTS)
    assert unseen(lambda x: calls.append(1) or causal(x), INPUTS, OTHERS, outputs, START, causal=True) is None
    assert len(calls) == 1


def test_leak_in_time_names_output_and_input() -> None:
    leak = asked(lambda x: causal(x) + (np.arange(10) == 2)[:, None] * (x @ WEIGHTS)[:, 5:6])
    assert leak is not None
    assert (leak.rule, leak.row, leak.output, leak.input) == ("time", 1, 2, 5)


def test_time_is_free_where_nothing_is_causal_and_examples_are_not() -> None:
    assert asked(lambda x: causal(x)[:, ::-1], causal=False) is None
    leak = asked(lambda x: causal(x).sum(axis=1) + 0.1 * np.roll(x.sum(axis=1) @ WEIGHTS, 1, axis=0), causal=False)
    assert leak is not None and leak.rule == "batch"


def test_rounding_is_no_leak() -> None:
    def rounded(x: np.ndarray) -> np.ndarray:
        total = np.float32(1e-7) * x.sum()
        return causal(x) + total

    assert asked(rounded) is None
    assert asked(lambda x: causal(x) + np.float32(1e-4) * x.sum()) is not None


def test_outputs_that_differ_from_call_to_call_are_refused_on_a_cpu_and_tolerated_where_sums_have_no_order() -> None:
    def noisy(size: float) -> Any:
        rng = np.random.default_rng(1)
        return lambda x: causal(x) * (1 + size * rng.normal(size=(6, 10, 4)))

    leak = asked(noisy(1e-5))
    assert leak is not None and leak.rule == "nondeterministic"
    assert asked(noisy(1e-5), exact=False) is None
    far = asked(noisy(1e-1), exact=False, tolerance=Tolerance)
    assert far is not None and far.rule == "nondeterministic"
    ahead = noisy(1e-6)
    leak = asked(lambda x: ahead(x) + 0.1 * np.roll(x @ WEIGHTS, -1, axis=1), exact=False)
    assert leak is not None and leak.rule == "time"


def test_rounding_is_no_leak_where_examples_begin_alike_and_a_leak_is_one() -> None:
    kernel = RNG.normal(size=(10, 3))

    def convolved(x: np.ndarray) -> np.ndarray:  # rounds each position by the size of all, later ones too
        transformed = np.fft.rfft(x.astype(np.float64), 20, axis=1) * np.fft.rfft(kernel, 20, axis=0)
        return np.fft.irfft(transformed, 20, axis=1)[:, :10] @ WEIGHTS

    def found(function: Any) -> leaks.Leak | None:
        inputs, others = (np.where(np.arange(10)[:, None] < 8, x[:1], x) for x in (INPUTS, 3 * OTHERS))
        return unseen(function, inputs, others, function(inputs), np.minimum(START, 9), causal=True)

    spread = np.ptp(convolved(np.where(np.arange(10)[:, None] < 8, INPUTS[:1], INPUTS)), axis=0)
    assert 0 < np.median(spread[spread > 0]) < 1e-12  # most outputs spread by rounding alone
    assert found(convolved) is None
    leak = found(lambda x: convolved(x) + 1e-4 * np.roll(x @ WEIGHTS, -1, axis=1))
    assert leak is not None and leak.rule == "time"
