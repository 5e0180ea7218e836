"""The default space: whole networks that read 40 noisy points and say which of ten digit-like curves they came from.

    python -m nas.search --budget 200                               seconds a candidate, minutes in all, on two cores
    python -m nas.search --space mnist1d:shuffled --budget 200      the control: positions permuted, locality gone
    python -m nas.search --space mnist1d:block --budget 200         one residual-stream block, stacked by a skeleton
    python -m nas.scale RUN --top 3 --factors 2,4                   does what was found hold where there is more?

Why the limits are what they are, and how far beyond the baselines a search gets within them: `README.md` beside this
file. The data is made by `data.py`; nothing is downloaded.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from nas.records import Real
from nas.search_spaces.mnist1d import block, data
from nas.space import Contract, Grammar, Ladder, Primitive, Recipe, SearchSpace, Spec, Task, read_sources

FOLDER = Path(__file__).parent


def loss(outputs: Any, targets: Any) -> Any:
    """Cross entropy [nats] of each example: outputs (B, 10) are logits, targets (B,) labels."""
    import jax
    import jax.numpy as jnp

    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[:, None], axis=-1)[:, 0]


def score(outputs: Any, targets: Any) -> Any:
    """1 where the largest output is the label's, else 0."""
    import jax.numpy as jnp

    return (outputs.argmax(axis=-1) == targets).astype(jnp.float32)


# ---- grammar: what the random arm samples and evolution inserts. T is read from h, since it shrinks on the way. ----

_KERNELS = (3, 5)
_STRIDES = (1, 2, 2, 4)  # at full resolution the limit on FLOPs leaves room for little after the stem
_ACTIVATIONS = ("relu", "silu", "gelu", "tanh")
_WIDTHS = ("spec.width", "3 * spec.width // 2", "2 * spec.width")

STEMS = (
    Primitive(
        name="embed",
        init="self.{name} = nnx.Linear(spec.channels, {features}, rngs=rngs)",
        call="h = self.{name}(x)",
        out="({features})",
        choices={"features": _WIDTHS},
    ),
    Primitive(
        name="convolve",
        init="self.{name} = nnx.Conv(spec.channels, {features}, ({kernel},), strides=({stride},), rngs=rngs)",
        call="h = jax.nn.{activation}(self.{name}(x))",
        out="({features})",
        choices={"features": _WIDTHS, "kernel": (5, 7, 9), "stride": _STRIDES, "activation": _ACTIVATIONS},
    ),
    Primitive(
        name="convolve_and_pool",
        init="self.{name} = nnx.Conv(spec.channels, {features}, ({kernel},), rngs=rngs)",
        call=(
            "h = jax.nn.{activation}(self.{name}(x))\nh = h.reshape(h.shape[0], -1, {size}, h.shape[2]).{pool}(axis=2)"
        ),
        out="({features})",
        choices={
            "features": _WIDTHS,
            "kernel": (3, 5, 7),
            "size": (2, 4),
            "pool": ("max", "mean"),
            "activation": _ACTIVATIONS,
        },
    ),
    Primitive(
        name="patches",
        init="self.{name} = nnx.Linear({size} * spec.channels, {features}, rngs=rngs)",
        call="h = jax.nn.{activation}(self.{name}(x.reshape(x.shape[0], -1, {size} * x.shape[2])))",
        out="({features})",
        choices={"features": _WIDTHS, "size": (2, 4, 5), "activation": _ACTIVATIONS},
    ),
    Primitive(
        name="positioned",
        init="self.{name} = nnx.Conv(spec.channels + 1, {features}, ({kernel},), strides=({stride},), rngs=rngs)",
        call=(
            "place = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, x.shape[1])[None, :, None], x.shape)\n"
            "h = jax.nn.{activation}(self.{name}(jnp.concatenate([x, place], axis=-1)))"
        ),
        out="({features})",
        choices={"features": _WIDTHS, "kernel": (3, 5, 7), "stride": _STRIDES, "activation": _ACTIVATIONS},
    ),
    Primitive(
        name="differences",
        init="self.{name} = nnx.Conv(2 * spec.channels, {features}, ({kernel},), strides=({stride},), rngs=rngs)",
        call=(
            "change = x - jnp.roll(x, 1, axis=1)\n"
            "h = jax.nn.{activation}(self.{name}(jnp.concatenate([x, change], axis=-1)))"
        ),
        out="({features})",
        choices={"features": _WIDTHS, "kernel": (3, 5, 7), "stride": _STRIDES, "activation": _ACTIVATIONS},
    ),
)

_CONVOLUTION = "nnx.Conv({width}, {width}, ({kernel},), kernel_dilation=({dilation},), rngs=rngs)"
_DILATED = {"kernel": _KERNELS, "dilation": (1, 2, 4)}

BODY = (
    Primitive(
        name="convolution",
        init="self.{name} = nnx.Conv({width}, {features}, ({kernel},), kernel_dilation=({dilation},), rngs=rngs)",
        call="h = jax.nn.{activation}(self.{name}(h))",
        out="({features})",
        choices={"features": _WIDTHS, "activation": _ACTIVATIONS, **_DILATED},
    ),
    Primitive(
        name="residual_convolution",
        init="self.{name} = " + _CONVOLUTION,
        call="h = h + jax.nn.{activation}(self.{name}(h))",
        choices={"activation": _ACTIVATIONS, **_DILATED},
    ),
    Primitive(
        name="gated_convolution",
        init="self.{name} = " + _CONVOLUTION + "\nself.{name}_gate = nnx.Linear({width}, {width}, rngs=rngs)",
        call="h = h + self.{name}(h) * jax.nn.sigmoid(self.{name}_gate(h))",
        choices=_DILATED,
    ),
    Primitive(
        name="separable_convolution",
        # A sum over taps: XLA's grouped convolutions are many times slower on a CPU.
        init=(
            "self.{name}_taps = nnx.Param(0.3 * jax.random.normal(rngs.params(), ({kernel}, {width})))\n"
            "self.{name}_point = nnx.Linear({width}, {width}, rngs=rngs)"
        ),
        call=(
            "padded = jnp.pad(h, ((0, 0), ({kernel} // 2, {kernel} // 2), (0, 0)))\n"
            "near = sum(self.{name}_taps[i] * padded[:, i : i + h.shape[1]] for i in range({kernel}))\n"
            "h = h + jax.nn.{activation}(self.{name}_point(near))"
        ),
        choices={"kernel": (5, 9), "activation": _ACTIVATIONS},
    ),
    Primitive(
        name="strided_convolution",
        init="self.{name} = nnx.Conv({width}, {features}, ({kernel},), strides=(2,), rngs=rngs)",
        call="h = jax.nn.{activation}(self.{name}(h))",
        out="({features})",
        choices={"features": _WIDTHS, "kernel": _KERNELS, "activation": _ACTIVATIONS},
    ),
    Primitive(name="halve_by_max", call="h = jnp.maximum(h[:, :-1:2], h[:, 1::2])"),
    Primitive(name="halve_by_mean", call="h = (h[:, :-1:2] + h[:, 1::2]) / 2"),
    Primitive(
        name="mlp",
        init=(
            "self.{name}_up = nnx.Linear({width}, {ratio} * {width}, rngs=rngs)\n"
            "self.{name}_down = nnx.Linear({ratio} * {width}, {width}, rngs=rngs)"
        ),
        call="h = h + self.{name}_down(jax.nn.{activation}(self.{name}_up(h)))",
        choices={"ratio": (1, 2), "activation": _ACTIVATIONS},
    ),
    Primitive(
        name="pointwise",
        init="self.{name} = nnx.Linear({width}, {features}, rngs=rngs)",
        call="h = jax.nn.{activation}(self.{name}(h))",
        out="({features})",
        choices={"features": _WIDTHS, "activation": _ACTIVATIONS},
    ),
    Primitive(
        name="mix_positions",
        # Parameters for all T of the input; what has been shortened uses the first of them.
        init=(
            "self.{name}_read = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, {rank})))\n"
            "self.{name}_write = nnx.Param(0.2 * jax.random.normal(rngs.params(), (spec.length, {rank})))"
        ),
        call=(
            "gathered = jnp.einsum('btd,tr->brd', h, self.{name}_read[: h.shape[1]])\n"
            "h = h + jnp.einsum('brd,tr->btd', jax.nn.{activation}(gathered), self.{name}_write[: h.shape[1]])"
        ),
        choices={"rank": (2, 4), "activation": _ACTIVATIONS},
    ),
    Primitive(
        name="attention",
        init=(
            "self.{name}_query = nnx.Linear({width}, {size}, rngs=rngs)\n"
            "self.{name}_key = nnx.Linear({width}, {size}, rngs=rngs)\n"
            "self.{name}_value = nnx.Linear({width}, {width}, rngs=rngs)"
        ),
        call=(
            "match = jnp.einsum('btk,bsk->bts', self.{name}_query(h), self.{name}_key(h)) / {size} ** 0.5\n"
            "h = h + jax.nn.softmax(match, axis=-1) @ self.{name}_value(h)"
        ),
        choices={"size": (4, 8)},
    ),
    Primitive(
        name="gated_recurrence",
        init="self.{name} = nnx.Linear({width}, 2 * {width}, rngs=rngs)",
        call=(
            "value, gate = jnp.split(self.{name}(h), 2, axis=-1)\n"
            "keep = jax.nn.sigmoid(gate)\n"
            "inflow = jnp.stack([keep, (1 - keep) * value]).swapaxes(1, 2)\n"
            "h = h + lax.scan(lambda s, i: (i[0] * s + i[1], i[0] * s + i[1]), 0 * h[:, 0],"
            " inflow.swapaxes(0, 1))[1].swapaxes(0, 1)"
        ),
    ),
    Primitive(
        name="gru",
        init=(  # the default initialiser calls a linear algebra library, which no program may
            "start = nnx.initializers.lecun_normal()\n"
            "self.{name} = nnx.GRUCell({width}, {width}, recurrent_kernel_init=start, rngs=rngs)"
        ),
        call="h = lax.scan(lambda s, i: self.{name}(s, i), 0 * h[:, 0], h.swapaxes(0, 1))[1].swapaxes(0, 1)",
    ),
    Primitive(
        name="squeeze_excite",
        init="self.{name} = nnx.Linear({width}, {width}, rngs=rngs)",
        call="h = h * jax.nn.sigmoid(self.{name}(h.mean(axis=1, keepdims=True)))",
    ),
    Primitive(name="fourier", call="h = h + jnp.fft.fft(h, axis=1).real / h.shape[1] ** 0.5"),
    Primitive(name="shift", call="h = h + jnp.roll(h, {steps}, axis=1)", choices={"steps": (-2, -1, 1, 2)}),
    Primitive(name="layer_norm", init="self.{name} = nnx.LayerNorm({width}, rngs=rngs)", call="h = self.{name}(h)"),
    Primitive(name="rms_norm", init="self.{name} = nnx.RMSNorm({width}, rngs=rngs)", call="h = self.{name}(h)"),
    Primitive(
        name="batch_norm",
        init="self.{name} = nnx.BatchNorm({width}, momentum=0.9, rngs=rngs)",
        call="h = self.{name}(h)",
    ),
    Primitive(
        name="dropout",
        init="self.{name} = nnx.Dropout({rate}, rngs=rngs)",
        call="h = self.{name}(h)",
        choices={"rate": (0.05, 0.1, 0.2)},
    ),
    Primitive(
        name="activation", call="h = jax.nn.{function}(h)", choices={"function": (*_ACTIVATIONS, "leaky_relu", "elu")}
    ),
)

SHORTENING = ("strided_convolution", "halve_by_max", "halve_by_mean")
"""Names of the blocks after which the series is shorter."""

_HEAD = "self.{name} = nnx.Linear({width}, spec.classes, rngs=rngs)"
_WIDE_HEAD = "self.{name} = nnx.Linear({parts} * {width}, spec.classes, rngs=rngs)"

HEADS = (
    Primitive(name="mean", init=_HEAD, call="return self.{name}(h.mean(axis=1))", out="spec.classes"),
    Primitive(name="max", init=_HEAD, call="return self.{name}(h.max(axis=1))", out="spec.classes"),
    Primitive(name="last", init=_HEAD, call="return self.{name}(h[:, -1])", out="spec.classes"),
    Primitive(
        name="mean_and_max",
        init=_WIDE_HEAD.replace("{parts}", "2"),
        call="return self.{name}(jnp.concatenate([h.mean(axis=1), h.max(axis=1)], axis=-1))",
        out="spec.classes",
    ),
    Primitive(
        name="attention_pool",
        init="self.{name}_score = nnx.Linear({width}, {width}, rngs=rngs)\n" + _HEAD,
        call="return self.{name}((h * jax.nn.softmax(self.{name}_score(h), axis=1)).sum(axis=1))",
        out="spec.classes",
    ),
    Primitive(
        name="segments",
        init=_WIDE_HEAD,
        call=(
            "h = jnp.pad(h, ((0, 0), (0, -h.shape[1] % {parts}), (0, 0)))\n"
            "h = h.reshape(h.shape[0], {parts}, -1, h.shape[2])\n"
            "return self.{name}(h.{pool}(axis=2).reshape(h.shape[0], -1))"
        ),
        out="spec.classes",
        choices={"parts": (2, 4, 5), "pool": ("mean", "max")},
    ),
)

GUIDANCE = """\
Each example is a series of T = 40 points with one feature: one of ten fixed curves of 12 points (its class), stretched
to between a half and a third of a window, scaled in height by 0.8 to 1.2, placed anywhere on it (it may wrap around
the end), tilted by a random straight line, with a little noise on every point and smooth noise, as large as the curve
itself, wherever the curve is not. Standardised over the data set. 4,000 training examples, 20,000 to validate on.

What that asks for: find a short pattern wherever it is, tell it from smooth noise that looks like a piece of it, and
do not be misled by height or slope. Absolute position says nothing. A pattern covers 12 to 20 points, so a network must
see that far. Classes differ in the order of rises, plateaus and falls.

What is scarce: FLOPs and parameters, both small (see the limits), and steps: 250 at the first rung, 4,000 at the last.
At full resolution one convolution from 4 to 4 features with kernel 5 costs 6,400 FLOPs, more than half of what there
is, so where resolution is given up, and how, decides most. Strided layers that see each shift differently, flattened
outputs and long recurrences waste it; all training examples are seen a hundred times, so what memorises also overfits.

What is not scarce: ideas on pooling (mean, max, both, attention, moments), sharing weights between scales or layers,
cheap mixing (shifts, sums over taps, depthwise, low rank), gates, norms, derivatives and integrals of the series,
fixed filters followed by few learnt ones. Large learning rates (0.05 to 0.2) suit networks this small: keep the
gradients at the start well scaled.
"""

_TASK = Task(split=data.split, loss=loss, score=score, metric="accuracy", bound=0.99)
"""The bound: people read 96 %, the published networks at most 94 % (README of greydanus/mnist1d, 2024)."""


# ---- scale: what `nas.scale` makes larger. Task, validation, test and every source stay as they are. ----


def _grown(space: SearchSpace, times: int, **spec: int) -> SearchSpace:
    """The space with another spec, and so many times the limits."""
    contract = space.contract
    limits = {name: getattr(contract, name) for name in ("max_params", "max_flops", "max_memory_bytes")}
    larger = {name: limit and times * limit for name, limit in limits.items()}
    return dataclasses.replace(
        space, spec=dataclasses.replace(space.spec, **spec), contract=dataclasses.replace(contract, **larger)
    )


def wider(space: SearchSpace, factor: int) -> SearchSpace:
    """`factor` times the features; limits grow by its square, as no layer whose cost is quadratic in them exceeds."""
    return _grown(space, factor**2, width=factor * space.spec.width)


def deeper(space: SearchSpace, factor: int) -> SearchSpace:
    """`factor` times the blocks, and the limits with them."""
    return _grown(space, factor, depth=factor * space.spec.depth)


def more_data(space: SearchSpace, factor: int) -> SearchSpace:
    """`factor` times the training examples, in as many steps: each is seen that much less often."""
    split: Any = space.task.split
    before = getattr(split, "keywords", {}).get("times", 1)  # of a space that was made larger already
    more = functools.partial(split, times=factor * before)
    return dataclasses.replace(space, task=dataclasses.replace(space.task, split=more))


def more_steps(space: SearchSpace, factor: int) -> SearchSpace:
    """Every rung `factor` times as far."""
    steps = tuple(factor * step for step in space.ladder.steps)
    return dataclasses.replace(space, ladder=dataclasses.replace(space.ladder, steps=steps))


_SCALE = {"width": wider, "data": more_data, "steps": more_steps}
"""Depth is no axis of whole networks: they say themselves how many layers they have. It is one of blocks."""

SPACE = SearchSpace(
    name="mnist1d",
    version=1,
    scope="Model",
    spec=Spec(length=data.LENGTH, channels=1, classes=data.CLASSES, width=4, depth=2),
    task=_TASK,
    contract=Contract(input_shape=(data.LENGTH, 1), output_shape=(data.CLASSES,), max_params=1_200, max_flops=12_000),
    recipe=Recipe(batch=100, eval_batch=2_000, lr=Real(1e-2, 3e-1, log=True), wd=Real(1e-4, 1e-1, log=True)),
    ladder=Ladder(steps=(250, 1_000, 4_000), eta=4, draws=3),
    grammar=Grammar(stem=STEMS, body=BODY, head=HEADS, blocks=(1, 3)),
    baselines=read_sources(FOLDER / "baselines"),
    guidance=GUIDANCE,
    credible_gain=0.25,
    scale=_SCALE,
)

VARIANTS = {
    "shuffled": dataclasses.replace(
        SPACE,
        name="mnist1d:shuffled",
        task=dataclasses.replace(_TASK, split=functools.partial(data.split, shuffled=True)),
        guidance=(
            "The 40 positions are permuted, the same way in every example, so neighbours mean nothing.\n"
            "Before that, this was the task:\n\n" + GUIDANCE
        ),
    ),
    "block": dataclasses.replace(
        SPACE,
        name="mnist1d:block",
        scope="Block",
        spec=dataclasses.replace(SPACE.spec, width=8),
        contract=dataclasses.replace(SPACE.contract, max_params=2_000, max_flops=80_000),
        grammar=Grammar(
            stem=(Primitive(name="input", call="h = x"),),
            body=tuple(primitive for primitive in BODY if primitive.name not in SHORTENING),
            head=(Primitive(name="residual", call="return x + h"), Primitive(name="plain", call="return h")),
            blocks=(1, 3),
        ),
        baselines=block.BASELINES,
        scale={"width": wider, "depth": deeper, "data": more_data, "steps": more_steps},
        guidance=(
            "You write one block of a stack of two: (B, 40, 8) to (B, 40, 8), full resolution throughout; its output "
            "is averaged over positions by the skeleton, which also embeds each point with its place.\n\n" + GUIDANCE
        ),
    ),
}
