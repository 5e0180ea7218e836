"""What we count as memory of a training step beside what XLA takes: `python -m benchmarks.memory`.

counted  parameters with the optimiser's copies, state and residuals, from the program (`nas.admit.program`) [KiB]
taken    of the compiled step: its own carry and what it needs besides while it runs, data left out [KiB]
ratio    taken over counted; what XLA needs for a moment (unfused results, padding) is not counted
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from nas.admit.gate import check as gate
from nas.admit.program import check
from nas.admit.trace import trace
from nas.records import Failure, defaults
from nas.space import load
from nas.train.engine import Engine, plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--space", nargs="+", default=["mnist1d", "recall"], help="whose baselines are measured")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these baselines alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parsed = parser.parse_args(arguments)
    os.environ.setdefault("NPROC", "1")  # as in a trainer
    rows = [
        _measured(reference, name)
        for reference in parsed.space
        for name in load(reference).baselines
        if parsed.only is None or name in parsed.only
    ]
    print(report.table(list(rows[0]), [list(row.values()) for row in rows]))
    if parsed.json:
        report.write(parsed.json, "memory", {"space": parsed.space}, {"rows": rows})
    return 0


def _measured(reference: str, name: str) -> dict[str, Any]:
    import jax
    import numpy as np

    space = load(reference)
    source = space.baselines[name]
    traced = trace(space, source, defaults(gate(source, space.scope).tunables))
    if isinstance(traced, Failure):
        raise ValueError(f"{name}: {traced}")
    program = check(*traced, space.contract, space.recipe)
    if isinstance(program, Failure):
        raise ValueError(f"{name}: {program}")
    train, validation = space.task.split("train"), space.task.split("validation")
    how = plan(program.traits, program.cost.flops, space, len(validation.inputs), "cpu")
    engine = Engine(space, *traced, train, validation, how)
    carry = engine.placed([(*engine.init(0), np.uint32(0))])[0]
    own = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(carry))
    taken = own + engine.compiled_step(carry).memory_analysis().temp_size_in_bytes
    counted = program.cost.memory_bytes
    return {"space": space.name, "baseline": name, "counted": counted >> 10, "taken": taken >> 10,
            "ratio": taken / counted}  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
