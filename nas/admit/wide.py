"""Rewrite an exported program so that it computes in double precision: what rounding moves then hardly moves any more.

In goes an artifact that was admitted, with our own kernels in it; out comes the same program with `float64` wherever it
has `float32`, and `complex128` for `complex64`. Where a program looks at the bits of a number, as random numbers do, it
gets those of single precision. Nothing is compiled or run here.
"""

import dataclasses
from typing import Any

import numpy as np
from jax import export
from jax.core import ShapedArray
from jax.extend import mlir as artifacts
from jax.interpreters import mlir

from nas.kernels.crossing import inside, serialize

_SINGLE = frozenset({"stablehlo.constant", "stablehlo.bitcast_convert"})
"""Operations that stay in single precision: what is written in a program, and looks at the bits of a number."""
_WIDE = {np.dtype(np.float32): np.dtype(np.float64), np.dtype(np.complex64): np.dtype(np.complex128)}


def widened(exported: export.Exported) -> export.Exported:
    """The program in double precision; it is called, and compiled, with `jax.enable_x64()` around.

    Args:
      exported: a program that takes and gives arrays of any types; half floats in it stay what they are.
    Raises:
      ValueError: it calls code that is not in it, or holds single precision where nothing else is possible.
    """
    with mlir.make_ir_context(), mlir.ir.Location.unknown():
        module = artifacts.deserialize_portable_artifact(exported.mlir_module_serialized)
        for operation in list(inside(module.operation)):
            _widen(operation)
        try:
            module.operation.verify()
        except mlir.ir.MLIRError as error:
            raise ValueError(f"the program can't be computed in double precision: {str(error)[:200]}") from error
        return dataclasses.replace(
            exported,
            mlir_module_serialized=serialize(module),
            in_avals=tuple(map(_aval, exported.in_avals)),
            out_avals=tuple(map(_aval, exported.out_avals)),
        )


def wide(array: np.ndarray) -> np.ndarray:
    """An array as a widened program takes it."""
    return array.astype(_WIDE.get(array.dtype, array.dtype), copy=False)


def _widen(operation: Any) -> None:
    ir = mlir.ir
    for region in operation.regions:
        for block in region.blocks:
            for argument in block.arguments:
                argument.set_type(_wide(argument.type))
    if operation.name == "stablehlo.custom_call":
        raise ValueError(
            f"the program can't be computed in double precision: it calls {operation.attributes['call_target_name']}"
        )
    if operation.name in _SINGLE:
        _convert_around(operation)
        return
    for result in operation.results:
        result.set_type(_wide(result.type))
    if operation.name == "func.func":
        kind = ir.FunctionType(ir.TypeAttr(operation.attributes["function_type"]).value)
        found = ir.FunctionType.get([_wide(one) for one in kind.inputs], [_wide(one) for one in kind.results])
        operation.attributes["function_type"] = ir.TypeAttr.get(found)


def _convert_around(operation: Any) -> None:
    """Leave an operation in single precision: convert what it takes, and what it gives."""
    from jaxlib.mlir.dialects import stablehlo

    ir = mlir.ir
    for index, operand in enumerate(operation.operands):
        if _narrow(operand.type) != operand.type:
            with ir.InsertionPoint(operation):
                operation.operands[index] = stablehlo.convert(_narrow(operand.type), operand)
    for result in operation.results:
        if _wide(result.type) != result.type:
            with ir.InsertionPoint.after(operation):
                converted = stablehlo.ConvertOp(_wide(result.type), result)
            result.replace_all_uses_except(converted.result, converted.operation)


def _wide(kind: Any) -> Any:
    return _changed(kind, {"f32": "f64", "complex<f32>": "complex<f64>"})


def _narrow(kind: Any) -> Any:
    return _changed(kind, {"f64": "f32", "complex<f64>": "complex<f32>"})


def _changed(kind: Any, elements: dict[str, str]) -> Any:
    element = elements.get(str(kind.element_type)) if isinstance(kind, mlir.ir.RankedTensorType) else None
    return kind if element is None else mlir.ir.RankedTensorType.get(kind.shape, mlir.ir.Type.parse(element))


def _aval(aval: Any) -> Any:
    return ShapedArray(aval.shape, _WIDE.get(aval.dtype, aval.dtype))  # a random key's type stays
