"""Compiling ahead of time for a TPU that is not there: every baseline and every kernel, and what cannot be."""

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas import kernels
from nas.admit import Admitted, ahead
from nas.admit import __main__ as command
from nas.admit.__main__ import main
from nas.admit.ahead import TPUS, missing
from nas.admit.gate import check as gate
from nas.admit.program import check
from nas.admit.trace import trace
from nas.records import Failure, Program, defaults
from nas.space import Split, load, names

ROOT = Path(__file__).parents[1]
CNN = str(ROOT / "search_spaces" / "mnist1d" / "baselines" / "3_cnn.py")
ATTENTION = str(ROOT / "search_spaces" / "sequence" / "baselines" / "mixer" / "1_attention.py")


def baselines() -> Iterator[Any]:
    """Every baseline of every installed space and variant, once where several have it."""
    seen: set[str] = set()
    for space in names():
        module = importlib.import_module(f"nas.search_spaces.{space}.space")
        for reference in (space, *(f"{space}:{variant}" for variant in getattr(module, "VARIANTS", {}))):
            for name, source in load(reference).baselines.items():
                if source not in seen:
                    seen.add(source)
                    yield pytest.param(reference, name, id=f"{reference}-{name}")


def test_unknown_device_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([CNN, "--device", "tpu-v99"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tpu-v99 is not known" in line and all(name in line for name in TPUS)


def test_missing_compiler_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    command = "pip install -e '.[tpu]'"  # as in the README: the project is in no registry
    assert command in missing()
    assert "`pip install -e '.[cuda13]'` or `'.[tpu]'`" in (ROOT / "README.md").read_text("utf-8")


PART = {"compile_s": 1.0, "memory_bytes": 1 << 20}
TOLD: dict[str, tuple[dict[str, Any] | None, int, str]] = {
    "no device": (None, 0, "admitted"),
    "fits": ({"fits": True}, 0, "it fits"),
    "too large": ({"fits": False}, 1, "it does NOT fit"),
    "no program": ({"error": "error: RESOURCE_EXHAUSTED"}, 1, "does not compile: error: RESOURCE_EXHAUSTED"),
}


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("what", TOLD)
def test_exit_status_is_that_of_the_device_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, what: str, more: list[str]
) -> None:
    compiled, status, said = TOLD[what]
    if compiled is not None and "fits" in compiled:
        sizes = {"data_bytes": 1 << 19, "memory_bytes": 1 << 30, "device": "tpu-v5e"}
        compiled = {"step": PART, "evaluation": PART, **sizes, **compiled}
    numbers = dict.fromkeys(("params", "flops", "train_flops", "memory_bytes", "ops"), 1)
    facts = {"cost": numbers, "traits": [], "fingerprint": "f"}
    monkeypatch.setattr(command, "_verdict", lambda *_: (Admitted(facts=facts, blobs={}), compiled))
    monkeypatch.setattr(command, "missing", lambda: "")
    assert main([CNN, *(["--device", "tpu-v5e"] if compiled else []), *more]) == status
    printed = capsys.readouterr().out
    if more:
        assert json.loads(printed).get("compiled") == compiled
    else:
        assert said in printed and printed.splitlines()[-1].endswith("that device" if status else "admitted")
        assert ("0.5 MiB are all training examples" in printed) == ("fit" in said)


@pytest.mark.slow
def test_training_examples_count_in_the_memory_of_both_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    space, tpu = load("mnist1d"), TPUS["tpu-v5e"]
    source = space.baselines["linear"]
    found = trace(space, source, defaults(gate(source, space.scope).tunables), "tpu")
    assert not isinstance(found, Failure), found
    few = ahead.compile_job("mnist1d", *found, "tpu-v5e")
    train = space.task.split("train")
    assert few["data_bytes"] == sum(array.nbytes for array in train) and few["fits"]
    data = ahead._avals(Split(*(np.broadcast_to(array[:1], (1 << 20, *array.shape[1:])) for array in train)))
    for name, (function, avals) in ahead._programs(space, *found, data).items():
        grown = ahead._compiled(tpu, function, avals)["memory_bytes"] - few[name]["memory_bytes"]
        assert grown > 0.99 * ((1 << 20) / len(train.inputs) - 1) * few["data_bytes"]
    monkeypatch.setitem(TPUS, "tpu-v5e", tpu._replace(memory_bytes=few["data_bytes"]))
    assert not ahead.compile_job("mnist1d", *found, "tpu-v5e")["fits"]


@pytest.mark.slow
def test_command_reports_time_memory_and_whether_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([CNN, "--device", "tpu-v5e", "--json"]) == 0
    compiled = json.loads(capsys.readouterr().out)["compiled"]
    assert compiled["fits"] and compiled["memory_bytes"] == 16 << 30
    assert all(0 < compiled[name]["memory_bytes"] < 1 << 28 for name in ("step", "evaluation"))


@pytest.mark.slow
def test_transformer_of_the_size_for_accelerators_compiles_and_fits(capsys: pytest.CaptureFixture[str]) -> None:
    """In bfloat16, with splash attention, admitted as a person would: two minutes of CPU time."""
    assert main([ATTENTION, "--space", "byte_lm?size=gpu", "--device", "tpu-v5e", "--json"]) == 0
    compiled = json.loads(capsys.readouterr().out)["compiled"]
    assert compiled["fits"] and compiled["data_bytes"] == 2 * 4 * 65_536 * 1_024  # windows and what follows them
    step, evaluation = (compiled[name]["memory_bytes"] for name in ("step", "evaluation"))
    assert compiled["data_bytes"] < evaluation < step < 6 << 30


@pytest.mark.slow
@pytest.mark.parametrize(("reference", "name"), list(baselines()))
def test_every_baseline_compiles_for_a_tpu(reference: str, name: str) -> None:
    """The training step alone, which has all of the evaluation in it: recurrences take a minute of one core each."""
    space, tpu = load(reference), TPUS["tpu-v5e"]
    source = space.baselines[name]
    found = trace(space, source, defaults(gate(source, space.scope).tunables), "tpu")
    assert not isinstance(found, Failure), found
    program = check(*found, space.contract, space.recipe, "tpu")
    assert isinstance(program, Program), program
    os.environ.update(ahead.environment(tpu))
    data = ahead._avals(space.task.split("train"))
    told = ahead._compiled(tpu, *ahead._programs(space, *found, data)["step"])
    assert 0 < told["memory_bytes"] < tpu.memory_bytes


KERNELS = [
    (name, case)
    for name in kernels.NAMES
    for case in kernels.load(name).cases
    if case.startswith("gpu") and "tpu" in kernels.load(name).fast
]
"""What has a version for TPUs, at shapes for accelerators in bfloat16; the derivative of the delta rule takes longest,
45 s of CPU time."""


def test_every_kernel_with_a_version_for_tpus_is_compiled() -> None:
    assert {name for name, _ in KERNELS} == {name for name in kernels.NAMES if "tpu" in kernels.load(name).fast}


@pytest.mark.slow
@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize(("name", "case"), KERNELS)
def test_every_kernel_compiles_for_a_tpu(name: str, case: str, derivative: bool) -> None:
    os.environ.update(ahead.environment(TPUS["tpu-v5e"]))
    import jax

    op, shapes = kernels.load(name), kernels.load(name).cases[case]
    settings = op.settings(shapes.settings)
    assert not op.supports("tpu", shapes.arrays, settings)
    function, avals = op.function("tpu", shapes.arrays, settings), list(shapes.arrays)
    if derivative:
        outputs = jax.tree.leaves(jax.eval_shape(function, *avals))
        function, avals = op.derivative("tpu", shapes.arrays, settings), [*avals, *outputs, *outputs]
    told = ahead._compiled(TPUS["tpu-v5e"], function, avals)
    assert 0 < told["memory_bytes"] < TPUS["tpu-v5e"].memory_bytes
