"""Toy space of scope Mixer, causal, with token ids as input: which token stood two positions before?"""

from typing import Any

import numpy as np

from nas.records import Real
from nas.space import Contract, Grammar, Ladder, Primitive, Recipe, SearchSpace, Spec, Split, Task

SIZES = {"train": 256, "validation": 128, "test": 128}
VOCAB, LENGTH, BACK = 5, 12, 2


def split(name: str) -> Split:
    rng = np.random.default_rng(20 + list(SIZES).index(name))
    inputs = rng.integers(VOCAB, size=(SIZES[name], LENGTH)).astype(np.int32)
    targets = np.full_like(inputs, -1)  # where there is nothing to recall, nothing is scored
    targets[:, BACK:] = inputs[:, :-BACK]
    return Split(inputs, targets)


def loss(outputs: Any, targets: Any) -> Any:
    import jax
    import jax.numpy as jnp

    chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    return -(chosen * (targets >= 0)).sum(axis=-1) / (LENGTH - BACK)


def score(outputs: Any, targets: Any) -> Any:
    right = (outputs.argmax(axis=-1) == targets) & (targets >= 0)
    return right.sum(axis=-1) / (LENGTH - BACK)


HEADER = "from nas.api import jax, jnp, nnx\n\n\n"
SHIFT = f'''"""What stood one position before, through a linear layer."""
{HEADER}class Mixer(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.out = nnx.Linear(spec.width, spec.width, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1])
'''
CONVOLUTION = f'''"""A causal convolution."""
{HEADER}class Mixer(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.mix = nnx.Conv(spec.width, spec.width, (3,), padding="CAUSAL", rngs=rngs)

    def __call__(self, x):
        return self.mix(x)
'''

GRAMMAR = Grammar(
    stem=(Primitive(name="input", call="h = x"),),
    body=(
        Primitive(name="dense", init="self.{name} = nnx.Linear({width}, {width}, rngs=rngs)",
                  call="h = self.{name}(h)"),
        Primitive(name="before", call="h = jnp.pad(h, ((0, 0), ({steps}, 0), (0, 0)))[:, : h.shape[1]]",
                  choices={"steps": (1, 2, 3)}),
        Primitive(name="sum", call="h = jnp.cumsum(h, axis=1) / h.shape[1]"),
    ),
    head=(Primitive(name="output", init="self.{name} = nnx.Linear({width}, {width}, rngs=rngs)",
                    call="return self.{name}(h)"),),
    blocks=(1, 2),
)  # fmt: skip

SPACE = SearchSpace(
    name="toy_mixer",
    version=1,
    scope="Mixer",
    spec=Spec(length=LENGTH, vocab=VOCAB, classes=VOCAB, width=8, depth=1, heads=2),
    task=Task(split=split, loss=loss, score=score, metric="accuracy"),
    contract=Contract(
        input_shape=(LENGTH,), input_dtype="int32", output_shape=(LENGTH, VOCAB), causal=True, max_flops=50_000
    ),
    recipe=Recipe(batch=32, eval_batch=64, warmup=5, lr=Real(1e-2, 3e-1, log=True)),
    ladder=Ladder(steps=(10, 20), eta=2),
    grammar=GRAMMAR,
    baselines={"shift": SHIFT, "convolution": CONVOLUTION},
    guidance="At every position, recall the token that stood two positions before.",
    baseline_seeds=2,
)
