"""The gated delta rule, then attention, an MLP after each: a memory of fixed size with exact recall on top.

Source: Yang et al., arXiv 2412.06464, equation 10 and section 3.4, with full attention in the place of a window.
"""

from nas.api import layers, nnx


class Stack(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.layers = nnx.List()
        for index in range(spec.depth):
            mixer = layers.Attention if index % 2 else layers.DeltaRule
            self.layers.append(mixer(spec, rngs=rngs))
            self.layers.append(layers.GatedMLP(spec, rngs=rngs))

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        for layer in self.layers:
            x = layer(x)
        return x
