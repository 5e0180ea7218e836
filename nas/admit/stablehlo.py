"""Read exported StableHLO modules into plain Python, once.

In goes the bytecode of one artifact, out comes a `Module`: functions, blocks and operations as tuples in which values
are numbers. Everything that is not on the lists below is refused while reading, in every function, also one that is
never called. A composite that names an operation of `nas.kernels` becomes a claim, which is verified; the functions
that only such composites lead to never run, and are left out. Nothing is rewritten, compiled or run here, and nothing
here knows what the artifact is for:
`cost.py` counts it, `program.py` compares it with the space's contract, `fingerprint.py` with other programs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from nas.kernels.crossing import Claim

_ELEMENTWISE = """abs add and atan2 bitcast_convert cbrt ceil clamp compare complex convert cosine count_leading_zeros
divide exponential exponential_minus_one floor imag is_finite log log_plus_one logistic maximum minimum multiply negate
not or popcnt power real reduce_precision remainder rng_bit_generator round_nearest_afz round_nearest_even rsqrt select
shift_left shift_right_arithmetic shift_right_logical sign sine sqrt subtract tan tanh xor"""
_MOVEMENT = """broadcast_in_dim concatenate constant dynamic_slice dynamic_update_slice gather iota optimization_barrier
pad reshape return reverse slice transpose"""
_STRUCTURED = """case composite convolution dot_general fft if reduce reduce_window scatter select_and_scatter sort
while"""

ELEMENTWISE = frozenset("stablehlo." + name for name in _ELEMENTWISE.split())
"""Operations that count one floating-point operation for each element of their result."""

OPERATIONS = frozenset("stablehlo." + name for name in (_ELEMENTWISE + " " + _MOVEMENT + " " + _STRUCTURED).split())
OPERATIONS |= {"func.func", "func.call", "func.return"}
"""The operations that a program may hold: no custom calls, callbacks, feeds, collectives, dynamic shapes, or random
numbers that depend on anything but their operands."""

COMPOSITES = frozenset(
    "chlo." + name
    for name in """acos acosh asin asinh atan atanh bessel_i1e cosh digamma erf erf_inv
erfc lgamma next_after polygamma sinh square tan top_k zeta""".split()
)
"""Composites that a program may hold, beside those of `nas.kernels`. Some compilers know them by name, others run the
decomposition that comes with them, so that must be the one that StableHLO itself writes for the name."""

COMMUTATIVE = frozenset("stablehlo." + name for name in "add and maximum minimum multiply or xor".split())

_CONTROL = frozenset({"stablehlo.case", "stablehlo.if", "stablehlo.while"})
_ARGUMENT_ATTRIBUTES = frozenset({"jax.arg_info", "jax.result_info"})
_FUNCTION_ATTRIBUTES = frozenset({"sym_name", "sym_visibility", "function_type", "arg_attrs", "res_attrs"})
_MODULE_ATTRIBUTES = frozenset(
    {"sym_name", "jax.uses_shape_polymorphism", "mhlo.num_partitions", "mhlo.num_replicas"},
)
_ELEMENT_BYTES = {"i1": 1, "bf16": 2, "f16": 2, "f32": 4, "complex<f32>": 8, "f8E4M3FN": 1, "f8E5M2": 1}
_ELEMENT_BYTES |= {f"{sign}{8 * size}": size for sign in ("i", "ui") for size in (1, 2, 4, 8)} | {"i4": 1, "ui4": 1}

_SIZES = frozenset(
    """base_dilations edge_padding_high edge_padding_low fft_length interior_padding lhs_dilation limit_indices padding
rhs_dilation slice_sizes start_indices strides window_dilations window_dimensions window_strides""".split()
)
_COMPOSITE_ATTRIBUTES = frozenset({"name", "composite_attributes", "decomposition", "version"})

MAX_SIZE = 1 << 31
"""Largest size, stride or padding: the compiler multiplies some of them before it looks whether they fit."""
MAX_OPERATIONS = 40_000
MAX_NESTING = 24


class Rejected(Exception):
    """A program is not admitted: the rule it breaks, and a sentence that says what was found and what to change."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class Tensor(NamedTuple):
    """A value's type: its shape, and its elements as StableHLO writes them (`f32`, `ui32`, `i1`)."""

    shape: tuple[int, ...]
    element: str
    bytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.element}[{','.join(map(str, self.shape))}]"


class Operation(NamedTuple):
    """One operation; values are numbers, unique in their module.

    Attributes:
      attributes: MLIR attributes by name; equal ones are equal and hash alike within one `Reader`.
    """

    name: str
    operands: tuple[int, ...]
    results: tuple[int, ...]
    attributes: dict[str, Any]
    blocks: tuple["Block", ...]


class Block(NamedTuple):
    """A straight line of operations, and the values that it starts from and ends with."""

    arguments: tuple[int, ...]
    operations: list[Operation]
    returned: tuple[int, ...]


@dataclass(slots=True)
class Module:
    """One artifact: its functions by name, and the type and the defining operation of every value.

    Attributes:
      types: type of each value.
      producers: the operation that makes a value; arguments of blocks have none.
      constant_bytes: bytes of constants that are not one number repeated.
      claims: what each composite of `nas.kernels` computes, by its first result.
    """

    functions: dict[str, Block] = field(default_factory=dict)
    types: list[Tensor] = field(default_factory=list)
    producers: dict[int, Operation] = field(default_factory=dict)
    constant_bytes: int = 0
    claims: dict[int, "Claim"] = field(default_factory=dict)

    @property
    def main(self) -> Block:
        """The function that is called from outside."""
        return self.functions["main"]


class Reader:
    """Reads the artifacts of one program; together they may not pass the limits.

    Equal attributes and types of all artifacts are shared, which is what makes comparing them cheap.
    """

    def __init__(self, max_tensor_bytes: int) -> None:
        """`max_tensor_bytes`: the largest single array that a program may hold [bytes]."""
        from jax.interpreters import mlir

        self.ir = mlir.ir
        self.context = mlir.make_ir_context()
        self.context.enable_multithreading(False)  # the modules are small, and the process has one core
        self.operations = 0
        self._max_tensor_bytes = max_tensor_bytes
        self._tensors: dict[Any, Tensor] = {}
        self._splat: dict[Any, bool] = {}
        self._composites: list[Any] = []
        self._decompositions: dict[Any, str] = {}

    def read(self, bytecode: bytes) -> Module:
        """Parse one artifact.

        Raises:
          Rejected: it holds something that is not allowed.
          Exception: anything else that the parser makes of malformed bytes.
        """
        from jax.extend import mlir

        with self.context:
            parsed = mlir.deserialize_portable_artifact(bytecode)
            if not parsed.operation.verify():
                raise Rejected("malformed", "the exported program does not verify; export it anew")
            attributes = parsed.operation.attributes
            self._refuse_attributes("module", attributes, _MODULE_ATTRIBUTES)
            if any(str(attributes[key]).split()[0] not in ("1", "false") for key in attributes if key != "sym_name"):
                raise Rejected("attribute", "a module says that it is laid out over devices or has unknown shapes")
            module, sizes = Module(), {}
            try:
                for operation in parsed.body.operations:
                    before = self.operations
                    name = self._function(module, operation.operation)
                    sizes[name] = self.operations - before
                functions = {_symbol(view): view.operation for view in parsed.body.operations}
                for composite in self._composites:
                    self._check_named(composite, functions)
            finally:
                self._composites.clear()  # they must not outlive what was parsed
        if "main" not in module.functions:
            raise Rejected("malformed", "the exported program has no function main; export it anew")
        self.operations -= sum(sizes[name] for name in self._leave_out_claimed(module))
        return module

    def _leave_out_claimed(self, module: Module) -> set[str]:
        """Drop what main does not lead to if composites of ours are no way there; none of it reaches the compiler."""
        if not module.claims:
            return set()
        live, waiting = set(), ["main"]
        while waiting:
            name = waiting.pop()
            if name not in live:
                live.add(name)
                waiting += _references(module, module.functions[name])
        idle = module.functions.keys() - live
        for name in idle:
            del module.functions[name]
        return idle

    def _function(self, module: Module, operation: Any) -> str:
        """Read a function and return its name."""
        ir, attributes = self.ir, operation.attributes
        if operation.name == "sdy.mesh" and str(attributes["mesh"]) == "#sdy.mesh<[]>":
            return ""  # declared for rematerialized functions with random keys; a mesh without axes lays out nothing
        if operation.name != "func.func":
            raise _not_allowed(operation.name)
        self._refuse_attributes("function", attributes, _FUNCTION_ATTRIBUTES)
        for key in ("arg_attrs", "res_attrs"):
            for entry in attributes[key] if key in attributes else ():
                self._refuse_attributes("function", [named.name for named in ir.DictAttr(entry)], _ARGUMENT_ATTRIBUTES)
        name = ir.StringAttr(attributes["sym_name"]).value
        module.functions[name] = self._block(module, operation.regions[0], {}, 0)
        return name

    def _refuse_attributes(self, where: str, attributes: Any, allowed: frozenset[str]) -> None:
        for name in attributes:
            if name not in allowed:
                raise Rejected("attribute", f"a {where} carries the attribute {name}; leave out what asks for it")

    def _block(self, module: Module, region: Any, numbers: dict[Any, int], depth: int) -> Block:
        if depth > MAX_NESTING:
            raise Rejected("depth", f"loops and branches are nested more than {MAX_NESTING} deep; flatten them")
        blocks = list(region.blocks)
        if len(blocks) != 1:
            raise Rejected("op", "a function has no body or jumps between blocks; use lax.cond and lax.scan")
        arguments = tuple(self._number(module, value, numbers) for value in blocks[0].arguments)
        operations: list[Operation] = []
        returned: tuple[int, ...] = ()
        for view in blocks[0].operations:
            if view.operation.name == "sdy.sharding_constraint":
                self._constraint(view.operation, numbers)
                continue
            operation = self._operation(module, view.operation, numbers, depth)
            if operation.name in ("func.return", "stablehlo.return"):
                returned = operation.operands
            else:
                operations.append(operation)
        return Block(arguments, operations, returned)

    def _operation(self, module: Module, raw: Any, numbers: dict[Any, int], depth: int) -> Operation:
        name: str = raw.name
        self.operations += 1
        if self.operations > MAX_OPERATIONS:
            raise Rejected("ops", f"more than {MAX_OPERATIONS:,} operations; use fewer layers, or lax.scan over them")
        if name not in OPERATIONS or name == "func.func":
            raise _not_allowed(name)
        attributes, held = {}, raw.attributes
        for key in held:
            if "." in key:
                raise Rejected("attribute", f"an operation carries the attribute {key}; leave out what asks for it")
            try:
                attributes[key] = held[key]
            except TypeError:  # a complex constant, for which the bindings have no class: its text stands for it
                attributes[key] = raw.get_asm().partition("stablehlo.constant ")[2].strip()
        operands = tuple([numbers[value] for value in raw.operands])
        results = tuple([self._number(module, value, numbers) for value in raw.results])
        blocks = tuple([self._block(module, region, numbers, depth + 1) for region in raw.regions])
        if name not in _CONTROL and any(inner.blocks for block in blocks for inner in block.operations):
            raise Rejected("op", f"the function that {name} applies holds a loop or a branch; use lax.scan instead")
        operation = Operation(name, operands, results, attributes, blocks)
        for result in results:
            module.producers[result] = operation
        if name == "stablehlo.constant" and not self._is_splat(attributes["value"]):
            module.constant_bytes += module.types[results[0]].bytes
        for key in attributes.keys() & _SIZES:
            if any(abs(int(size)) > MAX_SIZE for size in self._integers(attributes[key])):
                raise Rejected("shape", f"a size or a padding of {name} is beyond {MAX_SIZE:,}; make it smaller")
        if name == "stablehlo.pad":
            self._check_padding(module, operation)
        if name == "stablehlo.composite":
            if (composite := text(attributes["name"])) in COMPOSITES:
                self._composites.append(raw)
            else:
                self._claim(module, raw, composite, results)
        return operation

    def _integers(self, attribute: Any) -> Any:
        return (
            attribute if isinstance(attribute, self.ir.DenseI64ArrayAttr) else self.ir.DenseIntElementsAttr(attribute)
        )

    def _check_padding(self, module: Module, operation: Operation) -> None:
        """Padding may be negative, and then what it is taken from is as large as an array, and not looked at above."""
        tensor, room = module.types[operation.operands[0]], dict[str, list[int]]()
        for key in ("edge_padding_low", "edge_padding_high", "interior_padding"):
            room[key] = [max(0, int(size)) for size in self._integers(operation.attributes[key])]
        each = zip(tensor.shape, *room.values(), strict=True)
        size = math.prod(max(1, n + low + high + max(0, n - 1) * inner) for n, low, high, inner in each)
        if size * _ELEMENT_BYTES[tensor.element] > self._max_tensor_bytes:
            raise Rejected("memory", f"an array is padded to {size:,} elements, of which most are cut off; pad less")

    def _check_named(self, raw: Any, functions: dict[str, Any]) -> None:
        """The decomposition of a composite of StableHLO's must be StableHLO's own: it may be what runs."""
        attributes = raw.attributes
        name, settings = attributes["name"].value, {}
        if "composite_attributes" in attributes:
            settings = {named.name: named.attr for named in attributes["composite_attributes"]}
        operands, results = [value.type for value in raw.operands], [value.type for value in raw.results]
        key = (name, *operands, None, *results, *settings.items())
        if key not in self._decompositions:
            try:
                self._decompositions[key] = self._decomposition(name, operands, results, settings)
            except Exception as error:
                message = f"the composite {name} is called with what it does not take; use jnp and lax functions"
                raise Rejected("op", message) from error
        found = functions.get(attributes["decomposition"].value)
        honest = found is not None and _body(found) == self._decompositions[key]
        if not honest or not set(attributes) <= _COMPOSITE_ATTRIBUTES:
            raise Rejected("op", f"the composite {name} is not what its name says; use jnp and lax functions")

    def _decomposition(self, name: str, operands: list[Any], results: list[Any], settings: dict[str, Any]) -> str:
        """What StableHLO itself writes for an operation when it is made portable, as text."""
        from jax.extend import mlir
        from jaxlib.mlir.dialects import func, stablehlo

        ir = self.ir
        with ir.Location.unknown():
            module = ir.Module.create()
            with ir.InsertionPoint(module.body):
                function = func.FuncOp("main", (operands, results))
            block = function.add_entry_block()
            with ir.InsertionPoint(block):
                made = ir.Operation.create(name, results, list(block.arguments), settings)
                func.ReturnOp(list(made.results))
        portable = mlir.serialize_portable_artifact(module, stablehlo.get_current_version())
        parsed = mlir.deserialize_portable_artifact(portable)  # what is looked at below lives as long as it does
        (found,) = [view.operation for view in parsed.body.operations if _symbol(view) != "main"]
        return _body(found)

    def _claim(self, module: Module, raw: Any, composite: str, results: tuple[int, ...]) -> None:
        from nas.kernels import crossing

        if not crossing.is_ours(composite):
            raise Rejected("op", f"the composite {composite} is not allowed; write it with jnp or lax functions")
        try:
            module.claims[results[0]] = crossing.claim_of(raw)
        except Exception as error:  # what an operation makes of arrays that it does not expect
            found = next(iter(str(error).splitlines()), type(error).__name__)
            message = f"the composite {composite} is not one of nas.kernels: {found}; call the function of nas.kernels"
            raise Rejected("signature", message) from None

    def _constraint(self, raw: Any, numbers: dict[Any, int]) -> None:
        """A layout over the empty mesh, the only one that can be declared, is its operand."""
        if not str(raw.attributes["sharding"]).startswith("#sdy.sharding<@"):
            raise Rejected("op", "an array is laid out over devices; leave out meshes and shardings")
        numbers[raw.results[0]] = numbers[raw.operands[0]]

    def _number(self, module: Module, value: Any, numbers: dict[Any, int]) -> int:
        number = numbers[value] = len(module.types)
        kind = value.type
        tensor = self._tensors.get(kind)
        if tensor is None:
            tensor = self._tensors[kind] = self._tensor(kind)
        module.types.append(tensor)
        return number

    def _tensor(self, kind: Any) -> Tensor:
        try:
            ranked = self.ir.RankedTensorType(kind)
        except ValueError:
            raise Rejected("op", f"a value has type {str(kind)[:60]}; only arrays are allowed") from None
        if not ranked.has_static_shape or ranked.encoding is not None:
            raise Rejected("shape", f"an array has shape {str(kind)[:60]}; shapes must be known when it is traced")
        shape, element = tuple(ranked.shape), str(ranked.element_type)
        if element not in _ELEMENT_BYTES:
            raise Rejected("op", f"an array has elements of type {element[:30]}; use float32, bfloat16, int32 or bool")
        size = math.prod(shape) * _ELEMENT_BYTES[element]
        if max(size, *shape, 0) > self._max_tensor_bytes:
            raise Rejected(
                "memory",
                f"an array of shape {shape} takes {size / 2**20:,.0f} MiB; the space allows "
                f"{self._max_tensor_bytes / 2**20:,.0f} MiB in all: make it smaller, or go over it in a lax.scan",
            )
        return Tensor(shape, element, size)

    def _is_splat(self, value: Any) -> bool:
        splat = self._splat.get(value)
        if splat is None:
            splat = self._splat[value] = _is_splat(self.ir, value)
        return splat


def _nested(block: Block) -> Iterator[Operation]:
    """The operations of a block and of the blocks inside them."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from _nested(inner)


def _references(module: Module, block: Block) -> Iterator[str]:
    """Functions that a block refers to, without those that composites of ours do."""
    for operation in _nested(block):
        if operation.name == "func.call":
            yield text(operation.attributes["callee"])
        elif operation.name == "stablehlo.composite" and operation.results[0] not in module.claims:
            yield text(operation.attributes["decomposition"])


def _symbol(view: Any) -> str:
    attributes = view.operation.attributes
    return attributes["sym_name"].value if "sym_name" in attributes else ""


def _body(function: Any) -> str:
    """A function as text, without its name."""
    return function.get_asm(enable_debug_info=False).partition("(")[2]


def _not_allowed(name: str) -> Rejected:
    if name == "stablehlo.custom_call":
        return Rejected(
            "custom_call",
            "a library or host call was found (linear algebra such as cholesky, eigh, qr or svd, a callback, a kernel "
            "of its own); use jnp and lax functions that need none",
        )
    return Rejected("op", f"the operation {name} is not allowed; use ordinary jnp, lax and nnx functions")


def _is_splat(ir: Any, value: Any) -> bool:
    try:
        return ir.DenseElementsAttr(value).is_splat
    except (ValueError, TypeError):  # complex constants have no such view
        written = str(value)
        if not written.startswith("dense<"):
            raise Rejected(
                "constant", "a constant is stored outside the program; compute it, or make it a parameter"
            ) from None
        return written.startswith("dense<(")


def text(attribute: Any) -> str:
    """The value of a string or symbol attribute, without its quotes."""
    return attribute.value
