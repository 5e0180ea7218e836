"""Compiling ahead of time for a TPU that is not there: every baseline and every kernel, and what cannot be."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas import kernels
from nas.admit.__main__ import main
from nas.admit.ahead import TPUS, compile_job, missing
from nas.admit.gate import check as gate
from nas.admit.program import check
from nas.admit.trace import trace
from nas.records import Failure, Program, defaults
from nas.space import load, names

CNN = str(Path(__file__).parents[1] / "search_spaces" / "mnist1d" / "baselines" / "3_cnn.py")


def spaces() -> Iterator[str]:
    """Every installed space and variant, those for accelerators in their own size."""
    import importlib

    for name in names():
        yield name
        module = importlib.import_module(f"nas.search_spaces.{name}.space")
        yield from (f"{name}:{variant}" for variant in getattr(module, "VARIANTS", {}))


def test_unknown_device_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([CNN, "--device", "tpu-v99"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tpu-v99 is not known" in line and all(name in line for name in TPUS)


def test_missing_compiler_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'nas-search[tpu]'" in missing()


@pytest.mark.slow
def test_command_reports_time_memory_and_whether_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([CNN, "--device", "tpu-v5e", "--json"]) == 0
    compiled = json.loads(capsys.readouterr().out)["compiled"]
    assert compiled["fits"] and compiled["memory_bytes"] == 16 << 30
    assert all(0 < compiled[name]["memory_bytes"] < 1 << 28 for name in ("step", "evaluation"))


@pytest.mark.slow
@pytest.mark.parametrize("reference", list(spaces()))
def test_every_baseline_compiles_for_a_tpu(reference: str) -> None:
    space = load(reference)
    for name, source in space.baselines.items():
        found = trace(space, source, defaults(gate(source, space.scope).tunables), "tpu")
        assert not isinstance(found, Failure), (name, found)
        program = check(*found, space.contract, space.recipe, "tpu")
        assert isinstance(program, Program), (name, program)
        told = compile_job(reference, *found, "tpu-v5e")
        assert told["fits"], (name, told)


def cases() -> Iterator[Any]:
    for op in map(kernels.load, kernels.NAMES):
        if "tpu" in op.fast:
            yield from (pytest.param(op, case, id=f"{op.name}-{name}") for name, case in op.cases.items())


@pytest.mark.slow
@pytest.mark.parametrize(("op", "case"), list(cases()))
def test_every_kernel_for_a_tpu_compiles(op: Any, case: Any) -> None:
    """Forward and backward; what the compiler refuses must be what `supports` refuses."""
    os.environ.update(TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_ACCELERATOR_TYPE="v5litepod-4")
    import jax
    from jax.experimental import topologies
    from jax.sharding import SingleDeviceSharding

    avals = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in case.arrays]
    if op.supports("tpu", avals, case.settings):
        return
    chip = SingleDeviceSharding(topologies.get_topology_desc(TPUS["tpu-v5e"].topology, platform="tpu").devices[0])

    def run(*arrays: Any) -> Any:
        return op.fast["tpu"](*arrays, **case.settings)

    traced = jax.jit(run, in_shardings=chip, out_shardings=chip).trace(*avals)
    assert traced.lower(lowering_platforms=("tpu",)).compile() is not None
