"""The transformer's block: attention with rotary positions, then a SwiGLU, each behind a norm and beside a residual.

Source: Vaswani et al., arXiv 1706.03762, equation 1; RoFormer, arXiv 2104.09864, equation 34; SwiGLU: Shazeer, arXiv
2002.05202, equation 6.
"""

from nas.api import jax, layers, nnx
from nas.kernels import attention


class Block(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D, hidden = spec.width, 8 * round(spec.width / 3)
        self.heads = spec.heads
        self.norm = nnx.RMSNorm(D, rngs=rngs)
        self.query = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.mlp_norm = nnx.RMSNorm(D, rngs=rngs)
        self.gate = nnx.Linear(D, hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(D, hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(hidden, D, use_bias=False, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        B, T, D = x.shape
        h = self.norm(x)
        query = layers.rotary(self.query(h).reshape(B, T, self.heads, -1))
        key = layers.rotary(self.key(h).reshape(B, T, self.heads, -1))
        value = self.value(h).reshape(B, T, self.heads, -1)
        x = x + self.out(attention(query, key, value).reshape(B, T, D))
        h = self.mlp_norm(x)
        return x + self.down(jax.nn.silu(self.gate(h)) * self.up(h))
