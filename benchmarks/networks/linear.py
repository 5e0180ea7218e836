"""Logistic regression, 410 parameters: the published linear model of MNIST-1D."""

from nas.api import nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        self.head = nnx.Linear(spec.length * spec.channels, spec.classes, rngs=rngs)

    def __call__(self, x):  # (B, T, C) -> (B, classes)
        return self.head(x.reshape(x.shape[0], -1))
