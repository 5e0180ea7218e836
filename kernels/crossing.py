"""The trusted side of the wall: what a composite of ours claims, and what runs in its place.

In goes an exported program whose composites name operations of `nas.kernels`, out comes the same program with our own
implementations for those shapes and that platform. A claim is a name, shapes and settings; all are checked, and the
decomposition that came with them, which the untrusted side wrote, is thrown away without being looked at. Nothing is
compiled or run here.

Private names of JAX are in `serialize` alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import export
from jax.extend import mlir as artifacts
from jax.interpreters import mlir

from nas import kernels
from nas.kernels.op import VERSION, Op, Setting, is_floating, value_and_pullback

Aval = tuple[tuple[int, ...], str]
"""Shape and dtype of an array."""

COUNTED = "cpu"
"""The platform that references are lowered for when they are counted, so that a program costs the same on all."""

_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i1": "bool"}
_DTYPES |= {f"i{bits}": f"int{bits}" for bits in (8, 16, 32)} | {f"ui{bits}": f"uint{bits}" for bits in (8, 16, 32)}
_ATTRIBUTES = {"name", "version", "decomposition", "composite_attributes"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a composite says that it computes, once it is known to make sense.

    Attributes:
      op: which operation.
      derivative: whether it is its derivative, of (*arrays, *outputs, *cotangents).
      arrays: the operation's arrays, without outputs and cotangents.
      settings: all of them, by name.
    """

    op: Op
    derivative: bool
    arrays: tuple[Aval, ...]
    settings: tuple[tuple[str, Setting], ...]

    @property
    def avals(self) -> list[jax.ShapeDtypeStruct]:
        """The operation's arrays, as JAX takes them."""
        return _avals(self.arrays)


def is_ours(name: str) -> bool:
    """Whether a composite of this name stands for an operation of `nas.kernels` that candidates may use."""
    return name.removeprefix("nas.").removesuffix(".vjp") in kernels.OFFERED and name.startswith("nas.")


def claim_of(operation: Any) -> Claim:
    """Read and verify what a composite of ours says.

    Args:
      operation: a `stablehlo.composite` whose name `is_ours`.
    Raises:
      ValueError: its version, attributes, operands or results are not those of the operation; one line.
    """
    attributes = operation.attributes
    if found := sorted(set(attributes) - _ATTRIBUTES):
        raise ValueError(f"it carries the attribute {found[0]}")
    if len(operation.regions):
        raise ValueError("it holds code")
    if "version" not in attributes or attributes["version"].value != VERSION:
        raise ValueError(f"its version is not {VERSION}")
    given = attributes["composite_attributes"] if "composite_attributes" in attributes else ()
    values = [(named.name, _plain(named.name, named.attr)) for named in given]
    settings = tuple((name, value, type(value)) for name, value in values)  # 1, 1.0 and True are equal keys
    operands = tuple(_aval(value.type) for value in operation.operands)
    results = tuple(_aval(value.type) for value in operation.results)
    return _claim(attributes["name"].value, operands, results, settings)


@functools.lru_cache(maxsize=4096)
def _claim(
    name: str, operands: tuple[Aval, ...], results: tuple[Aval, ...], given: tuple[tuple[str, Setting, type], ...]
) -> Claim:
    op: Op = kernels.load(name.removeprefix("nas.").removesuffix(".vjp"))
    derivative = name.endswith(".vjp")
    count = len(op.batched)
    arrays = operands[:count]
    settings = op.settings({setting: value for setting, value, _ in given})
    said = {setting: kind for setting, _, kind in given}
    for setting, value in settings.items():
        if value is not None and said.get(setting) is not type(value):
            raise ValueError(f"it does not say what {setting} is" if setting not in said else f"its {setting} is whole")
    if len(arrays) != count:
        raise ValueError(f"it takes {len(operands)} arrays; {op.name} has {count}")
    op.check(_avals(arrays), settings)
    outputs = _shapes(functools.partial(op.reference, **settings), arrays)
    expected = (*arrays, *outputs, *outputs) if derivative else arrays
    if operands != expected:
        raise ValueError(f"it takes {_written(operands)}; it must be {_written(expected)}")
    if derivative:
        outputs = tuple(aval for aval, array in zip(arrays, _avals(arrays), strict=True) if is_floating(array))
    if results != outputs:
        raise ValueError(f"it gives {_written(results)}; it must be {_written(outputs)}")
    return Claim(op=op, derivative=derivative, arrays=arrays, settings=tuple(settings.items()))


def reference(claim: Claim) -> bytes:
    """Our lowering of the operation's reference, which is what its FLOPs are counted of; a portable artifact."""
    return lowered(functools.partial(claim.op.reference, **dict(claim.settings)), claim.avals, COUNTED)


def reference_with_derivative(claim: Claim) -> bytes:
    """The same of the reference and its derivative in one: (*arrays, *cotangents) to outputs and cotangents."""
    function = functools.partial(claim.op.reference, **dict(claim.settings))
    count, outputs = len(claim.arrays), _shapes(function, claim.arrays)

    def both(*values: Any) -> Any:
        arrays, cotangents = values[:count], values[count:]
        return value_and_pullback(function, arrays, cotangents)

    return lowered(both, [*claim.avals, *_avals(outputs)], COUNTED)


def lowered(function: Callable[..., Any], avals: Sequence[Any], platform: str) -> bytes:
    """A function of arrays as a portable artifact whose main takes all of them, also those that it does not use."""
    ours = [export.DisabledSafetyCheck.custom_call("ALL")]  # a kernel of ours may be one
    jitted = jax.jit(function, keep_unused=True)
    return export.export(jitted, platforms=[platform], disabled_checks=ours)(*avals).mlir_module_serialized


@functools.lru_cache(maxsize=256)
def _implementation(claim: Claim, platform: str) -> bytes:
    """Our own code for what is claimed."""
    avals, settings = claim.avals, dict(claim.settings)
    if not claim.derivative:
        return lowered(claim.op.function(platform, avals, settings), avals, platform)
    outputs = _avals(_shapes(functools.partial(claim.op.reference, **settings), claim.arrays))
    derivative = claim.op.derivative(platform, avals, settings)
    return lowered(derivative, [*avals, *outputs, *outputs], platform)


def platform() -> str:
    """The platform that this process runs programs on, by the name that exporting has for it."""
    backend = jax.default_backend()
    return "cuda" if backend == "gpu" else backend


def fill(exported: export.Exported, platform: str) -> export.Exported:
    """Put our own implementations in the place of the composites of ours that a program runs.

    Args:
      exported: a deserialized artifact that was admitted.
      platform: what it will run on: `cpu`, `cuda` or `tpu`.
    Returns:
      The artifact with calls instead, and without the functions that nothing leads to any more, what was claimed to
      be computed among them; the same object if it has no composite of ours.
    Raises:
      ValueError: a composite claims what was not admitted.
    """
    with mlir.make_ir_context():
        module = artifacts.deserialize_portable_artifact(exported.mlir_module_serialized)
        functions = {_symbol(op): op.operation for op in module.body.operations if _symbol(op)}
        if not any(_is_ours(operation) for function in functions.values() for operation in inside(function)):
            return exported
        live, composites = _run(functions)
        inserted: dict[Claim, str] = {}
        prefix = "kernel"
        while any(name.startswith(prefix) for name in functions):
            prefix += "_"
        for composite in composites:
            claim = claim_of(composite)
            if claim not in inserted:
                inserted[claim] = _insert(module, _implementation(claim, platform), f"{prefix}{len(inserted)}")
            _call_instead(composite, inserted[claim])
        for name, function in functions.items():
            if name not in live and function.name == "func.func":
                function.erase()
        module.operation.verify()
        return dataclasses.replace(exported, mlir_module_serialized=serialize(module))


def _run(functions: Mapping[str, Any]) -> tuple[set[str], list[Any]]:
    """The functions that main leads to without what composites of ours claim, and those composites."""
    live, composites, waiting = set(), [], ["main"]
    while waiting:
        name = waiting.pop()
        if name in live:
            continue
        live.add(name)
        for operation in inside(functions[name]):
            if _is_ours(operation):
                composites.append(operation)
            else:
                waiting += _names(operation)
    return live, composites


def _is_ours(operation: Any) -> bool:
    return operation.name == "stablehlo.composite" and is_ours(operation.attributes["name"].value)


def inside(operation: Any) -> Iterator[Any]:
    """All operations in the regions of one, at any depth."""
    for region in operation.regions:
        for block in region.blocks:
            for view in block.operations:
                yield view.operation
                yield from inside(view.operation)


def _names(operation: Any) -> Iterator[str]:
    """Functions that an operation refers to."""
    for key in operation.attributes if operation.name in ("func.call", "stablehlo.composite") else ():
        if key in ("callee", "decomposition"):
            yield operation.attributes[key].value


def _insert(module: Any, code: bytes, prefix: str) -> str:
    """Move another module's functions into this one, under names that nothing else has; return the name of its main."""
    table = mlir.ir.SymbolTable
    other = artifacts.deserialize_portable_artifact(code)
    views = list(other.body.operations)
    for view in views:  # all of them before the first is moved, since they refer to each other
        if name := _symbol(view):
            table.replace_all_symbol_uses(name, f"{prefix}_{name}", other.operation)
            table.set_symbol_name(view.operation, f"{prefix}_{name}")
        if view.operation.name == "func.func":
            table.set_visibility(view.operation, "private")
    for view in views:
        view.detach_from_parent()
        module.body.append(view)
    return f"{prefix}_main"


def _call_instead(composite: Any, function: str) -> None:
    from jaxlib.mlir.dialects import func

    ir = mlir.ir
    with ir.InsertionPoint(composite), ir.Location.unknown():
        results = [value.type for value in composite.results]
        call = func.CallOp(results, ir.FlatSymbolRefAttr.get(function), list(composite.operands))
    for old, new in zip(composite.results, call.results, strict=True):
        old.replace_all_uses_with(new)
    composite.erase()


def _symbol(view: Any) -> str:
    attributes = view.operation.attributes
    return attributes["sym_name"].value if "sym_name" in attributes else ""


def serialize(module: Any) -> bytes:
    """A module as the bytes that an exported artifact holds."""
    from jax._src.export import _export

    return _export._module_to_bytecode(module)


def _aval(kind: Any) -> Aval:
    ranked = mlir.ir.RankedTensorType(kind)
    element = str(ranked.element_type)
    if element not in _DTYPES or not ranked.has_static_shape:
        raise ValueError(f"it takes or gives {str(kind)[:60]}")
    return tuple(ranked.shape), _DTYPES[element]


def _avals(arrays: Sequence[Aval]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in arrays]


def _shapes(function: Callable[..., Any], arrays: Sequence[Aval]) -> tuple[Aval, ...]:
    outputs = jax.tree.leaves(jax.eval_shape(function, *_avals(arrays)))
    return tuple((tuple(leaf.shape), str(leaf.dtype)) for leaf in outputs)


def _plain(name: str, attribute: Any) -> Setting:
    """The number that an attribute holds, if it is one that a setting crosses as."""
    ir = mlir.ir
    if isinstance(attribute, ir.BoolAttr | ir.StringAttr):
        return attribute.value
    if isinstance(attribute, ir.IntegerAttr) and str(attribute.type) == "i64":
        return attribute.value
    if isinstance(attribute, ir.FloatAttr) and str(attribute.type) == "f64":
        return attribute.value
    raise ValueError(f"its {name} is {str(attribute)[:40]}")


def _written(avals: Sequence[Aval]) -> str:
    return ", ".join(f"{dtype}{list(shape)}" for shape, dtype in avals)
