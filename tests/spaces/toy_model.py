"""Toy space of scope Model: which of two features rises? It trains in a blink."""

from typing import Any

import numpy as np

from nas.records import Real
from nas.space import Contract, Grammar, Ladder, Primitive, Recipe, SearchSpace, Spec, Split, Task

SIZES = {"train": 256, "validation": 128, "test": 128}


def split(name: str) -> Split:
    rng = np.random.default_rng(list(SIZES).index(name))
    targets = rng.integers(2, size=SIZES[name]).astype(np.int32)
    inputs = rng.normal(size=(SIZES[name], 8, 2)).astype(np.float32)
    inputs[np.arange(SIZES[name]), :, targets] += np.linspace(-1.0, 1.0, 8, dtype=np.float32)
    return Split(inputs, targets)


def loss(outputs: Any, targets: Any) -> Any:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def score(outputs: Any, targets: Any) -> Any:
    return (outputs.argmax(axis=-1) == targets).astype(outputs.dtype)


HEADER = "from nas.api import jax, nnx\n\n\n"
LINEAR = f'''"""One linear layer on everything."""
{HEADER}class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.head = nnx.Linear(spec.length * spec.channels, spec.classes, rngs=rngs)

    def __call__(self, x):
        return self.head(x.reshape(x.shape[0], -1))
'''
POOLED = f'''"""A convolution and the mean of what it finds."""
{HEADER}class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.find = nnx.Conv(spec.channels, spec.width, (3,), rngs=rngs)
        self.head = nnx.Linear(spec.width, spec.classes, rngs=rngs)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.find(x)).mean(axis=1))
'''

GRAMMAR = Grammar(
    stem=(Primitive(name="embed", init="self.{name} = nnx.Linear(spec.channels, spec.width, rngs=rngs)",
                    call="h = self.{name}(x)", out="spec.width"),),
    body=(
        Primitive(name="dense", init="self.{name} = nnx.Linear({width}, {width}, rngs=rngs)",
                  call="h = jax.nn.{function}(self.{name}(h))", choices={"function": ("relu", "tanh")}),
        Primitive(name="near", init="self.{name} = nnx.Conv({width}, {width}, (3,), rngs=rngs)",
                  call="h = h + self.{name}(h)"),
        Primitive(name="dropout", init="self.{name} = nnx.Dropout({rate}, rngs=rngs)", call="h = self.{name}(h)",
                  choices={"rate": Real(0.05, 0.2)}),
    ),
    head=(
        Primitive(name="last", init="self.{name} = nnx.Linear({width}, spec.classes, rngs=rngs)",
                  call="return self.{name}(h[:, -1])", out="spec.classes"),
        Primitive(name="mean", init="self.{name} = nnx.Linear({width}, spec.classes, rngs=rngs)",
                  call="return self.{name}(h.mean(axis=1))", out="spec.classes"),
    ),
    blocks=(1, 2),
)  # fmt: skip

SPACE = SearchSpace(
    name="toy_model",
    version=1,
    scope="Model",
    spec=Spec(length=8, channels=2, classes=2, width=4, depth=1),
    task=Task(split=split, loss=loss, score=score, metric="accuracy"),
    contract=Contract(input_shape=(8, 2), output_shape=(2,), max_params=500, max_flops=20_000),
    recipe=Recipe(batch=32, eval_batch=64, warmup=5, lr=Real(1e-2, 3e-1, log=True)),
    ladder=Ladder(steps=(10, 20, 40), eta=2, draws=2),
    grammar=GRAMMAR,
    baselines={"linear": LINEAR, "pooled": POOLED},
    guidance="One of two features rises by 2 over 8 positions, under noise of deviation 1; the label says which.",
    baseline_seeds=2,
)
