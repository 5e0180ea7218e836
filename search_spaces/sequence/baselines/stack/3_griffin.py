"""A linear recurrence, then attention to a window, an MLP after each: Griffin's hybrid, in a ratio of one to one.

Source: De et al., arXiv 2402.19427, equations 1 to 4 and section 2, where two recurrences come before each attention.
"""

from nas.api import layers, nnx


class Stack(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.layers = nnx.List()
        for index in range(spec.depth):
            mixer = layers.SlidingWindow if index % 2 else layers.Recurrence
            self.layers.append(mixer(spec, rngs=rngs))
            self.layers.append(layers.GatedMLP(spec, rngs=rngs))

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        for layer in self.layers:
            x = layer(x)
        return x
