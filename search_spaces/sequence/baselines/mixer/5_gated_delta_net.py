"""The gated delta rule: what is written replaces what its key held before, and everything fades by a learnt gate.

Source: Yang et al., Gated DeltaNet, arXiv 2412.06464, equation 10 and figure 1; ours: keys half as wide as values, for
the parameters of attention.
"""

from nas.api import jax, jnp, nnx
from nas.kernels import delta_rule, short_convolution


def unit(x):
    return x / jnp.sqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)


class Mixer(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D, H = spec.width, spec.heads
        self.heads = H
        self.into = nnx.Linear(D, 2 * D, use_bias=False, rngs=rngs)  # query, key and value
        self.taps = nnx.Param(0.5 * jax.random.normal(rngs.params(), (4, 2 * D)))
        self.strength = nnx.Linear(D, H, rngs=rngs)
        self.step = nnx.Linear(D, H, rngs=rngs)
        self.rate = nnx.Param(jnp.log(jnp.linspace(1.0, 16.0, H)))
        self.gate = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.norm = nnx.RMSNorm(D // H, rngs=rngs)
        self.out = nnx.Linear(D, D, use_bias=False, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        B, T, D = x.shape
        mixed = jax.nn.silu(short_convolution(self.into(x), self.taps[...]))
        query, key, value = jnp.split(mixed, (D // 2, 2 * (D // 2)), axis=-1)
        query = unit(query.reshape(B, T, self.heads, -1))
        key = unit(key.reshape(B, T, self.heads, -1))
        value = value.reshape(B, T, self.heads, -1)
        strength = jax.nn.sigmoid(self.strength(x).astype(jnp.float32))
        log_decay = -jnp.exp(self.rate[...]) * jax.nn.softplus(self.step(x).astype(jnp.float32) - 4.0)
        mixed = delta_rule(query, key, value, strength, log_decay)
        return self.out(self.norm(mixed).reshape(B, T, D) * jax.nn.silu(self.gate(x)))
