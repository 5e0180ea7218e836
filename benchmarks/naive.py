"""One candidate the naive way, in a process of its own: `python -m benchmarks.naive FILE --data FOLDER`.

In goes a candidate's file, out comes one line of JSON with its score: modules imported, the model initialised eagerly,
`nnx.jit` for the training step and for the evaluation, a Python loop over both, JAX's default threads and compile
options. Data, the order of batches and the optimiser are those of the engine, and nothing else of it is used. This is
what `benchmarks.throughput` measures the project against.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optax
from flax import nnx
from optax import contrib

from nas.space import SearchSpace, load
from nas.train.engine import rows_for
from nas.train.job import read_split


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one candidate and print its score; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.naive", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", type=Path, help="the candidate")
    parser.add_argument("--space", default="mnist1d", help="reference of the space (mnist1d)")
    parser.add_argument("--data", required=True, help="folder with the training and validation arrays")
    parser.add_argument("--steps", type=int, default=250, help="training steps (250)")
    for name, default in (("lr", 0.05), ("wd", 0.01)):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"({default})")
    parser.add_argument("--seed", type=int, default=1, help="(1)")
    parsed = parser.parse_args(arguments)
    score = train(load(parsed.space), parsed.file, parsed.data, parsed.steps, parsed.lr, parsed.wd, parsed.seed)
    print(json.dumps({"score": score}))
    return 0


def train(space: SearchSpace, file: Path, data: str, steps: int, lr: float, wd: float, seed: int) -> float:
    """Validation score of one candidate after `steps` steps, at the optimiser's averaged weights."""
    source: dict[str, Any] = {"__name__": file.stem}
    exec(compile(file.read_text("utf-8"), str(file), "exec"), source)
    model = source["Model"](space.spec, _default_values(source), rngs=nnx.Rngs(seed))
    optimizer = contrib.schedule_free_adamw(lr, warmup_steps=space.recipe.warmup, weight_decay=wd)
    state = optimizer.init(nnx.state(model, nnx.Param))

    @nnx.jit
    def step(model: Any, state: Any, x: Any, y: Any) -> Any:
        grads = nnx.grad(lambda model: space.task.loss(model(x), y).mean())(model)
        params = nnx.state(model, nnx.Param)
        updates, state = optimizer.update(grads, state, params)
        nnx.update(model, optax.apply_updates(params, updates))
        return state

    @nnx.jit
    def evaluate(model: Any, x: Any, y: Any) -> Any:
        return space.task.score(model(x), y).sum()

    examples, validation = read_split(data, "train"), read_split(data, "validation")
    model.train()
    for rows in rows_for(seed, 0, steps, len(examples.inputs), space.recipe.batch):
        state = step(model, state, examples.inputs[rows], examples.targets[rows])
    nnx.update(model, contrib.schedule_free_eval_params(state, nnx.state(model, nnx.Param)))
    model.eval()
    size, total = space.recipe.eval_batch, 0.0
    for first in range(0, len(validation.inputs), size):
        part = slice(first, first + size)
        total += float(evaluate(model, validation.inputs[part], validation.targets[part]))
    return total / len(validation.inputs)


def _default_values(source: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**{name: tunable.default for name, tunable in source.get("TUNABLES", {}).items()})


if __name__ == "__main__":
    raise SystemExit(main())
