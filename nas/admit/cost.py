"""Count what a module costs: floating-point operations, and how many operations are compiled and run.

In goes a `stablehlo.Module`, out comes its `Work`. Loops count times their trip count, which must therefore be known
before anything runs; XLA's own analysis takes a loop's body once. Nothing is compiled here, and time is not guessed.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from nas.admit.stablehlo import ELEMENTWISE, Block, Module, Operation, Reader, Rejected, Tensor, text

if TYPE_CHECKING:
    from nas.kernels.crossing import Claim

MAX_CALLS = 100
MAX_INLINED = 100_000
MAX_EXECUTED = 10_000_000
MAX_REFERENCE_BYTES = 1 << 40
"""Largest array inside the reference of an operation of ours, which is counted and not run: no limit that matters."""


@dataclass(slots=True)
class Work:
    """What one call of something does.

    Attributes:
      flops: floating-point operations, by the convention of `count`.
      inlined: operations after every call is replaced by its function's body: what is compiled.
      executed: operations that run, loop bodies times their trip count.
      written: bytes of what they compute, each as often as it runs, of what reductions read, and of what loops and
        branches have to copy; what is only named anew or kept in place is free.
      kinds: the FLOPs by kind of operation.
    """

    flops: int = 0
    inlined: int = 0
    executed: int = 0
    written: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Work", times: int = 1) -> None:
        """Add what `other` does, repeated `times` times."""
        self.flops += times * other.flops
        self.inlined += other.inlined
        self.executed += times * other.executed
        self.written += times * other.written
        for kind, flops in other.kinds.items():
            self.kinds[kind] = self.kinds.get(kind, 0) + times * flops


def count(module: Module) -> Work:
    """Count what one call of `main` does.

    Convention: that of XLA's cost analysis, its `flops` plus its `transcendentals`, with loops times their trip count.
    An elementwise operation is one per element of its result, whatever the operation and the type; a contraction is
    two per multiply-add, and a convolution does not multiply its padding; a reduction of n to m applies its function
    n - m times; moving data is free. Ours, where XLA differs or has none: a sort of n compares n log2 n times, a
    Fourier transform is 5 n log2 n, a named composite one per element, a branch as much as its dearest case. What no
    result needs is free. An operation of `nas.kernels` is as much as its reference as we lower it, whatever came with
    it and whatever will run. Its derivative is what reference and derivative together take, less the reference: what
    it computes again is free, as if the forward pass had kept it, so that a program costs the same however its
    operations are written. (What `nnx.remat` computes again is counted.)

    Raises:
      Rejected: a loop's trip count cannot be read off, functions call each other in a circle, or it is too much.
    """
    costs = _Costs(module)
    for name in module.functions:  # the compiler also reads what is never called
        costs.function(name)
    return costs.function("main")


class _Costs:
    """Counts each function once, whoever calls it."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._known: dict[str, Work] = {}
        self._active: set[str] = set()
        self._lent: dict[str, list[tuple[int, int, int]]] = {}
        self._given: dict[str, list[int]] = {}
        self._roots: dict[int, dict[int, int]] = {}

    def function(self, name: str) -> Work:
        if name in self._known:
            return self._known[name]
        if name in self._active or len(self._active) > MAX_CALLS:
            raise Rejected("calls", "functions call each other in a circle or too deep; write the loop as lax.scan")
        self._active.add(name)
        work = self._known[name] = self._block(self._module.functions[name], name)
        self._active.discard(name)
        if work.inlined > MAX_INLINED or work.executed > MAX_EXECUTED:
            raise Rejected(
                "ops",
                f"one call compiles {work.inlined:,} operations and runs {work.executed:,}; at most "
                f"{MAX_INLINED:,} and {MAX_EXECUTED:,} are allowed: use fewer layers, shorter loops, fewer functions",
            )
        return work

    def _block(self, block: Block, function: str = "") -> Work:
        work, used = Work(), Counter(block.returned)
        for operation in reversed(block.operations):
            each = self._operation(operation)
            if not any(used[result] for result in operation.results):
                each = Work(0, each.inlined)  # tracing leaves what a gradient does not need; no compiler runs it
            else:
                used.update(_uses(operation))
            work.add(each)
        self._roots[id(block)] = roots = self._rooted(block)
        if function:
            self._given[function] = [place for place, _ in self._returned(block)]
        work.written -= self._kept_in_place(block, used, function)
        for operation in block.operations:
            if operation.name == "stablehlo.while" and any(used[result] for result in operation.results):
                kept = [place for place, _ in self._returned(operation.blocks[1])]
                work.written += sum(
                    self._module.types[value].bytes
                    for slot, value in enumerate(operation.operands)
                    if kept[slot] != slot
                    and (used[value] > 1 or roots.get(value) != value or (function and value in block.arguments))
                )
        return work

    def _rooted(self, block: Block) -> dict[int, int]:
        """Of each value of a block the value that it is, under whatever name: an argument, or what an operation wrote.
        Values from outside and constants are missing, since who changes them copies them.
        """
        roots = {argument: argument for argument in block.arguments}
        for operation in block.operations:
            sources = list[int | None]([*operation.results])
            if operation.name in ("stablehlo.reshape", "stablehlo.optimization_barrier"):
                sources = [roots.get(value) for value in operation.operands]
            elif operation.name == "stablehlo.constant":
                sources = [None]
            elif operation.name == "func.call":
                given = self._given[text(operation.attributes["callee"])]
                for index, place in enumerate(given):
                    if place != _FRESH:
                        sources[index] = None if place == _OTHER else roots.get(operation.operands[place])
            for result, source in zip(operation.results, sources, strict=True):
                if source is not None:
                    roots[result] = source
        return roots

    def _returned(self, block: Block) -> Iterator[tuple[int, int]]:
        """What a block gives back, each with its bytes: an argument, by its place; what it wrote; or anything else,
        which is what it gives back a second time too.
        """
        roots, places = self._roots[id(block)], {value: place for place, value in enumerate(block.arguments)}
        seen = set[int]()
        for value in block.returned:
            root = roots.get(value)
            other = root is None or root in seen
            yield _OTHER if other or root is None else places.get(root, _FRESH), self._module.types[value].bytes
            if root is not None:
                seen.add(root)

    def _copied(self, block: Block, *, loop: bool) -> int:
        """Bytes that a block gives back and did not write; what a loop leaves in its place is free."""
        given = enumerate(self._returned(block))
        return sum(size for slot, (place, size) in given if place != _FRESH and not (loop and place == slot))

    def _kept_in_place(self, block: Block, used: Mapping[int, int], function: str) -> int:
        """Bytes that are not copied where part of an array is changed: of one that was made here and that nobody else
        reads, or that a loop hands on to its next turn. The caller of a function lends it what it changes and returns.
        """
        fresh = {r for operation in block.operations if operation.name not in _FREE for r in operation.results}
        places = {value: place for place, value in enumerate(block.arguments)}
        returned = {value: place for place, value in enumerate(block.returned)}
        kept, lent = 0, list[tuple[int, int, int]]()
        for operation in block.operations:
            if not any(used[result] for result in operation.results):
                continue
            for array, result, saved in self._changed(operation):
                alone, place, to = used[array] == 1, places.get(array), returned.get(result)
                stays = alone and (array in fresh or place is not None and place == to)
                if alone and function and place is not None and to is not None:
                    lent.append((place, to, saved))
                    stays = True
                kept += saved * (stays - (operation.name == "func.call"))  # a function counts its loans as kept
        if function:
            self._lent[function] = lent
        return kept

    def _changed(self, operation: Operation) -> Iterator[tuple[int, int, int]]:
        """Arrays of which an operation changes a part, what that gives, and the bytes that stay as they are."""
        types = self._module.types
        if operation.name in _PART and len(operation.results) == 1:
            part = operation.operands[_PART[operation.name]]
            yield operation.operands[0], operation.results[0], types[operation.results[0]].bytes - types[part].bytes
        elif operation.name == "func.call":
            for argument, result, saved in self._lent.get(text(operation.attributes["callee"]), ()):
                yield operation.operands[argument], operation.results[result], saved

    def _operation(self, operation: Operation) -> Work:
        name, types = operation.name, self._module.types
        bytes_ = sum(types[result].bytes for result in operation.results)
        if name in ELEMENTWISE:
            size = types[operation.results[-1]].size
            return Work(size, 1, 1, bytes_, {"elementwise": size})
        work = Work(0, 1, 1, 0 if name in _FREE else bytes_)
        if operation.results and operation.results[0] in self._module.claims:
            work.add(_claimed(self._module.claims[operation.results[0]]))
        elif name == "func.call":
            work.add(self.function(text(operation.attributes["callee"])))
        elif name == "stablehlo.while":
            trips = trip_count(self._module, operation)
            for block in operation.blocks:
                work.add(self._block(block), trips)
            work.written += trips * self._copied(operation.blocks[1], loop=True)
        elif name in ("stablehlo.case", "stablehlo.if"):
            branches = [self._block(block) for block in operation.blocks]
            work.flops += max(branch.flops for branch in branches)
            work.kinds = max(branches, key=lambda branch: branch.flops).kinds
            work.inlined += sum(branch.inlined for branch in branches)
            work.executed += max(branch.executed for branch in branches)
            copied = [self._copied(block, loop=False) for block in operation.blocks]
            work.written += max(branch.written + more for branch, more in zip(branches, copied, strict=True))
        elif name in _RULES:
            bodies = [self._block(block) for block in operation.blocks]
            work.flops = _RULES[name](
                operation,
                [types[value] for value in operation.operands],
                types[operation.results[0]],
                [body.flops for body in bodies],
            )
            work.written += _reads(operation, types) if name in _READING else 0
            work.kinds = {_KINDS.get(name, "reduction"): work.flops}
            work.inlined += sum(body.inlined for body in bodies)
        return work


@cache
def _claimed(claim: "Claim") -> Work:
    """What an operation of ours does, or its derivative beyond that; counted on our own lowering of its reference."""
    from nas.kernels import crossing

    read = Reader(MAX_REFERENCE_BYTES).read
    if not claim.derivative:
        return count(read(crossing.reference(claim)))
    forward = _claimed(replace(claim, derivative=False))
    both = count(read(crossing.reference_with_derivative(claim)))
    kinds = {kind: max(0, flops - forward.kinds.get(kind, 0)) for kind, flops in both.kinds.items()}
    return Work(max(0, both.flops - forward.flops), both.inlined, both.executed, both.written, kinds)


def _uses(operation: Operation) -> Iterator[int]:
    """Values that an operation takes, those that its blocks take from outside included."""
    yield from operation.operands
    for block in operation.blocks:
        yield from block.returned
        for inner in block.operations:
            yield from _uses(inner)


def _dot(operation: Operation, operands: list[Tensor], result: Tensor, bodies: list[int]) -> int:
    from jaxlib.mlir.dialects import stablehlo

    numbers = stablehlo.DotDimensionNumbers(operation.attributes["dot_dimension_numbers"])
    return 2 * result.size * math.prod(operands[0].shape[axis] for axis in numbers.lhs_contracting_dimensions)


def _convolution(operation: Operation, operands: list[Tensor], result: Tensor, bodies: list[int]) -> int:
    from jaxlib.mlir.dialects import stablehlo

    attributes = operation.attributes
    numbers = stablehlo.ConvDimensionNumbers(attributes["dimension_numbers"])
    inputs, kernel = operands[0].shape, operands[1].shape
    rank = len(numbers.kernel_spatial_dimensions)
    strides, dilations, holes, padding = (
        list(attributes[name]) if name in attributes else default
        for name, default in (
            ("window_strides", [1] * rank),
            ("rhs_dilation", [1] * rank),
            ("lhs_dilation", [1] * rank),
            ("padding", [0] * 2 * rank),
        )
    )
    pairs = 1
    for index in range(rank):
        pairs *= _overlaps(
            inputs[numbers.input_spatial_dimensions[index]],
            kernel[numbers.kernel_spatial_dimensions[index]],
            result.shape[numbers.output_spatial_dimensions[index]],
            *(int(value[index]) for value in (strides, dilations, holes)),
            int(padding[2 * index]),
        )
    examples = inputs[numbers.input_batch_dimension] // attributes["batch_group_count"].value
    features = kernel[numbers.kernel_input_feature_dimension] * kernel[numbers.kernel_output_feature_dimension]
    return 2 * examples * features * pairs


@cache
def _overlaps(inputs: int, kernel: int, outputs: int, stride: int, dilation: int, hole: int, padding: int) -> int:
    """Pairs of output and kernel position along one axis that meet an input, neither padding nor a hole."""
    if kernel * outputs > 1 << 22:
        return kernel * outputs  # an upper bound; exact counting would take longer than it is worth
    import numpy as np

    position = np.arange(outputs)[:, None] * stride + np.arange(kernel)[None, :] * dilation - padding
    return int(((position >= 0) & (position <= (inputs - 1) * hole) & (position % hole == 0)).sum())


def _reduce(operation: Operation, operands: list[Tensor], result: Tensor, bodies: list[int]) -> int:
    return (operands[0].size - result.size) * bodies[0]


def _reduce_window(operation: Operation, operands: list[Tensor], result: Tensor, bodies: list[int]) -> int:
    return result.size * (math.prod(operation.attributes["window_dimensions"]) - 1) * bodies[0]


def _select_and_scatter(operation: Operation, operands: list[Tensor], result: Tensor, bodies: list[int]) -> int:
    window = math.prod(operation.attributes["window_dimensions"])
    return operands[1].size * ((window - 1) * bodies[0] + bodies[1])


def _scatter(operation: Operation, operands: list[Tensor], result: Tensor, bodies: list[int]) -> int:
    return operands[-1].size * bodies[0]


def _sort(operation: Operation, operands: list[Tensor], result: Tensor, bodies: list[int]) -> int:
    length = result.shape[operation.attributes["dimension"].value] if result.shape else 1
    return result.size * _log2(length) * bodies[0]


def _fourier(operation: Operation, operands: list[Tensor], result: Tensor, bodies: list[int]) -> int:
    return 5 * max(operands[0].size, result.size) * _log2(math.prod(operation.attributes["fft_length"]))


def _composite(operation: Operation, operands: list[Tensor], result: Tensor, bodies: list[int]) -> int:
    if text(operation.attributes["name"]) == "chlo.top_k":
        return operands[0].size * _log2(operands[0].shape[-1])
    return result.size


def _reads(operation: Operation, types: Sequence[Tensor]) -> int:
    """Bytes that a reduction or a sort reads."""
    read = sum(types[value].bytes for value in operation.operands)
    if "window_dimensions" in operation.attributes:
        return read * math.prod(operation.attributes["window_dimensions"])
    if operation.name == "stablehlo.sort":
        return read * _log2(types[operation.operands[0]].shape[operation.attributes["dimension"].value] or 1)
    return read


def _log2(number: int) -> int:
    return max(1, (number - 1).bit_length())


_RULES: dict[str, Callable[[Operation, list[Tensor], Tensor, list[int]], int]] = {
    "stablehlo.dot_general": _dot,
    "stablehlo.convolution": _convolution,
    "stablehlo.reduce": _reduce,
    "stablehlo.reduce_window": _reduce_window,
    "stablehlo.select_and_scatter": _select_and_scatter,
    "stablehlo.scatter": _scatter,
    "stablehlo.sort": _sort,
    "stablehlo.fft": _fourier,
    "stablehlo.composite": _composite,
}


_FREE = frozenset(
    "func.call stablehlo.case stablehlo.constant stablehlo.if stablehlo.optimization_barrier stablehlo.reshape "
    "stablehlo.while".split()
)
"""What writes nothing by itself, and may give what it was given."""
_FRESH, _OTHER = -1, -2
"""What a block gives back, if it is none of its arguments: what it wrote, or what it did not."""
_READING = frozenset(f"stablehlo.{name}" for name in "reduce reduce_window select_and_scatter sort".split())
"""What reads more than it writes, and computes nothing where its function does not."""
_PART = {"stablehlo.dynamic_update_slice": 1, "stablehlo.scatter": -1}
"""Which operand holds what is new, of an operation that changes part of its first."""

_KINDS = {
    "stablehlo.dot_general": "matmul",
    "stablehlo.convolution": "convolution",
    "stablehlo.scatter": "scatter",
    "stablehlo.sort": "sort",
    "stablehlo.fft": "fourier",
    "stablehlo.composite": "composite",
}
"""What a person would call an operation that costs FLOPs; what is not here is a reduction."""


def trip_count(module: Module, loop: Operation) -> int:
    """How often a loop runs, if it counts: from a constant, by a constant step, while below a constant.

    Raises:
      Rejected: it does not, so that how long it runs depends on data.
    """
    condition, body = loop.blocks
    test = module.producers.get(condition.returned[0])
    if test is None or test.name != "stablehlo.compare" or "LT" not in str(test.attributes["comparison_direction"]):
        raise _uncounted()
    counter, bound = test.operands
    sign = "UNSIGNED" if module.types[counter].element.startswith("u") else "SIGNED"
    if "compare_type" in test.attributes and f" {sign}>" not in str(test.attributes["compare_type"]):
        raise _uncounted()
    if counter not in condition.arguments:
        raise _uncounted()
    slot = condition.arguments.index(counter)
    if bound in condition.arguments:
        carried = condition.arguments.index(bound)
        if body.returned[carried] != body.arguments[carried]:
            raise _uncounted()
        bound = loop.operands[carried]
    update = module.producers.get(body.returned[slot])
    if update is None or update.name != "stablehlo.add" or body.arguments[slot] not in update.operands:
        raise _uncounted()
    step = update.operands[update.operands[0] == body.arguments[slot]]
    first, last, by = (_constant(module, value) for value in (loop.operands[slot], bound, step))
    trips = max(0, -((first - last) // by)) if by > 0 else MAX_EXECUTED + 1
    # A counter that wraps around below its bound would start again.
    if first + trips * by > _largest(module.types[counter].element):
        raise _uncounted()
    return trips


def _constant(module: Module, value: int) -> int:
    operation = module.producers.get(value)
    if operation is None or operation.name != "stablehlo.constant" or module.types[value].shape:
        raise _uncounted()
    if not module.types[value].element.lstrip("u").startswith("i"):
        raise _uncounted()
    return int(operation.attributes["value"][0])


def _largest(element: str) -> int:
    return 2 ** int(element.lstrip("ui")) - 1 if element.startswith("u") else 2 ** (int(element.lstrip("i")) - 1) - 1


def _uncounted() -> Rejected:
    return Rejected(
        "loop",
        "a loop runs for a number of steps that depends on data; use lax.scan, or lax.fori_loop with constant bounds",
    )
