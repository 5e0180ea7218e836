"""Check an exported program as data, before a second of training is spent on it.

In go the four artifacts of a candidate as bytes, out comes a `Program` with its cost and fingerprint, or the
candidate's `Failure`. Nothing that the tracer says about the bytes is believed. They may also crash the parser
or keep it busy for ever, so `check_job` runs in a disposable process that has neither data nor secrets, with a time
limit. Nothing is compiled or run here, and what a program does with data (leaks across time or examples) is not
looked at.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.admit.cost import Work, count
from nas.admit.fingerprint import Graph, fingerprint, join
from nas.admit.sketch import sketch
from nas.admit.stablehlo import Block, Module, Operation, Reader, Rejected
from nas.records import ARTIFACTS, Cost, Failure, Program, hash_blobs, to_plain
from nas.space import Contract, Recipe, load

MAX_BLOB_BYTES = 8 << 20
MAX_CONSTANT_BYTES = 1 << 20
TRAINING_FACTOR = 64
"""How many times the limit of an inference a training step may take for each example: gradients take 3 times, with
everything computed anew 4 times, dropout's random bits 20 times what little they are added to."""
INIT_FLOPS, INIT_FLOPS_PER_PARAM = 10**9, 1_000
"""What making the parameters may take at most, whichever is more: random numbers take 170 each."""
TRAFFIC_PER_FLOP, TRAFFIC_PER_OWN, TRAFFIC_PER_PARAM = 32, 8, 16
"""Bytes that may be moved for each FLOP that the space allows an inference, or, if that is more, for each that the
program takes, and for each parameter. Baselines and their mutants move at most 13 for each of the first; a loop that
moves data and computes nothing would hold a trainer for an hour. Of making parameters, 4 for each FLOP allowed."""
LEAST_TRAFFIC = 1 << 28
"""Bytes that may be written in any case: a tenth of a second's work."""
OPERATION_BYTES = 1_000
"""What an operation counts beside what it writes: about the time in which it is begun."""
OPTIMIZER_COPIES = 4
"""Copies of the parameters that a training step holds, in float32: two sequences, second moments, the gradient."""

_ELEMENTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "bool": "i1", "complex64": "complex<f32>"}
_ELEMENTS |= {f"int{bits}": f"i{bits}" for bits in (8, 16, 32)} | {f"uint{bits}": f"ui{bits}" for bits in (8, 16, 32)}
_FLOATS = ("float32", "bfloat16", "float16")
_KEYS = {"key<fry>": 2, "key<rbg>": 4, "key<unsafe_rbg>": 4}
"""Random keys, which only residuals may be (of a dropout inside nnx.remat), with the words that each is stored in."""

Aval = tuple[tuple[int, ...], str]
"""Shape and dtype of an argument or a result."""


def check_job(space: str, blobs: Mapping[str, bytes], param_leaves: int, platform: str = "cpu") -> dict[str, Any]:
    """Entry of the disposable job: `{"program": {... without blobs}}` or `{"failure": {...}}`, as plain data."""
    found = load(space)
    checked = check(blobs, param_leaves, found.contract, found.recipe, platform)
    if isinstance(checked, Failure):
        return {"failure": to_plain(checked)}
    plain = to_plain(checked)
    del plain["blobs"]
    return {"program": plain}


def check(
    blobs: Mapping[str, bytes], param_leaves: int, contract: Contract, recipe: Recipe, platform: str = "cpu"
) -> Program | Failure:
    """Verify that these bytes are a program that the space admits, and say what it costs.

    Args:
      blobs: serialized artifacts by name, one for each of `nas.records.ARTIFACTS`.
      param_leaves: how many of init's outputs are said to be parameters.
      contract: shapes and limits.
      recipe: batch sizes.
      platform: `cpu`, `cuda` or `tpu`: what the artifacts must have been lowered for, and nothing else.
    Returns:
      The program, or a failure of stage `program` whose rule is one of: `size`, `malformed`, `platform`, `signature`,
      `op`, `custom_call`, `attribute`, `constant` (arrays stored in the program), `shape`, `depth`, `calls`, `loop`,
      `ops`, `params`, `flops`, `traffic` (bytes moved), `memory`, `input` (the outputs do not depend on x), `gradient`
      (no parameter has one).
    """
    try:
        return _check(blobs, param_leaves, contract, recipe, platform)
    except Rejected as rejected:
        return _failure(rejected.rule, str(rejected))
    except Exception as error:  # malformed bytes can make the readers raise anything
        return _failure("malformed", f"the exported program cannot be read ({type(error).__name__}); export it anew")


def _failure(rule: str, message: str) -> Failure:
    printable = "".join(ch for ch in message if ch.isprintable())
    return Failure(stage="program", rule=rule, message=printable[:400])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Artifact:
    """One artifact: its signature, as declared and as compared with its module, and the module."""

    takes: list[Aval]
    gives: list[Aval]
    kept: tuple[int, ...]
    module: Module
    takes_tree: Any
    gives_tree: Any


def _check(blobs: Mapping[str, bytes], param_leaves: int, contract: Contract, recipe: Recipe, platform: str) -> Program:
    if sorted(blobs) != sorted(ARTIFACTS):
        raise Rejected("malformed", f"the artifacts are {sorted(blobs)}; there must be {', '.join(ARTIFACTS)}")
    reader = Reader(contract.max_memory_bytes)
    artifacts = {name: _read(reader, name, blobs[name], platform) for name in ARTIFACTS}
    state_leaves = _check_signatures(artifacts, param_leaves, contract, recipe)
    _check_constants(artifacts)
    params = sum(math.prod(shape) for shape, _ in artifacts["init"].gives[:param_leaves])
    _check_limit("params", params, contract.max_params, "parameters", "make it narrower or share weights")
    work = {name: count(artifact.module) for name, artifact in artifacts.items()}
    flops = -(-work["eval"].flops // recipe.eval_batch)
    _check_limit(
        "flops", flops, contract.max_flops, "FLOPs for one example", "make it narrower or shallower, or pool earlier"
    )
    trained = -(-(work["forward"].flops + work["backward"].flops) // recipe.microbatch)
    limit = contract.max_flops and TRAINING_FACTOR * contract.max_flops
    _check_limit(
        "flops",
        trained,
        limit,
        "FLOPs for one example of a training step",
        "make training cheaper, and drop out fewer values",
    )
    limit = max(INIT_FLOPS, INIT_FLOPS_PER_PARAM * params)
    _check_limit("flops", work["init"].flops, limit, "FLOPs to make the parameters", "start from simpler values")
    _check_traffic(work, contract, recipe, params, 4 * limit)
    graph = join(
        {name: artifact.module for name, artifact in artifacts.items()},
        {name: artifact.kept for name, artifact in artifacts.items()},
        param_leaves,
        state_leaves,
    )
    _check_dependence(graph)
    memory = _memory_bytes(artifacts, graph, params, param_leaves)
    memory += 4 * params if recipe.accumulate > 1 else 0  # gradients of the parts that came before
    _check_limit(
        "memory",
        memory,
        contract.max_memory_bytes,
        "bytes for one training step",
        "make it narrower, pool earlier, or wrap blocks in nnx.remat",
    )
    return Program(
        blobs=dict(blobs),
        param_leaves=param_leaves,
        digest=hash_blobs(blobs),
        fingerprint=fingerprint(graph),
        cost=_cost(params, flops, memory, work, recipe, reader.operations),
        profile=_profile(work["eval"]),
        sketch=sketch(graph),
        traits=_traits([artifacts[name].module for name in ("eval", "forward", "backward")]),
    )


def _check_limit(rule: str, found: int, allowed: int | None, what: str, remedy: str) -> None:
    if allowed is not None and found > allowed:
        raise Rejected(rule, f"{found:,} {what}; the space allows {allowed:,}: {remedy}.")


def _check_traffic(
    work: Mapping[str, Work], contract: Contract, recipe: Recipe, params: int, of_init: int
) -> None:  # fmt: skip
    """No part of a program may take long by moving data, which FLOPs do not count."""
    _check_moved("making the parameters", [work["init"]], of_init)
    if contract.max_flops is not None:
        each, more = TRAFFIC_PER_FLOP * contract.max_flops, TRAFFIC_PER_PARAM * params
        _check_moved("an evaluation", [work["eval"]], each * recipe.eval_batch + more)
        _check_moved("a training step", [work["forward"], work["backward"]], each * recipe.microbatch + more)


def _check_moved(what: str, parts: Sequence[Work], limit: int) -> None:
    found = sum(one.written + OPERATION_BYTES * one.executed for one in parts)
    allowed = max(limit, TRAFFIC_PER_OWN * sum(one.flops for one in parts), LEAST_TRAFFIC)
    _check_limit("traffic", found, allowed, f"bytes moved by {what}", "move and copy less, above all in loops")


def _read(reader: Reader, name: str, blob: bytes, platform: str) -> _Artifact:
    """Deserialize one artifact; what it declares of itself must be plain, and agree with its main function."""
    from jax import export

    if not isinstance(blob, bytes) or len(blob) > MAX_BLOB_BYTES:
        raise Rejected(
            "size",
            f"{name} takes {len(blob) / 2**20:.1f} MiB; at most {MAX_BLOB_BYTES >> 20} are allowed: use fewer layers, "
            "or lax.scan over them, and no large constants",
        )
    exported = export.deserialize(bytearray(blob))
    if exported.platforms != (platform,):
        raise Rejected("platform", f"{name} is lowered for {exported.platforms}; it must be for {platform} alone")
    shardings = (*exported.in_shardings_hlo, *exported.out_shardings_hlo)
    if exported.nr_devices != 1 or any(sharding is not None for sharding in shardings):
        raise Rejected("malformed", f"{name} is laid out over devices; leave out meshes and shardings")
    if exported.ordered_effects or exported.unordered_effects or exported.disabled_safety_checks:
        raise Rejected("malformed", f"{name} has side effects or disabled checks; leave out prints and callbacks")
    kept, takes, gives = tuple(exported.module_kept_var_idx), _avals(exported.in_avals), _avals(exported.out_avals)
    versions = range(
        export.minimum_supported_calling_convention_version, export.maximum_supported_calling_convention_version + 1
    )
    if exported.calling_convention_version not in versions or exported.uses_global_constants:
        raise Rejected("malformed", f"{name} is to be called in a way of its own; export it anew")
    if list(kept) != sorted(set(kept)) or not set(kept) <= set(range(len(takes))):
        raise Rejected("signature", f"{name} keeps arguments {kept} of {len(takes)}; export it anew")
    try:
        module = reader.read(exported.mlir_module_serialized)
    except Rejected as rejected:
        raise Rejected(rejected.rule, f"{name}: {rejected}{_hint(name, rejected.rule)}") from None
    _check_main(name, module, module.main.arguments, [takes[index] for index in kept])
    _check_main(name, module, module.main.returned, gives)
    return _Artifact(
        takes=takes, gives=gives, kept=kept, module=module, takes_tree=exported.in_tree, gives_tree=exported.out_tree
    )


def _hint(name: str, rule: str) -> str:
    if (name, rule) != ("init", "custom_call"):
        return ""
    return (
        "; the orthogonal initializer needs one: give nnx.GRUCell and nnx.LSTMCell "
        "recurrent_kernel_init=nnx.initializers.lecun_normal()"
    )


def _avals(avals: Sequence[Any]) -> list[Aval]:
    signature = []
    for aval in avals:
        shape, dtype = tuple(aval.shape), str(aval.dtype)
        if not all(type(size) is int for size in shape):
            raise Rejected("signature", f"an array has shape {shape}; every size must be a number")
        if dtype not in _ELEMENTS and dtype not in _KEYS:
            raise Rejected("signature", f"an array has dtype {dtype}; allowed are {', '.join(_ELEMENTS)}")
        if aval.memory_space.name != "Device":
            raise Rejected("signature", "an array is said to lie elsewhere than on the device; leave out memory kinds")
        signature.append((shape, dtype))
    return signature


def _check_main(name: str, module: Module, values: Sequence[int], declared: Sequence[Aval]) -> None:
    found = [(module.types[value].shape, module.types[value].element) for value in values]
    expected = [
        ((*shape, _KEYS[dtype]), "ui32") if dtype in _KEYS else (shape, _ELEMENTS[dtype]) for shape, dtype in declared
    ]
    if found != expected:
        raise Rejected("signature", f"{name} declares other arrays than its main function has; export it anew")


def _check_signatures(artifacts: Mapping[str, _Artifact], param_leaves: int, contract: Contract, recipe: Recipe) -> int:
    """Compare with the flat tuples that `nas.records.Program` describes; return the number of leaves of state."""
    seed, auxiliary = ((), "uint32"), ((), "float32")
    leaves = artifacts["init"].gives
    if type(param_leaves) is not int or not 0 < param_leaves <= len(leaves):
        raise Rejected(
            "signature", f"{param_leaves} of {len(leaves)} arrays are parameters; there must be at least one"
        )
    for shape, dtype in leaves[:param_leaves]:
        if dtype not in _FLOATS:
            raise Rejected("signature", f"a parameter {shape} has dtype {dtype}; allowed are {', '.join(_FLOATS)}")
    state = leaves[param_leaves:]
    if any(dtype in _KEYS for _, dtype in state):
        raise Rejected("signature", "a random key is kept in a variable; keep it in nnx.Rngs, or use nnx.Dropout")

    def inputs(batch: int) -> Aval:
        return (batch, *contract.input_shape), contract.input_dtype

    def outputs(batch: int) -> Aval:
        return (batch, *contract.output_shape), "float32"

    forward = [outputs(recipe.microbatch), auxiliary, *state]
    residuals = artifacts["forward"].gives[len(forward) :]
    expected = {
        "init": ([seed], leaves),
        "eval": ([*leaves, inputs(recipe.eval_batch)], [outputs(recipe.eval_batch)]),
        "forward": ([*leaves, inputs(recipe.microbatch), seed], [*forward, *residuals]),
        "backward": ([*residuals, outputs(recipe.microbatch), auxiliary], leaves[:param_leaves]),
    }
    for name, (takes, gives) in expected.items():
        _compare(name, "takes", artifacts[name].takes, takes)
        _compare(name, "returns", artifacts[name].gives, gives)
    _check_trees(artifacts, param_leaves, len(state), len(residuals))
    return len(state)


def _check_trees(artifacts: Mapping[str, _Artifact], params: int, state: int, residuals: int) -> None:
    """The flat tuples are nested as `nas.records.Program` describes: what is called is called with such trees."""
    import jax

    leaves, rest = ((0,) * params, (0,) * state), (0,) * residuals
    expected: dict[str, tuple[Any, Any]] = {
        "init": ((0,), leaves),
        "eval": ((*leaves, 0), 0),
        "forward": ((*leaves, 0, 0), (0, 0, leaves[1], rest)),
        "backward": ((rest, 0, 0), leaves[0]),
    }
    for name, (takes, gives) in expected.items():
        trees = jax.tree.structure((takes, {})), jax.tree.structure(gives)
        if (artifacts[name].takes_tree, artifacts[name].gives_tree) != trees:
            raise Rejected("signature", f"the arguments or results of {name} are grouped otherwise; export it anew")


def _compare(name: str, verb: str, found: list[Aval], expected: list[Aval]) -> None:
    if len(found) != len(expected):
        raise Rejected(
            "signature", f"{name} {verb} {len(found)} arrays; this space and its state ask for {len(expected)}"
        )
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one != other:
            raise Rejected(
                "signature",
                f"{name} {verb} {one[1]}{list(one[0])} in place {index}; it must be {other[1]}{list(other[0])}",
            )


def _check_constants(artifacts: Mapping[str, _Artifact]) -> None:
    size = sum(artifact.module.constant_bytes for artifact in artifacts.values())
    if size > MAX_CONSTANT_BYTES:
        raise Rejected(
            "constant",
            f"{size:,} bytes of constant arrays; at most {MAX_CONSTANT_BYTES:,} are allowed: compute them from "
            "jnp.arange or the like, or make them parameters",
        )


def _check_dependence(graph: Graph) -> None:
    """Refuse what cannot learn; a dependence that only the numbers would show to be none passes."""
    if not graph.depends(graph.roles["eval"], graph.roles["x"][0]):
        raise Rejected("input", "the outputs do not depend on the input x; compute them from it")
    if not graph.depends(graph.roles["gradient"], graph.roles["d_output"][0]):
        raise Rejected(
            "gradient",
            "no parameter gets a gradient from the outputs; compute them with the parameters, without stop_gradient "
            "and without steps of zero slope (sign, round, argmax) in between",
        )


def _memory_bytes(artifacts: Mapping[str, _Artifact], graph: Graph, params: int, param_leaves: int) -> int:
    """Parameters with the optimiser's copies, state, and each distinct residual that is no argument of forward."""
    arguments = {node for role in ("param", "state", "x") for node in graph.roles[role]}
    first = len(artifacts["forward"].gives) - len(graph.roles["residual"])
    types = [artifacts["forward"].module.types[value] for value in artifacts["forward"].module.main.returned[first:]]
    residuals = {node: kind.bytes for node, kind in zip(graph.roles["residual"], types, strict=True)}
    kept = sum(size for node, size in residuals.items() if node not in arguments)
    init = artifacts["init"].module
    state = sum(init.types[value].bytes for value in init.main.returned[param_leaves:])
    return OPTIMIZER_COPIES * 4 * params + state + kept


def _cost(params: int, flops: int, memory: int, work: Mapping[str, Work], recipe: Recipe, operations: int) -> Cost:
    train = work["forward"].flops + work["backward"].flops
    return Cost(
        params=params,
        flops=flops,
        train_flops=-(-train // recipe.microbatch),
        memory_bytes=memory,
        ops=operations,
    )


def _profile(work: Work) -> dict[str, float]:
    """Share of the FLOPs of each kind of operation, the largest first."""
    shares = {kind: round(flops / max(1, work.flops), 3) for kind, flops in work.kinds.items()}
    return {kind: share for kind, share in sorted(shares.items(), key=lambda item: (-item[1], item[0])) if share}


def _traits(modules: Sequence[Module]) -> frozenset[str]:
    """What decides how to run a program; loops that only make random bits, on whole numbers, are none."""
    traits = set()
    for module in modules:
        for operation in (op for block in module.functions.values() for op in _operations(block)):
            if operation.name == "stablehlo.convolution":
                traits.add("convolution")
            elif operation.name == "stablehlo.while":
                elements = {module.types[value].element for value in operation.operands}
                if not all(element.lstrip("u").startswith("i") for element in elements):
                    traits.add("loop")
    return frozenset(traits)


def _operations(block: Block) -> Iterator[Operation]:
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _operations(inner)
