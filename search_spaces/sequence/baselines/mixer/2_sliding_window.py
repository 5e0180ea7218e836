"""Attention with rotary positions to the last few positions only; distance is bridged by depth.

Source: Vaswani et al., arXiv 1706.03762, equation 1, masked as in Longformer (Beltagy et al., arXiv 2004.05150, section
3.1) and Mistral (Jiang et al., arXiv 2310.06825, section 2).
"""

from nas.api import choice, layers, nnx
from nas.kernels import attention

TUNABLES = {"window": choice(16, 8, 32, 64)}


class Mixer(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        D = spec.width
        self.heads, self.window = spec.heads, hp.window
        self.query = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.key = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.value = nnx.Linear(D, D, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(D, D, use_bias=False, rngs=rngs)

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        B, T, D = x.shape
        query = layers.rotary(self.query(x).reshape(B, T, self.heads, -1))
        key = layers.rotary(self.key(x).reshape(B, T, self.heads, -1))
        value = self.value(x).reshape(B, T, self.heads, -1)
        return self.out(attention(query, key, value, window=self.window).reshape(B, T, D))
