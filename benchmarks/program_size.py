"""How the check of a program grows with its size: `python -m benchmarks.program_size`.

Residual networks of more and more layers are traced and checked, each in this process.

    trace   CPU seconds of tracing, which is JAX's work and Flax's
    check   CPU seconds of our check of the four artifacts (`nas.admit.program`), the fastest of three
    growth  by which power of the size the check grows from the row before; 1 is linear, which is aimed at
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import report
from nas.admit.program import check
from nas.admit.trace import trace
from nas.records import Failure
from nas.space import load

_SOURCE = '''"""So many layers."""
from nas.api import jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.embed = nnx.Linear(spec.channels, 8, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(LAYERS)])
        self.head = nnx.Linear(8, spec.classes, rngs=rngs)

    def __call__(self, x):
        h = self.embed(x)
        for layer in self.layers:
            h = h + jnp.tanh(layer(h))
        return self.head(h.mean(axis=1))
'''


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.program_size", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 20, 40, 80, 160], help="sizes (10 … 160)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parsed = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for layers in parsed.layers:
        rows.append(_measured(layers))
        before = rows[-2] if len(rows) > 1 else None
        rows[-1]["growth"] = before and math.log(rows[-1]["check_s"] / before["check_s"]) / math.log(
            layers / before["layers"]
        )
    print(report.table(list(rows[0]), [list(row.values()) for row in rows]))
    if parsed.json:
        report.write(parsed.json, "program_size", {"layers": parsed.layers}, {"rows": rows})
    return 0


def _measured(layers: int) -> dict[str, Any]:
    space = load("mnist1d")
    space = replace(space, contract=replace(space.contract, max_params=None, max_flops=None))
    began = time.process_time()
    traced = trace(space, _SOURCE.replace("LAYERS", str(layers)), {})
    trace_s = time.process_time() - began
    if isinstance(traced, Failure):
        raise ValueError(f"{layers} layers: {traced}")
    fastest = math.inf
    for _ in range(3):
        began = time.process_time()
        found = check(*traced, space.contract, space.recipe)
        fastest = min(fastest, time.process_time() - began)
        if isinstance(found, Failure):
            raise ValueError(f"{layers} layers: {found}")
    size = sum(len(blob) for blob in traced[0].values())
    return {"layers": layers, "kib": size >> 10, "trace_s": trace_s, "check_s": fastest, "growth": None}


if __name__ == "__main__":
    raise SystemExit(main())
