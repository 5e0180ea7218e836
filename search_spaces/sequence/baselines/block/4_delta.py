"""The gated delta rule, then a SwiGLU, each behind a norm and beside a residual.

Source: Yang et al., Gated DeltaNet, arXiv 2412.06464, equation 10 and figure 1; ours: keys half as wide as values.
"""

from nas.api import jax, jnp, nnx
from nas.kernels import delta_rule, short_convolution


def unit(x):
    return x / jnp.sqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)


class Block(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D, H, hidden = spec.width, spec.heads, 8 * round(spec.width / 3)
        self.heads = H
        self.norm = nnx.RMSNorm(D, rngs=rngs)
        self.into = nnx.Linear(D, 2 * D, use_bias=False, rngs=rngs)  # query, key and value
        self.taps = nnx.Param(0.5 * jax.random.normal(rngs.params(), (4, 2 * D)))
        self.strength = nnx.Linear(D, H, rngs=rngs)
        self.step = nnx.Linear(D, H, rngs=rngs)
        self.rate = nnx.Param(jnp.log(jnp.linspace(1.0, 16.0, H)))
        self.side = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.head_norm = nnx.RMSNorm(D // H, rngs=rngs)
        self.out = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(D, rngs=rngs)
        self.gate = nnx.Linear(D, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(D, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, D, use_bias=False, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        B, T, D = x.shape
        h = self.norm(x)
        mixed = jax.nn.silu(short_convolution(self.into(h), self.taps[...]))
        query, key, value = jnp.split(mixed, (D // 2, 2 * (D // 2)), axis=-1)
        query = unit(query.reshape(B, T, self.heads, -1))
        key = unit(key.reshape(B, T, self.heads, -1))
        value = value.reshape(B, T, self.heads, -1)
        strength = jax.nn.sigmoid(self.strength(h).astype(jnp.float32))
        log_decay = -jnp.exp(self.rate[...]) * jax.nn.softplus(self.step(h).astype(jnp.float32) - 4.0)
        mixed = self.head_norm(delta_rule(query, key, value, strength, log_decay))
        x = x + self.out(mixed.reshape(B, T, D) * jax.nn.silu(self.side(h)))
        h = self.mlp_norm(x)
        return x + self.down(jax.nn.silu(self.gate(h)) * self.up(h))
