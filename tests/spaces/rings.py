"""A space that trains in a blink: is a point of eight coordinates inside a sphere? For tests of the engine and loop."""

import dataclasses
import functools
from typing import Any

import numpy as np

from nas.space import Contract, Grammar, Ladder, Primitive, Recipe, SearchSpace, Spec, Split, Task


def split(name: str, times: int = 1) -> Split:
    rng = np.random.default_rng({"train": 0, "validation": 1, "test": 2}[name])
    x = rng.normal(size=(400 * (times if name == "train" else 1), 8, 1)).astype(np.float32)
    return Split(x, (np.linalg.norm(x[:, :, 0], axis=1) > 2.7).astype(np.int32))


RADII = (1.8, 2.2, 2.5, 2.7, 3.0)


def several(name: str) -> Split:
    """The same question for several spheres, one task after the other."""
    rng = np.random.default_rng({"train": 0, "validation": 1, "test": 2}[name])
    x = rng.normal(size=(len(RADII) * 200, 8, 1)).astype(np.float32)
    radius = np.repeat(RADII, 200)
    return Split(x, (np.linalg.norm(x[:, :, 0], axis=1) > radius).astype(np.int32))


def few(name: str) -> Split:
    """So few examples to validate on that a candidate can know them by heart."""
    whole = split(name)
    return whole if name != "validation" else Split(whole.inputs[:40], whole.targets[:40])


def loss(outputs: Any, targets: Any) -> Any:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def score(outputs: Any, targets: Any) -> Any:
    return (outputs.argmax(-1) == targets).astype("float32")


LINEAR = '''"""Linear in the coordinates."""
from nas.api import nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.head = nnx.Linear(spec.length, spec.classes, rngs=rngs)

    def __call__(self, x):
        return self.head(x.reshape(x.shape[0], -1))
'''

MLP = '''"""One hidden layer, whose width is Optuna's to choose."""
from nas.api import choice, jnp, nnx

TUNABLES = {"hidden": choice(8, 4, 16)}


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.up = nnx.Linear(spec.length, hp.hidden, rngs=rngs)
        self.down = nnx.Linear(hp.hidden, spec.classes, rngs=rngs)

    def __call__(self, x):
        h = x.reshape(x.shape[0], -1)
        return self.down(jnp.tanh(self.up(h)))
'''

WIDE = '''"""One hidden layer of the space's width."""
from nas.api import jnp, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.up = nnx.Linear(spec.length, spec.width, rngs=rngs)
        self.down = nnx.Linear(spec.width, spec.classes, rngs=rngs)

    def __call__(self, x):
        return self.down(jnp.tanh(self.up(x.reshape(x.shape[0], -1))))
'''

GRAMMAR = Grammar(
    stem=[
        Primitive(
            name="embed",
            init="self.{name} = nnx.Linear(spec.channels, {features}, rngs=rngs)",
            call="h = self.{name}(x)",
            out="{features}",
            choices={"features": (4, 6, 8)},
        )
    ],
    body=[
        Primitive(
            name="dense",
            init="self.{name} = nnx.Linear({width}, {width}, rngs=rngs)",
            call="h = jax.nn.{act}(self.{name}(h))",
            choices={"act": ("relu", "tanh", "silu")},
        ),
        Primitive(name="square", call="h = h * h"),
        Primitive(name="norm", init="self.{name} = nnx.LayerNorm({width}, rngs=rngs)", call="h = self.{name}(h)"),
    ],
    head=[
        Primitive(
            name=f"{pool}_pool",
            init="self.{name} = nnx.Linear({width}, spec.classes, rngs=rngs)",
            call="return self.{name}(h." + pool + "(axis=1))",
        )
        for pool in ("mean", "max")
    ],
    blocks=(1, 3),
)


def wider(space: SearchSpace, factor: int) -> SearchSpace:
    """The limit stays, so that at some factor it is met."""
    return dataclasses.replace(space, spec=dataclasses.replace(space.spec, width=factor * space.spec.width))


def more_data(space: SearchSpace, factor: int) -> SearchSpace:
    task = dataclasses.replace(space.task, split=functools.partial(split, times=factor))
    return dataclasses.replace(space, task=task)


def more_steps(space: SearchSpace, factor: int) -> SearchSpace:
    steps = tuple(factor * step for step in space.ladder.steps)
    return dataclasses.replace(space, ladder=dataclasses.replace(space.ladder, steps=steps))


SPACE = SearchSpace(
    name="rings",
    version=1,
    scope="Model",
    spec=Spec(length=8, channels=1, classes=2, width=8, depth=1),
    task=Task(split=split, loss=loss, score=score, metric="accuracy"),
    contract=Contract(input_shape=(8, 1), output_shape=(2,), max_params=400),
    recipe=Recipe(batch=20, eval_batch=200, warmup=5),
    ladder=Ladder(steps=(20, 60, 120), eta=3, draws=2),
    grammar=GRAMMAR,
    baselines={"linear": LINEAR, "mlp": MLP},
    baseline_seeds=2,
    scale={"width": wider, "data": more_data, "steps": more_steps},
)

VARIANTS = {
    "hopeless": dataclasses.replace(SPACE, contract=dataclasses.replace(SPACE.contract, max_flops=40)),
    "tasks": dataclasses.replace(
        SPACE,
        name="rings:tasks",
        task=dataclasses.replace(SPACE.task, split=several, parts=tuple(f"radius {radius}" for radius in RADII)),
    ),
    "few": dataclasses.replace(
        SPACE,
        name="rings:few",
        task=dataclasses.replace(SPACE.task, split=few),
        recipe=dataclasses.replace(SPACE.recipe, eval_batch=40),
        ladder=Ladder(steps=(20,)),
    ),
    "doubting": dataclasses.replace(
        SPACE,
        name="rings:doubting",
        task=dataclasses.replace(SPACE.task, bound=0.2),
        ladder=Ladder(steps=(20,), draws=2),
    ),
    "growing": dataclasses.replace(SPACE, name="rings:growing", baselines={"linear": LINEAR, "wide": WIDE}),
}
"""Hopeless: only the linear baseline fits. Tasks: five, each learnt by itself. Few: 40
examples to validate on. Doubting: every score is too good to be believed at once. Growing: a baseline reads the width;
beyond four times it is too large."""
