"""Sliding windows and full attention in turn, an MLP after each: Gemma's pattern, in a ratio of one to one.

Source: Gemma 2, arXiv 2408.00118, section 2; attention: Vaswani et al., arXiv 1706.03762, equation 1.
"""

from nas.api import layers, nnx


class Stack(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.layers = nnx.List()
        for index in range(spec.depth):
            mixer = layers.Attention if index % 2 else layers.SlidingWindow
            self.layers.append(mixer(spec, rngs=rngs))
            self.layers.append(layers.GatedMLP(spec, rngs=rngs))

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        for layer in self.layers:
            x = layer(x)
        return x
