"""One accelerator, what it gives and what a search gets of it: `python -m benchmarks.accelerator --json FILE`.

Three figures, each beside what it is measured against: the training step of byte_lm's transformer, through the wall, as
a share of the FLOP/s that a large matrix product reaches in the same dtype; the seconds from source text to the first
step; and what training several seeds of one program at once (`jax.vmap`) would save, for a step written without the
wall, since an exported program has no batching rule. With `--space byte_lm` it runs on a CPU too, in the CPU's size.
`benchmarks/gpu.sh` runs this, the kernels and a search.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks import report
from nas.admit.gate import check as gate
from nas.admit.program import check
from nas.admit.trace import execute, functions, trace
from nas.records import Failure, Program, defaults
from nas.space import SearchSpace, load
from nas.train.engine import Engine, plan

SHARE = 0.4
"""Of the ceiling that the training step should reach on a GPU."""
NUMBERS = {"lr": 3e-3, "wd": 0.01, "seed": 1}
SEEDS = (1, 2, 4, 8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table; returns 0 whether the share is reached or not."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--space", default="byte_lm?size=gpu", metavar="SPACE", help="(byte_lm?size=gpu)")
    parser.add_argument("--baseline", default="attention", metavar="NAME", help="whose step is timed (attention)")
    parser.add_argument("--chunks", type=int, default=6, metavar="N", help="timed chunks of steps (6)")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS), metavar="K", help="at once (1 2 4 8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parsed = parser.parse_args(arguments)
    space = load(parsed.space)
    figures: dict[str, Any] = {"device": device()}
    print(f"measuring {parsed.baseline} on {figures['device']['kind']}", file=sys.stderr)

    def keep(name: str, found: Any) -> None:
        """Write what there is so far: a later part may want more memory than there is, or more time."""
        figures[name] = found
        if parsed.json:
            settings = {"space": parsed.space, "baseline": parsed.baseline, "chunks": parsed.chunks, "share": SHARE}
            report.write(parsed.json, "accelerator", settings, figures)

    keep("ceiling", ceiling(space.spec.dtype))
    keep("step", step(space, parsed.baseline, parsed.chunks, figures["ceiling"]["flops_per_s"]))
    seeds: dict[int, dict[str, Any]] = {}
    for count, one in seeds_at_once(space, parsed.baseline, parsed.seeds):
        seeds[count] = one
        keep("seeds", seeds)
    rows = [
        ["matrix product", f"{figures['ceiling']['flops_per_s'] / 1e12:.2f} TFLOP/s", space.spec.dtype],
        [
            "training step",
            f"{1e3 * figures['step']['step_s']:.2f} ms",
            f"{figures['step']['share']:.0%} of the ceiling",
        ],
        [
            "text to first step",
            f"{figures['step']['ready_s']:.1f} s",
            f"compiling {figures['step']['compile_s']:.1f} s",
        ],
        *(_row(count, one) for count, one in seeds.items()),
    ]
    print(report.table(["what", "measured", "which is"], rows))
    return 0


def _row(count: int, one: dict[str, Any]) -> list[str]:
    name = f"{count} seeds at once"
    if "error" in one:
        return [name, "failed", one["error"][:60]]
    each = f"{one['per_seed']:.2f} of one seed's, each" if one["per_seed"] else ""
    return [name, f"{1e3 * one['step_s']:.2f} ms", each]


def device() -> dict[str, Any]:
    """What JAX computes on here."""
    import jax

    one = jax.devices()[0]
    stats = one.memory_stats() or {}
    return {"platform": one.platform, "kind": one.device_kind, "count": jax.device_count(),
            "memory_bytes": stats.get("bytes_limit")}  # fmt: skip


def platform() -> str:
    """JAX's name of this platform for export."""
    import jax

    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())


def ceiling(dtype: str) -> dict[str, float]:
    """FLOP/s of a square matrix product, the best of ten; bytes/s of a copy, read and written."""
    import jax
    import jax.numpy as jnp

    size = 8192 if platform() != "cpu" else 1024
    a = jnp.ones((size, size), dtype)
    b = jnp.ones((size * size * 4,), jnp.float32 if platform() != "cpu" else jnp.int8)
    product, copy = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1)
    return {"size": size, "flops_per_s": 2 * size**3 / _fastest(product, a),
            "bytes_per_s": 2 * b.nbytes / _fastest(copy, b)}  # fmt: skip


def _fastest(function: Callable[[Any], Any], argument: Any, repeats: int = 10) -> float:
    import jax

    jax.block_until_ready(function(argument))
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        found.append(time.perf_counter() - began)
    return min(found)


def step(space: SearchSpace, name: str, chunks: int, flops_per_s: float) -> dict[str, Any]:
    """A baseline's training step as a search runs it."""
    began, source = time.perf_counter(), space.baselines[name]
    found = trace(space, source, defaults(gate(source, space.scope).tunables), platform())
    assert not isinstance(found, Failure), found
    program = check(*found, space.contract, space.recipe, platform())
    assert isinstance(program, Program), program
    admitted = time.perf_counter() - began
    train, validation = space.task.split("train"), space.task.split("validation")
    began = time.perf_counter()
    how = plan(program.traits, program.cost.flops, space, len(validation.inputs), platform())
    engine = Engine(space, *found, train, validation, how)
    (carry,) = engine.placed([(*engine.init(1), np.uint32(0))])
    engine.compiled_step(carry)
    compiled = time.perf_counter() - began
    times, start, losses = list[float](), 0, list[float]()
    for _ in range(chunks + 1):
        began = time.perf_counter()
        carry, losses = engine.train(NUMBERS, start, start + how.chunk, carry)
        start += how.chunk
        times.append((time.perf_counter() - began) / how.chunk)
    took = statistics.median(times[1:])
    reached = program.cost.train_flops * space.recipe.batch / took
    return {"params": program.cost.params, "train_flops": program.cost.train_flops * space.recipe.batch,
            "step_s": took, "steps_s": times, "flops_per_s": reached, "share": reached / flops_per_s,
            "ready_s": admitted + compiled, "compile_s": compiled, "last_loss": losses[-1]}  # fmt: skip


def seeds_at_once(space: SearchSpace, name: str, counts: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Seconds of a step of so many seeds in one `jax.vmap`, plain code, no wall; one count after the other.

    Yields:
      The count, and `step_s` with `per_seed`, relative to one seed's (None where that was not measured before); or
      `error`, what the device said where it could not, for instance for want of memory.
    """
    import jax
    import jax.numpy as jnp
    from optax import contrib

    source = space.baselines[name]
    values = SimpleNamespace(**defaults(gate(source, space.scope).tunables))
    candidate = functions(space, execute(source, space.scope), values)
    batch = space.task.split("validation")
    x, y = (jnp.asarray(np.resize(part, (space.recipe.microbatch, *part.shape[1:]))) for part in batch)
    rule = contrib.schedule_free_adamw(3e-3, warmup_steps=10)

    def one(params: Any, opt: Any, seed: Any) -> Any:
        def objective(params: Any) -> Any:
            output, auxiliary, _ = candidate.apply(params, (), x, seed, True)
            return space.task.loss(output, y).mean() + auxiliary

        loss, grads = jax.value_and_grad(objective)(params)
        updates, opt = rule.update(grads, opt, params)
        return jax.tree.map(lambda p, u: p + u, params, updates), opt, loss

    def measured(count: int) -> float:
        seeds = jnp.arange(count, dtype=jnp.uint32)
        params = jax.vmap(lambda seed: candidate.init(seed)[0])(seeds)
        opt = jax.vmap(rule.init)(params)
        run = jax.jit(jax.vmap(one))
        return _fastest(lambda arguments: run(*arguments), (params, opt, seeds), repeats=5)

    alone = None
    for count in counts:
        try:
            took = measured(count)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            yield count, {"error": " ".join(str(error).split())[:200]}
            continue
        alone = took if count == 1 else alone
        yield count, {"step_s": took, "per_seed": took / count / alone if alone else None}


if __name__ == "__main__":
    raise SystemExit(main())
