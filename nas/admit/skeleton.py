"""What lies around a candidate that is not a whole model: embedding, positions, norms, residuals, head.

Runs in the tracer. `Mixer` is one sublayer of a residual block, `Block` one whole block; both are stacked
`spec.depth` times, each copy with its own parameters. `Stack` is the whole middle of the network. A space may bring a
skeleton of its own (`SearchSpace.skeleton`); it receives the same arguments as `Skeleton`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nas.space import SearchSpace, Spec


def assemble(space: SearchSpace, unit: type, hp: Any, *, rngs: nnx.Rngs) -> Any:
    """Make the network to train from a candidate's class: the class itself, or the skeleton with it inside."""
    if space.scope == "Model":
        return unit(space.spec, hp, rngs=rngs)
    if space.skeleton is not None:
        return space.skeleton(unit, space.spec, hp, rngs=rngs)
    per_position = len(space.contract.output_shape) == 2
    return Skeleton(unit, space.spec, hp, rngs=rngs, scope=space.scope, per_position=per_position)


class Skeleton(nnx.Module):
    """Embedding with learnt positions, the candidate, a norm and a linear head.

    Args:
      unit: the candidate's class.
      spec: sizes; the embedding is (B, T, D) with D = `spec.width`.
      hp: values of the candidate's tunables.
      rngs: source of random keys.
      scope: `Mixer`, `Block` or `Stack`.
      per_position: whether the head predicts at every position (B, T, classes), or once from the mean over T.
    """

    def __init__(self, unit: type, spec: Spec, hp: Any, *, rngs: nnx.Rngs, scope: str, per_position: bool) -> None:
        self.per_position = per_position
        if spec.vocab:
            self.embed: nnx.Module = nnx.Embed(spec.vocab, spec.width, rngs=rngs)
        else:
            self.embed = nnx.Linear(spec.channels, spec.width, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (spec.length, spec.width)))
        count = 1 if scope == "Stack" else spec.depth
        wrap: Callable[..., Any] = MixerBlock if scope == "Mixer" else _plain
        self.blocks = nnx.List(wrap(unit, spec, hp, rngs=rngs) for _ in range(count))
        self.norm = nnx.RMSNorm(spec.width, rngs=rngs)
        self.head = nnx.Linear(spec.width, spec.classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = self.embed(x) + self.positions  # (B, T, D)
        auxiliary = jnp.zeros((), jnp.float32)
        for block in self.blocks:
            out, extra = split_auxiliary(block(h))
            if out.shape != h.shape:
                raise ValueError(f"__call__ returned shape {out.shape} for input {h.shape}; return the input's shape")
            h, auxiliary = out, auxiliary + extra
        h = self.norm(h)
        return self.head(h if self.per_position else h.mean(axis=1)), auxiliary


class MixerBlock(nnx.Module):
    """The candidate as the mixing half of a pre-norm residual block; the other half is an MLP of twice the width."""

    def __init__(self, unit: type, spec: Spec, hp: Any, *, rngs: nnx.Rngs) -> None:
        self.norm = nnx.RMSNorm(spec.width, rngs=rngs)
        self.mixer = unit(spec, hp, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(spec.width, rngs=rngs)
        self.up = nnx.Linear(spec.width, 2 * spec.width, rngs=rngs)
        self.down = nnx.Linear(2 * spec.width, spec.width, rngs=rngs)

    def __call__(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixed, auxiliary = split_auxiliary(self.mixer(self.norm(h)))
        if mixed.shape != h.shape:
            raise ValueError(f"__call__ returned shape {mixed.shape} for input {h.shape}; return the input's shape")
        h = h + mixed
        return h + self.down(jax.nn.gelu(self.up(self.mlp_norm(h)))), auxiliary


def _plain(unit: type, spec: Spec, hp: Any, *, rngs: nnx.Rngs) -> Any:
    return unit(spec, hp, rngs=rngs)


def split_auxiliary(returned: Any) -> tuple[jax.Array, jax.Array]:
    """What a candidate returned, as (output, auxiliary loss); without one it is 0.

    Raises:
      ValueError: it is neither an array nor a pair of an array and a scalar.
    """
    output, auxiliary = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, 0.0)
    if not isinstance(output, jax.Array):
        raise ValueError(f"__call__ returned {type(output).__name__}; return an array, or (array, auxiliary loss)")
    auxiliary = jnp.asarray(auxiliary, jnp.float32)
    if auxiliary.shape != ():
        raise ValueError(f"the auxiliary loss has shape {auxiliary.shape}; return a scalar")
    return output, auxiliary
