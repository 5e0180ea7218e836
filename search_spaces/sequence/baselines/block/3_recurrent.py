"""Hawk's block: a real-gated linear recurrence behind a short convolution, then a gated MLP with GELU.

Source: De et al., Griffin, arXiv 2402.19427, sections 2.1 to 2.4 and equations 1 to 4; ours: two blocks in the matrices
of the gates.
"""

from nas.api import jax, jnp, nnx
from nas.kernels import linear_recurrence, short_convolution


class Block(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D, hidden = spec.width, 8 * round(spec.width / 3)
        self.norm = nnx.RMSNorm(D, rngs=rngs)
        self.value = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.side = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.taps = nnx.Param(0.5 * jax.random.normal(rngs.params(), (4, D)))
        start = (2 / D) ** 0.5
        self.read = nnx.Param(start * jax.random.normal(rngs.params(), (2, D // 2, D // 2)))
        self.take = nnx.Param(start * jax.random.normal(rngs.params(), (2, D // 2, D // 2)))
        slow = jax.random.uniform(rngs.params(), (D,), minval=0.9, maxval=0.999)
        self.decay = nnx.Param(jnp.log(jnp.expm1(-jnp.log(slow) / 8)))
        self.out = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(D, rngs=rngs)
        self.gate = nnx.Linear(D, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(D, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, D, use_bias=False, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        B, T, D = x.shape
        h = self.norm(x)
        value = short_convolution(self.value(h), self.taps[...])
        halves = value.reshape(B, T, 2, D // 2)
        read = jax.nn.sigmoid(jnp.einsum("btnd,nde->btne", halves, self.read[...])).reshape(B, T, D)
        take = jax.nn.sigmoid(jnp.einsum("btnd,nde->btne", halves, self.take[...])).reshape(B, T, D)
        log_keep = -8 * jax.nn.softplus(self.decay[...].astype(jnp.float32)) * read.astype(jnp.float32)
        inflow = jnp.sqrt(1e-6 - jnp.expm1(2 * log_keep)) * (take * value)
        state = linear_recurrence(jnp.exp(log_keep), inflow)
        x = x + self.out(state.astype(x.dtype) * jax.nn.gelu(self.side(h)))
        h = self.mlp_norm(x)
        return x + self.down(jax.nn.gelu(self.gate(h)) * self.up(h))
