"""Toy space of scope Stack: whether there are more positive than negative values; the candidate is the whole middle."""

from typing import Any

import numpy as np

from nas.records import Choice, Real
from nas.space import Contract, Grammar, Ladder, Primitive, Recipe, SearchSpace, Spec, Split, Task

SIZES = {"train": 256, "validation": 128, "test": 128}


def split(name: str) -> Split:
    rng = np.random.default_rng(30 + list(SIZES).index(name))
    inputs = rng.normal(size=(SIZES[name], 7, 1)).astype(np.float32)
    return Split(inputs, ((inputs > 0).sum(axis=(1, 2)) > 3).astype(np.int32))


def loss(outputs: Any, targets: Any) -> Any:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def score(outputs: Any, targets: Any) -> Any:
    return (outputs.argmax(axis=-1) == targets).astype(outputs.dtype)


MIXED = '''"""Dense layers and short convolutions in turn."""

from nas.api import choice, jax, nnx

TUNABLES = {"kernel": choice(3, 5)}


class Stack(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        layers = []
        for index in range(spec.depth):
            if index % 2 == 0:
                layers.append(nnx.Linear(spec.width, spec.width, rngs=rngs))
            else:
                layers.append(nnx.Conv(spec.width, spec.width, (hp.kernel,), rngs=rngs))
        self.layers = nnx.List(layers)

    def __call__(self, x):
        for layer in self.layers:
            x = x + jax.nn.tanh(layer(x))
        return x
'''

GRAMMAR = Grammar(
    stem=(Primitive(name="input", call="h = x"),),
    body=(
        Primitive(name="dense", init="self.{name} = nnx.Linear({width}, {width}, rngs=rngs)",
                  call="h = h + jax.nn.tanh(self.{name}(h))"),
        Primitive(name="near", init="self.{name} = nnx.Conv({width}, {width}, ({kernel},), rngs=rngs)",
                  call="h = h + self.{name}(h)", choices={"kernel": Choice((3, 5))}),
    ),
    head=(Primitive(name="output", init="self.{name} = nnx.Linear({width}, {width}, rngs=rngs)",
                    call="return self.{name}(h)"),),
    blocks=(1, 3),
)  # fmt: skip

SPACE = SearchSpace(
    name="toy_stack",
    version=1,
    scope="Stack",
    spec=Spec(length=7, channels=1, classes=2, width=4, depth=2),
    task=Task(split=split, loss=loss, score=score, metric="accuracy"),
    contract=Contract(input_shape=(7, 1), output_shape=(2,), max_params=500, max_flops=20_000),
    recipe=Recipe(batch=32, eval_batch=64, warmup=5, lr=Real(1e-2, 3e-1, log=True)),
    ladder=Ladder(steps=(10, 20), eta=2),
    grammar=GRAMMAR,
    baselines={"mixed": MIXED},
    guidance="Whether there are more positive than negative values among seven.",
    baseline_seeds=2,
)
