"""Attention and a gated MLP in turn: the transformer.

Source: Vaswani et al., arXiv 1706.03762, figure 1 and equation 1, with the norms of arXiv 1910.07467 (equation 4)
and the MLP of 2002.05202 (equation 6).
"""

from nas.api import layers, nnx


class Stack(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.layers = nnx.List()
        for _ in range(spec.depth):
            self.layers.append(layers.Attention(spec, rngs=rngs))
            self.layers.append(layers.GatedMLP(spec, rngs=rngs))

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        for layer in self.layers:
            x = layer(x)
        return x
