"""Programs that lie, by name: what is replaced in an honest program, and the rule by which it must be refused.

Each forgery is the honest program by hand (`honest`) with one artifact replaced, by one that was exported from another
function, by one with another module inside (`forge`), or by one that declares something else (`declaring`).
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax._src.core import MemorySpace
from jax.extend import mlir as artifacts
from jax.interpreters import mlir


def f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


SEED = jax.ShapeDtypeStruct((), jnp.uint32)


def exported(
    function: Callable[..., Any], *avals: Any, platforms: Sequence[str] = ("cpu",), disabled: Any = ()
) -> export.Exported:
    return export.export(jax.jit(function), platforms=platforms, disabled_checks=disabled)(*avals)


@cache
def honest() -> dict[str, export.Exported]:
    """A linear layer, written against the ABI by hand."""
    return (
        starting(lambda seed: (jax.random.normal(jax.random.key(seed), (4, 3)),))
        | evaluating(lambda w, x: x @ w)
        | forward(lambda w, x, seed: (x @ w, jnp.float32(0), x))
        | backward(lambda x, d_output, d_auxiliary: (x.T @ d_output,))
    )


def serialized(**replaced: export.Exported) -> dict[str, bytes]:
    """The bytes of the honest program, with some of its artifacts replaced."""
    return {name: bytes(artifact.serialize()) for name, artifact in (honest() | replaced).items()}


def written(statements: str, rest: str = "", replace: Sequence[tuple[str, str]] = ()) -> str:
    """A module whose main takes weights %w and inputs %x and returns %y."""
    text = (
        "module { func.func public @main(%w: tensor<4x3xf32>, %x: tensor<4x4xf32>) -> tensor<4x3xf32> {\n"
        "%h = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : "
        "(tensor<4x4xf32>, tensor<4x3xf32>) -> tensor<4x3xf32>\n"
        f"{statements}\nreturn %y : tensor<4x3xf32> }}\n{rest} }}"
    )
    for old, new in replace:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def forge(statements: str, rest: str = "", **changes: Any) -> dict[str, export.Exported]:
    """The honest eval artifact with another module inside."""
    text = written(statements, rest, changes.pop("replace", ()))
    with mlir.make_ir_context():
        changes["mlir_module_serialized"] = artifacts.serialize_portable_artifact(mlir.ir.Module.parse(text), "1.10.0")
    return {"eval": dataclasses.replace(honest()["eval"], **changes)}


SAME = "(tensor<4x3xf32>) -> tensor<4x3xf32>"
COPY = "%y = stablehlo.add %h, %h : tensor<4x3xf32>"


def function(name: str, statements: str) -> str:
    """A private function from %a to %r."""
    head = f"func.func private @{name}(%a: tensor<4x3xf32>) -> tensor<4x3xf32>"
    return f"{head} {{\n{statements}\nreturn %r : tensor<4x3xf32> }}\n"


def loop(test: str, step: str, counter: str = "i32", last: int = 126, **changes: Any) -> dict[str, export.Exported]:
    """A loop over the counter %i with the bound %n: while `test`, then (%i, %n) are what `step` says."""
    kinds = f"tensor<{counter}>, tensor<{counter}>, tensor<4x3xf32>"
    following, bound = step.split("; ")
    return forge(
        f"""
        %zero = stablehlo.constant dense<0> : tensor<{counter}>
        %one = stablehlo.constant dense<1> : tensor<{counter}>
        %two = stablehlo.constant dense<2> : tensor<{counter}>
        %last = stablehlo.constant dense<{last}> : tensor<{counter}>
        %r:3 = stablehlo.while(%i = %zero, %n = %last, %g = %h) : {kinds}
        cond {{
          %go = stablehlo.compare {test} : (tensor<{counter}>, tensor<{counter}>) -> tensor<i1>
          stablehlo.return %go : tensor<i1>
        }} do {{
          %twice = stablehlo.add %g, %g : tensor<4x3xf32>
          %twice_i = stablehlo.add %i, %i : tensor<{counter}>
          %j = stablehlo.add {following} : tensor<{counter}>
          %m = stablehlo.add {bound} : tensor<{counter}>
          stablehlo.return %j, {"%m" if bound != "%n, %n" else "%n"}, %twice : {kinds}
        }}
        %y = stablehlo.add %r#2, %r#2 : tensor<4x3xf32>""",
        **changes,
    )


def bomb(levels: int) -> Callable[..., Any]:
    """A function that calls the one below it twice, and so on."""
    inner: Callable[..., Any] = jnp.sin
    for _ in range(levels):
        inner = (lambda once: lambda h: once(h) + once(h * 1.5))(jax.jit(inner))
    return lambda w, x: inner(x @ w)


def repeated(times: int, inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda h: lax.fori_loop(0, times, lambda _, g: inner(g), h)


def evaluating(function: Callable[..., Any], **options: Any) -> dict[str, export.Exported]:
    return {"eval": exported(lambda params, state, x: function(*params, x), (f32(4, 3),), (), f32(4, 4), **options)}


def after(function: Callable[[Any], Any]) -> dict[str, export.Exported]:
    """Eval that applies a function to the honest outputs."""
    return evaluating(lambda w, x: function(x @ w))


def declaring(artifact: str = "eval", **changes: Any) -> dict[str, export.Exported]:
    return {artifact: dataclasses.replace(honest()[artifact], **changes)}


def resized(artifact: str, avals: str, place: int, shape: tuple[int, ...]) -> dict[str, export.Exported]:
    """An artifact that declares another shape for an argument or a result."""
    known = list(getattr(honest()[artifact], avals))
    known[place] = known[place].update(shape=shape)
    return declaring(artifact, **{avals: tuple(known)})


def elsewhere(avals: str, memory: Any) -> dict[str, export.Exported]:
    known = getattr(honest()["eval"], avals)
    return declaring("eval", **{avals: tuple(aval.update(memory_space=memory) for aval in known)})


def as_text(statements: str, rest: str = "") -> dict[str, export.Exported]:
    """What cannot be parsed, and so not be made portable: the reader takes text, too."""
    return declaring(mlir_module_serialized=written(statements, rest).encode())


def forge_same(rest: str = "", **changes: Any) -> dict[str, export.Exported]:
    """The honest program, in a module of ours."""
    names = [("%h = ", "%y = "), *changes.pop("replace", ())]
    return forge("", rest, replace=names, **changes)


def padded(low: int) -> dict[str, export.Exported]:
    """Padding on one side that is taken away on the other."""
    return forge(f"""
        %zero = stablehlo.constant dense<0.0> : tensor<f32>
        %p = stablehlo.pad %h, %zero, low = [0, {low}], high = [0, {-low}], interior = [0, 0] :
          (tensor<4x3xf32>, tensor<f32>) -> tensor<4x3xf32>
        %y = stablehlo.add %h, %p : tensor<4x3xf32>""")


def composite_bomb(levels: int = 30) -> dict[str, export.Exported]:
    """Composites, each of which says that it decomposes into two of the one below."""

    def once(result: str, operand: str, level: int) -> str:
        return f'%{result} = stablehlo.composite "chlo.erf" %{operand} {{decomposition = @d{level}}} : {SAME}\n'

    functions = [function("d0", "%r = stablehlo.add %a, %a : tensor<4x3xf32>")]
    functions += [function(f"d{n}", once("b", "a", n - 1) + once("r", "b", n - 1)) for n in range(1, levels)]
    return forge(once("y", "h", levels - 1), "".join(functions))


def draw(seed: Any) -> Any:
    return jax.random.normal(jax.random.key(seed), (4, 3))


def endless(h: Any) -> Any:
    return lax.while_loop(lambda g: g.sum() < 1e30, lambda g: g + 1, h)


CALLBACK = "xla_ffi_python_cpu_callback"


def callback() -> export.Exported:
    def call(w: Any, x: Any) -> Any:
        return x @ w + jnp.asarray(jax.ffi.ffi_call(CALLBACK, f32(4, 3))(w, index=np.uint64(0)))

    return evaluating(call, disabled=[export.DisabledSafetyCheck.custom_call(CALLBACK)])["eval"]


def starting(function: Callable[..., Any], *more: Any) -> dict[str, export.Exported]:
    """Init; all that the function returns are parameters, but for what comes after the first."""

    def init(seed: Any, *rest: Any) -> Any:
        leaves = function(seed, *rest)
        return leaves[:1], leaves[1:]

    return {"init": exported(init, SEED, *more)}


def forward(function: Callable[..., Any]) -> dict[str, export.Exported]:
    def ahead(params: Any, state: Any, x: Any, seed: Any) -> Any:
        output, auxiliary, *residuals = function(*params, x, seed)
        return output, auxiliary, (), tuple(residuals)

    return {"forward": exported(ahead, (f32(4, 3),), (), f32(2, 4), SEED)}


def backward(function: Callable[..., Any]) -> dict[str, export.Exported]:
    return {"backward": exported(lambda kept, *rest: function(*kept, *rest), (f32(2, 4),), f32(2, 3), f32())}


ATTACKS: dict[str, tuple[str, Callable[[], dict[str, export.Exported]]]] = {
    "callback": ("malformed", lambda: {"eval": callback()}),
    "callback whose flag is hidden": (
        "custom_call",
        lambda: {"eval": dataclasses.replace(callback(), disabled_safety_checks=())},
    ),
    "callback of the old kind": (
        "custom_call",
        lambda: forge(
            '%y = stablehlo.custom_call @xla_python_cpu_callback(%h) {backend_config = "94000000000000", '
            f"api_version = 2 : i32}} : {SAME}"
        ),
    ),
    "linear algebra": ("custom_call", lambda: evaluating(lambda w, x: jnp.linalg.cholesky(x) @ w)),
    "eigenvectors": ("custom_call", lambda: evaluating(lambda w, x: jnp.linalg.eigh(x)[1] @ w)),
    "custom call that nobody calls": (
        "custom_call",
        lambda: forge(COPY, function("idle", f"%r = stablehlo.custom_call @evil(%a) : {SAME}")),
    ),
    "custom call inside a reduction": (
        "custom_call",
        lambda: forge("""
            %zero = stablehlo.constant dense<0.0> : tensor<f32>
            %s = "stablehlo.reduce"(%h, %zero) <{dimensions = array<i64: 1>}> ({
              ^bb0(%a: tensor<f32>, %b: tensor<f32>):
                %c = stablehlo.custom_call @evil(%a, %b) : (tensor<f32>, tensor<f32>) -> tensor<f32>
                stablehlo.return %c : tensor<f32>
            }) : (tensor<4x3xf32>, tensor<f32>) -> tensor<4xf32>
            %y = stablehlo.broadcast_in_dim %s, dims = [0] : (tensor<4xf32>) -> tensor<4x3xf32>"""),
    ),
    "feed in": (
        "op",
        lambda: forge("""
            %t = stablehlo.create_token : !stablehlo.token
            %y, %u = "stablehlo.infeed"(%t) {infeed_config = "", layout = [[0, 1]]} :
              (!stablehlo.token) -> (tensor<4x3xf32>, !stablehlo.token)"""),
    ),
    "feed out": (
        "op",
        lambda: forge(
            COPY
            + """
            %t = stablehlo.create_token : !stablehlo.token
            %u = "stablehlo.outfeed"(%y, %t) {outfeed_config = ""} :
              (tensor<4x3xf32>, !stablehlo.token) -> !stablehlo.token"""
        ),
    ),
    "place among devices": (
        "op",
        lambda: forge("""
            %p = stablehlo.partition_id : tensor<ui32>
            %f = stablehlo.convert %p : (tensor<ui32>) -> tensor<f32>
            %b = stablehlo.broadcast_in_dim %f, dims = [] : (tensor<f32>) -> tensor<4x3xf32>
            %y = stablehlo.add %h, %b : tensor<4x3xf32>"""),
    ),
    "sum over devices": (
        "op",
        lambda: forge(
            """%y = "stablehlo.all_reduce"(%h) ({
              ^bb0(%a: tensor<f32>, %b: tensor<f32>):
                %c = stablehlo.add %a, %b : tensor<f32>
                stablehlo.return %c : tensor<f32>
            }) {replica_groups = dense<0> : tensor<1x1xi64>} : """
            + SAME
        ),
    ),
    "random numbers with a memory": ("op", lambda: after(lambda h: h + lax.rng_uniform(0.0, 1.0, (4, 3)))),
    "composite of its own": ("op", lambda: after(lambda h: lax.composite(lambda g: g * 2, "my.own")(h))),
    "double precision": (
        "op",
        lambda: forge("""
            %d = stablehlo.convert %h : (tensor<4x3xf32>) -> tensor<4x3xf64>
            %y = stablehlo.convert %d : (tensor<4x3xf64>) -> tensor<4x3xf32>"""),
    ),
    "frontend attributes": (
        "attribute",
        lambda: forge(
            '%y = stablehlo.add %h, %h {mhlo.frontend_attributes = {_xla_compute_type = "host"}} : tensor<4x3xf32>'
        ),
    ),
    "argument given away": (
        "attribute",
        lambda: forge(COPY, replace=[("%w: tensor<4x3xf32>", "%w: tensor<4x3xf32> {tf.aliasing_output = 0 : i32}")]),
    ),
    "mesh with devices": (
        "attribute",
        lambda: forge(COPY, replace=[("module {", 'module { sdy.mesh @m = <["a"=2]>\n')]),
    ),
    "layout over devices": (
        "attribute",
        lambda: forge('%y = sdy.sharding_constraint %h <mesh<["a"=2]>, [{"a"}, {}]> : tensor<4x3xf32>'),
    ),
    "recursion": (
        "calls",
        lambda: forge(f"%y = func.call @f(%h) : {SAME}", function("f", f"%r = func.call @f(%a) : {SAME}")),
    ),
    "recursion that nobody calls": (
        "calls",
        lambda: forge(
            COPY,
            function("f", f"%r = func.call @g(%a) : {SAME}") + function("g", f"%r = func.call @f(%a) : {SAME}"),
        ),
    ),
    "calls that double at each level": ("ops", lambda: evaluating(bomb(20))),
    "branches nested too deep": (
        "depth",
        lambda: forge(
            "%p = stablehlo.constant dense<true> : tensor<i1>\n"
            + '%y = "stablehlo.if"(%p) ({\n' * 30
            + "stablehlo.return %h : tensor<4x3xf32>\n"
            + "}, { stablehlo.return %h : tensor<4x3xf32> }) : (tensor<i1>) -> tensor<4x3xf32>\n"
            + (
                "stablehlo.return %y : tensor<4x3xf32>\n"
                + "}, { stablehlo.return %h : tensor<4x3xf32> }) : (tensor<i1>) -> tensor<4x3xf32>\n"
            )
            * 29
        ),
    ),
    "loop without end": ("loop", lambda: after(lambda h: lax.while_loop(lambda g: True, lambda g: g + 1, h))),
    "loop that depends on data": (
        "loop",
        lambda: after(lambda h: lax.while_loop(lambda g: g.sum() < 1e30, lambda g: g + 1, h)),
    ),
    "loop whose counter wraps around": ("loop", lambda: loop("LT, %i, %n", "%i, %two; %n, %n", "i8", 127)),
    "loop whose counter stands still": ("ops", lambda: loop("LT, %i, %n", "%i, %zero; %n, %n")),
    "loop whose bound moves": ("loop", lambda: loop("LT, %i, %n", "%i, %one; %n, %one")),
    "loop that counts something else": ("loop", lambda: loop("LT, %i, %n", "%one, %one; %n, %n")),
    "loop that ends on equality": ("loop", lambda: loop("NE, %i, %n", "%i, %one; %n, %n")),
    "loop of a billion": ("ops", lambda: after(repeated(10**9, lambda h: h + 1))),
    "loops in loops": ("ops", lambda: after(repeated(10**4, repeated(10**4, lambda h: h + 1)))),
    "array of 100 GB": ("memory", lambda: after(lambda h: h + jnp.ones((160_000, 160_000)).sum())),
    "constant of 5 MB": (
        "constant",
        lambda: after(lambda h: h + (h[0, 0] * np.arange(1_250_000, dtype=np.float32))[:3]),
    ),
    "constant outside the program": (
        "constant",
        lambda: declaring(
            mlir_module_serialized=b"""module {
              func.func public @main(%w: tensor<4x3xf32>, %x: tensor<4x4xf32>) -> tensor<4x3xf32> {
                %c = stablehlo.constant dense_resource<blob> : tensor<4x3xf32>
                %y = stablehlo.add %w, %c : tensor<4x3xf32>
                return %y : tensor<4x3xf32> } }"""
        ),
    ),
    "wrong shape": ("signature", lambda: after(lambda h: h[:, :2])),
    "wrong dtype": ("signature", lambda: after(lambda h: h.astype(jnp.bfloat16))),
    "one result too many": ("signature", lambda: after(lambda h: (h, h))),
    "one argument too many": (
        "signature",
        lambda: {"eval": exported(lambda w, s, x, z: x @ w[0] + z, (f32(4, 3),), (), f32(4, 4), f32())},
    ),
    "unknown batch size": (
        "signature",
        lambda: {
            "eval": exported(
                lambda w, state, x: x @ w[0],
                (f32(4, 3),),
                (),
                jax.ShapeDtypeStruct(export.symbolic_shape("b, 4"), jnp.float32),
            )
        },
    ),
    "main returns another type": (
        "signature",
        lambda: forge(
            "%y = stablehlo.slice %h [0:2, 0:3] : (tensor<4x3xf32>) -> tensor<2x3xf32>",
            replace=[
                ("return %y : tensor<4x3xf32>", "return %y : tensor<2x3xf32>"),
                (") -> tensor<4x3xf32> {", ") -> tensor<2x3xf32> {"),
            ],
        ),
    ),
    "main returns one more": (
        "signature",
        lambda: forge(
            COPY,
            replace=[
                ("return %y : tensor<4x3xf32>", "return %y, %y : tensor<4x3xf32>, tensor<4x3xf32>"),
                (") -> tensor<4x3xf32> {", ") -> (tensor<4x3xf32>, tensor<4x3xf32>) {"),
            ],
        ),
    ),
    "no main": ("malformed", lambda: forge(COPY, replace=[("@main", "@other")])),
    "kept arguments out of order": ("signature", lambda: declaring(module_kept_var_idx=(1, 0))),
    "kept argument that does not exist": ("signature", lambda: declaring(module_kept_var_idx=(0, 7))),
    "other platform": ("platform", lambda: evaluating(lambda w, x: x @ w, platforms=["tpu"])),
    "several platforms": ("platform", lambda: evaluating(lambda w, x: x @ w, platforms=["cpu", "cuda"])),
    "several devices": ("malformed", lambda: declaring(nr_devices=2)),
    "whole numbers for parameters": (
        "signature",
        lambda: starting(lambda seed: (jnp.zeros((4, 3), jnp.int32) + seed.astype(jnp.int32),)),
    ),
    "init with an argument of its own": (
        "signature",
        lambda: starting(lambda seed, x: (jnp.zeros((4, 3)) + x,), f32()),
    ),
    "random key as state": (
        "signature",
        lambda: starting(lambda seed: (jnp.zeros((4, 3)), jax.random.key(seed))),
    ),
    "residuals that backward does not take": (
        "signature",
        lambda: forward(lambda w, x, seed: (x @ w, jnp.float32(0), x[:1])),
    ),
    "auxiliary loss with a shape": ("signature", lambda: forward(lambda w, x, seed: (x @ w, jnp.zeros(3), x))),
    "gradient of another shape": ("signature", lambda: backward(lambda x, d, a: ((x.T @ d).T,))),
    "outputs without the input": (
        "input",
        lambda: evaluating(lambda w, x: jnp.tile(w[:1], (4, 1)) + jnp.zeros_like(x[:, :3])),
    ),
    "gradient of nothing": ("gradient", lambda: backward(lambda x, d, a: (jnp.zeros((4, 3)) + x.sum(),))),
    # What an artifact declares of itself.
    "arguments grouped otherwise": ("signature", lambda: declaring(in_tree=jax.tree.structure(((0, 0), {})))),
    "arguments by name": ("signature", lambda: declaring(in_tree=jax.tree.structure(((), {"a": 0, "b": 0})))),
    "results in a list": ("signature", lambda: declaring(out_tree=jax.tree.structure([0]))),
    "results in a dictionary": ("signature", lambda: declaring(out_tree=jax.tree.structure({"argmax": 0}))),
    "state among the results is a residual": (
        "signature",
        lambda: declaring("forward", out_tree=jax.tree.structure((0, 0, (0,), ()))),
    ),
    "tree with more leaves than results": ("malformed", lambda: declaring(out_tree=jax.tree.structure((0, 0)))),
    "way of calling that is to come": ("malformed", lambda: declaring(calling_convention_version=99)),
    "way of calling that was": ("malformed", lambda: declaring(calling_convention_version=1)),
    "sizes that are said to be unknown": ("malformed", lambda: declaring(uses_global_constants=True)),
    "platform that is not to be checked": (
        "malformed",
        lambda: declaring(disabled_safety_checks=(export.DisabledSafetyCheck.platform(),)),
    ),
    "results in the memory of the host": ("signature", lambda: elsewhere("out_avals", MemorySpace.Host)),
    "arguments in any memory": ("signature", lambda: elsewhere("in_avals", MemorySpace.Any)),
    "argument kept twice": ("signature", lambda: declaring(module_kept_var_idx=(0, 0))),
    "argument left out": ("signature", lambda: declaring(module_kept_var_idx=(0,))),
    "argument of another shape": ("signature", lambda: resized("eval", "in_avals", 0, (5, 3))),
    "result of another shape": ("signature", lambda: resized("eval", "out_avals", 0, (4, 4))),
    "parameter of another shape": ("signature", lambda: resized("init", "out_avals", 0, (3, 4))),
    "residual of another shape": ("signature", lambda: resized("forward", "out_avals", 2, (2, 5))),
    "gradient that is declared otherwise": ("signature", lambda: resized("backward", "out_avals", 0, (12,))),
    "no platform": ("platform", lambda: declaring(platforms=())),
    "platform without a name": ("platform", lambda: declaring(platforms=("",))),
    "no devices": ("malformed", lambda: declaring(nr_devices=0)),
    # Each artifact in turn.
    "linear algebra in init": ("custom_call", lambda: starting(lambda s: (jnp.linalg.qr(draw(s))[0] @ jnp.eye(3),))),
    "linear algebra in forward": (
        "custom_call",
        lambda: forward(lambda w, x, seed: (x @ w + jnp.linalg.eigvalsh(x @ x.T)[:, None], jnp.float32(0), x)),
    ),
    "linear algebra in backward": (
        "custom_call",
        lambda: backward(lambda x, d, a: (x.T @ d + jnp.linalg.cholesky(x @ x.T)[0, 0],)),
    ),
    "endless loop in init": ("loop", lambda: starting(lambda s: (endless(draw(s)),))),
    "endless loop in forward": ("loop", lambda: forward(lambda w, x, seed: (endless(x @ w), jnp.float32(0), x))),
    "endless loop in backward": ("loop", lambda: backward(lambda x, d, a: (endless(x.T @ d),))),
    "endless loop that no result needs": (
        "loop",
        lambda: backward(lambda x, d, a: (x.T @ d + 0 * endless(x).sum(),)),
    ),
    "other batch in forward": (
        "signature",
        lambda: {
            "forward": exported(
                lambda w, s, x, seed: (x @ w[0], jnp.float32(0), (), (x,)), (f32(4, 3),), (), f32(4, 4), SEED
            )
        },
    ),
    "seed of another type in init": (
        "signature",
        lambda: {"init": exported(lambda seed: ((jnp.zeros((4, 3)) + seed,), ()), jax.ShapeDtypeStruct((), "int32"))},
    ),
    "state that forward does not return": (
        "signature",
        lambda: starting(lambda seed: (draw(seed), jnp.zeros(3))),
    ),
    "no gradient at all": ("signature", lambda: backward(lambda x, d, a: ())),
    "gradient of another type": ("signature", lambda: backward(lambda x, d, a: ((x.T @ d).astype(jnp.bfloat16),))),
    "auxiliary loss that is whole": ("signature", lambda: forward(lambda w, x, seed: (x @ w, jnp.int32(0), x))),
    "outputs and auxiliary loss exchanged": (
        "signature",
        lambda: forward(lambda w, x, seed: (jnp.float32(0), x @ w, x)),
    ),
    # Composites: their names are believed, so what they bring must be what the name says.
    "composite with a product inside": (
        "op",
        lambda: forge(
            f'%y = stablehlo.composite "chlo.erf" %h {{decomposition = @d, version = 1 : i32}} : {SAME}',
            function(
                "d",
                "%t = stablehlo.transpose %a, dims = [1, 0] : (tensor<4x3xf32>) -> tensor<3x4xf32>\n"
                "%s = stablehlo.dot_general %a, %t, contracting_dims = [1] x [0] : "
                "(tensor<4x3xf32>, tensor<3x4xf32>) -> tensor<4x4xf32>\n"
                "%r = stablehlo.slice %s [0:4, 0:3] : (tensor<4x4xf32>) -> tensor<4x3xf32>",
            ),
        ),
    ),
    "composite of nothing": (
        "op",
        lambda: forge(
            f'%y = stablehlo.composite "chlo.sinh" %h {{decomposition = @d, version = 1 : i32}} : {SAME}',
            function("d", "%r = stablehlo.add %a, %a : tensor<4x3xf32>"),
        ),
    ),
    "composite that decomposes into itself": (
        "op",
        lambda: forge(
            f'%y = stablehlo.composite "chlo.erf" %h {{decomposition = @d}} : {SAME}',
            function("d", f'%r = stablehlo.composite "chlo.erf" %a {{decomposition = @d}} : {SAME}'),
        ),
    ),
    "composites that double at each level": ("op", composite_bomb),
    "composite with too few operands": (
        "op",
        lambda: forge(
            f'%y = stablehlo.composite "chlo.zeta" %h {{decomposition = @d}} : {SAME}',
            function("d", "%r = stablehlo.add %a, %a : tensor<4x3xf32>"),
        ),
    ),
    "composite with settings that it has not": (
        "op",
        lambda: forge(
            '%y = stablehlo.composite "chlo.erf" %h '
            f"{{decomposition = @d, composite_attributes = {{exact = true}}}} : {SAME}",
            function("d", "%r = stablehlo.add %a, %a : tensor<4x3xf32>"),
        ),
    ),
    "composite of ours with another version": (
        "signature",
        lambda: forge(
            f'%y = stablehlo.composite "nas.rms_norm" %h {{decomposition = @d, version = 999 : i32}} : {SAME}',
            function("d", "%r = stablehlo.add %a, %a : tensor<4x3xf32>"),
        ),
    ),
    "composite of ours that is none": (
        "op",
        lambda: forge(
            f'%y = stablehlo.composite "nas.score" %h {{decomposition = @d}} : {SAME}',
            function("d", "%r = stablehlo.add %a, %a : tensor<4x3xf32>"),
        ),
    ),
    # Loops.
    "loop that compares without sign": ("loop", lambda: loop("LT, %i, %n, UNSIGNED", "%i, %one; %n, %n", "i8", -56)),
    "loop that compares as floats do": ("loop", lambda: loop("LT, %i, %n, TOTALORDER", "%i, %one; %n, %n")),
    "loop that counts down": ("loop", lambda: loop("GT, %i, %n", "%i, %one; %n, %n", last=-9)),
    "loop with a step below zero": ("ops", lambda: loop("LT, %i, %n", "%i, %last; %n, %n", last=-9)),
    "loop that tests the bound": ("loop", lambda: loop("LT, %n, %i", "%i, %one; %n, %n")),
    "loop whose counter doubles": ("loop", lambda: loop("LT, %i, %n", "%twice_i, %zero; %n, %n")),
    "loop to the end of its type": ("loop", lambda: loop("LT, %i, %n", "%i, %two; %n, %n", "i32", 2**31 - 1)),
    "loop of 2^64": ("ops", lambda: loop("LT, %i, %n", "%i, %one; %n, %n", "ui64", 2**64 - 1)),
    "loop that counts in floats": (
        "loop",
        lambda: after(lambda h: lax.while_loop(lambda c: c[0] < 9.0, lambda c: (c[0] + 1.0, c[1] + 1), (0.0, h))[1]),
    ),
    "loop to a bound of the data": (
        "loop",
        lambda: after(lambda h: lax.fori_loop(0, h[0, 0].astype(int), lambda _, g: g + 1, h)),
    ),
    "loop inside a sort": (
        "op",
        lambda: forge(
            """
            %y = "stablehlo.sort"(%h) <{dimension = 1 : i64, is_stable = true}> ({
              ^bb0(%a: tensor<f32>, %b: tensor<f32>):
                %p = stablehlo.constant dense<true> : tensor<i1>
                %c = "stablehlo.if"(%p) ({
                  %d = "stablehlo.if"(%p) ({ stablehlo.return %a : tensor<f32> }, { stablehlo.return %b : tensor<f32> })
                    : (tensor<i1>) -> tensor<f32>
                  stablehlo.return %d : tensor<f32> }, { stablehlo.return %b : tensor<f32> })
                  : (tensor<i1>) -> tensor<f32>
                %g = stablehlo.compare LT, %c, %b : (tensor<f32>, tensor<f32>) -> tensor<i1>
                stablehlo.return %g : tensor<i1>
            }) : """
            + SAME
        ),
    ),
    # Sizes.
    "padding that overflows": ("shape", lambda: padded(2**63 - 4)),
    "padding that is cut off again": ("memory", lambda: padded(10**9)),
    "window of a trillion": (
        "shape",
        lambda: forge("""
            %zero = stablehlo.constant dense<0.0> : tensor<f32>
            %y = "stablehlo.reduce_window"(%h, %zero) <{window_dimensions = array<i64: 1, 1000000000001>,
              padding = dense<[[0, 0], [500000000000, 500000000000]]> : tensor<2x2xi64>}> ({
              ^bb0(%a: tensor<f32>, %b: tensor<f32>):
                %c = stablehlo.add %a, %b : tensor<f32>
                stablehlo.return %c : tensor<f32>
            }) : (tensor<4x3xf32>, tensor<f32>) -> tensor<4x3xf32>"""),
    ),
    "array without elements and without end": (
        "memory",
        lambda: forge("""
            %zero = stablehlo.constant dense<0.0> : tensor<f32>
            %z = stablehlo.broadcast_in_dim %h, dims = [1, 2] :
              (tensor<4x3xf32>) -> tensor<0x4x3x4611686018427387904xf32>
            %s = stablehlo.reduce(%z init: %zero) applies stablehlo.add across dimensions = [0, 3] :
              (tensor<0x4x3x4611686018427387904xf32>, tensor<f32>) -> tensor<4x3xf32>
            %y = stablehlo.add %h, %s : tensor<4x3xf32>"""),
    ),
    "numbers of four bits that do not fit": (
        "op",
        lambda: forge("""
            %q = stablehlo.convert %h : (tensor<4x3xf32>) -> tensor<4x3xf4E2M1FN>
            %y = stablehlo.convert %q : (tensor<4x3xf4E2M1FN>) -> tensor<4x3xf32>"""),
    ),
    "complex numbers of double precision": (
        "op",
        lambda: forge("""
            %d = stablehlo.convert %h : (tensor<4x3xf32>) -> tensor<4x3xcomplex<f64>>
            %r = stablehlo.real %d : (tensor<4x3xcomplex<f64>>) -> tensor<4x3xf64>
            %y = stablehlo.convert %r : (tensor<4x3xf64>) -> tensor<4x3xf32>"""),
    ),
    "tuple": (
        "op",
        lambda: forge("""
            %t = stablehlo.tuple %h, %h {xla_shape = ""} : tuple<tensor<4x3xf32>, tensor<4x3xf32>>
            %y = stablehlo.get_tuple_element %t[1] : (tuple<tensor<4x3xf32>, tensor<4x3xf32>>) -> tensor<4x3xf32>"""),
    ),
    "unknown size inside": (
        "shape",
        lambda: forge("""
            %d = stablehlo.add %h, %h : (tensor<4x3xf32>, tensor<4x3xf32>) -> tensor<?x3xf32>
            %y = stablehlo.convert %d : (tensor<?x3xf32>) -> tensor<4x3xf32>"""),
    ),
    "size that is asked for": (
        "op",
        lambda: forge("""
            %n = stablehlo.get_dimension_size %h, dim = 0 : (tensor<4x3xf32>) -> tensor<i32>
            %f = stablehlo.convert %n : (tensor<i32>) -> tensor<f32>
            %b = stablehlo.broadcast_in_dim %f, dims = [] : (tensor<f32>) -> tensor<4x3xf32>
            %y = stablehlo.add %h, %b : tensor<4x3xf32>"""),
    ),
    "shape that is computed": (
        "op",
        lambda: forge("""
            %s = stablehlo.constant dense<[4, 3]> : tensor<2xi64>
            %y = stablehlo.dynamic_reshape %h, %s : (tensor<4x3xf32>, tensor<2xi64>) -> tensor<4x3xf32>"""),
    ),
    "array with a layout of its own": (
        "shape",
        lambda: forge("""
            %e = stablehlo.reshape %h : (tensor<4x3xf32>) -> tensor<4x3xf32, #stablehlo.bounds<?, ?>>
            %y = stablehlo.reshape %e : (tensor<4x3xf32, #stablehlo.bounds<?, ?>>) -> tensor<4x3xf32>"""),
    ),
    # Other processes and devices.
    "send": (
        "op",
        lambda: forge(
            COPY
            + """
            %t = stablehlo.create_token : !stablehlo.token
            %u = "stablehlo.send"(%y, %t) {channel_handle = #stablehlo.channel_handle<handle = 0, type = 2>,
              is_host_transfer = true} : (tensor<4x3xf32>, !stablehlo.token) -> !stablehlo.token"""
        ),
    ),
    "receive": (
        "op",
        lambda: forge("""
            %t = stablehlo.create_token : !stablehlo.token
            %y, %u = "stablehlo.recv"(%t) {channel_handle = #stablehlo.channel_handle<handle = 0, type = 3>,
              is_host_transfer = true} : (!stablehlo.token) -> (tensor<4x3xf32>, !stablehlo.token)"""),
    ),
    "exchange among devices": (
        "op",
        lambda: forge(
            '%y = "stablehlo.collective_permute"(%h) {source_target_pairs = dense<[[0, 0]]> : tensor<1x2xi64>} : '
            + SAME
        ),
    ),
    "place among replicas": (
        "op",
        lambda: forge("""
            %p = stablehlo.replica_id : tensor<ui32>
            %f = stablehlo.convert %p : (tensor<ui32>) -> tensor<f32>
            %b = stablehlo.broadcast_in_dim %f, dims = [] : (tensor<f32>) -> tensor<4x3xf32>
            %y = stablehlo.add %h, %b : tensor<4x3xf32>"""),
    ),
    "random numbers of the device": (
        "op",
        lambda: forge("""
            %zero = stablehlo.constant dense<0.0> : tensor<f32>
            %one = stablehlo.constant dense<1.0> : tensor<f32>
            %s = stablehlo.constant dense<[4, 3]> : tensor<2xi64>
            %y = stablehlo.rng %zero, %one, %s, distribution = NORMAL :
              (tensor<f32>, tensor<f32>, tensor<2xi64>) -> tensor<4x3xf32>"""),
    ),
    "several partitions": (
        "attribute",
        lambda: forge(COPY, replace=[("module {", "module attributes {mhlo.num_partitions = 2 : i32} {")]),
    ),
    "several replicas": (
        "attribute",
        lambda: forge(COPY, replace=[("module {", "module attributes {mhlo.num_replicas = 7 : i32} {")]),
    ),
    "module that says its shapes are unknown": (
        "attribute",
        lambda: forge(COPY, replace=[("module {", "module attributes {jax.uses_shape_polymorphism = true} {")]),
    ),
    "argument that may be written over": (
        "attribute",
        lambda: forge(COPY, replace=[("%w: tensor<4x3xf32>", "%w: tensor<4x3xf32> {jax.buffer_donor = true}")]),
    ),
    "argument laid out over devices": (
        "attribute",
        lambda: forge(COPY, replace=[("%w: tensor<4x3xf32>", '%w: tensor<4x3xf32> {mhlo.sharding = "{devices=[2]}"}')]),
    ),
    "operation laid out over devices": (
        "attribute",
        lambda: forge('%y = stablehlo.add %h, %h {mhlo.sharding = "{maximal device=1}"} : tensor<4x3xf32>'),
    ),
    "function on a thread of its own": (
        "attribute",
        lambda: forge(
            COPY,
            function("f", COPY.replace("%y", "%r").replace("%h", "%a")).replace(
                "-> tensor<4x3xf32> {", '-> tensor<4x3xf32> attributes {execution_thread = "host"} {', 1
            ),
        ),
    ),
    # Modules.
    "module in a module": ("op", lambda: forge(COPY, "module @inner { }")),
    "function without a body": (
        "op",
        lambda: as_text(COPY, "func.func private @f(tensor<4x3xf32>) -> tensor<4x3xf32>"),
    ),
    "function that there is not": ("malformed", lambda: as_text(f"%y = func.call @nowhere(%h) : {SAME}")),
    "function called with other types": (
        "malformed",
        lambda: as_text(
            "%z = func.call @f(%x) : (tensor<4x4xf32>) -> tensor<4x3xf32>\n" + COPY,
            function("f", "%r = stablehlo.add %a, %a : tensor<4x3xf32>"),
        ),
    ),
    "two functions of one name": (
        "malformed",
        lambda: as_text(COPY, 2 * function("f", "%r = stablehlo.add %a, %a : tensor<4x3xf32>")),
    ),
    "value before it is made": (
        "malformed",
        lambda: as_text("%y = stablehlo.add %z, %z : tensor<4x3xf32>\n%z = stablehlo.add %h, %h : tensor<4x3xf32>"),
    ),
    "operation of an unknown dialect": ("malformed", lambda: as_text('%y = "evil.run"(%h) : ' + SAME)),
    "operation with other types than it has": (
        "malformed",
        lambda: as_text("%y = stablehlo.slice %h [0:9, 0:3] : " + SAME),
    ),
    "reduction that returns nothing": (
        "malformed",
        lambda: as_text("""
            %zero = stablehlo.constant dense<0.0> : tensor<f32>
            %y = "stablehlo.reduce"(%h, %zero) <{dimensions = array<i64>}> ({
              ^bb0(%a: tensor<f32>, %b: tensor<f32>):
                stablehlo.return
            }) : (tensor<4x3xf32>, tensor<f32>) -> tensor<4x3xf32>"""),
    ),
    "branch that takes arguments": (
        "malformed",
        lambda: as_text("""
            %p = stablehlo.constant dense<true> : tensor<i1>
            %y = "stablehlo.if"(%p) ({ ^bb0(%a: tensor<4x3xf32>): stablehlo.return %a : tensor<4x3xf32> },
              { stablehlo.return %h : tensor<4x3xf32> }) : (tensor<i1>) -> tensor<4x3xf32>"""),
    ),
    "text that is no module": ("malformed", lambda: declaring(mlir_module_serialized=b"module { oops")),
    "no bytes": ("malformed", lambda: declaring(mlir_module_serialized=b"")),
    "nothing in the module": ("malformed", lambda: declaring(mlir_module_serialized=b"module { }")),
    "name of 9 MB": ("size", lambda: declaring(fun_name="x" * (9 << 20))),
    "functions that call each other a hundred deep": (
        "calls",
        lambda: forge(
            f"%y = func.call @f0(%h) : {SAME}",
            "".join(function(f"f{level}", f"%r = func.call @f{level + 1}(%a) : {SAME}") for level in range(150))
            + function("f150", "%r = stablehlo.add %a, %a : tensor<4x3xf32>"),
        ),
    ),
}

HARMLESS: dict[str, Callable[[], dict[str, export.Exported]]] = {
    "name of the function": lambda: declaring(fun_name="\x1b[2J\x00main"),
    "derivative of its own": lambda: declaring(_get_vjp=lambda _: callback()),
    "function that nobody calls": lambda: forge_same(function("idle", "%r = stablehlo.add %a, %a : tensor<4x3xf32>")),
    "function that anybody may call": lambda: forge_same(
        function("idle", "%r = stablehlo.add %a, %a : tensor<4x3xf32>").replace("private", "public")
    ),
    "names of the arguments": lambda: forge_same(
        replace=[("%w: tensor<4x3xf32>", '%w: tensor<4x3xf32> {jax.arg_info = "labels"}')]
    ),
    "module of ours": forge_same,
}
"""What an artifact may say of itself since nothing depends on it: the program is the same."""
