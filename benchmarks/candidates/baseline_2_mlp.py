"""Multilayer perceptron on all points at once: two hidden layers, no idea of position."""

from nas.api import jax, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        widths = [spec.length * spec.channels] + spec.depth * [4 * spec.width]
        self.layers = nnx.List(nnx.Linear(a, b, rngs=rngs) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.head = nnx.Linear(widths[-1], spec.classes, rngs=rngs)

    def __call__(self, x):  # (B, T, C) -> (B, classes)
        h = x.reshape(x.shape[0], -1)
        for layer in self.layers:
            h = jax.nn.relu(layer(h))
        return self.head(h)
