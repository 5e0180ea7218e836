"""Gated linear attention: a state of keys times values that forgets each feature of the key at its own, learnt pace.

Source: Yang et al., arXiv 2312.06635, equation 3 and section 4.4; ours: a gate of rank D / 16.
"""

from nas.api import jax, jnp, nnx
from nas.kernels import gated_linear_attention


class Mixer(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D, H = spec.width, spec.heads
        self.heads = H
        self.query = nnx.Linear(D, D // 2, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(D, D // 2, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.low = nnx.Linear(D, D // 16, use_bias=False, rngs=rngs)
        self.decay = nnx.Linear(D // 16, D // 2, rngs=rngs)
        self.gate = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.norm = nnx.RMSNorm(D // H, rngs=rngs)
        self.out = nnx.Linear(D, D, use_bias=False, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        B, T, D = x.shape
        query = self.query(x).reshape(B, T, self.heads, -1)
        key = self.key(x).reshape(B, T, self.heads, -1)
        value = self.value(x).reshape(B, T, self.heads, -1)
        log_decay = jax.nn.log_sigmoid(self.decay(self.low(x)).astype(jnp.float32)) / 16
        mixed = gated_linear_attention(query * query.shape[-1] ** -0.5, key, value, log_decay.reshape(key.shape))
        return self.out(self.norm(mixed).reshape(B, T, D) * jax.nn.silu(self.gate(x)))
