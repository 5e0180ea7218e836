"""Toy space of scope Block, scored by an error, lower is better: the product of a series' first and last value."""

from typing import Any

import numpy as np

from nas.records import Real
from nas.space import Contract, Grammar, Ladder, Primitive, Recipe, SearchSpace, Spec, Split, Task

SIZES = {"train": 256, "validation": 128, "test": 128}


def split(name: str) -> Split:
    rng = np.random.default_rng(10 + list(SIZES).index(name))
    inputs = rng.normal(size=(SIZES[name], 6, 1)).astype(np.float32)
    return Split(inputs, inputs[:, 0] * inputs[:, -1])


def error(outputs: Any, targets: Any) -> Any:
    return ((outputs - targets) ** 2).mean(axis=-1)


HEADER = "from nas.api import jax, nnx\n\n\n"
MLP = f'''"""Residual MLP on each position."""
{HEADER}class Block(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.up = nnx.Linear(spec.width, 2 * spec.width, rngs=rngs)
        self.down = nnx.Linear(2 * spec.width, spec.width, rngs=rngs)

    def __call__(self, x):
        return x + self.down(jax.nn.gelu(self.up(x)))
'''

GRAMMAR = Grammar(
    stem=(Primitive(name="input", call="h = x"),),
    body=(
        Primitive(name="dense", init="self.{name} = nnx.Linear({width}, {width}, rngs=rngs)",
                  call="h = h + jax.nn.gelu(self.{name}(h))"),
        Primitive(name="roll", call="h = h * jax.nn.tanh(jnp.roll(h, {steps}, axis=1))", choices={"steps": (1, 2, 3)}),
        Primitive(name="norm", init="self.{name} = nnx.RMSNorm({width}, rngs=rngs)", call="h = self.{name}(h)"),
    ),
    head=(Primitive(name="residual", init="self.{name} = nnx.Linear({width}, {width}, rngs=rngs)",
                    call="return x + self.{name}(h)"),),
    blocks=(1, 2),
)  # fmt: skip

SPACE = SearchSpace(
    name="toy_block",
    version=1,
    scope="Block",
    spec=Spec(length=6, channels=1, classes=1, width=4, depth=2),
    task=Task(split=split, loss=error, score=error, metric="squared error", maximize=False),
    contract=Contract(input_shape=(6, 1), output_shape=(1,), max_params=500, max_flops=20_000),
    recipe=Recipe(batch=32, eval_batch=64, warmup=5, lr=Real(1e-2, 3e-1, log=True)),
    ladder=Ladder(steps=(10, 20), eta=2),
    grammar=GRAMMAR,
    baselines={"mlp": MLP},
    guidance="The target is the product of the first and the last of six values.",
    baseline_seeds=2,
)
