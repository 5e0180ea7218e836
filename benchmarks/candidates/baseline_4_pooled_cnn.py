"""Convolutional network at full resolution: two layers of stride 1, then the mean over all positions."""

from nas.api import jax, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.first = nnx.Conv(spec.channels, spec.width, (5,), rngs=rngs)
        self.second = nnx.Conv(spec.width, spec.width, (5,), rngs=rngs)
        self.head = nnx.Linear(spec.width, spec.classes, rngs=rngs)

    def __call__(self, x):  # (B, T, C) -> (B, classes)
        h = jax.nn.relu(self.first(x))
        h = jax.nn.relu(self.second(h))
        return self.head(h.mean(axis=1))
