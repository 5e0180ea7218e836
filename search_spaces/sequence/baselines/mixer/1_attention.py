"""Causal attention with rotary positions: with the skeleton's RMSNorm and SwiGLU this is the transformer.

Source: Vaswani et al., arXiv 1706.03762, equation 1; positions: Su et al., RoFormer, arXiv 2104.09864, equation 34.
"""

from nas.api import layers, nnx
from nas.kernels import attention


class Mixer(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D = spec.width
        self.heads = spec.heads
        self.query = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(D, D, use_bias=False, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        B, T, D = x.shape
        query = layers.rotary(self.query(x).reshape(B, T, self.heads, -1))
        key = layers.rotary(self.key(x).reshape(B, T, self.heads, -1))
        value = self.value(x).reshape(B, T, self.heads, -1)
        return self.out(attention(query, key, value).reshape(B, T, D))
