"""Nothing but linear recurrences and MLPs: Hawk.

Source: De et al., arXiv 2402.19427, equations 1 to 4 and section 2.
"""

from nas.api import layers, nnx


class Stack(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.layers = nnx.List()
        for _ in range(spec.depth):
            self.layers.append(layers.Recurrence(spec, rngs=rngs))
            self.layers.append(layers.GatedMLP(spec, rngs=rngs))

    def __call__(self, x):  # (B, T, D) -> (B, T, D)
        for layer in self.layers:
            x = layer(x)
        return x
