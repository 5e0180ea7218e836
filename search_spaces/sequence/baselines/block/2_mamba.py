"""Mamba's block: one selective state space, four times as wide as the stream, and no MLP beside it.

Source: Gu and Dao, arXiv 2312.00752, equation 2, section 3.4 and algorithm 2; one decay a head: Dao and Gu, arXiv
2405.21060, equation 1 and section 7; ours: wider and with D / 4 states, for the parameters of a transformer's block.
"""

from nas.api import jax, jnp, nnx
from nas.kernels import gated_linear_attention, short_convolution


class Block(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D, inner, states = spec.width, 4 * spec.width, spec.width // 4
        self.heads, self.states = 4 * spec.heads, states
        self.norm = nnx.RMSNorm(D, rngs=rngs)
        self.into = nnx.Linear(D, 2 * inner + 2 * states, use_bias=False, rngs=rngs)  # x, B, C and a gate
        self.taps = nnx.Param(0.5 * jax.random.normal(rngs.params(), (4, inner + 2 * states)))
        self.step = nnx.Linear(D, self.heads, rngs=rngs)
        self.rate = nnx.Param(jnp.log(jnp.linspace(1.0, 16.0, self.heads)))
        self.skip = nnx.Param(jnp.ones((self.heads, 1)))
        self.inner_norm = nnx.RMSNorm(inner, rngs=rngs)
        self.out = nnx.Linear(inner, D, use_bias=False, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        B, T, D = x.shape
        h = self.norm(x)
        mixed, gate = jnp.split(self.into(h), (4 * D + 2 * self.states,), axis=-1)
        mixed = jax.nn.silu(short_convolution(mixed, self.taps[...]))
        value, write, read = jnp.split(mixed, (4 * D, 4 * D + self.states), axis=-1)
        step = jax.nn.softplus(self.step(h).astype(jnp.float32) - 4.0)[..., None]  # (B, T, heads, 1)
        log_decay = -jnp.exp(self.rate[...])[:, None] * step
        value = value.reshape(B, T, self.heads, -1)
        one = (B, T, self.heads, self.states)  # all heads share what is read and written
        write = jnp.broadcast_to(write[:, :, None], one)
        read = jnp.broadcast_to(read[:, :, None], one)
        mixed = gated_linear_attention(read, write, value * step.astype(x.dtype), log_decay) + self.skip[...] * value
        return x + self.out(self.inner_norm(mixed.reshape(B, T, 4 * D) * jax.nn.silu(gate)))
