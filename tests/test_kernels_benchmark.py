"""The benchmark of the operations, and what of them shows in sizes rather than in values."""

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import kernels as benchmark
from nas import kernels
from nas.kernels.crossing import lowered
from nas.kernels.op import pullback

FEW = 64
"""Logits that may be held at a time here."""


def test_benchmark_prints_a_table_and_writes_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written, small = tmp_path / "kernels.json", {"cpu": 64}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "PRODUCT", small)
        patch.setattr(benchmark, "COPY_BYTES", small)
        options = ["--op", "linear_recurrence", "--case", "one_step", "--repeats", "2", "--seconds", "0.001"]
        assert benchmark.main([*options, "--json", str(written)]) == 0
    printed = capsys.readouterr().out
    assert "linear_recurrence one_step" in printed and max(map(len, printed.splitlines())) <= 80
    content = json.loads(written.read_text("utf-8"))
    figures = content["figures"]["linear_recurrence"]["one_step"]
    assert figures["forward"]["flops"] > 0 and figures["both"]["ratio"]["median"] > 0
    both = figures["both"]["fast"]
    for unit in ("flops", "bytes"):
        assert both[f"{unit}_per_s"] == pytest.approx(1e3 * figures["both"][unit] / both["ms"]["median"])
    assert len(figures["errors"]) == 3 and not benchmark.is_wrong(figures)  # the output and two cotangents
    assert set(content["settings"]["ceilings"]) == {"float32", "copy"}
    assert str(tmp_path) not in written.read_text("utf-8")


@pytest.mark.parametrize("broken", ["fast", "fast_vjp", "nan"])
def test_version_with_other_values_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    op = kernels.load("linear_recurrence")

    def forward(a: Any, b: Any) -> Any:
        return op.reference(a, b) * {"fast": 1.001, "nan": jnp.nan}.get(broken, 1.0)

    def backward(arrays: Any, outputs: Any, cotangents: Any) -> Any:
        one, other = pullback(op.reference, 2)(*arrays, *outputs, *cotangents)
        return one, other * (1.001 if broken == "fast_vjp" else 1.0)

    changed = dataclasses.replace(op, fast={"cpu": forward}, fast_vjp={"cpu": backward})
    monkeypatch.setattr(kernels, "load", lambda name: changed)
    monkeypatch.setattr(benchmark, "PRODUCT", {"cpu": 64})
    monkeypatch.setattr(benchmark, "COPY_BYTES", {"cpu": 64})
    options = ["--op", "linear_recurrence", "--case", "one_step", "--repeats", "1", "--seconds", "0.001"]
    assert benchmark.main([*options, "--json", str(tmp_path / "made.json")]) == 1
    captured = capsys.readouterr()
    assert "WRONG" in captured.out and "other values than the reference's: linear_recurrence one_step" in captured.err
    made = json.loads((tmp_path / "made.json").read_text("utf-8"), parse_constant=pytest.fail)
    errors = made["figures"]["linear_recurrence"]["one_step"]["errors"]
    wrong = [one["largest"] is None or one["largest"] > one["allowed"] for one in errors]
    assert wrong == [broken != "fast_vjp", False, broken == "fast_vjp"]


def test_errors_that_are_allowed_are_those_of_the_tests() -> None:
    import test_kernels

    assert benchmark.ROUNDINGS == test_kernels.C


def test_flops_and_bytes_are_those_of_the_reference() -> None:
    op = kernels.load("cross_entropy")
    arrays = op.cases["odd"].arrays  # (7, 5) times (5, 11)
    outputs = [jax.ShapeDtypeStruct((7,), "float32")]
    forward, both = (benchmark._flops(benchmark.programs(op.reference, kind), arrays, outputs) for kind in KINDS)
    product = 2 * 7 * 5 * 11
    assert product < forward < 2 * product and 3 * product < both < 5 * product
    assert benchmark._bytes("forward", arrays, outputs) == 4 * (7 * 5 + 5 * 11 + 7 + 7)


KINDS = benchmark.KINDS


def sizes(jaxpr: Any) -> Iterator[int]:
    """Numbers in each array that a program makes, those inside its loops included."""
    for equation in jaxpr.eqns:
        yield from (math.prod(variable.aval.shape) for variable in equation.outvars)
        for parameter in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


def losses(logits: int | None) -> Any:
    """Loss and cotangents as one function, by the reference or in blocks of so many logits."""
    import importlib

    file = importlib.import_module("nas.kernels.cross_entropy")

    def run(hidden: Any, head: Any, targets: Any, weights: Any) -> Any:
        if logits is None:
            return benchmark.programs(file.reference, "both")(hidden, head, targets, weights)
        loss = file._in_blocks(logits, hidden, head, targets)
        return loss, file._vjp_in_blocks(logits, (hidden, head, targets), (loss,), (weights,))

    return run


def arguments(tokens: int, symbols: int) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, symbols, tokens)
    values = rng.normal(size=(tokens, 3)), rng.normal(size=(3, symbols)), targets, rng.normal(size=tokens)
    return [jnp.asarray(value, jnp.int32 if value is targets else jnp.float32) for value in values]


@pytest.mark.parametrize("tokens", [1, 6, 23, 24])
def test_cross_entropy_in_blocks_equals_the_reference(tokens: int) -> None:
    values = arguments(tokens, 11)
    got, expected = (jax.tree.leaves(jax.jit(losses(logits))(*values)) for logits in (FEW, None))
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_cross_entropy_in_blocks_never_holds_all_logits() -> None:
    tokens, symbols = 50, 11
    values = arguments(tokens, symbols)
    assert max(sizes(jax.make_jaxpr(losses(FEW))(*values).jaxpr)) < tokens * symbols / 2
    assert max(sizes(jax.make_jaxpr(losses(None))(*values).jaxpr)) >= tokens * symbols


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", ["attention", "linear_recurrence"])
def test_kernels_lower_for_devices_that_are_not_here(name: str, platform: str) -> None:
    op, case = kernels.load(name), {"attention": "byte_lm_groups", "linear_recurrence": "gpu"}[name]
    arrays, settings = op.cases[case].arrays, op.settings(op.cases[case].settings)
    assert bool(op.supports(platform, arrays, settings)) == (name == "attention" and platform == "cuda")
    outputs = jax.eval_shape(op.reference, *arrays)
    forward = lowered(op.function(platform, arrays, settings), arrays, platform)
    backward = lowered(op.derivative(platform, arrays, settings), [*arrays, outputs, outputs], platform)
    assert min(map(len, (forward, backward))) > 1000
