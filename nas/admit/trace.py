"""Trace a candidate: source text and tunable values in, four exported functions as bytes out.

This is the only place where candidate Python runs, once, in a child process that has no data, labels, scores, keys or
accelerator (a sealed job of the executor). It trains nothing and judges nothing: what it says about the program is
not believed; `program.py` reads the bytes. Loss, labels and metric are joined on the other side of the wall, which is
why forward and backward cross separately: forward returns the residuals and backward takes them.
"""

import builtins
import os
import traceback
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from nas.admit.facade import namespaces
from nas.admit.gate import BUILTINS
from nas.kernels import OFFERED
from nas.records import Failure, Value, to_plain
from nas.space import SearchSpace, laid_out, load

FILENAME = "<candidate>"


def trace_job(space: str, source: str, values: dict[str, Value], platform: str = "cpu") -> dict[str, Any]:
    """Entry of the sealed job: `{"blobs": {name: bytes}, "param_leaves": int}` or `{"failure": {...}}`."""
    os.environ.setdefault("NPROC", "1")
    outcome = trace(load(space), source, values, platform)
    if isinstance(outcome, Failure):
        return {"failure": to_plain(outcome)}
    blobs, param_leaves = outcome
    return {"blobs": blobs, "param_leaves": param_leaves}


def load_job(space: str) -> None:
    """Entry of a sealed job that loads a space as `trace_job` does, to see that it can be."""
    load(space)


def trace(
    space: SearchSpace, source: str, values: Mapping[str, Value], platform: str = "cpu"
) -> tuple[dict[str, bytes], int] | Failure:
    """Execute a candidate that passed the gate and export it at these tunable values.

    Args:
      space: gives the spec, the skeleton, the contract and the batch sizes.
      source: the candidate's text.
      values: one value for each of its tunables.
      platform: `cpu`, `cuda` or `tpu`; lowering for one needs no device of it.
    Returns:
      The serialized artifacts by name, as `nas.records.Program` describes them, and how many of init's outputs are
      parameters; or the candidate's failure with the line it came from.
    """
    # One line per operation would be stored in the artifacts otherwise: larger blobs, different for a renamed file.
    import jax

    jax.config.update("jax_traceback_in_locations_limit", 0)
    space = laid_out(space, platform)
    try:
        return export_all(functions(space, execute(source, space.scope), SimpleNamespace(**values)), space, platform)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # whatever candidate code raises is the candidate's failure
        return _failure(error)


def execute(source: str, scope: str) -> type:
    """Run the module's text with listed builtins and frozen modules; return the class that the space asks for."""
    found = namespaces()

    def importer(name: str, *rest: Any) -> Any:
        if name not in found:
            raise ImportError(f"import of '{name}' is not allowed; import from nas.api")
        if name == "nas.kernels" and (absent := sorted(set(rest[2] or ("*",)) - set(OFFERED))):
            raise ImportError(f"nas.kernels has no {absent[0]!r}; it has {', '.join(OFFERED)}")
        return found[name]

    allowed: dict[str, Any] = {name: getattr(builtins, name) for name in (*BUILTINS, "__build_class__")}
    namespace: dict[str, Any] = {"__builtins__": allowed | {"__import__": importer}, "__name__": "candidate"}
    exec(compile(source, FILENAME, "exec"), namespace)  # this is the tracer, the one place where candidate code runs
    unit = namespace.get(scope)
    if not isinstance(unit, type):
        raise ValueError(f"the module defines no class {scope}; this space asks for one")
    return unit


class Functions(SimpleNamespace):
    """The candidate as pure functions over flat tuples of arrays, with the avals of its parameters and its state."""

    init: Callable[..., Any]
    apply: Callable[..., Any]
    params: tuple[Any, ...]
    state: tuple[Any, ...]


def functions(space: SearchSpace, unit: type, hp: Any) -> Functions:
    """Split the assembled network into pure functions.

    Random keys inside the module (dropout) are no state: every call derives them anew from its seed, so that what a
    step does is a function of (parameters, state, x, seed) alone and resumes bit for bit.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from nas.admit.skeleton import assemble, split_auxiliary

    def make(seed: Any) -> Any:
        return assemble(space, unit, hp, rngs=nnx.Rngs(jax.random.key(seed)))

    model = nnx.eval_shape(lambda: make(jnp.uint32(0)))
    definition: dict[bool, Any] = {}
    parts: list[Any] = []
    for train in (True, False):
        model.train() if train else model.eval()
        definition[train], *parts = nnx.split(model, nnx.Param, nnx.RngState, ...)
    (params, param_tree), (keys, key_tree), (state, state_tree) = (jax.tree.flatten(part) for part in parts)
    if not params:
        raise ValueError("the model has no parameters; give it at least one layer with weights")
    for leaf in params:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"a parameter has dtype {leaf.dtype}; keep whole numbers in nnx.Variable, not nnx.Param")

    def init(seed: jax.Array) -> tuple[Any, Any]:
        _, params, _, state = nnx.split(make(seed), nnx.Param, nnx.RngState, ...)
        return tuple(jax.tree.leaves(params)), tuple(jax.tree.leaves(state))

    def fresh(index: int, leaf: Any, seed: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)  # how many keys the stream has given: none yet
        key = jax.random.fold_in(jax.random.key(seed), index)
        return key if leaf.shape == () else jax.random.split(key, leaf.shape)

    half = jnp.dtype(space.spec.dtype)

    def computed(leaf: Any) -> Any:
        """A parameter as layers compute with it: what is kept and updated is float32."""
        return leaf.astype(half) if half != jnp.float32 and leaf.dtype == jnp.float32 else leaf

    def apply(params: Any, state: Any, x: jax.Array, seed: jax.Array, train: bool) -> tuple[Any, Any, Any]:
        streams = [fresh(index, leaf, seed) for index, leaf in enumerate(keys)]
        module = nnx.merge(
            definition[train],
            jax.tree.unflatten(param_tree, map(computed, params)),
            jax.tree.unflatten(key_tree, streams),
            jax.tree.unflatten(state_tree, state),
        )
        output, auxiliary = split_auxiliary(module(x))
        _, *after = nnx.split(module, nnx.Param, nnx.RngState, ...)
        if [jax.tree.structure(part) for part in after] != [param_tree, key_tree, state_tree]:
            raise ValueError("__call__ made or removed a variable; create every variable in __init__")
        return output.astype(jnp.float32), auxiliary, tuple(jax.tree.leaves(after[2]))

    return Functions(init=init, apply=apply, params=tuple(map(_aval, params)), state=tuple(map(_aval, state)))


def export_all(candidate: Functions, space: SearchSpace, platform: str) -> tuple[dict[str, bytes], int]:
    """Export init, eval, forward with residuals, and backward."""
    import jax
    import jax.numpy as jnp
    from jax import export

    contract, recipe = space.contract, space.recipe
    seed = jax.ShapeDtypeStruct((), jnp.uint32)

    def examples(count: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, *contract.input_shape), contract.input_dtype)

    def exported(function: Callable[..., Any], *avals: Any) -> Any:
        return export.export(jax.jit(function, keep_unused=False), platforms=[platform])(*avals)

    def evaluate(params: Any, state: Any, x: jax.Array) -> jax.Array:
        return candidate.apply(params, state, x, jnp.uint32(0), False)[0]

    structure: list[Any] = []

    def forward(params: Any, state: Any, x: jax.Array, seed: jax.Array) -> tuple[Any, ...]:
        def outputs(params: Any) -> Any:
            output, auxiliary, after = candidate.apply(params, state, x, seed, True)
            return (output, auxiliary), after

        (output, auxiliary), vjp, after = jax.vjp(outputs, params, has_aux=True)
        residuals, tree = jax.tree.flatten(vjp)
        structure[:] = [tree]
        return output, auxiliary, after, tuple(residuals)

    params, state = candidate.params, candidate.state
    ahead = exported(forward, params, state, examples(recipe.microbatch), seed)
    output, auxiliary, *rest = ahead.out_avals
    _check_output(output, contract.output_shape, recipe.microbatch)
    residuals = tuple(map(_aval, rest[len(state) :]))

    def backward(residuals: Any, d_output: jax.Array, d_auxiliary: jax.Array) -> Any:
        return jax.tree.unflatten(structure[0], residuals)((d_output, d_auxiliary))[0]

    artifacts = {
        "init": exported(candidate.init, seed),
        "eval": exported(evaluate, params, state, examples(recipe.eval_batch)),
        "forward": ahead,
        "backward": exported(backward, residuals, _aval(output), _aval(auxiliary)),
    }
    return {name: bytes(artifact.serialize()) for name, artifact in artifacts.items()}, len(params)


def _check_output(output: Any, expected: tuple[int, ...], batch: int) -> None:
    if tuple(output.shape) != (batch, *expected):
        shape, want = ", ".join(map(str, output.shape[1:])), ", ".join(map(str, expected))
        raise ValueError(f"__call__ returns (B, {shape}); this space asks for (B, {want})")


def _aval(leaf: Any) -> Any:
    import jax

    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _failure(error: BaseException) -> Failure:
    """The candidate's failure, with the innermost line of its own source and the first line of the message."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == FILENAME]
    text = next((part for part in str(error).splitlines() if part.strip()), "no message")
    text = "".join(ch for ch in text if ch.isprintable())[:300]
    if "leaves for PyTreeDef" in text:  # what nnx says when an array is no Variable
        text = "__init__ keeps a plain array on self; wrap it: self.x = nnx.Variable(array)"
    kind = type(error).__name__
    rule = "shape" if any(word in text for word in ("shape", "dimension", "(B, ")) or kind == "TypeError" else "error"
    return Failure(stage="trace", rule=rule, message=f"{kind}: {text}", line=lines[-1] if lines else None)
