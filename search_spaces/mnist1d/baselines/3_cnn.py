"""Strided convolutional network: three layers that each halve the series, then all of it into a linear layer."""

from nas.api import jax, nnx


class Model(nnx.Module):
    def __init__(self, spec, hp, *, rngs):
        widths = [spec.channels] + 3 * [2 * spec.width + 1]
        kernels = [5, 3, 3]
        sizes = zip(widths[:-1], widths[1:], kernels, strict=True)
        self.layers = nnx.List(nnx.Conv(a, b, (k,), strides=(2,), rngs=rngs) for a, b, k in sizes)
        self.head = nnx.Linear(spec.length // 8 * widths[-1], spec.classes, rngs=rngs)

    def __call__(self, x):  # (B, T, C) -> (B, classes)
        h = x
        for layer in self.layers:
            h = jax.nn.relu(layer(h))  # (B, T/2, 2D + 1), (B, T/4, 2D + 1), (B, T/8, 2D + 1)
        return self.head(h.reshape(h.shape[0], -1))
