"""What lies around a candidate in a model of sequences: embedding, residual stream, feed-forward halves, norms, head.

Runs in the tracer. No positions are learnt: a mixer that needs them brings them (RoPE, decay, a filter). A `Mixer` is
one half of a pre-norm block whose other half is a SwiGLU; a `Block` is a whole block; both are stacked `spec.depth`
times. A `Stack` is the whole middle.

Axes: B batch, T time, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nas.admit.skeleton import split_auxiliary
from nas.space import Scope, Spec


class LanguageModel(nnx.Module):
    """Token ids (B, T) to logits (B, T, V) in float32, with the auxiliary losses of all layers added up.

    The embedding has unit variance per feature where it enters the stream. Tied, it is stored with variance 1 / D,
    scaled on its way in (Gemma, arXiv 2403.08295, section 2) and is the head as it is.

    With `spec.scan` the layers are one `lax.scan`: the same parameters and values, and much less to compile; a `Stack`
    is one layer, whatever is in it. With `spec.remat` only what goes into each layer is kept for the gradients.

    Args:
      unit: the candidate's class.
      spec: sizes, and how layers are run.
      hp: values of the candidate's tunables.
      rngs: source of random keys.
      scope: `Mixer`, `Block` or `Stack`.
      tied: whether the head has the embedding's parameters.
      decoded: so many outputs follow those of the T positions, all of them told from the state at the last position
        by an MLP that knows which one is asked: the decoder of MAD's compression (Poli et al., arXiv 2403.17844).
    """

    def __init__(
        self,
        unit: type,
        spec: Spec,
        hp: Any,
        *,
        rngs: nnx.Rngs,
        scope: Scope,
        tied: bool = True,
        decoded: int = 0,
    ) -> None:
        # A stack is one layer here; those inside it are rematerialised one by one.
        self.scan, self.remat = (flag and scope != "Stack" for flag in (bool(spec.scan), spec.remat))
        start = spec.width**-0.5 if tied else 1.0
        self.scale = 1.0 / start
        self.embedding = nnx.Param(start * jax.random.normal(rngs.params(), (spec.vocab, spec.width)))
        wrap: Callable[..., nnx.Module] = MixerLayer if scope == "Mixer" else Whole
        layers = [wrap(unit, spec, hp, rngs=rngs) for _ in range(1 if scope == "Stack" else spec.depth)]
        self.layers = stacked(layers) if self.scan else nnx.List(layers)
        self.norm = nnx.RMSNorm(spec.width, rngs=rngs)
        self.head = None if tied else nnx.Linear(spec.width, spec.vocab, use_bias=False, rngs=rngs)
        self.decoder = Decoder(spec, decoded, rngs=rngs) if decoded else None

    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        h, auxiliary = self.stream(self.embedding[...][tokens] * self.scale)
        h = self.norm(h)
        if self.decoder is not None:
            h = jnp.concatenate([h, self.decoder(h[:, -1])], axis=1)
        head = self.embedding[...].T if self.head is None else self.head.kernel[...]
        return jnp.einsum("btd,dv->btv", h, head, preferred_element_type=jnp.float32), auxiliary

    def stream(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The residual stream (B, T, D) after all layers, and their auxiliary losses."""

        def apply(layer: Any, h: jax.Array) -> tuple[jax.Array, jax.Array]:
            out, auxiliary = layer(h)
            return out.astype(h.dtype), auxiliary  # a scan carries one dtype

        one = nnx.remat(apply) if self.remat else apply
        start = (h, jnp.zeros((), jnp.float32))

        def along(carry: tuple[jax.Array, jax.Array], layer: Any) -> tuple[jax.Array, jax.Array]:
            h, auxiliary = one(layer, carry[0])
            return h, carry[1] + auxiliary

        if self.scan:
            return nnx.scan(along, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(start, self.layers)
        for layer in self.layers:
            start = along(start, layer)
        return start


class MixerLayer(nnx.Module):
    """A pre-norm block of two halves: the candidate mixes positions, a SwiGLU each position's features."""

    def __init__(self, unit: type, spec: Spec, hp: Any, *, rngs: nnx.Rngs) -> None:
        self.mixer_norm = nnx.RMSNorm(spec.width, rngs=rngs)
        self.mixer = unit(spec, hp, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(spec.width, rngs=rngs)
        self.mlp = SwiGLU(spec, rngs=rngs)

    def __call__(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixed, auxiliary = same_shape(self.mixer, self.mixer_norm(h))
        h = h + mixed
        return h + self.mlp(self.mlp_norm(h)), auxiliary


class Whole(nnx.Module):
    """A candidate that brings its own norms and residuals."""

    def __init__(self, unit: type, spec: Spec, hp: Any, *, rngs: nnx.Rngs) -> None:
        self.unit = unit(spec, hp, rngs=rngs)

    def __call__(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        return same_shape(self.unit, h)


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x)), 8/3 as wide as the stream: as many parameters as an MLP of four times its width.

    Source: Shazeer, arXiv 2002.05202, equation 6, without biases.
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs) -> None:
        hidden = 8 * round(spec.width / 3)
        self.gate = nnx.Linear(spec.width, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(spec.width, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, spec.width, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Decoder(nnx.Module):
    """One state (B, D) to the states of n further outputs (B, n, D)."""

    def __init__(self, spec: Spec, count: int, *, rngs: nnx.Rngs) -> None:
        self.read = nnx.Linear(spec.width, 2 * spec.width, rngs=rngs)
        self.asked = nnx.Param(jax.random.normal(rngs.params(), (count, 2 * spec.width)))
        self.write = nnx.Linear(2 * spec.width, spec.width, rngs=rngs)

    def __call__(self, state: jax.Array) -> jax.Array:
        return self.write(jax.nn.silu(self.read(state)[:, None] + self.asked[...]))


def same_shape(unit: Any, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What a candidate makes of the stream, and its auxiliary loss.

    Raises:
      ValueError: it has another shape.
    """
    out, auxiliary = split_auxiliary(unit(h))
    if out.shape != h.shape:
        raise ValueError(f"__call__ returned shape {out.shape} for input {h.shape}; return the input's shape")
    return out, auxiliary


def stacked(layers: list[Any]) -> Any:
    """Layers that differ in their numbers alone as one, with a leading axis on every array."""
    definitions, states = zip(*(nnx.split(layer) for layer in layers), strict=True)
    if any(definition != definitions[0] for definition in definitions):
        raise ValueError("__init__ makes layers that differ in more than their numbers; let all copies have one form")
    return nnx.merge(definitions[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
