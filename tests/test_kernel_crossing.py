"""Operations of `nas.kernels` across the wall: what is claimed is checked, what came with it never runs."""

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.extend import mlir as artifacts
from jax.interpreters import mlir

from nas import kernels
from nas.admit import gate
from nas.admit.cost import Work, count
from nas.admit.program import check
from nas.admit.stablehlo import Module, Reader, Rejected
from nas.admit.trace import trace
from nas.kernels import crossing, rms_norm, short_convolution
from nas.kernels.crossing import fill
from nas.kernels.op import signature
from nas.records import Failure, Program
from nas.space import load
from nas.train.engine import Engine, Plan

SPACE = load(str(Path(__file__).parent / "spaces" / "rings.py"))
SCAN = Plan(mode="scan", chunk=20, train_level=1, eval_level=0, fusion_emitters=False)

NAMED = '''"""Normalized short convolutions."""
from nas.api import jax, jnp, lax, nnx
from nas.kernels import rms_norm, short_convolution


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.up = nnx.Linear(1, 8, rngs=rngs)
        self.scale = nnx.Param(jnp.ones((8,)))
        self.taps = nnx.Param(0.5 * jax.random.normal(rngs.params(), (3, 8)))
        self.head = nnx.Linear(8, spec.classes, rngs=rngs)

    def __call__(self, x):
        h = self.up(x)
        h = rms_norm(h, self.scale[...], epsilon=1e-3)
        h = h + jax.nn.silu(short_convolution(h, self.taps[...]))
        return self.head(rms_norm(h, scale=self.scale).mean(axis=1))
'''
PLAIN = NAMED.replace(
    "from nas.kernels import rms_norm, short_convolution\n",
    """

def rms_norm(x, scale, epsilon=1e-6):
    root = lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)
    return x * root * scale


def short_convolution(x, weights):
    padded = jnp.pad(x, ((0, 0), (weights.shape[0] - 1, 0), (0, 0)))
    total = padded[:, weights.shape[0] - 1:] * weights[0]
    for delay in range(1, weights.shape[0]):
        total += padded[:, weights.shape[0] - 1 - delay:][:, :x.shape[1]] * weights[delay]
    return total
""",
).replace("scale=self.scale", "self.scale[...]")


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def exported(function: Callable[..., Any], *avals: Any, platform: str = "cpu") -> export.Exported:
    """As it arrives: through its bytes."""
    artifact = export.export(jax.jit(function), platforms=[platform])(*avals)
    return export.deserialize(artifact.serialize())


def forged(artifact: export.Exported, *changes: tuple[str, str]) -> export.Exported:
    """The same with parts of its text replaced, everywhere."""
    text = artifact.mlir_module()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    with mlir.make_ir_context():
        blob = artifacts.serialize_portable_artifact(mlir.ir.Module.parse(text), "1.10.0")
    return dataclasses.replace(artifact, mlir_module_serialized=blob)


def read(artifact: export.Exported) -> Module:
    return Reader(1 << 30).read(artifact.mlir_module_serialized)


def counted(artifact: export.Exported) -> Work:
    return count(read(artifact))


def arrays(artifact: export.Exported) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=aval.shape).astype(np.float32) for aval in artifact.in_avals]


def everywhere(norm: Callable[..., Any], convolution: Callable[..., Any]) -> Callable[..., Any]:
    """Operations at two shapes, in a loop, in a branch of a function, in what is rematerialized."""

    def loss(x: Any, scale: Any, taps: Any) -> Any:
        h = convolution(norm(x, scale, epsilon=1e-3), taps)
        h, _ = jax.lax.scan(lambda h, _: (h + norm(h, scale), None), h, None, length=3)
        h = jax.checkpoint(lambda h: jnp.tanh(norm(h[:, :2], scale)))(h)
        return (jax.jit(lambda h: norm(h, scale))(h) ** 3).sum()

    return loss


AVALS = (f32(2, 6, 4), f32(4), f32(3, 4))


@cache
def gradient() -> export.Exported:
    return exported(jax.grad(everywhere(rms_norm, short_convolution), (0, 1, 2)), *AVALS)


@cache
def norm() -> export.Exported:
    return exported(lambda x, scale: rms_norm(x, scale, epsilon=0.25), f32(3, 4), f32(4))


@cache
def norm_vjp() -> export.Exported:
    def backward(x: Any, scale: Any, d: Any) -> Any:
        return jax.vjp(lambda x, scale: rms_norm(x, scale, epsilon=0.25), x, scale)[1](d)

    return exported(backward, f32(3, 4), f32(4), f32(3, 4))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_fill_leaves_no_composite_and_no_decomposition(platform: str) -> None:
    honest = exported(jax.grad(everywhere(rms_norm, short_convolution), (0, 1, 2)), *AVALS, platform=platform)
    assert honest.mlir_module().count('composite "nas.') >= 8
    assert "nas." not in fill(honest, platform).mlir_module().partition("#loc")[0]


def test_filled_program_computes_the_same_as_the_references() -> None:
    filled, given = fill(gradient(), "cpu"), arrays(gradient())
    plain = everywhere(rms_norm.reference, short_convolution.reference)
    expected = jax.jit(jax.grad(plain, (0, 1, 2)))(*given)
    for one, other in zip(filled.call(*given), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_fill_without_composites_is_the_same_object() -> None:
    artifact = exported(lambda x: jax.lax.erf(x) * 2, f32(3))
    assert fill(artifact, "cpu") is artifact


def test_fill_does_not_clash_with_names_of_the_program() -> None:
    names = forged(
        norm(), ("func.func public @main", "func.func private @kernel0_main() { return }\nfunc.func public @main")
    )
    given = arrays(names)
    np.testing.assert_array_equal(fill(names, "cpu").call(*given), fill(norm(), "cpu").call(*given))


def test_fill_removes_a_composite_that_nothing_leads_to() -> None:
    call = f"%r = {CALL} : {TYPES}".replace("%arg0, %arg1", "%a, %b")
    arguments = "(%a: tensor<3x4xf32>, %b: tensor<4xf32>) -> tensor<3x4xf32>"
    body = f"func.func private @nas.rms_norm{arguments} {{ return %a : tensor<3x4xf32> }}\n"
    idle = with_call("", f"{body}func.func private @idle{arguments} {{ {call}\nreturn %r : tensor<3x4xf32> }}")
    assert set(read(idle).functions) == {"main"}
    assert "@idle" not in fill(idle, "cpu").mlir_module()


FORGERIES = {
    "another function": ("stablehlo.rsqrt", "stablehlo.tanh"),
    "another number": ("dense<2.500000e-01>", "dense<7.500000e-01>"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize("made", [norm, norm_vjp, gradient])
def test_forged_decomposition_changes_nothing(made: Callable[[], export.Exported], forgery: str) -> None:
    honest = made()
    change = FORGERIES[forgery] if made is not gradient else ("stablehlo.rsqrt", "stablehlo.tanh")
    false, given = forged(honest, change), arrays(honest)
    pairs = list(zip(jax.tree.leaves(false.call(*given)), jax.tree.leaves(honest.call(*given)), strict=True))
    assert any((one != other).any() for one, other in pairs), "the forgery is none"
    outcome = [jax.tree.leaves(fill(artifact, "cpu").call(*given)) for artifact in (false, honest)]
    for one, other in zip(*outcome, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def replace_norm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Gives the trusted side another rms_norm, for one test."""
    file = importlib.import_module("nas.kernels.rms_norm")

    def replace(**changes: Any) -> None:
        crossing._claim.cache_clear()
        monkeypatch.setattr(file, "OP", dataclasses.replace(rms_norm, **changes))

    yield replace
    crossing._claim.cache_clear()


def test_our_own_implementation_for_the_platform_runs(replace_norm: Callable[..., None]) -> None:
    """One that is told apart by its result; and the reference where it does not support the shapes."""
    replace_norm(
        fast={"cpu": lambda x, scale, *, epsilon: x + epsilon, "tpu": lambda x, scale, *, epsilon: x},
        fast_vjp={"cpu": lambda arrays, outputs, cotangents, *, epsilon: (cotangents[0] * 5, arrays[1])},
        supports=lambda platform, avals, settings: "" if avals[0].shape == (3, 4) else "not this shape",
    )
    x, scale, d = arrays(norm_vjp())
    np.testing.assert_array_equal(fill(norm(), "cpu").call(x, scale), x + np.float32(0.25))
    dx, dscale = fill(norm_vjp(), "cpu").call(x, scale, d)
    np.testing.assert_array_equal(dx, d * 5)
    np.testing.assert_array_equal(dscale, scale)
    wide = exported(lambda x, scale: rms_norm(x, scale, epsilon=0.25), f32(6, 4), f32(4))
    given = arrays(wide)
    np.testing.assert_allclose(fill(wide, "cpu").call(*given), rms_norm.direct("")(*given, epsilon=0.25), rtol=1e-6)


def test_derivative_is_that_of_the_fast_version_without_one_of_its_own(replace_norm: Callable[..., None]) -> None:
    replace_norm(fast={"cpu": lambda x, scale, *, epsilon: 3 * x + scale})
    x, scale, d = arrays(norm_vjp())
    dx, dscale = fill(norm_vjp(), "cpu").call(x, scale, d)
    np.testing.assert_allclose(dx, 3 * d, rtol=1e-6)
    np.testing.assert_allclose(dscale, d.sum(0), rtol=1e-5, atol=1e-6)


def test_implementation_of_ours_may_be_a_custom_call(replace_norm: Callable[..., None]) -> None:
    """What kernels are; this one is a library call."""
    replace_norm(fast={"cpu": lambda x, scale, *, epsilon: x + jnp.linalg.cholesky(4 * jnp.eye(4))[0, 0]})
    filled = fill(norm(), "cpu")
    assert "stablehlo.custom_call" in filled.mlir_module()
    x, scale = arrays(norm())
    np.testing.assert_allclose(filled.call(x, scale), x + 2, rtol=1e-6)


@pytest.mark.parametrize("name", kernels.OFFERED)
def test_every_offered_operation_crosses(name: str) -> None:
    """Value and derivative, at its smallest case and at one with settings of its own."""
    op = kernels.load(name)
    first = next(iter(op.cases))
    for case in {first, next((key for key, case in op.cases.items() if case.settings), first)}:
        avals, settings = op.cases[case].arrays, op.cases[case].settings
        given = [jnp.asarray(array, jnp.float32) for array in op.draw(op.cases[case], np.random.default_rng(0))]

        def both(function: Callable[..., Any], *values: Any, settings: Any = settings) -> Any:
            outputs, backward = jax.vjp(lambda *values: function(*values, **settings), *values)
            return outputs, *backward(jax.tree.map(jnp.ones_like, outputs))

        artifact = exported(partial(both, op), *avals)
        assert {claim.derivative for claim in read(artifact).claims.values()} == {False, True}
        cheaply = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
        expected = cheaply(partial(both, op.direct("cpu")))(*given)
        for one, other in zip(cheaply(fill(artifact, "cpu").call)(*given), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


ATTRIBUTES = "composite_attributes = {epsilon = 2.500000e-01 : f64}"
CALL = f'stablehlo.composite "nas.rms_norm" %arg0, %arg1 {{{ATTRIBUTES}, '
CALL += "decomposition = @nas.rms_norm, version = 1 : i32}"
TYPES = "(tensor<3x4xf32>, tensor<4xf32>) -> tensor<3x4xf32>"

NAME, NUMBER = '"nas.rms_norm"', "2.500000e-01 : f64"
REJECTIONS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "unknown composite": ("op", "nas.other is not allowed", [(NAME, '"nas.other"')]),
    "unknown derivative": ("op", "nas.other.vjp is not allowed", [(NAME, '"nas.other.vjp"')]),
    "operation for the trusted side": ("op", "is not allowed", [(NAME, '"nas.cross_entropy"')]),
    "another version": ("signature", "version is not 1", [("version = 1", "version = 2")]),
    "no version": ("signature", "version is not 1", [(", version = 1 : i32", "")]),
    "attribute of no setting": ("signature", "no setting 'power'", [("{epsilon =", "{power = 2 : i64, epsilon =")]),
    "setting left out": ("signature", "does not say what epsilon is", [(f"{ATTRIBUTES}, ", "")]),
    "setting of another kind": ("signature", "must be float", [(NUMBER, "true")]),
    "setting that is whole": ("signature", "its epsilon is whole", [(NUMBER, "1 : i64")]),
    "setting of another width": ("signature", "its epsilon is", [(NUMBER, "2.500000e-01 : f32")]),
    "setting out of range": ("signature", "between 0 and 1", [(NUMBER, "-2.500000e-01 : f64")]),
    "setting that is no number": ("signature", "between 0 and 1", [(NUMBER, "0x7FF8000000000000 : f64")]),
    "another operation": (
        "signature",
        "must be (B, T, D)",
        [(f"{ATTRIBUTES}, ", ""), (NAME, '"nas.short_convolution"')],
    ),
    "derivative": ("signature", "float32[3, 4], float32[4]; it must be", [(NAME, '"nas.rms_norm.vjp"')]),
}
"""What is changed in an honest program, and the rule and the words with which it is refused."""


@pytest.mark.parametrize("name", REJECTIONS)
def test_false_claim_is_rejected(name: str) -> None:
    rule, message, changes = REJECTIONS[name]
    with pytest.raises(Rejected) as caught:
        read(forged(norm(), *changes))
    assert caught.value.rule == rule and message in str(caught.value), str(caught.value)
    assert "; " in str(caught.value)


def with_call(call: str, decomposition: str) -> export.Exported:
    """A program of one composite, with types that the honest operation would not give."""
    text = f"""module {{
      func.func public @main(%arg0: tensor<3x4xf32>, %arg1: tensor<4xf32>) -> tensor<3x4xf32> {{
        {call}
        return %arg0 : tensor<3x4xf32>
      }}
      {decomposition}
    }}"""
    with mlir.make_ir_context():
        blob = artifacts.serialize_portable_artifact(mlir.ir.Module.parse(text), "1.10.0")
    return dataclasses.replace(norm(), mlir_module_serialized=blob)


@pytest.mark.parametrize(
    "types", ["extra operand", "operand left out", "result's shape", "result's type", "two results"]
)
def test_claim_with_other_types_is_rejected(types: str) -> None:
    x, scale = "tensor<3x4xf32>", "tensor<4xf32>"
    takes = {"extra operand": [x, scale, scale], "operand left out": [x]}.get(types, [x, scale])
    gives = {
        "result's shape": ["tensor<4x3xf32>"],
        "result's type": ["tensor<3x4xbf16>"],
        "two results": [x, x],
    }.get(types, [x])
    operands = ", ".join(["%arg0", "%arg1", "%arg1"][: len(takes)])
    arguments = ", ".join(f"%a{index}: {kind}" for index, kind in enumerate(takes))
    signature = f"({', '.join(takes)}) -> ({', '.join(gives)})"
    results = "%r" if len(gives) == 1 else f"%r:{len(gives)}"
    constants = "\n".join(f"%c{i} = stablehlo.constant dense<0.0> : {kind}" for i, kind in enumerate(gives))
    returned = f"return {', '.join(f'%c{i}' for i in range(len(gives)))} : {', '.join(gives)}"
    body = f"func.func private @nas.rms_norm({arguments}) -> ({', '.join(gives)}) {{ {constants}\n{returned} }}"
    call = CALL.replace("%arg0, %arg1", operands)
    with pytest.raises(Rejected, match="it takes|it gives|missing") as caught:
        read(with_call(f"{results} = {call} : {signature}", body))
    assert caught.value.rule == "signature"


def test_decomposition_must_be_of_allowed_operations_although_it_never_runs() -> None:
    evil = "%r = stablehlo.custom_call @evil(%a) : (tensor<3x4xf32>) -> tensor<3x4xf32>"
    body = f"func.func private @nas.rms_norm(%a: tensor<3x4xf32>, %b: tensor<4xf32>) -> tensor<3x4xf32> {{ {evil}\n"
    with pytest.raises(Rejected) as caught:
        read(with_call(f"%r = {CALL} : {TYPES}", body + "return %r : tensor<3x4xf32> }"))
    assert caught.value.rule == "custom_call"


def test_decomposition_counts_nothing_but_a_function_that_also_runs_counts() -> None:
    """It is not what costs, and a function is not hidden by being called a decomposition."""
    work = "\n".join(f"%s{i + 1} = stablehlo.sine %s{i} : tensor<3x4xf32>" for i in range(50))
    body = f"func.func private @nas.rms_norm(%s0: tensor<3x4xf32>, %b: tensor<4xf32>) -> tensor<3x4xf32> {{ {work}\n"
    body += "return %s50 : tensor<3x4xf32> }"
    call = f"%r = {CALL} : {TYPES}"
    also = f"%t = func.call @nas.rms_norm(%r, %arg1) : {TYPES}"
    honest, hidden = with_call(call, body), with_call(f"{call}\n{also}", body)
    assert set(read(honest).functions) == {"main"}
    assert set(read(hidden).functions) == {"main", "nas.rms_norm"}
    readers = [Reader(1 << 30) for _ in range(2)]
    for reader, artifact in zip(readers, (honest, hidden), strict=True):
        reader.read(artifact.mlir_module_serialized)
    assert [reader.operations for reader in readers] == [2, 2 + 1 + 51]  # a return is one


def test_main_as_its_own_decomposition_still_counts() -> None:
    itself = forged(norm(), ("decomposition = @nas.rms_norm", "decomposition = @main"))
    assert counted(itself).flops == counted(norm()).flops > 0


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_operation_costs_what_its_reference_costs_in_place(platform: str) -> None:
    named = counted(exported(everywhere(rms_norm, short_convolution), *AVALS, platform=platform))
    plain = counted(exported(everywhere(rms_norm.reference, short_convolution.reference), *AVALS, platform=platform))
    assert named.flops == plain.flops > 0
    assert named.kinds == plain.kinds


def straight(norm: Callable[..., Any], convolution: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, scale, taps: (norm(convolution(norm(x, scale, epsilon=1e-3), taps), scale) ** 3).sum()


def test_derivative_costs_what_that_of_the_reference_costs_in_place() -> None:
    """Without what it computes again: forward and backward in one module keep everything that they need."""
    named, plain = (
        counted(exported(jax.value_and_grad(straight(*each), (0, 1, 2)), *AVALS))
        for each in ((rms_norm, short_convolution), (rms_norm.reference, short_convolution.reference))
    )
    assert named.flops == plain.flops > 0
    assert named.kinds == plain.kinds


@cache
def traced(source: str) -> tuple[dict[str, bytes], int]:
    assert not gate.check(source, "Model").failures
    found = trace(SPACE, source, {})
    assert not isinstance(found, Failure), found
    return found


def checked(blobs: dict[str, bytes], leaves: int) -> Program:
    found = check(blobs, leaves, SPACE.contract, SPACE.recipe)
    assert isinstance(found, Program), found
    return found


def changed(source: str, *changes: tuple[str, str]) -> dict[str, bytes]:
    """A candidate's artifacts with parts of the text of eval, forward and backward replaced, where they occur."""
    blobs = dict(traced(source)[0])
    for name in ("eval", "forward", "backward"):
        artifact = export.deserialize(bytearray(blobs[name]))
        present = [change for change in changes if change[0] in artifact.mlir_module()]
        blobs[name] = bytes(forged(artifact, *present).serialize())
    return blobs


def test_program_with_operations_costs_the_same_as_without() -> None:
    named, plain = checked(*traced(NAMED)).cost, checked(*traced(PLAIN)).cost
    assert (named.flops, named.train_flops, named.params) == (plain.flops, plain.train_flops, plain.params)


def test_fingerprint_knows_names_and_settings_and_no_decomposition() -> None:
    blobs, leaves = traced(NAMED)
    honest = checked(blobs, leaves)
    false = checked(changed(NAMED, ("stablehlo.rsqrt", "stablehlo.tanh")), leaves)
    assert (false.fingerprint, false.cost, false.sketch) == (honest.fingerprint, honest.cost, honest.sketch)
    assert false.digest != honest.digest
    setting = checked(*traced(NAMED.replace("epsilon=1e-3", "epsilon=1e-2")))
    assert setting.fingerprint != honest.fingerprint and setting.sketch == honest.sketch
    default = checked(*traced(NAMED.replace("scale=self.scale", "self.scale, epsilon=1e-6")))
    assert default.fingerprint == honest.fingerprint
    assert checked(*traced(PLAIN)).fingerprint != honest.fingerprint


def test_sketch_tells_operations_apart() -> None:
    other = NAMED.replace("rms_norm(h, self.scale[...], epsilon=1e-3)", "short_convolution(h, self.taps[...])")
    assert checked(*traced(other)).sketch != checked(*traced(NAMED)).sketch


def engine(blobs: dict[str, bytes], leaves: int) -> Engine:
    return Engine(SPACE, blobs, leaves, SPACE.task.split("train"), SPACE.task.split("validation"), SCAN)


def trained(blobs: dict[str, bytes], leaves: int) -> tuple[list[float], tuple[float, float], list[np.ndarray]]:
    built = engine(blobs, leaves)
    start = jax.tree.map(jnp.asarray, (*built.init(3), np.uint32(0)))
    carry, losses = built.train({"lr": 0.03, "wd": 0.01, "seed": 3}, 0, 200, start)
    return losses, built.evaluate(carry), [np.asarray(leaf) for leaf in jax.tree.leaves(carry[0])]


def test_candidate_with_operations_trains_as_the_one_without() -> None:
    named, plain = trained(*traced(NAMED)), trained(*traced(PLAIN))
    np.testing.assert_allclose(named[0], plain[0], atol=1e-4)
    np.testing.assert_allclose(named[1], plain[1], atol=1e-2)
    assert named[0][-1] < named[0][0] - 0.02


def test_training_ignores_a_forged_decomposition() -> None:
    blobs, leaves = traced(NAMED)
    false = changed(NAMED, ("stablehlo.rsqrt", "stablehlo.tanh"))
    assert "stablehlo.tanh" in export.deserialize(bytearray(false["backward"])).mlir_module()
    honest, forgery = trained(blobs, leaves), trained(false, leaves)
    assert honest[:2] == forgery[:2]
    for one, other in zip(honest[2], forgery[2], strict=True):
        np.testing.assert_array_equal(one, other)


def test_engine_holds_no_composite_of_ours() -> None:
    built = engine(*traced(NAMED))
    assert not any('composite "nas.' in artifact.mlir_module() for artifact in built.artifacts.values())


def test_operation_in_the_initialiser_runs_as_ours() -> None:
    source = NAMED.replace(
        "nnx.Param(0.5 * jax.random.normal(rngs.params(), (3, 8)))",
        "nnx.Param(rms_norm(jax.random.normal(rngs.params(), (3, 8)), jnp.ones((8,))))",
    )
    blobs, leaves = traced(source)
    init = export.deserialize(bytearray(blobs["init"]))
    assert 'composite "nas.rms_norm"' in init.mlir_module()
    false = blobs | {"init": bytes(forged(init, ("stablehlo.rsqrt", "stablehlo.tanh")).serialize())}
    taps = [leaf for leaf in engine(false, leaves).init(3)[0] if leaf.shape == (3, 8)]
    assert len(taps) == 1 and np.allclose((taps[0] ** 2).mean(-1), 1, atol=1e-3)


@pytest.fixture
def fields() -> Iterator[tuple[jax.Array, jax.Array]]:
    yield jnp.arange(24.0).reshape(2, 3, 4), jnp.ones(4)


def test_derivative_of_the_derivative_is_that_of_the_reference(fields: Any) -> None:
    def steep(norm: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, scale: (jax.grad(lambda x: (norm(x, scale) ** 3).sum())(x) ** 2).sum()

    x, scale = fields
    for one, other in zip(
        jax.grad(steep(rms_norm), (0, 1))(x, scale), jax.grad(steep(rms_norm.reference), (0, 1))(x, scale), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda x, s: rms_norm(x), TypeError, "rms_norm: missing a required argument: 'scale'; it is rms_norm(x, sc"),
        (
            lambda x, s: rms_norm(x, s, eps=1),
            TypeError,
            "unexpected keyword argument 'eps'; it is rms_norm(x, scale, *",
        ),
        (lambda x, s: rms_norm(x, s[:2]), ValueError, "x is (2, 3, 4) and scale (2,); they must be (..., D) and (D,)"),
        (lambda x, s: rms_norm(x, s, epsilon="1"), ValueError, "epsilon is '1' (str); it must be float"),
        (lambda x, s: rms_norm(x, s, epsilon=None), ValueError, "epsilon is None (NoneType); it must be float"),
        (lambda x, s: rms_norm(x, s, epsilon=math.nan), ValueError, "epsilon is nan; it must lie between 0 and 1"),
        (lambda x, s: rms_norm(x.astype(int), s), ValueError, "x has dtype int32; it must be floating"),
        (lambda x, s: short_convolution(x, s), ValueError, "they must be (B, T, D), (K, D)"),
        (lambda x, s: short_convolution(x, jnp.ones((33, 4))), ValueError, "33 weights for a channel; 1 to 32"),
    ],
)
def test_bad_arguments_are_told_in_one_line(fields: Any, call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call(*fields)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_package_gives_operations_and_stays_light() -> None:
    import subprocess
    import sys

    assert kernels.load("rms_norm") is rms_norm is kernels.rms_norm
    with pytest.raises(ImportError):
        from nas.kernels import nothing  # type: ignore[attr-defined]  # noqa: F401
    script = "import sys, nas.kernels, nas.admit.gate; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_page_for_candidates_lists_the_operations_as_they_are() -> None:
    page = (Path(__file__).parent.parent / "docs" / "candidate.md").read_text("utf-8")
    stated = [line.partition("`:")[0].removeprefix("- `") for line in page.splitlines() if "`:" in line[:90]]
    calls = [f"{name}{signature(kernels.load(name).reference)}" for name in kernels.OFFERED]
    assert sorted(line for line in stated if line.partition("(")[0] in kernels.OFFERED) == sorted(calls)
