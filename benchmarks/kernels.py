"""How fast the operations of `nas.kernels` are on this device: `python -m benchmarks.kernels`.

For every case that fits, the reference and what runs in its place take turns, forwards, and forwards and backwards as
in a training step: one program that gives the outputs and the cotangents of the arrays for given cotangents of the
outputs. A ratio is the median over neighbouring turns. FLOPs are those of the reference's lowering (`nas.admit.cost`),
bytes those of arguments and results: what the work needs at least, whoever does it. Both are set against ceilings
measured here, in the same way: a matrix product in the case's dtype, and a copy larger than any cache. On CPU times are
CPU seconds, since a busy machine lengthens the others.

Before that both are compared: what they give in the last of these programs, within what `tests/test_kernels.py` allows,
since the tests see no accelerator. There products of float32 are taken in full for it, and not in those that are timed.
Nothing is read or kept, and no device is looked for: the one that JAX takes is measured.
"""

import argparse
import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report

KINDS = ("forward", "both")
PRODUCT = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
"""Rows of the square matrices whose product is the ceiling, by JAX's name of the backend."""
COPY_BYTES = {"cpu": 2**28, "gpu": 2**31, "tpu": 2**30}
PASSES = 16
ROUNDINGS = 2
"""Roundings of the dtype that an error may have, times the root of `Op.summed`, times the largest expected number."""
MOST_WORK = {"cpu": 3e10, "gpu": 1e14, "tpu": 1e14}
"""FLOPs of a case's forward pass beyond which it is left out: seconds for each of many turns."""
MEMORY = {"cpu": 4e9, "gpu": 1.2e10, "tpu": 1.2e10}
"""Bytes that a program may need for its intermediate results; a case whose reference needs more is left out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table; returns 1 if a faster version computes something else, else 0."""
    from nas import kernels

    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--op", action="append", choices=kernels.NAMES, metavar="NAME", help="only this one (all)")
    parser.add_argument("--case", action="append", metavar="NAME", help="only cases of this name (those not tests')")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each side (7)")
    parser.add_argument("--seconds", type=float, default=0.3, help="about how long a turn lasts (0.3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parsed = parser.parse_args(arguments)
    if parsed.repeats < 1:
        parser.error(f"--repeats is {parsed.repeats}; it must be at least 1")
    turns = Turns(repeats=parsed.repeats, seconds=parsed.seconds)
    ceilings = Ceilings(turns)
    figures: dict[str, dict[str, Any]] = {}
    device = {"kind": _device().device_kind, "backend": _backend(), "clock": turns.clock}
    settings = {"repeats": parsed.repeats, "seconds": parsed.seconds, **device, "ceilings": ceilings.found}

    def keep() -> None:
        """Write what there is so far: a later case may want more time or memory than there is."""
        if parsed.json:
            report.write(parsed.json, "kernels", settings, figures)

    for name in parsed.op or kernels.NAMES:
        op = kernels.load(name)
        for case in chosen(op, parsed.case):
            print(f"measuring {name}, {case}", file=sys.stderr)
            figures.setdefault(name, {})[case] = measure(op, case, turns, ceilings)
            keep()
    print(f"{device['kind']} ({device['backend']}), {turns.clock} milliseconds; ceilings: {ceilings}\n")
    print(table(figures))
    keep()
    wrong = [f"{name} {case}" for name, cases in figures.items() for case, found in cases.items() if is_wrong(found)]
    if wrong:
        print(f"other values than the reference's: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def chosen(op: Any, names: Sequence[str] | None) -> list[str]:
    """The cases of these names, or those too large for a test; on CPU without those of a GPU, whose dtype is slow."""
    from nas.kernels.op import SMALL

    large = [name for name, case in op.cases.items() if sum(math.prod(a.shape) for a in case.arrays) > SMALL]
    ours = [name for name in large if not (_backend() == "cpu" and name.startswith("gpu"))]
    return [name for name in op.cases if name in names] if names else ours


class Turns:
    """Several functions without arguments, in turns."""

    def __init__(self, *, repeats: int, seconds: float) -> None:
        self.repeats, self.seconds = repeats, seconds
        self.clock = "CPU" if _backend() == "cpu" else "wall"

    def take(self, functions: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
        """Seconds a call of each, turn by turn; all are called once before."""
        calls = {name: max(1, math.ceil(self.seconds / self._time(run, 1))) for name, run in functions.items()}
        found: dict[str, list[float]] = {name: [] for name in functions}
        for repeat in range(self.repeats):
            for name in list(functions)[:: 1 if repeat % 2 else -1]:
                found[name].append(self._time(functions[name], calls[name]))
        return found

    def _time(self, run: Callable[[], Any], calls: int) -> float:
        import jax

        now = time.process_time if self.clock == "CPU" else time.perf_counter
        jax.block_until_ready(run())  # compiled, and whatever the other side left is done
        start, result = now(), None
        for _ in range(calls):
            result = run()
        jax.block_until_ready(result)
        return max(1e-6, (now() - start) / calls)


class Ceilings:
    """What the device reaches where nothing is in the way, measured when it is first asked for."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.found: dict[str, float] = {}

    def flops(self, dtype: str) -> float:
        """FLOP/s of a matrix product."""
        import jax
        import jax.numpy as jnp

        if dtype not in self.found:
            rows = PRODUCT[_backend()]
            matrix = jnp.ones((rows, rows), dtype)
            self.found[dtype] = 2 * rows**3 / self._median(jax.jit(jnp.matmul), matrix, matrix)
        return self.found[dtype]

    def bandwidth(self) -> float:
        """Bytes/s of reading and writing an array again and again, so that new pages do not count."""
        import jax
        import jax.numpy as jnp

        if "copy" not in self.found:
            array = jnp.zeros(COPY_BYTES[_backend()] // 4, "float32")
            passes = jax.jit(lambda array: jax.lax.fori_loop(0, PASSES, lambda _, array: array + 1, array))
            self.found["copy"] = 2 * PASSES * array.nbytes / self._median(passes, array)
        return self.found["copy"]

    def _median(self, function: Callable[..., Any], *arrays: Any) -> float:
        return statistics.median(self._turns.take({"": functools.partial(function, *arrays)})[""])

    def __str__(self) -> str:
        parts = [f"{value / 1e9:.0f} GFLOP/s ({name})" for name, value in self.found.items() if name != "copy"]
        return ", ".join([*parts, f"{self.bandwidth() / 1e9:.1f} GB/s (copy)"])


def measure(op: Any, name: str, turns: Turns, ceilings: Ceilings) -> dict[str, Any]:
    """The figures of one case, or why there are none."""
    import jax
    import jax.numpy as jnp

    case, settings = op.cases[name], op.settings(op.cases[name].settings)
    platform = "cuda" if _backend() == "gpu" else _backend()
    rng = np.random.default_rng(0)
    sides = {"reference": (op.direct(""), True)}
    listed = platform in op.fast or platform in op.fast_vjp
    why = op.supports(platform, case.arrays, settings) if listed else "nothing is listed for this device"
    if not why:
        sides["fast"] = (op.direct(platform), False)
    plain = functools.partial(op.reference, **settings)
    outputs = jax.tree.leaves(jax.eval_shape(plain, *case.arrays))
    found: dict[str, Any] = {"no_fast": why} if why else {}
    for kind in KINDS:
        work = _flops(programs(plain, kind), case.arrays, outputs)
        if work > MOST_WORK[_backend()] * (1 if kind == "forward" else 4):
            return found | {"left_out": f"{work:.1e} FLOPs"}
        found[kind] = {"flops": work, "bytes": _bytes(kind, case.arrays, outputs)}
    avals = [*case.arrays, *outputs]
    compiled = {
        (side, kind): jax.jit(programs(functools.partial(function, **settings), kind)).lower(*avals).compile()
        for side, (function, _) in sides.items()
        for kind in KINDS
    }
    memory = {key: _memory(program) for key, program in compiled.items()}
    if max(memory.values()) > MEMORY[_backend()]:
        return found | {"left_out": f"{max(memory.values()) / 1e9:.0f} GB"}
    arrays = [jnp.asarray(a, aval.dtype) for a, aval in zip(op.draw(case, rng), case.arrays, strict=True)]
    arrays += [jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) for leaf in outputs]
    if not why:
        found["errors"] = _errors(op, name, plain, functools.partial(sides["fast"][0], **settings), compiled, arrays)
    ceiling = ceilings.flops(str(case.arrays[0].dtype)), ceilings.bandwidth()
    for kind in KINDS:
        times = turns.take({side: functools.partial(compiled[side, kind], *arrays) for side in sides})
        for side, seconds in times.items():
            median = statistics.median(seconds)
            found[kind][side] = {
                "ms": report.spread([1e3 * each for each in seconds])._asdict(),
                "flops_per_s": found[kind]["flops"] / median,
                "bytes_per_s": found[kind]["bytes"] / median,
                "flops_share": found[kind]["flops"] / median / ceiling[0],
                "bytes_share": found[kind]["bytes"] / median / ceiling[1],
                "memory_bytes": memory[side, kind],
            }
        if not why:
            ratios = [one / other for one, other in zip(times["fast"], times["reference"], strict=True)]
            found[kind]["ratio"] = report.spread(ratios)._asdict()
    return found


def _errors(
    op: Any, name: str, reference: Any, fast: Any, compiled: Mapping[tuple[str, str], Any], arrays: Sequence[Any]
) -> list[dict[str, float | None]]:
    """For each output and cotangent of a fast version its error; the programs that are timed serve where they can."""
    import jax

    from nas.kernels.op import is_floating

    case = op.cases[name]
    inputs, dtype = arrays[: len(case.arrays)], case.arrays[0].dtype
    if _backend() == "cpu" or dtype.itemsize < 4:
        one, other = (compiled[side, "both"](*arrays) for side in ("reference", "fast"))
    else:  # whose products a device may round to fewer digits
        with jax.default_matmul_precision("highest"):
            one, other = (jax.jit(programs(function, "both"))(*arrays) for function in (reference, fast))
    terms = op.summed(*(array.shape for array in case.arrays))
    largest = max(array.size for array in inputs)
    summed = [terms for _ in jax.tree.leaves(one[0])]
    summed += [terms * largest / array.size for array in inputs if is_floating(array)]
    pairs = zip(jax.tree.leaves(other), jax.tree.leaves(one), summed, strict=True)
    return [error(got, expected, count, dtype) for got, expected, count in pairs]


def error(got: Any, expected: Any, terms: float, dtype: Any) -> dict[str, float | None]:
    """The largest difference, None if it is no number, and what is allowed."""
    import jax.numpy as jnp

    found, wanted = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    largest = float(np.abs(found - wanted).max())
    eps, scale = float(jnp.finfo(dtype).eps), max(1e-3, float(np.abs(wanted).max()))
    allowed = ROUNDINGS * eps * max(1.0, terms) ** 0.5 * scale
    return {"largest": largest if math.isfinite(largest) else None, "allowed": allowed}


def is_wrong(found: Mapping[str, Any]) -> bool:
    """Whether a case's faster version is further from the reference than is allowed."""
    return any(one["largest"] is None or not one["largest"] <= one["allowed"] for one in found.get("errors", ()))


def programs(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """A function of (*arrays, *cotangents of the outputs): the outputs, and if both, the cotangents of the arrays."""
    import jax

    from nas.kernels.op import value_and_pullback

    def run(*values: Any) -> Any:
        count = len(values) - 1  # every operation has one output
        if kind == "forward":
            return jax.tree.leaves(function(*values[:count]))
        return value_and_pullback(function, values[:count], values[count:])

    return run


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each operation, case and kind, within 80 columns; shares are those of the faster side.

    Where that computes something else, WRONG stands for a ratio.
    """
    rows = []
    for name, cases in figures.items():
        for case, found in cases.items():
            where = f"{SHORT.get(name, name)} {case}"
            if "left_out" in found:
                rows.append([where, "left out: " + found["left_out"], *[None] * 6])
                continue
            for kind in KINDS:
                reference, fast = found[kind]["reference"], found[kind].get("fast")
                best = fast or reference
                shares = (f"{100 * best[share]:.0f}" for share in ("flops_share", "bytes_share"))
                ratio = "WRONG" if is_wrong(found) else found[kind]["ratio"]["median"] if fast else None
                rows.append(
                    [where if kind == "forward" else "", "f" if kind == "forward" else "f+b"]
                    + [reference["ms"]["median"], fast and fast["ms"]["median"], ratio, *shares]
                    + [f"{best['memory_bytes'] / 1e6:.0f}"]
                )
    columns = ["operation and case", "", "ref. ms", "ours ms", "ratio", "FLOP %", "byte %", "MB"]
    return report.table(columns, rows)


SHORT = {"gated_linear_attention": "gated_linear"}


def _flops(function: Callable[..., Any], arrays: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Of the lowering for CPU, as a candidate's are counted."""
    from nas.admit import cost, stablehlo
    from nas.kernels.crossing import COUNTED, lowered

    read = stablehlo.Reader(cost.MAX_REFERENCE_BYTES).read
    return cost.count(read(lowered(function, [*arrays, *outputs], COUNTED))).flops


def _bytes(kind: str, arrays: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Arrays in and outputs out; backwards the arrays and cotangents in, and cotangents out."""
    inputs, results = (sum(math.prod(x.shape) * x.dtype.itemsize for x in xs) for xs in (arrays, outputs))
    return inputs + results if kind == "forward" else 3 * inputs + 2 * results


def _memory(program: Any) -> int:
    """Bytes of intermediate results; 0 where the backend does not say."""
    return getattr(program.memory_analysis(), "temp_size_in_bytes", 0)


def _backend() -> str:
    import jax

    return jax.default_backend()


def _device() -> Any:
    import jax

    return jax.devices()[0]


if __name__ == "__main__":
    raise SystemExit(main())
