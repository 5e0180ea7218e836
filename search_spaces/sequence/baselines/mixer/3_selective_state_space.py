"""A selective state space with one decay for each head, as in Mamba-2: what is read, written and kept follows x.

h_t = exp(-rate step_t) h_(t-1) + step_t B_t x_t, y_t = C_t h_t + skip x_t.

Source: Gu and Dao, Mamba, arXiv 2312.00752, equation 2 and algorithm 2; Dao and Gu, arXiv 2405.21060, equation 1 and
section 7; ours: as wide inside as outside and D / 2 states, for the parameters of attention.
"""

from nas.api import jax, jnp, nnx
from nas.kernels import gated_linear_attention, short_convolution


class Mixer(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D, H = spec.width, spec.heads
        self.heads, self.states = H, D // 2
        self.into = nnx.Linear(D, 2 * D + 2 * self.states, use_bias=False, rngs=rngs)  # x, B, C and a gate
        self.taps = nnx.Param(0.5 * jax.random.normal(rngs.params(), (4, D + 2 * self.states)))
        self.step = nnx.Linear(D, H, rngs=rngs)
        self.rate = nnx.Param(jnp.log(jnp.linspace(1.0, 16.0, H)))
        self.skip = nnx.Param(jnp.ones((H, 1)))
        self.norm = nnx.RMSNorm(D, rngs=rngs)
        self.out = nnx.Linear(D, D, use_bias=False, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        B, T, D = x.shape
        mixed, gate = jnp.split(self.into(x), (D + 2 * self.states,), axis=-1)
        mixed = jax.nn.silu(short_convolution(mixed, self.taps[...]))
        value, write, read = jnp.split(mixed, (D, D + self.states), axis=-1)
        step = jax.nn.softplus(self.step(x).astype(jnp.float32) - 4.0)[..., None]  # (B, T, H, 1)
        log_decay = -jnp.exp(self.rate[...])[:, None] * step
        value = value.reshape(B, T, self.heads, -1)
        one = (B, T, self.heads, self.states)  # all heads share what is read and written
        write = jnp.broadcast_to(write[:, :, None], one)
        read = jnp.broadcast_to(read[:, :, None], one)
        mixed = gated_linear_attention(read, write, value * step.astype(x.dtype), log_decay) + self.skip[...] * value
        return self.out(self.norm(mixed.reshape(B, T, D) * jax.nn.silu(gate)))
