"""The recurrent half of Griffin: a real-gated linear recurrence behind a short convolution, beside a GELU gate.

Source: De et al., arXiv 2402.19427, equations 1 to 4 and section 2.4; ours: two blocks in the matrices of the gates.
"""

from nas.api import jax, jnp, nnx
from nas.kernels import linear_recurrence, short_convolution


class Mixer(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D = spec.width
        self.value = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.gate = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.taps = nnx.Param(0.5 * jax.random.normal(rngs.params(), (4, D)))
        start = (2 / D) ** 0.5
        self.read = nnx.Param(start * jax.random.normal(rngs.params(), (2, D // 2, D // 2)))
        self.take = nnx.Param(start * jax.random.normal(rngs.params(), (2, D // 2, D // 2)))
        slow = jax.random.uniform(rngs.params(), (D,), minval=0.9, maxval=0.999)
        self.decay = nnx.Param(jnp.log(jnp.expm1(-jnp.log(slow) / 8)))
        self.out = nnx.Linear(D, D, use_bias=False, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        B, T, D = x.shape
        value = short_convolution(self.value(x), self.taps[...])
        halves = value.reshape(B, T, 2, D // 2)
        read = jax.nn.sigmoid(jnp.einsum("btnd,nde->btne", halves, self.read[...])).reshape(B, T, D)
        take = jax.nn.sigmoid(jnp.einsum("btnd,nde->btne", halves, self.take[...])).reshape(B, T, D)
        log_keep = -8 * jax.nn.softplus(self.decay[...].astype(jnp.float32)) * read.astype(jnp.float32)
        inflow = jnp.sqrt(1e-6 - jnp.expm1(2 * log_keep)) * (take * value)
        state = linear_recurrence(jnp.exp(log_keep), inflow)
        return self.out(state.astype(x.dtype) * jax.nn.gelu(self.gate(x)))
