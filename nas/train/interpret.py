"""Run a program once, without compiling it: an interpreter of StableHLO in NumPy.

An initialiser draws a few thousand numbers, once for a trial. Compiling it takes ten to fifty times longer than
walking its operations, and was a fifth of what a short trial costs. Integers, and so the random bits, are exactly
JAX's; floating-point functions may differ from XLA's in the last place. An operation that is not here, or a program
with large arrays, is compiled instead: `run_once` decides, by the program alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

LARGEST = 1 << 20
"""Elements of an array above which a compiled program is quicker than NumPy."""


class Unsupported(Exception):
    """The program holds something that the interpreter does not know."""


def run_once(exported: Any, arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Call an exported function on arrays.

    Args:
      exported: a deserialized `jax.export` artifact.
      arguments: one array for each of its inputs.
    Returns:
      Its outputs, as writable arrays.
    """
    try:
        return interpret(exported, arguments)
    except Unsupported:
        import jax

        lowered = jax.jit(exported.call).lower(*arguments)
        options: dict[str, Any] = {"xla_backend_optimization_level": 0} if exported.platforms == ("cpu",) else {}
        outputs = lowered.compile(compiler_options=options)(*arguments)
        return [np.array(leaf) for leaf in jax.tree.leaves(outputs)]


def interpret(exported: Any, arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Like `run_once`, but raises `Unsupported` instead of compiling."""
    from jax._src.interpreters import mlir as jax_mlir

    with jax_mlir.make_ir_context():
        module = exported.mlir_module(serialized=False)
        kept = [np.asarray(arguments[index]) for index in exported.module_kept_var_idx]
        with np.errstate(all="ignore"):
            outputs = _Interpreter(module).call("main", kept)
    return [np.array(value, dtype=aval.dtype) for value, aval in zip(outputs, exported.out_avals, strict=True)]


class _Interpreter:
    def __init__(self, module: Any) -> None:
        self.functions = {op.attributes["sym_name"].value: op for op in module.body.operations}

    def call(self, name: str, arguments: Sequence[Any]) -> list[Any]:
        return self.block(self.functions[name].regions[0].blocks[0], arguments, {})

    def block(self, block: Any, arguments: Sequence[Any], outer: dict[Any, Any]) -> list[Any]:
        values = dict(outer)
        values.update(zip(block.arguments, arguments, strict=True))
        for wrapped in block.operations:
            op = wrapped.operation
            operands = [values[value] for value in op.operands]
            if op.name in ("func.return", "stablehlo.return"):
                return operands
            for result, value in zip(op.results, self.run(op, operands, values), strict=True):
                values[result] = value
        raise Unsupported("a block without a return")

    def run(self, op: Any, operands: list[Any], values: dict[Any, Any]) -> Sequence[Any]:
        name = op.name.removeprefix("stablehlo.")
        if name in ("func.call", "call"):
            return self.call(op.attributes["callee"].value, operands)
        if name == "composite":
            return self.call(op.attributes["decomposition"].value, operands)
        if name == "while":
            return self.loop(op, operands, values)
        if name == "case":
            branch = op.regions[min(max(int(operands[0]), 0), len(op.regions) - 1)]
            return self.block(branch.blocks[0], [], values)
        if name == "reduce":
            return [self.reduce(op, operands)]
        shape, dtype = _shape_and_dtype(op.results[0].type)
        if math.prod(shape) > LARGEST:
            raise Unsupported("a large array")
        if name in _ELEMENTWISE:
            return [np.asarray(_ELEMENTWISE[name](*operands), dtype=dtype)]
        if name in _STRUCTURAL:
            return [_STRUCTURAL[name](op, operands, shape, dtype)]
        raise Unsupported(op.name)

    def loop(self, op: Any, carried: list[Any], values: dict[Any, Any]) -> list[Any]:
        condition, body = op.regions[0].blocks[0], op.regions[1].blocks[0]
        for _ in range(LARGEST):
            if not bool(self.block(condition, carried, values)[0]):
                return carried
            carried = self.block(body, carried, values)
        raise Unsupported("a long loop")

    def reduce(self, op: Any, operands: list[Any]) -> Any:
        body = list(op.regions[0].blocks[0].operations)
        kind = _REDUCTIONS.get(body[0].operation.name.removeprefix("stablehlo."))
        if len(operands) != 2 or len(body) != 2 or kind is None:
            raise Unsupported("a reduction of its own kind")
        axes = tuple(_integers(op.attributes["dimensions"]))
        return np.asarray(kind(operands[0], axis=axes, initial=operands[1]), dtype=operands[0].dtype)


def _integers(attribute: Any) -> list[int]:
    return [int(value) for value in attribute]


_DTYPES = {
    "f64": np.float64, "f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32, "i16": np.int16,
    "i8": np.int8, "ui64": np.uint64, "ui32": np.uint32, "ui16": np.uint16, "ui8": np.uint8, "i1": np.bool_,
}  # fmt: skip


def _shape_and_dtype(kind: Any) -> tuple[tuple[int, ...], Any]:
    dtype = _DTYPES.get(str(kind.element_type))
    if dtype is None:
        raise Unsupported(f"arrays of {kind.element_type}")
    return tuple(kind.shape), dtype


def _constant(op: Any, _: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    from jaxlib.mlir import ir

    try:
        dense = ir.DenseElementsAttr(op.attributes["value"])
        if dense.is_splat:
            element = dense.get_splat_value().value  # type: ignore[attr-defined]  # IntegerAttr, FloatAttr, BoolAttr
            element = (
                int(element) & ((1 << 8 * np.dtype(dtype).itemsize) - 1) if np.dtype(dtype).kind == "u" else element
            )
            return np.full(shape, element, dtype)
        return np.array(dense).reshape(shape).astype(dtype)
    except (ValueError, TypeError, AttributeError) as error:
        raise Unsupported(f"a constant: {error}") from error


def _broadcast(op: Any, operands: list[Any], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    placed = [1] * len(shape)
    for axis, size in zip(_integers(op.attributes["broadcast_dimensions"]), operands[0].shape, strict=True):
        placed[axis] = size
    return np.broadcast_to(np.reshape(operands[0], placed), shape)


def _slice(op: Any, operands: list[Any], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    bounds = (_integers(op.attributes[key]) for key in ("start_indices", "limit_indices", "strides"))
    return operands[0][tuple(slice(*bound) for bound in zip(*bounds, strict=True))]


def _dynamic_slice(op: Any, operands: list[Any], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    source, *starts = operands
    room = zip(starts, source.shape, shape, strict=True)
    starts = [min(max(int(start), 0), size - want) for start, size, want in room]
    return source[tuple(slice(start, start + want) for start, want in zip(starts, shape, strict=True))]


def _iota(op: Any, _: Any, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    axis = int(op.attributes["iota_dimension"])
    placed = [1] * len(shape)
    placed[axis] = -1
    return np.broadcast_to(np.arange(shape[axis], dtype=dtype).reshape(placed), shape)


def _bitcast(op: Any, operands: list[Any], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    if operands[0].dtype.itemsize != np.dtype(dtype).itemsize:
        raise Unsupported("a cast between sizes")
    return np.ascontiguousarray(operands[0]).reshape(operands[0].shape).view(dtype)


def _compare(op: Any, operands: list[Any], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    direction = str(op.attributes["comparison_direction"]).split()[-1].rstrip(">")
    functions: dict[str, Callable[..., Any]] = {
        "EQ": np.equal, "NE": np.not_equal, "LT": np.less, "LE": np.less_equal, "GT": np.greater,
        "GE": np.greater_equal,
    }  # fmt: skip
    return np.asarray(functions[direction](*operands))


def _dot(op: Any, operands: list[Any], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    from jaxlib.mlir.dialects import stablehlo

    numbers = stablehlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    if numbers.lhs_batching_dimensions:
        raise Unsupported("a batched product")
    axes = (list(numbers.lhs_contracting_dimensions), list(numbers.rhs_contracting_dimensions))
    return np.tensordot(operands[0], operands[1], axes=axes).astype(dtype)


def _shift(function: Callable[..., Any]) -> Callable[..., Any]:
    def shifted(value: np.ndarray, by: np.ndarray) -> np.ndarray:
        """NumPy leaves a shift by the width or more undefined; StableHLO defines it as 0."""
        bits = value.dtype.itemsize * 8
        unsigned = value.view(f"u{value.dtype.itemsize}") if value.dtype.kind == "i" else value
        out = np.where(by < bits, function(unsigned, (by % bits).astype(unsigned.dtype)), unsigned.dtype.type(0))
        return out.astype(value.dtype)

    return shifted


def _erf_inv(x: np.ndarray) -> np.ndarray:
    """Inverse error function, by the two polynomials in w = -ln(1 - x²) below; accurate to single precision."""
    wide = np.clip(np.asarray(x, np.float64), -1, 1)
    w = -np.log1p(-wide * wide)
    small, large = w < 5, w - 2.5
    root = np.sqrt(np.maximum(w, 5)) - 3
    near = np.polynomial.polynomial.polyval(np.where(small, large, 0), _NEAR)
    far = np.polynomial.polynomial.polyval(np.where(small, 0, root), _FAR)
    out = np.where(small, near, far) * wide
    return np.where(np.abs(wide) == 1, np.copysign(np.inf, wide), out)


# Giles, "Approximating the erfinv function" (GPU Computing Gems, 2011), table 5: single precision, lowest power first.
_NEAR = (1.50140941, 0.246640727, -0.00417768164, -0.00125372503, 0.000218580870, -4.39150654e-06, -3.5233877e-06,
         3.43273939e-07, 2.81022636e-08)  # fmt: skip
_FAR = (2.83297682, 1.00167406, 0.00943887047, -0.0076224613, 0.00573950773, -0.00367342844, 0.00134934322,
        0.000100950558, -0.000200214257)  # fmt: skip

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "negate": np.negative, "abs": np.abs,
    "maximum": np.maximum, "minimum": np.minimum, "sqrt": np.sqrt, "exponential": np.exp, "log": np.log,
    "log_plus_one": np.log1p, "exponential_minus_one": np.expm1, "sine": np.sin, "cosine": np.cos, "tanh": np.tanh,
    "power": np.power, "floor": np.floor, "ceil": np.ceil, "sign": np.sign, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor, "not": np.invert, "shift_left": _shift(np.left_shift),
    "shift_right_logical": _shift(np.right_shift), "select": np.where, "convert": lambda x: x,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high), "rsqrt": lambda x: 1 / np.sqrt(x),
    "logistic": lambda x: 1 / (1 + np.exp(-x)), "is_finite": np.isfinite,
    "chlo.erf_inv": _erf_inv, "chlo.square": np.square, "optimization_barrier": lambda x: x,
    "divide": lambda a, b: np.divide(a, b) if a.dtype.kind == "f" else _truncated_divide(a, b),
    "remainder": lambda a, b: np.fmod(a, b),
}  # fmt: skip

_STRUCTURAL: dict[str, Callable[..., Any]] = {
    "constant": _constant, "broadcast_in_dim": _broadcast, "slice": _slice, "dynamic_slice": _dynamic_slice,
    "iota": _iota, "bitcast_convert": _bitcast, "compare": _compare, "dot_general": _dot,
    "reshape": lambda op, operands, shape, dtype: np.reshape(operands[0], shape),
    "transpose": lambda op, operands, shape, dtype: np.transpose(operands[0], _integers(op.attributes["permutation"])),
    "concatenate": lambda op, operands, shape, dtype: np.concatenate(operands, int(op.attributes["dimension"])),
    "reverse": lambda op, operands, shape, dtype: np.flip(operands[0], tuple(_integers(op.attributes["dimensions"]))),
}  # fmt: skip

_REDUCTIONS: dict[str, Any] = {
    "add": np.sum, "multiply": np.prod, "maximum": np.max, "minimum": np.min,
}  # fmt: skip


def _truncated_divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    quotient = np.floor_divide(np.abs(a), np.maximum(np.abs(b), 1))
    return quotient if a.dtype.kind == "u" else quotient * np.sign(a) * np.sign(b)
