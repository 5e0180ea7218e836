"""A training step behind the wall against the same step written by hand: `python -m benchmarks.step`.

Three architectures of published size (MLP 100-100, CNN 25-25-25 with stride 2, GRU 50), batch 100. The engine's step
comes out of a traced, exported and checked program, joined by `custom_vjp`; the one by hand is a plain function of
the parameters in `jnp` and `lax`, differentiated by `jax.grad`. Optimiser, loss, batches, compile options, donation
and driver (`lax.scan` over a chunk of steps or a Python loop, as planned for the program) are the same on both sides,
which take turns; that they compute the same is checked first. One thread, as in a trial.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report, unlimited
from nas.admit import Admitted
from nas.execute.local import LocalExecutor
from nas.flows import preload
from nas.train.engine import Engine, plan, rows_for

TARGET = 1.05
"""Ratio of the engine's milliseconds a step to those by hand."""
NUMBERS = {"lr": 0.03, "wd": 0.01, "seed": 1}
AGREE_STEPS = 50
AGREE = 0.02
"""Steps after which the mean losses may differ by this share at most; rounding grows from step to step."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table; returns 0 whether the target is reached or not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=list(BY_HAND), default=list(BY_HAND), help="(all)")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each side (15)")
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long a turn lasts (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parsed = parser.parse_args(arguments)
    os.environ.setdefault("NPROC", "1")
    os.environ["JAX_PLATFORMS"] = "cpu"
    with LocalExecutor(workers=1, preload=preload(unlimited.SPACE)) as executor:
        admitted = {name: unlimited.admit_network(executor, name) for name in parsed.networks}
    figures = {}
    for name, found in admitted.items():
        print(f"measuring {name}", file=sys.stderr)
        figures[name] = compare(name, found, parsed.repeats, parsed.seconds)
    rows = [
        [
            name, found["mode"], *(found[side][kind]["median"] for kind in ("cpu_ms", "wall_ms") for side in SIDES),
            found["cpu_ratio"]["median"], "{:.2f} … {:.2f}".format(*found["cpu_ratio"]["quartiles"]),
            found["wall_ratio"]["median"], "yes" if found["cpu_ratio"]["median"] <= TARGET else "no",
        ]
        for name, found in figures.items()
    ]  # fmt: skip
    columns = ["network", "mode", "engine CPU ms", "by hand", "engine wall ms", "by hand", "CPU ratio", "middle half"]
    print(report.table([*columns, "wall ratio", f"≤ {TARGET}"], rows))
    if parsed.json:
        settings = {
            "repeats": parsed.repeats,
            "seconds": parsed.seconds,
            "target": TARGET,
            "nproc": os.environ["NPROC"],
        }
        report.write(parsed.json, "step", settings, figures)
    return 0


SIDES = ("engine", "by hand")


def compare(name: str, admitted: Admitted, repeats: int, seconds: float) -> dict[str, Any]:
    """Milliseconds a step on both sides and the ratios of neighbouring turns.

    Raises:
      AssertionError: the two sides do not compute the same.
    """
    space, facts = unlimited.SPACE, admitted.facts
    train, validation = (space.task.split(split) for split in ("train", "validation"))
    how = plan(frozenset(facts["traits"]), facts["cost"]["flops"], space, len(validation.inputs), "cpu")
    arguments = (space, dict(admitted.blobs), facts["param_leaves"], train, validation, how)
    engines = {"engine": Engine(*arguments), "by hand": _ByHand(*arguments, outputs=BY_HAND[name])}
    _check_agreement(name, engines)
    turns = {side: _Turn(engine) for side, engine in engines.items()}
    steps = how.chunk * max(1, round(seconds / turns["engine"].seconds_a_step() / how.chunk))
    measured: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    for repeat in range(repeats):
        for side in SIDES if repeat % 2 else reversed(SIDES):
            measured[side].append(turns[side].run(steps))
    found: dict[str, Any] = {"mode": how.mode, "steps_a_turn": steps}
    for index, kind in enumerate(("cpu", "wall")):
        for side in SIDES:
            times = [turn[index] for turn in measured[side]]
            found.setdefault(side, {})[f"{kind}_ms"] = report.spread(times)._asdict()
        ratios = [engine[index] / hand[index] for engine, hand in zip(*measured.values(), strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)[::2] if repeats > 1 else 2 * ratios
        found[f"{kind}_ratio"] = report.spread(ratios)._asdict() | {"quartiles": quartiles}
    return found


class _ByHand(Engine):
    """The engine with a step that knows the network instead of an exported program."""

    def __init__(self, *arguments: Any, outputs: Callable[[Any, Any], Any]) -> None:
        super().__init__(*arguments)
        self.outputs = outputs

    def step_function(self) -> Any:
        import jax
        import jax.numpy as jnp
        import optax

        task, outputs = self.space.task, self.outputs

        def step(carry: Any, numbers: Any, data: Any, rows: Any) -> Any:
            params, state, opt, count = carry
            lr, wd, _ = numbers
            x, y = data[0][rows], data[1][rows]
            loss, grads = jax.value_and_grad(lambda params: task.loss(outputs(params, x), y).mean())(params)
            updates, opt = self.optimizer(lr, wd).update(grads, opt, params)
            return (optax.apply_updates(params, updates), state, opt, count + jnp.uint32(1)), loss

        return step


def _carry(engine: Engine) -> Any:
    import jax

    return jax.tree.map(jax.numpy.asarray, (*engine.init(NUMBERS["seed"]), np.uint32(0)))


def _check_agreement(name: str, engines: dict[str, Engine]) -> None:
    found = {}
    for side, engine in engines.items():
        _, losses = engine.train(NUMBERS, 0, AGREE_STEPS, _carry(engine))
        found[side] = float(np.mean(losses))
    one, other = found.values()
    assert abs(one - other) <= AGREE * abs(other), (
        f"{name}: mean losses {json.dumps(found)} are not those of one network"
    )


class _Turn:
    """Runs steps of one side, with the rows of every step drawn beforehand."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.carry = engine, _carry(engine)
        self.executable = engine.compiled_step(self.carry)
        self.numbers = (np.float32(NUMBERS["lr"]), np.float32(NUMBERS["wd"]), np.uint32(NUMBERS["seed"]))

    def seconds_a_step(self) -> float:
        """CPU seconds, after a few steps to warm up."""
        self.run(self.engine.how.chunk)
        return max(1e-5, self.run(2 * self.engine.how.chunk)[0] / 1e3)

    def run(self, steps: int) -> tuple[float, float]:
        """CPU and wall milliseconds a step."""
        import jax

        how, carry, loss = self.engine.how, self.carry, None
        rows = rows_for(NUMBERS["seed"], 0, steps, self.engine.count, self.engine.space.recipe.batch)
        calls = rows.reshape(-1, how.chunk, rows.shape[1]) if how.mode == "scan" else rows
        cpu, wall = time.process_time(), time.perf_counter()
        for call in calls:
            carry, loss = self.executable(carry, self.numbers, self.engine.data, call)
        jax.block_until_ready((carry, loss))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        self.carry = carry  # the arrays it held were donated
        return 1e3 * cpu / steps, 1e3 * wall / steps


# Parameters come in the order of the program: by the names of the network's attributes, bias before kernel.


def _mlp(params: Any, x: Any) -> Any:
    import jax

    first_bias, first, head_bias, head, second_bias, second = params
    h = jax.nn.relu(x.reshape(x.shape[0], -1) @ first + first_bias)
    h = h + jax.nn.relu(h @ second + second_bias)
    return h @ head + head_bias


def _cnn(params: Any, x: Any) -> Any:
    import jax

    first_bias, first, head_bias, head, second_bias, second, third_bias, third = params
    h = x
    for kernel, bias in ((first, first_bias), (second, second_bias), (third, third_bias)):
        h = jax.lax.conv_general_dilated(h, kernel, (2,), [(1, 1)], dimension_numbers=("NTC", "TIO", "NTC"))
        h = jax.nn.relu(h + bias)
    return h.reshape(h.shape[0], -1) @ head + head_bias


def _gru(params: Any, x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    recurrent, bias, kernel, head_bias, head = params

    def cell(state: Any, point: Any) -> Any:
        from_point = jnp.split(point @ kernel + bias, 3, axis=-1)
        from_state = jnp.split(state @ recurrent, 3, axis=-1)
        reset = jax.nn.sigmoid(from_point[0] + from_state[0])
        keep = jax.nn.sigmoid(from_point[1] + from_state[1])
        new = jnp.tanh(from_point[2] + reset * from_state[2])
        return (1 - keep) * new + keep * state, None

    state, _ = jax.lax.scan(cell, jnp.zeros((x.shape[0], recurrent.shape[0])), x.swapaxes(0, 1))
    return state @ head + head_bias


BY_HAND: dict[str, Callable[[Any, Any], Any]] = {"mlp": _mlp, "cnn": _cnn, "gru_50": _gru}


if __name__ == "__main__":
    raise SystemExit(main())
